//! A node's own addresses stay its own beside the cluster's: whoever administers it reaches it there, in both modes,
//! whatever the rules say of the packets that are forwarded, and keeps the connection when another node dies.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use standing::Standing;

const NODES: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(5);
/// As ssh listens.
const PORT: u16 = 22;

/// Has a node send back what it hears on a connection to an address of its own.
fn listen(standing: &Standing, node: &str, address: SocketAddr) {
    let listener = standing.inside(node, || TcpListener::bind(address)).expect("a listener");
    thread::spawn(move || {
        let Ok((mut connection, _)) = listener.accept() else { return };
        let mut room = [0; 64];
        while let Ok(bytes) = connection.read(&mut room)
            && bytes > 0
            && connection.write_all(&room[..bytes]).is_ok()
        {}
    });
}

fn speaks(connection: &mut TcpStream, words: &[u8]) {
    connection.write_all(words).expect("it leaves");
    let mut heard = vec![0; words.len()];
    connection.read_exact(&mut heard).expect("an answer");
    assert_eq!(heard, words);
}

/// Connections from the client to each node's own addresses.
fn sessions(standing: &Standing) -> Vec<(u8, TcpStream)> {
    let mut sessions = Vec::new();
    for node in 1..=NODES {
        for text in [format!("10.10.1.{node}"), format!("fd10::1:{node}")] {
            let address = SocketAddr::new(text.parse().expect("an address"), PORT);
            listen(standing, &format!("n{node}"), address);
            let connect = || TcpStream::connect_timeout(&address, PATIENCE);
            let session = standing.inside("client", connect);
            let mut session = session.unwrap_or_else(|error| panic!("{address}: {error}"));
            session.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            speaks(&mut session, b"who is there?");
            sessions.push((node, session));
        }
    }
    sessions
}

fn a_node_is_reached(story: &str, options: &[&str]) {
    let standing = Standing::whole(story, NODES, options);
    let mut sessions = sessions(&standing);
    standing.order("kill", "n1");
    standing.await_owners(&[2, 3]);
    for (node, session) in &mut sessions {
        if *node != 1 {
            speaks(session, b"still there?");
        }
    }
    // It is no flow of the cluster's.
    for node in ["n2", "n3"] {
        let flows = standing.ask(node, &["flow", "show"]).expect("flows");
        let flows = flows["flows"].as_array().expect("a list").len();
        assert_eq!(flows, 0, "flows on {node}");
    }
}

fn a_node_is_reached_at_its_own_addresses_beside_shared_ones() {
    a_node_is_reached("own-shared", &[]);
}

fn a_node_is_reached_at_its_own_addresses_through_a_router_that_steers() {
    a_node_is_reached("own-steered", &["--mode", "steered"]);
}

fn main() -> ExitCode {
    privileged::run(
        &[
            (
                "a_node_is_reached_at_its_own_addresses_beside_shared_ones",
                a_node_is_reached_at_its_own_addresses_beside_shared_ones,
            ),
            (
                "a_node_is_reached_at_its_own_addresses_through_a_router_that_steers",
                a_node_is_reached_at_its_own_addresses_through_a_router_that_steers,
            ),
        ],
        &[],
    )
}
