//! Comparing all own buckets with all peers now, because an operator wants to know.
//!
//! A round waits for the answer of each connected peer to one check of each own bucket that is sent after
//! the round has begun. As checks go behind all changes that were noted before, it waits out what is
//! under way, and a busy bucket does not look different. A copy that a peer is just being sent is
//! waited for, too; only what was equal and is not, or stays different to the end, counts as different.
//!
//! Bounds: [`MAX_ROUNDS`] at a time, each with a deadline; what has had no answer by then is told as open.

use std::collections::BTreeMap;
use std::time::Duration;

use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::{Replica, own_buckets};
use crate::sync::comparing::Finding;
use crate::time::after;

/// How many rounds may be under way.
pub const MAX_ROUNDS: usize = 4;

/// How many buckets that differ are named for each peer.
pub const MAX_NAMED: usize = 64;

/// How this node's buckets compare with the copies of the peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// How many buckets this node owned when it began.
    pub buckets: u32,
    /// How many of them went to others meanwhile.
    pub moved: u32,
    /// The peers that there was a stream to.
    pub peers: Vec<Copies>,
}

/// How the copies of one peer compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// The peer.
    pub peer: NodeId,
    /// How many buckets are equal.
    pub equal: u32,
    /// How many are not.
    pub differ: u32,
    /// Which, the first [`MAX_NAMED`] of them.
    pub different: Vec<BucketId>,
    /// Of how many nothing is known: the peer did not answer in time.
    pub open: u32,
}

#[derive(Debug)]
struct Waiting {
    peer: NodeId,
    /// How many frames had been sent before it began. An answer to an older check says nothing.
    after: u64,
    /// Whether the last answer was that the copy differs.
    open: BTreeMap<BucketId, bool>,
    equal: u32,
    different: Vec<BucketId>,
    /// The stream has ended.
    lost: bool,
}

#[derive(Debug)]
pub(super) struct Round {
    number: u64,
    deadline: Nanos,
    over: bool,
    buckets: u32,
    moved: u32,
    peers: Vec<Waiting>,
}

/// The rounds under way.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    begun: u64,
    rounds: Vec<Round>,
}

impl Rounds {
    /// A stream has ended.
    pub(super) fn lose(&mut self, peer: NodeId) {
        let waiting = self.rounds.iter_mut().flat_map(|round| &mut round.peers);
        waiting.filter(|waiting| waiting.peer == peer).for_each(|waiting| waiting.lost = true);
    }
}

impl Replica {
    /// Begins to compare all own buckets with all connected peers that keep them. Returns the number to ask
    /// [`Self::verification`] for; nothing if there are [`MAX_ROUNDS`] already.
    pub fn verify(&mut self, now: Nanos, patience: Duration) -> Option<u64> {
        if self.rounds.rounds.len() >= MAX_ROUNDS {
            return None;
        }
        let own = own_buckets(&self.slots, self.cluster.node());
        let mut peers = Vec::new();
        for (number, peer) in (0..=u8::MAX).zip(&mut self.peers) {
            if peer.connection.is_none() {
                continue;
            }
            let node = NodeId(number);
            let kept = own.iter().copied().filter(|&bucket| self.placement.is_keeper(bucket, node));
            let kept: Vec<_> = kept.collect();
            kept.iter().for_each(|&bucket| peer.outgoing.compare(bucket));
            peers.push(Waiting {
                peer: node,
                after: peer.outgoing.sent(),
                open: kept.into_iter().map(|bucket| (bucket, false)).collect(),
                equal: 0,
                different: Vec::new(),
                lost: false,
            });
        }
        self.rounds.begun += 1;
        self.rounds.rounds.push(Round {
            number: self.rounds.begun,
            deadline: after(now, patience),
            over: false,
            buckets: own.len() as u32,
            moved: 0,
            peers,
        });
        Some(self.rounds.begun)
    }

    /// What a round has come to, and forgets it; nothing while it is under way.
    pub fn verification(&mut self, number: u64) -> Option<Verification> {
        let rounds = &mut self.rounds.rounds;
        let at = rounds.iter().position(|round| round.number == number && round.is_over())?;
        let Round { buckets, moved, peers, .. } = rounds.swap_remove(at);
        let peers = peers.into_iter().map(|waiting| {
            let Waiting { peer, open, equal, mut different, .. } = waiting;
            let unequal = open.iter().filter(|(_, differs)| **differs);
            different.extend(unequal.map(|(&bucket, _)| bucket));
            let differ = different.len() as u32;
            different.truncate(MAX_NAMED);
            let open = open.values().filter(|differs| !**differs).count() as u32;
            Copies { peer, equal, differ, different, open }
        });
        Some(Verification { buckets, moved, peers: peers.collect() })
    }

    pub(super) fn tick_rounds(&mut self, now: Nanos) {
        for round in &mut self.rounds.rounds {
            round.over |= now >= round.deadline;
            let mut gone = Vec::new();
            for waiting in round.peers.iter_mut().filter(|waiting| !waiting.lost) {
                let Some(peer) = self.peers.get_mut(usize::from(waiting.peer.0)) else { continue };
                waiting.open.retain(|&bucket, _| {
                    let owner = self.slots.get(usize::from(bucket.0)).map(|slot| slot.owner);
                    let kept = self.placement.is_keeper(bucket, waiting.peer);
                    let own = owner == Some(self.cluster.node()) && kept;
                    if !own {
                        gone.push(bucket);
                    } else if !peer.outgoing.is_comparing(bucket) {
                        // The peer did not take this node for the owner, or is being sent all of it.
                        peer.outgoing.compare(bucket);
                    }
                    own
                });
            }
            gone.sort_unstable();
            gone.dedup();
            round.moved += gone.len() as u32;
        }
    }

    pub(super) fn note_in_rounds(
        &mut self,
        peer: NodeId,
        bucket: BucketId,
        check: u64,
        finding: Finding,
    ) {
        let waiting = self.rounds.rounds.iter_mut().flat_map(|round| &mut round.peers);
        for waiting in waiting.filter(|waiting| waiting.peer == peer && check > waiting.after) {
            let Some(differs) = waiting.open.get_mut(&bucket) else { continue };
            match finding {
                Finding::Equal(_) => waiting.equal += 1,
                Finding::Diverged => waiting.different.push(bucket),
                Finding::Behind => {
                    *differs = true;
                    continue;
                }
                Finding::Late | Finding::NotOwner => continue,
            }
            waiting.open.remove(&bucket);
        }
    }
}

impl Round {
    fn is_over(&self) -> bool {
        self.over || self.peers.iter().all(|waiting| waiting.lost || waiting.open.is_empty())
    }
}
