//! What is kept of a flow.
//!
//! As in the reference's figure 5A, an entry has two parts: *distribution information* (bucket,
//! epoch) that says whose it is, and *state information* that packets are handled with. The bucket
//! is stored, never recomputed: buckets move without a hash, and a flow can be bound to a bucket
//! other than its hash.
//!
//! A flow whose packets are rewritten has a [`Translation`] besides. It is no part of the words of a record: few
//! flows have one, and it never changes.
//!
//! [`FlowRecord`] is the part that survives its node: what events carry, what peers exchange and
//! what the common table keeps. Counters and timers stay with the node that counts.

use crate::bucket::{BucketId, Epoch};
use crate::flow::{Endpoint, FlowKey, KEY_WORDS, Protocol};
use crate::tracking::Phase;

/// State information as one word, changed by compare-and-swap only.
///
/// `sequence` rises with each change, so the later of two states of one flow under one epoch is
/// known, and so a change meant for an entry that has been replaced meanwhile can't succeed: the
/// sequence of a slot never goes back, also not when another flow moves in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// Where the flow is in its life.
    pub phase: Phase,
    /// Whether the responder has answered.
    pub confirmed: bool,
    /// The rule that let the flow in.
    pub rule: u16,
    /// The number of changes so far.
    pub sequence: u32,
}

const CONFIRMED: u64 = 1 << 8;

impl FlowState {
    /// The state as a word.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.phase as u64
            | if self.confirmed { CONFIRMED } else { 0 }
            | (self.rule as u64) << 16
            | (self.sequence as u64) << 32
    }

    /// Whether the word is of a flow in its midst: both ends have spoken, and neither has begun to close. No packet
    /// changes it that has none of the flags which open and close connections ([`Course::is_usual`]).
    ///
    /// [`Course::is_usual`]: crate::window::Course::is_usual
    #[inline(always)]
    pub const fn is_midst(word: u64) -> bool {
        const PHASE: u64 = 0xff;
        let state = word & (PHASE | CONFIRMED);
        state == Phase::Established as u64 | CONFIRMED || state == Phase::Replied as u64 | CONFIRMED
    }

    /// The word of a slot whose flow has gone: no state, but its sequence.
    #[inline(always)]
    pub const fn gone(sequence: u32) -> u64 {
        (sequence as u64) << 32
    }

    /// The state that a word stands for, or `None` if its phase is none that this build knows.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        let Some(phase) = Phase::from_bits(word as u8) else { return None };
        Some(Self {
            phase,
            confirmed: word & CONFIRMED != 0,
            rule: (word >> 16) as u16,
            sequence: (word >> 32) as u32,
        })
    }
}

/// What the packets of a flow are turned into on their way from the initiator; what comes back is turned into
/// the flow's own endpoints again (RFC 3022 §2.2). An end that is not translated stands as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Translation {
    /// What the initiator becomes.
    pub source: Endpoint,
    /// What the responder becomes.
    pub destination: Endpoint,
}

impl Translation {
    /// The key that replies carry, as they spell it: the responder first.
    #[inline(always)]
    #[must_use]
    pub const fn reply_key(self, protocol: Protocol) -> FlowKey {
        FlowKey { initiator: self.destination, responder: self.source, protocol }
    }
}

/// A flow as nodes tell each other of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Distribution information: the bucket that the flow belongs to.
    pub bucket: BucketId,
    /// Distribution information: the epoch of that bucket in which the state was written.
    pub epoch: Epoch,
    /// State information: which packets belong to the flow.
    pub key: FlowKey,
    /// State information: where the flow is in its life.
    pub state: FlowState,
    /// State information: what its packets are turned into, if they are.
    pub translation: Option<Translation>,
}

/// How many 64-bit words a record takes.
pub const RECORD_WORDS: usize = KEY_WORDS + 2;

impl FlowRecord {
    /// Whether this record is newer than `other`, a record of the same flow.
    pub fn supersedes(&self, other: &Self) -> bool {
        (self.epoch, self.state.sequence) > (other.epoch, other.state.sequence)
    }

    /// The key that replies carry, as they spell it: the responder first.
    #[inline(always)]
    pub fn reply_key(&self) -> FlowKey {
        match self.translation {
            Some(translation) => translation.reply_key(self.key.protocol),
            None => self.key.reversed(),
        }
    }

    /// The record as words: key, state, distribution information. A translation is not in them.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; RECORD_WORDS] {
        let [k0, k1, k2, k3, k4] = self.key.to_words();
        let distribution = self.bucket.0 as u64 | (self.epoch.0 as u64) << 32;
        [k0, k1, k2, k3, k4, self.state.to_word(), distribution]
    }

    /// The record that [`FlowRecord::to_words`] made these words of, or `None` if a word can't be
    /// from there: an unknown phase, or bits set that have no meaning. It has no translation.
    #[inline(always)]
    pub const fn from_words(words: [u64; RECORD_WORDS]) -> Option<Self> {
        let [k0, k1, k2, k3, k4, state, distribution] = words;
        let Some(state) = FlowState::from_word(state) else { return None };
        let record = Self {
            bucket: BucketId(distribution as u16),
            epoch: Epoch((distribution >> 32) as u32),
            key: FlowKey::from_words([k0, k1, k2, k3, k4]),
            state,
            translation: None,
        };
        let back = record.to_words();
        if back[4] != k4 || back[5] != words[5] || back[6] != distribution {
            return None;
        }
        Some(record)
    }
}
