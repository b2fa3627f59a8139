//! Whose packet is it, and for how long?

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::{BucketId, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase::{Established, FinOriginal};
use testudo_packet::tracking::Timeouts;
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, EPOCH, INSIDE, Node, OUTSIDE, Seen, flow, seen_of, slot};
use crate::packets::{ACK, End, FIN_ACK, SYN, SYN_ACK, tcp, udp};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);

/// The bucket of the story's flow, found out by a node that handles everything.
fn bucket() -> BucketId {
    let mut node = Node::new();
    node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    let view = node.datapath.table().get(&flow(6, CLIENT, SERVER));
    view.expect("a flow").record.bucket
}

#[test]
fn another_nodes_packet_is_left_to_it() {
    let mut node = Node::new();
    node.datapath.set_bucket(bucket(), slot(NodeId(1), BucketState::Active));
    for (interface, frame) in
        [(INSIDE, tcp(CLIENT, SERVER, SYN, 0)), (OUTSIDE, tcp(SERVER, CLIENT, SYN_ACK, 0))]
    {
        assert_eq!(node.takes(interface, &frame).0, Verdict::Drop(DropReason::NotOwner));
    }
    assert!(node.datapath.table().is_empty() && node.events().is_empty());
}

#[test]
fn each_packet_has_one_node() {
    let share = |number| {
        let mut node = Node::with(number, 4096, &[Rule::any(Action::Accept)]);
        for bucket in 0..BUCKETS as u16 {
            let owner = NodeId((bucket % 3) as u8);
            node.datapath.set_bucket(BucketId(bucket), slot(owner, BucketState::Active));
        }
        node
    };
    let mut nodes: Vec<Node> = (0..3).map(share).collect();
    for port in 1..=300 {
        let (client, server) = (("10.10.2.7", port), ("10.20.0.1", 53));
        let mut handled_by = |interface, frame: Vec<u8>| {
            let verdicts: Vec<_> =
                nodes.iter_mut().map(|node| node.takes(interface, &frame).0).collect();
            let refused = Verdict::Drop(DropReason::NotOwner);
            let others = verdicts.iter().filter(|&&verdict| verdict == refused).count();
            assert_eq!(others, 2, "{verdicts:?}");
            verdicts.iter().position(|&verdict| verdict == Verdict::Forward).expect("a node")
        };
        let there = handled_by(INSIDE, udp(client, server, &[]));
        assert_eq!(there, handled_by(OUTSIDE, udp(server, client, &[])), "port {port}");
    }
    assert_eq!(nodes.iter().map(|node| node.datapath.table().len()).sum::<usize>(), 300);
}

#[test]
fn when_the_lease_has_run_out_nothing_is_handled() {
    let mut node = Node::new();
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0)).0, Verdict::Forward);
    node.events();
    let entry = node.datapath.table().get(&flow(6, CLIENT, SERVER));
    // The next packet comes a second later: at the deadline to the nanosecond.
    node.datapath.set_lease(node.now.plus_millis(1000));
    for frame in [tcp(SERVER, CLIENT, SYN_ACK, 0), tcp(SERVER, CLIENT, ACK, 9)] {
        assert_eq!(node.takes(OUTSIDE, &frame).0, Verdict::Drop(DropReason::NoLease));
    }
    assert_eq!(node.datapath.table().get(&flow(6, CLIENT, SERVER)), entry);
    assert!(node.events().is_empty());
    // A nanosecond more is enough.
    node.datapath.set_lease(Nanos(node.now.plus_millis(1000).0 + 1));
    assert_eq!(node.takes(OUTSIDE, &tcp(SERVER, CLIENT, SYN_ACK, 0)).0, Verdict::Forward);
}

/// What the common table of a cluster knows of the story's connection.
fn known(bucket: BucketId) -> FlowRecord {
    let state = FlowState { phase: Established, confirmed: true, rule: 0, sequence: 3 };
    FlowRecord { translation: None, bucket, epoch: Epoch(4), key: flow(6, CLIENT, SERVER), state }
}

#[test]
fn a_connection_outlives_its_node() {
    let mut node = Node::new();
    let bucket = bucket();
    node.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Loading));
    let segment = tcp(SERVER, CLIENT, ACK, 100);
    let (verdict, _) = node.takes(OUTSIDE, &segment);
    assert_eq!(verdict, Verdict::Upcall(UpcallReason::Loading));
    assert!(node.datapath.table().is_empty());

    let mut asked = Vec::new();
    let handled = node.datapath.handle_upcalls(node.now, &mut |bucket, key| {
        asked.push((bucket, *key));
        Some(known(bucket))
    });
    assert_eq!((handled, asked), (1, vec![(bucket, flow(6, SERVER, CLIENT))]));
    assert_eq!(node.datapath.take_released(), [(segment, Verdict::Forward)]);
    let view = node.datapath.table().get(&flow(6, CLIENT, SERVER)).expect("the flow");
    assert_eq!(seen_of(&view), Seen(Established, true, 3, [0, 1], [0, 154]));
    // It has the old epoch until it changes.
    assert_eq!(view.record, known(bucket));
    assert!(node.events().is_empty());

    // The next packet needs no user space, though the bucket is still loading.
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, FIN_ACK, 0)).0, Verdict::Forward);
    let view = node.datapath.table().get(&flow(6, CLIENT, SERVER)).expect("the flow");
    assert_eq!(seen_of(&view), Seen(FinOriginal, true, 4, [1, 1], [54, 154]));
    assert_eq!(view.record.epoch, EPOCH);
    assert_eq!(node.events().len(), 1);
    assert_eq!(node.counters().into_iter().collect::<Vec<_>>(), [("forwarded", 2), ("upcall", 1)]);
}

#[test]
fn a_new_connection_begins_while_its_bucket_is_loading() {
    let mut node = Node::new();
    node.datapath.set_bucket(bucket(), slot(NodeId(0), BucketState::Loading));
    node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    node.takes(OUTSIDE, &tcp(SERVER, CLIENT, ACK, 0));
    assert_eq!(node.datapath.handle_upcalls(node.now, &mut |_, _| None), 2);
    let verdicts: Vec<_> = node.datapath.take_released().into_iter().map(|r| r.1).collect();
    assert_eq!(verdicts, [Verdict::Forward, Verdict::Forward]);
    assert_eq!(node.datapath.table().len(), 1);
}

#[test]
fn a_packet_that_waited_too_long_finds_its_bucket_gone() {
    let mut node = Node::new();
    let bucket = bucket();
    node.datapath.set_bucket(bucket, slot(NodeId(0), BucketState::Loading));
    node.takes(OUTSIDE, &tcp(SERVER, CLIENT, ACK, 100));
    node.datapath.set_bucket(bucket, slot(NodeId(1), BucketState::Active));
    node.datapath.handle_upcalls(node.now, &mut |bucket, _| Some(known(bucket)));
    let verdicts: Vec<_> = node.datapath.take_released().into_iter().map(|r| r.1).collect();
    assert_eq!(verdicts, [Verdict::Drop(DropReason::NotOwner)]);
    assert!(node.datapath.table().is_empty(), "an entry of another's bucket");
}

#[test]
fn a_silent_flow_expires_by_its_phase() {
    let mut node = Node::new();
    node.takes(INSIDE, &udp(CLIENT, SERVER, &[]));
    let timeouts = Timeouts::default();
    let expire = |node: &Node, seconds: u64| {
        let now = node.now.plus_millis(seconds * 1000);
        node.datapath.table().expire(now, &timeouts, &mut |_| {})
    };
    assert_eq!(expire(&node, 30), 0);
    node.takes(OUTSIDE, &udp(SERVER, CLIENT, &[]));
    assert_eq!(expire(&node, 31), 0);
    assert_eq!(expire(&node, 120), 0);
    assert_eq!(expire(&node, 121), 1);
    assert_eq!(node.takes(OUTSIDE, &udp(SERVER, CLIENT, &[])).0, Verdict::Drop(DropReason::NoRule));
}
