//! Items and their bytes, in both directions, and what is done with bytes of later releases.

use super::*;
use proptest::prelude::*;
use testudo_packet::tracking::PHASES;

fn address() -> impl Strategy<Value = Address> {
    prop_oneof![
        any::<u32>().prop_map(Address::v4),
        any::<(u64, u64)>().prop_map(|(high, low)| Address { high, low }),
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (address(), any::<u16>()).prop_map(|(address, port)| Endpoint { address, port })
}

fn phase() -> impl Strategy<Value = Phase> {
    (0..PHASES.len()).prop_map(|index| PHASES[index])
}

prop_compose! {
    fn record()(
        (bucket, epoch, rule, sequence, protocol) in any::<(u16, u32, u16, u32, u8)>(),
        (initiator, responder) in (endpoint(), endpoint()),
        (phase, confirmed) in (phase(), any::<bool>()),
    ) -> FlowRecord {
        FlowRecord {
            translation: None,
            bucket: BucketId(bucket),
            epoch: Epoch(epoch),
            key: FlowKey { initiator, responder, protocol: Protocol(protocol) },
            state: FlowState { phase, confirmed, rule, sequence },
        }
    }
}

prop_compose! {
    fn whole()(
        record in record(),
        (source, destination) in (endpoint(), endpoint()),
        translated in any::<bool>(),
    ) -> FlowRecord {
        let translation = translated.then_some(Translation { source, destination });
        FlowRecord { translation, ..record }
    }
}

fn reference() -> impl Strategy<Value = Reference> {
    (0..MAX_REFERENCES).prop_map(|number| Reference::new(number).expect("below the bound"))
}

fn flow_item() -> impl Strategy<Value = Item> {
    let maybe = || prop::option::of(reference());
    prop_oneof![
        (maybe(), whole()).prop_map(|(reference, record)| Item::Introduce {
            reference,
            record: FlowRecord { epoch: Epoch(0), ..record },
        }),
        (maybe(), whole()).prop_map(|(reference, record)| Item::Snapshot { reference, record }),
        record().prop_map(|record| Item::Frame(Frame::Remove(record))),
        (any::<u32>(), record()).prop_map(|(number, record)| {
            let record = FlowRecord { epoch: Epoch(0), ..record };
            Item::Frame(Frame::Determine { number, record })
        }),
        (reference(), phase(), any::<bool>(), any::<u32>()).prop_map(
            |(reference, phase, confirmed, sequence)| {
                Item::Change { reference, phase, confirmed, sequence }
            }
        ),
        reference().prop_map(|reference| Item::Leave { reference }),
        reference().prop_map(|reference| Item::Forgotten { reference }),
    ]
}

fn message() -> impl Strategy<Value = Item> {
    let numbers = any::<(u16, u64, u32, u64)>();
    (0..13u8, numbers, 0..=HANDLED, prop::collection::vec(any::<u8>(), 0..=LETTER)).prop_map(
        |(which, (bucket, long, short, other), hashes, letter)| {
            let (bucket, since, epoch) = (BucketId(bucket), Version(long), Epoch(short));
            let mut bytes = [0; LETTER];
            bytes[..letter.len()].copy_from_slice(&letter);
            let mut packets = [0; HANDLED];
            packets[..hashes].fill(other);
            Item::Frame(match which {
                0 => Frame::Check { bucket, epoch, digest: long, count: short },
                1 => Frame::Want { bucket },
                2 => Frame::Begin { bucket, epoch },
                3 => Frame::End { bucket },
                4 => Frame::Acknowledge { frames: long },
                5 => Frame::Prepare { bucket, since, epoch },
                6 => Frame::Holding { bucket, since },
                7 => Frame::Handled { bucket, count: hashes as u8, packets },
                8 => Frame::Released { bucket, since },
                9 => Frame::Withdrawn { bucket, since },
                10 => Frame::Letter { length: letter.len() as u8, last: short % 2 == 0, bytes },
                11 => Frame::Determined {
                    number: short,
                    answer: Answer::from_number(long % 5).expect("one of five"),
                    copies: letter.len() as u8,
                },
                _ => Frame::OtherLife { heard: Incarnation(long) },
            })
        },
    )
}

fn item() -> impl Strategy<Value = Item> {
    let epoch = any::<(u16, u32)>();
    let epoch = epoch
        .prop_map(|(bucket, epoch)| Item::Epoch { bucket: BucketId(bucket), epoch: Epoch(epoch) });
    prop_oneof![4 => flow_item(), 4 => message(), 1 => epoch]
}

fn bytes(item: &Item) -> Vec<u8> {
    let mut bytes = Vec::new();
    item.put(&mut bytes);
    bytes
}

fn head(kind: u8, size: usize) -> Head {
    Head { kind, size: size as u8, count: 1 }
}

proptest! {
    #[test]
    fn every_item_survives_its_bytes(item in item()) {
        let (kind, bytes) = (item.kind(), bytes(&item));
        prop_assert!(bytes.len() <= MAX_ITEM);
        prop_assert_eq!(head(kind, bytes.len()).check(), Ok(true));
        prop_assert_eq!(Item::decode(kind, &bytes), Ok(item));
        prop_assert_eq!(Item::decode(kind | CRITICAL, &bytes), Ok(item));
        prop_assert!(Item::decode(kind, &bytes[..bytes.len() - 1]).is_err());
        prop_assert_eq!(head(kind, bytes.len()).is_counted(), kind < UNCOUNTED);
    }

    #[test]
    fn fields_of_a_later_release_are_skipped_unless_they_must_not_be(
        item in item(),
        more in prop::collection::vec(any::<u8>(), 1..50),
    ) {
        let kind = item.kind();
        let longer = [bytes(&item), more].concat();
        prop_assert_eq!(head(kind, longer.len()).check(), Ok(true));
        prop_assert_eq!(Item::decode(kind, &longer), Ok(item));
        let critical = kind | CRITICAL;
        let passes = head(critical, longer.len()).check() == Ok(true);
        prop_assert!(!passes || Item::decode(critical, &longer).is_err());
    }

    #[test]
    fn any_bytes_are_an_item_or_an_error(kind in any::<u8>(), bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok(item) = Item::decode(kind, &bytes) {
            let mut again = Vec::new();
            item.put(&mut again);
            prop_assert_eq!(Item::decode(item.kind(), &again), Ok(item));
        }
    }
}

#[test]
fn kinds_of_a_later_release_are_skipped_unless_they_must_not_be() {
    assert_eq!(head(0x3f, 9).check(), Ok(false));
    assert_eq!(head(0x7f, 9).check(), Ok(false));
    let refused = SyncError::Critical { kind: 0xbf, size: 9, known: 0 };
    assert_eq!(head(0xbf, 9).check(), Err(refused));
    // A frame of many items that are nothing would cost more to read than to send.
    assert_eq!(head(0x3f, 0).check(), Err(SyncError::Short { kind: 0x3f, size: 0, least: 1 }));
}

#[test]
fn items_that_are_too_short_are_refused_by_their_head() {
    let refused = SyncError::Short { kind: kind::CHANGE, size: 7, least: 8 };
    assert_eq!(head(kind::CHANGE, 7).check(), Err(refused));
}

#[test]
fn values_without_meaning_are_refused() {
    let change = |reference: [u8; 3], phase: u8| {
        let [r0, r1, r2] = reference;
        Item::decode(kind::CHANGE, &[r0, r1, r2, phase, 0, 0, 0, 0])
    };
    let wrong = |kind| SyncError::Frame { kind };
    assert!(change([1, 0, 0], 0x83).is_ok());
    assert_eq!(change([1, 0, 0], 0), Err(wrong(kind::CHANGE)));
    assert_eq!(change([1, 0, 0], 11), Err(wrong(kind::CHANGE)));
    assert_eq!(change([0xff; 3], 3), Err(wrong(kind::CHANGE)));
    let letter = [LETTER as u8 + 1, 1].into_iter().chain([0; 60]).collect::<Vec<_>>();
    assert_eq!(Item::decode(kind::LETTER, &letter), Err(wrong(kind::LETTER)));
    assert_eq!(Item::decode(kind::LETTER, &[0, 2]), Err(wrong(kind::LETTER)));
    let handled = [0, 0, HANDLED as u8 + 1].into_iter().chain([0; 60]).collect::<Vec<_>>();
    assert_eq!(Item::decode(kind::HANDLED, &handled), Err(wrong(kind::HANDLED)));
}
