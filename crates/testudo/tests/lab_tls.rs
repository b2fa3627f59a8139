//! Real daemons under load get new certificates, bad certificates, and peers with none: no connection is
//! lost, and nobody gets in who is no member.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::collections::VecDeque;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use standing::Standing;
use standing::load::Load;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn under_load(name: &str, story: impl FnOnce(&Standing)) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let standing = Standing::up(name, 3, &[]);
    let load = Load::start(&standing);
    story(&standing);
    load.finish();
}

fn pki(arguments: &[&str], standing: &Standing, directory: &str) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_testudo"));
    command.arg("pki").args(arguments).arg("--directory").arg(standing.file(directory));
    let output = command.output().expect("start testudo");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until all nodes trust so many authorities, and have so often renewed a stream.
fn await_trust(standing: &Standing, authorities: usize, renewed: u64) {
    standing.until(&format!("{authorities} authorities, {renewed} renewals"), || {
        let trusts = |node: &&str| {
            let status = standing.ask(node, &["status"]).expect("a status");
            status["tls"]["authorities"].as_array().expect("a list").len() == authorities
        };
        let count = |node| standing.counter(node, "tls_renewed");
        NODES.iter().all(trusts) && count("n2") >= renewed && count("n3") >= 2 * renewed
    });
}

fn all_are_connected(standing: &Standing) {
    standing.until("all streams are there", || {
        NODES.iter().all(|node| {
            let status = standing.ask(node, &["status"]).expect("a status");
            let peers = status["peers"].as_array().expect("a list").clone();
            peers.len() == 2 && peers.iter().all(|peer| peer["sync"]["connected"] == true)
        })
    });
}

fn an_authority_is_replaced_under_load_and_no_connection_is_lost() {
    under_load("rotate", |standing| {
        let before = standing.settled();
        // All at once, as no operator should: each node finds its files at another moment.
        let said = pki(&["rotate"], standing, "pki");
        assert!(said.contains("pki rotate --finish"), "{said}");
        await_trust(standing, 2, 1);
        pki(&["rotate", "--finish"], standing, "pki");
        await_trust(standing, 1, 2);
        all_are_connected(standing);
        assert_eq!(standing.agreed(), before);
        for node in NODES {
            assert_eq!(standing.counter(node, "tls_outdated"), 0, "{node}");
            assert_eq!(standing.counter(node, "tls_files_refused"), 0, "{node}");
        }
    });
}

fn bad_files_change_nothing_and_are_told_of() {
    under_load("badfiles", |standing| {
        let before = standing.settled();
        let file = standing.file("pki/n2.pem");
        let good = fs::read(&file).expect("a certificate");
        fs::copy(standing.file("pki/n3.pem"), &file).expect("another's certificate");
        standing.await_line("n2", &["new certificates are refused", "is not the key of"]);
        let health = standing.ask("n2", &["health"]).expect("health");
        assert_eq!(health["fit"], true, "{health}");
        let items = health["items"].as_array().expect("a list");
        let item = items.iter().find(|item| item["name"] == "certificate").expect("an item");
        assert_eq!(item["state"], "warning", "{item}");
        let status = standing.ask("n2", &["status"]).expect("a status");
        assert!(status["tls"]["refused"].as_str().expect("a reason").contains("is not the key of"));
        assert_eq!(standing.counter("n2", "tls_files_refused"), 1);
        // A new process would not even begin.
        assert!(!standing.tell("n2", &["node", "restart"]));
        fs::write(&file, good).expect("a certificate");
        standing.until("the refusal is gone", || {
            standing.ask("n2", &["status"]).expect("a status")["tls"]["refused"].is_null()
        });
        all_are_connected(standing);
        assert_eq!(standing.agreed(), before);
    });
}

fn a_node_of_another_authority_is_refused_by_all_and_told_why() {
    under_load("otherca", |standing| {
        standing.order("kill", "n3");
        standing.await_owners(&[1, 2]);
        let before = standing.settled();
        pki(&["init"], standing, "other");
        pki(&["issue", "n3"], standing, "other");
        standing.edit("n3", |text| text.replace("/pki/", "/other/"));
        standing.order("start", "n3");
        // Who dials shows first, so the others are those who refuse.
        let why = "the peer's certificate is signed by no authority that this node trusts";
        for node in ["n1", "n2"] {
            standing.await_line(node, &["a sync stream ended", "10.99.0.3", why]);
            assert!(standing.counter(node, "tls_refused_unknown_authority") >= 1);
        }
        let told = "does not trust the authority that has signed this node's certificate";
        standing.await_line("n3", &["a sync stream ended", told]);
        thread::sleep(Duration::from_secs(2));
        let status = standing.ask("n1", &["status"]).expect("a status");
        assert_eq!(status["peers"][1]["sync"]["connected"], false, "{status}");
        // It knows the secret, so its heartbeats count and it is told of; it gets no bucket.
        let after = standing.agreed();
        assert!((0..256).all(|bucket| after.owner(bucket) == before.owner(bucket)), "{after:?}");
        standing.order("kill", "n3");
        // A certificate of the right authority that names somebody else is not even taken by oneself.
        standing.edit("n3", |text| text.replace("/other/", "/pki/").replace("pki/n3.", "pki/n4."));
        standing.order("start", "n3");
        standing.await_line("n3", &["n4.pem names \"n4\"; expected \"n3\"", "pki issue n3"]);
        standing.until("n3 has ended", || !standing.runs("n3"));
    });
}

/// Opens connections that say nothing, some thousand a second, until told to stop.
fn flood(stop: &AtomicBool) -> u64 {
    let nodes = [1, 2].map(|last| SocketAddr::from(([10, 99, 0, last], 7400)));
    let (mut open, mut count) = (VecDeque::new(), 0);
    while !stop.load(Ordering::Relaxed) {
        for node in nodes {
            if let Ok(stream) = TcpStream::connect_timeout(&node, Duration::from_millis(200)) {
                open.push_back(stream);
                count += 1;
            }
            if open.len() > 400 {
                open.pop_front();
            }
        }
        thread::sleep(Duration::from_micros(500));
    }
    count
}

fn a_flood_of_strangers_keeps_no_member_out() {
    under_load("flood", |standing| {
        standing.order("kill", "n3");
        standing.await_owners(&[1, 2]);
        let handshakes = standing.counter("n1", "tls_handshakes");
        let stop = AtomicBool::new(false);
        let count = thread::scope(|scope| {
            let flood = scope.spawn(|| standing.inside("n4", || flood(&stop)));
            thread::sleep(Duration::from_secs(1));
            standing.order("start", "n3");
            all_are_connected(standing);
            standing.await_owners(&[1, 2, 3]);
            stop.store(true, Ordering::Relaxed);
            flood.join().expect("the flood")
        });
        let crowded = standing.counter("n1", "tls_refused_crowded");
        println!("{count} connections came; n1 has put out {crowded} of them for others");
        assert!(count > 1000 && crowded > 100, "{count} {crowded}");
        // Of all that came only node 3 was believed, as often as it came.
        assert!(standing.counter("n1", "tls_handshakes") <= handshakes + 3);
    });
}

fn main() -> ExitCode {
    privileged::run(
        &[
            (
                "an_authority_is_replaced_under_load_and_no_connection_is_lost",
                an_authority_is_replaced_under_load_and_no_connection_is_lost,
            ),
            ("bad_files_change_nothing_and_are_told_of", bad_files_change_nothing_and_are_told_of),
            ("a_flood_of_strangers_keeps_no_member_out", a_flood_of_strangers_keeps_no_member_out),
            (
                "a_node_of_another_authority_is_refused_by_all_and_told_why",
                a_node_of_another_authority_is_refused_by_all_and_told_why,
            ),
        ],
        &[],
    )
}
