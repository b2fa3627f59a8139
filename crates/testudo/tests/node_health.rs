//! A node notices that a link or a target is gone, with real links and real echoes.
//!
//! ```text
//!   n1: testudo health --config ── sync0 ──┐
//!                               ── in0 ────┼── switch ── in0, sync0: n2, which its stack answers for
//! ```
//!
//! Needs root; ignored, with the reason, without it. Each test has a lab of its own, without daemons.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

const TESTUDO: &str = env!("CARGO_BIN_EXE_testudo");

/// How long something may take that takes milliseconds on a machine that is not busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// How late a change of a link may be noticed, on a busy machine too.
const LINK_BOUND: Duration = Duration::from_millis(500);

/// How long what was bad has to be well.
const RECOVERY: Duration = Duration::from_millis(300);

/// A lab of two nodes without daemons, which goes when it is dropped.
struct Standing {
    name: String,
}

impl Standing {
    fn up(story: &str) -> Self {
        let standing = Self { name: format!("test-{story}-{}", std::process::id()) };
        standing.lab("up", &["--bare", "--nodes", "2"]);
        standing
    }

    fn lab(&self, verb: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new(TESTUDO);
        let output = command.args(["lab", verb, "--name", &self.name]).args(arguments).output();
        let output = output.expect("testudo starts");
        assert!(output.status.success(), "lab {verb} {arguments:?}: {output:?}");
        output
    }

    /// Makes a node deaf for echoes, or no longer so, while its links stay as they are.
    fn deafen(&self, node: &str, deaf: bool) {
        for file in ["ipv4/icmp_echo_ignore_all", "ipv6/icmp/echo_ignore_all"] {
            let line = format!("echo {} > /proc/sys/net/{file}", u8::from(deaf));
            self.lab("exec", &[node, "--", "sh", "-c", &line]);
        }
    }

    /// Watches as n1 would with these sections behind its usual ones.
    fn watch(&self, sections: &str) -> Watch {
        let file = std::env::temp_dir().join(format!("{}.toml", self.name));
        let recovery = RECOVERY.as_millis();
        let text = format!(
            "[cluster]\nname = \"t\"\nsecret = \"000102030405060708090a0b0c0d0e0f\"\n\
             mac = \"02:74:65:73:00:01\"\ntls = \"off\"\n[node]\nname = \"n1\"\n\
             [[member]]\nname = \"n1\"\nsync = \"10.99.0.1:7400\"\n\
             [health]\nrecovery_ms = {recovery}\noverload_ms = 60000\n{sections}"
        );
        fs::write(&file, text).expect("a file");
        let namespace = format!("/run/netns/{}-n1", self.name);
        Watch::start(file, &namespace)
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let _ = Command::new(TESTUDO).args(["lab", "down", "--name", &self.name]).output();
    }
}

/// A running `testudo health --config`, which ends when it is dropped.
struct Watch {
    child: Child,
    file: PathBuf,
    told: Receiver<(Instant, Value)>,
}

impl Watch {
    fn start(file: PathBuf, namespace: &str) -> Self {
        let namespace = File::open(namespace).expect("the namespace");
        let mut command = Command::new(TESTUDO);
        command.args(["health", "--json", "--for", "60", "--config"]).arg(&file);
        command.stdout(Stdio::piped());
        // A process begins in the namespace of the thread that starts it.
        let start = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
            command.spawn().expect("testudo starts")
        };
        let mut child = thread::spawn(start).join().expect("a child");
        let lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        let (tell, told) = mpsc::channel();
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let health = serde_json::from_str(&line).expect("a line of JSON");
                if tell.send((Instant::now(), health)).is_err() {
                    return;
                }
            }
        });
        Self { child, file, told }
    }

    /// Waits until an item is in a state; says when it was told so, with what.
    fn wait(&self, item: &str, state: &str) -> (Instant, Value) {
        let end = Instant::now() + PATIENCE;
        let mut last = Value::Null;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let Ok((at, health)) = self.told.recv_timeout(left) else {
                panic!("{item} does not get {state}: {last}");
            };
            if found(&health, item)["state"] == state {
                return (at, health);
            }
            last = health;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

fn found<'v>(health: &'v Value, item: &str) -> &'v Value {
    let items = health["items"].as_array().expect("items");
    items.iter().find(|found| found["name"] == item).unwrap_or_else(|| panic!("{item} in {health}"))
}

/// Prints how long something took, so that a run shows more than that it was within its bound.
fn took(what: &str, begun: Instant, at: Instant, bound: Duration) {
    let took = at.saturating_duration_since(begun);
    println!("{what}: {took:?} after it happened");
    assert!(took <= bound, "{what} took {took:?}; expected at most {bound:?}");
}

const LINKS: &str = "[[interface]]\nname = \"in0\"\n[[interface]]\nname = \"sync0\"\n";

fn a_link_that_loses_its_carrier_is_bad_at_once_and_good_after_a_rest() {
    let standing = Standing::up("link");
    let watch = standing.watch(LINKS);
    let (_, health) = watch.wait("link sync0", "good");
    assert_eq!(health["fit"], true);

    standing.lab("cut", &["n1"]);
    let cut = Instant::now();
    let (at, health) = watch.wait("link sync0", "bad");
    took("a cut link is bad", cut, at, LINK_BOUND);
    assert_eq!(health["fit"], false);
    assert_eq!(found(&health, "link sync0")["reason"], "it is up, without a carrier");
    assert_eq!(found(&health, "link in0")["state"], "good", "the other link is as it was");

    let before = Instant::now();
    standing.lab("heal", &["n1"]);
    let (at, health) = watch.wait("link sync0", "good");
    took("a healed link is good", before, at, RECOVERY + LINK_BOUND * 2);
    assert!(at - before >= RECOVERY, "it was good after {:?}", at - before);
    assert_eq!(health["fit"], true);
}

fn a_link_that_flaps_makes_the_node_unfit_once() {
    let standing = Standing::up("flap");
    let watch = standing.watch(LINKS);
    watch.wait("link sync0", "good");
    for _ in 0..5 {
        standing.lab("cut", &["n1"]);
        standing.lab("heal", &["n1"]);
    }
    let healed = Instant::now();
    let mut unfit = 0;
    let mut was_fit = true;
    while let Ok((_, health)) = watch.told.recv_timeout(RECOVERY * 3) {
        let fit = health["fit"] == true;
        unfit += u32::from(was_fit && !fit);
        was_fit = fit;
        assert!(healed.elapsed() < PATIENCE, "it does not come to rest: {health}");
    }
    assert_eq!((unfit, was_fit), (1, true));
}

fn a_target_that_falls_silent_is_bad_within_its_bound() {
    let standing = Standing::up("probe");
    let probes = "[[probe]]\ntarget = \"10.99.0.2\"\ninterval_ms = 50\nlost = 3\n\
                  [[probe]]\ntarget = \"fd10::1:2\"\ninterface = \"in0\"\ninterval_ms = 50\nlost = 3\n";
    let watch = standing.watch(&format!("{LINKS}{probes}"));
    let [v4, v6] = ["probe 10.99.0.2", "probe fd10::1:2%in0"];
    let end = Instant::now() + PATIENCE;
    loop {
        let (_, health) = watch.told.recv_timeout(PATIENCE).expect("both answer");
        if [v4, v6].iter().all(|probe| found(&health, probe)["state"] == "good") {
            assert_eq!(health["fit"], true);
            break;
        }
        assert!(Instant::now() < end, "{health}");
    }

    let before = Instant::now();
    standing.deafen("n2", true);
    let deaf = Instant::now();
    let (at, health) = watch.wait(v6, "bad");
    // lost + 1 intervals of 50 ms, and what a busy machine adds.
    took("a deaf IPv6 target is bad", deaf, at, Duration::from_millis(200) + LINK_BOUND);
    assert!(at - before >= Duration::from_millis(100), "two missing echoes are not three");
    assert_eq!(found(&health, v4)["state"], "bad", "IPv4 fell silent before");
    assert_eq!(found(&health, "link in0")["state"], "good", "the link is still up");
    let reason = found(&health, v6)["reason"].as_str().expect("a reason").to_owned();
    assert!(reason.starts_with("no answer to "), "{reason}");

    standing.deafen("n2", false);
    watch.wait(v4, "good");
}

fn a_target_behind_a_cut_link_is_bad_though_the_own_link_is_up() {
    let standing = Standing::up("behind");
    let probe = "[[probe]]\ntarget = \"10.99.0.2\"\ninterval_ms = 50\nlost = 2\n";
    let watch = standing.watch(&format!("{LINKS}{probe}"));
    watch.wait("probe 10.99.0.2", "good");
    standing.lab("cut", &["n2"]);
    let (_, health) = watch.wait("probe 10.99.0.2", "bad");
    assert_eq!(found(&health, "link sync0")["state"], "good");
    standing.lab("heal", &["n2"]);
    watch.wait("probe 10.99.0.2", "good");
}

fn a_target_that_no_route_leads_to_is_bad_with_the_reason() {
    let standing = Standing::up("route");
    let probe = "[[probe]]\ntarget = \"192.0.2.1\"\ninterval_ms = 20\nlost = 2\n\
                 [[probe]]\ntarget = \"fe80::1\"\ninterface = \"nothere0\"\ninterval_ms = 20\nlost = 2\n";
    let watch = standing.watch(&format!("{LINKS}{probe}"));
    let (_, health) = watch.wait("probe 192.0.2.1", "bad");
    let reason = found(&health, "probe 192.0.2.1")["reason"].to_string();
    assert!(reason.contains("unreachable"), "{reason}");
    let (_, health) = watch.wait("probe fe80::1%nothere0", "bad");
    let reason = found(&health, "probe fe80::1%nothere0")["reason"].to_string();
    assert!(reason.contains("No such device"), "{reason}");
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "a_link_that_loses_its_carrier_is_bad_at_once_and_good_after_a_rest",
                a_link_that_loses_its_carrier_is_bad_at_once_and_good_after_a_rest,
            ),
            (
                "a_link_that_flaps_makes_the_node_unfit_once",
                a_link_that_flaps_makes_the_node_unfit_once,
            ),
            (
                "a_target_that_falls_silent_is_bad_within_its_bound",
                a_target_that_falls_silent_is_bad_within_its_bound,
            ),
            (
                "a_target_behind_a_cut_link_is_bad_though_the_own_link_is_up",
                a_target_behind_a_cut_link_is_bad_though_the_own_link_is_up,
            ),
            (
                "a_target_that_no_route_leads_to_is_bad_with_the_reason",
                a_target_that_no_route_leads_to_is_bad_with_the_reason,
            ),
        ],
        &[],
    )
}
