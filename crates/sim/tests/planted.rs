//! Every checker, seen to fail: a checker that has never failed proves nothing.

use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_packet::bucket::{BucketId, NodeId};
use testudo_sim::checkers::{
    all_members, drained_own_nothing, every_bucket_owned, kept_back, tables_agree, takeover_time,
};
use testudo_sim::machine::{Input, Order};
use testudo_sim::options::{MS, Mode, Options, Plant};
use testudo_sim::world::World;

/// Lets a world run until a checker finds something, and says what.
fn found(world: &mut World, millis: u64) -> String {
    world.run_unchecked(millis * MS);
    world.violation.take().unwrap_or_default()
}

fn with(plant: Plant) -> Options {
    Options { plant, ..Options::of(3) }
}

/// Nobody looks for what has gone wrong.
fn unwatched(plant: Plant) -> Options {
    let mut options = with(plant);
    options.timing.comparison = Duration::from_secs(3600);
    options.timing.audit = Duration::from_secs(3600);
    options
}

/// Moves a bucket, and every so often another, while many packets come.
fn move_buckets(world: &mut World) {
    world.traffic.gap = Some(MS / 8);
    world.traffic.exact = true;
    for round in 0..12u16 {
        let to = (usize::from(round) + 1) % 3;
        let order = Order::Move(BucketId(round % 8), NodeId(to as u8));
        world.tell(0, Input::Order(order));
        world.run_unchecked(150 * MS);
    }
    world.traffic.exact = false;
    world.run_unchecked(1000 * MS);
}

#[test]
fn a_lease_longer_than_the_wait_makes_two_owners() {
    let mut options = Options::of(3);
    options.timing.lease = Duration::from_millis(300);
    let mut world = World::formed(options.clone(), 1);
    world.isolate(0);
    let violation = found(&mut world, 600);
    assert!(violation.contains("both handle bucket"), "{violation}");

    // The same cut with times that `Cluster::new` lets through.
    options.timing.lease = Options::of(3).timing.lease;
    let mut world = World::formed(options, 1);
    world.isolate(0);
    world.run(600 * MS);
}

#[test]
fn a_kernel_without_leases_makes_two_owners() {
    let mut world = World::formed(with(Plant::LeaseIgnored), 1);
    world.pause(0);
    let violation = found(&mut world, 600);
    assert!(violation.contains("both handle bucket"), "{violation}");
}

#[test]
fn a_clock_that_is_much_too_slow_makes_two_owners() {
    let mut world = World::formed(Options::of(3), 1);
    let now = world.now;
    world.machines[0].kernel.clock.set_rate(now, -400_000);
    world.run(200 * MS);
    world.isolate(0);
    let violation = found(&mut world, 600);
    assert!(violation.contains("both handle bucket"), "{violation}");
}

#[test]
fn epochs_that_fall_are_noticed() {
    let mut world = World::new(with(Plant::EpochsOld), 1);
    world.run_unchecked(2000 * MS);
    world.kill(0);
    let violation = found(&mut world, 1000);
    assert!(violation.contains("under epoch"), "{violation}");
}

#[test]
fn a_held_packet_that_is_dropped_is_missed() {
    for mode in [Mode::Shared, Mode::Steered] {
        let mut world = World::formed(Options { mode, ..with(Plant::HoldingForgotten) }, 1);
        move_buckets(&mut world);
        let violation = world.violation.take().unwrap_or_default();
        assert!(violation.contains("was lost"), "{mode:?}: {violation}");
        let mut world = World::formed(Options { mode, ..with(Plant::None) }, 1);
        move_buckets(&mut world);
        assert_eq!(world.violation, None, "{mode:?}");
    }
}

/// Both nodes see each packet, but not at once: without an overlap, one of them sees it before it holds,
/// and the other after it has let go, or both handle it.
#[test]
fn a_packet_that_reaches_two_nodes_at_different_moments_needs_an_overlap() {
    let fast = Options { delay: MS / 5, ..with(Plant::None) };
    let wrong = (1..=16).filter(|&seed| {
        let mut options = fast.clone();
        options.timing.overlap = Duration::ZERO;
        let mut world = World::formed(options, seed);
        move_buckets(&mut world);
        let violation = world.violation.take().unwrap_or_default();
        let as_expected = violation.contains("was lost") || violation.contains("was handled by");
        assert!(violation.is_empty() || as_expected, "{violation}");
        !violation.is_empty()
    });
    let wrong = wrong.count();
    assert!(wrong >= 4, "noticed with {wrong} of 16 seeds");
    for seed in 1..=16 {
        let mut world = World::formed(fast.clone(), seed);
        move_buckets(&mut world);
        assert_eq!(world.violation, None, "seed {seed}");
    }
}

#[test]
fn a_packet_that_the_owner_before_has_handled_is_noticed_when_it_is_handled_again() {
    // It takes a packet that comes to both between the two looks at a slot: not every move has one.
    let found = (1..=8).filter(|&seed| {
        let mut world = World::formed(with(Plant::HashesForgotten), seed);
        move_buckets(&mut world);
        let violation = world.violation.take().unwrap_or_default();
        assert!(violation.is_empty() || violation.contains("was handled by node"), "{violation}");
        !violation.is_empty()
    });
    let found = found.count();
    assert!(found >= 3, "noticed with {found} of 8 seeds");
}

#[test]
fn changes_that_are_acknowledged_and_lost_are_noticed() {
    let mut world = World::new(unwatched(Plant::ChangesLost), 1);
    world.run_unchecked(2500 * MS);
    world.kill(0);
    let violation = found(&mut world, 1000);
    assert!(violation.contains("that it has acknowledged"), "{violation}");
}

#[test]
fn a_bucket_that_is_handed_over_without_its_flows_is_noticed() {
    let mut world = World::new(unwatched(Plant::ChangesLost), 2);
    world.run_unchecked(1500 * MS);
    // Enough packets that some come between the last comparison of a bucket and its release.
    world.traffic.gap = Some(MS / 4);
    world.tell(0, Input::Order(Order::Drain(NodeId(0))));
    let violation = found(&mut world, 2000);
    let expected = ["has handed bucket", "that it has acknowledged"];
    assert!(expected.iter().any(|text| violation.contains(text)), "{violation}");
}

#[test]
fn a_copy_that_is_lost_when_its_bucket_is_taken_is_noticed() {
    let die = |plant| {
        let mut world = World::new(unwatched(plant), 1);
        world.run_unchecked(2500 * MS);
        world.kill(0);
        found(&mut world, 1000)
    };
    let violation = die(Plant::TakenEmpty);
    assert!(violation.contains("flows left"), "{violation}");
    assert_eq!(die(Plant::None), "");
}

#[test]
fn a_flow_that_was_let_in_only_by_word_is_missed() {
    let mut world = World::formed(unwatched(Plant::NotPlaced), 1);
    world.traffic.exact = true;
    let violation = found(&mut world, 1000);
    assert!(violation.contains("which was reported as let in"), "{violation}");
    let mut world = World::formed(unwatched(Plant::None), 1);
    world.traffic.exact = true;
    world.run(1000 * MS);
}

#[test]
fn a_log_that_is_never_cut_is_noticed() {
    let mut world = World::formed(with(Plant::LogUncut), 1);
    for round in 0..400 {
        let node = NodeId((round / 2 % 3) as u8);
        let order = if round % 2 == 0 { Order::Drain(node) } else { Order::Undrain(node) };
        world.tell(0, Input::Order(order));
        world.run_unchecked(60 * MS);
    }
    let violation = world.violation.take().unwrap_or_default();
    assert!(violation.contains("log entries"), "{violation}");
}

#[test]
fn a_bucket_without_owner_is_noticed() {
    let mut world = World::formed(Options::of(3), 2);
    assert_eq!(every_bucket_owned(&world), Ok(()));
    world.kill(0);
    assert!(every_bucket_owned(&world).is_err());
    world.kill(1);
    world.run(1000 * MS);
    let error = every_bucket_owned(&world).expect_err("a third is no majority");
    assert!(error.contains("is not served"), "{error}");
}

#[test]
fn a_node_that_does_not_come_back_is_noticed() {
    let mut world = World::formed(Options::of(3), 2);
    assert_eq!(all_members(&world), Ok(()));
    world.isolate(1);
    world.run(1000 * MS);
    let error = all_members(&world).expect_err("it is alone");
    assert!(error.contains("node 1"), "{error}");
}

#[test]
fn a_drained_node_that_owns_is_noticed() {
    let mut world = World::formed(Options::of(3), 2);
    world.tell(1, Input::Order(Order::Drain(NodeId(0))));
    let agreed = |world: &World| {
        let daemon = world.machines[1].daemon.as_ref().expect("it runs");
        daemon.membership.map().drained().contains(NodeId(0))
    };
    while !agreed(&world) {
        world.run(MS);
    }
    // The checker looks at the first node's map, which may be a moment behind.
    world.run(2 * MS);
    let error = drained_own_nothing(&world).expect_err("its buckets are still on their way");
    assert!(error.contains("drained node"), "{error}");
    world.until(5000, drained_own_nothing);
}

#[test]
fn a_flow_that_was_never_told_is_noticed_and_found_by_the_next_round() {
    for watched in [false, true] {
        let plant = Plant::Swallowed(100);
        let mut world = World::formed(if watched { with(plant) } else { unwatched(plant) }, 3);
        world.run_unchecked(1500 * MS);
        world.traffic.gap = None;
        if watched {
            let round = world.options.timing.audit.as_millis() as u64;
            world.until(round + 300, tables_agree);
            assert!(world.tally.of("flows put right by audits") > 0);
            assert_eq!(world.tally.of("divergences"), 0, "peers are told as usual");
        } else {
            world.run_unchecked(300 * MS);
            let error = tables_agree(&world).expect_err("events were swallowed");
            assert!(error.contains("its owner, node"), "{error}");
        }
    }
}

/// A world in which traffic rests, with a node and a bucket of others that has flows.
fn at_rest(options: Options, seed: u64) -> (World, usize, BucketId) {
    let mut world = World::formed(options, seed);
    world.run(1000 * MS);
    world.traffic.gap = None;
    world.until(1500, tables_agree);
    // All copies have been found equal under their present owners.
    world.run(1200 * MS);
    let bucket = (0..world.options.buckets as usize)
        .find(|&bucket| {
            world.handler(bucket) != Some(0)
                && world.machines[world.handler(bucket).unwrap_or(0)]
                    .kernel
                    .of_bucket(bucket)
                    .next()
                    .is_some()
        })
        .expect("a bucket of another node that has flows");
    (world, 0, BucketId(bucket as u16))
}

#[test]
fn a_copy_that_comes_apart_is_noticed_and_repaired_within_one_comparison() {
    let (mut world, node, bucket) = at_rest(unwatched(Plant::None), 5);
    assert!(world.spoil(node, bucket));
    world.run(3000 * MS);
    tables_agree(&world).expect_err("nobody compares");

    for seed in 1..=12 {
        let (mut world, node, bucket) = at_rest(Options::of(3), seed);
        assert!(world.spoil(node, bucket));
        tables_agree(&world).expect_err("a flow is missing");
        let period = world.options.timing.comparison.as_millis() as u64;
        world.until(period + 150, tables_agree);
        world.run(200 * MS);
        let count = |what| world.tally.of(what);
        assert_eq!((count("divergences"), count("divergences repaired")), (1, 1), "seed {seed}");
        let owner = world.handler(usize::from(bucket.0)).expect("it is served");
        let owner = world.machines[owner].daemon.as_ref().expect("it runs");
        let comparisons = owner.replica.peer(NodeId(node as u8)).comparisons;
        let last = comparisons.last.expect("it is remembered");
        let repair = last.repair.expect("it is repaired");
        assert_eq!((last.bucket, repair.snapshots), (bucket, 1));
        assert_eq!(repair.records, owner.replica.table().count(bucket));
        assert!(repair.took > Duration::ZERO && repair.took < Duration::from_millis(50));
        assert_eq!((comparisons.diverged, comparisons.repaired), (1, 1));
    }
}

#[test]
fn a_copy_that_comes_apart_unplanned_is_a_violation() {
    // The same difference, made by losing changes, with a checker that does not know of the plant.
    let mut world = World::formed(Options::of(3), 1);
    world.run(1500 * MS);
    world.options.plant = Plant::ChangesLost;
    world.run_unchecked(300 * MS);
    world.options.plant = Plant::None;
    let violation = found(&mut world, 1500);
    assert!(violation.contains("has diverged"), "{violation}");
}

#[test]
fn a_late_takeover_is_noticed() {
    let options = Options::of(3);
    let promised = options.timing.takeover;
    let mut slow = options.clone();
    slow.timing.takeover = promised * 3;
    slow.timing.formation = promised * 4;
    let mut world = World::formed(slow, 4);
    world.kill(2);
    let error = takeover_time(&mut world, promised).expect_err("it takes three times as long");
    assert!(error.contains("no takeover in"), "{error}");

    let mut world = World::formed(options, 4);
    world.kill(2);
    // The wait began with the last heartbeat before the death.
    let took = takeover_time(&mut world, promised).expect("in time");
    assert!(took + world.options.timing.heartbeat * 2 > promised, "{took:?}");
}

/// A cluster with flows of every policy.
fn selective(plant: Plant) -> Options {
    let after = Replicate::After(Duration::from_millis(40));
    let policies = vec![Replicate::FirstPacket, Replicate::Established, after, Replicate::Never];
    Options { policies, ..with(plant) }
}

#[test]
fn flows_that_are_told_of_against_their_rules_are_noticed() {
    let mut world = World::new(selective(Plant::PoliciesForgotten), 1);
    let violation = found(&mut world, 2500);
    assert!(violation.contains("tells of") && violation.contains("whose rule"), "{violation}");

    // Whoever knows such a flow, by whatever way, is found by looking at what it knows.
    let told = (0..1000).find_map(|_| {
        world.run_unchecked(MS);
        world.violation = None;
        (1..3).find_map(|node| kept_back(&world, node).err())
    });
    assert!(told.is_some_and(|error| error.contains("knows")));
}

#[test]
fn flows_that_are_kept_back_against_their_rules_are_noticed() {
    let mut world = World::new(selective(Plant::AllKeptBack), 1);
    let violation = found(&mut world, 2500);
    assert!(violation.contains("does not tell of"), "{violation}");
}

#[test]
fn flows_whose_time_never_comes_are_noticed() {
    for plant in [Plant::DueForgotten, Plant::None] {
        let mut world = World::formed(selective(plant), 1);
        world.run(1000 * MS);
        world.traffic.gap = None;
        let agree = world.wait(1500, tables_agree);
        match plant {
            Plant::None => agree.expect("all are told of"),
            _ => drop(agree.expect_err("flows of the third rule are told of by nobody")),
        }
    }
}

#[test]
fn flows_that_are_kept_back_from_the_next_owner_are_noticed() {
    for (plant, whole) in [(Plant::ReadOutForgotten, false), (Plant::None, true)] {
        let mut world = World::formed(selective(plant), 1);
        world.run(500 * MS);
        move_buckets(&mut world);
        let violation = world.violation.take().unwrap_or_default();
        match whole {
            true => assert_eq!(violation, ""),
            false => assert!(violation.contains("in its kernel, of which"), "{violation}"),
        }
    }
}

fn translating(plant: Plant) -> Options {
    Options { translates: true, hears_at_once: true, ..with(plant) }
}

#[test]
fn a_port_of_another_bucket_is_noticed() {
    let mut world = World::new(translating(Plant::ClassIgnored), 1);
    let violation = found(&mut world, 1500);
    assert!(violation.contains("are of another bucket"), "{violation}");
}

#[test]
fn replies_that_two_flows_have_are_noticed() {
    // While entries are on their way into the kernel of whoever takes over, only the common table has them.
    let die = |plant| {
        let mut world = World::formed(translating(plant), 3);
        world.traffic.gap = Some(MS / 8);
        world.run_unchecked(400 * MS);
        world.isolate(0);
        found(&mut world, 600)
    };
    let violation = die(Plant::RepliesForgotten);
    assert!(violation.contains("have the same replies"), "{violation}");
    assert_eq!(die(Plant::None), "");
}

#[test]
fn a_flow_that_is_translated_anew_on_its_way_is_noticed() {
    let mut world = World::formed(translating(Plant::TranslationsLost), 1);
    move_buckets(&mut world);
    let violation = world.violation.take().unwrap_or_default();
    assert!(violation.contains("was translated to"), "{violation}");
    let mut world = World::formed(translating(Plant::None), 1);
    move_buckets(&mut world);
    assert_eq!(world.violation, None);
}
