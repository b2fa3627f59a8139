//! When to count buckets again.
//!
//! [`rebalance`](super::rebalance()) counts buckets and [`by_load`](super::by_load) weighs them, so run
//! in turns each would undo the other. Counting belongs to a change of the candidates: it is due until
//! it has come to nothing once, and then weighing has the word until the candidates change again.
//!
//! Invariant: candidates that stay as they are make counting due for one run of rounds only. A death
//! does not make it due: the successors' shares are right by construction, and the dead node's return
//! is a join.

use super::rebalance::owned;
use super::roster::{Member, Roster};
use super::{Candidate, Held};

/// The candidates that buckets were last counted out for. A value to keep between plans.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled(Vec<Member>);

impl Settled {
    /// What a new leader goes by, who has no memory: counting has been done for every candidate that
    /// owns a bucket. If it had not come to its end, load evens out the rest.
    #[must_use]
    pub fn assume(lists: &[Held<'_>], candidates: &[Candidate]) -> Self {
        let owned = owned(lists);
        let owners = Roster::new(candidates).owners;
        Self(owners.into_iter().filter(|m| owned[usize::from(m.node.0)] > 0).collect())
    }

    /// Whether buckets should be counted out: somebody owns who may not, or a node has come to own or
    /// has got another weight. Forgets candidates that are gone.
    #[must_use]
    pub fn is_due(&mut self, lists: &[Held<'_>], candidates: &[Candidate]) -> bool {
        let roster = Roster::new(candidates);
        self.0.retain(|member| roster.owners.contains(member));
        let leaving = lists.iter().filter_map(|held| held.owner).any(|owner| !roster.owns(owner));
        !roster.owners.is_empty() && (leaving || self.0.len() < roster.owners.len())
    }

    /// Counting has come to nothing for these candidates.
    pub fn reached(&mut self, candidates: &[Candidate]) {
        self.0 = Roster::new(candidates).owners;
    }
}
