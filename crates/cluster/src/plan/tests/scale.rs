//! The largest cluster, and how long plans for it take.

use super::super::{
    BalanceSettings, Capacity, Lately, by_load, drain_report, even_successors, rebalance, succeed,
};
use super::*;
use std::time::{Duration, Instant};
use testudo_packet::bucket::{MAX_BUCKETS, Nanos};

/// The largest number of nodes in a cluster.
const MOST: usize = crate::config::MAX_NODES;

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{what}: {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

/// Prints times; only a quadratic plan would make it fail, by never ending.
#[test]
fn the_largest_cluster_is_planned_in_reasonable_time() {
    let weights: Vec<u32> = (0..MOST as u32 - 1).map(|node| 1 + node % 3).collect();
    let length = 4;
    let mut cluster = Cluster::new(&weights, MAX_BUCKETS, length);
    let first = timed("spread", || spread(MAX_BUCKETS, &cluster.candidates, length));
    assert!(first.iter().map(|change| &change.ranks).eq(&cluster.lists), "the same every time");
    cluster.candidates.push(candidate(MOST as u8 - 1, 2));
    let all = usize::MAX;
    let held = cluster.held();
    let join = timed("rebalance", || rebalance(&held, &cluster.candidates, length, all));
    cluster.apply(&join);
    let held = cluster.held();
    let evened =
        timed("even_successors", || even_successors(&held, &cluster.candidates, length, all));
    cluster.apply(&evened);
    cluster.kill(NodeId(17));
    let held = cluster.held();
    let repaired = timed("succeed", || succeed(&held, &cluster.candidates, length));
    cluster.apply(&repaired);
    assert!(!join.is_empty() && !evened.is_empty() && !repaired.is_empty());

    let loads: Vec<f64> = (0..cluster.lists.len()).map(|b| 1.0 / (1 + b % 1000) as f64).collect();
    let settings = BalanceSettings {
        hysteresis_percent: 20.0,
        rest: Duration::from_secs(60),
        per_minute: all,
    };
    let held = cluster.held();
    let lately = Lately { moved: &[], now: Nanos(0) };
    let plan = timed("by_load", || {
        by_load(&held, &cluster.candidates, length, &loads, &settings, lately, all)
    });
    println!("max/mean {:.3} -> {:.3}, {} moves", plan.before, plan.after, plan.changes.len());
    let capacity = Capacity { per_weight: Some(1.0), percent: 80.0 };
    let report = timed("drain_report", || {
        drain_report(&held, &cluster.candidates, length, &loads, NodeId(3), &capacity)
    });
    assert!(!report.moves.is_empty());
}
