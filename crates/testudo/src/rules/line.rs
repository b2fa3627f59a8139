//! A line of a rule file as it is meant, and as it is written.
//!
//! Invariant: what a [`Statement`] is printed as is read as the same one again, where its sets are known. So nodes can be compared
//! by what they print, and a line keeps its number from one reading to the next ([`super::numbers`]).

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{Action, Commit, Ports};

use super::addresses::{Addresses, Item};
use crate::config::mapping::Mapping;
use crate::config::prefix::Prefix;
use crate::config::rule::Rule;
use crate::config::service::Service;
use crate::protocol_names;

/// A rule and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The line of the file, or the place among the sections `[[rule]]`, from 1.
    pub at: usize,
    /// The line as it stands in the file, on one line and without its comment sign.
    pub text: String,
    /// What it says.
    pub says: Statement,
}

/// What a rule says. A flow matches if its first packet matches every part, and a list if it matches one
/// item; an empty list is any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The interface that the first packet comes in by.
    pub inputs: Vec<String>,
    /// The interface that the node's routes send it out by.
    pub outputs: Vec<String>,
    /// Where it comes from.
    pub sources: Addresses,
    /// Where it goes to.
    pub destinations: Addresses,
    /// Its protocol, or any.
    pub protocol: Option<Protocol>,
    /// Whether the line names the one ICMP message that begins flows.
    pub echo: bool,
    /// Its source port.
    pub source_ports: Vec<Ports>,
    /// Its destination port.
    pub destination_ports: Vec<Ports>,
    /// What stands in for the source.
    pub snat: Vec<IpAddr>,
    /// What stands in for the destination, which is the service's own.
    pub dnat: Option<Service>,
    /// What both ends are translated by.
    pub mapping: Option<Mapping>,
    /// What becomes of the flow.
    pub action: Action,
    /// From when on the other nodes are told of it.
    pub replicate: Replicate,
    /// Whether its first packet waits for them.
    pub commit: Commit,
    /// How long at most.
    pub commit_timeout: Duration,
    /// Whether each such flow is told in the log, and what the message begins with.
    pub log: Option<String>,
    /// Whether the status of the node shows the line's count among its counters.
    pub count: bool,
    /// For people.
    pub comment: Option<String>,
}

impl Statement {
    /// One that matches every flow.
    pub const fn any(action: Action) -> Self {
        Self {
            inputs: Vec::new(),
            outputs: Vec::new(),
            sources: Addresses::Any,
            destinations: Addresses::Any,
            protocol: None,
            echo: false,
            source_ports: Vec::new(),
            destination_ports: Vec::new(),
            snat: Vec::new(),
            dnat: None,
            mapping: None,
            action,
            replicate: Replicate::FirstPacket,
            commit: Commit::Async,
            commit_timeout: super::COMMIT_TIMEOUT,
            log: None,
            count: false,
            comment: None,
        }
    }

    /// What a section `[[rule]]` says.
    pub fn of_section(rule: &Rule) -> Self {
        Self {
            inputs: Vec::from_iter(rule.interface.clone()),
            sources: Addresses::few(Vec::from_iter(rule.source)),
            destinations: Addresses::few(match &rule.dnat {
                Some(service) => service.addresses.iter().copied().map(Prefix::whole).collect(),
                None => Vec::from_iter(rule.destination),
            }),
            protocol: rule.protocol,
            source_ports: Vec::from_iter(rule.source_ports),
            destination_ports: match &rule.dnat {
                Some(Service { port, .. }) => vec![Ports { first: *port, last: *port }],
                None => Vec::from_iter(rule.destination_ports),
            },
            snat: rule.snat.clone(),
            dnat: rule.dnat.clone(),
            mapping: rule.mapping.clone(),
            replicate: rule.replicate,
            commit: rule.commit,
            commit_timeout: rule.commit_timeout,
            ..Self::any(rule.action)
        }
    }

    /// How long first packets wait for the peers at most, if they do.
    pub fn waits(&self) -> Option<Duration> {
        (self.commit == Commit::Sync).then_some(self.commit_timeout)
    }

    /// How many rules packets are compared with for this one; 0 if no packet can match it.
    pub fn size(&self) -> usize {
        let ports = |ports: &[Ports]| ports.len().max(1);
        let ports = ports(&self.source_ports).saturating_mul(ports(&self.destination_ports));
        let links = self.inputs.len().max(1) * self.outputs.len().max(1);
        self.pairs().count().saturating_mul(ports).saturating_mul(links)
    }

    /// Whether the protocol is IPv4's, or IPv6's; nothing if it is of both.
    pub(super) fn ipv4_only(&self) -> Option<bool> {
        match self.protocol {
            Some(Protocol::ICMP) => Some(true),
            Some(Protocol::ICMPV6) => Some(false),
            _ => None,
        }
    }

    /// Each source with each destination, of one family and of that of the protocol. Few, because a set is one.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (Item, Item)> {
        let (sources, destinations) = (self.sources.items(), self.destinations.items());
        let family = self.ipv4_only();
        let fits = move |(source, destination): &(Item, Item)| {
            let (source, destination) = (source.ipv4(), destination.ipv4());
            let equal = source.zip(destination).is_none_or(|(source, other)| source == other);
            equal && family.zip(source.or(destination)).is_none_or(|(family, seen)| family == seen)
        };
        sources
            .into_iter()
            .flat_map(move |source| {
                destinations.clone().into_iter().map(move |d| (source.clone(), d))
            })
            .filter(fits)
    }
}

impl Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |name: &String| format!("\"{name}\"");
        list(f, "iif", self.inputs.iter().map(quoted))?;
        list(f, "oif", self.outputs.iter().map(quoted))?;
        list(f, "saddr", self.sources.written().into_iter())?;
        // Beside a service they are the service's own, which a file does not say again.
        if self.dnat.is_none() {
            list(f, "daddr", self.destinations.written().into_iter())?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, "proto {} ", protocol_names::name(protocol))?;
        }
        if self.echo {
            f.write_str("type echo-request ")?;
        }
        list(f, "sport", self.source_ports.iter().map(range))?;
        if self.dnat.is_none() {
            list(f, "dport", self.destination_ports.iter().map(range))?;
        }
        if let Some(prefix) = &self.log {
            f.write_str("log ")?;
            if !prefix.is_empty() {
                write!(f, "\"{prefix}\" ")?;
            }
        }
        f.write_str(match self.action {
            Action::Accept => "accept",
            Action::Drop => "drop",
            Action::Reject => "reject",
        })?;
        match self.replicate {
            Replicate::FirstPacket => {}
            Replicate::Established => f.write_str(" replicate established")?,
            Replicate::After(time) => write!(f, " replicate after {}ms", time.as_millis())?,
            Replicate::Never => f.write_str(" replicate never")?,
        }
        if let Some(time) = self.waits() {
            write!(f, " commit sync timeout {}ms", time.as_millis())?;
        }
        if self.count {
            f.write_str(" count")?;
        }
        let sources: Vec<_> = self.snat.iter().map(IpAddr::to_string).collect();
        match &sources[..] {
            [] => {}
            [one] => write!(f, " snat {one}")?,
            several => write!(f, " snat {{ {} }}", several.join(", "))?,
        }
        if let Some(service) = &self.dnat {
            write!(f, " dnat {}", service.name)?;
        }
        if let Some(mapping) = &self.mapping {
            write!(f, " mapping {}", mapping.name)?;
        }
        match &self.comment {
            Some(comment) => write!(f, " comment \"{comment}\""),
            None => Ok(()),
        }
    }
}

fn range(ports: &Ports) -> String {
    match ports {
        Ports { first, last } if first == last => first.to_string(),
        Ports { first, last } => format!("{first}-{last}"),
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    items: impl ExactSizeIterator<Item = String>,
) -> fmt::Result {
    let several = items.len() > 1;
    for (at, item) in items.enumerate() {
        match (at, several) {
            (0, false) => write!(f, "{key} {item} ")?,
            (0, true) => write!(f, "{key} {{ {item}")?,
            _ => write!(f, ", {item}")?,
        }
    }
    if several { f.write_str(" } ") } else { f.write_str("") }
}
