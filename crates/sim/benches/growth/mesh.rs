//! Many replicas in one process, each joined to each by a stream in memory, and connections that live
//! their whole lives at all of them at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use testudo_cluster::config::{Cluster, Replicas, Settings, Timing};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::node_set::NodeSet;
use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{ConnectionId, Replica, Side};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const BUCKETS: u16 = 256;
const EPOCH: Epoch = Epoch(0x101);
const WRITE_BYTES: usize = 256 * 1024;

/// What happens to each connection, one step every [`GAP`] turns; then it is taken out.
const LIFE: [Phase; 3] = [Phase::SynSent, Phase::Established, Phase::TimeWait];
const GAP: u32 = 20;

/// Connections that open at each node in a turn, which stands for a millisecond.
pub const BATCH: u32 = 10;

/// What one node has cost, or all of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Bytes that it has given to its streams.
    pub bytes: u64,
    /// Processor time for what it has told and what it was told.
    pub told: Duration,
    pub heard: Duration,
}

struct Node {
    replica: Replica,
    /// The stream to each peer, by number.
    streams: Vec<Option<ConnectionId>>,
    cost: Cost,
    /// The buckets that it owns.
    own: Vec<BucketId>,
}

/// The nodes.
pub struct Mesh {
    nodes: Vec<Node>,
    turn: u32,
}

fn cluster(nodes: u8, node: u8, replicas: Replicas) -> Arc<Cluster> {
    let settings = Settings {
        name: "growth".into(),
        label: String::new(),
        secret: *b"a cluster secret",
        members: (1..=nodes).map(|number| format!("n{number}")).collect(),
        weights: vec![100; usize::from(nodes)],
        witnesses: NodeSet::default(),
        min_voters: 2,
        node: NodeId(node),
        buckets: u32::from(BUCKETS),
        timing: Timing::default(),
        max_flows: 1 << 20,
        replicas,
    };
    Arc::new(Cluster::new(settings).expect("settings that work"))
}

impl Mesh {
    /// So many nodes that own as many buckets each, have their streams and know each other.
    pub fn new(count: u8, replicas: Replicas) -> Self {
        let nodes = (0..count).map(|number| {
            let mut replica =
                Replica::new(cluster(count, number, replicas), Incarnation(u64::from(number) + 1));
            let slots = |mine: bool| {
                let all = (0..BUCKETS).map(|bucket| (BucketId(bucket), owner(bucket, count)));
                let some = all.filter(|(_, owner)| (*owner == NodeId(number)) == mine);
                let (previous, state) = (NodeId::NONE, BucketState::Loading);
                some.map(|(bucket, owner)| {
                    (bucket, BucketSlot { owner, previous, state, epoch: EPOCH })
                })
                .collect::<Vec<_>>()
            };
            let keepers = (0..BUCKETS).map(|bucket| (BucketId(bucket), keepers(bucket, count)));
            replica.handle_ownership(Ownership::Keepers { buckets: keepers.collect() });
            replica.handle_ownership(Ownership::TakeOver { buckets: slots(true) });
            replica.handle_ownership(Ownership::OwnerChanged { buckets: slots(false) });
            let own: Vec<_> = slots(true).into_iter().map(|(bucket, _)| bucket).collect();
            own.iter().for_each(|&bucket| replica.handle_loaded(bucket, EPOCH));
            let streams = vec![None; usize::from(count)];
            Node { replica, streams, cost: Cost::default(), own }
        });
        let mut mesh = Self { nodes: nodes.collect(), turn: 0 };
        mesh.connect();
        mesh
    }

    fn connect(&mut self) {
        for dialler in 1..self.nodes.len() {
            for acceptor in 0..dialler {
                let ends = [
                    (acceptor, dialler, Side::Accepted),
                    (dialler, acceptor, Side::Dialled(NodeId(acceptor as u8))),
                ];
                for (node, peer, side) in ends {
                    let nonce = [(node * 32 + peer) as u8; 16];
                    let Node { replica, streams, .. } = &mut self.nodes[node];
                    let connection = replica.handle_connected(moment(0), side, nonce);
                    streams[peer] = Some(connection.expect("there is room"));
                }
            }
        }
        (0..6).for_each(|_| self.exchange());
        let all = (0..self.nodes.len()).flat_map(|a| (0..self.nodes.len()).map(move |b| (a, b)));
        for (a, b) in all.filter(|(a, b)| a != b) {
            assert!(self.nodes[a].replica.peer(NodeId(b as u8)).connected, "{a} and {b}");
        }
    }

    /// All that each node has to say, heard by the others.
    fn exchange(&mut self) {
        let mut bytes = Vec::new();
        for from in 0..self.nodes.len() {
            for to in 0..self.nodes.len() {
                let Some(stream) = self.nodes[from].streams[to] else { continue };
                let now = moment(self.turn);
                bytes.clear();
                let Node { replica, cost, .. } = &mut self.nodes[from];
                let begun = Instant::now();
                let count = replica.poll_transmit(now, stream, &mut bytes, WRITE_BYTES);
                cost.told += begun.elapsed();
                cost.bytes += count as u64;
                let stream = self.nodes[to].streams[from].expect("both ends are there");
                let Node { replica, cost, .. } = &mut self.nodes[to];
                let begun = Instant::now();
                replica.handle_bytes(now, stream, &bytes).expect("a peer's bytes");
                cost.heard += begun.elapsed();
                while replica.poll_effect().is_some() {}
            }
        }
    }

    /// Connections go on at all nodes for so many turns; new ones open if `opens`.
    fn live(&mut self, turns: u32, opens: std::ops::Range<u32>) {
        for _ in 0..turns {
            self.turn += 1;
            for number in 0..self.nodes.len() {
                let Node { replica, cost, own, .. } = &mut self.nodes[number];
                let begun = Instant::now();
                for stage in 0..=LIFE.len() {
                    let Some(opened) = self.turn.checked_sub(stage as u32 * GAP) else { continue };
                    if !opens.contains(&opened) {
                        continue;
                    }
                    for one in 0..BATCH {
                        step(replica, moment(self.turn), own, opened * BATCH + one, stage);
                    }
                }
                cost.told += begun.elapsed();
            }
            self.exchange();
        }
    }

    /// What a node costs for each connection that it handles, as the mean of all nodes, when connections
    /// open at all of them.
    pub fn measure(&mut self, turns: u32) -> Cost {
        let rest = (LIFE.len() as u32 + 1) * GAP;
        // Memory is taken and references are given before anything counts.
        let first = self.turn + 1;
        self.live(rest * 2, first..first + rest);
        self.nodes.iter_mut().for_each(|node| node.cost = Cost::default());
        let first = self.turn + 1;
        self.live(turns + rest, first..first + turns);
        (0..4).for_each(|_| self.exchange());
        self.check();
        let connections = turns * BATCH * self.nodes.len() as u32;
        let sum = self.nodes.iter().fold(Cost::default(), |sum, node| Cost {
            bytes: sum.bytes + node.cost.bytes,
            told: sum.told + node.cost.told,
            heard: sum.heard + node.cost.heard,
        });
        Cost {
            bytes: sum.bytes / u64::from(connections),
            told: sum.told / connections,
            heard: sum.heard / connections,
        }
    }

    /// Nothing is left, nothing was refused, nobody is behind.
    fn check(&self) {
        for Node { replica, streams, .. } in &self.nodes {
            assert_eq!(replica.table().len(), 0);
            for (peer, _) in streams.iter().enumerate().filter(|(_, stream)| stream.is_some()) {
                let status = replica.peer(NodeId(peer as u8));
                assert_eq!(status.rejected, Default::default());
                assert_eq!(status.pending, 0, "all was acknowledged");
            }
        }
    }
}

fn moment(turn: u32) -> Nanos {
    Nanos(1_000_000 * (1_000 + u64::from(turn)))
}

fn owner(bucket: u16, nodes: u8) -> NodeId {
    NodeId((bucket % u16::from(nodes)) as u8)
}

/// Who keeps a bucket where two successors do: the owners of a node's buckets have different ones.
fn keepers(bucket: u16, nodes: u8) -> NodeSet {
    let (nodes, owner) = (u16::from(nodes), bucket % u16::from(nodes));
    let others = nodes - 1;
    let turn = bucket / nodes;
    let successors = (0..2.min(others)).map(|rank| (owner + 1 + (turn + rank) % others) % nodes);
    successors.chain([owner]).map(|node| NodeId(node as u8)).collect()
}

/// One step in the life of a connection of a node's.
fn step(replica: &mut Replica, now: Nanos, own: &[BucketId], number: u32, stage: usize) {
    let bucket = own[number as usize % own.len()];
    let end = |address, port| Endpoint { address: Address::v4(address), port };
    let state = |phase, sequence| FlowState {
        phase,
        confirmed: phase != Phase::SynSent,
        rule: 1,
        sequence,
    };
    let last = LIFE.len() - 1;
    let record = FlowRecord {
        translation: None,
        bucket,
        epoch: EPOCH,
        key: FlowKey {
            initiator: end(0x0a00_0000 | number >> 14, 1024 + (number & 0x3fff) as u16),
            responder: end(0xc000_0201, 443),
            protocol: Protocol::TCP,
        },
        state: state(LIFE[stage.min(last)], 1 + stage.min(last) as u32),
    };
    if stage <= last {
        let kind = if stage == 0 { EventKind::Created } else { EventKind::Updated };
        replica.handle_event(now, Event { kind, record }).expect("an own flow");
    } else {
        replica.handle_expired(&record).expect("an own flow");
    }
}
