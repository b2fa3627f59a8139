//! `[[service]]`: an address and a port that stand for other machines, which answer.
//!
//! Invariant: the sections are the same in every node's file, a witness's too, because the endpoints of a service are
//! placed alike ([`testudo_datapath::likenesses`]): two nodes that did not agree on them would both take a packet for
//! theirs, or neither would. So they are part of what nodes compare when they meet. What may reach a service, and
//! whether the client's address is translated as well, rules say, which name it.

use std::net::{IpAddr, SocketAddr};

use testudo_datapath::likenesses::MAX_ENDPOINTS;
use testudo_packet::flow::Endpoint;

use super::document::{Section, Value};
use super::error::Fault;
use super::{names, snat};

/// The keys of the section.
pub(super) const KEYS: &[&str] = &["name", "addresses", "port", "backends"];

/// The most sections.
const MAX_SERVICES: usize = 256;

/// The most addresses, and the most backends, of one service.
const MAX_LISTED: usize = 64;

/// A service, by which rules translate destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// What rules know it by. Required; unique.
    pub name: String,
    /// Where clients find it. Required.
    pub addresses: Vec<IpAddr>,
    /// At which port of each address. Required.
    pub port: u16,
    /// Who answers, at which port: by default the service's. Required, one for each family of the addresses.
    pub backends: Vec<SocketAddr>,
}

impl Service {
    /// Those endpoints of it that are placed alike: one group of each family.
    pub fn groups(&self) -> [Vec<Endpoint>; 2] {
        let own = self.addresses.iter().map(|address| SocketAddr::new(*address, self.port));
        let all: Vec<_> = own.chain(self.backends.iter().copied()).collect();
        [true, false].map(|v4| {
            let family = all.iter().filter(|end| end.is_ipv4() == v4);
            family.copied().map(endpoint).collect()
        })
    }

    /// Who answers, as packets are sent there.
    pub fn destinations(&self) -> Vec<Endpoint> {
        self.backends.iter().copied().map(endpoint).collect()
    }
}

fn endpoint(at: SocketAddr) -> Endpoint {
    Endpoint { address: at.ip().into(), port: at.port() }
}

/// Reads and checks all sections.
pub(super) fn read(sections: &[Section<'_>]) -> Result<Vec<Service>, Fault> {
    let mut services: Vec<Service> = Vec::new();
    let mut endpoints = 0;
    for section in sections {
        if services.len() == MAX_SERVICES {
            let seen = format!("number {}", MAX_SERVICES + 1);
            return Err(
                section.refuse(seen, format!("at most {MAX_SERVICES} sections [[service]]"))
            );
        }
        let service = read_one(section)?;
        if services.iter().any(|other| other.name == service.name) {
            let value = section.required("name", names::EXPECTED)?;
            return Err(value.refuse_because("which another [[service]] has", "a name of its own"));
        }
        endpoints += service.addresses.len() + service.backends.len();
        if endpoints > MAX_ENDPOINTS {
            let seen = format!("with {endpoints} addresses and backends in all up to here");
            return Err(section.refuse(seen, format!("at most {MAX_ENDPOINTS}")));
        }
        services.push(service);
    }
    Ok(services)
}

const ADDRESSES: &str = r#"a list of 1 to 64 addresses such as ["198.51.100.1"]"#;
const BACKENDS: &str =
    r#"a list of 1 to 64 such as ["10.20.0.9:8080", "[fd20::9]:8080", "10.20.0.10"]"#;
const PORT: &str = "a port from 1 to 65535";

fn read_one(section: &Section<'_>) -> Result<Service, Fault> {
    section.only(KEYS)?;
    let name = names::read(&section.required("name", names::EXPECTED)?)?;
    let listed = section.required("addresses", ADDRESSES)?;
    let addresses = list(&listed, ADDRESSES, snat::address)?;
    let port = section.required("port", PORT)?.integer(1..=65_535, PORT)? as u16;
    let value = section.required("backends", BACKENDS)?;
    let backends = list(&value, BACKENDS, |item| backend(item, port))?;
    for v4 in [true, false] {
        let wanted = addresses.iter().any(|address| address.is_ipv4() == v4);
        let there = backends.iter().any(|backend| backend.is_ipv4() == v4);
        let family = snat::family(v4);
        if wanted && !there {
            let why = format!("but the service has an {family} address");
            return Err(value.refuse_because(&why, format!("an {family} backend among them")));
        }
        if there && !wanted {
            let why = format!("but the service has no {family} address");
            return Err(value.refuse_because(&why, "backends of its addresses' families"));
        }
    }
    Ok(Service { name, addresses, port, backends })
}

/// Items of a list, each of which is there once.
fn list<T: PartialEq>(
    value: &Value<'_>,
    expected: &str,
    read: impl Fn(&Value<'_>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let mut items = Vec::new();
    for item in value.items(expected)? {
        let next = read(&item)?;
        if items.contains(&next) {
            return Err(item.refuse_because("listed twice", "each once"));
        }
        items.push(next);
    }
    if items.is_empty() || items.len() > MAX_LISTED {
        return Err(value.refuse(expected));
    }
    Ok(items)
}

fn backend(value: &Value<'_>, port: u16) -> Result<SocketAddr, Fault> {
    let expected = r#"an address with or without a port, such as "10.20.0.9:8080""#;
    let text = value.text(expected)?;
    let at = text.parse().or_else(|_| text.parse().map(|address| SocketAddr::new(address, port)));
    let at: SocketAddr = at.map_err(|_| value.refuse(expected))?;
    if at.port() == 0 || !snat::can_stand_in(at.ip()) {
        return Err(value.refuse(expected));
    }
    Ok(at)
}

/// The service that a rule names.
pub(super) fn named<'s>(value: &Value<'_>, services: &'s [Service]) -> Result<&'s Service, Fault> {
    let expected = "the name of a [[service]]";
    let name = value.text(expected)?;
    services.iter().find(|service| service.name == name).ok_or_else(|| value.refuse(expected))
}
