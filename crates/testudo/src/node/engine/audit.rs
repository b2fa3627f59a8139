//! Going over the node table and the common table: whether the one has what the other has.
//!
//! A share of each has its turn all the time, so that all is gone over in the configured time. When events
//! were lost the pace is as fast as a turn allows, until both tables have been gone over once from
//! there.
//!
//! A bucket that is to leave, and of which flows were kept back from the peers, is read out the same way: at full
//! pace, until every place of the node table has been looked at once since that was asked for.
//!
//! Invariants: a turn looks at so many places at most, whatever is to be caught up with. What was read from
//! the node table is settled after the events have been drained once more.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

use testudo_cluster::replica::Audit;
use testudo_datapath::NodeTable;
use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::flow::FlowKey;

use super::{Engine, Parts};
use crate::node::clock;

/// How many places of each table a turn looks at: at some hundred nanoseconds for each flow, about a
/// millisecond.
const SLICE: usize = 2048;

/// How far going over the tables is.
#[derive(Debug, Default)]
pub struct Rounds {
    /// The next places of the node table and of the common table.
    node: Place,
    common: Place,
    /// Whether the last look of a round at full pace is still to be settled.
    settling: bool,
    /// What was found in a round at full pace.
    found: Audit,
    /// How many places of the node table will have been looked at when all lost events are found, if some
    /// were lost.
    lost: Option<u64>,
    readings: Readings,
}

/// Buckets that are read out before they leave.
#[derive(Debug, Default)]
struct Readings {
    /// How many places of the node table were ever looked at.
    looked: u64,
    /// Which bucket, by which number, and how many places will have been looked at when it is read.
    open: VecDeque<(BucketId, u64, u64)>,
}

impl Readings {
    fn begin(&mut self, bucket: BucketId, reading: u64, capacity: usize) {
        self.open.push_back((bucket, reading, self.looked + capacity as u64));
    }

    /// The next one that is done, if all that was looked at is settled.
    fn done(&mut self) -> Option<(BucketId, u64)> {
        let looked = self.looked;
        let front = self.open.pop_front_if(|(_, _, until)| *until <= looked);
        front.map(|(bucket, reading, _)| (bucket, reading))
    }
}

#[derive(Debug, Default)]
struct Place {
    next: usize,
    since: Nanos,
    /// How many places have to be looked at before what is lost is found for certain.
    owed: usize,
}

impl Place {
    /// The next places, of a table that has `length` and is gone over in `period`; at its end it goes on
    /// from the beginning.
    fn take(&mut self, now: Nanos, period: Duration, length: usize) -> Range<usize> {
        if self.next >= length {
            self.next = 0;
        }
        let (passed, period) = (clock::between(self.since, now).as_nanos(), period.as_nanos());
        let share = length as u128 * passed / period.max(1);
        if share > 0 {
            // What is less than a place counts when it is one.
            self.since.0 += (share * period / length as u128) as u64;
        }
        let share = usize::try_from(share).unwrap_or(length);
        let count = if self.owed > 0 { SLICE } else { share.min(SLICE) };
        let range = self.next..(self.next + count).min(length);
        self.owed = if length == 0 { 0 } else { self.owed.saturating_sub(range.len()) };
        self.next = range.end;
        range
    }
}

impl Rounds {
    /// Whether tables are gone over at full pace.
    pub(super) const fn is_behind(&self) -> bool {
        self.node.owed + self.common.owed > 0
    }

    /// Whether events were lost whose flows may not have been looked at since. A bucket that is read out is no
    /// reason to wait: it does not yield before that is done.
    fn misses_some(&self) -> bool {
        let looked = self.readings.looked;
        self.lost.is_some_and(|until| looked < until || self.common.owed > 0)
    }
}

impl Engine {
    /// Events were lost: only the table itself knows what has changed.
    pub(super) fn note_lost(&mut self, now: Nanos, lost: u64) {
        self.tallies.lost_events += lost;
        self.parts.health.measure_losses(self.tallies.lost_events);
        let Self { rounds, parts: Parts { datapath, replica, .. }, .. } = self;
        rounds.node.owed = datapath.table().capacity();
        rounds.common.owed = replica.table().places();
        rounds.lost = Some(rounds.readings.looked + rounds.node.owed as u64);
        if let Some(held_back) = self.lost.admit(now) {
            tracing::warn!(
                lost,
                held_back,
                "events were lost: the ring was full; the node table is read anew"
            );
        }
    }

    /// A bucket is to leave: nothing of it may be kept back, and what was is in the node table only.
    pub(super) fn read_out(&mut self, bucket: BucketId, reading: u64) {
        let Self { rounds, parts: Parts { datapath, .. }, .. } = self;
        let capacity = datapath.table().capacity();
        rounds.node.owed = capacity;
        rounds.readings.begin(bucket, reading, capacity);
    }

    /// Looks at this turn's share of both tables; says whether more is to be done at once. To be called
    /// when events have been drained.
    pub(super) fn audit_some(&mut self, now: Nanos) -> bool {
        let Self {
            parts: Parts { datapath, replica, cluster, .. },
            rounds,
            tallies,
            commits,
            load_report,
            ..
        } = self;
        let table = datapath.table();
        let (period, behind) = (cluster.timing().audit, rounds.is_behind());
        let settled = std::mem::take(&mut rounds.settling);
        // What waits for the peers is not in the node table yet.
        let look = |key: &_| table.get(key).map(|view| view.record).or_else(|| commits.get(key));
        let mut found = replica.handle_found_again(now, &look);
        while let Some((bucket, reading)) = rounds.readings.done() {
            replica.handle_read_out(bucket, reading);
        }
        let common = rounds.common.take(now, period, replica.table().places());
        found.add(replica.handle_missing(common, &look));
        let node = rounds.node.take(now, period, table.capacity());
        rounds.readings.looked += node.len() as u64;
        let ends = node.end == table.capacity() && !node.is_empty();
        tallies.audits += u64::from(ends);
        let mut shown = Vec::new();
        table.scan_part(node, &mut |view| shown.push(view.record));
        load_report.look_at(&shown, ends);
        replica.handle_found(shown);
        tallies.put_right += (found.changed + found.removed) as u64;
        tallies.refused_events += found.refused as u64;
        tallies.let_through += found.let_through as u64;
        rounds.found.add(found);
        rounds.settling = behind && !rounds.is_behind();
        if !rounds.is_behind() && !rounds.settling {
            self.tell_found(now, settled);
        }
        self.rounds.is_behind() || self.rounds.settling
    }

    /// Tells what was found: after lost events when all has been gone over, else at once.
    fn tell_found(&mut self, now: Nanos, was_behind: bool) {
        let found = std::mem::take(&mut self.rounds.found);
        let Audit { changed, removed, refused, first, .. } = found;
        if was_behind && self.rounds.lost.take().is_some() {
            tracing::info!(changed, removed, refused, "the node table has been read anew");
        } else if !found.is_clean()
            && let Some(held_back) = self.apart.admit(now)
        {
            let bucket = first.map_or(0, |bucket| bucket.0);
            tracing::warn!(
                changed,
                removed,
                refused,
                bucket,
                held_back,
                "flows of the node table were not known as they are, though no event was lost; they \
                 are now"
            );
        }
    }

    /// Finds all that lost events have left unknown, now: a bucket is about to be handed over with it.
    pub(super) fn finish_audit(&mut self) {
        // If events go on getting lost all the time, nobody can know all.
        let slots = self.parts.datapath.table().capacity() + self.parts.replica.table().places();
        for _ in 0..=2 * slots / SLICE {
            if !self.rounds.misses_some() {
                break;
            }
            let now = clock::now();
            self.drain_events(now);
            self.audit_some(now);
        }
        self.drain_events(clock::now());
        self.settle_found();
    }

    /// Settles what the last look has left in question.
    fn settle_found(&mut self) {
        let now = clock::now();
        let Self { parts: Parts { datapath, replica, .. }, rounds, .. } = self;
        let table = datapath.table();
        let found = replica.handle_found_again(now, &|key| table.get(key).map(|view| view.record));
        rounds.found.add(found);
    }

    /// Goes over the node table, for what the process before knew of this node's flows.
    /// How long they have lived nobody knows, so none has to wait for its time.
    pub fn recollect(&mut self) -> usize {
        let now = clock::now();
        let Self { parts: Parts { datapath, replica, .. }, .. } = self;
        let table = datapath.table();
        let mut records = Vec::with_capacity(table.len());
        table.scan(&mut |view| records.push(view.record));
        replica.handle_found(records);
        let look = |key: &FlowKey| table.get(key).map(|view| view.record);
        let changed = replica.handle_found_again(now, &look).changed;
        while replica.replication().waiting > 0 {
            replica.handle_due(Nanos(u64::MAX));
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(10);

    fn at(millis: u64) -> Nanos {
        Nanos(1_000_000 * (1_000_000 + millis))
    }

    #[test]
    fn a_round_takes_its_time_and_leaves_nothing_out() {
        for length in [1, 7, 100_000] {
            let mut place = Place { since: at(0), ..Place::default() };
            let (mut seen, mut turns) = (0, 0);
            for turn in 1..=10_000 {
                let part = place.take(at(turn), PERIOD, length);
                assert!(part.len() <= SLICE);
                if !part.is_empty() {
                    assert_eq!(part.start, seen % length, "turn {turn}");
                    seen += part.len();
                    turns += 1;
                }
            }
            assert!(turns > 0 && (9 * length..=10 * length).contains(&(seen * 10)), "{seen}");
        }
    }

    #[test]
    fn after_a_loss_all_places_have_their_turn_at_once_and_each_turn_is_bounded() {
        let length = 100_000;
        let mut place = Place { since: at(0), owed: length + 1, next: 70_000 };
        let mut turns = 0;
        let mut seen = vec![0; length];
        while place.owed > 0 {
            let part = place.take(at(1), PERIOD, length);
            assert!(part.len() <= SLICE);
            part.for_each(|at| seen[at] += 1);
            turns += 1;
        }
        assert!(seen.iter().all(|&seen| seen > 0));
        assert!(turns <= 2 + length / SLICE + 2, "{turns}");
        // A table without a place has nothing to catch up with.
        let mut place = Place { owed: 5, ..Place::default() };
        assert!(place.take(at(1), PERIOD, 0).is_empty());
        assert_eq!(place.owed, 0);
    }

    #[test]
    fn a_bucket_is_read_when_every_place_was_looked_at_since_it_was_asked_for() {
        let (length, end) = (10_000, 9_000);
        let mut place = Place { since: at(0), next: end, ..Place::default() };
        let mut readings = Readings::default();
        let mut seen = [vec![0; length], vec![0; length]];
        let mut done = Vec::new();
        for turn in 0..10 {
            // The second one is asked for while the first one is under way.
            if turn == 0 || turn == 3 {
                place.owed = length;
                readings.begin(BucketId(turn), u64::from(turn), length);
            }
            while let Some((bucket, _)) = readings.done() {
                let seen = if bucket == BucketId(0) { &seen[0] } else { &seen[1] };
                assert!(seen.iter().all(|&seen| seen > 0), "{bucket} in turn {turn}");
                done.push(bucket);
            }
            let part = place.take(at(1), PERIOD, length);
            readings.looked += part.len() as u64;
            for at in part {
                seen[0][at] += 1;
                seen[1][at] += u32::from(turn >= 3);
            }
        }
        assert_eq!(done, [BucketId(0), BucketId(3)]);
        assert_eq!(place.owed, 0);
    }
}
