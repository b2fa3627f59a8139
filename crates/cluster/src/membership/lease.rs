//! This node's lease: how long it may handle packets, and whose support counts for it.
//!
//! A supporter that grants the lease for a heartbeat will not help anyone take this node's buckets
//! before the takeover wait, counted from when it heard that heartbeat; or before a longer one, if it
//! says so. Its support ends so much earlier that clocks can't make up for it. The lease ends when a
//! majority of the voters has no support left that lasts longer.
//!
//! Invariant: once a lease has run out, only lives of peers that supported it before can renew it,
//! and only under the voters that it ran out under. A peer that has fenced this node, then lost its
//! memory in a restart, would otherwise lend the majority that its vote has taken away. A life that
//! has been a member for at least as long as this one has forgotten nothing that matters to it, so its
//! support always counts; for a first lease, which no life supported before, only such support does
//! (see [`super`]).

use super::peer::{Peer, Support};
use crate::heartbeat::Incarnation;
use crate::map::Version;
use crate::node_set::NodeSet;
use crate::time::after;
use std::time::Duration;
use testudo_packet::bucket::{Nanos, NodeId};

/// What a look at the lease brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Gained,
    Lost,
}

/// By whose and what right leases are granted now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) me: NodeId,
    pub(super) voters: NodeSet,
    /// Since when they are the voters.
    pub(super) voters_since: Version,
    /// Since when this life is a member.
    pub(super) standing: Version,
    /// How long this node supports itself from now on.
    pub(super) own: Duration,
}

#[derive(Debug)]
pub(super) struct Lease {
    deadline: Nanos,
    /// Whether it was in force when it was last looked at.
    held: bool,
    /// The voters under which it was last in force, or its life was first looked at.
    voters_since: Option<Version>,
    /// The lives whose support kept it in force, by peer.
    trusted: Vec<Option<Incarnation>>,
}

impl Lease {
    pub(super) fn new(nodes: usize) -> Self {
        let trusted = vec![None; nodes];
        Self { deadline: Nanos(0), held: false, voters_since: None, trusted }
    }

    /// A lease that was in force when its process was replaced.
    pub(super) fn resumed(
        deadline: Nanos,
        voters_since: Version,
        trusted: Vec<Option<Incarnation>>,
    ) -> Self {
        Self { deadline, held: true, voters_since: Some(voters_since), trusted }
    }

    /// The voters under which it was last in force.
    pub(super) fn voters_since(&self) -> Version {
        self.voters_since.unwrap_or(Version(0))
    }

    /// Whose support kept it in force, by peer.
    pub(super) fn trusted(&self) -> &[Option<Incarnation>] {
        &self.trusted
    }

    /// Gives up what is beyond that moment.
    pub(super) fn shorten(&mut self, end: Nanos) {
        self.deadline = self.deadline.min(end);
    }

    pub(super) fn deadline(&self) -> Nanos {
        self.deadline
    }

    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    fn counts(&self, peer: usize, support: &Support, standing: Version) -> bool {
        self.held
            || self.trusted[peer] == Some(support.by)
            || support.standing.is_some_and(|since| since <= standing)
    }

    /// Notices that it has run out, and renews it from what the peers support.
    pub(super) fn refresh(&mut self, now: Nanos, peers: &[Peer], terms: &Terms) -> Change {
        let before = self.held;
        self.held &= now < self.deadline;
        let ended = if before && !self.held { Change::Lost } else { Change::None };
        let under = *self.voters_since.get_or_insert(terms.voters_since);
        if !self.held && under != terms.voters_since {
            return ended;
        }
        let granted = self.granted(now, peers, terms, Support::end);
        // Under other voters, support that sufficed may suffice no more: what was granted stands.
        self.deadline = self.deadline.max(granted);
        if now >= granted {
            return ended;
        }
        self.voters_since = Some(terms.voters_since);
        self.trust(now, peers, terms);
        if std::mem::replace(&mut self.held, true) { Change::None } else { Change::Gained }
    }

    /// Until when a majority of the voters supports this node, if each does until `end`.
    pub(super) fn granted(
        &self,
        now: Nanos,
        peers: &[Peer],
        terms: &Terms,
        end: impl Fn(&Support) -> Nanos,
    ) -> Nanos {
        let mut ends: Vec<Nanos> = peers
            .iter()
            .enumerate()
            .filter(|(index, _)| terms.voters.contains(NodeId(*index as u8)))
            .filter_map(|(index, peer)| Some((index, peer.support.as_ref()?)))
            .filter(|(index, support)| self.counts(*index, support, terms.standing))
            .map(|(_, support)| end(support))
            .collect();
        if terms.voters.contains(terms.me) {
            ends.push(after(now, terms.own));
        }
        ends.sort_unstable_by(|a, b| b.cmp(a));
        let majority = terms.voters.len() / 2 + 1;
        let granted = majority.checked_sub(1).and_then(|needed| ends.get(needed));
        granted.copied().unwrap_or(Nanos(0))
    }

    /// Remembers who supports a lease that holds.
    fn trust(&mut self, now: Nanos, peers: &[Peer], terms: &Terms) {
        for (index, peer) in peers.iter().enumerate() {
            let Some(support) = &peer.support else { continue };
            if self.counts(index, support, terms.standing) && now < support.end() {
                self.trusted[index] = Some(support.by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_millis(100);

    fn ms(milliseconds: u64) -> Nanos {
        Nanos(milliseconds * 1_000_000)
    }

    fn terms(nodes: u8) -> Terms {
        Terms {
            me: NodeId(0),
            voters: (0..nodes).map(NodeId).collect(),
            voters_since: Version(0),
            standing: Version(5),
            own: LENGTH,
        }
    }

    /// Three nodes of which this is number 0; the others support as given: when, which life.
    fn peers(supports: [Option<(u64, u64)>; 2]) -> Vec<Peer> {
        let support = |given: Option<(u64, u64)>| {
            given.map(|(at, by)| Support {
                sent: ms(at),
                firm: after(ms(at), LENGTH),
                asked: Nanos(0),
                by: Incarnation(by),
                standing: (by < 10).then_some(Version(5)),
            })
        };
        let mut peers = vec![Peer::default(); 3];
        peers[1].support = support(supports[0]);
        peers[2].support = support(supports[1]);
        peers
    }

    fn refresh(lease: &mut Lease, at: u64, supports: [Option<(u64, u64)>; 2]) -> Change {
        lease.refresh(ms(at), &peers(supports), &terms(3))
    }

    #[test]
    fn a_lease_follows_the_majority() {
        let mut lease = Lease::new(3);
        assert_eq!(refresh(&mut lease, 10, [None, None]), Change::None);
        assert_eq!(refresh(&mut lease, 10, [Some((5, 1)), None]), Change::Gained);
        assert_eq!(lease.deadline(), ms(105));
        assert_eq!(refresh(&mut lease, 60, [Some((5, 1)), Some((50, 2))]), Change::None);
        assert_eq!(lease.deadline(), ms(150));
        assert_eq!(refresh(&mut lease, 150, [Some((5, 1)), Some((50, 2))]), Change::Lost);
        assert!(!lease.is_held());
    }

    #[test]
    fn four_nodes_need_two_others() {
        let mut lease = Lease::new(4);
        let mut four = peers([Some((5, 1)), None]);
        four.push(Peer::default());
        assert_eq!(lease.refresh(ms(10), &four, &terms(4)), Change::None);
        four[3].support = Some(Support {
            sent: ms(2),
            firm: ms(102),
            asked: Nanos(0),
            by: Incarnation(3),
            standing: Some(Version(1)),
        });
        assert_eq!(lease.refresh(ms(10), &four, &terms(4)), Change::Gained);
        assert_eq!(lease.deadline(), ms(102));
    }

    #[test]
    fn a_node_that_does_not_vote_needs_a_majority_of_others() {
        let mut lease = Lease::new(3);
        let terms = Terms { voters: [1, 2].map(NodeId).into_iter().collect(), ..terms(3) };
        assert_eq!(lease.refresh(ms(10), &peers([Some((5, 1)), None]), &terms), Change::None);
        let both = peers([Some((5, 1)), Some((6, 2))]);
        assert_eq!(lease.refresh(ms(10), &both, &terms), Change::Gained);
    }

    #[test]
    fn a_forgetful_peer_cannot_bring_a_lease_back() {
        let mut lease = Lease::new(3);
        refresh(&mut lease, 10, [Some((5, 1)), None]);
        refresh(&mut lease, 20, [Some((15, 14)), None]);
        assert_eq!(refresh(&mut lease, 200, [Some((15, 14)), None]), Change::Lost);
        assert_eq!(refresh(&mut lease, 210, [Some((205, 15)), None]), Change::None);
        assert_eq!(refresh(&mut lease, 210, [None, Some((205, 16))]), Change::None);
        assert_eq!(refresh(&mut lease, 220, [Some((215, 14)), None]), Change::Gained);
    }

    #[test]
    fn a_first_lease_takes_members_of_long_standing() {
        let mut lease = Lease::new(3);
        assert_eq!(refresh(&mut lease, 10, [Some((5, 11)), Some((5, 12))]), Change::None);
        assert_eq!(refresh(&mut lease, 10, [Some((5, 11)), Some((5, 2))]), Change::Gained);
    }

    #[test]
    fn a_lease_that_ran_out_stays_out_under_other_voters() {
        let mut lease = Lease::new(3);
        refresh(&mut lease, 10, [Some((5, 1)), None]);
        let alone = Terms {
            voters: [NodeId(0)].into_iter().collect(),
            voters_since: Version(9),
            ..terms(3)
        };
        assert_eq!(lease.refresh(ms(300), &peers([None, None]), &alone), Change::Lost);
        assert_eq!(lease.refresh(ms(310), &peers([None, None]), &alone), Change::None);
        let mut other = Lease::new(3);
        refresh(&mut other, 10, [Some((5, 1)), None]);
        assert_eq!(other.refresh(ms(50), &peers([None, None]), &alone), Change::None);
        assert!(other.is_held(), "it changed voters while it was in force");
        assert_eq!(other.deadline(), ms(150));
    }

    #[test]
    fn a_lease_ends_when_the_majority_of_supports_has_ended() {
        let mut lease = Lease::new(5);
        let mut five = peers([Some((5, 1)), Some((6, 2))]);
        five.extend([Peer::default(), Peer::default()]);
        let long = Terms { own: LENGTH * 30, ..terms(5) };
        assert_eq!(lease.refresh(ms(10), &five, &long), Change::Gained);
        assert_eq!(lease.deadline(), ms(105), "the third-latest end, whoever it is");
        for (peer, (firm, asked)) in [(1, (105, 2900)), (2, (2800, 0))] {
            let support = five[peer].support.as_mut().unwrap();
            (support.firm, support.asked) = (ms(firm), ms(asked));
        }
        lease.refresh(ms(20), &five, &long);
        assert_eq!(lease.deadline(), ms(2800));
        lease.shorten(ms(120));
        five[1].support.as_mut().unwrap().asked = Nanos(0);
        assert_eq!(lease.refresh(ms(20), &five, &terms(5)), Change::None);
        assert_eq!((lease.deadline(), lease.is_held()), (ms(120), true));
        assert_eq!(lease.refresh(ms(120), &five, &terms(5)), Change::Lost);
    }

    #[test]
    fn a_node_alone_renews_by_itself() {
        let mut lease = Lease::new(1);
        assert_eq!(lease.refresh(ms(10), &[Peer::default()], &terms(1)), Change::Gained);
        lease.refresh(ms(50), &[Peer::default()], &terms(1));
        assert_eq!(lease.deadline(), ms(150));
    }
}
