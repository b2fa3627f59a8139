//! What the engine counts.

use super::takeover::Takeover;
use super::{commits, determined};
use crate::node::streams;

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
    /// Rounds over the node table.
    pub audits: u64,
    /// Flows that were found in another state than was known of them, or not at all.
    pub put_right: u64,
    /// Flows that were kept back from the peers and told of because their bucket was to leave.
    pub let_through: u64,
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
    /// Flows that nobody had answered, and that were ended early because the node table was filling up.
    pub early_drops: u64,
    /// Flows that were ended because rules that were loaded would not let them in.
    pub flushed: u64,
    /// Packets of buckets on their way here: handled when the bucket had come.
    pub held_sent: u64,
    /// Left out, because the owner before had handled them.
    pub held_skipped: u64,
    /// Dropped by the pipeline's decision, or because they could not be sent.
    pub held_dropped: u64,
    /// Dropped because the bucket stayed where it was.
    pub held_discarded: u64,
    /// Packets of yielding buckets whose handling could not be reported: they may be doubled.
    pub lost_handled: u64,
    /// From the last takeover's decision to its first packet, in microseconds; 0 if none has come.
    pub first_packet_micros: u64,
    /// What has come of waiting for peers to know flows.
    pub commits: commits::Counts,
    /// What has come of flows that were determined.
    pub determined: determined::Counts,
    /// What becomes of streams.
    pub streams: streams::Counters,
}

impl Tallies {
    /// Counts a takeover.
    pub fn note_takeover(&mut self, takeover: &Takeover) {
        self.takeovers += takeover.nodes() as u64;
        self.buckets_taken += takeover.taken() as u64;
    }

    /// The counters that have no place of their own in the status, by name.
    pub const fn named(&self) -> [(&'static str, u64); 25] {
        [
            ("engine_events", self.events),
            ("engine_events_lost", self.lost_events),
            ("engine_audits", self.audits),
            ("engine_flows_put_right", self.put_right),
            ("engine_flows_let_through", self.let_through),
            ("engine_events_refused", self.refused_events),
            ("engine_upcalls", self.upcalls),
            ("engine_installed", self.installed),
            ("engine_installs_refused", self.refused_installs),
            ("engine_cleared", self.cleared),
            ("engine_expired", self.expired),
            ("engine_early_drops", self.early_drops),
            ("engine_flows_flushed", self.flushed),
            ("engine_held_sent", self.held_sent),
            ("engine_held_skipped", self.held_skipped),
            ("engine_held_dropped", self.held_dropped),
            ("engine_held_discarded", self.held_discarded),
            ("engine_handled_lost", self.lost_handled),
            ("engine_flows_committed", self.commits.committed),
            ("engine_commits_timed_out", self.commits.timed_out),
            ("engine_commits_cut_short", self.commits.cut_short),
            ("engine_commits_refused", self.commits.refused),
            ("engine_flows_determined", self.determined.determined),
            ("engine_determined_placed", self.determined.placed),
            ("engine_determined_refused", self.determined.refused),
        ]
    }
}
