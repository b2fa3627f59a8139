//! The candidates, by what they may be used for.
//!
//! Invariant: who is `fit` owns buckets as well, who is `spare` does not; nobody is both.

use super::Candidate;
use crate::node_set::NodeSet;
use testudo_packet::bucket::NodeId;

/// One entry for each number of a node, [`NodeId::NONE`] included so that any number is an index.
pub(super) const NUMBERS: usize = 256;

/// A node that takes a share, and its weight, which is never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) node: NodeId,
    pub(super) weight: u64,
}

/// The candidates, by what they may be used for. Of two candidates with one number the first counts.
#[derive(Debug)]
pub(super) struct Roster {
    /// Those that may own, by number.
    pub(super) owners: Vec<Member>,
    /// Those that may both own and succeed, by number.
    pub(super) fit: Vec<Member>,
    fit_set: NodeSet,
    owner_set: NodeSet,
    spare_set: NodeSet,
}

impl Roster {
    pub(super) fn new(candidates: &[Candidate]) -> Self {
        let mut seen = NodeSet::default();
        let mut sorted: Vec<_> =
            candidates.iter().filter(|c| c.node != NodeId::NONE && seen.insert(c.node)).collect();
        sorted.sort_by_key(|candidate| candidate.node);
        let member = |c: &&Candidate| Member { node: c.node, weight: u64::from(c.weight) };
        let owns = |c: &&&Candidate| c.may_own && c.weight > 0;
        let owners: Vec<_> = sorted.iter().filter(owns).map(member).collect();
        let fit: Vec<_> =
            sorted.iter().filter(owns).filter(|c| c.may_succeed).map(member).collect();
        let spare = sorted.iter().filter(|c| c.may_succeed && !owns(c)).map(|c| c.node);
        Self {
            fit_set: fit.iter().map(|member| member.node).collect(),
            owner_set: owners.iter().map(|member| member.node).collect(),
            spare_set: spare.collect(),
            owners,
            fit,
        }
    }

    /// Whether a node may be given buckets.
    pub(super) fn owns(&self, node: NodeId) -> bool {
        self.owner_set.contains(node)
    }

    /// Whether a node may be named as a successor that takes its share.
    pub(super) fn is_fit(&self, node: NodeId) -> bool {
        self.fit_set.contains(node)
    }

    /// Whether a node may be named only as a last resort.
    pub(super) fn is_spare(&self, node: NodeId) -> bool {
        self.spare_set.contains(node)
    }

    /// The successors of last resort, lowest number first.
    pub(super) fn spare(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.spare_set.iter()
    }
}
