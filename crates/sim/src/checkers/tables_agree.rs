//! The common tables of all running nodes that keep a bucket hold the same flows of it in the same states and with the
//! same translations, and exactly those that its owner has in its kernel, where sequences may be ahead, but for flows
//! that their rules keep back; those of nodes that do not keep it hold none. No other kernel has any of them: an entry
//! that is left behind would be in force again, as old as it is, when its bucket comes back.

use std::collections::BTreeMap;

use testudo_packet::bucket::{BucketId, NodeId};
use testudo_packet::entry::{FlowRecord, Translation};
use testudo_packet::tracking::Phase;

use super::kept_back::may_be_known;
use crate::world::World;

type Flows = BTreeMap<u16, (Phase, bool, Option<Translation>)>;

fn flow(record: &FlowRecord) -> (u16, (Phase, bool, Option<Translation>)) {
    (record.key.initiator.port, (record.state.phase, record.state.confirmed, record.translation))
}

/// To be asked when nothing has happened for a while.
///
/// # Errors
///
/// Whose table differs, and in what.
pub fn tables_agree(world: &World) -> Result<(), String> {
    super::translated_alone(world)?;
    let count = world.options.replicas.keepers();
    let limited = world.options.replicas.is_limited();
    let mut digests: BTreeMap<usize, BTreeMap<usize, (u64, u32)>> = BTreeMap::new();
    for (number, machine) in world.machines.iter().enumerate().filter(|(_, m)| m.is_up()) {
        let Some(daemon) = &machine.daemon else { continue };
        let table = daemon.replica.table();
        let mut rest = machine.kernel.flows.values().map(|record| usize::from(record.bucket.0));
        if let Some(bucket) = rest.find(|&bucket| world.handler(bucket) != Some(number)) {
            return Err(format!(
                "node {number} has entries of bucket {bucket}, which it does not own"
            ));
        }
        for bucket in 0..world.options.buckets as usize {
            let Some(owner) = world.handler(bucket) else {
                return Err(format!("bucket {bucket} has no owner to compare with"));
            };
            let truth: Flows = world.machines[owner].kernel.of_bucket(bucket).map(flow).collect();
            let id = BucketId(bucket as u16);
            let known: Flows = table.bucket(id).map(|record| flow(&record)).collect();
            let keepers = daemon.membership.map().keepers(id, count);
            if limited && number != owner && !keepers.contains(NodeId(number as u8)) {
                if known.is_empty() {
                    continue;
                }
                return Err(format!("node {number} has {known:?} of {id}, which it does not keep"));
            }
            let sums = digests.entry(bucket).or_default();
            sums.insert(number, (table.bucket_digest(id), table.count(id)));
            let missing = |record: &&FlowRecord| {
                !known.contains_key(&flow(record).0) && world.kept_back.must_be_known(record)
            };
            let right = known.iter().all(|(port, state)| truth.get(port) == Some(state));
            let kernel = &world.machines[owner].kernel;
            if !right || kernel.of_bucket(bucket).any(|record| missing(&record)) {
                return Err(format!(
                    "bucket {bucket}: its owner, node {owner}, has {truth:?}; node {number} knows \
                     {known:?}"
                ));
            }
            known.keys().try_for_each(|&port| may_be_known(world, owner, port))?;
        }
    }
    for (bucket, sums) in digests {
        let first = sums.values().next();
        if sums.values().any(|sum| Some(sum) != first) {
            return Err(format!("digests and counts of bucket {bucket} differ: {sums:x?}"));
        }
    }
    Ok(())
}
