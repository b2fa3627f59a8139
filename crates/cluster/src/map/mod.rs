//! The bucket map: who is to own which bucket, who comes after, and who has a say, as all nodes have
//! agreed.
//!
//! A map follows from the configuration (version 0) and from an agreed sequence of [`Command`]s; all
//! nodes apply the same commands in the same order, so a version means the same map everywhere. What
//! the map says is a *plan*: who may act on it, and when, is decided by
//! [`crate::membership::Membership`], which knows who is dead and who has settled.
//!
//! # Invariants
//!
//! * A version only rises, by one for each command that changes something. A command that does not
//!   fit the map any more changes nothing.
//! * A list speaks of the lives that its nodes had when it was made. A node that was admitted since
//!   is a stranger to it: [`Map::stands_in`]. So an admission alone moves nothing.
//! * [`List::since`] is the version at which a bucket got its list. Epochs are made of it, so they
//!   rise with it.
//! * A list that somebody may still act on stays in [`Map::older`] until a command proves that
//!   everyone has settled a newer one.
//! * Voters change one at a time, and only when every living member goes by the change before
//!   ([`crate::membership`] says why that is enough).
//! * Every change has a reason and stays in the history, which is bounded.

mod command;
mod history;
mod invited;
mod snapshot;

use std::sync::Arc;

use testudo_packet::bucket::{BucketId, NodeId};

use crate::heartbeat::Incarnation;
use crate::node_set::NodeSet;

pub use command::{Command, CommandError, MAX_COMMAND, Reason};
pub use history::{Change, HISTORY};
pub use invited::Invited;
pub use snapshot::SnapshotError;

/// Counts the changes of the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(pub u64);

/// The last version: epochs have 24 bits for it. A map that has come so far stays as it is.
pub const MAX_VERSION: Version = Version((1 << 24) - 1);

/// A place that was given to a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The life.
    pub life: Incarnation,
    /// Since which version.
    pub since: Version,
}

/// The ranked nodes of a bucket: first the one that is to own it, then the successors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// The nodes; each at most once.
    pub ranks: Arc<[NodeId]>,
    /// The version that made it.
    pub since: Version,
}

impl List {
    /// Where a node stands in the list.
    #[must_use]
    pub fn rank(&self, node: NodeId) -> Option<usize> {
        self.ranks.iter().position(|&other| other == node)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Bucket {
    list: List,
    /// Lists that it had before and that somebody may still act on, oldest first.
    older: Vec<List>,
    /// Who keeps it besides, until its next list.
    invited: Option<Invited>,
}

/// The most lists that a bucket may have had before its present one while nobody has settled.
const MAX_OLDER: usize = 8;

/// The bucket map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    version: Version,
    buckets: Vec<Bucket>,
    admissions: Vec<Option<Admission>>,
    voters: NodeSet,
    voters_since: Version,
    drained: NodeSet,
    history: history::History,
}

/// Why a command has changed nothing. The map is as it was; nobody is at fault: the map has moved on
/// since the command was proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Outdated {
    /// A bucket's list was changed meanwhile.
    #[error("bucket {bucket} was changed in version {}, after version {} that the plan is for", since.0, basis.0)]
    Bucket {
        /// The bucket.
        bucket: BucketId,
        /// When it last changed.
        since: Version,
        /// What the plan was made for.
        basis: Version,
    },
    /// A bucket has had too many lists that nobody has settled.
    #[error("bucket {bucket} has {MAX_OLDER} lists that not everyone has settled; expected fewer")]
    Unsettled {
        /// The bucket.
        bucket: BucketId,
    },
    /// A bucket would have nobody.
    #[error("bucket {bucket} would be nobody's; expected a list of at least one node")]
    Hole {
        /// The bucket.
        bucket: BucketId,
    },
    /// A node got a new life after the plan was made, or has none yet.
    #[error("node {} was admitted in version {since:?}, the plan is for version {}", node.0, basis.0)]
    Admitted {
        /// The node.
        node: NodeId,
        /// When it was admitted, if ever.
        since: Option<Version>,
        /// What the plan was made for.
        basis: Version,
    },
    /// The voters have changed meanwhile, or not everyone goes by their last change yet.
    #[error("voters changed in version {}, after version {} that the plan is for", since.0, basis.0)]
    Voters {
        /// When they last changed.
        since: Version,
        /// What the plan was made for.
        basis: Version,
    },
    /// More than one voter would change, or none would be left.
    #[error(
        "the voters would become {count} by {changes} changes; expected one change and a voter left"
    )]
    VoterCount {
        /// How many there would be.
        count: usize,
        /// How many would come or go.
        changes: usize,
    },
    /// That is so already.
    #[error("the map says so already")]
    NothingNew,
    /// A bucket or a node that the cluster does not have: whoever proposed it has other settings.
    #[error("the plan names {what} {number}, which the cluster does not have")]
    Unknown {
        /// "bucket" or "node".
        what: &'static str,
        /// Its number.
        number: u32,
    },
    /// The version can't rise any more.
    #[error("the map has reached version {}, its last", MAX_VERSION.0)]
    Exhausted,
}

impl Map {
    /// The map of version 0: nobody is admitted, nobody owns anything.
    #[must_use]
    pub fn new(buckets: u32, nodes: usize, voters: NodeSet) -> Self {
        let list = List { ranks: Arc::new([]), since: Version(0) };
        Self {
            version: Version(0),
            buckets: vec![Bucket { list, older: Vec::new(), invited: None }; buckets as usize],
            admissions: vec![None; nodes],
            voters,
            voters_since: Version(0),
            drained: NodeSet::default(),
            history: history::History::default(),
        }
    }

    /// The version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// All buckets, lowest first.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = BucketId> + use<> {
        (0..self.buckets.len()).map(|bucket| BucketId(bucket as u16))
    }

    /// The list of a bucket; `None` for a bucket that there is not.
    #[must_use]
    pub fn list(&self, bucket: BucketId) -> Option<&List> {
        self.buckets.get(usize::from(bucket.0)).map(|bucket| &bucket.list)
    }

    /// The nodes of a bucket, first the one that is to own it.
    #[must_use]
    pub fn ranks(&self, bucket: BucketId) -> &[NodeId] {
        self.list(bucket).map_or(&[], |list| &list.ranks)
    }

    /// The lists that a bucket had before and that somebody may still act on, oldest first, each with
    /// the version that put another in its place.
    pub fn older(&self, bucket: BucketId) -> impl Iterator<Item = (&List, Version)> + '_ {
        let bucket = self.buckets.get(usize::from(bucket.0));
        let older = bucket.map_or(&[][..], |bucket| &bucket.older);
        let newest = bucket.map(|bucket| &bucket.list);
        let next = older.iter().skip(1).chain(newest).map(|list| list.since);
        older.iter().zip(next)
    }

    /// The version that last put a list in the place of another. Once everyone who is not dead has
    /// settled it, no bucket is on its way.
    #[must_use]
    pub fn latest_move(&self) -> Version {
        let moving = self.buckets.iter().filter(|bucket| !bucket.older.is_empty());
        moving.map(|bucket| bucket.list.since).max().unwrap_or_default()
    }

    /// The life that a node's place belongs to.
    #[must_use]
    pub fn admission(&self, node: NodeId) -> Option<Admission> {
        self.admissions.get(usize::from(node.0)).copied().flatten()
    }

    /// Whether the node that a list made in `since` speaks of is the life that the place belongs to
    /// now. If not, that life is gone for good.
    #[must_use]
    pub fn stands_in(&self, node: NodeId, since: Version) -> bool {
        self.admission(node).is_some_and(|admission| admission.since <= since)
    }

    /// The nodes that grant leases and fence.
    #[must_use]
    pub fn voters(&self) -> NodeSet {
        self.voters
    }

    /// The version at which the voters last changed.
    #[must_use]
    pub fn voters_since(&self) -> Version {
        self.voters_since
    }

    /// How many voters are more than half of them.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// The nodes that are to own nothing, by an operator's wish.
    #[must_use]
    pub fn drained(&self) -> NodeSet {
        self.drained
    }

    /// The latest changes, oldest first.
    pub fn history(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.history.iter()
    }

    /// Whether some bucket has been given to somebody.
    #[must_use]
    pub fn is_formed(&self) -> bool {
        self.buckets.iter().any(|bucket| !bucket.list.ranks.is_empty())
    }

    /// How many buckets each node is the first of.
    #[must_use]
    pub fn shares(&self) -> Vec<usize> {
        let mut shares = vec![0; self.admissions.len()];
        for first in self.buckets.iter().filter_map(|bucket| bucket.list.ranks.first()) {
            shares[usize::from(first.0)] += 1;
        }
        shares
    }

    /// Applies the next command of the agreed sequence.
    ///
    /// # Errors
    ///
    /// [`Outdated`] if it does not fit; the map is as it was.
    pub fn apply(&mut self, command: &Command) -> Result<(), Outdated> {
        if self.version >= MAX_VERSION {
            return Err(Outdated::Exhausted);
        }
        let next = Version(self.version.0 + 1);
        let moved = match command {
            Command::Admit { basis, lives } => self.admit(*basis, lives, next)?,
            Command::Assign { basis, settled, lists, .. } => {
                self.assign(*basis, *settled, lists, next)?
            }
            Command::Voters { acknowledged, voters } => {
                self.set_voters(*acknowledged, *voters, next)?
            }
            Command::Invite { basis, guests, reason } => {
                let wished = matches!(reason, Reason::Operator(_));
                self.invite(*basis, guests, (next, wished))?
            }
            Command::Drain { node } => self.set_drained(*node, true)?,
            Command::Undrain { node } => self.set_drained(*node, false)?,
        };
        self.version = next;
        self.history.push(Change { version: next, reason: command.reason(), buckets: moved });
        Ok(())
    }

    fn known(&self, node: NodeId) -> Result<usize, Outdated> {
        let index = usize::from(node.0);
        let unknown = Outdated::Unknown { what: "node", number: u32::from(node.0) };
        if index < self.admissions.len() { Ok(index) } else { Err(unknown) }
    }

    fn admit(
        &mut self,
        basis: Version,
        lives: &[(NodeId, Incarnation)],
        since: Version,
    ) -> Result<usize, Outdated> {
        if self.voters_since > basis {
            return Err(Outdated::Voters { since: self.voters_since, basis });
        }
        let mut new = false;
        for &(node, life) in lives {
            let admission = self.admissions[self.known(node)?];
            new |= admission.is_none_or(|admission| admission.life != life);
            if let Some(later) = admission.filter(|admission| admission.since > basis) {
                return Err(Outdated::Admitted { node, since: Some(later.since), basis });
            }
        }
        if !new {
            return Err(Outdated::NothingNew);
        }
        for &(node, life) in lives {
            let own = &mut self.admissions[usize::from(node.0)];
            if own.is_none_or(|admission| admission.life != life) {
                *own = Some(Admission { life, since });
            }
        }
        Ok(0)
    }

    fn assign(
        &mut self,
        basis: Version,
        settled: Version,
        lists: &[(BucketId, Vec<NodeId>)],
        since: Version,
    ) -> Result<usize, Outdated> {
        for (bucket, ranks) in lists {
            self.check_list(basis, settled, *bucket, ranks)?;
        }
        let mut moved = 0;
        for (bucket, ranks) in lists {
            let own = &mut self.buckets[usize::from(bucket.0)];
            own.forget_settled(settled);
            moved += usize::from(own.list.ranks.first() != ranks.first());
            let list = List { ranks: ranks.as_slice().into(), since };
            own.invited = None;
            let before = std::mem::replace(&mut own.list, list);
            if !before.ranks.is_empty() {
                own.older.push(before);
            }
        }
        if lists.is_empty() { Err(Outdated::NothingNew) } else { Ok(moved) }
    }

    fn check_list(
        &self,
        basis: Version,
        settled: Version,
        bucket: BucketId,
        ranks: &[NodeId],
    ) -> Result<(), Outdated> {
        let unknown = Outdated::Unknown { what: "bucket", number: u32::from(bucket.0) };
        let own = self.buckets.get(usize::from(bucket.0)).ok_or(unknown)?;
        if own.list.since > basis {
            return Err(Outdated::Bucket { bucket, since: own.list.since, basis });
        }
        if own.unsettled(settled) >= MAX_OLDER {
            return Err(Outdated::Unsettled { bucket });
        }
        if ranks.is_empty() {
            return Err(Outdated::Hole { bucket });
        }
        ranks.iter().try_for_each(|&node| self.check_admitted(node, basis))
    }

    /// Whether the place of a node belongs to the life that a plan for this version knew.
    fn check_admitted(&self, node: NodeId, basis: Version) -> Result<(), Outdated> {
        self.known(node)?;
        let since = self.admission(node).map(|admission| admission.since);
        if since.is_none_or(|since| since > basis) {
            return Err(Outdated::Admitted { node, since, basis });
        }
        Ok(())
    }

    fn set_voters(
        &mut self,
        acknowledged: Version,
        voters: NodeSet,
        since: Version,
    ) -> Result<usize, Outdated> {
        voters.iter().try_for_each(|node| self.known(node).map(drop))?;
        let before = self.voters_since;
        if acknowledged < before {
            return Err(Outdated::Voters { since: before, basis: acknowledged });
        }
        let (count, changes) = (voters.len(), voters.symmetric_difference(&self.voters).len());
        if changes == 0 {
            return Err(Outdated::NothingNew);
        }
        if changes > 1 || count == 0 {
            return Err(Outdated::VoterCount { count, changes });
        }
        (self.voters, self.voters_since) = (voters, since);
        Ok(0)
    }

    fn set_drained(&mut self, node: NodeId, drained: bool) -> Result<usize, Outdated> {
        self.known(node)?;
        let new = if drained { self.drained.insert(node) } else { self.drained.remove(node) };
        if new { Ok(0) } else { Err(Outdated::NothingNew) }
    }
}

impl Bucket {
    /// How many of the older lists somebody may still act on, if everyone has settled `settled`.
    fn unsettled(&self, settled: Version) -> usize {
        self.older.len() - self.settled(settled)
    }

    /// How many of the older lists, from the oldest on, have been superseded by a list that everyone
    /// has settled.
    fn settled(&self, settled: Version) -> usize {
        let next = self.older.iter().skip(1).chain([&self.list]);
        next.take_while(|list| list.since <= settled).count().min(self.older.len())
    }

    fn forget_settled(&mut self, settled: Version) {
        let count = self.settled(settled);
        self.older.drain(..count);
    }
}

#[cfg(test)]
mod tests;
