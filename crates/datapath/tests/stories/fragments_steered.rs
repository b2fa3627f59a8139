//! A router that spreads the fragments of one packet over the nodes as it likes.
//!
//! Whoever gets a fragment passes it to the node where those of its datagram meet, which passes it to the owner of
//! the flow: two passes at most, whoever owns what.

use std::collections::BTreeSet;

use testudo_datapath::{Datapath, NodeTable, Station};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::verdict::{DropReason, Verdict};

use crate::fragments::{CLIENT, CLIENT_6, SERVER, SERVER_6, cut_all};
use crate::node::{BUCKETS, INSIDE, Node, own_mac};
use crate::packets::{SENDER_MAC, udp};

const NODES: u8 = 3;

/// Three nodes between which the buckets are dealt by this number.
fn cluster(deal: u16) -> Vec<Node> {
    let station = |node| Station {
        interface: INSIDE,
        node: NodeId(node),
        mac: Mac::from_bytes(own_mac(node)),
    };
    let stations: Vec<_> = (0..NODES).map(station).collect();
    let node = |number| {
        let mut node = Node::in_mode(Mode::Steered, number, 1024, &[Rule::any(Action::Accept)]);
        for bucket in 0..BUCKETS as u16 {
            let owner = NodeId((bucket.wrapping_mul(deal) >> 3) as u8 % NODES);
            let (previous, state) = (NodeId::NONE, BucketState::Active);
            let slot = BucketSlot { owner, previous, state, epoch: Epoch(5) };
            node.datapath.set_bucket(BucketId(bucket), slot);
        }
        node.datapath.set_peers(&stations).expect("few stations");
        node
    };
    (0..NODES).map(node).collect()
}

/// What becomes of a frame at the nodes that it comes to: who has it in the end, after how many passes, or who drops
/// it. What goes up is decided there at once.
fn travels(nodes: &mut [Node], first: u8, frame: &[u8]) -> (u8, usize, Verdict, Vec<u8>) {
    let (mut at, mut passes) = (first, 0);
    let mut frame = [&own_mac(first)[..], &SENDER_MAC, &frame[12..]].concat();
    loop {
        let node = &mut nodes[usize::from(at)];
        let mut verdict = node.datapath.handle(&mut frame, INSIDE, node.now);
        if matches!(verdict, Verdict::Upcall(_)) {
            node.datapath.handle_upcalls(node.now, &mut |_, _| None);
            match node.datapath.take_released().pop() {
                Some(released) => (frame, verdict) = released,
                None => return (at, passes, verdict, frame),
            }
        }
        let Verdict::Pass(NodeId(to)) = verdict else { return (at, passes, verdict, frame) };
        assert_eq!(frame[..12], [own_mac(to), own_mac(at)].concat(), "on the link");
        (at, passes) = (to, passes + 1);
    }
}

#[test]
fn fragments_come_together_wherever_the_router_sends_them() {
    let mut seen = BTreeSet::new();
    for deal in [3, 5, 7, 11, 13] {
        let mut nodes = cluster(deal);
        for name in 0..60 {
            for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
                let client = (client.0, 20_000 + name);
                let fragments = cut_all(&udp(client, server, &[7; 100]), name, 24);
                let mut owner = None;
                for (number, fragment) in (name..).zip(&fragments) {
                    let to = (number.wrapping_mul(5) >> 1) as u8 % NODES;
                    let (at, passes, verdict, out) = travels(&mut nodes, to, fragment);
                    assert_eq!((verdict, &out[12..]), (Verdict::Forward, &fragment[12..]));
                    assert_eq!(*owner.get_or_insert(at), at, "all of them go the same way");
                    seen.insert(passes);
                }
            }
        }
        let flows: usize = nodes.iter().map(|node| node.datapath.table().len()).sum();
        assert_eq!(flows, 120);
    }
    assert_eq!(seen, BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_fragment_that_overtakes_its_first_waits_where_they_meet() {
    let mut nodes = cluster(5);
    let mut passed_later = 0;
    for name in 0..60 {
        let [first, second]: [_; 2] =
            cut_all(&udp(CLIENT, SERVER, &[7; 40]), name, 24).try_into().expect("two");
        let (meeting, passes, verdict, _) = travels(&mut nodes, (name % 3) as u8, &second);
        assert!(matches!(verdict, Verdict::Upcall(_)) && passes <= 1, "{verdict:?}");
        let (owner, _, verdict, _) = travels(&mut nodes, ((name + 1) % 3) as u8, &first);
        assert_eq!(verdict, Verdict::Forward);
        let node = &mut nodes[usize::from(meeting)];
        node.datapath.handle_upcalls(node.now, &mut |_, _| None);
        let [(out, verdict)] = node.datapath.take_released().try_into().expect("it goes on");
        if meeting == owner {
            assert_eq!(verdict, Verdict::Forward);
            continue;
        }
        assert_eq!(verdict, Verdict::Pass(NodeId(owner)));
        let node = &mut nodes[usize::from(owner)];
        let mut out = out;
        assert_eq!(node.datapath.handle(&mut out, INSIDE, node.now), Verdict::Forward);
        passed_later += 1;
    }
    assert!(passed_later > 10, "{passed_later} were passed after they had waited");
}

#[test]
fn nodes_that_disagree_do_not_play_with_fragments() {
    // Each takes another one for the owner of everything.
    let mut nodes = cluster(5);
    for (number, node) in (0..).zip(&mut nodes) {
        for bucket in 0..BUCKETS as u16 {
            let slot = node.datapath.bucket(BucketId(bucket));
            let owner = NodeId((number + 1) % NODES);
            node.datapath.set_bucket(BucketId(bucket), BucketSlot { owner, ..slot });
        }
    }
    let fragments = cut_all(&udp(CLIENT, SERVER, &[7; 40]), 1, 24);
    let (at, passes, verdict, _) = travels(&mut nodes, 0, &fragments[0]);
    assert_eq!((at, passes, verdict), (1, 1, Verdict::Drop(DropReason::PassedTwice)));
    let (at, passes, verdict, _) = travels(&mut nodes, 0, &fragments[1]);
    assert_eq!((at, passes), (1, 1));
    assert!(matches!(verdict, Verdict::Upcall(_) | Verdict::Drop(DropReason::PassedTwice)));
}
