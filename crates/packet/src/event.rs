//! What the pipeline tells user space of flows, so that peers can be told.

use crate::bucket::BucketId;
use crate::entry::{FlowRecord, RECORD_WORDS};
use crate::packet_hash::{HASHED_WORDS, Head, PacketHash};
use crate::siphash::HashKey;

/// What happened to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Its first packet was let in.
    Created,
    /// It has gone on to another phase: answered, established, closing.
    Updated,
    /// It is over; its entry lingers until its timeout.
    Closed,
}

/// A change of a flow, with the flow as it is after the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The flow after it.
    pub record: FlowRecord,
}

/// How many 64-bit words an event takes in the ring buffer.
pub const EVENT_WORDS: usize = RECORD_WORDS + 1;

impl Event {
    /// The event as the words of the ring buffer.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; EVENT_WORDS] {
        let [r0, r1, r2, r3, r4, r5, r6] = self.record.to_words();
        let kind = match self.kind {
            EventKind::Created => 1,
            EventKind::Updated => 2,
            EventKind::Closed => 3,
        };
        [kind, r0, r1, r2, r3, r4, r5, r6]
    }

    /// The event that these words stand for, or `None` if they are no event.
    pub const fn from_words(words: [u64; EVENT_WORDS]) -> Option<Self> {
        let [kind, r0, r1, r2, r3, r4, r5, r6] = words;
        let kind = match kind {
            1 => EventKind::Created,
            2 => EventKind::Updated,
            3 => EventKind::Closed,
            _ => return None,
        };
        match FlowRecord::from_words([r0, r1, r2, r3, r4, r5, r6]) {
            Some(record) => Some(Self { kind, record }),
            None => None,
        }
    }
}

/// A packet that was handled while its bucket was yielding, so that the next owner, which holds the
/// same packet, leaves it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handled {
    /// The packet's bucket.
    pub bucket: BucketId,
    /// Which packet.
    pub packet: PacketHash,
}

/// How many 64-bit words a handled packet takes in the ring buffer. Not as many as an event: the
/// length tells them apart.
pub const HANDLED_WORDS: usize = HASHED_WORDS + 1;

/// The first word of a handled packet in the ring buffer; the words of its [`Head`] follow.
#[inline(always)]
pub const fn handled_word(bucket: BucketId, length: u32) -> u64 {
    bucket.0 as u64 | (length as u64) << 32
}

/// What the pipeline tells user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occurrence {
    /// A flow has changed.
    Flow(Event),
    /// A packet of a yielding bucket was handled.
    Handled(Handled),
}

impl Occurrence {
    /// Reads an item of the ring buffer; `None` if it is none. The key is the cluster's.
    pub fn from_words(words: &[u64], key: HashKey) -> Option<Self> {
        if let Ok(words) = <[u64; EVENT_WORDS]>::try_from(words) {
            return Event::from_words(words).map(Self::Flow);
        }
        let (&first, words) = words.split_first()?;
        let head = Head { length: (first >> 32) as u32, words: words.try_into().ok()? };
        let bucket = BucketId(first as u16);
        Some(Self::Handled(Handled { bucket, packet: head.hash(key) }))
    }
}
