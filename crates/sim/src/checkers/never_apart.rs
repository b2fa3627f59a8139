//! No copy of a bucket that was equal to its owner's ever turns out to differ, unless it was spoilt:
//! whatever is lost, late, cut or killed, a difference is known before it is found.
//!
//! It is what nodes say of themselves: each compares all the time, and tells of a difference that nothing
//! explains.

use testudo_packet::bucket::{BucketId, NodeId};

use crate::options::Plant;
use crate::world::World;

impl World {
    /// A node has found that a peer's copy of its bucket has come apart from its own.
    pub(crate) fn note_diverged(&mut self, node: usize, peer: NodeId, bucket: BucketId) {
        self.tally.count("divergences");
        let explained = self.options.plant == Plant::ChangesLost || self.tally.of(SPOILT) > 0;
        if !explained {
            self.fail(|| {
                format!("node {node} finds that node {}'s copy of {bucket} has diverged", peer.0)
            });
        }
    }

    /// A flow of this bucket is lost from a node's common table, and nobody is told. Says whether there
    /// was one.
    pub fn spoil(&mut self, node: usize, bucket: BucketId) -> bool {
        let Some(daemon) = &mut self.machines[node].daemon else { return false };
        let table = daemon.replica.spoil();
        let Some(record) = table.bucket(bucket).next() else { return false };
        let spoilt = table.remove(&record).is_ok();
        self.tally.add(SPOILT, u64::from(spoilt));
        spoilt
    }
}

/// How spoilt flows are counted.
const SPOILT: &str = "flows spoilt in a common table";
