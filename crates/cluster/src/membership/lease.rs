//! How long this node may handle packets.
//!
//! The lease reaches `lease` beyond the latest moment at which this node sent a heartbeat that a
//! majority (itself included) supports. The moment is the sending of a heartbeat of its own, by its
//! own clock, so no delay on the way can make a lease longer than its supporters think.
//!
//! Invariant: once a lease has run out, only lives of peers that supported it before can renew it.
//! A peer that has fenced this node, then lost its memory in a restart, would otherwise lend the
//! majority that its vote has taken away. For the first lease, which no life supported before, the
//! supporters must have been there since the cluster was formed (see [`super`]).

use super::peer::{Peer, Support};
use crate::heartbeat::Incarnation;
use crate::time::after;
use std::time::Duration;
use testudo_packet::bucket::Nanos;

/// What a refresh has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Gained,
    Lost,
}

#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    majority: usize,
    deadline: Nanos,
    held: bool,
    ever: bool,
    trusted: Vec<Option<Incarnation>>,
}

impl Lease {
    pub(super) fn new(length: Duration, nodes: usize, majority: usize) -> Self {
        let trusted = vec![None; nodes];
        Self { length, majority, deadline: Nanos(0), held: false, ever: false, trusted }
    }

    /// When it runs out or did; 0 if there was none.
    pub(super) fn deadline(&self) -> Nanos {
        self.deadline
    }

    /// Whether it has not run out.
    pub(super) fn is_held(&self) -> bool {
        self.held
    }

    /// Whether there has been one in this life.
    pub(super) fn was_held(&self) -> bool {
        self.ever
    }

    fn counts(&self, peer: usize, support: &Support) -> bool {
        if self.held {
            return true;
        }
        if self.ever { self.trusted[peer] == Some(support.by) } else { support.founder }
    }

    /// Notices that it has run out, and renews it from what the peers support.
    pub(super) fn refresh(&mut self, now: Nanos, peers: &[Peer]) -> Change {
        let before = self.held;
        self.held &= now < self.deadline;
        let lost = before && !self.held;
        let mut moments: Vec<Nanos> = peers
            .iter()
            .enumerate()
            .filter_map(|(index, peer)| Some((index, peer.support.as_ref()?)))
            .filter(|(index, support)| self.counts(*index, support))
            .map(|(_, support)| support.sent)
            .collect();
        moments.sort_unstable_by(|a, b| b.cmp(a));
        let moment = match self.majority {
            1 => Some(now),
            majority => moments.get(majority - 2).copied(),
        };
        if let Some(moment) = moment {
            self.deadline = self.deadline.max(after(moment, self.length));
        }
        if now >= self.deadline {
            return if lost { Change::Lost } else { Change::None };
        }
        self.trust(now, peers);
        self.ever = true;
        if std::mem::replace(&mut self.held, true) { Change::None } else { Change::Gained }
    }

    /// Remembers who supports a lease that holds.
    fn trust(&mut self, now: Nanos, peers: &[Peer]) {
        for (index, peer) in peers.iter().enumerate() {
            let Some(support) = &peer.support else { continue };
            if self.counts(index, support) && now < after(support.sent, self.length) {
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
        Nanos(0).plus_millis(milliseconds)
    }

    /// Three nodes of which this is number 0; the others support as given: when, which life.
    fn peers(supports: [Option<(u64, u64)>; 2]) -> Vec<Peer> {
        let support = |given: Option<(u64, u64)>| {
            given.map(|(at, by)| Support { sent: ms(at), by: Incarnation(by), founder: by < 10 })
        };
        let mut peers = vec![Peer::default(); 3];
        peers[1].support = support(supports[0]);
        peers[2].support = support(supports[1]);
        peers
    }

    #[test]
    fn a_lease_follows_the_majority() {
        let mut lease = Lease::new(LENGTH, 3, 2);
        assert_eq!(lease.refresh(ms(10), &peers([None, None])), Change::None);
        assert_eq!(lease.refresh(ms(10), &peers([Some((5, 1)), None])), Change::Gained);
        assert_eq!(lease.deadline(), ms(105));
        assert_eq!(lease.refresh(ms(60), &peers([Some((5, 1)), Some((50, 2))])), Change::None);
        assert_eq!(lease.deadline(), ms(150));
        assert_eq!(lease.refresh(ms(150), &peers([Some((5, 1)), Some((50, 2))])), Change::Lost);
        assert!(!lease.is_held() && lease.was_held());
    }

    #[test]
    fn four_nodes_need_two_supporters() {
        let mut lease = Lease::new(LENGTH, 4, 3);
        let mut four = peers([Some((5, 1)), None]);
        four.push(Peer::default());
        assert_eq!(lease.refresh(ms(10), &four), Change::None);
        four[3].support = Some(Support { sent: ms(2), by: Incarnation(3), founder: true });
        assert_eq!(lease.refresh(ms(10), &four), Change::Gained);
        assert_eq!(lease.deadline(), ms(102));
    }

    #[test]
    fn a_forgetful_peer_cannot_bring_a_lease_back() {
        let mut lease = Lease::new(LENGTH, 3, 2);
        lease.refresh(ms(10), &peers([Some((5, 1)), None]));
        assert_eq!(lease.refresh(ms(200), &peers([Some((5, 1)), None])), Change::Lost);
        assert_eq!(lease.refresh(ms(210), &peers([Some((205, 4)), None])), Change::None);
        assert_eq!(lease.refresh(ms(210), &peers([None, Some((205, 2))])), Change::None);
        assert_eq!(lease.refresh(ms(220), &peers([Some((215, 1)), None])), Change::Gained);
        // While the lease holds, a new life of a peer that supports it becomes one to trust.
        lease.refresh(ms(230), &peers([Some((225, 4)), None]));
        assert_eq!(lease.refresh(ms(400), &peers([None, None])), Change::Lost);
        assert_eq!(lease.refresh(ms(410), &peers([Some((405, 4)), None])), Change::Gained);
    }

    #[test]
    fn the_first_lease_takes_founders() {
        let mut lease = Lease::new(LENGTH, 3, 2);
        assert_eq!(lease.refresh(ms(10), &peers([Some((5, 11)), Some((5, 12))])), Change::None);
        assert_eq!(lease.refresh(ms(10), &peers([Some((5, 11)), Some((5, 2))])), Change::Gained);
    }

    #[test]
    fn a_node_alone_renews_by_itself() {
        let mut lease = Lease::new(LENGTH, 1, 1);
        assert_eq!(lease.refresh(ms(10), &[Peer::default()]), Change::Gained);
        lease.refresh(ms(50), &[Peer::default()]);
        assert_eq!(lease.deadline(), ms(150));
    }
}
