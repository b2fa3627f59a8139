//! The numbers of lines: what a flow remembers of the line that has let it in.
//!
//! A flow is asked for its number long after it has begun: from when on the other nodes are told of it is its
//! line's say. Rules are replaced meanwhile. So a line that stays keeps its number, and a number is given to
//! another line only when no flow has it any more.
//!
//! Why that holds, for a number that is free by [`assign`]: it is of no line that is in force, and of no flow in
//! the node table.
//!
//! * A packet that is on its way through the pipeline meets the rules in force, whose numbers are not free.
//!   To meet older ones it would have to be there since two replacements ago, each of which goes over the
//!   whole node table before.
//! * A flow whose first packet waits for the other nodes is decided anew when it goes on, by the rules that are
//!   in force then.
//! * A flow that comes into the node table from the common table has the number that *another* node has given, or
//!   an older process. It is in the common table, so it is not kept back whatever its number means here.
//!
//! A line is known again by what it says, so moving lines about changes no number. It is known by its
//! fingerprint, 48 bits of a hash, because that has room beside the number in the rule's mark: so a process that
//! goes on where another has stopped finds both in the memory that it takes over.

use std::collections::{BTreeMap, BTreeSet};

use testudo_datapath::{EntryView, NodeTable, SharedTable};
use testudo_packet::rule::Rule;
use testudo_packet::siphash::{HashKey, hash18};

use super::Lines;

/// The number of flows that no line has let in.
pub const NO_RULE: u16 = u16::MAX;

/// There are as many flows of lines that are gone as there are numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the flows that are there were let in by so many lines that are gone that no number is left for a new \
     one; expected fewer than {NO_RULE} of both; the rules in force stay"
)]
pub struct NoNumbers;

/// What a line is marked with: its number, and its fingerprint above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark(pub u64);

impl Mark {
    fn new(number: u16, fingerprint: u64) -> Self {
        Self(fingerprint << 16 | u64::from(number))
    }

    /// The number of the line.
    pub const fn number(self) -> u16 {
        self.0 as u16
    }

    const fn fingerprint(self) -> u64 {
        self.0 >> 16
    }
}

/// The marks of lines: those that are in force keep theirs, others get numbers from `from` on that are none of
/// those that flows have.
pub fn assign(
    lines: &Lines,
    in_force: &[Mark],
    flows: &BTreeSet<u16>,
    from: u16,
) -> Result<Vec<Mark>, NoNumbers> {
    let known: BTreeMap<_, _> = in_force.iter().map(|mark| (mark.fingerprint(), *mark)).collect();
    let mut taken: BTreeSet<u16> = in_force.iter().map(|mark| mark.number()).collect();
    taken.extend(flows);
    let mut free = (from..NO_RULE).chain(0..from).filter(|number| !taken.contains(number));
    let fingerprints = fingerprints(lines);
    let mark = |fingerprint| match known.get(&fingerprint) {
        Some(mark) => Ok(*mark),
        None => free.next().map(|number| Mark::new(number, fingerprint)).ok_or(NoNumbers),
    };
    fingerprints.into_iter().map(mark).collect()
}

/// The marks of rules that are in force.
pub fn marks(rules: &[Rule]) -> Vec<Mark> {
    let mut marks: Vec<_> = rules.iter().map(|rule| Mark(rule.mark)).collect();
    marks.dedup();
    marks
}

/// The numbers that flows in the node table have.
pub fn of_flows(table: &SharedTable) -> BTreeSet<u16> {
    let mut numbers = BTreeSet::new();
    table.scan(&mut |view: &EntryView| {
        numbers.insert(view.record.state.rule);
    });
    numbers
}

/// What lines are known again by: lines that say the same differ by how many such are before them.
fn fingerprints(lines: &Lines) -> Vec<u64> {
    let mut seen = BTreeMap::new();
    let fingerprint = |text: String| {
        let before: &mut u64 = seen.entry(text.clone()).or_default();
        let sum = text
            .bytes()
            .fold(*before, |sum, byte| hash18(HashKey::default(), sum, u64::from(byte), 1));
        *before += 1;
        // Not 0, which rules have that nobody has marked.
        (sum >> 16).max(1)
    };
    lines.0.iter().map(|line| line.says.to_string()).map(fingerprint).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Surroundings, parse};

    fn lines(text: &str) -> Lines {
        parse(std::path::Path::new("f"), text, Surroundings::default()).expect("lines")
    }

    fn numbers(marks: &[Mark]) -> Vec<u16> {
        marks.iter().map(|mark| mark.number()).collect()
    }

    const THREE: &str = "proto tcp accept\nproto udp accept\nproto tcp accept\n";

    #[test]
    fn the_first_lines_have_their_places_for_numbers() {
        let marks = assign(&lines(THREE), &[], &BTreeSet::new(), 0).unwrap();
        assert_eq!(numbers(&marks), [0, 1, 2]);
    }

    #[test]
    fn a_line_that_stays_keeps_its_number_wherever_it_is() {
        let before = assign(&lines(THREE), &[], &BTreeSet::new(), 0).unwrap();
        let next = lines("drop\nproto tcp  accept\n# more\nproto tcp accept\nproto udp accept\n");
        let after = assign(&next, &before, &BTreeSet::new(), 3).unwrap();
        assert_eq!(numbers(&after), [3, 0, 2, 1]);
    }

    #[test]
    fn a_number_that_a_flow_has_or_that_is_in_force_is_not_given_away() {
        let before = assign(&lines("proto tcp accept\nproto udp accept"), &[], &BTreeSet::new(), 0);
        let before = before.unwrap();
        let flows = BTreeSet::from([NO_RULE - 1, 3]);
        let next = lines("proto esp accept\nproto ah accept\nproto icmp accept");
        let after = assign(&next, &before, &flows, NO_RULE - 2).unwrap();
        assert_eq!(numbers(&after), [NO_RULE - 2, 2, 4]);
    }

    #[test]
    fn when_all_numbers_are_taken_there_is_none() {
        let flows: BTreeSet<u16> = (1..NO_RULE).collect();
        assert_eq!(numbers(&assign(&lines("drop"), &[], &flows, 9).unwrap()), [0]);
        assert_eq!(assign(&lines("drop\naccept"), &[], &flows, 9), Err(NoNumbers));
    }
}
