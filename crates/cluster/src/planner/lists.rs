//! The map and the standings as the planning functions take them.

use testudo_packet::bucket::NodeId;

use crate::config::Cluster;
use crate::map::Map;
use crate::membership::Standing;
use crate::plan::{Candidate, Held};

fn standing(standings: &[Standing], node: NodeId) -> Option<&Standing> {
    standings.get(usize::from(node.0)).filter(|standing| standing.node == node)
}

/// Who may own buckets and who may succeed to them.
#[must_use]
pub fn candidates(cluster: &Cluster, map: &Map, standings: &[Standing]) -> Vec<Candidate> {
    // Before the first lists there is nothing to be complete with.
    let formed = map.is_formed();
    // Where not all nodes keep all, who is given what waits for copies of that alone ([`super::placing`]).
    let limited = cluster.replicas().is_limited();
    let able = cluster.nodes().filter(|&node| !cluster.is_witness(node));
    let mut candidates: Vec<_> = able
        .filter_map(|node| {
            let standing = standing(standings, node)?;
            let admission = map.admission(node)?;
            let there = standing.life == Some(admission.life) && !standing.gone;
            let complete = there && (standing.synced || !formed || limited);
            Some(Candidate {
                node,
                weight: cluster.weight(node),
                may_own: complete && standing.fit,
                // Who is listed already stays so while it lives, also while it catches up.
                may_succeed: complete || !standing.gone && is_listed(map, node),
            })
        })
        .filter(|candidate| candidate.may_succeed)
        .collect();
    let is_drained = |candidate: &Candidate| map.drained().contains(candidate.node);
    // A drain leaves buckets where they are if nobody else may own them, so it also lets a cluster form.
    if formed || candidates.iter().any(|candidate| candidate.may_own && !is_drained(candidate)) {
        for candidate in &mut candidates {
            candidate.may_own &= !is_drained(candidate);
        }
    }
    candidates
}

/// Whether a node is the first of a list.
pub(super) fn owns(map: &Map, node: NodeId) -> bool {
    map.buckets()
        .filter_map(|bucket| map.list(bucket))
        .any(|list| list.rank(node) == Some(0) && map.stands_in(node, list.since))
}

fn is_listed(map: &Map, node: NodeId) -> bool {
    map.buckets()
        .filter_map(|bucket| map.list(bucket))
        .any(|list| list.rank(node).is_some() && map.stands_in(node, list.since))
}

/// The lists as they are, without nodes that they name by an earlier life than they have now.
#[derive(Clone, Debug)]
pub struct Lists(Vec<(Vec<NodeId>, Option<NodeId>)>);

impl Lists {
    /// Reads them out of the map, each with the node that acts on it.
    #[must_use]
    pub fn new(map: &Map, standings: &[Standing]) -> Self {
        let lists = map.buckets().filter_map(|bucket| map.list(bucket)).map(|list| {
            let known = |node: &NodeId| map.stands_in(*node, list.since);
            let ranks: Vec<_> = list.ranks.iter().copied().filter(known).collect();
            let alive = |&&node: &&NodeId| standing(standings, node).is_some_and(|s| !s.gone);
            let owner = ranks.iter().find(alive).copied();
            (ranks, owner)
        });
        Self(lists.collect())
    }

    /// As the planning functions take them.
    #[must_use]
    pub fn held(&self) -> Vec<Held<'_>> {
        self.0.iter().map(|(ranks, owner)| Held { ranks, owner: *owner }).collect()
    }
}
