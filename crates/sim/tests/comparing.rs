//! Comparing all tables because somebody wants to know: it is exact, also where much goes on, and says
//! what it does not know.

use std::time::Duration;

use testudo_cluster::replica::Verification;
use testudo_cluster::replica::rounds::MAX_ROUNDS;
use testudo_packet::bucket::{BucketId, NodeId};
use testudo_sim::checkers::tables_agree;
use testudo_sim::machine::{Input, Order};
use testudo_sim::options::{MS, Options};
use testudo_sim::seeds::{for_each_seed, seeds};
use testudo_sim::world::World;

const SEEDS: usize = 12;
const PATIENCE: Duration = Duration::from_secs(2);

/// Has all nodes compare their buckets now.
fn begin(world: &mut World) -> Vec<u64> {
    let now: Vec<_> = world.machines.iter().map(|machine| machine.read(world.now)).collect();
    let machines = world.machines.iter_mut().zip(now);
    let daemons = machines.map(|(machine, now)| (machine.daemon.as_mut().expect("it runs"), now));
    daemons.map(|(d, now)| d.replica.verify(now, PATIENCE).expect("no other round")).collect()
}

/// What that has come to, and after how many milliseconds.
fn outcome(world: &mut World, numbers: &[u64]) -> (Vec<Verification>, u64) {
    let mut found: Vec<_> = numbers.iter().map(|_| None).collect();
    for millis in 0.. {
        for ((found, &number), machine) in found.iter_mut().zip(numbers).zip(&mut world.machines) {
            let daemon = machine.daemon.as_mut().expect("it runs");
            *found = found.take().or_else(|| daemon.replica.verification(number));
        }
        if found.iter().all(Option::is_some) {
            return (found.into_iter().flatten().collect(), millis);
        }
        world.run(MS);
    }
    unreachable!("rounds have deadlines")
}

fn all_equal(found: &[Verification], buckets: u32, nodes: usize) {
    let owned: u32 = found.iter().map(|round| round.buckets).sum();
    assert_eq!(owned, buckets);
    for round in found {
        assert_eq!((round.peers.len(), round.moved), (nodes - 1, 0), "{round:?}");
        for copies in &round.peers {
            assert_eq!((copies.equal, copies.differ, copies.open), (round.buckets, 0, 0));
        }
    }
}

/// How many records all nodes have sent with whole buckets.
fn resent(world: &World) -> u64 {
    let daemons = world.machines.iter().filter_map(|machine| machine.daemon.as_ref());
    let peers = daemons.flat_map(|daemon| {
        (0..world.machines.len()).map(|peer| daemon.replica.peer(NodeId(peer as u8)))
    });
    peers.map(|status| status.comparisons.resent).sum()
}

#[test]
fn a_busy_cluster_compares_equal() {
    for_each_seed(&seeds(11, SEEDS), |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.traffic.gap = Some(MS / 16);
        world.run(1000 * MS);
        let sent_again = resent(&world);
        for _ in 0..5 {
            let numbers = begin(&mut world);
            let (found, millis) = outcome(&mut world, &numbers);
            all_equal(&found, world.options.buckets, 3);
            assert!(millis < 300, "it took {millis} ms");
            let pause = world.rng.within(0..100 * MS);
            world.run(pause);
        }
        assert_eq!(world.tally.of("divergences"), 0);
        assert_eq!(resent(&world), sent_again, "not a record was sent again");
        tables_agree(&world).expect_err("so much is under way that no moment shows them equal");
    });
}

#[test]
fn a_copy_that_differs_is_named() {
    let mut options = Options::of(3);
    // The comparison in the background would find it first.
    options.timing.comparison = Duration::from_secs(3600);
    let mut world = World::formed(options, 7);
    world.run(1000 * MS);
    let numbers = begin(&mut world);
    outcome(&mut world, &numbers);
    let of_another = |bucket: &usize| world.handler(*bucket).is_some_and(|owner| owner != 2);
    let bucket = (0..world.options.buckets as usize).filter(of_another).find(|&bucket| {
        let table = world.machines[2].daemon.as_ref().map(|daemon| daemon.replica.table());
        table.is_some_and(|table| table.count(BucketId(bucket as u16)) > 0)
    });
    let bucket = bucket.expect("a bucket with flows");
    let owner = world.handler(bucket).expect("it is served");
    assert!(world.spoil(2, BucketId(bucket as u16)));
    let numbers = begin(&mut world);
    let (found, _) = outcome(&mut world, &numbers);
    for (node, round) in found.iter().enumerate() {
        for copies in &round.peers {
            let here = node == owner && copies.peer == NodeId(2);
            let different = if here { vec![BucketId(bucket as u16)] } else { Vec::new() };
            assert_eq!(copies.different, different, "node {node}");
            assert_eq!((copies.differ, copies.open), (different.len() as u32, 0));
        }
    }
    // It was repaired by that.
    let numbers = begin(&mut world);
    let (found, _) = outcome(&mut world, &numbers);
    all_equal(&found, 32, 3);
}

#[test]
fn who_does_not_answer_in_time_is_told_of() {
    let mut world = World::formed(Options::of(3), 7);
    world.run(1000 * MS);
    world.pause(2);
    let now = world.machines[0].read(world.now);
    let daemon = world.machines[0].daemon.as_mut().expect("it runs");
    let short = Duration::from_millis(50);
    let number = daemon.replica.verify(now, short).expect("no other round");
    let owned = world.machines[0].handled(world.now).len() as u32;
    world.run(110 * MS);
    let daemon = world.machines[0].daemon.as_mut().expect("it runs");
    let round = daemon.replica.verification(number).expect("its time is over");
    let open: Vec<_> = round.peers.iter().map(|copies| (copies.peer.0, copies.open)).collect();
    assert_eq!(open, [(1, 0), (2, owned)], "{round:?}");
    assert_eq!(daemon.replica.verification(number), None, "it is forgotten");

    for _ in 0..MAX_ROUNDS {
        daemon.replica.verify(now, short).expect("room");
    }
    assert_eq!(daemon.replica.verify(now, short), None, "too many at once are refused");
}

#[test]
fn buckets_that_change_hands_are_counted_and_nothing_differs() {
    for_each_seed(&seeds(12, SEEDS), |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.traffic.gap = Some(MS / 8);
        world.run(1000 * MS);
        world.tell(0, Input::Order(Order::Drain(NodeId(1))));
        for _ in 0..20 {
            let numbers = begin(&mut world);
            let (found, _) = outcome(&mut world, &numbers);
            let differ: u32 = found.iter().flat_map(|round| &round.peers).map(|c| c.differ).sum();
            assert_eq!(differ, 0, "{found:?}");
            let span = world.rng.within(0..20 * MS);
            world.run(span);
        }
        assert!(world.machines[1].handled(world.now).is_empty(), "it is drained");
    });
}

#[test]
fn a_joining_node_is_filled_while_changes_flow_on() {
    for_each_seed(&seeds(13, SEEDS), |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.traffic.gap = Some(MS / 8);
        world.run(500 * MS);
        world.kill(2);
        world.run(1000 * MS);
        world.start(2);
        let synced = |world: &World| {
            let daemon = world.machines[2].daemon.as_ref().expect("it runs");
            daemon.replica.synced().map(|_| ()).ok_or_else(|| "it is not complete".to_owned())
        };
        let mut worst = 0;
        while synced(&world).is_err() {
            world.run(MS);
            for node in 0..2 {
                let machine = &world.machines[node];
                let now = machine.read(world.now);
                let replica = &machine.daemon.as_ref().expect("it runs").replica;
                let oldest = replica.peer(NodeId(2)).oldest;
                worst = worst.max(oldest.map_or(0, |oldest| now.millis_since(oldest)));
            }
        }
        assert!(worst <= 20, "a change waited for {worst} ms");
        world.run(300 * MS);
        let caught_up = |node: usize| {
            let daemon = world.machines[node].daemon.as_ref().expect("it runs");
            daemon.replica.peer(NodeId(2)).comparisons.caught_up
        };
        assert!(caught_up(0) + caught_up(1) > 0, "it was sent what it lacked");
        assert_eq!(world.tally.of("divergences"), 0);
    });
}
