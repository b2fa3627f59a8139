//! Buckets that move because nodes join, leave and come back.

use super::super::{
    Capacity, DrainVerdict, Settled, drain_report, even_successors, rebalance, succeed,
};
use super::*;

/// Runs rounds until nothing is left to move; returns all moves.
fn settle(cluster: &mut Cluster, max_moves: usize) -> usize {
    let mut total = 0;
    for round in 0.. {
        assert!(round <= cluster.lists.len(), "rounds end");
        let changes = rebalance(&cluster.held(), &cluster.candidates, cluster.length, max_moves);
        assert!(changes.len() <= max_moves);
        if changes.is_empty() {
            break;
        }
        let moves = cluster.apply(&changes);
        assert_eq!(moves, changes.len(), "only lists of buckets that move are changed");
        total += moves;
    }
    total
}

#[test]
fn a_fourth_node_takes_a_quarter_and_is_succeeded_by_those_it_took_from() {
    let mut cluster = Cluster::new(&[1, 1, 1], 256, 3);
    cluster.candidates.push(candidate(3, 1));
    let before: Vec<_> = (0..256).map(|b| cluster.owner(b).unwrap()).collect();
    assert_eq!(settle(&mut cluster, 10), 64);
    assert_eq!(cluster.counts(), [64; 4]);
    for (bucket, old) in before.iter().enumerate() {
        if cluster.owner(bucket) == Some(NodeId(3)) {
            assert_eq!(cluster.lists[bucket][1], *old);
        }
    }
    let changes = even_successors(&cluster.held(), &cluster.candidates, 3, usize::MAX);
    cluster.apply(&changes);
    for node in 0..4 {
        assert!(cluster.worst_inheritance(NodeId(node)) < 1.0);
    }
}

#[test]
fn a_drained_node_is_left_last_and_gets_its_share_back() {
    let mut cluster = Cluster::new(&[1; 3], 99, 3);
    cluster.set_may_own(1, false);
    assert_eq!(settle(&mut cluster, usize::MAX), 33);
    assert_eq!(cluster.counts(), [50, 0, 49]);
    let moved = cluster.lists.iter().filter(|ranks| ranks[2] == NodeId(1)).count();
    assert!(moved >= 33, "the drained node stays the last resort of what it had");
    cluster.set_may_own(1, true);
    assert_eq!(settle(&mut cluster, 5), 33);
    assert_eq!(cluster.counts(), [33; 3]);
}

#[test]
fn a_bucket_rather_goes_to_a_successor() {
    let mut cluster = Cluster::new(&[1; 6], 300, 2);
    let owned: Vec<usize> = (0..300).filter(|&b| cluster.lists[b][0] == NodeId(0)).collect();
    let reversed: Vec<_> = owned.iter().rev().map(|&b| cluster.lists[b].clone()).collect();
    owned.into_iter().zip(reversed).for_each(|(b, ranks)| cluster.lists[b] = ranks);
    let before = cluster.lists.clone();
    cluster.set_may_own(0, false);
    assert_eq!(settle(&mut cluster, usize::MAX), 50);
    for (old, new) in before.iter().zip(&cluster.lists).filter(|(old, new)| old[0] != new[0]) {
        assert_eq!(old[1], new[0]);
    }
}

#[test]
fn a_share_rounded_the_other_way_is_left_alone() {
    let mut cluster = Cluster::new(&[11, 19], 3, 2);
    assert_eq!(cluster.counts(), [1, 2]);
    cluster.lists = [[0, 1], [0, 1], [1, 0]].map(|ranks| ranks.map(NodeId).to_vec()).into();
    assert_eq!(rebalance(&cluster.held(), &cluster.candidates, 2, 100), []);
}

#[test]
fn a_drain_goes_before_a_join_and_the_old_owner_before_other_last_resorts() {
    let mut cluster = Cluster::new(&[1; 3], 12, 3);
    cluster.candidates.push(candidate(3, 4));
    cluster.set_may_own(1, false);
    let changes = rebalance(&cluster.held(), &cluster.candidates, 3, 1);
    assert_eq!(cluster.owner(usize::from(changes[0].bucket.0)), Some(NodeId(1)));
    cluster.candidates.pop();
    cluster.set_may_own(0, false);
    settle(&mut cluster, usize::MAX);
    assert_eq!(cluster.lists[0], [2, 0, 1].map(NodeId));
    assert_eq!(cluster.lists[1], [2, 1, 0].map(NodeId));
}

#[test]
fn with_nobody_to_own_nothing_moves() {
    let mut cluster = Cluster::new(&[1, 1], 16, 2);
    cluster.set_may_own(0, false);
    cluster.set_may_own(1, false);
    assert_eq!(rebalance(&cluster.held(), &cluster.candidates, 2, 100), []);
}

#[test]
fn counting_is_due_once_for_each_change_of_the_candidates() {
    let mut cluster = Cluster::new(&[1; 3], 96, 3);
    let mut settled = Settled::assume(&cluster.held(), &cluster.candidates);
    assert!(!settled.is_due(&cluster.held(), &cluster.candidates));
    cluster.candidates.push(candidate(3, 1));
    assert!(settled.is_due(&cluster.held(), &cluster.candidates), "a join");
    settled.reached(&cluster.candidates);
    assert!(!settled.is_due(&cluster.held(), &cluster.candidates), "even if nothing has moved");
    cluster.candidates[0].weight = 2;
    assert!(settled.is_due(&cluster.held(), &cluster.candidates), "another weight");
    settled.reached(&cluster.candidates);
    cluster.set_may_own(1, false);
    assert!(settled.is_due(&cluster.held(), &cluster.candidates), "a drain");
    settle(&mut cluster, usize::MAX);
    assert!(!settled.is_due(&cluster.held(), &cluster.candidates), "the drain is over");
    cluster.set_may_own(1, true);
    assert!(settled.is_due(&cluster.held(), &cluster.candidates), "an undrain");
    settle(&mut cluster, usize::MAX);
    settled.reached(&cluster.candidates);
    cluster.kill(NodeId(2));
    assert!(!settled.is_due(&cluster.held(), &cluster.candidates), "a death is no join");
    cluster.dead.clear();
    cluster.candidates.push(candidate(2, 1));
    assert!(settled.is_due(&cluster.held(), &cluster.candidates), "a return is");
    assert!(!Settled::default().is_due(&[], &[]), "nobody there");
}

#[test]
fn a_drain_is_told_before_it_happens() {
    let mut cluster = Cluster::new(&[1; 4], 64, 3);
    let loads = vec![10.0; 64];
    let report = |cluster: &Cluster, node, per_weight| {
        let capacity = Capacity { per_weight, percent: 80.0 };
        drain_report(&cluster.held(), &cluster.candidates, 3, &loads, NodeId(node), &capacity)
    };
    let told = report(&cluster, 2, Some(300.0));
    assert_eq!(told.verdict, DrainVerdict::Carries);
    assert_eq!(told.moves.len(), 16);
    assert!(told.moves.iter().all(|m| m.from == NodeId(2)));
    let share = told.shares[2];
    assert_eq!((share.buckets, share.load), ((16, 0), (160.0, 0.0)));
    assert_eq!(told.shares.iter().map(|s| s.buckets.1).sum::<usize>(), 64);
    assert_eq!(told.shares[0].limit, Some(240.0));
    let overloads = |verdict| matches!(verdict, DrainVerdict::Overloads(nodes) if nodes.len() == 3);
    assert!(overloads(report(&cluster, 2, Some(250.0)).verdict));
    assert_eq!(report(&cluster, 2, None).verdict, DrainVerdict::CapacityUnknown);
    assert_eq!(report(&cluster, 2, Some(f64::NAN)).verdict, DrainVerdict::CapacityUnknown);
    assert_eq!(report(&cluster, 9, Some(300.0)).verdict, DrainVerdict::NotThere);

    cluster.set_may_own(2, false);
    settle(&mut cluster, usize::MAX);
    for planned in &told.moves {
        assert_eq!(cluster.owner(usize::from(planned.bucket.0)), Some(planned.to), "as told");
    }
    let again = report(&cluster, 2, Some(300.0));
    assert_eq!((again.moves.len(), again.verdict), (0, DrainVerdict::Carries));
    for node in [0, 1, 3] {
        cluster.set_may_own(node, node == 3);
    }
    assert_eq!(report(&cluster, 3, Some(300.0)).verdict, DrainVerdict::NobodyElse);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_join_moves_no_more_than_its_share(
        weights in equal_weights(),
        buckets in 1u32..2000,
        length in 1usize..5,
        max_moves in 1usize..200,
    ) {
        let mut cluster = Cluster::new(&weights, buckets, length);
        prop_assert_eq!(settle(&mut cluster, max_moves), 0, "first lists are balanced");
        let nodes = weights.len() + 1;
        cluster.candidates.push(candidate(weights.len() as u8, 1));
        let moves = settle(&mut cluster, max_moves);
        prop_assert!(moves <= (buckets as usize).div_ceil(nodes), "{} moves", moves);
        prop_assert_eq!(moves, *cluster.counts().last().unwrap(), "all of them to the new node");
        prop_assert!(cluster.worst_rounding() < 1.0);
    }

    #[test]
    fn a_drain_moves_only_what_the_node_has(
        weights in weights(),
        buckets in 1u32..2000,
        length in 1usize..5,
        node: prop::sample::Index,
        max_moves in 1usize..200,
    ) {
        let mut cluster = Cluster::new(&weights, buckets, length);
        let node = node.index(weights.len()) as u8;
        let owned = cluster.counts()[usize::from(node)];
        cluster.set_may_own(node, false);
        let moves = settle(&mut cluster, max_moves);
        let equal = weights.iter().all(|weight| *weight == weights[0]);
        let others = if equal { 0 } else { weights.len() - 1 };
        prop_assert!((owned..=owned + others).contains(&moves), "{} of {}", moves, owned);
        prop_assert_eq!(cluster.counts()[usize::from(node)], 0);
        prop_assert!(cluster.worst_rounding() < 1.0);
        cluster.set_may_own(node, true);
        prop_assert!(settle(&mut cluster, max_moves) <= owned + 1 + others);
    }

    #[test]
    fn whatever_happens_rounds_end_in_balance(
        weights in weights(),
        buckets in 1u32..600,
        length in 1usize..5,
        max_moves in 1usize..50,
        events in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 1u32..8), 1..12),
    ) {
        let mut cluster = Cluster::new(&weights, buckets, length);
        let mut next = weights.len() as u8;
        for (kind, which, weight) in events {
            let which = cluster.candidates[which.index(cluster.candidates.len())];
            match kind {
                0 if cluster.candidates.len() > 1 => cluster.kill(which.node),
                1 => cluster.set_may_own(which.node.0, !which.may_own),
                2 => {
                    let same = |c: &&mut Candidate| c.node == which.node;
                    cluster.candidates.iter_mut().find(same).unwrap().weight = weight;
                }
                _ => {
                    cluster.candidates.push(candidate(next, weight));
                    next += 1;
                }
            }
            let repairs = succeed(&cluster.held(), &cluster.candidates, length);
            cluster.apply(&repairs);
            settle(&mut cluster, max_moves);
            if cluster.candidates.iter().any(|c| c.may_own) {
                prop_assert!(cluster.worst_rounding() < 1.0);
            }
            let repairs = succeed(&cluster.held(), &cluster.candidates, length);
            prop_assert_eq!(cluster.apply(&repairs), 0);
            let evened =
                even_successors(&cluster.held(), &cluster.candidates, length, usize::MAX);
            prop_assert_eq!(cluster.apply(&evened), 0);
            prop_assert_eq!(settle(&mut cluster, max_moves), 0, "balance lasts");
        }
    }
}
