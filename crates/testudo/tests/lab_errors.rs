//! ICMP errors through a real cluster: what the end of a connection is told by a router behind the nodes,
//! whichever node the router sends it to.
//!
//! Needs root and the program traceroute; ignored, with the reason, without one of them.

mod programs;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};

use standing::Standing;

const NODES: u8 = 2;
/// The largest packet that fits through the small link behind the cluster.
const SMALL: u16 = 1300;
/// Many more bytes than a sender sends before it is told anything.
const BYTES: usize = 400_000;
/// A transfer takes moments; one whose large segments vanish would never end.
const PATIENCE: Duration = Duration::from_secs(20);

fn counters(standing: &Standing, name: &str) -> u64 {
    (1..=NODES).map(|node| standing.counter(&format!("n{node}"), name)).sum()
}

/// The addresses that answered, hop by hop.
fn hops(standing: &Standing, options: &[&str], to: &str) -> Vec<IpAddr> {
    let output = standing.inside("client", || {
        let mut traceroute = Command::new("traceroute");
        // One probe after the other: no router limits its errors then.
        traceroute.args(["-n", "-q", "1", "-N", "1", "-w", "2", "-m", "8"]).args(options).arg(to);
        traceroute.output().expect("start traceroute")
    });
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let hop = |line: &str| {
        let address = line.split_whitespace().nth(1).expect("a hop");
        address.parse().unwrap_or_else(|_| panic!("a hop that does not answer: {told}"))
    };
    told.lines().skip(1).map(hop).collect()
}

/// The ways to ask: UDP, whose end is told by an error; echoes; connections.
const WAYS: [&[&str]; 3] = [&[], &["-I"], &["-T", "-p", "7311"]];

fn a_trace_shows_the_cluster_as_one_hop_and_every_router_behind_it() {
    let standing = Standing::whole("trace", NODES, &["--mode", "steered"]);
    for (before, nodes, behind, server) in [
        ("10.11.0.1", ["10.10.1.1", "10.10.1.2"], "10.20.2.1", "10.21.2.1"),
        ("fd11::1", ["fd10::1:1", "fd10::1:2"], "fd20::2:1", "fd21::2:1"),
    ] {
        for way in WAYS {
            let seen = hops(&standing, way, server);
            let [first, cluster, third, last] = seen[..] else { panic!("{way:?}: {seen:?}") };
            let expected =
                [before, behind, server].map(|text| text.parse::<IpAddr>().expect("one"));
            assert_eq!([first, third, last], expected, "{way:?}");
            assert!(nodes.iter().any(|node| *node == cluster.to_string()), "{way:?}: {cluster}");
        }
    }
    // With two nodes and the way back by the other one, some were passed to their flows' owner.
    assert!(counters(&standing, "passed") > 0);
    assert_eq!(
        (counters(&standing, "drop.unrelated"), counters(&standing, "drop.internal")),
        (0, 0)
    );
}

fn a_trace_through_shared_addresses_shows_the_node_that_has_the_flow() {
    trace_through_shared_addresses("trace-shared", &[]);
}

/// Each probe is a flow, of which the errors speak by the address that the server's side has seen.
fn a_trace_through_translated_addresses_shows_the_same() {
    let standing = trace_through_shared_addresses("trace-nat", &["--snat"]);
    assert!(counters(&standing, "upcall") > 0, "flows that are translated are chosen a port");
}

fn trace_through_shared_addresses(story: &str, options: &[&str]) -> Standing {
    let standing = Standing::whole(story, NODES, options);
    for (net, server) in [("10.10.1.", "10.20.2.1"), ("fd10::1:", "fd20::2:1")] {
        for way in WAYS {
            let seen = hops(&standing, way, server);
            let [cluster, last] = seen[..] else { panic!("{way:?}: {seen:?}") };
            assert!(cluster.to_string().starts_with(net), "{way:?}: {cluster}");
            assert_eq!(last.to_string(), server, "{way:?}");
        }
    }
    assert_eq!(
        (counters(&standing, "drop.unrelated"), counters(&standing, "drop.internal")),
        (0, 0)
    );
    standing
}

/// What a connection from the client brings to the server, and the packet size that the client ends with.
fn transfer(standing: &Standing, server: &str, port: u16) -> (usize, u64) {
    let server = SocketAddr::new(server.parse().expect("an address"), port);
    let listener = standing.inside("server", || TcpListener::bind(server)).expect("a listener");
    let reader = thread::spawn(move || {
        let (mut connection, _) = listener.accept()?;
        connection.set_read_timeout(Some(PATIENCE))?;
        let mut read = Vec::new();
        connection.read_to_end(&mut read)?;
        connection.write_all(b"done").map(|()| read.len())
    });
    let connect = || TcpStream::connect_timeout(&server, PATIENCE);
    let mut connection = standing.inside("client", connect).expect("a connection");
    connection.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    connection.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    connection.write_all(&vec![0x55; BYTES]).expect("the data leaves");
    connection.shutdown(Shutdown::Write).expect("its end leaves");
    connection.read_exact(&mut [0; 4]).expect("the server has all of it");
    let segment = getsockopt(&connection, sockopt::TcpMaxSeg).expect("the size of segments");
    (reader.join().expect("a server").expect("all of it"), segment.into())
}

fn a_connection_is_told_of_a_small_link_behind_the_cluster() {
    let standing = Standing::whole("path-mtu", 3, &["--mode", "steered"]);
    // The router behind the nodes can send less to the servers than comes to it.
    let shrink = format!("mount -t sysfs sysfs /sys && echo {SMALL} > /sys/class/net/eth0/mtu");
    let shrunk = standing.inside("srouter", || {
        Command::new("unshare").args(["--mount", "sh", "-c", &shrink]).status()
    });
    assert!(shrunk.expect("start unshare").success());
    for (ports, dies) in [(7300..7306, true), (7306..7310, false)] {
        transfers(&standing, ports);
        if dies {
            standing.order("kill", "n2");
            withdraw(&standing, &["10.10.1.2", "10.20.1.2", "fd10::1:2", "fd20::1:2"]);
            standing.await_owners(&[1, 3]);
        }
    }
    let counter = |name| standing.counter("n1", name) + standing.counter("n3", name);
    assert_eq!((counter("drop.unrelated"), counter("drop.internal")), (0, 0));
}

/// Has the routers send nothing more to next hops that are dead.
fn withdraw(standing: &Standing, dead: &[&str]) {
    let ip = |host: &str, arguments: &[&str]| {
        let output = standing.inside(host, || Command::new("ip").args(arguments).output());
        let output = output.expect("start ip");
        assert!(output.status.success(), "{host}: ip {arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for (host, family) in
        [("crouter", "-4"), ("crouter", "-6"), ("srouter", "-4"), ("srouter", "-6")]
    {
        let routes = ip(host, &[family, "-o", "route", "show"]).replace('\\', " ");
        for route in routes.lines().filter(|route| route.contains("nexthop")) {
            let (whither, hops) = route.split_once("nexthop").expect("a next hop");
            let network = whither.split_whitespace().next().expect("a network");
            let live = |hop: &&str| !dead.iter().any(|dead| hop.contains(&format!("via {dead} ")));
            let hops: Vec<&str> = hops.split("nexthop").filter(live).collect();
            let hops =
                hops.iter().flat_map(|hop| ["nexthop"].into_iter().chain(hop.split_whitespace()));
            let replaced: Vec<&str> =
                [family, "route", "replace", network].into_iter().chain(hops).collect();
            ip(host, &replaced);
        }
    }
}

/// Several, so that both nodes have flows and errors come to either.
fn transfers(standing: &Standing, ports: std::ops::Range<u16>) {
    for port in ports {
        for (server, headers) in [("10.21.2.1", 40), ("fd21::2:1", 60)] {
            let (bytes, segment) = transfer(standing, server, port);
            assert_eq!(bytes, BYTES, "{server}");
            // Options of each segment are no part of the size.
            let most = u64::from(SMALL) - headers;
            assert!(segment <= most && segment > most - 60, "{server}: segments of {segment}");
        }
    }
}

/// What a datagram to a port of the server where nobody listens comes to.
fn refusal(standing: &Standing) -> ErrorKind {
    standing.inside("client", || {
        let socket = UdpSocket::bind("10.10.2.1:0").expect("a socket");
        socket.connect("10.20.2.1:9").expect("a peer");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket.send(b"anybody?").expect("it leaves");
        socket.recv(&mut [0; 16]).expect_err("nobody answers").kind()
    })
}

fn an_error_about_a_translated_flow_comes_back_to_who_sent_it() {
    let standing = Standing::bare("translated", NODES, &[]);
    let rule = "[[rule]]\naction = \"accept\"\nprotocol = \"udp\"\nsource = \"10.10.0.0/16\"\n\
        snat = [\"10.20.0.1\"]\n\n[[rule]]";
    for node in ["n1", "n2"] {
        standing.edit(node, |text| text.replacen("[[rule]]", rule, 1));
        standing.order("start", node);
    }
    standing.await_owners(&[1, 2]);
    // No more than a few a second, else.
    let unlimited = || std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0");
    standing.inside("server", unlimited).expect("a host that tells of each");
    // Of either node's buckets.
    for _ in 0..12 {
        assert_eq!(refusal(&standing), ErrorKind::ConnectionRefused);
    }
    assert_eq!(
        (counters(&standing, "drop.unrelated"), counters(&standing, "drop.internal")),
        (0, 0)
    );
}

/// How large the segments are that both ends of a new connection send.
fn segments(standing: &Standing, server: &str, port: u16) -> [u32; 2] {
    let server = SocketAddr::new(server.parse().expect("an address"), port);
    let listener = standing.inside("server", || TcpListener::bind(server)).expect("a listener");
    let connect = || TcpStream::connect_timeout(&server, PATIENCE);
    let client = standing.inside("client", connect).expect("a connection");
    let (server, _) = listener.accept().expect("a connection");
    [client, server].map(|end| getsockopt(&end, sockopt::TcpMaxSeg).expect("the size of segments"))
}

/// The interface that the server is behind asks for it, of connections whose SYNs are translated.
fn both_ends_of_a_connection_send_segments_as_small_as_an_interface_asks() {
    const MOST: u32 = 1000;
    let options = ["--snat"];
    let standing = Standing::bare("mss", NODES, &options);
    for node in ["n1", "n2"] {
        standing.edit(node, |text| {
            let (interface, clamp) = ("name = \"out0\"\n", format!("mss_clamp = {MOST}\n"));
            let (before, after) = text.split_once(interface).expect("the interface");
            format!("{before}{interface}{clamp}{after}")
        });
        standing.order("start", node);
    }
    standing.await_owners(&[1, 2]);
    for (at, server) in ["10.20.2.1", "fd20::2:1"].into_iter().cycle().take(12).enumerate() {
        let [client, server] = segments(&standing, server, 7300 + at as u16);
        // Options take some of what an end may send.
        for seen in [client, server] {
            assert!((MOST - 40..=MOST).contains(&seen), "{server}: {client} and {server}");
        }
    }
    assert!((1..=NODES).all(|node| standing.counter(&format!("n{node}"), "upcall") > 0));
}

fn main() -> ExitCode {
    let tests: [(&str, fn()); 6] = [
        (
            "a_trace_shows_the_cluster_as_one_hop_and_every_router_behind_it",
            a_trace_shows_the_cluster_as_one_hop_and_every_router_behind_it,
        ),
        (
            "a_trace_through_shared_addresses_shows_the_node_that_has_the_flow",
            a_trace_through_shared_addresses_shows_the_node_that_has_the_flow,
        ),
        (
            "a_trace_through_translated_addresses_shows_the_same",
            a_trace_through_translated_addresses_shows_the_same,
        ),
        (
            "a_connection_is_told_of_a_small_link_behind_the_cluster",
            a_connection_is_told_of_a_small_link_behind_the_cluster,
        ),
        (
            "an_error_about_a_translated_flow_comes_back_to_who_sent_it",
            an_error_about_a_translated_flow_comes_back_to_who_sent_it,
        ),
        (
            "both_ends_of_a_connection_send_segments_as_small_as_an_interface_asks",
            both_ends_of_a_connection_send_segments_as_small_as_an_interface_asks,
        ),
    ];
    programs::run(&tests, "traceroute", "traceroute")
}
