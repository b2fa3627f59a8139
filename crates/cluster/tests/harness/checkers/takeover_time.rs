//! What a dead node owned is owned by others within the takeover wait and a few heartbeats, if a
//! majority is there and the network is not at fault.

use std::time::Duration;

use crate::harness::options::{MS, nanos};
use crate::harness::world::World;

/// Suspicion, fence and verdict each travel once; so many heartbeats leave time for that and for
/// the thread that writes the slots.
const HEARTBEATS: u64 = 2;

/// Lets the world run until every bucket is handled again, loading or not. To be called when a node
/// has just died. Returns how long it took.
pub fn takeover_time(world: &mut World, takeover: Duration) -> Result<Duration, String> {
    let died = world.now;
    let bound = nanos(takeover) + HEARTBEATS * nanos(world.options.timing.heartbeat);
    let buckets = world.options.buckets as usize;
    while (0..buckets).any(|bucket| world.handler(bucket).is_none_or(|n| !world.nodes[n].is_up())) {
        if world.now > died + bound {
            let took = (world.now - died) / MS;
            return Err(format!("no takeover in {took} ms; {}", world.describe()));
        }
        world.run(MS);
    }
    Ok(Duration::from_nanos(world.now - died))
}
