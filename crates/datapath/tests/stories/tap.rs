//! Not inline: what a node owns goes to its analyser, unchanged; nothing else goes anywhere.

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::{BucketId, BucketState, NodeId};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Ports, Rule};
use testudo_packet::tracking::Phase;
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, INSIDE, Node, flow, slot};
use crate::packets::{
    ACK, CLUSTER_MAC, End, FIN_ACK, RST, SYN, SYN_ACK, ethernet, tagged, tcp, udp,
};
use crate::traffic;

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const ANALYSER: u32 = 7;

fn tap() -> Node {
    Node::in_mode(Mode::Tap { interface: ANALYSER }, 0, 1024, &[Rule::any(Action::Accept)])
}

fn give_all(node: &mut Node, owner: NodeId, state: BucketState) {
    for bucket in 0..BUCKETS as u16 {
        node.datapath.set_bucket(BucketId(bucket), slot(owner, state));
    }
}

#[test]
fn an_owned_packet_goes_to_the_analyser_whoever_it_was_sent_to() {
    let mut node = tap();
    let mut last_hop = udp(CLIENT, SERVER, &[1; 9]);
    last_hop[22] = 1;
    let packets = [udp(CLIENT, SERVER, &[]), tagged(&udp(SERVER, CLIENT, &[])), last_hop];
    for mut frame in packets {
        for to in [CLUSTER_MAC, [2, 0, 0, 0, 9, 9], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
            frame[..6].copy_from_slice(&to);
            assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Forward);
        }
    }
    assert_eq!(node.datapath.table().len(), 1);
}

#[test]
fn a_connection_is_taken_up_in_its_middle() {
    for (flags, phase) in [
        (SYN, Phase::SynSent),
        (SYN_ACK, Phase::Established),
        (ACK, Phase::Established),
        (FIN_ACK, Phase::FinOriginal),
        (RST, Phase::Reset),
    ] {
        let mut node = tap();
        assert_eq!(node.takes(INSIDE, &tcp(SERVER, CLIENT, flags, 0)).0, Verdict::Forward);
        let view = node.datapath.table().get(&flow(6, SERVER, CLIENT)).expect("a flow");
        assert_eq!(view.record.state.phase, phase);
        assert_eq!(node.events().len(), 1);
    }
    let mut node = tap();
    let reply = crate::packets::echo("10.20.0.1", "10.10.2.7", 0, 9);
    assert_eq!(node.takes(INSIDE, &reply).0, Verdict::Forward);
}

#[test]
fn rules_say_what_the_analyser_sees() {
    let web = Ports { first: 443, last: 443 };
    let rules = [Rule { destination_ports: web, ..Rule::any(Action::Accept) }];
    let mut node = Node::in_mode(Mode::Tap { interface: ANALYSER }, 0, 1024, &rules);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, ACK, 0)).0, Verdict::Forward);
    let other = tcp(CLIENT, ("10.20.0.1", 80), ACK, 0);
    assert_eq!(node.takes(INSIDE, &other).0, Verdict::Drop(DropReason::NoRule));
}

#[test]
fn another_nodes_packet_is_left_to_it() {
    let mut node = tap();
    give_all(&mut node, NodeId(1), BucketState::Active);
    let frame = udp(CLIENT, SERVER, &[]);
    assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Drop(DropReason::NotOwner));
    give_all(&mut node, NodeId(0), BucketState::Active);
    node.datapath.set_lease(node.now);
    assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Drop(DropReason::NoLease));
}

#[test]
fn nothing_is_answered_or_left_to_the_stack() {
    let mut node = tap();
    for frame in [
        traffic::arp_request(3),
        traffic::solicitation(3),
        ethernet(0x88cc, &[0; 28]),
        udp(CLIENT, ("224.0.0.5", 1), &[]),
        udp(("fd10::7", 1), ("ff02::5", 1), &[]),
    ] {
        let (verdict, _) = node.takes(INSIDE, &frame);
        assert!(matches!(verdict, Verdict::Drop(_)), "{verdict:?} for {frame:02x?}");
    }
    assert!(node.datapath.table().is_empty());
}

#[test]
fn buckets_move_between_analysers_as_between_gateways() {
    let mut old = tap();
    give_all(&mut old, NodeId(0), BucketState::Yielding);
    let frame = udp(CLIENT, SERVER, &[]);
    assert_eq!(old.takes(INSIDE, &frame).0, Verdict::Forward);
    let (_, handled) = old.occurrences();
    assert_eq!(handled.len(), 1);
    let mut new = tap();
    give_all(&mut new, NodeId(0), BucketState::Holding);
    for frame in [&frame, &udp(CLIENT, SERVER, &[1])] {
        assert_eq!(new.takes(INSIDE, frame).0, Verdict::Upcall(UpcallReason::Held));
    }
    give_all(&mut new, NodeId(0), BucketState::Active);
    let (bucket, packet) = (handled[0].bucket, handled[0].packet);
    let mut reported = |hash| hash == packet;
    let released = new.datapath.release_held(new.now, bucket, &mut reported, &mut |_, _| None);
    assert_eq!((released.sent, released.skipped, released.dropped), (1, 1, 0));
}
