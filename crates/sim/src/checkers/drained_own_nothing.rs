//! A node that an operator has drained owns nothing and is first in no list, if there is another that
//! may own.

use testudo_packet::bucket::NodeId;

use crate::world::World;

/// To be asked when the faults are over.
///
/// # Errors
///
/// Which drained node has which bucket.
pub fn drained_own_nothing(world: &World) -> Result<(), String> {
    let running = world.machines.iter().filter(|machine| machine.is_up());
    let Some(daemon) = running.filter_map(|machine| machine.daemon.as_ref()).next() else {
        return Ok(());
    };
    let map = daemon.membership.map();
    let witnesses = world.options.witnesses();
    let may_own = |node: usize| {
        let id = NodeId(node as u8);
        world.machines[node].is_up() && !witnesses.contains(id) && !map.drained().contains(id)
    };
    if !(0..world.machines.len()).any(may_own) {
        return Ok(());
    }
    for bucket in map.buckets() {
        let first = map.ranks(bucket).first().copied();
        if let Some(first) = first.filter(|first| map.drained().contains(*first)) {
            return Err(format!("bucket {bucket} is given to the drained node {}", first.0));
        }
        let handler = world.handler(usize::from(bucket.0)).map(|node| NodeId(node as u8));
        if handler.is_some_and(|node| map.drained().contains(node)) {
            return Err(format!("bucket {bucket} is handled by the drained node {handler:?}"));
        }
    }
    Ok(())
}
