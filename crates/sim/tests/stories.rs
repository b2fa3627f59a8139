//! What operators are promised of a cluster, each as a story with its faults.

use std::collections::BTreeMap;

use testudo_cluster::config::Replicas;
use testudo_cluster::heartbeat::Role;
use testudo_cluster::replica::SyncError;
use testudo_coordinator::Coordinator;
use testudo_packet::bucket::{BucketId, NodeId};
use testudo_sim::checkers::{
    drained_own_nothing, every_bucket_owned, healed, tables_agree, takeover_time,
};
use testudo_sim::kernel::Kernel;
use testudo_sim::machine::{Input, Order};
use testudo_sim::options::{MS, Mode, Options, nanos};
use testudo_sim::seeds::{for_each_seed, seeds};
use testudo_sim::world::World;

const SEEDS: usize = 12;

fn for_seeds(base: u64, story: impl Fn(u64) + Sync) {
    for_each_seed(&seeds(base, SEEDS), story);
}

fn succeed(world: &mut World) {
    let takeover = world.options.timing.takeover;
    takeover_time(world, takeover).unwrap_or_else(|error| panic!("{error}"));
}

/// Whether a node is a member and its table is complete.
fn synced(world: &World, node: usize) -> bool {
    let machine = &world.machines[node];
    machine.role() == Some(Role::Member)
        && machine.daemon.as_ref().is_some_and(|daemon| {
            let map = daemon.membership.map();
            let since = map.admission(NodeId(node as u8)).map(|admission| admission.since);
            daemon.replica.synced() >= since
        })
}

/// Everything comes right, and the planner has no more to do.
fn settle(world: &mut World) {
    world.until(5000, healed);
    world.run(1000 * MS);
    world.until(5000, healed);
    world.traffic.gap = None;
    world.until(1000, tables_agree);
}

#[test]
fn a_killed_node_is_succeeded_within_its_bound() {
    for_seeds(1, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        let calm = world.rng.within(0..500 * MS);
        world.run(calm);
        world.kill(world.now as usize % 3);
        succeed(&mut world);
        world.until(100, every_bucket_owned);
    });
}

#[test]
fn a_paused_node_that_wakes_owns_nothing_until_it_is_admitted_and_complete() {
    for_seeds(2, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.run(200 * MS);
        assert!(!world.machines[0].handled(world.now).is_empty());
        world.pause(0);
        world.run(150 * MS);
        assert_eq!(world.machines[0].handled(world.now), []);
        assert!(world.machines[0].kernel.slots.iter().any(|slot| slot.owner == NodeId(0)));
        world.run(50 * MS);
        every_bucket_owned(&world).expect("the others have taken over");
        world.resume(0);
        let begun_anew = |world: &World| {
            let daemon = world.machines[0].daemon.as_ref().expect("it runs");
            daemon.membership.counters().restarts > 0
        };
        while !begun_anew(&world) || !synced(&world, 0) {
            assert_eq!(world.machines[0].handled(world.now), []);
            world.run(MS);
        }
        settle(&mut world);
        assert!(!world.machines[0].handled(world.now).is_empty(), "it has its share again");
    });
}

#[test]
fn a_node_without_majority_stops() {
    for_seeds(3, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.isolate(0);
        world.isolate(1);
        let lease = nanos(world.options.timing.lease);
        world.run(lease + 20 * MS);
        for _ in 0..100 {
            assert!((0..3).all(|node| world.machines[node].handled(world.now).is_empty()));
            world.run(10 * MS);
        }
        world.heal();
        settle(&mut world);
    });
}

#[test]
fn tables_agree_when_quiet() {
    for_seeds(4, |seed| {
        let options = Options { loss: 50, doubled: 50, ..Options::of(3) };
        let mut world = World::formed(options, seed);
        world.run(1000 * MS);
        assert!(world.machines.iter().all(|node| node.kernel.flows.len() > 20));
        settle(&mut world);
        assert_eq!(world.sync_errors, []);
    });
}

#[test]
fn a_cut_between_two_of_three_never_makes_two_owners() {
    for_seeds(5, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.run(100 * MS);
        world.cut_both_ways(0, 1);
        // Node 2 hears both, so neither is without a majority, and nobody may take anything.
        world.run(1000 * MS);
        every_bucket_owned(&world).expect("all are still at work");
        world.heal();
        world.run(300 * MS);
        // One way only: node 1 is heard by nobody's echo that counts.
        world.cut_one_way(1, 0);
        world.run(1000 * MS);
        world.heal();
        settle(&mut world);
    });
}

#[test]
fn a_restarted_node_is_filled_and_then_gets_its_share() {
    for_seeds(6, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.run(500 * MS);
        world.kill(2);
        let away = world.rng.within(MS..400 * MS);
        world.run(away);
        world.start(2);
        while !synced(&world, 2) {
            assert_eq!(world.machines[2].handled(world.now), []);
            world.run(MS);
        }
        settle(&mut world);
        let daemon = world.machines[2].daemon.as_ref().expect("it was started");
        assert!(daemon.replica.table().len() > 20, "it has been filled");
        let share = world.machines[2].handled(world.now).len();
        assert!((10..=11).contains(&share), "it owns {share} buckets");
    });
}

#[test]
fn a_drained_node_loses_no_packet_and_gets_its_share_back() {
    for mode in [Mode::Shared, Mode::Steered] {
        for_seeds(10, |seed| {
            let mut world = World::formed(Options { mode, ..Options::of(3) }, seed);
            world.traffic.gap = Some(MS / 4);
            world.traffic.exact = true;
            for order in [Order::Drain(NodeId(1)), Order::Undrain(NodeId(1))] {
                world.tell(2, Input::Order(order));
                world.run(300 * MS);
                world.until(3000, healed);
                let owned = world.machines[1].handled(world.now).len();
                assert_eq!(owned == 0, order == Order::Drain(NodeId(1)), "{order:?}: {owned}");
            }
            world.traffic.exact = false;
            world.run(1000 * MS);
        });
    }
}

#[test]
fn a_drain_of_all_before_there_are_owners_keeps_nobody_from_owning() {
    for_seeds(15, |seed| {
        let mut world = World::new(Options { witnesses: 1, ..Options::of(2) }, seed);
        let leader = |world: &World| {
            let admitted = |node: &usize| {
                world.machines[*node].daemon.as_ref().is_some_and(|daemon| {
                    daemon.raft.leads() && daemon.raft.machine().admission(NodeId(0)).is_some()
                })
            };
            (0..2).find(admitted)
        };
        while leader(&world).is_none() {
            world.run(MS);
        }
        let node = leader(&world).expect("it leads");
        world.tell(node, Input::Order(Order::Drain(NodeId(0))));
        world.until(3000, every_bucket_owned);
        let daemon = world.machines[0].daemon.as_ref().expect("it runs");
        assert!(daemon.membership.map().drained().contains(NodeId(0)), "the order came too late");
    });
}

#[test]
fn a_witness_keeps_one_of_two_going() {
    for_seeds(11, |seed| {
        let mut world = World::formed(Options { witnesses: 1, ..Options::of(3) }, seed);
        world.run(100 * MS);
        assert_eq!(world.machines[2].handled(world.now), []);
        world.kill(seed as usize % 2);
        succeed(&mut world);
        world.until(100, every_bucket_owned);
    });
}

#[test]
fn voters_that_stay_dead_are_removed_until_two_are_left() {
    for_seeds(12, |seed| {
        let mut world = World::formed(Options::of(5), seed);
        for victim in [4, 1, 0] {
            world.kill(victim);
            succeed(&mut world);
            // Long enough for the dead to be removed.
            world.run(1500 * MS);
            every_bucket_owned(&world).expect("the rest works on");
        }
        let daemon = world.machines[2].daemon.as_ref().expect("it runs");
        assert_eq!(daemon.membership.map().voters().len(), 2);
        world.kill(3);
        world.run(1500 * MS);
        assert_eq!(world.machines[2].handled(world.now), [], "one of two is no majority");
        [0, 1, 3, 4].into_iter().for_each(|node| world.start(node));
        world.until(5000, healed);
    });
}

#[test]
fn a_cluster_that_lost_its_power_forms_again() {
    for_seeds(13, |seed| {
        let mut world = World::formed(Options::of(4), seed);
        world.run(300 * MS);
        (0..4).for_each(|node| world.kill(node));
        world.run(500 * MS);
        (0..4).for_each(|node| world.start(node));
        world.until(5000, healed);
        settle(&mut world);
        drained_own_nothing(&world).expect("nobody is drained");
    });
}

#[test]
fn the_taker_has_every_flow_the_dead_node_had_told_of() {
    for_seeds(7, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.run(500 * MS);
        world.traffic.gap = None;
        world.run(50 * MS);
        tables_agree(&world).expect("all was told");
        let states = |kernel: &Kernel| -> BTreeMap<_, _> {
            kernel.flows.iter().map(|(&port, record)| (port, record.state)).collect()
        };
        let all: BTreeMap<_, _> =
            world.machines.iter().flat_map(|node| states(&node.kernel)).collect();
        assert!(all.len() > 100);
        world.kill(1);
        succeed(&mut world);
        world.run(50 * MS);
        let now: BTreeMap<_, _> =
            world.machines.iter().flat_map(|node| states(&node.kernel)).collect();
        assert_eq!(now, all);
        tables_agree(&world).expect("the survivors agree");
    });
}

#[test]
fn five_nodes_lose_two_one_after_the_other() {
    for_seeds(8, |seed| {
        let mut world = World::formed(Options::of(5), seed);
        world.run(100 * MS);
        let first = world.rng.index(5);
        let second = (first + 1 + world.rng.index(4)) % 5;
        for victim in [first, second] {
            world.kill(victim);
            succeed(&mut world);
            let calm = world.rng.within(0..100 * MS);
            world.run(calm);
        }
        settle(&mut world);
        let active = world.machines.iter().map(|node| node.active(world.now)).sum::<usize>();
        assert_eq!(active, world.options.buckets as usize);
    });
}

#[test]
fn a_stranger_changes_nothing() {
    for_seeds(9, |seed| {
        let mut world = World::formed(Options::of(3), seed);
        // A machine that takes node 2's place on the network, with another secret.
        world.kill(2);
        succeed(&mut world);
        settle(&mut world);
        let stranger = world.options.cluster(2, [9; 16]);
        world.machines[2].cluster = stranger;
        world.sync_errors.clear();
        world.run(200 * MS);
        let known = |world: &World, node: usize| {
            let daemon = world.machines[node].daemon.as_ref().expect("it runs");
            let counters = daemon.membership.counters();
            (daemon.replica.table().digest(), counters.late, counters.restarts)
        };
        let before = [known(&world, 0), known(&world, 1)];
        world.start(2);
        world.run(1500 * MS);
        every_bucket_owned(&world).expect("nothing has changed");
        assert_eq!([known(&world, 0), known(&world, 1)], before);
        assert_eq!(world.machines[2].handled(world.now), []);
        assert!(world.machines[2].daemon.as_ref().is_some_and(|d| d.replica.table().is_empty()));
        assert!(!world.sync_errors.is_empty());
        assert!(world.sync_errors.iter().all(|error| *error == SyncError::Proof));
    });
}

/// A bucket that node 0 has let go, and that is not known to have arrived.
fn on_its_way(world: &World) -> Option<BucketId> {
    let machine = &world.machines[0];
    let replica = &machine.daemon.as_ref()?.replica;
    let mut buckets = (0..world.options.buckets as u16).map(BucketId);
    buckets.find(|&bucket| {
        let gone = machine.kernel.slots[usize::from(bucket.0)].owner != NodeId(0);
        gone && replica.is_leaving(bucket) && replica.table().count(bucket) > 0
    })
}

#[test]
fn who_gives_a_bucket_away_gets_it_back_when_all_die_that_were_to_keep_it() {
    for_seeds(10, |seed| {
        let options = Options { replicas: Replicas::Successors(1), ..Options::of(5) };
        let mut world = World::formed(options, seed);
        world.run(500 * MS);
        settle(&mut world);
        world.tell(1, Input::Order(Order::Drain(NodeId(0))));
        let bucket = loop {
            world.run(MS / 4);
            if let Some(bucket) = on_its_way(&world) {
                break bucket;
            }
        };
        let daemon = |world: &World| {
            let daemon = world.machines[0].daemon.as_ref().expect("it runs");
            let keepers: Vec<_> = daemon.membership.map().ranks(bucket)[..2].to_vec();
            (keepers, daemon.replica.table().bucket_digest(bucket))
        };
        let (keepers, flows) = daemon(&world);
        let [next, successor] = [0, 1].map(|rank| usize::from(keepers[rank].0));
        // What is left to tell does not get there.
        world.cut_streams(0, next);
        world.kill(successor);
        world.run(40 * MS);
        world.kill(next);
        succeed(&mut world);
        assert_eq!(world.handler(usize::from(bucket.0)), Some(0));
        assert_eq!(daemon(&world).1, flows);
        world.heal();
        [next, successor].into_iter().for_each(|node| world.start(node));
        settle(&mut world);
    });
}
