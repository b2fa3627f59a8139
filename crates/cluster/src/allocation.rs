//! Which node owns which bucket, and who comes after it.
//!
//! Every bucket has a ranked list of all nodes: the first alive one owns it. The lists are a pure
//! function of the number of nodes and of buckets, so nodes that agree on their configuration agree
//! on every successor without a message, before anything fails.
//!
//! Invariant: each list names each node once; nodes own equally many buckets, give or take one; the
//! buckets of a dead node go to the survivors equally, give or take one; those of the next one to die
//! (its own and what it has inherited, each spread that way) equally, give or take three.
//!
//! Why not consistent hashing or a shuffle: both are even only on average, and with 256 buckets the
//! average is far from the worst node. Here the bucket's number is read in mixed radix (as a Lehmer
//! code): one digit picks the owner, the next the successor among the others, and so on, so each
//! choice runs through all its values before one comes up twice.
//!
//! Limits: the table takes buckets × nodes bytes. Weights per node are no part of it.

use testudo_packet::bucket::{BucketId, MAX_BUCKETS, NodeId};

/// The largest number of nodes of a cluster: two numbers of a byte are taken, one of them by
/// [`NodeId::NONE`].
pub const MAX_NODES: usize = 254;

/// The ranked nodes of every bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allocation {
    nodes: usize,
    ranks: Vec<NodeId>,
}

impl Allocation {
    /// Ranks `nodes` nodes for each of `buckets` buckets.
    ///
    /// # Panics
    ///
    /// If there are no nodes or no buckets, or more than [`MAX_NODES`] or [`MAX_BUCKETS`].
    #[must_use]
    pub fn new(nodes: usize, buckets: u32) -> Self {
        assert!((1..=MAX_NODES).contains(&nodes), "{nodes} nodes");
        assert!((1..=MAX_BUCKETS).contains(&buckets), "{buckets} buckets");
        let mut ranks = Vec::with_capacity(nodes * buckets as usize);
        for bucket in 0..buckets as usize {
            rank(bucket, nodes, &mut ranks);
        }
        Self { nodes, ranks }
    }

    /// The number of buckets.
    #[must_use]
    pub fn buckets(&self) -> u32 {
        u32::try_from(self.ranks.len() / self.nodes).expect("checked when made")
    }

    /// The nodes of a bucket, owner first, then the successors in their order. Empty for a bucket
    /// that the cluster does not have.
    #[must_use]
    pub fn ranks(&self, bucket: BucketId) -> &[NodeId] {
        let start = usize::from(bucket.0) * self.nodes;
        self.ranks.get(start..start + self.nodes).unwrap_or(&[])
    }
}

/// Appends the ranked nodes of one bucket.
fn rank(bucket: usize, nodes: usize, ranks: &mut Vec<NodeId>) {
    // The nodes not ranked yet, as a circle that begins behind the one chosen last.
    let mut rest: Vec<u8> = (0..nodes).map(|node| node as u8).collect();
    let mut number = bucket;
    while !rest.is_empty() {
        let choice = number % rest.len();
        number /= rest.len();
        rest.rotate_left(choice);
        ranks.push(NodeId(rest.remove(0)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn owners(allocation: &Allocation, dead: &[NodeId]) -> Vec<NodeId> {
        (0..allocation.buckets())
            .map(|bucket| {
                let ranks = allocation.ranks(BucketId(bucket as u16));
                *ranks.iter().find(|node| !dead.contains(node)).unwrap()
            })
            .collect()
    }

    fn spread(counts: impl IntoIterator<Item = usize>) -> usize {
        let counts: Vec<_> = counts.into_iter().collect();
        counts.iter().max().unwrap_or(&0) - counts.iter().min().unwrap_or(&0)
    }

    /// How unevenly the survivors share what the last of the dead had.
    fn inherited(allocation: &Allocation, dead: &[NodeId]) -> usize {
        let (_, before) = dead.split_last().unwrap();
        let (old, new) = (owners(allocation, before), owners(allocation, dead));
        let mut counts = vec![0; allocation.nodes];
        for (old, new) in old.iter().zip(&new).filter(|(old, new)| old != new) {
            assert_eq!(Some(old), dead.last(), "only the dead node's buckets move");
            counts[usize::from(new.0)] += 1;
        }
        spread(
            (0..allocation.nodes).filter(|&n| !dead.contains(&NodeId(n as u8))).map(|n| counts[n]),
        )
    }

    #[test]
    fn three_nodes_share_six_buckets() {
        let allocation = Allocation::new(3, 6);
        let ranks = |bucket| allocation.ranks(BucketId(bucket)).iter().map(|n| n.0).collect();
        let all: Vec<Vec<u8>> = (0..6).map(ranks).collect();
        assert_eq!(
            all,
            [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2], [2, 1, 0]].map(Vec::from)
        );
        assert_eq!(allocation.ranks(BucketId(6)), []);
    }

    #[test]
    fn the_largest_cluster_has_a_place_for_everyone() {
        let allocation = Allocation::new(MAX_NODES, MAX_BUCKETS);
        assert_eq!(allocation.ranks(BucketId(u16::MAX)).len(), MAX_NODES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn lists_are_complete_and_even(
            nodes in 1usize..=32,
            buckets in 1u32..5000,
            first: prop::sample::Index,
            second: prop::sample::Index,
        ) {
            let allocation = Allocation::new(nodes, buckets);
            let mut counts = vec![0; nodes];
            for bucket in 0..buckets {
                let mut ranks = allocation.ranks(BucketId(bucket as u16)).to_vec();
                counts[usize::from(ranks[0].0)] += 1;
                ranks.sort();
                prop_assert!(ranks.iter().map(|node| usize::from(node.0)).eq(0..nodes));
            }
            prop_assert!(spread(counts) <= 1);
            let (first, second) = (first.index(nodes) as u8, second.index(nodes) as u8);
            if nodes > 1 {
                prop_assert!(inherited(&allocation, &[NodeId(first)]) <= 1);
            }
            if nodes > 2 && first != second {
                prop_assert!(inherited(&allocation, &[NodeId(first), NodeId(second)]) <= 3);
            }
        }
    }
}
