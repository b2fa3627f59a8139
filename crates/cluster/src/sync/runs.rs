//! Items of version 3 on their way into frames: like with like, so that few heads are needed.
//!
//! Items of flows wait in one run for each kind, and the runs are written in a fixed order: what has
//! left before what is new, since a reference is used again when its flow has left. Within one batch no
//! flow is told of twice but as gone and as new, so this order tells the same as the order in which the
//! items came. All other items keep their place: runs before them are written first.
//!
//! Invariant: epochs stand before the items that they are for. If a bucket's epoch is told a second
//! time, what was put in under the first is written before.
//!
//! Limits: a run has as many items as a head can count; all runs together are never longer than the
//! batch that the caller wants.

use super::layout::{HEAD_BYTES, Head, Item, MAX_ITEM, kind};
use testudo_packet::bucket::{BucketId, Epoch};

/// What an item can make a batch longer by, with its head, and the epoch before it with its own.
pub(super) const MOST_ADDED: usize = 2 * HEAD_BYTES + MAX_ITEM + EPOCH_BYTES;
const EPOCH_BYTES: usize = 6;

/// The kinds whose items wait, in the order in which they are written.
const ORDER: [u8; 11] = [
    kind::EPOCH,
    kind::LEAVE,
    kind::REMOVE_4,
    kind::REMOVE_6,
    kind::INTRODUCE_4,
    kind::INTRODUCE_6,
    kind::INTRODUCE_TRANSLATED,
    kind::CHANGE,
    kind::SNAPSHOT_4,
    kind::SNAPSHOT_6,
    kind::SNAPSHOT_TRANSLATED,
];

#[derive(Debug, Default)]
struct Run {
    kind: u8,
    size: u8,
    count: u16,
    items: Vec<u8>,
}

impl Run {
    fn length(&self) -> usize {
        if self.count == 0 { 0 } else { HEAD_BYTES + self.items.len() }
    }

    fn write(&mut self, out: &mut Vec<u8>) {
        if self.count > 0 {
            let Self { kind, size, count, .. } = *self;
            out.extend_from_slice(&Head { kind, size, count }.to_bytes());
            out.append(&mut self.items);
            self.count = 0;
        }
    }
}

/// Frames in the making.
#[derive(Debug, Default)]
pub(super) struct Runs {
    flows: [Run; ORDER.len()],
    /// The last run, of another kind; the runs of flows are empty unless it is.
    other: Run,
    waiting: usize,
    /// The epoch that the peer takes what is said of a bucket for.
    epochs: Vec<Option<Epoch>>,
}

impl Runs {
    /// How many bytes are still to be written.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The epoch that the peer takes what is said of a bucket for.
    pub(super) fn epoch(&self, bucket: BucketId) -> Option<Epoch> {
        self.epochs.get(usize::from(bucket.0)).copied().flatten()
    }

    /// Sees to it that what follows is taken for this epoch.
    pub(super) fn set_epoch(&mut self, bucket: BucketId, epoch: Epoch, out: &mut Vec<u8>) {
        let before = self.note_epoch(bucket, epoch);
        if before == Some(epoch) {
            return;
        }
        if before.is_some() {
            self.flush(out);
        }
        self.put(&Item::Epoch { bucket, epoch }, out);
    }

    /// Takes note that an item says of itself which epoch it is for, and what follows, too.
    pub(super) fn note_epoch(&mut self, bucket: BucketId, epoch: Epoch) -> Option<Epoch> {
        let index = usize::from(bucket.0);
        if index >= self.epochs.len() {
            self.epochs.resize(index + 1, None);
        }
        self.epochs[index].replace(epoch)
    }

    /// Puts an item in. What has to be written before it is appended to `out`.
    pub(super) fn put(&mut self, item: &Item, out: &mut Vec<u8>) {
        let kind = item.kind();
        match ORDER.iter().position(|&of| of == kind) {
            Some(at) => {
                if self.other.count > 0 || self.flows[at].count == u16::MAX {
                    self.flush(out);
                }
                let run = &mut self.flows[at];
                let before = run.length();
                let start = run.items.len();
                item.put(&mut run.items);
                run.kind = kind;
                run.size = (run.items.len() - start) as u8;
                run.count += 1;
                self.waiting += run.length() - before;
            }
            None => self.put_other(kind, item, out),
        }
    }

    fn put_other(&mut self, kind: u8, item: &Item, out: &mut Vec<u8>) {
        let mut bytes = Vec::with_capacity(MAX_ITEM);
        item.put(&mut bytes);
        let size = bytes.len() as u8;
        let run = &self.other;
        let fits = (run.kind, run.size) == (kind, size) && (1..u16::MAX).contains(&run.count);
        if !fits {
            self.flush(out);
        }
        let before = self.other.length();
        self.other.items.append(&mut bytes);
        (self.other.kind, self.other.size) = (kind, size);
        self.other.count += 1;
        self.waiting += self.other.length() - before;
    }

    /// Writes all that waits.
    pub(super) fn flush(&mut self, out: &mut Vec<u8>) {
        self.flows.iter_mut().for_each(|run| run.write(out));
        self.other.write(out);
        self.waiting = 0;
    }
}
