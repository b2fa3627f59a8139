//! A flow that was reported as let in is in the tables of whoever handles its packets now.

use testudo_packet::bucket::BucketState;
use testudo_packet::entry::FlowRecord;

use crate::world::World;

/// To be asked when a node is told that a flow was let in, as long as nothing fails.
///
/// # Errors
///
/// Who handles the flow's packets and does not know it.
pub fn let_in(world: &World, record: &FlowRecord) -> Result<(), String> {
    let bucket = usize::from(record.bucket.0);
    for (number, machine) in world.machines.iter().enumerate().filter(|(_, m)| m.is_up()) {
        let Some(daemon) = &machine.daemon else { continue };
        if !machine.kernel.handles(world.now, bucket) {
            continue;
        }
        let loading = machine.kernel.slots[bucket].state == BucketState::Loading;
        let known = machine.kernel.flows.contains_key(&record.key.initiator.port)
            || loading && daemon.replica.table().get(record.bucket, &record.key).is_some();
        if !known {
            return Err(format!(
                "node {number} handles bucket {bucket} and does not have the flow of port {}, which \
                 was reported as let in",
                record.key.initiator.port
            ));
        }
    }
    Ok(())
}
