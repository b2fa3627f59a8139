//! Packets in fragments through a real cluster: large datagrams and echoes, both ways, in both modes, translated or
//! not, and after a node has died.
//!
//! Needs root and the program ping; ignored, with the reason, without one of them.

mod programs;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use standing::Standing;

const NODES: u8 = 3;
const SERVERS: [&str; 2] = ["10.20.2.1", "fd20::2:1"];
/// The same behind the routers of a lab in `steered` mode.
const BEHIND_ROUTERS: [&str; 2] = ["10.21.2.1", "fd21::2:1"];
/// Six fragments.
const BYTES: usize = 8000;
/// Enough that every node has some.
const SOCKETS: u16 = 16;
const PATIENCE: Duration = Duration::from_secs(5);

fn counters(standing: &Standing, nodes: &[&str], name: &str) -> u64 {
    nodes.iter().map(|node| standing.counter(node, name)).sum()
}

/// The byte at each place of a datagram of this number.
fn datagram(number: u16) -> Vec<u8> {
    (0..BYTES).map(|place| (place as u16).wrapping_mul(31).wrapping_add(number) as u8).collect()
}

/// Has the server send back so many datagrams, the bytes the other way round.
fn serve(standing: &Standing, address: &str, port: u16, count: usize) -> thread::JoinHandle<usize> {
    let address = SocketAddr::new(address.parse().expect("an address"), port);
    let socket = standing.inside("server", || UdpSocket::bind(address)).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    thread::spawn(move || {
        let mut room = vec![0; 65_536];
        let mut served = 0;
        while served < count
            && let Ok((bytes, from)) = socket.recv_from(&mut room)
        {
            room[..bytes].reverse();
            socket.send_to(&room[..bytes], from).expect("the answer leaves");
            served += 1;
        }
        served
    })
}

/// Sockets of the client, for one family.
fn sockets(standing: &Standing, server: &str, port: u16) -> Vec<UdpSocket> {
    let any = if server.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let to = SocketAddr::new(server.parse().expect("an address"), port);
    let one = |_| {
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(to).expect("a peer");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    };
    standing.inside("client", || (0..SOCKETS).map(one).collect())
}

/// Each socket sends one datagram and gets it back, backwards.
fn all_come_back(sockets: &[UdpSocket]) {
    for (number, socket) in (0..).zip(sockets) {
        let mut sent = datagram(number);
        socket.send(&sent).expect("it leaves");
        let mut room = vec![0; 65_536];
        let bytes = socket.recv(&mut room).unwrap_or_else(|error| panic!("{number}: {error}"));
        sent.reverse();
        assert_eq!(&room[..bytes], &sent, "datagram {number}");
    }
}

fn pings(standing: &Standing, server: &str) {
    let output = standing.inside("client", || {
        let mut ping = Command::new("ping");
        ping.args(["-n", "-c", "5", "-i", "0.2", "-W", "5", "-s", "4000", server]);
        ping.output().expect("start ping")
    });
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("5 received"), "{told}");
}

/// Datagrams and echoes in fragments come through, and through the other nodes when one has lost its buckets.
fn fragments_come_through(
    story: &str,
    servers: [&str; 2],
    options: &[&str],
    ends: fn(&Standing),
) -> Standing {
    let standing = Standing::whole(story, NODES, options);
    for server in servers {
        pings(&standing, server);
    }
    let begun: Vec<_> = (7400..)
        .zip(servers)
        .map(|(port, server)| {
            let served = serve(&standing, server, port, usize::from(SOCKETS) * 3);
            (sockets(&standing, server, port), served)
        })
        .collect();
    for (sockets, _) in &begun {
        all_come_back(sockets);
        all_come_back(sockets);
    }
    let nodes = ["n1", "n2", "n3"];
    for bad in
        ["drop.fragment-overlap", "drop.fragment-early", "drop.fragment-full", "drop.internal"]
    {
        assert_eq!(counters(&standing, &nodes, bad), 0, "{bad}");
    }
    ends(&standing);
    standing.await_owners(&[2, 3]);
    for (sockets, served) in begun {
        all_come_back(&sockets);
        assert_eq!(served.join().expect("a server"), usize::from(SOCKETS) * 3);
    }
    for server in servers {
        pings(&standing, server);
    }
    standing
}

fn kill(standing: &Standing) {
    standing.order("kill", "n1");
}

/// The routers of a lab that stands send a dead node its share for ever; one that is empty passes it on.
fn drain(standing: &Standing) {
    assert!(standing.tell("n2", &["node", "drain", "n1"]));
}

fn fragments_come_through_shared_addresses() {
    fragments_come_through("fragments", SERVERS, &[], kill);
}

fn fragments_come_through_translated_addresses() {
    fragments_come_through("fragments-nat", SERVERS, &["--snat"], kill);
}

fn fragments_come_through_where_a_router_spreads_them() {
    let standing =
        fragments_come_through("fragments-steered", BEHIND_ROUTERS, &["--mode", "steered"], drain);
    assert!(counters(&standing, &["n2", "n3"], "passed") > 0);
}

fn main() -> ExitCode {
    let tests: [(&str, fn()); 3] = [
        ("fragments_come_through_shared_addresses", fragments_come_through_shared_addresses),
        (
            "fragments_come_through_translated_addresses",
            fragments_come_through_translated_addresses,
        ),
        (
            "fragments_come_through_where_a_router_spreads_them",
            fragments_come_through_where_a_router_spreads_them,
        ),
    ];
    programs::run(&tests, "ping", "iputils-ping")
}
