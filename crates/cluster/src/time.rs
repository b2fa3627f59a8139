//! Reckoning with moments of a clock that the caller reads.

use std::time::Duration;
use testudo_packet::bucket::Nanos;

/// The moment `wait` after `moment`; the end of time if that is past it.
#[must_use]
pub fn after(moment: Nanos, wait: Duration) -> Nanos {
    Nanos(moment.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
}

/// How long `later` is after `earlier`; nothing if it is not.
#[must_use]
pub fn since(later: Nanos, earlier: Nanos) -> Duration {
    Duration::from_nanos(later.0.saturating_sub(earlier.0))
}

/// The end of time.
pub const NEVER: Nanos = Nanos(u64::MAX);
