//! Flows whose present state is in no digest yet.
//!
//! A flow that changes several times within a moment, as one that is being opened does, is summed up once and
//! not each time: when it changes, its last state is taken out of the digests, and the flow is noted here; its
//! state goes in when the list is full. Whoever asks for a digest before that gets what is noted here added to
//! it.
//!
//! Invariant: a flow is in the list exactly if its slot says that it is in no digest, and then once.

use super::SlotId;

/// The most flows that are noted: few enough that adding them up keeps nobody waiting who asks.
const MOST: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Unsummed(Vec<SlotId>);

impl Unsummed {
    /// Notes a flow; says whether the list is full.
    #[must_use]
    pub(super) fn push(&mut self, slot: SlotId) -> bool {
        self.0.push(slot);
        self.0.len() >= MOST
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SlotId> + '_ {
        self.0.iter().copied()
    }

    /// Takes the next flow out.
    pub(super) fn pop(&mut self) -> Option<SlotId> {
        self.0.pop()
    }

    /// Takes a flow out that leaves its slot.
    pub(super) fn remove(&mut self, slot: SlotId) {
        if let Some(at) = self.0.iter().rposition(|&other| other == slot) {
            self.0.swap_remove(at);
        }
    }
}
