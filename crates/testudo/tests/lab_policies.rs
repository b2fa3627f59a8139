//! Rules that keep flows back, with the real program and the real kernel: which connections outlive a
//! node, and that all outlive a planned move.
//!
//! Needs root; ignored, with the reason, without it.

#[path = "../../datapath/tests/privileged/mod.rs"]
mod privileged;
#[allow(dead_code, reason = "each file of tests uses its part")]
mod standing;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use serde_json::Value;

use standing::Standing;

/// How many connections each rule has.
const EACH: usize = 24;
/// How long an echo may take: longer than TCP waits before it sends again after a takeover.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection that is gone is listened to.
const SILENCE: Duration = Duration::from_secs(3);

/// The server's ports, and what the rule of each says.
const ESTABLISHED: u16 = 7101;
const AFTER: u16 = 7102;
const NEVER: u16 = 7103;
const LATER: u16 = 7104;
const RULES: [(u16, &str); 4] = [
    (ESTABLISHED, "replicate = \"established\""),
    (AFTER, "replicate = \"after\"\nreplicate_after_ms = 1500"),
    (NEVER, "replicate = \"never\""),
    (LATER, "replicate = \"after\"\nreplicate_after_ms = 600000"),
];

/// The client's first port, below those that the kernel gives.
const FIRST_PORT: u16 = 20_000;

/// A flow as a node shows it, by the client's port.
type Flows = BTreeMap<u16, Value>;

fn rules(text: String) -> String {
    let rule = |(port, policy): &(u16, &str)| {
        format!(
            "[[rule]]\naction = \"accept\"\nprotocol = \"tcp\"\ndestination_ports = \"{port}\"\n{policy}\n\n"
        )
    };
    let rules: String = RULES.iter().map(rule).collect();
    text.replacen("[[rule]]", &format!("{rules}[[rule]]"), 1)
}

fn flows(standing: &Standing, node: &str, table: &str) -> Flows {
    let shown = standing.ask(node, &["flow", "show", "--table", table]).expect("flows");
    let flows = shown["flows"].as_array().expect("a list").iter();
    let ours =
        flows.filter(|flow| RULES.iter().any(|(port, _)| flow["responder"]["port"] == *port));
    let port = |flow: &Value| flow["initiator"]["port"].as_u64().expect("a port") as u16;
    ours.map(|flow| (port(flow), flow.clone())).collect()
}

/// Connections by their own ports, with that of the server.
struct Client(BTreeMap<u16, (TcpStream, u16)>);

impl Client {
    /// Opens all connections; each has been echoed on once.
    fn open(standing: &Standing) -> Self {
        for (port, _) in RULES {
            let any = SocketAddr::from(([0, 0, 0, 0], port));
            let bind = || TcpListener::bind(any);
            let listener = standing.inside("server", bind).expect("a listener");
            thread::spawn(move || serve(&listener));
        }
        let open = |(own, port)| (own, (connection(own, port), port));
        // The kernel would give one port to connections that go to different ones.
        let ports = (FIRST_PORT..).zip(RULES.iter().flat_map(|&(port, _)| [port; EACH]));
        let streams = standing.inside("client", || ports.map(open).collect());
        let client = Self(streams);
        client.echo(|_| true);
        client
    }

    /// All of these connections are alive.
    fn echo(&self, which: impl Fn(u16) -> bool) {
        for (own, (stream, port)) in self.0.iter().filter(|(own, _)| which(**own)) {
            let mut stream = stream;
            let mut echo = || -> std::io::Result<[u8; 8]> {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.write_all(b"all well")?;
                let mut bytes = [0; 8];
                stream.read_exact(&mut bytes)?;
                Ok(bytes)
            };
            let echoed = echo().unwrap_or_else(|error| panic!("{own} to {port}: {error}"));
            assert_eq!(&echoed, b"all well", "{own} to {port}");
        }
    }

    /// None of these connections is.
    fn no_echo(&self, which: impl Fn(u16) -> bool) {
        let dead = || self.0.iter().filter(|(own, _)| which(**own));
        for (_, (stream, _)) in dead() {
            let mut stream = stream;
            stream.write_all(b"is there").expect("room to send");
        }
        thread::sleep(SILENCE);
        for (own, (stream, port)) in dead() {
            let mut stream = stream;
            stream.set_nonblocking(true).expect("a stream");
            let heard = stream.read(&mut [0; 8]).map_err(|error| error.kind());
            assert_eq!(heard, Err(ErrorKind::WouldBlock), "{own} to {port}");
        }
    }

    fn port(&self, own: u16) -> u16 {
        self.0[&own].1
    }
}

/// A connection of this port to that of the server.
fn connection(own: u16, port: u16) -> TcpStream {
    let (family, kind) = (AddressFamily::Inet, SockType::Stream);
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(socket.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, own)).expect("the port");
    let server = SockaddrIn::new(10, 20, 2, 1, port);
    connect(socket.as_raw_fd(), &server).expect("a connection");
    TcpStream::from(socket)
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming().take(EACH) {
        let Ok(mut stream) = stream else { return };
        thread::spawn(move || {
            let mut bytes = [0; 8];
            while stream.read_exact(&mut bytes).is_ok() && stream.write_all(&bytes).is_ok() {}
        });
    }
}

/// What the nodes show of what is kept back is what the rules say.
fn rules_are_kept(standing: &Standing, client: &Client) {
    let mut kept_back = 0;
    for node in ["n1", "n2", "n3"] {
        let own = flows(standing, node, "node");
        let known = flows(standing, node, "common");
        for (port, flow) in &own {
            let replicated = matches!(client.port(*port), ESTABLISHED | AFTER);
            assert_eq!(flow["replicated"], replicated, "{node}: {flow}");
            assert_eq!(known.contains_key(port), replicated, "{node}: {flow}");
            kept_back += u64::from(!replicated);
        }
        for flow in known.values() {
            let port = flow["responder"]["port"].as_u64();
            assert!(port < Some(NEVER.into()), "{node} knows {flow}");
        }
        assert_eq!(known.len(), 2 * EACH, "{node}");
    }
    assert_eq!(kept_back, 2 * EACH as u64);
    let count = |key: &str| {
        let of = |node| standing.ask(node, &["sync", "show"]).expect("a word on replication");
        let counts = ["n1", "n2", "n3"].map(|node| of(node)["replication"][key].as_u64());
        counts.into_iter().flatten().sum::<u64>()
    };
    assert_eq!((count("not_replicated"), count("waiting")), (2 * EACH as u64, EACH as u64));
    let status = standing.ask("n1", &["status"]).expect("a status");
    assert!(status["node_table"]["not_replicated"].as_u64() > Some(0), "{status}");
}

fn what_rules_keep_back_outlives_moves_and_not_its_node() {
    let standing = Standing::bare("policies", 3, &[]);
    for node in ["n1", "n2", "n3"] {
        standing.edit(node, rules);
        standing.order("start", node);
    }
    standing.await_owners(&[1, 2, 3]);
    let agreed = standing.settled();
    let client = Client::open(&standing);
    standing.until("the third rule's time has come", || {
        flows(&standing, "n1", "common").len() >= 2 * EACH
    });
    rules_are_kept(&standing, &client);

    // A bucket of the first node's with a flow that nobody else is told of moves to the second.
    let kept_back = |port: u16, flow: &Value| {
        flow["replicated"] == false
            && client.port(port) == NEVER
            && agreed.owner(flow["bucket"].as_u64().unwrap_or(0) as usize) == "n1"
    };
    let own = flows(&standing, "n1", "node");
    let (moved, flow) = own.iter().find(|(port, flow)| kept_back(**port, flow)).expect("one of 24");
    let bucket = flow["bucket"].as_u64().expect("a bucket") as usize;
    assert!(standing.tell("n1", &["bucket", "move", &bucket.to_string(), "n2"]));
    standing.until("the bucket has moved", || standing.agreed().owner(bucket) == "n2");
    standing.until("its entries are where it is", || {
        let [before, after] = ["n1", "n2"].map(|node| flows(&standing, node, "node"));
        !before.contains_key(moved) && after.contains_key(moved)
    });
    assert_eq!(flows(&standing, "n2", "node")[moved]["replicated"], true);
    client.echo(|_| true);
    assert!(standing.counter("n1", "engine_flows_let_through") > 0);
    for node in ["n1", "n2", "n3"] {
        assert!(flows(&standing, node, "common").contains_key(moved), "{node}");
        assert_eq!(standing.counter(node, "engine_flows_put_right"), 0, "{node}");
        assert!(standing.tell(node, &["sync", "verify"]), "{node}");
    }

    // The first node dies, and with it what only it knew.
    let mut only = flows(&standing, "n1", "node");
    only.retain(|_, flow| flow["replicated"] == false);
    assert!(!only.is_empty());
    standing.order("kill", "n1");
    standing.await_owners(&[2, 3]);
    client.echo(|own| !only.contains_key(&own));
    for node in ["n2", "n3"] {
        for table in ["node", "common"] {
            let known = flows(&standing, node, table);
            assert!(only.keys().all(|port| !known.contains_key(port)), "{node}: {known:?}");
        }
    }
    client.no_echo(|own| only.contains_key(&own));
    assert!(only.keys().all(|own| client.port(*own) >= NEVER));
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[(
            "what_rules_keep_back_outlives_moves_and_not_its_node",
            what_rules_keep_back_outlives_moves_and_not_its_node,
        )],
        &[],
    )
}
