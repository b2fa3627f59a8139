//! The addresses that a line names: few prefixes one by one, many as one set.
//!
//! A rule in the packet handling has room for one prefix. A few prefixes of a line are a few rules, which a packet is
//! compared with faster than it is looked up. More than [`FEW`] are one set ([`PrefixSet`]), which lines that name the
//! same set share.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use testudo_datapath::PrefixSet;
use testudo_packet::rule as packet;

use crate::config::error::Fault;
use crate::config::prefix::Prefix;

/// How many prefixes of a part are a rule each at most.
pub const FEW: usize = 8;

/// The most prefixes of all sets of a file.
pub const MOST: usize = testudo_packet::set::MAX_PREFIXES as usize;

/// Where a packet may come from, or go to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// Anywhere.
    #[default]
    Any,
    /// One of these, at most [`FEW`].
    Few(Vec<Prefix>),
    /// One of more than that.
    Many(Many),
}

/// More prefixes than are compared one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Many {
    /// The items as they are written: prefixes, and sets by name.
    pub written: Vec<String>,
    /// The addresses of all of them.
    pub set: Arc<PrefixSet>,
    /// The family of all addresses, whether it is IPv4; nothing if they are of both.
    pub ipv4: Option<bool>,
}

/// One of the rules that a part comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// Any address.
    Any,
    /// One prefix.
    One(Prefix),
    /// A set, and its family.
    Set(Arc<PrefixSet>, Option<bool>),
}

impl Item {
    /// Whether it is IPv4; nothing if it is both.
    pub fn ipv4(&self) -> Option<bool> {
        match self {
            Self::Any => None,
            Self::One(prefix) => Some(prefix.is_ipv4()),
            Self::Set(_, ipv4) => *ipv4,
        }
    }
}

impl Addresses {
    /// One by one, or anywhere if there are none.
    pub fn few(prefixes: Vec<Prefix>) -> Self {
        if prefixes.is_empty() { Self::Any } else { Self::Few(prefixes) }
    }

    /// What it comes to.
    pub fn items(&self) -> Vec<Item> {
        match self {
            Self::Any => vec![Item::Any],
            Self::Few(prefixes) => prefixes.iter().copied().map(Item::One).collect(),
            Self::Many(many) => vec![Item::Set(many.set.clone(), many.ipv4)],
        }
    }

    /// The items as they are written.
    pub fn written(&self) -> Vec<String> {
        match self {
            Self::Any => Vec::new(),
            Self::Few(prefixes) => prefixes.iter().map(Prefix::to_string).collect(),
            Self::Many(many) => many.written.clone(),
        }
    }
}

/// A set of prefixes with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSet {
    /// The name.
    pub name: String,
    /// The line where it stands, from 1.
    pub at: usize,
    /// The file that its prefixes are from, if not the rules' own.
    pub file: Option<PathBuf>,
    /// How many prefixes were listed.
    pub listed: usize,
    /// All of them.
    pub addresses: Many,
}

/// Named sets as lines are read.
#[derive(Debug, Default)]
pub struct KnownSets {
    /// By name.
    named: BTreeMap<String, (Arc<[Prefix]>, NamedSet)>,
    /// How many prefixes there are in sets so far.
    total: usize,
}

/// An item of a list of addresses as it is written.
#[derive(Clone, Debug)]
pub enum Written {
    /// A prefix.
    Prefix(Prefix),
    /// `@NAME`, of a set that there is.
    Set(String),
}

/// An item and the words that it was read from.
type Placed = (Range<usize>, Written);

impl KnownSets {
    /// Whether there is a set of this name.
    pub fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// All names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }

    /// All sets in the order of their lines.
    pub fn into_sets(self) -> Vec<NamedSet> {
        let mut sets: Vec<_> = self.named.into_values().map(|(_, set)| set).collect();
        sets.sort_by_key(|set| set.at);
        sets
    }

    /// A new set of these prefixes, from a file of its own or from a list.
    pub fn define(
        &mut self,
        (name, at): (&str, usize),
        file: Option<PathBuf>,
        prefixes: Vec<Prefix>,
        span: &Range<usize>,
    ) -> Result<(), Fault> {
        self.count(prefixes.len(), span)?;
        let written = vec![format!("@{name}")];
        let listed = prefixes.len();
        let addresses = many(written, &prefixes);
        let set = NamedSet { name: name.to_owned(), at, file, listed, addresses };
        self.named.insert(name.to_owned(), (prefixes.into(), set));
        Ok(())
    }

    /// The prefixes of all items, each of which is listed once.
    pub fn prefixes(&self, items: &[Placed]) -> Result<Vec<Prefix>, Fault> {
        let mut seen = HashSet::new();
        let mut prefixes = Vec::new();
        for (span, item) in items {
            for prefix in self.of(item) {
                if !seen.insert((prefix.address(), prefix.length())) {
                    let seen = format!("{prefix}, listed twice");
                    let expected = "each prefix once".to_owned();
                    return Err(Fault { span: span.clone(), seen, expected });
                }
                prefixes.push(*prefix);
            }
        }
        Ok(prefixes)
    }

    fn of<'a>(&'a self, item: &'a Written) -> &'a [Prefix] {
        match item {
            Written::Prefix(prefix) => std::slice::from_ref(prefix),
            Written::Set(name) => self.named.get(name).map_or(&[], |(prefixes, _)| prefixes),
        }
    }

    /// What a part of a line names by these items.
    pub fn addresses(&mut self, items: &[Placed], span: &Range<usize>) -> Result<Addresses, Fault> {
        let count: usize = items.iter().map(|(_, item)| self.of(item).len()).sum();
        if count <= FEW {
            return Ok(Addresses::few(self.prefixes(items)?));
        }
        if let [(_, Written::Set(name))] = items
            && let Some((_, set)) = self.named.get(name)
        {
            return Ok(Addresses::Many(set.addresses.clone()));
        }
        let prefixes = self.prefixes(items)?;
        self.count(prefixes.len(), span)?;
        let written = items.iter().map(|(_, item)| match item {
            Written::Prefix(prefix) => prefix.to_string(),
            Written::Set(name) => format!("@{name}"),
        });
        Ok(Addresses::Many(many(written.collect(), &prefixes)))
    }

    fn count(&mut self, more: usize, span: &Range<usize>) -> Result<(), Fault> {
        self.total += more;
        if self.total <= MOST {
            return Ok(());
        }
        let seen = format!("{more} prefixes, {} with those before them", self.total);
        let expected = format!("at most {MOST} in all sets of a file");
        Err(Fault { span: span.clone(), seen, expected })
    }
}

fn many(written: Vec<String>, prefixes: &[Prefix]) -> Many {
    let first = prefixes.first().map(|prefix| prefix.is_ipv4());
    let ipv4 = first.filter(|ipv4| prefixes.iter().all(|prefix| prefix.is_ipv4() == *ipv4));
    Many { written, set: Arc::new(PrefixSet::new(prefixes.iter().copied().map(compiled))), ipv4 }
}

/// A prefix as packets are compared with it.
pub fn compiled(prefix: Prefix) -> packet::Prefix {
    packet::Prefix::new(prefix.address().into(), prefix.length())
        .expect("a parsed prefix has no host bits and a length of its family")
}
