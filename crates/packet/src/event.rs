//! What the pipeline tells user space of flows, so that peers can be told.

use crate::entry::{FlowRecord, RECORD_WORDS};

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
