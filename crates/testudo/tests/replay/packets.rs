//! Packets to be captured: Ethernet frames, well-formed but for checksums, which nobody looks at.

use std::net::IpAddr;

/// TCP control bits.
pub const SYN: u8 = 0x02;
pub const SYN_ACK: u8 = 0x12;
pub const ACK: u8 = 0x10;
pub const FIN_ACK: u8 = 0x11;

const ETHER: [u8; 12] = *b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02";

/// An IP packet of this protocol in an Ethernet frame.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u16;
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (20 + length).to_be_bytes();
            let head = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, protocol, 0, 0];
            let addresses = [source.octets(), destination.octets()].concat();
            [&ETHER[..], &[0x08, 0x00], &head, &addresses, payload].concat()
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = length.to_be_bytes();
            let head = [0x60, 0, 0, 0, length[0], length[1], protocol, 64];
            let addresses = [source.octets(), destination.octets()].concat();
            [&ETHER[..], &[0x86, 0xdd], &head, &addresses, payload].concat()
        }
        _ => panic!("{source} and {destination} are of two families"),
    }
}

/// One end of a flow.
pub type End = (IpAddr, u16);

/// The end that this text names.
pub fn end(address: &str, port: u16) -> End {
    (address.parse().expect("an address"), port)
}

pub fn tcp(from: End, to: End, flags: u8, payload: usize) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    // Both ends' SYNs have number 0.
    let (sequence, acknowledged) = (u8::from(flags & 0x02 == 0), u8::from(flags & 0x10 != 0));
    let rest = [0, 0, 0, sequence, 0, 0, 0, acknowledged, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
    ip(from.0, to.0, 6, &[&ports[..], &rest, &vec![0x55; payload]].concat())
}

pub fn udp(from: End, to: End, payload: usize) -> Vec<u8> {
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    let length = (8 + payload as u16).to_be_bytes();
    ip(from.0, to.0, 17, &[&ports[..], &length, &[0, 0], &vec![0x55; payload]].concat())
}

/// The same frame with a VLAN tag.
pub fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x81, 0x00, 0, 7], &frame[12..]].concat()
}

/// The whole life of a TCP connection: seven packets.
pub fn connection(client: End, server: End) -> Vec<Vec<u8>> {
    vec![
        tcp(client, server, SYN, 0),
        tcp(server, client, SYN_ACK, 0),
        tcp(client, server, ACK, 20),
        tcp(server, client, ACK, 40),
        tcp(client, server, FIN_ACK, 0),
        tcp(server, client, FIN_ACK, 0),
        tcp(client, server, ACK, 0),
    ]
}

/// Fourteen packets: three flows of eleven packets, one that began before, and two without a flow.
pub fn mixed() -> Vec<Vec<u8>> {
    let mut frames = connection(end("10.0.0.1", 40_000), end("10.1.0.1", 80));
    let (client, server) = (end("fd00::1", 5000), end("fd01::1", 53));
    frames.extend([udp(client, server, 30), udp(server, client, 90)]);
    let (client, server) = (end("10.0.0.2", 5000), end("10.1.0.1", 53));
    frames.extend([tagged(&udp(client, server, 30)), tagged(&udp(server, client, 90))]);
    frames.push(tcp(end("10.0.0.3", 1), end("10.1.0.1", 22), ACK, 100));
    let mut fragment = udp(end("10.0.0.4", 1), end("10.1.0.1", 2), 64);
    fragment[21] = 8;
    frames.push(fragment);
    let mut broadcast = udp(end("10.0.0.4", 68), end("255.255.255.255", 67), 200);
    broadcast[..6].fill(0xff);
    frames.push(broadcast);
    frames
}
