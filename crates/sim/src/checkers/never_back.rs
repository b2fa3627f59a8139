//! The epochs under which a bucket is acted upon only rise, and no two nodes share one.
//!
//! With that and the order of states by epoch and sequence, no node can put an older state of a flow
//! back into force. That an owner takes every change of its own flows over is checked where it does.

use testudo_packet::bucket::Epoch;

use crate::machine::Machine;
use crate::options::Options;

/// The latest epoch of each bucket, and whose it was.
#[derive(Debug)]
pub struct NeverBack(Vec<(Epoch, usize)>);

impl NeverBack {
    /// Nothing was acted upon yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self(vec![(Epoch(0), usize::MAX); options.buckets as usize])
    }

    /// A machine's lease or slot has been written.
    pub(crate) fn check(
        &mut self,
        machine: &Machine,
        now: u64,
        bucket: Option<usize>,
    ) -> Result<(), String> {
        let node = usize::from(machine.cluster.node().0);
        let buckets = bucket.map_or(0..self.0.len(), |bucket| bucket..bucket + 1);
        for bucket in buckets.filter(|&bucket| machine.kernel.handles(now, bucket)) {
            let (before, by) = self.0[bucket];
            let epoch = machine.kernel.slots[bucket].epoch;
            if epoch < before || epoch == before && by != node {
                return Err(format!(
                    "node {node} acts on bucket {bucket} under epoch {:#x}, after node {by} did \
                     under {:#x}",
                    epoch.0, before.0
                ));
            }
            self.0[bucket] = (epoch, node);
        }
        Ok(())
    }
}
