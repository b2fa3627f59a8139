//! What one source may ask for, and what others get meanwhile.

use std::net::IpAddr;

use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, Limits, NodeTable};
use testudo_packet::entry::FlowRecord;
use testudo_packet::meter::Limit;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Timeouts;
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE};
use crate::packets::{End, SYN, SYN_ACK, echo, tcp, udp};
use crate::translation::released;

const CLIENT: &str = "10.10.2.7";
const SERVER: End = ("10.20.0.9", 443);
const MINUTE: u64 = 60_000_000_000;
const REFUSED: Verdict = Verdict::Drop(DropReason::HalfOpenLimit);

fn half_open(flows: u32) -> Node {
    let mut node = Node::new();
    let half_open = Limit::new(flows, MINUTE);
    node.datapath.set_limits(Limits { half_open, ..Limits::default() });
    node
}

/// A packet comes at once.
fn takes(node: &mut Node, interface: u32, frame: &[u8]) -> Verdict {
    node.datapath.handle(&mut frame.to_vec(), interface, node.now)
}

#[test]
fn a_source_has_so_many_flows_open_that_nobody_has_answered() {
    let mut node = half_open(4);
    node.now = node.now.plus_millis(1_000_000);
    let syn = |port| tcp((CLIENT, port), SERVER, SYN, 0);
    for port in 1..=4 {
        assert_eq!(takes(&mut node, INSIDE, &syn(port)), Verdict::Forward, "{port}");
    }
    for _ in 0..3 {
        assert_eq!(takes(&mut node, INSIDE, &syn(5)), REFUSED);
    }
    assert_eq!(takes(&mut node, INSIDE, &udp((CLIENT, 9), SERVER, b"?")), REFUSED);
    assert_eq!(takes(&mut node, INSIDE, &echo(CLIENT, SERVER.0, 8, 9)), REFUSED);
    assert_eq!(node.datapath.table().len(), 4);
    // What is known goes on, and so do others.
    assert_eq!(takes(&mut node, INSIDE, &syn(4)), Verdict::Forward);
    assert_eq!(takes(&mut node, INSIDE, &tcp(("10.10.2.8", 1), SERVER, SYN, 0)), Verdict::Forward);
    // Two are answered: as many may begin, once that has been heard of.
    for port in 1..=2 {
        assert_eq!(
            takes(&mut node, OUTSIDE, &tcp(SERVER, (CLIENT, port), SYN_ACK, 0)),
            Verdict::Forward
        );
    }
    node.events();
    assert_eq!(
        [6, 7, 8].map(|port| takes(&mut node, INSIDE, &syn(port))),
        [Verdict::Forward, Verdict::Forward, REFUSED]
    );
    // A quarter of a minute makes room for one of four.
    node.now = node.now.plus_millis(15_000);
    assert_eq!(
        [9, 10].map(|port| takes(&mut node, INSIDE, &syn(port))),
        [Verdict::Forward, REFUSED]
    );
    assert_eq!(node.counters()["drop.half-open-limit"], 7);
}

#[test]
fn whoever_is_answered_is_never_held_up() {
    let mut node = half_open(1);
    for port in 1..500 {
        assert_eq!(takes(&mut node, INSIDE, &udp((CLIENT, port), SERVER, b"?")), Verdict::Forward);
        assert_eq!(takes(&mut node, OUTSIDE, &udp(SERVER, (CLIENT, port), b"!")), Verdict::Forward);
        node.events();
    }
}

#[test]
fn hosts_of_a_prefix_count_as_one() {
    let mut node = half_open(2);
    let syn = |host: &'static str| tcp((host, 1), ("fd20::9", 443), SYN, 0);
    let seen = ["fd10::7", "fd10::8", "fd10::9", "fd10:0:0:1::9"]
        .map(|host| takes(&mut node, INSIDE, &syn(host)));
    assert_eq!(seen, [Verdict::Forward, Verdict::Forward, REFUSED, Verdict::Forward]);
}

fn translating(limits: Limits) -> Node {
    let rule = Rule { interface: Some(INSIDE), source_pool: 1, ..Rule::any(Action::Accept) };
    let outside: IpAddr = "192.0.2.1".parse().expect("an address");
    let pool = Pool::of_sources(vec![outside.into()]);
    let mut node = Node::with_pools(Mode::Shared, 0, 1024, &[rule], vec![pool]);
    node.datapath.set_limits(limits);
    node
}

/// What becomes of a first packet.
fn begins(node: &mut Node, client: End) -> Verdict {
    let frame = udp(client, SERVER, b"?");
    assert_eq!(takes(node, INSIDE, &frame), Verdict::Upcall(UpcallReason::Translate));
    released(node).1
}

#[test]
fn a_source_has_so_many_translated_flows() {
    let limits = Limits { translated: 3, ..Limits::default() };
    let (mut node, full) = (translating(limits), Verdict::Drop(DropReason::SourceLimit));
    for port in 1..=3 {
        assert_eq!(begins(&mut node, (CLIENT, port)), Verdict::Forward, "{port}");
    }
    assert_eq!(begins(&mut node, (CLIENT, 4)), full);
    assert_eq!(begins(&mut node, ("10.10.2.8", 4)), Verdict::Forward);
    // One ends, and another one can begin. What was handed over counts as what has begun here.
    let mut flows: Vec<FlowRecord> = Vec::new();
    node.datapath.table().scan(&mut |view| flows.push(view.record));
    let gone = *flows.iter().find(|flow| flow.key.initiator.port == 2).expect("a flow");
    let mut taken = 0;
    let capacity = node.datapath.table().capacity();
    let one = |record: &FlowRecord| record.key == gone.key;
    node.datapath.table().take_out_part(0..capacity, &one, &mut |_| taken += 1);
    assert_eq!(taken, 1);
    assert_eq!(begins(&mut node, (CLIENT, 5)), Verdict::Forward);
    assert_eq!(begins(&mut node, (CLIENT, 6)), full);
    node.now = node.now.plus_millis(200_000);
    assert_eq!(node.datapath.table().expire(node.now, &Timeouts::default(), &mut |_| {}), 4);
    let now = node.now;
    assert_eq!(node.datapath.table().install(&flows, now).installed, 4);
    assert_eq!(begins(&mut node, (CLIENT, 7)), full);
}

#[test]
fn translated_flows_that_nobody_answers_are_half_open_too() {
    let half_open = Limit::new(2, MINUTE);
    let mut node = translating(Limits { half_open, ..Limits::default() });
    let seen = [1, 2, 3].map(|port| begins(&mut node, (CLIENT, port)));
    assert_eq!(seen, [Verdict::Forward, Verdict::Forward, REFUSED]);
}
