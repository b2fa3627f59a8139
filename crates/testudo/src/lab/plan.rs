//! Who is where: the hosts of a lab, their links, names and addresses. Pure.
//!
//! ```text
//!   client ── eth0 ──┐                                          ┌── eth0 ── server
//!                  inside ── in0 ── n1 … nN ── out0 ── outside ─┘
//!                                    └─ sync0 ── sync
//! ```
//!
//! Invariant: every lab has the same addresses. Nothing of a lab is outside its own namespaces, so
//! only the namespaces' names have to differ between labs that run side by side.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::links::Mac;

/// The MAC that all nodes answer with for the cluster's addresses. No frame is sent *from* it, so the
/// bridges never learn it and flood what is sent to it.
pub const CLUSTER_MAC: &str = "02:74:65:73:00:01";
/// Where nodes speak to each other, on the sync segment.
pub const SYNC_PORT: u16 = 7400;
/// The most nodes that a lab is built with.
pub const MAX_NODES: u8 = 32;

/// A shared segment: one bridge in the switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// The client's side.
    Inside,
    /// The server's side.
    Outside,
    /// Between nodes only.
    Sync,
}

impl Segment {
    /// All of them.
    pub const ALL: [Segment; 3] = [Segment::Inside, Segment::Outside, Segment::Sync];

    /// The bridge's name.
    pub fn bridge(self) -> &'static str {
        match self {
            Segment::Inside => "inside",
            Segment::Outside => "outside",
            Segment::Sync => "sync",
        }
    }

    /// The name of a node's link to it.
    pub fn node_link(self) -> &'static str {
        match self {
            Segment::Inside => "in0",
            Segment::Outside => "out0",
            Segment::Sync => "sync0",
        }
    }

    /// The cluster's addresses here, which are the gateway of the hosts here.
    pub fn cluster(self) -> [IpAddr; 2] {
        [self.v4(0, 1), self.v6(0, 1)]
    }

    /// Its networks, as the nodes' rules name them.
    pub fn networks(self) -> [String; 2] {
        [format!("{}/16", self.v4(0, 0)), format!("{}/64", self.v6(0, 0))]
    }

    fn number(self) -> u8 {
        match self {
            Segment::Inside => 10,
            Segment::Outside => 20,
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
    /// On the inside segment.
    Client,
    /// On the outside segment.
    Server,
    /// The node of this number, from 1.
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

impl Host {
    /// Every host of a lab of `nodes` nodes, the switch first.
    pub fn all(nodes: u8) -> Vec<Host> {
        let mut hosts = vec![Host::Switch, Host::Client, Host::Server];
        hosts.extend((1..=nodes).map(Host::Node));
        hosts
    }

    /// `switch`, `client`, `server`, `n1`, `n2`...
    pub fn name(self) -> String {
        match self {
            Host::Switch => "switch".into(),
            Host::Client => "client".into(),
            Host::Server => "server".into(),
            Host::Node(number) => format!("n{number}"),
        }
    }

    /// The name of its namespace in lab `lab`.
    pub fn namespace(self, lab: &str) -> String {
        format!("{lab}-{}", self.name())
    }

    /// Its links.
    pub fn attachments(self) -> Vec<Attachment> {
        match self {
            Host::Switch => vec![],
            Host::Client => vec![self.attach(Segment::Inside, "eth0", 2, 1)],
            Host::Server => vec![self.attach(Segment::Outside, "eth0", 2, 1)],
            Host::Node(number) => Segment::ALL
                .into_iter()
                .map(|segment| match segment {
                    Segment::Sync => self.attach(segment, segment.node_link(), 0, number),
                    _ => self.attach(segment, segment.node_link(), 1, number),
                })
                .collect(),
        }
    }

    /// Where its default routes lead, for the hosts behind the cluster.
    pub fn gateways(self) -> Vec<IpAddr> {
        match self {
            Host::Client => Segment::Inside.cluster().into(),
            Host::Server => Segment::Outside.cluster().into(),
            Host::Switch | Host::Node(_) => vec![],
        }
    }

    fn attach(self, segment: Segment, link: &'static str, group: u8, host: u8) -> Attachment {
        let mut addresses = match segment {
            Segment::Sync => vec![(segment.v4(group, host), 24)],
            _ => vec![(segment.v4(group, host), 16)],
        };
        if segment != Segment::Sync {
            addresses.push((segment.v6(group, host), 64));
        }
        Attachment {
            segment,
            link,
            port: format!("{}-{link}", self.name()),
            mac: [0x02, 0x10, 0, segment.number(), group, host],
            addresses,
        }
    }
}

/// Where node `number` listens for its peers.
pub fn sync_endpoint(number: u8) -> SocketAddr {
    SocketAddr::new(Segment::Sync.v4(0, number), SYNC_PORT)
}

/// The server's addresses, IPv4 first.
pub fn server_addresses() -> [IpAddr; 2] {
    [Segment::Outside.v4(2, 1), Segment::Outside.v6(2, 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_as_documented() {
        let node = Host::Node(2).attachments();
        let addresses: Vec<String> = node
            .iter()
            .flat_map(|attachment| &attachment.addresses)
            .map(|(address, prefix)| format!("{address}/{prefix}"))
            .collect();
        assert_eq!(
            addresses,
            ["10.10.1.2/16", "fd10::1:2/64", "10.20.1.2/16", "fd20::1:2/64", "10.99.0.2/24"]
        );
        assert_eq!(Segment::Inside.cluster().map(|a| a.to_string()), ["10.10.0.1", "fd10::1"]);
        assert_eq!(Segment::Inside.networks(), ["10.10.0.0/16", "fd10::/64"]);
        assert_eq!(server_addresses().map(|a| a.to_string()), ["10.20.2.1", "fd20::2:1"]);
    }

    #[test]
    fn names_fit_an_interface_name_and_no_two_ends_share_a_mac() {
        let mut macs = std::collections::HashSet::new();
        for host in Host::all(MAX_NODES) {
            for attachment in host.attachments() {
                assert!(attachment.port.len() <= 15, "{}", attachment.port);
                assert!(macs.insert(attachment.mac), "{attachment:?}");
            }
        }
    }
}
