//! Who is where: the hosts of a lab, their links, names and addresses. Pure.
//!
//! ```text
//! shared    client ── inside ── in0 ── n1 … nN ── out0 ── outside ── server
//!
//! steered   client ── clients ── crouter ── inside ── in0 ── n1 …
//!           … nN ── out0 ── outside ── srouter ── servers ── server
//!
//! tap       client ── inside (a hub) ── server
//!                       └─ in0 ── n1 … nN ── tap0 ── ids0 (the node's analyser)
//!
//! all       n1 … nN, witness ── sync0 ── sync ── sync0 ── etcd
//! ```
//!
//! Invariant: every lab of a mode has the same addresses. Nothing of a lab is outside its own
//! namespaces, so only the namespaces' names have to differ between labs that run side by side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::links::Mac;
pub use crate::config::cluster::Mode;

/// The MAC that all nodes answer with for the cluster's addresses. No frame is sent *from* it, so the
/// bridges never learn it and flood what is sent to it.
pub const CLUSTER_MAC: &str = "02:74:65:73:00:01";
/// Where nodes speak to each other, on the sync segment.
pub const SYNC_PORT: u16 = 7400;
/// Where an etcd listens for its clients, on the sync segment.
pub const ETCD_PORT: u16 = 2379;
/// The most nodes that a lab is built with.
pub const MAX_NODES: u8 = 32;

/// The client's link, and the server's.
pub const HOST_LINK: &str = "eth0";
/// A router's link to the nodes.
pub const ROUTER_LINK: &str = "up0";
/// Where a node's packets for its analyser go.
pub const TAP_LINK: &str = "tap0";
/// Where a node's analyser reads.
pub const ANALYSER_LINK: &str = "ids0";
/// The etcd's place on the sync segment, behind all nodes'.
const ETCD_HOST: u8 = 254;
/// In `tap` mode client and server are neighbours: one network for all.
const TAP_PREFIXES: [u8; 2] = [8, 8];

/// How the nodes agree on whose the buckets are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Coordinator {
    /// By themselves.
    #[default]
    Embedded,
    /// By an etcd of the lab's own.
    Etcd,
}

/// A shared segment: one bridge in the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// The nodes' side towards the client.
    Inside,
    /// The nodes' side towards the server.
    Outside,
    /// Between nodes only.
    Sync,
    /// Behind the client's router.
    Clients,
    /// Behind the server's router.
    Servers,
}

impl Segment {
    /// The bridge's name.
    pub fn bridge(self) -> &'static str {
        match self {
            Segment::Inside => "inside",
            Segment::Outside => "outside",
            Segment::Sync => "sync",
            Segment::Clients => "clients",
            Segment::Servers => "servers",
        }
    }

    /// The name of a node's link to it.
    pub fn node_link(self) -> &'static str {
        match self {
            Segment::Inside => "in0",
            Segment::Outside => "out0",
            Segment::Sync => "sync0",
            Segment::Clients | Segment::Servers => "none",
        }
    }

    /// The cluster's addresses here, which are the gateway of the hosts here.
    pub fn cluster(self) -> [IpAddr; 2] {
        self.host(0, 1)
    }

    /// Its networks, as the nodes' rules name them.
    pub fn networks(self) -> [(IpAddr, u8); 2] {
        [(self.v4(0, 0), 16), (self.v6(0, 0), 64)]
    }

    /// The addresses of a host here.
    pub fn host(self, group: u8, host: u8) -> [IpAddr; 2] {
        [self.v4(group, host), self.v6(group, host)]
    }

    fn number(self) -> u8 {
        match self {
            Segment::Inside => 10,
            Segment::Clients => 11,
            Segment::Outside => 20,
            Segment::Servers => 21,
            Segment::Sync => 99,
        }
    }

    fn v4(self, group: u8, host: u8) -> IpAddr {
        Ipv4Addr::new(10, self.number(), group, host).into()
    }

    /// The second byte is written as its decimal digits: fd10, fd20, fd99.
    fn v6(self, group: u8, host: u8) -> IpAddr {
        let digits = u16::from(self.number());
        let first = 0xfd00 | ((digits / 10) << 4) | (digits % 10);
        Ipv6Addr::new(first, 0, 0, 0, 0, 0, group.into(), host.into()).into()
    }
}

/// One host: one network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Host {
    /// Has the bridges.
    Switch,
    /// Opens connections.
    Client,
    /// Serves them.
    Server,
    /// Between the client and the nodes, in `steered` mode.
    ClientRouter,
    /// Between the nodes and the server, in `steered` mode.
    ServerRouter,
    /// Has the etcd.
    Etcd,
    /// The node of this number, from 1. A witness has the number behind the nodes'.
    Node(u8),
}

/// One link of a host to a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The segment.
    pub segment: Segment,
    /// The interface's name in the host.
    pub link: &'static str,
    /// The name of the bridge's port.
    pub port: String,
    /// The interface's MAC.
    pub mac: Mac,
    /// Its addresses, with their prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// A route of a host: to a network, or to everywhere, by one gateway or by one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The network and its prefix length.
    pub to: (IpAddr, u8),
    /// The gateways, of the network's family.
    pub via: Vec<IpAddr>,
}

impl Host {
    /// `switch`, `client`, `server`, `n1`, `n2`...
    pub fn name(self) -> String {
        match self {
            Host::Switch => "switch".into(),
            Host::Client => "client".into(),
            Host::Server => "server".into(),
            Host::ClientRouter => "crouter".into(),
            Host::ServerRouter => "srouter".into(),
            Host::Etcd => "etcd".into(),
            Host::Node(number) => format!("n{number}"),
        }
    }

    /// The name of its namespace in lab `lab`.
    pub fn namespace(self, lab: &str) -> String {
        format!("{lab}-{}", self.name())
    }

    /// Whether it passes packets on.
    pub fn forwards(self) -> bool {
        matches!(self, Host::ClientRouter | Host::ServerRouter | Host::Node(_))
    }
}

/// What a lab is built of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// How packets reach the nodes.
    pub mode: Mode,
    /// Nodes that own buckets.
    pub nodes: u8,
    /// Whether there is a member that votes and owns nothing.
    pub witness: bool,
    /// How the nodes agree.
    #[serde(default)]
    pub coordinator: Coordinator,
}

impl Plan {
    /// Every host, the switch first.
    pub fn hosts(self) -> Vec<Host> {
        let mut hosts = vec![Host::Switch, Host::Client, Host::Server];
        if self.mode == Mode::Steered {
            hosts.extend([Host::ClientRouter, Host::ServerRouter]);
        }
        if self.coordinator == Coordinator::Etcd {
            hosts.push(Host::Etcd);
        }
        hosts.extend((1..=self.members()).map(Host::Node));
        hosts
    }

    /// Nodes and witness.
    pub fn members(self) -> u8 {
        self.nodes + u8::from(self.witness)
    }

    /// Whether the member of this number is the witness.
    pub fn is_witness(self, number: u8) -> bool {
        number > self.nodes
    }

    /// The segments.
    pub fn segments(self) -> Vec<Segment> {
        match self.mode {
            Mode::Shared => vec![Segment::Inside, Segment::Outside, Segment::Sync],
            Mode::Steered => vec![
                Segment::Clients,
                Segment::Inside,
                Segment::Outside,
                Segment::Servers,
                Segment::Sync,
            ],
            Mode::Tap => vec![Segment::Inside, Segment::Sync],
        }
    }

    /// The segments whose packets the nodes handle.
    pub fn data(self) -> &'static [Segment] {
        match self.mode {
            Mode::Shared | Mode::Steered => &[Segment::Inside, Segment::Outside],
            Mode::Tap => &[Segment::Inside],
        }
    }

    /// The networks of the client and of the server.
    pub fn ends(self) -> [Segment; 2] {
        match self.mode {
            Mode::Shared | Mode::Tap => [Segment::Inside, Segment::Outside],
            Mode::Steered => [Segment::Clients, Segment::Servers],
        }
    }

    /// The server's addresses, IPv4 first.
    pub fn server(self) -> [IpAddr; 2] {
        self.ends()[1].host(2, 1)
    }

    /// The client's addresses, IPv4 first.
    pub fn client(self) -> [IpAddr; 2] {
        self.ends()[0].host(2, 1)
    }

    /// The links of `host`.
    pub fn attachments(self, host: Host) -> Vec<Attachment> {
        let [client, server] = self.ends();
        let end = |segment: Segment| {
            let mut link = attach(host, segment, HOST_LINK, 2, 1);
            if self.mode == Mode::Tap {
                link.segment = Segment::Inside;
                for (address, prefix) in link.addresses.iter_mut().zip(TAP_PREFIXES) {
                    address.1 = prefix;
                }
            }
            vec![link]
        };
        let router = |end: Segment, nodes: Segment| {
            vec![attach(host, end, HOST_LINK, 0, 1), attach(host, nodes, ROUTER_LINK, 2, 1)]
        };
        match host {
            Host::Switch => vec![],
            Host::Client => end(client),
            Host::Server => end(server),
            Host::ClientRouter => router(Segment::Clients, Segment::Inside),
            Host::ServerRouter => router(Segment::Servers, Segment::Outside),
            Host::Etcd => vec![on_sync(host, ETCD_HOST)],
            Host::Node(number) => self.node(host, number),
        }
    }

    fn node(self, host: Host, number: u8) -> Vec<Attachment> {
        let mut links = Vec::new();
        for &segment in self.data().iter().filter(|_| !self.is_witness(number)) {
            let mut link = attach(host, segment, segment.node_link(), 1, number);
            if self.mode == Mode::Tap {
                // Nobody is to speak to it: it only listens.
                link.addresses.clear();
            }
            links.push(link);
        }
        links.push(on_sync(host, number));
        links
    }

    /// The routes of `host`, beside those to the networks that it has an address in.
    pub fn routes(self, host: Host) -> Vec<Route> {
        let to = |networks: [(IpAddr, u8); 2], via: [IpAddr; 2]| {
            let pairs = networks.into_iter().zip(via);
            pairs.map(|(to, via)| Route { to, via: vec![via] }).collect()
        };
        let everywhere = [(Ipv4Addr::UNSPECIFIED.into(), 0), (Ipv6Addr::UNSPECIFIED.into(), 0)];
        let all: Vec<u8> = (1..=self.nodes).collect();
        match (self.mode, host) {
            (Mode::Shared, Host::Client) => to(everywhere, Segment::Inside.cluster()),
            (Mode::Shared, Host::Server) => to(everywhere, Segment::Outside.cluster()),
            (Mode::Steered, Host::Client) => to(everywhere, Segment::Clients.host(0, 1)),
            (Mode::Steered, Host::Server) => to(everywhere, Segment::Servers.host(0, 1)),
            (Mode::Steered, Host::ClientRouter | Host::ServerRouter) => self.over(host, &all),
            (Mode::Steered, Host::Node(number)) if !self.is_witness(number) => {
                let mut routes: Vec<Route> =
                    to(Segment::Clients.networks(), Segment::Inside.host(2, 1));
                routes.extend::<Vec<Route>>(to(
                    Segment::Servers.networks(),
                    Segment::Outside.host(2, 1),
                ));
                routes
            }
            _ => vec![],
        }
    }

    /// A router's routes over these nodes. The hash of a flow is the same in both directions, so the
    /// server's router has the nodes in another order: the two directions then meet different nodes.
    pub fn over(self, router: Host, nodes: &[u8]) -> Vec<Route> {
        let (near, far) = match router {
            Host::ClientRouter => (Segment::Inside, Segment::Servers),
            _ => (Segment::Outside, Segment::Clients),
        };
        let mut order = nodes.to_vec();
        if router == Host::ServerRouter && !order.is_empty() {
            order.rotate_left(1);
        }
        let networks = far.networks().into_iter().enumerate();
        networks
            .map(|(family, to)| Route {
                to,
                via: order.iter().map(|&number| near.host(1, number)[family]).collect(),
            })
            .collect()
    }
}

fn attach(of: Host, segment: Segment, link: &'static str, group: u8, host: u8) -> Attachment {
    let [v4, v6] = segment.host(group, host);
    Attachment {
        segment,
        link,
        port: format!("{}-{link}", of.name()),
        mac: [0x02, 0x10, 0, segment.number(), group, host],
        addresses: vec![(v4, 16), (v6, 64)],
    }
}

fn on_sync(of: Host, host: u8) -> Attachment {
    let link = attach(of, Segment::Sync, Segment::Sync.node_link(), 0, host);
    Attachment { addresses: vec![(Segment::Sync.v4(0, host), 24)], ..link }
}

/// Where the etcd listens for the nodes.
pub fn etcd_endpoint() -> SocketAddr {
    SocketAddr::new(Segment::Sync.v4(0, ETCD_HOST), ETCD_PORT)
}

/// Where member `number` listens for its peers.
pub fn sync_endpoint(number: u8) -> SocketAddr {
    SocketAddr::new(Segment::Sync.v4(0, number), SYNC_PORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(mode: Mode) -> Plan {
        Plan { mode, nodes: 3, witness: true, ..Plan::default() }
    }

    fn addresses(plan: Plan, host: Host) -> Vec<String> {
        let links = plan.attachments(host);
        let addresses = links.iter().flat_map(|attachment| &attachment.addresses);
        addresses.map(|(address, prefix)| format!("{address}/{prefix}")).collect()
    }

    #[test]
    fn addresses_are_as_documented() {
        let shared = plan(Mode::Shared);
        assert_eq!(
            addresses(shared, Host::Node(2)),
            ["10.10.1.2/16", "fd10::1:2/64", "10.20.1.2/16", "fd20::1:2/64", "10.99.0.2/24"]
        );
        assert_eq!(addresses(shared, Host::Node(4)), ["10.99.0.4/24"], "the witness");
        assert_eq!(Segment::Inside.cluster().map(|a| a.to_string()), ["10.10.0.1", "fd10::1"]);
        assert_eq!(shared.server().map(|a| a.to_string()), ["10.20.2.1", "fd20::2:1"]);
        let steered = plan(Mode::Steered);
        assert_eq!(
            addresses(steered, Host::ClientRouter),
            ["10.11.0.1/16", "fd11::1/64", "10.10.2.1/16", "fd10::2:1/64"]
        );
        assert_eq!(steered.server().map(|a| a.to_string()), ["10.21.2.1", "fd21::2:1"]);
        let tap = plan(Mode::Tap);
        assert_eq!(addresses(tap, Host::Server), ["10.20.2.1/8", "fd20::2:1/8"]);
        assert_eq!(addresses(tap, Host::Node(1)), ["10.99.0.1/24"]);
    }

    #[test]
    fn names_fit_an_interface_name_and_no_two_ends_share_a_mac() {
        for mode in [Mode::Shared, Mode::Steered, Mode::Tap] {
            let mut macs = std::collections::HashSet::new();
            let plan =
                Plan { mode, nodes: MAX_NODES, witness: true, coordinator: Coordinator::Etcd };
            for host in plan.hosts() {
                for attachment in plan.attachments(host) {
                    assert!(attachment.port.len() <= 15, "{}", attachment.port);
                    assert!(macs.insert(attachment.mac), "{attachment:?}");
                    assert!(plan.segments().contains(&attachment.segment), "{attachment:?}");
                }
            }
        }
    }

    #[test]
    fn the_two_routers_lead_a_flow_to_different_nodes() {
        let plan = plan(Mode::Steered);
        let via = |router, nodes: &[u8]| {
            plan.over(router, nodes).into_iter().map(|route| route.via).collect::<Vec<_>>()
        };
        let there = via(Host::ClientRouter, &[1, 3]);
        let back = via(Host::ServerRouter, &[1, 3]);
        let names = |hops: &[IpAddr]| hops.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(&there[0]), ["10.10.1.1", "10.10.1.3"]);
        assert_eq!(names(&there[1]), ["fd10::1:1", "fd10::1:3"]);
        assert_eq!(names(&back[0]), ["10.20.1.3", "10.20.1.1"]);
    }
}
