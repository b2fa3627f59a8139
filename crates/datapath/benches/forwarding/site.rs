//! Where it happens: the ends in one network namespace, the gateway in another, two links between them.
//!
//! ```text
//!   ends: e0 ───── g0 : gateway : g1 ───── e1 : ends
//! ```
//!
//! Every gateway finds the same links, addresses, routes and neighbours. The ends have no addresses, and the gateway
//! knows them by a MAC that they do not have; what arrives there is counted and dropped by a program.
//!
//! Invariant: nothing outside the site's own namespaces is changed, and dropping it removes them.

use anyhow::{Context, Result};

use crate::netns::{self, Namespace};
use crate::programs::run;

/// The ends' links.
pub const END_LINKS: [&str; 2] = ["e0", "e1"];
/// The gateway's links to them.
pub const GATEWAY_LINKS: [&str; 2] = ["g0", "g1"];
/// What the clients are translated to, behind the second link.
pub const OUTSIDE: [u8; 4] = [10, 20, 9, 9];
/// Whom the gateway sends to at either end: nobody has it.
const NOBODY: &str = "02:00:00:00:00:fe";
const HOSTS: [&str; 2] = ["ends", "gateway"];

/// The namespaces and links.
pub struct Site {
    prefix: String,
}

impl Site {
    /// Builds it anew.
    pub fn build() -> Result<Self> {
        let site = Self { prefix: format!("forwarding-{}", std::process::id()) };
        for host in HOSTS {
            let namespace = Namespace::create(&site.name(host))?;
            for scope in ["all", "default"] {
                namespace.set(&format!("ipv6/conf/{scope}/disable_ipv6"), "1")?;
                namespace.set(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
            }
        }
        site.namespace("gateway")?.set("ipv4/ip_forward", "1")?;
        let sides = END_LINKS.into_iter().zip(GATEWAY_LINKS).zip([(10, 11), (20, 21)]);
        for ((end, link), (near, far)) in sides {
            let gateway = site.name("gateway");
            let peer = ["type", "veth", "peer", "name", link, "netns", &gateway];
            site.ip("ends", &[&["link", "add", end], &peer[..]].concat())?;
            site.ip("ends", &["link", "set", end, "up"])?;
            site.ip("gateway", &["link", "set", link, "up"])?;
            // It receives what is redirected to it only while its receive side polls.
            site.inside("gateway", "ethtool", &["-K", link, "gro", "on"])?;
            let (own, router) = (format!("10.{near}.1.1/16"), format!("10.{near}.2.1"));
            let network = format!("10.{far}.0.0/16");
            site.ip("gateway", &["address", "add", &own, "dev", link])?;
            let nobody = ["lladdr", NOBODY, "dev", link, "nud", "permanent"];
            site.ip("gateway", &[&["neigh", "add", &router], &nobody[..]].concat())?;
            site.ip("gateway", &["route", "add", &network, "via", &router, "dev", link])?;
        }
        Ok(site)
    }

    /// The MAC of a gateway's link.
    pub fn mac(&self, link: &str) -> Result<[u8; 6]> {
        let text = self.inside("gateway", "cat", &[&format!("/sys/class/net/{link}/address")])?;
        let bytes: Option<Vec<u8>> =
            text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes.with_context(|| format!("{link} has the MAC {text:?}"))
    }

    /// The number of a link.
    pub fn number(&self, host: &str, link: &str) -> Result<u32> {
        let found = self.namespace(host)?.run(|| nix::net::if_::if_nametoindex(link))?;
        found.with_context(|| format!("the number of {link}"))
    }

    /// The namespace of a host.
    pub fn namespace(&self, host: &str) -> Result<Namespace> {
        Namespace::open(&self.name(host))
    }

    /// Runs a program in a host; gives what it printed.
    pub fn inside(&self, host: &str, program: &str, arguments: &[&str]) -> Result<String> {
        let name = self.name(host);
        run("ip", &[&["netns", "exec", name.as_str(), program], arguments].concat())
    }

    fn name(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    fn ip(&self, host: &str, arguments: &[&str]) -> Result<String> {
        let name = self.name(host);
        run("ip", &[&["-n", name.as_str()], arguments].concat())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for host in HOSTS {
            if let Err(error) = netns::remove(&self.name(host)) {
                eprintln!("not removed: {error:#}");
            }
        }
    }
}
