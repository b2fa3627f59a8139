//! Every checker, seen to fail: a checker that has never failed proves nothing.

#[allow(dead_code, reason = "each file of tests uses its part of the harness")]
mod harness;

use std::time::Duration;

use harness::checkers::{every_bucket_owned, tables_agree, takeover_time};
use harness::options::{MS, Options};
use harness::world::World;
use testudo_cluster::config::{Cluster, Settings};

#[test]
fn the_checker_catches_a_lease_longer_than_the_wait() {
    let mut options = Options::of(3);
    options.timing.lease = Duration::from_millis(300);
    let mut world = World::formed(options.clone(), 1);
    world.isolate(0);
    world.run_unchecked(600 * MS);
    let violation = world.violation.take().expect("two owners");
    assert!(violation.contains("both handle bucket"), "{violation}");

    // The same cut with times that `Cluster::new` lets through.
    options.timing.lease = Options::of(3).timing.lease;
    let mut world = World::formed(options, 1);
    world.isolate(0);
    world.run(600 * MS);
}

#[test]
fn a_lease_longer_than_the_wait_is_refused_where_it_counts() {
    let options = Options::of(3);
    let mut timing = options.timing;
    let settings = |timing| Settings {
        name: "lab".into(),
        secret: harness::options::SECRET,
        members: vec!["n1".into()],
        node: testudo_packet::bucket::NodeId(0),
        buckets: options.buckets,
        timing,
        max_flows: 1000,
    };
    // The times that all other tests run with are the shortest that are allowed, or nearly.
    assert!(Cluster::new(settings(timing)).is_ok());
    timing.lease = Duration::from_millis(110);
    assert!(Cluster::new(settings(timing)).is_err());
}

#[test]
fn the_checker_catches_a_bucket_without_owner() {
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
fn the_checker_catches_a_flow_that_was_never_told() {
    let mut world = World::formed(Options { swallowed: 20, ..Options::of(3) }, 3);
    world.run(500 * MS);
    world.traffic = false;
    world.run(300 * MS);
    let error = tables_agree(&world).expect_err("events were swallowed");
    assert!(error.contains("its owner, node"), "{error}");
}

#[test]
fn the_checker_catches_a_late_takeover() {
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
