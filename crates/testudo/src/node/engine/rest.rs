//! How long the engine rests between two turns in which it finds nothing to do.
//!
//! What happens to flows, and most packets that come up, wake nobody: they are looked for each millisecond.
//! Only a node that owns buckets has any, so one that owns none, as a spare node or a witness, is woken by its
//! mail and its streams, and looks around a few times less. Each wake-up costs several microseconds, which is
//! most of what a node takes that has nothing to do.
//!
//! Invariant: a node that owns a bucket never rests for longer than [`TICK`], nor does one that did not long
//! ago or is about to: what is left of that (packets that came up, entries to be taken out) wakes nobody either.

use std::time::Duration;

use testudo_cluster::replica::Replica;
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

/// How long the engine rests when it may be that something happens that does not wake it.
const TICK: Duration = Duration::from_millis(1);

/// And when not: not so long that deadlines of tenths of a second are missed by much.
const LONG: Duration = Duration::from_millis(10);

/// How long a node is taken to be in the middle of something, in milliseconds. Whether it owns a bucket is
/// looked at more often than that.
const SETTLING: u64 = 500;

/// Until when the engine does not rest for long.
#[derive(Debug, Default)]
pub struct Rest {
    stirred_until: Nanos,
}

impl Rest {
    /// Something has happened that may go on without waking the engine.
    pub fn stir(&mut self, now: Nanos) {
        self.stirred_until = now.plus_millis(SETTLING);
    }

    /// Looks whether this node owns a bucket, or one is on its way to or from it.
    pub fn look(&mut self, now: Nanos, me: NodeId, buckets: u32, replica: &Replica) {
        let owns = |bucket: u32| replica.slot(BucketId(bucket as u16)).owner == me;
        if replica.moving() != (0, 0) || (0..buckets).any(owns) {
            self.stir(now);
        }
    }

    /// How long to wait for whatever wakes the engine.
    pub fn length(&self, now: Nanos) -> Duration {
        if now < self.stirred_until { TICK } else { LONG }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_in_the_middle_of_something_looks_around_each_millisecond() {
        let now = Nanos(1);
        let mut rest = Rest::default();
        assert_eq!(rest.length(now), LONG);
        rest.stir(now);
        assert_eq!(rest.length(now.plus_millis(SETTLING - 1)), TICK);
        assert_eq!(rest.length(now.plus_millis(SETTLING)), LONG);
    }
}
