//! Every bucket is handled, completely, by a node that runs.

use testudo_packet::bucket::{BucketSlot, BucketState};

use crate::world::World;

/// To be asked when a majority has been there for a while.
///
/// # Errors
///
/// Which bucket is not served.
pub fn every_bucket_owned(world: &World) -> Result<(), String> {
    for bucket in 0..world.options.buckets as usize {
        let owned = world.machines.iter().any(|machine| {
            machine.is_up()
                && machine.kernel.handles(world.now, bucket)
                && machine.kernel.slots[bucket].state != BucketState::Loading
        });
        if !owned {
            return Err(format!("bucket {bucket} is not served: {:?}", slots(world, bucket)));
        }
    }
    Ok(())
}

fn slots(world: &World, bucket: usize) -> Vec<BucketSlot> {
    world.machines.iter().map(|machine| machine.kernel.slots[bucket]).collect()
}
