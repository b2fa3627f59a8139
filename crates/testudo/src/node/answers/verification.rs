//! How entries get to the other nodes, and whether all have the same: what is answered on that.
//!
//! Invariant: *identical* is said only if every living node has compared every bucket that it owns with
//! every other living node, all buckets were among them, and all were equal. Whatever is missing is named.

use testudo_cluster::config::Cluster;
use testudo_cluster::membership::PeerState;
use testudo_cluster::replica::Replication;
use testudo_packet::bucket::NodeId;

use super::{Answerer, NoAnswer, Question, ask, clock, engine, protocol};
use crate::control::protocol::{
    Commits, Copies, Difference, KeptBack, SyncPeer, Syncs, Verification, Verifying,
};
use crate::node::engine::commits::Counts;
use crate::node::engine::verify::{Found, Question as Verify};
use crate::node::question::{Kept, Reach};

impl Answerer {
    pub(super) fn syncs(&self) -> Result<Syncs, NoAnswer> {
        let Reach { peers, kept, commits, replication, not_replicated } =
            self.ask(Question::Peers)?;
        let now = clock::now();
        let peers = peers.iter().map(|(peer, status, delays)| SyncPeer {
            name: self.cluster.member(*peer).to_owned(),
            sync: protocol::Sync::new(status, delays, now),
        });
        let node = self.cluster.member(self.cluster.node()).to_owned();
        let Counts { committed, timed_out, cut_short, refused, p50_us, p99_us } = commits;
        let commits = Commits { committed, timed_out, cut_short, refused, p50_us, p99_us };
        let Replication { waiting, crowded, .. } = replication;
        let replication = KeptBack { not_replicated, waiting, crowded };
        let copies = self.copies(kept);
        Ok(Syncs { node, copies, peers: peers.collect(), commits, replication })
    }

    pub(super) fn copies(&self, kept: Kept) -> Copies {
        let replicas = self.cluster.replicas().to_string();
        Copies { replicas, kept: kept.buckets as u32, taken_without: kept.taken_bare }
    }

    pub(super) fn begin_verifying(&self) -> Result<Verifying, NoAnswer> {
        self.table()?;
        let begin = |answers| engine::Input::Verify(Verify::Begin(answers));
        let number = ask("engine", &self.engine, begin)?.ok_or(NoAnswer::Verifying)?;
        Ok(Verifying { number })
    }

    pub(super) fn verification(&self, number: u64) -> Result<Verification, NoAnswer> {
        let look = |answers| engine::Input::Verify(Verify::Look { number, answers });
        let found = ask("engine", &self.engine, look)?;
        let found = found.ok_or(NoAnswer::NoVerification { seen: number })?;
        let peers = self.view()?.peers;
        let dead = peers.iter().filter(|peer| peer.state == PeerState::Fenced);
        let dead: Vec<_> = dead.map(|peer| peer.node).collect();
        Ok(conclude(&self.cluster, &found, &dead))
    }
}

/// What the findings of all nodes come to.
fn conclude(cluster: &Cluster, found: &Found, dead: &[NodeId]) -> Verification {
    let name = |node: NodeId| cluster.member(node).to_owned();
    let living: Vec<_> = cluster.nodes().filter(|node| !dead.contains(node)).collect();
    let mut result = Verification {
        done: found.done,
        identical: false,
        buckets: 0,
        nodes: living.iter().map(|&node| name(node)).collect(),
        dead: dead.iter().map(|&node| name(node)).collect(),
        differences: Vec::new(),
        unknown: Vec::new(),
    };
    for &owner in &living {
        let verification = match found.nodes.get(&owner) {
            Some(Some(verification)) => verification,
            Some(None) => {
                result.unknown.push(format!("{} is busy with other comparisons", name(owner)));
                continue;
            }
            None => {
                result.unknown.push(format!("{} has not answered", name(owner)));
                continue;
            }
        };
        result.buckets += verification.buckets - verification.moved.min(verification.buckets);
        for &peer in living.iter().filter(|&&peer| peer != owner && verification.buckets > 0) {
            let Some(copies) = verification.peers.iter().find(|copies| copies.peer == peer) else {
                let (owner, peer) = (name(owner), name(peer));
                result.unknown.push(format!("{owner} has no stream with {peer}"));
                continue;
            };
            if copies.open > 0 {
                result.unknown.push(format!(
                    "{} has not said in time how {} buckets of {} compare",
                    name(peer),
                    copies.open,
                    name(owner)
                ));
            }
            if copies.differ > 0 {
                result.differences.push(Difference {
                    owner: name(owner),
                    peer: name(peer),
                    count: copies.differ,
                    buckets: copies.different.iter().map(|bucket| bucket.0).collect(),
                });
            }
        }
    }
    if result.buckets < cluster.buckets() {
        let missing = cluster.buckets() - result.buckets;
        result.unknown.push(format!("{missing} buckets changed hands meanwhile, or are nobody's"));
    }
    result.identical = result.done && result.differences.is_empty() && result.unknown.is_empty();
    result
}

#[cfg(test)]
mod tests {
    use testudo_cluster::config::{Replicas, Settings, Timing};
    use testudo_cluster::node_set::NodeSet;
    use testudo_cluster::replica::{Copies, Verification as Round};
    use testudo_packet::bucket::BucketId;

    use super::*;

    fn cluster() -> Cluster {
        let settings = Settings {
            name: "lab".into(),
            secret: [7; 16],
            members: ["n1", "n2", "n3"].map(String::from).into(),
            weights: vec![100; 3],
            witnesses: NodeSet::default(),
            min_voters: 2,
            node: NodeId(0),
            buckets: 8,
            replicas: Replicas::All,
            timing: Timing::default(),
            max_flows: 1000,
            label: "shared".into(),
        };
        Cluster::new(settings).unwrap()
    }

    /// Three nodes that have all found their buckets equal.
    fn found() -> Found {
        let mut found = Found { done: true, ..Found::default() };
        for (node, buckets) in [(0, 3), (1, 3), (2, 2)] {
            let peers = (0..3).filter(|&peer| peer != node).map(|peer| Copies {
                peer: NodeId(peer),
                equal: buckets,
                differ: 0,
                different: Vec::new(),
                open: 0,
            });
            let round = Round { buckets, moved: 0, peers: peers.collect() };
            found.nodes.insert(NodeId(node), Some(round));
        }
        found
    }

    /// The round of a node, to be changed.
    fn round(found: &mut Found, node: u8) -> &mut Round {
        found.nodes.get_mut(&NodeId(node)).unwrap().as_mut().unwrap()
    }

    #[test]
    fn all_equal_is_identical() {
        let verification = conclude(&cluster(), &found(), &[]);
        assert!(verification.identical, "{verification:?}");
        assert_eq!(verification.buckets, 8);
        let early = Found { done: false, ..found() };
        assert!(!conclude(&cluster(), &early, &[]).identical);
    }

    #[test]
    fn a_dead_node_is_not_waited_for() {
        let mut found = found();
        found.nodes.remove(&NodeId(2));
        round(&mut found, 0).peers.pop();
        round(&mut found, 1).peers.pop();
        round(&mut found, 0).buckets = 5;
        let verification = conclude(&cluster(), &found, &[NodeId(2)]);
        assert!(verification.identical, "{verification:?}");
        assert_eq!((verification.nodes.len(), verification.dead), (2, vec!["n3".to_owned()]));
        let unknown = conclude(&cluster(), &found, &[]).unknown;
        let expected =
            ["n1 has no stream with n3", "n2 has no stream with n3", "n3 has not answered"];
        assert_eq!(unknown, expected);
    }

    #[test]
    fn whatever_is_missing_or_differs_is_named() {
        let unknown = |change: fn(&mut Found)| {
            let mut found = found();
            change(&mut found);
            let verification = conclude(&cluster(), &found, &[]);
            assert!(!verification.identical);
            verification.unknown
        };
        let busy = unknown(|found| {
            found.nodes.insert(NodeId(1), None);
        });
        assert_eq!(busy[0], "n2 is busy with other comparisons");
        let late = unknown(|found| round(found, 0).peers[1].open = 2);
        assert_eq!(late, ["n3 has not said in time how 2 buckets of n1 compare"]);
        let moved = unknown(|found| round(found, 0).moved = 1);
        assert_eq!(moved, ["1 buckets changed hands meanwhile, or are nobody's"]);

        let mut found = found();
        let copies = &mut round(&mut found, 1).peers[0];
        (copies.differ, copies.different) = (1, vec![BucketId(5)]);
        let verification = conclude(&cluster(), &found, &[]);
        assert!(!verification.identical);
        let difference =
            Difference { owner: "n2".into(), peer: "n1".into(), count: 1, buckets: vec![5] };
        assert_eq!(verification.differences, [difference]);
    }
}
