//! Rules in force: the lines, their numbers, and what flows of lines that are gone still ask for.
//!
//! A [`Ruling`] never changes; the next one is made beside it, from it, and takes its place in one step or not
//! at all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_datapath::{LoadedSet, PrefixSet, Sets};
use testudo_packet::set::SetId;

use super::compiled::{Compiled, compile};
use super::numbers::{Mark, NO_RULE, NoNumbers, assign};
use super::{COMMIT_TIMEOUT, Lines};

/// What becomes of flows that a line has let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// From when on peers are told of them.
    pub replicate: Replicate,
    /// How long their first packets wait at most, if they do at all.
    pub waits: Duration,
    /// What the log says of each before its ends, if it is to say anything.
    pub log: Option<String>,
}

/// Rules that are in force, or are to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruling {
    /// The file that they are from; nothing if it is the configuration itself.
    pub file: Option<PathBuf>,
    /// The lines.
    pub lines: Lines,
    /// What each line is marked with.
    pub marks: Vec<Mark>,
    /// What packets are compared with.
    pub compiled: Compiled,
    /// The sets that it names, which are there as long as this is.
    pub sets: Vec<LoadedSet>,
    /// By the number of the line, also of lines that are gone while flows of them may be there.
    policies: BTreeMap<u16, Policy>,
    /// Where numbers for new lines are looked for.
    next: u16,
}

/// Why lines can't come into force; those before them are.
#[derive(Debug, thiserror::Error)]
pub enum RulingError<E> {
    /// There are no numbers for them.
    #[error(transparent)]
    Numbers(#[from] NoNumbers),
    /// An interface that they name can't be used.
    #[error("{0}")]
    Interface(E),
    /// The packet handling does not take their sets.
    #[error(transparent)]
    Sets(testudo_datapath::Error),
}

/// The sets of a ruling in the making.
struct Loading<'a> {
    before: &'a [LoadedSet],
    sets: &'a Sets,
    named: Vec<LoadedSet>,
}

impl Loading<'_> {
    /// What rules name a set by. One that is in force with the same addresses is not loaded again.
    fn number(&mut self, set: &Arc<PrefixSet>) -> Result<SetId, testudo_datapath::Error> {
        if let Some(known) = self.named.iter().find(|known| known.set() == set) {
            return Ok(known.id());
        }
        let loaded = match self.before.iter().find(|known| known.set() == set) {
            Some(known) => known.clone(),
            None => self.sets.load(set.clone())?,
        };
        let id = loaded.id();
        self.named.push(loaded);
        Ok(id)
    }
}

impl Ruling {
    /// The ruling that is to take this one's place, of these lines. `flows` are the numbers of all flows in the
    /// node table, and `number` gives the kernel's number of an interface. The
    /// sets that are not in force are loaded into `sets`, which may take some tenths of a second.
    pub fn next<E>(
        &self,
        file: Option<PathBuf>,
        lines: Lines,
        flows: &BTreeSet<u16>,
        sets: &Sets,
        number: impl Fn(&str) -> Result<u32, E>,
    ) -> Result<Self, RulingError<E>> {
        let marks = assign(&lines, &self.marks, flows, self.next)?;
        let mut loaded = Loading { before: &self.sets, sets, named: Vec::new() };
        let number = |name: &str| number(name).map_err(RulingError::Interface);
        let set = |set: &Arc<PrefixSet>| loaded.number(set).map_err(RulingError::Sets);
        let compiled = compile(&lines, |place| marks[place].0, number, set)?;
        let sets = loaded.named;
        let own = self.marks.iter().map(|mark| mark.number());
        let kept: BTreeSet<u16> = own.chain(flows.iter().copied()).collect();
        let old = self.policies.iter().filter(|(number, _)| kept.contains(number));
        let mut policies: BTreeMap<u16, Policy> =
            old.map(|(number, policy)| (*number, policy.clone())).collect();
        for (mark, line) in marks.iter().zip(&lines.0) {
            let (replicate, waits) = (line.says.replicate, line.says.commit_timeout);
            let policy = Policy { replicate, waits, log: line.says.log.clone() };
            policies.insert(mark.number(), policy);
        }
        let known: BTreeSet<u16> = self.marks.iter().map(|mark| mark.number()).collect();
        let mut new =
            marks.iter().map(|mark| mark.number()).filter(|number| !known.contains(number));
        // The latest that was given; numbers go round.
        let next = new.next_back().map_or(self.next, |number| (number + 1) % NO_RULE);
        Ok(Self { file, lines, marks, compiled, sets, policies, next })
    }

    /// One of whose lines nothing is known but what they are marked with: those of a process before.
    pub fn left(marks: Vec<Mark>) -> Self {
        Self { marks, ..Self::default() }
    }

    /// From when on peers are told of the flows of each line, by its number.
    pub fn replicates(&self) -> Vec<Replicate> {
        self.by_number(Replicate::default(), |policy| policy.replicate)
    }

    /// How long their first packets wait at most, by the number of the line.
    pub fn waits(&self) -> Vec<Duration> {
        self.by_number(COMMIT_TIMEOUT, |policy| policy.waits)
    }

    /// Whether any flow is told in the log.
    pub fn logs(&self) -> bool {
        self.policies.values().any(|policy| policy.log.is_some())
    }

    /// What is known of the flows of a line.
    pub fn policy(&self, number: u16) -> Option<&Policy> {
        self.policies.get(&number)
    }

    /// How many flows each line has let in or refused, given how many each rule has.
    pub fn by_line(&self, hits: &[u64]) -> Vec<u64> {
        let mut sums = vec![0; self.lines.0.len()];
        for (place, hits) in self.compiled.lines.iter().zip(hits) {
            sums[*place] += hits;
        }
        sums
    }

    fn by_number<T: Clone>(&self, unknown: T, part: impl Fn(&Policy) -> T) -> Vec<T> {
        let count =
            self.policies.last_key_value().map_or(0, |(number, _)| usize::from(*number) + 1);
        let mut parts = vec![unknown; count];
        for (number, policy) in &self.policies {
            parts[usize::from(*number)] = part(policy);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{Surroundings, parse};

    fn next(before: &Ruling, text: &str, flows: &[u16]) -> Ruling {
        let lines = parse(std::path::Path::new("f"), text, Surroundings::default()).expect("lines");
        let flows = flows.iter().copied().collect();
        before.next(None, lines, &flows, &Sets::default(), |_| Ok::<_, ()>(1)).expect("a ruling")
    }

    #[test]
    fn flows_of_lines_that_are_gone_keep_their_policies_and_no_others_do() {
        let first = "proto tcp accept replicate never\nproto udp accept replicate after 2s\nproto esp accept";
        let first = next(&Ruling::default(), first, &[]);
        let after = Replicate::After(Duration::from_secs(2));
        assert_eq!(first.replicates(), [Replicate::Never, after, Replicate::FirstPacket]);
        // The first line is gone, the second stays, and flows of the first are there.
        let second = next(&first, "proto tcp accept\nproto udp accept replicate after 2s", &[0, 1]);
        let numbers: Vec<_> = second.marks.iter().map(|mark| mark.number()).collect();
        assert_eq!(numbers, [3, 1]);
        assert_eq!(second.replicates()[0], Replicate::Never);
        assert_eq!(second.replicates()[3], Replicate::FirstPacket);
        // They are gone as well, and what was in force a moment ago is not forgotten yet.
        let third = next(&second, "proto tcp accept commit sync timeout 7ms", &[]);
        assert_eq!(third.policy(0), None);
        assert_eq!(third.policy(1).map(|policy| policy.replicate), Some(after));
        let waits = [COMMIT_TIMEOUT, Duration::from_millis(7)];
        assert_eq!([third.waits()[0], third.waits()[4]], waits);
    }

    #[test]
    fn a_process_that_goes_on_knows_lines_by_what_was_left() {
        let before = next(&Ruling::default(), "proto tcp accept\nproto udp accept", &[]);
        let left = Ruling::left(crate::rules::numbers::marks(&before.compiled.rules));
        let after = next(&left, "proto esp accept\nproto udp accept", &[0, 1]);
        let numbers: Vec<_> = after.marks.iter().map(|mark| mark.number()).collect();
        assert_eq!(numbers, [2, 1]);
    }

    #[test]
    fn the_rules_of_a_line_count_as_one() {
        let ruling = next(&Ruling::default(), "proto tcp dport { 1, 2, 3 } accept\ndrop", &[]);
        assert_eq!(ruling.by_line(&[1, 20, 300, 4000]), [321, 4000]);
    }
}
