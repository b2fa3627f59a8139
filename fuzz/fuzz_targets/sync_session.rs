//! A member of the cluster that says anything: a replica behind a valid handshake, fed any bytes.
//!
//! The first byte of an input chooses the version. The peer's handshake of version 2 is that of the
//! recorded stream of the release before; that of version 3 is a second replica's. The rest is a run of
//! records: a byte that says what happens, one that says how much, and for bytes of the peer, those. A
//! mutation of one of them leaves the others what they were.
//!
//! After each step: the table is in step with its buckets' lists, and within its bound; batches are no
//! longer than asked for; after an error the session is over.

#![no_main]

#[path = "../../crates/cluster/tests/two_nodes/mod.rs"]
mod two_nodes;

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use testudo_cluster::config::{Cluster, Settings, Timing};
use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::map::Version;
use testudo_cluster::ownership::{Move, Ownership};
use testudo_cluster::replica::{ConnectionId, Effect, Replica, Side, SyncError};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const NOW: Nanos = Nanos(1_000_000_000);
const BUCKETS: u16 = 4;
const MAX_FLOWS: usize = 24;
/// What a stream takes at once.
const ROOM: usize = 512;

/// Both ends' hellos, then proofs and identities, as the release before has said them.
const OLDER: &[u8] = include_bytes!("../../crates/cluster/tests/older_peer/version-2.stream");
/// How much of the record's first messages of the dialler is its handshake.
const DIALLER: [usize; 3] = [32, 16, 168];

struct Fuzzed {
    replica: Replica,
    connection: ConnectionId,
    /// The peer, where it is one of ours.
    peer: Option<(Replica, ConnectionId)>,
    epoch: u32,
    over: bool,
}

fuzz_target!(|input: &[u8]| {
    let Some((&version, mut rest)) = input.split_first() else { return };
    let mut fuzzed = Fuzzed::new(version & 1 == 0);
    while let Some((&[what, much], behind)) = rest.split_first_chunk::<2>() {
        rest = behind;
        match what & 7 {
            0..=3 => {
                let (bytes, behind) = rest.split_at(usize::from(much).min(rest.len()));
                rest = behind;
                fuzzed.hear(bytes);
            }
            4 => fuzzed.peer_says(what, much),
            5 if what & 0x18 == 0x18 => fuzzed.determine(what, much),
            5 => fuzzed.own_event(what, much),
            6 => fuzzed.change_owner(what, much),
            _ => fuzzed.speak(),
        }
        fuzzed.check();
    }
    fuzzed.speak();
    fuzzed.check();
});

fn cluster(node: u8) -> Arc<Cluster> {
    let (lease, takeover) =
        (std::time::Duration::from_millis(200), std::time::Duration::from_millis(260));
    let settings = two_nodes::settings(node);
    two_nodes::cluster(Settings {
        name: "recorded".into(),
        label: "a label".into(),
        buckets: u32::from(BUCKETS),
        timing: Timing { lease, takeover, ..settings.timing },
        max_flows: MAX_FLOWS,
        ..settings
    })
}

fn slot(owner: u8, epoch: u32) -> BucketSlot {
    let (previous, state) = (NodeId::NONE, BucketState::Loading);
    BucketSlot { owner: NodeId(owner), previous, state, epoch: Epoch(epoch) }
}

/// Buckets 0 and 2 are node 0's.
fn replica(node: u8, side: Side) -> (Replica, ConnectionId) {
    let mut replica = Replica::new(cluster(node), Incarnation(u64::from(node) + 1));
    let buckets = |own: bool| {
        let buckets = (0..BUCKETS).filter(|bucket| (bucket % 2 == u16::from(node)) == own);
        buckets.map(|bucket| (BucketId(bucket), slot((bucket % 2) as u8, 1))).collect()
    };
    replica.handle_ownership(Ownership::TakeOver { buckets: buckets(true) });
    replica.handle_ownership(Ownership::OwnerChanged { buckets: buckets(false) });
    let connection = replica.handle_connected(NOW, side, [node + 1; 16]);
    (replica, connection.expect("there is room"))
}

fn record(bucket: u16, number: u8, epoch: u32) -> FlowRecord {
    let address = |low| testudo_packet::flow::Address { high: 1 << 60, low };
    let end = |low, port| Endpoint { address: address(low), port };
    FlowRecord {
        translation: None,
        bucket: BucketId(bucket),
        epoch: Epoch(epoch),
        key: FlowKey {
            initiator: end(5, 1000 + u16::from(number & 31)),
            responder: end(6, 80),
            protocol: Protocol::TCP,
        },
        state: FlowState {
            phase: Phase::Established,
            confirmed: true,
            rule: u16::from(number >> 7),
            sequence: epoch,
        },
    }
}

impl Fuzzed {
    fn new(older: bool) -> Self {
        let (replica, connection) = replica(0, Side::Accepted);
        let mut fuzzed = Self { replica, connection, peer: None, epoch: 1, over: false };
        if older {
            let mut record = OLDER;
            let mut handshake = DIALLER.iter();
            for turn in 0..5 {
                let (length, rest) = record.split_first_chunk::<4>().expect("a message");
                let (message, rest) = rest.split_at(u32::from_le_bytes(*length) as usize);
                record = rest;
                if turn % 2 == 0 {
                    let length = *handshake.next().expect("three messages");
                    fuzzed.hear(&message[..length]);
                }
                fuzzed.speak();
            }
        } else {
            fuzzed.peer = Some(self::replica(1, Side::Dialled(NodeId(0))));
            (0..4).for_each(|_| fuzzed.peer_says(0, 0));
        }
        assert!(fuzzed.replica.is_open(fuzzed.connection));
        fuzzed
    }

    fn hear(&mut self, bytes: &[u8]) {
        match self.replica.handle_bytes(NOW, self.connection, bytes) {
            Ok(()) => assert!(!self.over),
            Err(error) => {
                assert!(!self.over || error == SyncError::NotOpen);
                self.over = true;
            }
        }
    }

    /// What this node says; a peer of ours listens.
    fn speak(&mut self) {
        let mut out = Vec::new();
        let said = self.replica.poll_transmit(NOW, self.connection, &mut out, ROOM);
        assert_eq!(said, out.len());
        assert!(said <= ROOM);
        if let Some((peer, connection)) = &mut self.peer {
            // It may have heard nonsense of us in answer to nonsense.
            let _ = peer.handle_bytes(NOW, *connection, &out);
        }
    }

    /// The peer has something true to say, of which a byte may be lost.
    fn peer_says(&mut self, what: u8, much: u8) {
        let Some((peer, connection)) = &mut self.peer else { return };
        let bucket = if what & 8 == 0 { 1 } else { 3 };
        self.epoch += 1;
        let record = record(bucket, much, self.epoch);
        let event = Event { kind: EventKind::Updated, record };
        // A full table refuses it.
        let _ = peer.handle_event(Nanos(0), event);
        if what & 16 != 0 {
            let _ = peer.handle_expired(&record);
        }
        let mut out = Vec::new();
        peer.poll_transmit(NOW, *connection, &mut out, ROOM);
        if what & 0xe0 == 0xe0 && !out.is_empty() {
            out.remove(usize::from(much) % out.len());
        }
        while peer.poll_effect().is_some() {}
        let (head, tail) = out.split_at(usize::from(much) % (out.len() + 1));
        self.hear(head);
        if !self.over {
            self.hear(tail);
        }
        self.speak();
    }

    fn own_event(&mut self, what: u8, much: u8) {
        self.epoch += 1;
        let record = record(u16::from(what >> 3) % BUCKETS, much, self.epoch);
        if what & 0x80 == 0 {
            let _ = self.replica.handle_event(Nanos(0), Event { kind: EventKind::Updated, record });
        } else {
            let _ = self.replica.handle_expired(&record);
        }
    }

    /// This node learns of a flow, of whomever its bucket is.
    fn determine(&mut self, what: u8, much: u8) {
        let flow = record(u16::from(what >> 5) % BUCKETS, much, 0);
        let _ = self.replica.determine(NOW, flow, std::time::Duration::from_secs(1));
    }

    fn do_effects(&mut self) {
        while let Some(effect) = self.replica.poll_effect() {
            if let Effect::Place { wish, record } = effect
                && let Some(placed) = self.replica.place(NOW, wish, record, None)
                && placed.key.initiator.port % 2 == 0
            {
                self.replica.handle_not_placed(NOW, wish, &placed);
            }
        }
    }

    fn change_owner(&mut self, what: u8, much: u8) {
        self.epoch += 1;
        let bucket = BucketId(u16::from(what >> 3) % BUCKETS);
        let (since, epoch) = (Version(u64::from(much)), Epoch(self.epoch));
        let change = match much % 5 {
            0 => Ownership::TakeOver { buckets: vec![(bucket, slot(0, self.epoch))] },
            1 => Ownership::OwnerChanged { buckets: vec![(bucket, slot(1, self.epoch))] },
            2 => {
                let moving = Move { to: NodeId(1), since, epoch };
                Ownership::Move { buckets: vec![(bucket, Some(moving))] }
            }
            3 => Ownership::Move { buckets: vec![(bucket, None)] },
            _ => {
                self.replica.handle_yielded(bucket, vec![1, 2, 3]);
                // Of the move that may have been told just before.
                Ownership::LetGo { buckets: vec![(bucket, Epoch(self.epoch - 1))] }
            }
        };
        self.replica.handle_ownership(change);
        self.replica.handle_loaded(bucket, epoch);
    }

    fn check(&mut self) {
        self.do_effects();
        self.replica.handle_moves(NOW);
        self.replica.handle_determining(NOW);
        self.do_effects();
        let table = self.replica.table();
        assert!(table.len() <= MAX_FLOWS);
        assert_eq!(table.iter().count(), table.len());
        let buckets = (0..BUCKETS).map(BucketId);
        let counted: u32 = buckets.clone().map(|bucket| table.count(bucket)).sum();
        assert_eq!(counted as usize, table.len());
        let digests = buckets.map(|bucket| table.bucket_digest(bucket));
        assert_eq!(digests.fold(0, u64::wrapping_add), table.digest());
        assert_eq!(self.replica.is_open(self.connection), !self.over);
    }
}
