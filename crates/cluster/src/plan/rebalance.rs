//! Moving buckets until every node owns its share of them.
//!
//! Invariant: a round lowers the number of moves that are still needed by exactly the moves it makes,
//! so rounds come to an end, whatever the cap, and nothing is moved back.
//!
//! That holds because a share may be rounded down or up, and is rounded so that the most buckets stay
//! where they are. Largest remainders would be no more exact, and would move buckets between nodes that
//! both own their share, only because a third has come or gone.
//!
//! Limits: buckets are counted, not weighed. When nodes differ in weight, a drain can also make a node
//! with a share rounded up give up one bucket.

use super::roster::{NUMBERS, Roster};
use super::rows::{Row, changes, kept};
use super::{Candidate, Change, Held, level};
use testudo_packet::bucket::NodeId;

/// Moves buckets, at most `max_moves`, towards shares in proportion to weight: after a join, an undrain,
/// a drain, or when a node has become unfit.
///
/// Buckets of nodes that may not own are moved first. A bucket rather goes to one of its present
/// successors, which has its entries, than to another node. The old owner succeeds to it next, or last
/// if it is drained or unfit. Nothing if no candidate may own.
#[must_use]
pub fn rebalance(
    lists: &[Held<'_>],
    candidates: &[Candidate],
    length: usize,
    max_moves: usize,
) -> Vec<Change> {
    let (roster, length) = (Roster::new(candidates), length.max(1));
    let mut rows = kept(lists, &roster, length);
    let mut shift = Shift::new(lists, &roster, max_moves);
    for leaving_only in [true, false] {
        for rank in 1..length {
            let heir = |row: &Row, shift: &Shift| {
                row.head.get(rank).copied().filter(|&node| shift.lacks(node))
            };
            shift.pass(&mut rows, &roster, leaving_only, heir);
        }
        shift.pass(&mut rows, &roster, leaving_only, |_, shift| shift.most_lacking());
    }
    level::fill(&mut rows, &roster, length);
    changes(&rows, lists, &roster, length)
}

/// How many buckets each node should own, by number.
///
/// Exact shares are rounded down, and the buckets left over go one each to those who own one more than
/// that already, then to the largest remainders.
pub(super) fn targets(owned: &[u64; NUMBERS], total: u64, roster: &Roster) -> [u64; NUMBERS] {
    let weight: u64 = roster.owners.iter().map(|member| member.weight).sum();
    let mut targets = [0; NUMBERS];
    if weight == 0 {
        return targets;
    }
    let mut fractions = Vec::new();
    for member in &roster.owners {
        let (number, exact) = (usize::from(member.node.0), total * member.weight);
        targets[number] = exact / weight;
        let keeps = owned[number] > targets[number];
        fractions.push((keeps, exact % weight, owned[number], member.node));
    }
    fractions.retain(|&(_, remainder, ..)| remainder > 0);
    fractions.sort_by(|a, b| (b.0, b.1, b.2).cmp(&(a.0, a.1, a.2)).then(a.3.cmp(&b.3)));
    let left = total - targets.iter().sum::<u64>();
    for &(.., node) in fractions.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
        targets[usize::from(node.0)] += 1;
    }
    targets
}

/// How many buckets each node owns, by number.
pub(super) fn owned(lists: &[Held<'_>]) -> [u64; NUMBERS] {
    let mut owned = [0; NUMBERS];
    for owner in lists.iter().filter_map(|held| held.owner) {
        owned[usize::from(owner.0)] += 1;
    }
    owned
}

/// What is still to be moved from whom to whom.
struct Shift {
    surplus: [u64; NUMBERS],
    lack: [u64; NUMBERS],
    target: [u64; NUMBERS],
    moves: usize,
}

impl Shift {
    fn new(lists: &[Held<'_>], roster: &Roster, max_moves: usize) -> Self {
        let owned = owned(lists);
        let target = targets(&owned, owned.iter().sum(), roster);
        let surplus = std::array::from_fn(|i| owned[i].saturating_sub(target[i]));
        let lack = std::array::from_fn(|i| target[i].saturating_sub(owned[i]));
        Self { surplus, lack, target, moves: max_moves }
    }

    fn lacks(&self, node: NodeId) -> bool {
        self.lack[usize::from(node.0)] > 0
    }

    /// Whoever lacks the largest part of what it should own.
    fn most_lacking(&self) -> Option<NodeId> {
        let part = |&number: &usize| self.lack[number] as f64 / self.target[number] as f64;
        let lacking = (0..NUMBERS).filter(|&number| self.lack[number] > 0);
        let most = lacking.rev().max_by(|a, b| part(a).total_cmp(&part(b)))?;
        Some(NodeId(most as u8))
    }

    /// Moves each bucket of a node with a surplus to the heir chosen for it, if there is one.
    fn pass(
        &mut self,
        rows: &mut [Row],
        roster: &Roster,
        leaving_only: bool,
        heir: impl Fn(&Row, &Self) -> Option<NodeId>,
    ) {
        for row in rows.iter_mut().filter(|row| !row.open) {
            let Some(&owner) = row.head.first() else { continue };
            let stays = self.surplus[usize::from(owner.0)] == 0;
            if self.moves == 0 || stays || leaving_only && roster.owns(owner) {
                continue;
            }
            let Some(to) = heir(row, self) else { continue };
            row.move_to(to, roster);
            self.moves -= 1;
            self.surplus[usize::from(owner.0)] -= 1;
            self.lack[usize::from(to.0)] -= 1;
        }
    }
}
