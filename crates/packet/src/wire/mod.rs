//! Headers, parsed once.
//!
//! [`parse`] turns the bytes of a frame into [`Headers`], or says why it can't. What comes after it
//! never asks again whether a field is there. Lengths are believed only as far as the frame reaches.

pub mod fragment;
mod ip;
pub mod quote;
pub mod sctp;
pub mod segment;
mod transport;

use crate::env::{Env, Frame, Mac};
use crate::flow::{Address, FlowKey};
use crate::placement::{Identifiers, PacketType};
use crate::tracking::TcpFlags;
use crate::verdict::DropReason;

/// EtherTypes (IANA "IEEE 802 Numbers").
mod ether_type {
    pub const IPV4: u16 = 0x0800;
    pub const ARP: u16 = 0x0806;
    pub const VLAN: u16 = 0x8100;
    pub const IPV6: u16 = 0x86dd;
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// The link-layer part of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who it is for.
    pub destination: Mac,
    /// Who sent it.
    pub source: Mac,
    /// Whether it carries VLAN tags (IEEE 802.1Q, at most two are followed).
    pub tagged: bool,
    /// What follows.
    pub payload: Payload,
    /// Where it follows, in bytes from the start of the frame.
    pub offset: u32,
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// ARP.
    Arp,
    /// Something else.
    Other,
}

/// What is known of an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// The packet's flow, as this packet spells it: its source is the initiator.
    pub key: FlowKey,
    /// Its type, as far as placement tells types apart.
    pub packet_type: PacketType,
    /// What its type has besides endpoints.
    pub identifiers: Identifiers,
    /// TCP's control bits; of SCTP what does the same ([`sctp::flags`]); 0 for all else.
    pub flags: TcpFlags,
    /// Whether it can only be an answer, and no flow can begin with it.
    pub answer: bool,
    /// Time to live or hop limit.
    pub hops: u8,
    /// Where the transport header begins, in bytes from the start of the frame.
    pub offset: u32,
    /// How many bytes the packet has from there on.
    pub bytes: u16,
}

impl Headers {
    /// The same headers, of which the verifier knows nothing more ([`Env::opaque`]).
    #[inline(always)]
    pub fn opaque<E: Env>(self, env: &E) -> Self {
        let [k0, k1, k2, k3, k4] = self.key.to_words();
        let rest = self.packet_type as u64
            | (self.flags.0 as u64) << 8
            | (self.answer as u64) << 16
            | (self.hops as u64) << 24
            | (self.identifiers.message as u64) << 32;
        let rest = env.opaque(rest);
        let place = env.opaque(u64::from(self.offset) | u64::from(self.bytes) << 32);
        let key = [env.opaque(k0), env.opaque(k1), env.opaque(k2), env.opaque(k3), env.opaque(k4)];
        Self {
            key: FlowKey::from_words(key),
            packet_type: PacketType::from_bits(rest as u8),
            identifiers: Identifiers {
                own: env.opaque(self.identifiers.own),
                message: (rest >> 32) as u32,
            },
            flags: TcpFlags((rest >> 8) as u8),
            answer: rest >> 16 & 1 == 1,
            hops: (rest >> 24) as u8,
            offset: place as u32 & ip::MAX_OFFSET,
            bytes: (place >> 32) as u16,
        }
    }
}

/// Reads the Ethernet header and up to two VLAN tags.
#[inline(always)]
pub fn parse_link<F: Frame>(frame: &F) -> Result<Link, DropReason> {
    let mut ether = frame.u16(12).ok_or(DropReason::Truncated)?;
    let [high, both, low] = frame.u32s(0).ok_or(DropReason::Truncated)?;
    let destination = Mac((high as u64) << 16 | (both >> 16) as u64);
    let source = Mac((both as u64 & 0xffff) << 32 | low as u64);
    let mut offset = 14;
    let mut tagged = false;
    for _ in 0..2 {
        if ether == ether_type::VLAN || ether == ether_type::SERVICE_VLAN {
            ether = frame.u16(offset + 2).ok_or(DropReason::Truncated)?;
            offset += 4;
            tagged = true;
        }
    }
    let payload = match ether {
        ether_type::IPV4 => Payload::V4,
        ether_type::IPV6 => Payload::V6,
        ether_type::ARP => Payload::Arp,
        _ => Payload::Other,
    };
    Ok(Link { destination, source, tagged, payload, offset })
}

/// Where an IP packet goes to, before anything of it has been checked.
#[inline(always)]
pub fn destination<F: Frame>(frame: &F, link: &Link) -> Option<Address> {
    let at = link.offset;
    match link.payload {
        Payload::V4 => Some(Address::v4(frame.u32(at + 16)?)),
        Payload::V6 => Some(Address { high: frame.u64(at + 24)?, low: frame.u64(at + 32)? }),
        _ => None,
    }
}

/// Whether routers may cut an IP packet that is too large for a link: one of IPv4, if its sender does not forbid it.
#[inline(always)]
pub fn may_be_cut<F: Frame>(frame: &F, link: &Link) -> bool {
    const DO_NOT: u16 = 0x4000;
    let flags = if link.payload == Payload::V4 { frame.u16(link.offset + 6) } else { None };
    flags.is_some_and(|flags| flags & DO_NOT == 0)
}

/// What a route is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whether both addresses are IPv4.
    pub v4: bool,
    /// Where the packet comes from.
    pub source: Address,
    /// Where it goes to.
    pub destination: Address,
    /// The transport protocol, or an IPv6 packet's first extension header.
    pub protocol: u8,
    /// The bytes of the packet without its link-layer header.
    pub bytes: u16,
}

/// Reads what a route is looked up by from a packet that [`parse`] has accepted.
#[inline(always)]
pub fn route<F: Frame>(frame: &F, link: &Link) -> Option<Route> {
    let at = link.offset;
    if link.payload == Payload::V4 {
        let [lengths, _, life, source, destination] = frame.u32s(at)?;
        let (source, destination) = (Address::v4(source), Address::v4(destination));
        let (protocol, bytes) = ((life >> 16) as u8, lengths as u16);
        return Some(Route { v4: true, source, destination, protocol, bytes });
    }
    let source = Address { high: frame.u64(at + 8)?, low: frame.u64(at + 16)? };
    let destination = Address { high: frame.u64(at + 24)?, low: frame.u64(at + 32)? };
    let bytes = frame.u16(at + 4)?.saturating_add(40);
    Some(Route { v4: false, source, destination, protocol: frame.u8(at + 6)?, bytes })
}

/// Reads the IP header that the link-layer part says follows, and the transport header behind it. An ICMP
/// error has no flow of its own: it is refused as [`DropReason::Unrelated`], and [`quote`] reads what it is
/// about.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, link: &Link) -> Result<Headers, DropReason> {
    let network = match link.payload {
        Payload::V4 => ip::parse_v4(frame, link.offset)?,
        Payload::V6 => ip::parse_v6(frame, link.offset)?,
        _ => return Err(DropReason::Unsupported),
    };
    transport::parse(frame, &network.opaque(frame))
}
