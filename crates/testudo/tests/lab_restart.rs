//! Daemons that are replaced while they work, with the real program and the real kernel: nobody notices.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;

use std::process::Command;

use serde_json::Value;

fn number(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{path} in {report}"))
}

fn restart_all(mode: &str) {
    let mut lab = Command::new(env!("CARGO_BIN_EXE_testudo"));
    let logs = std::env::temp_dir().join(format!("testudo-restart-{mode}-{}", std::process::id()));
    lab.args(["lab", "--json", "--scenario", "restart", "--connections", "100", "--mode", mode]);
    lab.arg("--logs").arg(&logs);
    let output = lab.output().expect("the lab starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "it ended with {}: {said}\n{told}", output.status);
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(report["passed"], true);
    let connections = ["opened", "alive", "lost", "reset"]
        .map(|what| number(&report, &format!("/connections/{what}")));
    assert_eq!(connections, [100, 100, 0, 0]);
    assert_eq!(number(&report, "/packets/duplicated"), 0);
    assert_eq!(number(&report, "/packets/sent"), number(&report, "/packets/received"));
    for node in ["n1", "n2", "n3"] {
        let log = std::fs::read_to_string(logs.join(format!("{node}.log"))).expect("a log");
        assert!(!log.contains("is fenced"), "nobody has taken anything over: {log}");
        assert_eq!(log.matches("goes on where the one before has stopped").count(), 1, "{log}");
    }
    std::fs::remove_dir_all(&logs).expect("a clean end");
    assert_eq!(said.matches("has replaced itself").count(), 3, "{said}");
}

fn three_daemons_are_replaced_one_after_the_other_and_no_packet_is_lost() {
    restart_all("shared");
    // Where nodes pass packets to each other, their addresses have to be handed over, too.
    restart_all("steered");
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[(
            "three_daemons_are_replaced_one_after_the_other_and_no_packet_is_lost",
            three_daemons_are_replaced_one_after_the_other_and_no_packet_is_lost,
        )],
        &[],
    )
}
