//! Rules that take the place of others, and flows that are told in the log because a line says so.
//!
//! Invariant: a change is made whole or not at all. What flows of the new lines need is known before a packet can
//! meet them; packets meet all of the old ones or all of the new ones; whoever has made the change from rules
//! that are in force no more is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_datapath::pools::Pools;
use testudo_datapath::{Refused, Sets};
use testudo_packet::bucket::Nanos;
use testudo_packet::event::{Event, EventKind};
use testudo_packet::flow::{Endpoint, FlowKey};

use super::flush::Flush;
use super::{Answers, Engine};
use crate::control::protocol;
use crate::node::clock;
use crate::node::throttle::Throttle;
use crate::protocol_names;
use crate::rules::ruling::Ruling;

/// What the engine is asked about rules.
#[derive(Debug)]
pub enum Question {
    /// Which are in force, and what have they let in or refused?
    Show(Answers<Shown>),
    /// What have the lines let in or refused, by their places in the file, that say `count`?
    Counted(Answers<Vec<(usize, u64)>>),
    /// Which are in force, and what are others prepared with?
    InForce(Answers<InForce>),
    /// Put others in their place.
    Load {
        /// Those that are in force, as far as the asker knows.
        before: Arc<Ruling>,
        /// Those that are to be.
        next: Arc<Ruling>,
        /// What they translate to.
        pools: Pools,
        /// The node's interfaces, if flows are to be ended that the rules would not let in by any of them.
        flush: Option<Vec<u32>>,
        /// The way back.
        answers: Answers<Result<(), LoadError>>,
    },
}

/// What other rules are prepared with.
#[derive(Debug)]
pub struct InForce {
    /// The rules in force.
    pub ruling: Arc<Ruling>,
    /// Where sets are loaded.
    pub sets: Sets,
    /// What the rules in force translate to.
    pub pools: Pools,
}

/// The rules in force.
#[derive(Debug)]
pub struct Shown {
    /// The rules.
    pub ruling: Arc<Ruling>,
    /// How many flows each line has let in or refused.
    pub flows: Vec<u64>,
}

/// Why rules did not come into force; those before them are.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Somebody else was faster.
    #[error("other rules came into force meanwhile; expected one change at a time; they stay")]
    Overtaken,
    /// The packet handling does not take them.
    #[error(transparent)]
    Datapath(#[from] testudo_datapath::Error),
}

/// The rules in force, and what was counted of their lines by rules before.
#[derive(Debug)]
pub struct Rulings {
    in_force: Arc<Ruling>,
    counted: BTreeMap<u16, u64>,
    /// Whether any flow is told in the log.
    logs: bool,
    told: Throttle,
    refused: Throttle,
}

impl Rulings {
    /// These are in force from the start.
    pub fn new(in_force: Arc<Ruling>) -> Self {
        let (told, refused) = (Throttle::default(), Throttle::default());
        let logs = in_force.logs();
        Self { in_force, counted: BTreeMap::new(), logs, told, refused }
    }

    /// Those in force.
    pub(super) fn in_force(&self) -> Arc<Ruling> {
        self.in_force.clone()
    }

    /// How many flows each line has let in or refused.
    fn flows(&self, hits: &[u64]) -> Vec<u64> {
        let lines = self.in_force.by_line(hits).into_iter().zip(&self.in_force.marks);
        lines
            .map(|(flows, mark)| flows + self.counted.get(&mark.number()).copied().unwrap_or(0))
            .collect()
    }

    /// The same of those that say `count`. `hits` is asked only if there are some.
    fn counted(&self, hits: impl FnOnce() -> Vec<u64>) -> Vec<(usize, u64)> {
        let lines = &self.in_force.lines.0;
        if !lines.iter().any(|line| line.says.count) {
            return Vec::new();
        }
        let flows = lines.iter().zip(self.flows(&hits()));
        flows.filter(|(line, _)| line.says.count).map(|(line, flows)| (line.at, flows)).collect()
    }

    /// These are in force now. `hits` is what the rules before have counted.
    fn replace(&mut self, next: Arc<Ruling>, hits: &[u64]) {
        let flows = self.flows(hits);
        let old = self.in_force.marks.iter().map(|mark| mark.number()).zip(flows);
        let stays = |number: &u16| next.marks.iter().any(|mark| mark.number() == *number);
        self.counted = old.filter(|(number, _)| stays(number)).collect();
        self.logs = next.logs();
        self.in_force = next;
    }

    /// Tells of a flow that was let in, if its line wants that.
    pub(super) fn note(&mut self, now: Nanos, event: &Event) {
        if self.logs && event.kind == EventKind::Created {
            let (rule, key) = (event.record.state.rule, &event.record.key);
            tell(&self.in_force, &mut self.told, now, (rule, key, "let in"));
        }
    }

    fn note_refused(&mut self, now: Nanos, refused: &Refused) {
        let (rule, key) = (refused.rule, &refused.key);
        tell(&self.in_force, &mut self.refused, now, (rule, key, "refused"));
    }
}

/// Writes to the log what has become of a flow, if its line wants that and there was no such message just now.
fn tell(
    ruling: &Ruling,
    throttle: &mut Throttle,
    now: Nanos,
    (rule, key, outcome): (u16, &FlowKey, &str),
) {
    let policy = ruling.policy(rule);
    let Some(text) = policy.and_then(|policy| policy.log.as_deref()) else { return };
    let Some(held_back) = throttle.admit(now) else { return };
    let (from, to) = ends(key);
    let protocol = protocol_names::name(key.protocol);
    let before = if text.is_empty() { String::new() } else { format!("{text}: ") };
    tracing::info!(%protocol, %from, %to, held_back, "{before}a flow was {outcome}");
}

/// Both ends as people read them.
fn ends(key: &FlowKey) -> (protocol::Endpoint, protocol::Endpoint) {
    let end = |end: Endpoint| protocol::Endpoint { address: end.address.into(), port: end.port };
    (end(key.initiator), end(key.responder))
}

impl Engine {
    /// Answers a question about rules, unless the asker has given up.
    pub(super) fn ruling(&mut self, question: Question) {
        let _given_up = match question {
            Question::Show(answers) => {
                let flows = self.rulings.flows(&self.parts.datapath.rule_hits());
                answers.try_send(Shown { ruling: self.rulings.in_force.clone(), flows }).is_err()
            }
            Question::Counted(answers) => {
                let counted = self.rulings.counted(|| self.parts.datapath.rule_hits());
                answers.try_send(counted).is_err()
            }
            Question::InForce(answers) => {
                let datapath = &self.parts.datapath;
                let (sets, pools) = (datapath.sets().clone(), datapath.pools().clone());
                let ruling = self.rulings.in_force.clone();
                answers.try_send(InForce { ruling, sets, pools }).is_err()
            }
            Question::Load { before, next, pools, flush, answers } => {
                answers.try_send(self.load_rules(&before, (next, pools), flush)).is_err()
            }
        };
    }

    fn load_rules(
        &mut self,
        before: &Arc<Ruling>,
        (next, pools): (Arc<Ruling>, Pools),
        flush: Option<Vec<u32>>,
    ) -> Result<(), LoadError> {
        if !Arc::ptr_eq(before, &self.rulings.in_force) {
            return Err(LoadError::Overtaken);
        }
        // Known before the first flow of a new line can be heard of. What no flow has yet does no harm if the
        // rules do not come into force.
        self.parts.replica.set_policies(next.replicates());
        self.commits.set_timeouts(next.waits());
        let hits = self.parts.datapath.rule_hits();
        self.parts.datapath.set_rules(&next.compiled.rules)?;
        // Packets that are to be translated come to this thread, so none is between the two.
        self.parts.datapath.set_pools(pools);
        // A pass under way goes by rules that are in force no more.
        let sets = self.parts.datapath.sets().clone();
        self.flush = flush.map(|interfaces| Flush::new(&next.compiled.rules, sets, interfaces));
        let (lines, rules) = (next.lines.0.len(), next.compiled.rules.len());
        let file = next.file.as_deref().map(|file| file.display().to_string());
        self.rulings.replace(next, &hits);
        tracing::info!(file, lines, rules, "other rules are in force");
        Ok(())
    }

    /// Tells of flows that rules have refused.
    pub(super) fn note_refused(&mut self) {
        let now = clock::now();
        while let Some(refused) = self.parts.datapath.poll_refused() {
            self.rulings.note_refused(now, &refused);
        }
    }
}
