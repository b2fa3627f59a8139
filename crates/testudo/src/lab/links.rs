//! Links, addresses and routes over rtnetlink.
//!
//! Invariant: every function names the link it works on; an error says which one and what was asked.
//! Interface indices are looked up by name when they are needed, never kept: a link that was made
//! again under the same name is found.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;
use nix::sys::socket::SockProtocol;

use super::plan::Route;
use crate::netlink::{Error, Netlink, Request};

/// `IFLA_INFO_*` and the kinds' own attributes, which libc does not name (linux/if_link.h,
/// linux/veth.h).
/// `linux/pkt_sched.h`: the place of the first queue of a link.
const TC_H_ROOT: u32 = u32::MAX;
const VETH_INFO_PEER: u16 = 1;
const BRIDGE_AGEING_TIME: u16 = 4;
const BRIDGE_MULTICAST_SNOOPING: u16 = 23;
/// The header of one next hop among several: `struct rtnexthop` (linux/rtnetlink.h).
const NEXT_HOP: usize = 8;

/// An Ethernet address.
pub type Mac = [u8; 6];

/// One end of a link.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The interface's name.
    pub name: &'a str,
    /// Its address; the kernel's choice if not given.
    pub mac: Option<Mac>,
}

/// The links of one network namespace.
#[derive(Debug)]
pub struct Links {
    netlink: Netlink,
}

impl Links {
    /// The links of the calling thread's namespace, also for later uses from other threads.
    pub fn open() -> Result<Links, Error> {
        Ok(Links { netlink: Netlink::open(SockProtocol::NetlinkRoute)? })
    }

    /// Make a bridge that floods multicast, whatever snooping would have learned. A `hub` learns no
    /// addresses either: it floods everything.
    pub fn add_bridge(&mut self, name: &str, hub: bool) -> Result<(), Error> {
        let request = create_link(format!("create the bridge {name}"))
            .string(libc::IFLA_IFNAME, name)
            .nested(libc::IFLA_LINKINFO, |info| {
                info.string(libc::IFLA_INFO_KIND, "bridge").nested(libc::IFLA_INFO_DATA, |data| {
                    let data = data.attribute(BRIDGE_MULTICAST_SNOOPING, &[0]);
                    if hub { data.number(BRIDGE_AGEING_TIME, 0) } else { data }
                })
            });
        self.netlink.request(request).map(drop)
    }

    /// Make a veth pair: `near` here, `far` in the namespace of `far_namespace`.
    pub fn add_veth(
        &mut self,
        near: End<'_>,
        far: End<'_>,
        far_namespace: impl AsFd,
    ) -> Result<(), Error> {
        let action = format!("create the link {} to {}", near.name, far.name);
        let namespace = far_namespace.as_fd().as_raw_fd() as u32;
        let request = name_end(create_link(action), near).nested(libc::IFLA_LINKINFO, |info| {
            info.string(libc::IFLA_INFO_KIND, "veth").nested(libc::IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |peer| {
                    name_end(peer.raw(&link_header(0, 0, 0)), far)
                        .number(libc::IFLA_NET_NS_FD, namespace)
                })
            })
        });
        self.netlink.request(request).map(drop)
    }

    /// Make `name` a port of `bridge`.
    pub fn attach(&mut self, name: &str, bridge: &str) -> Result<(), Error> {
        let (port, master) = (self.index(name)?, self.index(bridge)?);
        let request = Request::new(format!("attach {name} to {bridge}"), libc::RTM_NEWLINK, 0)
            .raw(&link_header(port, 0, 0))
            .number(libc::IFLA_MASTER, master);
        self.netlink.request(request).map(drop)
    }

    /// `name` is a port of no bridge any more.
    pub fn detach(&mut self, name: &str) -> Result<(), Error> {
        let port = self.index(name)?;
        let request = Request::new(format!("detach {name}"), libc::RTM_NEWLINK, 0)
            .raw(&link_header(port, 0, 0))
            .number(libc::IFLA_MASTER, 0);
        self.netlink.request(request).map(drop)
    }

    /// Let frames that leave by `name` wait for room, `frames` of them at most. The ring of a veth pair has
    /// room for 256 and loses what comes while its reader waits for a CPU; a link with a queue is
    /// stopped instead (Linux 6.16 and later).
    pub fn set_queue(&mut self, name: &str, frames: u32) -> Result<(), Error> {
        let mut header = [0; 20];
        header[4..8].copy_from_slice(&self.index(name)?.to_ne_bytes());
        header[12..16].copy_from_slice(&TC_H_ROOT.to_ne_bytes());
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let request = Request::new(format!("give {name} a queue"), libc::RTM_NEWQDISC, flags)
            .raw(&header)
            .string(libc::TCA_KIND, "pfifo")
            .attribute(libc::TCA_OPTIONS, &frames.to_ne_bytes());
        self.netlink.request(request).map(drop)
    }

    /// Set a link up or down.
    pub fn set_up(&mut self, name: &str, up: bool) -> Result<(), Error> {
        let flag = libc::IFF_UP as u32;
        let action = format!("set {name} {}", if up { "up" } else { "down" });
        let index = self.index(name)?;
        let request = Request::new(action, libc::RTM_NEWLINK, 0).raw(&link_header(
            index,
            if up { flag } else { 0 },
            flag,
        ));
        self.netlink.request(request).map(drop)
    }

    /// Give a link an address, usable at once (no duplicate address detection).
    pub fn add_address(&mut self, name: &str, address: IpAddr, prefix: u8) -> Result<(), Error> {
        let index = self.index(name)?;
        let (family, bytes) = parts(address);
        let flags = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let action = format!("add {address}/{prefix} to {name}");
        let mut header = vec![family, prefix, libc::IFA_F_NODAD as u8, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let request = Request::new(action, libc::RTM_NEWADDR, flags)
            .raw(&header)
            .attribute(libc::IFA_LOCAL, &bytes)
            .attribute(libc::IFA_ADDRESS, &bytes);
        self.netlink.request(request).map(drop)
    }

    /// Make `route` the only one to its network: added, or put in the place of what was there.
    pub fn set_route(&mut self, route: &Route) -> Result<(), Error> {
        let (network, prefix) = route.to;
        let (family, bytes) = parts(network);
        let mut header = [0; 12];
        (header[0], header[1]) = (family, prefix);
        header[4..8].copy_from_slice(&[
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            libc::RT_SCOPE_UNIVERSE,
            libc::RTN_UNICAST,
        ]);
        let action = format!("set the route to {network}/{prefix}");
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut request = Request::new(action, libc::RTM_NEWROUTE, flags).raw(&header);
        if prefix > 0 {
            request = request.attribute(libc::RTA_DST, &bytes);
        }
        let request = match route.via.as_slice() {
            [gateway] => request.attribute(libc::RTA_GATEWAY, &parts(*gateway).1),
            several => request.attribute(libc::RTA_MULTIPATH, &next_hops(several)),
        };
        self.netlink.request(request).map(drop)
    }

    /// The index of a link.
    pub fn index(&mut self, name: &str) -> Result<u32, Error> {
        let action = format!("find the link {name}");
        let request = Request::new(action.clone(), libc::RTM_GETLINK, 0)
            .raw(&link_header(0, 0, 0))
            .string(libc::IFLA_IFNAME, name);
        let replies = self.netlink.request(request)?;
        let index = replies.first().and_then(|reply| reply.get(4..8)?.first_chunk::<4>().copied());
        index.map(u32::from_ne_bytes).ok_or_else(|| Error::Broken {
            action,
            reason: format!("expected one link in reply, saw {} messages", replies.len()),
        })
    }
}

/// Several gateways of equal weight, each with its header; the kernel finds the links.
fn next_hops(gateways: &[IpAddr]) -> Vec<u8> {
    let mut hops = Vec::new();
    for gateway in gateways {
        let (_, bytes) = parts(*gateway);
        let attribute = 4 + bytes.len();
        let mut header = [0; NEXT_HOP];
        header[..2].copy_from_slice(&((NEXT_HOP + attribute) as u16).to_ne_bytes());
        hops.extend_from_slice(&header);
        hops.extend_from_slice(&(attribute as u16).to_ne_bytes());
        hops.extend_from_slice(&libc::RTA_GATEWAY.to_ne_bytes());
        hops.extend_from_slice(&bytes);
    }
    hops
}

fn create_link(action: String) -> Request {
    Request::new(action, libc::RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL)
        .raw(&link_header(0, 0, 0))
}

/// `struct ifinfomsg`: family and type unspecified, then index, flags, mask of flags to change.
fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&change.to_ne_bytes());
    header
}

fn name_end(request: Request, end: End<'_>) -> Request {
    let request = request.string(libc::IFLA_IFNAME, end.name);
    match end.mac {
        Some(mac) => request.attribute(libc::IFLA_ADDRESS, &mac),
        None => request,
    }
}

fn parts(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, Ipv4Addr::octets(&v4).to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, Ipv6Addr::octets(&v6).to_vec()),
    }
}
