//! Interfaces by name, and zones of them.
//!
//! A zone is short for a list: a line about it says the same as one with its interfaces, and is known again as such.

use std::collections::BTreeMap;
use std::ops::Range;

use super::lexer::{Kind, Token};
use super::parser::{Placed, because, refuse};
use crate::config::error::Fault;
use crate::config::interface::{Interface, is_device};

/// One interface.
pub const NAME: &str = "the name of an interface, such as \"in0\"";

/// Zones as lines are read, and the interfaces that there are.
#[derive(Debug)]
pub struct Zones<'a> {
    /// The node's; nothing if they are not known.
    pub interfaces: Option<&'a [Interface]>,
    named: BTreeMap<String, Vec<String>>,
}

impl<'a> Zones<'a> {
    /// No zones yet.
    pub const fn new(interfaces: Option<&'a [Interface]>) -> Self {
        Self { interfaces, named: BTreeMap::new() }
    }

    /// Whether there is a zone of this name.
    pub fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// A new zone.
    pub fn define(&mut self, name: &str, interfaces: Vec<String>) {
        self.named.insert(name.to_owned(), interfaces);
    }

    /// The interfaces of all items of a list, each once.
    pub fn interfaces(&self, items: &[Token<'_>]) -> Result<Vec<String>, Fault> {
        let mut all: Vec<String> = Vec::new();
        for Token { span, kind } in items {
            let named = match *kind {
                Kind::Word(word) => match word.strip_prefix('@') {
                    Some(name) => self.zone(span, word, name)?.to_vec(),
                    None => vec![self.interface(span, word, word)?],
                },
                Kind::Text(text) => vec![self.interface(span, &format!("\"{text}\""), text)?],
                _ => Vec::new(),
            };
            for interface in named {
                if all.contains(&interface) {
                    let expected = "each interface once";
                    return Err(because(span.clone(), &interface, "listed twice", expected));
                }
                all.push(interface);
            }
        }
        Ok(all)
    }

    fn zone(&self, span: &Range<usize>, word: &str, name: &str) -> Result<&[String], Fault> {
        self.named.get(name).map(Vec::as_slice).ok_or_else(|| {
            let names: Vec<_> = self.named.keys().map(|name| format!("@{name}")).collect();
            let expected = match names.is_empty() {
                true => "a line `zone NAME = { … }` before it".to_owned(),
                false => format!("one of {}", names.join(", ")),
            };
            because(span.clone(), word, "a zone that there is not", &expected)
        })
    }

    fn interface(&self, span: &Range<usize>, word: &str, name: &str) -> Result<String, Fault> {
        if !is_device(name) {
            return Err(refuse(span.clone(), word, NAME));
        }
        match self.interfaces {
            Some(known) if !known.iter().any(|known| known.name == name) => Err(Fault {
                span: span.clone(),
                seen: format!("the interface {name}"),
                expected: format!("one of {}", listed(known)),
            }),
            _ => Ok(name.to_owned()),
        }
    }
}

/// The names of interfaces, for people.
fn listed(interfaces: &[Interface]) -> String {
    let names: Vec<_> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    names.join(", ")
}

/// What a part of a line names, and the words that it was read from.
pub type Named = Placed<Vec<String>>;

/// What is expected where interfaces are named.
pub const EXPECTED: &str = "the name of an interface, such as \"in0\", @ZONE, or a list in braces";
