//! Stories of two nodes and the stream between them: what a node tells of its flows, the other knows.

mod determined;
mod pair;
#[path = "../two_nodes/mod.rs"]
mod two_nodes;

use proptest::prelude::*;
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::replica::{Replica, Side, SyncError};

use testudo_cluster::sync::frame::Frame;
use testudo_cluster::sync::layout::{CRITICAL, Head, Item, kind};
use testudo_cluster::sync::references::Reference;
use testudo_packet::bucket::{BucketId, Epoch, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use pair::{BUCKETS, NOW, Pair, cluster, flow};

fn frame(kind: u8, items: &[&[u8]]) -> Vec<u8> {
    let head = Head { kind, size: items[0].len() as u8, count: items.len() as u16 };
    head.to_bytes().into_iter().chain(items.concat()).collect()
}

fn item(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.put(&mut bytes);
    frame(item.kind(), &[&bytes])
}

fn reference(number: u32) -> Reference {
    Reference::new(number).expect("below the bound")
}

/// The kinds of the frames in a batch.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some((head, rest)) = bytes.split_first_chunk() {
        let head = Head::from_bytes(*head);
        kinds.push(head.kind);
        bytes = &rest[usize::from(head.size) * usize::from(head.count)..];
    }
    kinds
}

#[test]
fn a_flow_is_committed_when_the_peer_has_said_so_and_not_before() {
    let mut pair = Pair::new([1000; 2]);
    (100..200).for_each(|number| pair.event(1, flow(number, 1, Phase::Established, 1)));
    let begun = flow(1, 1, Phase::SynSent, 1);
    let ticket = pair.node(1).handle_beginning(begun).expect("an own flow");
    assert!(!pair.node(1).is_committed(&ticket));
    // The flow is the last of what waits: a part of that is sent, acknowledged, and not enough.
    let part = pair.says(1, 300);
    pair.hears(0, &part).expect("a peer's bytes");
    let answer = pair.says(0, 1 << 20);
    pair.hears(1, &answer).expect("a peer's bytes");
    assert!(!pair.node(1).is_committed(&ticket));
    let rest = pair.says(1, 1 << 20);
    pair.hears(0, &rest).expect("a peer's bytes");
    assert!(!pair.node(1).is_committed(&ticket), "the peer has not answered");
    assert!(pair.node(0).table().get(begun.bucket, &begun.key).is_some());
    let answer = pair.says(0, 1 << 20);
    pair.hears(1, &answer).expect("a peer's bytes");
    assert!(pair.node(1).is_committed(&ticket));
}

#[test]
fn nobody_waits_for_a_peer_that_is_gone_but_for_one_that_has_come_back() {
    let mut pair = Pair::new([1000; 2]);
    let ticket = pair.node(1).handle_beginning(flow(1, 1, Phase::SynSent, 1)).expect("an own flow");
    pair.redial(10);
    pair.talk();
    assert!(!pair.node(1).is_committed(&ticket), "the peer has been told on no stream that lives");
    let connection = pair.ends[1].1;
    pair.node(1).handle_closed(connection);
    assert!(pair.node(1).is_committed(&ticket));
    let alone = pair.node(1).handle_beginning(flow(2, 1, Phase::SynSent, 1)).expect("an own flow");
    assert!(pair.node(1).is_committed(&alone), "nobody is there to be told");
}

#[test]
fn a_connection_costs_less_than_48_bytes_on_the_stream() {
    const CONNECTIONS: u16 = 10_000;
    let mut pair = Pair::new([20_000; 2]);
    pair.sent = [0; 2];
    // A hundred connections in each batch, as 100,000 a second with a batch a millisecond.
    for batch in 0..CONNECTIONS / 100 + 3 {
        for (stage, phase) in
            [(0, Phase::SynSent), (1, Phase::Established), (2, Phase::TimeWait), (3, Phase::Reset)]
        {
            let Some(first) = batch.checked_sub(stage).map(|batch| batch * 100) else { continue };
            for number in (first..first + 100).filter(|&number| number < CONNECTIONS) {
                match stage {
                    3 => pair.expire(1, flow(number, 1, Phase::TimeWait, 3)),
                    _ => pair.event(1, flow(number, 1, phase, u32::from(stage) + 1)),
                }
            }
        }
        pair.talk();
    }
    pair.assert_equal();
    assert!(pair.node(1).table().is_empty());
    let each = pair.sent.map(|bytes| bytes as f64 / f64::from(CONNECTIONS));
    println!("{:.1} bytes a connection, {:.1} back", each[1], each[0]);
    assert!(each[0] + each[1] <= 48.0, "{each:?} bytes a connection");
}

#[test]
fn a_flow_is_introduced_once_and_then_referred_to() {
    let mut pair = Pair::new([100; 2]);
    pair.event(1, flow(3, 1, Phase::SynSent, 1));
    let first = pair.says(1, 1 << 20);
    assert_eq!(kinds(&first), [kind::EPOCH, kind::INTRODUCE_4]);
    pair.hears(0, &first).unwrap();
    pair.event(1, flow(3, 1, Phase::SynReceived, 2));
    pair.event(1, flow(3, 1, Phase::Established, 3));
    let second = pair.says(1, 1 << 20);
    assert_eq!((kinds(&second), second.len()), (vec![kind::CHANGE], 12));
    pair.hears(0, &second).unwrap();
    pair.assert_equal();
    // A new connection under the same key, let in by another rule.
    let mut reopened = flow(3, 1, Phase::SynSent, 5);
    reopened.state.rule = 2;
    pair.event(1, reopened);
    let third = pair.says(1, 1 << 20);
    assert_eq!(kinds(&third), [kind::INTRODUCE_4]);
    pair.hears(0, &third).unwrap();
    pair.expire(1, reopened);
    let last = pair.says(1, 1 << 20);
    assert_eq!((kinds(&last), last.len()), (vec![kind::LEAVE], 7));
    pair.hears(0, &last).unwrap();
    pair.assert_equal();
    pair.talk();
    assert_eq!(pair.node(1).peer(NodeId(0)).pending, 0);
    assert_eq!(pair.node(0).peer(NodeId(1)).rejected, Default::default());
}

#[test]
fn a_number_that_is_used_again_means_the_flow_that_has_it_now() {
    let mut pair = Pair::new([100; 2]);
    pair.event(1, flow(3, 1, Phase::SynSent, 1));
    pair.talk();
    // The slot is free for the next flow before the peer knows that it is.
    pair.expire(1, flow(3, 1, Phase::SynSent, 1));
    pair.event(1, flow(11, 1, Phase::SynSent, 7));
    pair.talk();
    pair.assert_equal();
    pair.event(1, flow(11, 1, Phase::Established, 8));
    pair.talk();
    pair.assert_equal();
    assert_eq!(pair.node(0).table().len(), 1);
    assert_eq!(pair.node(0).peer(NodeId(1)).rejected, Default::default());
}

#[test]
fn a_snapshot_does_not_use_a_number_again_before_its_flow_has_left() {
    let mut pair = Pair::new([1000; 2]);
    let numbers = |first: u16| (0..60).map(move |index| first + index * BUCKETS);
    for number in numbers(3) {
        pair.event(1, flow(number, 1, Phase::SynSent, 1));
    }
    pair.talk();
    for number in numbers(3) {
        pair.expire(1, flow(number, 1, Phase::SynSent, 1));
    }
    for number in numbers(3003) {
        pair.event(1, flow(number, 1, Phase::SynSent, 1));
    }
    let want = item(&Item::Frame(Frame::Want { bucket: BucketId(3) }));
    pair.hears(1, &want).unwrap();
    // In batches that are too small for all of it.
    loop {
        let mut some = pair.says(1, 200);
        if some.is_empty() {
            break;
        }
        if kinds(&some)[0] == kind::ACKNOWLEDGE {
            // Of a wish that node 0 does not know of.
            some.drain(..12);
        }
        pair.hears(0, &some).unwrap();
    }
    pair.assert_equal();
    assert_eq!(pair.node(0).table().len(), 60);
    assert_eq!(pair.node(0).peer(NodeId(1)).rejected.unknown, 0);
}

#[test]
fn each_flow_of_a_batch_has_the_epoch_that_it_was_changed_in() {
    let mut pair = Pair::new([100; 2]);
    pair.event(1, flow(3, 1, Phase::SynSent, 1));
    pair.event(1, flow(4, 1, Phase::SynSent, 1));
    pair.give(3, 1, 2);
    pair.event(1, flow(11, 2, Phase::SynSent, 1));
    pair.talk();
    pair.assert_equal();
    let epochs = pair.node(0).table().bucket(BucketId(3)).map(|record| record.epoch.0);
    let mut epochs: Vec<_> = epochs.collect();
    epochs.sort_unstable();
    assert_eq!(epochs, [1, 2]);
}

#[test]
fn flows_that_found_no_room_are_introduced_when_there_is_some() {
    let mut pair = Pair::new([4, 100]);
    for number in 0..6 {
        pair.event(1, flow(number, 1, Phase::SynSent, 1));
    }
    pair.talk();
    let rejected = pair.node(0).peer(NodeId(1)).rejected;
    assert_eq!((rejected.full, rejected.unknown), (2, 0));
    pair.event(1, flow(5, 1, Phase::Established, 2));
    pair.talk();
    // Called forgotten, introduced again, and refused again.
    let rejected = pair.node(0).peer(NodeId(1)).rejected;
    assert_eq!((rejected.full, rejected.unknown), (3, 1));
    for number in 0..2 {
        pair.expire(1, flow(number, 1, Phase::SynSent, 1));
    }
    for number in 4..6 {
        pair.event(1, flow(number, 1, Phase::TimeWait, 3));
    }
    pair.talk();
    pair.assert_equal();
    assert_eq!(pair.node(0).table().len(), 4);
    assert_eq!(pair.node(1).peer(NodeId(0)).pending, 0);
}

#[test]
fn a_reference_does_not_outlive_the_word_of_another_owner() {
    let mut pair = Pair::new([100; 2]);
    for number in [3, 11] {
        pair.event(1, flow(number, 1, Phase::Established, 1));
    }
    pair.talk();
    // Node 0 takes the bucket, lets one flow expire and changes the other; a third one gets the slot.
    pair.give(3, 0, 2);
    pair.talk();
    pair.expire(0, flow(3, 1, Phase::Established, 1));
    pair.event(0, flow(11, 2, Phase::FinOriginal, 2));
    pair.event(0, flow(19, 2, Phase::SynSent, 1));
    pair.talk();
    pair.assert_equal();
    // Node 1 has it again, and goes on with both that are left.
    pair.give(3, 1, 3);
    pair.talk();
    pair.event(1, flow(11, 3, Phase::LastAck, 3));
    pair.event(1, flow(19, 3, Phase::Established, 2));
    pair.talk();
    pair.assert_equal();
    pair.expire(1, flow(11, 3, Phase::LastAck, 3));
    pair.expire(1, flow(19, 3, Phase::Established, 2));
    pair.talk();
    pair.assert_equal();
    assert!(pair.node(0).table().is_empty());
}

#[test]
fn what_a_later_release_adds_is_skipped_and_acknowledged() {
    let mut pair = Pair::new([100; 2]);
    let record = flow(3, 0, Phase::Established, 4);
    let mut introduction = Vec::new();
    Item::Introduce { reference: Some(reference(9)), record }.put(&mut introduction);
    let longer = [&introduction[..], &[1, 2, 3, 4, 5, 6, 7, 8]].concat();
    let epoch = item(&Item::Epoch { bucket: BucketId(3), epoch: Epoch(1) });
    let unknown = frame(0x3f, &[&[1; 200], &[2; 200], &[3; 200]]);
    let uncounted = frame(0x7f, &[&[1; 255]]);
    let bytes = [epoch, frame(kind::INTRODUCE_4, &[&longer]), unknown, uncounted].concat();
    for byte in bytes {
        pair.hears(0, &[byte]).unwrap();
    }
    let expected = FlowRecord { epoch: Epoch(1), ..record };
    assert_eq!(pair.node(0).table().iter().collect::<Vec<_>>(), [expected]);
    let acknowledged = pair.says(0, 1 << 20);
    assert_eq!(kinds(&acknowledged), [kind::ACKNOWLEDGE]);
    // Checks of eight buckets when the stream was opened, a flow, and three items of no meaning.
    assert_eq!(acknowledged[4], 8 + 1 + 3);
}

#[test]
fn what_must_not_be_skipped_ends_the_stream() {
    for (bytes, known) in
        [(frame(0x3f | CRITICAL, &[&[0; 9]]), 0), (frame(kind::WANT | CRITICAL, &[&[0; 3]]), 2)]
    {
        let mut pair = Pair::new([100; 2]);
        let (kind, size) = (bytes[0], bytes[1]);
        let error = SyncError::Critical { kind, size, known };
        assert_eq!(pair.hears(0, &bytes), Err(error));
        assert_eq!(pair.hears(0, &bytes), Err(SyncError::NotOpen));
    }
}

#[test]
fn a_flow_without_an_epoch_or_of_no_bucket_ends_the_stream() {
    let change = |number| {
        let reference = Some(reference(1));
        item(&Item::Introduce { reference, record: flow(number, 0, Phase::SynSent, 1) })
    };
    let epoch = item(&Item::Epoch { bucket: BucketId(BUCKETS), epoch: Epoch(1) });
    for bytes in [change(2), epoch] {
        let mut pair = Pair::new([100; 2]);
        assert!(matches!(pair.hears(0, &bytes), Err(SyncError::Order { .. })));
    }
}

#[test]
fn references_that_lead_nowhere_are_called_forgotten_once() {
    let mut pair = Pair::new([100; 2]);
    pair.talk();
    let (phase, confirmed, sequence) = (Phase::Established, true, 3);
    for _ in 0..5 {
        let reference = reference(70_000);
        let change = item(&Item::Change { reference, phase, confirmed, sequence });
        pair.hears(0, &change).unwrap();
        // To leave unknown is no wrong.
        pair.hears(0, &item(&Item::Leave { reference })).unwrap();
    }
    assert_eq!(pair.node(0).peer(NodeId(1)).rejected.unknown, 5);
    let answer = pair.says(0, 1 << 20);
    assert_eq!(kinds(&answer), [kind::ACKNOWLEDGE, kind::FORGOTTEN]);
    assert_eq!(answer.len(), 12 + 7);
}

#[test]
fn a_hello_that_was_changed_to_look_older_is_found_out() {
    // The one that dials is told that the other is of the release before, and the other way round.
    let sides = [Side::Accepted, Side::Dialled(NodeId(0))];
    let mut ends: [_; 2] = std::array::from_fn(|node| {
        let mut replica = Replica::new(cluster(node as u8, 10), Incarnation(1));
        let connection = replica.handle_connected(NOW, sides[node], [node as u8; 16]).unwrap();
        (replica, connection)
    });
    let mut results = Vec::new();
    for turn in 1..8 {
        let [speaker, hearer] = [turn % 2, 1 - turn % 2];
        let mut out = Vec::new();
        let (replica, connection) = &mut ends[speaker];
        replica.poll_transmit(NOW, *connection, &mut out, 1 << 16);
        if turn <= 2 {
            out[10..12].fill(0);
        }
        let (replica, connection) = &mut ends[hearer];
        results.push(replica.handle_bytes(NOW, *connection, &out));
    }
    let found = Err(SyncError::Changed { heard: 0, said: 3 });
    assert!(results.contains(&found), "{results:?}");
    assert!(ends.iter().all(|(replica, connection)| !replica.is_open(*connection)));
}

/// What can happen to two nodes, one after the other.
#[derive(Clone, Debug)]
enum Step {
    Event { number: u16, rule: u16 },
    Expire { number: u16 },
    Give { bucket: u16 },
    Speak { node: usize, max: usize, split: usize },
    Redial,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..24u16, 0..2u16).prop_map(|(number, rule)| Step::Event { number, rule }),
        4 => (0..24u16).prop_map(|number| Step::Expire { number }),
        1 => (0..BUCKETS).prop_map(|bucket| Step::Give { bucket }),
        6 => (0..2usize, 0..400usize, 0..100usize)
            .prop_map(|(node, max, split)| Step::Speak { node, max, split }),
        1 => Just(Step::Redial),
    ]
}

proptest! {
    /// The tables are equal once all has been said, whatever happened and however it was cut.
    #[test]
    fn both_nodes_know_the_same_in_the_end(steps in prop::collection::vec(step(), 1..300)) {
        let mut pair = Pair::new([100; 2]);
        let (mut epoch, mut nonce) = (1, 10u128);
        let mut owners = [(1usize, 1u32); BUCKETS as usize];
        for (sequence, step) in (1..).zip(steps) {
            match step {
                Step::Event { number, rule } => {
                    let (owner, epoch) = owners[usize::from(number % BUCKETS)];
                    let mut record = flow(number, epoch, Phase::Established, sequence);
                    record.state.rule = rule;
                    pair.event(owner, record);
                }
                Step::Expire { number } => {
                    let (owner, _) = owners[usize::from(number % BUCKETS)];
                    let wanted = flow(number, 0, Phase::Established, 0);
                    let table = pair.node(owner).table();
                    if let Some(record) = table.get(wanted.bucket, &wanted.key) {
                        pair.expire(owner, record);
                    }
                }
                Step::Give { bucket } => {
                    epoch += 1;
                    let owner = 1 - owners[usize::from(bucket)].0;
                    owners[usize::from(bucket)] = (owner, epoch);
                    pair.give(bucket, owner as u8, epoch);
                }
                Step::Speak { node, max, split } => {
                    let bytes = pair.says(node, max);
                    // Handshakes and acknowledgements are sent in any case.
                    prop_assert!(bytes.len() <= max.max(300), "{} of {max} bytes", bytes.len());
                    let (head, tail) = bytes.split_at(split.min(bytes.len()));
                    prop_assert_eq!(pair.hears(1 - node, head), Ok(()));
                    prop_assert_eq!(pair.hears(1 - node, tail), Ok(()));
                }
                Step::Redial => {
                    nonce += 2;
                    pair.redial(nonce);
                }
            }
        }
        pair.talk();
        // Whoever owns a bucket now has the last word.
        for bucket in 0..BUCKETS {
            let (owner, _) = owners[usize::from(bucket)];
            epoch += 1;
            pair.give(bucket, owner as u8, epoch);
        }
        pair.talk();
        let flows = [0, 1].map(|node| {
            let table = pair.node(node).table();
            (table.len(), table.digest())
        });
        prop_assert_eq!(flows[0], flows[1]);
        for node in 0..2 {
            prop_assert_eq!(pair.node(node).peer(NodeId(1 - node as u8)).pending, 0);
        }
    }
}
