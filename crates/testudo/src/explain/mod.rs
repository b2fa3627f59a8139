//! What a packet would meet: `testudo explain`, and the daemon's half of it.
//!
//! What becomes of the packet is found out by the pipeline itself ([`testudo_datapath::Datapath::explain`]); here a
//! question is read, and an answer put into the words of the rules. A node answers with what is in force on it,
//! a file alone with what it would put in force.

mod command;
mod question;
mod text;

use std::collections::BTreeMap;

use testudo_cluster::replica::Replicate;
use testudo_datapath::Explained;
use testudo_packet::flow::Endpoint;
use testudo_packet::verdict::{UpcallReason, Verdict};

use crate::control::protocol::{self, DecidingLine, Decision, Outcome, Place, Translation};
use crate::rules::ruling::Ruling;

pub use command::{Args, run};
pub use question::{NoQuestion, key};

/// An end as it is shown.
pub fn end(end: Endpoint) -> protocol::Endpoint {
    protocol::Endpoint { address: end.address.into(), port: end.port }
}

/// Where packets belong that were explained.
pub fn place(explained: &Explained) -> Option<Place> {
    let bucket = explained.bucket?.0;
    Some(Place { bucket, classes: explained.classes })
}

/// What becomes of the packet by each interface; those by which it is the same stand together.
pub fn decisions(ruling: &Ruling, explained: &[(String, Explained)]) -> Vec<Decision> {
    let mut decisions: Vec<Decision> = Vec::new();
    for (interface, explained) in explained {
        let next = decision(ruling, explained);
        let same = |known: &&mut Decision| {
            let interfaces = known.interfaces.clone();
            **known == Decision { interfaces, ..next.clone() }
        };
        match decisions.iter_mut().find(same) {
            Some(known) => known.interfaces.push(interface.clone()),
            None => decisions.push(Decision { interfaces: vec![interface.clone()], ..next }),
        }
    }
    decisions
}

fn decision(ruling: &Ruling, explained: &Explained) -> Decision {
    let Explained { verdict, rejected, rule, begins, .. } = explained;
    let place = rule.and_then(|rule| ruling.compiled.lines.get(rule)).copied();
    let line = place.and_then(|place| Some((ruling.lines.0.get(place)?, ruling.marks.get(place)?)));
    let outcome = match verdict {
        Verdict::Forward | Verdict::Pass(_) | Verdict::Upcall(_) => Outcome::Forward,
        Verdict::Drop(_) if *rejected => Outcome::Reject,
        Verdict::Drop(_) | Verdict::Stage(_) => Outcome::Drop,
        Verdict::Stack => Outcome::Stack,
        Verdict::Answer => Outcome::Answer,
    };
    let waits = matches!(verdict, Verdict::Upcall(UpcallReason::Commit));
    let says = line.map(|(line, _)| &line.says);
    let commit_ms = says.filter(|_| waits).map(|says| says.commit_timeout.as_millis() as u64);
    let begun = says.filter(|_| begins.is_some());
    Decision {
        interfaces: Vec::new(),
        outcome,
        drop: match verdict {
            Verdict::Drop(reason) => Some(reason.name().to_owned()),
            _ => None,
        },
        rule: line.map(|(line, mark)| DecidingLine {
            line: line.at as u64,
            number: mark.number(),
            text: line.text.clone(),
        }),
        replicate: begun.map(|says| replicate(says.replicate)),
        commit_ms,
        translation: begins
            .and_then(|record| record.translation)
            .map(|to| Translation { source: end(to.source), destination: end(to.destination) }),
    }
}

fn replicate(replicate: Replicate) -> String {
    match replicate {
        Replicate::FirstPacket => "first-packet".to_owned(),
        Replicate::Established => "established".to_owned(),
        Replicate::After(time) => format!("after {}ms", time.as_millis()),
        Replicate::Never => "never".to_owned(),
    }
}

/// Interfaces by the names that somebody asks for: all of them, or one.
pub fn chosen<'a>(all: &'a [String], asked: Option<&str>) -> Result<Vec<&'a String>, NoQuestion> {
    let chosen: Vec<_> =
        all.iter().filter(|name| asked.is_none_or(|asked| asked == name.as_str())).collect();
    match asked {
        Some(asked) if chosen.is_empty() => {
            Err(NoQuestion::Interface { seen: asked.to_owned(), expected: all.join(", ") })
        }
        _ => Ok(chosen),
    }
}

/// Numbers for interfaces of a file that is read without its machine.
fn invented(names: &[String]) -> BTreeMap<&str, u32> {
    names.iter().map(String::as_str).zip(1..).collect()
}
