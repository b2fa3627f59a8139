//! What a packet is said to meet is what it then meets, and asking changes nothing.

use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, Explained, NodeTable};
use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::{Address, FlowKey, Protocol};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Commit, Links, Ports, Rule};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, INSIDE, Node, OUTSIDE, flow};
use crate::packets::{End, SYN, echo, ip, tcp, udp};
use crate::sctp::init;

const CLIENT: End = ("10.10.2.7", 40_000);
const CLIENT_6: End = ("fd10::7", 40_000);

fn nothing(_: BucketId, _: &FlowKey) -> Option<FlowRecord> {
    None
}

/// The rules by place: 0 to a port it waits, 1 it is translated, 2 it is rejected, 3 it is dropped, 4 inside.
fn rules() -> Vec<Rule> {
    let to = |port, action| {
        let destination_ports = Ports { first: port, last: port };
        Rule { destination_ports, protocol: Some(Protocol::TCP), ..Rule::any(action) }
    };
    let rules = [
        Rule { commit: Commit::Sync, ..to(443, Action::Accept) },
        Rule { source_pool: 1, ..to(80, Action::Accept) },
        to(25, Action::Reject),
        to(26, Action::Drop),
        Rule { interface: Some(INSIDE), ..Rule::any(Action::Accept) },
    ];
    (0..).zip(rules).map(|(mark, rule)| Rule { mark, ..rule }).collect()
}

fn node() -> Node {
    let pool: Vec<Address> = ["192.0.2.1", "2001:db8::1"]
        .map(|text| text.parse::<std::net::IpAddr>().unwrap().into())
        .into();
    Node::with_pools(Mode::Shared, 0, 1024, &rules(), vec![Pool::of_sources(pool)])
}

/// What would become of a packet; nothing has changed by the question.
fn ask(node: &mut Node, key: &FlowKey, interface: u32) -> Explained {
    node.events();
    let before = (node.counters(), node.datapath.rule_hits(), node.datapath.table().len());
    let explained =
        node.datapath.explain(Nanos(7), key, Links::input(interface), &mut nothing).expect("room");
    assert_eq!((node.counters(), node.datapath.rule_hits(), node.datapath.table().len()), before);
    assert_eq!((node.events(), node.datapath.poll_refused()), (vec![], None));
    explained
}

/// What becomes of it, once it has come up if it does.
fn meets(node: &mut Node, frame: &[u8], interface: u32) -> Verdict {
    let (verdict, _) = node.takes(interface, frame);
    let Verdict::Upcall(_) = verdict else { return verdict };
    node.datapath.handle_upcalls(node.now, &mut nothing);
    match node.datapath.take_released().first() {
        Some((_, verdict)) => *verdict,
        None => verdict,
    }
}

/// Asks, then sends the packet: returns the verdict and the place of the rule, which are the same.
fn both(key: FlowKey, frame: &[u8], interface: u32) -> (Verdict, Option<usize>) {
    let mut node = node();
    let told = ask(&mut node, &key, interface);
    let seen = meets(&mut node, frame, interface);
    let expected = match told.verdict {
        Verdict::Drop(DropReason::Rule) if told.rejected => Verdict::Answer,
        verdict => verdict,
    };
    assert_eq!(seen, expected, "{key:?}");
    let hit = node.datapath.rule_hits().iter().position(|hits| *hits > 0);
    assert_eq!(hit, told.rule, "{key:?}");
    if seen == Verdict::Forward {
        let view = node.datapath.table().get(&key).expect("its flow");
        let begun = told.begins.expect("a flow");
        assert_eq!(view.record.translation, begun.translation);
        assert_eq!(view.record.state, begun.state);
        assert_eq!(Some(view.record.bucket), told.bucket);
    }
    (told.verdict, told.rule)
}

#[test]
fn each_protocol_is_told_as_it_goes() {
    let dropped = |reason| (Verdict::Drop(reason), None);
    for (client, server) in [(CLIENT, "10.20.0.9"), (CLIENT_6, "fd20::9")] {
        let to = |port| (server, port);
        let tcp_to = |port, interface| {
            both(flow(6, client, to(port)), &tcp(client, to(port), SYN, 0), interface)
        };
        assert_eq!(tcp_to(443, OUTSIDE), (Verdict::Upcall(UpcallReason::Commit), Some(0)));
        assert_eq!(tcp_to(80, OUTSIDE), (Verdict::Forward, Some(1)));
        assert_eq!(tcp_to(25, INSIDE), (Verdict::Drop(DropReason::Rule), Some(2)));
        assert_eq!(tcp_to(26, INSIDE), (Verdict::Drop(DropReason::Rule), Some(3)));
        assert_eq!(tcp_to(22, INSIDE), (Verdict::Forward, Some(4)));
        assert_eq!(tcp_to(22, OUTSIDE), dropped(DropReason::NoRule));
        let key = flow(17, client, to(53));
        assert_eq!(both(key, &udp(client, to(53), &[]), INSIDE), (Verdict::Forward, Some(4)));
        let kind = if server.contains(':') { 58 } else { 1 };
        let key = flow(kind, (client.0, 9), (server, 9));
        let ping = echo(client.0, server, if kind == 1 { 8 } else { 128 }, 9);
        assert_eq!(both(key, &ping, INSIDE), (Verdict::Forward, Some(4)));
        let key = flow(132, client, to(22));
        assert_eq!(both(key, &init(client, to(22)), INSIDE), (Verdict::Forward, Some(4)));
        assert_eq!(both(key, &init(client, to(22)), OUTSIDE), dropped(DropReason::NoRule));
        let key = flow(47, (client.0, 0), (server, 0));
        let gre = ip(client.0, server, 47, &[0, 0, 8, 0, 0x45, 0, 0, 20]);
        assert_eq!(both(key, &gre, INSIDE), (Verdict::Forward, Some(4)));
        let key = flow(50, (client.0, 1), (server, 2));
        let esp = ip(client.0, server, 50, &[0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(both(key, &esp, INSIDE), (Verdict::Forward, Some(4)));
        let key = flow(51, (client.0, 1), (server, 2));
        let ah = ip(client.0, server, 51, &[59, 1, 0, 0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(both(key, &ah, INSIDE), (Verdict::Forward, Some(4)));
    }
    let key = flow(6, ("10.10.2.7", 1), ("224.0.0.1", 22));
    let frame = tcp(("10.10.2.7", 1), ("224.0.0.1", 22), SYN, 0);
    assert_eq!(both(key, &frame, INSIDE), dropped(DropReason::BadAddress));
}

#[test]
fn the_owner_decides_whoever_is_asked_and_whatever_its_lease() {
    let mut node = node();
    let key = flow(6, CLIENT, ("10.20.0.9", 22));
    let own = ask(&mut node, &key, INSIDE);
    for bucket in (0..BUCKETS as u16).map(BucketId) {
        node.datapath.set_bucket(bucket, testudo_packet::bucket::BucketSlot::VACANT);
    }
    node.datapath.set_lease(Nanos(0));
    assert_eq!(ask(&mut node, &key, INSIDE), own);
    let [a, b] = own.classes.expect("classes");
    assert_eq!(own.bucket, Some(BucketId(a ^ b)));
}

#[test]
fn an_endpoint_that_a_flow_has_is_not_told_for_another() {
    let mut node = node();
    const HOST: u32 = 0x0a0a_0207;
    let told = |node: &mut Node, client: u32, port| {
        let mut key = flow(6, ("10.10.2.7", port), ("10.20.0.9", 80));
        key.initiator.address = Address::v4(client);
        ask(node, &key, INSIDE).begins.and_then(|record| record.translation).expect("an endpoint")
    };
    let first = told(&mut node, HOST, 40_000);
    // A client that has this very port keeps it where its class allows, as long as the flow is not there.
    let port = first.source.port;
    let same = (HOST + 1..HOST + 60_000)
        .find(|&client| told(&mut node, client, port).source == first.source);
    let same = same.expect("another of the class");
    meets(&mut node, &tcp(("10.10.2.7", 40_000), ("10.20.0.9", 80), SYN, 0), INSIDE);
    assert_ne!(told(&mut node, same, port).source, first.source);
}
