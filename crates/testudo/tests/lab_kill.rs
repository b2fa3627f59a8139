//! The main job, with the real program and the real kernel: a node dies, and no connection notices.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;

use std::process::Command;

use serde_json::Value;

/// Runs a lab and returns its report.
fn lab(arguments: &[&str]) -> Value {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_testudo"));
    let output = lab.arg("lab").arg("--json").args(arguments).output().expect("the lab starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?} ended with {}: {said}", output.status);
    serde_json::from_slice(&output.stdout).expect("one JSON object on stdout, and nothing else")
}

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {report}"))
}

fn a_thousand_connections_outlive_a_node() {
    let report = lab(&["--nodes", "3", "--connections", "1000"]);
    assert_eq!(report["scenario"], "kill");
    assert_eq!(report["mode"], "shared");
    assert_eq!(report["passed"], true);
    let connections = ["opened", "alive", "lost", "reset"]
        .map(|what| number(&report, &format!("/connections/{what}")));
    assert_eq!(connections, [1000, 1000, 0, 0]);
    // The dead node's buckets, and none but those.
    assert!((85..=86).contains(&number(&report, "/buckets_moved")), "{report}");
    assert_eq!(number(&report, "/packets/duplicated"), 0);
    let nodes = report["nodes"].as_array().expect("nodes");
    let alive: Vec<_> = nodes.iter().filter(|node| node["alive"] == true).collect();
    assert_eq!((nodes.len(), alive.len()), (3, 2));
    let sum = |what: &str| -> u64 { alive.iter().map(|n| n[what].as_u64().unwrap()).sum() };
    assert_eq!(sum("buckets"), 256);
    // Own flows only in each node table, all flows in each common table.
    let flows = sum("node_table");
    assert!(flows >= 1000, "{report}");
    for node in alive {
        assert!(node["node_table"].as_u64().unwrap() < flows, "{report}");
        assert_eq!(node["common_table"].as_u64().unwrap(), flows, "{report}");
    }
}

fn whoever_has_got_an_answer_has_a_connection_that_outlives_the_node() {
    // The peers hear of a flow 10 ms after its first packet: time enough for an answer to be in vain.
    let report = lab(&[
        "--connections",
        "20",
        "--flows",
        "4",
        "--connects",
        "500",
        "--sync-delay",
        "5",
        "--kills",
        "2",
        "--commit",
        "sync",
    ]);
    assert_eq!(report["passed"], true);
    assert!(number(&report, "/connects/checked") > 500, "{report}");
    assert_eq!(number(&report, "/connects/lost"), 0, "{report}");
}

fn a_node_that_hangs_is_stopped_by_its_kernel_and_succeeded() {
    let report = lab(&["--scenario", "pause", "--connections", "100"]);
    assert_eq!(report["passed"], true);
    assert_eq!(number(&report, "/connections/alive"), 100);
    // Two owners of one bucket would both have forwarded its packets.
    assert_eq!(number(&report, "/packets/duplicated"), 0);
}

fn a_bad_configuration_is_refused_before_anything_is_touched() {
    let directory = std::env::temp_dir().join(format!("testudo-bad-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let file = directory.join("node.toml");
    let good = include_str!("../../../docs/node.toml");
    let bad = good.replacen("buckets = 256", "buckets = 250", 1);
    assert_ne!(good, bad, "the example has 256 buckets");
    std::fs::write(&file, &bad).expect("a file");
    let mut node = Command::new(env!("CARGO_BIN_EXE_testudo"));
    let output = node.args(["node", "--config"]).arg(&file).output().expect("the node starts");
    std::fs::remove_dir_all(&directory).expect("a clean end");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    let line = 1 + bad.lines().position(|line| line == "buckets = 250").expect("the line");
    let place = format!("{}:{line}:11: ", file.display());
    assert!(said.starts_with(&place), "expected {place} in: {said}");
    assert!(said.contains("250") && said.contains("expected a power of two"), "{said}");
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            ("a_thousand_connections_outlive_a_node", a_thousand_connections_outlive_a_node),
            (
                "whoever_has_got_an_answer_has_a_connection_that_outlives_the_node",
                whoever_has_got_an_answer_has_a_connection_that_outlives_the_node,
            ),
            (
                "a_node_that_hangs_is_stopped_by_its_kernel_and_succeeded",
                a_node_that_hangs_is_stopped_by_its_kernel_and_succeeded,
            ),
        ],
        &[(
            "a_bad_configuration_is_refused_before_anything_is_touched",
            a_bad_configuration_is_refused_before_anything_is_touched,
        )],
    )
}
