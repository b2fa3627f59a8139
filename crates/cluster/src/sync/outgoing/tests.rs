//! What goes first, what waits, and what a peer that does not read costs.

use super::*;
use crate::common_table::Authority;
use crate::keys::Keys;
use testudo_packet::bucket::{BucketState, Epoch};
use testudo_packet::entry::FlowState;
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

const BUCKETS: u32 = 2;
const ME: NodeId = NodeId(0);

fn record(port: u16, sequence: u32) -> FlowRecord {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    FlowRecord {
        translation: None,
        bucket: BucketId(port % BUCKETS as u16),
        epoch: Epoch(1),
        key: FlowKey {
            initiator: end(0x0a00_0001, port),
            responder: end(0x0a00_0002, 80),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 1, sequence },
    }
}

/// A node that owns all buckets, and what it has for one peer.
struct Owner {
    table: CommonTable,
    slots: Vec<BucketSlot>,
    leaving: BTreeMap<BucketId, BucketSlot>,
    outgoing: Outgoing,
}

impl Owner {
    fn new(flows: u16) -> Self {
        let slot = BucketSlot {
            owner: ME,
            previous: NodeId::NONE,
            state: BucketState::Active,
            epoch: Epoch(1),
        };
        let mut owner = Self {
            table: CommonTable::new(Keys::new(b"secret").table, BUCKETS, 1 << 16),
            slots: vec![slot; BUCKETS as usize],
            leaving: BTreeMap::new(),
            outgoing: Outgoing::default(),
        };
        for port in 0..flows {
            owner.table.apply(record(port, 1), Authority::Owner).expect("room");
        }
        owner
    }

    fn change(&mut self, port: u16, sequence: u32) {
        let record = record(port, sequence);
        self.table.apply(record, Authority::Owner).expect("a newer state");
        let slot = self.table.find(record.bucket, &record.key).expect("just put in");
        self.outgoing.change(slot);
    }

    /// The next frames, as many as there are, up to a number.
    fn frames(&mut self, most: usize) -> Vec<Frame> {
        let Self { table, slots, leaving, outgoing } = self;
        let mut out = Vec::new();
        let tells = |_| true;
        let source = Source { me: ME, peer: NodeId(1), table, slots, leaving, tells: &tells };
        outgoing.transmit(source, &mut out, most * FRAME_BYTES);
        out.chunks_exact(FRAME_BYTES).map(|frame| Frame::decode(frame).expect("a frame")).collect()
    }
}

fn is_part(frame: &Frame) -> bool {
    matches!(frame, Frame::Begin { .. } | Frame::Snapshot(_) | Frame::End { .. })
}

#[test]
fn a_snapshot_and_the_stream_of_changes_share() {
    let mut owner = Owner::new(2000);
    owner.outgoing.wanted(BucketId(0));
    let (mut parts, mut changes, mut oldest) = (0, 0, 0);
    for turn in 0u32..400 {
        // As many changes as there is room for beside the snapshot, and one more now and then.
        for number in 0..3 {
            owner.change((turn * 3 + number) as u16 % 2000, turn + 2);
        }
        let frames = owner.frames(4);
        assert_eq!(frames.len(), 4);
        parts += frames.iter().filter(|frame| is_part(frame)).count();
        changes += frames.iter().filter(|frame| matches!(frame, Frame::Upsert(_))).count();
        oldest = oldest.max(owner.outgoing.changed.len());
    }
    assert_eq!((parts, changes), (400, 1200), "one frame in four is the snapshot's");
    assert!(oldest <= 3, "{oldest} changes had to wait");
    // Alone, it takes all there is.
    let rest = owner.frames(10_000);
    assert_eq!(parts + rest.iter().filter(|frame| is_part(frame)).count(), 1002);
}

#[test]
fn nothing_is_compared_before_all_that_is_noted_has_been_told() {
    let mut owner = Owner::new(100);
    owner.outgoing.compare(BucketId(0));
    owner.outgoing.compare(BucketId(1));
    for turn in 0..50 {
        owner.change(turn % 100, 2 + u32::from(turn));
        owner.change(99 - turn % 50, 2 + u32::from(turn));
        // The peer takes less than there is.
        assert!(matches!(owner.frames(1)[..], [Frame::Upsert(_)]));
    }
    let frames = owner.frames(1000);
    let changes = frames.iter().take_while(|frame| matches!(frame, Frame::Upsert(_))).count();
    let [Frame::Check { digest, count, .. }, Frame::Check { .. }] = frames[changes..] else {
        panic!("{frames:?}");
    };
    assert_eq!((digest, count), (owner.table.bucket_digest(BucketId(0)), 50));
}

#[test]
fn a_peer_that_does_not_read_costs_a_place_for_each_flow_and_its_lag_grows() {
    let mut owner = Owner::new(1000);
    let second = |seconds: u64| Nanos(seconds * 1_000_000_000);
    for turn in 0..60u32 {
        for port in 0..1000 {
            owner.change(port, 2 + turn);
        }
        owner.outgoing.stamp(second(u64::from(turn) + 1));
    }
    assert_eq!((owner.outgoing.pending(), owner.outgoing.coalesced()), (1000, 59_000));
    assert_eq!(owner.outgoing.oldest(), Some(second(1)));
    let frames = owner.frames(10_000);
    assert_eq!(frames.len(), 1000);
    let latest = |frame: &Frame| matches!(frame, Frame::Upsert(r) if r.state.sequence == 61);
    assert!(frames.iter().all(latest), "only the latest states go");
    let mut delays = Delays::default();
    assert!(owner.outgoing.acknowledge(second(61), 999, &mut delays));
    assert_eq!(owner.outgoing.oldest(), Some(second(1)));
    assert!(owner.outgoing.acknowledge(second(61), 1000, &mut delays));
    assert_eq!(owner.outgoing.oldest(), None);
    assert!(delays.within(1000) >= Some(std::time::Duration::from_secs(60)));
}
