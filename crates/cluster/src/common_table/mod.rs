//! The common table: the flows of all nodes, by bucket.
//!
//! It takes no part in handling packets until buckets move; then the records of a bucket are read out
//! by walking its list, without looking at any other flow.
//!
//! Invariant: of one flow, the record with the higher (epoch, sequence) stays, whatever the order of
//! arrival; only the bucket's owner may say otherwise, with a snapshot. Count and digest of each
//! bucket, as they are told, always match its list.
//!
//! No two flows have the same replies: one that has another's takes its place (`replies.rs`).
//!
//! A flow is found by bucket and key, in either direction. Digests leave the epoch out: after a
//! takeover the new owner's copy of a flow carries the old epoch until the flow changes, and two
//! tables that hold the same flows in the same states are to have equal digests all the while.
//!
//! Why not a `HashMap` of records with a list of keys per bucket: that keeps each key twice. Here a
//! record lies in a slot of its own, slots of one bucket are linked, and the index holds slot
//! numbers.
//!
//! Limits: a table full to its maximum refuses new flows, and still takes changes of known ones.
//! Memory is never given back.

mod index;
mod replies;
mod slots;
mod summing;
mod told;

use crate::keys::TableKey;
use index::{Absent, Index};
use replies::Replies;
use slots::{NO_SLOT, Slots};
use summing::Unsummed;
use testudo_packet::bucket::{BucketId, Epoch, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::{FlowKey, Protocol};
use testudo_packet::tracking::Phase;
use told::Told;

pub use slots::{Place, SlotId};

/// By what right a record is put into the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// From the bucket's owner: old epochs are fine, for what has not changed since.
    Owner,
    /// From anyone else: the record must be of the bucket's present epoch at least.
    Other,
}

/// Why a record was not put into the table, or not taken out. The table is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The table has a state at least as new: the record was overtaken, which is nobody's fault.
    #[error("epoch {}, change {sequence}: the table has epoch {}, change {known_sequence}",
            epoch.0, known_epoch.0)]
    Older {
        /// Epoch of the record.
        epoch: Epoch,
        /// Sequence number of the record.
        sequence: u32,
        /// Epoch of the one in the table.
        known_epoch: Epoch,
        /// Sequence number of the one in the table.
        known_sequence: u32,
    },
    /// The record was written by an owner that has been succeeded.
    #[error("epoch {} in bucket {bucket}, which is in epoch {}", epoch.0, known.0)]
    StaleEpoch {
        /// The bucket.
        bucket: BucketId,
        /// Epoch of the record.
        epoch: Epoch,
        /// Epoch of the bucket.
        known: Epoch,
    },
    /// No room for another flow: the operator's `max_flows` is too small, or a flood is on.
    #[error("the common table is full with {capacity} flows")]
    Full {
        /// The most it holds.
        capacity: usize,
    },
    /// Whoever sent the record has other settings.
    #[error("bucket {bucket} of a cluster with {buckets} buckets")]
    NoSuchBucket {
        /// The bucket.
        bucket: BucketId,
        /// How many there are.
        buckets: usize,
    },
    /// The flow to take out is not there.
    #[error("the flow is not in the common table")]
    Unknown,
    /// The bucket's owner speaks of a bucket that this node does not keep.
    #[error("a flow of bucket {bucket}, which this node does not keep")]
    NotKept {
        /// The bucket.
        bucket: BucketId,
    },
    /// The sender does not own the bucket.
    #[error("a flow of bucket {bucket} from a node that does not own it")]
    NotOwner {
        /// The bucket.
        bucket: BucketId,
    },
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    first: SlotId,
    count: u32,
    /// How many of them are tunnels.
    tunnels: u32,
    /// Without the flows that are still to be summed up.
    digest: u64,
    epoch: Epoch,
    /// Whether a peer may have been told of a flow of it by the number of its slot.
    told: bool,
}

/// The flows of all nodes.
#[derive(Debug)]
pub struct CommonTable {
    key: TableKey,
    capacity: usize,
    slots: Slots,
    /// How many flows there are.
    flows: usize,
    index: Index,
    replies: Replies,
    buckets: Vec<Bucket>,
    /// Without the flows that are still to be summed up.
    digest: u64,
    unsummed: Unsummed,
    told: Told,
}

impl CommonTable {
    /// An empty table. `key` must be the same on all nodes, or digests can't be compared.
    #[must_use]
    pub fn new(key: TableKey, buckets: u32, capacity: usize) -> Self {
        let (epoch, told) = (Epoch(0), false);
        let empty = Bucket { first: NO_SLOT, count: 0, tunnels: 0, digest: 0, epoch, told };
        Self {
            key,
            capacity,
            slots: Slots::default(),
            flows: 0,
            index: Index::new(key),
            replies: Replies::default(),
            buckets: vec![empty; buckets as usize],
            digest: 0,
            unsummed: Unsummed::default(),
            told: Told::default(),
        }
    }

    /// How many flows it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows == 0
    }

    /// The most flows that it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Sums up which flows there are, in which states. Equal on tables that hold the same.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.unsummed().fold(self.digest, |sum, record| sum.wrapping_add(self.weight(&record)))
    }

    /// As [`Self::digest`], of one bucket.
    #[must_use]
    pub fn bucket_digest(&self, bucket: BucketId) -> u64 {
        let summed = self.buckets.get(usize::from(bucket.0)).map_or(0, |bucket| bucket.digest);
        let unsummed = self.unsummed().filter(|record| record.bucket == bucket);
        unsummed.fold(summed, |sum, record| sum.wrapping_add(self.weight(&record)))
    }

    /// How many flows a bucket has.
    #[must_use]
    pub fn count(&self, bucket: BucketId) -> u32 {
        self.buckets.get(usize::from(bucket.0)).map_or(0, |bucket| bucket.count)
    }

    /// How many of a bucket's flows are tunnels (ESP, AH).
    #[must_use]
    pub fn tunnels(&self, bucket: BucketId) -> u32 {
        self.buckets.get(usize::from(bucket.0)).map_or(0, |bucket| bucket.tunnels)
    }

    /// The epoch of a bucket, below which records of others than its owner are refused.
    #[must_use]
    pub fn epoch(&self, bucket: BucketId) -> Epoch {
        self.buckets.get(usize::from(bucket.0)).map_or(Epoch(0), |bucket| bucket.epoch)
    }

    /// Sets the epoch of a bucket.
    pub fn set_epoch(&mut self, bucket: BucketId, epoch: Epoch) {
        if let Some(bucket) = self.buckets.get_mut(usize::from(bucket.0)) {
            bucket.epoch = epoch;
        }
    }

    /// The flows of a bucket, in no order.
    pub fn bucket(&self, bucket: BucketId) -> impl Iterator<Item = FlowRecord> + '_ {
        self.bucket_slots(bucket).filter_map(|slot| self.slots.record(slot))
    }

    /// The slots of a bucket's flows, in no order.
    pub fn bucket_slots(&self, bucket: BucketId) -> impl Iterator<Item = SlotId> + '_ {
        let first = self.buckets.get(usize::from(bucket.0)).map_or(NO_SLOT, |bucket| bucket.first);
        self.slots.chain(first)
    }

    /// All flows, in no order.
    pub fn iter(&self) -> impl Iterator<Item = FlowRecord> + '_ {
        self.slots.all().filter_map(|slot| self.slots.record(slot))
    }

    /// The flow in a slot now, if there is one.
    #[must_use]
    pub fn at(&self, slot: SlotId) -> Option<FlowRecord> {
        self.slots.record(slot)
    }

    /// How many places for flows were ever in use.
    #[must_use]
    pub fn places(&self) -> usize {
        self.slots.touched()
    }

    /// The flow in a place below [`Self::places`], if there is one.
    #[must_use]
    pub fn at_place(&self, place: usize) -> Option<FlowRecord> {
        self.slots.record(SlotId(u32::try_from(place).ok()?))
    }

    /// The flow of this bucket with this key, or with its reverse where a flow has both directions.
    #[must_use]
    pub fn get(&self, bucket: BucketId, key: &FlowKey) -> Option<FlowRecord> {
        self.slots.record(self.find(bucket, key)?)
    }

    /// The flow that a packet of this key belongs to, also if it is a reply to a flow that is translated.
    #[must_use]
    pub fn of_packet(&self, bucket: BucketId, key: &FlowKey) -> Option<FlowRecord> {
        let replies_to = || self.at(self.replies.get(bucket, key)?);
        self.get(bucket, key).or_else(replies_to)
    }

    /// The slot of a flow.
    #[must_use]
    pub fn find(&self, bucket: BucketId, key: &FlowKey) -> Option<SlotId> {
        self.index.find(&self.slots, bucket, key).ok()
    }

    /// The place of the flow that is in a slot now.
    #[must_use]
    pub fn place(&self, slot: SlotId) -> Place {
        self.slots.place(slot)
    }

    /// The bucket of the flow of a place, if the flow is still there.
    #[must_use]
    pub fn bucket_at(&self, place: Place) -> Option<BucketId> {
        self.slots.bucket_at(place)
    }

    /// Whether a peer has been told of the flow in a slot, by the slot's number.
    #[must_use]
    pub fn is_told(&self, peer: NodeId, slot: SlotId) -> bool {
        self.told.has(peer, slot)
    }

    /// A peer is told of the flow in a slot, which is of this bucket, by the slot's number.
    pub fn tell(&mut self, peer: NodeId, bucket: BucketId, slot: SlotId) {
        self.told.set(peer, slot);
        if let Some(bucket) = self.buckets.get_mut(usize::from(bucket.0)) {
            bucket.told = true;
        }
    }

    /// No peer knows a flow of this bucket by the number of its slot. Costs nothing if none does.
    pub fn untell_bucket(&mut self, bucket: BucketId) {
        let Some(known) = self.buckets.get_mut(usize::from(bucket.0)) else { return };
        if std::mem::take(&mut known.told) {
            self.slots.chain(known.first).for_each(|slot| self.told.clear_slot(slot));
        }
    }

    /// A peer does not know the flow in a slot by the slot's number.
    pub fn untell(&mut self, peer: NodeId, slot: SlotId) {
        self.told.clear(peer, slot);
    }

    /// A peer knows no flow by the number of its slot: the stream to it is new, or over.
    pub fn untell_all(&mut self, peer: NodeId) {
        self.told.clear_peer(peer);
    }

    /// Puts a record into the table if it is newer than what is there, and says in which slot it is.
    ///
    /// # Errors
    ///
    /// [`Refused::Older`], [`Refused::StaleEpoch`], [`Refused::Full`] or [`Refused::NoSuchBucket`].
    pub fn apply(&mut self, record: FlowRecord, by: Authority) -> Result<SlotId, Refused> {
        let known_epoch = self.bucket_mut(record.bucket)?.epoch;
        if by == Authority::Other && record.epoch < known_epoch {
            let FlowRecord { bucket, epoch, .. } = record;
            return Err(Refused::StaleEpoch { bucket, epoch, known: known_epoch });
        }
        let slot = match self.index.find(&self.slots, record.bucket, &record.key) {
            Ok(slot) => slot,
            Err(absent) => return self.insert(absent, record),
        };
        self.slots.set_stale(slot, false);
        let known = self.slots.record(slot).expect("the index names slots in use only");
        if !record.supersedes(&known) {
            return Err(older(&record, &known));
        }
        self.overwrite(slot, &known, record);
        Ok(slot)
    }

    /// Puts a record into the table, whatever is there: the word of the bucket's owner.
    ///
    /// # Errors
    ///
    /// [`Refused::Full`] or [`Refused::NoSuchBucket`].
    pub fn replace(&mut self, record: FlowRecord) -> Result<SlotId, Refused> {
        self.bucket_mut(record.bucket)?;
        let slot = match self.index.find(&self.slots, record.bucket, &record.key) {
            Ok(slot) => slot,
            Err(absent) => return self.insert(absent, record),
        };
        let known = self.slots.record(slot).expect("the index names slots in use only");
        self.overwrite(slot, &known, record);
        Ok(slot)
    }

    /// Changes the flow of a place, if this is newer than what is there; key and rule stay.
    ///
    /// # Errors
    ///
    /// [`Refused::Older`], or [`Refused::Unknown`] if the flow has left its place.
    pub fn change(
        &mut self,
        place: Place,
        epoch: Epoch,
        (phase, confirmed): (Phase, bool),
        sequence: u32,
    ) -> Result<(), Refused> {
        let known = self.slots.record_at(place).ok_or(Refused::Unknown)?;
        let state = FlowState { phase, confirmed, sequence, ..known.state };
        let record = FlowRecord { epoch, state, ..known };
        self.slots.set_stale(place.slot, false);
        if !record.supersedes(&known) {
            return Err(older(&record, &known));
        }
        self.overwrite(place.slot, &known, record);
        Ok(())
    }

    /// Takes the flow of a place out, unless its state was written under a later epoch.
    ///
    /// # Errors
    ///
    /// [`Refused::Older`], or [`Refused::Unknown`] if the flow has left its place.
    pub fn remove_at(&mut self, place: Place, epoch: Epoch) -> Result<(), Refused> {
        let known = self.slots.record_at(place).ok_or(Refused::Unknown)?;
        if known.epoch > epoch {
            return Err(older(&FlowRecord { epoch, ..known }, &known));
        }
        self.take_out(place.slot, &known);
        Ok(())
    }

    /// Takes a flow out, unless the table has it in a state newer than this record's. Says which slot
    /// is free now.
    ///
    /// # Errors
    ///
    /// [`Refused::Older`], [`Refused::Unknown`] or [`Refused::NoSuchBucket`].
    pub fn remove(&mut self, record: &FlowRecord) -> Result<SlotId, Refused> {
        self.bucket_mut(record.bucket)?;
        let slot = self.find(record.bucket, &record.key).ok_or(Refused::Unknown)?;
        let known = self.slots.record(slot).expect("the index names slots in use only");
        if known.supersedes(record) {
            return Err(older(record, &known));
        }
        self.take_out(slot, &known);
        Ok(slot)
    }

    /// Begins a comparison of a bucket with the truth: until it is applied or replaced again, each of
    /// its flows is in doubt.
    pub fn doubt(&mut self, bucket: BucketId) {
        let slots: Vec<_> = self.bucket_slots(bucket).collect();
        for slot in slots {
            self.slots.set_stale(slot, true);
        }
    }

    /// Ends the comparison: takes out and returns what is still in doubt.
    pub fn sweep(&mut self, bucket: BucketId) -> Vec<FlowRecord> {
        let stale: Vec<_> =
            self.bucket_slots(bucket).filter(|&slot| self.slots.is_stale(slot)).collect();
        let mut records = Vec::with_capacity(stale.len());
        for slot in stale {
            let record = self.slots.record(slot).expect("a bucket's list has slots in use only");
            self.take_out(slot, &record);
            records.push(record);
        }
        records
    }

    /// How many bytes the table has taken from the system for its flows.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.slots.memory() + self.index.memory() + self.told.memory() + self.replies.memory()
    }

    fn overwrite(&mut self, slot: SlotId, known: &FlowRecord, record: FlowRecord) {
        let summed = self.slots.is_summed(slot);
        if summed {
            self.add_to_digests(record.bucket, self.weight(known).wrapping_neg());
        }
        // A reference stands for what seldom changes; peers are told of that again when it does.
        let told_once = |record: &FlowRecord| (record.key, record.state.rule, record.translation);
        if told_once(&record) != told_once(known) {
            self.told.clear_slot(slot);
        }
        self.replies.forget(known, slot);
        self.note_replies(&record, slot);
        self.slots.write(slot, record);
        self.index.note_recent(&record.key, slot);
        if summed {
            self.sum_up_later(slot);
        }
    }

    fn insert(&mut self, absent: Absent, record: FlowRecord) -> Result<SlotId, Refused> {
        if self.len() >= self.capacity {
            return Err(Refused::Full { capacity: self.capacity });
        }
        let bucket = self.bucket_mut(record.bucket)?;
        bucket.count += 1;
        bucket.tunnels += u32::from(is_tunnel(&record));
        let first = bucket.first;
        let slot = self.slots.link(record, first);
        self.bucket_mut(record.bucket)?.first = slot;
        self.told.clear_slot(slot);
        self.index.insert(absent, &record.key, slot);
        self.note_replies(&record, slot);
        self.flows += 1;
        self.sum_up_later(slot);
        Ok(slot)
    }

    /// Whose replies these were until now is gone.
    fn note_replies(&mut self, record: &FlowRecord, slot: SlotId) {
        let before = self.replies.note(record, slot).filter(|&before| before != slot);
        if let Some((before, gone)) = before.and_then(|slot| Some((slot, self.at(slot)?))) {
            self.take_out(before, &gone);
        }
    }

    fn take_out(&mut self, slot: SlotId, record: &FlowRecord) {
        if self.slots.is_summed(slot) {
            self.add_to_digests(record.bucket, self.weight(record).wrapping_neg());
        } else {
            self.unsummed.remove(slot);
        }
        self.flows -= usize::from(self.index.remove(record.bucket, &record.key, slot));
        self.replies.forget(record, slot);
        let next = self.slots.unlink(slot);
        let bucket = &mut self.buckets[usize::from(record.bucket.0)];
        bucket.count -= 1;
        bucket.tunnels -= u32::from(is_tunnel(record));
        if bucket.first == slot {
            bucket.first = next;
        }
    }

    /// The flow in a slot is in no digest, as it was written just now.
    fn sum_up_later(&mut self, slot: SlotId) {
        if !self.unsummed.push(slot) {
            return;
        }
        while let Some(slot) = self.unsummed.pop() {
            let record = self.slots.record(slot).expect("a flow that leaves is noted no more");
            self.add_to_digests(record.bucket, self.weight(&record));
            self.slots.set_summed(slot);
        }
    }

    fn unsummed(&self) -> impl Iterator<Item = FlowRecord> + '_ {
        self.unsummed.iter().filter_map(|slot| self.slots.record(slot))
    }

    fn bucket_mut(&mut self, bucket: BucketId) -> Result<&mut Bucket, Refused> {
        let buckets = self.buckets.len();
        let known = self.buckets.get_mut(usize::from(bucket.0));
        known.ok_or(Refused::NoSuchBucket { bucket, buckets })
    }

    /// What a record adds to the digests: sums are the same in every order, and can be taken back.
    fn weight(&self, record: &FlowRecord) -> u64 {
        let [k0, k1, k2, k3, k4] = record.key.to_words();
        let (state, bucket) = (record.state.to_word(), u64::from(record.bucket.0));
        let weight = self.key.hash(&[k0, k1, k2, k3, k4, state, bucket]);
        if record.translation.is_none() {
            return weight;
        }
        let [r0, r1, r2, r3, r4] = record.reply_key().to_words();
        self.key.hash(&[r0, r1, r2, r3, r4, weight, bucket])
    }

    fn add_to_digests(&mut self, bucket: BucketId, change: u64) {
        self.digest = self.digest.wrapping_add(change);
        let bucket = &mut self.buckets[usize::from(bucket.0)];
        bucket.digest = bucket.digest.wrapping_add(change);
    }
}

/// Whether a flow is a tunnel, which the planner counts by itself: ESP or AH.
#[must_use]
pub fn is_tunnel(record: &FlowRecord) -> bool {
    matches!(record.key.protocol, Protocol::ESP | Protocol::AH)
}

fn older(record: &FlowRecord, known: &FlowRecord) -> Refused {
    Refused::Older {
        epoch: record.epoch,
        sequence: record.state.sequence,
        known_epoch: known.epoch,
        known_sequence: known.state.sequence,
    }
}

#[cfg(test)]
mod tests;
