//! Who is there, who may own, and who has to stop: heartbeats, lease, fencing, takeover, titles.
//!
//! # What it guarantees
//!
//! At no moment do two nodes hold an unexpired lease and act as owner of the same bucket. No message,
//! clock comparison between machines or round of agreement is in the way of a takeover.
//!
//! # How
//!
//! * **Place.** The agreed [map](crate::map) gives each node's *place* to one life (incarnation) of
//!   it. Voters grant that life's heartbeats, and no other's.
//! * **Lease.** It reaches the configured `lease` beyond the sending of a heartbeat that a majority of
//!   the voters granted.
//! * **Fence.** A life not heard for `takeover` is suspected, which can be taken back. When a majority
//!   of the voters suspects it, each fences it, which can't: from then on the voter grants it nothing
//!   more. When a majority has fenced it, all in force at one moment, the life is *dead*: every
//!   majority contains one that has granted nothing for `takeover`, which is longer than `lease` by
//!   more than clocks differ. So its lease has run out, and can't come back.
//!   A life that only some have fenced goes on with fewer to grant it: it is not fit, is given no bucket
//!   and loses those that it has by plan, and begins anew when it owns nothing.
//! * **Takeover.** A node takes a bucket when it has itself counted a majority against all that are
//!   listed before it, while it holds a lease. A lease that it loses later does not matter: the dead
//!   stay dead.
//! * **Planned move.** A new list does not take a bucket from its owner: the owner lets go when the
//!   next one is ready, and says so (*settled*). Who is first in the new list takes the bucket when
//!   everyone who might act on an older list has settled or is dead (`title`).
//! * **Epoch.** `version of the list << 8 | rank of the owner in it`. Two owners of a bucket never
//!   share an epoch, and everyone can tell an owner's epoch without being told.
//!
//! # Voters change
//!
//! One at a time, so a majority of the voters before and one of those after have a node in common.
//! And only when every member that is not dead goes by the change before: so any two members that
//! act go by the same voters or by neighbours in the sequence, and the argument above holds between
//! them. A lease that ran out is not renewed under other voters than it ran out under.
//!
//! # A pause by agreement
//!
//! A node that is to be silent for a while, because its process is replaced, says so in its
//! heartbeats: for how long. A voter that grants such a heartbeat waits for so long, from when it heard
//! it, and says that; so its support, and with it the lease, lasts longer (`pause`). The *last*
//! heartbeat counts: who means to speak on first shortens its lease to the usual length, and only then
//! asks for nothing any more. A voter that has heard that waits for the takeover wait from then on, and
//! the lease ends before; one that has not still waits for as long as it has said. What others have
//! granted to heartbeats from before the pause lengthens no lease after it.
//!
//! Who pauses is a voter itself, perhaps, without whose support others would have to stop. So it
//! *offers* not to suspect them for as long: whatever it hears, as it may be deaf meanwhile. When they
//! hear a new life of it, which does not remember its offers, they shorten their leases before they
//! answer; and it counts no other answer.
//!
//! # Lost memory
//!
//! Nothing here is written to disk, so a restarted node has forgotten its promises. Three rules make
//! that harmless. (1) *Quarantine*: a new life grants and fences nothing until every lease that its
//! earlier life supported has run out, and every vote that it cast has gone stale: votes count only
//! while an echo proves them recent. (2) *Trust*: a lease that has run out is renewed only by lives
//! that supported it before. So at the moment of a death verdict the lease of the dead is over, no
//! life that forgot its vote has supported it before, and none can bring it back. (3) *Standing*: a
//! first lease counts only support of lives that are members for at least as long, or a life that was
//! fenced before its first lease could find a majority of forgetful ones. (4) *Patience*: whom a new
//! life has never heard may have been promised a pause by an earlier one, so it suspects nobody unheard
//! before the longest pause is over; unless another life of the same node says that it has ended.
//!
//! A member that hears a majority and gets no lease begins a new life after a while, as if it had been
//! restarted, and has to be admitted again. That is always safe, and lets a cluster form again
//! whatever happened.
//!
//! # Limits
//!
//! Two voters stop when one of them dies: a majority of two is both. Clocks may differ in rate by the
//! margin of [`crate::config::Timing::margin`], in nothing else.

mod frozen;
mod judgement;
mod lease;
mod output;
mod pause;
mod peer;
mod title;

pub use frozen::{Frozen, FrozenError, ResumeError, Unsettled};
pub use output::{Cause, Counters, Notice, Output};
pub use peer::{PeerState, PeerStatus, Standing};

use crate::config::Cluster;
use crate::heartbeat::{Heartbeat, HeartbeatError, Incarnation, Role};
use crate::map::{Map, Version};
use crate::node_set::NodeSet;
use crate::ownership::Ledger;
use crate::time::{NEVER, after, since};
use lease::Lease;
use peer::{Latest, Peer, Place, Support, View};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use testudo_packet::bucket::{BucketId, Epoch, Nanos, NodeId};

/// How often an operator is told at most that another process runs under this node's name.
const IMPERSONATION_EVERY: Duration = Duration::from_secs(5);

/// How many notices wait for being fetched; more are counted and dropped.
const MAX_NOTICES: usize = 256;

/// A node's part in the cluster. See the [module](self) for what it decides, and why.
///
/// # Driving it
///
/// Call a `handle_*` method for each input, with the present time; then [`Self::poll_output`] until
/// it has no more; then wait for the next input, at most until [`Self::next_wakeup`], and call
/// [`Self::handle_tick`] when that has come. What a driver must see to:
///
/// * Time is read *after* a datagram was received, and handed in before anything else happens.
/// * Outputs are carried out in their order. A [`Output::SetLease`] is carried out at once.
/// * Datagrams that have arrived are handled before a tick, so that being late does not look like a
///   silent peer.
/// * At the start no lease is in force and no slot names this node.
#[derive(Debug)]
pub struct Membership {
    cluster: Arc<Cluster>,
    incarnation: Incarnation,
    now: Nanos,
    map: Arc<Map>,
    /// Whether the slots no longer name this node for what it owned in its earlier life.
    released: bool,
    born: Nanos,
    /// Since when this life is a member, by this node's clock.
    member_since: Option<Nanos>,
    in_touch_since: Option<Nanos>,
    idle_since: Option<Nanos>,
    lease: Lease,
    /// The pause that is asked for, or is coming to its end.
    pausing: Option<pause::Pausing>,
    told_lease: Nanos,
    fit: bool,
    /// Whether the replica is complete, and by which version of the map it knows the owners.
    synced: Option<Version>,
    settled: Version,
    agreed: Version,
    peers: Vec<Peer>,
    suspected: NodeSet,
    fenced: NodeSet,
    /// Dead by votes counted under a lease: their buckets may be taken.
    dead: NodeSet,
    /// Dead by votes counted at any time: good for knowing who owns, not for taking.
    presumed: NodeSet,
    /// Buckets that their owners have handed over to this node, by whom and by which version.
    handed: BTreeMap<BucketId, (NodeId, Version)>,
    ledger: Ledger,
    ledger_basis: Option<title::Basis>,
    next_heartbeat: Nanos,
    next_impersonation: Nanos,
    due: NodeSet,
    notices: VecDeque<Notice>,
    counters: Counters,
}

impl Membership {
    /// A node that has just started. `incarnation` is drawn at random by the caller, so that no two
    /// lives of a node share one.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, incarnation: Incarnation, now: Nanos) -> Self {
        let nodes = cluster.members().len();
        Self {
            lease: Lease::new(nodes),
            pausing: None,
            ledger: Ledger::new(cluster.node(), cluster.buckets()),
            map: Arc::new(cluster.first_map()),
            cluster,
            incarnation,
            now,
            released: true,
            born: now,
            member_since: None,
            in_touch_since: None,
            idle_since: None,
            told_lease: Nanos(0),
            fit: true,
            synced: None,
            settled: Version(0),
            agreed: Version(0),
            peers: vec![Peer::default(); nodes],
            suspected: NodeSet::default(),
            fenced: NodeSet::default(),
            dead: NodeSet::default(),
            presumed: NodeSet::default(),
            handed: BTreeMap::new(),
            ledger_basis: None,
            next_heartbeat: now,
            next_impersonation: now,
            due: NodeSet::default(),
            notices: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// Takes in a datagram.
    ///
    /// # Errors
    ///
    /// If it is no heartbeat that counts. It was counted as such and has changed nothing else.
    pub fn handle_datagram(
        &mut self,
        now: Nanos,
        datagram: &[u8],
    ) -> Result<NodeId, HeartbeatError> {
        self.advance(now);
        let said = Heartbeat::decode(&self.cluster, datagram)
            .inspect_err(|_| self.counters.rejected += 1)?;
        let (now, from) = (self.now, said.from);
        let freshness = self.cluster.timing().freshness();
        let peer = &mut self.peers[usize::from(from.0)];
        if let Err(error) = peer.admit(now, freshness, &said) {
            self.counters.late += 1;
            if peer.is_doubled(now, freshness) {
                peer.rival_since = None;
                self.notice(Notice::Doubled(from));
            }
            return Err(error);
        }
        self.counters.received += 1;
        let counted = said.echo == self.incarnation
            && said.echo_sent <= now
            && now <= after(said.echo_sent, freshness);
        let Heartbeat { incarnation, sequence, sent, .. } = said;
        let known = peer.latest.map(|latest| latest.incarnation);
        peer.latest = Some(Latest { incarnation, sequence, sent, counted });
        if known != Some(incarnation) {
            self.ledger.note_life(from, incarnation);
        }
        if known.is_some_and(|known| known != incarnation) {
            self.mistrust(from);
        }
        self.note_echo(&said);
        let peer = &mut self.peers[usize::from(from.0)];
        if counted {
            peer.view = Some(View { at: said.echo_sent, said });
            self.listen(&said);
        }
        self.judge();
        Ok(from)
    }

    /// Lets time pass.
    pub fn handle_tick(&mut self, now: Nanos) {
        self.advance(now);
        self.judge();
        if self.now >= self.next_heartbeat {
            self.next_heartbeat = after(self.now, self.cluster.timing().heartbeat);
            self.hurry();
        }
    }

    /// Goes by a map from now on; older ones than the present are of no effect.
    pub fn handle_map(&mut self, now: Nanos, map: Arc<Map>) {
        self.advance(now);
        if map.version() <= self.map.version() {
            return;
        }
        self.map = map;
        for node in self.cluster.nodes() {
            let Some(admission) = self.map.admission(node) else { continue };
            let peer = &mut self.peers[usize::from(node.0)];
            if peer.place.life() != Some(admission.life) {
                peer.give(self.now, admission);
                let sets =
                    [&mut self.suspected, &mut self.fenced, &mut self.dead, &mut self.presumed];
                for set in sets {
                    set.remove(node);
                }
            }
        }
        if let Some(admission) = self.map.admission(self.cluster.node())
            && admission.life != self.incarnation
            && self.member_since.is_some()
        {
            self.restart(Cause::Superseded);
        }
        // What was handed over for a list that is no more says nothing about the next.
        let map = &self.map;
        self.handed.retain(|&bucket, (_, since)| {
            map.list(bucket).is_some_and(|list| *since >= list.since)
        });
        self.judge();
        self.hurry();
    }

    /// Learns whether this node is fit to own buckets.
    pub fn handle_fitness(&mut self, now: Nanos, fit: bool) {
        self.advance(now);
        if std::mem::replace(&mut self.fit, fit) != fit {
            self.hurry();
        }
        self.judge();
    }

    /// Learns from the replica that its table is complete, as far as it knows owners by that version
    /// of the map, or that it is not.
    pub fn handle_synced(&mut self, now: Nanos, synced: Option<Version>) {
        self.advance(now);
        self.synced = synced;
        self.judge();
    }

    /// Learns from the replica that the owner of a bucket has handed it over to this node.
    pub fn handle_handed_over(
        &mut self,
        now: Nanos,
        bucket: BucketId,
        from: NodeId,
        since: Version,
    ) {
        self.advance(now);
        self.handed.insert(bucket, (from, since));
        self.judge();
    }

    /// Learns that the next owner of a bucket knows all that this node knew of it, after
    /// [`crate::ownership::Ownership::LetGo`].
    pub fn handle_delivered(&mut self, now: Nanos, bucket: BucketId, epoch: Epoch) {
        self.advance(now);
        if self.ledger.delivered(bucket, epoch) {
            self.ledger_basis = None;
        }
        self.judge();
    }

    /// Learns from the replica that the slot of a bucket names this node no more, after
    /// [`crate::ownership::Ownership::Move`].
    pub fn handle_given_up(&mut self, now: Nanos, bucket: BucketId, epoch: Epoch) {
        self.advance(now);
        let next = |bucket, epoch| title::superseded(&self.map, bucket, epoch);
        if self.ledger.given_up(bucket, epoch, next) {
            self.ledger_basis = None;
        }
        self.judge();
    }

    /// Learns that the slots no longer name this node for what
    /// [`crate::ownership::Ownership::Release`] gave up. Until then it can't own anything again.
    pub fn handle_released(&mut self, now: Nanos, incarnation: Incarnation) {
        self.advance(now);
        if incarnation == self.incarnation {
            self.released = true;
        }
        self.judge();
    }

    /// What to do next, or `None` until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        let deadline = if self.role() == Role::Member { self.lease.deadline() } else { Nanos(0) };
        if deadline != self.told_lease {
            self.told_lease = deadline;
            return Some(Output::SetLease(deadline));
        }
        if let Some(ownership) = self.ledger.poll() {
            return Some(Output::Ownership(ownership));
        }
        let next = self.due.iter().next();
        if let Some(to) = next {
            self.due.remove(to);
            let datagram = self.heartbeat_for(to).encode(&self.cluster);
            self.counters.sent += 1;
            return Some(Output::Send { to, datagram });
        }
        self.notices.pop_front().map(Output::Notice)
    }

    /// When [`Self::handle_tick`] is due, if nothing happens before.
    #[must_use]
    pub fn next_wakeup(&self) -> Nanos {
        let lease = if self.lease.is_held() { self.lease.deadline() } else { NEVER };
        let suspicions = self.cluster.peers().map(|peer| self.suspicion_due(peer));
        let ahead = suspicions.chain([lease, self.quarantine_end()]).filter(|&t| t > self.now);
        ahead.fold(self.next_heartbeat, Nanos::min)
    }

    /// What this node is to the cluster.
    #[must_use]
    pub fn role(&self) -> Role {
        if self.member_since.is_some() { Role::Member } else { Role::Joining }
    }

    /// This node's life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The map that this node goes by.
    #[must_use]
    pub fn map(&self) -> &Arc<Map> {
        &self.map
    }

    /// Which version this node has settled: it will never act on an older list again.
    #[must_use]
    pub fn settled(&self) -> Version {
        self.settled
    }

    /// How long the lease lasts from `now` on; `None` if there is none.
    #[must_use]
    pub fn lease_remaining(&self, now: Nanos) -> Option<Duration> {
        let deadline = self.lease.deadline();
        (self.role() == Role::Member && now < deadline).then(|| since(deadline, now))
    }

    /// How many buckets this node owns, if it has a lease.
    #[must_use]
    pub fn owned(&self) -> usize {
        self.ledger.owned()
    }

    /// The peers, as seen from here.
    pub fn peers(&self, now: Nanos) -> impl Iterator<Item = PeerStatus> + '_ {
        self.cluster.peers().map(move |node| {
            let peer = &self.peers[usize::from(node.0)];
            let view = peer.view.as_ref();
            let fresh = peer.fresh(now, self.silence_of(peer));
            let state = match (fresh, peer.place) {
                (Some(_), _) => PeerState::Alive,
                (None, Place::Fenced(_)) => PeerState::Fenced,
                (None, _) => PeerState::Silent,
            };
            let heard = view.map(|view| since(now, view.at));
            let role = view.map(|view| match view.said.standing {
                Some(_) => Role::Member,
                None => Role::Joining,
            });
            PeerStatus { node, state, role, heard }
        })
    }

    /// How often things happened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The clock never goes back, also not when a driver's threads read it in another order.
    fn advance(&mut self, now: Nanos) {
        self.now = self.now.max(now);
    }

    fn notice(&mut self, notice: Notice) {
        if self.notices.len() < MAX_NOTICES {
            self.notices.push_back(notice);
        } else {
            self.counters.notices_dropped += 1;
        }
    }

    /// Takes in what a peer said not long ago.
    fn listen(&mut self, said: &Heartbeat) {
        let now = self.now;
        let granted = said.grant.then(|| self.support(said));
        let peer = &mut self.peers[usize::from(said.from.0)];
        if let Some(granted) = granted {
            // An older heartbeat granted by a newer life says more than the other way round.
            let newer = |old: Support| old.by != granted.by || old.sent < granted.sent;
            if peer.support.is_none_or(newer) {
                peer.support = Some(granted);
            }
        }
        peer.listen(now, said);
        let alive = peer.place.life() == Some(said.incarnation);
        if alive && std::mem::take(&mut peer.suspected) {
            self.suspected.remove(said.from);
            self.notice(Notice::HeardAgain(said.from));
            self.hurry();
        }
    }

    /// A peer that goes on listening to another life of this node's name when it should long have
    /// heard this one hears somebody else who runs under the name.
    fn note_echo(&mut self, said: &Heartbeat) {
        let strange = said.echo != self.incarnation && said.echo != Incarnation(0);
        let settled = self.now >= after(self.quarantine_end(), self.cluster.timing().takeover);
        if strange && settled && self.next_impersonation <= self.now {
            self.next_impersonation = after(self.now, IMPERSONATION_EVERY);
            let (by, life) = (said.from, said.echo);
            self.notice(Notice::Impersonated { heard_by: by, life });
        }
    }

    fn heartbeat_for(&mut self, to: NodeId) -> Heartbeat {
        let ready = self.is_ready();
        let votes = ready && self.is_voter();
        let (fit, synced) = (self.is_fit(), self.is_synced());
        let fenced = self.own_votes();
        let (pause, offer) = self.announced();
        let now = self.now;
        let peer = &mut self.peers[usize::from(to.0)];
        peer.sequence += 1;
        let sequence = peer.sequence;
        let latest = peer.latest;
        let (echo, echo_sent) =
            latest.map_or_else(Default::default, |latest| (latest.incarnation, latest.sent));
        let kept = match peer.place {
            Place::Kept(admission, _) => Some(admission.life),
            Place::Vacant | Place::Fenced(_) => None,
        };
        let grant = votes
            && latest.is_some_and(|latest| latest.counted && kept == Some(latest.incarnation));
        let (patience, offer) =
            if grant { (peer.pause, offer) } else { (Duration::ZERO, Duration::ZERO) };
        if !offer.is_zero() {
            peer.promised = peer.promised.max(after(now, offer));
        }
        let me = self.cluster.node();
        let member = self.role() == Role::Member;
        let standing = self.map.admission(me).filter(|_| member).map(|admission| admission.since);
        Heartbeat {
            from: me,
            to,
            incarnation: self.incarnation,
            sequence,
            sent: self.now,
            echo,
            echo_sent,
            grant,
            ready,
            lease: member && self.lease.is_held(),
            fit,
            synced,
            version: self.map.version(),
            settled: self.settled,
            standing,
            pause,
            patience,
            offer,
            suspected: self.suspected,
            fenced,
        }
    }

    /// Tells all peers now, instead of at the next heartbeat.
    fn hurry(&mut self) {
        self.due = self.cluster.peers().collect();
    }
}

#[cfg(test)]
mod tests;
