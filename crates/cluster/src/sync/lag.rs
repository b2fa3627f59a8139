//! How far a peer lags behind: how old the oldest change is that it has not acknowledged, and how long
//! changes took until they were.
//!
//! Changes are not stamped one by one: all that were noted since the last look share a stamp. The driver
//! has a stream polled at least once a turn while it can take bytes, and the tick looks at those that
//! can't, so a stamp is late by a turn, or by a tick if the peer is far behind anyway.
//!
//! Invariant: the oldest stamp is gone when the last of its changes is acknowledged, never before.
//!
//! Limits: so many stamps. Where there is no room for one, its changes join the newest, and are taken for
//! older than they are; or one between the oldest and the newest is forgotten.

use std::collections::VecDeque;
use std::time::Duration;

use testudo_packet::bucket::Nanos;

use crate::time::since;

/// How many stamps are kept.
const STAMPS: usize = 1024;

/// In how many steps each power of two is counted.
const STEPS: u32 = 8;

/// How many changes were noted, or sent: those of flows, and those of flows that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) changed: u64,
    pub(crate) gone: u64,
}

#[derive(Clone, Copy, Debug)]
struct Stamp {
    noted: Noted,
    at: Nanos,
    /// The frame that carried the last of them.
    frame: Option<u64>,
}

/// What of one stream's changes is not acknowledged, and since when.
#[derive(Debug, Default)]
pub(crate) struct Lag {
    stamps: VecDeque<Stamp>,
    last: Noted,
}

impl Lag {
    /// So many changes have been noted by now.
    pub(crate) fn stamp(&mut self, now: Nanos, noted: Noted) {
        if noted == self.last {
            return;
        }
        self.last = noted;
        let full = self.stamps.len() >= STAMPS;
        match self.stamps.back_mut().filter(|stamp| stamp.frame.is_none()) {
            Some(stamp) if full => stamp.noted = noted,
            _ => self.stamps.push_back(Stamp { noted, at: now, frame: None }),
        }
        // All of them are sent and wait for the peer's word: the oldest says how far behind it is.
        if self.stamps.len() > STAMPS {
            self.stamps.remove(1);
        }
    }

    /// So many changes have been sent, the last of them in this frame.
    pub(crate) fn sent(&mut self, sent: Noted, frame: u64) {
        let waiting = self.stamps.iter_mut().skip_while(|stamp| stamp.frame.is_some());
        let through = |stamp: &&mut Stamp| {
            stamp.noted.changed <= sent.changed && stamp.noted.gone <= sent.gone
        };
        waiting.take_while(through).for_each(|stamp| stamp.frame = Some(frame));
    }

    /// The peer has handled so many frames.
    pub(crate) fn acknowledged(&mut self, now: Nanos, frames: u64, delays: &mut Delays) {
        let through = |stamp: &Stamp| stamp.frame.is_some_and(|frame| frame <= frames);
        while let Some(stamp) = self.stamps.pop_front_if(|stamp| through(stamp)) {
            delays.note(since(now, stamp.at));
        }
    }

    /// When the oldest change was noted that is not acknowledged.
    pub(crate) fn oldest(&self) -> Option<Nanos> {
        self.stamps.front().map(|stamp| stamp.at)
    }
}

/// How long changes took to be acknowledged, counted by length to an eighth of each power of two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    counts: Vec<u64>,
    total: u64,
}

impl Delays {
    /// Something took so long.
    pub fn note(&mut self, delay: Duration) {
        let place = place(u64::try_from(delay.as_micros()).unwrap_or(u64::MAX));
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
        self.total += 1;
    }

    /// The delay that so many of a thousand did not exceed; nothing if there was none.
    #[must_use]
    pub fn within(&self, per_mille: u64) -> Option<Duration> {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        let place = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        place.map(|place| Duration::from_micros(longest(place)))
    }
}

/// The place of a delay among the counts.
fn place(micros: u64) -> usize {
    if micros < u64::from(STEPS) {
        return micros as usize;
    }
    let power = micros.ilog2();
    let step = micros >> (power - STEPS.ilog2()) & u64::from(STEPS - 1);
    ((power - STEPS.ilog2() + 1) * STEPS) as usize + step as usize
}

/// The longest delay of a place.
fn longest(place: usize) -> u64 {
    let (octave, step) = (place as u32 / STEPS, place as u64 % u64::from(STEPS));
    if octave == 0 { step } else { ((u64::from(STEPS) + step + 1) << (octave - 1)) - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noted(changed: u64, gone: u64) -> Noted {
        Noted { changed, gone }
    }

    fn millis(millis: u64) -> Nanos {
        Nanos(millis * 1_000_000)
    }

    #[test]
    fn the_oldest_change_counts_until_its_frame_is_acknowledged() {
        let (mut lag, mut delays) = (Lag::default(), Delays::default());
        assert_eq!(lag.oldest(), None);
        lag.stamp(millis(1), noted(2, 0));
        lag.stamp(millis(2), noted(2, 0));
        lag.stamp(millis(3), noted(2, 1));
        // Gone flows go first, but a stamp needs all of its own.
        lag.sent(noted(1, 1), 2);
        lag.acknowledged(millis(4), 2, &mut delays);
        assert_eq!(lag.oldest(), Some(millis(1)));
        lag.sent(noted(2, 1), 3);
        lag.acknowledged(millis(5), 2, &mut delays);
        assert_eq!(lag.oldest(), Some(millis(1)));
        lag.acknowledged(millis(9), 3, &mut delays);
        assert_eq!(lag.oldest(), None);
        let (half, most) = (delays.within(500), delays.within(1000));
        assert_eq!(half.map(|delay| delay.as_millis()), Some(6));
        assert_eq!(most.map(|delay| delay.as_millis()), Some(8));
    }

    #[test]
    fn stamps_have_a_bound_and_the_oldest_stays() {
        for sent in [false, true] {
            let mut lag = Lag::default();
            for moment in 1..=3 * STAMPS as u64 {
                lag.stamp(millis(moment), noted(moment, 0));
                if sent {
                    lag.sent(noted(moment, 0), moment);
                }
            }
            assert!(lag.stamps.len() <= STAMPS, "{}", lag.stamps.len());
            assert_eq!(lag.oldest(), Some(millis(1)));
            lag.sent(noted(3 * STAMPS as u64, 0), 9000);
            lag.acknowledged(millis(9999), 9000, &mut Delays::default());
            assert_eq!(lag.oldest(), None);
        }
    }

    #[test]
    fn a_delay_is_told_to_an_eighth() {
        for micros in [0, 1, 7, 8, 9, 15, 16, 17, 1000, 2000, 123_456, 10_000_000_000] {
            let told = longest(place(micros));
            assert!(told >= micros && told <= micros + micros / 8, "{micros}: {told}");
        }
        assert_eq!(Delays::default().within(990), None);
    }
}
