//! What the engine counts.

use super::takeover::Takeover;

/// How often things happened since the start; they only rise.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tallies {
    /// Peers whose buckets were taken over.
    pub takeovers: u64,
    /// Buckets taken over from peers.
    pub buckets_taken: u64,
    /// Events read.
    pub events: u64,
    /// Events that did not fit their ring.
    pub lost_events: u64,
    /// Events and expiries that the common table knew better than.
    pub refused_events: u64,
    /// Packets that came up.
    pub upcalls: u64,
    /// Entries installed from the common table, bucket by bucket.
    pub installed: u64,
    /// Entries for which the node table had no room.
    pub refused_installs: u64,
    /// Entries taken out of the node table because their buckets went to others.
    pub cleared: u64,
    /// Flows that were silent for too long.
    pub expired: u64,
}

impl Tallies {
    /// Counts a takeover.
    pub fn note_takeover(&mut self, takeover: &Takeover) {
        self.takeovers += takeover.nodes() as u64;
        self.buckets_taken += takeover.taken() as u64;
    }

    /// The counters that have no place of their own in the status, by name.
    pub const fn named(&self) -> [(&'static str, u64); 8] {
        [
            ("engine_events", self.events),
            ("engine_events_lost", self.lost_events),
            ("engine_events_refused", self.refused_events),
            ("engine_upcalls", self.upcalls),
            ("engine_installed", self.installed),
            ("engine_installs_refused", self.refused_installs),
            ("engine_cleared", self.cleared),
            ("engine_expired", self.expired),
        ]
    }
}
