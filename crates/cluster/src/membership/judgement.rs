//! The verdicts of [`Membership`]: its own role, whom it suspects and fences, who is dead, and what
//! follows for the buckets. All of it is drawn again after each input from what is remembered.

use super::lease::{Change, Lease};
use super::peer::Place;
use super::{Cause, Membership, Notice};
use crate::heartbeat::{Grant, Heartbeat, Role};
use crate::node_set::NodeSet;
use crate::time::{NEVER, after};
use std::cmp::Ordering;
use testudo_packet::bucket::{BucketSlot, BucketState, Epoch, Nanos, NodeId};

/// How an era and a rank make an epoch.
const RANK_BITS: u32 = 8;
/// The last era; it is not left any more.
const MAX_ERA: u32 = u32::MAX >> RANK_BITS;

/// All that the owners of the buckets follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    owning: bool,
    dead: NodeSet,
    told_dead: NodeSet,
    era: u32,
}

impl Membership {
    /// Draws all verdicts.
    pub(super) fn judge(&mut self) {
        self.note_touch();
        match self.role {
            // Before the lease: one heartbeat can both invite to found the cluster and support the
            // first lease, and whoever takes the support alone is no founder for the others.
            Role::Joining => {
                self.judge_joining();
                self.refresh_lease();
            }
            Role::Member | Role::Standby => {
                self.refresh_lease();
                self.judge_standing();
            }
        }
        if self.role != Role::Joining {
            self.suspect_the_silent();
            self.fence_the_suspected();
        }
        self.count_the_dead();
        self.hear_of_the_dead();
        self.settle_ownership();
    }

    /// What the peers said not long ago.
    fn views(&self) -> impl Iterator<Item = &Heartbeat> {
        let (now, freshness) = (self.now, self.cluster.timing().freshness());
        self.peers.iter().filter_map(move |peer| peer.fresh(now, freshness))
    }

    fn leaders(&self) -> impl Iterator<Item = &Heartbeat> {
        self.views().filter(|said| said.role == Role::Member && said.lease)
    }

    /// Out of touch, one can't tell silent peers from one's own deafness.
    fn note_touch(&mut self) {
        let touch = self.views().count() + 1 >= self.cluster.majority();
        self.in_touch_since = touch.then(|| self.in_touch_since.unwrap_or(self.now));
    }

    pub(super) fn is_ready(&self) -> bool {
        self.released && self.now >= self.quarantine_end()
    }

    pub(super) fn quarantine_end(&self) -> Nanos {
        after(self.born, self.cluster.timing().quarantine())
    }

    fn refresh_lease(&mut self) {
        let allowed = match self.role {
            Role::Joining => self.is_ready() && self.cluster.majority() > 1,
            Role::Member => true,
            Role::Standby => false,
        };
        if !allowed {
            return;
        }
        match self.lease.refresh(self.now, &self.peers) {
            Change::None => {}
            Change::Gained => {
                if self.role == Role::Joining {
                    self.assume(Role::Member);
                }
                self.notice(Notice::LeaseGained);
                self.hurry();
            }
            Change::Lost => {
                self.counters.leases_lost += 1;
                self.notice(Notice::LeaseLost);
                self.hurry();
            }
        }
    }

    fn judge_joining(&mut self) {
        if !self.is_ready() {
            return;
        }
        let forming: Vec<_> = self
            .views()
            .filter(|said| said.role == Role::Joining && said.ready)
            .map(|said| (said.from, said.incarnation))
            .collect();
        let invited = self.views().any(|said| said.founder && said.cofounder);
        if forming.len() + 1 >= self.cluster.majority() || invited {
            self.founder = true;
            // Who was invited does not know how old the memory of others is, so it invites no one.
            self.formed_with = if invited { Vec::new() } else { forming };
            // An invitation names the era; forming alone begins the next one.
            let step = u32::from(!invited);
            self.era = self.era_heard.max(self.era).saturating_add(step).min(MAX_ERA);
            self.assume(Role::Member);
            self.refresh_lease();
            return;
        }
        let refused = self.leaders().any(|said| said.grant == Grant::Standby);
        let patient_until = after(self.quarantine_end(), self.cluster.timing().formation);
        let overlooked = self.now >= patient_until && self.leaders().next().is_some();
        if refused || overlooked {
            self.assume(Role::Standby);
        }
    }

    fn assume(&mut self, role: Role) {
        self.role = role;
        self.role_since = self.now;
        self.idle_since = None;
        self.notice(Notice::Role(role));
        let heard: Vec<_> = self.views().copied().collect();
        for said in heard {
            self.bind(&said);
        }
        self.hurry();
    }

    /// Whether a member or standby node has to begin anew.
    fn judge_standing(&mut self) {
        let me = self.cluster.node();
        let fenced_by = self.views().filter(|said| said.fenced.contains(me)).count();
        let dead = self.leaders().any(|said| said.dead.contains(me));
        if self.role == Role::Member && (dead || fenced_by >= self.cluster.veto()) {
            return self.restart(Cause::Fenced);
        }
        let in_charge = match self.role {
            Role::Member => self.lease.is_held(),
            _ => self.leaders().next().is_some(),
        };
        if in_charge || self.in_touch_since.is_none() {
            self.idle_since = None;
            return;
        }
        let idle_since = *self.idle_since.get_or_insert(self.now);
        if self.now >= after(idle_since, self.cluster.timing().patience()) {
            self.restart(Cause::NobodyInCharge);
        }
    }

    fn restart(&mut self, cause: Cause) {
        self.incarnation = self.incarnation.next();
        self.role = Role::Joining;
        self.founder = false;
        self.released = false;
        self.born = self.now;
        self.role_since = self.now;
        self.in_touch_since = None;
        self.idle_since = None;
        let (nodes, majority) = (self.cluster.members().len(), self.cluster.majority());
        self.lease = Lease::new(self.cluster.timing().lease, nodes, majority);
        self.peers.iter_mut().for_each(super::peer::Peer::forget);
        self.formed_with.clear();
        self.suspected = NodeSet::default();
        self.fenced = NodeSet::default();
        self.dead = NodeSet::default();
        self.told_dead = NodeSet::default();
        self.ledger.release(self.incarnation);
        self.ledger_basis = None;
        self.counters.restarts += 1;
        self.notice(Notice::Restarted { incarnation: self.incarnation, cause });
        self.hurry();
    }

    /// When a peer will have been silent for too long.
    pub(super) fn suspicion_due(&self, node: NodeId) -> Nanos {
        let Some(touch) = self.in_touch_since else { return NEVER };
        let peer = &self.peers[usize::from(node.0)];
        let timing = self.cluster.timing();
        match peer.place {
            _ if self.role == Role::Joining || peer.suspected => NEVER,
            Place::Open => after(self.role_since.max(touch), timing.formation),
            Place::Bound(_) => after(peer.heard.max(touch), timing.takeover),
            Place::Fenced => NEVER,
        }
    }

    fn suspect_the_silent(&mut self) {
        for node in self.cluster.peers() {
            if self.now >= self.suspicion_due(node) {
                self.peers[usize::from(node.0)].suspected = true;
                self.suspected.insert(node);
                self.notice(Notice::Suspected(node));
                self.hurry();
            }
        }
    }

    fn fence_the_suspected(&mut self) {
        if self.in_touch_since.is_none() {
            return;
        }
        let suspects: Vec<_> = self.suspected.iter().collect();
        for node in suspects {
            let agreeing = self
                .views()
                .filter(|said| said.suspected.contains(node) || said.fenced.contains(node))
                .count();
            if agreeing + 1 >= self.cluster.veto() {
                self.fence(node);
            }
        }
    }

    pub(super) fn fence(&mut self, node: NodeId) {
        let peer = &mut self.peers[usize::from(node.0)];
        peer.place = Place::Fenced;
        peer.suspected = false;
        self.suspected.remove(node);
        if self.fenced.insert(node) {
            self.notice(Notice::Fenced(node));
            self.hurry();
        }
    }

    /// A veto against a node, all of it in force now, ends that node's ownership for good.
    fn count_the_dead(&mut self) {
        if self.role != Role::Member || !self.lease.is_held() {
            return;
        }
        let fenced: Vec<_> = self.fenced.iter().filter(|&n| !self.dead.contains(n)).collect();
        for node in fenced {
            let votes = self.views().filter(|said| said.fenced.contains(node)).count() + 1;
            if votes >= self.cluster.veto() {
                self.dead.insert(node);
                self.notice(Notice::Dead(node));
                self.hurry();
            }
        }
    }

    /// What those in charge say of the dead is believed for knowing who owns, not for taking.
    fn hear_of_the_dead(&mut self) {
        if self.leaders().next().is_none() {
            return;
        }
        let told = self.leaders().fold(NodeSet::default(), |all, said| all.union(&said.dead));
        let era = self.leaders().map(|said| said.era).max().unwrap_or(0).min(MAX_ERA);
        self.told_dead = told;
        self.era = self.era.max(era);
    }

    fn settle_ownership(&mut self) {
        let owning = self.role == Role::Member && self.lease.was_held();
        if !owning && self.leaders().next().is_none() {
            return;
        }
        let Self { dead, told_dead, era, .. } = *self;
        let basis = Basis { owning, dead, told_dead, era };
        if self.ledger_basis == Some(basis) {
            return;
        }
        self.ledger_basis = Some(basis);
        let cluster = &self.cluster;
        self.ledger.update(|bucket, told| {
            basis.slot(cluster.node(), cluster.allocation().ranks(bucket), told)
        });
    }
}

impl Basis {
    /// The slot of a bucket with these ranked nodes, as node `me` sees it.
    fn slot(&self, me: NodeId, ranks: &[NodeId], told: BucketSlot) -> BucketSlot {
        let alive = |dead: NodeSet| ranks.iter().position(|&node| !dead.contains(node));
        let verdict = alive(self.dead);
        let known = alive(self.dead.union(&self.told_dead));
        let (rank, state) = match (verdict, known) {
            (Some(rank), _) if self.owning && ranks[rank] == me => (rank, BucketState::Loading),
            (_, Some(rank)) if ranks[rank] != me => (rank, BucketState::Active),
            // It will be this node's when it has counted the votes itself, or is nobody's.
            _ => return told,
        };
        let previous = match rank.cmp(&0) {
            Ordering::Greater => ranks[rank - 1],
            _ => NodeId::NONE,
        };
        let epoch = Epoch(self.era << RANK_BITS | rank as u32);
        BucketSlot { owner: ranks[rank], previous, state, epoch }
    }
}
