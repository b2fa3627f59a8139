//! `[[rule]]`: which flows may begin. The first rule that matches decides; with none, the flow may
//! not.
//!
//! A rule is kept as the file means it, with names of interfaces, because their numbers are known
//! only on the machine. What packets are compared with is made of its line ([`crate::rules`]), which a file of
//! rules has as well.

use std::net::IpAddr;
use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{Action, Commit, MAX_RULES, Ports};

use super::document::{Section, Value};
use super::error::Fault;
use super::interface::Interface;
use super::mapping::Mapping;
use super::prefix::{Prefix, PrefixError};
use super::service::Service;
use super::snat;
use super::translation::{self, Named};
use crate::protocol_names;
use crate::rules::COMMIT_TIMEOUT;
use crate::rules::line::Statement;

/// The keys of the section.
pub(super) const KEYS: &[&str] = &[
    "action",
    "commit",
    "commit_timeout_ms",
    "replicate",
    "replicate_after_ms",
    "protocol",
    "source",
    "destination",
    "source_ports",
    "destination_ports",
    "interface",
    "snat",
    "dnat",
    "mapping",
];

/// A rule as the file means it. A flow matches if its first packet matches all that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Whether the flow may begin. Required.
    pub action: Action,
    /// Whether its first packet waits for the other nodes to know the flow; by default not.
    pub commit: Commit,
    /// How long it waits at most.
    pub commit_timeout: Duration,
    /// From when on the other nodes are told of its flows; by default from their first packet.
    pub replicate: Replicate,
    /// Its protocol; by default any.
    pub protocol: Option<Protocol>,
    /// Where its first packet comes from; by default anywhere, of both families.
    pub source: Option<Prefix>,
    /// Where its first packet goes to; by default anywhere, of both families.
    pub destination: Option<Prefix>,
    /// The first packet's source port, for TCP and UDP; by default any.
    pub source_ports: Option<Ports>,
    /// The first packet's destination port, for TCP and UDP; by default any.
    pub destination_ports: Option<Ports>,
    /// The interface that the first packet comes in by, one of the file's; by default any.
    pub interface: Option<String>,
    /// The addresses that stand in for the source, with ports chosen for each flow; by default none.
    pub snat: Vec<IpAddr>,
    /// The service whose backends stand in for the destination, which is the service's own; by default none.
    pub dnat: Option<Service>,
    /// The prefixes that both ends are translated by; by default none.
    pub mapping: Option<Mapping>,
}

/// Reads and checks all sections.
pub(super) fn read(
    sections: &[Section<'_>],
    interfaces: &[Interface],
    named: Named<'_>,
) -> Result<Vec<Rule>, Fault> {
    if let Some(section) = sections.get(MAX_RULES as usize) {
        let seen = format!("number {}", MAX_RULES + 1);
        return Err(section.refuse(seen, format!("at most {MAX_RULES} sections [[rule]]")));
    }
    let mut rules = Vec::new();
    let mut size = 0;
    for section in sections {
        let rule = read_one(section, interfaces, named)?;
        size += Statement::of_section(&rule).size();
        if size > MAX_RULES as usize {
            let seen = format!("with which all come to {size} rules");
            let expected =
                format!("at most {MAX_RULES}: one for each section, and address of its service");
            return Err(section.refuse(seen, expected));
        }
        rules.push(rule);
    }
    snat::check_number(sections, &rules)?;
    Ok(rules)
}

fn read_one(
    section: &Section<'_>,
    interfaces: &[Interface],
    named: Named<'_>,
) -> Result<Rule, Fault> {
    section.only(KEYS)?;
    let action = action(&section.required("action", ACTION)?)?;
    let (commit, commit_timeout) = waiting(section, action)?;
    let protocol = section.value("protocol").map(|value| protocol(&value)).transpose()?;
    let replicate = replicate(section, action, commit, protocol)?;
    let source = section.value("source").map(|value| prefix(&value)).transpose()?;
    let destination = section.value("destination").map(|value| prefix(&value)).transpose()?;
    check_families(section, protocol, source, destination)?;
    let ports = |key| {
        let Some(value) = section.value(key) else { return Ok(None) };
        check_has_ports(&value, protocol)?;
        ports(&value).map(Some)
    };
    let source_ports = ports("source_ports")?;
    let destination_ports = ports("destination_ports")?;
    let interface =
        section.value("interface").map(|value| interface(&value, interfaces)).transpose()?;
    let dnat = translation::service(section, (action, protocol, source), named)?;
    let ends = (source, destination);
    let mapping = translation::mapping(section, (action, protocol), ends, named)?;
    let snat = snat::read(section, action, protocol, source.or(destination), interfaces)?;
    Ok(Rule {
        action,
        commit,
        commit_timeout,
        replicate,
        protocol,
        source,
        destination,
        source_ports,
        destination_ports,
        interface,
        snat,
        dnat,
        mapping,
    })
}

/// What first packets wait for, and how long.
fn waiting(section: &Section<'_>, action: Action) -> Result<(Commit, Duration), Fault> {
    let commit = match section.value("commit") {
        None => Commit::Async,
        Some(value) => commit(&value)?,
    };
    let timeout = section.value("commit_timeout_ms");
    if let (Commit::Sync, Action::Drop) = (commit, action) {
        let value = section.required("commit", COMMIT)?;
        return Err(value.refuse_because("but the rule lets no flow begin", "a rule that accepts"));
    }
    let Some(value) = timeout else { return Ok((commit, COMMIT_TIMEOUT)) };
    if commit == Commit::Async {
        return Err(value.refuse_because("but nothing waits", r#"it beside commit = "sync" only"#));
    }
    let milliseconds = value.integer(1..=1000, "1 to 1000 milliseconds")?;
    Ok((commit, Duration::from_millis(milliseconds.into())))
}

const COMMIT: &str = r#""async" or "sync""#;

fn commit(value: &Value<'_>) -> Result<Commit, Fault> {
    match value.text(COMMIT)? {
        "async" => Ok(Commit::Async),
        "sync" => Ok(Commit::Sync),
        _ => Err(value.refuse(COMMIT)),
    }
}

const REPLICATE: &str = r#""first-packet", "established", "after" or "never""#;

/// From when on the other nodes are told of flows.
fn replicate(
    section: &Section<'_>,
    action: Action,
    commit: Commit,
    protocol: Option<Protocol>,
) -> Result<Replicate, Fault> {
    let after = section.value("replicate_after_ms");
    let Some(value) = section.value("replicate") else {
        return match after {
            None => Ok(Replicate::FirstPacket),
            Some(after) => Err(after.refuse_because(NOT_AFTER, EXPECTED_AFTER)),
        };
    };
    let replicate = match (value.text(REPLICATE)?, &after) {
        ("first-packet", None) => Replicate::FirstPacket,
        ("established", None) => Replicate::Established,
        ("never", None) => Replicate::Never,
        ("after", Some(after)) => {
            let milliseconds = after.integer(1..=600_000, "1 to 600000 milliseconds")?;
            Replicate::After(Duration::from_millis(milliseconds.into()))
        }
        ("after", None) => {
            let why = "but nothing says after what time";
            return Err(value.refuse_because(why, "replicate_after_ms beside it"));
        }
        ("first-packet" | "established" | "never", Some(after)) => {
            return Err(after.refuse_because(NOT_AFTER, EXPECTED_AFTER));
        }
        _ => return Err(value.refuse(REPLICATE)),
    };
    if action == Action::Drop {
        return Err(value.refuse_because("but the rule lets no flow begin", "a rule that accepts"));
    }
    if commit == Commit::Sync && replicate != Replicate::FirstPacket {
        let why = r#"but commit = "sync" has the first packet wait for the other nodes"#;
        return Err(value.refuse_because(why, r#""first-packet""#));
    }
    match protocol.filter(|_| replicate == Replicate::Established) {
        Some(one_way @ (Protocol::ESP | Protocol::AH)) => {
            let why = format!("but nobody answers a flow of {}", protocol_names::name(one_way));
            Err(value.refuse_because(&why, r#""first-packet", "after" or "never""#))
        }
        _ => Ok(replicate),
    }
}

const NOT_AFTER: &str = "but nothing waits for a time";
const EXPECTED_AFTER: &str = r#"it beside replicate = "after" only"#;

const ACTION: &str = r#""accept" or "drop""#;

fn action(value: &Value<'_>) -> Result<Action, Fault> {
    match value.text(ACTION)? {
        "accept" => Ok(Action::Accept),
        "drop" => Ok(Action::Drop),
        _ => Err(value.refuse(ACTION)),
    }
}

fn protocol(value: &Value<'_>) -> Result<Protocol, Fault> {
    let expected = "tcp, udp, icmp, icmpv6, esp, ah or a number from 0 to 255";
    if value.is_integer() {
        let number = value.integer(0..=255, expected)?;
        return u8::try_from(number).map(Protocol).map_err(|_| value.refuse(expected));
    }
    protocol_names::parse(value.text(expected)?).ok_or_else(|| value.refuse(expected))
}

pub(super) fn prefix(value: &Value<'_>) -> Result<Prefix, Fault> {
    let expected = r#"a prefix such as "10.10.0.0/16" or "fd10::/64""#;
    let prefix = Prefix::parse(value.text(expected)?).map_err(|error| match error {
        PrefixError::Malformed => value.refuse(expected),
        PrefixError::HostBits { prefix } => {
            value.refuse_because(&error.to_string(), prefix.to_string())
        }
        PrefixError::TooLong { .. } | PrefixError::Mapped => {
            value.refuse_because(&error.to_string(), expected)
        }
    })?;
    if prefix.takes_in_mapped() {
        // IPv4 addresses are compared in their mapped form, so the rule would be about both.
        let why = "which takes in IPv4 in its mapped form";
        return Err(value.refuse_because(why, r#"prefixes such as "2000::/3" and "fc00::/7""#));
    }
    Ok(prefix)
}

fn check_families(
    section: &Section<'_>,
    protocol: Option<Protocol>,
    source: Option<Prefix>,
    destination: Option<Prefix>,
) -> Result<(), Fault> {
    if let (Some(source), Some(destination)) = (source, destination)
        && source.is_ipv4() != destination.is_ipv4()
    {
        let value = section.required("destination", "")?;
        let why = format!("but source is {source}");
        return Err(value.refuse_because(&why, "prefixes of one family"));
    }
    let fits_ipv4 = match protocol {
        Some(Protocol::ICMP) => true,
        Some(Protocol::ICMPV6) => false,
        _ => return Ok(()),
    };
    match source.or(destination).filter(|prefix| prefix.is_ipv4() != fits_ipv4) {
        None => Ok(()),
        Some(prefix) => {
            let value = section.required("protocol", "")?;
            let why = format!("but the rule is about {prefix}");
            Err(value.refuse_because(&why, "icmp with IPv4, icmpv6 with IPv6"))
        }
    }
}

fn check_has_ports(value: &Value<'_>, protocol: Option<Protocol>) -> Result<(), Fault> {
    let why = match protocol {
        Some(other) if other.has_ports() => return Ok(()),
        Some(other) => format!("but protocol {} has no ports", protocol_names::name(other)),
        None => "but the rule names no protocol".to_owned(),
    };
    Err(value.refuse_because(&why, r#"ports beside protocol = "tcp", "udp" or "sctp" only"#))
}

fn ports(value: &Value<'_>) -> Result<Ports, Fault> {
    let expected = r#"a port or a range such as "80" or "1024-65535""#;
    if value.is_integer() {
        let port = value.integer(0..=65_535, expected)?;
        let port = u16::try_from(port).map_err(|_| value.refuse(expected))?;
        return Ok(Ports { first: port, last: port });
    }
    let text = value.text(expected)?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |digits: &str| -> Result<u16, Fault> {
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| plain).ok_or_else(|| value.refuse(expected))
    };
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(
            value.refuse_because("a range that ends before it begins", format!("{last}-{first}"))
        );
    }
    Ok(Ports { first, last })
}

fn interface(value: &Value<'_>, interfaces: &[Interface]) -> Result<String, Fault> {
    let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let expected = || format!("one of {}", names.join(", "));
    let name = value.text(&expected())?;
    if names.contains(&name) { Ok(name.to_owned()) } else { Err(value.refuse(expected())) }
}
