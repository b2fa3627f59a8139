//! Packets in fragments: each goes where its first one does, and no byte goes twice.

use std::net::IpAddr;

use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::{BucketId, BucketState, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Ports, Rule};
use testudo_packet::tracking::Phase;
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, INSIDE, Node, OUTSIDE, Seen, counter, flow, seen_of, slot};
use crate::packets::{ACK, End, SYN, checksum, datagram, echo, ip, tcp_segment, udp};

pub const CLIENT: End = ("10.10.2.7", 40_000);
pub const SERVER: End = ("10.20.0.9", 53);
pub const CLIENT_6: End = ("fd10::7", 40_000);
pub const SERVER_6: End = ("fd20::9", 53);
const BOTH: [(End, End); 2] = [(CLIENT, SERVER), (CLIENT_6, SERVER_6)];

const UP: Verdict = Verdict::Upcall(UpcallReason::Fragment);

/// Bytes `from..to` of what an IP packet carries, as a fragment of this name.
pub fn cut(frame: &[u8], name: u16, from: usize, to: usize, more: bool) -> Vec<u8> {
    let v4 = frame[14] >> 4 == 4;
    let header = if v4 { 34 } else { 54 };
    let data = &frame[header + from..header + to];
    let mut out = frame[..header].to_vec();
    if v4 {
        out[16..18].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        out[18..20].copy_from_slice(&name.to_be_bytes());
        let place = (from / 8) as u16 | u16::from(more) << 13;
        out[20..22].copy_from_slice(&place.to_be_bytes());
        out[24..26].fill(0);
        let sum = checksum(&out[14..34]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        out[18..20].copy_from_slice(&(8 + data.len() as u16).to_be_bytes());
        let next = std::mem::replace(&mut out[20], 44);
        let place = (from as u16 | u16::from(more)).to_be_bytes();
        let [high, low] = name.to_be_bytes();
        out.extend([next, 0, place[0], place[1], 0, 7, high, low]);
    }
    [&out[..], data].concat()
}

/// A packet in fragments of so many bytes.
pub fn cut_all(frame: &[u8], name: u16, bytes: usize) -> Vec<Vec<u8>> {
    let length = frame.len() - if frame[14] >> 4 == 4 { 34 } else { 54 };
    let begins = (0..length).step_by(bytes);
    begins
        .map(|from| cut(frame, name, from, length.min(from + bytes), from + bytes < length))
        .collect()
}

/// What fragments that come in this order carry, and the first one's header.
fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let v4 = fragments[0][14] >> 4 == 4;
    let mut out = fragments[0][..if v4 { 34 } else { 54 }].to_vec();
    for fragment in fragments {
        out.extend(&fragment[if v4 { 34 } else { 62 }..]);
    }
    let length = out.len() as u16;
    if v4 {
        for fragment in fragments {
            assert_eq!(checksum(&fragment[14..34]), 0, "a header's sum");
        }
        out[16..18].copy_from_slice(&(length - 14).to_be_bytes());
        out[18..22].copy_from_slice(&[0, 7, 0x40, 0]);
        out[24..26].fill(0);
        let sum = checksum(&out[14..34]);
        out[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        out[18..20].copy_from_slice(&(length - 54).to_be_bytes());
        out[20] = fragments[0][54];
    }
    out
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|number| number as u8).collect()
}

/// What becomes of a frame now, and the frame then; its counter and no other has moved.
fn takes(node: &mut Node, interface: u32, frame: &[u8]) -> (Verdict, Vec<u8>) {
    let mut before = node.counters();
    let mut out = frame.to_vec();
    let verdict = node.datapath.handle(&mut out, interface, node.now);
    *before.entry(counter(verdict)).or_default() += 1;
    assert_eq!(node.counters(), before, "{verdict:?}");
    (verdict, out)
}

fn nothing(_: BucketId, _: &FlowKey) -> Option<FlowRecord> {
    None
}

/// What has come of packets that went up.
fn released(node: &mut Node) -> Vec<(Vec<u8>, Verdict)> {
    node.datapath.handle_upcalls(node.now, &mut nothing);
    node.datapath.take_released()
}

/// All fragments of a packet, of which the first may go up: what comes out of the node.
fn carries(node: &mut Node, interface: u32, fragments: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let one = |fragment: &Vec<u8>| match takes(node, interface, fragment) {
        (Verdict::Forward, out) => out,
        (Verdict::Upcall(_), _) => match &released(node)[..] {
            [(out, Verdict::Forward)] => out.clone(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    fragments.iter().map(one).collect()
}

fn view(node: &Node, key: &FlowKey) -> Seen {
    seen_of(&node.datapath.table().get(key).expect("the flow"))
}

fn bytes(fragments: &[Vec<u8>]) -> u64 {
    fragments.iter().map(|fragment| fragment.len() as u64).sum()
}

#[test]
fn a_datagram_in_fragments_is_its_flows_like_a_whole_one() {
    for (client, server) in BOTH {
        let mut node = Node::new();
        let key = flow(17, client, server);
        let query = cut_all(&udp(client, server, &numbered(100)), 1, 40);
        assert_eq!(takes(&mut node, INSIDE, &query[0]).0, UP, "a flow begins with it");
        assert_eq!(released(&mut node), [(query[0].clone(), Verdict::Forward)]);
        for fragment in &query[1..] {
            assert_eq!(takes(&mut node, INSIDE, fragment), (Verdict::Forward, fragment.clone()));
        }
        let seen = Seen(Phase::Unreplied, false, 1, [3, 0], [bytes(&query), 0]);
        assert_eq!(view(&node, &key), seen);

        let answer = cut_all(&udp(server, client, &numbered(200)), 1, 104);
        for fragment in &answer {
            assert_eq!(takes(&mut node, OUTSIDE, fragment), (Verdict::Forward, fragment.clone()));
        }
        let Seen(_, confirmed, _, packets, octets) = view(&node, &key);
        assert!(confirmed);
        assert_eq!((packets, octets), ([3, 2], [bytes(&query), bytes(&answer)]));
    }
}

#[test]
fn echoes_and_segments_come_in_fragments_too() {
    let mut node = Node::new();
    for (client, server) in BOTH {
        let kind = if client == CLIENT { 8 } else { 128 };
        let mut request = echo(client.0, server.0, kind, 77);
        request.truncate(request.len() - 2);
        let request = [request, numbered(70)].concat();
        let header = if client == CLIENT { 16 } else { 18 };
        let length = (request.len() - if client == CLIENT { 14 } else { 54 }) as u16;
        let request = [&request[..header], &length.to_be_bytes(), &request[header + 2..]].concat();
        carries(&mut node, INSIDE, &cut_all(&request, 2, 32));
        let segment =
            |flags, data| ip(client.0, server.0, 6, &tcp_segment(client, server, flags, data));
        carries(&mut node, INSIDE, &cut_all(&segment(SYN, 40), 3, 24));
        let key = flow(6, client, server);
        assert_eq!(view(&node, &key).0, Phase::SynSent, "the first fragment has its flags");
        carries(&mut node, INSIDE, &cut_all(&segment(ACK, 40), 4, 24));
    }
    assert_eq!(node.datapath.table().len(), 4);
}

#[test]
fn what_comes_before_its_first_waits_for_it_in_order() {
    for (client, server) in BOTH {
        let mut node = Node::new();
        carries(&mut node, INSIDE, &[udp(client, server, &[])]);
        let [first, second, third]: [_; 3] =
            cut_all(&udp(client, server, &numbered(64)), 9, 24).try_into().expect("three");
        for early in [&third, &second] {
            assert_eq!(takes(&mut node, INSIDE, early).0, UP);
            assert_eq!(released(&mut node), [], "it waits");
        }
        node.now = node.now.plus_millis(90);
        assert_eq!(takes(&mut node, INSIDE, &first).0, Verdict::Forward);
        assert_eq!(released(&mut node), [(third, Verdict::Forward), (second, Verdict::Forward)]);
    }
}

#[test]
fn a_flow_begins_with_a_first_fragment_that_another_one_has_overtaken() {
    for (client, server) in BOTH {
        let mut node = Node::new();
        let [first, second, third]: [_; 3] =
            cut_all(&udp(client, server, &numbered(64)), 9, 24).try_into().expect("three");
        // All are on their way up when user space looks.
        for fragment in [&second, &first, &third] {
            assert_eq!(takes(&mut node, INSIDE, fragment).0, UP);
        }
        let goes = |frame| (frame, Verdict::Forward);
        assert_eq!(released(&mut node), [first, third, second].map(goes));
    }
}

#[test]
fn what_waits_in_vain_is_dropped_and_counted_and_so_is_what_finds_no_room() {
    let mut node = Node::new();
    let late = |name| cut(&udp(CLIENT, SERVER, &numbered(64)), name, 24, 48, true);
    for name in 0..600 {
        assert_eq!(takes(&mut node, INSIDE, &late(name)).0, UP);
    }
    assert_eq!(released(&mut node), []);
    assert_eq!(node.counters()["drop.fragment-full"], 600 - 512);
    node.now = node.now.plus_millis(101);
    assert_eq!(released(&mut node), []);
    assert_eq!(node.counters()["drop.fragment-early"], 512);
    assert_eq!(takes(&mut node, INSIDE, &late(1)).0, UP, "there is room again");
}

#[test]
fn a_byte_that_comes_twice_goes_once() {
    for (client, server) in BOTH {
        let mut node = Node::new();
        let overlap = Verdict::Drop(DropReason::FragmentOverlap);
        let packet = udp(client, server, &numbered(88));
        let part = |name, from, to| cut(&packet, name, from, to, to < 96);
        carries(&mut node, INSIDE, &[part(1, 0, 48)]);
        // Copies change nothing.
        assert_eq!(takes(&mut node, INSIDE, &part(1, 0, 48)).0, overlap);
        assert_eq!(takes(&mut node, INSIDE, &part(1, 8, 24)).0, overlap);
        carries(&mut node, INSIDE, &[part(1, 48, 72)]);
        assert_eq!(takes(&mut node, INSIDE, &part(1, 48, 72)).0, overlap);
        carries(&mut node, INSIDE, &[part(1, 72, 96)]);
        // Half a copy ends the datagram, and no other one.
        carries(&mut node, INSIDE, &[part(2, 0, 48), part(3, 0, 48)]);
        assert_eq!(takes(&mut node, INSIDE, &part(2, 40, 56)).0, overlap);
        assert_eq!(takes(&mut node, INSIDE, &part(2, 56, 96)).0, overlap);
        assert_eq!(takes(&mut node, INSIDE, &part(2, 0, 48)).0, overlap);
        carries(&mut node, INSIDE, &[part(3, 48, 96)]);
        // Two ends, or bytes behind the end.
        carries(&mut node, INSIDE, &[part(4, 0, 48), cut(&packet, 4, 56, 64, false)]);
        assert_eq!(takes(&mut node, INSIDE, &part(4, 64, 96)).0, overlap);
        assert_eq!(takes(&mut node, INSIDE, &part(4, 48, 56)).0, overlap);
        // Another first one, with another port.
        carries(&mut node, INSIDE, &[part(5, 0, 48)]);
        let other = udp((client.0, 9), server, &numbered(88));
        assert_eq!(takes(&mut node, INSIDE, &cut(&other, 5, 0, 48, true)).0, overlap);
        assert_eq!(takes(&mut node, INSIDE, &part(5, 48, 96)).0, overlap);
    }
}

#[test]
fn large_datagrams_are_whole_to_the_last_byte() {
    for (client, server) in BOTH {
        for fragment in [1480, 1232, 8, 3464] {
            let packet = udp(client, server, &numbered(8192 + 13));
            let mut fragments = cut_all(&packet, fragment as u16, fragment);
            let mut node = Node::new();
            carries(&mut node, INSIDE, &fragments[..1]);
            // Backwards, as some senders do.
            fragments[1..].reverse();
            carries(&mut node, INSIDE, &fragments[1..]);
            // All of it is there: the name is free for another datagram.
            let again = cut_all(&udp(client, (server.0, 9), &numbered(30)), fragment as u16, 16);
            carries(&mut node, INSIDE, &again);
        }
    }
}

#[test]
fn a_datagram_is_forgotten_after_its_time() {
    let mut node = Node::new();
    let fragments = cut_all(&udp(CLIENT, SERVER, &numbered(64)), 5, 24);
    carries(&mut node, INSIDE, &fragments[..2]);
    node.now = node.now.plus_millis(3_100);
    assert_eq!(takes(&mut node, INSIDE, &fragments[2]).0, UP);
    assert_eq!(released(&mut node), []);
    node.now = node.now.plus_millis(101);
    assert_eq!(released(&mut node), []);
    // Its name can be another's.
    carries(&mut node, INSIDE, &cut_all(&udp(CLIENT, (SERVER.0, 7), &numbered(64)), 5, 24)[..2]);
}

#[test]
fn fragments_that_no_sender_makes_are_dropped() {
    for (client, server) in BOTH {
        let mut node = Node::new();
        let segment = ip(client.0, server.0, 6, &tcp_segment(client, server, SYN, 40));
        let packet = udp(client, server, &numbered(88));
        let mut beyond = cut(&packet, 1, 8, 96, false);
        if client == CLIENT {
            beyond[20..22].copy_from_slice(&8190u16.to_be_bytes());
            beyond[24..26].fill(0);
            let sum = checksum(&beyond[14..34]);
            beyond[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            beyond[56..58].copy_from_slice(&0xfff0u16.to_be_bytes());
        }
        for (what, frame, reason) in [
            (
                "a first one without its flags",
                cut(&segment, 1, 0, 8, true),
                DropReason::FragmentTiny,
            ),
            ("one over the flags", cut(&segment, 1, 8, 24, true), DropReason::FragmentTiny),
            ("half a header", cut(&segment, 1, 0, 16, true), DropReason::FragmentTiny),
            ("not a multiple of eight", cut(&packet, 1, 0, 20, true), DropReason::FragmentLength),
            ("nothing", cut(&packet, 1, 8, 8, false), DropReason::FragmentLength),
            ("beyond the largest packet", beyond, DropReason::FragmentLength),
        ] {
            assert_eq!(takes(&mut node, INSIDE, &frame).0, Verdict::Drop(reason), "{what}");
        }
        assert_eq!((node.datapath.table().len(), node.events()), (0, vec![]));
    }
}

#[test]
fn the_rest_of_a_refused_packet_is_refused() {
    for (client, server) in BOTH {
        let port = Ports { first: 53, last: 53 };
        let refused = Rule { destination_ports: port, ..Rule::any(Action::Drop) };
        let mut node = Node::with(0, 1024, &[refused, Rule::any(Action::Accept)]);
        let fragments = cut_all(&udp(client, server, &numbered(64)), 5, 24);
        assert_eq!(takes(&mut node, INSIDE, &fragments[0]).0, UP);
        let [(_, verdict)] = released(&mut node).try_into().expect("one");
        assert_eq!(verdict, Verdict::Drop(DropReason::Rule));
        for fragment in &fragments[1..] {
            let refused = Verdict::Drop(DropReason::FragmentRefused);
            assert_eq!(takes(&mut node, INSIDE, fragment).0, refused);
        }
        assert_eq!(node.datapath.rule_hits(), [1, 0]);
    }
}

#[test]
fn a_packet_of_one_fragment_is_a_packet_like_any_other() {
    let mut node = Node::new();
    let whole = cut(&udp(CLIENT_6, SERVER_6, &numbered(13)), 5, 0, 21, false);
    for _ in 0..3 {
        carries(&mut node, INSIDE, std::slice::from_ref(&whole));
    }
    // Neither does it belong to others of its name.
    let fragments = cut_all(&udp(CLIENT_6, SERVER_6, &numbered(64)), 5, 24);
    carries(&mut node, INSIDE, &fragments[..1]);
    carries(&mut node, INSIDE, std::slice::from_ref(&whole));
    carries(&mut node, INSIDE, &fragments[1..]);
}

#[test]
fn fragments_of_another_nodes_flow_are_left_to_it_and_those_of_a_coming_one_wait() {
    for (client, server) in BOTH {
        let mut node = Node::new();
        let fragments = cut_all(&udp(client, server, &numbered(64)), 5, 24);
        let all = |node: &mut Node, owner, state| {
            for bucket in 0..BUCKETS as u16 {
                node.datapath.set_bucket(
                    BucketId(bucket),
                    slot(testudo_packet::bucket::NodeId(owner), state),
                );
            }
        };
        all(&mut node, 1, BucketState::Active);
        for fragment in &fragments[..2] {
            let other = Verdict::Drop(DropReason::NotOwner);
            assert_eq!(takes(&mut node, INSIDE, fragment).0, other);
        }
        all(&mut node, 0, BucketState::Holding);
        let held = Verdict::Upcall(UpcallReason::Held);
        assert_eq!(takes(&mut node, INSIDE, &fragments[2]).0, held, "it has seen the first");
        assert_eq!(released(&mut node), []);
        let key = flow(17, client, server);
        let bucket = (0..BUCKETS as u16).map(BucketId).find(|&b| node.datapath.held(b) == 1);
        let bucket = bucket.expect("a bucket that it waits for");
        node.datapath
            .set_bucket(bucket, slot(testudo_packet::bucket::NodeId(0), BucketState::Active));
        let record = FlowRecord {
            bucket,
            epoch: crate::node::EPOCH,
            key,
            state: testudo_packet::entry::FlowState {
                phase: Phase::Unreplied,
                confirmed: false,
                rule: 0,
                sequence: 1,
            },
            translation: None,
        };
        node.datapath.table().install(&[record], node.now);
        let released = node.datapath.release_held(node.now, bucket, &mut |_| false, &mut nothing);
        assert_eq!((released.sent, released.dropped), (1, 0));
        assert_eq!(node.datapath.take_released(), [(fragments[2].clone(), Verdict::Forward)]);
    }
}

#[test]
fn a_loading_buckets_flow_is_asked_for_by_each_fragment() {
    let mut node = Node::new();
    node.own_all(BucketState::Loading);
    let fragments = cut_all(&udp(CLIENT, SERVER, &numbered(64)), 5, 24);
    for fragment in &fragments {
        let verdict = Verdict::Upcall(UpcallReason::Loading);
        assert_eq!(takes(&mut node, INSIDE, fragment).0, verdict);
    }
    let mut asked = 0;
    node.datapath.handle_upcalls(node.now, &mut |_, key| {
        assert_eq!(*key, flow(17, CLIENT, SERVER));
        asked += 1;
        None
    });
    let verdicts: Vec<_> = node.datapath.take_released().into_iter().map(|(_, v)| v).collect();
    assert_eq!((asked >= 3, verdicts), (true, vec![Verdict::Forward; 3]));
}

#[test]
fn a_flood_of_first_fragments_costs_memory_once() {
    let mut node = Node::new();
    carries(&mut node, INSIDE, &[udp(CLIENT, SERVER, &[])]);
    let packet = udp(CLIENT, SERVER, &numbered(64));
    let old = cut_all(&packet, 65_535, 24);
    carries(&mut node, INSIDE, &old[..1]);
    node.now = node.now.plus_millis(5);
    for name in 0..60_000 {
        carries(&mut node, INSIDE, &[cut(&packet, name, 0, 24, true)]);
    }
    assert_eq!(takes(&mut node, INSIDE, &old[1]).0, UP, "the oldest has made room");
    carries(&mut node, INSIDE, &cut_all(&packet, 65_000, 24));
}

/// Fragments come out of a node that translates, and make the packet that would have come out whole.
#[test]
fn a_translated_packet_is_the_same_in_fragments_and_whole() {
    let pool = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse::<IpAddr>().expect("one").into());
    for (client, server) in BOTH {
        for protocol in [6, 17, if client == CLIENT { 1 } else { 58 }] {
            let rule =
                Rule { interface: Some(INSIDE), source_pool: 1, ..Rule::any(Action::Accept) };
            let pools = vec![pool.to_vec()];
            let mut node = Node::with_pools(
                Mode::Shared,
                0,
                1024,
                &[rule],
                pools.into_iter().map(Pool::of_sources).collect(),
            );
            let kinds = if client == CLIENT { [8, 0] } else { [128, 129] };
            let packet = |from: End, to: End, kind: u8, flags: u8| {
                let data = match protocol {
                    6 => tcp_segment(from, to, flags, 90),
                    17 => datagram(from, to, &numbered(90)),
                    _ => [&[kind, 0, 0, 0, 0x9c, 0x40, 0, 1][..], &numbered(90)].concat(),
                };
                crate::translation::summed(ip(from.0, to.0, protocol, &data))
            };
            let request = packet(client, server, kinds[0], SYN);
            let out = join(&carries(&mut node, INSIDE, &cut_all(&request, 8, 40)));
            let whole = carries(&mut node, INSIDE, std::slice::from_ref(&request));
            assert_eq!(out, whole[0], "protocol {protocol}");
            assert_ne!(out, request);
            crate::translation::is_right(&out);
            let (at, source) =
                if client == CLIENT { (34, "192.0.2.1") } else { (54, "2001:db8::1") };
            let port = if protocol == 1 || protocol == 58 { at + 4 } else { at };
            let outside = u16::from_be_bytes([out[port], out[port + 1]]);
            let mut reply = packet(server, (source, outside), kinds[1], ACK | SYN);
            if protocol == 1 || protocol == 58 {
                reply[port..port + 2].copy_from_slice(&outside.to_be_bytes());
                reply = crate::translation::summed(reply);
            }
            let back = join(&carries(&mut node, OUTSIDE, &cut_all(&reply, 8, 40)));
            let whole = carries(&mut node, OUTSIDE, std::slice::from_ref(&reply));
            assert_eq!(back, whole[0], "protocol {protocol} back");
            crate::translation::is_right(&back);
        }
    }
}

/// The moment matters only where a test moves it.
#[test]
fn at_the_beginning_of_time_there_is_nothing() {
    let mut node = Node::new();
    node.now = Nanos(0);
    assert_eq!(
        takes(&mut node, INSIDE, &cut(&udp(CLIENT, SERVER, &numbered(64)), 0, 24, 48, true)).0,
        UP
    );
}
