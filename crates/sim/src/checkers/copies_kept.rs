//! Where not all nodes keep all: a flow that a keeper has acknowledged is lost only when the owner and all who
//! have a whole copy are dead.
//!
//! To the letter, with *dead* as whoever takes over sees it (fenced by a majority, or of an earlier life than
//! the admitted one):
//!
//! * **No bucket is taken over without a whole copy** while another node has one, is not dead, had it when the
//!   bucket's list was made, and is spoken of by the list by which the bucket was taken before. A node that
//!   has begun anew since is not, whatever it may remember: when all nodes of a list have, nobody can tell
//!   whose memory is worth something. And a list that names several who fill up (the first of all, or one after deaths) can't know
//!   who will be done first: until it is made anew, the first of them takes over.
//! * **No copy is dropped before another can take its place**: who drops a bucket, and is not dead itself, leaves
//!   each flow that it has acknowledged with another keeper that is not dead and not the owner, if there is
//!   such a keeper; and from then on that one has to have it ([`super::acknowledged`]). A flow of which word is still under way
//!   from the owner to that keeper is the owner's alone for so long, as if it had just begun.
//! * **Taking a bucket loses nothing of a whole copy**, also if that was about to be dropped: whoever has just given a
//!   bucket away may be the one that gets it.

use std::collections::BTreeMap;

use testudo_cluster::map::{Map, Version};
use testudo_cluster::membership::Membership;
use testudo_cluster::node_set::NodeSet;
use testudo_cluster::replica::Replica;
use testudo_packet::bucket::{BucketId, Epoch, NodeId};

use crate::world::World;

/// Who had which buckets when.
#[derive(Debug, Default)]
pub struct Copies {
    /// By node and bucket, when that was last looked at.
    had: Vec<Vec<bool>>,
    /// The latest version of the map that a node goes by.
    latest: Version,
    /// Who had a whole copy when a bucket got a list, by bucket and version.
    whole: BTreeMap<(BucketId, Version), NodeSet>,
    /// By which lists each bucket was taken the time before, and last.
    taken: BTreeMap<BucketId, (Version, Version)>,
}

/// What a replica has of a bucket: how many flows, and what they sum up to.
type Sum = (u32, u64);

fn sum(replica: &Replica, bucket: BucketId) -> Sum {
    (replica.table().count(bucket), replica.table().bucket_digest(bucket))
}

/// What a replica has of these buckets, as far as its copies are whole.
pub(crate) fn whole_copies(
    replica: &Replica,
    buckets: impl Iterator<Item = BucketId>,
) -> Vec<(BucketId, Sum)> {
    let whole = buckets.filter(|&bucket| replica.has_whole(bucket));
    whole.map(|bucket| (bucket, sum(replica, bucket))).collect()
}

impl World {
    /// A node has just taken buckets, of which it had these whole copies.
    pub(crate) fn note_kept(&mut self, node: usize, before: &[(BucketId, Sum)]) {
        let Some(daemon) = &self.machines[node].daemon else { return };
        let has = |bucket| sum(&daemon.replica, bucket);
        let lost = before.iter().find(|(bucket, before)| has(*bucket) != *before);
        if let Some(&(bucket, (flows, _))) = lost {
            let left = has(bucket).0;
            self.fail(|| {
                format!(
                    "node {node} takes bucket {bucket} and has {left} of its {flows} flows left"
                )
            });
        }
    }

    /// A node has taken a bucket without a whole copy.
    pub(crate) fn note_bare(&mut self, node: usize, bucket: BucketId) {
        self.tally.count("buckets taken over without a copy");
        let daemon = self.machines[node].daemon.as_ref();
        let list = daemon.and_then(|daemon| daemon.membership.map().list(bucket)).map(|l| l.since);
        let had = list.and_then(|list| self.copies.whole.get(&(bucket, list)).copied());
        let had = had.unwrap_or_default();
        let whole = (0..self.machines.len()).filter(|&other| other != node).find(|&other| {
            let daemon = self.machines[other].daemon.as_ref();
            let spoken_of = self.is_spoken_of(node, bucket, other);
            let lives =
                self.lives_for(node, other) && spoken_of && had.contains(NodeId(other as u8));
            lives && daemon.is_some_and(|d| d.replica.has_whole(bucket))
        });
        if let Some(other) = whole {
            self.fail(|| {
                format!(
                    "node {node} takes bucket {bucket} without a copy, and node {other} has one"
                )
            });
        }
    }

    /// A node has a map: who has whole copies of the buckets that it has new lists for?
    pub(crate) fn note_lists(&mut self, map: &Map) {
        if map.version() <= self.copies.latest || !self.options.replicas.is_limited() {
            return;
        }
        let before = std::mem::replace(&mut self.copies.latest, map.version());
        for bucket in map.buckets() {
            let Some(list) = map.list(bucket).filter(|list| list.since > before) else { continue };
            let whole = self.machines.iter().zip((0..).map(NodeId)).filter(|(machine, _)| {
                machine.daemon.as_ref().is_some_and(|d| d.replica.has_whole(bucket))
            });
            let whole = whole.map(|(_, node)| node).collect();
            self.copies.whole.insert((bucket, list.since), whole);
        }
    }

    /// A node has taken a bucket, by the list of which its epoch tells.
    pub(crate) fn note_taken_by(&mut self, bucket: BucketId, epoch: Epoch) {
        let by = Version(u64::from(epoch.0 >> 8));
        let (before, last) = self.copies.taken.entry(bucket).or_default();
        *before = std::mem::replace(last, by);
    }

    /// Whether the list by which a bucket was taken the time before speaks of this life of a node.
    fn is_spoken_of(&self, node: usize, bucket: BucketId, other: usize) -> bool {
        let daemon = self.machines[node].daemon.as_ref();
        let before = self.copies.taken.get(&bucket).map_or(Version(0), |(before, _)| *before);
        daemon.is_some_and(|d| d.membership.map().stands_in(NodeId(other as u8), before))
    }

    /// Whether a node is not dead, as another sees it.
    pub(crate) fn lives_for(&self, node: usize, other: usize) -> bool {
        let daemon = |node: usize| self.machines[node].daemon.as_ref();
        let (Some(seer), Some(seen)) = (daemon(node), daemon(other)) else { return false };
        let known: &Membership = &seer.membership;
        let id = NodeId(other as u8);
        let admitted = known.map().admission(id).map(|admission| admission.life);
        let gone = known.standings()[other].gone;
        !gone && admitted == Some(seen.membership.incarnation())
    }

    /// Whether somebody knows that a majority has fenced this life of a node.
    pub(crate) fn is_fenced(&self, node: usize) -> bool {
        let Some(seen) = &self.machines[node].daemon else { return true };
        let life = Some(seen.membership.incarnation());
        self.machines.iter().filter_map(|machine| machine.daemon.as_ref()).any(|seer| {
            let admission = seer.membership.map().admission(NodeId(node as u8));
            let admitted = admission.map(|admission| admission.life) == life;
            admitted && seer.membership.standings()[node].gone
        })
    }

    /// Looks at what a node has ceased to keep.
    pub(crate) fn note_dropped(&mut self, node: usize) {
        if !self.options.replicas.is_limited() {
            return;
        }
        let buckets = self.options.buckets as usize;
        self.copies.had.resize(self.machines.len(), vec![false; buckets]);
        for bucket in 0..buckets {
            let daemon = self.machines[node].daemon.as_ref();
            let has = daemon.is_some_and(|d| d.replica.has_copy(BucketId(bucket as u16)));
            if std::mem::replace(&mut self.copies.had[node][bucket], has)
                && !has
                && daemon.is_some()
            {
                self.tally.count("copies dropped");
                self.pass_on(node, BucketId(bucket as u16));
            }
        }
    }

    /// Who may have to have the flows of a bucket that a node has dropped: keepers by its map that live,
    /// but the owner.
    pub(crate) fn heirs(&self, node: usize, bucket: BucketId) -> Vec<usize> {
        let Some(daemon) = &self.machines[node].daemon else { return Vec::new() };
        let keepers = daemon.membership.map().keepers(bucket, self.options.replicas.keepers());
        let owner = self.handler(usize::from(bucket.0));
        let heirs = keepers.iter().map(|keeper| usize::from(keeper.0));
        heirs.filter(|&heir| Some(heir) != owner && self.lives_for(node, heir)).collect()
    }

    /// Whether the owner of a bucket has something to tell a node.
    pub(crate) fn is_under_way(&self, bucket: BucketId, to: usize) -> bool {
        let owner = self.handler(usize::from(bucket.0));
        let daemon = owner.and_then(|owner| self.machines[owner].daemon.as_ref());
        daemon.is_none_or(|daemon| {
            let peer = daemon.replica.peer(NodeId(to as u8));
            !peer.connected || peer.pending > 0
        })
    }
}
