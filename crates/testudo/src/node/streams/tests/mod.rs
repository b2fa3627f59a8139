//! Nodes and strangers over real sockets of the loopback interface.
//!
//! The nodes run in the test's own thread, turn by turn, as their engines would run them; strangers run
//! in threads of their own. Addresses of 127.0.0.0/8 stand for machines.

mod between;
mod cost;
mod renewals;
mod strangers;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Poll};
use testudo_cluster::config::{Cluster, Settings, Timing};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::replica::{Effect, Replica};

use super::*;
use crate::node::clock;
use crate::node::credentials::keeper::Keeper;
use crate::node::credentials::refusal::Reason;
use crate::node::credentials::tests::{Place, identity, now};

/// How long anything may take that has to come.
const LIMIT: Duration = Duration::from_secs(20);

fn cluster(own: NodeId) -> Arc<Cluster> {
    let settings = Settings {
        name: "test".into(),
        secret: [7; 16],
        members: identity(own.0).members,
        weights: vec![100; 3],
        witnesses: [].into_iter().collect(),
        min_voters: 2,
        node: own,
        buckets: 4,
        timing: Timing::default(),
        max_flows: 16,
        label: String::new(),
    };
    Arc::new(Cluster::new(settings).unwrap())
}

/// Where the members listen: each has a machine of its own.
struct Net {
    listeners: Vec<Option<TcpListener>>,
    addresses: Vec<SocketAddr>,
}

impl Net {
    fn new() -> Self {
        let listeners: Vec<_> = (1..=3)
            .map(|last| TcpListener::bind(SocketAddr::from(([127, 0, 9, last], 0))).unwrap())
            .collect();
        let addresses = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        Self { listeners: listeners.into_iter().map(Some).collect(), addresses }
    }

    fn listener(&mut self, node: u8) -> TcpListener {
        self.listeners[usize::from(node)].take().unwrap()
    }
}

/// A node as far as its streams go.
struct Node {
    number: NodeId,
    poll: Poll,
    events: Events,
    streams: Streams,
    replica: Replica,
    keeper: Option<Keeper>,
    /// What is added to the clock, in milliseconds.
    ahead: u64,
    /// How often a session was lost, and why sessions were closed.
    lost: usize,
    closed: Vec<String>,
}

impl Node {
    fn new(net: &mut Net, number: u8, keeper: Option<Keeper>) -> Self {
        let listener = net.listener(number);
        listener.set_nonblocking(true).unwrap();
        let number = NodeId(number);
        let poll = Poll::new().unwrap();
        let replica = Replica::new(cluster(number), Incarnation(u64::from(number.0) + 1));
        let address = |peer: NodeId| net.addresses[usize::from(peer.0)];
        let streams = Streams::new(Parts {
            registry: poll.registry().try_clone().unwrap(),
            listener: mio::net::TcpListener::from_std(listener),
            own: address(number),
            members: net.addresses.clone(),
            peers: replica.connects_to().map(|peer| (peer, address(peer))).collect(),
            credentials: keeper.as_ref().map(Keeper::handle),
        });
        Self {
            number,
            poll,
            events: Events::with_capacity(256),
            streams: streams.unwrap(),
            replica,
            keeper,
            ahead: 0,
            lost: 0,
            closed: Vec::new(),
        }
    }

    /// A member by certificates of `authority`.
    fn member(net: &mut Net, place: &Place, authority: &str, number: u8) -> Self {
        let files = place.files(authority, &format!("n{}", number + 1));
        let keeper = Keeper::open(files, identity(number)).unwrap();
        Self::new(net, number, Some(keeper))
    }

    fn turn(&mut self) {
        self.poll.poll(&mut self.events, Some(Duration::from_millis(1))).unwrap();
        for event in &self.events {
            self.streams.handle_event(event);
        }
        let now = clock::now().plus_millis(self.ahead);
        self.streams.turn(now, &mut self.replica);
        self.replica.handle_tick(now);
        while let Some(effect) = self.replica.poll_effect() {
            match effect {
                Effect::Close { connection, error } => {
                    self.closed.push(error.to_string());
                    self.streams.close(now, connection, &error);
                }
                Effect::PeerConnected { peer, connection } => {
                    self.streams.handle_peer_connected(peer, connection);
                }
                Effect::PeerClosed { .. } => self.lost += 1,
                Effect::Letter { from, bytes } => {
                    assert_eq!(Letter::decode(&bytes), Ok(Letter::Renew));
                    self.streams.handle_renewal_wanted(now, from);
                }
                _ => {}
            }
        }
    }

    fn knows(&self, peer: u8) -> bool {
        self.replica.peer(NodeId(peer)).connected
    }

    fn count(&self, name: &str) -> u64 {
        let found = self.streams.counters().named().find(|(known, _)| *known == name);
        found.unwrap_or_else(|| panic!("no counter {name}")).1
    }

    fn refused(&self, reason: Reason) -> u64 {
        self.count(reason.counter())
    }
}

/// Lets nodes run until something holds.
fn until(nodes: &mut [&mut Node], what: &str, holds: impl Fn(&[&mut Node]) -> bool) {
    let begun = Instant::now();
    while !holds(nodes) {
        let counters = || nodes.iter().map(|node| node.streams.counters()).collect::<Vec<_>>();
        assert!(begun.elapsed() < LIMIT, "still not: {what}: {:?}", counters());
        nodes.iter_mut().for_each(|node| node.turn());
    }
}

fn run_for(nodes: &mut [&mut Node], time: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < time {
        nodes.iter_mut().for_each(|node| node.turn());
    }
}

/// Node 0 and node 1 of one authority, which know each other.
fn pair(net: &mut Net, place: &Place) -> [Node; 2] {
    place.authority("own", &["n1", "n2", "n3"]);
    let [mut a, mut b] = [0, 1].map(|number| Node::member(net, place, "own", number));
    until(&mut [&mut a, &mut b], "both know each other", |n| n[0].knows(1) && n[1].knows(0));
    [a, b]
}
