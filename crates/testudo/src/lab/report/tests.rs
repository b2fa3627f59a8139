//! Runs made up from numbers, and what is said of them.

use super::*;
use crate::lab::traffic::Flow;

fn status(owned: u32, entries: u64, taken: u64) -> Option<Status> {
    let status = serde_json::json!({
        "node": "n1", "cluster": "t", "mode": "shared", "role": "member",
        "lease": {"held": true, "remaining_ms": 80},
        "buckets": {"total": 8, "owned": owned, "loading": 0},
        "node_table": {"entries": entries, "capacity": 64, "foreign": 0},
        "common_table": {"entries": 9, "digest": "0000000000000000"},
        "peers": [], "takeovers": 0, "buckets_taken": taken, "counters": {},
    });
    Some(serde_json::from_value(status).unwrap())
}

fn state() -> State {
    let node = |name: &str| {
        serde_json::json!(
            {"name": name, "process": null, "config": "", "control": "", "log": ""})
    };
    serde_json::from_value(serde_json::json!({
        "name": "t", "owner": null, "buckets": 8, "namespaces": [],
        "nodes": [node("n1"), node("n2")],
    }))
    .unwrap()
}

/// A run of two nodes in which n2 was killed at 1 s, n1 took its 4 buckets, and the one flow was
/// silent for 165 ms. `change` makes it another run.
fn judged(change: impl FnOnce(&mut Facts<'_>)) -> Report {
    let state = state();
    let before =
        Seen { latest: vec![status(4, 5, 0), status(4, 4, 0)], samples: 7, ..Seen::default() };
    let after = Seen { latest: vec![status(8, 9, 4), status(4, 4, 0)], ..before.clone() };
    let mut tcp = TcpOutcome::default();
    (tcp.opened, tcp.alive) = (10, 10);
    let mut flow = Flow::default();
    flow.arrivals = vec![995_000, 1_160_000, 1_165_000, 1_999_000];
    let udp = UdpOutcome { flows: vec![flow] };
    let mut facts = Facts {
        scenario: Scenario::Kill,
        load: Load { connections: 10, flows: 1, ipv6: true, seed: 3 },
        state: &state,
        before: &before,
        after: &after,
        alive: &[true, false],
        watched: &[true, false],
        agree: true,
        window: (1_000_000, 1_200_000),
        tcp: &tcp,
        udp: &udp,
    };
    change(&mut facts);
    Report::judge(&facts)
}

#[test]
fn a_run_without_loss_passes() {
    let report = judged(|_| {});
    assert_eq!(report.failures, [""; 0]);
    assert!(report.passed);
    assert_eq!(report.buckets_moved, 4);
    assert_eq!(report.blackout_ms, Blackout { p50: 165.0, p99: 165.0, max: 165.0 });
    assert_eq!(report.nodes[1].before.node_table, 4);
    assert_eq!((report.nodes[1].alive, report.nodes[1].node_table), (false, 0));
}

#[test]
fn the_json_has_the_agreed_shape() {
    let value = serde_json::to_value(judged(|_| {})).unwrap();
    for key in ["scenario", "mode", "nodes", "connections", "packets", "blackout_ms"] {
        assert!(!value[key].is_null(), "{key}");
    }
    for key in ["name", "alive", "buckets", "node_table", "common_table"] {
        assert!(!value["nodes"][0][key].is_null(), "nodes.{key}");
    }
    for key in ["opened", "alive", "lost", "reset"] {
        assert!(value["connections"][key].is_u64(), "connections.{key}");
    }
    for key in ["sent", "received", "lost", "duplicated"] {
        assert!(value["packets"][key].is_u64(), "packets.{key}");
    }
    for key in ["p50", "p99", "max"] {
        assert!(value["blackout_ms"][key].is_f64(), "blackout_ms.{key}");
    }
    assert_eq!(value["scenario"], "kill");
    assert_eq!(value["buckets_moved"], 4);
    assert_eq!(value["passed"], true);
}

#[test]
fn one_lost_connection_fails_the_run() {
    let mut tcp = TcpOutcome::default();
    (tcp.opened, tcp.alive, tcp.lost) = (10, 9, 1);
    tcp.reasons = vec!["connection 3: silent".into()];
    let report = judged(|facts| facts.tcp = Box::leak(Box::new(tcp)));
    assert!(!report.passed);
    assert!(report.failures.contains(&"1 connections were lost".to_owned()));
    assert!(report.failures.contains(&"connection 3: silent".to_owned()));
    assert!(report.to_string().contains("--connections 10 --flows 1 --scenario kill --seed 3"));
}

#[test]
fn each_condition_is_demanded() {
    let failed = |change: fn(&mut Facts<'_>)| judged(change).failures.len();
    assert_eq!(failed(|facts| facts.agree = false), 1);
    assert_eq!(failed(|facts| facts.load.connections = 11), 1);
    assert_eq!(failed(|facts| facts.load.flows = 2), 1);
    assert_eq!(failed(|facts| facts.watched = &[true, true]), 1);
    assert_eq!(failed(|facts| facts.after = facts.before), 1, "no bucket moved");
    assert_eq!(failed(|facts| facts.window.1 = 9_000_000), 1, "the flow fell silent");
}

#[test]
fn percentiles_are_of_the_nearest_rank() {
    let values: Vec<u64> = (1..=200).collect();
    assert_eq!(percentile(&values, 50), 100);
    assert_eq!(percentile(&values, 99), 198);
    assert_eq!(percentile(&values, 100), 200);
    assert_eq!(percentile(&[7], 50), 7);
    assert_eq!(percentile(&[], 99), 0);
}
