//! Limits of what one source may ask for: flows that nobody has answered, and packets that go up to user space.
//!
//! A meter is one word, the moment at which its source would have used up what it may: each thing that it asks for moves
//! that on by the limit's interval, and is refused if it would come to lie further than the limit's depth ahead of now
//! (the "virtual scheduling" form of the generic cell rate algorithm, ITU-T I.371 annex A). A thing that is given back
//! moves it back. So a meter needs no timer, and one that nobody has used for a while is as good as new.
//!
//! **Flows that nobody has answered** are given back when the responder answers. A source that opens what is answered is
//! never held up, however much it opens; one that floods may have so many open as the limit says, and each that times
//! out makes room for another. That is counted where the flow begins, not moved with it: whoever takes it over has not
//! refused it.
//!
//! **Packets that go up** are counted while more than a share of the room for them is taken ([`is_crowded`]). Until then
//! whoever has much to ask may ask it. So a flood of one source takes that share and no more, and others find the rest.
//!
//! Sources are addresses of IPv4 and prefixes of 64 bits of IPv6: a host has as many addresses there as it likes. Which
//! meter a source has is told by the cluster's secret, so nobody can choose whom to share one with; of those that share
//! one by chance each has less.

use crate::bucket::Nanos;
use crate::env::Env;
use crate::flow::{Address, Endpoint};
use crate::table::Slot;

/// How many sources have a meter of their own at best.
pub const SOURCES: u32 = 1 << 16;

/// How many words they take.
pub const METERS: u32 = SOURCES * 2;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Flows that nobody has answered.
    HalfOpen = 0,
    /// Packets that go up.
    Upcall = 1,
}

/// How much of something a source may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limit {
    /// After how many nanoseconds one more may be had; 0: there is no limit.
    pub interval: u64,
    /// How far ahead of now a meter may be, in nanoseconds.
    pub depth: u64,
}

impl Limit {
    /// None.
    pub const NONE: Self = Self { interval: 0, depth: 0 };

    /// So many at once, and as many again within so many nanoseconds. `count` is not 0.
    #[must_use]
    pub const fn new(count: u32, nanos: u64) -> Self {
        let each = nanos / count as u64;
        let interval = if each == 0 { 1 } else { each };
        Self { interval, depth: interval * count as u64 }
    }
}

/// The meter after one more thing; `None` if that is too much.
#[inline(always)]
pub const fn take(meter: u64, now: Nanos, limit: Limit) -> Option<u64> {
    let from = if meter > now.0 { meter } else { now.0 };
    let next = from.wrapping_add(limit.interval);
    if next.wrapping_sub(now.0) > limit.depth { None } else { Some(next) }
}

/// The meter after one thing was given back.
#[inline(always)]
pub const fn give_back(meter: u64, limit: Limit) -> u64 {
    meter.saturating_sub(limit.interval)
}

/// The word of a source's meter, by the class of its [`end`].
#[inline(always)]
pub const fn place(class: u64, kind: Kind) -> u32 {
    (class >> 24) as u32 % SOURCES * 2 + kind as u32
}

/// What a source is told apart by, as an endpoint that has a class.
#[inline(always)]
pub const fn end(source: Address) -> Endpoint {
    let low = if source.is_v4() { source.low } else { 0 };
    Endpoint { address: Address { high: source.high, low }, port: 0 }
}

/// Whether a source may have one more of something; if so, it has. When two processors count for one source at once, one
/// of the two is not counted.
#[inline(always)]
pub fn admits<E: Env>(env: &E, source: Address, kind: Kind, now: Nanos) -> bool {
    let limit = env.limit(kind);
    // An analyser is shown what there is.
    if limit.interval == 0 || !env.mode().is_inline() {
        return true;
    }
    let place = place(env.own_class(end(source)), kind);
    let Some(meter) = env.meter(place) else { return true };
    let seen = meter.load::<0>();
    match take(seen, now, limit) {
        Some(next) => {
            meter.compare_exchange::<0>(seen, next);
            true
        }
        None => false,
    }
}

/// Whether so much of the room for packets that go up is taken that sources are counted: a quarter.
#[inline(always)]
pub const fn is_crowded(taken: u64, room: u64) -> bool {
    taken > room / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_source_has_so_many_at_once_and_as_many_again_later() {
        let limit = Limit::new(4, 60 * SECOND);
        let mut meter = 0;
        let now = |seconds: u64| Nanos(1000 * SECOND + seconds * SECOND);
        for _ in 0..4 {
            meter = take(meter, now(0), limit).expect("the first four");
        }
        assert_eq!(take(meter, now(0), limit), None);
        assert_eq!(take(meter, now(14), limit), None);
        let one = take(meter, now(15), limit).expect("a quarter of the time has passed");
        assert_eq!(take(one, now(15), limit), None);
        let given = give_back(one, limit);
        assert!(take(given, now(15), limit).is_some());
        // What was given back before it was taken is worth nothing.
        let mut meter = (0..10).fold(one, |meter, _| give_back(meter, limit));
        for _ in 0..4 {
            meter = take(meter, now(1000), limit).expect("four");
        }
        assert_eq!(take(meter, now(1000), limit), None);
    }

    #[test]
    fn a_limit_beyond_the_clock_is_one_a_nanosecond() {
        assert_eq!(Limit::new(u32::MAX, SECOND).interval, 1);
    }

    #[test]
    fn hosts_of_a_prefix_share_a_meter() {
        let v6 = |low| end(Address { high: 0xfd10_0000_0000_0001, low });
        assert_eq!(v6(1), v6(2));
        assert_ne!(end(Address::v4(1)), end(Address::v4(2)));
        for class in [0, 1 << 24, u64::MAX] {
            assert_eq!(place(class, Kind::Upcall), place(class, Kind::HalfOpen) + 1);
            assert!(place(class, Kind::Upcall) < METERS);
        }
    }
}
