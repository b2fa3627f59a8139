//! What an operator is told of a takeover: whose buckets, how many, how fast.

use std::collections::BTreeSet;

use testudo_cluster::config::Cluster;
use testudo_datapath::Installed;
use testudo_packet::bucket::{BucketId, BucketSlot, Nanos, NodeId};

use super::loading;
use crate::node::clock;

/// A takeover, from the decision to the last entry.
#[derive(Debug)]
pub struct Takeover {
    decided: Nanos,
    buckets: usize,
    /// Buckets of each owner before; those that nobody owned are not among them.
    taken: usize,
    from: BTreeSet<NodeId>,
    installed: Installed,
}

impl Takeover {
    /// A takeover of these buckets, decided on just then.
    pub fn new(buckets: &[(BucketId, BucketSlot)], decided: Nanos) -> Self {
        let before = buckets.iter().map(|(_, slot)| slot.previous);
        let before = before.filter(|&node| node != NodeId::NONE);
        Self {
            decided,
            buckets: buckets.len(),
            taken: before.clone().count(),
            from: before.collect(),
            installed: Installed::default(),
        }
    }

    /// From how many nodes buckets came.
    pub fn nodes(&self) -> usize {
        self.from.len()
    }

    /// How many buckets came from other nodes.
    pub const fn taken(&self) -> usize {
        self.taken
    }

    /// This takeover, which an earlier one that is still loading becomes part of.
    pub fn after(mut self, earlier: Option<Self>) -> Self {
        if let Some(earlier) = earlier {
            self.buckets += earlier.buckets;
            self.decided = earlier.decided;
            self.from.extend(earlier.from);
            self.installed = earlier.installed;
        }
        self
    }

    /// All slots name this node.
    pub fn flipped(&mut self, cluster: &Cluster, now: Nanos) {
        let from: Vec<&str> = self.from.iter().map(|&node| cluster.member(node)).collect();
        let from = if from.is_empty() { "nobody".to_owned() } else { from.join(", ") };
        let micros = clock::between(self.decided, now).as_micros();
        tracing::info!(buckets = self.buckets, from, micros, "buckets taken: all slots flipped");
    }

    /// Entries have been installed.
    pub const fn add(&mut self, installed: Installed) {
        self.installed = loading::sum(self.installed, installed);
    }

    /// All entries are in the node table.
    pub fn loaded(self, now: Nanos) {
        let micros = clock::between(self.decided, now).as_micros();
        let Installed { installed, stale, refused } = self.installed;
        tracing::info!(
            buckets = self.buckets,
            entries = installed,
            known_already = stale,
            refused,
            micros,
            "buckets loaded: all entries installed"
        );
    }
}

#[cfg(test)]
mod tests {
    use testudo_packet::bucket::{BucketState, Epoch};

    use super::*;

    #[test]
    fn only_buckets_that_somebody_had_are_taken_from_somebody() {
        let state = BucketState::Loading;
        let slot = |previous| BucketSlot { owner: NodeId(0), previous, state, epoch: Epoch(1) };
        let buckets: Vec<_> = [NodeId(1), NodeId::NONE, NodeId(2), NodeId(1)]
            .into_iter()
            .zip(0..)
            .map(|(previous, bucket)| (BucketId(bucket), slot(previous)))
            .collect();
        let takeover = Takeover::new(&buckets, Nanos(5));
        assert_eq!((takeover.nodes(), takeover.taken(), takeover.buckets), (2, 3, 4));
        let later = Takeover::new(&buckets[..1], Nanos(9)).after(Some(takeover));
        assert_eq!((later.buckets, later.decided), (5, Nanos(5)));
    }
}
