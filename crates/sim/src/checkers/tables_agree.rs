//! The common tables of all running nodes hold the same flows in the same states, and of each bucket
//! exactly those that its owner has in its kernel, where sequences may be ahead, but for flows that their rules
//! keep back. No other kernel has any of them: an entry that is left behind
//! would be in force again, as old as it is, when its bucket comes back.

use std::collections::BTreeMap;

use testudo_packet::bucket::BucketId;
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use super::kept_back::may_be_known;
use crate::world::World;

type Flows = BTreeMap<u16, (Phase, bool)>;

fn flow(record: &FlowRecord) -> (u16, (Phase, bool)) {
    (record.key.initiator.port, (record.state.phase, record.state.confirmed))
}

/// To be asked when nothing has happened for a while.
///
/// # Errors
///
/// Whose table differs, and in what.
pub fn tables_agree(world: &World) -> Result<(), String> {
    let mut digests = BTreeMap::new();
    for (number, machine) in world.machines.iter().enumerate().filter(|(_, m)| m.is_up()) {
        let Some(daemon) = &machine.daemon else { continue };
        let table = daemon.replica.table();
        digests.insert(number, (table.digest(), table.len()));
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
            let known: Flows =
                table.bucket(BucketId(bucket as u16)).map(|record| flow(&record)).collect();
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
    let first = digests.values().next();
    if digests.values().any(|digest| Some(digest) != first) {
        return Err(format!("digests and counts differ: {digests:x?}"));
    }
    Ok(())
}
