//! Faults beside the plain death of a node, with the real program and the real kernel: cables that are
//! pulled, power that fails twice, and nothing at all.
//!
//! Needs root; ignored, with the reason, without it. The labs run one after the other: each measures
//! times, and two at once would measure each other.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a lab and returns its report, whatever it says.
fn lab(arguments: &[&str]) -> Value {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lab = Command::new(env!("CARGO_BIN_EXE_testudo"));
    let output = lab.arg("lab").arg("--json").args(arguments).output().expect("the lab starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: no report ({error}): {said}"));
    assert_eq!(output.status.success(), report["passed"] == true, "{report}");
    report
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {report}"))
}

fn nothing_is_lost_doubled_or_reordered_while_nothing_happens() {
    let report = lab(&["--scenario", "none", "--connections", "200", "--hold", "2"]);
    assert_eq!(report["failures"], serde_json::json!([]));
    for way in ["up", "down"] {
        assert!(number(&report, &format!("/{way}/sent")) > 10_000, "{report}");
        for what in ["lost", "doubled"] {
            assert_eq!(number(&report, &format!("/{way}/{what}")), 0, "{report}");
        }
    }
    assert!(number(&report, "/connections/verified_bytes") > 1_000_000, "{report}");
}

fn a_node_without_a_majority_forwards_nothing() {
    let report = lab(&["--scenario", "cut", "--connections", "200", "--hold", "2"]);
    assert_eq!(report["failures"], serde_json::json!([]));
    assert_eq!(number(&report, "/minority/forwarded"), 0);
    assert!(report["minority"]["for_ms"].as_f64() > Some(1_000.0), "{report}");
    assert_eq!(number(&report, "/connections/alive"), 200);
}

fn three_of_five_nodes_carry_on_when_two_lose_power_one_after_the_other() {
    let report =
        lab(&["--scenario", "kill-two", "--nodes", "5", "--connections", "200", "--hold", "2"]);
    assert_eq!(report["failures"], serde_json::json!([]));
    assert_eq!(number(&report, "/connections/alive"), 200);
    assert_eq!(report["events"].as_array().map(Vec::len), Some(2));
    let nodes = report["nodes"].as_array().expect("nodes");
    let alive = nodes.iter().filter(|node| node["alive"] == true);
    let owned: u64 = alive.map(|node| node["buckets"].as_u64().unwrap_or_default()).sum();
    assert_eq!(owned, 256, "{report}");
}

fn a_takeover_is_measured_with_a_table_that_was_filled_before() {
    let report = lab(&["--prefill", "20000", "--connections", "50", "--hold", "1"]);
    assert_eq!(report["failures"], serde_json::json!([]));
    let nodes = report["nodes"].as_array().expect("nodes");
    for node in nodes {
        assert!(node["before"]["common_table"].as_u64() >= Some(20_000), "{report}");
    }
    assert!(report.pointer("/events/0/flipped_micros").is_some_and(Value::is_f64), "{report}");
}

/// What is asked of every run in which replication has a hard time: forwarding does not notice, and all
/// tables are equal afterwards.
fn hardship(arguments: &[&str]) -> Value {
    let load = ["--connections", "100", "--churn", "2000", "--hold", "3"];
    let report = lab(&[arguments, &load].concat());
    assert_eq!(report["failures"], serde_json::json!([]));
    assert_eq!(report["common_tables_agree"], true);
    assert!(number(&report, "/churned") > 4_000, "{report}");
    for way in ["up", "down"] {
        assert_eq!(number(&report, &format!("/{way}/lost")), 0, "{report}");
    }
    report
}

fn sync_links_that_lose_and_delay_cost_nothing_but_time() {
    hardship(&["--scenario", "none", "--sync-loss", "5", "--sync-delay", "2"]);
}

fn a_peer_whose_streams_stand_still_keeps_nobody_from_forwarding() {
    let report = hardship(&["--scenario", "stall", "--stall", "12"]);
    assert_eq!(number(&report, "/steps/0/count"), 1);
    for memory in report["memory"].as_array().expect("what the daemons needed") {
        let (before, peak) = (number(memory, "/before_kib"), number(memory, "/peak_kib"));
        // Some 30,000 flows in all tables, and a place for each that the peer was not told of.
        assert!(before > 0 && peak < before + (64 << 10), "{report}");
    }
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "nothing_is_lost_doubled_or_reordered_while_nothing_happens",
                nothing_is_lost_doubled_or_reordered_while_nothing_happens,
            ),
            (
                "a_node_without_a_majority_forwards_nothing",
                a_node_without_a_majority_forwards_nothing,
            ),
            (
                "three_of_five_nodes_carry_on_when_two_lose_power_one_after_the_other",
                three_of_five_nodes_carry_on_when_two_lose_power_one_after_the_other,
            ),
            (
                "sync_links_that_lose_and_delay_cost_nothing_but_time",
                sync_links_that_lose_and_delay_cost_nothing_but_time,
            ),
            (
                "a_peer_whose_streams_stand_still_keeps_nobody_from_forwarding",
                a_peer_whose_streams_stand_still_keeps_nobody_from_forwarding,
            ),
            (
                "a_takeover_is_measured_with_a_table_that_was_filled_before",
                a_takeover_is_measured_with_a_table_that_was_filled_before,
            ),
        ],
        &[],
    )
}
