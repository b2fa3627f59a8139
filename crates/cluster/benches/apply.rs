//! What replicating connections costs: bytes on the stream, records applied in a second, memory.
//!
//! `cargo bench -p testudo-cluster --bench apply`. Two replicas and a stream in memory, one core. A
//! number of connections stands; then others open, are established, close and expire over them, each
//! change in a batch of its own, as when events are drained every millisecond. Only the receiver's time
//! counts as applying; what the sender takes is printed beside it. After `--`, a number says how many
//! connections stand, `--quick` means few; without cargo's `--bench` it is always quick.
//!
//! A run counts only if both tables are equal at its end.

#[path = "../tests/two_nodes/mod.rs"]
mod two_nodes;

use std::sync::Arc;
use std::time::{Duration, Instant};

use testudo_cluster::config::{Cluster, Settings};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{ConnectionId, Replica, Side};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const NOW: Nanos = Nanos(1_000_000_000);
const BUCKETS: u32 = 256;
const EPOCH: Epoch = Epoch(0x101);
/// Connections that open in one batch: 100,000 a second in batches of a millisecond.
const BATCH: u32 = 100;
const WRITE_BYTES: usize = 256 * 1024;

fn cluster(node: u8) -> Arc<Cluster> {
    let settings = two_nodes::settings(node);
    two_nodes::cluster(Settings { buckets: BUCKETS, max_flows: 1 << 22, ..settings })
}

fn flow(number: u32, phase: Phase, sequence: u32) -> FlowRecord {
    let end = |address, port| Endpoint { address: Address::v4(address), port };
    // Buckets as a hash would give them.
    let mixed = number.wrapping_mul(0x9e37_79b1) >> 16;
    FlowRecord {
        translation: None,
        bucket: BucketId((mixed % BUCKETS) as u16),
        epoch: EPOCH,
        key: FlowKey {
            initiator: end(0x0a00_0000 | number >> 14, 1024 + (number & 0x3fff) as u16),
            responder: end(0xc000_0201, 443),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase, confirmed: phase != Phase::SynSent, rule: 1, sequence },
    }
}

struct Pair {
    /// Node 0, which receives, and node 1, which owns all buckets.
    ends: [(Replica, ConnectionId); 2],
    bytes: u64,
    back: u64,
    sending: Duration,
    applying: Duration,
}

impl Pair {
    fn new() -> Self {
        let sides = [Side::Accepted, Side::Dialled(NodeId(0))];
        let slots: Vec<_> = (0..BUCKETS as u16)
            .map(|bucket| {
                let (previous, state) = (NodeId::NONE, BucketState::Loading);
                let slot = BucketSlot { owner: NodeId(1), previous, state, epoch: EPOCH };
                (BucketId(bucket), slot)
            })
            .collect();
        let ends = std::array::from_fn(|node| {
            let mut replica = Replica::new(cluster(node as u8), Incarnation(node as u64 + 1));
            let buckets = slots.clone();
            replica.handle_ownership(if node == 1 {
                Ownership::TakeOver { buckets }
            } else {
                Ownership::OwnerChanged { buckets }
            });
            let nonce = [node as u8 + 1; 16];
            let connection = replica.handle_connected(NOW, sides[node], nonce);
            (replica, connection.expect("there is room"))
        });
        let (sending, applying) = Default::default();
        let mut pair = Self { ends, bytes: 0, back: 0, sending, applying };
        (0..4).for_each(|_| pair.exchange());
        pair
    }

    /// What node 1 has to say, and what node 0 says to that.
    fn exchange(&mut self) {
        let [(receiver, to), (sender, from)] = &mut self.ends;
        let mut out = Vec::new();
        loop {
            let begun = Instant::now();
            out.clear();
            let count = sender.poll_transmit(NOW, *from, &mut out, WRITE_BYTES);
            self.sending += begun.elapsed();
            if count == 0 {
                break;
            }
            self.bytes += count as u64;
            let begun = Instant::now();
            receiver.handle_bytes(NOW, *to, &out).expect("a peer's bytes");
            self.applying += begun.elapsed();
        }
        out.clear();
        self.back += receiver.poll_transmit(NOW, *to, &mut out, WRITE_BYTES) as u64;
        sender.handle_bytes(NOW, *from, &out).expect("a peer's bytes");
        for (replica, _) in &mut self.ends {
            while replica.poll_effect().is_some() {}
        }
    }

    fn event(&mut self, kind: EventKind, record: FlowRecord) {
        let begun = Instant::now();
        self.ends[1].0.handle_event(Nanos(0), Event { kind, record }).expect("an own flow");
        self.sending += begun.elapsed();
    }

    fn expire(&mut self, record: &FlowRecord) {
        let begun = Instant::now();
        self.ends[1].0.handle_expired(record).expect("an own flow");
        self.sending += begun.elapsed();
    }

    fn restart_clocks(&mut self) {
        (self.bytes, self.back) = (0, 0);
        (self.sending, self.applying) = Default::default();
    }

    fn report(&self, what: &str, connections: u32, records: u32) {
        let per = |time: Duration| time.as_nanos() as f64 / f64::from(records);
        println!(
            "{what}: {connections} connections, {records} records: {:.1} bytes a connection \
             (+ {:.1} back), {:.2} M records applied a second ({:.0} ns each), sender {:.0} ns each",
            self.bytes as f64 / f64::from(connections),
            self.back as f64 / f64::from(connections),
            1000.0 / per(self.applying),
            per(self.applying),
            per(self.sending),
        );
    }

    fn check(&self) {
        let [(a, _), (b, _)] = &self.ends;
        assert_eq!((a.table().digest(), a.table().len()), (b.table().digest(), b.table().len()));
        assert_eq!(a.peer(NodeId(1)).rejected, Default::default());
    }
}

/// `connections` that open and stay.
fn stand(pair: &mut Pair, connections: u32) {
    pair.restart_clocks();
    for number in 0..connections {
        pair.event(EventKind::Created, flow(number, Phase::Established, 3));
        if number % BATCH == BATCH - 1 {
            pair.exchange();
        }
    }
    pair.exchange();
    pair.report("standing", connections, connections);
}

/// How many batches lie between two changes of a connection: 100 ms.
const GAP: u32 = 100;

/// Connections that live their whole lives, over many others that do.
fn pass(pair: &mut Pair, from: u32, batches: u32, phases: &[Phase]) {
    pair.restart_clocks();
    let stages = phases.len() as u32;
    for turn in 0..batches + stages * GAP {
        for (stage, &phase) in (0..).zip(phases) {
            let Some(batch) = turn.checked_sub(stage * GAP).filter(|&batch| batch < batches) else {
                continue;
            };
            for number in 0..BATCH {
                let kind = if stage == 0 { EventKind::Created } else { EventKind::Updated };
                pair.event(kind, flow(from + batch * BATCH + number, phase, stage + 1));
            }
        }
        if let Some(batch) = turn.checked_sub(stages * GAP) {
            for number in 0..BATCH {
                let last = phases[phases.len() - 1];
                pair.expire(&flow(from + batch * BATCH + number, last, stages));
            }
        }
        pair.exchange();
    }
    let connections = batches * BATCH;
    pair.report(&format!("{stages} changes and end"), connections, connections * (stages + 1));
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let quick = has("--quick") || !has("--bench");
    let given = arguments.iter().find_map(|argument| argument.parse::<u32>().ok());
    let standing = given.unwrap_or(if quick { 10_000 } else { 1_000_000 });
    let batches = if quick { 100 } else { 10_000 };
    let mut pair = Pair::new();
    stand(&mut pair, standing);
    let memory = |node: usize| pair.ends[node].0.table().memory() as f64 / f64::from(standing);
    println!("common table: {:.1} bytes a flow, sender {:.1}", memory(0), memory(1));
    let folded = [Phase::SynSent, Phase::Established, Phase::TimeWait];
    let all = [
        Phase::SynSent,
        Phase::SynReceived,
        Phase::Established,
        Phase::FinOriginal,
        Phase::LastAck,
        Phase::TimeWait,
    ];
    pass(&mut pair, 1 << 24, batches, &folded);
    pair.check();
    pass(&mut pair, 1 << 25, batches, &all);
    pair.check();
}
