//! Every node that runs is a member with a lease, is complete, and goes by the same map as all others,
//! of which nothing is left to be done.

use testudo_cluster::heartbeat::Role;

use crate::world::World;

/// To be asked when the faults are over.
///
/// # Errors
///
/// Which node is not yet what it should be.
pub fn all_members(world: &World) -> Result<(), String> {
    let mut version = None;
    for (number, machine) in world.machines.iter().enumerate().filter(|(_, m)| m.is_up()) {
        let Some(daemon) = &machine.daemon else { continue };
        let member = daemon.membership.role() == Role::Member;
        if !member || !machine.kernel.leased(world.now) {
            return Err(format!("node {number} is no member with a lease"));
        }
        let map = daemon.membership.map().version();
        if *version.get_or_insert(map) != map || daemon.membership.settled() != map {
            return Err(format!("node {number} has not settled the map of all others"));
        }
        if daemon.replica.synced() != Some(map) {
            let missing: Vec<_> = daemon.replica.incomplete().collect();
            let owners = missing.iter().map(|&bucket| daemon.replica.slot(bucket));
            let owners: Vec<_> = owners.collect();
            return Err(format!("the table of node {number} lacks {missing:?} of {owners:?}"));
        }
        if daemon.replica.moving() != (0, 0) {
            return Err(format!("node {number} still has buckets on their way"));
        }
    }
    Ok(())
}
