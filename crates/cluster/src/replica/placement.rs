//! Which nodes keep which buckets, where not all nodes keep all (`replicas`).
//!
//! ```text
//!   owner                             keeper
//!   ── changes, leaves, checks ──►    has all of the bucket, or is filling up
//!                                     guest: a node that the owner does not know as a keeper
//!   ── the same ──►                     - the next owner of a planned move, until that has ended
//!                                       - whoever asked (Want): it goes by a later map
//! ```
//!
//! Nodes learn of a map at different moments, in either order, and may miss versions in between. So neither
//! side believes that the other knows:
//!
//! * Who stops being a keeper takes the bucket's flows out of its table, tells nobody, and answers checks
//!   with "not the owner", which ends what the owner believed of its copy, and its being a guest.
//! * Who becomes one knows nothing of the bucket, asks its owner for all of it, and asks again with each new
//!   owner and each new stream, until an owner has shown that nothing is missing.
//! * The owner doubts the copy of whoever becomes one, and checks it: what it finds then is catching up.
//! * Both hold if one of them has missed that there was a time without.
//!
//! Invariants: flows of a bucket are in the table only where the bucket is owned, kept, on its way out or in,
//! or about to be dropped. A copy of a bucket counts as whole only by its owner's word. A bucket that is taken
//! over without a whole copy is a loss, counted and told, unless nobody ever owned it.
//!
//! Limits: flows are dropped [`SHARE`] a turn, so many buckets at once hold up nothing.

use std::collections::{BTreeMap, BTreeSet};

use testudo_packet::bucket::{BucketId, BucketSlot, Epoch, NodeId};

use super::{Effect, Replica};
use crate::node_set::NodeSet;

/// How many flows are dropped in one turn at most.
const SHARE: usize = 4096;

/// How far this node's copy of a bucket has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Copied {
    /// It keeps none.
    Not,
    /// It may lack flows.
    Filling,
    /// An owner has shown that nothing is missing, or this node owns it.
    Whole,
}

/// Who keeps which bucket, as this node knows it.
#[derive(Debug)]
pub(super) struct Placement {
    /// Whether not all nodes keep all; nothing else is of interest if they do.
    limited: bool,
    keepers: Vec<NodeSet>,
    /// Who is told of own buckets besides.
    guests: BTreeMap<BucketId, NodeSet>,
    copies: Vec<Copied>,
    /// Buckets of which flows may still be in the table, though they are not kept any more.
    dropping: BTreeSet<BucketId>,
    bare: u64,
}

impl Placement {
    /// Nobody keeps anything yet.
    pub(super) fn new(limited: bool, buckets: u32) -> Self {
        let buckets = if limited { buckets as usize } else { 0 };
        Self {
            limited,
            keepers: vec![NodeSet::default(); buckets],
            guests: BTreeMap::new(),
            copies: vec![Copied::Not; buckets],
            dropping: BTreeSet::new(),
            bare: 0,
        }
    }

    /// Whether a node keeps a bucket, by the map that this node goes by.
    pub(super) fn is_keeper(&self, bucket: BucketId, node: NodeId) -> bool {
        let keepers = self.keepers.get(usize::from(bucket.0));
        !self.limited || keepers.is_some_and(|keepers| keepers.contains(node))
    }

    /// Whether a node is told of a bucket that is this node's.
    pub(super) fn tells(&self, bucket: BucketId, node: NodeId) -> bool {
        self.is_keeper(bucket, node) || self.is_guest(bucket, node)
    }

    fn is_guest(&self, bucket: BucketId, node: NodeId) -> bool {
        self.guests.get(&bucket).is_some_and(|guests| guests.contains(node))
    }

    /// Whether this node has a copy of a bucket, whole or not.
    pub(super) fn has(&self, bucket: BucketId) -> bool {
        !self.limited || self.copy(bucket) != Copied::Not
    }

    fn copy(&self, bucket: BucketId) -> Copied {
        self.copies.get(usize::from(bucket.0)).copied().unwrap_or(Copied::Not)
    }

    fn set_copy(&mut self, bucket: BucketId, copy: Copied) {
        if let Some(own) = self.copies.get_mut(usize::from(bucket.0)) {
            *own = copy;
        }
    }

    /// An owner has shown that this node's copy lacks nothing, or this node is the owner.
    pub(super) fn is_whole(&mut self, bucket: BucketId) {
        if self.copy(bucket) != Copied::Not {
            self.set_copy(bucket, Copied::Whole);
        }
    }

    /// Tells a node of an own bucket, though it may not be one of the keepers. Says whether that is new.
    fn invite(&mut self, bucket: BucketId, node: NodeId) -> bool {
        !self.tells(bucket, node) && self.guests.entry(bucket).or_default().insert(node)
    }

    /// A node is no guest of a bucket any more. Says whether it was one.
    fn dismiss(&mut self, bucket: BucketId, node: NodeId) -> bool {
        let Some(guests) = self.guests.get_mut(&bucket) else { return false };
        let dismissed = guests.remove(node);
        if guests.is_empty() {
            self.guests.remove(&bucket);
        }
        dismissed
    }
}

impl Replica {
    /// How many buckets this node has flows of by right, its own included.
    #[must_use]
    pub fn kept(&self) -> usize {
        let kept = self.placement.copies.iter().filter(|&&copy| copy != Copied::Not).count();
        if self.placement.limited { kept } else { self.slots.len() }
    }

    /// Whether this node has a copy of a bucket by right, whole or not.
    #[must_use]
    pub fn has_copy(&self, bucket: BucketId) -> bool {
        self.placement.has(bucket)
    }

    /// Whether this node has a whole copy of a bucket, by the word of an owner, or owns it.
    #[must_use]
    pub fn has_whole(&self, bucket: BucketId) -> bool {
        let known = self.doubtful.get(usize::from(bucket.0)).is_some_and(|&doubtful| !doubtful);
        if self.placement.limited { self.placement.copy(bucket) == Copied::Whole } else { known }
    }

    /// Whether a node keeps a bucket, by the map that this node goes by, or owns it.
    #[must_use]
    pub fn is_kept_by(&self, bucket: BucketId, node: NodeId) -> bool {
        self.placement.is_keeper(bucket, node) || self.slot(bucket).owner == node
    }

    /// How many buckets this node has taken over without a whole copy, though somebody had owned them.
    #[must_use]
    pub fn taken_bare(&self) -> u64 {
        self.placement.bare
    }

    /// These nodes keep these buckets from now on.
    pub(super) fn set_keepers(&mut self, buckets: Vec<(BucketId, NodeSet)>) {
        for (bucket, keepers) in buckets {
            let Some(known) = self.placement.keepers.get_mut(usize::from(bucket.0)) else {
                continue;
            };
            let before = std::mem::replace(known, keepers);
            let tells = self.tells_of(bucket);
            for (node, peer) in self.cluster.nodes().zip(&mut self.peers) {
                if before.contains(node) == keepers.contains(node) {
                    continue;
                }
                self.placement.dismiss(bucket, node);
                if keepers.contains(node) && tells && peer.connection.is_some() {
                    peer.outgoing.check(bucket);
                } else {
                    peer.outgoing.doubt(bucket);
                }
            }
            if let Some(moving) = self.moves.next_owner(bucket) {
                self.placement.invite(bucket, moving);
            }
            self.review(bucket);
        }
    }

    /// Whether this node tells others of a bucket: it is its own, or was just now.
    fn tells_of(&self, bucket: BucketId) -> bool {
        self.slot(bucket).owner == self.cluster.node() || self.leaving.contains_key(&bucket)
    }

    /// Something has changed of what makes this node keep a bucket.
    pub(super) fn review(&mut self, bucket: BucketId) {
        if !self.placement.limited || usize::from(bucket.0) >= self.slots.len() {
            return;
        }
        let (me, owner) = (self.cluster.node(), self.slot(bucket).owner);
        let tells = self.tells_of(bucket);
        if !tells {
            self.placement.guests.remove(&bucket);
        }
        let keeps = tells || self.placement.is_keeper(bucket, me) || self.moves.is_arriving(bucket);
        match (self.placement.has(bucket), keeps) {
            (false, true) => {
                // What is left of an earlier copy is of no use any more.
                if self.placement.dropping.remove(&bucket) {
                    self.drop_flows(bucket, usize::MAX);
                }
                self.placement.set_copy(bucket, Copied::Filling);
                self.doubt_own(bucket);
                if owner != me
                    && let Some(owner) = self.peers.get_mut(usize::from(owner.0))
                {
                    owner.outgoing.want(bucket);
                }
            }
            (true, false) => {
                self.placement.set_copy(bucket, Copied::Not);
                self.placement.dropping.insert(bucket);
                self.doubt_own(bucket);
            }
            _ => {}
        }
    }

    /// Nothing that an owner has shown of this node's copy counts any more.
    fn doubt_own(&mut self, bucket: BucketId) {
        let index = usize::from(bucket.0);
        self.doubtful[index] = true;
        self.equal_to[index] = NodeId::NONE;
        self.forget_snapshots(bucket, NodeId::NONE);
    }

    /// Takes flows out of the table that are not kept any more, a share of them.
    pub(super) fn drop_some(&mut self) {
        let mut left = SHARE;
        while let Some(&bucket) = self.placement.dropping.first() {
            left -= self.drop_flows(bucket, left);
            if left == 0 {
                return;
            }
            self.placement.dropping.remove(&bucket);
        }
    }

    /// Takes so many flows of a bucket out of the table; says how many there were of them.
    fn drop_flows(&mut self, bucket: BucketId, most: usize) -> usize {
        let records: Vec<_> = self.table.bucket(bucket).take(most).collect();
        for record in &records {
            let removed = self.table.remove(record);
            debug_assert!(removed.is_ok(), "it was just seen");
        }
        records.len()
    }

    /// This node is about to take a bucket, of which this slot will be in force. Says whether that is a
    /// loss.
    pub(super) fn is_bare(&self, bucket: BucketId, slot: BucketSlot) -> bool {
        let heard =
            self.heard.get(usize::from(bucket.0)).is_some_and(|(heard, _)| *heard > Epoch(0));
        let owned = heard || slot.previous != NodeId::NONE || self.slot(bucket).epoch > Epoch(0);
        self.placement.limited && owned && self.placement.copy(bucket) != Copied::Whole
    }

    pub(super) fn note_bare(&mut self, bucket: BucketId, previous: NodeId) {
        self.placement.bare += 1;
        self.effects.push_back(Effect::TakenBare { bucket, previous });
    }

    /// A peer wants all of a bucket that is this node's to tell of.
    pub(super) fn welcome(&mut self, peer: NodeId, bucket: BucketId) {
        if self.placement.invite(bucket, peer) {
            self.peers[usize::from(peer.0)].outgoing.check(bucket);
        }
    }

    /// A bucket is to go to this node, which is told of it until it has it or the move is taken back.
    pub(super) fn invite_next(&mut self, bucket: BucketId, node: NodeId) {
        self.placement.invite(bucket, node);
    }

    /// A bucket does not go to this node after all, or a guest has none of it by its own word.
    pub(super) fn dismiss(&mut self, bucket: BucketId, node: NodeId) {
        if self.placement.dismiss(bucket, node)
            && let Some(peer) = self.peers.get_mut(usize::from(node.0))
        {
            peer.outgoing.doubt(bucket);
        }
    }

    /// The kept buckets that a peer has to show.
    pub(super) fn lacking_of(&self, owner: NodeId) -> Vec<BucketId> {
        if !self.placement.limited {
            return Vec::new();
        }
        let lacks = |bucket: &BucketId| {
            let doubtful = self.doubtful[usize::from(bucket.0)];
            doubtful && self.placement.has(*bucket) && self.slot(*bucket).owner == owner
        };
        let buckets = (0..self.slots.len()).map(|bucket| BucketId(bucket as u16));
        buckets.filter(lacks).collect()
    }
}

#[cfg(test)]
mod tests;
