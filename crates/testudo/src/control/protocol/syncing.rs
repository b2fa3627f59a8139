//! How entries get to the other nodes, and whether all have the same.

use serde::{Deserialize, Serialize};
use testudo_cluster::replica;
use testudo_cluster::sync::lag::Delays;
use testudo_packet::bucket::Nanos;

/// How far entries have got to a peer. What counts from the start of the daemon is said to; the rest is of
/// the present stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sync {
    /// Whether there is a stream to it.
    pub connected: bool,
    /// Records sent to it.
    pub sent: u64,
    /// Of these, acknowledged by it.
    pub acknowledged: u64,
    /// Records that it has not acknowledged, sent or not: by how many it lags.
    pub pending: u64,
    /// How old the oldest change is that it has not acknowledged, in microseconds; 0 if there is none.
    pub lag_us: u64,
    /// Since the start: how long half of the changes took at most until they were acknowledged, in
    /// microseconds; `null` if there was none yet.
    pub delay_p50_us: Option<u64>,
    /// And 99 of 100.
    pub delay_p99_us: Option<u64>,
    /// Changes that had no record of their own, because their flow changed again before.
    pub coalesced: u64,
    /// How often so much waited that it was dropped, and all buckets were compared instead.
    pub resyncs: u64,
    /// Bytes sent since the start.
    pub bytes_sent: u64,
    /// Bytes received since the start.
    pub bytes_received: u64,
    /// What was refused of it since the start.
    pub rejected: Rejected,
    /// What comparing its copies with this node's buckets has come to since the start.
    pub comparison: Comparison,
}

/// What was refused of a peer, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejected {
    /// Overtaken by a newer state: nobody's fault.
    pub older: u64,
    /// From a node that does not own the bucket.
    pub not_owner: u64,
    /// No room in the common table.
    pub full: u64,
    /// Of a bucket that there is not.
    pub no_such_bucket: u64,
    /// By a reference to a flow that this node does not have; it is told of again.
    pub unknown: u64,
    /// Of a bucket that this node does not keep, or does no longer: the owner will know.
    #[serde(default)]
    pub not_kept: u64,
}

impl Rejected {
    /// All together.
    pub const fn total(&self) -> u64 {
        self.older + self.not_owner + self.full + self.no_such_bucket + self.unknown + self.not_kept
    }
}

/// What comparing a peer's copies with this node's buckets has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Comparison {
    /// How often a copy was found equal.
    pub equal: u64,
    /// Buckets that were sent again because the peer could not have all of them.
    pub caught_up: u64,
    /// How often a copy differed for no such reason.
    pub diverged: u64,
    /// How often one of these was found equal again.
    pub repaired: u64,
    /// Records that were sent with whole buckets.
    pub resent: u64,
    /// The last divergence.
    pub last: Option<Divergence>,
}

/// A copy that had come apart from its owner's bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Divergence {
    /// The bucket.
    pub bucket: u16,
    /// How long ago it was found, in milliseconds.
    pub ago_ms: u64,
    /// How it was repaired; `null` if it is not yet.
    pub repair: Option<Repair>,
}

/// How a copy was made equal again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// How long that took, in microseconds.
    pub took_us: u64,
    /// How often the whole bucket was sent.
    pub snapshots: u32,
    /// How many records that were.
    pub records: u32,
}

impl Sync {
    /// How far entries have got to a peer, as it is shown at a time.
    pub fn new(status: &replica::SyncStatus, delays: &Delays, now: Nanos) -> Self {
        let micros = |delay: std::time::Duration| delay.as_micros() as u64;
        let replica::Rejected { older, not_owner, full, no_such_bucket, unknown, not_kept } =
            status.rejected;
        let replica::Comparisons { equal, caught_up, diverged, repaired, resent, last } =
            status.comparisons;
        let last = last.map(|replica::Divergence { bucket, found, repair }| Divergence {
            bucket: bucket.0,
            ago_ms: now.millis_since(found),
            repair: repair.map(|replica::Repair { took, snapshots, records }| Repair {
                took_us: micros(took),
                snapshots,
                records,
            }),
        });
        Self {
            connected: status.connected,
            sent: status.sent,
            acknowledged: status.acknowledged,
            pending: status.pending,
            lag_us: status.oldest.map_or(0, |oldest| now.0.saturating_sub(oldest.0) / 1000),
            delay_p50_us: delays.within(500).map(micros),
            delay_p99_us: delays.within(990).map(micros),
            coalesced: status.coalesced,
            resyncs: status.resyncs,
            bytes_sent: status.bytes_sent,
            bytes_received: status.bytes_received,
            rejected: Rejected { older, not_owner, full, no_such_bucket, unknown, not_kept },
            comparison: Comparison { equal, caught_up, diverged, repaired, resent, last },
        }
    }
}

/// How far entries have got to all peers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Syncs {
    /// The node that answers.
    pub node: String,
    /// Who keeps which buckets' flows.
    #[serde(default)]
    pub copies: Copies,
    /// The others, in the order of the configuration.
    pub peers: Vec<SyncPeer>,
    /// What has come of first packets that waited for the others to know their flows.
    #[serde(default)]
    pub commits: Commits,
    /// Which flows are kept back from the others.
    #[serde(default)]
    pub replication: KeptBack,
}

/// Flows of the node's own that the others are not told of, because their rules say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptBack {
    /// How many there are now: they end with the node. An estimate while buckets are being loaded or taken
    /// out.
    pub not_replicated: u64,
    /// How many of them wait for their time.
    pub waiting: u64,
    /// How many were replicated before their time since the start, because too many waited.
    pub crowded: u64,
}

/// Who keeps copies of the buckets' flows, and what this node keeps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copies {
    /// How many successors keep a bucket's flows besides its owner: a number, or `all` other nodes.
    pub replicas: String,
    /// How many buckets' flows this node keeps, its own included.
    pub kept: u32,
    /// How many buckets it has taken over without a whole copy since its start, because nobody who had one
    /// lived: what it did not have is lost.
    pub taken_without: u64,
}

impl Default for Copies {
    fn default() -> Self {
        Self { replicas: "all".to_owned(), kept: 0, taken_without: 0 }
    }
}

/// What has come of first packets that waited for the other nodes, since the start of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Commits {
    /// Flows that all nodes knew, of those connected, before their first packet went on.
    pub committed: u64,
    /// Flows whose packets went on because the time had run out.
    pub timed_out: u64,
    /// Flows whose packets went on because their bucket was about to leave.
    pub cut_short: u64,
    /// Flows that found no room in the common table; their packets went on at once.
    pub refused: u64,
    /// How long half of the first packets waited at most, in microseconds; 0 if none has.
    pub p50_us: u64,
    /// And 99 of 100.
    pub p99_us: u64,
}

/// How far entries have got to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SyncPeer {
    /// Its name.
    pub name: String,
    /// How far.
    pub sync: Sync,
}

/// All nodes have begun to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verifying {
    /// What to ask for the outcome by.
    pub number: u64,
}

/// Whether all nodes have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Whether this is the outcome; if not, ask again.
    pub done: bool,
    /// Whether every copy of every bucket was compared and found equal.
    pub identical: bool,
    /// The buckets that were compared.
    pub buckets: u32,
    /// The nodes that were compared.
    pub nodes: Vec<String>,
    /// The nodes that are dead, as far as the node that answers knows; nothing is expected of them.
    pub dead: Vec<String>,
    /// Copies that differ.
    pub differences: Vec<Difference>,
    /// What could not be compared, and why, in words.
    pub unknown: Vec<String>,
}

/// Buckets of which a copy differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// Who owns them.
    pub owner: String,
    /// Whose copy differs.
    pub peer: String,
    /// How many.
    pub count: u32,
    /// Which, the first of them.
    pub buckets: Vec<u16>,
}
