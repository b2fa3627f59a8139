//! Flows whose first packet waits until the peers know them.
//!
//! Their rule says `commit = "sync"`: whoever opens a connection gets no answer before it can survive this
//! node. The packet comes up before the flow is in the node table, so flows that are there pay nothing.
//! Here the flow goes into the common table, the peers are told in the same turn, and when they have
//! acknowledged it, it goes into the node table and its packets go on.
//!
//! Invariants: what waits is bounded by the packet handling, which keeps the packets, and every flow waits no
//! longer than its rule says. No packet is lost on the way: it goes on, or is dropped and counted. A flow
//! that waits is known, but not in the node table; the audit has to be told so.
//!
//! A bucket that leaves while flows of it wait is not kept waiting by them: their packets go on before the
//! slot names the next owner, which is told of them as of all others.

use std::collections::VecDeque;
use std::time::Duration;

use testudo_cluster::replica::Ticket;
use testudo_cluster::sync::lag::Delays;
use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::FlowKey;

use super::{Engine, Parts};
use crate::node::clock;

/// How long a flow waits whose rule is not known here: it was decided by rules of a process before.
const UNKNOWN_RULE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Waiting {
    record: FlowRecord,
    ticket: Ticket,
    since: Nanos,
}

/// Flows that wait.
#[derive(Debug)]
pub struct Commits {
    waiting: VecDeque<Waiting>,
    /// How long flows of each rule wait at most.
    timeouts: Vec<Duration>,
    /// How long flows have waited, those for which the time ran out among them.
    delays: Delays,
    counts: Counts,
}

/// What has come of waiting, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Flows that all peers knew before their first packet went on.
    pub committed: u64,
    /// Flows whose packets went on because the time had run out.
    pub timed_out: u64,
    /// Flows whose packets went on because their bucket was about to leave.
    pub cut_short: u64,
    /// Flows that the common table had no room for, or knew better than; their packets went on at once.
    pub refused: u64,
    /// How long half of them waited at most, in microseconds; 0 if none has.
    pub p50_us: u64,
    /// And 99 of 100.
    pub p99_us: u64,
}

/// Why a flow waits no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Committed,
    TimedOut,
    CutShort,
}

impl Commits {
    /// Nothing waits yet; of each rule, how long its flows wait at most.
    pub fn new(timeouts: Vec<Duration>) -> Self {
        Self {
            waiting: VecDeque::new(),
            timeouts,
            delays: Delays::default(),
            counts: Counts::default(),
        }
    }

    /// Other rules are in force; flows that wait are still found among them.
    pub(super) fn set_timeouts(&mut self, timeouts: Vec<Duration>) {
        self.timeouts = timeouts;
    }

    /// The flow of this key, if it waits.
    pub(super) fn get(&self, key: &FlowKey) -> Option<FlowRecord> {
        self.waiting.iter().map(|waiting| waiting.record).find(|record| record.key == *key)
    }

    /// What has come of waiting.
    pub(super) fn counts(&self) -> Counts {
        let micros =
            |per_mille| self.delays.within(per_mille).map_or(0, |delay| delay.as_micros() as u64);
        Counts { p50_us: micros(500), p99_us: micros(990), ..self.counts }
    }

    fn has_waited_enough(&self, waiting: &Waiting, now: Nanos) -> bool {
        let rule = usize::from(waiting.record.state.rule);
        let timeout = self.timeouts.get(rule).copied().unwrap_or(UNKNOWN_RULE);
        clock::between(waiting.since, now) >= timeout
    }

    /// Takes out the flows that wait no more, the first one first.
    fn take(
        &mut self,
        now: Nanos,
        end: impl Fn(&Self, &Waiting) -> Option<End>,
    ) -> Vec<(FlowKey, End)> {
        let mut ended = Vec::new();
        for _ in 0..self.waiting.len() {
            let Some(waiting) = self.waiting.pop_front() else { break };
            let Some(end) = end(self, &waiting) else {
                self.waiting.push_back(waiting);
                continue;
            };
            self.delays.note(clock::between(waiting.since, now));
            match end {
                End::Committed => self.counts.committed += 1,
                End::TimedOut => self.counts.timed_out += 1,
                End::CutShort => self.counts.cut_short += 1,
            }
            ended.push((waiting.record.key, end));
        }
        ended
    }
}

impl Engine {
    /// Has the peers told of flows whose first packets have come up.
    pub(super) fn begin_commits(&mut self, now: Nanos) {
        while let Some(record) = self.parts.datapath.poll_commit() {
            // No event tells of it: it is known before it is in the node table.
            self.load_report.note(&Event { kind: EventKind::Created, record });
            match self.parts.replica.handle_beginning(record) {
                Ok(ticket) => {
                    self.commits.waiting.push_back(Waiting { record, ticket, since: now });
                }
                Err(error) => {
                    self.commits.counts.refused += 1;
                    if let Some(held_back) = self.refused.admit(now) {
                        tracing::debug!(%error, held_back, "a flow goes on without being committed");
                    }
                    self.let_go_on(now, &record.key);
                }
            }
        }
    }

    /// Lets the packets go on that have waited enough.
    pub(super) fn finish_commits(&mut self) {
        if self.commits.waiting.is_empty() {
            return;
        }
        let now = clock::now();
        let Self { commits, parts: Parts { replica, .. }, .. } = self;
        let ended = commits.take(now, |commits, waiting| {
            if replica.is_committed(&waiting.ticket) {
                Some(End::Committed)
            } else {
                commits.has_waited_enough(waiting, now).then_some(End::TimedOut)
            }
        });
        for (key, _) in ended {
            self.let_go_on(now, &key);
        }
    }

    /// Nobody waits any more for flows of this bucket, or of any: it is about to leave, or has left.
    pub(super) fn cut_commits_short(&mut self, bucket: Option<BucketId>) {
        if self.commits.waiting.is_empty() {
            return;
        }
        let now = clock::now();
        let ended = self.commits.take(now, |_, waiting| {
            let concerned = bucket.is_none_or(|bucket| waiting.record.bucket == bucket);
            concerned.then_some(End::CutShort)
        });
        for (key, _) in ended {
            self.let_go_on(now, &key);
        }
    }

    fn let_go_on(&mut self, now: Nanos, key: &FlowKey) {
        let Parts { datapath, replica, .. } = &mut self.parts;
        let table = replica.table();
        datapath.release_committed(now, key, &mut |bucket, key| table.of_packet(bucket, key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_packet::bucket::Epoch;
    use testudo_packet::entry::FlowState;
    use testudo_packet::flow::{Address, Endpoint, Protocol};
    use testudo_packet::tracking::Phase;

    fn at(millis: u64) -> Nanos {
        Nanos(1_000_000 * (1_000 + millis))
    }

    fn waiting(port: u16, rule: u16) -> Waiting {
        let end = |host, port| Endpoint { address: Address::v4(host), port };
        let (initiator, responder) = (end(1, port), end(2, 80));
        let key = FlowKey { initiator, responder, protocol: Protocol::TCP };
        let state = FlowState { phase: Phase::SynSent, confirmed: false, rule, sequence: 1 };
        let record = FlowRecord {
            translation: None,
            bucket: BucketId(port % 2),
            epoch: Epoch(1),
            key,
            state,
        };
        Waiting { record, ticket: Ticket::default(), since: at(0) }
    }

    fn ports(ended: &[(FlowKey, End)]) -> Vec<u16> {
        ended.iter().map(|(key, _)| key.initiator.port).collect()
    }

    #[test]
    fn each_flow_waits_as_long_as_its_rule_says_and_no_longer() {
        let timeouts = [5, 20].map(Duration::from_millis).to_vec();
        let mut commits = Commits::new(timeouts);
        // The last one's rule is of another process.
        commits.waiting.extend([waiting(1, 0), waiting(2, 1), waiting(3, 0), waiting(4, 9)]);
        let mut out_of_time = |millis| {
            let now = at(millis);
            let late = |commits: &Commits, waiting: &Waiting| {
                commits.has_waited_enough(waiting, now).then_some(End::TimedOut)
            };
            ports(&commits.take(now, late))
        };
        assert!(out_of_time(4).is_empty());
        assert_eq!(out_of_time(5), [1, 3]);
        assert_eq!(out_of_time(20), [2]);
        assert!(out_of_time(49).is_empty());
        assert_eq!(out_of_time(50), [4]);
        let Counts { timed_out, committed, p99_us, .. } = commits.counts();
        assert_eq!((timed_out, committed), (4, 0));
        assert!((50_000..60_000).contains(&p99_us), "{p99_us}");
    }

    #[test]
    fn what_waits_can_be_found_and_what_does_not_keeps_its_order() {
        let mut commits = Commits::new(Vec::new());
        commits.waiting.extend((1..=5).map(|port| waiting(port, 0)));
        let key = waiting(4, 0).record.key;
        assert_eq!(commits.get(&key).map(|record| record.key), Some(key));
        let even = |_: &Commits, waiting: &Waiting| {
            (waiting.record.bucket == BucketId(0)).then_some(End::CutShort)
        };
        assert_eq!(ports(&commits.take(at(1), even)), [2, 4]);
        assert_eq!(commits.get(&key), None);
        let all = |_: &Commits, _: &Waiting| Some(End::Committed);
        assert_eq!(ports(&commits.take(at(1), all)), [1, 3, 5]);
        let Counts { cut_short, committed, .. } = commits.counts();
        assert_eq!((cut_short, committed), (2, 3));
    }
}
