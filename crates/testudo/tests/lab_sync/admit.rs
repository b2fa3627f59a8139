//! Flows that a program has learned of before their first packet, as an FTP server's connection back to
//! its client: any node is told, and the first packet is let in wherever it is handled.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, sockopt};
use serde_json::Value;

use crate::standing::Standing;
use crate::standing::load::Load;

const NODES: [&str; 3] = ["n1", "n2", "n3"];
const CLIENT: [u8; 4] = [10, 10, 2, 1];
const SERVER: [u8; 4] = [10, 20, 2, 1];
/// Where the client listens. No rule lets the server connect there.
const PORT: u16 = 7100;
/// The server's first port, and how many it connects from.
const FIRST: u16 = 20_000;
const FLOWS: u16 = 24;
/// How long a connection may take: a busy machine is no fault of the cluster's.
const PATIENCE: Duration = Duration::from_secs(20);

/// Answers each connection with its port.
fn serve(listener: &TcpListener) {
    for stream in listener.incoming() {
        let Ok(mut stream) = stream else { return };
        let Ok(peer) = stream.peer_addr() else { continue };
        let _ = stream.write_all(&peer.port().to_le_bytes());
    }
}

/// Connects from the server's port to the client; gives what that answers.
fn connect(standing: &Standing, port: u16, patience: Duration) -> std::io::Result<u16> {
    standing.inside("server", || {
        let stream =
            socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        socket::setsockopt(&stream, sockopt::ReuseAddr, &true)?;
        let time = nix::sys::time::TimeVal::new(patience.as_secs() as i64, 0);
        // The kernel takes this for the time that a connection may take, too.
        socket::setsockopt(&stream, sockopt::SendTimeout, &time)?;
        let [a, b, c, d] = SERVER;
        socket::bind(stream.as_raw_fd(), &SockaddrIn::new(a, b, c, d, port))?;
        let [a, b, c, d] = CLIENT;
        socket::connect(stream.as_raw_fd(), &SockaddrIn::new(a, b, c, d, PORT))?;
        let mut stream = TcpStream::from(stream);
        stream.set_read_timeout(Some(patience))?;
        let mut bytes = [0; 2];
        stream.read_exact(&mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    })
}

/// Tells a node of the flow from the server's port; gives what it says.
fn admit(standing: &Standing, node: &str, port: u16) -> Value {
    let end = |[a, b, c, d]: [u8; 4], port| format!("{a}.{b}.{c}.{d}:{port}");
    let (from, to) = (end(SERVER, port), end(CLIENT, PORT));
    standing.ask(node, &["flow", "admit", "tcp", &from, &to]).expect("an answer")
}

/// How many packets the nodes have dropped because no rule lets them in.
fn refused(standing: &Standing, nodes: &[&str]) -> u64 {
    nodes.iter().map(|node| standing.counter(node, "drop.no-rule")).sum()
}

pub fn a_flow_that_was_announced_is_let_in_wherever_its_packets_are_handled() {
    let standing = Standing::up("admit", 3, &[]);
    standing.settled();
    let load = Load::start(&standing);
    let any = SocketAddr::from(([0, 0, 0, 0], PORT));
    let listener = standing.inside("client", || TcpListener::bind(any)).expect("a listener");
    thread::spawn(move || serve(&listener));

    let second = Duration::from_secs(1);
    assert!(connect(&standing, FIRST - 1, second).is_err(), "no rule lets the server connect");
    assert!(refused(&standing, &NODES) > 0, "and the nodes have said so");

    // One node is told of all, and each owner has its own before that node answers.
    let before = refused(&standing, &NODES);
    let mut owners = BTreeMap::new();
    for port in FIRST..FIRST + FLOWS {
        let admitted = admit(&standing, "n2", port);
        assert_eq!((&admitted["copies"], &admitted["was_there"]), (&2.into(), &false.into()));
        *owners.entry(admitted["owner"].to_string()).or_insert(0) += 1;
        let answered = connect(&standing, port, PATIENCE).expect("it was announced");
        assert_eq!(answered, port);
    }
    assert_eq!(owners.len(), 3, "all nodes own some of them: {owners:?}");
    assert_eq!(
        refused(&standing, &NODES),
        before,
        "no packet of theirs was refused, the first ones neither"
    );
    let others = standing.counter("n1", "engine_determined_placed");
    assert!(others > 0 && standing.counter("n1", "engine_flows_determined") == 0);

    // Announced, and the owner dies before the first packet: another node has the flow.
    let (port, owner) = (FIRST + FLOWS..)
        .map(|port| (port, admit(&standing, "n2", port)))
        .find(|(_, admitted)| admitted["owner"] == "n3")
        .map(|(port, admitted)| (port, admitted["owner"].clone()))
        .expect("n3 owns something");
    assert_eq!(admit(&standing, "n1", port)["was_there"], true, "by whomever it is asked");
    let living = ["n1", "n2"];
    let before = refused(&standing, &living);
    standing.order("kill", owner.as_str().expect("a name"));
    standing.await_owners(&[1, 2]);
    assert_eq!(connect(&standing, port, PATIENCE).expect("its successor knows it"), port);
    assert_eq!(refused(&standing, &living), before);

    load.finish();

    for nonsense in [["icmp", "10.20.2.1:1"], ["udp", "10.20.2.1:500"], ["tcp", "[fd20::1]:80"]] {
        let [protocol, from] = nonsense;
        assert!(!standing.tell("n1", &["flow", "admit", protocol, from, "10.10.2.1:7100"]));
    }
}
