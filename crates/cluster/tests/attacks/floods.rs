//! Too much of everything: connections, requests, references, flows, bytes that mean nothing. Each has a
//! bound, and what was there stays.

use std::sync::{Mutex, MutexGuard, PoisonError};

use testudo_cluster::replica::{Effect, Side, SyncError};
use testudo_cluster::sync::frame::Frame;
use testudo_cluster::sync::layout::{HEAD_BYTES, Head, Item, kind};
use testudo_cluster::sync::references::{MAX_REFERENCES, Reference};
use testudo_packet::bucket::{BucketId, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use crate::scene::{MAX_FLOWS, NOW, PEER, Scene, VICTIM, epoch, flow};
use crate::{item, strip};

/// Streams that may be open beside one for each node.
const STRANGERS: usize = 16;

/// What the process has in memory, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its size");
    let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024
}

/// What takes or measures memory has the process for itself.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Items of one kind and size, in frames as large as may be.
fn frames(kind: u8, items: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for items in items.chunks(usize::from(u16::MAX)) {
        let head = Head { kind, size: items[0].len() as u8, count: items.len() as u16 };
        bytes.extend(head.to_bytes());
        items.iter().for_each(|item| bytes.extend(item));
    }
    bytes
}

/// A flow that there is not, of a bucket.
fn another(number: usize, bucket: u16) -> FlowRecord {
    let mut record = flow(bucket + 8, Phase::SynSent, 1);
    record.bucket = BucketId(bucket);
    record.epoch = epoch(bucket);
    record.key.initiator.port = number as u16;
    record.key.responder.port = 1000 + (number >> 16) as u16;
    record
}

/// Requests to let flows in.
fn requests(count: usize, bucket: u16) -> Vec<u8> {
    let request = |number: usize| {
        let record = FlowRecord { epoch: Default::default(), ..another(number, bucket) };
        let item = Item::Frame(Frame::Determine { number: number as u32, record });
        let mut bytes = Vec::new();
        item.put(&mut bytes);
        (item.kind(), bytes)
    };
    let requests: Vec<_> = (0..count).map(request).collect();
    let kind = requests[0].0;
    frames(kind, &requests.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>())
}

/// Does what the driver would: tries to let in whatever a peer wants let in. Gives how many flows would
/// have come into the node table.
fn let_in(scene: &mut Scene) -> usize {
    let mut placed = 0;
    for effect in scene.effects(VICTIM) {
        let Effect::Place { wish, record } = effect else { panic!("{effect:?}") };
        placed += usize::from(scene.nodes[VICTIM].place(NOW, wish, record, None).is_some());
    }
    placed
}

/// How many answers of each kind the victim gives to requests.
fn answers(scene: &mut Scene) -> [usize; 5] {
    let (connection, mut bytes) = (scene.connection(PEER), Vec::new());
    scene.nodes[VICTIM].poll_transmit(NOW, connection, &mut bytes, usize::MAX);
    let mut answers = [0; 5];
    for (head, item) in strip(&bytes) {
        if head.kind == kind::DETERMINED {
            answers[usize::from(item[4])] += 1;
        }
    }
    answers
}

#[test]
fn connections_beyond_the_limit_are_refused_and_the_others_stay() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let open = |scene: &mut Scene| {
        let opened = (0..100)
            .map(|number| scene.nodes[VICTIM].handle_connected(NOW, Side::Accepted, [number; 16]));
        opened.collect::<Vec<_>>()
    };
    // Two of the streams are those with both peers.
    let room = 3 + STRANGERS - 2;
    let opened = open(&mut scene);
    assert_eq!(opened.iter().filter(|opened| opened.is_ok()).count(), room);
    let too_many = Err(SyncError::TooMany { open: 3 + STRANGERS });
    assert!(opened[room..].iter().all(|opened| *opened == too_many));
    // Each may say a hello, and nothing else happens.
    for connection in opened.into_iter().flatten() {
        let hello = scene.said(PEER, VICTIM)[0].clone();
        assert_eq!(scene.hears(connection, &hello), Ok(()));
        assert!(!scene.nodes[VICTIM].is_open(connection));
    }
    assert_eq!(scene.seen(VICTIM), before);
    assert_eq!(scene.effects(VICTIM), []);
    scene.nodes[VICTIM].handle_tick(NOW.plus_millis(3000));
    let effects = scene.effects(VICTIM);
    assert_eq!(effects.len(), room);
    let late = |effect: &Effect| {
        matches!(effect, Effect::Close { error: SyncError::HandshakeTimeout, .. })
    };
    assert!(effects.iter().all(late), "{effects:?}");
    assert_eq!(open(&mut scene).iter().filter(|opened| opened.is_ok()).count(), room);
    assert_eq!(scene.seen(VICTIM), before);
    scene.nodes[VICTIM].handle_tick(NOW.plus_millis(6000));
    scene.effects(VICTIM);
    scene.check_that_all_goes_on();
}

#[test]
fn requests_for_buckets_of_others_are_answered_and_change_nothing() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let peer = scene.connection(PEER);
    assert_eq!(scene.hears(peer, &requests(5000, 0)), Ok(()));
    assert_eq!(let_in(&mut scene), 0);
    assert_eq!(answers(&mut scene), [0, 0, 5000, 0, 0]);
    assert_eq!(scene.seen(VICTIM), before);
    scene.check_that_all_goes_on();
}

#[test]
fn requests_for_buckets_of_the_victim_fill_its_table_and_no_more() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let flows = scene.nodes[VICTIM].table().len();
    let peer = scene.connection(PEER);
    assert_eq!(scene.hears(peer, &requests(5000, 2)), Ok(()));
    assert_eq!(let_in(&mut scene), MAX_FLOWS - flows);
    assert_eq!(answers(&mut scene), [0, 0, 0, 5000 - (MAX_FLOWS - flows), 0]);
    // Nobody's flow has gone for them.
    let now = scene.seen(VICTIM);
    for bucket in 0..8 {
        let (before, now) = (before.flows_of(bucket), now.flows_of(bucket));
        assert!(before.iter().all(|record| now.contains(record)), "bucket {bucket}");
        assert!(bucket == 2 || before == now, "bucket {bucket}");
    }
    assert_eq!(now.slots, before.slots);
}

#[test]
fn requests_beyond_what_an_owner_serves_are_refused_as_too_many() {
    let _alone = alone();
    let mut scene = Scene::with_room_for(10_000);
    let peer = scene.connection(PEER);
    assert_eq!(scene.hears(peer, &requests(5000, 2)), Ok(()));
    assert_eq!(let_in(&mut scene), 4096);
    assert_eq!(answers(&mut scene), [0, 0, 0, 0, 5000 - 4096]);
}

#[test]
fn who_asks_and_does_not_read_gets_no_more_answers_than_there_is_room_for() {
    let _alone = alone();
    const ROOM: u64 = 1 << 17;
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let peer = scene.connection(PEER);
    let pending = |scene: &Scene| scene.nodes[VICTIM].peer(NodeId(PEER as u8)).pending;
    let requests = requests(50_000, 0);
    let mut most = 0;
    for _ in 0..4 {
        assert_eq!(scene.hears(peer, &requests), Ok(()));
        assert_eq!(let_in(&mut scene), 0);
        most = most.max(pending(&scene));
    }
    assert_eq!(most, ROOM);
    assert_eq!(scene.seen(VICTIM), before);
    assert_eq!(answers(&mut scene), [0, 0, ROOM as usize, 0, 0]);
    scene.check_that_all_goes_on();
}

#[test]
fn references_up_to_the_limit_cost_what_the_protocol_says() {
    let _alone = alone();
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let (peer, resident_before) = (scene.connection(PEER), resident());
    // One flow, introduced by one number in each page, and by the last one.
    let record = flow(6, Phase::Established, 2);
    let epoch = Item::Epoch { bucket: record.bucket, epoch: record.epoch };
    assert_eq!(scene.hears(peer, &item(&epoch)), Ok(()));
    let numbers = (0..MAX_REFERENCES).step_by(1024).chain([MAX_REFERENCES - 1]);
    let introduction = |number| {
        let mut bytes = Vec::new();
        Item::Introduce { reference: Reference::new(number), record }.put(&mut bytes);
        bytes
    };
    let introductions: Vec<_> = numbers.map(introduction).collect();
    assert_eq!(scene.hears(peer, &frames(kind::INTRODUCE_4, &introductions)), Ok(()));
    let grown = resident().saturating_sub(resident_before);
    println!("{} MiB for all references", grown >> 20);
    assert!(grown < 160 << 20, "{grown} bytes: 8 for each of 16,777,215 are 128 MiB");
    assert_eq!(scene.rejected().older, introductions.len() as u64);
    assert_eq!(scene.seen(VICTIM), before);
    scene.check_that_all_goes_on();
}

#[test]
fn references_that_lead_nowhere_are_bounded() {
    let _alone = alone();
    const ROOM: usize = 1 << 16;
    const COUNT: usize = 200_000;
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let peer = scene.connection(PEER);
    let change = |number| {
        let reference = Reference::new(100_000 + number as u32).expect("below the bound");
        let mut bytes = Vec::new();
        Item::Change { reference, phase: Phase::Reset, confirmed: true, sequence: 9 }
            .put(&mut bytes);
        bytes
    };
    let changes: Vec<_> = (0..COUNT).map(change).collect();
    assert_eq!(scene.hears(peer, &frames(kind::CHANGE, &changes)), Ok(()));
    assert_eq!(scene.rejected().unknown, COUNT as u64);
    assert_eq!(scene.nodes[VICTIM].peer(NodeId(PEER as u8)).pending, ROOM as u64);
    assert_eq!(scene.seen(VICTIM), before);
    scene.check_that_all_goes_on();
}

#[test]
fn flows_for_which_there_is_no_room_are_counted_and_take_no_other_s() {
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let flows = scene.nodes[VICTIM].table().len();
    let peer = scene.connection(PEER);
    let introduction = |number| {
        let mut bytes = Vec::new();
        Item::Introduce { reference: None, record: another(number, 6) }.put(&mut bytes);
        bytes
    };
    let introductions: Vec<_> = (0..5000).map(introduction).collect();
    let epoch = item(&Item::Epoch { bucket: BucketId(6), epoch: epoch(6) });
    assert_eq!(scene.hears(peer, &epoch), Ok(()));
    assert_eq!(scene.hears(peer, &frames(kind::INTRODUCE_4, &introductions)), Ok(()));
    assert_eq!(scene.rejected().full, (5000 - (MAX_FLOWS - flows)) as u64);
    let now = scene.seen(VICTIM);
    for bucket in (0..8).filter(|&bucket| bucket != 6) {
        assert_eq!(now.flows_of(bucket), before.flows_of(bucket));
    }
    assert_eq!(now.slots, before.slots);
    // They are node 2's to tell of, and are gone when it has told of all that it has.
    scene.peer_comes_back();
    assert_eq!(scene.seen(VICTIM), before);
}

#[test]
fn bytes_of_a_kind_that_is_unknown_are_skipped_and_not_kept() {
    let _alone = alone();
    let mut scene = Scene::new();
    let before = scene.seen(VICTIM);
    let peer = scene.connection(PEER);
    let head = Head { kind: 0x3f, size: 255, count: u16::MAX };
    let frame = [&head.to_bytes()[..], &vec![0xa5; 255 * usize::from(u16::MAX)]].concat();
    assert_eq!(frame.len(), HEAD_BYTES + 16_711_425);
    let resident_before = resident();
    for _ in 0..3 {
        for piece in frame.chunks(65_521) {
            assert_eq!(scene.hears(peer, piece), Ok(()));
        }
    }
    let grown = resident().saturating_sub(resident_before);
    println!("{grown} bytes for {} that were skipped", 3 * frame.len());
    assert!(grown < frame.len() / 2, "{grown} bytes");
    assert_eq!(scene.seen(VICTIM), before);
    scene.check_that_all_goes_on();
}
