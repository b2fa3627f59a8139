//! Build the hosts of a lab: namespaces, bridges, links, addresses, settings.
//!
//! Invariant: the names of all namespaces are in the lab's state file before the first one is made, so
//! whoever cleans up after a crash half way through knows what to look for. Links need no clean-up of
//! their own: they end with their namespaces.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::links::{End, Links};
use super::netns::Namespace;
use super::offload::Offloads;
use super::plan::{ANALYSER_LINK, Attachment, Host, Mode, Plan, Segment, TAP_LINK};
use super::{Unable, netns};
use crate::netlink;

/// Hash the fields that are named, and which: source and destination address, protocol, source and
/// destination port (Documentation/networking/ip-sysctl.rst).
const CUSTOM_FIELDS: &str = "3";
const FIVE_TUPLE: &str = "55";

/// How many frames wait at a port of a switch at most, as a switch has memory for.
const QUEUE: u32 = 4096;

/// The namespaces of a lab that stands.
#[derive(Debug, Clone)]
pub struct Topology {
    lab: String,
    plan: Plan,
}

impl Topology {
    /// Build the hosts of `lab` and link them.
    pub fn build(lab: &str, plan: Plan) -> Result<Topology> {
        let topology = Topology::standing(lab, plan);
        let switch = topology.add_switch()?;
        let mut links = switch.run(Links::open)??;
        let mut offloads = switch.run(Offloads::open)?.map_err(missing("ethtool over netlink"))?;
        for segment in plan.segments() {
            let hub = plan.mode == Mode::Tap && segment == Segment::Inside;
            links.add_bridge(segment.bridge(), hub).map_err(missing("bridges"))?;
            links.set_up(segment.bridge(), true)?;
        }
        for host in plan.hosts().into_iter().filter(|host| *host != Host::Switch) {
            topology.add_host(host, &mut links, &mut offloads)?;
        }
        Ok(topology)
    }

    /// The hosts of a lab that was built before.
    pub fn standing(lab: &str, plan: Plan) -> Topology {
        Topology { lab: lab.to_owned(), plan }
    }

    /// The namespace of `host`.
    pub fn namespace(&self, host: Host) -> Result<Namespace> {
        Namespace::open(&host.namespace(&self.lab))
    }

    /// The namespaces' names.
    pub fn names(lab: &str, plan: Plan) -> Vec<String> {
        plan.hosts().into_iter().map(|host| host.namespace(lab)).collect()
    }

    /// What it was built of.
    pub fn plan(&self) -> Plan {
        self.plan
    }

    fn add_host(&self, host: Host, switch: &mut Links, offloads: &mut Offloads) -> Result<()> {
        let namespace = Namespace::create(&host.namespace(&self.lab))?;
        let node = matches!(host, Host::Node(_));
        prepare(&namespace, host.forwards())?;
        if host == Host::Client {
            // One address is to be enough for as many connections as a run can ask for.
            namespace.set("ipv4/ip_local_port_range", "10000 65535")?;
        }
        for attachment in self.plan.attachments(host) {
            add_link(switch, &namespace, &attachment)?;
            if attachment.segment != Segment::Sync {
                prepare_for_xdp(offloads, &namespace, &attachment, node)?;
            }
        }
        let mut own = namespace.run(Links::open)??;
        if self.plan.mode == Mode::Tap && matches!(host, Host::Node(n) if !self.plan.is_witness(n))
        {
            add_analyser(&mut own, &namespace)?;
        }
        if matches!(host, Host::ClientRouter | Host::ServerRouter) {
            hash_headers(&namespace)?;
        }
        for route in self.plan.routes(host) {
            own.set_route(&route)?;
        }
        Ok(())
    }

    /// The bridges' namespace. It has no IPv6: a switch is not to speak on its segments.
    fn add_switch(&self) -> Result<Namespace> {
        let switch = Namespace::create(&Host::Switch.namespace(&self.lab))?;
        if Path::new("/proc/sys/net/ipv6").exists() {
            switch.set("ipv6/conf/all/disable_ipv6", "1")?;
            switch.set("ipv6/conf/default/disable_ipv6", "1")?;
        }
        Ok(switch)
    }
}

/// Settings of a host that must be there before its links are: links copy the defaults.
fn prepare(namespace: &Namespace, forwards: bool) -> Result<()> {
    if !namespace.run(|| Path::new("/proc/sys/net/ipv6").exists())? {
        return Err(Unable("this kernel has no IPv6, which the lab's hosts speak".into()).into());
    }
    for scope in ["all", "default"] {
        namespace.set(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
        namespace.set(&format!("ipv4/conf/{scope}/accept_redirects"), "0")?;
        namespace.set(&format!("ipv4/conf/{scope}/send_redirects"), "0")?;
        namespace.set(&format!("ipv6/conf/{scope}/disable_ipv6"), "0")?;
        namespace.set(&format!("ipv6/conf/{scope}/accept_dad"), "0")?;
        namespace.set(&format!("ipv6/conf/{scope}/accept_ra"), "0")?;
        namespace.set(&format!("ipv6/conf/{scope}/accept_redirects"), "0")?;
    }
    if forwards {
        namespace.set("ipv4/ip_forward", "1")?;
        namespace.set("ipv6/conf/all/forwarding", "1")?;
    }
    namespace.run(Links::open)??.set_up("lo", true)?;
    Ok(())
}

fn add_link(links: &mut Links, namespace: &Namespace, attachment: &Attachment) -> Result<()> {
    let near = End { name: &attachment.port, mac: None };
    let far = End { name: attachment.link, mac: Some(attachment.mac) };
    let file = fs::File::open(netns::path(namespace.name()))?;
    links.add_veth(near, far, file).map_err(missing("veth links"))?;
    links.attach(&attachment.port, attachment.segment.bridge())?;
    links.set_queue(&attachment.port, QUEUE).map_err(missing("queues of links"))?;
    links.set_up(&attachment.port, true)?;

    let mut own = namespace.run(Links::open)??;
    own.set_up(attachment.link, true)?;
    for (address, prefix) in &attachment.addresses {
        add_address(&mut own, attachment.link, *address, *prefix)?;
    }
    Ok(())
}

/// Let a router choose among next hops by what the packet's headers say: addresses, protocol, ports.
/// The kernel's own policy of that name takes the sending socket's hash where there is one, which no
/// router outside this machine could see.
fn hash_headers(namespace: &Namespace) -> Result<()> {
    for family in ["ipv4", "ipv6"] {
        namespace.set(&format!("{family}/fib_multipath_hash_policy"), CUSTOM_FIELDS)?;
        namespace.set(&format!("{family}/fib_multipath_hash_fields"), FIVE_TUPLE)?;
    }
    if Path::new("/proc/sys/net/ipv4/fib_multipath_hash_seed").exists() {
        // The same flow goes the same way in every run.
        namespace.set("ipv4/fib_multipath_hash_seed", "1")?;
    }
    Ok(())
}

fn add_address(links: &mut Links, link: &str, address: IpAddr, prefix: u8) -> Result<()> {
    links.add_address(link, address, prefix).with_context(|| format!("set up {link}"))
}

/// A node's analyser: what the node's program redirects into one end comes out of the other.
fn add_analyser(links: &mut Links, namespace: &Namespace) -> Result<()> {
    let end = |name| End { name, mac: None };
    let file = fs::File::open(netns::path(namespace.name()))?;
    links.add_veth(end(TAP_LINK), end(ANALYSER_LINK), file).map_err(missing("veth links"))?;
    for link in [TAP_LINK, ANALYSER_LINK] {
        namespace.set(&format!("ipv6/conf/{link}/disable_ipv6"), "1")?;
        links.set_up(link, true)?;
    }
    namespace.run(Offloads::open)??.receive_redirects(ANALYSER_LINK)?;
    Ok(())
}

/// Both ends send complete frames; the switch's end of a node's link takes what the node redirects.
fn prepare_for_xdp(
    switch: &mut Offloads,
    namespace: &Namespace,
    attachment: &Attachment,
    redirects: bool,
) -> Result<()> {
    namespace.run(Offloads::open)??.complete_frames(attachment.link)?;
    switch.complete_frames(&attachment.port)?;
    if redirects {
        switch.receive_redirects(&attachment.port)?;
    }
    Ok(())
}

/// A refusal at this place means that the kernel was built without `what`.
fn missing(what: &'static str) -> impl Fn(netlink::Error) -> anyhow::Error {
    move |error| match error.errno() {
        Some(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENOENT) => {
            Unable(format!("this kernel has no {what}: {error}")).into()
        }
        _ => error.into(),
    }
}
