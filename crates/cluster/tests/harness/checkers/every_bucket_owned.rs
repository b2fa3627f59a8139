//! Every bucket is handled, completely, by a node that runs.

use testudo_packet::bucket::{BucketSlot, BucketState};

use crate::harness::world::World;

pub fn every_bucket_owned(world: &World) -> Result<(), String> {
    for bucket in 0..world.options.buckets as usize {
        let owned = world.nodes.iter().any(|node| {
            node.is_up()
                && node.kernel.handles(world.now, bucket)
                && node.kernel.slots[bucket].state == BucketState::Active
        });
        if !owned {
            return Err(format!(
                "bucket {bucket} is not served: {:?}; {}",
                slots(world, bucket),
                world.describe()
            ));
        }
    }
    Ok(())
}

fn slots(world: &World, bucket: usize) -> Vec<BucketSlot> {
    world.nodes.iter().map(|node| node.kernel.slots[bucket]).collect()
}
