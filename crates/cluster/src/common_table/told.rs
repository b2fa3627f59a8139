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
use testudo_packet::bucket::NodeId;

#[derive(Debug, Default)]
pub(super) struct Told {
    /// A bit for each slot, for each peer by its number.
    peers: Vec<Vec<u64>>,
}

const fn place(slot: SlotId) -> (usize, u64) {
    (slot.0 as usize / 64, 1 << (slot.0 % 64))
}

impl Told {
    pub(super) fn has(&self, peer: NodeId, slot: SlotId) -> bool {
        let (word, bit) = place(slot);
        let words = self.peers.get(usize::from(peer.0));
        words.and_then(|words| words.get(word)).is_some_and(|word| word & bit != 0)
    }

    pub(super) fn set(&mut self, peer: NodeId, slot: SlotId) {
        let ((word, bit), peer) = (place(slot), usize::from(peer.0));
        if peer >= self.peers.len() {
            self.peers.resize_with(peer + 1, Vec::new);
        }
        let words = &mut self.peers[peer];
        if word >= words.len() {
            words.resize(word + 1, 0);
        }
        words[word] |= bit;
    }

    pub(super) fn clear(&mut self, peer: NodeId, slot: SlotId) {
        if let Some(words) = self.peers.get_mut(usize::from(peer.0)) {
            clear(words, slot);
        }
    }

    /// Nobody knows what is in this slot.
    pub(super) fn clear_slot(&mut self, slot: SlotId) {
        self.peers.iter_mut().for_each(|words| clear(words, slot));
    }

    /// The stream to a peer is over.
    pub(super) fn clear_peer(&mut self, peer: NodeId) {
        if let Some(words) = self.peers.get_mut(usize::from(peer.0)) {
            *words = Vec::new();
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.peers.iter().map(|words| words.capacity() * size_of::<u64>()).sum()
    }
}

fn clear(words: &mut [u64], slot: SlotId) {
    let (word, bit) = place(slot);
    if let Some(word) = words.get_mut(word) {
        *word &= !bit;
    }
}
