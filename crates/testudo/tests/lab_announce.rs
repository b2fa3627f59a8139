//! The hosts of a link learn where the cluster's addresses are when it begins, also if another gateway had them before.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::process::{Command, ExitCode};

use standing::Standing;

/// The gateway of before, which is gone.
const BEFORE: &str = "02:00:00:00:be:f0";

fn neighbour(standing: &Standing, arguments: &[&str]) -> String {
    let run = || Command::new("ip").args(arguments).output();
    let output = standing.inside("client", run).expect("start ip");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn hosts_forget_the_gateway_before() {
    let standing = Standing::bare("announce", 2, &[]);
    for address in ["10.10.0.1", "fd10::1"] {
        let entry = ["neigh", "replace", address, "lladdr", BEFORE, "dev", "eth0", "nud", "stale"];
        neighbour(&standing, &entry);
        assert!(neighbour(&standing, &["neigh", "show", address]).contains(BEFORE));
    }
    for node in ["n1", "n2"] {
        standing.order("start", node);
    }
    standing.await_owners(&[1, 2]);
    // Nothing is sent to the addresses meanwhile, so nobody asks.
    for address in ["10.10.0.1", "fd10::1"] {
        standing.until("the hosts know the cluster's address", || {
            let entry = neighbour(&standing, &["neigh", "show", address]);
            assert!(entry.contains("lladdr"), "the entry is there: {entry}");
            !entry.contains(BEFORE)
        });
    }
}

fn main() -> ExitCode {
    privileged::run(&[("hosts_forget_the_gateway_before", hosts_forget_the_gateway_before)], &[])
}
