//! Flows that the cluster translates, with the real program, the real kernel and real TCP: the server sees the addresses
//! that stand for the client and no other, the client finds it where it is not, whatever happens to the nodes.
//!
//! Needs root; ignored, with the reason, without it. The labs run one after the other.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;

use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a lab with this translation, which has to pass, and returns its report.
fn lab(translation: &[&str], arguments: &[&str]) -> Value {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lab = Command::new(env!("CARGO_BIN_EXE_testudo"));
    let output = lab.args(["lab", "--json"]).args(translation).args(arguments).output();
    let output = output.expect("the lab starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: no report ({error}): {said}"));
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    assert_eq!(report["passed"], true, "{report}");
    report
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {report}"))
}

/// Connections that a node dies under.
fn outlive(translation: &[&str]) {
    let scenario = ["--scenario", "kill", "--connections", "200", "--flows", "20", "--hold", "2"];
    let report = lab(translation, &scenario);
    assert_eq!(number(&report, "/connections/alive"), 200);
    assert!(number(&report, "/connections/verified_bytes") > 1_000_000, "{report}");
}

fn connections_outlive_a_node_under_the_clusters_addresses() {
    outlive(&["--snat"]);
}

fn connections_to_a_service_outlive_a_node() {
    outlive(&["--dnat"]);
}

fn connections_outlive_a_node_under_an_address_of_their_own() {
    outlive(&["--mapping"]);
}

fn moves_lose_and_double_nothing_that_is_translated() {
    move_all(&["--snat"]);
}

fn moves_lose_and_double_nothing_that_is_translated_at_both_ends() {
    move_all(&["--snat", "--dnat"]);
}

/// Numbered packets while buckets move. No node fails, so leases are long enough for a machine that pauses.
fn move_all(translation: &[&str]) {
    let scenario =
        ["--scenario", "moves", "--connections", "50", "--flows", "60", "--buckets", "64"];
    let report = lab(translation, &[&scenario[..], &["--timing", "600,1000,100"]].concat());
    for way in ["up", "down"] {
        assert!(number(&report, &format!("/{way}/sent")) > 1_000, "{report}");
        for what in ["lost", "doubled"] {
            assert_eq!(number(&report, &format!("/{way}/{what}")), 0, "{report}");
        }
    }
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "connections_outlive_a_node_under_the_clusters_addresses",
                connections_outlive_a_node_under_the_clusters_addresses,
            ),
            ("connections_to_a_service_outlive_a_node", connections_to_a_service_outlive_a_node),
            (
                "connections_outlive_a_node_under_an_address_of_their_own",
                connections_outlive_a_node_under_an_address_of_their_own,
            ),
            (
                "moves_lose_and_double_nothing_that_is_translated",
                moves_lose_and_double_nothing_that_is_translated,
            ),
            (
                "moves_lose_and_double_nothing_that_is_translated_at_both_ends",
                moves_lose_and_double_nothing_that_is_translated_at_both_ends,
            ),
        ],
        &[],
    )
}
