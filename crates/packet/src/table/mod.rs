//! The node table's algorithm: a hash table in memory that kernel and daemon share.
//!
//! One implementation for both sides, over the accessor [`Slots`]: in the kernel a slot is an
//! element of a memory-mapped BPF array, on the host a run of atomics over the same pages. Any
//! number of CPUs that handle packets and the daemon work on it at once, without system calls.
//!
//! # Layout
//!
//! A slot is three cache lines ([`word`]). Its first line holds a *control* word, a *home* word, the flow's key
//! and its state; the others timers, counters, and what is learned of a flow's packets and not kept with its
//! record. A flow's *home* is the slot that
//! its hash names; it lives there or in one of the [`WINDOW`] − 1 slots behind. The home word has a
//! bit for each slot of the window that holds a flow of this home. So a search reads its home's line
//! and then only slots that can hold the flow: most hits and nearly all misses touch one line.
//!
//! The obvious ways cost more: linear probing reads on until it meets an empty slot, a separate
//! index doubles the dependent cache misses of a hit, chaining needs an allocator in the kernel.
//!
//! # Concurrency
//!
//! * **Changes of membership are serialised by home.** Whoever inserts or removes takes the lock in
//!   the home word by compare-and-swap, and gives it back in the same store that publishes the new
//!   bits. So two CPUs that meet the first packets of one flow at once can't insert it twice: the
//!   second finds it when it looks again under the lock.
//! * **Slots are claimed by compare-and-swap** of the control word (empty → claimed), because flows
//!   of different homes compete for one slot. Key and state are written while claimed; the swap to
//!   live publishes them.
//! * **Readers take nothing.** A reader reads control, key, control; if control has changed, the slot
//!   is not its flow's. Control holds a generation that grows with each claim, so a slot that was
//!   freed and taken again in between is noticed. A reader that misses a flow being inserted at this
//!   moment goes on to insert, takes the lock, and finds it.
//! * **State changes by compare-and-swap** of one word whose sequence never goes back in a slot
//!   ([`crate::entry::FlowState`]). A flow that leaves takes its state word out of use, before its slot
//!   can be claimed; so a late change meant for it fails, also when an equal state moves in.
//! * **Timers and counters** may receive a late update after the slot changed hands: a few packets
//!   counted for the wrong flow, or a fresh flow that looks fresh. Harmless, and bounded by the
//!   packets that are in the pipeline at that moment. Of packets that two CPUs count at once one may be missed.
//! * **Waiting is bounded.** A lock is tried [`LOCK_TRIES`] times; then the packet goes up to user
//!   space. A holder in the kernel can't stop; a daemon that dies with a lock leaves its number in
//!   it, and its successor frees it with [`break_locks`].
//!
//! Loads acquire and stores release. In the kernel that is what x86-64 does by itself, and what
//! publishes is a full-order exchange. `model` checks all of this on the host, over every interleaving
//! that the memory model allows.
//!
//! # Translated flows
//!
//! Replies carry other endpoints than the flow's first packet, so such a flow lives in two slots, each of which
//! names the other: [`twin`].
//!
//! # When it is full
//!
//! A flow finds no room when all slots of its window are taken. It is refused and counted; nothing that is in the
//! table is thrown out for it. The daemon's expiry makes room, and hurries when the table fills up
//! (`testudo_datapath::expiry`).

mod insert;
#[cfg(test)]
mod model;
pub mod twin;

pub use insert::{Inserted, break_locks, insert, remove, remove_in_state, write_record};
pub use twin::{Joined, insert_translated};

use crate::bucket::{BucketId, Epoch};
use crate::entry::{FlowRecord, FlowState};
use crate::flow::{Direction, FlowKey, KEY_WORDS};

/// How many slots from its home on a flow can live in.
pub const WINDOW: u32 = 32;

/// How often a lock is tried before the packet goes up to user space.
pub const LOCK_TRIES: u32 = 64;

/// How many 64-bit words a cache line has.
pub const LINE_WORDS: usize = 8;

/// How many 64-bit words a slot has: three cache lines.
pub const SLOT_WORDS: usize = 3 * LINE_WORDS;

/// What the words of a slot hold.
///
/// The second line has all that a packet from the initiator needs besides, unless its protocol has windows or tags; the third
/// what one from the responder needs, and those. So a packet meets three lines only where it has to.
pub mod word {
    /// Occupancy, place in the window, bucket, generation.
    pub const CONTROL: usize = 0;
    /// The flows whose home this slot is.
    pub const HOME: usize = 1;
    /// Initiator's address, high half; the rest of the key follows.
    pub const KEY: usize = 2;
    /// [`crate::entry::FlowState`].
    pub const STATE: usize = 7;
    /// Epoch under which the state was written; in the high half the number behind the initiator's last SYN
    /// ([`crate::window`]).
    pub const EPOCH: usize = 8;
    /// When the last packet came.
    pub const LAST_SEEN: usize = 9;
    /// Packets from the initiator.
    pub const ORIGINAL_PACKETS: usize = 10;
    /// Bytes from the initiator.
    pub const ORIGINAL_BYTES: usize = 11;
    /// The next hop of packets from the initiator ([`crate::hop`]): two words.
    pub const ORIGINAL_HOP: usize = 12;
    /// The slot of the other half of a translated flow ([`super::twin`]); 0 if there is none.
    pub const TWIN: usize = 14;
    /// When the next hop of each direction was learned.
    pub const HOP_TIMES: usize = 15;
    /// Packets from the responder.
    pub const REPLY_PACKETS: usize = 16;
    /// Bytes from the responder.
    pub const REPLY_BYTES: usize = 17;
    /// The next hop of packets from the responder: two words.
    pub const REPLY_HOP: usize = 18;
    /// What the initiator's segments have said ([`crate::window::Side`]): two words.
    pub const ORIGINAL_WINDOW: usize = 20;
    /// What the responder's segments have said: two words.
    pub const REPLY_WINDOW: usize = 22;
}

/// Access to one slot. All of it is atomic; `W` is a constant so that the verifier can see it.
pub trait Slot: Copy {
    /// Reads a word, no later than what follows.
    fn load<const W: usize>(self) -> u64;
    /// Writes a word that nobody relies on yet, no earlier than what precedes.
    fn store<const W: usize>(self, value: u64);
    /// Writes a word, no earlier than what precedes and no later than what follows.
    fn publish<const W: usize>(self, value: u64);
    /// Writes `new` if the word is `old`; says whether it was.
    fn compare_exchange<const W: usize>(self, old: u64, new: u64) -> bool;
    /// Adds to a word.
    fn add<const W: usize>(self, value: u64);
    /// Has the line of a word on its way, which will be wanted soon.
    #[inline(always)]
    fn fetch<const W: usize>(self) {}
    /// Lets others go on for a moment, because a lock is held.
    #[inline(always)]
    fn relax(self) {}
    /// The same number, of which the compiler of the eBPF build knows nothing: where it saw five comparisons in one it would
    /// branch five times, and the verifier would follow each way.
    #[inline(always)]
    fn opaque(self, number: u64) -> u64 {
        number
    }
}

/// Access to all slots.
pub trait Slots {
    /// One slot.
    type Slot: Slot;
    /// The slot of this number; `None` only beyond the table's end.
    fn slot(&self, index: u32) -> Option<Self::Slot>;
    /// The number of slots less one; the number is a power of two.
    fn slot_mask(&self) -> u32;
    /// The number that stands in locks taken through this accessor: 1 to 255, and not the same for
    /// the kernel and the daemon.
    fn holder(&self) -> u8;
    /// Told of each flow that comes (1) or goes (−1).
    fn count(&self, change: i64);
}

/// What a slot is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occupancy {
    /// Free.
    Empty,
    /// Being written.
    Claimed,
    /// Holds a flow.
    Live,
}

/// The control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// What the slot is used for.
    pub occupancy: Occupancy,
    /// How far behind its home the flow lives.
    pub distance: u8,
    /// Distribution information: the flow's bucket.
    pub bucket: BucketId,
    /// How often the slot was claimed.
    pub generation: u32,
    /// Whether it holds no flow, but the key that a translated flow's replies carry.
    pub alias: bool,
}

const ALIAS: u64 = 1 << 9;

impl Control {
    /// The control word as read.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        let occupancy = match word & 3 {
            0 => Occupancy::Empty,
            1 => Occupancy::Claimed,
            _ => Occupancy::Live,
        };
        Self {
            occupancy,
            distance: (word >> 4 & 31) as u8,
            bucket: BucketId((word >> 16) as u16),
            generation: (word >> 32) as u32,
            alias: word & ALIAS != 0,
        }
    }

    /// The control word to write.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        let occupancy = match self.occupancy {
            Occupancy::Empty => 0,
            Occupancy::Claimed => 1,
            Occupancy::Live => 2,
        };
        occupancy
            | ((self.distance & 31) as u64) << 4
            | (self.bucket.0 as u64) << 16
            | (self.generation as u64) << 32
            | if self.alias { ALIAS } else { 0 }
    }
}

/// A flow found in the table.
#[derive(Clone, Copy, Debug)]
pub struct Found<S> {
    /// Where it is.
    pub slot: S,
    /// Which way the packet that it was found by travels.
    pub direction: Direction,
    /// The control word under which it was found.
    pub control: u64,
}

/// The slot that a flow of this hash lives in or behind.
#[inline(always)]
pub fn home_of<T: Slots>(table: &T, hash: u32) -> u32 {
    hash & table.slot_mask()
}

/// Has a flow's home on its way, which will be looked up soon.
#[inline(always)]
pub fn fetch<T: Slots>(table: &T, hash: u32) {
    if let Some(slot) = table.slot(home_of(table, hash)) {
        slot.fetch::<{ word::HOME }>();
    }
}

/// The flow that a packet of this key belongs to, in either direction.
#[inline(always)]
pub fn lookup<T: Slots>(table: &T, hash: u32, key: &FlowKey) -> Option<Found<T::Slot>> {
    let home = home_of(table, hash);
    let slot = table.slot(home)?;
    // Most flows live in their home. Its second line is on its way while the first is looked at.
    slot.fetch::<{ LINE_WORDS }>();
    let flows = slot.load::<{ word::HOME }>() as u32;
    find(table, home, flows, key)
}

/// Looks through the slots of the window that `flows` has a bit for.
#[inline(always)]
fn find<T: Slots>(table: &T, home: u32, flows: u32, key: &FlowKey) -> Option<Found<T::Slot>> {
    let mut rest = flows;
    for distance in 0..WINDOW {
        if rest == 0 {
            return None;
        }
        if rest & 1 != 0 {
            let slot = table.slot(home.wrapping_add(distance) & table.slot_mask())?;
            if let Some((direction, control)) = holds(slot, key) {
                return Some(Found { slot, direction, control });
            }
        }
        rest >>= 1;
    }
    None
}

/// Whether a slot holds the flow of this key, in which direction, and under which control word.
#[inline(always)]
fn holds<S: Slot>(slot: S, key: &FlowKey) -> Option<(Direction, u64)> {
    let control = slot.load::<{ word::CONTROL }>();
    if control & 3 != 2 {
        return None;
    }
    // All words lie in one line, and one branch is foretold better than five.
    let words = [
        slot.load::<{ word::KEY }>(),
        slot.load::<{ word::KEY + 1 }>(),
        slot.load::<{ word::KEY + 2 }>(),
        slot.load::<{ word::KEY + 3 }>(),
        slot.load::<{ word::KEY + 4 }>(),
    ];
    let direction = if slot.opaque(differ(&words, &key.to_words())) == 0 {
        Direction::Original
    } else if slot.opaque(differ(&words, &key.reversed().to_words())) == 0
        && key.protocol.is_bidirectional()
    {
        Direction::Reply
    } else {
        return None;
    };
    (slot.load::<{ word::CONTROL }>() == control).then_some((direction, control))
}

/// 0 if two keys are the same.
#[inline(always)]
const fn differ(one: &[u64; KEY_WORDS], other: &[u64; KEY_WORDS]) -> u64 {
    let [a, b, c, d, e] = *one;
    let [f, g, h, i, j] = *other;
    a ^ f | b ^ g | c ^ h | d ^ i | e ^ j
}

/// The record of the flow in a slot, as it was while the control word was `control`, without its translation;
/// `None` if the slot is not, or no longer, in use for that flow.
#[inline(always)]
pub fn read_record<S: Slot>(slot: S, control: u64) -> Option<FlowRecord> {
    let key: [u64; KEY_WORDS] = [
        slot.load::<{ word::KEY }>(),
        slot.load::<{ word::KEY + 1 }>(),
        slot.load::<{ word::KEY + 2 }>(),
        slot.load::<{ word::KEY + 3 }>(),
        slot.load::<{ word::KEY + 4 }>(),
    ];
    let state = FlowState::from_word(slot.load::<{ word::STATE }>())?;
    let epoch = Epoch(slot.load::<{ word::EPOCH }>() as u32);
    let unchanged = control & 3 == 2 && slot.load::<{ word::CONTROL }>() == control;
    let bucket = Control::from_word(control).bucket;
    unchanged.then_some(FlowRecord {
        translation: None,
        bucket,
        epoch,
        key: FlowKey::from_words(key),
        state,
    })
}
