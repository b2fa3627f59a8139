//! The first lists of a cluster, and their repair.
//!
//! Invariant: a repair moves no bucket: who acts stays first. Nodes that are gone leave, fit successors
//! stay in their order, and what is missing behind them is filled so that a further death is shared by
//! all in proportion to weight.

use super::roster::Roster;
use super::rows::{Row, changes, kept};
use super::{Candidate, Change, Held, level};
use testudo_packet::bucket::{BucketId, MAX_BUCKETS};

/// How many ranks [`even_successors`] evens: the deaths that follow each other before it runs again.
const EVEN_RANKS: usize = 2;

/// The lists of an empty cluster with `buckets` buckets, each with `length` nodes if there are so many.
///
/// Nodes own in proportion to their weights, and so do those that inherit from one dead node, and from
/// the next one. Nothing if no candidate may own.
///
/// # Panics
///
/// If there are no buckets or more than [`MAX_BUCKETS`].
#[must_use]
pub fn spread(buckets: u32, candidates: &[Candidate], length: usize) -> Vec<Change> {
    assert!((1..=MAX_BUCKETS).contains(&buckets), "{buckets} buckets");
    let roster = Roster::new(candidates);
    if roster.owners.is_empty() {
        return Vec::new();
    }
    let mut rows: Vec<Row> = (0..buckets).map(|b| Row::empty(BucketId(b as u16))).collect();
    let length = length.max(1);
    level::fill(&mut rows, &roster, length);
    changes(&rows, &[], &roster, length)
}

/// Repairs the lists after deaths, without moving a bucket that somebody acts for.
///
/// A bucket for which nobody of its list is left goes to a node that owns less than its share.
#[must_use]
pub fn succeed(lists: &[Held<'_>], candidates: &[Candidate], length: usize) -> Vec<Change> {
    let (roster, length) = (Roster::new(candidates), length.max(1));
    let mut rows = kept(lists, &roster, length);
    rows.iter_mut().for_each(|row| row.open = true);
    level::fill(&mut rows, &roster, length);
    changes(&rows, lists, &roster, length)
}

/// Exchanges successors until a dead node's buckets, and those of the next to die, are shared by all
/// others in proportion to weight: a node that has joined succeeds to nobody before this has run.
///
/// Changes at most `max_changes` lists and moves no bucket. Repeated rounds come to an end.
#[must_use]
pub fn even_successors(
    lists: &[Held<'_>],
    candidates: &[Candidate],
    length: usize,
    max_changes: usize,
) -> Vec<Change> {
    let (roster, length) = (Roster::new(candidates), length.max(1));
    let mut rows = kept(lists, &roster, length);
    let mut budget = max_changes;
    for level in 1..=EVEN_RANKS.min(length - 1) {
        budget = level::even(&mut rows, level, &roster, length, budget);
    }
    level::fill(&mut rows, &roster, length);
    changes(&rows, lists, &roster, length)
}
