//! `[[probe]]`: whom a node has to reach to be in good health.

use std::net::IpAddr;
use std::time::Duration;

use super::document::{Section, Value};
use super::error::Fault;
use super::{interface, prefix};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["target", "interface", "interval_ms", "lost"];

/// The most probes of a node.
pub const MAX_PROBES: usize = 16;

/// Somebody whom the node asks for an echo, from an address of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Who. Required; no address of the cluster's.
    pub target: IpAddr,
    /// By which interface; by default by the one that the route to the target leads to. Required for
    /// a link-local target.
    pub interface: Option<String>,
    /// `interval_ms`: how often. In milliseconds from 10 to 60,000; by default 1,000.
    pub interval: Duration,
    /// How many echoes in a row have to be missing for the target to count as gone: from 1 to 100;
    /// by default 3. So it takes from `lost` to `lost` + 1 intervals to be noticed.
    pub lost: u32,
}

/// Reads and checks all sections.
pub(super) fn read(sections: &[Section<'_>]) -> Result<Vec<Probe>, Fault> {
    let mut probes: Vec<Probe> = Vec::new();
    for section in sections {
        if probes.len() == MAX_PROBES {
            let expected = format!("at most {MAX_PROBES} sections [[probe]]");
            return Err(section.refuse(format!("number {}", MAX_PROBES + 1), expected));
        }
        section.only(KEYS)?;
        let value = section.required("target", TARGET)?;
        let target = target(&value)?;
        let interface = section.value("interface").map(|v| interface::device(&v)).transpose()?;
        if interface.is_none() && prefix::is_link_local(target) {
            let why = "which is another station on each link";
            return Err(value.refuse_because(why, "an interface beside it"));
        }
        if probes.iter().any(|probe| probe.target == target && probe.interface == interface) {
            return Err(value.refuse_because("listed twice", "each target once"));
        }
        let interval =
            section.milliseconds("interval_ms", 10..=60_000, Duration::from_millis(1000))?;
        let lost = section.number("lost", 1..=100, 3)?;
        probes.push(Probe { target, interface, interval, lost });
    }
    Ok(probes)
}

const TARGET: &str = r#"an address such as "192.0.2.1" or "2001:db8::1""#;

fn target(value: &Value<'_>) -> Result<IpAddr, Fault> {
    let target: IpAddr = value.text(TARGET)?.parse().map_err(|_| value.refuse(TARGET))?;
    if prefix::is_station(target) {
        return Ok(target);
    }
    Err(value.refuse_because("which no single station can have", TARGET))
}
