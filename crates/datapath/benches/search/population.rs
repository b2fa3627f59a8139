//! The flows of the benchmark, and random numbers that come out the same in each run.
//!
//! A flow follows from its number, so millions of them need no memory. Flows that are searched for
//! in vain come from other addresses than those that are there.

use testudo_packet::bucket::Epoch;
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::placement::{AS_THEMSELVES, Grounds, Identifiers, PacketType, Placer};
use testudo_packet::siphash::HashKey;
use testudo_packet::tracking::Phase;

/// How many buckets the flows are spread over.
pub const BUCKETS: u32 = 256;

/// The most flows: their numbers are the lower 24 bits of an address.
pub const MAX_FLOWS: u32 = 1 << 24;

const PRESENT_NET: u32 = 0x0a00_0000;
const ABSENT_NET: u32 = 0x0b00_0000;

/// Whether what is searched for is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is.
    Hit,
    /// It is not.
    Miss,
}

/// What a search is given.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// The key.
    pub key: FlowKey,
    /// The key's hash in the node table.
    pub hash: u32,
}

/// How the flows are placed; the programs have the same key.
pub fn placer() -> Placer {
    Placer {
        key: HashKey::from_bytes(std::array::from_fn(|index| index as u8)),
        bucket_mask: (BUCKETS - 1) as u16,
        grounds: Grounds::default(),
    }
}

fn key(net: u32, number: u32) -> FlowKey {
    assert!(number < MAX_FLOWS);
    let scattered = Random(number.into()).next();
    FlowKey {
        initiator: Endpoint { address: Address::v4(net | number), port: scattered as u16 },
        responder: Endpoint {
            address: Address::v4(0xc000_0200 | (scattered >> 16) as u32 & 0xff),
            port: 443,
        },
        protocol: Protocol::TCP,
    }
}

/// The flow of this number.
pub fn record(placer: &Placer, number: u32) -> FlowRecord {
    let key = key(PRESENT_NET, number);
    FlowRecord {
        translation: None,
        bucket: placer.place(&key, PacketType::Tcp, Identifiers::default(), AS_THEMSELVES).bucket,
        epoch: Epoch(1),
        key,
        state: FlowState { phase: Phase::Established, confirmed: true, rule: 1, sequence: 3 },
    }
}

/// Random flows of the first `entries` that are there, or of as many that are not.
pub fn probes(random: &mut Random, kind: Kind, entries: u32, count: usize) -> Vec<Probe> {
    let placer = placer();
    let net = match kind {
        Kind::Hit => PRESENT_NET,
        Kind::Miss => ABSENT_NET,
    };
    let probe = |key| Probe { key, hash: placer.table_hash(&key) };
    (0..count).map(|_| probe(key(net, random.below(entries)))).collect()
}

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// The numbers below `count` in random order.
    pub fn order(&mut self, count: u32) -> Vec<u32> {
        let mut order: Vec<u32> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last as usize, self.below(last + 1) as usize);
        }
        order
    }

    /// For each number below `count` the one that follows it in one random cycle through all
    /// (Sattolo).
    pub fn cycle(&mut self, count: u32) -> Vec<u32> {
        let mut next: Vec<u32> = (0..count).collect();
        for last in (1..count).rev() {
            next.swap(last as usize, self.below(last) as usize);
        }
        next
    }
}
