//! The grammar of a rule file: statements to lines that are valid each by itself.
//!
//! The parts of a line may stand in any order, each once, and exactly one of them says what becomes of
//! the flow. What a part has to do with the others is checked when all are there ([`super::checks`]), and
//! told at the part that is one too many.

use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use testudo_cluster::replica::Replicate;
use testudo_packet::flow::Protocol;
use testudo_packet::rule::{Action, Commit, Ports};

use super::Known;
use super::addresses::{Addresses, KnownSets, Written};
use super::checks;
use super::lexer::{Kind, Token};
use super::line::Statement;
use super::translated::{ADDRESS, SOURCES, Source, address};
use super::zones::{self, Named, Zones};
use crate::config::error::Fault;
use crate::config::prefix::{Prefix, PrefixError};
use crate::protocol_names;

const PARTS: &str = "iif, oif, saddr, daddr, proto, type, sport, dport, accept, drop, reject, replicate, \
                     commit, log, count, snat, masquerade, dnat, mapping or comment";
const ADDRESSES: &str = r#"a prefix such as 10.10.0.0/16 or fd10::/64, @SET, or a list in braces"#;
const PREFIX: &str = "a prefix such as 10.10.0.0/16 or fd10::/64";
const PROTOCOL: &str = "tcp, udp, icmp, icmpv6, esp, ah or a number from 0 to 255";
const PORTS: &str = "a port or a range such as 80 or 1024-65535, or a list in braces";
const REPLICATE: &str = "first-packet, established, after TIME or never";
const TIME: &str = "a time such as 500ms or 2s";
/// The longest text between quotes, in characters.
pub const MAX_TEXT: usize = 64;

/// A value and the words that it was read from.
pub type Placed<T> = (Range<usize>, T);

/// The parts of a line as they are read.
#[derive(Debug, Default)]
pub struct Draft {
    pub inputs: Option<Named>,
    pub outputs: Option<Named>,
    pub sources: Option<Placed<Addresses>>,
    pub destinations: Option<Placed<Addresses>>,
    pub protocol: Option<Placed<Protocol>>,
    pub echo: Option<Placed<()>>,
    pub source_ports: Option<Placed<Vec<Ports>>>,
    pub destination_ports: Option<Placed<Vec<Ports>>>,
    pub action: Option<Placed<Action>>,
    pub replicate: Option<Placed<Replicate>>,
    pub commit: Option<Placed<Commit>>,
    pub timeout: Option<Placed<Duration>>,
    pub log: Option<Placed<String>>,
    pub count: Option<Placed<()>>,
    pub snat: Option<Placed<Source>>,
    pub dnat: Option<Placed<String>>,
    pub mapping: Option<Placed<String>>,
    pub comment: Option<Placed<String>>,
}

/// A line that makes a set.
#[derive(Debug)]
pub struct SetLine<'s> {
    pub name: &'s str,
    pub content: Content,
}

/// What is in a set.
#[derive(Debug)]
pub enum Content {
    /// These.
    Listed(Vec<Prefix>),
    /// What a file lists, by its path between quotes.
    File(Range<usize>, PathBuf),
}

/// The tokens of a statement, one after the other.
pub struct Parser<'s, 't> {
    pub tokens: &'t [Token<'s>],
    pub sets: &'t mut KnownSets,
    pub zones: &'t mut Zones<'s>,
    /// Where the statement ends.
    pub end: usize,
}

impl<'s> Parser<'s, '_> {
    /// Reads `set NAME = { … }` or `set NAME = file "PATH"`, whose first word has been seen.
    pub fn set(mut self) -> Result<SetLine<'s>, Fault> {
        let expected = r#"set NAME = { PREFIX, … } or set NAME = file "PATH""#;
        self.take();
        let (span, name) = self.name()?;
        if self.sets.has(name) {
            return Err(because(span, name, "a set that there is already", "each name once"));
        }
        self.equals(expected)?;
        let content = match self.tokens.first() {
            Some(Token { kind: Kind::Open, .. }) => {
                let (_, items) = self.addresses()?;
                Content::Listed(self.sets.prefixes(&items)?)
            }
            Some(Token { kind: Kind::Word("file"), .. }) => {
                self.take();
                match self.take() {
                    Some(Token { kind: Kind::Text(path), span }) if !path.is_empty() => {
                        Content::File(span, path.into())
                    }
                    other => return Err(self.unexpected(other, "a path between quotes")),
                }
            }
            _ => {
                let other = self.take();
                return Err(self.unexpected(other, expected));
            }
        };
        self.end_of_line()?;
        Ok(SetLine { name, content })
    }

    /// Reads a rule. Without a configuration it can't name what only that says.
    pub fn rule(mut self, known: Option<Known<'_>>) -> Result<Statement, Fault> {
        let mut draft = Draft::default();
        while let Some(token) = self.take() {
            let Kind::Word(word) = token.kind else {
                return Err(self.unexpected(Some(token), PARTS));
            };
            self.part(&mut draft, token.span.clone(), word)?;
        }
        if draft.action.is_none() {
            let (seen, expected) = ("the end of the line", "accept, drop or reject");
            return Err(Fault {
                span: self.end..self.end,
                seen: seen.to_owned(),
                expected: expected.to_owned(),
            });
        }
        checks::statement(draft, known)
    }

    fn part(&mut self, draft: &mut Draft, span: Range<usize>, word: &'s str) -> Result<(), Fault> {
        match word {
            "iif" => once(&mut draft.inputs, &span, word, self.interfaces()?),
            "oif" => once(&mut draft.outputs, &span, word, self.interfaces()?),
            "saddr" => once(&mut draft.sources, &span, word, self.part_addresses()?),
            "daddr" => once(&mut draft.destinations, &span, word, self.part_addresses()?),
            "proto" => once(&mut draft.protocol, &span, word, self.protocol()?),
            "type" => once(&mut draft.echo, &span, word, self.echo()?),
            "sport" => once(&mut draft.source_ports, &span, word, self.ports()?),
            "dport" => once(&mut draft.destination_ports, &span, word, self.ports()?),
            "accept" => action(draft, span, word, Action::Accept),
            "drop" => action(draft, span, word, Action::Drop),
            "reject" => action(draft, span, word, Action::Reject),
            "replicate" => once(&mut draft.replicate, &span, word, self.replicate()?),
            "commit" => {
                let (commit, timeout) = self.commit()?;
                draft.timeout = timeout;
                once(&mut draft.commit, &span, word, commit)
            }
            "log" => {
                let text = match self.tokens.first().map(|token| token.kind) {
                    Some(Kind::Text(_)) => self.text("a text between quotes")?,
                    _ => (span.clone(), String::new()),
                };
                once(&mut draft.log, &span, word, text)
            }
            "snat" => {
                let source = self.source()?;
                once(&mut draft.snat, &span, word, source)
            }
            "masquerade" => once(&mut draft.snat, &span, word, (span.clone(), Source::Outgoing)),
            "dnat" => once(&mut draft.dnat, &span, word, self.named("the name of a [[service]]")?),
            "mapping" => {
                let named = self.named("the name of a [[mapping]]")?;
                once(&mut draft.mapping, &span, word, named)
            }
            "count" => once(&mut draft.count, &span, word, (span.clone(), ())),
            "comment" => once(&mut draft.comment, &span, word, self.text("a text between quotes")?),
            _ => Err(refuse(span, word, PARTS)),
        }
    }

    /// Reads `zone NAME = { … }`, whose first word has been seen.
    pub fn zone(mut self) -> Result<(), Fault> {
        self.take();
        let (span, name) = self.name()?;
        if self.zones.has(name) {
            return Err(because(span, name, "a zone that there is already", "each name once"));
        }
        let expected = "zone NAME = { INTERFACE, … }";
        self.equals(expected)?;
        if !matches!(self.tokens.first(), Some(Token { kind: Kind::Open, .. })) {
            let other = self.take();
            return Err(self.unexpected(other, expected));
        }
        let (_, interfaces) = self.interfaces()?;
        self.end_of_line()?;
        self.zones.define(name, interfaces);
        Ok(())
    }

    fn name(&mut self) -> Result<Placed<&'s str>, Fault> {
        let expected = "a name of letters, digits, - and _";
        let (span, name) = self.word(expected)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        match name.chars().all(plain) {
            true => Ok((span, name)),
            false => Err(refuse(span, name, expected)),
        }
    }

    fn equals(&mut self, expected: &str) -> Result<(), Fault> {
        match self.take() {
            Some(Token { kind: Kind::Equals, .. }) => Ok(()),
            other => Err(self.unexpected(other, expected)),
        }
    }

    fn end_of_line(&mut self) -> Result<(), Fault> {
        match self.take() {
            None => Ok(()),
            more => Err(self.unexpected(more, "the end of the line")),
        }
    }

    /// Interfaces by name, with or without quotes, or those of zones.
    fn interfaces(&mut self) -> Result<Named, Fault> {
        let items = self
            .listed(zones::EXPECTED, |token| matches!(token.kind, Kind::Word(_) | Kind::Text(_)))?;
        let interfaces = self.zones.interfaces(&items.1)?;
        Ok((items.0, interfaces))
    }

    fn part_addresses(&mut self) -> Result<Placed<Addresses>, Fault> {
        let (span, items) = self.addresses()?;
        let addresses = self.sets.addresses(&items, &span)?;
        Ok((span, addresses))
    }

    fn addresses(&mut self) -> Result<Placed<Vec<Placed<Written>>>, Fault> {
        self.items(ADDRESSES, |sets, span, word| match word.strip_prefix('@') {
            Some(name) if sets.has(name) => Ok(Written::Set(name.to_owned())),
            Some(_) => Err(unknown_set(span, word, sets)),
            None => prefix(span, word).map(Written::Prefix),
        })
    }

    fn protocol(&mut self) -> Result<Placed<Protocol>, Fault> {
        let (span, word) = self.word(PROTOCOL)?;
        match protocol_names::parse(word) {
            Some(protocol) => Ok((span, protocol)),
            None => Err(refuse(span, word, PROTOCOL)),
        }
    }

    fn echo(&mut self) -> Result<Placed<()>, Fault> {
        let (span, word) = self.word("echo-request")?;
        match word {
            "echo-request" => Ok((span, ())),
            "echo-reply" => {
                let why = "which begins no flow but passes with its request's";
                Err(because(span, word, why, "echo-request"))
            }
            _ => Err(because(
                span,
                word,
                "but no flow begins with that message",
                "echo-request; with it echo-reply passes",
            )),
        }
    }

    fn ports(&mut self) -> Result<Placed<Vec<Ports>>, Fault> {
        let (span, items) = self.items(PORTS, |_, span, word| ports(span, word))?;
        Ok((span, items.into_iter().map(|(_, ports)| ports).collect()))
    }

    fn replicate(&mut self) -> Result<Placed<Replicate>, Fault> {
        let (span, word) = self.word(REPLICATE)?;
        let replicate = match word {
            "first-packet" => Replicate::FirstPacket,
            "established" => Replicate::Established,
            "never" => Replicate::Never,
            "after" => Replicate::After(self.time(600_000)?.1),
            _ => return Err(refuse(span, word, REPLICATE)),
        };
        Ok((span, replicate))
    }

    fn commit(&mut self) -> Result<(Placed<Commit>, Option<Placed<Duration>>), Fault> {
        let (span, word) = self.word("async or sync")?;
        let commit = match word {
            "async" => Commit::Async,
            "sync" => Commit::Sync,
            _ => return Err(refuse(span, word, "async or sync")),
        };
        let timeout = match self.tokens.first() {
            Some(Token { kind: Kind::Word("timeout"), span }) => {
                let at = span.clone();
                self.take();
                if commit == Commit::Async {
                    let seen = "timeout, but nothing waits".to_owned();
                    let expected = "it behind commit sync only".to_owned();
                    return Err(Fault { span: at, seen, expected });
                }
                Some(self.time(1000)?)
            }
            _ => None,
        };
        Ok(((span, commit), timeout))
    }

    /// A time of 1 to so many milliseconds.
    fn time(&mut self, most: u64) -> Result<Placed<Duration>, Fault> {
        let (span, word) = self.word(TIME)?;
        let (digits, unit) = match word.strip_suffix("ms") {
            Some(digits) => (digits, 1),
            None => (word.strip_suffix('s').unwrap_or(""), 1000),
        };
        let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let millis = digits.parse::<u64>().ok().filter(|_| plain).map(|n| n.saturating_mul(unit));
        match millis {
            None => Err(refuse(span, word, TIME)),
            Some(millis) if (1..=most).contains(&millis) => {
                Ok((span, Duration::from_millis(millis)))
            }
            Some(_) => Err(refuse(span, word, &format!("1ms to {most}ms"))),
        }
    }

    /// What stands in for sources: addresses, or those of an interface.
    fn source(&mut self) -> Result<Placed<Source>, Fault> {
        if let Some(Token { kind: Kind::Word("interface"), span }) = self.tokens.first() {
            let begin = span.start;
            self.take();
            let (span, name) = self.named(zones::NAME)?;
            return Ok((begin..span.end, Source::Interface(name)));
        }
        let (span, items) = self.items(SOURCES, |_, span, word| match address(word) {
            Some(address) => Ok(address),
            None => Err(refuse(span, word, ADDRESS)),
        })?;
        Ok((span, Source::Listed(items)))
    }

    /// A name, with or without quotes.
    fn named(&mut self, expected: &str) -> Result<Placed<String>, Fault> {
        match self.take() {
            Some(Token { kind: Kind::Word(name) | Kind::Text(name), span }) => {
                Ok((span, name.to_owned()))
            }
            other => Err(self.unexpected(other, expected)),
        }
    }

    fn text(&mut self, expected: &str) -> Result<Placed<String>, Fault> {
        match self.take() {
            Some(Token { kind: Kind::Text(text), span }) => {
                let fits = !text.is_empty() && text.chars().count() <= MAX_TEXT;
                if fits && !text.chars().any(char::is_control) {
                    return Ok((span, text.to_owned()));
                }
                let expected = format!("1 to {MAX_TEXT} characters that can be printed");
                Err(Fault { span, seen: format!("{text:?}"), expected })
            }
            other => Err(self.unexpected(other, expected)),
        }
    }

    /// One word, or several in braces.
    fn items<T>(
        &mut self,
        expected: &str,
        read: impl Fn(&KnownSets, Range<usize>, &'s str) -> Result<T, Fault>,
    ) -> Result<Placed<Vec<Placed<T>>>, Fault> {
        let (span, tokens) = self.listed(expected, |token| matches!(token.kind, Kind::Word(_)))?;
        let items = tokens.into_iter().map(|Token { span, kind }| match kind {
            Kind::Word(word) => Ok((span.clone(), read(self.sets, span, word)?)),
            other => Err(refuse(span, &spelled(other), expected)),
        });
        Ok((span, items.collect::<Result<_, _>>()?))
    }

    /// One token of a kind, or several in braces.
    fn listed(
        &mut self,
        expected: &str,
        is_item: impl Fn(&Token<'s>) -> bool,
    ) -> Result<Placed<Vec<Token<'s>>>, Fault> {
        let open = match self.take() {
            Some(Token { kind: Kind::Open, span }) => span,
            Some(token) if is_item(&token) => return Ok((token.span.clone(), vec![token])),
            other => return Err(self.unexpected(other, expected)),
        };
        let mut items = Vec::new();
        loop {
            match self.take() {
                Some(token) if is_item(&token) => items.push(token),
                other => return Err(self.unexpected(other, "an item of the list")),
            }
            match self.take() {
                Some(Token { kind: Kind::Comma, .. }) => {}
                Some(Token { kind: Kind::Close, span }) => {
                    return Ok((open.start..span.end, items));
                }
                other => return Err(self.unexpected(other, "a comma, or } at the end")),
            }
        }
    }

    fn take(&mut self) -> Option<Token<'s>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first.clone())
    }

    fn word(&mut self, expected: &str) -> Result<Placed<&'s str>, Fault> {
        match self.take() {
            Some(Token { kind: Kind::Word(word), span }) => Ok((span, word)),
            other => Err(self.unexpected(other, expected)),
        }
    }

    fn unexpected(&self, token: Option<Token<'_>>, expected: &str) -> Fault {
        let (span, seen) = match token {
            Some(Token { span, kind }) => (span, spelled(kind)),
            None => (self.end..self.end, "the end of the line".to_owned()),
        };
        Fault { span, seen, expected: expected.to_owned() }
    }
}

fn spelled(kind: Kind<'_>) -> String {
    match kind {
        Kind::Word(word) => word.to_owned(),
        Kind::Text(text) => format!("\"{text}\""),
        Kind::Open => "{".to_owned(),
        Kind::Close => "}".to_owned(),
        Kind::Comma => "a comma".to_owned(),
        Kind::Equals => "=".to_owned(),
    }
}

pub fn refuse(span: Range<usize>, word: &str, expected: &str) -> Fault {
    Fault { span, seen: word.to_owned(), expected: expected.to_owned() }
}

pub fn because(span: Range<usize>, word: &str, why: &str, expected: &str) -> Fault {
    Fault { span, seen: format!("{word}, {why}"), expected: expected.to_owned() }
}

fn once<T>(
    part: &mut Option<Placed<T>>,
    span: &Range<usize>,
    word: &str,
    value: Placed<T>,
) -> Result<(), Fault> {
    if part.is_some() {
        return Err(because(span.clone(), word, "for the second time", "each part once a line"));
    }
    *part = Some(value);
    Ok(())
}

fn action(draft: &mut Draft, span: Range<usize>, word: &str, action: Action) -> Result<(), Fault> {
    if draft.action.is_some() {
        let expected = "accept, drop or reject, once a line";
        return Err(because(span, word, "but the line has said already", expected));
    }
    draft.action = Some((span, action));
    Ok(())
}

fn unknown_set(span: Range<usize>, word: &str, sets: &KnownSets) -> Fault {
    let names: Vec<_> = sets.names().map(|name| format!("@{name}")).collect();
    let expected = match names.is_empty() {
        true => "a line `set NAME = { … }` before it".to_owned(),
        false => format!("one of {}", names.join(", ")),
    };
    because(span, word, "a set that there is not", &expected)
}

/// A prefix that is one word.
pub fn prefix(span: Range<usize>, word: &str) -> Result<Prefix, Fault> {
    let prefix = match Prefix::parse(word) {
        Ok(prefix) => prefix,
        Err(PrefixError::Malformed) => return Err(refuse(span, word, PREFIX)),
        Err(error @ PrefixError::HostBits { prefix }) => {
            return Err(because(span, word, &error.to_string(), &prefix.to_string()));
        }
        Err(error) => return Err(because(span, word, &error.to_string(), PREFIX)),
    };
    if prefix.takes_in_mapped() {
        let why = "which takes in IPv4 in its mapped form";
        return Err(because(span, word, why, "prefixes such as 2000::/3 and fc00::/7"));
    }
    Ok(prefix)
}

fn ports(span: Range<usize>, word: &str) -> Result<Ports, Fault> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let port = |digits: &str| {
        let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse::<u16>().ok().filter(|_| plain)
    };
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(Ports { first, last }),
        (Some(first), Some(last)) => {
            let expected = format!("{last}-{first}");
            Err(because(span, word, "a range that ends before it begins", &expected))
        }
        _ => Err(refuse(span, word, "a port or a range such as 80 or 1024-65535")),
    }
}
