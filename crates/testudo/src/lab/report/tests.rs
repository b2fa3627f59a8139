//! Runs made up from numbers, and what is said of them.

use clap::Parser;

use super::facts::{Event, Played};
use super::*;
use crate::lab::analyser::Got;
use crate::lab::args::RunArgs;
use crate::lab::samples::Seen;
use crate::lab::state::State;
use crate::lab::traffic::{TcpOutcome, UdpOutcome};

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
            {"name": name, "process": null, "config": "", "control": "", "log": "", "state": ""})
    };
    serde_json::from_value(serde_json::json!({
        "name": "t", "owner": null, "buckets": 8, "namespaces": [],
        "plan": {"mode": "shared", "nodes": 2, "witness": false},
        "nodes": [node("n1"), node("n2")],
    }))
    .unwrap()
}

fn args(line: &str) -> RunArgs {
    #[derive(Debug, clap::Parser)]
    #[command(args_override_self = true)]
    struct Line {
        #[command(flatten)]
        args: RunArgs,
    }
    Line::parse_from(format!("lab --nodes 2 --connections 10 --flows 1 {line}").split(' ')).args
}

/// A flow whose echoes arrived at these times; the last datagram of each kind is 10 ms old.
fn flow(arrivals: &[u64]) -> Flow {
    let mut flow = Flow::default();
    for (number, at) in (0..).zip(arrivals) {
        for way in [&mut flow.up, &mut flow.down] {
            way.sent.note(number, at - 1_000);
            way.arrived.note(number, *at);
        }
    }
    flow
}

/// A run of two nodes in which n2 was killed at 1 s, n1 took its 4 buckets, and the one flow was
/// silent for 165 ms. `change` makes it another run.
fn judged(line: &str, change: impl FnOnce(&mut Facts<'_>)) -> Report {
    let (state, args) = (state(), args(line));
    let before =
        Seen { latest: vec![status(4, 5, 0), status(4, 4, 0)], samples: 7, ..Seen::default() };
    let after = Seen { latest: vec![status(8, 9, 4), status(4, 4, 0)], ..before.clone() };
    let mut tcp = TcpOutcome::default();
    (tcp.opened, tcp.alive, tcp.stalls) = (10, 10, vec![1_000, 170_000]);
    let udp = UdpOutcome { flows: vec![flow(&[995_000, 1_160_000, 1_165_000, 1_999_000])] };
    let mut facts = Facts {
        args: &args,
        seed: 3,
        state: &state,
        before: &before,
        after: &after,
        alive: &[true, false],
        watched: &[true, false],
        agree: true,
        window: (1_000_000, 1_200_000),
        played: &Played::default(),
        tcp: &tcp,
        udp: &udp,
        analysed: None,
    };
    change(&mut facts);
    Report::judge(&facts)
}

#[test]
fn a_run_without_loss_passes() {
    let report = judged("--scenario kill", |_| {});
    assert_eq!(report.failures, [""; 0]);
    assert!(report.passed);
    assert_eq!(report.buckets_moved, 4);
    assert_eq!(report.blackout_ms, Quantiles { p50: 165.0, p99: 165.0, max: 165.0 });
    assert_eq!(report.connections.stall_ms.max, 170.0);
    assert_eq!((report.up.sent, report.down.lost), (2, 0), "in the window");
    assert_eq!(report.nodes[1].before.node_table, 4);
    assert_eq!((report.nodes[1].alive, report.nodes[1].node_table), (false, 0));
}

#[test]
fn the_json_has_the_agreed_shape() {
    let value = serde_json::to_value(judged("--scenario kill", |_| {})).unwrap();
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
    let report = judged("--scenario kill", |facts| facts.tcp = Box::leak(Box::new(tcp)));
    assert!(!report.passed);
    assert!(report.failures.contains(&"1 connections were lost".to_owned()));
    assert!(report.failures.contains(&"connection 3: silent".to_owned()));
    assert!(report.to_string().contains("--connections 10 --flows 1 --scenario kill --seed 3"));
}

#[test]
fn each_condition_is_demanded() {
    let failed = |change: fn(&mut Facts<'_>)| judged("--scenario kill", change).failures.len();
    assert_eq!(failed(|facts| facts.agree = false), 1);
    assert_eq!(judged("--scenario kill --connections 11", |_| {}).failures.len(), 1);
    assert_eq!(judged("--scenario kill --flows 2", |_| {}).failures.len(), 1);
    assert_eq!(failed(|facts| facts.watched = &[true, true]), 1);
    assert_eq!(failed(|facts| facts.after = facts.before), 1, "no bucket moved");
    assert_eq!(failed(|facts| facts.window.1 = 9_000_000), 1, "the flow fell silent");
}

#[test]
fn one_datagram_lost_fails_what_was_planned_and_no_crash() {
    let mut lossy = flow(&[995_000, 1_160_000, 1_165_000, 1_999_000]);
    lossy.up.sent.note(9, 1_100_000);
    let lose = |facts: &mut Facts<'_>| {
        facts.udp = Box::leak(Box::new(UdpOutcome { flows: vec![lossy.clone()] }));
    };
    assert_eq!(judged("--scenario kill", lose).failures, [""; 0]);
    let planned = judged("--scenario none", lose);
    assert_eq!(planned.failures, ["1 datagrams to the server were lost, and none had to"]);
    assert_eq!((planned.up.lost, planned.packets.lost), (1, 1));
}

#[test]
fn one_datagram_doubled_fails_every_run() {
    let mut doubled = flow(&[995_000, 1_160_000, 1_165_000, 1_999_000]);
    doubled.down.arrived.note(1, 1_170_000);
    let report = judged("--scenario kill", |facts| {
        facts.udp = Box::leak(Box::new(UdpOutcome { flows: vec![doubled] }));
    });
    assert_eq!(report.failures, ["1 datagrams back came twice"]);
}

#[test]
fn one_packet_out_of_a_minority_fails_the_run() {
    let minority = |forwarded| {
        move |facts: &mut Facts<'_>| {
            let minority = Some((1, 1_000_000, 2_000_000, forwarded));
            facts.played = Box::leak(Box::new(Played { minority, ..Played::default() }));
        }
    };
    assert!(judged("--scenario cut", minority(0)).passed);
    let report = judged("--scenario cut", minority(1));
    assert_eq!(report.failures, ["n2 let 1 packets through in 1000 ms without a majority"]);
}

#[test]
fn every_kill_has_a_blackout_of_its_own() {
    let event = |at, until| Event {
        node: "n2".into(),
        at,
        until,
        first_packet_micros: None,
        flipped_micros: Some(40.0),
        loaded_micros: None,
    };
    let report = judged("--scenario kill --kills 2", |facts| {
        let events = vec![event(1_000_000, 1_162_000), event(1_161_000, 1_190_000)];
        facts.played = Box::leak(Box::new(Played { events, ..Played::default() }));
    });
    let blackouts: Vec<f64> = report.events.iter().map(|event| event.blackout_ms).collect();
    assert_eq!(blackouts, [165.0, 25.0]);
    assert_eq!(report.event_blackout_ms, Quantiles { p50: 25.0, p99: 165.0, max: 165.0 });
}

#[test]
fn in_tap_mode_the_analysers_are_judged() {
    let whole = flow(&[995_000, 1_160_000, 1_165_000, 1_999_000]);
    let got = Got { up: whole.up.arrived.clone(), down: whole.down.arrived.clone() };
    let tap = |analysed: Vec<Vec<Got>>| {
        judged("--scenario none --mode tap", move |facts| {
            let mut state = state();
            state.plan.mode = Mode::Tap;
            facts.state = Box::leak(Box::new(state));
            facts.analysed = Some(Vec::leak(analysed));
        })
    };
    assert_eq!(tap(vec![vec![got.clone()], vec![Got::default()]]).failures, [""; 0]);
    let twice = tap(vec![vec![got.clone()], vec![got.clone()]]);
    assert_eq!(twice.failures.len(), 2, "{:?}", twice.failures);
    let never = tap(vec![vec![Got::default()], vec![Got::default()]]);
    assert_eq!(never.analysed.map(|[up, down]| (up.lost, down.lost)), Some((2, 2)));
    assert!(!never.passed);
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
