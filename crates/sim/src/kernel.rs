//! What of a node goes on while its daemon is stopped: its clock, its lease word, its slots and the
//! flows of the packets that it handles.
//!
//! Invariant: what becomes of a packet follows from the slot, the lease and the flows alone, by the
//! rules of the packet pipeline. What the daemon has to hear waits in two queues that are bounded: events, of which the daemon
//! is told how many were lost, and packets that need user space.

use std::collections::{BTreeMap, VecDeque};

use testudo_cluster::config::Cluster;
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState, Translation};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use crate::clock::Clock;
use crate::options::{Mode, Plant, rule_of};
use crate::translations::Translations;

/// The tick of the coarsest clock that leases may be checked by.
const TICK: u64 = 10_000_000;

/// How many events wait for the daemon at most, so few that they get lost now and then.
const EVENTS: usize = 64;

/// How many packets wait for the daemon at most.
const UPCALLS: usize = 4096;

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its number, which no other has; its hash, too.
    pub id: u64,
    /// The port of its flow's initiator, which is all that flows differ in.
    pub port: u16,
    /// Whether the flow ends with it.
    pub last: bool,
    /// Who has passed it on.
    pub passed_by: Option<NodeId>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was handled.
    Handled,
    /// It waits for the daemon.
    Waits,
    /// It goes on to another node.
    Passed(NodeId),
    /// It was dropped.
    Dropped,
}

/// The kernel's half of a node.
#[derive(Debug)]
pub struct Kernel {
    me: NodeId,
    mode: Mode,
    plant: Plant,
    /// How many rules there are.
    pub rules: usize,
    /// Which flows are translated, and what to.
    pub translations: Translations,
    /// The machine's clock.
    pub clock: Clock,
    /// Until when packets are handled.
    pub lease: Nanos,
    /// The slot of each bucket.
    pub slots: Vec<BucketSlot>,
    /// The flows, by the initiator's port.
    pub flows: BTreeMap<u16, FlowRecord>,
    /// What the daemon has to hear.
    pub events: VecDeque<Event>,
    /// How many events found no room.
    pub events_lost: u64,
    /// Packets for the daemon.
    pub upcalls: VecDeque<Packet>,
    /// Of each bucket, the packets handled since it began to yield.
    pub reported: Vec<Vec<u64>>,
}

impl Kernel {
    /// A kernel that owns nothing.
    #[must_use]
    pub fn new(cluster: &Cluster, clock: Clock, mode: Mode, plant: Plant) -> Self {
        let buckets = cluster.buckets() as usize;
        Self {
            me: cluster.node(),
            mode,
            plant,
            rules: 0,
            translations: Translations::none(),
            clock,
            lease: Nanos(0),
            slots: vec![BucketSlot::VACANT; buckets],
            flows: BTreeMap::new(),
            events: VecDeque::new(),
            events_lost: 0,
            upcalls: VecDeque::new(),
            reported: vec![Vec::new(); buckets],
        }
    }

    /// Whether the lease has not run out, by a clock that lags as far as it may.
    #[must_use]
    pub fn leased(&self, now: u64) -> bool {
        let shown = Nanos(self.clock.read(now).0 / TICK * TICK);
        shown < self.lease || self.plant == Plant::LeaseIgnored && self.lease > Nanos(0)
    }

    /// Whether packets of a bucket are handled here.
    #[must_use]
    pub fn handles(&self, now: u64, bucket: usize) -> bool {
        let slot = self.slots[bucket];
        slot.owner == self.me && slot.state != BucketState::Holding && self.leased(now)
    }

    /// Writes a slot.
    pub fn set_slot(&mut self, bucket: BucketId, mut slot: BucketSlot) {
        let index = usize::from(bucket.0);
        if self.plant == Plant::EpochsOld {
            slot.epoch.0 = u32::MAX - slot.epoch.0;
        }
        let before = std::mem::replace(&mut self.slots[index], slot).state;
        if slot.state == BucketState::Yielding && before != BucketState::Yielding {
            self.reported[index].clear();
        }
    }

    /// Which packets of a bucket were handled since it began to yield.
    pub fn take_reported(&mut self, bucket: BucketId) -> Vec<u64> {
        let packets = std::mem::take(&mut self.reported[usize::from(bucket.0)]);
        if self.plant == Plant::HashesForgotten { Vec::new() } else { packets }
    }

    /// Takes the flows of a bucket out.
    pub fn clear(&mut self, bucket: BucketId) {
        self.flows.retain(|_, record| record.bucket != bucket);
    }

    /// Puts flows in, unless they are known in a newer state.
    pub fn install(&mut self, records: impl Iterator<Item = FlowRecord>) {
        for record in records {
            let port = record.key.initiator.port;
            let known = self.flows.get(&port);
            let mut record = record;
            if self.plant == Plant::TranslationsLost && record.translation.is_some() {
                let taken = |reply: &FlowKey| self.has_reply(usize::from(record.bucket.0), reply);
                let start = u64::from(record.epoch.0);
                record.translation = self.translations.choose(port, start, taken);
            }
            if known.is_none_or(|known| record.supersedes(known)) {
                self.flows.insert(port, record);
            }
        }
    }

    /// The flows of a bucket.
    pub fn of_bucket(&self, bucket: usize) -> impl Iterator<Item = &FlowRecord> {
        self.flows.values().filter(move |record| usize::from(record.bucket.0) == bucket)
    }

    /// The bucket of a packet.
    #[must_use]
    pub fn bucket(&self, packet: &Packet) -> usize {
        usize::from(packet.port) % self.slots.len()
    }

    /// A packet has come by the network.
    pub fn meet(&mut self, now: u64, packet: Packet) -> Fate {
        let bucket = self.bucket(&packet);
        let slot = self.slots[bucket];
        if slot.owner != self.me {
            return self.pass(now, &packet, slot);
        }
        if !self.leased(now) {
            return Fate::Dropped;
        }
        match slot.state {
            BucketState::Holding if self.plant == Plant::HoldingForgotten => Fate::Dropped,
            BucketState::Holding => self.call_up(packet),
            BucketState::Loading if !self.flows.contains_key(&packet.port) => self.call_up(packet),
            // User space chooses.
            _ if self.begins_translated(packet.port) => self.call_up(packet),
            _ => self.handle(packet, |_| false),
        }
    }

    fn pass(&self, now: u64, packet: &Packet, slot: BucketSlot) -> Fate {
        if self.mode != Mode::Steered || slot.owner == NodeId::NONE || !self.leased(now) {
            return Fate::Dropped;
        }
        // Twice only by a node that has just given the bucket away.
        if packet.passed_by.is_some() && slot.previous != self.me {
            return Fate::Dropped;
        }
        Fate::Passed(slot.owner)
    }

    fn call_up(&mut self, packet: Packet) -> Fate {
        if self.upcalls.len() >= UPCALLS {
            return Fate::Dropped;
        }
        self.upcalls.push_back(packet);
        Fate::Waits
    }

    fn begins_translated(&self, port: u16) -> bool {
        self.translations.concern(port) && !self.flows.contains_key(&port)
    }

    /// Whether a translated flow of a bucket has replies of this key.
    fn has_reply(&self, bucket: usize, reply: &FlowKey) -> bool {
        let has =
            |record: &FlowRecord| record.translation.is_some() && record.reply_key() == *reply;
        self.of_bucket(bucket).any(has)
    }

    /// What a flow that begins is translated to: nothing, if it is none of those that are. An error if nothing is left.
    fn translate(
        &self,
        packet: &Packet,
        taken: impl Fn(&FlowKey) -> bool,
    ) -> Result<Option<Translation>, Fate> {
        if !self.translations.concern(packet.port) {
            return Ok(None);
        }
        let bucket = self.bucket(packet);
        let taken = |reply: &FlowKey| self.has_reply(bucket, reply) || taken(reply);
        // Where the search begins is chance, so that a flow which begins twice has not the same replies by itself.
        let chosen = self.translations.choose(packet.port, packet.id.wrapping_mul(7), taken);
        chosen.map(Some).ok_or(Fate::Dropped)
    }

    /// Handles a packet of a bucket that is this node's. `taken`: whether a flow that is not in the kernel has replies of a
    /// key.
    pub fn handle(&mut self, packet: Packet, taken: impl Fn(&FlowKey) -> bool) -> Fate {
        let known = self.flows.contains_key(&packet.port);
        let translation = match known {
            true => None,
            false => match self.translate(&packet, taken) {
                Ok(translation) => translation,
                Err(fate) => return fate,
            },
        };
        let bucket = self.bucket(&packet);
        let slot = self.slots[bucket];
        if slot.state == BucketState::Yielding && self.mode == Mode::Shared {
            self.reported[bucket].push(packet.id);
        }
        let event = match self.flows.get_mut(&packet.port) {
            None => {
                // Sequences belong to places in a table: a new flow's can be below an old one's.
                let sequence = 1 + (packet.id % 5) as u32;
                let rule = rule_of(packet.port, self.slots.len(), self.rules);
                let record = FlowRecord {
                    translation,
                    bucket: BucketId(bucket as u16),
                    epoch: slot.epoch,
                    key: key(packet.port),
                    state: state(Phase::SynSent, sequence, rule),
                };
                self.flows.insert(packet.port, record);
                Event { kind: EventKind::Created, record }
            }
            Some(record) => {
                let phase = if packet.last { Phase::TimeWait } else { Phase::Established };
                record.epoch = slot.epoch;
                record.state = state(phase, record.state.sequence + 1, record.state.rule);
                let kind = if packet.last { EventKind::Closed } else { EventKind::Updated };
                // The kernel tells of a translation once.
                Event { kind, record: FlowRecord { translation: None, ..*record } }
            }
        };
        if self.events.len() < EVENTS {
            self.events.push_back(event);
        } else {
            self.events_lost += 1;
        }
        Fate::Handled
    }
}

fn state(phase: Phase, sequence: u32, rule: u16) -> FlowState {
    FlowState { phase, confirmed: phase == Phase::Established, rule, sequence }
}

/// The key of the flow with this port.
#[must_use]
pub fn key(port: u16) -> FlowKey {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    FlowKey {
        initiator: end(0x0a00_0001, port),
        responder: end(0x0a00_0002, 80),
        protocol: Protocol::TCP,
    }
}
