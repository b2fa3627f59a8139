//! Where the common table finds a flow: slot numbers by the hash of bucket and key.
//!
//! Half of each hash is kept beside its slot number, so an index that grows reads itself and not the flows:
//! those lie all over the memory, and hashing each of them anew was more than half the cost of a new flow. The
//! index is in many parts all the same: a part is soon done with growing, the whole would hold up everything
//! else for longer than a heartbeat.
//!
//! Flows change most while they are new, so the flows that were put in or changed last are found by a few
//! words of their keys, without their hash. Whoever knows which words those are can make flows push each other
//! out of there, and gains that they are looked for in the index.
//!
//! Invariant: every flow of the table is in the index once. What the recent flows lead to is a guess; the slot
//! has the last word.

use super::slots::{NO_SLOT, SlotId, Slots};
use crate::keys::TableKey;
use hashbrown::HashTable;
use testudo_packet::bucket::BucketId;
use testudo_packet::flow::{Endpoint, FlowKey};

/// How many parts the index has.
const PARTS: usize = 256;

/// How many of the recent flows are remembered: those that are opened while one handshake lasts.
const RECENT: usize = 2048;

/// A multiplier that spreads numbers (Knuth, "The Art of Computer Programming" 3, 6.4).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The half of the flow's hash that the part was not chosen by.
    hash: u32,
    slot: SlotId,
}

/// A flow that was put in or changed not long ago.
#[derive(Clone, Copy, Debug)]
struct Recent {
    tag: u32,
    slot: SlotId,
}

/// The hash of a bucket and a key that are not in the index.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absent(u64);

#[derive(Debug)]
pub(super) struct Index {
    key: TableKey,
    parts: Vec<HashTable<Entry>>,
    recent: Vec<Recent>,
}

impl Index {
    pub(super) fn new(key: TableKey) -> Self {
        let recent = vec![Recent { tag: 0, slot: NO_SLOT }; RECENT];
        Self { key, parts: vec![HashTable::new(); PARTS], recent }
    }

    /// The slot of the flow of this bucket with this key, or with its reverse where a flow has both
    /// directions.
    pub(super) fn find(
        &self,
        slots: &Slots,
        bucket: BucketId,
        key: &FlowKey,
    ) -> Result<SlotId, Absent> {
        let (place, tag) = recent_place(key);
        let recent = self.recent[place];
        if recent.tag == tag && slots.holds(recent.slot, bucket, key) {
            return Ok(recent.slot);
        }
        let hash = hash(&self.key, bucket, key);
        let (part, half) = split(hash);
        let is = |entry: &Entry| entry.hash == half && slots.holds(entry.slot, bucket, key);
        self.parts[part].find(spread(half), is).map(|entry| entry.slot).ok_or(Absent(hash))
    }

    /// The flow in a slot, with this key, changes, and may soon change again.
    pub(super) fn note_recent(&mut self, key: &FlowKey, slot: SlotId) {
        let (place, tag) = recent_place(key);
        self.recent[place] = Recent { tag, slot };
    }

    /// Puts a flow in that has just been looked for in vain.
    pub(super) fn insert(&mut self, Absent(hash): Absent, key: &FlowKey, slot: SlotId) {
        let (part, half) = split(hash);
        let entry = Entry { hash: half, slot };
        self.parts[part].insert_unique(spread(half), entry, |entry| spread(entry.hash));
        self.note_recent(key, slot);
    }

    /// Takes a flow out; says whether it was there.
    pub(super) fn remove(&mut self, bucket: BucketId, key: &FlowKey, slot: SlotId) -> bool {
        let (part, half) = split(hash(&self.key, bucket, key));
        let found = self.parts[part].find_entry(spread(half), |entry| entry.slot == slot);
        found.map(|entry| entry.remove()).is_ok()
    }

    pub(super) fn memory(&self) -> usize {
        let parts: usize = self.parts.iter().map(HashTable::allocation_size).sum();
        parts + self.recent.capacity() * size_of::<Recent>()
    }
}

/// Which part a hash belongs to, and the half of it by which the part finds it.
fn split(hash: u64) -> (usize, u32) {
    ((hash >> 40) as usize % PARTS, hash as u32)
}

/// What a part takes for the whole hash: it looks at bits of both ends.
fn spread(half: u32) -> u64 {
    u64::from(half) << 32 | u64::from(half)
}

/// The same for both directions of a flow.
fn hash(table: &TableKey, bucket: BucketId, key: &FlowKey) -> u64 {
    let rest = u64::from(bucket.0) << 32 | u64::from(key.protocol.0) << 16;
    let end = |end: Endpoint| {
        table.hash(&[end.address.high, end.address.low, rest << 16 | u64::from(end.port)])
    };
    end(key.initiator).wrapping_add(end(key.responder))
}

/// Where a flow is among the recent ones, and what tells it from most others there.
fn recent_place(key: &FlowKey) -> (usize, u32) {
    let (from, to) = (key.initiator.address.low, key.responder.address.low);
    let mixed = (from ^ to.rotate_left(23) ^ key.port_word().rotate_left(40)).wrapping_mul(SPREAD);
    ((mixed >> 40) as usize % RECENT, mixed as u32)
}
