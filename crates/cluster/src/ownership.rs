//! What [`crate::membership::Membership`] tells [`crate::replica::Replica`]: who owns which bucket.
//!
//! Messages are made by comparing what follows from the membership now with what was told before, so
//! nothing is queued: however late they are fetched, there is at most one of each kind.

use crate::config::Replicas;
use crate::heartbeat::Incarnation;
use crate::map::{Map, Version};
use crate::node_set::NodeSet;
use std::collections::BTreeMap;
use testudo_packet::bucket::{BucketId, BucketSlot, Epoch, NodeId};

/// A change of ownership, to be handed to the replica in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// This node no longer owns these buckets: others have taken them, or will. Once the kernel's
    /// slots say so, [`crate::membership::Membership::handle_released`] wants to know.
    Release {
        /// All buckets that it owned.
        buckets: Vec<BucketId>,
        /// The life that it begins.
        incarnation: Incarnation,
    },
    /// These nodes keep these buckets' flows from now on, besides whoever owns them. Only where not all
    /// nodes keep all, and before the changes of owners of the same version.
    Keepers {
        /// Each with all its keepers.
        buckets: Vec<(BucketId, NodeSet)>,
    },
    /// This node owns these buckets from now on.
    TakeOver {
        /// Each with its slot: owner, the owner before, loading, the new epoch.
        buckets: Vec<(BucketId, BucketSlot)>,
    },
    /// These buckets are another node's from now on, or this node's under a new epoch.
    OwnerChanged {
        /// Each with its slot.
        buckets: Vec<(BucketId, BucketSlot)>,
    },
    /// This node owns these buckets and is to hand them over, or keeps them after all. When no slot
    /// names it any more and all that it did is known, [`crate::membership::Membership::handle_given_up`] wants to know.
    Move {
        /// Each with where it goes; `None` if it stays.
        buckets: Vec<(BucketId, Option<Move>)>,
    },
    /// This node does not own these buckets any more: tell their next owners all that is left to
    /// tell. When one has confirmed it, [`crate::membership::Membership::handle_delivered`] wants to
    /// know.
    LetGo {
        /// Each with the epoch under which its next owner will own it, as its [`Move`] says.
        buckets: Vec<(BucketId, Epoch)>,
    },
    /// This life of a peer is the one that is heard; another that claims its name is not believed.
    Life {
        /// The peer.
        node: NodeId,
        /// The life.
        life: Incarnation,
    },
    /// All that follows from this version of the map has been told.
    Told {
        /// The version.
        version: Version,
    },
}

/// Where a bucket is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The next owner.
    pub to: NodeId,
    /// Since which version of the map it is to be that.
    pub since: Version,
    /// The epoch under which it will own the bucket. It tells the moves of a bucket apart: when a next
    /// owner dies, another follows by the same version.
    pub epoch: Epoch,
}

/// What a node is to a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Title {
    pub(crate) slot: BucketSlot,
    /// Where it is to go, if it is this node's.
    pub(crate) moving: Option<Move>,
}

impl Title {
    pub(crate) fn of(slot: BucketSlot) -> Self {
        Self { slot, moving: None }
    }
}

/// What was told, and what is still to be.
#[derive(Debug)]
pub(crate) struct Ledger {
    me: NodeId,
    told: Vec<BucketSlot>,
    moving: BTreeMap<BucketId, Move>,
    release: Option<(Vec<BucketId>, Incarnation)>,
    taken: Vec<(BucketId, BucketSlot)>,
    changed: Vec<(BucketId, BucketSlot)>,
    /// What was told before of those that are still to be fetched.
    before: BTreeMap<BucketId, BucketSlot>,
    moved: BTreeMap<BucketId, Option<Move>>,
    let_go: Vec<(BucketId, Epoch)>,
    lives: BTreeMap<NodeId, Incarnation>,
    /// Given up, and not known to have arrived: under which epoch, and which version first said so.
    delivering: BTreeMap<BucketId, (Epoch, Version)>,
    version: Version,
    told_version: Version,
    /// Who keeps each bucket, by which version; empty where all nodes keep all.
    keepers: Vec<NodeSet>,
    kept: BTreeMap<BucketId, NodeSet>,
    kept_by: Version,
}

impl Ledger {
    pub(crate) fn new(me: NodeId, buckets: u32) -> Self {
        Self {
            me,
            told: vec![BucketSlot::VACANT; buckets as usize],
            moving: BTreeMap::new(),
            release: None,
            taken: Vec::new(),
            changed: Vec::new(),
            before: BTreeMap::new(),
            moved: BTreeMap::new(),
            let_go: Vec::new(),
            lives: BTreeMap::new(),
            delivering: BTreeMap::new(),
            version: Version(0),
            told_version: Version(0),
            keepers: Vec::new(),
            kept: BTreeMap::new(),
            kept_by: Version(0),
        }
    }

    /// How many buckets this node owns by what was told.
    pub(crate) fn owned(&self) -> usize {
        self.told.iter().filter(|slot| slot.owner == self.me).count()
    }

    /// The earliest version that this node does not follow yet: `next(bucket, epoch)` is the version
    /// of the list after the one that gave a bucket this epoch, if there is one.
    pub(crate) fn first_unsettled(
        &self,
        next: impl Fn(BucketId, Epoch) -> Option<Version>,
    ) -> Option<Version> {
        let buckets = (0..=u16::MAX).map(BucketId).zip(&self.told);
        let owned = buckets.filter(|(_, slot)| slot.owner == self.me);
        let owned = owned.filter_map(|(bucket, slot)| next(bucket, slot.epoch));
        owned.chain(self.delivering.values().map(|&(_, first)| first)).min()
    }

    /// This life of a peer is heard now.
    pub(crate) fn note_life(&mut self, node: NodeId, life: Incarnation) {
        self.lives.insert(node, life);
    }

    /// A ledger that goes on with what was told before, all of it fetched and nothing on its way.
    pub(crate) fn resumed(me: NodeId, told: Vec<BucketSlot>) -> Self {
        let buckets = told.len() as u32;
        Self { told, ..Self::new(me, buckets) }
    }

    /// What was told of each bucket; `None` if something is on its way.
    pub(crate) fn settled(&self) -> Option<&[BucketSlot]> {
        let rest = self.release.is_none()
            && self.before.is_empty()
            && self.moved.is_empty()
            && self.let_go.is_empty()
            && self.moving.is_empty()
            && self.delivering.is_empty();
        rest.then_some(&self.told)
    }

    /// Gives all buckets of this node up.
    pub(crate) fn release(&mut self, incarnation: Incarnation) {
        self.forget_unfetched();
        let mut buckets = self.release.take().map(|(buckets, _)| buckets).unwrap_or_default();
        for (index, slot) in self.told.iter_mut().enumerate() {
            if slot.owner == self.me {
                *slot = BucketSlot { owner: NodeId::NONE, previous: self.me, ..*slot };
                buckets.push(BucketId(index as u16));
            }
        }
        buckets.sort_unstable();
        buckets.dedup();
        self.let_go.clear();
        self.delivering.clear();
        self.moving.clear();
        self.moved.clear();
        self.release = Some((buckets, incarnation));
    }

    /// The next owner knows all of a bucket that was let go. Says whether that was waited for.
    pub(crate) fn delivered(&mut self, bucket: BucketId, epoch: Epoch) -> bool {
        let waited = self.delivering.get(&bucket).is_some_and(|&(next, _)| next == epoch);
        if waited {
            self.delivering.remove(&bucket);
        }
        waited
    }

    /// The replica has stopped handling a bucket, for a move that was told. Says whether that move
    /// still stands.
    pub(crate) fn given_up(
        &mut self,
        bucket: BucketId,
        epoch: Epoch,
        next: impl Fn(BucketId, Epoch) -> Option<Version>,
    ) -> bool {
        let Some(moving) = self.moving.get(&bucket).filter(|moving| moving.epoch == epoch) else {
            return false;
        };
        let Move { to, since, .. } = *moving;
        let told = &mut self.told[usize::from(bucket.0)];
        let first = next(bucket, told.epoch).unwrap_or(since);
        *told = BucketSlot { owner: to, previous: self.me, epoch, ..*told };
        self.moving.remove(&bucket);
        self.moved.remove(&bucket);
        self.before.remove(&bucket);
        self.let_go.push((bucket, epoch));
        self.delivering.insert(bucket, (epoch, first));
        true
    }

    /// Compares with who keeps the buckets by a map.
    pub(crate) fn update_keepers(&mut self, map: &Map, replicas: Replicas) {
        if !replicas.is_limited()
            || std::mem::replace(&mut self.kept_by, map.version()) == map.version()
        {
            return;
        }
        self.keepers.resize(self.told.len(), NodeSet::default());
        for (bucket, known) in map.buckets().zip(&mut self.keepers) {
            let keepers = map.keepers(bucket, replicas.keepers());
            if std::mem::replace(known, keepers) != keepers {
                self.kept.insert(bucket, keepers);
            }
        }
    }

    /// Compares with what follows from the membership now: `title(bucket, told)` for each bucket.
    pub(crate) fn update(
        &mut self,
        version: Version,
        mut title: impl FnMut(BucketId, BucketSlot) -> Title,
    ) {
        self.version = version;
        self.forget_unfetched();
        for index in 0..self.told.len() {
            let (bucket, told) = (BucketId(index as u16), self.told[index]);
            let Title { slot, moving } = title(bucket, told);
            if self.moving.get(&bucket) != moving.as_ref() {
                self.note_move(bucket, moving);
            }
            if (slot.owner, slot.epoch) == (told.owner, told.epoch) {
                continue;
            }
            if slot.owner != told.owner {
                // Whoever it was let go for is not there to take it.
                self.delivering.remove(&bucket);
            }
            if slot.owner == self.me && told.owner != self.me {
                self.taken.push((bucket, slot));
            } else {
                self.changed.push((bucket, slot));
            }
            self.before.insert(bucket, told);
            self.told[index] = slot;
        }
    }

    fn note_move(&mut self, bucket: BucketId, moving: Option<Move>) {
        if let Some(moving) = moving {
            self.moving.insert(bucket, moving);
        } else {
            self.moving.remove(&bucket);
        }
        self.moved.insert(bucket, moving);
    }

    /// A second change before the first was fetched replaces it: later slots say all.
    fn forget_unfetched(&mut self) {
        self.taken.clear();
        self.changed.clear();
        for (bucket, before) in std::mem::take(&mut self.before) {
            self.told[usize::from(bucket.0)] = before;
        }
    }

    fn fetched(&mut self, buckets: &[(BucketId, BucketSlot)]) {
        for (bucket, _) in buckets {
            self.before.remove(bucket);
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Ownership> {
        if let Some((buckets, incarnation)) = self.release.take() {
            return Some(Ownership::Release { buckets, incarnation });
        }
        if let Some((node, life)) = self.lives.pop_first() {
            return Some(Ownership::Life { node, life });
        }
        if !self.kept.is_empty() {
            let kept = std::mem::take(&mut self.kept);
            return Some(Ownership::Keepers { buckets: kept.into_iter().collect() });
        }
        // Before changes, which say of these buckets that they are another's.
        if !self.let_go.is_empty() {
            return Some(Ownership::LetGo { buckets: std::mem::take(&mut self.let_go) });
        }
        if !self.taken.is_empty() {
            let buckets = std::mem::take(&mut self.taken);
            self.fetched(&buckets);
            return Some(Ownership::TakeOver { buckets });
        }
        if !self.changed.is_empty() {
            let buckets = std::mem::take(&mut self.changed);
            self.fetched(&buckets);
            return Some(Ownership::OwnerChanged { buckets });
        }
        if !self.moved.is_empty() {
            let moved = std::mem::take(&mut self.moved);
            return Some(Ownership::Move { buckets: moved.into_iter().collect() });
        }
        if std::mem::replace(&mut self.told_version, self.version) != self.version {
            return Some(Ownership::Told { version: self.version });
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::{Command, Reason};
    use testudo_packet::bucket::BucketState;

    const ME: NodeId = NodeId(1);

    fn slot(owner: u8, epoch: u32) -> BucketSlot {
        let state = BucketState::Active;
        BucketSlot { owner: NodeId(owner), previous: NodeId::NONE, state, epoch: Epoch(epoch) }
    }

    fn update(ledger: &mut Ledger, slot: impl Fn(BucketId) -> BucketSlot) {
        ledger.update(Version(0), |bucket, _| Title::of(slot(bucket)));
    }

    #[test]
    fn only_differences_are_told() {
        let mut ledger = Ledger::new(ME, 2);
        update(&mut ledger, |bucket| slot(bucket.0 as u8, 5));
        let (first, second) = (BucketId(0), BucketId(1));
        assert_eq!(
            ledger.poll(),
            Some(Ownership::TakeOver { buckets: vec![(second, slot(1, 5))] })
        );
        let changed = vec![(first, slot(0, 5))];
        assert_eq!(ledger.poll(), Some(Ownership::OwnerChanged { buckets: changed }));
        update(&mut ledger, |bucket| slot(bucket.0 as u8, 5));
        assert_eq!(ledger.poll(), None);
        assert_eq!(ledger.owned(), 1);
    }

    #[test]
    fn what_is_given_up_is_not_taken_afterwards() {
        let mut ledger = Ledger::new(ME, 2);
        update(&mut ledger, |bucket| slot(bucket.0 as u8, 5));
        ledger.poll();
        update(&mut ledger, |_| slot(1, 5));
        ledger.release(Incarnation(9));
        ledger.release(Incarnation(10));
        let buckets = vec![BucketId(1)];
        let incarnation = Incarnation(10);
        assert_eq!(ledger.poll(), Some(Ownership::Release { buckets, incarnation }));
        assert_eq!(ledger.poll(), None);
        assert_eq!(ledger.owned(), 0);
    }

    #[test]
    fn a_change_that_was_not_fetched_is_replaced() {
        let mut ledger = Ledger::new(ME, 1);
        update(&mut ledger, |_| slot(1, 5));
        update(&mut ledger, |_| slot(1, 6));
        let buckets = vec![(BucketId(0), slot(1, 6))];
        assert_eq!(ledger.poll(), Some(Ownership::TakeOver { buckets }));
        assert_eq!(ledger.poll(), None);
    }

    #[test]
    fn keepers_are_told_before_owners_and_only_where_they_change() {
        let nodes: Vec<_> = (0..4).map(NodeId).collect();
        let mut map = Map::new(2, 4, [NodeId(0)].into_iter().collect());
        let lives = nodes.iter().map(|&node| (node, Incarnation(7))).collect();
        map.apply(&Command::Admit { basis: Version(0), lives }).unwrap();
        let assign = |map: &mut Map, lists| {
            let (basis, settled, reason) = (map.version(), Version(0), Reason::Balance);
            map.apply(&Command::Assign { basis, settled, lists, reason }).unwrap();
        };
        let [first, second] = [BucketId(0), BucketId(1)];
        assign(&mut map, vec![(first, nodes.clone()), (second, nodes.clone())]);
        let mut ledger = Ledger::new(ME, 2);
        ledger.update_keepers(&map, Replicas::All);
        assert_eq!(ledger.poll(), None);
        update(&mut ledger, |_| slot(1, 5));
        let set = |nodes: &[u8]| nodes.iter().copied().map(NodeId).collect::<NodeSet>();
        ledger.update_keepers(&map, Replicas::Successors(1));
        let buckets = vec![(first, set(&[0, 1])), (second, set(&[0, 1]))];
        assert_eq!(ledger.poll(), Some(Ownership::Keepers { buckets }));
        assert!(matches!(ledger.poll(), Some(Ownership::TakeOver { .. })));
        // The order of the others does not matter; who is invited does.
        assign(&mut map, vec![(first, [1, 0, 3, 2].map(NodeId).to_vec())]);
        let (basis, reason) = (map.version(), Reason::Copies);
        let guests = vec![(second, vec![NodeId(3)])];
        map.apply(&Command::Invite { basis, guests, reason }).unwrap();
        ledger.update_keepers(&map, Replicas::Successors(1));
        let buckets = vec![(second, set(&[0, 1, 3]))];
        assert_eq!(ledger.poll(), Some(Ownership::Keepers { buckets }));
        assign(&mut map, vec![(second, [3, 0, 1].map(NodeId).to_vec())]);
        ledger.update_keepers(&map, Replicas::Successors(1));
        ledger.release(Incarnation(8));
        assert!(matches!(ledger.poll(), Some(Ownership::Release { .. })), "forgets no keepers");
        let buckets = vec![(second, set(&[0, 3]))];
        assert_eq!(ledger.poll(), Some(Ownership::Keepers { buckets }));
    }

    #[test]
    fn a_move_is_told_once_taken_back_and_done_once() {
        let mut ledger = Ledger::new(ME, 1);
        let bucket = BucketId(0);
        update(&mut ledger, |_| slot(1, 5));
        ledger.poll();
        let moving = Move { to: NodeId(2), since: Version(3), epoch: Epoch(9) };
        let to_move = Title { slot: slot(1, 5), moving: Some(moving) };
        ledger.update(Version(3), |_, _| to_move);
        let told = Ownership::Move { buckets: vec![(bucket, Some(moving))] };
        assert_eq!(ledger.poll(), Some(told));
        assert_eq!(ledger.poll(), Some(Ownership::Told { version: Version(3) }));
        ledger.update(Version(3), |_, _| to_move);
        assert_eq!(ledger.poll(), None);
        let next = |_, _| Some(Version(3));
        assert_eq!(ledger.first_unsettled(next), Some(Version(3)));
        update(&mut ledger, |_| slot(1, 5));
        assert_eq!(ledger.poll(), Some(Ownership::Move { buckets: vec![(bucket, None)] }));
        assert!(!ledger.given_up(bucket, Epoch(9), next), "it was taken back");
        ledger.update(Version(4), |_, _| to_move);
        ledger.poll();
        assert!(!ledger.given_up(bucket, Epoch(8), next), "of another move by this version");
        assert!(ledger.given_up(bucket, Epoch(9), next));
        let let_go = Ownership::LetGo { buckets: vec![(bucket, Epoch(9))] };
        assert_eq!(ledger.poll(), Some(let_go));
        assert_eq!(ledger.owned(), 0);
        assert_eq!(ledger.first_unsettled(|_, _| None), Some(Version(3)), "it has not arrived");
        assert!(ledger.delivered(bucket, Epoch(9)) && !ledger.delivered(bucket, Epoch(9)));
        assert_eq!(ledger.first_unsettled(next), None);
    }
}
