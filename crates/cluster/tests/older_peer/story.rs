//! What two nodes live through while their stream is recorded, or is replayed from the record.
//!
//! Each end is a replica, or what one said in the record. A replica is told the same at the same
//! point whichever the other end is, so what it says must be what the record has.

use std::sync::Arc;
use std::time::Duration;

use crate::two_nodes;
use testudo_cluster::config::{Cluster, Replicas, Settings, Timing};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::map::Version;
use testudo_cluster::ownership::{Move, Ownership};
use testudo_cluster::replica::{ConnectionId, Effect, Replica, Side};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const NOW: Nanos = Nanos(1_000_000_000);
const TURNS: usize = 10;

/// One end of the stream.
pub enum End {
    Live(Box<Replica>, ConnectionId),
    Recorded,
}

/// Both ends, and all that was said, in turns.
pub struct Story {
    ends: [End; 2],
    /// What the record has, turn by turn; node 1, which dials, speaks first.
    record: Vec<Vec<u8>>,
    pub said: Vec<Vec<u8>>,
    pub effects: [Vec<Effect>; 2],
}

fn cluster(node: u8) -> Arc<Cluster> {
    let (lease, takeover) = (Duration::from_millis(200), Duration::from_millis(260));
    let settings = two_nodes::settings(node);
    two_nodes::cluster(Settings {
        name: "recorded".into(),
        label: "a label".into(),
        buckets: 4,
        replicas: Replicas::All,
        timing: Timing { lease, takeover, ..settings.timing },
        max_flows: 1000,
        ..settings
    })
}

/// The owner of a bucket in the beginning.
fn slot(bucket: u16) -> BucketSlot {
    let owner = NodeId((bucket % 2) as u8);
    let epoch = Epoch(0x100 + u32::from(bucket % 2));
    BucketSlot { owner, previous: NodeId::NONE, state: BucketState::Loading, epoch }
}

/// Flow `number`, in one of the buckets of its owner.
pub fn flow(number: u16, phase: Phase, sequence: u32) -> FlowRecord {
    let (a, b) = match number % 3 {
        0 => ("10.0.0.7", "192.0.2.1"),
        1 => ("2001:db8::7", "2001:db8:1::80"),
        _ => ("10.0.0.9", "2001:db8:1::80"),
    };
    let address = |text: &str| text.parse::<std::net::IpAddr>().expect("an address").into();
    let protocol = [Protocol::TCP, Protocol::UDP, Protocol::ESP, Protocol::ICMP];
    let bucket = BucketId(number % 4);
    FlowRecord {
        translation: None,
        bucket,
        epoch: slot(bucket.0).epoch,
        key: FlowKey {
            initiator: Endpoint { address: address(a), port: 40_000 + number },
            responder: Endpoint { address: address(b), port: 443 },
            protocol: protocol[usize::from(number / 4) % 4],
        },
        state: FlowState { phase, confirmed: phase != Phase::SynSent, rule: number, sequence },
    }
}

impl Story {
    /// `live` says which of the nodes are replicas; the record says what the others say.
    pub fn new(live: [bool; 2], record: &[u8]) -> Self {
        let sides = [Side::Accepted, Side::Dialled(NodeId(0))];
        let end = |node: usize| {
            if !live[node] {
                return End::Recorded;
            }
            let incarnation = Incarnation(node as u64 + 1);
            let mut replica = Replica::new(cluster(node as u8), incarnation);
            let nonce = [node as u8 + 1; 16];
            let connection = replica.handle_connected(NOW, sides[node], nonce);
            End::Live(Box::new(replica), connection.expect("there is room"))
        };
        let record = split(record);
        Self { ends: [end(0), end(1)], record, said: Vec::new(), effects: Default::default() }
    }

    pub fn replica(&self, node: usize) -> Option<&Replica> {
        match &self.ends[node] {
            End::Live(replica, _) => Some(replica),
            End::Recorded => None,
        }
    }

    fn act(&mut self, node: usize, act: impl FnOnce(&mut Replica)) {
        if let End::Live(replica, _) = &mut self.ends[node] {
            act(replica);
            self.effects[node].extend(std::iter::from_fn(|| replica.poll_effect()));
            replica.handle_moves(NOW);
            self.effects[node].extend(std::iter::from_fn(|| replica.poll_effect()));
        }
    }

    fn both(&mut self, act: impl Fn(&mut Replica)) {
        self.act(0, &act);
        self.act(1, &act);
    }

    fn talk(&mut self) {
        for turn in 0..TURNS {
            let speaker = (turn + 1) % 2;
            let message = match &mut self.ends[speaker] {
                End::Live(replica, connection) => {
                    let mut message = Vec::new();
                    replica.poll_transmit(NOW, *connection, &mut message, 1 << 16);
                    message
                }
                End::Recorded => self.record[self.said.len()].clone(),
            };
            if let End::Live(replica, connection) = &mut self.ends[1 - speaker] {
                // In pieces: a stream has no borders.
                let (head, tail) = message.split_at(message.len() / 3);
                replica.handle_bytes(NOW, *connection, head).expect("a peer's bytes");
                replica.handle_bytes(NOW, *connection, tail).expect("a peer's bytes");
            }
            self.act(1 - speaker, |_| ());
            self.said.push(message);
        }
    }

    fn event(&mut self, kind: EventKind, record: FlowRecord) {
        let node = usize::from(record.bucket.0 % 2);
        self.act(node, |replica| {
            replica.handle_event(Nanos(0), Event { kind, record }).expect("an own flow");
        });
    }

    /// All of it.
    pub fn run(&mut self) {
        self.begin();
        self.talk();
        self.change();
        self.talk();
        self.hand_over();
        self.take_back();
    }

    fn begin(&mut self) {
        for node in 0..2 {
            let mine = |&bucket: &u16| usize::from(bucket % 2) == node;
            let slots = |own: bool| {
                let buckets = (0..4u16).filter(move |bucket| mine(bucket) == own);
                buckets.map(|bucket| (BucketId(bucket), slot(bucket))).collect()
            };
            self.act(node, |replica| {
                replica.handle_ownership(Ownership::TakeOver { buckets: slots(true) });
                replica.handle_ownership(Ownership::OwnerChanged { buckets: slots(false) });
                replica.handle_ownership(Ownership::Told { version: Version(1) });
                for bucket in (0..4).filter(mine) {
                    replica.handle_loaded(BucketId(bucket), slot(bucket).epoch);
                }
            });
        }
        for number in 0..16 {
            self.event(EventKind::Created, flow(number, Phase::SynSent, 1));
        }
    }

    fn change(&mut self) {
        for number in 0..16 {
            self.event(EventKind::Updated, flow(number, Phase::Established, 2));
        }
        self.talk();
        for number in 16..20 {
            self.event(EventKind::Created, flow(number, Phase::Unreplied, 70_000));
        }
        for number in 0..4 {
            self.event(EventKind::Closed, flow(number, Phase::TimeWait, 9));
        }
        self.talk();
        for number in 0..4 {
            self.act(usize::from(number % 2), |replica| {
                replica.handle_expired(&flow(number, Phase::TimeWait, 9)).expect("an own flow");
            });
        }
        let letter: Vec<u8> = (0..130).collect();
        self.act(1, |replica| replica.send_letter(NodeId(0), &letter));
        self.act(0, |replica| replica.send_letter(NodeId(1), &[]));
    }

    /// Node 1 hands bucket 1 over to node 0.
    fn hand_over(&mut self) {
        let (bucket, since, epoch) = (BucketId(1), Version(9), Epoch(0x900));
        let moving = Move { to: NodeId(0), since, epoch };
        self.act(1, |replica| {
            replica.handle_ownership(Ownership::Move { buckets: vec![(bucket, Some(moving))] });
        });
        self.talk();
        self.act(1, |replica| {
            replica.handle_yielded(bucket, (1..=7).map(|hash| hash << 50).collect());
            replica
                .handle_event(
                    Nanos(0),
                    Event { kind: EventKind::Updated, record: flow(17, Phase::Replied, 70_001) },
                )
                .expect("an own flow");
            replica.handle_ownership(Ownership::LetGo { buckets: vec![(bucket, epoch)] });
        });
        self.talk();
        let state = BucketState::Loading;
        let slot = BucketSlot { owner: NodeId(0), previous: NodeId(1), state, epoch };
        self.act(0, |replica| {
            replica.handle_ownership(Ownership::TakeOver { buckets: vec![(bucket, slot)] });
            replica.handle_loaded(bucket, epoch);
            let record = FlowRecord { epoch, ..flow(17, Phase::Replied, 70_002) };
            let kind = EventKind::Updated;
            replica.handle_event(Nanos(0), Event { kind, record }).expect("an own flow");
            let record = flow(5, Phase::Established, 2);
            replica.handle_expired(&record).expect("an own flow");
        });
        self.talk();
    }

    /// Node 1 is to hand bucket 3 over, and keeps it after all.
    fn take_back(&mut self) {
        let moving = Move { to: NodeId(0), since: Version(10), epoch: Epoch(0xa00) };
        for moving in [Some(moving), None] {
            self.act(1, |replica| {
                let buckets = vec![(BucketId(3), moving)];
                replica.handle_ownership(Ownership::Move { buckets });
            });
            self.talk();
        }
        self.both(|replica| replica.handle_tick(NOW));
        self.talk();
    }
}

/// The messages of a record: each stands behind its length in four bytes.
pub fn split(mut record: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = record.split_first_chunk::<4>() {
        let (message, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
        messages.push(message.to_vec());
        record = rest;
    }
    messages
}
