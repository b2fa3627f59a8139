//! Whether the machine keeps up. No I/O; the time is an argument.
//!
//! Invariant: one bad moment is no overload. A limit has to be exceeded in every sample of
//! [`Health::overload`] before it counts. An overloaded node has to get clearly below its limits, by
//! [`RELIEF`], before anything is well, so a load that stays at a limit does not swing.

use std::time::Duration;

use testudo_packet::bucket::Nanos;

use super::Finding;
use crate::config::health::Health;

/// How much of a limit an overloaded node may still use, in percent.
const RELIEF: u64 = 80;

/// What was measured since the sample before, or, where that is said, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The longest time that the heartbeat thread was let run too late by.
    pub late: Duration,
    /// How full the node table is, in percent.
    pub table_percent: u64,
    /// Packets and events that found no room, since the start.
    pub drops: u64,
    /// CPU time that a hypervisor gave to others, and all CPU time, both in ticks since the start.
    pub cpu: Option<(u64, u64)>,
}

/// Judges samples.
#[derive(Debug)]
pub struct Overload {
    limits: Health,
    last: Option<(Nanos, Sample)>,
    over_since: Option<Nanos>,
}

impl Overload {
    /// Judges by these limits.
    pub const fn new(limits: Health) -> Self {
        Self { limits, last: None, over_since: None }
    }

    /// Takes in a sample. `overloaded` says whether the node is taken for overloaded by now.
    /// Nothing is found while a limit has not been exceeded for long enough.
    pub fn handle_sample(
        &mut self,
        now: Nanos,
        sample: Sample,
        overloaded: bool,
    ) -> Option<Finding> {
        let before = self.last.replace((now, sample));
        let exceeded = self.exceeded(before, now, &sample, overloaded);
        if exceeded.is_empty() {
            self.over_since = None;
            return Some(Finding::Well("within all limits".into()));
        }
        let since = *self.over_since.get_or_insert(before.map_or(now, |(at, _)| at));
        let lasted = now.millis_since(since) >= self.limits.overload.as_millis() as u64;
        (lasted || overloaded).then(|| Finding::Wrong(exceeded.join("; ")))
    }

    fn exceeded(
        &self,
        before: Option<(Nanos, Sample)>,
        now: Nanos,
        sample: &Sample,
        overloaded: bool,
    ) -> Vec<String> {
        let share = if overloaded { RELIEF } else { 100 };
        let mut exceeded = Vec::new();
        let mut check = |seen: u64, limit: u64, what: &str, unit: &str| {
            if seen.saturating_mul(100) > limit.saturating_mul(share) {
                let bound = limit * share / 100;
                exceeded.push(format!("{what} {seen} {unit}; expected at most {bound}"));
            }
        };
        let Health { table_percent, steal_percent, late, drops_per_second, .. } = self.limits;
        let millis = |time: Duration| time.as_millis() as u64;
        check(millis(sample.late), millis(late), "heartbeats were late by", "ms");
        check(sample.table_percent, table_percent.into(), "the node table is full to", "%");
        if let Some((at, last)) = before {
            let passed = now.millis_since(at).max(1);
            let drops = sample.drops.saturating_sub(last.drops).saturating_mul(1000) / passed;
            check(drops, drops_per_second.into(), "no room was found for", "packets a second");
            let steal = stolen(last.cpu, sample.cpu);
            check(steal, steal_percent.into(), "the hypervisor took", "% of the CPU time");
        }
        exceeded
    }
}

/// The share of CPU time that was stolen between two readings, in percent.
fn stolen(before: Option<(u64, u64)>, after: Option<(u64, u64)>) -> u64 {
    let (Some((stolen, all)), Some((stolen_now, all_now))) = (before, after) else { return 0 };
    let all = all_now.saturating_sub(all);
    stolen_now.saturating_sub(stolen).saturating_mul(100).checked_div(all).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Nanos = Nanos(1_000_000_000);

    fn overload() -> Overload {
        Overload::new(Health {
            recovery: Duration::from_secs(5),
            overload: Duration::from_secs(3),
            table_percent: 75,
            steal_percent: 40,
            late: Duration::from_millis(50),
            drops_per_second: 1000,
        })
    }

    fn late(ms: u64) -> Sample {
        Sample { late: Duration::from_millis(ms), ..Sample::default() }
    }

    /// What is found in each of the seconds that follow each other.
    fn found(
        overload: &mut Overload,
        seconds: impl IntoIterator<Item = Sample>,
    ) -> Vec<&'static str> {
        let mut bad = false;
        let found = seconds.into_iter().enumerate().map(|(second, sample)| {
            let now = START.plus_millis(second as u64 * 1000);
            match overload.handle_sample(now, sample, bad) {
                None => "-",
                Some(Finding::Well(_)) => "well",
                Some(Finding::Doubtful(_)) => "doubtful",
                Some(Finding::Wrong(_)) => {
                    bad = true;
                    "wrong"
                }
            }
        });
        found.collect()
    }

    #[test]
    fn one_bad_moment_is_no_overload() {
        let samples = [0, 51, 51, 50, 51, 51, 51, 51].map(late);
        let expected = ["well", "-", "-", "well", "-", "-", "wrong", "wrong"];
        assert_eq!(found(&mut overload(), samples), expected);
    }

    #[test]
    fn an_overloaded_node_has_to_get_clearly_below_its_limits() {
        let samples = [0, 60, 60, 60, 45, 41, 40].map(late);
        let expected = ["well", "-", "-", "wrong", "wrong", "wrong", "well"];
        assert_eq!(found(&mut overload(), samples), expected);
    }

    #[test]
    fn each_limit_counts_and_is_named() {
        let cases = [
            (
                Sample { table_percent: 76, ..late(0) },
                "the node table is full to 76 %; expected at most 75",
            ),
            (
                Sample { drops: 1001, ..late(0) },
                "no room was found for 1001 packets a second; expected at most 1000",
            ),
            (
                Sample { cpu: Some((41, 100)), ..late(0) },
                "the hypervisor took 41 % of the CPU time; expected at most 40",
            ),
            (late(51), "heartbeats were late by 51 ms; expected at most 50"),
        ];
        for (sample, words) in cases {
            let mut overload = overload();
            let start = Sample { cpu: Some((0, 0)), ..Sample::default() };
            overload.handle_sample(START, start, false);
            let now = START.plus_millis(1000);
            // That it is taken for overloaded would lower the limits, so time has to do it.
            overload.over_since = Some(Nanos(0));
            overload.limits.overload = Duration::from_secs(1);
            let found = overload.handle_sample(now, sample, false);
            assert_eq!(found, Some(Finding::Wrong(words.into())));
        }
    }

    #[test]
    fn counters_that_go_back_are_no_drops() {
        let mut overload = overload();
        overload.handle_sample(START, Sample { drops: 5000, cpu: Some((9, 9)), ..late(0) }, true);
        let sample = Sample { drops: 0, cpu: Some((1, 1)), ..late(0) };
        let found = overload.handle_sample(START.plus_millis(1000), sample, true);
        assert_eq!(found, Some(Finding::Well("within all limits".into())));
    }
}
