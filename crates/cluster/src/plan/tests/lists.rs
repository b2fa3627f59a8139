//! First lists, repaired lists, and what a further death would do to them.

use super::super::{even_successors, spread, succeed};
use super::*;

fn repair(cluster: &mut Cluster) -> usize {
    let changes = succeed(&cluster.held(), &cluster.candidates, cluster.length);
    let changed = changes.len();
    assert_eq!(cluster.apply(&changes), 0, "a repair moves nothing");
    let again = succeed(&cluster.held(), &cluster.candidates, cluster.length);
    assert_eq!(again, [], "a repaired list needs no repair");
    changed
}

fn even(cluster: &mut Cluster, budget: usize) -> usize {
    for round in 0.. {
        assert!(round <= 2 * cluster.lists.len(), "evening ends");
        let changes = even_successors(&cluster.held(), &cluster.candidates, cluster.length, budget);
        assert!(changes.len() <= budget);
        assert_eq!(cluster.apply(&changes), 0, "evening moves nothing");
        if changes.is_empty() {
            return round;
        }
    }
    unreachable!()
}

#[test]
fn three_nodes_share_six_buckets() {
    let cluster = Cluster::new(&[1, 1, 1], 6, 3);
    let lists: Vec<Vec<u8>> =
        cluster.lists.iter().map(|ranks| ranks.iter().map(|node| node.0).collect()).collect();
    assert_eq!(
        lists,
        [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 2, 1], [1, 0, 2], [2, 1, 0]].map(Vec::from)
    );
}

#[test]
fn a_node_twice_as_strong_owns_twice_as_much_and_inherits_twice_as_much() {
    let mut cluster = Cluster::new(&[2, 1, 1, 1], 250, 3);
    assert_eq!(cluster.counts(), [100, 50, 50, 50]);
    cluster.kill(NodeId(3));
    assert_eq!(cluster.counts(), [125, 63, 62]);
}

#[test]
fn small_groups_do_not_all_round_up_the_same_nodes() {
    let cluster = Cluster::new(&[1; 32], 256, 3);
    for rank in 1..3 {
        let mut named = [0; 32];
        cluster.lists.iter().for_each(|ranks| named[usize::from(ranks[rank].0)] += 1);
        assert!(named.iter().all(|count| (7..=9).contains(count)), "rank {rank}: {named:?}");
    }
}

#[test]
fn what_roundings_owe_a_strong_node_is_made_good() {
    let mut weights = [1; 16];
    weights[0] = 4;
    let cluster = Cluster::new(&weights, 190, 2);
    let named = cluster.lists.iter().filter(|ranks| ranks[1] == NodeId(0)).count();
    assert!((33..=34).contains(&named), "{named} of 150 buckets of others, exact 33.3");
}

#[test]
fn evening_rather_promotes_who_is_named_already() {
    let mut cluster = Cluster::new(&[1; 4], 3, 3);
    cluster.lists =
        [[0, 1, 3], [0, 1, 3], [0, 1, 2]].map(|ranks| ranks.map(NodeId).to_vec()).into();
    even(&mut cluster, usize::MAX);
    assert_eq!(cluster.lists[2], [0, 2, 1].map(NodeId));
}

#[test]
fn witnesses_and_drained_nodes_own_nothing_and_drained_ones_come_last() {
    let mut candidates: Vec<Candidate> = (0..4).map(|node| candidate(node, 1)).collect();
    candidates[1].may_own = false;
    (candidates[2].may_own, candidates[2].may_succeed) = (false, false);
    candidates[3].weight = 0;
    for change in spread(16, &candidates, 4) {
        assert_eq!(change.ranks, [0, 1, 3].map(NodeId));
    }
    candidates[0].may_own = false;
    assert_eq!(spread(16, &candidates, 4), [], "nobody may own");
}

#[test]
fn a_bucket_whose_whole_list_died_goes_to_whoever_owns_least() {
    let mut cluster = Cluster::new(&[1, 1, 1, 1], 16, 1);
    cluster.kill(NodeId(2));
    assert_eq!(cluster.owner(2), None);
    let changes = succeed(&cluster.held(), &cluster.candidates, 1);
    assert_eq!(changes.len(), 4);
    cluster.apply(&changes);
    assert!(cluster.worst_rounding() < 1.0);
}

#[test]
fn a_repair_with_nobody_left_changes_nothing() {
    let mut cluster = Cluster::new(&[1, 1], 8, 2);
    cluster.kill(NodeId(0));
    cluster.kill(NodeId(1));
    assert_eq!(succeed(&cluster.held(), &[], 2), []);
}

#[test]
fn a_drained_successor_gives_its_place_to_a_fit_node() {
    let mut cluster = Cluster::new(&[1, 1, 1, 1], 24, 3);
    cluster.set_may_own(3, false);
    let named =
        |cluster: &Cluster| (0..24).filter(|&b| cluster.lists[b][1..].contains(&NodeId(3))).count();
    assert!(named(&cluster) > 0);
    repair(&mut cluster);
    assert_eq!(named(&cluster), 0, "three fit nodes are enough for lists of three");
    cluster.kill(NodeId(2));
    repair(&mut cluster);
    assert_eq!(named(&cluster), (0..24).filter(|&b| cluster.lists[b][0] != NodeId(3)).count());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn first_lists_are_even(
        weights in weights(),
        buckets in 1u32..3000,
        length in 1usize..6,
        first: prop::sample::Index,
        second: prop::sample::Index,
    ) {
        let mut cluster = Cluster::new(&weights, buckets, length);
        prop_assert!(cluster.worst_rounding() < 1.0);
        let mut die = |index: prop::sample::Index, bound: f64| {
            let node = cluster.candidates[index.index(cluster.candidates.len())].node;
            let uneven = cluster.worst_inheritance(node);
            assert!(length == 1 || uneven < bound, "{uneven} after the death of {node:?}");
            cluster.kill(node);
        };
        die(first, 1.0);
        if weights.len() > 2 && length > 2 {
            die(second, 3.0);
        }
    }

    #[test]
    fn a_further_death_after_a_repair_is_shared_by_all(
        weights in prop::collection::vec(1u32..=4, 3..=10),
        buckets in 64u32..2000,
        length in 2usize..5,
        deaths in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
    ) {
        let mut cluster = Cluster::new(&weights, buckets, length);
        for death in deaths {
            if cluster.candidates.len() < 3 {
                break;
            }
            let node = cluster.candidates[death.index(cluster.candidates.len())].node;
            let named = cluster.lists.iter().filter(|ranks| ranks.contains(&node)).count();
            cluster.kill(node);
            prop_assert_eq!(repair(&mut cluster), named, "only lists that need it");
            // Lists of two are filled at the rank that counts.
            let bound = if length == 2 { 2.0 } else { 4.0 + f64::from(buckets) / 50.0 };
            for next in cluster.candidates.clone() {
                let uneven = cluster.worst_inheritance(next.node);
                prop_assert!(uneven < bound, "{} after {:?}", uneven, next.node);
            }
            even(&mut cluster, usize::MAX);
            for next in cluster.candidates.clone() {
                prop_assert!(cluster.worst_inheritance(next.node) < 1.0);
            }
        }
    }

    #[test]
    fn evening_ends_however_small_the_rounds(
        weights in weights(),
        buckets in 1u32..300,
        length in 2usize..5,
        budget in 1usize..40,
    ) {
        let mut cluster = Cluster::new(&weights, buckets, length);
        let next = weights.len() as u8;
        cluster.candidates.push(candidate(next, 3));
        even(&mut cluster, budget);
        for node in cluster.candidates.clone() {
            prop_assert!(cluster.worst_inheritance(node.node) < 1.0);
        }
    }
}
