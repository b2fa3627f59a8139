//! Large sets of prefixes in the kernel's trie: they have the addresses that they have on the host, they can be loaded
//! beside others while these are in force, and what nobody holds goes.
//!
//! Needs root; ignored, with the reason, without it.

mod privileged;
#[allow(dead_code, reason = "some of it is for other tests")]
mod traffic;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use aya::programs::{TestRun, TestRunOptions};
use testudo_datapath::kernel::KernelDatapath;
use testudo_datapath::{Datapath, LoadedSet, NodeTable, PrefixSet, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::flow::Address;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Prefix, Rule};
use testudo_packet::set::SetId;

const BUCKETS: u32 = 64;
const PREFIXES: u32 = 100_000;
const XDP_DROP: u32 = 1;

fn node() -> KernelDatapath {
    let settings = Settings {
        node: NodeId(1),
        secret: *b"a cluster secret",
        buckets: BUCKETS,
        grounds: Grounds::default(),
        cluster_mac: Mac::from_bytes(traffic::CLUSTER_MAC),
        table_slots: 1 << 16,
        answers: Vec::new(),
        mode: Mode::Shared,
        pools: Vec::new(),
        likenesses: Default::default(),
    };
    let mut kernel = KernelDatapath::load(settings).expect("the kernel backend");
    let (owner, previous) = (NodeId(1), NodeId::NONE);
    let slot = BucketSlot { owner, previous, state: BucketState::Active, epoch: Epoch(5) };
    (0..BUCKETS as u16).for_each(|bucket| kernel.set_bucket(BucketId(bucket), slot));
    kernel.set_lease(Nanos(u64::MAX));
    kernel
}

/// Numbers that look random, always the same.
fn scattered(index: u32) -> u32 {
    index.wrapping_add(1).wrapping_mul(0x9e37_79b1).rotate_left(index % 7)
}

/// So many different prefixes of 20 to 32 bits, all over unicast space.
fn prefixes(salt: u32) -> Vec<Prefix> {
    let prefix = |index: u32| {
        let length = 20 + (scattered(index) % 13) as u8;
        let bits = 0x1000_0000 + scattered(index ^ salt) % 0xb000_0000;
        Prefix::new(Address::v4(bits & (u32::MAX << (32 - length))), length)
    };
    (0..PREFIXES).filter_map(prefix).collect()
}

fn drop_from(set: SetId) -> Vec<Rule> {
    vec![Rule { source_set: Some(set), ..Rule::any(Action::Drop) }, Rule::any(Action::Accept)]
}

/// A datagram from here, at a port that no other has.
fn datagram(from: u32, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17, 0, 0];
    packet.extend(from.to_be_bytes());
    packet.extend([10, 20, 2, 1]);
    packet.extend(port.to_be_bytes());
    packet.extend([0, 53, 0, 8, 0, 0]);
    [&traffic::CLUSTER_MAC[..], &[2, 0, 0, 0, 0, 9, 0x08, 0], &packet].concat()
}

fn is_dropped(kernel: &mut KernelDatapath, from: u32, port: u16) -> bool {
    let frame = datagram(from, port);
    let mut out = vec![0; frame.len() + 64];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&frame);
    options.data_out = Some(&mut out);
    let result = kernel.program().expect("loaded").test_run(options).expect("a test run");
    result.return_value == XDP_DROP
}

/// The edges of some prefixes, and what is right beside them.
fn edges(prefixes: &[Prefix]) -> Vec<u32> {
    let edges = prefixes.iter().step_by(97).flat_map(|prefix| {
        let first = prefix.address().as_v4().expect("IPv4");
        let last = first | u32::MAX.checked_shr(u32::from(prefix.length()) - 96).unwrap_or(0);
        [first.wrapping_sub(1), first, last, last.wrapping_add(1)]
    });
    // From there no packet comes, whatever rules say.
    edges.filter(|address| !matches!(address >> 24, 127 | 169)).collect()
}

/// Packets meet this set; says how many of them were dropped.
fn meet(kernel: &mut KernelDatapath, set: &PrefixSet, edges: &[u32], port: u16) -> usize {
    let mut dropped = 0;
    for address in edges {
        let expected = set.contains(Address::v4(*address));
        let seen = is_dropped(kernel, *address, port);
        assert_eq!(seen, expected, "{}", Ipv4Addr::from(*address));
        dropped += usize::from(seen);
    }
    dropped
}

fn load(kernel: &KernelDatapath, set: &Arc<PrefixSet>) -> LoadedSet {
    let begun = Instant::now();
    let loaded = kernel.sets().load(set.clone()).expect("room");
    println!("{} prefixes were loaded in {:?}", set.len(), begun.elapsed());
    loaded
}

fn the_kernel_has_the_addresses_of_a_set_of_a_hundred_thousand() {
    let mut kernel = node();
    let (listed, others) = (prefixes(0), prefixes(77));
    let made = Instant::now();
    let [first, second] =
        [&listed, &others].map(|list| Arc::new(PrefixSet::new(list.iter().copied())));
    println!("two sets were made in {:?}", made.elapsed());
    assert!(first.len() > 80_000, "{} are within no other", first.len());
    let in_first = load(&kernel, &first);
    kernel.set_rules(&drop_from(in_first.id())).expect("few rules");
    let (edges, beside) = (edges(&listed), edges(&others));
    let dropped = meet(&mut kernel, &first, &edges, 1000);
    assert!(dropped > edges.len() / 3 && dropped < edges.len(), "{dropped} of {}", edges.len());
    // The next ones are loaded beside it, and change nothing of it until they are in force.
    let in_second = load(&kernel, &second);
    meet(&mut kernel, &first, &beside, 1001);
    kernel.set_rules(&drop_from(in_second.id())).expect("few rules");
    meet(&mut kernel, &second, &beside, 1002);
    let (old, begun) = (in_first.id(), Instant::now());
    drop(in_first);
    kernel.sets().sweep().expect("a sweep");
    println!("the first was taken out in {:?}", begun.elapsed());
    meet(&mut kernel, &second, &edges, 1003);
    // Nothing is left of the first.
    kernel.set_rules(&drop_from(old)).expect("few rules");
    meet(&mut kernel, &PrefixSet::new([]), &edges, 1004);
    assert!(kernel.table().len() > 1000);
}

fn a_set_that_finds_no_room_leaves_nothing() {
    let mut kernel = node();
    let hosts = |net: u32| {
        let host = |n: u32| Prefix::new(Address::v4(net + (n << 1)), 32);
        Arc::new(PrefixSet::new((0..1 << 19).filter_map(host)))
    };
    let full = [0x1000_0000, 0x2000_0000].map(|net| load(&kernel, &hosts(net)));
    let refused = kernel.sets().load(Arc::new(PrefixSet::new(prefixes(1)))).expect_err("no room");
    assert!(refused.to_string().contains("SETS"), "{refused}");
    kernel.set_rules(&drop_from(full[1].id())).expect("few rules");
    assert!(is_dropped(&mut kernel, 0x2000_0002, 1) && !is_dropped(&mut kernel, 0x2000_0001, 1));
    drop(full);
    kernel.sets().sweep().expect("a sweep");
    let again = load(&kernel, &hosts(0x3000_0000));
    let _more = load(&kernel, &hosts(0x4000_0000));
    kernel.set_rules(&drop_from(again.id())).expect("few rules");
    assert!(is_dropped(&mut kernel, 0x3000_0002, 2));
}

fn main() -> std::process::ExitCode {
    privileged::run(
        &[
            (
                "the_kernel_has_the_addresses_of_a_set_of_a_hundred_thousand",
                the_kernel_has_the_addresses_of_a_set_of_a_hundred_thousand,
            ),
            ("a_set_that_finds_no_room_leaves_nothing", a_set_that_finds_no_room_leaves_nothing),
        ],
        &[],
    )
}
