//! What [`crate::membership::Membership`] tells [`crate::replica::Replica`]: who owns which bucket.
//!
//! Messages are made by comparing what follows from the membership now with what was told before, so
//! nothing is queued: however late they are fetched, there is at most one of each kind.

use crate::heartbeat::Incarnation;
use testudo_packet::bucket::{BucketId, BucketSlot, NodeId};

/// A change of ownership, to be handed to the replica in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This node no longer owns these buckets: others have taken them, or will. Once the kernel's
    /// slots say so, [`crate::membership::Membership::handle_released`] wants to know.
    Release {
        /// All buckets that it owned.
        buckets: Vec<BucketId>,
        /// The life that it begins.
        incarnation: Incarnation,
    },
    /// This node owns these buckets from now on.
    TakeOver {
        /// Each with its slot: owner, the owner before, loading, the new epoch.
        buckets: Vec<(BucketId, BucketSlot)>,
    },
    /// These buckets are another node's from now on, or this node's under a new epoch.
    OwnerChanged {
        /// Each with its slot.
        buckets: Vec<(BucketId, BucketSlot)>,
    },
}

/// What was told, and what is still to be.
#[derive(Debug)]
pub(crate) struct Ledger {
    me: NodeId,
    told: Vec<BucketSlot>,
    release: Option<(Vec<BucketId>, Incarnation)>,
    taken: Vec<(BucketId, BucketSlot)>,
    changed: Vec<(BucketId, BucketSlot)>,
}

impl Ledger {
    pub(crate) fn new(me: NodeId, buckets: u32) -> Self {
        Self {
            me,
            told: vec![BucketSlot::VACANT; buckets as usize],
            release: None,
            taken: Vec::new(),
            changed: Vec::new(),
        }
    }

    /// How many buckets this node owns by what was told.
    pub(crate) fn owned(&self) -> usize {
        self.told.iter().filter(|slot| slot.owner == self.me).count()
    }

    /// Gives all buckets of this node up.
    pub(crate) fn release(&mut self, incarnation: Incarnation) {
        let mut buckets = self.release.take().map(|(buckets, _)| buckets).unwrap_or_default();
        for (index, slot) in self.told.iter_mut().enumerate() {
            if slot.owner == self.me {
                *slot = BucketSlot { owner: NodeId::NONE, previous: self.me, ..*slot };
                buckets.push(BucketId(index as u16));
            }
        }
        buckets.sort_unstable();
        buckets.dedup();
        // What has not been fetched of taking them must not be fetched after giving them up.
        self.taken.clear();
        self.changed.retain(|(_, slot)| slot.owner != self.me);
        self.release = Some((buckets, incarnation));
    }

    /// Compares with what follows from the membership now: `slot(bucket, told)` for each bucket.
    pub(crate) fn update(&mut self, mut slot: impl FnMut(BucketId, BucketSlot) -> BucketSlot) {
        self.forget_unfetched();
        for (index, told) in self.told.iter_mut().enumerate() {
            let bucket = BucketId(index as u16);
            let now = slot(bucket, *told);
            if (now.owner, now.epoch) == (told.owner, told.epoch) {
                continue;
            }
            if now.owner == self.me && told.owner != self.me {
                self.taken.push((bucket, now));
            } else {
                self.changed.push((bucket, now));
            }
            *told = now;
        }
    }

    /// A second change before the first was fetched replaces it: later slots say all.
    fn forget_unfetched(&mut self) {
        for (bucket, _) in self.taken.drain(..).chain(self.changed.drain(..)) {
            self.told[usize::from(bucket.0)] = BucketSlot::VACANT;
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Ownership> {
        if let Some((buckets, incarnation)) = self.release.take() {
            return Some(Ownership::Release { buckets, incarnation });
        }
        if !self.taken.is_empty() {
            return Some(Ownership::TakeOver { buckets: std::mem::take(&mut self.taken) });
        }
        if !self.changed.is_empty() {
            return Some(Ownership::OwnerChanged { buckets: std::mem::take(&mut self.changed) });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_packet::bucket::{BucketState, Epoch};

    const ME: NodeId = NodeId(1);

    fn slot(owner: u8, epoch: u32) -> BucketSlot {
        let state = BucketState::Active;
        BucketSlot { owner: NodeId(owner), previous: NodeId::NONE, state, epoch: Epoch(epoch) }
    }

    #[test]
    fn only_differences_are_told() {
        let mut ledger = Ledger::new(ME, 2);
        ledger.update(|bucket, _| slot(bucket.0 as u8, 5));
        let (first, second) = (BucketId(0), BucketId(1));
        assert_eq!(
            ledger.poll(),
            Some(Ownership::TakeOver { buckets: vec![(second, slot(1, 5))] })
        );
        let changed = vec![(first, slot(0, 5))];
        assert_eq!(ledger.poll(), Some(Ownership::OwnerChanged { buckets: changed }));
        ledger.update(|bucket, _| slot(bucket.0 as u8, 5));
        assert_eq!(ledger.poll(), None);
        assert_eq!(ledger.owned(), 1);
    }

    #[test]
    fn what_is_given_up_is_not_taken_afterwards() {
        let mut ledger = Ledger::new(ME, 2);
        ledger.update(|_, _| slot(1, 5));
        ledger.release(Incarnation(9));
        ledger.release(Incarnation(10));
        let buckets = vec![BucketId(0), BucketId(1)];
        let incarnation = Incarnation(10);
        assert_eq!(ledger.poll(), Some(Ownership::Release { buckets, incarnation }));
        assert_eq!(ledger.poll(), None);
        assert_eq!(ledger.owned(), 0);
    }

    #[test]
    fn a_change_that_was_not_fetched_is_replaced() {
        let mut ledger = Ledger::new(ME, 1);
        ledger.update(|_, _| slot(1, 5));
        ledger.update(|_, _| slot(1, 6));
        let buckets = vec![(BucketId(0), slot(1, 6))];
        assert_eq!(ledger.poll(), Some(Ownership::TakeOver { buckets }));
        assert_eq!(ledger.poll(), None);
    }
}
