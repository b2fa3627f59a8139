//! The one clock of a node: `CLOCK_MONOTONIC`, which the kernel checks leases by too.
//!
//! Invariant: nothing else in the daemon reads a clock to decide something. The state machines get
//! the time as an argument; it is read here, as late as possible before they are called. Certificates are
//! valid by the calendar, which is read by who looks after them (`pki::facts::Moment`) and by no one else.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use testudo_packet::bucket::Nanos;

/// Now.
pub fn now() -> Nanos {
    // Without its clock a node may not go on for a moment; Linux always has this one.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC can be read");
    Nanos(Duration::from(time).as_nanos() as u64)
}

/// How long `later` is after `earlier`; nothing if it is not.
pub const fn between(earlier: Nanos, later: Nanos) -> Duration {
    Duration::from_nanos(later.0.saturating_sub(earlier.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let earlier = now();
        std::thread::sleep(Duration::from_millis(2));
        let later = now();
        assert!(between(earlier, later) >= Duration::from_millis(2));
        assert_eq!(between(later, earlier), Duration::ZERO);
    }
}
