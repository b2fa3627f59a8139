//! Going over the node table: taking out what belongs to others now, and what was silent for too long.
//!
//! Invariant: a turn goes over so many slots at most, so that a table of tens of millions keeps no packet
//! waiting. A bucket that comes back while its entries are still being taken out waits until they are:
//! else the sweep would take what arrives.
//!
//! A pass for some buckets begins a moment after their slots name others: packets that met the old
//! slots are through by then, and leave no entry behind that the pass has gone past.

use std::thread;

use testudo_datapath::expiry::Expiry;
use testudo_datapath::{BucketSet, NodeTable};
use testudo_packet::bucket::{BucketId, Nanos};

use super::{Engine, GRACE, Parts};

/// How many slots a turn goes over to clear: below a millisecond.
const SLICE: usize = 16_384;

/// How far the sweeps are.
#[derive(Debug)]
pub struct Sweep {
    /// Buckets of the pass under way, and where it is.
    buckets: BucketSet,
    at: usize,
    cleared: usize,
    /// Buckets of the next pass, and when it may begin.
    next: BucketSet,
    next_from: Nanos,
    expiry: Expiry,
}

impl Sweep {
    /// Nothing is to be taken out.
    pub fn new(buckets: u32) -> Self {
        Self {
            buckets: BucketSet::new(buckets),
            at: 0,
            cleared: 0,
            next: BucketSet::new(buckets),
            next_from: Nanos(0),
            expiry: Expiry::default(),
        }
    }

    /// A bucket's slot names another node.
    pub fn push(&mut self, bucket: BucketId, now: Nanos) {
        self.next.insert(bucket);
        self.next_from = Nanos(now.0 + GRACE.as_nanos() as u64);
    }

    /// Whether entries of a bucket may still be there that are to be taken out.
    pub fn has(&self, bucket: BucketId) -> bool {
        self.buckets.contains(bucket) || self.next.contains(bucket)
    }
}

impl Engine {
    /// Takes out a turn's share of entries of other nodes' buckets; says whether there are more.
    pub(super) fn sweep_some(&mut self, now: Nanos) -> bool {
        let Self { parts: Parts { datapath, cluster, .. }, sweep, tallies, .. } = self;
        if sweep.buckets.is_empty() {
            if sweep.next.is_empty() || now < sweep.next_from {
                return false;
            }
            let none = BucketSet::new(cluster.buckets());
            sweep.buckets = std::mem::replace(&mut sweep.next, none);
            (sweep.at, sweep.cleared) = (0, 0);
        }
        let table = datapath.table();
        let end = (sweep.at + SLICE).min(table.capacity());
        sweep.cleared += table.clear_part(sweep.at..end, &sweep.buckets);
        sweep.at = end;
        if end == table.capacity() {
            let (buckets, entries) = (sweep.buckets.len(), sweep.cleared);
            tracing::info!(buckets, entries, "entries cleared");
            tallies.cleared += entries as u64;
            sweep.buckets = BucketSet::new(cluster.buckets());
        }
        !sweep.buckets.is_empty()
    }

    /// Takes out all that is to be taken out, now.
    pub(super) fn finish_sweep(&mut self) {
        if self.sweep.buckets.is_empty() && self.sweep.next.is_empty() {
            return;
        }
        thread::sleep(GRACE);
        while !self.sweep.buckets.is_empty() || !self.sweep.next.is_empty() {
            self.sweep_some(Nanos(u64::MAX));
        }
    }

    /// Takes out this turn's share of silent flows.
    pub(super) fn expire_some(&mut self, now: Nanos) {
        let Self { parts: Parts { datapath, replica, timeouts, .. }, sweep, tallies, .. } = self;
        let mut refused = 0;
        let turn = sweep.expiry.turn(datapath.table(), now, timeouts, &mut |record| {
            refused += u64::from(replica.handle_expired(record).is_err());
        });
        tallies.expired += turn.silent;
        tallies.early_drops += turn.early;
        tallies.refused_events += refused;
    }
}
