//! `[health]`: what is good health.

use std::time::Duration;

use super::cluster::Timing;
use super::document::Section;
use super::error::Fault;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &[
    "recovery_ms",
    "overload_ms",
    "overload_percent",
    "steal_percent",
    "late_ms",
    "drops_per_second",
];

/// What is good health.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// `recovery_ms`: how long something that was bad has to have been well before it counts as good
    /// again, so that a link that flaps makes the node unfit once. In milliseconds from 100 to
    /// 3,600,000; by default 5,000. Recommended longer than what flaps needs to come back.
    pub recovery: Duration,
    /// `overload_ms`: how long a limit below has to be exceeded without a break before the node
    /// counts as overloaded. In milliseconds from 1,000 to 60,000, in which there are samples once a
    /// second; by default 3,000.
    pub overload: Duration,
    /// `overload_percent`: how full the node table may be. From 10 to 100; by default 75. A table
    /// that is fuller begins to refuse flows.
    pub table_percent: u32,
    /// `steal_percent`: how much of the CPU time a hypervisor may give to others. From 1 to 100; by
    /// default 40.
    pub steal_percent: u32,
    /// `late_ms`: by how much the heartbeat thread may be let run too late. In milliseconds from 1 to
    /// 60,000; by default half the lease. Recommended less than lease − 2 · heartbeat.
    pub late: Duration,
    /// `drops_per_second`: how many packets and events may find no room, the kernel's backlog and the
    /// event ring together. From 1 to 1,000,000,000; by default 1,000.
    pub drops_per_second: u32,
}

/// Reads and checks the section, if it is there.
pub(super) fn read(section: Option<&Section<'_>>, timing: &Timing) -> Result<Health, Fault> {
    let default = Health {
        recovery: Duration::from_secs(5),
        overload: Duration::from_secs(3),
        table_percent: 75,
        steal_percent: 40,
        late: timing.lease / 2,
        drops_per_second: 1000,
    };
    let Some(section) = section else { return Ok(default) };
    section.only(KEYS)?;
    Ok(Health {
        recovery: section.milliseconds("recovery_ms", 100..=3_600_000, default.recovery)?,
        overload: section.milliseconds("overload_ms", 1000..=60_000, default.overload)?,
        table_percent: section.number("overload_percent", 10..=100, default.table_percent)?,
        steal_percent: section.number("steal_percent", 1..=100, default.steal_percent)?,
        late: section.milliseconds("late_ms", 1..=60_000, default.late)?,
        drops_per_second: section.number(
            "drops_per_second",
            1..=1_000_000_000,
            default.drops_per_second,
        )?,
    })
}
