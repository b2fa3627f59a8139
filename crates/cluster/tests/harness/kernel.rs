//! What of a node goes on while its daemon is stopped: its clock, its lease word, its slots and the
//! flows of the packets that it handles.

use std::collections::BTreeMap;

use testudo_cluster::config::Cluster;
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use super::rng::Rng;

/// The tick of the coarsest clock that leases may be checked by.
const TICK: u64 = 10_000_000;

/// How many flows there can be at once.
const FLOWS: u64 = 400;

/// A machine's clock: begins anywhere, and runs a little fast or slow.
#[derive(Clone, Copy)]
pub struct Clock {
    offset: u64,
    parts_per_million: u64,
}

impl Clock {
    pub fn new(rng: &mut Rng) -> Self {
        Self { offset: rng.within(0..1 << 50), parts_per_million: rng.within(0..200) }
    }

    /// What the clock shows, in the world's nanosecond `now`.
    pub fn read(&self, now: u64) -> Nanos {
        Nanos(self.offset + now + now / 1_000_000 * self.parts_per_million)
    }

    /// How long, in the world's time, until the clock shows `moment`.
    pub fn wait(&self, now: u64, moment: Nanos) -> u64 {
        moment.0.saturating_sub(self.read(now).0)
    }
}

/// What has become of a flow, for the daemon.
#[derive(Clone, Debug)]
pub enum Happened {
    Changed(Event),
    Expired(FlowRecord),
}

/// The kernel's half of a node.
pub struct Kernel {
    me: NodeId,
    pub clock: Clock,
    pub lease: Nanos,
    pub slots: Vec<BucketSlot>,
    /// By the initiator's port, which is all that flows differ in.
    pub flows: BTreeMap<u16, FlowRecord>,
}

impl Kernel {
    pub fn new(cluster: &Cluster, clock: Clock) -> Self {
        let slots = vec![BucketSlot::VACANT; cluster.buckets() as usize];
        Self { me: cluster.node(), clock, lease: Nanos(0), slots, flows: BTreeMap::new() }
    }

    /// Whether the lease has not run out, by a clock that lags as far as it may.
    pub fn leased(&self, now: u64) -> bool {
        Nanos(self.clock.read(now).0 / TICK * TICK) < self.lease
    }

    /// Whether packets of a bucket are handled here.
    pub fn handles(&self, now: u64, bucket: usize) -> bool {
        self.slots[bucket].owner == self.me && self.leased(now)
    }

    pub fn set_slot(&mut self, bucket: BucketId, slot: BucketSlot) {
        self.slots[usize::from(bucket.0)] = slot;
    }

    pub fn clear(&mut self, bucket: BucketId) {
        self.flows.retain(|_, record| record.bucket != bucket);
    }

    pub fn install(&mut self, records: impl Iterator<Item = FlowRecord>) {
        for record in records {
            let port = record.key.initiator.port;
            let known = self.flows.get(&port);
            if known.is_none_or(|known| record.supersedes(known)) {
                self.flows.insert(port, record);
            }
        }
    }

    pub fn of_bucket(&self, bucket: usize) -> impl Iterator<Item = &FlowRecord> {
        self.flows.values().filter(move |record| usize::from(record.bucket.0) == bucket)
    }

    /// A packet, or silence, in some flow; nothing if it is not this node's to handle.
    pub fn traffic(&mut self, now: u64, rng: &mut Rng) -> Option<Happened> {
        let port = rng.within(0..FLOWS) as u16;
        let bucket = usize::from(port) % self.slots.len();
        let slot = self.slots[bucket];
        // While entries are on their way, packets wait for them.
        if !self.handles(now, bucket) || slot.state == BucketState::Loading {
            return None;
        }
        let Some(record) = self.flows.get_mut(&port) else {
            // Sequences belong to places in a table, so a new flow's can be below that of an old one.
            let record = FlowRecord {
                bucket: BucketId(bucket as u16),
                epoch: slot.epoch,
                key: key(port),
                state: state(Phase::SynSent, rng.within(1..6) as u32),
            };
            self.flows.insert(port, record);
            return Some(Happened::Changed(Event { kind: EventKind::Created, record }));
        };
        if rng.chance(300) {
            return self.flows.remove(&port).map(Happened::Expired);
        }
        record.epoch = slot.epoch;
        record.state = state(Phase::Established, record.state.sequence + 1);
        Some(Happened::Changed(Event { kind: EventKind::Updated, record: *record }))
    }
}

fn state(phase: Phase, sequence: u32) -> FlowState {
    FlowState { phase, confirmed: phase == Phase::Established, rule: 1, sequence }
}

fn key(port: u16) -> FlowKey {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    FlowKey {
        initiator: end(0x0a00_0001, port),
        responder: end(0x0a00_0002, 80),
        protocol: Protocol::TCP,
    }
}
