//! Flows whose first packet waits for the peers to know them.

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::bucket::{BucketId, BucketState, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::EventKind;
use testudo_packet::flow::FlowKey;
use testudo_packet::rule::{Action, Commit, Rule};
use testudo_packet::tracking::Phase::{SynReceived, SynSent};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, Seen, flow, seen_of, slot};
use crate::packets::{End, tcp, udp};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.9", 443);
const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const WAITS: Verdict = Verdict::Upcall(UpcallReason::Commit);

fn node() -> Node {
    let rule = Rule { interface: Some(INSIDE), commit: Commit::Sync, ..Rule::any(Action::Accept) };
    Node::with(0, 1024, &[rule])
}

fn nothing(_: BucketId, _: &FlowKey) -> Option<FlowRecord> {
    None
}

fn comes_up(node: &mut Node) -> usize {
    node.datapath.handle_upcalls(node.now, &mut nothing)
}

fn verdicts(node: &mut Node) -> Vec<Verdict> {
    node.datapath.take_released().into_iter().map(|(_, verdict)| verdict).collect()
}

#[test]
fn nobody_gets_an_answer_before_the_peers_know() {
    let mut node = node();
    let (key, syn) = (flow(6, CLIENT, SERVER), tcp(CLIENT, SERVER, SYN, 0));
    assert_eq!(node.takes(INSIDE, &syn).0, WAITS);
    assert_eq!(comes_up(&mut node), 1);
    // It is nowhere yet, and the same segment once more waits behind the first.
    assert!(node.datapath.table().is_empty() && node.events().is_empty());
    assert_eq!(node.takes(INSIDE, &syn).0, WAITS);
    comes_up(&mut node);
    assert_eq!(verdicts(&mut node), []);
    let record = node.datapath.poll_commit().expect("a flow that waits");
    assert_eq!((record.key, record.state.phase, record.state.sequence), (key, SynSent, 1));
    assert_eq!(node.datapath.poll_commit(), None);

    // Its owner knows it, and so do the peers; no event tells of it a second time.
    let mut known = |_: BucketId, _: &FlowKey| Some(record);
    let released = node.datapath.release_committed(node.now, &key, &mut known);
    assert_eq!((released.sent, released.dropped), (2, 0));
    assert_eq!(verdicts(&mut node), [Verdict::Forward; 2]);
    let view = node.datapath.table().get(&key).expect("the flow");
    assert_eq!(seen_of(&view), Seen(SynSent, false, 1, [2, 0], [108, 0]));
    assert_eq!((view.record, node.events()), (record, vec![]));

    // From then on it is a flow as any other.
    assert_eq!(node.takes(OUTSIDE, &tcp(SERVER, CLIENT, SYN_ACK, 0)).0, Verdict::Forward);
    let view = node.datapath.table().get(&key).expect("the flow");
    assert_eq!(view.record.state.phase, SynReceived);
    assert_eq!(node.events()[0].kind, EventKind::Updated);
    assert_eq!(node.datapath.release_committed(node.now, &key, &mut known).sent, 0);
}

#[test]
fn a_flow_that_nobody_has_noted_begins_when_it_is_let_go_on() {
    let mut node = node();
    let key = flow(17, CLIENT, SERVER);
    node.takes(INSIDE, &udp(CLIENT, SERVER, &[1]));
    comes_up(&mut node);
    // Both ends may speak first: what comes from the other one waits, too.
    node.datapath.handle(&mut udp(SERVER, CLIENT, &[2]), OUTSIDE, node.now);
    comes_up(&mut node);
    node.datapath.release_committed(node.now, &key, &mut nothing);
    assert_eq!(verdicts(&mut node)[0], Verdict::Forward);
    let kinds: Vec<_> = node.events().iter().map(|event| event.kind).collect();
    assert_eq!(kinds[0], EventKind::Created);
    assert!(node.datapath.table().get(&key).is_some());
}

#[test]
fn a_flow_whose_bucket_goes_meanwhile_leaves_no_entry_here() {
    let mut node = node();
    let key = flow(6, CLIENT, SERVER);
    node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    comes_up(&mut node);
    let record = node.datapath.poll_commit().expect("a flow that waits");
    node.datapath.set_bucket(record.bucket, slot(NodeId(1), BucketState::Active));
    let released = node.datapath.release_committed(node.now, &key, &mut |_, _| Some(record));
    assert_eq!((released.sent, released.dropped), (0, 1));
    assert_eq!(verdicts(&mut node), [Verdict::Drop(DropReason::NotOwner)]);
    assert!(node.datapath.table().is_empty(), "an entry of another's bucket");
}

#[test]
fn a_flood_of_packets_of_one_flow_is_refused_and_counted() {
    let mut node = node();
    for _ in 0..40 {
        node.takes(INSIDE, &udp(CLIENT, SERVER, &[1]));
    }
    comes_up(&mut node);
    assert_eq!(node.counters()["drop.commit-full"], 8);
    let key = flow(17, CLIENT, SERVER);
    assert_eq!(node.datapath.release_committed(node.now, &key, &mut nothing).sent, 32);
}

#[test]
fn a_rule_that_waits_for_nobody_lets_its_flows_begin_at_once() {
    let mut node = Node::with(0, 1024, &[Rule::any(Action::Accept)]);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0)).0, Verdict::Forward);
    assert_eq!(node.datapath.poll_commit(), None);
}
