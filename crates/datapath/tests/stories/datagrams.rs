//! Questions and answers: UDP and echo.

use testudo_packet::event::EventKind::{Created, Updated};
use testudo_packet::tracking::Phase::{Replied, Unreplied};
use testudo_packet::verdict::{DropReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, Row, Seen, flow};
use crate::packets::{End, echo, tagged, udp};

const HOST: End = ("10.10.2.7", 5353);
const RESOLVER: End = ("10.20.0.53", 53);

fn passed(what: &'static str, interface: u32, frame: Vec<u8>, entry: Seen) -> Row {
    // The first packet of each direction changes the flow; a second echo, answered, does not.
    let event = match entry {
        Seen(_, false, 1, [1, 0], _) => Some(Created),
        Seen(_, true, 2, [_, 1], _) if interface == OUTSIDE => Some(Updated),
        _ => None,
    };
    Row { what, interface, frame, verdict: Verdict::Forward, entry: Some(entry), event }
}

#[test]
fn udp_query_and_answer() {
    Node::new().plays(
        flow(17, HOST, RESOLVER),
        vec![
            passed(
                "query",
                INSIDE,
                udp(HOST, RESOLVER, &[1; 30]),
                Seen(Unreplied, false, 1, [1, 0], [72, 0]),
            ),
            passed(
                "query again",
                INSIDE,
                udp(HOST, RESOLVER, &[1; 30]),
                Seen(Unreplied, false, 1, [2, 0], [144, 0]),
            ),
            passed(
                "answer",
                OUTSIDE,
                udp(RESOLVER, HOST, &[2; 58]),
                Seen(Replied, true, 2, [2, 1], [144, 100]),
            ),
            passed(
                "answer again",
                OUTSIDE,
                udp(RESOLVER, HOST, &[2; 58]),
                Seen(Replied, true, 2, [2, 2], [144, 200]),
            ),
        ],
    );
}

#[test]
fn a_tag_is_no_part_of_the_flow() {
    Node::new().plays(
        flow(17, HOST, RESOLVER),
        vec![
            passed(
                "query in a VLAN",
                INSIDE,
                tagged(&udp(HOST, RESOLVER, &[1; 30])),
                Seen(Unreplied, false, 1, [1, 0], [76, 0]),
            ),
            passed(
                "answer in a VLAN in a VLAN",
                OUTSIDE,
                tagged(&tagged(&udp(RESOLVER, HOST, &[]))),
                Seen(Replied, true, 2, [1, 1], [76, 50]),
            ),
            passed(
                "answer without one",
                OUTSIDE,
                udp(RESOLVER, HOST, &[]),
                Seen(Replied, true, 2, [1, 2], [76, 92]),
            ),
        ],
    );
}

fn ping(host: &'static str, peer: &'static str, request: u8, reply: u8, more: u64) {
    let protocol = if request == 8 { 1 } else { 58 };
    let size = 44 + more;
    Node::new().plays(
        flow(protocol, (host, 77), (peer, 77)),
        vec![
            passed(
                "echo",
                INSIDE,
                echo(host, peer, request, 77),
                Seen(Unreplied, false, 1, [1, 0], [size, 0]),
            ),
            passed(
                "echo reply",
                OUTSIDE,
                echo(peer, host, reply, 77),
                Seen(Replied, true, 2, [1, 1], [size, size]),
            ),
            passed(
                "next echo",
                INSIDE,
                echo(host, peer, request, 77),
                Seen(Replied, true, 2, [2, 1], [2 * size, size]),
            ),
        ],
    );
}

#[test]
fn ping_v4() {
    ping("10.10.2.7", "10.20.0.1", 8, 0, 0);
}

#[test]
fn ping_v6() {
    ping("fd10::7", "fd20::1", 128, 129, 20);
}

#[test]
fn an_echo_reply_that_nobody_asked_for_is_refused() {
    // From inside too, where all may begin a flow.
    for (from, to, reply, protocol) in
        [("10.10.2.7", "10.20.0.1", 0, 1), ("fd10::7", "fd20::1", 129, 58)]
    {
        Node::new().plays(
            flow(protocol, (from, 77), (to, 77)),
            vec![Row {
                what: "echo reply",
                interface: INSIDE,
                frame: echo(from, to, reply, 77),
                verdict: Verdict::Drop(DropReason::NotFirst),
                entry: None,
                event: None,
            }],
        );
    }
}

#[test]
fn a_reply_to_another_ping_is_refused() {
    let (host, peer) = ("10.10.2.7", "10.20.0.1");
    let mut node = Node::new();
    assert_eq!(node.takes(INSIDE, &echo(host, peer, 8, 77)).0, Verdict::Forward);
    let (verdict, _) = node.takes(OUTSIDE, &echo(peer, host, 0, 78));
    assert_eq!(verdict, Verdict::Drop(DropReason::NotFirst));
}

#[test]
fn other_icmp_messages_are_not_forwarded() {
    for (from, to, kind) in [("10.10.2.7", "10.20.0.1", 13), ("fd10::7", "fd20::1", 130)] {
        let (verdict, _) = Node::new().takes(INSIDE, &echo(from, to, kind, 0));
        assert_eq!(verdict, Verdict::Drop(DropReason::Unsupported));
    }
}
