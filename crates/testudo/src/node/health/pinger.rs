//! When to ask for an echo, and what its absence means. No I/O; the time is an argument.
//!
//! Invariant: between the moment when a target stops answering and the moment when it is found gone
//! there are at most `lost` + 1 intervals, and no fewer than `lost` echoes are missing in a row. A
//! process that was stopped for long asks once when it goes on, and counts one echo as missing.

use std::time::Duration;

use testudo_packet::bucket::Nanos;

use super::Finding;

/// Who asks one target.
#[derive(Debug)]
pub struct Pinger {
    interval: Duration,
    lost: u32,
    /// The number of the last question.
    sequence: u16,
    /// Whether that is unanswered.
    open: bool,
    /// Whether anything was ever asked.
    asked: bool,
    missing: u32,
    due: Nanos,
    /// Why the last question could not even be sent.
    unsent: Option<String>,
}

impl Pinger {
    /// Asks every `interval`, and gives the target up when `lost` answers in a row are missing.
    pub const fn new(now: Nanos, interval: Duration, lost: u32) -> Self {
        Self {
            interval,
            lost,
            sequence: 0,
            open: false,
            asked: false,
            missing: 0,
            due: now,
            unsent: None,
        }
    }

    /// The number of the question to be sent now, if it is time.
    pub fn handle_tick(&mut self, now: Nanos) -> Option<u16> {
        if now < self.due {
            return None;
        }
        if self.open {
            self.missing = self.missing.saturating_add(1);
        }
        self.sequence = self.sequence.wrapping_add(1);
        (self.open, self.asked) = (true, true);
        self.due = now.plus_millis(self.interval.as_millis() as u64);
        Some(self.sequence)
    }

    /// The question could not be sent. It counts as unanswered.
    pub fn handle_unsent(&mut self, why: String) {
        self.unsent = Some(why);
    }

    /// An answer to the question of this number. One that is late is an answer all the same, unless
    /// the target was given up since.
    pub fn handle_answer(&mut self, sequence: u16) {
        let age = u32::from(self.sequence.wrapping_sub(sequence));
        if age >= self.lost {
            return;
        }
        self.missing = 0;
        self.unsent = None;
        if age == 0 {
            self.open = false;
        }
    }

    /// How many questions in a row have had no answer in time.
    pub const fn missing(&self) -> u32 {
        self.missing
    }

    /// When [`Pinger::handle_tick`] has something to do next.
    pub const fn next_wakeup(&self) -> Nanos {
        self.due
    }

    /// What is known now; nothing while answers are awaited that may still come.
    pub fn finding(&self) -> Option<Finding> {
        if self.missing >= self.lost {
            let Self { missing, interval, .. } = self;
            let why = self.unsent.as_ref().map_or(String::new(), |why| format!(": {why}"));
            let reason = format!("no answer to {missing} questions, one every {interval:?}{why}");
            return Some(Finding::Wrong(reason));
        }
        let answered = !self.open && self.asked;
        answered.then(|| Finding::Well("it answers".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Nanos = Nanos(1_000_000_000);

    fn pinger() -> Pinger {
        Pinger::new(START, Duration::from_millis(100), 3)
    }

    fn tick(pinger: &mut Pinger, ms: u64) -> Option<u16> {
        pinger.handle_tick(START.plus_millis(ms))
    }

    #[test]
    fn a_target_that_answers_is_well() {
        let mut pinger = pinger();
        for round in 0..70_000_u64 {
            let sequence = tick(&mut pinger, round * 100).expect("it is time");
            assert_eq!(tick(&mut pinger, round * 100 + 99), None);
            pinger.handle_answer(sequence);
            // The number goes around; its zero is as good as any.
            assert_eq!(pinger.finding(), Some(Finding::Well("it answers".into())));
        }
    }

    #[test]
    fn a_target_that_falls_silent_is_given_up_in_time() {
        let mut pinger = pinger();
        let first = tick(&mut pinger, 0).unwrap();
        pinger.handle_answer(first);
        for ms in [100, 200, 300] {
            assert!(tick(&mut pinger, ms).is_some());
            assert!(!matches!(pinger.finding(), Some(Finding::Wrong(_))), "at {ms}");
        }
        // It fell silent just after 0, and this is lost + 1 intervals later.
        tick(&mut pinger, 400);
        let words = "no answer to 3 questions, one every 100ms";
        assert_eq!(pinger.finding(), Some(Finding::Wrong(words.into())));
        pinger.handle_unsent("the network is unreachable".into());
        let words = "no answer to 3 questions, one every 100ms: the network is unreachable";
        assert_eq!(pinger.finding(), Some(Finding::Wrong(words.into())));
        let next = tick(&mut pinger, 500).unwrap();
        pinger.handle_answer(next);
        assert_eq!(pinger.finding(), Some(Finding::Well("it answers".into())));
    }

    #[test]
    fn a_late_answer_counts_and_an_old_one_does_not() {
        let mut pinger = pinger();
        for ms in [0, 100, 200] {
            tick(&mut pinger, ms);
        }
        assert_eq!(pinger.missing(), 2);
        pinger.handle_answer(1);
        assert_eq!((pinger.missing(), pinger.finding()), (0, None));
        for ms in [300, 400, 500] {
            tick(&mut pinger, ms);
        }
        pinger.handle_answer(3);
        pinger.handle_answer(9);
        assert!(matches!(pinger.finding(), Some(Finding::Wrong(_))));
    }

    #[test]
    fn a_pause_of_the_asker_is_no_fault_of_the_target() {
        let mut pinger = pinger();
        tick(&mut pinger, 0);
        tick(&mut pinger, 1_000_000);
        assert_eq!((pinger.missing(), tick(&mut pinger, 1_000_000)), (1, None));
    }
}
