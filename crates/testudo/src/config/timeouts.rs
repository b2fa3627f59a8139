//! `[timeouts]`: how long silent flows are kept, in seconds by protocol and phase.

use testudo_packet::tracking::Timeouts;

use super::document::Section;
use super::error::Fault;

/// A timeout's key and the place of its value.
type Setting = (&'static str, fn(&mut Timeouts) -> &mut u32);

/// Every timeout. Their meanings and defaults are those of [`Timeouts`].
const SETTINGS: [Setting; 14] = [
    ("tcp_opening", |timeouts| &mut timeouts.tcp_opening),
    ("tcp_established", |timeouts| &mut timeouts.tcp_established),
    ("tcp_closing", |timeouts| &mut timeouts.tcp_closing),
    ("tcp_time_wait", |timeouts| &mut timeouts.tcp_time_wait),
    ("tcp_reset", |timeouts| &mut timeouts.tcp_reset),
    ("sctp_opening", |timeouts| &mut timeouts.sctp_opening),
    ("sctp_established", |timeouts| &mut timeouts.sctp_established),
    ("sctp_closing", |timeouts| &mut timeouts.sctp_closing),
    ("icmp", |timeouts| &mut timeouts.icmp),
    ("gre_unreplied", |timeouts| &mut timeouts.gre_unreplied),
    ("gre_replied", |timeouts| &mut timeouts.gre_replied),
    ("ipsec", |timeouts| &mut timeouts.ipsec),
    ("unreplied", |timeouts| &mut timeouts.unreplied),
    ("replied", |timeouts| &mut timeouts.replied),
];

/// The longest timeout: a year. Longer ones are mistaken units.
const MAX_SECONDS: u32 = 365 * 24 * 3600;

/// The keys of the section.
pub(super) fn keys() -> Vec<&'static str> {
    SETTINGS.iter().map(|(key, _)| *key).collect()
}

/// Reads and checks the section.
pub(super) fn read(section: &Section<'_>) -> Result<Timeouts, Fault> {
    section.only(&keys())?;
    let expected = format!("seconds from 1 to {MAX_SECONDS}");
    let mut timeouts = Timeouts::default();
    for (key, place) in SETTINGS {
        if let Some(value) = section.value(key) {
            *place(&mut timeouts) = value.integer(1..=MAX_SECONDS, &expected)?;
        }
    }
    Ok(timeouts)
}
