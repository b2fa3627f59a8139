//! What the parts of a line have to do with each other.

use std::ops::Range;

use testudo_cluster::replica::Replicate;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{Action, Commit};

use super::line::Statement;
use super::parser::{Draft, Placed};
use super::translated::Translated;
use super::{COMMIT_TIMEOUT, Known};
use crate::config::error::Fault;
use crate::protocol_names;

/// The line that the parts make, if they fit.
pub fn statement(mut draft: Draft, known: Option<Known<'_>>) -> Result<Statement, Fault> {
    let action = draft.action.as_ref().map_or(Action::Drop, |(_, action)| *action);
    let protocol = draft.protocol.as_ref().map(|(_, protocol)| *protocol);
    let translated = Translated::take(&mut draft, action, known)?;
    check_ports(&draft.source_ports, "sport", protocol)?;
    check_ports(&draft.destination_ports, "dport", protocol)?;
    check_echo(&draft, protocol)?;
    check_options(&draft, action, protocol)?;
    let families = draft.destinations.as_ref().or(draft.sources.as_ref()).map(|(span, _)| span);
    let families = families.cloned();
    let value = |part: Option<Placed<String>>| part.map(|(_, text)| text);
    let mut statement = Statement {
        inputs: items(draft.inputs),
        outputs: items(draft.outputs),
        sources: draft.sources.map(|(_, addresses)| addresses).unwrap_or_default(),
        destinations: draft.destinations.map(|(_, addresses)| addresses).unwrap_or_default(),
        protocol,
        echo: draft.echo.is_some(),
        source_ports: items(draft.source_ports),
        destination_ports: items(draft.destination_ports),
        snat: Vec::new(),
        dnat: None,
        mapping: None,
        action,
        replicate: draft.replicate.map_or(Replicate::FirstPacket, |(_, replicate)| replicate),
        commit: draft.commit.map_or(Commit::Async, |(_, commit)| commit),
        commit_timeout: draft.timeout.map_or(COMMIT_TIMEOUT, |(_, timeout)| timeout),
        log: value(draft.log),
        count: draft.count.is_some(),
        comment: value(draft.comment),
    };
    translated.put(&mut statement)?;
    match families.filter(|_| statement.size() == 0) {
        None => Ok(statement),
        Some(span) => Err(no_family(&statement, span)),
    }
}

fn items<T>(part: Option<Placed<Vec<T>>>) -> Vec<T> {
    part.map(|(_, items)| items).unwrap_or_default()
}

/// No packet can match, because the addresses are of different families.
fn no_family(statement: &Statement, span: Range<usize>) -> Fault {
    let icmp = matches!(statement.protocol, Some(Protocol::ICMP | Protocol::ICMPV6));
    let (seen, expected) = match icmp {
        true => ("addresses of the other family than proto", "icmp with IPv4, icmpv6 with IPv6"),
        false => ("addresses of another family than saddr", "saddr and daddr of one family"),
    };
    Fault { span, seen: seen.to_owned(), expected: expected.to_owned() }
}

fn check_ports<T>(
    part: &Option<Placed<T>>,
    key: &str,
    protocol: Option<Protocol>,
) -> Result<(), Fault> {
    let Some((span, _)) = part else { return Ok(()) };
    let why = match protocol {
        Some(other) if other.has_ports() => return Ok(()),
        Some(other) => format!("but protocol {} has no ports", protocol_names::name(other)),
        None => "but the line names no protocol".to_owned(),
    };
    let expected = "ports beside proto tcp, udp or sctp only".to_owned();
    Err(Fault { span: span.clone(), seen: format!("{key}, {why}"), expected })
}

fn check_echo(draft: &Draft, protocol: Option<Protocol>) -> Result<(), Fault> {
    match (&draft.echo, protocol) {
        (None, _) | (_, Some(Protocol::ICMP | Protocol::ICMPV6)) => Ok(()),
        (Some((span, ())), _) => Err(Fault {
            span: span.clone(),
            seen: "type, but the line is not about ICMP".to_owned(),
            expected: "it beside proto icmp or proto icmpv6 only".to_owned(),
        }),
    }
}

/// What only flows can have that are let in.
fn check_options(draft: &Draft, action: Action, protocol: Option<Protocol>) -> Result<(), Fault> {
    let refused = |span: &Range<usize>, seen: String, expected: &str| {
        Err(Fault { span: span.clone(), seen, expected: expected.to_owned() })
    };
    let commit = draft.commit.as_ref().map(|(_, commit)| *commit);
    let none = "but the line lets no flow begin";
    if let Some((span, _)) = &draft.commit
        && action != Action::Accept
    {
        return refused(span, format!("commit, {none}"), "it beside accept only");
    }
    let Some((span, replicate)) = &draft.replicate else { return Ok(()) };
    if action != Action::Accept {
        return refused(span, format!("replicate, {none}"), "it beside accept only");
    }
    if commit == Some(Commit::Sync) && *replicate != Replicate::FirstPacket {
        let seen = "another time, but commit sync has the first packet wait for the other nodes";
        return refused(span, seen.to_owned(), "first-packet");
    }
    match protocol.filter(|_| *replicate == Replicate::Established) {
        Some(one_way @ (Protocol::ESP | Protocol::AH)) => {
            let name = protocol_names::name(one_way);
            let seen = format!("established, but nobody answers a flow of {name}");
            refused(span, seen, "first-packet, after TIME or never")
        }
        _ => Ok(()),
    }
}
