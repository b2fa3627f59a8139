//! Planned moves, as the engine carries them out: buckets that yield, packets that are held.
//!
//! Invariant: what a bucket's packets have done is known before the bucket is reported as yielded. Its
//! slot names the next owner by then; packets that met the old slot get time to be through, and then
//! the events are read once more.

use std::collections::HashMap;

use testudo_packet::bucket::{BucketId, BucketSlot};
use testudo_packet::event::Handled;

use super::{Engine, GRACE, Parts};
use crate::node::clock;

/// The most packets of one bucket whose handling is remembered while it yields.
const MAX_HANDLED: usize = 1 << 16;

/// What is known of buckets that are on their way out.
#[derive(Debug, Default)]
pub struct Yields {
    /// Hashes of the packets that were handled since the bucket began to yield.
    handled: HashMap<BucketId, Vec<u64>>,
    /// Buckets whose slots name the next owner.
    done: Vec<BucketId>,
}

impl Yields {
    /// A packet of a yielding bucket was handled.
    pub fn note(&mut self, handled: Handled) {
        let packets = self.handled.entry(handled.bucket).or_default();
        if packets.len() < MAX_HANDLED {
            packets.push(handled.packet.0);
        }
    }

    /// The bucket stays, or begins to yield anew.
    pub fn forget(&mut self, bucket: BucketId) {
        self.handled.remove(&bucket);
    }
}

impl Engine {
    pub(super) fn yield_bucket(&mut self, bucket: BucketId, slot: BucketSlot) {
        self.cut_commits_short(Some(bucket));
        self.parts.datapath.set_bucket(bucket, slot);
        self.yields.done.push(bucket);
    }

    /// Reports what has yielded; says whether there was any.
    pub(super) fn finish_yields(&mut self) -> bool {
        if self.yields.done.is_empty() {
            return false;
        }
        std::thread::sleep(GRACE);
        self.drain_events(clock::now());
        self.finish_audit();
        for bucket in std::mem::take(&mut self.yields.done) {
            let packets = self.yields.handled.remove(&bucket).unwrap_or_default();
            self.parts.replica.handle_yielded(bucket, packets);
        }
        true
    }

    /// The bucket is this node's: handles its packets that have waited for that, but for those that
    /// the owner before has handled.
    pub(super) fn release_held(&mut self, bucket: BucketId, handled: Vec<u64>) {
        let mut left: HashMap<u64, u32> = HashMap::new();
        for hash in handled {
            *left.entry(hash).or_default() += 1;
        }
        let Parts { datapath, replica, .. } = &mut self.parts;
        let table = replica.table();
        // What has come up and was not taken yet waits for the same.
        let now = clock::now();
        let taken = datapath.handle_upcalls(now, &mut |bucket, key| table.of_packet(bucket, key));
        self.tallies.upcalls += taken as u64;
        let released = datapath.release_held(
            now,
            bucket,
            &mut |packet| match left.get_mut(&packet.0) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    true
                }
                _ => false,
            },
            &mut |bucket, key| table.of_packet(bucket, key),
        );
        self.tallies.held_sent += released.sent as u64;
        self.tallies.held_skipped += released.skipped as u64;
        self.tallies.held_dropped += released.dropped as u64;
    }
}
