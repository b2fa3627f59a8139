//! What of the transport header tells flows apart: ports, identifiers, SPIs.

use super::Headers;
use super::ip::Network;
use super::sctp;
use crate::env::Frame;
use crate::flow::{Endpoint, FlowKey, Protocol};
use crate::placement::{Identifiers, PacketType};
use crate::tracking::TcpFlags;
use crate::verdict::DropReason;

/// IANA "Service Name and Transport Protocol Port Number Registry".
const ISAKMP: u16 = 500;
const IPSEC_NAT_TRAVERSAL: u16 = 4500;

struct Transport {
    source: u16,
    destination: u16,
    packet_type: PacketType,
    identifiers: Identifiers,
    flags: TcpFlags,
    answer: bool,
}

const NO_IDS: Identifiers = Identifiers { own: 0, message: 0 };

#[inline(always)]
pub(super) fn parse<F: Frame>(frame: &F, ip: &Network) -> Result<Headers, DropReason> {
    let transport = match ip.protocol {
        Protocol::TCP => tcp(frame, ip)?,
        Protocol::UDP => udp(frame, ip)?,
        Protocol::SCTP => association(frame, ip)?,
        Protocol::GRE => tunnel(frame, ip)?,
        Protocol::ICMP => echo(frame, ip, 8, 0)?,
        Protocol::ICMPV6 => echo(frame, ip, 128, 129)?,
        Protocol::ESP => security(frame, ip, 0, PacketType::Esp)?,
        Protocol::AH => security(frame, ip, 4, PacketType::Ah)?,
        _ => plain(0, 0, PacketType::Other),
    };
    let key = key(ip, &transport);
    if key.initiator.address == key.responder.address {
        return Err(DropReason::BadAddress);
    }
    Ok(headers(ip, key, transport))
}

/// What of a quoted packet tells flows apart. All of it but an ISAKMP cookie stands in the eight bytes that
/// every error quotes; no length of a payload is held against what is quoted of it.
#[inline(always)]
pub(super) fn quoted<F: Frame>(frame: &F, ip: &Network) -> Result<Headers, DropReason> {
    let transport = match ip.protocol {
        Protocol::TCP => ports(frame, ip, PacketType::Tcp)?,
        Protocol::UDP => quoted_udp(frame, ip)?,
        Protocol::SCTP => ports(frame, ip, PacketType::Sctp)?,
        Protocol::ICMP => quoted_echo(frame, ip, 8, 0)?,
        Protocol::ICMPV6 => quoted_echo(frame, ip, 128, 129)?,
        Protocol::ESP => quoted_security(frame, ip, 0, PacketType::Esp)?,
        Protocol::AH => quoted_security(frame, ip, 4, PacketType::Ah)?,
        _ => plain(0, 0, PacketType::Other),
    };
    Ok(headers(ip, key(ip, &transport), transport))
}

/// No error is sent about an error (RFC 1122 §3.2.2, RFC 4443 §2.4), and none is believed.
#[inline(always)]
fn quoted_echo<F: Frame>(
    frame: &F,
    ip: &Network,
    request: u8,
    reply: u8,
) -> Result<Transport, DropReason> {
    match echo(frame, ip, request, reply) {
        Err(DropReason::Unrelated) => Err(DropReason::Unsupported),
        read => read,
    }
}

#[inline(always)]
fn quoted_udp<F: Frame>(frame: &F, ip: &Network) -> Result<Transport, DropReason> {
    let mut udp = ports(frame, ip, PacketType::Udp)?;
    let length = u32::from(frame.u16(ip.offset + 4).ok_or(DropReason::Truncated)?);
    key_exchange(frame, ip, length, &mut udp);
    Ok(udp)
}

#[inline(always)]
const fn key(ip: &Network, transport: &Transport) -> FlowKey {
    FlowKey {
        initiator: Endpoint { address: ip.source, port: transport.source },
        responder: Endpoint { address: ip.destination, port: transport.destination },
        protocol: ip.protocol,
    }
}

#[inline(always)]
const fn headers(ip: &Network, key: FlowKey, transport: Transport) -> Headers {
    Headers {
        key,
        packet_type: transport.packet_type,
        identifiers: transport.identifiers,
        flags: transport.flags,
        answer: transport.answer,
        hops: ip.hops,
        offset: ip.offset,
        bytes: ip.end.saturating_sub(ip.offset) as u16,
    }
}

#[inline(always)]
const fn plain(source: u16, destination: u16, packet_type: PacketType) -> Transport {
    Transport {
        source,
        destination,
        packet_type,
        identifiers: NO_IDS,
        flags: TcpFlags(0),
        answer: false,
    }
}

/// Refuses a packet whose own length does not hold a header of this many bytes.
#[inline(always)]
fn room(ip: &Network, bytes: u32) -> Result<(), DropReason> {
    if ip.offset + bytes > ip.end { Err(DropReason::Truncated) } else { Ok(()) }
}

/// The ports that TCP, UDP and SCTP begin with, of a header of which the first eight bytes are there.
#[inline(always)]
fn ports<F: Frame>(
    frame: &F,
    ip: &Network,
    packet_type: PacketType,
) -> Result<Transport, DropReason> {
    room(ip, 8)?;
    let both = frame.u32(ip.offset).ok_or(DropReason::Truncated)?;
    Ok(plain((both >> 16) as u16, both as u16, packet_type))
}

/// RFC 9293 §3.1.
#[inline(always)]
fn tcp<F: Frame>(frame: &F, ip: &Network) -> Result<Transport, DropReason> {
    room(ip, 20)?;
    let both = frame.u32(ip.offset).ok_or(DropReason::Truncated)?;
    let control = frame.u16(ip.offset + 12).ok_or(DropReason::Truncated)?;
    let header = u32::from(control >> 12) * 4;
    let flags = TcpFlags(control as u8);
    if header < 20 {
        return Err(DropReason::BadHeader);
    }
    room(ip, header)?;
    if flags.is_nonsense() {
        return Err(DropReason::BadFlags);
    }
    Ok(Transport { flags, ..plain((both >> 16) as u16, both as u16, PacketType::Tcp) })
}

/// RFC 768; RFC 3948 for what port 4500 carries.
#[inline(always)]
fn udp<F: Frame>(frame: &F, ip: &Network) -> Result<Transport, DropReason> {
    let mut udp = ports(frame, ip, PacketType::Udp)?;
    let length = u32::from(frame.u16(ip.offset + 4).ok_or(DropReason::Truncated)?);
    if length < 8 {
        return Err(DropReason::BadHeader);
    }
    // It is the datagram's, of which the first fragment has a part.
    if ip.whole {
        room(ip, length)?;
    }
    key_exchange(frame, ip, length, &mut udp);
    Ok(udp)
}

/// RFC 9260 §3: ports and tag, and the type of the first chunk. A first fragment begins nothing: it can't be an INIT.
#[inline(always)]
fn association<F: Frame>(frame: &F, ip: &Network) -> Result<Transport, DropReason> {
    room(ip, sctp::HEADER + 4)?;
    let [both, tag, _, chunk] = frame.u32s(ip.offset).ok_or(DropReason::Truncated)?;
    let kind = (chunk >> 24) as u8;
    if !sctp::suits(kind, tag) {
        return Err(DropReason::BadHeader);
    }
    let flags = if ip.whole { sctp::flags(kind) } else { TcpFlags::ACK };
    Ok(Transport { flags, ..plain((both >> 16) as u16, both as u16, PacketType::Sctp) })
}

/// GRE has nothing that tells flows apart in both directions: keys are each direction's own (RFC 2890 §2.1), and so are
/// the call numbers of PPTP (RFC 2637 §4.1). What is known neither as the one nor as the other is refused, which RFC 2784
/// §2.3 asks of a receiver that does not know what RFC 1701 had there.
#[inline(always)]
fn tunnel<F: Frame>(frame: &F, ip: &Network) -> Result<Transport, DropReason> {
    const CHECKSUM: u16 = 0x8000;
    const KEY: u16 = 0x2000;
    const SEQUENCE: u16 = 0x1000;
    // Of RFC 1701: routing, strict source route, recursion control.
    const OLD: u16 = 0x4f00;
    room(ip, 4)?;
    let flags = frame.u16(ip.offset).ok_or(DropReason::Truncated)?;
    let has = |bit: u16| if flags & bit != 0 { 4 } else { 0 };
    let header = match flags & 7 {
        0 => 4 + has(CHECKSUM) + has(KEY) + has(SEQUENCE),
        // Enhanced GRE: a key always, and an acknowledgement.
        1 => 8 + has(SEQUENCE) + has(0x80),
        _ => return Err(DropReason::Unsupported),
    };
    let odd = flags & 7 == 1 && (flags & CHECKSUM != 0 || flags & KEY == 0);
    if flags & OLD != 0 || odd {
        return Err(DropReason::BadHeader);
    }
    room(ip, header)?;
    Ok(plain(0, 0, PacketType::Other))
}

/// Looks for ISAKMP in a UDP packet that says it has so many bytes.
#[inline(always)]
fn key_exchange<F: Frame>(frame: &F, ip: &Network, length: u32, udp: &mut Transport) {
    let data = ip.offset + 8;
    if udp.source == ISAKMP || udp.destination == ISAKMP {
        isakmp(frame, ip, data, udp);
    } else if (udp.source == IPSEC_NAT_TRAVERSAL || udp.destination == IPSEC_NAT_TRAVERSAL)
        && length >= 12
        && frame.u32(data) == Some(0)
    {
        // Behind the marker of four zero bytes there is no ESP but ISAKMP (RFC 3948 §2.2).
        isakmp(frame, ip, data + 4, udp);
    }
}

/// RFC 2408 §3.1 and RFC 7296 §3.1: the initiator's cookie first, the message identifier at byte 20.
/// Too short for it: plain UDP.
#[inline(always)]
fn isakmp<F: Frame>(frame: &F, ip: &Network, at: u32, udp: &mut Transport) {
    if at + 28 > ip.end {
        return;
    }
    // One after the other: the verifier can't follow that what was not read is not used.
    let Some(own) = frame.u64(at) else { return };
    let Some(message) = frame.u32(at + 20) else { return };
    udp.packet_type = PacketType::Isakmp;
    udp.identifiers = Identifiers { own, message };
}

/// Whether an ICMP message is an error that may go on. RFC 792: destination unreachable, time exceeded,
/// parameter problem; not redirects, which are for hosts on the sender's own link (RFC 1812 §5.2.7.2), and
/// not source quench, which is not to be sent (RFC 6633). RFC 4443 §3: those and packet too big.
#[inline(always)]
pub(super) fn is_error(protocol: Protocol, kind: u8) -> bool {
    match protocol {
        Protocol::ICMP => matches!(kind, 3 | 11 | 12),
        Protocol::ICMPV6 => matches!(kind, 1..=4),
        _ => false,
    }
}

/// Echo request and reply of RFC 792 and RFC 4443 §4; no other message has a flow.
#[inline(always)]
fn echo<F: Frame>(
    frame: &F,
    ip: &Network,
    request: u8,
    reply: u8,
) -> Result<Transport, DropReason> {
    room(ip, 8)?;
    let kind = frame.u8(ip.offset).ok_or(DropReason::Truncated)?;
    if kind != request && kind != reply {
        let is_error = is_error(ip.protocol, kind);
        return Err(if is_error { DropReason::Unrelated } else { DropReason::Unsupported });
    }
    let identifier = frame.u16(ip.offset + 4).ok_or(DropReason::Truncated)?;
    Ok(Transport { answer: kind == reply, ..plain(identifier, identifier, PacketType::Icmp) })
}

/// The SPI of ESP (RFC 4303 §2) or AH (RFC 4302 §2); its halves stand where ports stand.
#[inline(always)]
fn security<F: Frame>(
    frame: &F,
    ip: &Network,
    at: u32,
    packet_type: PacketType,
) -> Result<Transport, DropReason> {
    room(ip, at + 8)?;
    index(frame, ip, at, packet_type)
}

#[inline(always)]
fn quoted_security<F: Frame>(
    frame: &F,
    ip: &Network,
    at: u32,
    packet_type: PacketType,
) -> Result<Transport, DropReason> {
    room(ip, 8)?;
    index(frame, ip, at, packet_type)
}

#[inline(always)]
fn index<F: Frame>(
    frame: &F,
    ip: &Network,
    at: u32,
    packet_type: PacketType,
) -> Result<Transport, DropReason> {
    let spi = frame.u32(ip.offset + at).ok_or(DropReason::Truncated)?;
    let identifiers = Identifiers { own: spi as u64, message: 0 };
    Ok(Transport { identifiers, ..plain((spi >> 16) as u16, spi as u16, packet_type) })
}
