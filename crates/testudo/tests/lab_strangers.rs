//! Wrong or hostile input meets real daemons under load: it is refused with a clear error on both
//! sides, and nothing moves.
//!
//! Needs root; ignored, with the reason, without it. The labs stand one after the other: a machine
//! that is too busy for three of them would move buckets by itself.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use standing::Standing;
use standing::load::Load;
use testudo_cluster::keys::Keys;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// How long whoever is refused goes on trying.
const PESTER: Duration = Duration::from_secs(3);

/// Runs a story in a lab of three nodes under load, and sees to it that no connection is lost.
fn under_load(name: &str, story: impl FnOnce(&Standing)) {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let standing = Standing::up(name, 3, &[]);
    let load = Load::start(&standing);
    story(&standing);
    load.finish();
}

/// Replaces what stands behind `key = ` in a configuration.
fn with(text: &str, key: &str, value: &str) -> String {
    let head = format!("{key} = ");
    assert_eq!(text.lines().filter(|line| line.starts_with(&head)).count(), 1, "{key} in {text}");
    let line = |line: &str| match line.starts_with(&head) {
        true => format!("{head}{value}\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Has node 3 come back with another configuration, and be refused by the others, who refuse its
/// heartbeats and its streams with `words`.
fn comes_back_changed(standing: &Standing, change: impl FnOnce(&str) -> String, words: [&str; 2]) {
    standing.order("kill", "n3");
    standing.await_owners(&[1, 2]);
    let before = standing.settled();
    let rejected = standing.counter("n1", "heartbeats_rejected");
    let state = format!("\"{}\"", standing.file("n3.other").display());
    standing.edit("n3", |text| with(&change(&text), "state", &state));
    standing.order("start", "n3");
    for (here, there) in [("n1", "10.99.0.3"), ("n2", "10.99.0.3"), ("n3", "10.99.0.")] {
        let refused = ["a heartbeat was rejected", there, "runs with settings", "must agree"];
        standing.await_line(here, &refused);
    }
    let [heartbeats, stream] = words;
    standing.await_line("n1", &[heartbeats]);
    standing.await_line("n1", &["a sync stream ended", "10.99.0.3", stream]);
    thread::sleep(PESTER);
    assert_eq!(standing.agreed(), before);
    let more = standing.counter("n1", "heartbeats_rejected") - rejected;
    assert!(more > 20, "{more} heartbeats were rejected");
    let stranger = standing.ask("n3", &["status"]).expect("a status");
    assert_eq!(stranger["role"], "joining", "{stranger}");
    assert_eq!(stranger["lease"]["held"], false, "{stranger}");
    assert_eq!(stranger["buckets"]["owned"], 0, "{stranger}");
}

fn another_secret_is_refused() {
    under_load("secret", |standing| {
        let secret = "\"00000000000000000000000000000bad\"";
        let stream = "the peer could not prove that it knows the cluster's secret";
        comes_back_changed(standing, |text| with(text, "secret", secret), ["secret", stream]);
        standing.await_line("n3", &["the peer closed it within the handshake", "secret"]);
    });
}

fn another_setting_is_refused() {
    under_load("setting", |standing| {
        // The one that dials hears first who the other one is.
        let stream = "the peer closed it within the handshake";
        let change = |text: &str| with(text, "takeover_ms", "1100");
        comes_back_changed(standing, change, ["takeover", stream]);
        standing.await_line("n3", &["a sync stream ended", "the peer's settings are"]);
    });
}

fn the_log_of_another_cluster_is_refused() {
    under_load("log", |standing| {
        standing.order("kill", "n3");
        standing.await_owners(&[1, 2]);
        let before = standing.settled();
        let secret = "\"00000000000000000000000000000bad\"";
        standing.edit("n3", |text| with(&text, "secret", secret));
        standing.order("start", "n3");
        standing.await_line("n3", &["it is the log of", "expected that of"]);
        standing.until("n3 has ended", || !standing.runs("n3"));
        assert_eq!(standing.agreed(), before);
    });
}

/// A heartbeat of node 3 to node 1 as release 0.1 sent them: version 1, 176 bytes, three sets.
fn old_heartbeat(secret: &[u8]) -> Vec<u8> {
    let mut out = Vec::from(*b"TSTH");
    out.extend_from_slice(&1u16.to_le_bytes());
    out.extend_from_slice(&[2, 0]);
    // Fingerprint, incarnation, sequence, sent, echo, its moment; then era, role, grant, flags.
    for word in [7u64, 8, 9, 1_000_000, 0, 0, 0] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&[0; 3 * 32]);
    let tag = Keys::new(secret).heartbeat.tag(&[&out]);
    out.extend_from_slice(&tag);
    assert_eq!(out.len(), 176);
    out
}

fn secret(standing: &Standing) -> Vec<u8> {
    let text = fs::read_to_string(standing.file("n1.toml")).expect("a configuration");
    let (_, rest) = text.split_once("secret = \"").expect("a secret");
    let digits = |at: usize| u8::from_str_radix(&rest[2 * at..2 * at + 2], 16).expect("digits");
    (0..16).map(digits).collect()
}

fn an_older_release_is_refused() {
    under_load("older", |standing| {
        let before = standing.settled();
        let rejected = standing.counter("n1", "heartbeats_rejected");
        let datagram = old_heartbeat(&secret(standing));
        let node = SocketAddr::from(([10, 99, 0, 1], 7400));
        let answer = standing.inside("n4", || {
            let socket = UdpSocket::bind("10.99.0.4:0").expect("a socket");
            for _ in 0..50 {
                socket.send_to(&datagram, node).expect("the sync segment");
            }
            let mut stream = TcpStream::connect(node).expect("a connection");
            stream.set_read_timeout(Some(PESTER)).expect("a timeout");
            // Before there were certificates a stream began like this.
            let hello = [&b"TESTUDOS"[..], &1u16.to_le_bytes(), &[0; 6], &[3; 16]].concat();
            stream.write_all(&hello).expect("room");
            let mut answer = Vec::new();
            // It may end with a reset; what came before counts.
            let _ = stream.read_to_end(&mut answer);
            answer
        });
        standing.await_line("n1", &["a heartbeat was rejected", "10.99.0.4"]);
        standing.await_line("n1", &["node 2 speaks version 1 of the heartbeat; this one speaks"]);
        let refused = "what the peer sends is not TLS: it is no member, or has tls = \"off\"";
        standing.await_line("n1", &["a sync stream ended", "10.99.0.4", refused]);
        // All that the other side gets are a handshake record and an alert of TLS.
        assert_eq!(answer[..3], [22, 3, 1], "{answer:?}");
        assert!(!answer.windows(7).any(|bytes| bytes == b"TESTUDO"), "{answer:?}");
        assert!(standing.counter("n1", "tls_refused_protocol") >= 1);
        assert_eq!(standing.counter("n1", "heartbeats_rejected"), rejected + 50);
        assert_eq!(standing.agreed(), before);
    });
}

fn two_nodes_with_one_name_are_told_so_and_the_first_one_stays() {
    under_load("twins", |standing| {
        let before = standing.settled();
        let late = standing.counter("n1", "heartbeats_late");
        let text = fs::read_to_string(standing.file("n3.toml")).expect("a configuration");
        // The operator has copied the file to another machine, and put that one's address in.
        standing.edit("n4", |_| {
            let text = text.replace("10.99.0.3:7400", "10.99.0.4:7400").replace("/n3.", "/n4.");
            // Its certificate is on the other machine, too.
            let text = text.replace("/pki/n4.", "/pki/n3.");
            assert!(text.contains("name = \"n3\"") && text.contains("/n4.sock"), "{text}");
            text
        });
        standing.order("start", "n4");
        for peer in ["n1", "n2"] {
            let words = ["a heartbeat was rejected", "10.99.0.4", "was still heard"];
            standing.await_line(peer, &words);
            standing.await_line(peer, &["two processes speak as this peer", "n3"]);
            let words = ["a sync stream ended", "10.99.0.4", "two processes run as one node"];
            standing.await_line(peer, &words);
        }
        standing.await_line("n4", &["another process runs as this node; stop one of them"]);
        thread::sleep(PESTER);
        assert_eq!(standing.agreed(), before);
        assert!(standing.counter("n1", "heartbeats_late") > late + 20);
        let second = standing.ask("n4", &["status"]).expect("a status");
        assert_eq!((&second["node"], &second["role"]), (&"n3".into(), &"joining".into()));
        assert_eq!(
            (&second["lease"]["held"], &second["buckets"]["owned"]),
            (&false.into(), &0.into())
        );
        assert_eq!(standing.ask("n3", &["status"]).expect("a status")["lease"]["held"], true);
    });
}

fn main() -> ExitCode {
    privileged::run(
        &[
            ("another_secret_is_refused", another_secret_is_refused),
            ("another_setting_is_refused", another_setting_is_refused),
            ("the_log_of_another_cluster_is_refused", the_log_of_another_cluster_is_refused),
            ("an_older_release_is_refused", an_older_release_is_refused),
            (
                "two_nodes_with_one_name_are_told_so_and_the_first_one_stays",
                two_nodes_with_one_name_are_told_so_and_the_first_one_stays,
            ),
        ],
        &[],
    )
}
