//! The verdicts of [`Membership`]: whether it is a member and has a lease, whom it suspects and
//! fences, who is dead. All of it is drawn again after each input from what is remembered.

use super::lease::{Change, Lease};
use super::peer::{Place, Standing};
use super::{Cause, Membership, Notice};
use crate::heartbeat::{Heartbeat, Role};
use crate::map::Version;
use crate::node_set::NodeSet;
use crate::time::{NEVER, after};
use testudo_packet::bucket::{Nanos, NodeId};

impl Membership {
    /// Draws all verdicts.
    pub(super) fn judge(&mut self) {
        self.note_touch();
        self.note_admission();
        self.refresh_lease();
        self.judge_pause();
        self.judge_standing();
        if self.is_voter() && self.is_ready() {
            self.suspect_the_silent();
            self.fence_the_suspected();
        }
        self.count_the_dead();
        self.note_agreed();
        self.settle_ownership();
    }

    /// What the peers said not long ago.
    pub(super) fn views(&self) -> impl Iterator<Item = &Heartbeat> {
        let (now, freshness) = (self.now, self.cluster.timing().freshness());
        self.peers.iter().filter_map(move |peer| peer.fresh(now, freshness))
    }

    /// Of these, what those say that may grant and fence.
    fn votes(&self) -> impl Iterator<Item = &Heartbeat> {
        let voters = self.map.voters();
        self.views().filter(move |said| said.ready && voters.contains(said.from))
    }

    pub(super) fn is_voter(&self) -> bool {
        self.map.voters().contains(self.cluster.node())
    }

    /// Out of touch, one can't tell silent peers from one's own deafness.
    fn note_touch(&mut self) {
        let voters = self.map.voters();
        let heard = self.views().filter(|said| voters.contains(said.from)).count();
        let touch = heard + usize::from(self.is_voter()) >= self.map.majority();
        self.in_touch_since = touch.then(|| self.in_touch_since.unwrap_or(self.now));
    }

    pub(super) fn is_ready(&self) -> bool {
        self.released && self.now >= self.quarantine_end()
    }

    pub(super) fn quarantine_end(&self) -> Nanos {
        after(self.born, self.cluster.timing().quarantine())
    }

    pub(super) fn is_synced(&self) -> bool {
        let admission = self.map.admission(self.cluster.node());
        let since = admission.map_or(Version(0), |admission| admission.since);
        // Where a node does not keep all, what it keeps changes with the map.
        let limited = self.cluster.replicas().is_limited();
        let least = if limited { self.map.version() } else { since };
        self.synced.is_some_and(|version| version >= least)
    }

    fn note_admission(&mut self) {
        let admission = self.map.admission(self.cluster.node());
        let mine = admission.is_some_and(|admission| admission.life == self.incarnation);
        if mine && self.released && self.member_since.is_none() {
            self.member_since = Some(self.now);
            self.notice(Notice::Admitted);
            self.hurry();
        }
    }

    fn refresh_lease(&mut self) {
        let Some(terms) = self.terms() else { return };
        match self.lease.refresh(self.now, &self.peers, &terms) {
            Change::None => {}
            Change::Gained => {
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

    /// Whether a member has to begin anew.
    fn judge_standing(&mut self) {
        if self.role() != Role::Member {
            return;
        }
        let fenced_by = self.fenced_by();
        // A fence stays. The fewer who grant, the fewer have to die for this node to stop, so it gets rid
        // of what it owns (it is not fit) and then of the life that is fenced.
        let free = self.ledger.owned() == 0 && self.settled == self.map.version();
        if fenced_by >= self.map.majority() || fenced_by > 0 && free {
            return self.restart(Cause::Fenced);
        }
        if self.lease.is_held() || self.in_touch_since.is_none() {
            self.idle_since = None;
            return;
        }
        let idle_since = *self.idle_since.get_or_insert(self.now);
        if self.now >= after(idle_since, self.cluster.timing().patience()) {
            self.restart(Cause::NoLease);
        }
    }

    /// How many voters grant this life nothing any more.
    fn fenced_by(&self) -> usize {
        let me = self.cluster.node();
        self.votes().filter(|said| self.is_fenced_by(said, me)).count()
    }

    /// Whether this node can do with its buckets what it should.
    pub(super) fn is_fit(&self) -> bool {
        self.fit && self.fenced_by() == 0
    }

    pub(super) fn restart(&mut self, cause: Cause) {
        self.incarnation = self.incarnation.next();
        self.member_since = None;
        self.released = false;
        self.born = self.now;
        self.in_touch_since = None;
        self.idle_since = None;
        self.synced = None;
        self.agreed = Version(0);
        let nodes = self.cluster.members().len();
        self.lease = Lease::new(nodes);
        self.pausing = None;
        self.peers.iter_mut().for_each(super::peer::Peer::forget);
        for node in self.cluster.nodes() {
            if let Some(admission) = self.map.admission(node) {
                self.peers[usize::from(node.0)].give(self.now, admission);
            }
        }
        self.suspected = NodeSet::default();
        self.fenced = NodeSet::default();
        self.dead = NodeSet::default();
        self.presumed = NodeSet::default();
        self.handed.clear();
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
        match peer.place {
            Place::Kept(_, since) if !peer.suspected && self.is_voter() => {
                let quiet_since = peer.heard.max(since).max(touch).max(self.born);
                after(quiet_since, self.patience_with(node)).max(peer.promised)
            }
            _ => NEVER,
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
            let against =
                |said: &&Heartbeat| said.suspected.contains(node) || self.is_fenced_by(said, node);
            if self.votes().filter(against).count() + 1 >= self.map.majority() {
                self.fence(node);
            }
        }
    }

    /// Whether a peer has fenced the life of a node that this node too takes for the admitted one.
    pub(super) fn is_fenced_by(&self, said: &Heartbeat, node: NodeId) -> bool {
        let since = self.map.admission(node).map_or(Version(0), |admission| admission.since);
        said.fenced.contains(node) && said.version >= since
    }

    fn fence(&mut self, node: NodeId) {
        let peer = &mut self.peers[usize::from(node.0)];
        let Place::Kept(admission, _) = peer.place else { return };
        peer.place = Place::Fenced(admission);
        peer.suspected = false;
        self.suspected.remove(node);
        if self.fenced.insert(node) {
            self.notice(Notice::Fenced(node));
            self.hurry();
        }
    }

    /// How many voters have fenced a node, this one included.
    fn votes_against(&self, node: NodeId) -> usize {
        let others = self.votes().filter(|said| self.is_fenced_by(said, node)).count();
        let own = self.is_voter() && self.is_ready() && self.own_votes().contains(node);
        others + usize::from(own)
    }

    /// Whom this node has fenced; itself, if its place belongs to an earlier life of it. That life owns
    /// nothing any more: its process is gone, or has given up all slots.
    pub(super) fn own_votes(&self) -> NodeSet {
        let me = self.cluster.node();
        let mut votes = self.fenced;
        let admission = self.map.admission(me);
        if self.is_ready() && admission.is_some_and(|a| a.life != self.incarnation) {
            votes.insert(me);
        }
        votes
    }

    /// A majority against a node, all of it in force now, ends that life's ownership for good.
    fn count_the_dead(&mut self) {
        let all = self.views().fold(self.fenced, |all, said| all.union(&said.fenced));
        let lease = self.role() == Role::Member && self.lease.is_held();
        for node in all.iter().filter(|&node| node != self.cluster.node()).collect::<Vec<_>>() {
            let known = if lease { &self.dead } else { &self.presumed };
            if known.contains(node) || self.votes_against(node) < self.map.majority() {
                continue;
            }
            let news = self.presumed.insert(node);
            if lease {
                self.dead.insert(node);
            }
            if news {
                self.notice(Notice::Dead(node));
            }
            self.hurry();
        }
    }

    /// What the planner has to know of each node, this one included.
    #[must_use]
    pub fn standings(&self) -> Vec<Standing> {
        let me = self.cluster.node();
        let mut all: Vec<_> = self.cluster.nodes().map(|node| self.standing(node)).collect();
        all[usize::from(me.0)] = Standing {
            node: me,
            life: Some(self.incarnation).filter(|_| self.released),
            ready: self.is_ready(),
            lease: self.role() == Role::Member && self.lease.is_held(),
            fit: self.is_fit(),
            synced: self.is_synced(),
            gone: self.map.admission(me).is_none_or(|a| {
                a.life != self.incarnation && self.votes_against(me) >= self.map.majority()
            }),
            version: self.map.version(),
            settled: self.settled,
        };
        all
    }

    fn standing(&self, node: NodeId) -> Standing {
        let peer = &self.peers[usize::from(node.0)];
        let said = peer.fresh(self.now, self.silence_of(peer));
        let progress = peer.progress();
        Standing {
            node,
            life: said.map(|said| said.incarnation),
            ready: said.is_some_and(|said| said.ready),
            lease: said.is_some_and(|said| said.lease),
            fit: said.is_some_and(|said| said.fit),
            synced: said.is_some_and(|said| said.synced),
            gone: self.map.admission(node).is_none()
                || self.dead.contains(node)
                || self.votes_against(node) >= self.map.majority(),
            version: progress.map_or(Version(0), |progress| progress.version),
            settled: progress.map_or(Version(0), |progress| progress.settled),
        }
    }
}
