//! How far one peer's copies of this node's buckets are known to equal its own.
//!
//! The owner of a bucket sends what its table sums up to, behind all changes noted before, and the peer
//! answers. Where both had agreed, on this stream and under this ownership, and now do not, the copies
//! have diverged: nothing that the owner has told explains it. Where they had not agreed yet, because the
//! stream is new, or the bucket, or notes were dropped, the peer merely catches up.
//!
//! Invariant: an answer counts for the check that it was given to, and for no other. So a check that is
//! taken back, because the bucket is in doubt again, has no answer.
//!
//! A bucket that was sent again is checked once more at once. If it differs even then, the peer could not
//! take it, for want of room for example; it is then sent once with each comparison, and not in a circle.

use std::collections::BTreeMap;

use testudo_packet::bucket::{BucketId, Nanos};

use crate::bits::Bits;

/// What a peer says of its copy of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is equal.
    Equal,
    /// It is not, though the owner was the last to tell of it; the peer wants all of it.
    Differs,
    /// The peer takes another node for the owner.
    NotOwner,
    /// It is not, and another node has owned the bucket meanwhile; the peer wants all of it.
    Outdated,
}

impl Verdict {
    /// The verdict that has this number on the wire.
    pub(crate) fn from_number(number: u64) -> Option<Self> {
        let all = [Self::Equal, Self::Differs, Self::NotOwner, Self::Outdated];
        all.get(usize::try_from(number).ok()?).copied()
    }
}

/// What an answer comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// To no check that still counts.
    Late,
    /// The copies are equal, and were sent so often before that.
    Equal(Option<Resent>),
    /// They are not, which is no wonder.
    Behind,
    /// They were, and are not any more.
    Diverged,
    /// The peer does not take this node for the owner.
    NotOwner,
}

/// How a bucket was sent again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resent {
    pub(crate) snapshots: u32,
    pub(crate) records: u32,
    /// When it was found to have diverged.
    pub(crate) diverged: Option<Nanos>,
}

/// How far the peer's copies are known to be equal.
#[derive(Debug, Default)]
pub(crate) struct Comparing {
    agreed: Bits,
    /// The frames in which checks went that were not answered.
    asked: BTreeMap<BucketId, u64>,
    resent: BTreeMap<BucketId, Resent>,
    /// What this node has to answer: to which frame of the peer's, and what.
    answers: BTreeMap<BucketId, (u64, Verdict)>,
}

impl Comparing {
    /// The peer may lack what was told of a bucket.
    pub(crate) fn doubt(&mut self, bucket: BucketId) {
        self.agreed.remove(bucket.0.into());
        self.asked.remove(&bucket);
    }

    /// A check went in this frame.
    pub(crate) fn ask(&mut self, bucket: BucketId, frame: u64) {
        self.asked.insert(bucket, frame);
    }

    /// All of a bucket was sent. Says whether it is to be checked.
    pub(crate) fn note_sent(&mut self, bucket: BucketId, records: u32) -> bool {
        let resent = self.resent.entry(bucket).or_default();
        resent.snapshots = resent.snapshots.saturating_add(1);
        resent.records = resent.records.saturating_add(records);
        resent.snapshots == 1
    }

    /// The peer has answered the check in this frame.
    pub(crate) fn judge(
        &mut self,
        now: Nanos,
        bucket: BucketId,
        frame: u64,
        verdict: Verdict,
    ) -> Finding {
        if self.asked.get(&bucket) != Some(&frame) {
            return Finding::Late;
        }
        self.asked.remove(&bucket);
        let number = u32::from(bucket.0);
        let agreed = match verdict {
            Verdict::Equal => !self.agreed.insert(number),
            _ => self.agreed.remove(number),
        };
        match verdict {
            Verdict::Equal => Finding::Equal(self.resent.remove(&bucket)),
            Verdict::Differs if agreed => {
                self.resent.insert(bucket, Resent { diverged: Some(now), ..Resent::default() });
                Finding::Diverged
            }
            Verdict::Differs | Verdict::Outdated => Finding::Behind,
            Verdict::NotOwner => Finding::NotOwner,
        }
    }

    /// Whether the peer has not yet answered what it was asked of a bucket.
    pub(crate) fn is_asked(&self, bucket: BucketId) -> bool {
        self.asked.contains_key(&bucket)
    }

    /// This node owes the peer an answer to a check. Only the latest of a bucket is of interest.
    pub(crate) fn answer(&mut self, bucket: BucketId, frame: u64, verdict: Verdict) {
        self.answers.insert(bucket, (frame, verdict));
    }

    /// The next answer that this node owes.
    pub(crate) fn next_answer(&mut self) -> Option<(BucketId, u64, Verdict)> {
        self.answers.pop_first().map(|(bucket, (frame, verdict))| (bucket, frame, verdict))
    }

    /// How many answers this node owes.
    pub(crate) fn answers(&self) -> usize {
        self.answers.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUCKET: BucketId = BucketId(65_535);
    const NOW: Nanos = Nanos(5);

    fn judge(comparing: &mut Comparing, frame: u64, verdict: Verdict) -> Finding {
        comparing.ask(BUCKET, frame);
        comparing.judge(NOW, BUCKET, frame, verdict)
    }

    #[test]
    fn only_what_was_equal_can_diverge() {
        let mut comparing = Comparing::default();
        assert_eq!(judge(&mut comparing, 1, Verdict::Differs), Finding::Behind);
        assert!(comparing.note_sent(BUCKET, 7));
        let resent = Resent { snapshots: 1, records: 7, diverged: None };
        assert_eq!(judge(&mut comparing, 2, Verdict::Equal), Finding::Equal(Some(resent)));
        assert_eq!(judge(&mut comparing, 3, Verdict::Equal), Finding::Equal(None));
        assert_eq!(judge(&mut comparing, 4, Verdict::Differs), Finding::Diverged);
        // Its repair is under way, so that it differs is known.
        assert_eq!(judge(&mut comparing, 5, Verdict::Differs), Finding::Behind);
        assert!(comparing.note_sent(BUCKET, 3));
        assert!(!comparing.note_sent(BUCKET, 3), "it does not go in a circle");
        let resent = Resent { snapshots: 2, records: 6, diverged: Some(NOW) };
        assert_eq!(judge(&mut comparing, 6, Verdict::Equal), Finding::Equal(Some(resent)));
        comparing.doubt(BUCKET);
        assert_eq!(judge(&mut comparing, 7, Verdict::Differs), Finding::Behind);
        assert_eq!(judge(&mut comparing, 8, Verdict::Equal), Finding::Equal(None));
        assert_eq!(judge(&mut comparing, 9, Verdict::Outdated), Finding::Behind);
    }

    #[test]
    fn an_answer_to_another_check_says_nothing() {
        let mut comparing = Comparing::default();
        comparing.ask(BUCKET, 1);
        comparing.ask(BUCKET, 2);
        assert_eq!(comparing.judge(NOW, BUCKET, 1, Verdict::Equal), Finding::Late);
        assert!(comparing.is_asked(BUCKET));
        comparing.doubt(BUCKET);
        assert_eq!(comparing.judge(NOW, BUCKET, 2, Verdict::Equal), Finding::Late);
        assert_eq!(judge(&mut comparing, 3, Verdict::Differs), Finding::Behind);
    }

    #[test]
    fn a_peer_that_asks_all_the_time_costs_one_answer_a_bucket() {
        let mut comparing = Comparing::default();
        (0..1000).for_each(|frame| comparing.answer(BUCKET, frame, Verdict::Equal));
        assert_eq!(comparing.answers(), 1);
        assert_eq!(comparing.next_answer(), Some((BUCKET, 999, Verdict::Equal)));
        assert_eq!(comparing.next_answer(), None);
    }
}
