//! ESP, AH and ISAKMP: placed by SPI and by cookie. GRE: by its addresses.

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::event::EventKind::{Created, Updated};
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase::{Replied, Unreplied};
use testudo_packet::verdict::Verdict;

use crate::node::{INSIDE, Node, OUTSIDE, Row, Seen, flow};
use crate::packets::{End, ip, udp};

const HERE: &str = "10.10.2.7";
const THERE: &str = "10.20.0.1";

fn esp(from: &str, to: &str, spi: u32) -> Vec<u8> {
    ip(from, to, 50, &[&spi.to_be_bytes()[..], &[0, 0, 0, 1], &[0xee; 24]].concat())
}

fn ah(from: &str, to: &str, spi: u32) -> Vec<u8> {
    ip(from, to, 51, &[&[6, 4, 0, 0], &spi.to_be_bytes()[..], &[0, 0, 0, 1], &[0xee; 12]].concat())
}

/// A node that lets everyone begin.
fn open_node() -> Node {
    Node::with(0, 1024, &[Rule::any(Action::Accept)])
}

fn passed(what: &'static str, interface: u32, frame: Vec<u8>, packets: u64, bytes: u64) -> Row {
    let entry = Some(Seen(Unreplied, false, 1, [packets, 0], [bytes, 0]));
    let event = (packets == 1).then_some(Created);
    Row { what, interface, frame, verdict: Verdict::Forward, entry, event }
}

#[test]
fn each_direction_of_a_tunnel_is_a_flow_of_its_spi() {
    for (protocol, packet) in [(50, esp as fn(&str, &str, u32) -> Vec<u8>), (51, ah)] {
        let size = packet(HERE, THERE, 0).len() as u64;
        let mut node = open_node();
        let spi = |address, spi: u32| (address, (spi >> 16) as u16, spi as u16);
        let key = |from, to, number| {
            let (from, high, low) = spi(from, number);
            flow(protocol, (from, high), (to, low))
        };
        node.plays(
            key(HERE, THERE, 0x0102_0304),
            vec![
                passed("there", INSIDE, packet(HERE, THERE, 0x0102_0304), 1, size),
                passed("there again", INSIDE, packet(HERE, THERE, 0x0102_0304), 2, 2 * size),
            ],
        );
        node.plays(
            key(THERE, HERE, 0x0506_0708),
            vec![passed(
                "back, under the peer's SPI",
                OUTSIDE,
                packet(THERE, HERE, 0x0506_0708),
                1,
                size,
            )],
        );
        // The halves of an SPI are no ports: reversed, they are another tunnel's.
        node.plays(
            key(THERE, HERE, 0x0304_0102),
            vec![passed("another tunnel", OUTSIDE, packet(THERE, HERE, 0x0304_0102), 1, size)],
        );
        assert_eq!(node.datapath.table().len(), 3);
    }
}

#[test]
fn an_spi_has_a_bucket_whoever_uses_it() {
    let mut node = open_node();
    for (from, to) in [(HERE, THERE), ("10.10.2.8", "10.20.0.9"), ("10.30.0.1", HERE)] {
        node.takes(INSIDE, &esp(from, to, 0x0102_0304));
    }
    let mut buckets = Vec::new();
    node.datapath.table().scan(&mut |view| buckets.push(view.record.bucket));
    assert_eq!(buckets.len(), 3);
    assert!(buckets.iter().all(|bucket| *bucket == buckets[0]), "{buckets:?}");
}

/// An ISAKMP header with the initiator's cookie, on port 500 or behind the marker on 4500.
fn isakmp(from: End, to: End, cookie: u8) -> Vec<u8> {
    let header =
        [&[cookie; 8][..], &[0; 8], &[1, 0x10, 2, 0], &[0, 0, 0, 9], &[0, 0, 0, 28]].concat();
    if from.1 == 4500 {
        udp(from, to, &[&[0; 4][..], &header].concat())
    } else {
        udp(from, to, &header)
    }
}

#[test]
fn a_key_exchange_keeps_its_bucket_when_it_moves_to_port_4500() {
    let (here, there) = ((HERE, 500), (THERE, 500));
    let mut node = open_node();
    let row = |what, interface, frame, entry, event| Row {
        what,
        interface,
        frame,
        verdict: Verdict::Forward,
        entry: Some(entry),
        event: Some(event),
    };
    node.plays(
        flow(17, here, there),
        vec![
            row(
                "first message",
                INSIDE,
                isakmp(here, there, 7),
                Seen(Unreplied, false, 1, [1, 0], [70, 0]),
                Created,
            ),
            row(
                "answer",
                OUTSIDE,
                isakmp(there, here, 7),
                Seen(Replied, true, 2, [1, 1], [70, 70]),
                Updated,
            ),
        ],
    );
    let (here, there) = ((HERE, 4500), (THERE, 4500));
    node.plays(
        flow(17, here, there),
        vec![row(
            "the same exchange behind a translator",
            INSIDE,
            isakmp(here, there, 7),
            Seen(Unreplied, false, 1, [1, 0], [74, 0]),
            Created,
        )],
    );
    let bucket = |port| {
        let view = node.datapath.table().get(&flow(17, (HERE, port), (THERE, port)));
        view.expect("a flow").record.bucket
    };
    assert_eq!(bucket(500), bucket(4500));
}

#[test]
fn exchanges_of_other_peers_spread_over_buckets() {
    let mut node = open_node();
    for cookie in 1..=20 {
        let from = (HERE, 1000 + u16::from(cookie));
        node.takes(INSIDE, &isakmp(from, (THERE, 500), cookie));
    }
    let mut buckets = std::collections::BTreeSet::new();
    node.datapath.table().scan(&mut |view| {
        buckets.insert(view.record.bucket);
    });
    assert!(buckets.len() > 8, "{buckets:?}");
}

fn gre(from: &str, to: &str, header: &[u8]) -> Vec<u8> {
    ip(from, to, 47, &[header, &[0x45, 0, 0, 20]].concat())
}

#[test]
fn a_tunnel_of_gre_is_one_flow_whatever_its_keys_and_numbers() {
    for (here, there) in [(HERE, THERE), ("fd10::7", "fd20::1")] {
        let plain = gre(here, there, &[0, 0, 8, 0]);
        let keyed = gre(there, here, &[0x20, 0, 8, 0, 0, 0, 0, 9]);
        let enhanced =
            gre(here, there, &[0x30, 0x81, 0x88, 0x0b, 0, 4, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0]);
        let sizes = [plain.len() as u64, keyed.len() as u64, enhanced.len() as u64];
        let row = |what, interface, frame, entry, event| Row {
            what,
            interface,
            frame,
            verdict: Verdict::Forward,
            entry: Some(entry),
            event,
        };
        let first = Seen(Unreplied, false, 1, [1, 0], [sizes[0], 0]);
        let answered = Seen(Replied, true, 2, [1, 1], [sizes[0], sizes[1]]);
        let both = Seen(Replied, true, 2, [2, 1], [sizes[0] + sizes[2], sizes[1]]);
        open_node().plays(
            flow(47, (here, 0), (there, 0)),
            vec![
                row("first", INSIDE, plain, first, Some(Created)),
                row("answer with a key", OUTSIDE, keyed, answered, Some(Updated)),
                row("of PPTP", INSIDE, enhanced, both, None),
            ],
        );
    }
}

#[test]
fn gre_that_nobody_knows_goes_nowhere() {
    use testudo_packet::verdict::DropReason::{BadHeader, Truncated, Unsupported};
    let mut node = open_node();
    for (what, header, reason) in [
        ("routing", &[0x40, 0, 8, 0][..], BadHeader),
        ("recursion control", &[0x01, 0, 8, 0], BadHeader),
        ("enhanced without a key", &[0x10, 1, 0x88, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0], BadHeader),
        ("enhanced with a checksum", &[0xa0, 1, 0x88, 0x0b, 0, 0, 0, 0, 0, 0, 0, 0], BadHeader),
        ("another version", &[0, 2, 8, 0], Unsupported),
        ("a header that is not there", &[0xb0, 0, 8, 0], Truncated),
    ] {
        let (verdict, _) = node.takes(INSIDE, &gre(HERE, THERE, header));
        assert_eq!(verdict, Verdict::Drop(reason), "{what}");
    }
    assert_eq!(node.datapath.table().len(), 0);
}
