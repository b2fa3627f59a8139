//! A router picks a node by a hash of its own; what is another node's is passed to it once.
//!
//! ```text
//!                     ┌── [ node 0 ] ──┐
//!   inside ── router ─┼── [ node 1 ] ──┼── outside
//!                     └── [ node 2 ] ──┘
//! ```

use testudo_datapath::{Datapath, NodeTable, Station};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, INSIDE, Node, OUTSIDE, own_mac};
use crate::packets::{CLUSTER_MAC, End, SENDER_MAC, SYN, tagged, tcp, udp, v6};
use crate::traffic;

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const LOCAL_V4: &str = "10.10.0.11";
const LOCAL_V6: &str = "fd10::11";

/// A node's address on the link of an interface.
fn mac(interface: u32, node: u8) -> [u8; 6] {
    let [a, b, c, d, _, f] = own_mac(node);
    [a, b, c, d, interface as u8, f]
}

fn stations() -> Vec<Station> {
    let of = |interface| {
        let one = move |node| Station {
            interface,
            node: NodeId(node),
            mac: Mac::from_bytes(mac(interface, node)),
        };
        (0..3).map(one)
    };
    [INSIDE, OUTSIDE].into_iter().flat_map(of).collect()
}

/// A node of three; its slots say that everything is `owner`'s and was `previous`'s before.
fn node(number: u8, owner: u8, previous: NodeId, state: BucketState) -> Node {
    let mut node = Node::in_mode(Mode::Steered, number, 1024, &[Rule::any(Action::Accept)]);
    let slot = BucketSlot { owner: NodeId(owner), previous, state, epoch: Epoch(5) };
    for bucket in 0..BUCKETS as u16 {
        node.datapath.set_bucket(BucketId(bucket), slot);
    }
    node.datapath.set_peers(&stations()).expect("few stations");
    let local = [LOCAL_V4, LOCAL_V6].map(|text| text.parse().expect("an address"));
    node.datapath.set_local_addresses(&local).expect("few addresses");
    node
}

/// The frame with these addresses on the link.
fn from_to(frame: &[u8], from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
    [&to[..], &from, &frame[12..]].concat()
}

fn steered_to(node: u8, frame: &[u8]) -> Vec<u8> {
    from_to(frame, SENDER_MAC, mac(INSIDE, node))
}

fn packets() -> [Vec<u8>; 3] {
    let v6 = udp(("fd10::7", 4000), ("fd20::1", 53), &[1; 5]);
    [tcp(CLIENT, SERVER, SYN, 0), v6, tagged(&udp(CLIENT, SERVER, &[2; 9]))]
}

#[test]
fn an_owned_packet_is_handled_whatever_address_it_was_sent_to() {
    for frame in packets() {
        for to in [mac(INSIDE, 0), CLUSTER_MAC] {
            let mut node = node(0, 0, NodeId::NONE, BucketState::Active);
            let (verdict, _) = node.takes(INSIDE, &from_to(&frame, SENDER_MAC, to));
            assert_eq!(verdict, Verdict::Forward);
            assert_eq!(node.datapath.table().len(), 1);
        }
    }
}

#[test]
fn another_nodes_packet_is_passed_to_it_and_nothing_but_the_link_changes() {
    for frame in packets() {
        let mut first = node(0, 2, NodeId::NONE, BucketState::Active);
        let (verdict, out) = first.takes(INSIDE, &steered_to(0, &frame));
        assert_eq!(verdict, Verdict::Pass(NodeId(2)));
        assert_eq!(out, from_to(&frame, mac(INSIDE, 0), mac(INSIDE, 2)));
        assert!(first.datapath.table().is_empty() && first.events().is_empty());

        // Out of the interface that it came in by: the addresses are that link's.
        let outside = from_to(&frame, SENDER_MAC, mac(OUTSIDE, 0));
        let (_, out) = first.takes(OUTSIDE, &outside);
        assert_eq!(out[..12], [mac(OUTSIDE, 2), mac(OUTSIDE, 0)].concat());

        let mut owner = node(2, 2, NodeId::NONE, BucketState::Active);
        let passed = from_to(&frame, mac(INSIDE, 0), mac(INSIDE, 2));
        assert_eq!(owner.takes(INSIDE, &passed).0, Verdict::Forward);
    }
}

#[test]
fn a_packet_to_the_shared_address_is_passed_on_from_the_nodes_own() {
    let [frame, ..] = packets();
    let mut node = node(0, 2, NodeId::NONE, BucketState::Active);
    let (verdict, out) = node.takes(INSIDE, &frame);
    assert_eq!(verdict, Verdict::Pass(NodeId(2)));
    assert_eq!(out, from_to(&frame, mac(INSIDE, 0), mac(INSIDE, 2)));
}

#[test]
fn a_packet_that_was_passed_is_not_passed_on() {
    for frame in packets() {
        let mut second = node(1, 2, NodeId::NONE, BucketState::Active);
        let passed = from_to(&frame, mac(INSIDE, 0), mac(INSIDE, 1));
        assert_eq!(second.takes(INSIDE, &passed).0, Verdict::Drop(DropReason::PassedTwice));
        // The same address on the other link is a stranger's.
        let stranger = from_to(&frame, mac(INSIDE, 0), mac(OUTSIDE, 1));
        assert_eq!(second.takes(OUTSIDE, &stranger).0, Verdict::Pass(NodeId(2)));
    }
}

#[test]
fn a_node_that_has_just_given_a_bucket_away_passes_what_was_passed_to_it() {
    for frame in packets() {
        let mut giver = node(1, 2, NodeId(1), BucketState::Active);
        let passed = from_to(&frame, mac(INSIDE, 0), mac(INSIDE, 1));
        let (verdict, out) = giver.takes(INSIDE, &passed);
        assert_eq!(verdict, Verdict::Pass(NodeId(2)));
        assert_eq!(out, from_to(&frame, mac(INSIDE, 1), mac(INSIDE, 2)));
    }
}

#[test]
fn a_packet_waits_where_its_bucket_is_going_be_it_passed_or_not() {
    for frame in packets() {
        let mut taker = node(2, 2, NodeId(1), BucketState::Holding);
        for from in [SENDER_MAC, mac(INSIDE, 1)] {
            let (verdict, _) = taker.takes(INSIDE, &from_to(&frame, from, mac(INSIDE, 2)));
            assert_eq!(verdict, Verdict::Upcall(UpcallReason::Held));
        }
        taker.datapath.handle_upcalls(taker.now, &mut |_, _| None);
        let held: usize = (0..BUCKETS as u16).map(|b| taker.datapath.held(BucketId(b))).sum();
        assert_eq!(held, 2);
    }
}

#[test]
fn a_yielding_node_reports_nothing_for_it_passes_the_rest_on() {
    let mut giver = node(1, 1, NodeId::NONE, BucketState::Yielding);
    for frame in packets() {
        assert_eq!(giver.takes(INSIDE, &steered_to(1, &frame)).0, Verdict::Forward);
    }
    assert!(giver.occurrences().1.is_empty());
}

#[test]
fn a_packet_that_waited_too_long_is_passed_to_the_new_owner() {
    let [frame, ..] = packets();
    let mut node = node(0, 0, NodeId::NONE, BucketState::Loading);
    let sent = steered_to(0, &frame);
    assert_eq!(node.takes(INSIDE, &sent).0, Verdict::Upcall(UpcallReason::Loading));
    let slot = BucketSlot {
        owner: NodeId(2),
        previous: NodeId(0),
        state: BucketState::Active,
        epoch: Epoch(6),
    };
    for bucket in 0..BUCKETS as u16 {
        node.datapath.set_bucket(BucketId(bucket), slot);
    }
    node.datapath.handle_upcalls(node.now, &mut |_, _| panic!("asked for another's flow"));
    let passed = from_to(&frame, mac(INSIDE, 0), mac(INSIDE, 2));
    assert_eq!(node.datapath.take_released(), [(passed, Verdict::Pass(NodeId(2)))]);
}

#[test]
fn nothing_is_passed_without_a_lease_an_owner_or_its_address() {
    for frame in packets() {
        let frame = steered_to(0, &frame);
        let mut vacant = node(0, NodeId::NONE.0, NodeId::NONE, BucketState::Active);
        assert_eq!(vacant.takes(INSIDE, &frame).0, Verdict::Drop(DropReason::NotOwner));
        let mut minority = node(0, 2, NodeId::NONE, BucketState::Active);
        minority.datapath.set_lease(minority.now.plus_millis(1000));
        assert_eq!(minority.takes(INSIDE, &frame).0, Verdict::Drop(DropReason::NoLease));
        let mut alone = node(0, 2, NodeId::NONE, BucketState::Active);
        alone.datapath.set_peers(&stations()[..2]).expect("few stations");
        assert_eq!(alone.takes(INSIDE, &frame).0, Verdict::Drop(DropReason::NoPeer));
    }
}

#[test]
fn what_is_for_the_node_itself_goes_to_its_stack() {
    let mut node = node(0, 2, NodeId::NONE, BucketState::Active);
    let advertisement = [136, 0, 0, 0, 0xe0, 0, 0, 0];
    for frame in [
        tcp(CLIENT, (LOCAL_V4, 22), SYN, 0),
        tcp(("fd10::7", 1), (LOCAL_V6, 22), SYN, 0),
        udp(("10.10.0.2", 3784), ("224.0.0.5", 3784), &[]),
        udp(("10.10.0.2", 68), ("255.255.255.255", 67), &[]),
        v6("fe80::2", "fe80::1", 58, &advertisement),
        v6("fe80::2", "ff02::5", 89, &[0; 8]),
        crate::packets::ethernet(0x0806, &[0; 28]),
        crate::packets::ethernet(0x88cc, &[0; 28]),
    ] {
        assert_eq!(node.takes(INSIDE, &steered_to(0, &frame)).0, Verdict::Stack, "{frame:02x?}");
    }
    // Its addresses may change while it runs.
    node.datapath.set_local_addresses(&[]).expect("none");
    let frame = steered_to(0, &tcp(CLIENT, (LOCAL_V4, 22), SYN, 0));
    assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Pass(NodeId(2)));
}

#[test]
fn what_a_switch_floods_is_left_alone() {
    for frame in packets() {
        let mut node = node(0, 0, NodeId::NONE, BucketState::Active);
        for to in [mac(INSIDE, 1), mac(OUTSIDE, 0), [2, 0, 0, 0, 9, 9]] {
            let (verdict, _) = node.takes(INSIDE, &from_to(&frame, SENDER_MAC, to));
            assert_eq!(verdict, Verdict::Stack);
        }
        assert!(node.datapath.table().is_empty());
    }
}

#[test]
fn a_node_that_does_not_know_its_own_address_leaves_nothing_to_its_stack_to_forward() {
    for frame in packets() {
        let mut node = node(0, 0, NodeId::NONE, BucketState::Active);
        node.datapath.set_peers(&[]).expect("none");
        let frame = steered_to(0, &frame);
        assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Drop(DropReason::NoPeer));
        let own = steered_to(0, &tcp(CLIENT, (LOCAL_V4, 22), SYN, 0));
        assert_eq!(node.takes(INSIDE, &own).0, Verdict::Stack);
    }
}

#[test]
fn questions_for_cluster_addresses_have_one_answer_as_ever() {
    for question in [traffic::arp_request(3), traffic::solicitation(3)] {
        let mut owner = node(0, 0, NodeId::NONE, BucketState::Active);
        assert_eq!(owner.takes(INSIDE, &question).0, Verdict::Answer);
        let mut other = node(0, 2, NodeId::NONE, BucketState::Active);
        assert_eq!(other.takes(INSIDE, &question).0, Verdict::Drop(DropReason::NotOwner));
    }
}
