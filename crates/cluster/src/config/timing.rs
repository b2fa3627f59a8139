//! How often, how long, and how soon.

use std::time::Duration;

use super::ConfigError;

/// How often, how long, and how soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The time between two heartbeats to one peer. A lease should survive the loss of some, so at
    /// most a third of `lease`.
    pub heartbeat: Duration,
    /// How long a node may handle packets after a heartbeat that a majority has acknowledged.
    pub lease: Duration,
    /// How long a peer must have been silent before its buckets may be taken.
    pub takeover: Duration,
    /// How long a cold cluster waits for a node that has not shown itself, before its buckets are
    /// taken. Nodes that are switched on together should all be up in this time.
    pub formation: Duration,
    /// How long a voter must have been dead before it is removed from the voters. Longer than a
    /// restart takes, shorter than until the next node dies.
    pub removal: Duration,
    /// How long a planned move may wait for the new owner before the old one lets go all the same.
    pub handover: Duration,
    /// By how much two nodes may be apart at most in what they have seen of the packets that both get;
    /// zero where each packet reaches one node. A planned move waits for it twice, and no packet waits
    /// with it.
    pub overlap: Duration,
    /// How long it takes until each peer's copy of each bucket has been compared with its owner's.
    pub comparison: Duration,
    /// How long it takes until each flow of a node's node table has been compared with its common
    /// table, and the other way round.
    pub audit: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(20),
            lease: Duration::from_millis(200),
            takeover: Duration::from_millis(260),
            formation: Duration::from_secs(5),
            removal: Duration::from_secs(3),
            handover: Duration::from_secs(1),
            overlap: Duration::from_millis(20),
            comparison: Duration::from_secs(10),
            audit: Duration::from_secs(60),
        }
    }
}

impl Timing {
    /// By how much the takeover wait must be longer than the lease: 10 ms, the tick of the coarsest
    /// clock a kernel can check leases by (`CLOCK_MONOTONIC_COARSE` at HZ=100 lags that much), and
    /// a hundredth of the lease. Clocks of two machines run apart by at most some hundred parts per
    /// million each, slewing included; a hundredth also covers the packet in flight at the end.
    #[must_use]
    pub fn margin(lease: Duration) -> Duration {
        Duration::from_millis(10) + lease / 100
    }

    /// How long after its start a node neither helps anyone keep a lease nor takes part in taking
    /// buckets. It may have done either in an earlier life that it does not remember: by now all
    /// leases that rested on its word have run out, and nobody counts its old votes.
    #[must_use]
    pub fn quarantine(&self) -> Duration {
        self.freshness() + self.takeover
    }

    /// How long a lease may be that rests on others' waiting for so long.
    #[must_use]
    pub fn lease_within(&self, wait: Duration) -> Duration {
        if wait <= self.takeover {
            return self.lease;
        }
        wait.saturating_sub(Self::margin(wait)).max(self.lease)
    }

    /// How old a peer's statement may be to count.
    #[must_use]
    pub fn freshness(&self) -> Duration {
        self.lease
    }

    /// How long a node that hears a majority, but finds nobody in charge, waits for that to change
    /// before it begins anew.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.takeover * 2
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let Self { heartbeat, lease, takeover, formation, .. } = *self;
        let Self { removal, handover, overlap, comparison, audit, .. } = *self;
        let short = |what, seen, least: Duration| {
            if seen >= least { Ok(()) } else { Err(ConfigError::TooShort { what, seen, least }) }
        };
        short("heartbeat", heartbeat, Duration::from_millis(1))?;
        short("lease", lease, heartbeat * 3)?;
        short("formation", formation, takeover)?;
        short("removal", removal, takeover)?;
        short("handover", handover, Duration::from_millis(10))?;
        short("comparison", comparison, Duration::from_millis(100))?;
        short("audit", audit, Duration::from_millis(100))?;
        let least = lease + Self::margin(lease);
        if takeover < least {
            return Err(ConfigError::TakeoverBeforeLease { takeover, lease, least });
        }
        let most = Duration::from_secs(3600);
        let longest = [formation, removal, handover, overlap, comparison, audit].into_iter().max();
        let longest = takeover.max(longest.unwrap_or_default());
        if longest > most { Err(ConfigError::TooLong { seen: longest, most }) } else { Ok(()) }
    }
}

/// The longest silence that voters wait out for a node that has announced it. A new life of a voter,
/// which does not remember what was announced, waits for so long before it suspects whom it has never
/// heard. What takes a new process longer has to be done before.
pub const MAX_PAUSE: Duration = Duration::from_secs(5);
