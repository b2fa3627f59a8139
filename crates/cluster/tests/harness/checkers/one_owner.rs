//! At no instant do two nodes hold an unexpired lease and own the same bucket.
//!
//! Handling a bucket begins only when a lease word or a slot is written, so looking at each write
//! looks at every instant.

use crate::harness::node::Node;

/// Holds `node`, which has changed, against all others.
pub fn one_owner(
    nodes: &[Node],
    now: u64,
    node: usize,
    bucket: Option<usize>,
) -> Result<(), String> {
    if !nodes[node].kernel.leased(now) {
        return Ok(());
    }
    let buckets = bucket.map_or(0..nodes[node].kernel.slots.len(), |bucket| bucket..bucket + 1);
    for bucket in buckets.filter(|&bucket| nodes[node].kernel.handles(now, bucket)) {
        let other = (0..nodes.len()).find(|&o| o != node && nodes[o].kernel.handles(now, bucket));
        if let Some(other) = other {
            return Err(format!(
                "nodes {node} and {other} both handle bucket {bucket} at {now} ns"
            ));
        }
    }
    Ok(())
}
