//! What whoever wants a flow is told when a rule rejects it; and whoever sends too large a packet of a translated one.
//!
//! A TCP segment is answered by a reset, as by a host on which nobody listens (RFC 9293 §3.10.7.1); anything else
//! by "communication administratively prohibited" (RFC 1812 §5.2.7.1, RFC 4443 §3.1), sent from the cluster's
//! address on the link, or, if it has none there, as if the refused host spoke.
//!
//! Packets are asked here that a flow can begin with: no reset, no ICMP message but an echo request. So no error
//! answers an error. How many are answered is bounded before they come here (`testudo_packet::rule`).

use std::collections::VecDeque;
use std::net::IpAddr;

use testudo_packet::env::Mac;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{Action, Matched, Rule};
use testudo_packet::wire::{self, Payload};

use crate::frame::SliceFrame;
use crate::interface::Refused;
use crate::settings::Settings;

const HOPS: u8 = 64;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
/// RFC 1812 §4.3.2.3: as much of the packet as fits these bytes.
const MOST_V4: usize = 576;
/// RFC 4443 §2.4 (c): the least MTU of IPv6.
const MOST_V6: usize = 1280;
/// RST and ACK.
const RESET: u8 = 0x14;
const FIN: u8 = 0x01;
const UNREACHABLE_V4: [u8; 2] = [3, 13];
const UNREACHABLE_V6: [u8; 2] = [1, 1];
/// Fragmentation needed (RFC 1191 §4) and packet too big (RFC 4443 §3.2).
const TOO_LARGE_V4: [u8; 2] = [3, 4];
const TOO_LARGE_V6: [u8; 2] = [2, 0];

/// A packet that was rejected, in its parts.
struct Rejected<'a> {
    /// From the IP header on, as long as that says.
    packet: &'a [u8],
    /// Where the transport header begins, if that is what the IP header is followed by.
    transport: usize,
    protocol: u8,
    /// Both addresses: 4 or 16 bytes.
    source: &'a [u8],
    destination: &'a [u8],
}

/// The frame that answers a rejected one, back on the link that it came in by; `None` if it is none that can be
/// answered.
pub fn answer(settings: &Settings, frame: &mut [u8], interface: u32) -> Option<Vec<u8>> {
    back(settings, frame, interface, |rejected| match Protocol(rejected.protocol) {
        Protocol::TCP => reset(rejected),
        _ => error(rejected, settings, interface, (UNREACHABLE_V4, UNREACHABLE_V6), 0),
    })
}

/// The frame that says how large a packet may be, back on the link that a larger one came in by.
pub fn too_large(
    settings: &Settings,
    frame: &mut [u8],
    interface: u32,
    most: u16,
) -> Option<Vec<u8>> {
    back(settings, frame, interface, |packet| {
        error(packet, settings, interface, (TOO_LARGE_V4, TOO_LARGE_V6), most.into())
    })
}

/// A frame back to whoever has sent this one on the link.
fn back(
    settings: &Settings,
    frame: &mut [u8],
    interface: u32,
    says: impl Fn(&Rejected<'_>) -> Option<Vec<u8>>,
) -> Option<Vec<u8>> {
    let link = wire::parse_link(&SliceFrame(frame)).ok()?;
    let at = link.offset as usize;
    let packet = says(&read(frame.get(at..)?, link.payload)?)?;
    let own = settings.answers.iter().find(|answer| answer.interface == interface);
    let own = own.map_or(link.destination, |answer| answer.own);
    let mut answer = Vec::with_capacity(at + packet.len());
    answer.extend(link.source.to_bytes());
    answer.extend(Mac::to_bytes(own));
    answer.extend(&frame[12..at]);
    answer.extend(packet);
    Some(answer)
}

fn read(bytes: &[u8], payload: Payload) -> Option<Rejected<'_>> {
    let word = |at: usize| Some(usize::from(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?)));
    match payload {
        Payload::V4 => Some(Rejected {
            packet: bytes.get(..word(2)?)?,
            transport: usize::from(bytes.first()? & 15) * 4,
            protocol: *bytes.get(9)?,
            source: bytes.get(12..16)?,
            destination: bytes.get(16..20)?,
        }),
        Payload::V6 => Some(Rejected {
            packet: bytes.get(..word(4)? + V6_HEADER)?,
            transport: V6_HEADER,
            protocol: *bytes.get(6)?,
            source: bytes.get(8..24)?,
            destination: bytes.get(24..40)?,
        }),
        _ => None,
    }
}

/// A segment that opens a connection acknowledges nothing, so the reset acknowledges it.
fn reset(rejected: &Rejected<'_>) -> Option<Vec<u8>> {
    let segment = rejected.packet.get(rejected.transport..)?;
    let ports = segment.get(..4)?;
    let sequence = u32::from_be_bytes(*segment.get(4..)?.first_chunk()?);
    let header = usize::from(segment.get(12)? >> 4) * 4;
    let data = segment.len().checked_sub(header)? as u32;
    let fin = u32::from(segment.get(13)? & FIN);
    let mut answer = [0; TCP_HEADER];
    answer[..2].copy_from_slice(&ports[2..]);
    answer[2..4].copy_from_slice(&ports[..2]);
    let next = sequence.wrapping_add(1 + data + fin);
    answer[8..12].copy_from_slice(&next.to_be_bytes());
    answer[12] = (TCP_HEADER as u8 / 4) << 4;
    answer[13] = RESET;
    let (from, to) = (rejected.destination, rejected.source);
    let sum = transport_checksum(from, to, Protocol::TCP.0, &answer);
    answer[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(packet(from, to, Protocol::TCP.0, &answer))
}

/// An ICMP error about a packet, of either kind and with this number in its header.
fn error(
    rejected: &Rejected<'_>,
    settings: &Settings,
    interface: u32,
    (kind_v4, kind_v6): ([u8; 2], [u8; 2]),
    number: u32,
) -> Option<Vec<u8>> {
    let v4 = rejected.source.len() == 4;
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let here = settings.answers.iter().filter(|answer| answer.interface == interface);
    let mut own = here.map(|answer| octets(answer.address.into()));
    let own = own.find(|own| own.len() == rejected.source.len());
    let from = own.unwrap_or_else(|| rejected.destination.to_vec());
    let (kind, protocol, most) = match v4 {
        true => (kind_v4, Protocol::ICMP, MOST_V4 - V4_HEADER),
        false => (kind_v6, Protocol::ICMPV6, MOST_V6 - V6_HEADER),
    };
    let quoted = rejected.packet.len().min(most - ICMP_HEADER);
    let mut message = vec![0; ICMP_HEADER];
    message[..2].copy_from_slice(&kind);
    message[4..8].copy_from_slice(&number.to_be_bytes());
    message.extend(&rejected.packet[..quoted]);
    let sum = match v4 {
        true => checksum(&message),
        false => transport_checksum(&from, rejected.source, protocol.0, &message),
    };
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    Some(packet(&from, rejected.source, protocol.0, &message))
}

/// An IP packet without options.
pub(crate) fn packet(from: &[u8], to: &[u8], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::with_capacity(V6_HEADER + payload.len());
    if from.len() == 4 {
        let length = (V4_HEADER + payload.len()) as u16;
        // No fragment of anything, and not to be one.
        packet.extend([
            0x45,
            0,
            (length >> 8) as u8,
            length as u8,
            0,
            0,
            0x40,
            0,
            HOPS,
            protocol,
            0,
            0,
        ]);
        packet.extend(from);
        packet.extend(to);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        let length = payload.len() as u16;
        packet.extend([0x60, 0, 0, 0, (length >> 8) as u8, length as u8, protocol, HOPS]);
        packet.extend(from);
        packet.extend(to);
    }
    packet.extend(payload);
    packet
}

/// RFC 1071, with the pseudo header of RFC 9293 §3.1 and RFC 8200 §8.1; one sum serves both, because numbers of
/// 16 and 32 bits add up to the same.
pub(crate) fn transport_checksum(from: &[u8], to: &[u8], protocol: u8, payload: &[u8]) -> u16 {
    let sum = sum_of(from) + sum_of(to) + u32::from(protocol) + payload.len() as u32;
    !fold(sum + sum_of(payload))
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum_of(bytes))
}

fn sum_of(bytes: &[u8]) -> u32 {
    let pairs = bytes.chunks(2).map(|pair| [pair[0], pair.get(1).copied().unwrap_or(0)]);
    pairs.map(|pair| u32::from(u16::from_be_bytes(pair))).sum()
}

fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Whether whoever has sent a packet that this rule refuses is to hear of it.
pub(crate) fn is_rejected(rules: &[Rule], rule: &Matched) -> bool {
    rules.get(rule.index as usize).is_some_and(|rule| rule.action == Action::Reject)
}

/// How many refused flows wait to be told of at most; more are forgotten.
const MAX_REFUSED: usize = 1024;

/// Keeps a refused flow until it is told of.
pub(crate) fn push_refused(queue: &mut VecDeque<Refused>, refused: Refused) {
    if queue.len() < MAX_REFUSED {
        queue.push_back(refused);
    }
}
