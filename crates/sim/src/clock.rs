//! A machine's monotonic clock, as the world sees it.
//!
//! Invariant: a clock never goes back and never jumps. It begins anywhere, and its rate may be changed
//! at any moment, as a time daemon does that slews it. What a time daemon steps is another clock, which
//! nothing in the cluster reads.

use testudo_packet::bucket::Nanos;

use crate::rng::Rng;

const MILLION: i128 = 1_000_000;

/// How far from the truth a clock may run, in parts per million: what NTP slews by at most.
pub const MAX_RATE: i64 = 500;

/// A clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    shown: u64,
    at: u64,
    rate: i64,
}

impl Clock {
    /// A clock that begins anywhere and runs a little fast or slow.
    #[must_use]
    pub fn new(rng: &mut Rng) -> Self {
        Self { shown: rng.within(1 << 30..1 << 50), at: 0, rate: rate(rng) }
    }

    /// What the clock shows, in the world's nanosecond `now`.
    #[must_use]
    pub fn read(&self, now: u64) -> Nanos {
        let passed = i128::from(now - self.at) * (MILLION + i128::from(self.rate)) / MILLION;
        Nanos(self.shown + passed as u64)
    }

    /// How long, in the world's time, until the clock shows `moment`.
    #[must_use]
    pub fn wait(&self, now: u64, moment: Nanos) -> u64 {
        let ahead = i128::from(moment.0.saturating_sub(self.read(now).0));
        let rate = MILLION + i128::from(self.rate);
        let wait = (ahead * MILLION + rate - 1) / rate;
        u64::try_from(wait).unwrap_or(u64::MAX)
    }

    /// Runs at this many parts per million above the world's rate from now on.
    pub fn set_rate(&mut self, now: u64, rate: i64) {
        *self = Self { shown: self.read(now).0, at: now, rate };
    }
}

/// A rate that clocks may have.
pub fn rate(rng: &mut Rng) -> i64 {
    rng.within(0..2 * MAX_RATE as u64 + 1) as i64 - MAX_RATE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_goes_on_from_where_it_was_when_its_rate_changes() {
        let mut clock = Clock::new(&mut Rng::new(1));
        for step in 1..1000 {
            let now = step * 1_000_003;
            let before = clock.read(now);
            clock.set_rate(now, if step % 2 == 0 { -500 } else { 500 });
            assert_eq!(clock.read(now), before);
            let due = Nanos(before.0 + 700_001);
            let wait = clock.wait(now, due);
            assert!(clock.read(now + wait) >= due && clock.read(now + wait - 2) < due);
        }
    }
}
