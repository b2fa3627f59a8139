//! Going over the node table for silent flows, a bounded share at a time.
//!
//! Whoever sends first packets faster than they time out fills any table, and a full window refuses whoever comes next.
//! So when the table fills up, expiry hurries: it goes over the table at its full pace, and flows that are expendable
//! (half open, unanswered, reset) end after a second of silence from three eighths of the table on, and after a tenth
//! of one from a half on. A flood then displaces itself, and a connection that opens meanwhile needs only to be
//! answered in that time. What both ends have spoken in stays.
//!
//! Once it hurries, it does so for a whole round. If it stopped as soon as there is room, the part that it has not come to
//! would go on filling up.
//!
//! Invariant: in a millisecond so many slots are looked at at most, whatever comes. Each takes 10 to 30 ns, whether a
//! flow is in it or not: a percent of a processor, and in a hurry four. A table of four million slots is gone over in
//! eight seconds, in a hurry in two, and a silent flow stays in it for that much longer.
//!
//! Why here and not where packets are handled: a first packet that finds its window full could take the place of an
//! unanswered flow at once. But the verifier would follow that search beyond its bound, two locks would be taken for one
//! packet, and a full window is rare as long as a part of the table is free.
//!
//! Why not SYN cookies: they have every connection ended at the gateway and begun again to the server, its sequence
//! numbers translated for its whole life. They protect servers, which can do that themselves.

use testudo_packet::bucket::Nanos;
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Timeouts;

use crate::interface::NodeTable;

/// In which time the whole table is looked at, in milliseconds.
const ROUND_MS: u64 = 1000;

/// How many slots are looked at in a millisecond at most, and how many in a hurry.
const SLOTS_PER_MS: u64 = 512;
const HURRIED_SLOTS_PER_MS: u64 = 2048;

/// How many slots are looked at in one turn at most: who is late goes over the table more slowly.
const MOST_SLOTS: usize = 65_536;

/// From which share of the table on expiry hurries, in eighths, and how long an expendable flow may then be silent, in
/// milliseconds. The more urgent first. Beyond a half first packets begin to meet full windows.
const HURRY: [(usize, u64); 2] = [(4, 100), (3, 1000)];

/// What has come of a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Flows that were silent for longer than their timeouts.
    pub silent: u64,
    /// Expendable flows that ended sooner, because the table fills up.
    pub early: u64,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expiry {
    at: usize,
    since: Nanos,
    /// Slots in use that this round has passed.
    passed: usize,
    /// Slots in use that the last round has left.
    left: usize,
    /// After how much silence expendable flows end, in milliseconds, and how many slots it is still to be so for.
    hurry: Option<u64>,
    rest: usize,
}

impl Expiry {
    /// Looks at as many slots as the time since the last turn allows, and shows each flow that it takes out.
    pub fn turn(
        &mut self,
        table: &impl NodeTable,
        now: Nanos,
        timeouts: &Timeouts,
        expired: &mut dyn FnMut(&FlowRecord),
    ) -> Turn {
        let capacity = table.capacity();
        self.look_at_the_time(table.len(), capacity);
        let passed = now.millis_since(self.since).min(ROUND_MS);
        let share = match self.hurry {
            Some(_) => HURRIED_SLOTS_PER_MS * passed,
            None => (SLOTS_PER_MS * passed).min(capacity as u64 * passed / ROUND_MS),
        };
        let count = usize::try_from(share).unwrap_or(capacity).min(MOST_SLOTS).min(capacity);
        if count == 0 {
            return Turn::default();
        }
        self.since = now;
        if table.is_empty() {
            return Turn::default();
        }
        let end = (self.at + count).min(capacity);
        let outcome = table.expire_part(self.at..end, now, timeouts, self.hurry, expired);
        self.passed += outcome.taken;
        self.rest = self.rest.saturating_sub(end - self.at);
        self.at = end;
        if end == capacity {
            (self.at, self.left, self.passed) = (0, self.passed, 0);
        }
        Turn { silent: outcome.silent as u64, early: outcome.early as u64 }
    }

    /// Begins to hurry, or to hurry more, if the table is so full that it matters; or stops after a round. Translated
    /// flows have two slots, which only a round over the table counts.
    fn look_at_the_time(&mut self, flows: usize, capacity: usize) {
        if self.rest == 0 {
            self.hurry = None;
        }
        let taken = flows.max(self.left);
        let urgent = HURRY.into_iter().find(|(eighths, _)| taken >= capacity / 8 * eighths);
        if let Some((_, silence)) = urgent
            && self.hurry.is_none_or(|hurry| silence < hurry)
        {
            (self.hurry, self.rest) = (Some(silence), capacity);
        }
    }
}
