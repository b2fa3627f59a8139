//! ICMP errors: a router or host on the way tells the sender of a packet that it goes no further.
//!
//! ```text
//!   client ── [ node ] ── router ── server        "too large", "no hop left", "nobody there"
//!        ◄─────────────── error about a packet
//! ```

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::event::EventKind::{Closed, Created, Updated};
use testudo_packet::tracking::Phase::{
    Established, Replied, Reset, SynReceived, SynSent, Unreplied,
};
use testudo_packet::tracking::Timeouts;
use testudo_packet::verdict::{DropReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, Row, Seen, flow, seen_of};
use crate::packets::{
    ACK, End, FRAGMENTATION_NEEDED, NO_HOP_LEFT, NO_PORT, ROUTER, ROUTER_V6, RST, SYN, SYN_ACK,
    echo, error, error_about, ip, tcp, udp, v4, v6,
};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const CLIENT_V6: End = ("fd10::7", 40_000);
const SERVER_V6: End = ("fd20::1", 443);

const BAD_PARAMETER: [u8; 2] = [12, 0];
const NO_PORT_V6: [u8; 2] = [1, 4];
const TOO_BIG: [u8; 2] = [2, 0];
const NO_HOP_LEFT_V6: [u8; 2] = [3, 0];
const BAD_PARAMETER_V6: [u8; 2] = [4, 1];

const UNRELATED: Verdict = Verdict::Drop(DropReason::Unrelated);

fn row(what: &'static str, interface: u32, frame: Vec<u8>, verdict: Verdict, entry: Seen) -> Row {
    Row { what, interface, frame, verdict, entry: Some(entry), event: None }
}

fn first(what: &'static str, frame: Vec<u8>, entry: Seen) -> Row {
    Row { event: Some(Created), ..row(what, INSIDE, frame, Verdict::Forward, entry) }
}

#[test]
fn a_connection_is_told_of_a_smaller_link_and_stays_as_it_was() {
    for (client, server, kind, more) in
        [(CLIENT, SERVER, FRAGMENTATION_NEEDED, 0), (CLIENT_V6, SERVER_V6, TOO_BIG, 20)]
    {
        let large = tcp(client, server, ACK, 1400);
        let (syn, all) = (54 + more, 108 + 1400 + 2 * more);
        let opening = Seen(SynSent, false, 1, [1, 0], [syn, 0]);
        let answered = Seen(SynReceived, true, 2, [1, 1], [syn, syn]);
        let open = Seen(Established, true, 3, [2, 1], [all, syn]);
        Node::new().plays(
            flow(6, client, server),
            vec![
                first("SYN", tcp(client, server, SYN, 0), opening),
                Row {
                    event: Some(Updated),
                    ..row(
                        "SYN-ACK",
                        OUTSIDE,
                        tcp(server, client, SYN_ACK, 0),
                        Verdict::Forward,
                        answered,
                    )
                },
                Row {
                    event: Some(Updated),
                    ..row("data, too large", INSIDE, large.clone(), Verdict::Forward, open)
                },
                row("the error", OUTSIDE, error_about(&large, kind), Verdict::Forward, open),
                row("and again", OUTSIDE, error_about(&large, kind), Verdict::Forward, open),
            ],
        );
    }
}

#[test]
fn every_error_about_a_known_flow_goes_on_in_both_directions() {
    let v4 = [FRAGMENTATION_NEEDED, NO_PORT, NO_HOP_LEFT, BAD_PARAMETER];
    let v6 = [NO_PORT_V6, TOO_BIG, NO_HOP_LEFT_V6, BAD_PARAMETER_V6];
    for (host, peer, errors, size) in [(CLIENT, SERVER, v4, 42), (CLIENT_V6, SERVER_V6, v6, 62)] {
        let (query, answer) = (udp(host, peer, &[]), udp(peer, host, &[]));
        let mut node = Node::new();
        let key = flow(17, host, peer);
        let asked = Seen(Unreplied, false, 1, [1, 0], [size, 0]);
        let answered = Seen(Replied, true, 2, [1, 1], [size, size]);
        node.plays(key, vec![first("query", query.clone(), asked)]);
        // An error is no answer: the flow is as little confirmed as before.
        let there = errors
            .map(|kind| row("there", OUTSIDE, error_about(&query, kind), Verdict::Forward, asked));
        node.plays(key, there.into());
        node.plays(
            key,
            vec![Row {
                event: Some(Updated),
                ..row("answer", OUTSIDE, answer.clone(), Verdict::Forward, answered)
            }],
        );
        let back = errors.map(|kind| {
            row("back", INSIDE, error_about(&answer, kind), Verdict::Forward, answered)
        });
        node.plays(key, back.into());
    }
}

#[test]
fn an_error_neither_ends_a_flow_nor_keeps_it() {
    let mut node = Node::new();
    let key = flow(6, CLIENT, SERVER);
    let syn = tcp(CLIENT, SERVER, SYN, 0);
    let opening = Seen(SynSent, false, 1, [1, 0], [54, 0]);
    let over = Seen(Reset, true, 2, [1, 1], [54, 54]);
    node.plays(
        key,
        vec![
            first("SYN", syn.clone(), opening),
            // A stranger could have sent it (RFC 5927).
            row(
                "refused, somebody says",
                OUTSIDE,
                error_about(&syn, NO_PORT),
                Verdict::Forward,
                opening,
            ),
            Row {
                event: Some(Closed),
                ..row("RST", OUTSIDE, tcp(SERVER, CLIENT, RST | ACK, 0), Verdict::Forward, over)
            },
            row(
                "an error that comes late",
                OUTSIDE,
                error_about(&syn, NO_PORT),
                Verdict::Forward,
                over,
            ),
        ],
    );
    // The rows have seen that the time of its last packet stays, too.
    let timeouts = Timeouts::default();
    let much_later = node.now.plus_millis(24 * 3600 * 1000);
    assert_eq!(node.datapath.table().expire(much_later, &timeouts, &mut |_| {}), 1);
    assert_eq!(node.takes(OUTSIDE, &error_about(&syn, NO_PORT)).0, UNRELATED);
}

#[test]
fn an_error_about_no_known_flow_is_dropped() {
    let mut node = Node::new();
    for frame in [
        tcp(CLIENT, SERVER, ACK, 0),
        udp(CLIENT, SERVER, &[1; 40]),
        echo(CLIENT.0, SERVER.0, 8, 7),
        ip(CLIENT.0, SERVER.0, 50, &[1; 40]),
        ip(CLIENT.0, SERVER.0, 47, &[]),
        udp(CLIENT_V6, SERVER_V6, &[]),
    ] {
        let kind = if frame[12] == 8 { NO_PORT } else { NO_PORT_V6 };
        assert_eq!(node.takes(OUTSIDE, &error_about(&frame, kind)).0, UNRELATED);
    }
    assert!(node.datapath.table().is_empty() && node.events().is_empty());
}

#[test]
fn eight_bytes_of_the_packet_are_enough() {
    let spi = [&[1, 2, 3, 4, 0, 0, 0, 1][..], &[0xee; 24]].concat();
    let header = [&[6, 4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1][..], &[0xee; 12]].concat();
    for frame in [
        tcp(CLIENT, SERVER, SYN, 0),
        udp(CLIENT, SERVER, &[1; 40]),
        echo(CLIENT.0, SERVER.0, 8, 7),
        ip(CLIENT.0, SERVER.0, 50, &spi),
        ip(CLIENT.0, SERVER.0, 51, &header),
        v4(CLIENT.0, SERVER.0, 17, &[1; 40], &[0x9c, 0x40, 1, 187, 0, 8, 0, 0]),
    ] {
        let mut node = Node::new();
        assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Forward);
        let header = usize::from(frame[14] & 15) * 4;
        let cut = |bytes| error(ROUTER, CLIENT.0, NO_HOP_LEFT, &frame, header + bytes);
        assert_eq!(node.takes(OUTSIDE, &cut(8)).0, Verdict::Forward);
        for bytes in [7, 1, 0] {
            assert_eq!(node.takes(OUTSIDE, &cut(bytes)).0, Verdict::Drop(DropReason::Truncated));
        }
        for bytes in [19, 1, 0] {
            let cut = error(ROUTER, CLIENT.0, NO_HOP_LEFT, &frame, bytes);
            assert_eq!(node.takes(OUTSIDE, &cut).0, Verdict::Drop(DropReason::Truncated));
        }
    }
}

#[test]
fn options_and_extension_headers_are_passed_over_in_both_headers() {
    let mut node = Node::new();
    // Destination options, then UDP.
    let options = [&[17, 1][..], &[0; 14]].concat();
    let datagram = [0x9c, 0x40, 1, 187, 0, 8, 0, 0];
    let query = v6(CLIENT_V6.0, SERVER_V6.0, 60, &[&options[..], &datagram].concat());
    assert_eq!(node.takes(INSIDE, &query).0, Verdict::Forward);
    assert_eq!(node.takes(OUTSIDE, &error_about(&query, TOO_BIG)).0, Verdict::Forward);
    let message = [&TOO_BIG[..], &[0xbe, 0xef, 0, 0, 5, 0], &query[14..]].concat();
    let options = [&[58, 1][..], &[0; 14]].concat();
    let message = [&options[..], &message].concat();
    let message = v6(ROUTER_V6, CLIENT_V6.0, 60, &message);
    assert_eq!(node.takes(OUTSIDE, &message).0, Verdict::Forward);

    let query = v4(CLIENT.0, SERVER.0, 17, &[1; 4], &datagram);
    assert_eq!(node.takes(INSIDE, &query).0, Verdict::Forward);
    let message = [&NO_PORT[..], &[0xbe, 0xef, 0, 0, 0, 0], &query[14..]].concat();
    let message = v4(ROUTER, CLIENT.0, 1, &[1; 8], &message);
    assert_eq!(node.takes(OUTSIDE, &message).0, Verdict::Forward);
    assert_eq!(node.datapath.table().len(), 2);
}

#[test]
fn what_is_no_error_about_a_packet_that_was_sent_is_refused() {
    let query = udp(CLIENT, SERVER, &[1; 40]);
    let mut node = Node::new();
    node.takes(INSIDE, &query);
    let mut refused = |what: &str, frame: Vec<u8>, reason| {
        assert_eq!(node.takes(OUTSIDE, &frame).0, Verdict::Drop(reason), "{what}");
    };
    let fragment = |offset: u8| {
        let mut fragment = query.clone();
        fragment[20..22].copy_from_slice(&[0x20, offset]);
        error_about(&fragment, NO_HOP_LEFT)
    };
    refused("about a fragment behind the first", fragment(1), DropReason::Fragment);
    let other = error(ROUTER, "10.10.2.8", NO_HOP_LEFT, &query, 548);
    refused("to somebody else", other, DropReason::BadHeader);
    let again = error_about(&error_about(&query, NO_PORT), NO_PORT);
    refused("an error about an error", again, DropReason::Unsupported);
    refused("a redirect", error_about(&query, [5, 1]), DropReason::Unsupported);
    refused("a source quench", error_about(&query, [4, 0]), DropReason::Unsupported);
    refused("a timestamp", error_about(&query, [13, 0]), DropReason::Unsupported);
    let mut version = error_about(&query, NO_PORT);
    version[42] = 0x65;
    refused("IPv6 quoted in IPv4", version, DropReason::BadHeader);
    let query_v6 = udp(CLIENT_V6, SERVER_V6, &[]);
    let as_v4 =
        ip(ROUTER_V6, CLIENT_V6.0, 1, &[&[3, 3, 0, 0, 0, 0, 0, 0], &query_v6[14..]].concat());
    refused("ICMP in IPv6", as_v4, DropReason::Unsupported);
    assert_eq!(node.takes(OUTSIDE, &fragment(0)).0, Verdict::Forward, "about the first fragment");
    let view = node.datapath.table().get(&flow(17, CLIENT, SERVER)).expect("the flow");
    assert_eq!(seen_of(&view), Seen(Unreplied, false, 1, [1, 0], [82, 0]));
}
