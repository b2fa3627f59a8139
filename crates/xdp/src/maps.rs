//! The maps, and the constants that the loader writes before the program is verified.
//!
//! `testudo-datapath` has the other half under the same names in `kernel/maps.rs`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, PerCpuArray, ProgramArray, RingBuf};
use testudo_packet::fragment::table::{DATAGRAMS, UNIT_WORDS};
use testudo_packet::likeness::LIKENESS_WORDS;
use testudo_packet::meter;
use testudo_packet::rule::{MAX_RULES, RULE_WORDS};
use testudo_packet::set;
use testudo_packet::stage;
use testudo_packet::table::SLOT_WORDS;
use testudo_packet::verdict::COUNTERS;

/// Lets user space map an array into its memory (`BPF_F_MMAPABLE`).
const MMAPABLE: u32 = 1 << 10;

/// The node table; the loader sets its size.
#[map]
pub static NODE_TABLE: Array<[u64; SLOT_WORDS]> = Array::with_max_entries(1, MMAPABLE);

/// The bucket slots.
#[map]
pub static BUCKETS: Array<u64> = Array::with_max_entries(65_536, MMAPABLE);

/// Single words that kernel and daemon share, see [`shared`].
#[map]
pub static SHARED: Array<u64> = Array::with_max_entries(shared::WORDS, MMAPABLE);

/// Two sets of rules; [`shared::RULES`] says which one is in force.
#[map]
pub static RULES: Array<[u64; RULE_WORDS]> = Array::with_max_entries(2 * MAX_RULES, 0);

/// The sets that rules name: number of the set and prefix. Two generations of the most that the daemon loads.
#[map]
pub static SETS: LpmTrie<[u32; set::KEY_WORDS], u64> =
    LpmTrie::with_max_entries(2 * set::MAX_PREFIXES, 0);

/// Flows that each rule has let in or refused, by its place in [`RULES`].
#[map]
pub static RULE_HITS: PerCpuArray<u64> = PerCpuArray::with_max_entries(2 * MAX_RULES, 0);

/// Packets by what became of them.
#[map]
pub static COUNTS: PerCpuArray<u64> = PerCpuArray::with_max_entries(COUNTERS, 0);

/// The cluster's addresses by interface: the address to answer from.
#[map]
pub static ANSWERS: HashMap<AnswerKey, u64> = HashMap::with_max_entries(1024, 0);

/// Changes of flows, for the daemon.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(8 << 20, 0);

/// Whole packets, for the daemon.
#[map]
pub static UPCALLS: RingBuf = RingBuf::with_byte_size(UPCALL_ROOM, 0);

/// How many bytes of packets wait for the daemon at most.
pub const UPCALL_ROOM: u32 = 4 << 20;

/// Packets and bytes of each bucket, a row of buckets for each CPU, so that a CPU adds to lines of
/// its own. Not a per-CPU array: user space can't map those. The loader sets the size.
#[map]
pub static LOADS: Array<[u64; 2]> = Array::with_max_entries(1, MMAPABLE);

/// The classes of endpoints that were met last, a row of [`CLASSES_KEPT`] for each CPU: the endpoint's address, its port
/// with [`CLASS_IS_KEPT`], the class. The loader sets the size. Not shared with other builds of the programs: it is worth
/// what the secret is that they were loaded with.
#[map]
pub static CLASSES: Array<[u64; 4]> = Array::with_max_entries(1, 0);

/// How many endpoints each CPU keeps the classes of: 32 kB, which stay near it.
pub const CLASSES_KEPT: u32 = 1024;
/// What tells a class that was kept from an empty place.
pub const CLASS_IS_KEPT: u64 = 1 << 16;

/// What sources have asked for ([`testudo_packet::meter`]).
#[map]
pub static METERS: Array<u64> = Array::with_max_entries(meter::METERS, MMAPABLE);

/// The node's own addresses, halves of 64 bits.
#[map]
pub static LOCAL: HashMap<[u64; 2], u64> = HashMap::with_max_entries(2048, 0);

/// Which node has an address on an interface's link: address and interface to node.
#[map]
pub static STATIONS: HashMap<[u64; 2], u64> = HashMap::with_max_entries(8192, 0);

/// The address that a node has on an interface's link: [`station_key`] to address.
#[map]
pub static STATION_MACS: HashMap<u64, u64> = HashMap::with_max_entries(8192, 0);

/// The largest segments that interfaces take, by their number: a `MostBytes`. None: any.
#[map]
pub static MOST_BYTES: HashMap<u64, u64> = HashMap::with_max_entries(256, 0);

/// What interfaces ask of the sources of first packets, by their number: a `ReversePath`. None: nothing.
#[map]
pub static REVERSE_PATHS: HashMap<u64, u64> = HashMap::with_max_entries(256, 0);

/// Datagrams of which fragments are on their way.
#[map]
pub static FRAGMENTS: Array<[u64; SLOT_WORDS]> = Array::with_max_entries(DATAGRAMS, MMAPABLE);

/// Which bytes of them have come.
#[map]
pub static FRAGMENT_UNITS: Array<u64> = Array::with_max_entries(DATAGRAMS * UNIT_WORDS, MMAPABLE);

/// Where the keys of the next two maps are put together: the stack has no room for them.
#[map]
pub static LIKE_KEY: PerCpuArray<[u64; 3]> = PerCpuArray::with_max_entries(1, 0);

/// What is like an endpoint: address and port to the words of a [`testudo_packet::likeness::Likeness`].
#[map]
pub static LIKE_ENDPOINTS: HashMap<[u64; 3], [u64; LIKENESS_WORDS]> =
    HashMap::with_max_entries(4096, 0);

/// What is like the addresses of a prefix, which are four words in network order.
#[map]
pub static LIKE_PREFIXES: LpmTrie<[u32; 4], [u64; LIKENESS_WORDS]> =
    LpmTrie::with_max_entries(128, 0);

/// The programs of the stages behind the main one, by the number of the stage.
#[map]
pub static STAGES: ProgramArray = ProgramArray::with_max_entries(stage::STAGES.len() as u32, 0);

/// The key of [`STATION_MACS`].
#[inline(always)]
pub fn station_key(interface: u32, node: u8) -> u64 {
    (interface as u64) << 8 | node as u64
}

/// The key of [`ANSWERS`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AnswerKey {
    pub high: u64,
    pub low: u64,
    pub interface: u64,
}

/// The words of [`SHARED`].
pub mod shared {
    /// Until when packets are handled, in nanoseconds of the monotonic clock.
    pub const LEASE: u32 = 0;
    /// The rules in force: the first one's place in the map, and in the high half how many they are.
    pub const RULES: u32 = 1;
    /// The bits of the high half that say how many.
    pub const RULE_COUNT: u32 = 0x7fff_ffff;
    /// Set in [`RULES`] if one of them asks for the interface that packets go out by.
    pub const RULES_ASK_FOR_EGRESS: u64 = 1 << 63;
    /// How many flows the node table holds.
    pub const FLOWS: u32 = 2;
    /// Events that found no room.
    pub const LOST_EVENTS: u32 = 3;
    /// Handled packets of yielding buckets that found no room.
    pub const LOST_HANDLED: u32 = 4;
    /// How many first packets that a rule refuses have gone up in this second.
    pub const REPORTS: u32 = 6;
    /// How often the kernel's routes or neighbours have changed: the generation of next hops.
    pub const HOPS: u32 = 30;
    /// How much a source may have, an interval and a depth of each kind.
    pub const LIMITS: u32 = 24;
    /// Not 0: some interface asks for smaller segments.
    pub const CLAMPS: u32 = 29;
    /// Not 0: segments of TCP are not refused for their numbers.
    pub const LOOSE_WINDOWS: u32 = 31;
    /// How many words there are; those that are not named here are the daemon's.
    pub const WORDS: u32 = 128;
}

/// The word of [`SHARED`] of this number.
#[inline(always)]
pub fn shared_word(index: u32) -> Option<*mut u64> {
    SHARED.get_ptr_mut(index)
}

/// Counts a packet.
#[inline(always)]
pub fn count(counter: u32) {
    if let Some(count) = COUNTS.get_ptr_mut(counter) {
        // SAFETY: each CPU has a value of its own, and the program is not interrupted by itself.
        unsafe { *count += 1 };
    }
}

/// Always zero, and written by nobody; but the verifier knows nothing of a variable's value.
static mut ZERO: u64 = 0;

/// Zero, of which the verifier knows nothing.
#[inline(always)]
pub fn unknown_zero() -> u64 {
    // SAFETY: nobody writes it.
    unsafe { (&raw const ZERO).read_volatile() }
}

/// The same number, of which the verifier knows nothing.
#[inline(always)]
pub fn opaque(number: u64) -> u64 {
    number.wrapping_add(unknown_zero())
}

/// What the loader writes into the program.
macro_rules! settings {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)] static $name: u64 = 0;)*

        /// The constants of this node.
        pub mod setting {
            $(#[allow(non_snake_case)]
            #[inline(always)]
            pub fn $name() -> u64 {
                // SAFETY: a plain static; volatile, because the loader has changed its value.
                unsafe { (&raw const super::$name).read_volatile() }
            })*
        }
    };
}

settings! { NODE HASH_KEY_LOW HASH_KEY_HIGH BUCKET_MASK GROUNDS LIKENESSES SLOT_MASK CLUSTER_MAC MODE }
