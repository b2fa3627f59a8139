//! A bucket that is handed over comes with all flows that its owner before had, acknowledged or not, and
//! whatever their rules say.

use testudo_packet::bucket::BucketId;

use crate::world::World;

/// To be asked when `to` says that `from` has handed a bucket over to it.
///
/// # Errors
///
/// Which flow is missing.
pub fn handed_over_whole(
    world: &World,
    from: usize,
    to: usize,
    bucket: BucketId,
) -> Result<(), String> {
    let table = |node: usize| world.machines[node].daemon.as_ref().map(|d| d.replica.table());
    let (Some(before), Some(after)) = (table(from), table(to)) else { return Ok(()) };
    // Word of it may come so late that the owner before has got the bucket back.
    let daemon = world.machines[from].daemon.as_ref();
    if daemon.is_none_or(|daemon| usize::from(daemon.replica.slot(bucket).owner.0) != to) {
        return Ok(());
    }
    for record in before.bucket(bucket) {
        let known = after.get(bucket, &record.key);
        if known.map(|known| known.state) != Some(record.state) {
            return Err(format!(
                "node {from} has handed bucket {bucket} over with {record:?}, of which node {to} \
                 has {known:?}"
            ));
        }
    }
    // What a node without a lease has in its kernel may have been ended by a successor that it has heard
    // since.
    let kernel = &world.machines[from].kernel;
    let flows = kernel.of_bucket(usize::from(bucket.0)).filter(|_| kernel.leased(world.now));
    for record in flows {
        let known = after.get(bucket, &record.key);
        if known.map(|known| known.state.phase) != Some(record.state.phase) {
            return Err(format!(
                "node {from} has handed bucket {bucket} over and has {record:?} in its kernel, of \
                 which node {to} has {known:?}"
            ));
        }
    }
    Ok(())
}
