//! The next hop of a flow's packets, kept with the flow.
//!
//! Asking the kernel's routes and neighbours costs more than all else that a known flow's packet needs. So a packet
//! leaves the answer in its flow's slot, by direction, and the packets behind it take it from there until the kernel's
//! routes or neighbours have changed, or it is [`LASTS`] old. Changes are told apart by a number, their *generation*: whoever
//! hears of one raises it, and no hop of before is used any more. A change that nobody hears of is met within [`LASTS`].
//!
//! Invariant: a hop that is given is one that was learned whole, for the flow that is in the slot. Whoever writes it
//! marks it first, so that nobody reads half of it and nobody else writes; and looks afterwards whether the slot has
//! changed hands meanwhile, as late writers of counters need not.

use crate::bucket::Nanos;
use crate::env::Mac;
use crate::flow::Direction;
use crate::table::{Found, Slot, word};

/// Where packets of a flow go next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The interface that they leave by.
    pub interface: u32,
    /// The address that they are sent from on its link.
    pub source: Mac,
    /// The address that they are sent to.
    pub destination: Mac,
    /// The largest packet that may go there, link header not counted, in bytes.
    pub mtu: u16,
}

/// The unit of a hop's age: 2³⁰ ns, about 1.07 s. A hop is used while it is no older than one unit begun and one whole.
const UNIT_BITS: u32 = 30;
/// The bits of a generation: it comes again after so many changes that all hops of before are too old by then, if it is
/// raised no more than once in [`RAISED_AFTER`].
const GENERATION_BITS: u32 = 8;
/// How long a generation lasts at least.
pub const RAISED_AFTER: core::time::Duration = core::time::Duration::from_millis(20);

/// How long a hop is used at most after it was learned.
pub const LASTS: core::time::Duration = core::time::Duration::from_nanos(2 << UNIT_BITS);

/// A time that stands for a hop that is being written; smaller than any that is.
const WRITING: u32 = 1;
/// How often the end of writing is tried. The other direction's packets change the same word, twice in a unit.
const TRIES: u32 = 4;

/// The low 48 bits, an address.
const MAC: u64 = 0xffff_ffff_ffff;

/// What was learned when and under which generation, as it stands in a slot.
#[inline(always)]
const fn stamp(now: Nanos, generation: u64) -> u32 {
    const GENERATION: u64 = (1 << GENERATION_BITS) - 1;
    let units = ((now.0 >> UNIT_BITS) as u32).wrapping_add(1);
    units << GENERATION_BITS | (generation & GENERATION) as u32
}

/// One direction's half of the word of times.
#[inline(always)]
const fn shift(direction: Direction) -> u32 {
    match direction {
        Direction::Original => 0,
        Direction::Reply => 32,
    }
}

#[inline(always)]
const fn with_half(times: u64, direction: Direction, time: u32) -> u64 {
    let shift = shift(direction);
    times & !(0xffff_ffff << shift) | (time as u64) << shift
}

/// The next hop of a packet of a known flow, if it was learned under this generation and not long ago.
#[inline(always)]
pub fn recall<S: Slot>(found: &Found<S>, now: Nanos, generation: u64) -> Option<NextHop> {
    let slot = found.slot;
    let times = slot.load::<{ word::HOP_TIMES }>();
    let learned = (times >> shift(found.direction)) as u32;
    let age = stamp(now, generation).wrapping_sub(learned);
    if learned <= WRITING || age & !(1 << GENERATION_BITS) != 0 {
        return None;
    }
    let (to, from) = match found.direction {
        Direction::Original => {
            (slot.load::<{ word::ORIGINAL_HOP }>(), slot.load::<{ word::ORIGINAL_HOP + 1 }>())
        }
        Direction::Reply => {
            (slot.load::<{ word::REPLY_HOP }>(), slot.load::<{ word::REPLY_HOP + 1 }>())
        }
    };
    if slot.load::<{ word::HOP_TIMES }>() != times {
        return None;
    }
    Some(NextHop {
        interface: (from >> 48) as u32,
        source: Mac(from & MAC),
        destination: Mac(to & MAC),
        mtu: (to >> 48) as u16,
    })
}

/// Keeps the next hop of packets of this flow and direction, which was asked for under this generation: one that was
/// raised meanwhile may have been raised for this hop. An interface with a number beyond 65,535 is not kept.
#[inline(always)]
pub fn learn<S: Slot>(found: &Found<S>, hop: &NextHop, now: Nanos, generation: u64) {
    let (slot, direction) = (found.slot, found.direction);
    let times = slot.load::<{ word::HOP_TIMES }>();
    let writing = with_half(times, direction, WRITING);
    if hop.interface > 0xffff
        || (times >> shift(direction)) as u32 == WRITING
        || !slot.compare_exchange::<{ word::HOP_TIMES }>(times, writing)
    {
        return;
    }
    let to = hop.destination.0 & MAC | (hop.mtu as u64) << 48;
    let from = hop.source.0 & MAC | (hop.interface as u64) << 48;
    match direction {
        Direction::Original => {
            slot.store::<{ word::ORIGINAL_HOP }>(to);
            slot.store::<{ word::ORIGINAL_HOP + 1 }>(from);
        }
        Direction::Reply => {
            slot.store::<{ word::REPLY_HOP }>(to);
            slot.store::<{ word::REPLY_HOP + 1 }>(from);
        }
    }
    finish(slot, direction, stamp(now, generation));
    if slot.load::<{ word::CONTROL }>() != found.control {
        // Another flow has moved in, and may have the hop of this one now.
        finish(slot, direction, 0);
    }
}

/// Writes a direction's time. If all tries fail the hop stays marked, and this flow does without.
#[inline(always)]
fn finish<S: Slot>(slot: S, direction: Direction, time: u32) {
    for _ in 0..TRIES {
        let times = slot.load::<{ word::HOP_TIMES }>();
        let done = with_half(times, direction, time);
        if slot.compare_exchange::<{ word::HOP_TIMES }>(times, done) {
            return;
        }
    }
}

const _: () = assert!(LASTS.as_nanos() < RAISED_AFTER.as_nanos() << GENERATION_BITS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::SLOT_WORDS;
    use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[derive(Clone, Copy)]
    struct Words<'a>(&'a [AtomicU64; SLOT_WORDS]);

    impl Slot for Words<'_> {
        fn load<const W: usize>(self) -> u64 {
            self.0[W].load(SeqCst)
        }
        fn store<const W: usize>(self, value: u64) {
            self.0[W].store(value, SeqCst);
        }
        fn publish<const W: usize>(self, value: u64) {
            self.0[W].store(value, SeqCst);
        }
        fn compare_exchange<const W: usize>(self, old: u64, new: u64) -> bool {
            self.0[W].compare_exchange(old, new, SeqCst, SeqCst).is_ok()
        }
        fn add<const W: usize>(self, value: u64) {
            self.0[W].fetch_add(value, SeqCst);
        }
    }

    const HOP: NextHop = NextHop {
        interface: 7,
        source: Mac(0x0200_0000_0001),
        destination: Mac(0x0200_0000_00fe),
        mtu: 1500,
    };

    fn found(words: &[AtomicU64; SLOT_WORDS], direction: Direction) -> Found<Words<'_>> {
        Found { slot: Words(words), direction, control: 0 }
    }

    #[test]
    fn each_direction_has_its_own_and_keeps_it_for_a_while() {
        let words = Default::default();
        let [original, reply] = [Direction::Original, Direction::Reply].map(|d| found(&words, d));
        let begin = Nanos(1 << 40);
        assert_eq!(recall(&original, begin, 0), None);
        learn(&original, &HOP, begin, 0);
        assert_eq!((recall(&original, begin, 0), recall(&reply, begin, 0)), (Some(HOP), None));
        let back = NextHop { interface: 0xffff, mtu: 65_535, ..HOP };
        learn(&reply, &back, begin, 0);
        assert_eq!(
            (recall(&original, begin, 0), recall(&reply, begin, 0)),
            (Some(HOP), Some(back))
        );
        let later = |nanos: u64| Nanos(begin.0 + nanos);
        assert_eq!(recall(&original, later((1 << UNIT_BITS) - 1), 0), Some(HOP));
        assert_eq!(recall(&original, later(LASTS.as_nanos() as u64), 0), None);
        // Learned anew in time, it lasts on.
        learn(&original, &HOP, later(1 << UNIT_BITS), 0);
        assert_eq!(recall(&original, later(LASTS.as_nanos() as u64), 0), Some(HOP));
        assert_eq!(recall(&reply, later(LASTS.as_nanos() as u64), 0), None);
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let words = Default::default();
        let flow = found(&words, Direction::Original);
        learn(&flow, &NextHop { interface: 0x1_0000, ..HOP }, Nanos(0), 0);
        assert_eq!(recall(&flow, Nanos(0), 0), None);
    }

    #[test]
    fn a_hop_that_is_being_written_is_neither_read_nor_written_by_others() {
        let words: [AtomicU64; SLOT_WORDS] = Default::default();
        let flow = found(&words, Direction::Reply);
        words[word::HOP_TIMES].store(with_half(0, Direction::Reply, WRITING), SeqCst);
        learn(&flow, &HOP, Nanos(1 << 40), 0);
        assert_eq!(recall(&flow, Nanos(1 << 40), 0), None);
        assert_eq!(words[word::REPLY_HOP].load(SeqCst), 0);
    }

    #[test]
    fn a_hop_of_a_flow_that_has_left_is_not_the_next_ones() {
        let words: [AtomicU64; SLOT_WORDS] = Default::default();
        let flow = found(&words, Direction::Original);
        words[word::CONTROL].store(1, SeqCst);
        learn(&flow, &HOP, Nanos(1 << 40), 0);
        assert_eq!(recall(&flow, Nanos(1 << 40), 0), None);
    }

    #[test]
    fn a_hop_of_another_generation_is_not_used() {
        let words = Default::default();
        let flow = found(&words, Direction::Reply);
        let begin = Nanos(1 << 40);
        for generation in [0, 1, 255, 256, u64::MAX] {
            learn(&flow, &HOP, begin, generation);
            assert_eq!(recall(&flow, begin, generation), Some(HOP));
            let next = generation.wrapping_add(1);
            assert_eq!(recall(&flow, begin, next), None);
            // Nor does the next unit of time make one of them the other.
            assert_eq!(recall(&flow, Nanos(begin.0 + (1 << UNIT_BITS)), next), None);
            assert_eq!(recall(&flow, Nanos(begin.0 + (1 << UNIT_BITS)), generation), Some(HOP));
        }
    }
}
