//! Which flows may begin: the lines of a rule file, or the sections `[[rule]]` of a node's configuration.
//!
//! The first line that a flow's first packet matches decides; with none, the flow may not begin. A line is
//! what people write and are shown: it may have lists, and comes to one rule in the kernel for each
//! combination of their items ([`compiled`]). Each of these knows the number of its line, which is what
//! flows remember of how they came in ([`numbers`]).
//!
//! Invariant: [`Lines`] are valid as a whole. What would not fit the packet handling is refused while the
//! file is read, with the place in the file, and nothing is loaded in part.

pub mod addresses;
mod checks;
pub mod compiled;
mod lexer;
pub mod line;
mod listed;
pub mod numbers;
mod parser;
pub mod ruling;
#[cfg(test)]
mod tests;
mod translated;
mod zones;

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use testudo_packet::rule::{Action, MAX_RULES};

use crate::config::error::{ConfigError, Fault};
use crate::config::interface::Interface;
use crate::config::mapping::Mapping;
use crate::config::rule::Rule;
use crate::config::service::Service;
use crate::config::{source, translation};
use addresses::{KnownSets, NamedSet};
use lexer::{Kind, Token};
use line::{Line, Statement};
use parser::{Content, Parser, SetLine};
use zones::Zones;

/// How long first packets wait for the peers unless the line says otherwise.
pub const COMMIT_TIMEOUT: Duration = Duration::from_millis(50);

/// The largest rule file that is read, in bytes.
const MAX_FILE: u64 = 16 << 20;

/// Lines, in their order, and the sets with a name that they may be about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lines(pub Vec<Line>, pub Vec<NamedSet>);

/// What the configuration of a node names.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Where packets come in and go out.
    pub interfaces: &'a [Interface],
    /// What destinations are translated by.
    pub services: &'a [Service],
    /// What addresses are translated by, one to one.
    pub mappings: &'a [Mapping],
}

/// What is known of the node that a file is for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Surroundings<'a> {
    /// What lines can name; nothing without a configuration.
    pub known: Option<Known<'a>>,
    /// Whether it hands packets to an analyser, and so answers none.
    pub tap: bool,
}

impl Lines {
    /// The sections of a configuration.
    pub fn of_sections(rules: &[Rule]) -> Self {
        let line = |(at, rule)| {
            let says = Statement::of_section(rule);
            Line { at, text: says.to_string(), says }
        };
        Self((1..).zip(rules).map(line).collect(), Vec::new())
    }

    /// How many rules packets are compared with.
    pub fn size(&self) -> usize {
        self.0.iter().map(|line| line.says.size()).sum()
    }
}

/// Reads a rule file.
pub fn load(file: &Path, surroundings: Surroundings<'_>) -> Result<Lines, ConfigError> {
    let source = source::read(file, MAX_FILE, "a rule file", Fault::locate_open)?;
    parse(file, &source, surroundings)
}

/// Reads the rules in a text that stands in `file`.
pub fn parse(
    file: &Path,
    source: &str,
    surroundings: Surroundings<'_>,
) -> Result<Lines, ConfigError> {
    read(file, source, surroundings).map_err(|refusal| match refusal {
        Refusal::Here(fault) => fault.locate_open(file, source),
        Refusal::Elsewhere(error) => error,
    })
}

/// Why a text is refused: for what stands in it, or in another file that it names.
enum Refusal {
    Here(Fault),
    Elsewhere(ConfigError),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Here(fault)
    }
}

fn read(file: &Path, source: &str, surroundings: Surroundings<'_>) -> Result<Lines, Refusal> {
    let mut sets = KnownSets::default();
    let mut zones = Zones::new(surroundings.known.map(|known| known.interfaces));
    let mut lines = Lines::default();
    let mut pools = translation::Collected::default();
    let mut size = 0;
    for tokens in lexer::statements(source)? {
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { continue };
        let span = first.span.start..last.span.end;
        let is_set = first.kind == Kind::Word("set");
        let at = source[..span.start].matches('\n').count() + 1;
        let parser = Parser { tokens: &tokens, sets: &mut sets, zones: &mut zones, end: span.end };
        if first.kind == Kind::Word("zone") {
            parser.zone()?;
            continue;
        }
        if is_set {
            let line = parser.set()?;
            define(&mut sets, file, (line, at), &span)?;
            continue;
        }
        let says = parser.rule(surroundings.known)?;
        check_surroundings(&says, &tokens, surroundings)?;
        let own = says.size();
        size = own.saturating_add(size);
        if size > MAX_RULES as usize {
            let seen = format!("a line that comes to {own} rules, {size} with those before it");
            let expected = format!(
                "at most {MAX_RULES} rules in all: one for each combination of what a line lists"
            );
            return Err(Fault { span, seen, expected }.into());
        }
        translated::check_number(&mut pools, &says, &span)?;
        let text = match &source[span.clone()] {
            broken if broken.contains('\n') => says.to_string(),
            text => text.split_whitespace().collect::<Vec<_>>().join(" "),
        };
        lines.0.push(Line { at, text, says });
    }
    lines.1 = sets.into_sets();
    Ok(lines)
}

/// Puts the set of a line to those that there are.
fn define(
    sets: &mut KnownSets,
    rules: &Path,
    (line, at): (SetLine<'_>, usize),
    span: &Range<usize>,
) -> Result<(), Refusal> {
    let SetLine { name, content } = line;
    let (file, prefixes) = match content {
        Content::Listed(prefixes) => (None, prefixes),
        Content::File(path, named) => {
            let file = listed::beside(rules, &named.to_string_lossy());
            let prefixes = listed::read(&file).map_err(|error| match error {
                // The rules name a file that there is not: that is to be put right here.
                ConfigError::Unreadable { source, .. } => Refusal::Here(Fault {
                    span: path,
                    seen: format!("{}, {source}", file.display()),
                    expected: "a readable file of prefixes".to_owned(),
                }),
                error => Refusal::Elsewhere(error),
            })?;
            (Some(file), prefixes)
        }
    };
    Ok(sets.define((name, at), file, prefixes, span)?)
}

/// What a line has to do with the node.
fn check_surroundings(
    says: &Statement,
    tokens: &[Token<'_>],
    surroundings: Surroundings<'_>,
) -> Result<(), Fault> {
    let said = |word| tokens.iter().find(|token| token.kind == Kind::Word(word));
    let refused = |word, seen: &str, expected: &str| Fault {
        span: said(word).map_or(0..0, |token| token.span.clone()),
        seen: seen.to_owned(),
        expected: expected.to_owned(),
    };
    if says.action == Action::Reject && surroundings.tap {
        let seen = "reject, in tap mode, where nothing is answered";
        return Err(refused("reject", seen, "drop"));
    }
    if surroundings.tap && translation::pool(says).is_some() {
        let mut words = ["snat", "masquerade", "dnat", "mapping"].into_iter();
        let word = words.find(|word| said(word).is_some()).unwrap_or("snat");
        let seen = format!("{word}, in tap mode, where packets are shown as they are");
        return Err(refused(word, &seen, "a line without it"));
    }
    if !says.outputs.is_empty() && surroundings.tap {
        let seen = "oif, in tap mode, where nothing is forwarded";
        return Err(refused("oif", seen, "a line without it"));
    }
    Ok(())
}
