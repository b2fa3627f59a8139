//! The common table against a plain map, and its bounds.

use super::*;
use crate::keys::Keys;
use proptest::prelude::*;
use std::collections::HashMap;
use testudo_packet::entry::{FlowState, Translation};
use testudo_packet::flow::{Address, Endpoint};
use testudo_packet::tracking::Phase;

const BUCKETS: u32 = 4;

fn table(capacity: usize) -> CommonTable {
    CommonTable::new(Keys::new(b"secret").table, BUCKETS, capacity)
}

fn record(port: u16, epoch: u32, sequence: u32) -> FlowRecord {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    FlowRecord {
        translation: None,
        bucket: BucketId(port % BUCKETS as u16),
        epoch: Epoch(epoch),
        key: FlowKey {
            initiator: end(0x0a00_0001, port),
            responder: end(0x0a00_0002, 80),
            protocol: Protocol::TCP,
        },
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 1, sequence },
    }
}

#[test]
fn the_newer_state_stays_in_either_order() {
    let (old, new) = (record(5, 1, 9), record(5, 2, 3));
    for order in [[old, new], [new, old]] {
        let mut table = table(10);
        for record in order {
            let _ = table.apply(record, Authority::Owner);
        }
        assert_eq!(table.get(BucketId(1), &new.key), Some(new));
        assert_eq!((table.len(), table.count(BucketId(1))), (1, 1));
    }
    let mut table = table(10);
    assert!(table.apply(new, Authority::Owner).is_ok());
    let refused =
        Refused::Older { epoch: Epoch(1), sequence: 9, known_epoch: Epoch(2), known_sequence: 3 };
    assert_eq!(table.apply(old, Authority::Owner), Err(refused));
    assert_eq!(table.remove(&old), Err(refused));
    assert!(table.remove(&record(5, 2, 4)).is_ok());
    assert_eq!(table.remove(&new), Err(Refused::Unknown));
    assert_eq!((table.len(), table.digest()), (0, 0));
}

#[test]
fn a_succeeded_owner_is_not_believed() {
    let mut table = table(10);
    table.set_epoch(BucketId(1), Epoch(7));
    let stale = Refused::StaleEpoch { bucket: BucketId(1), epoch: Epoch(6), known: Epoch(7) };
    assert_eq!(table.apply(record(5, 6, 1), Authority::Other), Err(stale));
    assert!(table.apply(record(5, 6, 1), Authority::Owner).is_ok());
    assert!(table.apply(record(5, 7, 0), Authority::Other).is_ok());
}

#[test]
fn a_flow_is_found_in_both_directions_if_it_has_both() {
    let mut table = table(10);
    let tcp = record(5, 1, 1);
    let mut esp = record(9, 1, 1);
    esp.key.protocol = Protocol::ESP;
    table.apply(tcp, Authority::Owner).unwrap();
    table.apply(esp, Authority::Owner).unwrap();
    assert_eq!(table.get(tcp.bucket, &tcp.key.reversed()), Some(tcp));
    assert_eq!(table.get(esp.bucket, &esp.key.reversed()), None);
    assert_eq!(table.get(BucketId(2), &tcp.key), None);
    // A connection reopened from the other side takes the place of the one before.
    let mut reopened = record(5, 1, 2);
    reopened.key = tcp.key.reversed();
    assert!(table.apply(reopened, Authority::Owner).is_ok());
    assert_eq!(table.get(tcp.bucket, &tcp.key), Some(reopened));
}

#[test]
fn a_full_table_refuses_new_flows_and_takes_changes() {
    let mut table = table(2);
    table.apply(record(1, 1, 1), Authority::Owner).unwrap();
    table.apply(record(2, 1, 1), Authority::Owner).unwrap();
    let full = Err(Refused::Full { capacity: 2 });
    assert_eq!(table.apply(record(3, 1, 1), Authority::Owner), full);
    assert_eq!(table.replace(record(3, 1, 1)), full);
    assert!(table.apply(record(2, 1, 2), Authority::Owner).is_ok());
    table.remove(&record(1, 1, 1)).unwrap();
    assert!(table.apply(record(3, 1, 1), Authority::Owner).is_ok());
}

#[test]
fn a_bucket_that_does_not_exist_is_refused() {
    let mut table = table(2);
    let far = FlowRecord { bucket: BucketId(4), ..record(1, 1, 1) };
    let refused = Refused::NoSuchBucket { bucket: BucketId(4), buckets: 4 };
    assert_eq!(table.apply(far, Authority::Owner), Err(refused));
    assert_eq!(table.bucket(BucketId(4)).count(), 0);
}

#[test]
fn a_comparison_takes_out_what_was_not_confirmed() {
    let mut table = table(10);
    for port in [1, 5, 9, 2] {
        table.apply(record(port, 1, 3), Authority::Owner).unwrap();
    }
    table.doubt(BucketId(1));
    table.replace(record(1, 1, 2)).unwrap();
    assert!(table.apply(record(5, 1, 3), Authority::Owner).is_err(), "known, but confirmed");
    assert_eq!(table.sweep(BucketId(1)), [record(9, 1, 3)]);
    assert_eq!(table.sweep(BucketId(1)), []);
    assert_eq!(table.len(), 3);
    assert_eq!(table.get(BucketId(1), &record(1, 0, 0).key), Some(record(1, 1, 2)));
}

#[test]
fn a_place_is_one_flows_and_not_the_next_ones() {
    let mut table = table(10);
    let slot = table.apply(record(5, 1, 1), Authority::Owner).unwrap();
    let place = table.place(slot);
    let phase = (Phase::TimeWait, true);
    assert_eq!(table.change(place, Epoch(1), phase, 2), Ok(()));
    let known = table.at(slot).unwrap();
    assert_eq!((known.key, known.state.sequence), (record(5, 1, 1).key, 2));
    assert!(matches!(table.change(place, Epoch(1), phase, 2), Err(Refused::Older { .. })));
    table.remove(&record(5, 1, 2)).unwrap();
    assert_eq!(table.bucket_at(place), None);
    assert_eq!(table.apply(record(9, 1, 7), Authority::Owner), Ok(slot), "the slot is used again");
    assert_eq!(table.change(place, Epoch(1), phase, 8), Err(Refused::Unknown));
    assert_eq!(table.remove_at(place, Epoch(9)), Err(Refused::Unknown));
    let place = table.place(slot);
    assert!(matches!(table.remove_at(place, Epoch(0)), Err(Refused::Older { .. })));
    assert_eq!(table.remove_at(place, Epoch(1)), Ok(()));
    assert_eq!((table.len(), table.digest()), (0, 0));
}

#[test]
fn who_was_told_of_a_flow_by_its_slot_is_forgotten_with_what_was_told() {
    let (peer, other, bucket) = (NodeId(3), NodeId(4), BucketId(1));
    let mut table = table(10);
    let slot = table.apply(record(5, 1, 1), Authority::Owner).unwrap();
    let tell = |table: &mut CommonTable| {
        table.tell(peer, bucket, slot);
        assert!(table.is_told(peer, slot) && !table.is_told(other, slot));
    };
    tell(&mut table);
    // A change of state is told by the slot's number; one of the rule is not.
    table.apply(record(5, 1, 2), Authority::Owner).unwrap();
    assert!(table.is_told(peer, slot));
    let mut reopened = record(5, 1, 3);
    reopened.state.rule = 7;
    table.apply(reopened, Authority::Owner).unwrap();
    assert!(!table.is_told(peer, slot));
    // The peer is told that the flow is gone by that number, and not of the next flow in the slot.
    tell(&mut table);
    table.remove(&reopened).unwrap();
    assert!(table.is_told(peer, slot));
    table.apply(record(9, 1, 1), Authority::Owner).unwrap();
    assert!(!table.is_told(peer, slot));
    tell(&mut table);
    table.untell_bucket(BucketId(2));
    assert!(table.is_told(peer, slot));
    table.untell_bucket(bucket);
    assert!(!table.is_told(peer, slot));
    tell(&mut table);
    table.untell_all(other);
    assert!(table.is_told(peer, slot));
    table.untell_all(peer);
    assert!(!table.is_told(peer, slot));
}

/// What a table says of its flows is the same as what one says that has just been filled with them.
fn assert_sums_are_right(table: &CommonTable) {
    let mut fresh = CommonTable::new(Keys::new(b"secret").table, BUCKETS, table.len());
    for record in table.iter() {
        assert_eq!(table.get(record.bucket, &record.key), Some(record));
        fresh.replace(record).unwrap();
    }
    assert_eq!((table.len(), table.digest()), (fresh.len(), fresh.digest()));
    for bucket in (0..BUCKETS as u16).map(BucketId) {
        assert_eq!(table.bucket_digest(bucket), fresh.bucket_digest(bucket));
        assert_eq!(table.count(bucket), fresh.count(bucket));
    }
}

#[test]
fn sums_are_right_whenever_they_are_asked_for() {
    let mut table = table(10_000);
    // Opened in batches, each flow changed at once, much later, or not at all, and some of them gone.
    for first in (0..5000).step_by(97) {
        for port in first..first + 97 {
            table.apply(record(port, 1, 1), Authority::Owner).unwrap();
        }
        for port in first..first + 60 {
            table.apply(record(port, 1, 2), Authority::Owner).unwrap();
        }
        for port in first + 50..first + 70 {
            table.remove(&record(port, 1, 2)).unwrap();
        }
        assert_sums_are_right(&table);
        for port in (0..first.saturating_sub(2000)).filter(|port| port % 97 < 50).step_by(7) {
            table.apply(record(port, 1, u32::from(first)), Authority::Owner).unwrap();
        }
        assert_sums_are_right(&table);
    }
}

#[test]
fn tunnels_are_counted_while_they_are_there() {
    let mut table = table(10);
    let tunnel = |port, sequence, protocol| {
        let mut record = record(port, 1, sequence);
        record.key.protocol = protocol;
        record
    };
    for sequence in [1, 2] {
        table.apply(tunnel(1, sequence, Protocol::ESP), Authority::Owner).unwrap();
        table.apply(tunnel(5, sequence, Protocol::AH), Authority::Owner).unwrap();
        table.apply(tunnel(2, sequence, Protocol::ESP), Authority::Owner).unwrap();
        table.apply(record(1, 1, sequence), Authority::Owner).unwrap();
    }
    assert_eq!([0, 1, 2].map(|bucket| table.tunnels(BucketId(bucket))), [0, 2, 1]);
    table.remove(&tunnel(1, 2, Protocol::ESP)).unwrap();
    table.remove(&record(1, 1, 2)).unwrap();
    assert_eq!([0, 1, 2].map(|bucket| table.tunnels(BucketId(bucket))), [0, 1, 1]);
}

#[test]
fn a_flow_that_was_here_last_is_not_taken_for_the_one_that_took_its_slot() {
    let mut table = table(10);
    let slot = table.apply(record(5, 1, 1), Authority::Owner).unwrap();
    table.remove(&record(5, 1, 1)).unwrap();
    assert_eq!(table.apply(record(9, 1, 1), Authority::Owner), Ok(slot), "the slot is used again");
    assert_eq!(table.find(BucketId(1), &record(5, 1, 1).key), None);
    // The same key in another bucket is another flow.
    let elsewhere = FlowRecord { bucket: BucketId(2), ..record(9, 1, 1) };
    assert_eq!(table.find(BucketId(2), &elsewhere.key), None);
    table.apply(elsewhere, Authority::Owner).unwrap();
    assert_eq!(table.get(BucketId(1), &elsewhere.key), Some(record(9, 1, 1)));
    assert_eq!(table.get(BucketId(2), &elsewhere.key), Some(elsewhere));
}

#[test]
fn a_million_flows_take_less_than_96_bytes_each() {
    let mut table = table(1 << 20);
    for number in 0..1_000_000u32 {
        let mut record = record(number as u16, 1, 1);
        record.key.initiator.address = Address::v4(number);
        table.apply(record, Authority::Owner).unwrap();
    }
    assert!(table.memory() / table.len() < 96, "{} bytes a flow", table.memory() / table.len());
}

proptest! {
    #[test]
    fn a_table_agrees_with_a_map(steps in prop::collection::vec((0..3u8, 0..12u16, 0..3u32, 0..4u32), 0..200)) {
        let mut table = table(8);
        let mut map: HashMap<u16, FlowRecord> = HashMap::new();
        for (step, port, epoch, sequence) in steps {
            let record = record(port, epoch, sequence);
            let known = map.get(&port).copied();
            let newer = known.is_none_or(|known| record.supersedes(&known));
            let room = known.is_some() || map.len() < 8;
            match step {
                0 => {
                    let done = table.apply(record, Authority::Owner).is_ok();
                    prop_assert_eq!(done, newer && room);
                    if done { map.insert(port, record); }
                }
                1 => {
                    let done = table.remove(&record).is_ok();
                    prop_assert_eq!(done, known.is_some_and(|known| !known.supersedes(&record)));
                    if done { map.remove(&port); }
                }
                _ => if table.replace(record).is_ok() { map.insert(port, record); },
            }
        }
        let mut fresh = CommonTable::new(Keys::new(b"secret").table, BUCKETS, 8);
        for record in map.values() {
            prop_assert_eq!(table.get(record.bucket, &record.key), Some(*record));
            // Digests ignore the epoch.
            fresh.replace(FlowRecord { epoch: Epoch(77), ..*record }).unwrap();
        }
        prop_assert_eq!(table.len(), map.len());
        prop_assert_eq!(table.iter().count(), map.len());
        prop_assert_eq!(table.digest(), fresh.digest());
        for bucket in (0..BUCKETS as u16).map(BucketId) {
            prop_assert_eq!(table.bucket(bucket).count(), table.count(bucket) as usize);
            prop_assert_eq!(table.bucket_digest(bucket), fresh.bucket_digest(bucket));
        }
    }
}

#[test]
fn a_translated_flow_is_found_by_its_replies_and_sums_up_differently() {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    let plain = record(1, 1, 1);
    let to =
        |port| Translation { source: end(0xc000_0201, port), destination: plain.key.responder };
    let as_port = |port| FlowRecord { translation: Some(to(port)), ..plain };
    let (mut table, mut other) = (table(10), table(10));
    table.apply(as_port(7), Authority::Owner).unwrap();
    assert_eq!(table.get(plain.bucket, &plain.key), Some(as_port(7)));
    let replies = as_port(7).reply_key();
    assert_eq!(table.get(plain.bucket, &replies), None);
    assert_eq!(table.of_packet(plain.bucket, &replies), Some(as_port(7)));
    other.apply(plain, Authority::Owner).unwrap();
    assert_ne!(table.digest(), other.digest());
    other.replace(as_port(8)).unwrap();
    assert_ne!(table.digest(), other.digest());
    other.replace(as_port(7)).unwrap();
    assert_eq!(table.digest(), other.digest());
    assert_eq!(other.of_packet(plain.bucket, &as_port(8).reply_key()), None);

    // A change keeps what a flow is translated to; what leaves takes it along.
    let slot = table.find(plain.bucket, &plain.key).unwrap();
    let place = table.place(slot);
    table.change(place, Epoch(1), (Phase::Established, true), 2).unwrap();
    assert_eq!(table.at(slot).unwrap().translation, Some(to(7)));
    table.remove_at(place, Epoch(1)).unwrap();
    assert_eq!(table.of_packet(plain.bucket, &replies), None);
    table.apply(plain, Authority::Owner).unwrap();
    assert_eq!(table.get(plain.bucket, &plain.key), Some(plain));
    assert_eq!(table.digest(), {
        other.replace(plain).unwrap();
        other.digest()
    });
}

/// A copy that was not told of a flow's end meets the next flow that its port was given to: the first one is gone then, and
/// whoever takes the bucket over sends no reply its way.
#[test]
fn who_has_the_replies_of_another_flow_takes_its_place() {
    let end = |host, port| Endpoint { address: Address::v4(host), port };
    let as_port = |port: u16, outside| {
        let plain = record(port, 1, 1);
        let source = end(0xc000_0201, outside);
        let translation = Some(Translation { source, destination: plain.key.responder });
        FlowRecord { translation, ..plain }
    };
    type Put = fn(&mut CommonTable, FlowRecord) -> Result<SlotId, Refused>;
    let ways: [Put; 2] = [
        |table, record| table.apply(record, Authority::Owner),
        |table, record| table.replace(record),
    ];
    for put in ways {
        let (mut table, mut fresh) = (table(10), table(10));
        for record in [as_port(4, 7), as_port(8, 9), record(12, 1, 1), as_port(16, 7)] {
            put(&mut table, record).unwrap();
        }
        assert_eq!(table.get(BucketId(0), &record(4, 1, 1).key), None);
        // Also if it had other replies before.
        put(&mut table, FlowRecord { epoch: Epoch(2), ..as_port(16, 9) }).unwrap();
        let rest = [record(12, 1, 1), FlowRecord { epoch: Epoch(2), ..as_port(16, 9) }];
        for record in rest {
            put(&mut fresh, record).unwrap();
        }
        let known = |table: &CommonTable| {
            let mut known: Vec<_> = table.bucket(BucketId(0)).collect();
            known.sort_by_key(|record| record.key.initiator.port);
            (known, table.len(), table.count(BucketId(0)), table.digest())
        };
        assert_eq!(known(&table).0, rest);
        assert_eq!(known(&table), known(&fresh));
        assert_eq!(table.bucket_digest(BucketId(0)), table.digest());
        let replies = |outside| as_port(16, outside).reply_key();
        assert_eq!(table.of_packet(BucketId(0), &replies(9)), Some(rest[1]));
        assert_eq!(table.of_packet(BucketId(0), &replies(7)), None);
    }
}
