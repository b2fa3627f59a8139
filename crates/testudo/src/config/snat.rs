//! `snat` of `[[rule]]`: the addresses that stand in for the source of its flows.

use std::net::IpAddr;

use testudo_datapath::pools::MAX_ADDRESSES;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::Action;

use super::cluster::Mode;
use super::document::{Section, Value};
use super::error::Fault;
use super::interface::Interface;
use super::prefix::{self, Prefix};
use super::rule::Rule;
use super::translation::{Collected, check_accepts};
use crate::protocol_names;
use crate::rules::line::Statement;

/// The most addresses of one rule.
pub const MAX_OF_RULE: usize = 64;

const EXPECTED: &str =
    r#"a list of 1 to 64 addresses such as ["192.0.2.1"], or the name of an interface"#;

/// Reads the key, if it is there.
pub(super) fn read(
    section: &Section<'_>,
    action: Action,
    protocol: Option<Protocol>,
    about: Option<Prefix>,
    interfaces: &[Interface],
) -> Result<Vec<IpAddr>, Fault> {
    let Some(list) = section.value("snat") else { return Ok(Vec::new()) };
    check_accepts(&list, action)?;
    if !protocol.is_some_and(has_ports) {
        let why = match protocol {
            Some(other) => format!("but protocol {} has no ports", protocol_names::name(other)),
            None => "but the rule names no protocol".to_owned(),
        };
        return Err(
            list.refuse_because(&why, "it beside protocol = tcp, udp, sctp, icmp or icmpv6 only")
        );
    }
    let v4 = match protocol {
        Some(Protocol::ICMP) => Some(true),
        Some(Protocol::ICMPV6) => Some(false),
        _ => about.map(|prefix| prefix.is_ipv4()),
    };
    if list.is_text() {
        return of_interface(&list, v4, interfaces);
    }
    let mut addresses = Vec::new();
    for item in list.items(EXPECTED)? {
        let address = address(&item)?;
        if let Some(v4) = v4.filter(|v4| *v4 != address.is_ipv4()) {
            let why = format!("but the rule is about {}", family(v4));
            return Err(item.refuse_because(&why, "addresses of its family"));
        }
        if addresses.contains(&address) {
            return Err(item.refuse_because("listed twice", "each address once"));
        }
        addresses.push(address);
    }
    if addresses.is_empty() || addresses.len() > MAX_OF_RULE {
        let seen = format!("snat is a list of {}", addresses.len());
        return Err(list.refuse_as(seen, EXPECTED));
    }
    Ok(addresses)
}

/// How a family is called.
pub const fn family(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// The cluster's addresses on an interface, of the family that the rule is about (masquerading).
fn of_interface(
    value: &Value<'_>,
    v4: Option<bool>,
    interfaces: &[Interface],
) -> Result<Vec<IpAddr>, Fault> {
    let name = value.text(EXPECTED)?;
    let Some(interface) = interfaces.iter().find(|interface| interface.name == name) else {
        return Err(value.refuse("the name of an [[interface]], or a list of addresses"));
    };
    let addresses = masquerade(interface, v4);
    if addresses.is_empty() {
        let of = v4.map_or("", family);
        let why = format!("where the cluster has no {of} address that can stand in");
        return Err(value.refuse_because(&why.replace("  ", " "), "an interface with one"));
    }
    Ok(addresses)
}

/// Those of the cluster's addresses on an interface that can stand in for others, of one family or of both.
pub fn masquerade(interface: &Interface, v4: Option<bool>) -> Vec<IpAddr> {
    let fits = |address: &IpAddr| {
        v4.is_none_or(|v4| v4 == address.is_ipv4()) && !prefix::is_link_local(*address)
    };
    interface.addresses.iter().copied().filter(fits).collect()
}

/// Whether packets of a protocol have a port, or an identifier, that can be chosen.
pub fn has_ports(protocol: Protocol) -> bool {
    protocol.has_ports() || matches!(protocol, Protocol::ICMP | Protocol::ICMPV6)
}

/// Refuses translation where packets are only shown.
pub(super) fn check_mode(sections: &[Section<'_>], mode: Mode) -> Result<(), Fault> {
    let shown = sections.iter().filter(|_| mode == Mode::Tap);
    for key in ["snat", "dnat", "mapping"] {
        if let Some(value) = shown.clone().find_map(|section| section.value(key)) {
            let why = "but in tap mode packets are shown as they are";
            return Err(value.refuse_because(why, format!("no {key}")));
        }
    }
    Ok(())
}

pub(super) fn address(value: &Value<'_>) -> Result<IpAddr, Fault> {
    let expected = "an address that packets can come from";
    let address = value.text(expected)?.parse().ok().filter(|address| can_stand_in(*address));
    address.ok_or_else(|| value.refuse(expected))
}

/// Whether packets can come from an address, and go there.
pub fn can_stand_in(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || mapped)
}

/// Refuses more addresses than there is room for, of all rules together.
pub(super) fn check_number(sections: &[Section<'_>], rules: &[Rule]) -> Result<(), Fault> {
    let mut collected = Collected::default();
    for (section, rule) in sections.iter().zip(rules) {
        let together = collected.add(&Statement::of_section(rule));
        if together > MAX_ADDRESSES {
            let seen = format!("snat with {together} addresses in all rules up to here");
            let expected = format!("at most {MAX_ADDRESSES}; rules with the same list share it");
            return Err(section.refuse(seen, expected));
        }
    }
    Ok(())
}
