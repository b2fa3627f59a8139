//! Plans made and carried out on whole clusters, round after round.

mod lists;
mod loads;
mod moves;
mod scale;

use super::{Candidate, Change, Held, spread};
use proptest::prelude::*;
use testudo_packet::bucket::{BucketId, NodeId};

/// A cluster that carries out every plan at once.
#[derive(Clone, Debug)]
struct Cluster {
    lists: Vec<Vec<NodeId>>,
    candidates: Vec<Candidate>,
    dead: Vec<NodeId>,
    length: usize,
}

fn candidate(node: u8, weight: u32) -> Candidate {
    Candidate { node: NodeId(node), weight, may_own: true, may_succeed: true }
}

impl Cluster {
    fn new(weights: &[u32], buckets: u32, length: usize) -> Self {
        let candidates =
            (0..).zip(weights).map(|(node, &weight)| candidate(node, weight)).collect();
        let lists = vec![Vec::new(); buckets as usize];
        let mut cluster = Self { lists, candidates, dead: Vec::new(), length };
        let changes = spread(buckets, &cluster.candidates, length);
        cluster.apply(&changes);
        cluster
    }

    fn owner(&self, bucket: usize) -> Option<NodeId> {
        self.lists[bucket].iter().copied().find(|node| !self.dead.contains(node))
    }

    fn held(&self) -> Vec<Held<'_>> {
        let held = |(bucket, ranks)| Held { ranks, owner: self.owner(bucket) };
        self.lists.iter().map(Vec::as_slice).enumerate().map(held).collect()
    }

    /// Carries out a plan; says how many buckets got another owner.
    fn apply(&mut self, changes: &[Change]) -> usize {
        let mut changed = vec![false; self.lists.len()];
        let mut moves = 0;
        for change in changes {
            let bucket = usize::from(change.bucket.0);
            assert!(!std::mem::replace(&mut changed[bucket], true), "one change for a bucket");
            assert_ne!(self.lists[bucket], change.ranks, "a change changes something");
            let before = self.owner(bucket);
            self.lists[bucket].clone_from(&change.ranks);
            moves += usize::from(before != self.owner(bucket));
        }
        self.check(changes);
        moves
    }

    /// Whether changed lists name nodes once, only those that may be named, fit ones first.
    fn check(&self, changes: &[Change]) {
        for Change { bucket, ranks } in changes {
            let mut sorted = ranks.clone();
            sorted.sort();
            sorted.dedup();
            assert_eq!(sorted.len(), ranks.len(), "bucket {bucket} names a node twice: {ranks:?}");
            let available = self.candidates.iter().filter(|c| c.may_succeed).count();
            assert!(ranks.len() <= self.length && ranks.len() >= self.length.min(available));
            let successors = ranks[1..].iter().map(|node| self.of(*node).expect("a candidate"));
            assert!(successors.clone().all(|c| c.may_succeed));
            assert!(successors.map(|c| !(c.may_own && c.weight > 0)).is_sorted(), "{ranks:?}");
        }
    }

    fn of(&self, node: NodeId) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.node == node)
    }

    fn set_may_own(&mut self, node: u8, may_own: bool) {
        let candidate = self.candidates.iter_mut().find(|c| c.node == NodeId(node));
        candidate.expect("a candidate").may_own = may_own;
    }

    fn kill(&mut self, node: NodeId) {
        self.dead.push(node);
        self.candidates.retain(|candidate| candidate.node != node);
    }

    /// How many buckets each candidate owns, in their order.
    fn counts(&self) -> Vec<usize> {
        let owned = |node| (0..self.lists.len()).filter(|&b| self.owner(b) == Some(node)).count();
        self.candidates.iter().map(|candidate| owned(candidate.node)).collect()
    }

    /// How far the counts of those that may own are from their exact shares, at most.
    fn worst_rounding(&self) -> f64 {
        self.worst_part(&self.counts(), self.lists.len(), None)
    }

    /// The same for any counts of `total` things, `but` one node.
    fn worst_part(&self, counts: &[usize], total: usize, but: Option<NodeId>) -> f64 {
        let takes = |c: &Candidate| c.may_own && Some(c.node) != but;
        let weight: u32 = self.candidates.iter().filter(|c| takes(c)).map(|c| c.weight).sum();
        let share = |c: &Candidate| total as f64 * f64::from(c.weight) / f64::from(weight);
        let off = |(c, &count): (&Candidate, &usize)| (count as f64 - share(c)).abs();
        self.candidates.iter().zip(counts).filter(|(c, _)| takes(c)).map(off).fold(0.0, f64::max)
    }

    /// How unevenly the buckets of one more dead node would go to the others.
    fn worst_inheritance(&self, dead: NodeId) -> f64 {
        let before: Vec<_> = (0..self.lists.len()).map(|bucket| self.owner(bucket)).collect();
        let mut after = self.clone();
        after.kill(dead);
        let mut counts = vec![0; after.candidates.len()];
        for (bucket, old) in before.iter().enumerate() {
            let new = after.owner(bucket);
            assert!(*old == new || *old == Some(dead), "only the dead node's buckets move");
            if let Some(heir) = after.candidates.iter().position(|c| Some(c.node) == new) {
                counts[heir] += usize::from(*old != new);
            }
        }
        after.worst_part(&counts, counts.iter().sum(), None)
    }
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    prop_oneof![
        (2usize..=20).prop_map(|nodes| vec![1; nodes]),
        prop::collection::vec(1u32..=8, 2..=12)
    ]
}

fn equal_weights() -> impl Strategy<Value = Vec<u32>> {
    (2usize..=20).prop_map(|nodes| vec![1; nodes])
}

fn bucket(number: usize) -> BucketId {
    BucketId(number as u16)
}
