//! Datagrams of which fragments are on their way: what the first showed, and which bytes have come.
//!
//! A bounded hash in memory that kernel and daemon share. A datagram is in one of [`WINDOW`] places from the one that
//! its hash names. It leaves when all of it has come, or when another one needs the place: first what is older than
//! [`LIFETIME`], then the oldest. So a flood of first fragments costs other datagrams their memory, never the node.
//!
//! # Concurrency
//!
//! A place is taken by compare-and-swap of its *control* word, which holds the moment and a generation. The rest of
//! its *head* is written while it is claimed, and a second swap publishes it. A reader reads control, the rest,
//! control, as in the node table ([`crate::table`]). Two CPUs that meet the first fragment of one datagram at the
//! same moment may put it in twice; then each of the two knows some of its bytes, and an overlap may go unnoticed.
//! Whoever dies or sleeps while it writes a head leaves it claimed, until its lifetime is over.
//!
//! Which [`UNIT`]s have come stands in words of their own, with the generation in each: a new generation makes them
//! all empty, and nothing has to be cleared. Each is changed by compare-and-swap, so of two fragments that have a
//! unit in common one is the second, on whatever CPUs they are.
//!
//! [`UNIT`]: crate::wire::fragment::UNIT

use crate::bucket::{BucketId, Nanos};
use crate::env::{Env, Steps};
use crate::flow::FlowKey;
use crate::placement::Placement;
use crate::table::Slot;
use crate::tracking::TcpFlags;
use crate::verdict::DropReason;
use crate::wire::fragment::{Datagram, Part, Spot, UNIT};

/// How many datagrams there is room for: a power of two.
pub const DATAGRAMS: u32 = 4096;
/// How many places a datagram can be in.
pub const WINDOW: u32 = 4;
/// How many words the units of a datagram take: the largest has 8,192 of them.
pub const UNIT_WORDS: u32 = 256;
/// How long after its first fragment the others are let through. RFC 8200 §4.5 and RFC 1122 §3.3.2 have a receiver
/// wait for a minute; but the 16 bits that name an IPv4 datagram come round in seconds (RFC 4963), and a network
/// that delays one fragment of two so long is not known.
pub const LIFETIME: Nanos = Nanos(3_000_000_000);

/// How many units a word has a bit for; the other half of it is the generation.
const WORD_UNITS: u32 = 32;
/// How often a word is tried that others change at the same time.
const TRIES: u32 = 4;

/// The words of a head, of which each has as many as a slot of the node table.
mod word {
    /// Occupancy, generation, moment.
    pub const CONTROL: usize = 0;
    /// Source, destination.
    pub const ADDRESSES: usize = 1;
    /// Identification and protocol.
    pub const IDENTIFICATION: usize = 5;
    /// What [`crate::flow::FlowKey::port_word`] gives.
    pub const PORTS: usize = 6;
    /// The rest of [`super::Shown`].
    pub const SHOWN: usize = 7;
    /// [`super::Progress`].
    pub const PROGRESS: usize = 8;
}

/// Access to the memory.
pub trait Datagrams {
    /// A head: as many words as a slot of the node table has.
    type Head: Slot;
    /// One word of units; `W` is 0.
    type Units: Slot;
    /// The head of this number; `None` only from [`DATAGRAMS`] on.
    fn head(&self, index: u32) -> Option<Self::Head>;
    /// The word of units of this number; `None` only from `DATAGRAMS * UNIT_WORDS` on.
    fn units(&self, index: u32) -> Option<Self::Units>;
}

const EMPTY: u64 = 0;
const CLAIMED: u64 = 1;
const LIVE: u64 = 2;
/// All of it has come: whoever needs the place may have it.
const DONE: u64 = 3;
const OCCUPANCY: u64 = 3;
const GENERATION_BITS: u32 = 22;
const GENERATION: u64 = (1 << GENERATION_BITS) - 1;
/// Moments are kept in units of 2^20 ns, about a millisecond.
const MOMENT_SHIFT: u32 = 20;

#[inline(always)]
const fn generation(control: u64) -> u64 {
    control >> 2 & GENERATION
}

/// Whether what stands here is too old to be of use. The daemon's clock may be a little behind the kernel's.
#[inline(always)]
const fn is_over(control: u64, now: Nanos) -> bool {
    let age = (now.0 >> MOMENT_SHIFT).saturating_sub(control >> (2 + GENERATION_BITS));
    age > LIFETIME.0 >> MOMENT_SHIFT
}

/// The same place for another datagram.
#[inline(always)]
const fn next(control: u64, now: Nanos, occupancy: u64) -> u64 {
    let generation = generation(control).wrapping_add(1) & GENERATION;
    (now.0 >> MOMENT_SHIFT) << (2 + GENERATION_BITS) | generation << 2 | occupancy
}

/// How much of a datagram has come, as one word: generation, whether the rest is refused, where it ends, and how
/// many units have come.
#[derive(Clone, Copy)]
struct Progress(u64);

impl Progress {
    const REFUSED: u64 = 1 << 28;
    const OVERLAPPED: u64 = 1 << 29;
    const UNITS: u64 = 0x3fff;

    #[inline(always)]
    const fn none(generation: u64) -> Self {
        Self(generation << 32)
    }

    #[inline(always)]
    const fn generation(self) -> u64 {
        self.0 >> 32
    }

    /// Why the rest is dropped.
    #[inline(always)]
    const fn refusal(self) -> Option<DropReason> {
        if self.0 & Self::OVERLAPPED != 0 {
            Some(DropReason::FragmentOverlap)
        } else if self.0 & Self::REFUSED != 0 {
            Some(DropReason::FragmentRefused)
        } else {
            None
        }
    }

    #[inline(always)]
    const fn units(self) -> u64 {
        self.0 & Self::UNITS
    }

    /// Behind which unit it ends; 0: not known yet.
    #[inline(always)]
    const fn end(self) -> u64 {
        self.0 >> 14 & Self::UNITS
    }

    /// One more fragment has come; `None`: it contradicts the others.
    #[inline(always)]
    const fn with(self, from: u64, to: u64, last: bool) -> Option<Self> {
        let (units, end) = (self.units() + to - from, self.end());
        let new_end = if last { to } else { end };
        let beyond = new_end != 0 && (to > new_end || units > new_end);
        if beyond || last && end != 0 && end != to {
            return None;
        }
        let flags = self.0 & !(Self::UNITS << 14 | Self::UNITS);
        Some(Self(flags | new_end << 14 | units))
    }

    #[inline(always)]
    const fn is_complete(self) -> bool {
        self.end() != 0 && self.end() == self.units()
    }
}

/// What a first fragment shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The flow, as it spells it.
    pub key: FlowKey,
    /// Where that belongs.
    pub place: Placement,
    /// TCP's control bits; 0 for all else.
    pub flags: TcpFlags,
    /// Whether it can only be an answer.
    pub answer: bool,
}

impl Shown {
    /// All but the key, as a word.
    #[inline(always)]
    const fn to_word(self) -> u64 {
        self.place.bucket.0 as u64
            | (self.flags.0 as u64) << 16
            | (self.answer as u64) << 24
            | (self.place.hash as u64) << 32
    }

    #[inline(always)]
    const fn from_words(key: FlowKey, word: u64) -> Self {
        Self {
            key,
            place: Placement { bucket: BucketId(word as u16), hash: (word >> 32) as u32 },
            flags: TcpFlags((word >> 16) as u8),
            answer: word >> 24 & 1 == 1,
        }
    }
}

/// A datagram whose first fragment has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    index: u32,
    control: u64,
    progress: u64,
    /// What that has shown.
    pub shown: Shown,
}

impl Known {
    /// Why the rest is dropped, if it is.
    #[inline(always)]
    #[must_use]
    pub const fn refusal(&self) -> Option<DropReason> {
        Progress(self.progress).refusal()
    }

    /// The same, of which the verifier knows nothing more ([`Env::opaque`]).
    #[inline(always)]
    #[must_use]
    pub fn opaque<E: Env>(self, env: &E) -> Self {
        Self {
            index: env.opaque(self.index as u64) as u32,
            control: env.opaque(self.control),
            progress: env.opaque(self.progress),
            ..self
        }
    }
}

#[inline(always)]
const fn identification(datagram: &Datagram) -> u64 {
    datagram.identification as u64 | (datagram.protocol as u64) << 32
}

#[inline(always)]
fn is_of<S: Slot>(head: S, datagram: &Datagram) -> bool {
    head.load::<{ word::IDENTIFICATION }>() == identification(datagram)
        && head.load::<{ word::ADDRESSES }>() == datagram.source.high
        && head.load::<{ word::ADDRESSES + 1 }>() == datagram.source.low
        && head.load::<{ word::ADDRESSES + 2 }>() == datagram.destination.high
        && head.load::<{ word::ADDRESSES + 3 }>() == datagram.destination.low
}

#[inline(always)]
fn read<S: Slot>(head: S, index: u32, control: u64, datagram: &Datagram) -> Option<Known> {
    let ports = head.load::<{ word::PORTS }>();
    let place = head.load::<{ word::SHOWN }>();
    let progress = head.load::<{ word::PROGRESS }>();
    if head.load::<{ word::CONTROL }>() != control {
        return None;
    }
    let shown = Shown::from_words(datagram.flow(ports), place);
    Some(Known { index, control, progress, shown })
}

/// The place of a datagram, or the one that it can have: its number and its control word.
struct Room {
    index: u32,
    control: u64,
    found: bool,
}

#[inline(always)]
fn search<E: Env>(env: &E, datagram: &Datagram, spot: Spot, now: Nanos) -> Option<Room> {
    let (mut best, mut best_control, mut best_rank) = (0, 0, u64::MAX);
    for step in 0..WINDOW {
        let index = spot.hash.wrapping_add(step) & (DATAGRAMS - 1);
        let head = env.head(index)?;
        let control = head.load::<{ word::CONTROL }>();
        let over = is_over(control, now);
        let occupancy = control & OCCUPANCY;
        if occupancy >= LIVE && !over && is_of(head, datagram) {
            return Some(Room { index, control, found: occupancy == LIVE });
        }
        // What is being written is the youngest there is.
        let free = occupancy == EMPTY || occupancy == DONE || over;
        let rank = if free { 0 } else { (control >> (2 + GENERATION_BITS)) + 1 };
        if rank < best_rank {
            (best, best_control, best_rank) = (index, control, rank);
        }
    }
    Some(Room { index: best, control: best_control, found: false })
}

/// What is known of a datagram whose first fragment has come and of which some bytes have not.
#[inline(always)]
pub fn find<T: Datagrams>(table: &T, datagram: &Datagram, spot: Spot, now: Nanos) -> Option<Known> {
    find_from(table, datagram, spot, now, LIVE, LIVE)
}

/// The same of one of which all bytes may just have come.
#[inline(always)]
pub fn find_done<T: Datagrams>(
    table: &T,
    datagram: &Datagram,
    spot: Spot,
    now: Nanos,
) -> Option<Known> {
    find_from(table, datagram, spot, now, LIVE, DONE)
}

/// The same, where the place is used for something from `least` to `most`.
#[inline(always)]
fn find_from<T: Datagrams>(
    table: &T,
    datagram: &Datagram,
    spot: Spot,
    now: Nanos,
    least: u64,
    most: u64,
) -> Option<Known> {
    for step in 0..WINDOW {
        let index = spot.hash.wrapping_add(step) & (DATAGRAMS - 1);
        let head = table.head(index)?;
        let control = head.load::<{ word::CONTROL }>();
        let occupancy = control & OCCUPANCY;
        let fits = occupancy >= least && occupancy <= most;
        if fits && !is_over(control, now) && is_of(head, datagram) {
            return read(head, index, control, datagram);
        }
    }
    None
}

/// Remembers what a first fragment has shown. `None`: another CPU has taken the place at this moment.
///
/// Another first fragment of the same datagram changes nothing if it shows the same. If it shows something else, it
/// is of another datagram, unless this node has handled some of the one that it knows: then it is an overlap.
#[inline(always)]
pub fn note<E: Env>(
    env: &E,
    datagram: &Datagram,
    spot: Spot,
    shown: &Shown,
    now: Nanos,
) -> Option<()> {
    let Room { index, control, found } = search(env, datagram, spot, now)?;
    let head = env.head(index)?;
    if found {
        let known = read(head, index, control, datagram)?;
        if known.shown.key.port_word() == shown.key.port_word() {
            return Some(());
        }
        if Progress(known.progress).units() > 0 {
            refuse(env, &known, DropReason::FragmentOverlap);
            return Some(());
        }
    }
    let claimed = next(control, now, CLAIMED);
    if !head.compare_exchange::<{ word::CONTROL }>(control, claimed) {
        return None;
    }
    head.store::<{ word::ADDRESSES }>(datagram.source.high);
    head.store::<{ word::ADDRESSES + 1 }>(datagram.source.low);
    head.store::<{ word::ADDRESSES + 2 }>(datagram.destination.high);
    head.store::<{ word::ADDRESSES + 3 }>(datagram.destination.low);
    head.store::<{ word::IDENTIFICATION }>(identification(datagram));
    head.store::<{ word::PORTS }>(shown.key.port_word());
    head.store::<{ word::SHOWN }>(shown.to_word());
    head.store::<{ word::PROGRESS }>(Progress::none(generation(claimed)).0);
    let live = claimed ^ CLAIMED ^ LIVE;
    if head.compare_exchange::<{ word::CONTROL }>(claimed, live) { Some(()) } else { None }
}

/// Has the rest of a datagram dropped.
#[inline(always)]
pub fn refuse<E: Env>(env: &E, known: &Known, reason: DropReason) {
    let Some(head) = env.head(known.index) else { return };
    let overlapped = matches!(reason, DropReason::FragmentOverlap);
    let flag = if overlapped { Progress::OVERLAPPED } else { Progress::REFUSED };
    for _ in 0..TRIES {
        let progress = Progress(head.load::<{ word::PROGRESS }>());
        if progress.generation() != generation(known.control)
            || head.compare_exchange::<{ word::PROGRESS }>(progress.0, progress.0 | flag)
        {
            return;
        }
    }
}

/// Notes that the bytes of a fragment have come; an error says why it is dropped. Once all have come, the datagram's
/// place is free.
#[inline(always)]
pub fn mark<E: Env>(env: &E, known: &Known, part: &Part) -> Result<(), DropReason> {
    let (from, to) = (part.from / UNIT, (part.from + part.bytes).div_ceil(UNIT));
    let words = known.index * UNIT_WORDS;
    let tag = generation(known.control);
    let mut units = Marking { words, tag, from, to, old: 0, new: 0 };
    env.repeat(UNIT_WORDS, &mut units);
    if units.old != 0 {
        // A copy of what has come is dropped and forgotten (RFC 8200 §4.5), anything else is an attack (RFC 5722).
        if units.new != 0 {
            refuse(env, known, DropReason::FragmentOverlap);
        }
        return Err(DropReason::FragmentOverlap);
    }
    let head = env.head(known.index).ok_or(DropReason::Internal)?;
    for _ in 0..TRIES {
        let progress = Progress(head.load::<{ word::PROGRESS }>());
        // Its place has gone to another one meanwhile.
        if progress.generation() != generation(known.control) {
            return Ok(());
        }
        let Some(next) = progress.with(from as u64, to as u64, !part.more) else {
            refuse(env, known, DropReason::FragmentOverlap);
            return Err(DropReason::FragmentOverlap);
        };
        if head.compare_exchange::<{ word::PROGRESS }>(progress.0, next.0) {
            if next.is_complete() {
                let done = known.control ^ LIVE ^ DONE;
                head.compare_exchange::<{ word::CONTROL }>(known.control, done);
            }
            return Ok(());
        }
    }
    // Others count theirs; the datagram is forgotten when its lifetime is over.
    Ok(())
}

/// Marks the units of a fragment, word by word.
struct Marking {
    /// The datagram's first word.
    words: u32,
    tag: u64,
    from: u32,
    to: u32,
    /// Whether units had come before, and whether some had not; not 0 if so.
    old: u64,
    new: u64,
}

impl<E: Env> Steps<E> for Marking {
    #[inline(always)]
    fn step(&mut self, env: &E, number: u32) -> bool {
        let number = self.from / WORD_UNITS + number;
        let begin = number * WORD_UNITS;
        if begin >= self.to {
            return false;
        }
        let bits = bits_from(self.from.saturating_sub(begin)) & !bits_from(self.to - begin);
        let Some(word) = env.units(self.words + number) else { return false };
        let before = set_units(env, word, self.tag, bits);
        self.old |= before & bits;
        self.new |= bits & !before;
        true
    }
}

/// Notes in a word that these units have come, and says which had before. Who can't for all the others that do says
/// that all had.
#[inline(always)]
fn set_units<E: Env>(env: &E, word: E::Units, tag: u64, bits: u64) -> u64 {
    for _ in 0..TRIES {
        let seen = word.load::<0>();
        // All bits if the word is of this generation, else none; without a branch, of which the verifier would
        // follow both sides.
        let same = 0u64.wrapping_sub((seen >> 32 ^ tag).wrapping_sub(1) >> 63);
        let before = env.opaque(seen & 0xffff_ffff & same);
        if word.compare_exchange::<0>(seen, tag << 32 | before | bits) {
            return before;
        }
    }
    0xffff_ffff
}

/// The bits of a word from this one on; none from its end on.
#[inline(always)]
const fn bits_from(bit: u32) -> u64 {
    // Of 64 bits, so that one more than the last shifts all of them out of the lower half.
    let bit = if bit > WORD_UNITS { WORD_UNITS } else { bit };
    0xffff_ffff << bit & 0xffff_ffff
}
