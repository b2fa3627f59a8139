//! Comparing the peers' copies of own buckets with this node's, over and over, and what comes of it.
//!
//! Each tick a share of the buckets has its turn, so that all have had one after the configured time.
//! Of an own bucket each peer is sent count and digest (see [`crate::sync::comparing`]), behind all that it
//! was told before; it answers, and asks for all of the bucket if its copy differs. So a copy that
//! differs without anybody having noticed is found within the time of one comparison, once the peer has
//! no changes to catch up with, and sent again by itself.
//!
//! Invariant: as long as every node keeps what it was told, no comparison finds a divergence, under
//! whatever load, loss of streams, moves and deaths of nodes. The simulator holds every run to that.

use std::time::Duration;

use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::{Effect, Replica};
use crate::sync::comparing::{Finding, Resent, Verdict};
use crate::time::since;

/// Which share of the buckets has its turn in one tick at most; who is late compares more slowly.
const MOST: u32 = 8;

/// What comparing with a peer has come to. Numbers only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Comparisons {
    /// How often the peer's copy of a bucket was found equal.
    pub equal: u64,
    /// Buckets that were sent again to a peer that could not have all of them: its stream was new, or
    /// the bucket's owner, or so much waited for it that notes were dropped.
    pub caught_up: u64,
    /// How often the peer's copy of a bucket differed for no such reason.
    pub diverged: u64,
    /// How often one that had diverged was found equal again.
    pub repaired: u64,
    /// Records that were sent with all of a bucket.
    pub resent: u64,
    /// The last divergence.
    pub last: Option<Divergence>,
}

/// A copy of a bucket that was equal and then was not, though the owner had told of all changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The bucket.
    pub bucket: BucketId,
    /// When it was found.
    pub found: Nanos,
    /// How it was repaired; nothing as long as it is not.
    pub repair: Option<Repair>,
}

/// How a divergence was repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repair {
    /// From its finding to the peer's word that its copy is equal.
    pub took: Duration,
    /// How often the whole bucket was sent.
    pub snapshots: u32,
    /// How many records that were.
    pub records: u32,
}

impl Comparisons {
    fn note_equal(&mut self, now: Nanos, bucket: BucketId, resent: Option<Resent>) -> bool {
        self.equal += 1;
        let resent = resent.unwrap_or_default();
        self.resent += u64::from(resent.records);
        self.caught_up += u64::from(resent.diverged.is_none() && resent.snapshots > 0);
        let open = |last: &&mut Divergence| last.bucket == bucket && last.repair.is_none();
        if let Some(last) = self.last.as_mut().filter(open) {
            let Resent { snapshots, records, .. } = resent;
            last.repair = Some(Repair { took: since(now, last.found), snapshots, records });
        }
        self.repaired += u64::from(resent.diverged.is_some());
        resent.diverged.is_some()
    }
}

/// How far comparing has come.
#[derive(Debug, Default)]
pub(super) struct Turns {
    next: u32,
    since: Option<Nanos>,
}

impl Turns {
    /// The buckets whose turn it is.
    fn due(
        &mut self,
        now: Nanos,
        buckets: u32,
        period: Duration,
    ) -> impl Iterator<Item = BucketId> + use<> {
        let period = (period.as_nanos() as u64).max(1);
        let passed = since(now, *self.since.get_or_insert(now)).as_nanos() as u64;
        let count = u128::from(passed) * u128::from(buckets) / u128::from(period);
        if count > 0 {
            // What a tick is too early for counts for the next one.
            let counted = count * u128::from(period) / u128::from(buckets);
            self.since = self.since.map(|since| Nanos(since.0 + counted as u64));
        }
        let count = count.min(u128::from(buckets.div_ceil(MOST))) as u32;
        let first = self.next;
        self.next = (first + count) % buckets;
        (first..first + count).map(move |number| BucketId((number % buckets) as u16))
    }
}

impl Replica {
    pub(super) fn tick_comparison(&mut self, now: Nanos) {
        let (buckets, period) = (self.cluster.buckets(), self.cluster.timing().comparison);
        for bucket in self.turns.due(now, buckets, period) {
            let owned = self.is_undisputed(bucket);
            for (node, peer) in self.cluster.nodes().zip(&mut self.peers).filter(|_| owned) {
                if peer.connection.is_some() && self.placement.tells(bucket, node) {
                    peer.outgoing.compare(bucket);
                }
            }
        }
        self.peers.iter_mut().for_each(|peer| peer.outgoing.stamp(now));
        self.tick_rounds(now);
    }

    /// A peer says how its copy of a bucket was when it had handled the check in the frame of this number.
    pub(super) fn compared(
        &mut self,
        now: Nanos,
        from: NodeId,
        bucket: BucketId,
        check: u64,
        verdict: Verdict,
    ) {
        let owned = self.is_undisputed(bucket);
        let Some(peer) = self.peers.get_mut(usize::from(from.0)) else { return };
        let finding = peer.outgoing.judge(now, bucket, check, verdict);
        let comparisons = &mut peer.comparisons;
        match finding {
            Finding::Equal(resent) => {
                if comparisons.note_equal(now, bucket, resent)
                    && let Some(Divergence { repair: Some(repair), .. }) = comparisons.last
                {
                    self.effects.push_back(Effect::Repaired { peer: from, bucket, repair });
                }
            }
            // The next owner knows more by now; its word counts.
            Finding::Diverged if owned => {
                comparisons.diverged += 1;
                comparisons.last = Some(Divergence { bucket, found: now, repair: None });
                self.effects.push_back(Effect::Diverged { peer: from, bucket });
            }
            Finding::Diverged | Finding::Late | Finding::Behind | Finding::NotOwner => {}
        }
        self.note_in_rounds(from, bucket, check, finding);
        // A guest that does not keep the bucket has learned so by now.
        if finding == Finding::NotOwner && self.moves.next_owner(bucket) != Some(from) {
            self.dismiss(bucket, from);
        }
    }
}
