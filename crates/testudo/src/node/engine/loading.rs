//! Buckets that this node owns and whose entries are on their way into the node table.
//!
//! Invariant: a bucket counts as loaded only when all its entries are in the node table. Entries for
//! which there is no room leave it loading, so a packet of theirs still finds them by way of user
//! space, and the bucket is tried again when silent flows have made room.

use std::collections::VecDeque;
use std::thread;
use std::time::Duration;

use testudo_datapath::{Installed, NodeTable};
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::FlowRecord;

use super::{Engine, Parts, takeover};
use crate::node::clock;
use crate::node::throttle::Throttle;

/// How many entries are installed between two looks at the packets that came up: some tenths of a
/// millisecond's work, so that no packet waits for the entries of others.
const CHUNK: usize = 512;

/// How long a turn's share of loading takes.
const SHARE: Duration = Duration::from_micros(500);

/// The buckets that are still to be loaded.
#[derive(Debug, Default)]
pub struct Loading {
    queue: VecDeque<(BucketId, Epoch)>,
    /// Those that did not fit.
    waiting: Vec<(BucketId, Epoch)>,
    chunk: Vec<FlowRecord>,
    full: Throttle,
}

impl Loading {
    /// A bucket more.
    pub fn push(&mut self, bucket: BucketId, epoch: Epoch) {
        self.queue.push_back((bucket, epoch));
    }

    /// Tries those again that did not fit.
    pub fn retry(&mut self) {
        self.queue.extend(self.waiting.drain(..));
    }

    /// Whether a bucket that did not fit waits for its next try.
    pub fn is_retrying(&self) -> bool {
        !self.waiting.is_empty()
    }
}

impl Engine {
    /// Installs this turn's share of entries; says whether there are more.
    pub(super) fn load_buckets(&mut self) -> bool {
        let end = clock::now().0 + SHARE.as_nanos() as u64;
        while let Some((bucket, epoch)) = self.loading.queue.pop_front() {
            let slot = self.parts.replica.slot(bucket);
            // Given away meanwhile, or loaded under another epoch later in the queue.
            if slot.owner != self.parts.cluster.node() || slot.epoch != epoch {
                continue;
            }
            if self.load_bucket(bucket) {
                self.parts.replica.handle_loaded(bucket, epoch);
                self.perform_effects();
            } else {
                self.loading.waiting.push((bucket, epoch));
            }
            if clock::now().0 >= end {
                break;
            }
        }
        !self.loading.queue.is_empty()
    }

    /// Installs a bucket's entries, and between them those that packets ask for. Says whether all
    /// are in the node table.
    fn load_bucket(&mut self, bucket: BucketId) -> bool {
        let Self { parts: Parts { datapath, replica, cluster, .. }, loading, tallies, .. } = self;
        let first_packet = &mut self.first_packet;
        let table = replica.table();
        let mut records = table.bucket(bucket);
        let mut total = Installed::default();
        loop {
            loading.chunk.clear();
            loading.chunk.extend(records.by_ref().take(CHUNK));
            if loading.chunk.is_empty() {
                break;
            }
            let now = clock::now();
            total = sum(total, datapath.table().install(&loading.chunk, now));
            let handled =
                datapath.handle_upcalls(now, &mut |bucket, key| table.of_packet(bucket, key));
            tallies.upcalls += handled as u64;
            takeover::look(first_packet, datapath.as_ref(), cluster.buckets(), tallies);
            // What brings packets here may need this core, and would wait for the end of a slice.
            thread::yield_now();
        }
        drop(records);
        tallies.installed += total.installed as u64;
        tallies.refused_installs += total.refused as u64;
        if let Some(takeover) = &mut self.takeover {
            takeover.add(total);
        }
        if total.refused > 0
            && let Some(held_back) = self.loading.full.admit(clock::now())
        {
            tracing::warn!(
                %bucket,
                refused = total.refused,
                held_back,
                "no room in the node table for entries of a bucket that was taken over; their \
                 packets go through user space; expected a larger table_entries"
            );
        }
        total.refused == 0
    }
}

/// What became of the records of two installations.
pub const fn sum(one: Installed, other: Installed) -> Installed {
    Installed {
        installed: one.installed + other.installed,
        stale: one.stale + other.stale,
        refused: one.refused + other.refused,
    }
}
