//! Which lists may change at once, and whose copy has to be made first, where not all nodes keep all.
//!
//! A list says who keeps a bucket and who takes it over, in one order. So a list that puts a node without
//! a copy in the place or before a node that has one would lose the bucket's flows with the next death. Such
//! a change waits: the node is invited to keep the bucket ([`crate::map::Invited`]), and the list changes when
//! it has all of it.
//!
//! Invariant: a list changes only so that (1) its first node has a copy for certain, or acts already; and (2)
//! all that keep the bucket by the new list have a copy for certain, or all living nodes that kept it by the
//! list before still do, with those that have it for certain before the others. Where nobody who kept it
//! lives, any list will do; lives that have begun anew and may remember it are preferred.
//!
//! (3) Who gives a bucket away has all of it until the next owner has, and may be the only one left that has: its stream
//! to the next owner can end together with the others that keep the bucket. So it counts as one that keeps the bucket until it
//! has settled, and in the list that takes the bucket from it, it stands right behind those who keep it, drained or not.
//!
//! What is known for certain only gets older: a node that has a copy under the present version loses it by its
//! death, or by a later version. So no list is planned while somebody who lives goes by an older version, for
//! [`LAG`] at most; nor are moves while somebody fills up, for [`super::CATCH_UP`] at most. After that those
//! who have not filled up are invited no more, and the plan is made anew.

use std::time::Duration;

use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::{CATCH_UP, Planner, Scene, move_bucket};
use crate::map::{Command, Invited, Reason, Version};
use crate::plan::{Candidate, Change, Held};
use crate::time::after;

/// How long plans wait for those who go by an older version.
const LAG: Duration = Duration::from_secs(1);

/// Since when the planner waits for what.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// The version of the map, and since when it is seen.
    version: Option<(Version, Nanos)>,
    /// Since when somebody is invited who has not filled up.
    filling: Option<Nanos>,
    /// Since when each node, by its number, does not have all that it keeps.
    lacking: Vec<Option<Nanos>>,
}

/// What becomes of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It can be made, as it is here.
    Now(Change),
    /// First all have to fill up that are to keep it, these besides those who keep it by its list.
    Fill(BucketId, Vec<NodeId>),
}

impl Scene<'_> {
    fn lives(&self, node: NodeId) -> bool {
        self.living().any(|standing| standing.node == node)
    }

    /// Whether a node has all of a bucket, for certain.
    fn is_filled(&self, bucket: BucketId, node: NodeId) -> bool {
        let count = self.cluster.replicas().keepers();
        let knows = |standing: &crate::membership::Standing| {
            self.is_there(standing) && standing.synced && standing.version >= self.map.version()
        };
        let standing = self.standings.get(usize::from(node.0));
        standing.is_some_and(knows) && self.map.keepers(bucket, count).contains(node)
    }

    /// Who keeps a bucket and lives, in whichever life: by its list, or invited.
    fn holders(&self, bucket: BucketId) -> Vec<NodeId> {
        let kept = self.map.ranks(bucket).iter().take(self.cluster.replicas().keepers());
        let mut holders: Vec<_> = kept.copied().filter(|&node| self.lives(node)).collect();
        let invited = self.map.invited(bucket).map_or(&[][..], |invited| &invited.nodes);
        let new = invited.iter().filter(|node| self.lives(**node) && !holders.contains(node));
        let new: Vec<_> = new.copied().collect();
        holders.extend(new);
        holders
    }

    /// Who has a bucket to give away by an older list, or acts on it still.
    fn givers(&self, bucket: BucketId) -> impl Iterator<Item = NodeId> {
        self.map.older(bucket).filter_map(|(list, next)| {
            let lives =
                |node: &&NodeId| self.lives(**node) && self.map.stands_in(**node, list.since);
            let acts = list.ranks.iter().find(lives)?;
            let settled = self.standings.get(usize::from(acts.0))?.settled;
            (settled < next).then_some(*acts)
        })
    }

    /// A list with whoever gives the bucket away right behind those who keep it.
    fn with_giver(&self, ranks: &mut Vec<NodeId>, giver: NodeId) {
        let end = ranks.len().min(self.cluster.replicas().keepers());
        if !ranks[..end].contains(&giver) {
            ranks.retain(|&node| node != giver);
            ranks.insert(end, giver);
            ranks.truncate(self.ranks());
        }
    }

    /// Whether a list names lives that are over, or fewer nodes that keep the bucket than there should be.
    fn is_broken(&self, bucket: BucketId, held: &Held<'_>) -> bool {
        let over = held.ranks.len() < self.map.ranks(bucket).len();
        let keepers = self.cluster.replicas().keepers();
        over || held.ranks.len() < keepers || held.ranks.iter().any(|&node| !self.lives(node))
    }

    /// Whether a change of a list as it is held can be made without losing a copy, and how; if it is
    /// urgent, with successors in another order rather than later.
    pub(super) fn fit(
        &self,
        change: Change,
        (held, urgent): (&Held<'_>, bool),
        candidates: &[Candidate],
    ) -> Fit {
        if !self.cluster.replicas().is_limited() {
            return Fit::Now(change);
        }
        let Change { bucket, mut ranks } = change;
        let mut holders = self.holders(bucket);
        let givers: Vec<_> = held.owner.into_iter().chain(self.givers(bucket)).collect();
        for &node in &givers {
            if !holders.contains(&node) {
                holders.push(node);
            }
        }
        if holders.is_empty() {
            return Fit::Now(Change { bucket, ranks: self.remembered(bucket, ranks, candidates) });
        }
        let unfilled = |node: &NodeId| Some(*node) != held.owner && !self.is_filled(bucket, *node);
        let end = ranks.len().min(self.cluster.replicas().keepers());
        let kept = holders.iter().all(|holder| ranks[..end].contains(holder));
        let acts = ranks.first().is_some_and(|first| !unfilled(first));
        if acts
            && ranks[..end].is_sorted_by_key(unfilled)
            && (kept || !ranks[..end].iter().any(unfilled))
        {
            givers.into_iter().for_each(|giver| self.with_giver(&mut ranks, giver));
            return Fit::Now(Change { bucket, ranks });
        }
        if urgent && self.is_broken(bucket, held) {
            // Those who keep it, first those who have all of it, in the order that they have; then the others
            // who have all of it.
            let before = self.map.ranks(bucket);
            let place = |node: &NodeId| {
                let place = before.iter().position(|holder| holder == node);
                let place = place.map_or(usize::MAX, |place| place + 1);
                if Some(*node) == held.owner { 0 } else { place }
            };
            let mut list = holders.clone();
            list.extend(ranks.iter().filter(|node| !holders.contains(node)));
            list.sort_by_key(|node| match holders.contains(node) {
                true => (u8::from(unfilled(node)), place(node)),
                false => (2 + u8::from(unfilled(node)), 0),
            });
            list.truncate(self.ranks());
            return Fit::Now(Change { bucket, ranks: list });
        }
        ranks.truncate(end);
        // Who is invited and has filled up stays invited until the others have.
        let listed = self.map.ranks(bucket).iter().take(self.cluster.replicas().keepers());
        ranks.retain(|node| !listed.clone().any(|listed| listed == node));
        let invited = self.map.invited(bucket).map_or(&[][..], |invited| &invited.nodes);
        let new = invited.iter().filter(|node| !unfilled(node) && !ranks.contains(node));
        let new: Vec<_> = new.copied().collect();
        ranks.extend(new);
        Fit::Fill(bucket, ranks)
    }

    /// A list of a bucket that nobody keeps any more: first those who kept it before they began anew.
    fn remembered(
        &self,
        bucket: BucketId,
        ranks: Vec<NodeId>,
        candidates: &[Candidate],
    ) -> Vec<NodeId> {
        let able = |node: &&NodeId| candidates.iter().any(|c| c.node == **node && c.may_own);
        let before = self.map.ranks(bucket).iter().take(self.cluster.replicas().keepers());
        let mut list: Vec<_> = before.filter(able).copied().collect();
        let length = ranks.len();
        for node in ranks {
            if !list.contains(&node) {
                list.push(node);
            }
        }
        list.truncate(length);
        list
    }

    /// The invitations that nobody waits for: not for the buckets of `wanted`.
    fn stale(&self, wanted: &[BucketId]) -> Option<Command> {
        let stale = self
            .map
            .invitations()
            .filter(|(bucket, invited)| !invited.wished && !wanted.contains(bucket));
        self.uninvite(stale.map(|(bucket, _)| bucket).collect())
    }

    fn uninvite(&self, buckets: Vec<BucketId>) -> Option<Command> {
        let guests: Vec<_> = buckets.into_iter().map(|bucket| (bucket, Vec::new())).collect();
        let (basis, reason) = (self.map.version(), Reason::Copies);
        (!guests.is_empty()).then_some(Command::Invite { basis, guests, reason })
    }
}

impl Planner {
    /// Whether somebody who lives goes by an older version of the map, and is waited for.
    pub(super) fn is_lagging(&mut self, scene: &Scene<'_>) -> bool {
        if !scene.cluster.replicas().is_limited() {
            return false;
        }
        let version = scene.map.version();
        let known = self.waits.version.filter(|(seen, _)| *seen == version);
        let (_, since) = *self.waits.version.insert(known.unwrap_or((version, scene.now)));
        scene.least(|standing| standing.version) < version && scene.now < after(since, LAG)
    }

    /// Lists in which a keeper that fills up for too long stands before one that has all: behind it then.
    pub(super) fn overtaken(&mut self, scene: &Scene<'_>) -> Vec<Change> {
        if !scene.cluster.replicas().is_limited() {
            return Vec::new();
        }
        self.waits.lacking.resize(scene.standings.len(), None);
        for (standing, since) in scene.standings.iter().zip(&mut self.waits.lacking) {
            let lacks = scene.is_there(standing) && !standing.synced;
            *since = lacks.then(|| since.unwrap_or(scene.now));
        }
        let late = |node: &NodeId| {
            let since = self.waits.lacking.get(usize::from(node.0)).copied().flatten();
            since.is_some_and(|since| scene.now >= after(since, CATCH_UP))
        };
        let mut changes = Vec::new();
        for bucket in scene.map.buckets() {
            let ranks = scene.map.ranks(bucket);
            let kept = ranks.get(1..ranks.len().min(scene.cluster.replicas().keepers()));
            let Some(kept) = kept.filter(|kept| !kept.is_sorted_by_key(late)) else { continue };
            let (behind, mut kept): (Vec<_>, Vec<_>) = kept.iter().partition(|node| late(node));
            if kept.iter().any(|&node| scene.is_filled(bucket, node))
                && !scene.is_on_its_way(bucket)
            {
                let count = 1 + kept.len() + behind.len();
                kept.splice(0..0, [ranks[0]]);
                kept.extend(behind);
                kept.extend(&ranks[count..]);
                changes.push(Change { bucket, ranks: kept });
            }
        }
        changes
    }

    /// The command that makes these changes, or the copies that they need; of changes that wait for
    /// copies under way, nothing. `waiting` are the buckets that an earlier plan waits for: they are left
    /// alone. Those that this one waits for join them.
    pub(super) fn place(
        scene: &Scene<'_>,
        (mut changes, waiting): (Vec<Change>, &mut Vec<BucketId>),
        (held, candidates): (&[Held<'_>], &[Candidate]),
        (reason, urgent): (Reason, bool),
    ) -> Option<Command> {
        changes.retain(|change| !waiting.contains(&change.bucket));
        let (mut now, mut guests) = (Vec::new(), Vec::new());
        for change in changes {
            let Some(held) = held.get(usize::from(change.bucket.0)) else { continue };
            match scene.fit(change, (held, urgent), candidates) {
                Fit::Now(change) => now.push(change),
                Fit::Fill(bucket, nodes) => guests.push((bucket, nodes)),
            }
        }
        let ranks = |bucket: BucketId| held.get(usize::from(bucket.0)).map_or(&[][..], |h| h.ranks);
        now.retain(|change| ranks(change.bucket) != change.ranks);
        if !now.is_empty() {
            return scene.assign(now, reason);
        }
        waiting.extend(guests.iter().map(|(bucket, _)| *bucket));
        let open = |bucket, nodes: &[NodeId]| match scene.map.invited(bucket) {
            Some(invited) => !invited.wished && &invited.nodes[..] != nodes,
            None => true,
        };
        guests.retain(|(bucket, nodes)| !nodes.is_empty() && open(*bucket, nodes));
        guests.truncate(super::MAX_LISTS);
        if guests.is_empty() {
            return if urgent { None } else { scene.stale(waiting) };
        }
        let basis = scene.map.version();
        Some(Command::Invite { basis, guests, reason: Reason::Copies })
    }

    /// Goes on with what operators want moved, and gives up what does not fill up.
    pub(super) fn wished(&mut self, scene: &Scene<'_>) -> Option<Command> {
        let unfilled = |(bucket, invited): &(BucketId, &Invited)| {
            invited.wished || !invited.nodes.iter().all(|&node| scene.is_filled(*bucket, node))
        };
        if !scene.map.invitations().any(|invitation| unfilled(&invitation)) {
            self.waits.filling = None;
        } else {
            let since = *self.waits.filling.get_or_insert(scene.now);
            if scene.now >= after(since, CATCH_UP) {
                self.waits.filling = None;
                let vain = scene.map.invitations().filter(unfilled);
                return scene.uninvite(vain.map(|(bucket, _)| bucket).collect());
            }
        }
        scene.map.invitations().filter(|(_, invited)| invited.wished).find_map(
            |(bucket, invited)| {
                let to = *invited.nodes.first()?;
                match move_bucket(scene.cluster, scene.map, scene.standings, bucket, to) {
                    Ok(command @ Command::Assign { .. }) => Some(command),
                    // It fills up, or the bucket is on its way.
                    Ok(_) => None,
                    Err(error) if error.may_pass() => None,
                    Err(_) => scene.uninvite(vec![bucket]),
                }
            },
        )
    }
}

#[cfg(test)]
mod tests;
