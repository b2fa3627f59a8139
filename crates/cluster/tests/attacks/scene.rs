//! The cluster that is attacked: three nodes, and a stream between each two of them.
//!
//! ```text
//!   n0 ◄── n1 ◄── n2
//!    ▲             │      who dials whom
//!    └─────────────┘
//! ```
//!
//! Node 1 is attacked: from outside, or on its stream with node 2, by somebody who can put bytes into that
//! stream, or by node 2 itself. Node 0 is honest, and its stream with node 1 is nobody's but theirs.
//! Clock and nonces are the same in every scene, so what was recorded in one fits into the next.

use std::sync::Arc;

use testudo_cluster::config::{Cluster, Settings};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::map::Version;
use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{
    ConnectionId, Effect, MoveCounters, Rejected, Replica, Side, SyncError,
};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

use crate::two_nodes;

pub const NOW: Nanos = Nanos(1_000_000_000);
pub const BUCKETS: u16 = 8;
pub const MAX_FLOWS: usize = 100;

/// Who is attacked; the honest node; the node whose stream or name the attacker uses.
pub const VICTIM: usize = 1;
pub const HONEST: usize = 0;
pub const PEER: usize = 2;

/// The nonces of whoever opens a stream to the victim, and of the victim there.
pub const OUTSIDER_NONCE: [u8; 16] = [0xc3; 16];
pub const VICTIM_NONCE: [u8; 16] = [0xa1; 16];

/// The life that the heartbeats of a node are heard of.
const fn life(node: usize) -> Incarnation {
    Incarnation(node as u64 + 11)
}

pub fn settings(node: usize) -> Settings {
    Settings {
        name: "attacked".into(),
        members: ["n0", "n1", "n2"].map(str::to_owned).to_vec(),
        weights: vec![100; 3],
        min_voters: 2,
        node: NodeId(node as u8),
        buckets: BUCKETS.into(),
        max_flows: MAX_FLOWS,
        ..two_nodes::settings(0)
    }
}

pub fn cluster(settings: Settings) -> Arc<Cluster> {
    two_nodes::cluster(settings)
}

pub const fn owner(bucket: u16) -> usize {
    [0, 0, 1, 1, 1, 2, 2, 2][bucket as usize]
}

pub fn epoch(bucket: u16) -> Epoch {
    Epoch(0x100 + owner(bucket) as u32)
}

/// Flow `number`; bucket 7 has none in the beginning.
pub fn flow(number: u16, phase: Phase, sequence: u32) -> FlowRecord {
    let bucket = number % BUCKETS;
    let wide = |last| Address { high: 0x2001_0db8 << 32, low: last };
    let (from, to) = match number % 5 {
        0 => (wide(7), wide(0x80)),
        _ => (Address::v4(0x0a00_0001), Address::v4(0xc000_0201)),
    };
    FlowRecord {
        translation: None,
        bucket: BucketId(bucket),
        epoch: epoch(bucket),
        key: FlowKey {
            initiator: Endpoint { address: from, port: 40_000 + number },
            responder: Endpoint { address: to, port: 443 },
            protocol: Protocol::TCP,
        },
        state: FlowState { phase, confirmed: phase != Phase::SynSent, rule: 1, sequence },
    }
}

/// A stream between two nodes, and what both have said on it, in turns.
struct Link {
    /// Who has dialled, and who was dialled.
    ends: [(usize, ConnectionId); 2],
    said: [Vec<Vec<u8>>; 2],
}

pub struct Scene {
    pub nodes: [Replica; 3],
    links: Vec<Link>,
}

/// All of a node that an attack could change.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    flows: Vec<FlowRecord>,
    digest: u64,
    digests: Vec<(u64, u32)>,
    pub slots: Vec<BucketSlot>,
    incomplete: Vec<BucketId>,
    synced: Option<Version>,
    moves: MoveCounters,
    letters_lost: u64,
    /// Of the honest peer: whether its stream is open, and what was refused on it.
    honest: (bool, Rejected),
}

impl Seen {
    /// Whether this is the same, but for buckets of which the node waits for the owner's word.
    pub fn is_but_for_doubts(&self, other: &Self) -> bool {
        let (incomplete, synced) = (other.incomplete.clone(), other.synced);
        Self { incomplete, synced, ..self.clone() } == *other
    }

    /// The flows of a bucket.
    pub fn flows_of(&self, bucket: u16) -> Vec<FlowRecord> {
        self.flows.iter().filter(|record| record.bucket.0 == bucket).copied().collect()
    }
}

impl Scene {
    pub fn new() -> Self {
        Self::with_room_for(MAX_FLOWS)
    }

    /// Each node has room for so many flows.
    pub fn with_room_for(max_flows: usize) -> Self {
        let nodes = std::array::from_fn(|node| begin(node, max_flows));
        let mut scene = Self { nodes, links: Vec::new() };
        for (generation, [dials, dialled]) in [[1, 0], [2, 0], [2, 1]].into_iter().enumerate() {
            scene.connect(dials, dialled, generation as u8);
        }
        scene.talk();
        for number in (0..14).filter(|number| number % BUCKETS != 7) {
            scene.event(flow(number, Phase::SynSent, 1));
        }
        scene.talk();
        for number in (0..14).filter(|number| number % BUCKETS != 7) {
            scene.event(flow(number, Phase::Established, 2));
        }
        scene.talk();
        scene.nodes.iter_mut().for_each(|node| node.handle_tick(NOW));
        scene.talk();
        (0..3).for_each(|node| drop(scene.effects(node)));
        scene
    }

    fn connect(&mut self, dials: usize, dialled: usize, generation: u8) {
        let nonce = |node| [0x10 * (node as u8 + 1) + generation; 16];
        let sides = [(dials, Side::Dialled(NodeId(dialled as u8))), (dialled, Side::Accepted)];
        let ends = sides.map(|(node, side)| {
            let connection = self.nodes[node].handle_connected(NOW, side, nonce(node));
            (node, connection.expect("there is room"))
        });
        self.links.push(Link { ends, said: Default::default() });
    }

    /// What one node has said to another, in turns.
    pub fn said(&self, from: usize, to: usize) -> &[Vec<u8>] {
        let index = self.link(from, to);
        let link = &self.links[index];
        &link.said[usize::from(link.ends[0].0 != from)]
    }

    fn link(&self, a: usize, b: usize) -> usize {
        let is = |link: &Link| {
            let ends = link.ends.map(|(node, _)| node);
            ends.contains(&a) && ends.contains(&b)
        };
        self.links.iter().rposition(is).expect("nodes with a stream")
    }

    /// The victim's end of its stream with a node.
    pub fn connection(&self, with: usize) -> ConnectionId {
        let link = &self.links[self.link(VICTIM, with)];
        let end = link.ends.iter().find(|(node, _)| *node == VICTIM);
        end.expect("it is the victim's").1
    }

    pub fn event(&mut self, record: FlowRecord) {
        let kind = EventKind::Updated;
        let owner = owner(record.bucket.0);
        self.nodes[owner].handle_event(NOW, Event { kind, record }).expect("an own flow");
    }

    /// What the driver of a node would have to do.
    pub fn effects(&mut self, node: usize) -> Vec<Effect> {
        let replica = &mut self.nodes[node];
        let mut effects: Vec<_> = std::iter::from_fn(|| replica.poll_effect()).collect();
        replica.handle_moves(NOW);
        replica.handle_determining(NOW);
        effects.extend(std::iter::from_fn(|| replica.poll_effect()));
        effects
    }

    /// Says what there is to say on one stream, in both directions; whether there was anything.
    fn exchange(&mut self, index: usize) -> bool {
        let link = &mut self.links[index];
        let mut any = false;
        for from in [0, 1] {
            let ((speaker, out), (hearer, into)) = (link.ends[from], link.ends[1 - from]);
            let mut bytes = Vec::new();
            self.nodes[speaker].poll_transmit(NOW, out, &mut bytes, 1 << 20);
            if !bytes.is_empty() {
                let heard = self.nodes[hearer].handle_bytes(NOW, into, &bytes);
                heard.unwrap_or_else(|error| panic!("{speaker} to {hearer}: {error}"));
                link.said[from].push(bytes);
                any = true;
            }
        }
        any
    }

    /// Until nobody has anything to say.
    pub fn talk(&mut self) {
        while (0..self.links.len()).any(|index| self.exchange(index)) {}
    }

    /// As [`Self::talk`], without the stream that is attacked. Gives how often the victim asked its
    /// honest peer for all of a bucket.
    pub fn talk_among_the_honest(&mut self) -> usize {
        let (from, attacked) = (self.said(VICTIM, HONEST).len(), self.link(VICTIM, PEER));
        let others: Vec<_> = (0..self.links.len()).filter(|&index| index != attacked).collect();
        while others.iter().any(|&index| self.exchange(index)) {}
        self.said(VICTIM, HONEST)[from..].iter().map(|bytes| crate::wants(bytes)).sum()
    }

    /// The stream that was attacked ends, and node 2 dials again.
    pub fn peer_comes_back(&mut self) {
        let link = self.links.remove(self.link(VICTIM, PEER));
        for (node, connection) in link.ends {
            self.nodes[node].handle_closed(connection);
        }
        self.connect(PEER, VICTIM, 9);
        self.talk();
    }

    /// Somebody opens a stream to the victim, or is dialled by it.
    pub fn open(&mut self, side: Side) -> ConnectionId {
        let connection = self.nodes[VICTIM].handle_connected(NOW, side, VICTIM_NONCE);
        connection.expect("there is room")
    }

    pub fn hears(&mut self, connection: ConnectionId, bytes: &[u8]) -> Result<(), SyncError> {
        self.nodes[VICTIM].handle_bytes(NOW, connection, bytes)
    }

    pub fn rejected(&self) -> Rejected {
        self.nodes[VICTIM].peer(NodeId(PEER as u8)).rejected
    }

    pub fn seen(&self, node: usize) -> Seen {
        let (replica, honest) = (&self.nodes[node], NodeId(HONEST as u8));
        let buckets = || (0..BUCKETS).map(BucketId);
        let mut flows: Vec<_> = replica.table().iter().collect();
        flows.sort_by_key(|record| record.key.initiator.port);
        let digest =
            |bucket| (replica.table().bucket_digest(bucket), replica.table().count(bucket));
        Seen {
            flows,
            digest: replica.table().digest(),
            digests: buckets().map(digest).collect(),
            slots: buckets().map(|bucket| replica.slot(bucket)).collect(),
            incomplete: replica.incomplete().collect(),
            synced: replica.synced(),
            moves: replica.move_counters(),
            letters_lost: replica.letters_lost(),
            honest: (replica.peer(honest).connected, replica.peer(honest).rejected),
        }
    }

    /// Honest nodes go on as before, and in the end all three know the same.
    pub fn check_that_all_goes_on(&mut self) {
        for number in [8, 10] {
            self.event(flow(number, Phase::FinOriginal, 3));
        }
        self.event(flow(16, Phase::SynSent, 1));
        self.talk_among_the_honest();
        let known = |node: usize| self.seen(node).flows;
        assert_eq!(known(VICTIM), known(HONEST), "the stream with the honest node");
        assert!(known(VICTIM).contains(&flow(16, Phase::SynSent, 1)));
        self.peer_comes_back();
        self.event(flow(7, Phase::SynSent, 1));
        self.event(flow(5, Phase::FinOriginal, 3));
        self.talk();
        let [a, b, c] = [0, 1, 2].map(|node| (self.seen(node).flows, self.seen(node).digests));
        assert_eq!(a, b);
        assert_eq!(b, c);
        assert!(self.seen(VICTIM).incomplete.is_empty());
        for peer in [HONEST, PEER] {
            let comparisons = self.nodes[VICTIM].peer(NodeId(peer as u8)).comparisons;
            assert_eq!(comparisons.diverged, 0, "node {peer}");
        }
    }
}

/// A node that knows who owns what, and of which life its peers are.
fn begin(node: usize, max_flows: usize) -> Replica {
    let settings = Settings { max_flows, ..settings(node) };
    let mut replica = Replica::new(cluster(settings), life(node));
    let slots = |own: bool| {
        let buckets = (0..BUCKETS).filter(move |&bucket| (owner(bucket) == node) == own);
        let slot = |bucket| BucketSlot {
            owner: NodeId(owner(bucket) as u8),
            previous: NodeId::NONE,
            state: BucketState::Loading,
            epoch: epoch(bucket),
        };
        buckets.map(|bucket| (BucketId(bucket), slot(bucket))).collect()
    };
    replica.handle_ownership(Ownership::TakeOver { buckets: slots(true) });
    replica.handle_ownership(Ownership::OwnerChanged { buckets: slots(false) });
    for peer in (0..3).filter(|&peer| peer != node) {
        replica.handle_ownership(Ownership::Life { node: NodeId(peer as u8), life: life(peer) });
    }
    replica.handle_ownership(Ownership::Told { version: Version(1) });
    for bucket in (0..BUCKETS).filter(|&bucket| owner(bucket) == node) {
        replica.handle_loaded(BucketId(bucket), epoch(bucket));
    }
    replica
}

const HELLO: usize = 32;
const PROOF: usize = 16;

/// What a dialler says, message by message, while it comes to know the victim on a new stream, if on the
/// way the words of both are changed like this: by who speaks (0: the dialler), and in which turn.
pub fn handshake(
    settings: Settings,
    incarnation: Incarnation,
    change: impl Fn(usize, usize, &mut Vec<u8>),
) -> Vec<Vec<u8>> {
    let mut scene = Scene::new();
    let mut outsider = Replica::new(cluster(settings), incarnation);
    let side = Side::Dialled(NodeId(VICTIM as u8));
    let out = outsider.handle_connected(NOW, side, OUTSIDER_NONCE).expect("there is room");
    let into = scene.open(Side::Accepted);
    let mut said = Vec::new();
    for turn in 0..4 {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        scene.nodes[VICTIM].poll_transmit(NOW, into, &mut theirs, 1 << 16);
        outsider.poll_transmit(NOW, out, &mut ours, 1 << 16);
        change(0, turn, &mut ours);
        change(1, turn, &mut theirs);
        // Who the victim is, it need not know: it would refuse the victim before it is refused.
        theirs.truncate(if turn == 0 { HELLO } else { PROOF });
        // Either may refuse the other: what has been said until then is what there is.
        let _refused = outsider.handle_bytes(NOW, out, &theirs).is_err();
        let _refused = scene.hears(into, &ours).is_err();
        said.push(ours);
    }
    said.retain(|message| !message.is_empty());
    said
}
