//! Packets for tests: well-formed ones of every kind that the pipeline knows, between few endpoints
//! so that flows recur, and the same packets damaged.

use std::net::IpAddr;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use testudo_packet::flow::FlowKey;

/// The cluster's address on the link in these tests.
pub const CLUSTER_MAC: [u8; 6] = [0x02, 0x74, 0x65, 0x73, 0x00, 0x01];
/// The address of whoever sends.
const CLIENT_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 9];
/// The cluster's own addresses.
pub const CLUSTER_V4: [u8; 4] = [10, 10, 0, 1];
/// The cluster's own addresses.
pub const CLUSTER_V6: [u8; 16] = [0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// What a packet is to be.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    kind: u8,
    v6: bool,
    reply: bool,
    host: u8,
    port: u8,
    flags: u8,
    tags: u8,
    extensions: u8,
    payload: u8,
    numbers: u16,
}

fn shape() -> impl Strategy<Value = Shape> {
    let flags = prop_oneof![
        6 => Just(0x02), 4 => Just(0x12), 8 => Just(0x10), 2 => Just(0x18),
        3 => Just(0x11), 1 => Just(0x04), 1 => Just(0x14), 1 => any::<u8>(),
    ];
    (
        0u8..18,
        any::<bool>(),
        any::<bool>(),
        1u8..4,
        0u8..12,
        flags,
        0u8..8,
        0u8..5,
        (0u8..64, any::<u16>()),
    )
        .prop_map(|(kind, v6, reply, host, port, flags, tags, extensions, rest)| Shape {
            kind,
            v6,
            reply,
            host,
            port,
            flags,
            tags,
            extensions,
            payload: rest.0,
            numbers: rest.1,
        })
}

/// Ethernet header with no, one or two VLAN tags.
fn link(shape: Shape, destination: [u8; 6], ether: u16) -> Vec<u8> {
    let mut frame = [destination, CLIENT_MAC].concat();
    if shape.tags == 6 {
        frame.extend([0x88, 0xa8, 0, 7]);
    }
    if shape.tags >= 6 {
        frame.extend([0x81, 0x00, 0, 9]);
    }
    frame.extend(ether.to_be_bytes());
    frame
}

/// What follows the ports in a TCP header. Most numbers are those of a connection in which nothing was sent yet, or
/// little; some are a window away.
fn segment(shape: Shape) -> Vec<u8> {
    let number = |pick: u16, first: u32| match pick {
        0..10 => first,
        10..12 => first.wrapping_add(u32::from(shape.payload)),
        12 => first.wrapping_add(9_000),
        13 => first.wrapping_add(70_000),
        14 => first.wrapping_sub(70_000),
        _ => first.wrapping_add(0x8000_0000),
    };
    let (syn, ack) = (shape.flags & 0x02 != 0, shape.flags & 0x10 != 0);
    // The initiator's numbers wrap.
    let starts: [u32; 2] = if shape.reply { [7_000, 0xffff_fff0] } else { [0xffff_fff0, 7_000] };
    let sequence = number(shape.numbers & 15, starts[0].wrapping_add(u32::from(!syn)));
    let acknowledged =
        if ack { number(shape.numbers >> 4 & 15, starts[1].wrapping_add(1)) } else { 0 };
    let window = [8_000u16, 0, 500, 0xffff][usize::from(shape.numbers >> 8 & 3)];
    let options: &[u8] = match (syn, shape.numbers >> 10 & 7) {
        (true, 0) => &[3, 3, 2, 0],
        (true, 1) => &[2, 4, 5, 0xb4, 4, 2, 8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 3, 3, 7],
        (true, 2) => &[1, 1, 1, 1, 3, 3, 15, 1],
        (true, 3) => &[2, 1, 3, 3, 9, 3, 3, 2],
        (true, 4) => &[1, 1, 3, 9],
        (false, 0) => &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2],
        _ => &[],
    };
    let numbers = [sequence, acknowledged].map(u32::to_be_bytes).concat();
    let head = [(5 + options.len() as u8 / 4) << 4, shape.flags];
    [&numbers[..], &head, &window.to_be_bytes(), &[0x12, 0x34, 0, 0], options].concat()
}

/// The transport header and payload, and its protocol number.
fn transport(shape: Shape) -> (u8, Vec<u8>) {
    let client = 40_000 + u16::from(shape.port);
    let (source, destination) = if shape.reply { (80, client) } else { (client, 80) };
    let ports = |a: u16, b: u16| [a.to_be_bytes(), b.to_be_bytes()].concat();
    let payload = vec![0x55; usize::from(shape.payload)];
    let udp = |a, b, data: &[u8]| {
        let length = (8 + data.len() as u16).to_be_bytes();
        [ports(a, b), length.to_vec(), vec![0, 0], data.to_vec()].concat()
    };
    let isakmp = [&[shape.port; 8][..], &[0; 12], &[0, 0, 0, shape.host], &[0; 12]].concat();
    let echo = |kind| [vec![kind, 0, 0, 0, 0, shape.port, 0, 1], payload.clone()].concat();
    match shape.kind {
        0..=5 => {
            let head = [ports(source, destination), segment(shape), payload].concat();
            (6, head)
        }
        6 | 7 => (17, udp(source, destination, &payload)),
        8 => (17, udp(500, 500, &isakmp)),
        9 => (17, udp(4500, 4500, &[&[0; 4][..], &isakmp].concat())),
        10 => match (shape.v6, shape.reply) {
            (false, false) => (1, echo(8)),
            (false, true) => (1, echo(0)),
            (true, false) => (58, echo(128)),
            (true, true) => (58, echo(129)),
        },
        11 => (50, [&[1, 2, 3, shape.port, 0, 0, 0, 1][..], &payload].concat()),
        12 => (51, [&[6, 4, 0, 0, 1, 2, 3, shape.port, 0, 0, 0, 1][..], &payload].concat()),
        13 => (47, tunnelled(shape, payload)),
        _ => (132, [ports(source, destination), association(shape, payload)].concat()),
    }
}

/// GRE of both versions, with what may stand there and what may not.
fn tunnelled(shape: Shape, payload: Vec<u8>) -> Vec<u8> {
    let head = [[0, 0], [0x20, 0], [0xb0, 0], [0x30, 1], [0x20, 0x81], [0x40, 0], [0, 1], [0, 2]];
    [&head[usize::from(shape.numbers & 7)][..], &[0x08, 0], &[0, 4, 0, 9], &payload].concat()
}

/// The tags of what clients get, and of what servers get.
const TAGS: [u32; 2] = [0xc11e_0001, 0x5e7e_0002];

/// An INIT or INIT ACK chunk.
fn naming(kind: u8, tag: u32) -> Vec<u8> {
    [&[kind, 0, 0, 20], &tag.to_be_bytes()[..], &[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1]].concat()
}

/// What follows the ports in a packet of SCTP. Most are what comes next in an association, with its tags.
fn association(shape: Shape, payload: Vec<u8>) -> Vec<u8> {
    let (own, other) = if shape.reply { (TAGS[0], TAGS[1]) } else { (TAGS[1], TAGS[0]) };
    let number = shape.numbers;
    let initiate = if number & 0x1000 != 0 { other } else { other + 1 };
    let chunk = |kind: u8, flags: u8, data: &[u8]| {
        let length = (4 + data.len() as u16).to_be_bytes();
        let pad = vec![0; data.len().wrapping_neg() & 3];
        [&[kind, flags], &length[..], data, &pad].concat()
    };
    let first = match shape.flags & 0x17 {
        0x02 if !shape.reply => naming(1, initiate),
        0x02 | 0x12 => naming(2, initiate),
        0x11 if number & 3 == 0 => chunk(14, (number >> 2) as u8 & 1, &[]),
        0x11 => chunk(7 + (number & 1) as u8, 0, &[0; 4]),
        0x04 => chunk(6, (number >> 2) as u8 & 1, &[]),
        0x14 => chunk(4 + (number & 1) as u8, 0, &payload),
        _ => chunk([10, 11, 3, 0, 64, 9][usize::from(number & 7) % 6], 0, &payload),
    };
    let more = match number >> 4 & 15 {
        0..6 => chunk(0, 3, &payload),
        6 => chunk(6, 0, &[]),
        7 => [chunk(3, 0, &[0; 12]), chunk(7, 0, &[0; 4])].concat(),
        8 => vec![0, 0, 0, 200],
        9 => chunk(3, 0, &[]).repeat(13),
        _ => Vec::new(),
    };
    let alone = matches!(first[0], 1 | 2 | 14) && number & 0x800 == 0;
    let tag = match number >> 8 & 7 {
        _ if first[0] == 1 => 0,
        0 => own + 1,
        1 => other,
        _ => own,
    };
    [&tag.to_be_bytes()[..], &[0x12; 4], &first, if alone { &[] } else { &more }].concat()
}

fn packet_v4(shape: Shape) -> Vec<u8> {
    let (protocol, data) = transport(shape);
    let options = usize::from(shape.extensions % 3) * 4;
    let (client, server) = ([10, 10, 2, shape.host], [10, 20, 2, 1]);
    let (source, destination) = if shape.reply { (server, client) } else { (client, server) };
    let total = (20 + options + data.len()) as u16;
    let mut frame = link(shape, CLUSTER_MAC, 0x0800);
    frame.extend([0x45 + (options / 4) as u8, 0]);
    frame.extend(total.to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, protocol, 0x12, 0x34]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(std::iter::repeat_n(1, options));
    frame.extend(data);
    frame
}

fn packet_v6(shape: Shape) -> Vec<u8> {
    let (protocol, data) = transport(shape);
    let mut chain = Vec::new();
    let kinds = [0u8, 60, 43, 60];
    let count = usize::from(shape.extensions);
    for index in 0..count {
        let next = if index + 1 < count { kinds[index + 1] } else { protocol };
        chain.extend([next, 1]);
        chain.extend([0; 14]);
    }
    let address = |net: u8, host: u8| {
        let mut bytes = [0u8; 16];
        (bytes[0], bytes[1], bytes[15]) = (0xfd, net, host);
        bytes
    };
    let (client, server) = (address(0x10, shape.host), address(0x20, 1));
    let (source, destination) = if shape.reply { (server, client) } else { (client, server) };
    let mut frame = link(shape, CLUSTER_MAC, 0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend(((chain.len() + data.len()) as u16).to_be_bytes());
    frame.extend([if count > 0 { kinds[0] } else { protocol }, 64]);
    frame.extend(source);
    frame.extend(destination);
    frame.extend(chain);
    frame.extend(data);
    frame
}

/// An error of a router about a packet of this shape. `number` picks what kind of error, how much of the
/// packet it quotes, and now and then something else that may come.
fn error(shape: Shape, number: u8) -> Vec<u8> {
    let about = Shape { tags: 0, ..shape };
    let mut quote = if shape.v6 { packet_v6(about) } else { packet_v4(about) }.split_off(14);
    let sender = if shape.v6 { quote[8..24].to_vec() } else { quote[12..16].to_vec() };
    let pick = usize::from(number);
    let header = if shape.v6 { 40 } else { 20 + usize::from(shape.extensions % 3) * 4 };
    match pick % 4 {
        0 => quote.truncate(header + 8),
        1 => quote.truncate(header + pick % 61),
        // What a router knows more of the packet stands behind 128 bytes (RFC 4884).
        2 => {
            quote.resize(128, 0);
            quote.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 0x61, 0x01]);
        }
        _ => {}
    }
    let kinds = if shape.v6 { [1, 2, 3, 4, 3, 5, 137] } else { [3, 11, 12, 3, 11, 4, 5] };
    if pick % 31 == 30 && !shape.v6 {
        // A fragment behind the first.
        quote[7] = 9;
    }
    let head = [kinds[pick % 7], 0, 0x12, 0x34, 0, 0, 5, 0];
    let data = [&head[..], &quote].concat();
    let elsewhere = u8::from(pick % 23 == 22);
    let to = [&sender[..sender.len() - 1], &[sender[sender.len() - 1] + elsewhere]].concat();
    if shape.v6 {
        let router = [0xfd, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9];
        let [high, low] = (data.len() as u16).to_be_bytes();
        let ip = [0x60, 0, 0, 0, high, low, 58, 64];
        return [&link(shape, CLUSTER_MAC, 0x86dd), &ip[..], &router, &to, &data].concat();
    }
    let [high, low] = (20 + data.len() as u16).to_be_bytes();
    let ip = [0x45, 0, high, low, 0, number, 0, 0, 64, 1, 0x12, 0x34, 10, 20, 9, 9];
    [&link(shape, CLUSTER_MAC, 0x0800), &ip[..], &to, &data].concat()
}

/// Who has the cluster's IPv4 address?
pub fn arp_request(host: u8) -> Vec<u8> {
    let mut frame = [[0xff; 6], CLIENT_MAC].concat();
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(CLIENT_MAC);
    frame.extend([10, 10, 2, host]);
    frame.extend([0; 6]);
    frame.extend(CLUSTER_V4);
    frame
}

/// Who has the cluster's IPv6 address?
pub fn solicitation(host: u8) -> Vec<u8> {
    let mut frame = [[0x33, 0x33, 0xff, 0, 0, 1], CLIENT_MAC].concat();
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend([0xfd, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, host]);
    frame.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 1]);
    frame.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    frame.extend(CLUSTER_V6);
    frame.extend([1, 1]);
    frame.extend(CLIENT_MAC);
    frame
}

/// One packet: most are well-formed, some are cut short or have a byte changed.
pub fn packet() -> impl Strategy<Value = Vec<u8>> {
    let whole = (shape(), any::<u8>(), any::<u8>()).prop_map(|(shape, other, more)| match other {
        0..3 => arp_request(shape.host),
        3..6 => solicitation(shape.host),
        6..38 => error(shape, more),
        _ if shape.v6 => packet_v6(shape),
        _ => packet_v4(shape),
    });
    let damage = prop_oneof![
        5 => Just(None),
        1 => (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(Some),
    ];
    (whole, damage).prop_map(|(mut frame, damage)| {
        match damage {
            Some((at, _, true)) => frame.truncate(14 + at.index(frame.len() - 14)),
            Some((at, byte, false)) => {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            None => {}
        }
        frame
    })
}

/// An answer of the kind that flow's protocol has, under these endpoints: from the initiator to the responder.
pub fn answer(key: &FlowKey) -> Vec<u8> {
    let ports = [key.initiator.port, key.responder.port].map(u16::to_be_bytes).concat();
    let data = match key.protocol.0 {
        6 => {
            let numbers = [0, 0, 0, 9, 0xff, 0xff, 0xff, 0xf1];
            [&ports[..], &numbers, &[0x50, 0x12, 0xff, 0xff, 0x12, 0x34, 0, 0]].concat()
        }
        17 => [&ports[..], &[0, 12, 0x56, 0x78, 1, 2, 3, 4]].concat(),
        132 => [&ports[..], &TAGS[0].to_be_bytes(), &[0x34; 4], &naming(2, TAGS[1])].concat(),
        1 => [&[0, 0, 0x9a, 0xbc][..], &ports[..2], &[0, 1]].concat(),
        _ => [&[129, 0, 0xde, 0xf0][..], &ports[..2], &[0, 1]].concat(),
    };
    let mut frame = [CLUSTER_MAC, CLIENT_MAC].concat();
    let addresses = [key.initiator, key.responder].map(|end| IpAddr::from(end.address));
    match addresses {
        [IpAddr::V4(from), IpAddr::V4(to)] => {
            frame.extend([0x08, 0x00, 0x45, 0, 0, 20 + data.len() as u8, 0, 0, 0x40, 0, 64]);
            frame.extend([key.protocol.0, 0x12, 0x34]);
            frame.extend([from.octets(), to.octets()].concat());
        }
        [IpAddr::V6(from), IpAddr::V6(to)] => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, data.len() as u8, key.protocol.0, 64]);
            frame.extend([from.octets(), to.octets()].concat());
        }
        mixed => panic!("{mixed:?} are not of one family"),
    }
    [frame, data].concat()
}

/// An error about a packet of this key, to whoever sent it: eight bytes behind the packet's IP header are quoted.
pub fn error_to(key: &FlowKey) -> Vec<u8> {
    let quoted = answer(key);
    let v4 = key.initiator.address.is_v4();
    let (header, kind, protocol) = if v4 { (20, 3, 1) } else { (40, 1, 58) };
    let quote = &quoted[14..14 + header + 8];
    let mut frame = quoted[..14 + header].to_vec();
    let length = (8 + quote.len()) as u8;
    let sender = |text: &str| text.parse::<IpAddr>().expect("an address");
    let told = IpAddr::from(key.initiator.address);
    match (sender(if v4 { "10.20.0.77" } else { "fd20::77" }), told) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            frame[17] = 20 + length;
            frame[23] = protocol;
            frame[26..34].copy_from_slice(&[from.octets(), to.octets()].concat());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            frame[19] = length;
            frame[20] = protocol;
            frame[22..54].copy_from_slice(&[from.octets(), to.octets()].concat());
        }
        mixed => panic!("{mixed:?} are not of one family"),
    }
    [&frame[..], &[kind, 1, 0x13, 0x57, 0, 0, 5, 0], quote].concat()
}

/// The address of a node on the link.
pub const fn node_mac(node: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, node]
}

/// Gives a frame the addresses on the link that this number picks: from a client or a node, to node 1
/// most often, or to another node or to the cluster.
pub fn steer(frame: &mut [u8], number: u64) {
    // Weyl's sequence, so that neighbouring numbers pick differently.
    let pick = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
    let to = match pick % 8 {
        0 => CLUSTER_MAC,
        1 => node_mac(2),
        2 => node_mac(7),
        _ => node_mac(1),
    };
    if frame.len() >= 12 && frame[0] & 1 == 0 {
        frame[..6].copy_from_slice(&to);
        if pick & 0x30 == 0 {
            frame[6..12].copy_from_slice(&node_mac(2));
        }
    }
}

/// A run of packets that this seed gives.
pub fn packets(seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = packet();
    let next = |_| strategy.new_tree(&mut runner).expect("no filter rejects").current();
    let whole = (0..count).map(next);
    (0..).zip(whole).flat_map(|(index, frame)| in_fragments(frame, index)).collect()
}

/// One packet in eight as its fragments, in an order that the number picks; some of them twice, or askew.
fn in_fragments(frame: Vec<u8>, number: u32) -> Vec<Vec<u8>> {
    let bytes = [24, 32, 40, 8][number as usize / 8 % 4];
    let Some(header) = header(&frame).filter(|header| number % 8 == 3 && frame.len() > header + 24)
    else {
        return vec![frame];
    };
    let length = frame.len() - header;
    let cut = |from: usize| fragment(&frame, header, number, from, length.min(from + bytes));
    let mut fragments: Vec<_> = (0..length).step_by(bytes).map(cut).collect();
    match number / 32 % 8 {
        0 => fragments.reverse(),
        1 => fragments.rotate_left(1),
        2 => fragments.push(cut(0)),
        3 => fragments.insert(1, cut(16)),
        4 => fragments.push(fragment(&frame, header, number, 0, length)),
        _ => {}
    }
    fragments
}

/// Where what is cut begins, in a frame that can be.
fn header(frame: &[u8]) -> Option<usize> {
    match (frame.get(12..14)?, frame.get(14)?) {
        ([0x08, 0x00], 0x45) => Some(34),
        ([0x86, 0xdd], 0x60) => Some(54),
        _ => None,
    }
}

/// Bytes `from..to` of what an IP packet carries; the header's sum is nobody's business.
fn fragment(frame: &[u8], header: usize, name: u32, from: usize, to: usize) -> Vec<u8> {
    let more = to < frame.len() - header;
    let mut out = frame[..header].to_vec();
    let bytes = to - from;
    if header == 34 {
        out[16..18].copy_from_slice(&(20 + bytes as u16).to_be_bytes());
        out[18..20].copy_from_slice(&(name as u16).to_be_bytes());
        let place = (from / 8) as u16 | u16::from(more) << 13;
        out[20..22].copy_from_slice(&place.to_be_bytes());
    } else {
        out[18..20].copy_from_slice(&(8 + bytes as u16).to_be_bytes());
        let next = std::mem::replace(&mut out[20], 44);
        let place = from as u16 | u16::from(more);
        out.extend([next, 0]);
        out.extend(place.to_be_bytes());
        out.extend(name.to_be_bytes());
    }
    out.extend(&frame[header + from..header + to]);
    out
}
