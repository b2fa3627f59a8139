//! Lines as packets are compared with them: one rule for each combination of what a line lists.

use std::sync::Arc;

use testudo_datapath::PrefixSet;
use testudo_datapath::pools::Pool;
use testudo_packet::rule as packet;
use testudo_packet::rule::Ports;
use testudo_packet::set::SetId;

use super::Lines;
use super::addresses::{self, Item};
use super::line::{Line, Statement};
use crate::config::translation;

/// The rules of all lines, in their order, and the line of each by its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// The rules.
    pub rules: Vec<packet::Rule>,
    /// Which line each of them is of.
    pub lines: Vec<usize>,
}

/// Makes rules of lines. `mark` gives what a line is marked with, by its place, and `number` the kernel's
/// number of an interface, `set` that of a
/// set that is loaded; their failures are passed on. Rules name what they translate to by its place, from 1, in
/// [`translation::pools`].
pub fn compile<E>(
    lines: &Lines,
    mark: impl Fn(usize) -> u64,
    number: impl Fn(&str) -> Result<u32, E>,
    mut set: impl FnMut(&Arc<PrefixSet>) -> Result<SetId, E>,
) -> Result<Compiled, E> {
    let pools = translation::pools(lines);
    let mut compiled = Compiled::default();
    for (place, Line { says, .. }) in lines.0.iter().enumerate() {
        let links = links(says, &number)?;
        for rule in rules(says, &mut set)? {
            let source_pool = pool(says, &pools);
            for &(interface, egress) in &links {
                let mark = mark(place);
                compiled.rules.push(packet::Rule { interface, egress, source_pool, mark, ..rule });
                compiled.lines.push(place);
            }
        }
    }
    Ok(compiled)
}

/// The rules of a line, on any interface and without a mark.
fn rules<E>(
    says: &Statement,
    set: &mut impl FnMut(&Arc<PrefixSet>) -> Result<SetId, E>,
) -> Result<Vec<packet::Rule>, E> {
    let mut rules = Vec::new();
    for (source, destination) in says.pairs() {
        let ((source, source_set), (destination, destination_set)) =
            (end(&source, set)?, end(&destination, set)?);
        for source_ports in or_any(&says.source_ports) {
            rules.extend(or_any(&says.destination_ports).into_iter().map(|destination_ports| {
                packet::Rule {
                    commit: says.commit,
                    protocol: says.protocol,
                    source,
                    destination,
                    source_set,
                    destination_set,
                    source_ports,
                    destination_ports,
                    reports: says.log.is_some(),
                    ..packet::Rule::any(says.action)
                }
            }));
        }
    }
    Ok(rules)
}

/// The interface that packets come in by, and that they go out by; nothing: any.
type Way = (Option<u32>, Option<u32>);

/// Each interface that packets may come in by with each that they may go out by.
fn links<E>(says: &Statement, number: &impl Fn(&str) -> Result<u32, E>) -> Result<Vec<Way>, E> {
    let numbers = |names: &[String]| -> Result<Vec<Option<u32>>, E> {
        match names {
            [] => Ok(vec![None]),
            names => names.iter().map(|name| number(name).map(Some)).collect(),
        }
    };
    let (inputs, outputs) = (numbers(&says.inputs)?, numbers(&says.outputs)?);
    let with = |input: Option<u32>| outputs.iter().map(move |output| (input, *output));
    Ok(inputs.iter().copied().flat_map(with).collect())
}

/// The prefix and the set that addresses are compared with.
fn end<E>(
    item: &Item,
    set: &mut impl FnMut(&Arc<PrefixSet>) -> Result<SetId, E>,
) -> Result<(packet::Prefix, Option<SetId>), E> {
    Ok(match item {
        Item::Any => (packet::Prefix::ANY, None),
        Item::One(prefix) => (addresses::compiled(*prefix), None),
        Item::Set(prefixes, _) => (packet::Prefix::ANY, Some(set(prefixes)?)),
    })
}

/// The number of a pool, from 1 on; 0 if nothing is translated.
fn pool(says: &Statement, pools: &[Pool]) -> u16 {
    let own = translation::pool(says);
    let at = own.and_then(|own| pools.iter().position(|pool| *pool == own));
    at.and_then(|at| u16::try_from(at + 1).ok()).unwrap_or(0)
}

fn or_any(ports: &[Ports]) -> Vec<Ports> {
    if ports.is_empty() { vec![Ports::ANY] } else { ports.to_vec() }
}
