//! Packets of stories, each with the right IPv4 checksum. Nobody looks at transport checksums.

use std::net::IpAddr;

/// The cluster's address on the link.
pub const CLUSTER_MAC: [u8; 6] = [0x02, 0x74, 0x65, 0x73, 0x00, 0x01];
/// Who sends.
pub const SENDER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];

pub const FIN_ACK: u8 = 0x11;
pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;
pub const RST: u8 = 0x04;

/// An address and a port.
pub type End = (&'static str, u16);

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// RFC 1071, over bytes in which the checksum is 0: the value of the checksum field.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An Ethernet header to the cluster and what follows it.
pub fn ethernet(ether: u16, payload: &[u8]) -> Vec<u8> {
    [&CLUSTER_MAC[..], &SENDER_MAC, &ether.to_be_bytes(), payload].concat()
}

/// An IPv4 packet with these options, a multiple of four bytes.
pub fn v4(from: &str, to: &str, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V4(from), IpAddr::V4(to)) = (address(from), address(to)) else {
        panic!("{from} and {to} are not both IPv4");
    };
    let header = 20 + options.len();
    let total = ((header + payload.len()) as u16).to_be_bytes();
    let first = 0x40 | (header / 4) as u8;
    let mut packet = vec![first, 0, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 0, 0];
    packet.extend([&from.octets()[..], &to.octets(), options].concat());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    ethernet(0x0800, &packet)
}

/// An IPv6 packet whose first header after its own is `next`.
pub fn v6(from: &str, to: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(from), IpAddr::V6(to)) = (address(from), address(to)) else {
        panic!("{from} and {to} are not both IPv6");
    };
    let [high, low] = (payload.len() as u16).to_be_bytes();
    let addresses = [from.octets(), to.octets()].concat();
    ethernet(0x86dd, &[&[0x60, 0, 0, 0, high, low, next, 64], &addresses[..], payload].concat())
}

/// An IP packet of the family that the addresses have.
pub fn ip(from: &str, to: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match address(from) {
        IpAddr::V4(_) => v4(from, to, protocol, &[], payload),
        IpAddr::V6(_) => v6(from, to, protocol, payload),
    }
}

fn ports(from: End, to: End) -> Vec<u8> {
    [from.1.to_be_bytes(), to.1.to_be_bytes()].concat()
}

/// A TCP header with these control bits, and data. Both ends' SYNs have number 0, and everything else is their
/// first data, sent again and again.
pub fn tcp_segment(from: End, to: End, flags: u8, data: usize) -> Vec<u8> {
    let numbers = [u32::from(flags & SYN == 0), u32::from(flags & ACK != 0)];
    numbered_segment(from, to, flags, numbers, (0xffff, &[]), data)
}

/// A TCP header with these control bits, sequence and acknowledgement number, window and options, a multiple of four
/// bytes; and data.
pub fn numbered_segment(
    from: End,
    to: End,
    flags: u8,
    numbers: [u32; 2],
    (window, options): (u16, &[u8]),
    data: usize,
) -> Vec<u8> {
    let mut segment = ports(from, to);
    segment.extend(numbers.map(u32::to_be_bytes).concat());
    segment.extend([(5 + options.len() as u8 / 4) << 4, flags]);
    segment.extend(window.to_be_bytes());
    segment.extend([0; 4]);
    segment.extend(options);
    segment.resize(segment.len() + data, 0x55);
    segment
}

pub fn tcp(from: End, to: End, flags: u8, data: usize) -> Vec<u8> {
    ip(from.0, to.0, 6, &tcp_segment(from, to, flags, data))
}

/// A UDP header and data.
pub fn datagram(from: End, to: End, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len() as u16).to_be_bytes();
    [&ports(from, to)[..], &length, &[0, 0], data].concat()
}

pub fn udp(from: End, to: End, data: &[u8]) -> Vec<u8> {
    ip(from.0, to.0, 17, &datagram(from, to, data))
}

/// An echo message of this type: 8 and 0, or 128 and 129.
pub fn echo(from: &str, to: &str, kind: u8, identifier: u16) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    let protocol = if kind >= 128 { 58 } else { 1 };
    ip(from, to, protocol, &[kind, 0, 0, 0, high, low, 0, 1, 0xaa, 0xbb])
}

/// A router behind the server's network, in both families.
pub const ROUTER: &str = "10.20.9.9";
pub const ROUTER_V6: &str = "fd20::9:9";

/// Types and codes of ICMP errors (RFC 792).
pub const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
pub const NO_PORT: [u8; 2] = [3, 3];
pub const NO_HOP_LEFT: [u8; 2] = [11, 0];

/// An ICMP error of this type and code, which quotes so many bytes of the frame's IP packet at most. Its
/// checksum is nobody's business on the way.
pub fn error(from: &str, to: &str, [kind, code]: [u8; 2], frame: &[u8], bytes: usize) -> Vec<u8> {
    let quote = &frame[14..frame.len().min(14 + bytes)];
    let protocol = if from.contains(':') { 58 } else { 1 };
    ip(from, to, protocol, &[&[kind, code, 0xbe, 0xef, 0, 0, 5, 0x14], quote].concat())
}

/// An error of the router to whoever sent the frame.
pub fn error_about(frame: &[u8], kind: [u8; 2]) -> Vec<u8> {
    let address = |at: usize, bytes: usize| &frame[at..at + bytes];
    if let Ok(v4) = <[u8; 4]>::try_from(address(26, 4))
        && frame[12] == 8
    {
        return error(ROUTER, &IpAddr::from(v4).to_string(), kind, frame, 548);
    }
    let v6 = <[u8; 16]>::try_from(address(22, 16)).expect("16 bytes");
    error(ROUTER_V6, &IpAddr::from(v6).to_string(), kind, frame, 1232)
}

/// The frame with a VLAN tag.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0, 7], &frame[12..]].concat()
}
