//! Tells a busy engine from one that hangs.
//!
//! Invariant: only time that the watching thread has lived through counts. A process that was
//! stopped, or a machine that was suspended, finds both threads equally late, and nobody hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use testudo_packet::bucket::Nanos;

/// How long the engine may be silent, in milliseconds. Its longest turn scans the largest table.
const LIMIT: u64 = 10_000;

/// What one wait of the watching thread counts at most, in milliseconds.
const STEP: u64 = 100;

/// The watched thread's end: it counts its turns.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<AtomicU64>);

impl Turns {
    /// One turn is done.
    pub fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// The watching thread's end.
#[derive(Debug)]
pub struct Watchdog {
    turns: Turns,
    seen: u64,
    silent: u64,
    checked: Option<Nanos>,
}

impl Watchdog {
    /// Watches who counts these turns.
    pub const fn new(turns: Turns) -> Self {
        Self { turns, seen: 0, silent: 0, checked: None }
    }

    /// Looks after the watched thread. Panics, which ends the process, if it has been silent for
    /// too long.
    pub fn check(&mut self, now: Nanos) {
        assert!(
            !self.hangs(now),
            "the engine has done nothing for {LIMIT} ms; a successor is better"
        );
    }

    fn hangs(&mut self, now: Nanos) -> bool {
        let turns = self.turns.0.load(Ordering::Relaxed);
        let passed = now.millis_since(self.checked.unwrap_or(now));
        if turns != self.seen {
            (self.seen, self.silent, self.checked) = (turns, 0, Some(now));
        } else if passed > 0 || self.checked.is_none() {
            // Rounded down to whole milliseconds; the rest is counted next time.
            self.silent += passed.min(STEP);
            self.checked = Some(now);
        }
        self.silent >= LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_noticed_but_not_a_pause_of_the_whole_process() {
        let turns = Turns::default();
        let mut watchdog = Watchdog::new(turns.clone());
        let mut now = Nanos(1);
        let mut wait = |watchdog: &mut Watchdog, ms| {
            now = now.plus_millis(ms);
            watchdog.hangs(now)
        };
        assert!(!wait(&mut watchdog, 0));
        assert!(!wait(&mut watchdog, 1_000_000), "the watching thread was paused too");
        for _ in 0..LIMIT / 20 - STEP / 20 - 1 {
            assert!(!wait(&mut watchdog, 20));
        }
        turns.count();
        assert!(!wait(&mut watchdog, 20));
        for _ in 0..LIMIT / 20 - 1 {
            assert!(!wait(&mut watchdog, 20));
        }
        assert!(wait(&mut watchdog, 20));
    }
}
