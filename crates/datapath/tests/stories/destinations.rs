//! Flows whose destination is translated, alone or with their source: what comes out, to the byte.
//!
//! ```text
//!   clients 10.10.2.7, fd10::7          service 198.51.100.1, 2001:db8:51::1 at port 443
//!   backends 10.10.3.1, 10.10.3.2, fd10:3::1 at port 8443 ── 1 [ node ] 2 ── 203.0.113.9, 2001:db8:9::9
//!   10.30.0.0/24 inside is 192.0.2.0/24 outside; fd30:1:2::/48 is 2001:db8:30::/48
//! ```

use std::collections::BTreeSet;
use std::net::IpAddr;

use testudo_datapath::likenesses::Likenesses;
use testudo_datapath::mapping::{Kind, Mapping};
use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::BucketState;
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::{Address, Endpoint, FlowKey};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, flow};
use crate::packets::{ACK, End, SYN, SYN_ACK, echo, error, ip, tcp, udp};
use crate::translation::{begin, end, is_right, leak, passes, released, summed, turns};

const SERVICE: End = ("198.51.100.1", 443);
const SERVICE_6: End = ("2001:db8:51::1", 443);
const BACKENDS: [End; 3] = [("10.10.3.1", 8443), ("10.10.3.2", 8443), ("fd10:3::1", 8443)];
const OUTER: End = ("203.0.113.9", 50_000);
const OUTER_6: End = ("2001:db8:9::9", 50_000);
const CLIENT: End = ("10.10.2.7", 40_000);
const CLIENT_6: End = ("fd10::7", 40_000);
const OUTSIDE_V4: &str = "192.0.2.1";
const OUTSIDE_V6: &str = "2001:db8::1";

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().expect("an address").into()
}

fn endpoint((text, port): End) -> Endpoint {
    Endpoint { address: address(text), port }
}

fn mapping(inside: &str, outside: &str, length: u8, kind: Kind) -> Mapping {
    Mapping { inside: address(inside), outside: address(outside), length, kind }
}

/// The mappings of these stories.
fn mappings() -> [Mapping; 2] {
    [
        mapping("10.30.0.0", "192.0.2.0", 96 + 24, Kind::Plain),
        mapping("fd30:1:2::", "2001:db8:30::", 48, Kind::Neutral),
    ]
}

fn likenesses() -> Likenesses {
    let (v4, v6): (Vec<_>, Vec<_>) =
        BACKENDS.map(endpoint).into_iter().partition(|end| end.address.is_v4());
    let with = |service, mut group: Vec<Endpoint>| {
        group.push(endpoint(service));
        group
    };
    Likenesses::new(&[with(SERVICE, v4), with(SERVICE_6, v6)], &mappings())
}

/// A node whose one rule translates by this pool.
fn node_by(pool: Pool) -> Node {
    let rule = Rule { source_pool: 1, ..Rule::any(Action::Accept) };
    Node::with_likenesses(Mode::Shared, 0, 1024, &[rule], vec![pool], likenesses())
}

fn service() -> Pool {
    Pool { backends: BACKENDS.map(endpoint).to_vec(), ..Pool::default() }
}

fn hairpin() -> Pool {
    Pool { sources: [OUTSIDE_V4, OUTSIDE_V6].map(address).to_vec(), ..service() }
}

fn mapped(at: usize) -> Pool {
    Pool { mapping: Some(mappings()[at]), ..Pool::default() }
}

/// A first packet that comes in by this interface goes up and comes out translated; returns it, and the ends that it
/// has then.
fn begins(node: &mut Node, interface: u32, frame: &[u8], key: &FlowKey) -> (Vec<u8>, End, End) {
    assert_eq!(node.takes(interface, frame).0, Verdict::Upcall(UpcallReason::Translate));
    let (out, verdict) = released(node);
    assert_eq!(verdict, Verdict::Forward);
    let record = node.datapath.table().get(key).expect("the flow").record;
    let to = record.translation.expect("what it is translated to");
    let placing = node.datapath.table().placing();
    assert_eq!(placing.bucket(&record.reply_key()), record.bucket, "its replies' bucket");
    (out, as_end(to.source), as_end(to.destination))
}

fn as_end(endpoint: Endpoint) -> End {
    let (address, port) = end(endpoint);
    (leak(&address), port)
}

#[test]
fn a_service_answers_under_its_own_address() {
    for (client, service_at) in [(OUTER, SERVICE), (OUTER_6, SERVICE_6)] {
        let mut node = node_by(service());
        let key = flow(6, client, service_at);
        let syn = summed(tcp(client, service_at, SYN, 0));
        let (out, source, backend) = begins(&mut node, OUTSIDE, &syn, &key);
        assert_eq!(source, client, "who comes from outside is seen inside");
        assert!(BACKENDS.contains(&backend), "{backend:?}");
        assert_eq!(out, summed(tcp(client, backend, SYN, 0)));
        let back = passes(&mut node, INSIDE, &summed(tcp(backend, client, SYN_ACK, 0)));
        assert_eq!(back, summed(tcp(service_at, client, SYN_ACK, 0)));
        let out = passes(&mut node, OUTSIDE, &summed(tcp(client, service_at, ACK, 999)));
        assert_eq!(out, summed(tcp(client, backend, ACK, 999)));
        is_right(&out);

        // Datagrams too, and the errors that a backend's network tells the client of.
        let (key, question) = (flow(17, client, service_at), udp(client, service_at, b"who?"));
        let (out, _, same) = begins(&mut node, OUTSIDE, &summed(question.clone()), &key);
        assert_eq!((same, out.clone()), (backend, summed(udp(client, backend, b"who?"))));
        let (router, kind) =
            if client == OUTER { ("10.10.9.9", [3, 4]) } else { ("fd10::9:9", [2, 0]) };
        let told = turns(&mut node, INSIDE, &summed(error(router, client.0, kind, &out, 1000)));
        // The client is told by the service, and by what it has sent.
        assert_eq!(told, summed(error(service_at.0, client.0, kind, &summed(question), 1000)));
        // And the backend by who has found the client out of reach.
        let outer = if client == OUTER { "203.0.113.77" } else { "2001:db8:9::77" };
        let answer = summed(udp(service_at, client, b"me"));
        let told =
            turns(&mut node, OUTSIDE, &summed(error(outer, service_at.0, kind, &answer, 1000)));
        let answer = summed(udp(backend, client, b"me"));
        assert_eq!(told, summed(error(outer, backend.0, kind, &answer, 1000)));
    }
}

/// Nobody speaks to a backend of the flow directly under the same ports, and nobody answers in the wrong name.
#[test]
fn a_packet_under_the_wrong_ends_of_a_service_is_dropped() {
    let mut node = node_by(service());
    let key = flow(6, OUTER, SERVICE);
    let syn = summed(tcp(OUTER, SERVICE, SYN, 0));
    let (_, _, backend) = begins(&mut node, OUTSIDE, &syn, &key);
    let untranslated = Verdict::Drop(DropReason::Untranslated);
    assert_eq!(node.takes(OUTSIDE, &tcp(OUTER, backend, ACK, 0)).0, untranslated);
    assert_eq!(node.takes(INSIDE, &tcp(SERVICE, OUTER, SYN_ACK, 0)).0, untranslated);
}

#[test]
fn clients_are_spread_over_the_backends_and_each_stays_with_its_own() {
    let mut node = node_by(service());
    let mut chosen = BTreeSet::new();
    for host in 1..=32 {
        let host = leak(&format!("203.0.113.{host}"));
        let mut own = BTreeSet::new();
        for port in [50_000, 50_001] {
            let client = (host, port);
            let key = flow(6, client, SERVICE);
            own.insert(begins(&mut node, OUTSIDE, &tcp(client, SERVICE, SYN, 0), &key).2);
        }
        assert_eq!(own.len(), 1, "{own:?}");
        chosen.extend(own);
    }
    assert_eq!(Vec::from_iter(chosen), BACKENDS[..2]);
}

/// Inside, too, a service is reached by its outer address. The backend has to see another source than the
/// client's, or it would answer the client past the node.
#[test]
fn a_client_reaches_a_service_of_its_own_side_through_the_node() {
    for (client, service_at, seen) in
        [(CLIENT, SERVICE, OUTSIDE_V4), (CLIENT_6, SERVICE_6, OUTSIDE_V6)]
    {
        let mut node = node_by(hairpin());
        for protocol in [6, 17] {
            let packet = |from: End, to: End, flags| {
                let frame =
                    if protocol == 6 { tcp(from, to, flags, 9) } else { udp(from, to, b"it") };
                summed(frame)
            };
            let key = flow(protocol, client, service_at);
            let (out, source, backend) =
                begins(&mut node, INSIDE, &packet(client, service_at, SYN), &key);
            assert_eq!(source.0, seen);
            assert!(BACKENDS.contains(&backend), "{backend:?}");
            assert_eq!(out, packet(source, backend, SYN));
            let back = passes(&mut node, INSIDE, &packet(backend, source, SYN_ACK));
            assert_eq!(back, packet(service_at, client, SYN_ACK));
            let out = passes(&mut node, INSIDE, &packet(client, service_at, ACK));
            assert_eq!(out, packet(source, backend, ACK));
        }
    }
}

/// A rule that names other backends than those that are placed alike would send replies to another bucket.
#[test]
fn what_would_have_its_replies_elsewhere_is_refused() {
    let stranger = ("10.10.3.3", 8443);
    let strangers = Pool { backends: vec![endpoint(stranger)], ..Pool::default() };
    let mut node = node_by(strangers);
    let placing = node.datapath.table().placing().clone();
    let port = (1024..).find(|&port| {
        let key = flow(6, (OUTER.0, port), SERVICE);
        let reply = flow(6, stranger, (OUTER.0, port));
        placing.bucket(&key) != placing.bucket(&reply)
    });
    let client = (OUTER.0, port.expect("most of them"));
    assert_eq!(
        node.takes(OUTSIDE, &tcp(client, SERVICE, SYN, 0)).0,
        Verdict::Upcall(UpcallReason::Translate)
    );
    assert_eq!(released(&mut node).1, Verdict::Drop(DropReason::NoPort));
    assert!(node.datapath.table().is_empty());
}

#[test]
fn either_side_of_a_mapping_begins_flows_and_keeps_its_ports() {
    let (host, seen) = ("10.30.0.77", "192.0.2.77");
    for protocol in [6, 17, 1] {
        let packet = |from: End, to: End, back: bool| {
            let frame = match protocol {
                6 => tcp(from, to, if back { SYN_ACK } else { SYN }, 5),
                17 => udp(from, to, b"data"),
                _ => echo(from.0, to.0, if back { 0 } else { 8 }, from.1),
            };
            summed(frame)
        };
        let port = if protocol == 1 { 50_000 } else { 22 };
        let (host, seen): (End, End) = ((host, port), (seen, port));
        let mut node = node_by(mapped(0));
        let (out, source, _) =
            begins(&mut node, INSIDE, &packet(host, OUTER, false), &flow(protocol, host, OUTER));
        assert_eq!((source, out), (seen, packet(seen, OUTER, false)));
        let back = passes(&mut node, OUTSIDE, &packet(OUTER, seen, true));
        assert_eq!(back, packet(OUTER, host, true));

        let mut node = node_by(mapped(0));
        let (out, _, destination) =
            begins(&mut node, OUTSIDE, &packet(OUTER, seen, false), &flow(protocol, OUTER, seen));
        assert_eq!((destination, out), (host, packet(OUTER, host, false)));
        let back = passes(&mut node, INSIDE, &packet(host, OUTER, true));
        assert_eq!(back, packet(seen, OUTER, true));
    }
}

#[test]
fn both_ends_of_a_mapping_are_translated_where_both_are_inside() {
    let (one, other) = (("10.30.0.1", 1234), ("10.30.0.2", 80));
    let (one_seen, other_seen) = (("192.0.2.1", 1234), ("192.0.2.2", 80));
    let mut node = node_by(mapped(0));
    let key = flow(6, one, other_seen);
    let (out, ..) = begins(&mut node, INSIDE, &summed(tcp(one, other_seen, SYN, 0)), &key);
    assert_eq!(out, summed(tcp(one_seen, other, SYN, 0)));
    let back = passes(&mut node, INSIDE, &summed(tcp(other, one_seen, SYN_ACK, 0)));
    assert_eq!(back, summed(tcp(other_seen, one, SYN_ACK, 0)));
}

/// RFC 6296 §3.1, with the addresses that it gives; no transport's checksum changes, so none is rewritten.
#[test]
fn prefixes_are_translated_without_a_change_of_checksums() {
    let nptv6 = mapping("fd01:203:405::", "2001:db8:1::", 48, Kind::Neutral);
    let likenesses = Likenesses::new(&[], &[nptv6]);
    let rule = Rule { source_pool: 1, ..Rule::any(Action::Accept) };
    let pool = Pool { mapping: Some(nptv6), ..Pool::default() };
    let (host, seen) = ("fd01:203:405:1::1234", "2001:db8:1:d550::1234");
    for protocol in [6, 17, 58] {
        let packet = |from: End, to: End| match protocol {
            6 => summed(tcp(from, to, SYN, 5)),
            17 => summed(udp(from, to, b"data")),
            _ => summed(echo(from.0, to.0, 128, from.1)),
        };
        let (host, seen) = ((host, OUTER_6.1), (seen, OUTER_6.1));
        let mut node = Node::with_likenesses(
            Mode::Shared,
            0,
            1024,
            &[rule],
            vec![pool.clone()],
            likenesses.clone(),
        );
        let sent = packet(host, OUTER_6);
        let key = flow(protocol, host, OUTER_6);
        let (out, source, _) = begins(&mut node, INSIDE, &sent, &key);
        assert_eq!((source, &out), (seen, &packet(seen, OUTER_6)));
        assert_eq!(out[54..], sent[54..], "nothing behind the IP header changes");
        let mut node = Node::with_likenesses(
            Mode::Shared,
            0,
            1024,
            &[rule],
            vec![pool.clone()],
            likenesses.clone(),
        );
        let key = flow(protocol, OUTER_6, seen);
        let (out, _, destination) = begins(&mut node, OUTSIDE, &packet(OUTER_6, seen), &key);
        assert_eq!((destination, out), (host, packet(OUTER_6, host)));
    }
}

#[test]
fn an_address_without_a_counterpart_and_a_flow_of_strangers_are_refused() {
    let mut node = node_by(mapped(1));
    for (from, to) in [
        // RFC 6296 §3.5: a subnet of ffff.
        (("fd30:1:2:ffff::1", 9), OUTER_6),
        // Neither end is in one of the prefixes.
        (CLIENT_6, OUTER_6),
    ] {
        node.takes(INSIDE, &tcp(from, to, SYN, 0));
        assert_eq!(released(&mut node).1, Verdict::Drop(DropReason::NoPort));
    }
    node.takes(INSIDE, &ip("fd30:1:2::1", OUTER_6.0, 50, &[1; 8]));
    assert_eq!(released(&mut node).1, Verdict::Drop(DropReason::NoPort), "no ports to go by");
}

#[test]
fn a_tunnel_of_gre_has_no_ports_and_gets_the_other_address_alone() {
    let tunnel =
        |from: &str, to: &str| ip(from, to, 47, &[0x20, 0, 8, 0, 0, 0, 0, 9, 0x45, 0, 0, 20]);
    for (at, inside, outside, peer) in [
        (0, "10.30.0.5", "192.0.2.5", "198.51.100.7"),
        (1, "fd30:1:2::5", "2001:db8:30:c6c5::5", OUTER_6.0),
    ] {
        let mut node = node_by(mapped(at));
        let key = flow(47, (inside, 0), (peer, 0));
        let (out, to) = begin(&mut node, &tunnel(inside, peer), &key);
        let seen = as_end(to.source);
        assert_eq!((seen.1, to.destination), (0, key.responder));
        assert_eq!(out, tunnel(seen.0, peer));
        let back = passes(&mut node, OUTSIDE, &tunnel(peer, seen.0));
        assert_eq!(back, tunnel(peer, inside), "of {outside}");
    }
}

#[test]
fn a_service_survives_its_node() {
    let mut before = node_by(hairpin());
    let key = flow(6, CLIENT, SERVICE);
    let (_, to) = begin(&mut before, &tcp(CLIENT, SERVICE, SYN, 0), &key);
    let record = before.datapath.table().get(&key).expect("the flow").record;
    let mut node = node_by(hairpin());
    node.own_all(BucketState::Loading);
    let (backend, seen) = (as_end(to.destination), as_end(to.source));
    let reply = summed(tcp(backend, seen, SYN_ACK, 0));
    assert_eq!(node.takes(INSIDE, &reply).0, Verdict::Upcall(UpcallReason::Loading));
    let mut known = |bucket, asked: &FlowKey| -> Option<FlowRecord> {
        (bucket == record.bucket && *asked == record.reply_key()).then_some(record)
    };
    node.datapath.handle_upcalls(node.now, &mut known);
    let [(out, Verdict::Forward)] = &node.datapath.take_released()[..] else { panic!("one") };
    assert_eq!(*out, summed(tcp(SERVICE, CLIENT, SYN_ACK, 0)));
}
