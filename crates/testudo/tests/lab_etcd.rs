//! A cluster whose nodes agree by a real etcd: it lives through what a cluster lives through, and through
//! an etcd that is away while a node dies.
//!
//! Needs root and the program etcd; ignored, with the reason, without one of them. The labs run one
//! after the other: each measures times, and two at once would measure each other.

mod programs;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::process::{Command, ExitCode};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::Value;
use standing::Standing;
use standing::load::Load;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long the etcd is away.
const AWAY: Duration = Duration::from_secs(5);

/// Plays a scenario; gives its report, which says that it was passed.
fn lab(arguments: &[&str]) -> Value {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut lab = Command::new(env!("CARGO_BIN_EXE_testudo"));
    lab.args(["lab", "--json", "--coordinator", "etcd", "--connections", "200", "--hold", "2"]);
    let output = lab.args(arguments).output().expect("the lab starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{arguments:?}: no report ({error}): {said}"));
    assert_eq!(report["failures"], serde_json::json!([]), "{report}");
    assert_eq!(report["passed"], true, "{report}");
    assert_eq!(report["connections"]["alive"], 200, "{report}");
    report
}

fn a_node_dies() {
    let report = lab(&["--scenario", "kill"]);
    assert_eq!(report["packets"]["duplicated"], 0, "{report}");
}

fn buckets_are_moved_by_hand() {
    // No node fails, so leases are long enough for a machine that pauses.
    let timing = ["--timing", "600,1000,100"];
    let report = lab(&[&["--scenario", "moves", "--count", "20"][..], &timing].concat());
    for way in ["up", "down"] {
        assert_eq!(report[way]["lost"], 0, "{report}");
        assert_eq!(report[way]["doubled"], 0, "{report}");
    }
}

fn a_node_dies_and_comes_back_while_the_etcd_is_away() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let standing = Standing::up("etcd-away", 3, &["--coordinator", "etcd"]);
    let load = Load::start(&standing);
    let before = standing.settled();
    standing.order("kill", "etcd");
    standing.order("kill", "n2");
    // The successors were agreed on before: nobody has to be asked.
    standing.await_owners(&[1, 3]);
    assert_eq!(standing.agreed().version(), before.version());
    standing.order("start", "n2");
    standing.until("n2 answers", || standing.ask("n2", &["status"]).is_some());
    thread::sleep(AWAY);
    let away = standing.ask("n2", &["status"]).expect("a status");
    assert_eq!(away["role"], "joining", "nobody could admit it: {away}");
    assert_eq!(standing.agreed().version(), before.version());
    standing.order("start", "etcd");
    standing.await_owners(&[1, 2, 3]);
    assert_eq!(standing.ask("n2", &["status"]).expect("a status")["role"], "member");
    load.finish();
}

fn a_log_with_a_hole_is_told_and_the_map_stays() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let standing = Standing::up("etcd-hole", 3, &["--coordinator", "etcd"]);
    let load = Load::start(&standing);
    // Some commands more, so that the log has a middle.
    for bucket in ["0", "1", "2"] {
        for node in ["n1", "n2", "n3"] {
            let moved = standing.tell("n1", &["bucket", "move", bucket, node]);
            let owner = || standing.agreed().owner(bucket.parse().expect("a number"));
            if moved {
                standing.until("the bucket has moved", || owner() == node);
            }
        }
    }
    let before = standing.settled();
    let log = format!("/testudo/{}/log/", standing.name());
    let control = |arguments: &[&str]| {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").args(["--endpoints", "http://10.99.0.254:2379"]);
        let output = standing.inside("etcd", || etcdctl.args(arguments).output());
        let output = output.expect("etcdctl comes with etcd");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let keys = control(&["get", "--prefix", &log, "--keys-only"]);
    let keys: Vec<&str> = keys.split_whitespace().collect();
    assert!(keys.len() > 4, "{keys:?}");
    let index = keys.len() / 2;
    control(&["del", keys[index]]);
    // Those that have applied it do not miss it; one that begins anew does.
    standing.order("kill", "n3");
    standing.await_owners(&[1, 2]);
    standing.order("start", "n3");
    standing.await_line("n3", &["the keys in etcd are not as Testudo writes them", "should be"]);
    thread::sleep(AWAY);
    let returned = standing.ask("n3", &["status"]).expect("a status");
    assert_eq!((&returned["role"], &returned["buckets"]["owned"]), (&"joining".into(), &0.into()));
    let map = standing.ask("n3", &["map", "show"]).expect("a map");
    assert!(map["version"].as_u64() <= Some(index as u64), "{map}");
    assert!(standing.agreed().version() >= before.version());
    load.finish();
}

fn main() -> ExitCode {
    let tests: [(&str, fn()); 4] = [
        ("a_node_dies", a_node_dies),
        ("buckets_are_moved_by_hand", buckets_are_moved_by_hand),
        (
            "a_node_dies_and_comes_back_while_the_etcd_is_away",
            a_node_dies_and_comes_back_while_the_etcd_is_away,
        ),
        (
            "a_log_with_a_hole_is_told_and_the_map_stays",
            a_log_with_a_hole_is_told_and_the_map_stays,
        ),
    ];
    programs::run(&tests, "etcd", "etcd-server")
}
