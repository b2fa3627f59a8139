//! A node that owns everything and lets everything in, in whichever build.

use std::net::IpAddr;
use std::time::Duration;

use testudo_datapath::{Datapath, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};

pub const BUCKETS: u32 = 16;
/// The cluster's address on the links, and that of whoever sends.
pub const SHARED: [u8; 6] = [2, 0x74, 0x65, 0x73, 0, 1];
pub const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 9];
/// Long enough for any packet to arrive; a wait for one ends when it has.
pub const SOON: Duration = Duration::from_secs(5);

pub fn settings(mode: Mode) -> Settings {
    Settings {
        node: NodeId(0),
        secret: *b"a cluster secret",
        buckets: BUCKETS,
        grounds: Grounds::default(),
        cluster_mac: Mac::from_bytes(SHARED),
        table_slots: 1024,
        pools: Vec::new(),
        likenesses: Default::default(),
        answers: Vec::new(),
        mode,
    }
}

pub fn now() -> Nanos {
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    Nanos(Duration::from(nix::time::clock_gettime(clock).expect("a clock")).as_nanos() as u64)
}

pub fn set_all(datapath: &mut impl Datapath, owner: u8, state: BucketState) {
    let slot = BucketSlot { owner: NodeId(owner), previous: NodeId::NONE, state, epoch: Epoch(1) };
    for bucket in 0..BUCKETS as u16 {
        datapath.set_bucket(BucketId(bucket), slot);
    }
}

pub fn set_up(datapath: &mut impl Datapath) {
    set_all(datapath, 0, BucketState::Active);
    datapath.set_lease(now().plus_millis(600_000));
    datapath.set_rules(&[Rule::any(Action::Accept)]).expect("a rule");
}

/// An IP packet that was sent to the cluster's address on the link.
pub fn packet(ends: [IpAddr; 2], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let bytes = payload.len() as u8;
    let (kind, header) = match ends {
        [IpAddr::V4(from), IpAddr::V4(to)] => {
            let head = [0x45, 0, 0, 20 + bytes, 0, 0, 0, 0, 64, protocol, 0, 0];
            ([8, 0], [&head[..], &from.octets(), &to.octets()].concat())
        }
        [IpAddr::V6(from), IpAddr::V6(to)] => {
            let head = [0x60, 0, 0, 0, 0, bytes, protocol, 64];
            ([0x86, 0xdd], [&head[..], &from.octets(), &to.octets()].concat())
        }
        [from, to] => panic!("{from} and {to} are of two families"),
    };
    [&SHARED[..], &SENDER, &kind, &header, payload].concat()
}
