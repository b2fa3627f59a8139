//! Rules that keep flows back from the peers, as stories of two nodes: node 1 owns all buckets, node 0
//! hears of them what it is told.

mod two_nodes;

use std::collections::BTreeMap;
use std::time::Duration;

use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::map::Version;
use testudo_cluster::ownership::{Move, Ownership};
use testudo_cluster::replica::{Audit, ConnectionId, Effect, Replica, Replicate, Side};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState, Translation};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const BUCKETS: u16 = 8;

/// The rules, by number; rule 4 is of another process.
const POLICIES: [Replicate; 4] = [
    Replicate::FirstPacket,
    Replicate::Established,
    Replicate::After(Duration::from_millis(500)),
    Replicate::Never,
];
const FIRST: u16 = 0;
const ESTABLISHED: u16 = 1;
const AFTER: u16 = 2;
const NEVER: u16 = 3;
const UNKNOWN: u16 = 4;

fn at(millis: u64) -> Nanos {
    Nanos(1_000_000 * (1_000 + millis))
}

/// A flow of the bucket that its port names.
fn flow(rule: u16, port: u16, phase: Phase, sequence: u32) -> FlowRecord {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    let confirmed = !matches!(phase, Phase::SynSent | Phase::Unreplied);
    FlowRecord {
        translation: None,
        bucket: BucketId(port % BUCKETS),
        epoch: Epoch(1),
        key: FlowKey {
            initiator: end(0x0a00_0001, port),
            responder: end(0x0a00_0002, 80),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase, confirmed, rule, sequence },
    }
}

/// The two nodes, and the owner's node table.
struct Pair {
    ends: [(Replica, ConnectionId); 2],
    flows: BTreeMap<FlowKey, FlowRecord>,
    /// What the owner was asked to do, but for slots.
    asked: Vec<Effect>,
}

impl Pair {
    fn new() -> Self {
        let ends =
            [Side::Accepted, Side::Dialled(NodeId(0))].into_iter().zip(0..).map(|(side, node)| {
                let cluster = two_nodes::cluster(two_nodes::settings(node));
                let mut replica = Replica::new(cluster, Incarnation(u64::from(node) + 1));
                replica.set_policies(POLICIES.to_vec());
                let connection = replica.handle_connected(at(0), side, [node + 1; 16]);
                (replica, connection.expect("there is room"))
            });
        let ends = ends.collect::<Vec<_>>().try_into().expect("two ends");
        let mut pair = Self { ends, flows: BTreeMap::new(), asked: Vec::new() };
        (0..BUCKETS).for_each(|bucket| pair.give(bucket, 1, 1));
        pair.talk();
        pair
    }

    fn owner(&mut self) -> &mut Replica {
        &mut self.ends[1].0
    }

    /// A bucket is this node's from now on, as both know.
    fn give(&mut self, bucket: u16, owner: u8, epoch: u32) {
        let (bucket, epoch) = (BucketId(bucket), Epoch(epoch));
        for (node, (replica, _)) in (0..).zip(&mut self.ends) {
            let (previous, state) = (replica.slot(bucket).owner, BucketState::Loading);
            let slot = BucketSlot { owner: NodeId(owner), previous, state, epoch };
            let buckets = vec![(bucket, slot)];
            replica.handle_ownership(match node == owner {
                true => Ownership::TakeOver { buckets },
                false => Ownership::OwnerChanged { buckets },
            });
            replica.handle_loaded(bucket, epoch);
        }
    }

    /// Until nobody has anything to say.
    fn talk(&mut self) {
        loop {
            self.turn(at(0));
            let mut quiet = true;
            for node in [0, 1] {
                let (replica, connection) = &mut self.ends[node];
                let mut bytes = Vec::new();
                replica.poll_transmit(at(0), *connection, &mut bytes, 1 << 20);
                quiet &= bytes.is_empty();
                let (replica, connection) = &mut self.ends[1 - node];
                replica.handle_bytes(at(0), *connection, &bytes).expect("a peer's bytes");
            }
            if quiet {
                return;
            }
        }
    }

    /// What the drivers do in each turn.
    fn turn(&mut self, now: Nanos) {
        while self.ends[0].0.poll_effect().is_some() {}
        for _ in 0..2 {
            while let Some(effect) = self.owner().poll_effect() {
                if !matches!(effect, Effect::SetBucket { .. }) {
                    self.asked.push(effect);
                }
            }
            self.owner().handle_moves(now);
        }
        assert_eq!(self.owner().handle_due(now), 0, "there is room");
    }

    /// A packet has changed a flow, and the owner hears of it.
    fn event(&mut self, now: Nanos, record: FlowRecord) {
        self.flows.insert(record.key, record);
        let event = Event { kind: EventKind::Updated, record };
        self.owner().handle_event(now, event).expect("an own flow");
    }

    /// Goes over the owner's node table.
    fn audit(&mut self, now: Nanos) -> Audit {
        let Self { ends: [_, (owner, _)], flows, .. } = self;
        let look = |key: &FlowKey| flows.get(key).copied();
        owner.handle_found(flows.values().copied());
        let mut audit = owner.handle_found_again(now, &look);
        audit.add(owner.handle_missing(0..owner.table().places(), &look));
        audit
    }

    /// The ports of what the peer knows, and in which phase it knows them.
    fn known(&mut self) -> Vec<(u16, Phase)> {
        self.talk();
        let records = self.ends[0].0.table().iter();
        let mut known: Vec<_> =
            records.map(|record| (record.key.initiator.port, record.state.phase)).collect();
        known.sort_unstable();
        let [peer, owner] = [0, 1].map(|node: usize| self.ends[node].0.table().digest());
        assert_eq!(peer, owner, "the tables are the same");
        known
    }
}

#[test]
fn a_connection_is_told_of_when_its_handshake_is_complete_and_from_then_on() {
    let mut pair = Pair::new();
    for (sequence, phase) in [(1, Phase::SynSent), (2, Phase::SynReceived)] {
        pair.event(at(0), flow(ESTABLISHED, 1, phase, sequence));
        assert_eq!(pair.known(), []);
    }
    for (sequence, phase) in [
        (3, Phase::Established),
        (4, Phase::FinOriginal),
        (5, Phase::LastAck),
        (6, Phase::TimeWait),
        // It begins anew under the same key: known is known.
        (7, Phase::SynSent),
    ] {
        pair.event(at(0), flow(ESTABLISHED, 1, phase, sequence));
        assert_eq!(pair.known(), [(1, phase)]);
    }
    let record = flow(ESTABLISHED, 1, Phase::SynSent, 7);
    pair.owner().handle_expired(&record).expect("an own flow");
    assert_eq!(pair.known(), []);
    // What was kept back and is gone is nobody's, and no error.
    pair.event(at(0), flow(ESTABLISHED, 2, Phase::SynSent, 1));
    pair.event(at(0), flow(ESTABLISHED, 2, Phase::Reset, 2));
    let record = flow(ESTABLISHED, 2, Phase::Reset, 2);
    assert_eq!(pair.owner().handle_expired(&record), Ok(()));
    assert_eq!(pair.known(), []);
}

#[test]
fn a_datagram_flow_is_told_of_when_it_is_answered() {
    let mut pair = Pair::new();
    pair.event(at(0), flow(ESTABLISHED, 1, Phase::Unreplied, 1));
    assert_eq!(pair.known(), []);
    pair.event(at(0), flow(ESTABLISHED, 1, Phase::Replied, 2));
    assert_eq!(pair.known(), [(1, Phase::Replied)]);
}

#[test]
fn a_flow_is_told_of_as_it_is_when_it_has_lived_for_long_enough() {
    let mut pair = Pair::new();
    pair.event(at(0), flow(AFTER, 1, Phase::SynSent, 1));
    pair.event(at(100), flow(AFTER, 2, Phase::SynSent, 1));
    pair.event(at(200), flow(AFTER, 1, Phase::Established, 2));
    assert_eq!(pair.owner().replication().waiting, 2);
    pair.turn(at(499));
    assert_eq!(pair.known(), []);
    pair.turn(at(500));
    assert_eq!(pair.known(), [(1, Phase::Established)]);
    // One that is over before its time is never told of, and one that begins anew waits anew.
    pair.event(at(550), flow(AFTER, 2, Phase::Reset, 2));
    assert_eq!(pair.owner().replication().waiting, 0);
    pair.event(at(560), flow(AFTER, 2, Phase::SynSent, 3));
    pair.turn(at(1059));
    assert_eq!(pair.known(), [(1, Phase::Established)]);
    pair.turn(at(1060));
    assert_eq!(pair.known(), [(1, Phase::Established), (2, Phase::SynSent)]);
    // One that was silent for too long does not come back when its time comes.
    pair.event(at(2000), flow(AFTER, 3, Phase::SynSent, 1));
    let record = flow(AFTER, 3, Phase::SynSent, 1);
    assert_eq!(pair.owner().handle_expired(&record), Ok(()));
    pair.turn(at(9000));
    assert_eq!(pair.known().len(), 2);
    // A change that comes after a later one does not take the flow back.
    pair.event(at(9000), flow(AFTER, 4, Phase::Established, 2));
    pair.event(at(9000), flow(AFTER, 4, Phase::SynSent, 1));
    pair.turn(at(9500));
    assert_eq!(pair.known().last(), Some(&(4, Phase::Established)));
}

#[test]
fn only_what_its_rule_keeps_back_is_kept_back() {
    let mut pair = Pair::new();
    for (port, rule) in [(1, FIRST), (2, ESTABLISHED), (3, AFTER), (4, NEVER), (5, UNKNOWN)] {
        pair.event(at(0), flow(rule, port, Phase::SynSent, 1));
    }
    assert_eq!(pair.known(), [(1, Phase::SynSent), (5, Phase::SynSent)]);
    pair.event(at(900), flow(NEVER, 4, Phase::Established, 2));
    pair.turn(at(900));
    let known = [(1, Phase::SynSent), (3, Phase::SynSent), (5, Phase::SynSent)];
    assert_eq!(pair.known(), known);
    let replication = pair.owner().replication();
    assert_eq!((replication.told, replication.waiting, replication.crowded), (3, 0, 0));
    // Whoever waits for the peers has them told.
    let waits = flow(NEVER, 6, Phase::SynSent, 1);
    let ticket = pair.owner().handle_beginning(waits).expect("an own flow");
    assert!(!pair.owner().is_committed(&ticket));
    assert_eq!(pair.known().last(), Some(&(6, Phase::SynSent)));
    assert!(pair.owner().is_committed(&ticket));
}

#[test]
fn what_is_kept_back_is_not_missing_and_what_is_missing_is_found() {
    let mut pair = Pair::new();
    for (port, rule) in [(1, ESTABLISHED), (2, AFTER), (3, NEVER), (4, AFTER)] {
        pair.event(at(0), flow(rule, port, Phase::SynSent, 1));
    }
    pair.event(at(0), flow(AFTER, 4, Phase::Reset, 2));
    assert!(pair.audit(at(10)).is_clean());
    // Events are lost: two flows are established, one has begun.
    for record in [
        flow(ESTABLISHED, 1, Phase::Established, 2),
        flow(AFTER, 2, Phase::Established, 2),
        flow(NEVER, 3, Phase::Established, 2),
        flow(AFTER, 5, Phase::SynSent, 1),
    ] {
        pair.flows.insert(record.key, record);
    }
    let found = pair.audit(at(100));
    assert_eq!((found.changed, found.removed, found.let_through), (3, 0, 0));
    assert!(pair.audit(at(110)).is_clean());
    assert_eq!(pair.known(), [(1, Phase::Established)]);
    pair.turn(at(500));
    assert_eq!(pair.known(), [(1, Phase::Established), (2, Phase::Established)]);
    pair.turn(at(599));
    assert_eq!(pair.known().len(), 2, "the one that had begun waits since it was found");
    pair.turn(at(600));
    assert_eq!(pair.known().last(), Some(&(5, Phase::SynSent)));
    assert!(pair.audit(at(610)).is_clean());
    // It begins anew in another place of the node table, where sequences are lower.
    pair.event(at(700), flow(AFTER, 6, Phase::Established, 9));
    let record = flow(AFTER, 6, Phase::SynSent, 3);
    pair.flows.insert(record.key, record);
    assert_eq!(pair.audit(at(710)).changed, 1);
    assert!(pair.audit(at(720)).is_clean());
    pair.turn(at(1200));
    assert_eq!(pair.known().last(), Some(&(6, Phase::SynSent)));
}

/// Bucket 1 is to go to the other node.
fn leave(pair: &mut Pair, since: u64) {
    let moving = Move { to: NodeId(0), since: Version(since), epoch: Epoch(2) };
    let buckets = vec![(BucketId(1), Some(moving))];
    pair.owner().handle_ownership(Ownership::Move { buckets });
    pair.turn(at(0));
}

fn stay(pair: &mut Pair) {
    let buckets = vec![(BucketId(1), None)];
    pair.owner().handle_ownership(Ownership::Move { buckets });
    pair.turn(at(0));
}

/// Which reading of the node table the owner was asked for last.
fn reading(pair: &Pair) -> u64 {
    let mut readings = pair.asked.iter().rev().filter_map(|effect| match effect {
        Effect::ReadOut { bucket: BucketId(1), reading } => Some(*reading),
        _ => None,
    });
    readings.next().expect("it was asked to read the bucket")
}

fn yields(pair: &Pair) -> bool {
    pair.asked.iter().any(|effect| matches!(effect, Effect::Yield { .. }))
}

/// Flows of three rules in bucket 1, and one in another bucket.
fn with_flows() -> Pair {
    let mut pair = Pair::new();
    for (port, rule) in [(1, ESTABLISHED), (9, AFTER), (17, NEVER), (2, NEVER)] {
        pair.event(at(0), flow(rule, port, Phase::SynSent, 1));
    }
    assert_eq!(pair.known(), []);
    pair
}

#[test]
fn a_planned_move_hands_over_what_was_kept_back() {
    let mut pair = with_flows();
    leave(&mut pair, 5);
    // A flow that begins now is told of at once; what was kept back is not known before it is read.
    pair.event(at(0), flow(NEVER, 25, Phase::SynSent, 1));
    pair.event(at(0), flow(NEVER, 10, Phase::SynSent, 1));
    assert_eq!(pair.known(), [(25, Phase::SynSent)]);
    assert!(!yields(&pair), "half of it is not read yet");
    let found = pair.audit(at(0));
    assert!(found.is_clean(), "nothing was lost");
    assert_eq!(found.let_through, 3);
    let reading = reading(&pair);
    pair.owner().handle_read_out(BucketId(1), reading);
    pair.talk();
    assert!(yields(&pair));
    let whole = [1, 9, 17, 25].map(|port| (port, Phase::SynSent));
    assert_eq!(pair.known(), whole);
    // The next owner has all of it and goes on with all, whatever its rules say.
    pair.give(1, 0, 2);
    let record = FlowRecord { epoch: Epoch(2), ..flow(NEVER, 17, Phase::Established, 2) };
    let event = Event { kind: EventKind::Updated, record };
    pair.ends[0].0.handle_event(at(0), event).expect("its own flow");
    pair.talk();
    let known = pair.owner().table().get(BucketId(1), &record.key).expect("told of");
    assert_eq!(known.state.phase, Phase::Established);
}

#[test]
fn a_bucket_that_stays_keeps_what_was_told_and_keeps_back_what_begins() {
    let mut pair = with_flows();
    leave(&mut pair, 5);
    let early = reading(&pair);
    assert_eq!(pair.audit(at(0)).let_through, 3);
    stay(&mut pair);
    // A reading that nobody waits for any more is nothing.
    pair.owner().handle_read_out(BucketId(1), early);
    pair.event(at(0), flow(NEVER, 25, Phase::SynSent, 1));
    pair.event(at(0), flow(NEVER, 17, Phase::Established, 2));
    let known = [(1, Phase::SynSent), (9, Phase::SynSent), (17, Phase::Established)];
    assert_eq!(pair.known(), known);
    assert!(pair.audit(at(0)).is_clean());
    // Nor is it one for the next try, which has a flow more to read.
    leave(&mut pair, 6);
    pair.owner().handle_read_out(BucketId(1), early);
    pair.talk();
    assert!(!yields(&pair));
    assert_eq!(pair.audit(at(0)).let_through, 1);
    let late = reading(&pair);
    pair.owner().handle_read_out(BucketId(1), late);
    pair.talk();
    assert!(yields(&pair));
    assert_eq!(pair.known().len(), 4);
}

#[test]
fn a_cluster_that_keeps_nothing_back_reads_nothing_out() {
    let mut pair = Pair::new();
    pair.owner().set_policies(vec![Replicate::FirstPacket; 4]);
    pair.event(at(0), flow(NEVER, 1, Phase::SynSent, 1));
    leave(&mut pair, 5);
    pair.talk();
    assert!(yields(&pair));
    assert!(!pair.asked.iter().any(|effect| matches!(effect, Effect::ReadOut { .. })));
}

#[test]
fn a_stream_that_breaks_during_the_reading_does_not_shorten_it() {
    let mut pair = with_flows();
    leave(&mut pair, 5);
    for (node, side) in [(0, Side::Accepted), (1, Side::Dialled(NodeId(0)))] {
        let (replica, connection) = &mut pair.ends[node];
        replica.handle_closed(*connection);
        *connection = replica.handle_connected(at(0), side, [node as u8 + 7; 16]).expect("room");
    }
    pair.talk();
    assert!(!yields(&pair), "it is not read yet");
    assert_eq!(pair.audit(at(0)).let_through, 3);
    let reading = reading(&pair);
    pair.owner().handle_read_out(BucketId(1), reading);
    pair.talk();
    assert!(yields(&pair));
}

#[test]
fn what_waits_in_a_bucket_that_was_lost_is_forgotten() {
    let mut pair = with_flows();
    pair.event(at(0), flow(AFTER, 2, Phase::SynSent, 1));
    assert_eq!(pair.owner().replication().waiting, 2);
    pair.give(1, 0, 2);
    assert_eq!(pair.owner().replication().waiting, 1);
    pair.flows.retain(|_, record| record.bucket != BucketId(1));
    pair.turn(at(5000));
    assert_eq!(pair.known(), [(2, Phase::SynSent)]);
    // And it is not there when the bucket comes back.
    pair.give(1, 1, 3);
    pair.turn(at(9000));
    assert_eq!(pair.known(), [(2, Phase::SynSent)]);
}

/// The list of the bucket's owners changes, and not the owner: its epoch does.
fn renew(pair: &mut Pair, bucket: u16, epoch: u32, who: &[usize]) {
    let (owner, previous, state) = (NodeId(1), NodeId(1), BucketState::Active);
    let slot = BucketSlot { owner, previous, state, epoch: Epoch(epoch) };
    for &node in who {
        let buckets = vec![(BucketId(bucket), slot)];
        pair.ends[node].0.handle_ownership(Ownership::OwnerChanged { buckets });
    }
}

#[test]
fn a_flow_is_told_of_under_the_epoch_that_its_bucket_has_now() {
    let mut pair = Pair::new();
    pair.event(at(0), flow(AFTER, 1, Phase::Established, 2));
    pair.event(at(0), flow(NEVER, 9, Phase::Established, 2));
    renew(&mut pair, 1, 3, &[0, 1]);
    pair.turn(at(500));
    leave(&mut pair, 5);
    assert_eq!(pair.audit(at(500)).let_through, 1);
    assert_eq!(pair.known(), [1, 9].map(|port| (port, Phase::Established)));
    for node in [0, 1] {
        let epochs = pair.ends[node].0.table().iter().map(|record| record.epoch);
        assert!(epochs.into_iter().all(|epoch| epoch == Epoch(3)), "node {node}");
    }
    // The node table still has the epoch of the flow's last change, and is right all the same.
    assert!(pair.audit(at(510)).is_clean());
    assert_eq!(pair.audit(at(510)).let_through, 0);
}

/// The kernel says what a flow is translated to when it begins, and never again.
#[test]
fn a_translated_flow_that_was_kept_back_is_told_of_with_its_translation() {
    let source = Endpoint { address: Address::v4(0x0a00_00fe), port: 77 };
    for rule in [ESTABLISHED, AFTER] {
        let mut pair = Pair::new();
        let begun = flow(rule, 1, Phase::SynSent, 1);
        let translation = Some(Translation { source, destination: begun.key.responder });
        let event = Event { kind: EventKind::Created, record: FlowRecord { translation, ..begun } };
        pair.owner().handle_event(at(0), event).expect("an own flow");
        // Over before its time, and begun anew under the same key.
        pair.event(at(10), flow(rule, 1, Phase::Reset, 2));
        pair.event(at(20), flow(rule, 1, Phase::SynSent, 3));
        assert_eq!(pair.known(), []);
        pair.event(at(30), flow(rule, 1, Phase::Established, 4));
        pair.turn(at(600));
        assert_eq!(pair.known(), [(1, Phase::Established)], "rule {rule}");
        let told = pair.ends[0].0.table().get(begun.bucket, &begun.key).expect("it is known");
        assert_eq!(told.translation, translation, "rule {rule}");
    }
}
