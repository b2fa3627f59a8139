//! What a peer still has to be told.
//!
//! A changed flow is noted by its slot in the table and looked up when its turn comes, so what is sent
//! is always its latest state, and a flow that changes a hundred times before that is sent once. A
//! flow that is gone is noted by its last record. Gone flows go first: a key that is used again must
//! not meet the remains of its earlier life.
//!
//! A peer is made complete by bucket: the owner sends count and digest, and only if the peer's
//! differ, all records. So a takeover costs no traffic for what the peers already agree on.
//!
//! Bounds: changed flows, one entry a slot of the table; gone flows, the table's capacity. If more
//! flows go than that before the peer takes them, all notes are dropped, and all buckets are checked
//! instead.

use super::frame::{FRAME_BYTES, Frame};
use crate::common_table::{CommonTable, SlotId};
use std::collections::VecDeque;
use testudo_packet::bucket::{BucketId, BucketSlot, NodeId};
use testudo_packet::entry::FlowRecord;

/// Small numbers, in the order in which they were put in, each at most once.
#[derive(Debug, Default)]
struct UniqueQueue {
    queue: VecDeque<u32>,
    member: Vec<u64>,
}

impl UniqueQueue {
    fn push(&mut self, number: u32) {
        let (word, bit) = (number as usize / 64, 1 << (number % 64));
        if word >= self.member.len() {
            self.member.resize(word + 1, 0);
        }
        if self.member[word] & bit == 0 {
            self.member[word] |= bit;
            self.queue.push_back(number);
        }
    }

    fn pop(&mut self) -> Option<u32> {
        let number = self.queue.pop_front()?;
        self.member[number as usize / 64] &= !(1 << (number % 64));
        Some(number)
    }

    fn pop_bucket(&mut self) -> Option<BucketId> {
        self.pop().map(|number| BucketId(number as u16))
    }

    fn len(&self) -> usize {
        self.queue.len()
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.member.fill(0);
    }
}

#[derive(Debug)]
struct Snapshot {
    bucket: BucketId,
    /// What is still to be sent, last first.
    rest: Vec<SlotId>,
}

/// What one peer still has to be told.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    gone: VecDeque<FlowRecord>,
    changed: UniqueQueue,
    checks: UniqueQueue,
    wants: UniqueQueue,
    wanted: UniqueQueue,
    snapshot: Option<Snapshot>,
    turn: u8,
    sent: u64,
    acknowledged: u64,
    resyncs: u64,
}

/// Whose table and buckets frames are made of.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) me: NodeId,
    pub(crate) table: &'a CommonTable,
    pub(crate) slots: &'a [BucketSlot],
}

impl Source<'_> {
    fn owned(&self, bucket: BucketId) -> Option<&BucketSlot> {
        self.slots.get(usize::from(bucket.0)).filter(|slot| slot.owner == self.me)
    }
}

/// While flows change, one frame of this many is a snapshot's, so that both get on.
const SNAPSHOT_SHARE: u8 = 4;

impl Outgoing {
    /// A flow has changed.
    pub(crate) fn change(&mut self, slot: SlotId) {
        self.changed.push(slot.0);
    }

    /// A flow is gone. Says whether there was room to note it; if not, all notes are dropped, and the
    /// caller has all buckets checked.
    #[must_use]
    pub(crate) fn remove(&mut self, record: FlowRecord, capacity: usize) -> bool {
        if self.gone.len() < capacity {
            self.gone.push_back(record);
            return true;
        }
        self.gone.clear();
        self.changed.clear();
        self.resyncs += 1;
        false
    }

    /// The peer's copy of a bucket may differ.
    pub(crate) fn check(&mut self, bucket: BucketId) {
        self.checks.push(u32::from(bucket.0));
    }

    /// This node's copy of a bucket differs from the peer's.
    pub(crate) fn want(&mut self, bucket: BucketId) {
        self.wants.push(u32::from(bucket.0));
    }

    /// The peer wants all of a bucket.
    pub(crate) fn wanted(&mut self, bucket: BucketId) {
        self.wanted.push(u32::from(bucket.0));
    }

    /// The peer has handled so many frames; `false` if that is more than were sent.
    #[must_use]
    pub(crate) fn acknowledge(&mut self, frames: u64) -> bool {
        let plausible = (self.acknowledged..=self.sent).contains(&frames);
        if plausible {
            self.acknowledged = frames;
        }
        plausible
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// How much is not known to have been handled by the peer.
    pub(crate) fn pending(&self) -> u64 {
        let queues = [&self.changed, &self.checks, &self.wants, &self.wanted];
        let queued: usize = queues.iter().map(|queue| queue.len()).sum();
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.rest.len() + 1);
        (self.gone.len() + queued + snapshot) as u64 + self.sent - self.acknowledged
    }

    /// Appends frames until there are none or `out` would be longer than `max`.
    pub(crate) fn transmit(&mut self, source: Source<'_>, out: &mut Vec<u8>, max: usize) {
        while out.len() + FRAME_BYTES <= max {
            let Some(frame) = self.next(source) else { return };
            frame.encode(out);
            self.sent += 1;
        }
    }

    fn next(&mut self, source: Source<'_>) -> Option<Frame> {
        self.turn = (self.turn + 1) % SNAPSHOT_SHARE;
        if let Some(bucket) = self.wants.pop_bucket() {
            return Some(Frame::Want { bucket });
        }
        if self.turn == 0
            && let Some(frame) = self.next_of_snapshot(source)
        {
            return Some(frame);
        }
        if let Some(record) = self.gone.pop_front() {
            return Some(Frame::Remove(record));
        }
        while let Some(slot) = self.changed.pop() {
            // What is gone meanwhile, or not this node's to tell of any more, is skipped.
            let record = source.table.at(SlotId(slot));
            if let Some(record) = record.filter(|record| source.owned(record.bucket).is_some()) {
                return Some(Frame::Upsert(record));
            }
        }
        if let Some(frame) = self.next_of_snapshot(source) {
            return Some(frame);
        }
        while let Some(bucket) = self.checks.pop_bucket() {
            if let Some(slot) = source.owned(bucket) {
                let (digest, count) =
                    (source.table.bucket_digest(bucket), source.table.count(bucket));
                return Some(Frame::Check { bucket, epoch: slot.epoch, digest, count });
            }
        }
        None
    }

    fn next_of_snapshot(&mut self, source: Source<'_>) -> Option<Frame> {
        let Some(snapshot) = &mut self.snapshot else { return self.begin_snapshot(source) };
        let bucket = snapshot.bucket;
        while let Some(slot) = snapshot.rest.pop() {
            if let Some(record) = source.table.at(slot).filter(|record| record.bucket == bucket) {
                return Some(Frame::Snapshot(record));
            }
        }
        self.snapshot = None;
        Some(Frame::End { bucket })
    }

    fn begin_snapshot(&mut self, source: Source<'_>) -> Option<Frame> {
        while let Some(bucket) = self.wanted.pop_bucket() {
            if let Some(slot) = source.owned(bucket) {
                let rest = source.table.bucket_slots(bucket).collect();
                self.snapshot = Some(Snapshot { bucket, rest });
                return Some(Frame::Begin { bucket, epoch: slot.epoch });
            }
        }
        None
    }
}
