//! A bucket moves while its packets come.
//!
//! Both nodes see every packet. The old owner handles them and reports their hashes until it gives
//! the bucket away; the new one holds them all and sends what the old one has not handled.

use std::collections::HashMap;

use testudo_datapath::{Datapath, NodeTable, Released};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::event::Handled;
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::rule::{Action, Ports, Rule};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{BUCKETS, INSIDE, Node, OUTSIDE, flow};
use crate::packets::{ACK, End, SYN, SYN_ACK, tcp, udp};
use crate::traffic;

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const OLD: NodeId = NodeId(0);
const NEW: NodeId = NodeId(1);
const HELD: Verdict = Verdict::Upcall(UpcallReason::Held);

fn slot(owner: NodeId, state: BucketState) -> BucketSlot {
    BucketSlot { owner, previous: OLD, state, epoch: Epoch(6) }
}

fn set_all(node: &mut Node, slot: BucketSlot) {
    for bucket in 0..BUCKETS as u16 {
        node.datapath.set_bucket(BucketId(bucket), slot);
    }
}

/// The old owner, and the one that all its buckets are on their way to.
fn old_and_new() -> (Node, Node) {
    let mut old = Node::new();
    set_all(&mut old, slot(OLD, BucketState::Yielding));
    (old, new_owner())
}

fn new_owner() -> Node {
    let from_inside = Rule { interface: Some(INSIDE), ..Rule::any(Action::Accept) };
    let mut new = Node::with(NEW.0, 1024, &[from_inside]);
    set_all(&mut new, slot(NEW, BucketState::Holding));
    new
}

fn bucket_of(key: testudo_packet::flow::FlowKey) -> BucketId {
    let mut node = Node::new();
    let frame = match key.protocol.0 {
        6 => tcp(CLIENT, SERVER, SYN, 0),
        _ => udp(CLIENT, SERVER, &[]),
    };
    node.takes(INSIDE, &frame);
    node.datapath.table().get(&key).expect("a flow").record.bucket
}

/// Takes the packets that came up; nobody is asked for a flow.
fn collect(node: &mut Node) -> usize {
    let now = node.now;
    node.datapath.handle_upcalls(now, &mut |bucket, _| panic!("asked for bucket {bucket}"))
}

fn release(node: &mut Node, bucket: BucketId, handled: &[Handled]) -> Released {
    let mut left: HashMap<PacketHash, usize> = HashMap::new();
    for Handled { packet, .. } in handled.iter().filter(|one| one.bucket == bucket) {
        *left.entry(*packet).or_default() += 1;
    }
    let mut take = |hash| match left.get_mut(&hash) {
        Some(count) if *count > 0 => {
            *count -= 1;
            true
        }
        _ => false,
    };
    let now = node.now;
    node.datapath.release_held(now, bucket, &mut take, &mut |_, _| None)
}

#[test]
fn a_bucket_that_is_on_its_way_keeps_its_packets_and_touches_no_table() {
    let mut new = new_owner();
    let syn = tcp(CLIENT, SERVER, SYN, 0);
    let bucket = bucket_of(flow(6, CLIENT, SERVER));
    assert_eq!(new.takes(INSIDE, &syn).0, HELD);
    assert_eq!(new.datapath.held(bucket), 0, "it has not been read yet");
    assert_eq!(collect(&mut new), 1);
    assert_eq!(new.datapath.held(bucket), 1);
    assert!(new.datapath.table().is_empty() && new.events().is_empty());
    assert_eq!(new.datapath.take_released(), []);
    // The lease guards it like all else.
    new.datapath.set_lease(new.now);
    assert_eq!(new.takes(INSIDE, &syn).0, Verdict::Drop(DropReason::NoLease));
}

#[test]
fn each_packet_of_a_moving_bucket_is_sent_once() {
    let (mut old, mut new) = old_and_new();
    let bucket = bucket_of(flow(17, CLIENT, SERVER));
    // The third is the first again, to the last byte.
    let mut frames: Vec<_> = (0..40u8).map(|n| udp(CLIENT, SERVER, &[n; 50])).collect();
    frames[2] = frames[0].clone();
    let mut sent = Vec::new();
    let mut reports = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        if number == 25 {
            reports.extend(old.occurrences().1);
            old.datapath.set_bucket(bucket, slot(NEW, BucketState::Active));
        }
        match old.takes(INSIDE, frame).0 {
            Verdict::Forward => sent.push(frame.clone()),
            verdict => assert_eq!(verdict, Verdict::Drop(DropReason::NotOwner)),
        }
        assert_eq!(new.takes(INSIDE, frame).0, HELD);
        // Some are still on their way up when the bucket comes.
        if number < 30 {
            collect(&mut new);
        }
    }
    assert_eq!((sent.len(), reports.len()), (25, 25));
    new.datapath.set_bucket(bucket, slot(NEW, BucketState::Active));
    let released = release(&mut new, bucket, &reports);
    assert_eq!(released, Released { sent: 15, skipped: 25, dropped: 0 });
    sent.extend(new.datapath.take_released().into_iter().map(|(frame, _)| frame));
    assert_eq!(sent, frames, "each once, and in order");
    let counters = new.counters();
    assert_eq!((counters["skipped"], counters["forwarded"], counters["upcall"]), (25, 15, 40));
    assert_eq!(new.datapath.held(bucket), 0);
    // From now on it is a bucket like any other.
    assert_eq!(new.takes(INSIDE, &frames[0]).0, Verdict::Forward);
}

#[test]
fn what_the_old_owner_refused_is_refused_once() {
    let refused = Ports { first: 443, last: 443 };
    let rules =
        [Rule { destination_ports: refused, ..Rule::any(Action::Drop) }, Rule::any(Action::Accept)];
    let mut old = Node::with(OLD.0, 1024, &rules);
    set_all(&mut old, slot(OLD, BucketState::Yielding));
    for (frame, reason) in [
        (tcp(CLIENT, SERVER, SYN, 0), DropReason::Rule),
        (tcp(CLIENT, SERVER, ACK, 0), DropReason::NotFirst),
    ] {
        assert_eq!(old.takes(INSIDE, &frame).0, Verdict::Drop(reason));
        assert_eq!(old.occurrences().1.len(), 1, "{reason:?}");
    }
    // What nobody has handled is not reported: the new owner sends it.
    old.datapath.set_lease(old.now);
    old.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    old.takes(INSIDE, &[0; 60]);
    assert_eq!(old.occurrences(), (vec![], vec![]));
}

#[test]
fn a_yielding_bucket_is_handled_as_before() {
    let (mut old, _) = old_and_new();
    let key = flow(6, CLIENT, SERVER);
    let rows = [
        (INSIDE, tcp(CLIENT, SERVER, SYN, 0)),
        (OUTSIDE, tcp(SERVER, CLIENT, SYN_ACK, 0)),
        (INSIDE, tcp(CLIENT, SERVER, ACK, 0)),
    ];
    for (number, (interface, frame)) in rows.into_iter().enumerate() {
        assert_eq!(old.takes(interface, &frame).0, Verdict::Forward);
        let (events, handled) = old.occurrences();
        assert_eq!((events.len(), handled.len()), (1, 1), "packet {number}");
        let record = old.datapath.table().get(&key).expect("a flow").record;
        assert_eq!((events[0].record, handled[0].bucket), (record, record.bucket));
    }
}

#[test]
fn a_packet_is_known_again_by_its_ip_part_alone() {
    let hash = |frame: &[u8]| {
        let (mut old, _) = old_and_new();
        old.takes(INSIDE, frame);
        let (_, handled) = old.occurrences();
        handled[0].packet
    };
    for (client, server) in [(CLIENT, SERVER), (("fd10::7", 40_000), ("fd20::1", 443))] {
        for bytes in [0, 3, 40, 41, 60, 61, 300] {
            let frame = udp(client, server, &vec![7; bytes]);
            let padded = [&frame[..], &[0xee; 18]].concat();
            let tagged = crate::packets::tagged(&frame);
            assert_eq!(hash(&frame), hash(&padded), "{bytes} bytes, padded");
            assert_eq!(hash(&frame), hash(&tagged), "{bytes} bytes, in a VLAN");
            // A byte more, a byte changed, another hop count: another packet.
            let longer = udp(client, server, &vec![7; bytes + 1]);
            assert_ne!(hash(&frame), hash(&longer), "{bytes} bytes");
            let mut changed = frame.clone();
            let at = (frame.len() - 1).min(14 + 95);
            changed[at] ^= 1;
            assert_ne!(hash(&frame), hash(&changed), "byte {at} of {bytes}");
        }
    }
}

#[test]
fn packets_wait_for_their_own_bucket_only() {
    let mut new = new_owner();
    let mut sent_to: HashMap<BucketId, usize> = HashMap::new();
    for port in 1..200 {
        new.takes(INSIDE, &udp(("10.10.2.7", port), SERVER, &[]));
    }
    collect(&mut new);
    let buckets: Vec<_> = (0..BUCKETS as u16).map(BucketId).collect();
    for &bucket in &buckets {
        sent_to.insert(bucket, new.datapath.held(bucket));
    }
    assert_eq!(sent_to.values().sum::<usize>(), 199);
    let bucket = *buckets.iter().max_by_key(|bucket| sent_to[bucket]).expect("buckets");
    new.datapath.set_bucket(bucket, slot(NEW, BucketState::Loading));
    let released = release(&mut new, bucket, &[]);
    assert_eq!(released, Released { sent: sent_to[&bucket], skipped: 0, dropped: 0 });
    for other in buckets.into_iter().filter(|other| *other != bucket) {
        assert_eq!(new.datapath.held(other), sent_to[&other]);
    }
}

#[test]
fn a_move_that_is_given_up_leaves_its_packets_to_the_old_owner() {
    let mut new = new_owner();
    let bucket = bucket_of(flow(6, CLIENT, SERVER));
    new.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    collect(&mut new);
    assert_eq!((new.datapath.discard_held(bucket), new.datapath.discard_held(bucket)), (1, 0));
    assert_eq!(new.counters()["drop.hold-discarded"], 1);
    assert!(new.datapath.table().is_empty());

    // Released into a bucket that is another's after all, or is still on its way, it is dropped.
    let elsewhere = [
        (slot(OLD, BucketState::Active), "drop.not-owner", 1),
        (slot(NEW, BucketState::Holding), "drop.hold-discarded", 2),
    ];
    for (other, counter, count) in elsewhere {
        new.datapath.set_bucket(bucket, slot(NEW, BucketState::Holding));
        new.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
        collect(&mut new);
        new.datapath.set_bucket(bucket, other);
        let released = release(&mut new, bucket, &[]);
        assert_eq!(released, Released { sent: 0, skipped: 0, dropped: 1 });
        assert_eq!(new.counters()[counter], count);
    }
    assert!(new.datapath.table().is_empty());
}

#[test]
fn a_packet_that_came_up_late_is_handled_at_once() {
    let mut new = new_owner();
    let bucket = bucket_of(flow(6, CLIENT, SERVER));
    new.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    new.datapath.set_bucket(bucket, slot(NEW, BucketState::Active));
    let now = new.now;
    assert_eq!(new.datapath.handle_upcalls(now, &mut |_, _| None), 1);
    assert_eq!(new.datapath.take_released()[0].1, Verdict::Forward);
    assert_eq!(new.datapath.held(bucket), 0);
}

#[test]
fn one_busy_bucket_fills_its_share_and_no_more() {
    let mut new = new_owner();
    let bucket = bucket_of(flow(17, CLIENT, SERVER));
    let frame = udp(CLIENT, SERVER, &[0; 1400]);
    for _ in 0..4 {
        for _ in 0..1000 {
            assert_eq!(new.takes(INSIDE, &frame).0, HELD);
        }
        collect(&mut new);
    }
    let kept = (4 << 20) / frame.len();
    assert_eq!(new.datapath.held(bucket), kept);
    assert_eq!(new.counters()["drop.hold-full"], 4000 - kept as u64);
    new.datapath.set_bucket(bucket, slot(NEW, BucketState::Active));
    assert_eq!(release(&mut new, bucket, &[]).sent, kept);
}

#[test]
fn neighbours_are_answered_by_the_old_owner_until_the_bucket_has_moved() {
    let (mut old, mut new) = old_and_new();
    for question in [traffic::arp_request(3), traffic::solicitation(3)] {
        let (verdict, answer) = old.takes(INSIDE, &question);
        assert_eq!(verdict, Verdict::Answer);
        let own = Mac::from_bytes(crate::node::own_mac(0)).to_bytes();
        assert_eq!(answer[6..12], own);
        assert_eq!(new.takes(INSIDE, &question).0, Verdict::Drop(DropReason::NotOwner));
    }
}

#[test]
fn load_is_counted_for_the_owner_of_a_bucket_only() {
    use testudo_datapath::BucketLoad;
    let loads = |node: &Node| {
        let mut loads = vec![BucketLoad::default(); BUCKETS as usize];
        node.datapath.loads(&mut loads);
        loads
    };
    let mut node = Node::new();
    let frame = udp(CLIENT, SERVER, &[0; 58]);
    node.takes(INSIDE, &frame);
    node.takes(OUTSIDE, &udp(SERVER, CLIENT, &[]));
    let bucket = bucket_of(flow(17, CLIENT, SERVER));
    let mut expected = vec![BucketLoad::default(); BUCKETS as usize];
    expected[usize::from(bucket.0)] = BucketLoad { packets: 2, bytes: 100 + 42 };
    assert_eq!(loads(&node), expected);
    // A packet that waits for user space is counted when it comes, and not again.
    node.datapath.set_bucket(bucket, slot(OLD, BucketState::Holding));
    node.takes(INSIDE, &frame);
    node.datapath.set_bucket(bucket, slot(OLD, BucketState::Active));
    release(&mut node, bucket, &[]);
    expected[usize::from(bucket.0)] = BucketLoad { packets: 3, bytes: 242 };
    assert_eq!(loads(&node), expected);
    // Another's, and what is beyond the lease, is no load of this node.
    node.datapath.set_bucket(bucket, slot(NEW, BucketState::Active));
    node.takes(INSIDE, &frame);
    node.datapath.set_bucket(bucket, slot(OLD, BucketState::Active));
    node.datapath.set_lease(node.now);
    node.takes(INSIDE, &frame);
    assert_eq!(loads(&node), expected);
}

#[test]
fn a_packet_that_goes_up_is_reported_once_it_is_handled() {
    use testudo_packet::table::{Slot, Slots, word};
    let (mut old, _) = old_and_new();
    // Another writer, a daemon that died, holds every flow's place.
    let table = old.datapath.table().clone();
    for slot in (0..table.capacity() as u32).filter_map(|index| Slots::slot(&&table, index)) {
        slot.store::<{ word::HOME }>(2 << 32);
    }
    let frame = udp(CLIENT, SERVER, &[]);
    assert_eq!(old.takes(INSIDE, &frame).0, Verdict::Upcall(UpcallReason::Contended));
    assert_eq!(old.occurrences(), (vec![], vec![]));
    assert_eq!(table.break_locks(), table.capacity());
    old.datapath.handle_upcalls(old.now, &mut |_, _| None);
    assert_eq!(old.datapath.take_released()[0].1, Verdict::Forward);
    let (events, handled) = old.occurrences();
    assert_eq!((events.len(), handled.len()), (1, 1));
}
