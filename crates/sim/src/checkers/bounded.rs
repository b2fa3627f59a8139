//! No queue, log, history or list grows beyond its bound.

use testudo_cluster::map::HISTORY;
use testudo_coordinator::Coordinator;
use testudo_packet::bucket::NodeId;

use crate::world::World;

/// Twice what is kept behind a snapshot, and what a leader adds before the next one.
const LOG: usize = 32 + 160;

/// Looks at one node.
///
/// # Errors
///
/// What has grown.
pub fn bounded(world: &World, node: usize) -> Result<(), String> {
    let Some(daemon) = &world.machines[node].daemon else { return Ok(()) };
    let within = |what: &str, seen: usize, most: usize| {
        let error = || format!("node {node} has {seen} {what}; expected at most {most}");
        (seen <= most).then_some(()).ok_or_else(error)
    };
    let (nodes, buckets) = (world.machines.len(), world.options.buckets as usize);
    let flows = daemon.replica.table().capacity();
    within("log entries", daemon.raft.log_length(), LOG)?;
    within("changes in the history", daemon.raft.machine().history().count(), HISTORY)?;
    within("flows", daemon.replica.table().len(), flows)?;
    let (leaving, arriving) = daemon.replica.moving();
    within("buckets on their way out", leaving, buckets)?;
    within("buckets on their way in", arriving, buckets)?;
    within("streams", daemon.streams.len(), nodes + 16)?;
    for bucket in daemon.raft.machine().buckets() {
        within("older lists of a bucket", daemon.raft.machine().older(bucket).count(), 8)?;
    }
    for peer in 0..nodes {
        let pending = daemon.replica.peer(NodeId(peer as u8)).pending as usize;
        // What waits is noted once for each flow or bucket; what is under way fits the windows.
        within("changes that wait for a peer", pending, 2 * flows + 8 * buckets + 1024)?;
    }
    Ok(())
}
