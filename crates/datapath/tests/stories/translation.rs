//! Flows whose source is translated: what comes out, to the byte, and what is kept of them.
//!
//! Checksums are those of the whole packet, computed anew from what came out.

use std::net::IpAddr;

use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::{BucketId, BucketState, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, Translation};
use testudo_packet::event::EventKind;
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Commit, Ports, Rule};
use testudo_packet::tracking::Phase::{Established, SynReceived, SynSent};
use testudo_packet::tracking::Timeouts;
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, Seen, flow, seen_of, slot};
use crate::packets::{ACK, End, SYN, SYN_ACK, checksum, datagram, echo, error, ip, tcp, udp};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.9", 443);
const CLIENT_6: End = ("fd10::7", 40_000);
const SERVER_6: End = ("fd20::9", 443);
const OUTSIDE_V4: &str = "192.0.2.1";
const OUTSIDE_V6: &str = "2001:db8::1";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn node_by(rule: Rule) -> Node {
    let pool = vec![address(OUTSIDE_V4).into(), address(OUTSIDE_V6).into()];
    Node::with_pools(Mode::Shared, 0, 1024, &[rule], vec![Pool::of_sources(pool)])
}

fn translating() -> Rule {
    Rule { interface: Some(INSIDE), source_pool: 1, ..Rule::any(Action::Accept) }
}

fn node() -> Node {
    node_by(translating())
}

pub fn nothing(_: BucketId, _: &FlowKey) -> Option<FlowRecord> {
    None
}

/// Takes the one packet that went up, and what became of it.
pub fn released(node: &mut Node) -> (Vec<u8>, Verdict) {
    node.datapath.handle_upcalls(node.now, &mut nothing);
    let released = node.datapath.take_released();
    let [(frame, verdict)] = released.as_slice() else { panic!("{released:?}, expected one") };
    (frame.clone(), *verdict)
}

/// The first packet of a flow goes up, and comes out translated; returns it, and to what.
pub fn begin(node: &mut Node, frame: &[u8], key: &FlowKey) -> (Vec<u8>, Translation) {
    assert_eq!(node.takes(INSIDE, frame).0, Verdict::Upcall(UpcallReason::Translate));
    let (out, verdict) = released(node);
    assert_eq!(verdict, Verdict::Forward);
    let view = node.datapath.table().get(key).expect("the flow");
    (out, view.record.translation.expect("what it is translated to"))
}

/// What becomes of a packet that does not go up, and the frame as it came out.
pub fn passes(node: &mut Node, interface: u32, frame: &[u8]) -> Vec<u8> {
    let mut out = frame.to_vec();
    node.now = node.now.plus_millis(1000);
    assert_eq!(node.datapath.handle(&mut out, interface, node.now), Verdict::Forward);
    out
}

/// An error about a translated flow goes up, and comes out turned.
pub fn turns(node: &mut Node, interface: u32, frame: &[u8]) -> Vec<u8> {
    assert_eq!(node.takes(interface, frame).0, Verdict::Upcall(UpcallReason::Translate));
    let (out, verdict) = released(node);
    assert_eq!(verdict, Verdict::Forward);
    out
}

/// Where the transport header is, its protocol, and what its checksum covers besides it.
fn layout(frame: &[u8]) -> (usize, u8, Vec<u8>) {
    let length = |at: usize| ((frame.len() - at) as u32).to_be_bytes();
    if frame[14] >> 4 == 4 {
        let at = 14 + usize::from(frame[14] & 15) * 4;
        let protocol = frame[23];
        (at, protocol, [&frame[26..34], &[0, protocol], &length(at)[2..]].concat())
    } else {
        let (at, protocol) = (54, frame[20]);
        (at, protocol, [&frame[22..54], &length(at), &[0, 0, 0, protocol]].concat())
    }
}

/// Where a transport header has its checksum, and whether that covers the addresses.
fn sum_at(protocol: u8) -> (usize, bool) {
    match protocol {
        6 => (16, true),
        17 => (6, true),
        1 => (2, false),
        58 => (2, true),
        other => panic!("no checksum of protocol {other}"),
    }
}

fn right_sum(frame: &[u8]) -> u16 {
    let (at, protocol, pseudo) = layout(frame);
    let (offset, covers) = sum_at(protocol);
    let mut bytes = if covers { pseudo } else { Vec::new() };
    let begin = bytes.len();
    bytes.extend(&frame[at..]);
    bytes[begin + offset..begin + offset + 2].fill(0);
    checksum(&bytes)
}

/// The frame with the transport checksum that it should have.
pub fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    let (at, protocol, _) = layout(&frame);
    let at = at + sum_at(protocol).0;
    let sum = right_sum(&frame);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

pub fn is_right(frame: &[u8]) {
    let (at, protocol, _) = layout(frame);
    let at = at + sum_at(protocol).0;
    let seen = u16::from_be_bytes([frame[at], frame[at + 1]]);
    assert_eq!(seen, right_sum(frame), "the transport's checksum in {frame:02x?}");
    if frame[14] >> 4 == 4 {
        assert_eq!(checksum(&frame[14..34]), 0, "the checksum of the header in {frame:02x?}");
    }
}

pub fn end(endpoint: Endpoint) -> (String, u16) {
    (IpAddr::from(endpoint.address).to_string(), endpoint.port)
}

#[test]
fn a_connection_goes_out_under_another_address_and_comes_back() {
    for (client, server, outside) in
        [(CLIENT, SERVER, OUTSIDE_V4), (CLIENT_6, SERVER_6, OUTSIDE_V6)]
    {
        let mut node = node();
        let key = flow(6, client, server);
        let (out, to) = begin(&mut node, &summed(tcp(client, server, SYN, 0)), &key);
        let (address, port) = end(to.source);
        assert_eq!((address.as_str(), to.destination), (outside, key.responder));
        let seen: End = (outside, port);
        assert_eq!(out, summed(tcp(seen, server, SYN, 0)));
        let view = node.datapath.table().get(&key).expect("the flow");
        let bytes = out.len() as u64;
        assert_eq!(seen_of(&view), Seen(SynSent, false, 1, [1, 0], [bytes, 0]));
        let events = node.events();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].kind, events[0].record), (EventKind::Created, view.record));

        let out = passes(&mut node, OUTSIDE, &summed(tcp(server, seen, SYN_ACK, 0)));
        assert_eq!(out, summed(tcp(server, client, SYN_ACK, 0)));
        let out = passes(&mut node, INSIDE, &summed(tcp(client, server, ACK, 700)));
        assert_eq!(out, summed(tcp(seen, server, ACK, 700)));
        is_right(&out);
        let view = node.datapath.table().get(&key).expect("the flow");
        let (Seen(phase, confirmed, sequence, packets, _), all) = (seen_of(&view), node.events());
        assert_eq!((phase, confirmed, sequence, packets), (Established, true, 3, [2, 1]));
        // What changes a flow does not know what it is translated to; its key is the flow's own.
        let told: Vec<_> =
            all.iter().map(|event| (event.record.key, event.record.state.phase)).collect();
        assert_eq!(told, [(key, SynReceived), (key, Established)]);
        // Whoever asks by the key of its replies gets the flow as well.
        assert_eq!(node.datapath.table().get(&view.record.reply_key()), Some(view));
        assert_eq!(node.datapath.table().len(), 1);
    }
}

#[test]
fn datagrams_and_echoes_come_back_too() {
    let outside = |port| (OUTSIDE_V4, port);
    let mut node = node();
    let key = flow(17, CLIENT, SERVER);
    let (out, to) = begin(&mut node, &summed(udp(CLIENT, SERVER, b"a question")), &key);
    assert_eq!(out, summed(udp(outside(to.source.port), SERVER, b"a question")));
    // No checksum stays none.
    let bare = passes(&mut node, INSIDE, &udp(CLIENT, SERVER, b"another"));
    assert_eq!(bare, udp(outside(to.source.port), SERVER, b"another"));
    let answer = passes(&mut node, OUTSIDE, &summed(udp(SERVER, outside(to.source.port), b"so")));
    assert_eq!(answer, summed(udp(SERVER, CLIENT, b"so")));

    for (from, there, outside, kinds) in [
        ("10.10.2.7", "10.20.0.9", OUTSIDE_V4, [8, 0]),
        ("fd10::7", "fd20::9", OUTSIDE_V6, [128, 129]),
    ] {
        let protocol = if kinds[0] == 8 { 1 } else { 58 };
        let key = flow(protocol, (from, 77), (there, 77));
        let (out, to) = begin(&mut node, &summed(echo(from, there, kinds[0], 77)), &key);
        let identifier = to.source.port;
        assert_eq!(out, summed(echo(outside, there, kinds[0], identifier)));
        let back = summed(echo(there, outside, kinds[1], identifier));
        assert_eq!(passes(&mut node, OUTSIDE, &back), summed(echo(there, from, kinds[1], 77)));
    }
}

/// A checksum of 0 in UDP means that there is none, so where one comes to 0 it is written as ffff (RFC 768).
#[test]
fn a_datagrams_checksum_never_becomes_none() {
    let mut node = node();
    let key = flow(17, CLIENT, SERVER);
    let (_, to) = begin(&mut node, &summed(udp(CLIENT, SERVER, b"ab")), &key);
    let seen: End = (OUTSIDE_V4, to.source.port);
    let reaches_zero = (0..=u16::MAX).map(u16::to_be_bytes).find(|data| {
        let frame = ip(seen.0, SERVER.0, 17, &datagram(seen, SERVER, data));
        right_sum(&frame) == 0
    });
    let frame = summed(udp(CLIENT, SERVER, &reaches_zero.expect("data of every sum")));
    let out = passes(&mut node, INSIDE, &frame);
    assert_eq!(out[40..42], [0xff, 0xff]);
}

#[test]
fn nobody_outside_reaches_an_inside_address_by_a_translated_flow() {
    let mut node = node();
    let key = flow(6, CLIENT, SERVER);
    let (_, to) = begin(&mut node, &tcp(CLIENT, SERVER, SYN, 0), &key);
    let untranslated = Verdict::Drop(DropReason::Untranslated);
    assert_eq!(node.takes(OUTSIDE, &tcp(SERVER, CLIENT, SYN_ACK, 0)).0, untranslated);
    // Nor does anybody inside speak in the name of the cluster.
    let seen: End = (OUTSIDE_V4, to.source.port);
    assert_eq!(node.takes(INSIDE, &tcp(seen, SERVER, ACK, 0)).0, untranslated);
    let view = node.datapath.table().get(&key).expect("the flow");
    assert_eq!(seen_of(&view), Seen(SynSent, false, 1, [1, 0], [54, 0]));
}

#[test]
fn two_clients_get_two_ports_and_both_leave_nothing_behind() {
    let mut node = node();
    let clients: Vec<String> = (2..200).map(|host| format!("10.10.2.{host}")).collect();
    let mut replies = std::collections::BTreeSet::new();
    for client in &clients {
        let client = (leak(client), 40_000);
        let key = flow(6, client, SERVER);
        begin(&mut node, &tcp(client, SERVER, SYN, 0), &key);
        let record = node.datapath.table().get(&key).expect("the flow").record;
        assert!(replies.insert(record.reply_key()), "{record:?}");
    }
    assert_eq!(node.datapath.table().len(), clients.len());
    let mut gone = Vec::new();
    let late = Nanos(u64::MAX / 2);
    node.datapath.table().expire(late, &Timeouts::default(), &mut |record| gone.push(*record));
    assert!(gone.iter().all(|record| record.translation.is_some()));
    assert_eq!((gone.len(), node.datapath.table().len()), (clients.len(), 0));
    // The halves that replies find are gone with them: there is room for as many others.
    for record in gone {
        assert_eq!(node.datapath.table().get(&record.reply_key()), None);
        assert_eq!(node.datapath.table().install(&[record], node.now).installed, 1);
    }
}

pub fn leak(text: &str) -> &'static str {
    Box::leak(text.to_owned().into_boxed_str())
}

#[test]
fn without_a_free_endpoint_a_flow_is_refused() {
    let mut node = node();
    let all_taken = |_: BucketId, key: &FlowKey| {
        let record = FlowRecord {
            bucket: BucketId(0),
            epoch: crate::node::EPOCH,
            key: *key,
            state: testudo_packet::entry::FlowState {
                phase: Established,
                confirmed: true,
                rule: 0,
                sequence: 1,
            },
            translation: None,
        };
        // What the packet itself belongs to is new.
        (key.initiator.address != address(CLIENT.0).into()).then_some(record)
    };
    assert_eq!(
        node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0)).0,
        Verdict::Upcall(UpcallReason::Translate)
    );
    node.datapath.handle_upcalls(node.now, &mut { all_taken });
    let verdicts: Vec<_> = node.datapath.take_released().into_iter().map(|(_, v)| v).collect();
    assert_eq!(verdicts, [Verdict::Drop(DropReason::NoPort)]);
    assert!(node.datapath.table().is_empty());
    // A protocol without ports has no endpoint to give.
    assert_eq!(
        node.takes(INSIDE, &ip(CLIENT.0, SERVER.0, 47, &[0; 8])).0,
        Verdict::Upcall(UpcallReason::Translate)
    );
    assert_eq!(released(&mut node).1, Verdict::Drop(DropReason::NoPort));
}

#[test]
fn a_flow_that_waits_for_the_peers_waits_with_its_port() {
    let mut node = node_by(Rule { commit: Commit::Sync, ..translating() });
    let key = flow(6, CLIENT, SERVER);
    node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    node.datapath.handle_upcalls(node.now, &mut nothing);
    assert_eq!(node.datapath.take_released(), []);
    let record = node.datapath.poll_commit().expect("a flow that waits");
    let to = record.translation.expect("what it will be translated to");
    // Another client of the same class does not get the port meanwhile.
    let placing = node.datapath.table().placing();
    let class = |end: Endpoint| placing.class(end);
    let rival = (1024..40_000)
        .map(|port| Endpoint { port, ..key.initiator })
        .find(|&end| class(end) == class(key.initiator));
    let rival = (CLIENT.0, rival.expect("a port of the class").port);
    node.takes(INSIDE, &tcp(rival, SERVER, SYN, 0));
    node.datapath.handle_upcalls(node.now, &mut nothing);
    let other = node.datapath.poll_commit().expect("the rival");
    assert_ne!(other.translation.expect("its own").source, to.source);

    let mut known = |_: BucketId, asked: &FlowKey| (*asked == key).then_some(record);
    let released = node.datapath.release_committed(node.now, &key, &mut known);
    assert_eq!((released.sent, released.dropped), (1, 0));
    let [(out, Verdict::Forward)] = &node.datapath.take_released()[..] else { panic!("one") };
    assert_eq!(out[26..30], [192, 0, 2, 1]);
    assert_eq!(node.datapath.table().get(&key).expect("the flow").record, record);
}

#[test]
fn a_reply_finds_its_flow_while_the_bucket_is_loading() {
    let mut before = node();
    let key = flow(6, CLIENT, SERVER);
    let (_, to) = begin(&mut before, &tcp(CLIENT, SERVER, SYN, 0), &key);
    let record = before.datapath.table().get(&key).expect("the flow").record;
    // The next owner knows it from the common table only.
    let mut node = node();
    node.own_all(BucketState::Loading);
    let seen: End = (OUTSIDE_V4, to.source.port);
    let reply = summed(tcp(SERVER, seen, SYN_ACK, 0));
    assert_eq!(node.takes(OUTSIDE, &reply).0, Verdict::Upcall(UpcallReason::Loading));
    let mut known = |_: BucketId, asked: &FlowKey| (*asked == record.reply_key()).then_some(record);
    node.datapath.handle_upcalls(node.now, &mut known);
    let [(out, Verdict::Forward)] = &node.datapath.take_released()[..] else { panic!("one") };
    assert_eq!(*out, summed(tcp(SERVER, CLIENT, SYN_ACK, 0)));
}

#[test]
fn a_yielding_bucket_tells_of_packets_as_they_came() {
    let mut node = node();
    let key = flow(6, CLIENT, SERVER);
    begin(&mut node, &tcp(CLIENT, SERVER, SYN, 0), &key);
    node.events();
    let bucket = node.datapath.table().get(&key).expect("the flow").record.bucket;
    node.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Yielding));
    let frame = tcp(CLIENT, SERVER, SYN, 100);
    // The next owner, which holds the same frame.
    let mut next = self::node();
    next.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Holding));
    next.takes(INSIDE, &frame);
    next.datapath.handle_upcalls(next.now, &mut nothing);
    assert_eq!(next.datapath.held(bucket), 1);
    passes(&mut node, INSIDE, &frame);
    let (_, handled) = node.occurrences();
    assert_eq!(handled.len(), 1);
    next.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Active));
    let mut was_handled = |hash| hash == handled[0].packet;
    let released = next.datapath.release_held(next.now, bucket, &mut was_handled, &mut nothing);
    assert_eq!((released.skipped, released.sent), (1, 0));
}

#[test]
fn a_record_brings_both_halves_to_another_node() {
    let mut before = node();
    let key = flow(17, CLIENT, SERVER);
    let (_, to) = begin(&mut before, &summed(udp(CLIENT, SERVER, b"x")), &key);
    let record = before.datapath.table().get(&key).expect("the flow").record;
    let mut node = node();
    assert_eq!(node.datapath.table().install(&[record], node.now).installed, 1);
    let seen: End = (OUTSIDE_V4, to.source.port);
    let out = passes(&mut node, OUTSIDE, &summed(udp(SERVER, seen, b"y")));
    assert_eq!(out, summed(udp(SERVER, CLIENT, b"y")));
    // Another flow with the same replies finds them taken, and changes nothing.
    let thief = FlowKey { initiator: Endpoint { port: 1, ..key.initiator }, ..key };
    let stolen = FlowRecord { key: thief, ..record };
    assert_eq!(node.datapath.table().install(&[stolen], node.now).refused, 1);
    assert_eq!(node.datapath.table().get(&thief), None);
    assert_eq!(node.datapath.table().len(), 1);
}

/// Both ways, of each protocol, with all of the packet quoted or eight bytes behind its IP header.
#[test]
fn errors_are_turned_with_the_packets_that_they_quote() {
    let families = [
        (CLIENT, SERVER, OUTSIDE_V4, "10.20.0.77", "10.10.2.99", [3, 4], 20),
        (CLIENT_6, SERVER_6, OUTSIDE_V6, "fd20::77", "fd10::99", [2, 0], 40),
    ];
    for (client, server, outside, router, inner, kind, header) in families {
        let echoes = if header == 20 { [8, 0] } else { [128, 129] };
        let icmp = if header == 20 { 1 } else { 58 };
        for protocol in [6, 17, icmp] {
            // A packet of the flow between these ends, from its initiator or back.
            let packet = |from: End, to: End, back: bool| {
                let frame = match protocol {
                    6 => tcp(from, to, if back { SYN_ACK } else { SYN }, 300),
                    17 => udp(from, to, &[7; 300]),
                    _ => echo(from.0, to.0, echoes[usize::from(back)], from.1.min(to.1)),
                };
                summed(frame)
            };
            let mut node = node();
            let (client, server) =
                if protocol == icmp { ((client.0, 77), (server.0, 77)) } else { (client, server) };
            let key = flow(protocol, client, server);
            let (out, to) = begin(&mut node, &packet(client, server, false), &key);
            let far = if protocol == icmp { (server.0, to.source.port) } else { server };
            let seen: End = (outside, to.source.port);
            assert_eq!(out, packet(seen, far, false));
            let before = node.datapath.table().get(&key);
            for bytes in [out.len() - 14, header + 8] {
                let about = |from, to, frame: &[u8]| summed(error(from, to, kind, frame, bytes));
                let told = turns(&mut node, OUTSIDE, &about(router, outside, &out));
                let sent = packet(client, server, false);
                assert_eq!(told, about(router, client.0, &sent), "{protocol} inwards, {bytes}");
                is_right(&told);
                // And who inside has not got a reply, as the server is to hear of it.
                let reply = packet(server, client, true);
                let told = turns(&mut node, INSIDE, &about(inner, server.0, &reply));
                let reply = packet(far, seen, true);
                assert_eq!(told, about(outside, server.0, &reply), "{protocol} outwards, {bytes}");
            }
            assert_eq!(node.datapath.table().get(&key), before, "an error changes nothing");
            // A quote of the flow under the wrong addresses of the two is of nobody's packet.
            let unrelated = Verdict::Drop(DropReason::Unrelated);
            let leaked = summed(error(router, client.0, kind, &packet(client, server, false), 80));
            assert_eq!(node.takes(OUTSIDE, &leaked).0, Verdict::Upcall(UpcallReason::Translate));
            assert_eq!(released(&mut node).1, unrelated);
        }
    }
}

#[test]
fn a_packet_without_a_hop_left_is_told_of_as_it_was_sent() {
    let mut node = node();
    let last = |frame: Vec<u8>| {
        let mut frame = frame;
        frame[22] = 1;
        let sum = {
            frame[24..26].fill(0);
            checksum(&frame[14..34])
        };
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    // It begins no flow, and one that there is does not turn it: the node's stack answers it as it is.
    let syn = last(tcp(CLIENT, SERVER, SYN, 0));
    assert_eq!(node.takes(INSIDE, &syn).0, Verdict::Forward);
    assert!(node.datapath.table().is_empty());
    let key = flow(6, CLIENT, SERVER);
    begin(&mut node, &tcp(CLIENT, SERVER, SYN, 0), &key);
    assert_eq!(node.takes(INSIDE, &syn).0, Verdict::Forward);
}

#[test]
fn other_addresses_take_the_place_of_those_before_and_flows_keep_what_they_have() {
    let mut node = node();
    let first = flow(17, CLIENT, SERVER);
    let (_, before) = begin(&mut node, &summed(udp(CLIENT, SERVER, b"a question")), &first);
    assert_eq!(end(before.source).0, OUTSIDE_V4);

    // Others, of which one stays, with a number of its own.
    let list = |text| Pool::of_sources(vec![address(text).into()]);
    let pools = [list("192.0.2.77"), list(OUTSIDE_V4)];
    let pools = node.datapath.pools().next(&pools, node.datapath.table().placing());
    let rule = |port, source_pool| Rule {
        destination_ports: Ports { first: port, last: port },
        protocol: Some(Protocol::UDP),
        source_pool,
        ..translating()
    };
    let rules = [rule(80, 1), rule(81, 2), rule(82, 3)];
    node.datapath.set_rules(&rules).expect("rules");
    node.datapath.set_pools(pools);
    for (port, outside) in [(80, "192.0.2.77"), (81, OUTSIDE_V4)] {
        let server: End = ("10.20.0.9", port);
        let frame = summed(udp(CLIENT, server, b"a question"));
        let (out, to) = begin(&mut node, &frame, &flow(17, CLIENT, server));
        assert_eq!(end(to.source).0, outside);
        assert_eq!(out, summed(udp((outside, to.source.port), server, b"a question")));
    }
    // A number that no list has translates nothing, and lets nothing out as it is.
    let server: End = ("10.20.0.9", 82);
    let frame = summed(udp(CLIENT, server, b"a question"));
    assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Upcall(UpcallReason::Translate));
    assert_eq!(released(&mut node).1, Verdict::Drop(DropReason::NoPort));

    let again = passes(&mut node, INSIDE, &summed(udp(CLIENT, SERVER, b"another")));
    assert_eq!(again, summed(udp((OUTSIDE_V4, before.source.port), SERVER, b"another")));
}
