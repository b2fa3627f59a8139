//! Rules that are shown, and rules that are loaded.
//!
//! All but the change itself is done here, in the thread of the control socket: reading, checking, going over the
//! node table for the numbers that flows have. The engine then changes them in one step, if nobody else has
//! meanwhile.

use std::path::Path;
use std::sync::Arc;

use testudo_datapath::Sets;
use testudo_datapath::pools::Pools;

use super::{Answerer, NoAnswer, ask, engine};
use crate::config::cluster::Mode;
use crate::config::error::ConfigError;
use crate::config::translation;
use crate::control::protocol::{Loaded, RuleLine, RuleSet, Rules};
use crate::node::engine::ruling::{InForce, LoadError, Question};
use crate::node::interfaces::InterfaceError;
use crate::rules::addresses::NamedSet;
use crate::rules::ruling::{Ruling, RulingError};
use crate::rules::{self, Known, Lines, Surroundings, numbers};

/// Why rules were not loaded; those before them are in force.
#[derive(Debug, thiserror::Error)]
pub enum NotLoaded {
    /// A witness compares no packets with rules.
    #[error("this node is a witness, which handles no packets; expected a node that does")]
    Witness,
    /// Not a path that means the same to everybody.
    #[error("the file {seen:?}; expected an absolute path")]
    Relative {
        /// What was given.
        seen: String,
    },
    /// The file is wrong.
    #[error("{0}\nthe rules in force stay")]
    Config(#[from] ConfigError),
    /// The file can't come into force here.
    #[error(transparent)]
    Ruling(#[from] RulingError<InterfaceError>),
    /// The engine did not take it.
    #[error(transparent)]
    Load(#[from] LoadError),
}

fn set(set: &NamedSet) -> RuleSet {
    RuleSet {
        name: set.name.clone(),
        line: set.at as u64,
        listed: set.listed as u64,
        prefixes: set.addresses.set.len() as u64,
        file: set.file.clone(),
    }
}

impl Answerer {
    pub(super) fn rules(&self) -> Result<Rules, NoAnswer> {
        self.table()?;
        let shown =
            ask("engine", &self.engine, |answers| engine::Input::Rules(Question::Show(answers)))?;
        let lines = shown.ruling.lines.0.iter().zip(&shown.ruling.marks).zip(shown.flows);
        let lines = lines.map(|((line, mark), flows)| RuleLine {
            line: line.at as u64,
            number: mark.number(),
            rules: line.says.size() as u64,
            flows,
            text: line.text.clone(),
        });
        Ok(Rules {
            node: self.cluster.member(self.cluster.node()).to_owned(),
            file: shown.ruling.file.clone(),
            lines: lines.collect(),
            sets: shown.ruling.lines.1.iter().map(set).collect(),
        })
    }

    /// The counters of lines that ask for one.
    pub(super) fn counted(&self) -> Result<Vec<(String, u64)>, NoAnswer> {
        let counted = ask("engine", &self.engine, |answers| {
            engine::Input::Rules(Question::Counted(answers))
        })?;
        Ok(counted.into_iter().map(|(line, flows)| (format!("rule_{line}"), flows)).collect())
    }

    pub(super) fn load(&self, file: &Path, flush: bool) -> Result<Loaded, NoAnswer> {
        self.table()?;
        if self.interfaces.is_empty() {
            return Err(NotLoaded::Witness.into());
        }
        if !file.is_absolute() {
            return Err(NotLoaded::Relative { seen: file.display().to_string() }.into());
        }
        let (interfaces, services, mappings) =
            (&self.interfaces[..], &self.services[..], &self.mappings[..]);
        let known = Some(Known { interfaces, services, mappings });
        let surroundings = Surroundings { known, tap: self.mode == Mode::Tap };
        let lines = rules::load(file, surroundings).map_err(NotLoaded::from)?;
        let InForce { ruling: before, sets, pools } = ask("engine", &self.engine, |answers| {
            engine::Input::Rules(Question::InForce(answers))
        })?;
        let next = self.put_in_force(file, lines, (&before, &sets, &pools), flush);
        let marks = before.marks.clone();
        // Nobody holds what only they have named.
        drop(before);
        if let Err(error) = sets.sweep() {
            tracing::warn!(%error, "sets of prefixes that no rule names could not be taken out");
        }
        let next = next?;
        let kept = next.marks.iter().filter(|mark| marks.contains(mark)).count();
        Ok(Loaded {
            node: self.cluster.member(self.cluster.node()).to_owned(),
            lines: next.lines.0.len() as u64,
            kept: kept as u64,
            rules: next.compiled.rules.len() as u64,
            lasting: self.configured.as_deref() == Some(file),
            configured: self.configured.clone().filter(|configured| configured != file),
        })
    }

    /// Has the engine put other lines in force; their sets are loaded here, and the ports listed of what they
    /// translate to.
    fn put_in_force(
        &self,
        file: &Path,
        lines: Lines,
        (before, sets, pools): (&Arc<Ruling>, &Sets, &Pools),
        flush: bool,
    ) -> Result<Arc<Ruling>, NoAnswer> {
        let flows = numbers::of_flows(self.table()?);
        let number = |name: &str| self.links.number(name);
        let next = before.next(Some(file.to_owned()), lines, &flows, sets, number);
        let next = Arc::new(next.map_err(NotLoaded::from)?);
        let pools = pools.next(&translation::pools(&next.lines), self.table()?.placing());
        let question = |answers| {
            let flush = flush.then(|| self.links.numbers());
            let (before, next, pools) = (before.clone(), next.clone(), pools.clone());
            engine::Input::Rules(Question::Load { before, next, pools, flush, answers })
        };
        ask("engine", &self.engine, question)?.map_err(NotLoaded::from)?;
        Ok(next)
    }
}
