//! Two nodes and the stream between them, driven by hand.

use std::collections::VecDeque;
use std::sync::Arc;

use testudo_cluster::config::{Cluster, Settings};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{ConnectionId, Effect, Replica, Side, SyncError};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use crate::two_nodes;

pub const NOW: Nanos = Nanos(1_000_000_000);
pub const BUCKETS: u16 = 8;

pub fn cluster(node: u8, max_flows: usize) -> Arc<Cluster> {
    let settings = two_nodes::settings(node);
    two_nodes::cluster(Settings { buckets: u32::from(BUCKETS), max_flows, ..settings })
}

pub fn flow(number: u16, epoch: u32, phase: Phase, sequence: u32) -> FlowRecord {
    let end = |address, port| Endpoint { address: Address::v4(address), port };
    FlowRecord {
        translation: None,
        bucket: BucketId(number % BUCKETS),
        epoch: Epoch(epoch),
        key: FlowKey {
            initiator: end(0x0a00_0001, number),
            responder: end(0xc000_0201, 443),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase, confirmed: phase != Phase::SynSent, rule: 1, sequence },
    }
}

/// Node 1, which owns all buckets at first, dials node 0.
pub struct Pair {
    pub ends: [(Replica, ConnectionId); 2],
    /// What each end has sent.
    pub sent: [u64; 2],
    /// What is to be done about flows that were determined, and by which node.
    pub effects: VecDeque<(usize, Effect)>,
}

impl Pair {
    pub fn new(max_flows: [usize; 2]) -> Self {
        let sides = [Side::Accepted, Side::Dialled(NodeId(0))];
        let ends = std::array::from_fn(|node| {
            let cluster = cluster(node as u8, max_flows[node]);
            let mut replica = Replica::new(cluster, Incarnation(node as u64 + 1));
            let nonce = [node as u8 + 1; 16];
            let connection = replica.handle_connected(NOW, sides[node], nonce);
            (replica, connection.expect("there is room"))
        });
        let mut pair = Self { ends, sent: [0; 2], effects: VecDeque::new() };
        (0..BUCKETS).for_each(|bucket| pair.give(bucket, 1, 1));
        pair.talk();
        pair
    }

    pub fn node(&mut self, node: usize) -> &mut Replica {
        &mut self.ends[node].0
    }

    /// A bucket is this node's from now on, as both know.
    pub fn give(&mut self, bucket: u16, owner: u8, epoch: u32) {
        let (bucket, epoch) = (BucketId(bucket), Epoch(epoch));
        for node in 0..2 {
            let previous = self.node(node).slot(bucket).owner;
            let state = BucketState::Loading;
            let buckets =
                vec![(bucket, BucketSlot { owner: NodeId(owner), previous, state, epoch })];
            self.node(node).handle_ownership(if node == usize::from(owner) {
                Ownership::TakeOver { buckets }
            } else {
                Ownership::OwnerChanged { buckets }
            });
            self.node(node).handle_loaded(bucket, epoch);
        }
    }

    /// Both ends close, and there is a new stream.
    pub fn redial(&mut self, nonce: u128) {
        for (node, side) in [(0, Side::Accepted), (1, Side::Dialled(NodeId(0)))] {
            let (replica, connection) = &mut self.ends[node];
            replica.handle_closed(*connection);
            let nonce = (nonce + node as u128).to_le_bytes();
            *connection = replica.handle_connected(NOW, side, nonce).expect("there is room");
        }
    }

    pub fn says(&mut self, node: usize, max: usize) -> Vec<u8> {
        let (replica, connection) = &mut self.ends[node];
        let mut out = Vec::new();
        replica.poll_transmit(NOW, *connection, &mut out, max);
        self.sent[node] += out.len() as u64;
        out
    }

    pub fn hears(&mut self, node: usize, bytes: &[u8]) -> Result<(), SyncError> {
        let (replica, connection) = &mut self.ends[node];
        let result = replica.handle_bytes(NOW, *connection, bytes);
        self.do_effects(node);
        self.node(node).handle_moves(NOW);
        self.do_effects(node);
        result
    }

    /// What concerns flows that were determined is kept, all else done with.
    fn do_effects(&mut self, node: usize) {
        while let Some(effect) = self.node(node).poll_effect() {
            if matches!(effect, Effect::Place { .. } | Effect::Determined { .. }) {
                self.effects.push_back((node, effect));
            }
        }
    }

    /// Until nobody has anything to say.
    pub fn talk(&mut self) {
        loop {
            (0..2).for_each(|node| self.do_effects(node));
            let [theirs, ours] = [self.says(0, 1 << 20), self.says(1, 1 << 20)];
            if theirs.is_empty() && ours.is_empty() {
                return;
            }
            self.hears(1, &theirs).expect("a peer's bytes");
            self.hears(0, &ours).expect("a peer's bytes");
        }
    }

    pub fn event(&mut self, node: usize, record: FlowRecord) {
        let kind = EventKind::Updated;
        self.node(node).handle_event(Nanos(0), Event { kind, record }).expect("an own flow");
    }

    pub fn expire(&mut self, node: usize, record: FlowRecord) {
        self.node(node).handle_expired(&record).expect("an own flow");
    }

    pub fn assert_equal(&mut self) {
        let seen = [0, 1].map(|node| {
            let mut flows: Vec<_> = self.node(node).table().iter().collect();
            flows.sort_by_key(|record| record.key.initiator.port);
            flows
        });
        assert_eq!(seen[0], seen[1]);
    }
}
