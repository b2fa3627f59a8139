//! Which buckets this node may act on, and whom it takes for the owner of the others.
//!
//! A bucket has a present list and, while nodes have not settled it, older ones. Going through them
//! from the oldest on, the *acting* owner is the first living node of the first list that this node
//! has not yet settled: whoever settles a list never acts on an older one again.
//!
//! A node *acquires* a bucket only by the present list, and only if both hold, while it has a lease:
//!
//! 1. All nodes before it in the list are dead, by votes that it has counted itself under a lease.
//! 2. Of each older list, all nodes before it (all, if it is not in the list) are dead in the same way,
//!    have settled a newer list, or have handed the bucket over to it. Nodes after it act on an older
//!    list only when this node's life is dead, and a life that has a lease is not.
//!
//! A list is acted upon only when a majority of the voters goes by it: nobody who hears of that
//! takes the bucket by an older list, so the epochs under which a bucket is acted upon only rise.
//!
//! Invariant: a node that owns a bucket and is not to own it by the present list goes on owning it
//! until its replica says that it has let go ([`super::Membership::handle_given_up`]). What it has
//! settled does not pass the list that it owns by, as long as it acts on an older list than the
//! present one for whatever reason: others take settled lists for granted, in any order.

use super::Membership;
use crate::heartbeat::Role;
use crate::map::{List, Map, Version};
use crate::node_set::NodeSet;
use crate::ownership::{Ledger, Move, Title};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, NodeId};

/// How a version and a rank make an epoch.
const RANK_BITS: u32 = 8;

/// The epoch of the owner of this rank in a list.
fn epoch(list: &List, rank: usize) -> Epoch {
    Epoch((list.since.0 as u32) << RANK_BITS | rank as u32)
}

/// All that the owners of the buckets follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    version: Version,
    /// Whether the lists that name this node speak of this life of it.
    member: bool,
    /// Whether this node may acquire buckets now.
    acquiring: bool,
    dead: NodeSet,
    presumed: NodeSet,
    /// What each node has settled.
    settled: Vec<Version>,
    handed: usize,
    /// By which version a majority of the voters goes.
    agreed: Version,
}

/// What a node knows when it looks at one bucket.
struct Scene<'a> {
    me: NodeId,
    map: &'a Map,
    basis: &'a Basis,
}

impl Membership {
    /// Compares what is told with what follows now.
    pub(super) fn settle_ownership(&mut self) {
        let basis = self.basis();
        if self.ledger_basis.as_ref() == Some(&basis) {
            return;
        }
        self.ledger.update_keepers(&self.map, self.cluster.replicas());
        let scene = Scene { me: self.cluster.node(), map: &self.map, basis: &basis };
        let handed = &self.handed;
        self.ledger.update(basis.version, |bucket, told| {
            let handed = handed.get(&bucket).copied();
            scene.title(bucket, told, handed)
        });
        self.ledger_basis = Some(basis);
        let settled = settled(&self.ledger, &self.map);
        if std::mem::replace(&mut self.settled, settled) != settled {
            self.hurry();
        }
    }

    /// The latest version that a majority of the voters goes by, or has gone by.
    pub(super) fn note_agreed(&mut self) {
        let mut versions: Vec<_> =
            self.map.voters().iter().map(|node| self.version(node)).collect();
        versions.sort_unstable_by(|a, b| b.cmp(a));
        let agreed = versions.get(self.map.majority() - 1).copied().unwrap_or_default();
        self.agreed = self.agreed.max(agreed).min(self.map.version());
    }

    fn version(&self, node: NodeId) -> Version {
        if node == self.cluster.node() {
            return self.map.version();
        }
        let peer = &self.peers[usize::from(node.0)];
        let said = peer.fresh(self.now, self.cluster.timing().freshness());
        let said = said.map_or(Version(0), |said| said.version);
        peer.progress().map_or(said, |progress| progress.version.max(said))
    }

    fn basis(&self) -> Basis {
        let settled = self.cluster.nodes().map(|node| {
            let progress = self.peers[usize::from(node.0)].progress();
            progress.map_or(Version(0), |progress| progress.settled)
        });
        let behind = self.views().any(|said| said.version > self.map.version());
        let leased = self.role() == Role::Member && self.lease.is_held();
        Basis {
            version: self.map.version(),
            member: self.role() == Role::Member,
            acquiring: leased && !behind,
            dead: self.dead,
            presumed: self.presumed,
            settled: settled.collect(),
            handed: self.handed.len(),
            agreed: self.agreed,
        }
    }
}

/// The latest version such that this node acts on no older list than that version's.
fn settled(ledger: &Ledger, map: &Map) -> Version {
    let first = ledger.first_unsettled(|bucket, epoch| superseded(map, bucket, epoch));
    first.map_or(map.version(), |first| Version(first.0 - 1))
}

/// The version that put another list in the place of the one that an epoch is of, if one did.
pub(super) fn superseded(map: &Map, bucket: BucketId, epoch: Epoch) -> Option<Version> {
    let version = Version(u64::from(epoch.0 >> RANK_BITS));
    let lists = map.older(bucket).map(|(list, _)| list).chain(map.list(bucket));
    lists.map(|list| list.since).find(|&since| since > version)
}

impl Scene<'_> {
    /// What this node is to a bucket of which it was told `told`.
    fn title(
        &self,
        bucket: BucketId,
        told: BucketSlot,
        handed: Option<(NodeId, Version)>,
    ) -> Title {
        let Some(list) = self.map.list(bucket) else { return Title::of(told) };
        let owning = told.owner == self.me;
        let first = self.first(list, self.basis.presumed);
        let next = first.map(|rank| (list.ranks[rank], epoch(list, rank)));
        if list.since > self.basis.agreed {
            return if owning { Title::of(told) } else { self.acting(bucket, told) };
        }
        match next {
            Some((node, epoch)) if node == self.me => {
                let dead = self.first(list, self.basis.dead) == first;
                if self.basis.acquiring && dead && self.is_free(bucket, handed) {
                    return Title::of(slot(self.me, told, epoch, BucketState::Loading));
                }
                if owning { Title::of(told) } else { self.acting(bucket, told) }
            }
            // It is this node's until it has let go.
            Some((node, epoch)) if owning => {
                Title { slot: told, moving: Some(Move { to: node, since: list.since, epoch }) }
            }
            _ if owning => Title::of(told),
            _ => self.acting(bucket, told),
        }
    }

    /// Whom this node takes for the owner of a bucket that it does not own.
    fn acting(&self, bucket: BucketId, told: BucketSlot) -> Title {
        let older = self.map.older(bucket);
        for (list, next) in older {
            let Some(rank) = self.first(list, self.basis.presumed) else { continue };
            let node = list.ranks[rank];
            if node != self.me && self.settled(node) < next {
                return Title::of(slot(node, told, epoch(list, rank), BucketState::Active));
            }
        }
        let list = self.map.list(bucket);
        let first = list.and_then(|list| Some((list, self.first(list, self.basis.presumed)?)));
        match first {
            Some((list, rank)) if list.ranks[rank] != self.me => {
                Title::of(slot(list.ranks[rank], told, epoch(list, rank), BucketState::Active))
            }
            // It will be this node's when nobody else can act on it.
            Some(_) => Title::of(told),
            // All that could own it are dead: nobody has more of it than this node.
            None if told.owner != NodeId::NONE => {
                let (previous, owner) = (told.owner, NodeId::NONE);
                Title::of(BucketSlot { owner, previous, ..told })
            }
            None => Title::of(told),
        }
    }

    /// The first node of a list that is not dead.
    fn first(&self, list: &List, dead: NodeSet) -> Option<usize> {
        list.ranks.iter().position(|&node| !self.is_dead(node, list.since, dead))
    }

    /// Whether the life that a list speaks of is dead.
    fn is_dead(&self, node: NodeId, since: Version, dead: NodeSet) -> bool {
        let before = node == self.me && !self.basis.member;
        before || !self.map.stands_in(node, since) || dead.contains(node)
    }

    fn settled(&self, node: NodeId) -> Version {
        self.basis.settled.get(usize::from(node.0)).copied().unwrap_or(Version(0))
    }

    /// Whether nobody can act on an older list of a bucket while this node lives.
    fn is_free(&self, bucket: BucketId, handed: Option<(NodeId, Version)>) -> bool {
        self.map.older(bucket).all(|(list, next)| {
            let own = list.rank(self.me).filter(|_| self.map.stands_in(self.me, list.since));
            let before = &list.ranks[..own.unwrap_or(list.ranks.len())];
            before.iter().filter(|&&node| node != self.me).all(|&node| {
                self.is_dead(node, list.since, self.basis.dead)
                    || self.settled(node) >= next
                    || handed.is_some_and(|(from, since)| from == node && since >= next)
            })
        })
    }
}

/// The slot of a bucket that has an owner, after what was told of it before.
fn slot(owner: NodeId, told: BucketSlot, epoch: Epoch, state: BucketState) -> BucketSlot {
    let previous = if told.owner == owner { told.previous } else { told.owner };
    BucketSlot { owner, previous, state, epoch }
}
