//! Two of three nodes, one of which owns a bucket: who is told what, when they learn of keepers in any order.

use std::sync::Arc;
use std::time::Duration;

use testudo_packet::bucket::{BucketState, Nanos};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use super::*;
use crate::config::{Cluster, Replicas, Settings, Timing};
use crate::heartbeat::Incarnation;
use crate::map::Version;
use crate::ownership::{Move, Ownership};
use crate::replica::{ConnectionId, Replicate, Side};

const NOW: Nanos = Nanos(1_000_000_000);
const BUCKET: BucketId = BucketId(1);
const PEER: NodeId = NodeId(0);
const OWNER: NodeId = NodeId(1);

fn replica(node: NodeId) -> Replica {
    let settings = Settings {
        name: "lab".into(),
        secret: [7; 16],
        members: ["n1", "n2", "n3"].map(String::from).into(),
        weights: vec![100; 3],
        witnesses: NodeSet::default(),
        min_voters: 1,
        node,
        buckets: 2,
        replicas: Replicas::Successors(1),
        timing: Timing::default(),
        max_flows: 100,
        label: String::new(),
    };
    let cluster = Cluster::new(settings).expect("settings that work");
    Replica::new(Arc::new(cluster), Incarnation(u64::from(node.0) + 1))
}

fn flow(port: u16, sequence: u32) -> FlowRecord {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    FlowRecord {
        translation: None,
        bucket: BUCKET,
        epoch: Epoch(256),
        key: FlowKey {
            initiator: end(0x0a00_0001, port),
            responder: end(0x0a00_0002, 80),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 1, sequence },
    }
}

/// A peer and the owner, with a stream between them.
struct Pair {
    ends: [(Replica, ConnectionId); 2],
    effects: [Vec<Effect>; 2],
}

impl Pair {
    /// The bucket is kept by these nodes.
    fn new(keepers: &[NodeId]) -> Self {
        let sides = [Side::Accepted, Side::Dialled(PEER)];
        let ends = [PEER, OWNER].map(|node| {
            let mut replica = replica(node);
            let nonce = [node.0 + 1; 16];
            let connection = replica.handle_connected(NOW, sides[usize::from(node.0)], nonce);
            (replica, connection.expect("there is room"))
        });
        let mut pair = Self { ends, effects: [Vec::new(), Vec::new()] };
        [PEER, OWNER].into_iter().for_each(|node| pair.keepers(node, keepers));
        pair.own(OWNER, 256);
        pair.talk();
        pair.effects = [Vec::new(), Vec::new()];
        pair
    }

    fn node(&mut self, node: NodeId) -> &mut Replica {
        &mut self.ends[usize::from(node.0)].0
    }

    /// A node learns who keeps the bucket.
    fn keepers(&mut self, node: NodeId, keepers: &[NodeId]) {
        let buckets = vec![(BUCKET, keepers.iter().copied().collect())];
        self.node(node).handle_ownership(Ownership::Keepers { buckets });
        self.node(node).handle_ownership(Ownership::Told { version: Version(1) });
        self.turn(node);
    }

    /// Both learn that the bucket is this node's.
    fn own(&mut self, owner: NodeId, epoch: u32) {
        let (epoch, state) = (Epoch(epoch), BucketState::Active);
        for node in [PEER, OWNER] {
            let previous = self.node(node).slot(BUCKET).owner;
            let buckets = vec![(BUCKET, BucketSlot { owner, previous, state, epoch })];
            self.node(node).handle_ownership(if node == owner {
                Ownership::TakeOver { buckets }
            } else {
                Ownership::OwnerChanged { buckets }
            });
            self.turn(node);
        }
    }

    fn event(&mut self, record: FlowRecord) {
        let kind = EventKind::Updated;
        self.node(OWNER).handle_event(NOW, Event { kind, record }).expect("an own flow");
    }

    fn turn(&mut self, node: NodeId) {
        let index = usize::from(node.0);
        self.ends[index].0.handle_moves(NOW);
        while let Some(effect) = self.ends[index].0.poll_effect() {
            self.effects[index].push(effect);
        }
    }

    fn says(&mut self, node: NodeId) -> Vec<u8> {
        let (replica, connection) = &mut self.ends[usize::from(node.0)];
        let mut out = Vec::new();
        replica.poll_transmit(NOW, *connection, &mut out, 1 << 20);
        out
    }

    fn hears(&mut self, node: NodeId, bytes: &[u8]) {
        let (replica, connection) = &mut self.ends[usize::from(node.0)];
        replica.handle_bytes(NOW, *connection, bytes).expect("a peer's bytes");
        self.turn(node);
    }

    /// Until nobody has anything to say.
    fn talk(&mut self) {
        loop {
            let [theirs, ours] = [self.says(PEER), self.says(OWNER)];
            if theirs.is_empty() && ours.is_empty() {
                return;
            }
            self.hears(OWNER, &theirs);
            self.hears(PEER, &ours);
        }
    }

    /// The owner compares the bucket with the peer's copy.
    fn compare(&mut self) {
        self.node(OWNER).peers[0].outgoing.compare(BUCKET);
        self.talk();
    }

    /// What the peer knows of the bucket.
    fn known(&mut self) -> Vec<(u16, u32)> {
        let table = self.node(PEER).table();
        let known = table.bucket(BUCKET).map(|r| (r.key.initiator.port, r.state.sequence));
        let mut known: Vec<_> = known.collect();
        known.sort_unstable();
        known
    }

    /// The peer has all that the owner has, says so, and nothing has come apart on the way.
    fn assert_whole(&mut self, expected: &[(u16, u32)]) {
        self.talk();
        assert_eq!(self.known(), expected);
        assert!(self.node(PEER).has_whole(BUCKET));
        assert_eq!(self.node(PEER).incomplete().count(), 0);
        self.compare();
        assert_eq!(self.node(OWNER).peer(PEER).comparisons.diverged, 0);
        assert!(self.node(OWNER).peer(PEER).comparisons.equal > 0);
        // From here on each change gets there by itself.
        let last = flow(99, 1);
        self.event(last);
        self.talk();
        assert_eq!(self.known().last(), Some(&(99, 1)));
        self.node(OWNER).handle_expired(&last).expect("an own flow");
        self.talk();
        assert_eq!(self.known(), expected);
    }

    fn assert_nothing(&mut self) {
        self.talk();
        assert_eq!(self.known(), []);
        assert!(!self.node(PEER).has_copy(BUCKET));
        assert_eq!(
            self.node(PEER).incomplete().count(),
            0,
            "what it does not keep it does not lack"
        );
    }
}

#[test]
fn who_does_not_keep_a_bucket_is_told_nothing_of_it() {
    let mut pair = Pair::new(&[OWNER]);
    let before = pair.node(OWNER).peer(PEER).sent;
    pair.event(flow(1, 1));
    pair.event(flow(2, 1));
    pair.node(OWNER).handle_expired(&flow(2, 1)).expect("an own flow");
    pair.assert_nothing();
    assert_eq!(pair.node(OWNER).peer(PEER).sent, before);
    assert_eq!([PEER, OWNER].map(|node| pair.node(node).kept()), [0, 1]);
    let ticket = pair.node(OWNER).handle_beginning(flow(3, 1)).expect("an own flow");
    assert!(pair.node(OWNER).is_committed(&ticket), "nobody is to know it");
    let round = pair.node(OWNER).verify(NOW, Duration::from_secs(1)).expect("there is room");
    let found = pair.node(OWNER).verification(round).expect("nobody is waited for");
    assert_eq!(found.peers.iter().map(|copies| copies.equal + copies.open).sum::<u32>(), 0);
}

#[test]
fn a_flow_is_committed_when_the_keepers_have_it() {
    let mut pair = Pair::new(&[OWNER, PEER]);
    let ticket = pair.node(OWNER).handle_beginning(flow(3, 1)).expect("an own flow");
    assert!(!pair.node(OWNER).is_committed(&ticket));
    pair.talk();
    assert!(pair.node(OWNER).is_committed(&ticket));
    pair.assert_whole(&[(3, 1)]);
}

#[test]
fn whoever_learns_first_of_a_new_keeper_it_gets_all() {
    for first in [OWNER, PEER] {
        for between in [false, true] {
            let mut pair = Pair::new(&[OWNER]);
            pair.event(flow(1, 1));
            pair.keepers(first, &[OWNER, PEER]);
            if between {
                pair.talk();
                pair.event(flow(2, 1));
            }
            let second = if first == OWNER { PEER } else { OWNER };
            pair.keepers(second, &[OWNER, PEER]);
            let expected: &[_] = if between { &[(1, 1), (2, 1)] } else { &[(1, 1)] };
            pair.assert_whole(expected);
        }
    }
}

#[test]
fn whoever_learns_first_of_a_former_keeper_it_drops_all() {
    for first in [OWNER, PEER] {
        let mut pair = Pair::new(&[OWNER, PEER]);
        pair.event(flow(1, 1));
        pair.talk();
        pair.compare();
        pair.keepers(first, &[OWNER]);
        pair.event(flow(1, 2));
        pair.event(flow(2, 1));
        pair.compare();
        let second = if first == OWNER { PEER } else { OWNER };
        pair.keepers(second, &[OWNER]);
        pair.assert_nothing();
        assert_eq!(pair.node(OWNER).peer(PEER).comparisons.diverged, 0);
        let before = pair.node(OWNER).peer(PEER).sent;
        pair.event(flow(3, 1));
        pair.assert_nothing();
        assert_eq!(pair.node(OWNER).peer(PEER).sent, before, "and is told nothing any more");
    }
}

#[test]
fn a_time_without_that_one_of_them_has_missed_is_made_up_for() {
    for witness in [OWNER, PEER] {
        let mut pair = Pair::new(&[OWNER, PEER]);
        pair.event(flow(1, 1));
        pair.talk();
        pair.compare();
        pair.keepers(witness, &[OWNER]);
        pair.event(flow(1, 2));
        pair.event(flow(2, 1));
        pair.talk();
        pair.keepers(witness, &[OWNER, PEER]);
        pair.assert_whole(&[(1, 2), (2, 1)]);
    }
}

#[test]
fn a_check_that_crosses_with_the_drop_finds_no_divergence() {
    let mut pair = Pair::new(&[OWNER, PEER]);
    pair.event(flow(1, 1));
    pair.talk();
    pair.compare();
    // The check is under way while the peer drops the bucket and gets it again.
    pair.node(OWNER).peers[0].outgoing.compare(BUCKET);
    let check = pair.says(OWNER);
    pair.keepers(PEER, &[OWNER]);
    pair.keepers(PEER, &[OWNER, PEER]);
    pair.hears(PEER, &check);
    pair.assert_whole(&[(1, 1)]);
}

#[test]
fn a_new_stream_or_a_new_owner_leaves_no_keeper_without_its_bucket() {
    // The peer goes by a later map than the owner, which answers it and forgets that with the stream.
    let mut pair = Pair::new(&[OWNER]);
    pair.event(flow(1, 1));
    pair.keepers(PEER, &[OWNER, PEER]);
    for (node, side) in [(PEER, Side::Accepted), (OWNER, Side::Dialled(PEER))] {
        let (replica, connection) = &mut pair.ends[usize::from(node.0)];
        replica.handle_closed(*connection);
        *connection = replica.handle_connected(NOW, side, [node.0 + 9; 16]).expect("there is room");
    }
    pair.assert_whole(&[(1, 1)]);
    // A new life of the owner forgets whose the bucket is.
    let incarnation = Incarnation(9);
    let buckets = vec![BUCKET];
    pair.node(OWNER).handle_ownership(Ownership::Release { buckets, incarnation });
    pair.turn(OWNER);
    pair.own(OWNER, 512);
    assert_eq!(pair.node(OWNER).taken_bare(), 0);
    pair.keepers(OWNER, &[OWNER, PEER]);
    pair.assert_whole(&[(1, 1)]);
}

#[test]
fn the_next_owner_of_a_planned_move_is_a_guest_until_it_is_over() {
    let moving = Move { to: PEER, since: Version(2), epoch: Epoch(512) };
    let mut pair = Pair::new(&[OWNER]);
    pair.event(flow(1, 1));
    let told = |moving| Ownership::Move { buckets: vec![(BUCKET, moving)] };
    pair.node(OWNER).handle_ownership(told(Some(moving)));
    pair.turn(OWNER);
    pair.ends[1].0.handle_moves(Nanos(NOW.0 + 1_000_000_000));
    pair.event(flow(2, 1));
    pair.talk();
    assert_eq!(pair.known(), [(1, 1), (2, 1)]);
    assert!(pair.node(PEER).has_whole(BUCKET));
    let holds = |effect: &Effect| matches!(effect, Effect::SetBucket { slot, .. } if slot.state == BucketState::Holding);
    assert!(pair.effects[0].iter().any(holds), "it holds packets when it has all");
    pair.node(OWNER).handle_ownership(told(None));
    pair.assert_nothing();
    let before = pair.node(OWNER).peer(PEER).sent;
    pair.event(flow(3, 1));
    pair.assert_nothing();
    assert_eq!(pair.node(OWNER).peer(PEER).sent, before);
}

#[test]
fn a_bucket_that_stays_under_a_new_epoch_is_on_its_way_no_more() {
    let moving = Move { to: PEER, since: Version(2), epoch: Epoch(512) };
    let mut pair = Pair::new(&[OWNER, PEER]);
    pair.node(OWNER).set_policies(vec![Replicate::FirstPacket, Replicate::Never]);
    pair.node(OWNER).handle_ownership(Ownership::Move { buckets: vec![(BUCKET, Some(moving))] });
    pair.turn(OWNER);
    pair.event(flow(1, 1));
    pair.talk();
    assert_eq!(pair.known(), [(1, 1)], "it is handed over with all its flows");
    // The next owner has died. That it is not to go there any more is a message of its own, which comes later.
    let (owner, previous, state) = (OWNER, NodeId::NONE, BucketState::Loading);
    let buckets = vec![(BUCKET, BucketSlot { owner, previous, state, epoch: Epoch(513) })];
    pair.node(OWNER).handle_ownership(Ownership::OwnerChanged { buckets });
    pair.turn(OWNER);
    pair.event(flow(2, 1));
    pair.talk();
    assert_eq!(pair.known(), [(1, 1)], "nobody is to know it");
    assert_eq!(pair.node(OWNER).moving(), (0, 0));
    pair.node(OWNER).handle_ownership(Ownership::Move { buckets: vec![(BUCKET, None)] });
    assert_eq!(pair.node(OWNER).move_counters().withdrawn, 1);
}

#[test]
fn who_has_let_a_bucket_go_and_gets_it_back_has_all_of_it() {
    let moving = Move { to: PEER, since: Version(2), epoch: Epoch(512) };
    let mut pair = Pair::new(&[OWNER]);
    pair.event(flow(1, 1));
    pair.node(OWNER).handle_ownership(Ownership::Move { buckets: vec![(BUCKET, Some(moving))] });
    pair.keepers(OWNER, &[PEER]);
    for second in 1..3 {
        pair.ends[1].0.handle_moves(Nanos(NOW.0 + second * 1_000_000_000));
        pair.talk();
    }
    pair.ends[1].0.handle_moves(Nanos(NOW.0 + 3_000_000_000));
    pair.turn(OWNER);
    let yields = |effect: &Effect| matches!(effect, Effect::Yield { bucket: BUCKET, .. });
    assert!(pair.effects[1].iter().any(yields));
    pair.node(OWNER).handle_yielded(BUCKET, Vec::new());
    let buckets = vec![(BUCKET, moving.epoch)];
    pair.node(OWNER).handle_ownership(Ownership::LetGo { buckets });
    pair.turn(OWNER);
    // The next owner dies before it has heard of that.
    let (owner, previous, state) = (OWNER, PEER, BucketState::Loading);
    let buckets = vec![(BUCKET, BucketSlot { owner, previous, state, epoch: Epoch(513) })];
    pair.node(OWNER).handle_ownership(Ownership::TakeOver { buckets });
    pair.turn(OWNER);
    let known: Vec<_> = pair.node(OWNER).table().bucket(BUCKET).collect();
    assert_eq!(known, [flow(1, 1)]);
    assert!(pair.node(OWNER).has_whole(BUCKET));
    assert_eq!(pair.node(OWNER).taken_bare(), 0);
}

#[test]
fn a_bucket_that_is_taken_without_a_copy_is_told_as_a_loss() {
    let lost = |pair: &Pair| {
        let bare = |effect: &&Effect| matches!(effect, Effect::TakenBare { bucket: BUCKET, .. });
        pair.effects[0].iter().filter(bare).count()
    };
    let mut pair = Pair::new(&[OWNER]);
    pair.event(flow(1, 1));
    pair.talk();
    pair.own(PEER, 257);
    assert_eq!((lost(&pair), pair.node(PEER).taken_bare()), (1, 1));
    let mut pair = Pair::new(&[OWNER, PEER]);
    pair.event(flow(1, 1));
    pair.talk();
    pair.own(PEER, 257);
    assert_eq!((lost(&pair), pair.node(PEER).taken_bare()), (0, 0));
    // The first owner of all has lost nothing.
    let first = Pair::new(&[OWNER]);
    assert_eq!(first.ends[1].0.taken_bare(), 0);
}

#[test]
fn flows_are_dropped_a_share_at_a_time_and_not_taken_for_a_copy() {
    let mut pair = Pair::new(&[OWNER, PEER]);
    (0..50).for_each(|port| pair.event(flow(port, 1)));
    pair.talk();
    pair.keepers(OWNER, &[OWNER]);
    let buckets = vec![(BUCKET, [OWNER].into_iter().collect())];
    pair.node(PEER).handle_ownership(Ownership::Keepers { buckets });
    assert_eq!(pair.known().len(), 50, "that is for the next turn");
    assert_eq!(pair.node(PEER).drop_flows(BUCKET, 20), 20);
    assert_eq!(pair.known().len(), 30);
    // It keeps the bucket again before all are gone: what was left counts for nothing.
    pair.node(OWNER).handle_expired(&flow(49, 1)).expect("an own flow");
    pair.keepers(PEER, &[OWNER, PEER]);
    assert_eq!(pair.known(), []);
    assert!(!pair.node(PEER).has_whole(BUCKET));
    let expected: Vec<_> = (0..49).map(|port| (port, 1)).collect();
    pair.keepers(OWNER, &[OWNER, PEER]);
    pair.assert_whole(&expected);
}
