//! `dnat` and `mapping` of `[[rule]]`, and what all rules together translate to.

use testudo_datapath::pools::Pool;
use testudo_packet::flow::{Address, Protocol};
use testudo_packet::rule::Action;

use super::document::{Section, Value};
use super::error::Fault;
use super::mapping::{self, Mapping};
use super::prefix::Prefix;
use super::service::{self, Service};
use super::snat;
use crate::protocol_names;
use crate::rules::Lines;
use crate::rules::line::Statement;

/// What rules can name.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    /// For `dnat`.
    pub services: &'a [Service],
    /// For `mapping`.
    pub mappings: &'a [Mapping],
}

/// Reads `dnat`, if it is there. The rule is about the service's own address and port, whatever they are.
pub(super) fn service(
    section: &Section<'_>,
    (action, protocol, source): (Action, Option<Protocol>, Option<Prefix>),
    named: Named<'_>,
) -> Result<Option<Service>, Fault> {
    let Some(value) = section.value("dnat") else { return Ok(None) };
    check_accepts(&value, action)?;
    let service = service::named(&value, named.services)?;
    if !protocol.is_some_and(Protocol::has_ports) {
        let why = match protocol {
            Some(other) => format!("but protocol is {}", protocol_names::name(other)),
            None => "but the rule names no protocol".to_owned(),
        };
        return Err(
            value.refuse_because(&why, r#"it beside protocol = "tcp", "udp" or "sctp" only"#)
        );
    }
    for key in ["destination", "destination_ports"] {
        if let Some(value) = section.value(key) {
            let why = "but dnat says where the flows go that the rule is about";
            return Err(value.refuse_because(why, format!("no {key} beside dnat")));
        }
    }
    if let Some(source) = source
        && !service.addresses.iter().any(|address| address.is_ipv4() == source.is_ipv4())
    {
        let why = format!("but source is {source}");
        return Err(value.refuse_because(&why, "a service with an address of that family"));
    }
    Ok(Some(service.clone()))
}

/// Reads `mapping`, if it is there.
pub(super) fn mapping(
    section: &Section<'_>,
    (action, protocol): (Action, Option<Protocol>),
    (source, destination): (Option<Prefix>, Option<Prefix>),
    named: Named<'_>,
) -> Result<Option<Mapping>, Fault> {
    let Some(value) = section.value("mapping") else { return Ok(None) };
    check_accepts(&value, action)?;
    let mapping = mapping::named(&value, named.mappings)?;
    if let Some(other) = ["snat", "dnat"].into_iter().find(|key| section.value(key).is_some()) {
        let why = format!("but the rule has {other} as well");
        return Err(value.refuse_because(&why, "one of them"));
    }
    if !protocol.is_none_or(snat::has_ports) {
        let expected = "it beside protocol = tcp, udp, icmp or icmpv6, or without a protocol";
        return Err(value.refuse_because("but the protocol has no ports", expected));
    }
    let out = source.is_some_and(|prefix| mapping::is_within(prefix, mapping.inside));
    let back = destination.is_some_and(|prefix| mapping::is_within(prefix, mapping.outside));
    if out || back {
        return Ok(Some(mapping.clone()));
    }
    let Mapping { inside, outside, .. } = mapping;
    let expected = format!("source within {inside}, or destination within {outside}");
    Err(value.refuse_because("but the rule is about other flows, too", expected))
}

/// Refuses translation by a rule that lets no flow begin.
pub(super) fn check_accepts(value: &Value<'_>, action: Action) -> Result<(), Fault> {
    if action == Action::Accept {
        return Ok(());
    }
    Err(value.refuse_because("but the rule lets no flow begin", "a rule that accepts"))
}

/// What the flows of a rule are translated to, if they are.
pub fn pool(says: &Statement) -> Option<Pool> {
    let pool = Pool {
        sources: says.snat.iter().copied().map(Address::from).collect(),
        backends: says.dnat.as_ref().map(Service::destinations).unwrap_or_default(),
        mapping: says.mapping.as_ref().map(Mapping::to_packet),
    };
    (pool != Pool::default()).then_some(pool)
}

/// What the flows of rules are translated to, what rules have in common once.
#[derive(Debug, Default)]
pub struct Collected {
    pools: Vec<Pool>,
    sources: usize,
}

impl Collected {
    /// One rule more. Gives how many addresses there are for sources by now.
    pub fn add(&mut self, says: &Statement) -> usize {
        if let Some(pool) = pool(says).filter(|pool| !self.pools.contains(pool)) {
            self.sources += pool.sources.len();
            self.pools.push(pool);
        }
        self.sources
    }
}

/// What the flows of all rules are translated to.
pub fn pools(lines: &Lines) -> Vec<Pool> {
    let mut collected = Collected::default();
    for line in &lines.0 {
        collected.add(&line.says);
    }
    collected.pools
}
