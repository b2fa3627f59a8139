//! Who is there, who may own, and who has to stop: heartbeats, lease, fencing, takeover.
//!
//! # What it guarantees
//!
//! At no moment do two nodes hold an unexpired lease and own the same bucket. No message, clock
//! comparison between machines or consensus round is in the way of a takeover.
//!
//! # How
//!
//! * **Place.** A node promises each peer's *place* to the first life (incarnation) of it that it
//!   hears, and never to another. A life that may own gets [`Grant::Member`] for its heartbeats.
//! * **Lease.** It reaches the configured `lease` beyond the sending of a heartbeat that a majority granted.
//! * **Fence.** A peer not heard for `takeover` is suspected, which can be taken back. When so many
//!   suspect it that the rest is no majority (a *veto*), each fences its place, which can't: from
//!   then on the node grants it nothing more, in this life. When a veto of nodes has fenced it, all
//!   in force at one moment, the place is *dead*: every majority contains one that has granted
//!   nothing for `takeover`, which is longer than `lease` by more than clocks differ. So its lease
//!   has run out, and can't come back.
//! * **Takeover.** The owner of a bucket is the first of its ranked nodes that is not dead. A node
//!   takes a bucket when it has itself counted a veto against all ranked before it, while it holds
//!   a lease. A lease that it loses later does not matter: the dead stay dead.
//! * **Epoch.** `era << 8 | rank of the owner in the bucket's list`. Within an era the owner's rank
//!   only rises; a new era begins when the cluster is formed anew. So two owners of a bucket never
//!   share an epoch, and everyone can tell an owner's epoch without being told.
//!
//! # Lost memory
//!
//! Nothing is written to disk, so a restarted node has forgotten its promises. Three rules make
//! that harmless. (1) *Quarantine*: a new life grants and fences nothing until every lease that its
//! earlier life supported has run out, and every vote that it cast has gone stale: votes count only
//! while an echo proves them recent. (2) *Trust*: a lease that has run out is renewed only by lives
//! that supported it before. So at the moment of a death verdict the lease of the dead is over, no
//! life that forgot its vote has supported it before, and none can bring it back. (3) *Founders*: a
//! first lease needs support of lives that were there when the cluster was formed, or a new life of
//! a dead node could find a majority of forgetful ones. A cluster is formed when a majority is past
//! its quarantine and still joining: then no lease from before can be in force or come back, so
//! there is nothing left to forget.
//!
//! A node that finds nobody in charge although it hears a majority begins anew after a while, as if
//! it had been restarted. That is always safe, and lets a cluster form again whatever happened.
//!
//! # Limits
//!
//! A node that had to stop is on standby until the cluster can move buckets on purpose. A cluster of
//! two stops when one of them dies: a majority of two is both. Clocks may differ in rate by the
//! margin of [`crate::config::Timing::margin`], in nothing else.

mod judgement;
mod lease;
mod peer;

pub use peer::{PeerState, PeerStatus};

use crate::config::Cluster;
use crate::heartbeat::{Grant, Heartbeat, HeartbeatError, Incarnation, Role};
use crate::node_set::NodeSet;
use crate::ownership::{Ledger, Ownership};
use crate::time::{NEVER, after, since};
use lease::Lease;
use peer::{Latest, Peer, Place, Support, View};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use testudo_packet::bucket::{Nanos, NodeId};

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Let the kernel handle packets until then, by its monotonic clock; not at all if it is past.
    SetLease(Nanos),
    /// Hand this to the replica, in the order of the outputs.
    Ownership(Ownership),
    /// Send this to a peer. It may get lost, late or doubled.
    Send {
        /// The peer.
        to: NodeId,
        /// What to send.
        datagram: Vec<u8>,
    },
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This node has another role.
    Role(Role),
    /// A majority supports this node.
    LeaseGained,
    /// No majority has supported this node for the length of a lease: it has stopped.
    LeaseLost,
    /// A peer has been silent for the takeover wait.
    Suspected(NodeId),
    /// A suspected peer was heard again before it was fenced.
    HeardAgain(NodeId),
    /// This node will not support the peer again.
    Fenced(NodeId),
    /// The peer can't own anything any more.
    Dead(NodeId),
    /// Two processes speak as this peer: the operator has started it twice.
    Doubled(NodeId),
    /// This node has begun a new life.
    Restarted {
        /// The new life.
        incarnation: Incarnation,
        /// Why.
        cause: Cause,
    },
}

/// Why a node began a new life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The others have fenced it; what it owned is theirs.
    Fenced,
    /// It hears a majority, but nobody is in charge.
    NobodyInCharge,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats heard, including those that came too late to count.
    pub received: u64,
    /// Datagrams that were no heartbeat for this node.
    pub rejected: u64,
    /// Heartbeats that were overtaken, doubled, or of another life than the one listened to.
    pub late: u64,
    /// Leases lost.
    pub leases_lost: u64,
    /// New lives begun.
    pub restarts: u64,
    /// Notices that nobody fetched in time.
    pub notices_dropped: u64,
}

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
    role: Role,
    founder: bool,
    /// Whether the slots no longer name this node for what it owned in its earlier life.
    released: bool,
    born: Nanos,
    role_since: Nanos,
    in_touch_since: Option<Nanos>,
    idle_since: Option<Nanos>,
    lease: Lease,
    told_lease: Nanos,
    peers: Vec<Peer>,
    formed_with: Vec<(NodeId, Incarnation)>,
    suspected: NodeSet,
    fenced: NodeSet,
    dead: NodeSet,
    told_dead: NodeSet,
    era: u32,
    era_heard: u32,
    ledger: Ledger,
    ledger_basis: Option<judgement::Basis>,
    next_heartbeat: Nanos,
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
            lease: Lease::new(cluster.timing().lease, nodes, cluster.majority()),
            ledger: Ledger::new(cluster.node(), cluster.buckets()),
            cluster,
            incarnation,
            now,
            role: Role::Joining,
            founder: false,
            released: true,
            born: now,
            role_since: now,
            in_touch_since: None,
            idle_since: None,
            told_lease: Nanos(0),
            peers: vec![Peer::default(); nodes],
            formed_with: Vec::new(),
            suspected: NodeSet::default(),
            fenced: NodeSet::default(),
            dead: NodeSet::default(),
            told_dead: NodeSet::default(),
            era: 0,
            era_heard: 0,
            ledger_basis: None,
            next_heartbeat: now,
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
        self.era_heard = self.era_heard.max(said.era);
        let counted = said.echo == self.incarnation
            && said.echo_sent <= now
            && now <= after(said.echo_sent, freshness);
        let Heartbeat { incarnation, sequence, sent, .. } = said;
        peer.latest = Some(Latest { incarnation, sequence, sent, counted });
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

    /// Learns that the slots no longer name this node for what [`Ownership::Release`] gave up. Until
    /// then it can't own anything again.
    pub fn handle_released(&mut self, now: Nanos, incarnation: Incarnation) {
        self.advance(now);
        if incarnation == self.incarnation {
            self.released = true;
        }
        self.judge();
    }

    /// What to do next, or `None` until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        let deadline = if self.role == Role::Member { self.lease.deadline() } else { Nanos(0) };
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
        self.role
    }

    /// This node's life.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// How long the lease lasts from `now` on; `None` if there is none.
    #[must_use]
    pub fn lease_remaining(&self, now: Nanos) -> Option<Duration> {
        let deadline = self.lease.deadline();
        (self.role == Role::Member && now < deadline).then(|| since(deadline, now))
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
            let fresh = peer.fresh(now, self.cluster.timing().takeover);
            let state = match (fresh, peer.place) {
                (Some(_), _) => PeerState::Alive,
                (None, Place::Fenced) => PeerState::Fenced,
                (None, _) => PeerState::Silent,
            };
            let heard = view.map(|view| since(now, view.at));
            PeerStatus { node, state, role: view.map(|view| view.said.role), heard }
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
        let index = usize::from(said.from.0);
        if said.grant == Grant::Member {
            let Heartbeat { incarnation: by, founder, echo_sent: sent, .. } = *said;
            let peer = &mut self.peers[index];
            // An older heartbeat granted by a newer life says more than the other way round.
            let newer = peer.support.is_none_or(|old| old.by != by || old.sent < sent);
            if newer {
                peer.support = Some(Support { sent, by, founder });
            }
        }
        if self.role != Role::Joining {
            self.bind(said);
        }
    }

    /// Keeps the peer's place for the life that spoke, or gives the place away.
    fn bind(&mut self, said: &Heartbeat) {
        let peer = &mut self.peers[usize::from(said.from.0)];
        let suspected = peer.suspected;
        if peer.bind(self.now, said) {
            self.fence(said.from);
        } else if suspected && !self.peers[usize::from(said.from.0)].suspected {
            self.suspected.remove(said.from);
            self.notice(Notice::HeardAgain(said.from));
            self.hurry();
        }
    }

    fn heartbeat_for(&mut self, to: NodeId) -> Heartbeat {
        let peer = &mut self.peers[usize::from(to.0)];
        peer.sequence += 1;
        let sequence = peer.sequence;
        let latest = peer.latest;
        let (echo, echo_sent) =
            latest.map_or_else(Default::default, |latest| (latest.incarnation, latest.sent));
        let grant = match (latest, peer.place) {
            (Some(Latest { counted: true, incarnation, .. }), place) => match (self.role, place) {
                (Role::Joining, _) => Grant::None,
                (_, Place::Bound(bound)) if bound == incarnation => Grant::Member,
                _ => Grant::Standby,
            },
            _ => Grant::None,
        };
        Heartbeat {
            from: self.cluster.node(),
            to,
            incarnation: self.incarnation,
            sequence,
            sent: self.now,
            echo,
            echo_sent,
            era: self.era.max(self.era_heard),
            role: self.role,
            grant,
            ready: self.is_ready(),
            lease: self.role == Role::Member && self.lease.is_held(),
            founder: self.founder,
            cofounder: self.founder && self.formed_with.contains(&(to, echo)),
            suspected: self.suspected,
            fenced: self.fenced,
            dead: if self.role == Role::Member { self.dead } else { NodeSet::default() },
        }
    }

    /// Tells all peers now, instead of at the next heartbeat.
    fn hurry(&mut self) {
        self.due = self.cluster.peers().collect();
    }
}
