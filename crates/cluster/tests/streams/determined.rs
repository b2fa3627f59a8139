//! A node determines a flow that is another's to handle.

use std::time::Duration;

use testudo_cluster::replica::{Effect, Outcome, Wish};
use testudo_packet::bucket::{Nanos, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use crate::pair::{NOW, Pair, flow};

const PATIENCE: Duration = Duration::from_millis(500);

fn later(millis: u64) -> Nanos {
    Nanos(NOW.0 + millis * 1_000_000)
}

fn determine(pair: &mut Pair, node: usize, record: FlowRecord) -> u32 {
    pair.node(node).determine(NOW, record, PATIENCE).expect("few are under way")
}

/// The next thing to do, of which there has to be one.
fn next(pair: &mut Pair) -> (usize, Effect) {
    pair.talk();
    pair.effects.pop_front().expect("something to do")
}

/// The owner is asked to place a flow, and does; gives what goes into the node table.
fn place(pair: &mut Pair, there: Option<FlowRecord>) -> Option<FlowRecord> {
    let (node, Effect::Place { wish, record }) = next(pair) else { panic!("nothing to place") };
    let placed = pair.node(node).place(NOW, wish, record, there);
    pair.talk();
    placed
}

fn outcome(pair: &mut Pair, at: Nanos, number: u32) -> Option<Outcome> {
    // The owner answers in one turn, and the answer is taken in the next.
    for _ in 0..2 {
        (0..2).for_each(|node| pair.node(node).handle_determining(at));
        pair.talk();
    }
    pair.effects.drain(..).find_map(|(_, effect)| match effect {
        Effect::Determined { number: of, outcome } if of == number => Some(outcome),
        _ => None,
    })
}

#[test]
fn the_owner_has_the_flow_and_its_peer_knows_it_before_anybody_is_told_so() {
    let mut pair = Pair::new([1000; 2]);
    let wanted = flow(3, 0, Phase::SynSent, 0);
    let number = determine(&mut pair, 0, wanted);
    // The owner learns of it, and nobody is told anything before it has placed it.
    let (node, Effect::Place { wish, record }) = next(&mut pair) else {
        panic!("nothing to place")
    };
    assert_eq!((node, wish), (1, Wish { from: NodeId(0), number }));
    assert_eq!(record, wanted);
    assert_eq!(outcome(&mut pair, NOW, number), None);
    let placed = pair.node(1).place(NOW, wish, record, None).expect("it is new");
    assert_eq!(placed, flow(3, 1, Phase::SynSent, 1), "epoch and sequence are the owner's");
    pair.node(1).handle_determining(NOW);
    assert_eq!(pair.node(0).table().get(wanted.bucket, &wanted.key), None);
    let placed = Outcome::Placed { owner: NodeId(1), copies: 1, was_there: false };
    assert_eq!(outcome(&mut pair, NOW, number), Some(placed));
    assert!(pair.node(0).table().get(wanted.bucket, &wanted.key).is_some());
    pair.assert_equal();
    assert!(!pair.node(0).is_determining() && !pair.node(1).is_determining());
}

#[test]
fn an_own_bucket_needs_nobody_but_the_peer_is_told_all_the_same() {
    let mut pair = Pair::new([1000; 2]);
    let number = determine(&mut pair, 1, flow(3, 0, Phase::Unreplied, 0));
    assert!(place(&mut pair, None).is_some());
    let placed = Outcome::Placed { owner: NodeId(1), copies: 1, was_there: false };
    assert_eq!(outcome(&mut pair, NOW, number), Some(placed));
    pair.assert_equal();
}

#[test]
fn a_flow_that_lives_stays_as_it_is_and_one_that_is_over_begins_anew() {
    let mut pair = Pair::new([1000; 2]);
    let (lives, over) = (flow(3, 1, Phase::Established, 7), flow(4, 1, Phase::TimeWait, 9));
    pair.event(1, lives);
    pair.event(1, over);
    pair.talk();
    let number = determine(&mut pair, 0, flow(3, 0, Phase::SynSent, 0));
    assert_eq!(place(&mut pair, Some(lives)), None);
    let there = Outcome::Placed { owner: NodeId(1), copies: 1, was_there: true };
    assert_eq!(outcome(&mut pair, NOW, number), Some(there));
    let number = determine(&mut pair, 0, flow(4, 0, Phase::SynSent, 0));
    assert_eq!(place(&mut pair, Some(over)), Some(flow(4, 1, Phase::SynSent, 10)));
    let anew = Outcome::Placed { owner: NodeId(1), copies: 1, was_there: false };
    assert_eq!(outcome(&mut pair, NOW, number), Some(anew));
    pair.assert_equal();
}

#[test]
fn whoever_has_become_the_owner_is_asked_at_once() {
    let mut pair = Pair::new([1000; 2]);
    let wanted = flow(3, 0, Phase::SynSent, 0);
    let number = determine(&mut pair, 0, wanted);
    let (_, Effect::Place { wish, record }) = next(&mut pair) else { panic!("nothing to place") };
    // Before the owner comes to it, the bucket is node 0's own.
    pair.give(3, 0, 2);
    assert_eq!(pair.node(1).place(NOW, wish, record, None), None);
    pair.node(0).handle_determining(NOW);
    assert_eq!(place(&mut pair, None), Some(flow(3, 2, Phase::SynSent, 1)));
    let placed = Outcome::Placed { owner: NodeId(0), copies: 1, was_there: false };
    assert_eq!(outcome(&mut pair, NOW, number), Some(placed));
    pair.assert_equal();
}

#[test]
fn an_owner_without_room_says_so_and_keeps_nothing() {
    let mut pair = Pair::new([1000, 1]);
    pair.event(1, flow(1, 1, Phase::Established, 1));
    let number = determine(&mut pair, 0, flow(3, 0, Phase::SynSent, 0));
    assert_eq!(place(&mut pair, None), None, "the common table is full");
    assert_eq!(outcome(&mut pair, NOW, number), Some(Outcome::Full { owner: NodeId(1) }));

    let mut pair = Pair::new([1000; 2]);
    let number = determine(&mut pair, 0, flow(3, 0, Phase::SynSent, 0));
    let (_, Effect::Place { wish, record }) = next(&mut pair) else { panic!("nothing to place") };
    let placed = pair.node(1).place(NOW, wish, record, None).expect("it is new");
    pair.node(1).handle_not_placed(NOW, wish, &placed);
    assert_eq!(outcome(&mut pair, NOW, number), Some(Outcome::Full { owner: NodeId(1) }));
    assert_eq!(pair.node(1).table().len(), 0);
    pair.assert_equal();
}

#[test]
fn nobody_waits_longer_than_he_said() {
    let mut pair = Pair::new([1000; 2]);
    let number = determine(&mut pair, 0, flow(3, 0, Phase::SynSent, 0));
    assert_eq!(outcome(&mut pair, later(499), number), None);
    assert_eq!(outcome(&mut pair, later(500), number), Some(Outcome::Late { owner: NodeId(1) }));
    // A peer that acknowledges nothing keeps the owner waiting for a moment only.
    let number = determine(&mut pair, 1, flow(4, 0, Phase::SynSent, 0));
    let connection = pair.ends[0].1;
    pair.node(1).handle_determining(NOW);
    let Some(Effect::Place { wish, record }) = pair.node(1).poll_effect() else {
        panic!("nothing to place")
    };
    pair.node(1).place(NOW, wish, record, None).expect("it is new");
    pair.node(0).handle_closed(connection);
    pair.node(1).handle_determining(later(49));
    assert_eq!(pair.node(1).poll_effect(), None);
    pair.node(1).handle_determining(later(50));
    let alone = Outcome::Placed { owner: NodeId(1), copies: 0, was_there: false };
    assert_eq!(pair.node(1).poll_effect(), Some(Effect::Determined { number, outcome: alone }));
}
