//! Sources that are not routed back as the interface asks that their packets came in by.

use std::collections::HashMap;

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::BucketState;
use testudo_packet::reception::Mode;
use testudo_packet::reverse_path::ReversePath;
use testudo_packet::rule::{Action, Prefix, Rule};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE};
use crate::packets::{ACK, End, NO_PORT, SYN, SYN_ACK, error_about, tcp, udp};

/// Of the networks inside and outside, and of none.
const CLIENTS: [End; 2] = [("10.10.2.7", 40_000), ("fd10::7", 40_000)];
const SERVERS: [End; 2] = [("10.20.0.1", 443), ("fd20::1", 443)];
const STRANGERS: [End; 2] = [("172.16.0.1", 40_000), ("2001:db8::1", 40_000)];

fn prefix(network: &str, length: u8) -> Prefix {
    let network: std::net::IpAddr = network.parse().expect("an address");
    Prefix::new(network.into(), length).expect("a prefix")
}

fn routes() -> Vec<(Prefix, u32)> {
    vec![
        (prefix("10.10.0.0", 16), INSIDE),
        (prefix("fd10::", 16), INSIDE),
        (prefix("10.20.0.0", 16), OUTSIDE),
        (prefix("fd20::", 16), OUTSIDE),
    ]
}

fn node(check: ReversePath) -> Node {
    in_mode(Mode::Shared, check)
}

fn in_mode(mode: Mode, check: ReversePath) -> Node {
    let mut node = Node::in_mode(mode, 0, 1024, &[Rule::any(Action::Accept)]);
    node.datapath.set_routes(routes());
    let checks = HashMap::from([(INSIDE, check)]);
    node.datapath.set_reverse_paths(&checks).expect("a check");
    node
}

const SPOOFED: Verdict = Verdict::Drop(DropReason::ReversePath);

#[test]
fn a_first_packet_comes_from_where_its_answers_go() {
    use ReversePath::{Loose, Off, Strict};
    use Verdict::Forward;
    // From the network inside, from that outside, and from none, by the interface inside.
    for (check, expected) in [
        (Off, [Forward; 3]),
        (Loose, [Forward, Forward, SPOOFED]),
        (Strict, [Forward, SPOOFED, SPOOFED]),
    ] {
        for family in [0, 1] {
            let mut node = node(check);
            let to = ([("10.99.0.1", 53), ("fd99::1", 53)])[family];
            let from = [CLIENTS, SERVERS, STRANGERS].map(|ends| ends[family]);
            for (from, expected) in from.into_iter().zip(expected) {
                let flows = node.datapath.table().len();
                assert_eq!(
                    node.takes(INSIDE, &udp(from, to, &[])).0,
                    expected,
                    "{check:?} {from:?}"
                );
                let begun = usize::from(expected == Forward);
                assert_eq!(node.datapath.table().len(), flows + begun, "{check:?} {from:?}");
                assert_eq!(node.events().len(), begun);
                // The other interface asks for nothing.
                let other = udp(from, (to.0, 54), &[]);
                assert_eq!(node.takes(OUTSIDE, &other).0, Forward, "{check:?} {from:?}");
                node.events();
            }
            // A refusal is no rule's.
            let passed = 3 + expected.iter().filter(|verdict| **verdict == Forward).count();
            assert_eq!(node.datapath.rule_hits(), [passed as u64], "{check:?}");
        }
    }
}

#[test]
fn only_first_packets_are_asked() {
    let mut node = node(ReversePath::Strict);
    let [client, server] = [CLIENTS[0], SERVERS[0]];
    assert_eq!(node.takes(INSIDE, &tcp(client, server, SYN, 0)).0, Verdict::Forward);
    assert_eq!(node.takes(OUTSIDE, &tcp(server, client, SYN_ACK, 0)).0, Verdict::Forward);
    // The routes have turned round: the flow goes on, and so do errors about it.
    node.datapath.set_routes(vec![(prefix("0.0.0.0", 0), OUTSIDE)]);
    let last = tcp(client, server, ACK, 0);
    assert_eq!(node.takes(INSIDE, &last).0, Verdict::Forward);
    assert_eq!(node.takes(INSIDE, &error_about(&last, NO_PORT)).0, Verdict::Forward);
    assert_eq!(node.takes(INSIDE, &udp(client, server, &[])).0, SPOOFED);
}

#[test]
fn what_goes_up_first_is_asked_all_the_same() {
    let mut node = node(ReversePath::Strict);
    node.own_all(BucketState::Loading);
    let packets = [CLIENTS[0], SERVERS[0]].map(|from| udp(from, ("10.99.0.1", 53), &[]));
    for packet in &packets {
        assert_eq!(node.takes(INSIDE, packet).0, Verdict::Upcall(UpcallReason::Loading));
    }
    assert_eq!(node.datapath.handle_upcalls(node.now, &mut |_, _| None), 2);
    let released: Vec<_> =
        node.datapath.take_released().into_iter().map(|(_, verdict)| verdict).collect();
    assert_eq!(released, [Verdict::Forward, SPOOFED]);
    assert_eq!(node.datapath.table().len(), 1);
}

#[test]
fn an_analyser_is_shown_everything() {
    let mut node = in_mode(Mode::Tap { interface: 7 }, ReversePath::Strict);
    let spoofed = udp(STRANGERS[0], SERVERS[0], &[]);
    assert_eq!(node.takes(INSIDE, &spoofed).0, Verdict::Forward);
}
