//! Lines as packets are compared with them: one rule for each combination of what a line lists.

use std::net::IpAddr;

use testudo_packet::flow::Address;
use testudo_packet::rule as packet;
use testudo_packet::rule::Ports;

use super::Lines;
use super::line::{Line, Statement};
use crate::config::prefix::Prefix;

/// The rules of all lines, in their order, and the line of each by its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The rules.
    pub rules: Vec<packet::Rule>,
    /// Which line each of them is of.
    pub lines: Vec<usize>,
}

/// Makes rules of lines. `mark` gives what a line is marked with, by its place, and `number` the kernel's
/// number of an interface; its failure is passed on. `pools` are those of the
/// configuration: the addresses that sources are translated to.
pub fn compile<E>(
    lines: &Lines,
    pools: &[Vec<Address>],
    mark: impl Fn(usize) -> u64,
    number: impl Fn(&str) -> Result<u32, E>,
) -> Result<Compiled, E> {
    let mut compiled = Compiled::default();
    for (place, Line { says, .. }) in lines.0.iter().enumerate() {
        let interface = says.interface.as_deref().map(&number).transpose()?;
        for rule in rules(says) {
            let source_pool = pool(&says.snat, pools);
            compiled.rules.push(packet::Rule { interface, source_pool, mark: mark(place), ..rule });
            compiled.lines.push(place);
        }
    }
    Ok(compiled)
}

/// The rules of a line, on any interface and without a mark.
fn rules(says: &Statement) -> impl Iterator<Item = packet::Rule> + '_ {
    let source_ports = or_any(&says.source_ports);
    let destination_ports = or_any(&says.destination_ports);
    let ports = source_ports.into_iter().flat_map(move |source| {
        destination_ports.clone().into_iter().map(move |destination| (source, destination))
    });
    let ports: Vec<_> = ports.collect();
    says.pairs().flat_map(move |(source, destination)| {
        let rule = packet::Rule {
            commit: says.commit,
            protocol: says.protocol,
            source: prefix(source),
            destination: prefix(destination),
            reports: says.log.is_some(),
            ..packet::Rule::any(says.action)
        };
        let with = move |(source_ports, destination_ports)| packet::Rule {
            source_ports,
            destination_ports,
            ..rule
        };
        ports.clone().into_iter().map(with)
    })
}

/// The number of a pool, from 1 on; 0 if nothing is translated.
fn pool(snat: &[IpAddr], pools: &[Vec<Address>]) -> u16 {
    let own: Vec<Address> = snat.iter().copied().map(Address::from).collect();
    let at = pools.iter().position(|pool| !own.is_empty() && *pool == own);
    at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
}

fn or_any(ports: &[Ports]) -> Vec<Ports> {
    if ports.is_empty() { vec![Ports::ANY] } else { ports.to_vec() }
}

fn prefix(prefix: Option<Prefix>) -> packet::Prefix {
    let Some(prefix) = prefix else { return packet::Prefix::ANY };
    packet::Prefix::new(prefix.address().into(), prefix.length())
        .expect("a parsed prefix has no host bits and a length of its family")
}
