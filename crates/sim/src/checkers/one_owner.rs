//! At no instant do two nodes hold an unexpired lease and act as owner of the same bucket.
//!
//! Handling a bucket begins only when a lease word or a slot is written, so looking at each write
//! looks at every instant.

use crate::machine::Machine;

/// Holds `node`, which has changed, against all others.
///
/// # Errors
///
/// Which two own which bucket.
pub fn one_owner(
    machines: &[Machine],
    now: u64,
    node: usize,
    bucket: Option<usize>,
) -> Result<(), String> {
    let kernel = &machines[node].kernel;
    if !kernel.leased(now) {
        return Ok(());
    }
    let buckets = bucket.map_or(0..kernel.slots.len(), |bucket| bucket..bucket + 1);
    for bucket in buckets.filter(|&bucket| kernel.handles(now, bucket)) {
        let others = (0..machines.len()).filter(|&other| other != node);
        if let Some(other) = others.into_iter().find(|&o| machines[o].kernel.handles(now, bucket)) {
            let slots = [kernel.slots[bucket], machines[other].kernel.slots[bucket]];
            return Err(format!("nodes {node} and {other} both handle bucket {bucket}: {slots:?}"));
        }
    }
    Ok(())
}
