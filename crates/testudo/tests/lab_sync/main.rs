//! All nodes have the same, with the real program and the real kernel: whatever has happened to the
//! cluster, its own comparison says so while connections go on.
//!
//! Needs root; ignored, with the reason, without it.

mod admit;
#[path = "../../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
#[path = "../standing/mod.rs"]
mod standing;

use serde_json::Value;

use standing::Standing;
use standing::load::Load;

/// Has a node compare the tables of all, and demands that they are the same.
fn verify(standing: &Standing, node: &str, nodes: &[&str]) {
    let verification = standing.ask(node, &["sync", "verify"]).expect("a verification");
    assert_eq!(verification["identical"], true, "by {node}: {verification}");
    assert_eq!(verification["buckets"], 256, "{verification}");
    assert_eq!(verification["nodes"], Value::from(nodes.to_vec()), "{verification}");
    assert!(standing.tell(node, &["sync", "verify"]), "the exit code says so, too");
}

/// What a node says of its peers, one by one.
fn peers(standing: &Standing, node: &str) -> Vec<Value> {
    let syncs = standing.ask(node, &["sync", "show"]).expect("how entries are synced");
    syncs["peers"].as_array().expect("peers").clone()
}

fn tables_are_the_same_after_moves_and_a_death_under_load() {
    let standing = Standing::up("sync", 3, &[]);
    standing.settled();
    let load = Load::start(&standing);
    verify(&standing, "n1", &["n1", "n2", "n3"]);

    let agreed = standing.settled();
    let before = agreed.version();
    for bucket in [3, 77, 200] {
        let to = if agreed.owner(bucket) == "n2" { "n3" } else { "n2" };
        let number = bucket.to_string();
        assert!(standing.tell("n1", &["bucket", "move", &number, to]));
        standing.until("the bucket has moved", || standing.agreed().owner(bucket) == to);
    }
    assert!(standing.agreed().version() >= before + 3, "{} has moved three", standing.name());
    verify(&standing, "n2", &["n1", "n2", "n3"]);

    standing.order("kill", "n3");
    standing.until("n3 is gone", || !standing.runs("n3"));
    standing.await_line("n1", &["no longer synced", "n3"]);
    // Until it counts as dead the others can't know all, and say so instead of guessing.
    let early = standing.ask("n1", &["sync", "verify"]).expect("a verification");
    let dead = early["dead"].as_array().expect("a list");
    assert!(early["identical"] == false || dead == &["n3"], "{early}");
    standing.await_owners(&[1, 2]);
    standing.until("n3 counts as dead", || {
        let found = standing.ask("n1", &["sync", "verify"]).expect("a verification");
        found["dead"] == Value::from(vec!["n3"]) && found["identical"] == true
    });
    verify(&standing, "n2", &["n1", "n2"]);

    standing.order("start", "n3");
    standing.await_owners(&[1, 2, 3]);
    standing.settled();
    verify(&standing, "n3", &["n1", "n2", "n3"]);
    load.finish();

    for node in ["n1", "n2", "n3"] {
        for peer in peers(&standing, node) {
            let sync = &peer["sync"];
            assert_eq!(sync["connected"], true, "{node}: {peer}");
            assert!(sync["comparison"]["equal"].as_u64() > Some(200), "{node}: {peer}");
            assert_eq!(sync["comparison"]["diverged"], 0, "{node}: {peer}");
            assert!(sync["bytes_sent"].as_u64() > Some(10_000), "{node}: {peer}");
            assert!(sync["delay_p99_us"].as_u64() > Some(0), "{node}: {peer}");
        }
        assert_eq!(standing.counter(node, "engine_flows_put_right"), 0, "{node}");
    }
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "tables_are_the_same_after_moves_and_a_death_under_load",
                tables_are_the_same_after_moves_and_a_death_under_load,
            ),
            (
                "a_flow_that_was_announced_is_let_in_wherever_its_packets_are_handled",
                admit::a_flow_that_was_announced_is_let_in_wherever_its_packets_are_handled,
            ),
        ],
        &[],
    )
}
