//! Which peer has been told which flow by the number of its slot, on its present stream.
//!
//! Invariant: a bit that is set means that the peer knows the flow that is in the slot now, or was
//! until it was taken out: same key, same rule. So a bit is cleared when another flow moves in, and
//! when key or rule change.
//!
//! Why here and not with what is sent to a peer: flows leave their slots for many reasons, and only the
//! table knows all of them. One bit a slot and peer, because a table of numbers for each peer would
//! soon be larger than the flows themselves.

use super::SlotId;
use crate::bits::Bits;
use testudo_packet::bucket::NodeId;

#[derive(Debug, Default)]
pub(super) struct Told {
    /// The slots, for each peer by its number.
    peers: Vec<Bits>,
}

impl Told {
    pub(super) fn has(&self, peer: NodeId, slot: SlotId) -> bool {
        self.peers.get(usize::from(peer.0)).is_some_and(|slots| slots.contains(slot.0))
    }

    pub(super) fn set(&mut self, peer: NodeId, slot: SlotId) {
        let peer = usize::from(peer.0);
        if peer >= self.peers.len() {
            self.peers.resize_with(peer + 1, Bits::default);
        }
        self.peers[peer].insert(slot.0);
    }

    pub(super) fn clear(&mut self, peer: NodeId, slot: SlotId) {
        if let Some(slots) = self.peers.get_mut(usize::from(peer.0)) {
            slots.remove(slot.0);
        }
    }

    /// Nobody knows what is in this slot.
    pub(super) fn clear_slot(&mut self, slot: SlotId) {
        for slots in &mut self.peers {
            slots.remove(slot.0);
        }
    }

    /// The stream to a peer is over.
    pub(super) fn clear_peer(&mut self, peer: NodeId) {
        if let Some(slots) = self.peers.get_mut(usize::from(peer.0)) {
            *slots = Bits::default();
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.peers.iter().map(Bits::memory).sum()
    }
}
