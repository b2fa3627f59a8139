//! Whoever does not know the secret changes nothing, whatever is sent; and whoever knows it can
//! send nonsense without harm to more than a table.

use testudo_cluster::heartbeat::Incarnation;
use testudo_cluster::membership::Membership;
use testudo_cluster::replica::{ConnectionId, Effect, Replica, Side, SyncError};
use testudo_cluster::sync::layout::{HEAD_BYTES, Head, MAX_ITEM, kind};
use testudo_packet::bucket::{Nanos, NodeId};
use testudo_sim::options::{MS, Options, SECRET};
use testudo_sim::rng::Rng;
use testudo_sim::seeds::{for_each_seed, seeds};
use testudo_sim::world::World;

const NOW: Nanos = Nanos(1_000_000_000);

/// A few of everything that can happen to bytes on their way.
fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    let before = bytes.clone();
    while *bytes == before {
        match rng.index(4) {
            0 => bytes.truncate(rng.index(before.len())),
            1 => bytes.push(rng.draw() as u8),
            2 => bytes.as_mut_slice().fill_with(|| rng.draw() as u8),
            _ => {
                let at = rng.index(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << rng.index(8);
                }
            }
        }
    }
}

/// What a membership shows of itself, but for how much it has rejected.
fn state(membership: &Membership, now: Nanos) -> String {
    let mut counters = membership.counters();
    counters.rejected = 0;
    counters.late = 0;
    let peers: Vec<_> = membership.peers(now).collect();
    format!(
        "{:?} {:?} {:?} {} {:?} {peers:?} {counters:?}",
        membership.role(),
        membership.incarnation(),
        membership.lease_remaining(now),
        membership.owned(),
        membership.next_wakeup(),
    )
}

#[test]
fn a_datagram_that_was_changed_on_its_way_changes_nothing() {
    for_each_seed(&seeds(20, 20), |seed| {
        let mut world = World::formed(Options::of(3), seed);
        world.overheard.clear();
        world.run(100 * MS);
        let overheard = std::mem::take(&mut world.overheard);
        let (mut rng, now) = (Rng::new(seed), world.machines[0].read(world.now));
        let daemon = world.machines[0].daemon.as_mut().expect("it runs");
        daemon.membership.handle_tick(now);
        while daemon.membership.poll_output().is_some() {}
        let before = state(&daemon.membership, now);
        for (to, datagram) in overheard {
            let mut bytes = datagram.clone();
            mutate(&mut rng, &mut bytes);
            assert!(daemon.membership.handle_datagram(now, &bytes).is_err());
            if to != 0 {
                assert!(daemon.membership.handle_datagram(now, &datagram).is_err());
            }
            assert_eq!(daemon.membership.poll_output(), None);
        }
        assert_eq!(state(&daemon.membership, now), before);
    });
}

/// Two nodes and a stream between them, with all that each end says.
struct Pair {
    /// Node 0, which is dialled, and node 1.
    ends: [(Replica, ConnectionId); 2],
}

impl Pair {
    fn new(secrets: [[u8; 16]; 2]) -> Self {
        let options = Options::of(2);
        let sides = [Side::Accepted, Side::Dialled(NodeId(0))];
        let ends = std::array::from_fn(|node| {
            let cluster = options.cluster(node, secrets[node]);
            let mut replica = Replica::new(cluster, Incarnation(node as u64 + 1));
            let nonce = [node as u8 + 1; 16];
            let connection = replica.handle_connected(NOW, sides[node], nonce);
            (replica, connection.expect("there is room"))
        });
        Self { ends }
    }

    fn says(&mut self, end: usize) -> Vec<u8> {
        let (replica, connection) = &mut self.ends[end];
        let mut out = Vec::new();
        replica.poll_transmit(NOW, *connection, &mut out, 1 << 16);
        out
    }

    fn hears(&mut self, end: usize, bytes: &[u8]) -> Result<(), SyncError> {
        let (replica, connection) = &mut self.ends[end];
        replica.handle_bytes(NOW, *connection, bytes)
    }

    fn is_connected(&mut self, end: usize) -> bool {
        let replica = &mut self.ends[end].0;
        std::iter::from_fn(|| replica.poll_effect())
            .any(|effect| matches!(effect, Effect::PeerConnected { .. }))
    }

    /// The dialogue until nobody has anything to say; `change` sees each message before it arrives.
    fn talk(&mut self, mut change: impl FnMut(usize, &mut Vec<u8>)) -> Result<(), SyncError> {
        for turn in 1..20 {
            let speaker = turn % 2;
            let mut message = self.says(speaker);
            change(turn, &mut message);
            self.hears(1 - speaker, &message)?;
        }
        Ok(())
    }
}

#[test]
fn who_does_not_know_the_secret_is_not_let_in() {
    let mut pair = Pair::new([SECRET, [8; 16]]);
    assert_eq!(pair.talk(|_, _| ()), Err(SyncError::Proof));
    assert!(!pair.is_connected(0) && !pair.is_connected(1));

    let mut pair = Pair::new([SECRET; 2]);
    assert_eq!(pair.talk(|_, _| ()), Ok(()));
    assert!(pair.is_connected(0) && pair.is_connected(1));
}

#[test]
fn a_handshake_that_was_changed_on_its_way_opens_nothing() {
    for_each_seed(&seeds(21, 200), |seed| {
        let mut rng = Rng::new(seed);
        let changed_turn = 1 + rng.index(4);
        let mut pair = Pair::new([SECRET; 2]);
        let victim = 1 - changed_turn % 2;
        let result = pair.talk(|turn, message| {
            if turn == changed_turn && !message.is_empty() {
                // Not more: a byte behind a whole message belongs to the next one.
                let at = rng.index(message.len());
                let padding = (12..16).contains(&at) && turn <= 2;
                message[if padding { 0 } else { at }] ^= 1 << rng.index(8);
            }
        });
        assert!(result.is_err(), "turn {changed_turn}");
        assert!(!pair.is_connected(victim), "turn {changed_turn}");
        assert!(pair.ends[victim].0.table().is_empty());
    });
}

#[test]
fn random_bytes_before_the_handshake_change_nothing() {
    for_each_seed(&seeds(22, 300), |seed| {
        let mut rng = Rng::new(seed);
        let mut pair = Pair::new([SECRET; 2]);
        for _ in 0..rng.index(6) {
            let mut bytes = pair.says(1);
            bytes.extend(rng.bytes::<90>());
            if rng.chance(500) {
                mutate(&mut rng, &mut bytes);
            }
            let result = pair.hears(0, &bytes);
            if result.is_err() {
                assert_eq!(pair.hears(0, &bytes), Err(SyncError::NotOpen));
            }
        }
        assert!(!pair.is_connected(0));
        assert!(pair.ends[0].0.table().is_empty());
    });
}

#[test]
fn frames_without_sense_from_a_member_do_no_harm_to_the_table() {
    for_each_seed(&seeds(23, 300), |seed| {
        let mut rng = Rng::new(seed);
        let mut pair = Pair::new([SECRET; 2]);
        pair.talk(|_, _| ()).expect("a handshake");
        for _ in 0..200 {
            let kind = if rng.chance(100) { kind::EPOCH } else { 1 + rng.index(21) as u8 };
            let lengths = (3..=MAX_ITEM as u8).map(|size| Head { kind, size, count: 1 });
            // As long as it has to be, which is the shortest that is let pass.
            let head = lengths.into_iter().find(|head| head.check() == Ok(true));
            let head = head.unwrap_or(Head { kind, size: 8, count: 1 });
            let mut frame = head.to_bytes().to_vec();
            frame.resize(HEAD_BYTES + usize::from(head.size), 0);
            // Small numbers, which are more often buckets and phases that there are.
            for _ in 0..rng.index(12) {
                let at = HEAD_BYTES + rng.index(usize::from(head.size));
                frame[at] = rng.index(40) as u8;
            }
            if pair.hears(0, &frame).is_err() {
                break;
            }
            pair.says(0);
        }
        let table = pair.ends[0].0.table();
        let counted: u32 =
            (0..32).map(|bucket| table.count(testudo_packet::bucket::BucketId(bucket))).sum();
        assert_eq!(counted as usize, table.len());
        assert_eq!(table.iter().count(), table.len());
    });
}
