//! `[[mapping]]`: two prefixes whose addresses are translated into each other, one to one.
//!
//! Invariant: the sections are the same in every node's file, a witness's too, as those of services are and for the same
//! reason ([`super::service`]). No two prefixes overlap, so an address has one counterpart at most, and is placed as
//! that or as itself.

use testudo_datapath::likenesses::MAX_PREFIXES;
use testudo_datapath::mapping::{self, Kind};

use super::document::{Section, Value};
use super::error::Fault;
use super::prefix::Prefix;
use super::service::Service;
use super::{names, rule};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["name", "inside", "outside", "kind"];

/// The most sections: each is two prefixes.
const MAX_MAPPINGS: usize = MAX_PREFIXES / 2;

/// A mapping, by which rules translate both ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// What rules know it by. Required; unique.
    pub name: String,
    /// The prefix that hosts have. Required.
    pub inside: Prefix,
    /// The prefix that everybody else sees, of the same length. Required.
    pub outside: Prefix,
    /// How addresses are made of each other: `"static"`, by default, or `"nptv6"`.
    pub kind: Kind,
}

impl Mapping {
    /// As packets are translated by it.
    pub fn to_packet(&self) -> mapping::Mapping {
        let more = if self.inside.is_ipv4() { 96 } else { 0 };
        mapping::Mapping {
            inside: self.inside.address().into(),
            outside: self.outside.address().into(),
            length: self.inside.length() + more,
            kind: self.kind,
        }
    }
}

/// Reads and checks all sections.
pub(super) fn read(sections: &[Section<'_>], services: &[Service]) -> Result<Vec<Mapping>, Fault> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for section in sections {
        if mappings.len() == MAX_MAPPINGS {
            let seen = format!("number {}", MAX_MAPPINGS + 1);
            return Err(
                section.refuse(seen, format!("at most {MAX_MAPPINGS} sections [[mapping]]"))
            );
        }
        let mapping = read_one(section)?;
        check_apart(section, &mapping, &mappings, services)?;
        mappings.push(mapping);
    }
    Ok(mappings)
}

const KIND: &str = r#""static" or "nptv6""#;

fn read_one(section: &Section<'_>) -> Result<Mapping, Fault> {
    section.only(KEYS)?;
    let name = names::read(&section.required("name", names::EXPECTED)?)?;
    let expected = "a prefix or an address";
    let inside = rule::prefix(&section.required("inside", expected)?)?;
    let value = section.required("outside", expected)?;
    let outside = rule::prefix(&value)?;
    let shape = |prefix: Prefix| (prefix.is_ipv4(), prefix.length());
    if shape(inside) != shape(outside) || inside.length() == 0 {
        let why = format!("but inside is {inside}");
        return Err(value.refuse_because(&why, "two prefixes of one family and length above 0"));
    }
    let Some(value) = section.value("kind") else {
        return Ok(Mapping { name, inside, outside, kind: Kind::Plain });
    };
    let kind = match value.text(KIND)? {
        "static" => Kind::Plain,
        "nptv6" if inside.is_ipv4() || inside.length() > 64 => {
            let why = format!("but the prefixes are such as {inside}");
            return Err(value.refuse_because(&why, "it with IPv6 prefixes of 1 to 64 bits"));
        }
        "nptv6" => Kind::Neutral,
        _ => return Err(value.refuse(KIND)),
    };
    Ok(Mapping { name, inside, outside, kind })
}

/// Refuses a mapping that would give an address two counterparts, or two places.
fn check_apart(
    section: &Section<'_>,
    mapping: &Mapping,
    others: &[Mapping],
    services: &[Service],
) -> Result<(), Fault> {
    if others.iter().any(|other| other.name == mapping.name) {
        let value = section.required("name", names::EXPECTED)?;
        return Err(value.refuse_because("which another [[mapping]] has", "a name of its own"));
    }
    for (key, prefix) in [("inside", mapping.inside), ("outside", mapping.outside)] {
        let own = if key == "outside" { vec![mapping.inside] } else { Vec::new() };
        let known = others.iter().flat_map(|other| [other.inside, other.outside]).chain(own);
        if let Some(other) = known.into_iter().find(|other| overlap(*other, prefix)) {
            let why = format!("which overlaps {other}");
            let value = section.required(key, "")?;
            return Err(value.refuse_because(&why, "prefixes of which no two overlap"));
        }
        let ends = services.iter().flat_map(|service| {
            let backends = service.backends.iter().map(|backend| backend.ip());
            let all = service.addresses.iter().copied().chain(backends);
            all.map(|address| (service.name.as_str(), address))
        });
        let inside = |(_, address): &(&str, std::net::IpAddr)| prefix.contains(*address);
        if let Some((name, address)) = ends.into_iter().find(inside) {
            let why = format!("where service {name} has {address}");
            let value = section.required(key, "")?;
            return Err(value.refuse_because(&why, "a prefix without addresses of services"));
        }
    }
    Ok(())
}

fn overlap(one: Prefix, other: Prefix) -> bool {
    one.contains(other.address()) || other.contains(one.address())
}

/// The mapping that a rule names.
pub(super) fn named<'m>(value: &Value<'_>, mappings: &'m [Mapping]) -> Result<&'m Mapping, Fault> {
    let expected = "the name of a [[mapping]]";
    let name = value.text(expected)?;
    mappings.iter().find(|mapping| mapping.name == name).ok_or_else(|| value.refuse(expected))
}

/// Whether all addresses of one prefix are in another.
pub fn is_within(prefix: Prefix, other: Prefix) -> bool {
    prefix.length() >= other.length() && other.contains(prefix.address())
}
