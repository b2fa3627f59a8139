//! Where it happens: two ends and two gateways, each a network namespace, linked directly.
//!
//! ```text
//!            ┌── in0  a  out0 ──┐
//!   client ──┤       │ sync0    ├── server        a carries the traffic, b is to know its flows
//!            └── in0  b  out0 ──┘
//! ```
//!
//! Every rig finds the same site: the same links, addresses, routes and neighbours. No bridge, no
//! router: what a frame costs between the ends and the gateway is the same for all.
//!
//! The ends have no addresses, and the gateways know them by a MAC that they do not have, so what
//! arrives there is counted by the interface and dropped before anything else looks at it.
//!
//! Invariant: nothing outside the site's own namespaces is changed, and dropping it removes them.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use anyhow::{Context, Result, bail};

use crate::netns::{self, Namespace};
use crate::processors;
use crate::programs::run;

/// The ends' networks, behind [`GATEWAY_LINKS`].
pub const CLIENTS: [u8; 4] = [10, 11, 0, 0];
/// The one server that all connections go to.
pub const SERVER: [u8; 4] = [10, 21, 0, 1];
/// The links of each gateway to the client's side and the server's.
pub const GATEWAY_LINKS: [&str; 2] = ["in0", "out0"];
/// The link between the gateways.
pub const SYNC_LINK: &str = "sync0";
/// The addresses of the gateways on it.
pub const SYNC: [&str; 2] = ["10.99.0.1", "10.99.0.2"];
/// The gateways' names; the first carries the traffic.
pub const GATEWAYS: [&str; 2] = ["a", "b"];
/// The ends' links to the first gateway.
pub const END_LINKS: [&str; 2] = LINKS[0];

/// The client's and the server's link to each gateway.
const LINKS: [[&str; 2]; 2] = [["c0", "s0"], ["c1", "s1"]];
/// Whom the gateways send to at either end: nobody has it.
const NOBODY: &str = "02:00:00:00:00:fe";

/// The namespaces and links.
pub struct Site {
    prefix: String,
}

impl Site {
    /// Builds it anew.
    pub fn build() -> Result<Self> {
        let site = Self { prefix: format!("replication-{}", std::process::id()) };
        for name in ["client", "server", "a", "b"] {
            let namespace = Namespace::create(&site.name(name))?;
            for scope in ["all", "default"] {
                namespace.set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
                namespace.set(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
            }
        }
        for (index, gateway) in GATEWAYS.into_iter().enumerate() {
            let namespace = site.namespace(gateway)?;
            namespace.set("ipv4/ip_forward", "1")?;
            namespace.set("ipv6/conf/all/forwarding", "1")?;
            let ends = ["client", "server"].into_iter().zip(LINKS[index]);
            for ((end, near), link) in ends.zip(GATEWAY_LINKS) {
                site.link(end, near, gateway, link)?;
                // It receives what is redirected to it only while its receive side polls.
                site.inside(end, "ethtool", &["-K", near, "gro", "on"])?;
            }
            site.ip(gateway, &["link", "set", "lo", "up"])?;
        }
        site.link("a", SYNC_LINK, "b", SYNC_LINK)?;
        for (index, gateway) in GATEWAYS.into_iter().enumerate() {
            site.address(gateway, index + 1)?;
        }
        Ok(site)
    }

    /// The MAC of a gateway's link.
    pub fn mac(&self, gateway: &str, link: &str) -> Result<[u8; 6]> {
        let path = format!("/sys/class/net/{link}/address");
        let text = self.inside(gateway, "cat", &[&path])?;
        let bytes: Option<Vec<u8>> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes.with_context(|| format!("{link} of {gateway} has the MAC {text:?}"))
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: &str) -> Result<Namespace> {
        Namespace::open(&self.name(host))
    }

    /// Runs a program in a host; gives what it printed.
    pub fn inside(&self, host: &str, program: &str, arguments: &[&str]) -> Result<String> {
        let mut words = vec!["netns", "exec"];
        let name = self.name(host);
        words.extend([name.as_str(), program]);
        words.extend(arguments);
        run("ip", &words)
    }

    /// Starts a daemon in a gateway, on the processors that daemons have.
    pub fn start(&self, gateway: &str, command: &mut Command) -> Result<Child> {
        let start = || {
            processors::keep_to(processors::daemons())?;
            // A terminal's Ctrl-C is for the benchmark, which then ends its daemons.
            command.process_group(0).spawn().context("start a daemon")
        };
        self.namespace(gateway)?.run(start)?
    }

    /// How many frames and bytes a host's link has received and sent.
    pub fn traffic(&self, host: &str, link: &str) -> Result<Traffic> {
        let text = self
            .namespace(host)?
            .run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?
            .context("/proc/thread-self/net/dev")?;
        let line = text.lines().find_map(|line| line.trim().strip_prefix(link)?.strip_prefix(':'));
        let numbers: Vec<u64> = line
            .with_context(|| format!("{host} has no link {link}"))?
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [bytes_in, frames_in, _, _, _, _, _, _, bytes_out, frames_out, ..] = numbers[..] else {
            bail!("/proc/net/dev has {} numbers for {link}", numbers.len())
        };
        Ok(Traffic { frames_in, frames_out, bytes: bytes_in + bytes_out })
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn ip(&self, host: &str, arguments: &[&str]) -> Result<String> {
        let name = self.name(host);
        run("ip", &[&["-n", name.as_str()], arguments].concat())
    }

    fn link(&self, host: &str, link: &str, other: &str, peer: &str) -> Result<()> {
        let far = self.name(other);
        self.ip(host, &["link", "add", link, "type", "veth", "peer", "name", peer, "netns", &far])?;
        self.ip(host, &["link", "set", link, "up"])?;
        self.ip(other, &["link", "set", peer, "up"])?;
        Ok(())
    }

    /// Addresses, and the way to either end.
    fn address(&self, gateway: &str, number: usize) -> Result<()> {
        let sync = format!("{}/24", SYNC[number - 1]);
        self.ip(gateway, &["address", "add", &sync, "dev", SYNC_LINK])?;
        for (link, near, far) in [("in0", 10, CLIENTS[1]), ("out0", 20, SERVER[1])] {
            let own = format!("10.{near}.1.{number}/16");
            let (router, network) = (format!("10.{near}.2.1"), format!("10.{far}.0.0/16"));
            self.ip(gateway, &["address", "add", &own, "dev", link])?;
            let neighbour =
                ["neigh", "add", &router, "lladdr", NOBODY, "dev", link, "nud", "permanent"];
            self.ip(gateway, &neighbour)?;
            self.ip(gateway, &["route", "add", &network, "via", &router, "dev", link])?;
        }
        Ok(())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for name in ["client", "server", "a", "b"] {
            if let Err(error) = netns::remove(&self.name(name)) {
                eprintln!("not removed: {error:#}");
            }
        }
    }
}

/// What a link has carried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traffic {
    /// Frames that were received.
    pub frames_in: u64,
    /// Frames that were sent.
    pub frames_out: u64,
    /// Bytes both ways.
    pub bytes: u64,
}
