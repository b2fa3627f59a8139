//! Headers: what is followed, what is dropped and by which name.

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::event::EventKind::Created;
use testudo_packet::tracking::Phase::{SynSent, Unreplied};
use testudo_packet::verdict::{DropReason, Verdict};

use crate::node::{INSIDE, Node, Row, Seen, counter, flow};
use crate::packets::{End, SYN, datagram, ethernet, tagged, tcp, tcp_segment, udp, v4, v6};
use crate::traffic;

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const CLIENT_V6: End = ("fd10::7", 40_000);
const SERVER_V6: End = ("fd20::1", 443);

fn opens(protocol: u8, from: End, to: End, frame: Vec<u8>) {
    let phase = if protocol == 6 { SynSent } else { Unreplied };
    let bytes = frame.len() as u64;
    Node::new().plays(
        flow(protocol, from, to),
        vec![Row {
            what: "the first packet",
            interface: INSIDE,
            frame,
            verdict: Verdict::Forward,
            entry: Some(Seen(phase, false, 1, [1, 0], [bytes, 0])),
            event: Some(Created),
        }],
    );
}

fn dropped(what: &'static str, frame: Vec<u8>, reason: DropReason) {
    Node::new().plays(
        flow(6, CLIENT, SERVER),
        vec![Row {
            what,
            interface: INSIDE,
            frame,
            verdict: Verdict::Drop(reason),
            entry: None,
            event: None,
        }],
    );
}

#[test]
fn ipv4_options_are_skipped() {
    for options in [4, 8, 40] {
        let segment = tcp_segment(CLIENT, SERVER, SYN, 0);
        opens(6, CLIENT, SERVER, v4(CLIENT.0, SERVER.0, 6, &vec![1; options], &segment));
    }
}

/// Extension headers of these kinds, eight bytes each and more, before a payload of `last`.
fn chain(kinds: &[u8], last: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, _) in kinds.iter().enumerate() {
        let more = (index % 2) as u8;
        bytes.extend([kinds.get(index + 1).copied().unwrap_or(last), more]);
        bytes.extend(vec![0; 6 + usize::from(more) * 8]);
    }
    [bytes, payload.to_vec()].concat()
}

#[test]
fn ipv6_extension_headers_are_followed() {
    let query = datagram(CLIENT_V6, SERVER_V6, &[1; 9]);
    for kinds in [&[0][..], &[60], &[43], &[0, 60, 43, 60], &[0, 60, 60, 60, 60, 60, 60]] {
        let frame = v6(CLIENT_V6.0, SERVER_V6.0, kinds[0], &chain(kinds, 17, &query));
        opens(17, CLIENT_V6, SERVER_V6, frame);
    }
}

#[test]
fn too_many_extension_headers_are_not() {
    let query = datagram(CLIENT_V6, SERVER_V6, &[1; 9]);
    let frame = v6(CLIENT_V6.0, SERVER_V6.0, 60, &chain(&[60; 9], 17, &query));
    dropped("nine extension headers", frame, DropReason::ExtensionHeaders);
    let long = [[17, 255].as_slice(), &[0; 2046], &query].concat();
    let frame = v6(CLIENT_V6.0, SERVER_V6.0, 60, &long);
    dropped("one of two kilobytes", frame, DropReason::ExtensionHeaders);
    dropped("no next header", v6(CLIENT_V6.0, SERVER_V6.0, 59, &[]), DropReason::Unsupported);
}

#[test]
fn an_extension_header_does_not_reach_beyond_its_packet() {
    for protocol in [17, 47] {
        // Sixteen bytes of header in a payload of eight; what follows is padding of the link layer.
        let mut frame = v6(CLIENT_V6.0, SERVER_V6.0, 60, &[protocol, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend([0; 32]);
        dropped("an extension header into the padding", frame, DropReason::Truncated);
    }
}

#[test]
fn martians_are_dropped() {
    let reserved = ["0.1.2.3", "127.0.0.1", "224.0.0.1", "255.255.255.255", "240.0.0.1"];
    for address in reserved.into_iter().chain(["169.254.0.1", "169.254.255.254"]) {
        dropped("from a martian", udp((address, 1), SERVER, &[]), DropReason::BadAddress);
        dropped("to a martian", udp(CLIENT, (address, 1), &[]), DropReason::BadAddress);
    }
    for address in ["::", "::1", "::ffff:10.0.0.1", "fe80::1", "febf::1", "ff02::1"] {
        dropped("from a martian", udp((address, 1), SERVER_V6, &[]), DropReason::BadAddress);
        dropped("to a martian", udp(CLIENT_V6, (address, 1), &[]), DropReason::BadAddress);
    }
    for neighbour in
        ["1.0.0.1", "126.255.255.255", "128.0.0.1", "223.255.255.255", "169.253.0.1", "169.255.0.1"]
    {
        let mut node = Node::new();
        assert_eq!(node.takes(INSIDE, &udp((neighbour, 1), SERVER, &[])).0, Verdict::Forward);
    }
}

#[test]
fn headers_that_contradict_themselves_are_dropped() {
    let changed = |frame: &[u8], at: usize, byte: u8| {
        let mut frame = frame.to_vec();
        frame[at] = byte;
        frame
    };
    let (query, syn) = (udp(CLIENT, SERVER, &[]), tcp(CLIENT, SERVER, SYN, 0));
    let query_v6 = udp(CLIENT_V6, SERVER_V6, &[]);
    let bad = DropReason::BadHeader;
    dropped("IPv4 of version 5", changed(&query, 14, 0x55), bad);
    dropped("an IPv4 header of 16 bytes", changed(&query, 14, 0x44), bad);
    dropped("less in all than the header", changed(&query, 17, 19), bad);
    dropped("more in all than the frame", changed(&query, 17, 29), DropReason::Truncated);
    dropped("IPv6 of version 4", changed(&query_v6, 14, 0x40), bad);
    dropped("more payload than the frame", changed(&query_v6, 19, 9), DropReason::Truncated);
    dropped("UDP of 7 bytes", changed(&query, 39, 7), bad);
    dropped("UDP longer than its packet", changed(&query, 39, 9), DropReason::Truncated);
    dropped("a TCP header of 16 bytes", changed(&syn, 46, 0x40), bad);
    dropped("a TCP header longer than its packet", changed(&syn, 46, 0x60), DropReason::Truncated);
    dropped("a protocol that is not IP", ethernet(0x88cc, &[0; 60]), DropReason::Unsupported);
}

#[test]
fn every_beginning_of_a_packet_has_its_reason() {
    let mut packets = traffic::packets(1, 400);
    packets.extend([tagged(&tcp(CLIENT, SERVER, SYN, 0)), udp(CLIENT_V6, SERVER_V6, &[1; 9])]);
    for frame in packets {
        // What is a header too few of these is known by its own length field.
        let whole = Node::new().takes(INSIDE, &frame).0;
        if whole != Verdict::Forward {
            continue;
        }
        for length in 0..frame.len() {
            let mut node = Node::new();
            let (verdict, _) = node.takes(INSIDE, &frame[..length]);
            let expected = Verdict::Drop(DropReason::Truncated);
            assert_eq!(verdict, expected, "{length} of {} bytes: {frame:02x?}", frame.len());
            assert_eq!(counter(verdict), "drop.truncated");
            assert!(node.datapath.table().is_empty());
        }
    }
}
