//! How a bucket arrives that another node hands over: the next owner's side of [`super::handover`].
//!
//! Invariant: this node holds packets, and takes the bucket, only for whom it takes for the owner, and only
//! when that has shown on the present stream that nothing is missing. Whatever ends that sooner (the move is
//! taken back, the owner is another, it waits too long), the packets held are let go.

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};

use super::{Effect, Replica};
use crate::map::Version;
use crate::sync::frame::Frame;

/// How many packets of a bucket the owner before may say it has handled: more than are ever held.
pub(super) const MAX_HANDLED: usize = 1 << 16;

#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) from: NodeId,
    pub(super) since: Version,
    pub(super) epoch: Epoch,
    /// Whether the owner has shown, on the present stream, that this node has all of the bucket.
    pub(super) proved: bool,
    pub(super) holding: bool,
    pub(super) released: bool,
    pub(super) handled: Vec<u64>,
    pub(super) begun: Option<Nanos>,
}

impl Replica {
    pub(super) fn prepare(&mut self, peer: NodeId, bucket: BucketId, since: Version, epoch: Epoch) {
        let index = usize::from(bucket.0);
        if index >= self.slots.len() || self.slot(bucket).owner == self.cluster.node() {
            return;
        }
        let begun = None;
        let (proved, holding, released, handled) = (false, false, false, Vec::new());
        let known = self.moves.arriving.get(&bucket);
        let known = known.map(|known| (known.from, known.since));
        // A node that does not know yet that it owns nothing any more can't take the owner's place.
        if known.is_some_and(|(from, _)| from != peer && self.slot(bucket).owner == from) {
            return;
        }
        if known == Some((peer, since)) {
            // A check of what this node has follows each request.
            return self.hold(bucket);
        }
        if known.is_some() {
            self.hold_no_more(bucket);
        }
        let arriving =
            Arriving { from: peer, since, epoch, proved, holding, released, handled, begun };
        self.moves.arriving.insert(bucket, arriving);
        self.review(bucket);
    }

    fn hold(&mut self, bucket: BucketId) {
        let me = self.cluster.node();
        let owner = self.slot(bucket).owner;
        let Some(arriving) = self.moves.arriving.get_mut(&bucket) else { return };
        let Arriving { from, since, epoch, proved, .. } = *arriving;
        if !proved || from != owner {
            return;
        }
        if !std::mem::replace(&mut arriving.holding, true) {
            let state = BucketState::Holding;
            let slot = BucketSlot { owner: me, previous: from, state, epoch };
            self.effects.push_back(Effect::SetBucket { bucket, slot });
        }
        self.peers[usize::from(from.0)].outgoing.reply(Frame::Holding { bucket, since });
    }

    /// This node's copy of a bucket is complete.
    pub(super) fn now_complete(&mut self, bucket: BucketId) {
        let owner = self.slot(bucket).owner;
        let Some(arriving) = self.moves.arriving.get_mut(&bucket) else { return };
        if arriving.from != owner {
            return;
        }
        arriving.proved = true;
        if arriving.released {
            self.tell_handed_over(bucket);
        } else {
            self.hold(bucket);
        }
    }

    pub(super) fn note_handled(&mut self, peer: NodeId, bucket: BucketId, packets: &[u64]) {
        if let Some(arriving) = self.moves.arriving.get_mut(&bucket)
            && arriving.from == peer
            && !arriving.released
            && arriving.handled.len() + packets.len() <= MAX_HANDLED
        {
            arriving.handled.extend_from_slice(packets);
        }
    }

    pub(super) fn released(&mut self, peer: NodeId, bucket: BucketId, since: Version) {
        let Some(arriving) = self.moves.arriving.get_mut(&bucket) else { return };
        if (arriving.from, arriving.since) != (peer, since) {
            return;
        }
        arriving.released = true;
        if arriving.proved {
            self.tell_handed_over(bucket);
        } else {
            self.peers[usize::from(peer.0)].outgoing.want(bucket);
        }
    }

    fn tell_handed_over(&mut self, bucket: BucketId) {
        if let Some(&Arriving { from, since, .. }) = self.moves.arriving.get(&bucket) {
            self.effects.push_back(Effect::HandedOver { bucket, from, since });
        }
    }

    pub(super) fn withdrawn(&mut self, peer: NodeId, bucket: BucketId, since: Version) {
        let arriving = self.moves.arriving.get(&bucket);
        if arriving.is_some_and(|arriving| (arriving.from, arriving.since) == (peer, since)) {
            self.hold_no_more(bucket);
        }
    }

    /// This node owns a bucket from now on: its slot says so already.
    pub(super) fn arrived(&mut self, bucket: BucketId) {
        let Some(arriving) = self.moves.arriving.remove(&bucket) else { return };
        if arriving.holding && arriving.released {
            self.moves.counters.arrived += 1;
            self.effects.push_back(Effect::ReleaseHeld { bucket, handled: arriving.handled });
        } else if arriving.holding {
            // The owner has died meanwhile, and nobody knows which of them it has handled.
            self.moves.counters.held_in_vain += 1;
            self.effects.push_back(Effect::DiscardHeld { bucket });
        }
    }

    /// A bucket is another's than the one it was to come from.
    pub(super) fn not_arriving(&mut self, bucket: BucketId, owner: NodeId) {
        if self.moves.arriving.get(&bucket).is_some_and(|arriving| arriving.from != owner) {
            self.hold_no_more(bucket);
        }
    }

    pub(super) fn hold_no_more(&mut self, bucket: BucketId) {
        let Some(arriving) = self.moves.arriving.remove(&bucket) else { return };
        if arriving.holding {
            self.moves.counters.held_in_vain += 1;
            let slot = self.slot(bucket);
            self.effects.push_back(Effect::SetBucket { bucket, slot });
            self.effects.push_back(Effect::DiscardHeld { bucket });
        }
        self.review(bucket);
    }
}
