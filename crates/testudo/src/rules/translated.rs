//! What a line translates its flows to: `snat`, `masquerade`, `dnat` and `mapping`.
//!
//! The words mean what the keys of `[[rule]]` do ([`crate::config::translation`]). What they name is in the
//! configuration, which all nodes have alike; so a file can be replaced while the node runs, and services and mappings
//! can't. The addresses of an interface are put in its place here: [`Statement`] knows addresses only.

use std::net::IpAddr;
use std::ops::Range;

use testudo_datapath::pools::MAX_ADDRESSES;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{Action, Ports};

use super::Known;
use super::addresses::{Addresses, FEW, Item};
use super::line::Statement;
use super::parser::{Draft, Placed, because};
use crate::config::error::Fault;
use crate::config::interface::Interface;
use crate::config::mapping::{self, Mapping};
use crate::config::prefix::Prefix;
use crate::config::service::Service;
use crate::config::snat;
use crate::config::translation::Collected;
use crate::protocol_names;

/// What can stand in for sources.
pub const SOURCES: &str =
    "an address such as 192.0.2.1, a list in braces, or `interface` and the name of one";
/// One address.
pub const ADDRESS: &str = "an address that packets can come from, such as 192.0.2.1";

/// What stands in for the sources of a line's flows, as it is written.
#[derive(Clone, Debug)]
pub enum Source {
    /// One of these addresses.
    Listed(Vec<Placed<IpAddr>>),
    /// One of the cluster's addresses on this interface.
    Interface(String),
    /// One of those on the interface that the flow goes out by.
    Outgoing,
}

/// An address that can stand in for others.
pub fn address(word: &str) -> Option<IpAddr> {
    word.parse().ok().filter(|address| snat::can_stand_in(*address))
}

/// What a line says of translation, found in the configuration.
pub struct Translated<'a> {
    source: Option<Placed<Source>>,
    service: Option<Placed<&'a Service>>,
    mapping: Option<Placed<&'a Mapping>>,
    interfaces: Option<&'a [Interface]>,
}

impl<'a> Translated<'a> {
    /// Takes it from the parts of a line; what they have to do with each other is checked.
    pub fn take(
        draft: &mut Draft,
        action: Action,
        known: Option<Known<'a>>,
    ) -> Result<Self, Fault> {
        let (source, dnat, mapping) = (draft.snat.take(), draft.dnat.take(), draft.mapping.take());
        let snat = source.as_ref().map(|(span, source)| (span, source.word()));
        let dnat_said = dnat.as_ref().map(|(span, _)| (span, "dnat"));
        let mapping_said = mapping.as_ref().map(|(span, _)| (span, "mapping"));
        let first = snat.or(dnat_said).or(mapping_said);
        if let Some((span, word)) = first.filter(|_| action != Action::Accept) {
            let why = "but the line lets no flow begin";
            return Err(because(span.clone(), word, why, "it beside accept only"));
        }
        if let (Some((span, _)), Some((_, other))) = (mapping_said, snat.or(dnat_said)) {
            let why = format!("but the line has {other} as well");
            return Err(because(span.clone(), "mapping", &why, "one of them"));
        }
        if let Some((span, name)) = &dnat {
            check_alone(draft, span, (name, snat))?;
        }
        let service = dnat.map(|dnat| {
            find(dnat, "[[service]]", known.map(|known| known.services), |service| &service.name)
        });
        let mapping = mapping.map(|mapping| {
            find(mapping, "[[mapping]]", known.map(|known| known.mappings), |own| &own.name)
        });
        let interfaces = known.map(|known| known.interfaces);
        Ok(Self {
            source,
            service: service.transpose()?,
            mapping: mapping.transpose()?,
            interfaces,
        })
    }

    /// Puts it to the rest of the line.
    pub fn put(self, says: &mut Statement) -> Result<(), Fault> {
        if let Some((span, service)) = &self.service {
            put_service(says, span, service)?;
        }
        if let Some((span, source)) = &self.source {
            says.snat = self.sources(says, span, source)?;
        }
        if let Some((span, mapping)) = self.mapping {
            check_within(says, &span, mapping)?;
            says.mapping = Some(mapping.clone());
        }
        Ok(())
    }

    /// The addresses that stand in for the source.
    fn sources(
        &self,
        says: &Statement,
        span: &Range<usize>,
        source: &Source,
    ) -> Result<Vec<IpAddr>, Fault> {
        let word = source.word();
        if !says.protocol.is_some_and(snat::has_ports) {
            let why = no_ports(says.protocol);
            let expected = "it beside proto tcp, udp, icmp or icmpv6 only";
            return Err(because(span.clone(), word, &why, expected));
        }
        let v4 = family(says);
        let name = match source {
            Source::Listed(items) => return listed(span, items, v4),
            Source::Interface(name) => name,
            Source::Outgoing => match &says.outputs[..] {
                [name] => name,
                several => {
                    let why = format!("but oif names {} interfaces", several.len());
                    let expected = "oif with one interface beside it, or snat interface NAME";
                    return Err(because(span.clone(), word, &why, expected));
                }
            },
        };
        let interfaces = self.interfaces.ok_or_else(|| unknown(span, name, "[[interface]]"))?;
        let Some(interface) = interfaces.iter().find(|interface| interface.name == *name) else {
            let names: Vec<_> = interfaces.iter().map(|own| own.name.as_str()).collect();
            let expected = format!("one of {}", names.join(", "));
            return Err(because(span.clone(), word, &format!("the interface {name}"), &expected));
        };
        let addresses = snat::masquerade(interface, v4);
        if addresses.is_empty() {
            let of = v4.map_or(String::new(), |v4| format!("{} ", snat::family(v4)));
            let why = format!("but the cluster has no {of}address on {name} that can stand in");
            return Err(because(span.clone(), word, &why, "an interface with one"));
        }
        Ok(addresses)
    }
}

impl Source {
    const fn word(&self) -> &'static str {
        match self {
            Self::Listed(_) | Self::Interface(_) => "snat",
            Self::Outgoing => "masquerade",
        }
    }
}

fn no_ports(protocol: Option<Protocol>) -> String {
    match protocol {
        Some(other) => format!("but protocol {} has no ports", protocol_names::name(other)),
        None => "but the line names no protocol".to_owned(),
    }
}

/// Without the configuration nobody can say what a name stands for.
fn unknown(span: &Range<usize>, name: &str, section: &str) -> Fault {
    let expected = format!("a configuration with a section {section} of that name (--config FILE)");
    because(span.clone(), name, "but no configuration is known", &expected)
}

/// What a section of the configuration is about that has this name.
fn find<'a, T>(
    (span, name): Placed<String>,
    section: &str,
    sections: Option<&'a [T]>,
    own: impl Fn(&T) -> &str,
) -> Result<Placed<&'a T>, Fault> {
    let sections = sections.ok_or_else(|| unknown(&span, &name, section))?;
    if let Some(found) = sections.iter().find(|section| own(section) == name) {
        return Ok((span, found));
    }
    let names: Vec<_> = sections.iter().map(own).collect();
    let expected = match names.is_empty() {
        true => format!("a section {section} of that name in the configuration"),
        false => format!("the name of a {section}: one of {}", names.join(", ")),
    };
    Err(because(span, &name, "which there is not", &expected))
}

/// A line with `dnat` is about the service's own address and port.
fn check_alone(
    draft: &Draft,
    span: &Range<usize>,
    (name, snat): (&str, Option<(&Range<usize>, &str)>),
) -> Result<(), Fault> {
    let destinations = draft.destinations.as_ref().map(|(span, _)| (span, "daddr"));
    let ports = draft.destination_ports.as_ref().map(|(span, _)| (span, "dport"));
    if let Some((span, word)) = destinations.or(ports) {
        let why = "but dnat says where the flows go that the line is about";
        return Err(because(span.clone(), word, why, &format!("no {word} beside dnat")));
    }
    // The way out is that of the packet as it comes, which is to the service, not to a backend.
    if let Some((_, word @ "masquerade")) = snat {
        let why = format!("but the line has {word} as well, and its flows go out elsewhere");
        return Err(because(span.clone(), name, &why, "snat interface NAME in its place"));
    }
    Ok(())
}

fn put_service(says: &mut Statement, span: &Range<usize>, service: &Service) -> Result<(), Fault> {
    let Service { name, addresses, port, .. } = service;
    if !says.protocol.is_some_and(Protocol::has_ports) {
        let why = match says.protocol {
            Some(other) => format!("but proto is {}", protocol_names::name(other)),
            None => "but the line names no protocol".to_owned(),
        };
        return Err(because(span.clone(), name, &why, "it beside proto tcp, udp or sctp only"));
    }
    says.destinations = Addresses::few(addresses.iter().copied().map(Prefix::whole).collect());
    says.destination_ports = vec![Ports { first: *port, last: *port }];
    says.dnat = Some(service.clone());
    if says.size() == 0 {
        let why = "which has no address of the family of saddr";
        return Err(because(span.clone(), name, why, "a service with one"));
    }
    Ok(())
}

/// Whether a line is about IPv4, or about IPv6; nothing if it is about both.
fn family(says: &Statement) -> Option<bool> {
    let mut families =
        says.pairs().map(|(source, destination)| source.ipv4().or(destination.ipv4()));
    let of_protocol = says.ipv4_only();
    let first = families.next().flatten();
    of_protocol.or_else(|| first.filter(|_| families.all(|family| family == first)))
}

fn listed(
    span: &Range<usize>,
    items: &[Placed<IpAddr>],
    v4: Option<bool>,
) -> Result<Vec<IpAddr>, Fault> {
    let mut addresses = Vec::new();
    for (span, address) in items {
        let word = address.to_string();
        if let Some(v4) = v4.filter(|v4| *v4 != address.is_ipv4()) {
            let why = format!("but the line is about {}", snat::family(v4));
            return Err(because(span.clone(), &word, &why, "addresses of its family"));
        }
        if addresses.contains(address) {
            return Err(because(span.clone(), &word, "listed twice", "each address once"));
        }
        addresses.push(*address);
    }
    if addresses.len() > snat::MAX_OF_RULE {
        let seen = format!("a list of {} addresses", addresses.len());
        let expected = format!("at most {} of one line", snat::MAX_OF_RULE);
        return Err(Fault { span: span.clone(), seen, expected });
    }
    Ok(addresses)
}

/// A line with a mapping is about flows of which it translates an end, and no others.
fn check_within(says: &Statement, span: &Range<usize>, mapping: &Mapping) -> Result<(), Fault> {
    if !says.protocol.is_none_or(snat::has_ports) {
        let expected = "it beside proto tcp, udp, icmp or icmpv6, or without proto";
        return Err(because(span.clone(), "mapping", &no_ports(says.protocol), expected));
    }
    let within = |item: &Item, prefix| match item {
        Item::One(own) => mapping::is_within(*own, prefix),
        Item::Any | Item::Set(..) => false,
    };
    let Mapping { name, inside, outside, .. } = mapping;
    let translates = |(source, destination): (Item, Item)| {
        within(&source, *inside) || within(&destination, *outside)
    };
    if says.pairs().all(translates) {
        return Ok(());
    }
    let expected =
        format!("saddr within {inside}, or daddr within {outside}, of at most {FEW} prefixes");
    Err(because(span.clone(), name, "but the line is about other flows, too", &expected))
}

/// Refuses a line with which there are more addresses than there is room for, beside those of the lines before it.
pub fn check_number(
    before: &mut Collected,
    says: &Statement,
    span: &Range<usize>,
) -> Result<(), Fault> {
    let together = before.add(says);
    if together <= MAX_ADDRESSES {
        return Ok(());
    }
    let seen = format!("snat with {together} addresses in all lines up to here");
    let expected = format!("at most {MAX_ADDRESSES}; lines with the same list share it");
    Err(Fault { span: span.clone(), seen, expected })
}
