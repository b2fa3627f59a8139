//! Buckets, and who may handle their packets.
//!
//! A bucket slot is one 64-bit word, so that a packet reads owner, previous owner, state and epoch
//! in one load and never sees half of a change.
//!
//! Invariant: a node handles a packet only when the slot of its bucket names the node as owner *and*
//! the node's lease has not run out by the kernel's own clock. The second half needs no living
//! daemon, which is why it is checked for each packet instead of being pushed by a process that may
//! be dead.

use core::fmt;

/// A distribution identifier: the number of a bucket, below the cluster's bucket count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketId(pub u16);

impl fmt::Display for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The largest number of buckets that a cluster can have.
pub const MAX_BUCKETS: u32 = 65_536;

/// A node, by its place in the cluster's list of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u8);

impl NodeId {
    /// Stands for no node in a bucket slot.
    pub const NONE: Self = Self(u8::MAX);
}

/// Counts the changes of a bucket's owner. It only rises; an entry written under a lower epoch loses
/// against one of a higher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub u32);

impl Epoch {
    /// The epoch after this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A moment in nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Nanos(pub u64);

impl Nanos {
    /// The later moment that `milliseconds` make.
    pub const fn plus_millis(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds.saturating_mul(1_000_000)))
    }

    /// How long after `earlier` this is, in whole milliseconds; 0 if it is not after it.
    pub const fn millis_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0) / 1_000_000
    }
}

/// What the owner of a bucket does with its packets. The slots of the other nodes say `Active`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BucketState {
    /// All entries are in the node table: a miss is a new flow.
    Active,
    /// Entries are still on their way from the common table: a miss goes up to user space.
    Loading,
    /// A planned move is about to bring the bucket here and another node still handles it: every
    /// packet goes up to user space, unseen by the node table, and waits there.
    Holding,
    /// A planned move is about to take the bucket away: as `Active`, and where the next owner sees
    /// the same packets (all modes but `steered`) it is told the hash of each one that was handled.
    Yielding,
}

/// A bucket's slot in the map that the kernel reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketSlot {
    /// The owner now.
    pub owner: NodeId,
    /// The owner before.
    pub previous: NodeId,
    /// What the owner can rely on.
    pub state: BucketState,
    /// Since when the owner owns it.
    pub epoch: Epoch,
}

impl BucketSlot {
    /// The slot of a bucket that nobody owns.
    pub const VACANT: Self = Self {
        owner: NodeId::NONE,
        previous: NodeId::NONE,
        state: BucketState::Active,
        epoch: Epoch(0),
    };

    /// The slot as the word in the map.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let state = match self.state {
            BucketState::Active => 0,
            BucketState::Loading => 1,
            BucketState::Holding => 2,
            BucketState::Yielding => 3,
        };
        self.owner.0 as u64
            | (self.previous.0 as u64) << 8
            | state << 16
            | (self.epoch.0 as u64) << 32
    }

    /// The slot that a word in the map stands for.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            owner: NodeId(word as u8),
            previous: NodeId((word >> 8) as u8),
            state: match word >> 16 & 3 {
                0 => BucketState::Active,
                1 => BucketState::Loading,
                2 => BucketState::Holding,
                _ => BucketState::Yielding,
            },
            epoch: Epoch((word >> 32) as u32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_survives_its_word() {
        let states = [
            BucketState::Active,
            BucketState::Loading,
            BucketState::Holding,
            BucketState::Yielding,
        ];
        for state in states {
            let slot =
                BucketSlot { owner: NodeId(3), previous: NodeId(200), state, epoch: Epoch(77) };
            assert_eq!(BucketSlot::from_word(slot.to_word()), slot);
        }
        assert_eq!(BucketSlot::from_word(BucketSlot::VACANT.to_word()), BucketSlot::VACANT);
    }
}
