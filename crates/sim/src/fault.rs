//! Everything that can happen to a cluster, drawn by weight and counted.
//!
//! Invariant: what is drawn here is within what the cluster promises to stand: machines stop and start,
//! networks lose, delay and cut, disks are slow and keep what was synced, clocks run apart by no more
//! than the margin, operators wish what they like.

use testudo_packet::bucket::{BucketId, NodeId};

use crate::clock;
use crate::machine::{Input, Order};
use crate::options::MS;
use crate::rng::Rng;
use crate::world::World;

/// One kind of thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    PowerLoss,
    DaemonCrash,
    Start,
    Pause,
    Resume,
    CutBothWays,
    CutOneWay,
    Isolate,
    Partition,
    CutStreams,
    CutDatagrams,
    Heal,
    Loss,
    Delay,
    Doubling,
    Lateness,
    SlowPeer,
    SlowDisk,
    ClockRate,
    Drain,
    Undrain,
    Move,
    Unfit,
    Fit,
    Blackout,
}

/// How often each is drawn, and how it is counted.
const WEIGHTS: [(Fault, u64, &str); 25] = [
    (Fault::PowerLoss, 10, "fault: power loss"),
    (Fault::DaemonCrash, 8, "fault: daemon crash with a live kernel"),
    (Fault::Start, 20, "fault: start with the log kept and the table empty"),
    (Fault::Pause, 10, "fault: pause"),
    (Fault::Resume, 10, "fault: resume"),
    (Fault::CutBothWays, 6, "fault: cut both ways"),
    (Fault::CutOneWay, 6, "fault: cut one way"),
    (Fault::Isolate, 5, "fault: isolation"),
    (Fault::Partition, 4, "fault: partition"),
    (Fault::CutStreams, 5, "fault: sync cut, heartbeats alive"),
    (Fault::CutDatagrams, 5, "fault: heartbeats cut, sync alive"),
    (Fault::Heal, 12, "fault: cuts healed"),
    (Fault::Loss, 3, "fault: loss changed"),
    (Fault::Delay, 3, "fault: delay and reordering changed"),
    (Fault::Doubling, 2, "fault: doubling changed"),
    (Fault::Lateness, 3, "fault: late threads"),
    (Fault::SlowPeer, 4, "fault: slow peer"),
    (Fault::SlowDisk, 4, "fault: slow disk"),
    (Fault::ClockRate, 6, "fault: clock rate changed"),
    (Fault::Drain, 5, "operator: drain"),
    (Fault::Undrain, 5, "operator: undrain"),
    (Fault::Move, 8, "operator: move"),
    (Fault::Unfit, 3, "health: unfit"),
    (Fault::Fit, 3, "health: fit"),
    (Fault::Blackout, 2, "fault: power loss of all"),
];

/// Something happens.
pub fn inject(world: &mut World) {
    let total = WEIGHTS.iter().map(|(_, weight, _)| weight).sum();
    let mut drawn = world.rng.within(0..total);
    let drawn = WEIGHTS.iter().find(|(_, weight, _)| {
        let here = drawn < *weight;
        drawn = drawn.saturating_sub(*weight);
        here
    });
    let (fault, _, name) = *drawn.expect("the number is below the sum");
    if happen(world, fault) {
        world.tally.count(name);
    }
}

/// Says whether it could happen.
fn happen(world: &mut World, fault: Fault) -> bool {
    let nodes = world.machines.len();
    let node = world.rng.index(nodes);
    let other = (node + 1 + world.rng.index(nodes.max(2) - 1)) % nodes;
    let running = world.machines[node].daemon.is_some();
    let up = world.machines[node].is_up();
    match fault {
        Fault::PowerLoss if world.machines[node].on => world.kill(node),
        Fault::DaemonCrash if running => world.kill_daemon(node),
        Fault::Start if !running => world.start(node),
        Fault::Pause if up => world.pause(node),
        Fault::Resume if running && !up => world.resume(node),
        Fault::CutBothWays => world.cut_both_ways(node, other),
        Fault::CutOneWay => world.cut_one_way(node, other),
        Fault::Isolate => world.isolate(node),
        Fault::Partition => partition(world),
        Fault::CutStreams => world.cut_streams(node, other),
        Fault::CutDatagrams => world.cut_datagrams(node, other),
        Fault::Heal => world.heal(),
        Fault::Loss => world.options.loss = world.rng.pick(&[0, 20, 100, 300]),
        Fault::Delay => world.options.delay = world.rng.pick(&[1, 2, 10, 40]) * MS,
        Fault::Doubling => world.options.doubled = world.rng.pick(&[0, 100]),
        Fault::Lateness => world.options.late = world.rng.pick(&[0, 5, 30]),
        Fault::SlowPeer => world.machines[node].slow = world.rng.within(MS..80 * MS),
        Fault::SlowDisk => world.machines[node].disk.slow = world.rng.within(MS..400 * MS),
        Fault::ClockRate => {
            let rate = clock::rate(&mut world.rng);
            world.machines[node].kernel.clock.set_rate(world.now, rate);
        }
        Fault::Drain | Fault::Undrain | Fault::Move => {
            let order = order(&mut world.rng, fault, nodes, world.options.buckets);
            world.tell(other, Input::Order(order));
        }
        Fault::Unfit => world.tell(node, Input::Fitness(false)),
        Fault::Fit => world.tell(node, Input::Fitness(true)),
        Fault::Blackout => (0..nodes).for_each(|node| world.kill(node)),
        _ => return false,
    }
    true
}

fn partition(world: &mut World) {
    let side: Vec<_> = world.machines.iter().map(|_| world.rng.chance(500)).collect();
    for a in 0..side.len() {
        for b in (0..a).filter(|&b| side[a] != side[b]) {
            world.cut_both_ways(a, b);
        }
    }
}

fn order(rng: &mut Rng, fault: Fault, nodes: usize, buckets: u32) -> Order {
    let node = NodeId(rng.index(nodes) as u8);
    match fault {
        Fault::Drain => Order::Drain(node),
        Fault::Undrain => Order::Undrain(node),
        _ => Order::Move(BucketId(rng.index(buckets as usize) as u16), node),
    }
}

/// An operator wishes something, and nothing else happens.
pub fn wish(world: &mut World) {
    let kinds = [Fault::Drain, Fault::Undrain, Fault::Move, Fault::Move, Fault::Move];
    let kind = world.rng.pick(&kinds);
    let (nodes, buckets) = (world.machines.len(), world.options.buckets);
    let order = order(&mut world.rng, kind, nodes, buckets);
    let asked = world.rng.index(nodes);
    world.tally.count("planned: operator's wishes");
    world.tell(asked, Input::Order(order));
}
