//! What a dead node owned is owned by others within the takeover wait and a few heartbeats, if a
//! majority of the voters is there and the network is not at fault.

use std::time::Duration;

use crate::options::{MS, nanos};
use crate::world::World;

/// Suspicion, fence and verdict each travel once; so many heartbeats leave time for that and for
/// the thread that writes the slots.
const HEARTBEATS: u64 = 2;

/// Lets the world run until every bucket is handled again, loading or not. To be called when a node
/// has just died. Returns how long it took.
///
/// # Errors
///
/// If it takes longer, or a checker has found something.
pub fn takeover_time(world: &mut World, takeover: Duration) -> Result<Duration, String> {
    let died = world.now;
    let bound = nanos(takeover) + HEARTBEATS * nanos(world.options.timing.heartbeat);
    let buckets = world.options.buckets as usize;
    while (0..buckets)
        .any(|bucket| world.handler(bucket).is_none_or(|n| !world.machines[n].is_up()))
    {
        if world.now > died + bound {
            let took = (world.now - died) / MS;
            return Err(format!("no takeover in {took} ms; {}", world.describe()));
        }
        world.run_unchecked(MS);
        if let Some(violation) = &world.violation {
            return Err(violation.clone());
        }
    }
    let took = world.now - died;
    world.tally.most("most milliseconds of a takeover", took / MS);
    Ok(Duration::from_nanos(took))
}
