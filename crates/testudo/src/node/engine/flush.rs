//! Flows that are ended because rules that were loaded would not let them in.
//!
//! A flow does not remember the interfaces that its first packet came in and went out by. So it stays if the rules would
//! let it in by any interfaces of the node: none is ended that might begin again a moment later. One that a program has let in
//! stays as well, for no rule has said anything about it.
//!
//! Invariant: a turn compares so much at most. The peers are told a moment after a flow was taken out, behind all that
//! its last packets have told of it; else they would hear of it again after its end.
//!
//! Limit: a process that is replaced meanwhile ends no more flows; the order is to be given again.

use testudo_datapath::{NodeTable, Sets};
use testudo_packet::bucket::Nanos;
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;
use testudo_packet::rule::{Action, Links, RULE_WORDS, Rule, action_of, matches_words};

use super::{Engine, GRACE, Parts};
use crate::node::clock;
use crate::rules::numbers::NO_RULE;

/// How many comparisons of a flow with a rule a turn makes at most, as if every slot had a flow: about a
/// millisecond.
const COMPARISONS: usize = 100_000;

/// How many slots a turn goes over, whatever the number of rules.
const SLOTS: std::ops::RangeInclusive<usize> = 64..=16_384;

/// A pass over the node table.
#[derive(Debug)]
pub struct Flush {
    rules: Vec<[u64; RULE_WORDS]>,
    /// Those that the rules name. They are in force, so their sets are there.
    sets: Sets,
    interfaces: Vec<u32>,
    /// Those that packets may go out by; one that is none if no rule asks.
    outputs: Vec<u32>,
    at: usize,
    /// What was taken out last, and when; the peers are not told yet.
    taken: Vec<FlowRecord>,
    since: Nanos,
    ended: u64,
}

impl Flush {
    /// From the beginning, by these rules and the node's interfaces.
    pub fn new(rules: &[Rule], sets: Sets, interfaces: Vec<u32>) -> Self {
        let asks = rules.iter().any(|rule| rule.egress.is_some());
        Self {
            rules: rules.iter().map(|rule| rule.to_words()).collect(),
            sets,
            outputs: if asks { interfaces.clone() } else { vec![0] },
            interfaces,
            at: 0,
            taken: Vec::new(),
            since: Nanos(0),
            ended: 0,
        }
    }

    /// Whether the rules would let a flow of this key in by some interface, and out by some.
    fn lets_in(&self, key: &FlowKey) -> bool {
        let links = |&input: &u32| self.outputs.iter().map(move |&output| Links { input, output });
        self.interfaces.iter().flat_map(links).any(|links| {
            let first =
                self.rules.iter().find(|words| matches_words(words, &self.sets, key, links));
            first.is_some_and(|words| action_of(words) == Action::Accept)
        })
    }

    fn is_unwanted(&self, record: &FlowRecord) -> bool {
        record.state.rule != NO_RULE && !self.lets_in(&record.key)
    }

    fn share(&self) -> usize {
        let each = (self.rules.len() * self.interfaces.len() * self.outputs.len()).max(1);
        (COMPARISONS / each).clamp(*SLOTS.start(), *SLOTS.end())
    }
}

impl Engine {
    /// Ends a turn's share of flows that the rules in force would not let in; says whether there are more.
    pub(super) fn flush_some(&mut self, now: Nanos) -> bool {
        let Some(mut flush) = self.flush.take() else { return false };
        if !flush.taken.is_empty() {
            if clock::between(flush.since, now) < GRACE {
                self.flush = Some(flush);
                return true;
            }
            // What their last packets have caused comes first.
            self.drain_events(now);
            let replica = &mut self.parts.replica;
            for record in flush.taken.drain(..) {
                let latest = replica.table().get(record.bucket, &record.key);
                let latest = latest.filter(|latest| latest.supersedes(&record)).unwrap_or(record);
                let refused = replica.handle_expired(&latest).is_err();
                self.tallies.refused_events += u64::from(refused);
                self.tallies.flushed += 1;
                flush.ended += 1;
            }
        }
        let Parts { datapath, .. } = &self.parts;
        let table = datapath.table();
        let end = (flush.at + flush.share()).min(table.capacity());
        let mut taken = Vec::new();
        let unwanted = |record: &FlowRecord| flush.is_unwanted(record);
        table.take_out_part(flush.at..end, &unwanted, &mut |record| taken.push(*record));
        let done = flush.at == end && taken.is_empty();
        (flush.at, flush.taken, flush.since) = (end, taken, now);
        if done {
            tracing::info!(flows = flush.ended, "flows were ended that the rules do not let in");
            return false;
        }
        self.flush = Some(flush);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_packet::bucket::{BucketId, Epoch};
    use testudo_packet::entry::FlowState;
    use testudo_packet::flow::{Address, Endpoint, Protocol};
    use testudo_packet::rule::Ports;
    use testudo_packet::tracking::Phase;

    fn record(port: u16, rule: u16) -> FlowRecord {
        let end = |host, port| Endpoint { address: Address::v4(host), port };
        let key =
            FlowKey { initiator: end(1, 40_000), responder: end(2, port), protocol: Protocol::TCP };
        let state = FlowState { phase: Phase::Established, confirmed: true, rule, sequence: 1 };
        FlowRecord { bucket: BucketId(1), epoch: Epoch(1), key, state, translation: None }
    }

    #[test]
    fn a_flow_stays_that_might_come_in_by_some_interface() {
        let to = |port, interface, action| Rule {
            destination_ports: Ports { first: port, last: port },
            interface,
            ..Rule::any(action)
        };
        let rules = [
            to(1, Some(7), Action::Drop),
            to(2, None, Action::Reject),
            to(3, Some(8), Action::Accept),
            to(4, Some(99), Action::Accept),
            to(1, None, Action::Accept),
        ];
        let flush = Flush::new(&rules, Sets::default(), vec![7, 8]);
        let unwanted = |port| flush.is_unwanted(&record(port, 3));
        assert_eq!([1, 2, 3, 4, 5].map(unwanted), [false, true, false, true, true]);
        assert!(!flush.is_unwanted(&record(5, NO_RULE)), "a program has let it in");
        let out = |port, egress| Rule { egress: Some(egress), ..to(port, None, Action::Accept) };
        let flush = Flush::new(&[out(1, 8), out(2, 99)], Sets::default(), vec![7, 8]);
        assert_eq!([1, 2].map(|port| flush.is_unwanted(&record(port, 3))), [false, true]);
    }

    #[test]
    fn a_turn_compares_so_much_and_no_more() {
        let share = |rules: usize, interfaces: u32| {
            let rules = vec![Rule::any(Action::Drop); rules];
            Flush::new(&rules, Sets::default(), (0..interfaces).collect()).share()
        };
        assert_eq!(
            [share(0, 2), share(10, 2), share(1000, 2), share(1024, 64)],
            [16_384, 5000, 64, 64]
        );
    }
}
