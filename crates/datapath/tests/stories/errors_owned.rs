//! Whose is an ICMP error? Its flow's owner's, wherever the error comes from, and while buckets move.

use testudo_datapath::{BucketLoad, Datapath, NodeTable, Released, Station};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::env::Mac;
use testudo_packet::event::Handled;
use testudo_packet::flow::FlowKey;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase::{Established, Replied};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, INSIDE, Node, OUTSIDE, Seen, flow, own_mac, seen_of, slot};
use crate::packets::{
    CLUSTER_MAC, End, NO_HOP_LEFT, NO_PORT, ROUTER, SYN, error_about, ip, tcp, udp,
};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const UNRELATED: Verdict = Verdict::Drop(DropReason::Unrelated);
const HELD: Verdict = Verdict::Upcall(UpcallReason::Held);

fn set_all(node: &mut Node, slot: BucketSlot) {
    for bucket in 0..BUCKETS as u16 {
        node.datapath.set_bucket(BucketId(bucket), slot);
    }
}

/// A node to which every flow may begin, and which owns the buckets with its number modulo three.
fn third(number: u8) -> Node {
    let mut node = Node::with(number, 4096, &[Rule::any(Action::Accept)]);
    for bucket in 0..BUCKETS as u16 {
        let owner = NodeId((bucket % 3) as u8);
        node.datapath.set_bucket(BucketId(bucket), slot(owner, BucketState::Active));
    }
    node
}

/// The bucket of the flow that a frame begins.
fn bucket_of(frame: &[u8], key: FlowKey) -> BucketId {
    let mut node = Node::new();
    node.takes(INSIDE, frame);
    node.datapath.table().get(&key).expect("a flow").record.bucket
}

/// ISAKMP with a cookie, as long as an error quotes it.
fn isakmp(from: End, to: End, cookie: u8) -> Vec<u8> {
    let header = [&[cookie; 8][..], &[0; 12], &[0, 0, 0, 9], &[0, 0, 0, 28]].concat();
    let marker: &[u8] = if from.1 == 4500 { &[0; 4] } else { &[] };
    udp(from, to, &[marker, &header].concat())
}

#[test]
fn an_error_is_the_owners_of_the_flow_whatever_its_buckets_ground() {
    let mut nodes = [0, 1, 2].map(third);
    let mut handled = [0; 3];
    for number in 1..=100u16 {
        let (host, peer) = (("10.10.2.7", number), ("10.20.0.1", 53));
        let spi = [1, 2, 3, number as u8, 0, 0, 0, 1];
        let (ike, ike_peer) = (("10.10.2.7", 500), ("10.20.0.1", 500));
        let (nat, nat_peer) = (("10.10.2.7", 4500), ("10.20.0.1", 4500));
        for frame in [
            udp(host, peer, &[]),
            tcp(host, peer, SYN, 0),
            ip(host.0, peer.0, 50, &spi),
            ip(host.0, peer.0, 51, &[&[6, 4, 0, 0], &spi[..]].concat()),
            isakmp(ike, ike_peer, number as u8),
            isakmp(nat, nat_peer, number as u8),
        ] {
            let owner = |nodes: &mut [Node; 3], interface, frame: &[u8]| {
                let verdicts = nodes.each_mut().map(|node| node.takes(interface, frame).0);
                let others = verdicts.iter().filter(|&&v| v == Verdict::Drop(DropReason::NotOwner));
                assert_eq!(others.count(), 2, "{verdicts:?} of {frame:02x?}");
                verdicts.iter().position(|&v| v == Verdict::Forward).expect("an owner")
            };
            let there = owner(&mut nodes, INSIDE, &frame);
            assert_eq!(owner(&mut nodes, OUTSIDE, &error_about(&frame, NO_PORT)), there);
            handled[there] += 1;
        }
    }
    assert!(handled.iter().all(|&packets| packets > 100), "{handled:?}");
}

#[test]
fn what_stands_behind_a_quote_is_no_part_of_it() {
    // UDP from port 500, too short for a cookie, and what RFC 4884 puts behind its quote.
    let (host, peer) = (("10.10.2.7", 500), ("10.20.0.1", 500));
    let query = udp(host, peer, &[9; 4]);
    let mut node = Node::new();
    node.takes(INSIDE, &query);
    let mut quote = query[14..].to_vec();
    quote.resize(128, 0);
    quote.extend([0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 0x61, 0x01]);
    let error = ip(ROUTER, host.0, 1, &[&[11, 0, 0, 0, 0, 32, 0, 0][..], &quote].concat());
    // Only the flow's own bucket is this node's: by a cookie it would be another's.
    let bucket = node.datapath.table().get(&flow(17, host, peer)).expect("a flow").record.bucket;
    set_all(&mut node, slot(NodeId(1), BucketState::Active));
    node.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Active));
    assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Forward);
}

#[test]
fn an_error_about_a_flow_that_is_bound_to_another_bucket_needs_that_one_too() {
    let (host, peer) = (("10.10.2.7", 500), ("10.20.0.1", 500));
    let key = flow(17, host, peer);
    let first = isakmp(host, peer, 1);
    let bound = bucket_of(&first, key);
    let mut others = (2..100).map(|cookie| isakmp(host, peer, cookie));
    let second = others.find(|frame| bucket_of(frame, key) != bound).expect("another bucket");
    let mut node = Node::new();
    node.takes(INSIDE, &first);
    node.takes(INSIDE, &second);
    let error = error_about(&second, NO_PORT);
    assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Forward);
    node.datapath.set_bucket(bound, slot(NodeId(1), BucketState::Active));
    assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Drop(DropReason::NotOwner));
}

#[test]
fn an_error_is_load_of_its_flows_bucket_and_of_nothing_else() {
    let mut node = Node::new();
    let query = udp(CLIENT, SERVER, &[0; 58]);
    let error = error_about(&query, NO_PORT);
    let bucket = bucket_of(&query, flow(17, CLIENT, SERVER));
    // Related or not: it was this node's to look for its flow.
    assert_eq!(node.takes(OUTSIDE, &error).0, UNRELATED);
    node.takes(INSIDE, &query);
    assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Forward);
    let mut expected = vec![BucketLoad::default(); BUCKETS as usize];
    let bytes = 100 + 2 * error.len() as u64;
    expected[usize::from(bucket.0)] = BucketLoad { packets: 3, bytes };
    let mut loads = vec![BucketLoad::default(); BUCKETS as usize];
    node.datapath.loads(&mut loads);
    assert_eq!(loads, expected);
}

#[test]
fn an_error_without_a_lease_is_nobodys() {
    let mut node = Node::new();
    let query = udp(CLIENT, SERVER, &[]);
    node.takes(INSIDE, &query);
    node.datapath.set_lease(node.now);
    let refused = Verdict::Drop(DropReason::NoLease);
    assert_eq!(node.takes(OUTSIDE, &error_about(&query, NO_PORT)).0, refused);
}

#[test]
fn an_error_finds_a_flow_that_is_still_being_loaded() {
    let query = udp(CLIENT, SERVER, &[]);
    let error = error_about(&query, NO_PORT);
    let key = flow(17, CLIENT, SERVER);
    let bucket = bucket_of(&query, key);
    let mut node = Node::new();
    node.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Loading));
    for _ in 0..2 {
        assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Upcall(UpcallReason::Loading));
    }
    let state = FlowState { phase: Replied, confirmed: true, rule: 0, sequence: 3 };
    let record = FlowRecord { translation: None, bucket, epoch: Epoch(4), key, state };
    let mut known = None;
    let handled = node.datapath.handle_upcalls(node.now, &mut |asked, quoted| {
        // The first error comes before anybody knows the flow, the second behind it.
        assert_eq!((asked, *quoted), (bucket, key));
        known.replace(record)
    });
    assert_eq!(handled, 2);
    let released = [(error.clone(), UNRELATED), (error.clone(), Verdict::Forward)];
    assert_eq!(node.datapath.take_released(), released);
    let view = node.datapath.table().get(&key).expect("the flow");
    assert_eq!((view.record, seen_of(&view)), (record, Seen(Replied, true, 3, [0, 0], [0, 0])));
    assert!(node.events().is_empty());
    // The next one needs no user space.
    assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Forward);
}

#[test]
fn an_error_about_a_flow_of_a_moving_bucket_is_sent_once() {
    let query = udp(CLIENT, SERVER, &[3; 40]);
    let bucket = bucket_of(&query, flow(17, CLIENT, SERVER));
    let rules = [Rule::any(Action::Accept)];
    let (mut old, mut new) = (Node::with(0, 1024, &rules), Node::with(1, 1024, &rules));
    let at = |owner, state| BucketSlot { previous: NodeId(0), ..slot(NodeId(owner), state) };
    set_all(&mut old, at(0, BucketState::Yielding));
    set_all(&mut new, at(1, BucketState::Holding));
    old.takes(INSIDE, &query);
    assert_eq!(new.takes(INSIDE, &query).0, HELD);
    // Three errors, of which the old owner still sees two; one is about an answer.
    let back = error_about(&udp(SERVER, CLIENT, &[]), NO_HOP_LEFT);
    let errors = [NO_PORT, NO_HOP_LEFT].map(|kind| error_about(&query, kind));
    assert_eq!(old.takes(OUTSIDE, &errors[0]).0, Verdict::Forward);
    assert_eq!(old.takes(INSIDE, &back).0, Verdict::Forward);
    let (_, reports) = old.occurrences();
    assert_eq!(reports.len(), 3);
    assert!(reports.iter().all(|report| report.bucket == bucket), "{reports:?}");
    for (interface, frame) in [(OUTSIDE, &errors[0]), (INSIDE, &back), (OUTSIDE, &errors[1])] {
        assert_eq!(new.takes(interface, frame).0, HELD);
    }
    let now = new.now;
    new.datapath.handle_upcalls(now, &mut |_, _| panic!("a held packet asks for nothing"));
    assert_eq!(new.datapath.held(bucket), 4);
    new.datapath.set_bucket(bucket, at(1, BucketState::Active));
    let mut left: Vec<_> = reports.iter().map(|Handled { packet, .. }| *packet).collect();
    let mut handled = |hash| match left.iter().position(|packet| *packet == hash) {
        Some(at) => {
            left.swap_remove(at);
            true
        }
        None => false,
    };
    // The flow has come with its bucket.
    let state = FlowState { phase: Established, confirmed: true, rule: 0, sequence: 3 };
    let key = flow(17, CLIENT, SERVER);
    let record = FlowRecord { translation: None, bucket, epoch: Epoch(4), key, state };
    new.datapath.table().install(&[record], now);
    let released = new.datapath.release_held(now, bucket, &mut handled, &mut |_, _| None);
    assert_eq!(released, Released { sent: 1, skipped: 3, dropped: 0 });
    assert_eq!(left, []);
    assert_eq!(new.datapath.take_released(), [(errors[1].clone(), Verdict::Forward)]);
}

#[test]
fn an_unrelated_error_of_a_moving_bucket_is_reported_as_any_refusal() {
    let mut old = Node::new();
    set_all(&mut old, slot(NodeId(0), BucketState::Yielding));
    assert_eq!(old.takes(OUTSIDE, &error_about(&udp(CLIENT, SERVER, &[]), NO_PORT)).0, UNRELATED);
    assert_eq!(old.occurrences().1.len(), 1);
}

#[test]
fn in_steered_mode_an_error_is_passed_to_its_flows_owner() {
    let rules = [Rule::any(Action::Accept)];
    let stations = [0, 1].into_iter().flat_map(|node| {
        let mac = Mac::from_bytes(own_mac(node));
        [INSIDE, OUTSIDE].map(|interface| Station { interface, node: NodeId(node), mac })
    });
    let stations: Vec<_> = stations.collect();
    let nodes = [0, 1].map(|number| {
        let mut node = Node::in_mode(Mode::Steered, number, 1024, &rules);
        set_all(&mut node, slot(NodeId(1), BucketState::Active));
        node.datapath.set_peers(&stations).expect("few stations");
        node
    });
    let [mut picked, mut owner] = nodes;
    let query = udp(CLIENT, SERVER, &[]);
    owner.takes(INSIDE, &query);
    let mut error = error_about(&query, NO_PORT);
    error[..6].copy_from_slice(&own_mac(0));
    let (verdict, passed) = picked.takes(OUTSIDE, &error);
    assert_eq!(verdict, Verdict::Pass(NodeId(1)));
    assert_eq!(passed, [&own_mac(1)[..], &own_mac(0), &error[12..]].concat());
    assert_eq!(owner.takes(OUTSIDE, &passed).0, Verdict::Forward);
    // Once and no more.
    set_all(&mut owner, slot(NodeId(0), BucketState::Active));
    assert_eq!(owner.takes(OUTSIDE, &passed).0, Verdict::Drop(DropReason::PassedTwice));
}

#[test]
fn an_analyser_is_shown_errors_about_the_flows_that_it_is_shown() {
    let mut node = Node::in_mode(Mode::Tap { interface: 9 }, 0, 1024, &[Rule::any(Action::Accept)]);
    let query = udp(CLIENT, SERVER, &[]);
    assert_eq!(node.takes(OUTSIDE, &error_about(&query, NO_PORT)).0, UNRELATED);
    node.takes(INSIDE, &query);
    let mut error = error_about(&query, NO_PORT);
    assert_eq!(error[..6], CLUSTER_MAC);
    error[..6].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
    assert_eq!(node.takes(OUTSIDE, &error).0, Verdict::Forward);
}
