//! Planned moves: how a bucket leaves this node for another, and how one arrives.
//!
//! ```text
//!   owner                                         next owner
//!   yields: tells of each packet,
//!   and of all flows, kept back or not
//!   (overlap)                     ── Prepare ──►
//!                               ── Check ────►
//!                                                 (asks for all of the bucket, if it differs)
//!                                 ◄── Holding ──  holds the packets of the bucket
//!   (overlap)
//!   names the next owner in its slot
//!   lets go                       ── changes ──►
//!                                 ── Handled ──►
//!                                 ── Released ─►  owns it; handles what it held and the owner had not
//! ```
//!
//! Invariants: a next owner holds packets, and takes the bucket, only for whom it takes for the owner,
//! and only when that has shown on the present stream that nothing is missing. The owner sends *Released* only after the membership has agreed that it does not own the
//! bucket any more, and only behind all changes of its flows. So the next owner never acts too early,
//! and never on less than all.
//!
//! Where every node sees every packet, the copies of one packet reach two nodes at different moments: a
//! busy CPU looks at its queue some milliseconds later than an idle one. So the owner tells of what it
//! handles, and handles what the next owner holds already, for longer than the two may be apart
//! ([`crate::config::Timing::overlap`]). Without the second wait a packet is lost that one of them saw before
//! it held, and the other after it had let go; without the first it is handled twice.
//!
//! What rules keep back ([`super::gate`]) is let through from the moment at which the bucket yields; what was
//! kept back before is read out of the node table while the bucket's packets are told of, and the next owner
//! is asked only when that is done. A reading is memory work of the driver, so it needs no deadline.
//!
//! Deadlines: an owner whose next owner does not answer for the configured time lets go without
//! it, if there is a stream to tell the flows by; packets in between are lost. A next owner that
//! waits for three times as long, and as three overlaps, lets the packets go that it held. Without a stream the owner keeps
//! the bucket: its flows are worth more than the plan.

use std::collections::BTreeMap;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};

use super::arrival::{Arriving, MAX_HANDLED};
use super::{Effect, Peer, Replica};
use crate::config::Timing;
use crate::map::Version;
use crate::ownership::Move;
use crate::sync::frame::Frame;
use crate::time::after;

/// How long the next owner waits, in waits of the owner.
const PATIENCE: u32 = 3;

/// How far a bucket has come on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// There is no stream, or the bucket is loading.
    Waiting,
    /// Each packet that is handled is told of, since this moment or the next one that is known.
    Telling(Option<Nanos>),
    /// The next owner has been asked to hold packets.
    Asked,
    /// The next owner holds packets, since this moment or the next one that is known.
    Held(Option<Nanos>),
    /// The slot names the next owner; what was under way is waited for.
    Yielded,
    /// All is known; the membership has been asked.
    GivenUp(Vec<u64>),
    /// The next owner is told the rest.
    LetGo(Vec<u64>),
}

#[derive(Debug)]
pub(super) struct Leaving {
    moving: Move,
    phase: Phase,
    /// Whether the slot says that each packet is to be told of.
    tells: bool,
    /// Whether all of its flows are in the common table, those that were kept back before among them.
    whole: bool,
    /// The reading of the node table that makes it so.
    reading: u64,
    /// The frame of the present stream in which the next owner was asked.
    asked: Option<u64>,
    /// Since when it knows, from the first tick on.
    begun: Option<Nanos>,
}

impl Leaving {
    const fn new(moving: Move) -> Self {
        let (phase, tells, whole) = (Phase::Waiting, false, false);
        Self { moving, phase, tells, whole, reading: 0, asked: None, begun: None }
    }
}

/// How often moves ended in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveCounters {
    /// Buckets that were handed over as planned.
    pub handed_over: u64,
    /// Buckets that were let go before the next owner held their packets.
    pub forced: u64,
    /// Moves that were taken back.
    pub withdrawn: u64,
    /// Buckets that arrived as planned.
    pub arrived: u64,
    /// Buckets whose packets were held in vain.
    pub held_in_vain: u64,
}

/// All buckets on their way.
#[derive(Debug, Default)]
pub(super) struct Moves {
    pub(super) leaving: BTreeMap<BucketId, Leaving>,
    pub(super) arriving: BTreeMap<BucketId, Arriving>,
    pub(super) counters: MoveCounters,
    /// How many readings of the node table have begun.
    readings: u64,
}

impl Moves {
    /// What a peer may have said on a stream that is over is not proved.
    pub(super) fn doubt(&mut self, peer: NodeId) {
        let of_peer = self.arriving.values_mut().filter(|arriving| arriving.from == peer);
        of_peer.for_each(|arriving| arriving.proved = false);
    }

    /// Whether a bucket is to arrive of which this node is not known to have all.
    pub(super) fn is_unproved(&self, bucket: BucketId) -> bool {
        self.arriving.get(&bucket).is_some_and(|arriving| !arriving.proved)
    }
}

impl Moves {
    /// Where a bucket is to go, and by what.
    pub(super) fn under_way(&self, bucket: BucketId) -> Option<Move> {
        self.leaving.get(&bucket).map(|leaving| leaving.moving)
    }

    /// Whom a bucket is to go to.
    pub(super) fn next_owner(&self, bucket: BucketId) -> Option<NodeId> {
        self.under_way(bucket).map(|moving| moving.to)
    }

    /// Whether a bucket is on its way to this node.
    pub(super) fn is_arriving(&self, bucket: BucketId) -> bool {
        self.arriving.contains_key(&bucket)
    }
}

impl Replica {
    /// How often moves ended in which way.
    #[must_use]
    pub fn move_counters(&self) -> MoveCounters {
        self.moves.counters
    }

    /// How many buckets are on their way out and in.
    #[must_use]
    pub fn moving(&self) -> (usize, usize) {
        (self.moves.leaving.len(), self.moves.arriving.len())
    }

    /// Whether a bucket is on its way from this node to another.
    #[must_use]
    pub fn is_leaving(&self, bucket: BucketId) -> bool {
        self.moves.leaving.contains_key(&bucket)
    }

    /// Whether all flows of a bucket are told of, whatever their rules say: it is on its way out.
    pub(super) fn is_told_of(&self, bucket: BucketId) -> bool {
        self.moves.leaving.get(&bucket).is_some_and(|leaving| leaving.tells)
    }

    // The owner's side.

    pub(super) fn move_bucket(&mut self, bucket: BucketId, moving: Option<Move>) {
        if let Some(before) = self.moves.under_way(bucket) {
            if moving == Some(before) {
                return;
            }
            self.take_back(bucket, before);
        }
        let slot = self.slot(bucket);
        let (Some(moving), true) = (moving, slot.owner == self.cluster.node()) else { return };
        self.moves.leaving.insert(bucket, Leaving::new(moving));
        self.invite_next(bucket, moving.to);
        self.ask(bucket);
    }

    /// The bucket stays, or goes elsewhere.
    pub(super) fn take_back(&mut self, bucket: BucketId, before: Move) {
        let Some(leaving) = self.moves.leaving.get(&bucket) else { return };
        if matches!(leaving.phase, Phase::LetGo(_)) {
            return;
        }
        self.moves.leaving.remove(&bucket);
        self.moves.counters.withdrawn += 1;
        let slot = self.slot(bucket);
        self.effects.push_back(Effect::SetBucket { bucket, slot });
        if let Some(peer) = self.peers.get_mut(usize::from(before.to.0)) {
            peer.outgoing.tell(Frame::Withdrawn { bucket, since: before.since });
        }
        self.dismiss(bucket, before.to);
    }

    fn ask(&mut self, bucket: BucketId) {
        let slot = self.slot(bucket);
        let Some(leaving) = self.moves.leaving.get_mut(&bucket) else { return };
        let peer = self.peers.get(usize::from(leaving.moving.to.0));
        // A bucket that is loading can't yield yet: what it handles would not be told. When it has
        // loaded, the next owner is asked.
        if peer.is_none_or(|peer| peer.connection.is_none()) || slot.state != BucketState::Active {
            leaving.phase = Phase::Waiting;
            return;
        }
        if leaving.tells {
            return self.request(bucket);
        }
        leaving.tells = true;
        leaving.phase = Phase::Telling(None);
        let slot = BucketSlot { state: BucketState::Yielding, ..slot };
        self.effects.push_back(Effect::SetBucket { bucket, slot });
        leaving.whole = !self.gate.is_selective();
        if !leaving.whole {
            self.moves.readings += 1;
            leaving.reading = self.moves.readings;
            let reading = leaving.reading;
            self.effects.push_back(Effect::ReadOut { bucket, reading });
        }
    }

    /// All flows of a bucket that the node table has were shown, and are settled, since
    /// [`Effect::ReadOut`] asked for it. Of no effect if the bucket does not leave any more.
    pub fn handle_read_out(&mut self, bucket: BucketId, reading: u64) {
        if let Some(leaving) = self.moves.leaving.get_mut(&bucket) {
            leaving.whole |= leaving.reading == reading;
        }
    }

    /// Asks the next owner to hold the bucket's packets, of which each is told by now.
    fn request(&mut self, bucket: BucketId) {
        let Some(leaving) = self.moves.leaving.get_mut(&bucket) else { return };
        debug_assert!(leaving.whole, "{bucket} is asked for before all of it is told of");
        let Move { to, since, epoch } = leaving.moving;
        let Some(peer) = self.peers.get_mut(usize::from(to.0)) else { return };
        if peer.connection.is_none() {
            leaving.phase = Phase::Waiting;
            return;
        }
        leaving.phase = Phase::Asked;
        peer.outgoing.check(bucket);
        leaving.asked = Some(peer.outgoing.tell(Frame::Prepare { bucket, since, epoch }));
    }

    /// Goes on with buckets that both nodes have met the packets of for long enough. To be called in
    /// each turn, after all effects have been performed: a wait begins when its slot is in force.
    pub fn handle_moves(&mut self, now: Nanos) {
        self.drop_some();
        let overlap = self.cluster.timing().overlap;
        let mut over = Vec::new();
        for (&bucket, leaving) in &mut self.moves.leaving {
            let (Phase::Telling(since) | Phase::Held(since)) = &mut leaving.phase else { continue };
            let passed = now >= after(*since.get_or_insert(now), overlap);
            if passed && leaving.whole {
                over.push((bucket, matches!(leaving.phase, Phase::Held(_))));
            }
        }
        for (bucket, held) in over {
            if !held {
                self.request(bucket);
            } else if self.can_yield(bucket) {
                self.moves.counters.handed_over += 1;
                self.yield_bucket(bucket);
            } else {
                // The next owner is asked again when there is a stream, or the bucket has loaded.
                self.ask(bucket);
            }
        }
    }

    /// While its own entries are on their way, the node table does not have all of the bucket; and
    /// without a stream the next owner would not learn that it has got it.
    fn can_yield(&self, bucket: BucketId) -> bool {
        let to = self.moves.leaving.get(&bucket).map(|leaving| leaving.moving.to);
        let peer = to.and_then(|to| self.peers.get(usize::from(to.0)));
        let connected = peer.is_some_and(|peer| peer.connection.is_some());
        connected && self.slot(bucket).state == BucketState::Active
    }

    /// The entries of a bucket are in the node table: it can be handed over now.
    pub(super) fn ask_when_loaded(&mut self, bucket: BucketId) {
        if self.moves.leaving.get(&bucket).is_some_and(|leaving| leaving.phase == Phase::Waiting) {
            self.ask(bucket);
        }
    }

    /// The next owner holds the packets of a bucket.
    pub(super) fn held(&mut self, peer: NodeId, bucket: BucketId, since: Version) {
        let Some(leaving) = self.moves.leaving.get_mut(&bucket) else { return };
        let fits = leaving.moving.to == peer && leaving.moving.since == since;
        if fits && leaving.phase == Phase::Asked {
            leaving.phase = Phase::Held(None);
        }
    }

    fn yield_bucket(&mut self, bucket: BucketId) {
        let Some(leaving) = self.moves.leaving.get_mut(&bucket) else { return };
        debug_assert!(leaving.whole, "{bucket} yields before all of it is told of");
        leaving.phase = Phase::Yielded;
        let Move { to, epoch, .. } = leaving.moving;
        let previous = self.cluster.node();
        let slot = BucketSlot { owner: to, previous, state: BucketState::Active, epoch };
        self.effects.push_back(Effect::Yield { bucket, slot });
    }

    /// No packet of a bucket is handled here any more, and all that was done is known. These packets
    /// were handled since the bucket began to yield.
    pub fn handle_yielded(&mut self, bucket: BucketId, mut packets: Vec<u64>) {
        let Some(leaving) = self.moves.leaving.get_mut(&bucket) else { return };
        if leaving.phase != Phase::Yielded {
            return;
        }
        packets.truncate(MAX_HANDLED);
        leaving.phase = Phase::GivenUp(packets);
        let epoch = leaving.moving.epoch;
        self.effects.push_back(Effect::GivenUp { bucket, epoch });
    }

    /// The membership has agreed: the bucket is not this node's any more.
    pub(super) fn let_go(&mut self, bucket: BucketId, epoch: Epoch) {
        let Some(leaving) = self.moves.leaving.get_mut(&bucket) else { return };
        if leaving.moving.epoch != epoch {
            return;
        }
        if let Phase::GivenUp(packets) = &mut leaving.phase {
            leaving.phase = Phase::LetGo(std::mem::take(packets));
            let Move { to, epoch, .. } = leaving.moving;
            let previous = self.cluster.node();
            let slot = BucketSlot { owner: to, previous, state: BucketState::Active, epoch };
            let before = std::mem::replace(&mut self.slots[usize::from(bucket.0)], slot);
            self.gate.forget_bucket(bucket);
            self.leaving.insert(bucket, before);
            self.release(bucket);
        }
    }

    fn release(&mut self, bucket: BucketId) {
        let Some(Leaving { moving, phase: Phase::LetGo(packets), .. }) =
            self.moves.leaving.get(&bucket)
        else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(usize::from(moving.to.0))
            && peer.connection.is_some()
        {
            peer.outgoing.release(bucket, moving.since, packets);
        }
    }

    /// The peer has acknowledged more.
    pub(super) fn note_delivered(&mut self, peer: NodeId) {
        while let Some((bucket, since)) = self.peers[usize::from(peer.0)].outgoing.poll_delivered()
        {
            let fits = |leaving: &Leaving| {
                leaving.moving.to == peer
                    && leaving.moving.since == since
                    && matches!(leaving.phase, Phase::LetGo(_))
            };
            if let Some(leaving) = self.moves.leaving.get(&bucket).filter(|leaving| fits(leaving)) {
                let epoch = leaving.moving.epoch;
                self.moves.leaving.remove(&bucket);
                self.finish_leaving(bucket, epoch);
            }
        }
    }

    /// A bucket that was let go is another's than the one it went to, or this node's again: nobody is
    /// there to be told of it.
    pub(super) fn not_leaving(&mut self, bucket: BucketId, owner: NodeId) {
        let Some(leaving) = self.moves.leaving.get(&bucket) else { return };
        if matches!(leaving.phase, Phase::LetGo(_)) && leaving.moving.to != owner {
            self.moves.leaving.remove(&bucket);
            self.leaving.remove(&bucket);
            self.effects.push_back(Effect::Clear { bucket });
            // Whoever gets it back has all of it, and does not lose that before its slot says so.
            if owner != self.cluster.node() {
                self.review(bucket);
            }
        }
    }

    fn finish_leaving(&mut self, bucket: BucketId, epoch: Epoch) {
        self.leaving.remove(&bucket);
        let slot = self.slot(bucket);
        if slot.owner != self.cluster.node() {
            self.set_slot(bucket, slot);
            self.effects.push_back(Effect::Clear { bucket });
        }
        self.effects.push_back(Effect::Delivered { bucket, epoch });
    }

    /// A peer is there again: what was under way to it begins anew.
    pub(super) fn resume_moves(&mut self, peer: NodeId) {
        let to_peer = self.moves.leaving.iter().filter(|(_, leaving)| leaving.moving.to == peer);
        let to_peer: Vec<_> =
            to_peer.map(|(&bucket, leaving)| (bucket, leaving.phase.clone())).collect();
        for (bucket, phase) in to_peer {
            match phase {
                Phase::Waiting | Phase::Asked | Phase::Held(_) => self.ask(bucket),
                Phase::Telling(_) | Phase::Yielded | Phase::GivenUp(_) => {}
                Phase::LetGo(_) => {
                    self.peers[usize::from(peer.0)].outgoing.check(bucket);
                    self.release(bucket);
                }
            }
        }
    }

    /// Looks at the deadlines of moves.
    pub(super) fn tick_moves(&mut self, now: Nanos) {
        let Timing { handover: wait, overlap, .. } = *self.cluster.timing();
        let mut late = Vec::new();
        for (&bucket, leaving) in &mut self.moves.leaving {
            let peer = self.peers.get(usize::from(leaving.moving.to.0));
            let knows = |peer: &Peer| {
                let acknowledged = peer.outgoing.acknowledged();
                peer.connection.is_some()
                    && leaving.asked.is_some_and(|asked| asked <= acknowledged)
            };
            // A peer that reads nothing now would not learn either that the bucket is let go.
            if leaving.phase != Phase::Asked || !peer.is_some_and(knows) {
                leaving.begun = None;
                continue;
            }
            if now >= after(*leaving.begun.get_or_insert(now), wait) {
                late.push(bucket);
            }
        }
        for bucket in late {
            self.moves.counters.forced += 1;
            self.yield_bucket(bucket);
        }
        let mut vain = Vec::new();
        for (&bucket, arriving) in &mut self.moves.arriving {
            if now >= after(*arriving.begun.get_or_insert(now), (wait + overlap) * PATIENCE) {
                vain.push(bucket);
            }
        }
        vain.into_iter().for_each(|bucket| self.hold_no_more(bucket));
    }

    /// This node begins a new life, and has no part in any move. Entries of what it had let go stay in
    /// the node table until they have arrived elsewhere; nobody waits for that any more.
    pub(super) fn abandon_moves(&mut self) {
        self.moves.leaving.clear();
        for bucket in std::mem::take(&mut self.leaving).into_keys() {
            let slot = self.slot(bucket);
            self.set_slot(bucket, slot);
            self.effects.push_back(Effect::Clear { bucket });
        }
        let arriving: Vec<_> = self.moves.arriving.keys().copied().collect();
        arriving.into_iter().for_each(|bucket| self.hold_no_more(bucket));
    }
}
