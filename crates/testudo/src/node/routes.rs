//! Where the node's own routes send a packet, as its kernel says.
//!
//! Asked for somebody who wants to know, never for a packet: the programs look routes up by themselves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::libc;
use nix::net::if_::if_indextoname;
use nix::sys::socket::SockProtocol;

use crate::control::protocol::NextHop;
use crate::netlink::{Netlink, Request, attributes};

/// Bytes of `struct rtmsg`.
const ROUTE_HEADER: usize = 12;

/// The next hop to an address, and the number of its interface; nothing if there is none, or the kernel does not say.
pub fn next_hop(destination: IpAddr) -> Option<(u32, NextHop)> {
    let (family, octets) = match destination {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    };
    let mut header = [0; ROUTE_HEADER];
    (header[0], header[1]) = (family, octets.len() as u8 * 8);
    let request = Request::new("look up a route", libc::RTM_GETROUTE, 0)
        .raw(&header)
        .attribute(libc::RTA_DST, &octets);
    let replies = Netlink::open(SockProtocol::NetlinkRoute).ok()?.request(request).ok()?;
    read(replies.first()?.get(ROUTE_HEADER..)?)
}

fn read(route: &[u8]) -> Option<(u32, NextHop)> {
    let value = |wanted: u16| attributes(route).find(|(kind, _)| *kind == wanted);
    let (_, number) = value(libc::RTA_OIF)?;
    let number = u32::from_ne_bytes(*number.first_chunk()?);
    let interface = if_indextoname(number).ok()?.to_string_lossy().into_owned();
    let gateway = value(libc::RTA_GATEWAY).and_then(|(_, octets)| match octets.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(*octets.first_chunk::<4>()?))),
        _ => Some(IpAddr::V6(Ipv6Addr::from(*octets.first_chunk::<16>()?))),
    });
    Some((number, NextHop { interface, gateway }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_here_goes_by_the_loopback() {
        let hop = next_hop(IpAddr::V4(Ipv4Addr::LOCALHOST)).expect("a route");
        assert_eq!(hop.1, NextHop { interface: "lo".into(), gateway: None });
    }

    #[test]
    fn a_router_is_told_apart_from_a_link() {
        let attribute = |kind: u16, value: &[u8]| {
            [&(4 + value.len() as u16).to_ne_bytes()[..], &kind.to_ne_bytes(), value].concat()
        };
        let by_lo = attribute(libc::RTA_OIF, &1u32.to_ne_bytes());
        let hop = read(&[&by_lo[..], &attribute(libc::RTA_GATEWAY, &[10, 0, 0, 1])].concat());
        assert_eq!(hop.and_then(|(_, hop)| hop.gateway), Some(IpAddr::from([10, 0, 0, 1])));
        assert_eq!(read(&attribute(libc::RTA_GATEWAY, &[10, 0, 0, 1])), None);
    }
}
