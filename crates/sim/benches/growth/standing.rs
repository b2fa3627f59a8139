//! What a cluster says that has nothing to do: heartbeats, agreement, comparisons.

use testudo_cluster::config::Timing;
use testudo_sim::checkers::healed;
use testudo_sim::options::{MS, Options};
use testudo_sim::world::World;

/// Ethernet, IP and UDP around a datagram: preamble, frame check and gap left out.
const DATAGRAM_HEADERS: u64 = 14 + 20 + 8;

/// Bytes that each node sends in a second.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// In datagrams, with their headers.
    pub heartbeats: u64,
    /// By its streams, without headers and encryption.
    pub streams: u64,
}

/// Lets whole nodes run with the times that nodes have by default.
pub fn standing(nodes: u8, seconds: u64) -> Standing {
    let mut options = Options::of(usize::from(nodes));
    options.timing = Timing::default();
    options.buckets = 256;
    let mut world = World::new(options, 1);
    world.traffic.gap = None;
    world.wait(30_000, healed).expect("the cluster forms");
    world.run(2000 * MS);
    let counted = |world: &World| {
        ["datagrams sent", "bytes of datagrams", "bytes of streams"].map(|of| world.tally.of(of))
    };
    let before = counted(&world);
    world.run(seconds * 1000 * MS);
    let after = counted(&world);
    let [datagrams, bytes, streams] = std::array::from_fn(|at| after[at] - before[at]);
    let each = |sum: u64| sum / u64::from(nodes) / seconds;
    Standing { heartbeats: each(bytes + datagrams * DATAGRAM_HEADERS), streams: each(streams) }
}
