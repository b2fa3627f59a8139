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
    let kernel = &world.machines[from].kernel;
    // A node without a lease may have been succeeded; what it says loses against what is known of that.
    let leased = kernel.leased(world.now);
    for record in before.bucket(bucket) {
        let known = after.get(bucket, &record.key);
        let succeeded = !leased && known.is_some_and(|known| known.supersedes(&record));
        if known.map(|known| known.state) != Some(record.state) && !succeeded {
            return Err(format!(
                "node {from} has handed bucket {bucket} over with {record:?}, of which node {to} \
                 has {known:?}"
            ));
        }
    }
    // Nor does it take out of its kernel what a successor has ended.
    for record in kernel.of_bucket(usize::from(bucket.0)).filter(|_| leased) {
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
