//! The kernel's half of the benchmark of searches: many searches in one run of a program.
//!
//! User space writes the keys to [`KEYS`] in random order and runs one of the programs; the program
//! returns how many it found. [`empty`] reads the same keys and searches nothing, so that the
//! difference is the search alone. [`chase`] follows pointers through an array of the node table's
//! size: the yardstick, one cache miss that waits for the one before.
//!
//! In a *chained* program the place of each search hangs on words that the search before has read.
//! Otherwise the CPU would begin several searches at once, which it can't do for packets that come
//! one at a time. The other programs let it. A search in the kernel's hash map that finds nothing
//! reads nothing that the next could hang on, so such searches overlap in every program; an atomic
//! exchange between them does not keep the CPU from that.
//!
//! `testudo-datapath` has the other half: `benches/search/kernel.rs`.

#![no_std]
#![no_main]
#![allow(internal_features)]
#![feature(core_intrinsics, asm_experimental_arch)]

mod slot;

use aya_ebpf::helpers::generated::bpf_loop;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap};
use aya_ebpf::programs::XdpContext;
use testudo_packet::flow::{FlowKey, KEY_WORDS};
use testudo_packet::placement::{Grounds, Placer};
use testudo_packet::siphash::HashKey;
use testudo_packet::table::{self, SLOT_WORDS, Slot, Slots, word};

use slot::KernelSlot;

/// Lets user space map an array into its memory (`BPF_F_MMAPABLE`).
const MMAPABLE: u32 = 1 << 10;
/// The most searches of one run.
const MAX_SEARCHES: u32 = 16_384;
/// The words of a value of [`FLOW_MAP`]: with the key, what a slot holds.
const VALUE_WORDS: usize = SLOT_WORDS - KEY_WORDS;

/// The node table; the loader sets its size.
#[map]
static NODE_TABLE: Array<[u64; SLOT_WORDS]> = Array::with_max_entries(1, MMAPABLE);

/// The kernel's own hash table with the same content; the loader sets its size.
#[map]
static FLOW_MAP: HashMap<[u64; KEY_WORDS], [u64; VALUE_WORDS]> = HashMap::with_max_entries(1, 0);

/// Slots whose first word is the number of the next; the loader sets their number.
#[map]
static CHASE: Array<[u64; SLOT_WORDS]> = Array::with_max_entries(1, MMAPABLE);

/// What to search for: a key's words, its hash, and nothing up to the end of the cache line.
#[map]
static KEYS: Array<[u64; 8]> = Array::with_max_entries(MAX_SEARCHES, MMAPABLE);

/// How many searches to do, and where [`CHASE`] goes on.
#[map]
static CONTROL: Array<u64> = Array::with_max_entries(2, MMAPABLE);

const CONTROL_SEARCHES: u32 = 0;
const CONTROL_POSITION: u32 = 1;

/// The number of slots less one; the loader writes it.
#[unsafe(no_mangle)]
static SLOT_MASK: u64 = 0;

/// Always zero, and written by nobody; but compiler and verifier know nothing of a variable's value.
static mut ZERO: u64 = 0;

fn slot_mask() -> u32 {
    // SAFETY: a plain static; volatile, because the loader has changed its value.
    unsafe { (&raw const SLOT_MASK).read_volatile() as u32 }
}

struct Table;

impl Slots for Table {
    type Slot = KernelSlot;

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<KernelSlot> {
        NODE_TABLE.get_ptr_mut(index).map(|slot| KernelSlot(slot.cast()))
    }

    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        slot_mask()
    }

    #[inline(always)]
    fn holder(&self) -> u8 {
        1
    }

    #[inline(always)]
    fn count(&self, _: i64) {}
}

/// What goes from one search to the next.
struct Walk {
    /// Words that the last search has read.
    carry: u64,
    /// The searches that found something.
    found: u64,
    /// Zero, but only at run time.
    zero: u64,
}

/// A way to search.
trait Search {
    /// Whether the next search waits for this one.
    const CHAINED: bool;
    /// Searches for a key; says whether it is there, and words that were read on the way.
    fn search(key: [u64; KEY_WORDS], hash: u64) -> (bool, u64);
}

/// No search: the cost of the loop.
struct Nothing;

impl Search for Nothing {
    const CHAINED: bool = true;

    #[inline(always)]
    fn search(key: [u64; KEY_WORDS], hash: u64) -> (bool, u64) {
        let [a, b, c, d, e] = key;
        (false, a ^ b ^ c ^ d ^ e ^ hash)
    }
}

/// The node table, by a hash that is given.
struct InTable<const CHAINED: bool>;

impl<const CHAINED: bool> Search for InTable<CHAINED> {
    const CHAINED: bool = CHAINED;

    #[inline(always)]
    fn search(key: [u64; KEY_WORDS], hash: u64) -> (bool, u64) {
        let hash = hash as u32;
        let found = table::lookup(&Table, hash, &FlowKey::from_words(key));
        // The home's word is in the cache now; through it a miss has something to wait for too.
        let home = match Table.slot(table::home_of(&Table, hash)) {
            Some(slot) => slot.load::<{ word::HOME }>(),
            None => 0,
        };
        match found {
            Some(found) => (true, found.control ^ home),
            None => (false, home),
        }
    }
}

/// The node table, with the keyed hash computed here.
struct Hashed;

impl Search for Hashed {
    const CHAINED: bool = true;

    #[inline(always)]
    fn search(key: [u64; KEY_WORDS], hash: u64) -> (bool, u64) {
        let placer = Placer {
            // The key is no constant, so that nothing is computed beforehand.
            key: HashKey { k0: 0x0706_0504_0302_0100 ^ (hash >> 32), k1: 0x0f0e_0d0c_0b0a_0908 },
            bucket_mask: 0xff,
            grounds: Grounds(0),
        };
        let own = placer.table_hash(&FlowKey::from_words(key));
        InTable::<true>::search(key, own as u64)
    }
}

/// The kernel's own hash table, which hashes for itself.
struct InMap<const CHAINED: bool>;

impl<const CHAINED: bool> Search for InMap<CHAINED> {
    const CHAINED: bool = CHAINED;

    #[inline(always)]
    fn search(key: [u64; KEY_WORDS], _: u64) -> (bool, u64) {
        match FLOW_MAP.get_ptr(&key) {
            // SAFETY: the map gave the pointer; nobody writes during a run.
            Some(value) => (true, unsafe { value.cast::<u64>().read_volatile() }),
            None => (false, 0),
        }
    }
}

unsafe extern "C" fn step<S: Search>(index: u32, context: *mut core::ffi::c_void) -> i64 {
    // SAFETY: `run` passes a pointer to this, which outlives the loop.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let Some(words) = KEYS.get_ptr(index) else { return 1 };
    // SAFETY: the map gave the pointer; nobody writes during a run.
    let [a, b, c, d, e, hash, _, _] = unsafe { words.read() };
    let mix = if S::CHAINED { walk.carry & walk.zero } else { 0 };
    let (found, carry) = S::search([a, b ^ mix, c, d, e], hash ^ mix);
    walk.carry = carry;
    walk.found += found as u64;
    0
}

unsafe extern "C" fn follow(_: u32, context: *mut core::ffi::c_void) -> i64 {
    // SAFETY: `run` passes a pointer to this, which outlives the loop.
    let walk = unsafe { &mut *context.cast::<Walk>() };
    let Some(slot) = CHASE.get_ptr(walk.carry as u32 & slot_mask()) else { return 1 };
    // SAFETY: the map gave the pointer; nobody writes during a run.
    walk.carry = unsafe { slot.cast::<u64>().read_volatile() };
    walk.found += 1;
    0
}

type Step = unsafe extern "C" fn(u32, *mut core::ffi::c_void) -> i64;

/// Calls `step` as often as is asked for, and returns how often it found something.
#[inline(always)]
fn run(step: Step) -> u32 {
    let (Some(searches), Some(position)) =
        (CONTROL.get(CONTROL_SEARCHES), CONTROL.get_ptr_mut(CONTROL_POSITION))
    else {
        return 0;
    };
    // SAFETY: nobody else writes the variable or the map during a run.
    let (zero, start) = unsafe { ((&raw const ZERO).read_volatile(), position.read_volatile()) };
    let mut walk = Walk { carry: start, found: 0, zero };
    let callback = step as *mut core::ffi::c_void;
    // SAFETY: the callbacks cast the context back to what it is.
    unsafe { bpf_loop(*searches as u32, callback, (&raw mut walk).cast(), 0) };
    // SAFETY: as above.
    unsafe { position.write_volatile(walk.carry) };
    walk.found as u32
}

#[xdp]
pub fn empty(_: XdpContext) -> u32 {
    run(step::<Nothing>)
}

#[xdp]
pub fn table_chained(_: XdpContext) -> u32 {
    run(step::<InTable<true>>)
}

#[xdp]
pub fn table_free(_: XdpContext) -> u32 {
    run(step::<InTable<false>>)
}

#[xdp]
pub fn table_hashed(_: XdpContext) -> u32 {
    run(step::<Hashed>)
}

#[xdp]
pub fn map_chained(_: XdpContext) -> u32 {
    run(step::<InMap<true>>)
}

#[xdp]
pub fn map_free(_: XdpContext) -> u32 {
    run(step::<InMap<false>>)
}

#[xdp]
pub fn chase(_: XdpContext) -> u32 {
    run(follow)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Some helpers are for programs under a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
