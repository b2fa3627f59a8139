//! `[limits]`: how much one source may ask for.

use testudo_datapath::Limits;
use testudo_packet::meter::Limit;

use super::document::Section;
use super::error::Fault;

/// How many packets of a source go up in a second while others wait, unless it is said.
const UPCALLS: u32 = 1000;

/// The largest number of each.
const MOST: u32 = 1_000_000;

/// Within what time as many flows as are allowed at once may begin again though nobody has answered: the default of
/// `tcp_opening`, after which they would be gone.
const HALF_OPEN_NANOS: u64 = 60_000_000_000;
const SECOND: u64 = 1_000_000_000;

const HALF_OPEN: &str = "half_open_per_source";
const UPCALL: &str = "upcalls_per_source";
const TRANSLATED: &str = "translated_per_source";

/// The keys of the section.
pub(super) const KEYS: [&str; 3] = [HALF_OPEN, UPCALL, TRANSLATED];

/// What holds without the section, or for a key that it leaves out.
#[must_use]
pub fn usual() -> Limits {
    Limits { upcalls: Limit::new(UPCALLS, SECOND), ..Limits::default() }
}

/// Reads and checks the section.
pub(super) fn read(section: &Section<'_>) -> Result<Limits, Fault> {
    section.only(&KEYS)?;
    let mut limits = usual();
    let number = |key: &'static str, of: &str| {
        let value = section.value(key);
        let expected = format!("{of} from 1 to {MOST}");
        value.map(|value| value.integer(1..=MOST, &expected)).transpose()
    };
    if let Some(flows) = number(HALF_OPEN, "a number of flows")? {
        limits.half_open = Limit::new(flows, HALF_OPEN_NANOS);
    }
    if let Some(packets) = number(UPCALL, "a number of packets a second")? {
        limits.upcalls = Limit::new(packets, SECOND);
    }
    if let Some(flows) = number(TRANSLATED, "a number of flows")? {
        limits.translated = flows.into();
    }
    Ok(limits)
}
