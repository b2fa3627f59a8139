//! What a node knows of all flows, and how it and its peers keep that equal.
//!
//! The replica owns the common table and the sync sessions. It learns from the membership who owns
//! which bucket, from the datapath what happens to the node's own flows, and from the peers what
//! happens to theirs.
//!
//! # Driving it
//!
//! * `handle_*` takes one input: a change of ownership, an event of the datapath, bytes of a peer, a
//!   tick about every 100 ms.
//! * After any of them, call [`Replica::poll_effect`] until it is empty, and do what it says in that
//!   order.
//! * Call [`Replica::poll_transmit`] for each connection whenever it can take bytes.
//! * The getters change nothing.
//!
//! # Invariants
//!
//! * Only the owner of a bucket is believed about it. A record of a peer that does not own the bucket,
//!   as far as this node knows, is refused, unless its epoch shows that this node is behind.
//! * The slots of all buckets that are taken over at once are flipped before the first entry of any
//!   is installed, so a takeover does not wait for copying.
//! * Nothing is remembered for a peer that is not connected. When it connects, counts and digests of
//!   all own buckets are compared, and what differs is sent whole. From then on they are compared over
//!   and over ([`comparison`]).

mod arrival;
pub mod audit;
mod commit;
pub mod comparison;
mod connections;
mod determined;
mod effect;
mod gate;
mod handover;
mod placement;
mod receive;
mod references;
pub mod rounds;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::{Event, EventKind};

use crate::common_table::{Authority, CommonTable, SlotId};
use crate::config::Cluster;
use crate::heartbeat::Incarnation;
use crate::map::Version;
use crate::ownership::Ownership;
use crate::sync::Session;
use crate::sync::lag::Delays;
use crate::sync::outgoing::Outgoing;
use crate::sync::references::Reference;

pub use crate::common_table::Refused;
pub use crate::sync::{Side, SyncError};
pub use audit::Audit;
pub use commit::Ticket;
pub use comparison::{Comparisons, Divergence, Repair};
pub use connections::{ConnectionId, SyncStatus};
pub use determined::{Outcome, Wish};
pub use effect::Effect;
pub use gate::{MAX_WAITING, Replicate, Replication};
pub use handover::MoveCounters;
pub use rounds::{Copies, Verification};

/// Frames of a peer that were refused, by reason. Its sessions go on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Overtaken by a newer state.
    pub older: u64,
    /// From a node that does not own the bucket.
    pub not_owner: u64,
    /// No room in the common table.
    pub full: u64,
    /// Of a bucket that there is not.
    pub no_such_bucket: u64,
    /// By a reference to a flow that this node does not have.
    pub unknown: u64,
    /// Of a bucket that this node does not keep.
    pub not_kept: u64,
}

#[derive(Debug, Default)]
struct Peer {
    /// The life that heartbeats are heard of.
    life: Option<Incarnation>,
    connection: Option<ConnectionId>,
    outgoing: Outgoing,
    comparisons: Comparisons,
    rejected: Rejected,
    delays: Delays,
    bytes_sent: u64,
    bytes_received: u64,
}

/// What a node knows of all flows.
#[derive(Debug)]
pub struct Replica {
    cluster: Arc<Cluster>,
    incarnation: Incarnation,
    table: CommonTable,
    slots: Vec<BucketSlot>,
    /// Buckets that this node may know less of than their owner, until that has said what it has.
    doubtful: Vec<bool>,
    /// The latest epoch under which a peer was believed to own a bucket, and which peer.
    heard: Vec<(Epoch, NodeId)>,
    /// Which peer has shown that this node's copy of a bucket equals its own, if none but that one was
    /// believed since.
    equal_to: Vec<NodeId>,
    placement: placement::Placement,
    peers: Vec<Peer>,
    sessions: BTreeMap<ConnectionId, Session>,
    connections: u64,
    effects: VecDeque<Effect>,
    moves: handover::Moves,
    turns: comparison::Turns,
    rounds: rounds::Rounds,
    determining: determined::Determining,
    /// Buckets that are let go, of which this node still has to tell, with the slots that they had.
    leaving: BTreeMap<BucketId, BucketSlot>,
    /// By which version of the map the owners are known.
    told: Option<Version>,
    synced: Option<Version>,
    letters_lost: u64,
    /// Flows that were seen in the node table and are not known.
    in_question: Vec<FlowRecord>,
    gate: gate::Gate,
}

impl Replica {
    /// A node that owns nothing and knows no flow.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, incarnation: Incarnation) -> Self {
        let buckets = cluster.buckets();
        let key = cluster.keys().table;
        Self {
            table: CommonTable::new(key, buckets, cluster.max_flows()),
            slots: vec![BucketSlot::VACANT; buckets as usize],
            doubtful: vec![true; buckets as usize],
            heard: vec![(Epoch(0), NodeId::NONE); buckets as usize],
            equal_to: vec![NodeId::NONE; buckets as usize],
            placement: placement::Placement::new(cluster.replicas().is_limited(), buckets),
            peers: cluster.nodes().map(|_| Peer::default()).collect(),
            sessions: BTreeMap::new(),
            connections: 0,
            effects: VecDeque::new(),
            moves: handover::Moves::default(),
            turns: comparison::Turns::default(),
            rounds: rounds::Rounds::default(),
            determining: determined::Determining::default(),
            leaving: BTreeMap::new(),
            told: None,
            synced: None,
            letters_lost: 0,
            in_question: Vec::new(),
            gate: gate::Gate::default(),
            cluster,
            incarnation,
        }
    }

    /// A node that goes on owning what another process has left to it. It knows no flow yet: what it
    /// owns itself is to be read from the node table ([`audit`]).
    #[must_use]
    pub fn resume(cluster: Arc<Cluster>, incarnation: Incarnation, slots: &[BucketSlot]) -> Self {
        let me = cluster.node();
        let mut replica = Self::new(cluster, incarnation);
        for ((&slot, own), (bucket, doubtful)) in
            slots.iter().zip(&mut replica.slots).zip((0..=u16::MAX).zip(&mut replica.doubtful))
        {
            let mine = slot.owner == me;
            *own = if mine { BucketSlot { state: BucketState::Active, ..slot } } else { slot };
            *doubtful = !mine;
            replica.table.set_epoch(BucketId(bucket), slot.epoch);
        }
        for bucket in own_buckets(&replica.slots, me) {
            replica.review(bucket);
            replica.placement.is_whole(bucket);
            replica.doubtful[usize::from(bucket.0)] = false;
        }
        replica
    }

    /// The flows of all nodes.
    #[must_use]
    pub fn table(&self) -> &CommonTable {
        &self.table
    }

    /// The table, to be spoilt: for showing that it gets repaired.
    #[doc(hidden)]
    pub fn spoil(&mut self) -> &mut CommonTable {
        &mut self.table
    }

    /// The slot of a bucket, as this node sees it.
    #[must_use]
    pub fn slot(&self, bucket: BucketId) -> BucketSlot {
        self.slots.get(usize::from(bucket.0)).copied().unwrap_or(BucketSlot::VACANT)
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Says something to the coordinator of a peer. It may get lost: there is no stream, or too much
    /// waits for it already.
    pub fn send_letter(&mut self, to: NodeId, bytes: &[u8]) {
        let peer = self.peers.get_mut(usize::from(to.0)).filter(|peer| peer.connection.is_some());
        if !peer.is_some_and(|peer| peer.outgoing.letter(bytes)) {
            self.letters_lost += 1;
        }
    }

    /// How many letters found no way to their peer.
    #[must_use]
    pub fn letters_lost(&self) -> u64 {
        self.letters_lost
    }

    /// By which version of the map the owners are known, if all of them have said that this node has
    /// what they have.
    #[must_use]
    pub fn synced(&self) -> Option<Version> {
        self.synced
    }

    /// The buckets of other nodes that this node keeps and may know less of than their owner.
    pub fn incomplete(&self) -> impl Iterator<Item = BucketId> + '_ {
        let me = self.cluster.node();
        let buckets = (0..=u16::MAX).map(BucketId).zip(self.slots.iter().zip(&self.doubtful));
        buckets
            .filter(move |(bucket, (slot, doubtful))| {
                let others = slot.owner != NodeId::NONE && slot.owner != me;
                **doubtful && others && self.placement.has(*bucket)
            })
            .map(|(bucket, _)| bucket)
    }

    /// Looks whether the table is complete.
    fn note_synced(&mut self) {
        let complete = self.incomplete().next().is_none();
        let synced = self.told.filter(|_| complete);
        if synced != self.synced {
            self.synced = synced;
            self.effects.push_back(Effect::Synced { version: synced });
        }
    }

    /// Takes a change of ownership.
    pub fn handle_ownership(&mut self, change: Ownership) {
        match change {
            Ownership::Release { buckets, incarnation } => {
                for bucket in buckets {
                    let vacant = BucketSlot {
                        owner: NodeId::NONE,
                        previous: self.cluster.node(),
                        ..self.slot(bucket)
                    };
                    self.give_up(bucket, vacant);
                }
                self.abandon_moves();
                self.incarnation = incarnation;
                // The streams go on, so what is known of other nodes' buckets is as good as before.
                // The membership has forgotten it and has to be told anew.
                self.synced = None;
                self.note_synced();
                self.effects.push_back(Effect::Released { incarnation });
            }
            Ownership::Keepers { buckets } => self.set_keepers(buckets),
            Ownership::TakeOver { buckets } => self.take_over(buckets),
            Ownership::OwnerChanged { buckets } => {
                for (bucket, slot) in buckets {
                    self.change_owner(bucket, slot);
                }
            }
            Ownership::Move { buckets } => {
                for (bucket, moving) in buckets {
                    self.move_bucket(bucket, moving);
                }
            }
            Ownership::LetGo { buckets } => {
                for (bucket, epoch) in buckets {
                    self.let_go(bucket, epoch);
                }
            }
            Ownership::Life { node, life } => {
                if let Some(peer) = self.peers.get_mut(usize::from(node.0)) {
                    peer.life = Some(life);
                }
            }
            Ownership::Told { version } => {
                self.told = Some(version);
                self.note_synced();
            }
        }
    }

    fn take_over(&mut self, buckets: Vec<(BucketId, BucketSlot)>) {
        let bare = buckets.iter().filter(|(bucket, slot)| self.is_bare(*bucket, *slot));
        let bare: Vec<_> = bare.map(|(bucket, slot)| (*bucket, slot.previous)).collect();
        for &(bucket, slot) in &buckets {
            self.not_leaving(bucket, slot.owner);
            self.set_slot(bucket, slot);
        }
        for (bucket, slot) in buckets {
            self.arrived(bucket);
            self.placement.is_whole(bucket);
            self.doubtful[usize::from(bucket.0)] = false;
            self.equal_to[usize::from(bucket.0)] = NodeId::NONE;
            self.effects.push_back(Effect::Install { bucket, epoch: slot.epoch });
            self.forget_snapshots(bucket, self.cluster.node());
            self.check_copies(bucket);
        }
        bare.into_iter().for_each(|(bucket, previous)| self.note_bare(bucket, previous));
    }

    /// All copies of an own bucket may differ.
    fn check_copies(&mut self, bucket: BucketId) {
        for (node, peer) in self.cluster.nodes().zip(&mut self.peers) {
            if peer.connection.is_some() && self.placement.tells(bucket, node) {
                peer.outgoing.check(bucket);
            }
        }
    }

    fn change_owner(&mut self, bucket: BucketId, slot: BucketSlot) {
        let before = self.slot(bucket);
        let me = self.cluster.node();
        if slot.owner == me {
            // The same owner under a new epoch has what it had.
            let state = if before.owner == me { before.state } else { slot.state };
            self.set_slot(bucket, BucketSlot { state, ..slot });
            // It goes nowhere by the list that this epoch is of. Word of that comes by itself, and later; until then flows
            // would be told of that their rules keep back.
            if let Some(moving) = self.moves.under_way(bucket) {
                self.take_back(bucket, moving);
            }
            if state == BucketState::Loading {
                // What is under way is for the epoch before, and will not count.
                self.effects.push_back(Effect::Install { bucket, epoch: slot.epoch });
            }
            return;
        }
        self.not_arriving(bucket, slot.owner);
        self.not_leaving(bucket, slot.owner);
        if before.owner == me {
            self.moves.leaving.remove(&bucket);
            self.give_up(bucket, slot);
        } else {
            self.set_slot(bucket, slot);
        }
        self.forget_snapshots(bucket, slot.owner);
        // It stays in doubt until an owner has answered: this one may be dead already.
        let behind = self.doubtful.get(usize::from(bucket.0)).is_some_and(|&doubtful| doubtful);
        let unproved = self.moves.is_unproved(bucket);
        if (behind || unproved)
            && self.placement.has(bucket)
            && let Some(owner) = self.peers.get_mut(usize::from(slot.owner.0))
        {
            owner.outgoing.want(bucket);
        }
    }

    fn give_up(&mut self, bucket: BucketId, slot: BucketSlot) {
        self.gate.forget_bucket(bucket);
        self.set_slot(bucket, slot);
        self.effects.push_back(Effect::Clear { bucket });
        // What this node has last learned of its own flows may have come too late for its successor.
        if let Some(doubtful) = self.doubtful.get_mut(usize::from(bucket.0)) {
            *doubtful = true;
        }
    }

    fn set_slot(&mut self, bucket: BucketId, slot: BucketSlot) {
        let Some(own) = self.slots.get_mut(usize::from(bucket.0)) else { return };
        let before = std::mem::replace(own, slot);
        self.table.set_epoch(bucket, slot.epoch);
        // What a peer learned of these flows by another owner's word is nothing that this node's
        // references of an earlier time lead to.
        if slot.owner == self.cluster.node() && slot.epoch != before.epoch {
            self.table.untell_bucket(bucket);
        }
        self.effects.push_back(Effect::SetBucket { bucket, slot });
        self.review(bucket);
    }

    /// The entries of a bucket are in the node table. Of no effect if the bucket has moved since.
    pub fn handle_loaded(&mut self, bucket: BucketId, epoch: Epoch) {
        let slot = self.slot(bucket);
        if slot.owner == self.cluster.node() && slot.epoch == epoch {
            self.set_slot(bucket, BucketSlot { state: BucketState::Active, ..slot });
            self.ask_when_loaded(bucket);
        }
    }

    /// Something has happened to a flow of this node's.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the table and the peers are as they were.
    pub fn handle_event(&mut self, now: Nanos, event: Event) -> Result<(), Refused> {
        let record = self.complete(event);
        self.learn(now, record)
    }

    /// An event with what its flow is translated to, of which only the first one tells: whoever changes a flow
    /// while it lives does not know. A flow of which nothing is known gets nothing here, and the audit finds it.
    fn complete(&self, Event { kind, record }: Event) -> FlowRecord {
        if kind == EventKind::Created || record.translation.is_some() {
            return record;
        }
        let known = self.table.get(record.bucket, &record.key);
        let translation = match known {
            Some(known) => known.translation,
            None => self.gate.translation(&record),
        };
        FlowRecord { translation, ..record }
    }

    /// Takes in what a flow of this node's has come to; the peers are told if its rule lets them be.
    fn learn(&mut self, now: Nanos, record: FlowRecord) -> Result<(), Refused> {
        self.check_own(record.bucket)?;
        if self.keeps_back(now, &record, false) {
            return Ok(());
        }
        self.tell(record).map(drop)
    }

    /// Puts a flow of this node's into the common table, and has the peers told.
    fn tell(&mut self, record: FlowRecord) -> Result<SlotId, Refused> {
        self.gate.forget(&record);
        let slot = self.table.apply(record, Authority::Owner)?;
        self.tell_changed(record.bucket, slot);
        Ok(slot)
    }

    /// Has all who keep a bucket told of the flow of it that is in this slot.
    fn tell_changed(&mut self, bucket: BucketId, slot: SlotId) {
        for (node, peer) in self.cluster.nodes().zip(&mut self.peers) {
            if peer.connection.is_some() && self.placement.tells(bucket, node) {
                peer.outgoing.change(slot);
            }
        }
    }

    /// A flow of this node's was taken out of the node table, because it was silent for too long. One that
    /// the peers were not told of is nobody's but this node's.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the table and the peers are as they were.
    pub fn handle_expired(&mut self, record: &FlowRecord) -> Result<(), Refused> {
        self.check_own(record.bucket)?;
        let kept_back = self.is_kept_back(record) | self.gate.forget(record);
        let slot = match self.table.remove(record) {
            Err(Refused::Unknown) if kept_back => return Ok(()),
            removed => removed?,
        };
        self.tell_removed(record, Some(slot));
        Ok(())
    }

    /// Tells all who keep it that a flow is gone; from this slot just now, if it is known which.
    fn tell_removed(&mut self, record: &FlowRecord, slot: Option<SlotId>) {
        let capacity = self.table.capacity();
        let (placement, peers) = (&self.placement, self.cluster.nodes().zip(&mut self.peers));
        let told = |(node, peer): &(NodeId, &mut Peer)| {
            peer.connection.is_some() && placement.tells(record.bucket, *node)
        };
        for (node, peer) in peers.filter(told) {
            let slot = slot.filter(|&slot| self.table.is_told(node, slot));
            let reference = slot.and_then(|slot| Reference::new(slot.0));
            if !peer.outgoing.remove(*record, reference, capacity) {
                let own = own_buckets(&self.slots, self.cluster.node());
                let kept = own.into_iter().filter(|&bucket| placement.tells(bucket, node));
                kept.for_each(|bucket| peer.outgoing.check(bucket));
            }
        }
    }

    /// Whether this node owns a bucket, and nobody has spoken for it as a later owner.
    fn is_undisputed(&self, bucket: BucketId) -> bool {
        let slot = self.slot(bucket);
        let heard = self.heard.get(usize::from(bucket.0));
        slot.owner == self.cluster.node() && heard.is_some_and(|(heard, _)| *heard <= slot.epoch)
    }

    fn check_own(&self, bucket: BucketId) -> Result<(), Refused> {
        let buckets = self.slots.len();
        match self.slots.get(usize::from(bucket.0)) {
            None => Err(Refused::NoSuchBucket { bucket, buckets }),
            Some(slot) if slot.owner != self.cluster.node() => Err(Refused::NotOwner { bucket }),
            Some(_) => Ok(()),
        }
    }
}

/// The buckets that a node owns.
fn own_buckets(slots: &[BucketSlot], me: NodeId) -> Vec<BucketId> {
    let numbered = (0..=u16::MAX).zip(slots);
    numbered.filter(|(_, slot)| slot.owner == me).map(|(bucket, _)| BucketId(bucket)).collect()
}
