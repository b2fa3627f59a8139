//! Which bucket lists should change, and to what.
//!
//! The planner looks at the nodes and at the lists that are agreed, and proposes changes; agreeing on
//! them and carrying them out is the business of others. Each decision is a function of its own:
//! [`spread`] forms a cluster, [`succeed`] repairs the lists after deaths, [`rebalance`] moves buckets
//! until every node owns its share of them, [`even_successors`] has a further death shared by all,
//! [`by_load`] moves buckets away from nodes that carry too much, [`drain_report`] says what a drain
//! would do.
//!
//! Invariant: a list names a node once and, but for an owner that acts already, only candidates that
//! may be named; no list is longer than asked; a plan never moves a bucket twice; a plan applied to
//! what it was made from, and made again until it is empty, ends, and then stays empty.
//!
//! Why functions without state: the leader changes, and a new one must come to the same plan from what
//! is agreed. What has to be remembered (moves made lately, the candidates last settled for) is a value
//! that the caller keeps and passes in.
//!
//! Limits: time grows with buckets × nodes × ranks, never with the square of the buckets. Rounding is
//! to whole buckets, so with few buckets for each node weights are met only roughly.

mod balance;
mod drain;
mod level;
mod load;
mod rebalance;
mod roster;
mod rows;
mod settled;
mod spread;

#[cfg(test)]
mod tests;

pub use balance::{BalanceSettings, Lately, LoadPlan, Moved, by_load, forget};
pub use drain::{Capacity, DrainReport, DrainVerdict, PlannedMove, Share, drain_report};
pub use load::{BYTE_NS, Load, NEW_FLOW_NS, PACKET_NS, Rates, TUNNEL_NS};
pub use rebalance::rebalance;
pub use settled::Settled;
pub use spread::{even_successors, spread, succeed};

use testudo_packet::bucket::{BucketId, NodeId};

/// A node as the planner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which node.
    pub node: NodeId,
    /// Its strength: buckets are owned in proportion to it. A node of weight 0 owns nothing and is a
    /// successor of last resort.
    pub weight: u32,
    /// Whether it may be given buckets: alive, synced, fit, not drained, no witness.
    pub may_own: bool,
    /// Whether it may be named as a successor: alive, synced, no witness. One that may succeed but not
    /// own (drained, unfit) is a successor of last resort and ranked last.
    pub may_succeed: bool,
}

/// A bucket as it is now. Its number is its place in the slice that it stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held<'a> {
    /// The agreed list, owner first.
    pub ranks: &'a [NodeId],
    /// Who acts now: the first of the list that is alive. Nobody if all are dead.
    pub owner: Option<NodeId>,
}

/// A list that should be another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose list.
    pub bucket: BucketId,
    /// The new list, owner first.
    pub ranks: Vec<NodeId>,
}
