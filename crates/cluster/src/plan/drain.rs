//! What a drain would do, before anyone does it.
//!
//! Invariant: the report is made by the very function that would move the buckets, so it can't differ
//! from what happens, as long as lists and candidates stay the same.
//!
//! Limits: it supposes that the load stays as it was measured. Balancing by load may even out
//! afterwards what the report shows as uneven.

use super::balance::load_of;
use super::rebalance::rebalance;
use super::{Candidate, Held};
use testudo_packet::bucket::{BucketId, NodeId};

/// What a node is trusted to carry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Capacity {
    /// The cost that a unit of weight can carry: configured, or the highest seen so far on any node.
    /// Unknown if nothing was measured yet.
    pub per_weight: Option<f64>,
    /// How much of that a node may be filled to, in percent.
    pub percent: f64,
}

/// One bucket's way in a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlannedMove {
    /// Which bucket.
    pub bucket: BucketId,
    /// Who owns it now.
    pub from: NodeId,
    /// Who would own it.
    pub to: NodeId,
}

/// What a node owns and carries, before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Which node.
    pub node: NodeId,
    /// Its buckets now, and after the drain.
    pub buckets: (usize, usize),
    /// Their cost now, and after the drain.
    pub load: (f64, f64),
    /// The cost that it may be filled to, if that is known.
    pub limit: Option<f64>,
}

/// Whether the rest can carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DrainVerdict {
    /// Every node that would get more stays within its limit.
    Carries,
    /// These would be given more than their limit.
    Overloads(Vec<NodeId>),
    /// No capacity is known: nothing was measured and nothing is configured.
    CapacityUnknown,
    /// No other node may own: the buckets would stay where they are.
    NobodyElse,
    /// The node is no candidate and owns nothing.
    NotThere,
}

/// What would move where if a node were drained, and whether the rest can carry it.
#[derive(Clone, Debug, PartialEq)]
pub struct DrainReport {
    /// Who would be drained.
    pub node: NodeId,
    /// What would move. When weights differ, a few buckets of other nodes may be among it.
    pub moves: Vec<PlannedMove>,
    /// All candidates and owners, by number.
    pub shares: Vec<Share>,
    /// Whether the rest can carry it.
    pub verdict: DrainVerdict,
}

/// Reports what draining `node` would do.
#[must_use]
pub fn drain_report(
    lists: &[Held<'_>],
    candidates: &[Candidate],
    length: usize,
    loads: &[f64],
    node: NodeId,
    capacity: &Capacity,
) -> DrainReport {
    let mut drained = candidates.to_vec();
    drained.iter_mut().filter(|c| c.node == node).for_each(|c| c.may_own = false);
    let mut shares = shares_now(lists, candidates, loads, capacity);
    let mut moves = Vec::new();
    for change in rebalance(lists, &drained, length, usize::MAX) {
        let from = lists[usize::from(change.bucket.0)].owner;
        let (Some(from), Some(&to)) = (from, change.ranks.first()) else { continue };
        moves.push(PlannedMove { bucket: change.bucket, from, to });
        let load = load_of(loads, change.bucket);
        for share in &mut shares {
            if share.node == from {
                (share.buckets.1, share.load.1) = (share.buckets.1 - 1, share.load.1 - load);
            }
            if share.node == to {
                (share.buckets.1, share.load.1) = (share.buckets.1 + 1, share.load.1 + load);
            }
        }
    }
    let others = drained.iter().any(|c| c.may_own && c.weight > 0);
    let there = shares.iter().any(|share| share.node == node);
    let verdict = match (there, others) {
        (false, _) => DrainVerdict::NotThere,
        (true, false) => DrainVerdict::NobodyElse,
        (true, true) => judge(&shares, capacity),
    };
    DrainReport { node, moves, shares, verdict }
}

fn shares_now(
    lists: &[Held<'_>],
    candidates: &[Candidate],
    loads: &[f64],
    capacity: &Capacity,
) -> Vec<Share> {
    let owners = lists.iter().filter_map(|held| held.owner);
    let mut nodes: Vec<NodeId> = candidates.iter().map(|c| c.node).chain(owners).collect();
    nodes.sort();
    nodes.dedup();
    let weight = |node| candidates.iter().find(|c| c.node == node).map_or(0, |c| c.weight);
    let limit = |node| {
        let per_weight = capacity.per_weight.filter(|limit| limit.is_finite() && *limit > 0.0)?;
        Some(per_weight * f64::from(weight(node)) * capacity.percent.max(0.0) / 100.0)
    };
    let share = |node| Share { node, buckets: (0, 0), load: (0.0, 0.0), limit: limit(node) };
    let mut shares: Vec<Share> = nodes.iter().copied().map(share).collect();
    for (bucket, held) in lists.iter().enumerate() {
        let Some(at) = held.owner.and_then(|owner| nodes.binary_search(&owner).ok()) else {
            continue;
        };
        shares[at].buckets.0 += 1;
        shares[at].load.0 += load_of(loads, BucketId(bucket as u16));
    }
    for share in &mut shares {
        (share.buckets.1, share.load.1) = (share.buckets.0, share.load.0);
    }
    shares
}

fn judge(shares: &[Share], capacity: &Capacity) -> DrainVerdict {
    if capacity.per_weight.is_none_or(|limit| !limit.is_finite() || limit <= 0.0) {
        return DrainVerdict::CapacityUnknown;
    }
    let over = |share: &&Share| {
        share.buckets.1 > share.buckets.0 && share.limit.is_some_and(|limit| share.load.1 > limit)
    };
    let overloaded: Vec<NodeId> = shares.iter().filter(over).map(|share| share.node).collect();
    if overloaded.is_empty() { DrainVerdict::Carries } else { DrainVerdict::Overloads(overloaded) }
}
