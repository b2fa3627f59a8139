//! Flows that this node is told to let in, wherever their packets are handled: the engine's part.
//!
//! Whoever determines one waits until the owner of its bucket has it
//! ([`testudo_cluster::replica::Replica::determine`]); here the owner puts it into the node table, and the
//! waiting are answered.
//!
//! Invariant: a flow is told of before it is in the node table, in the same turn, so the audit never meets
//! one half of it alone.

use std::collections::BTreeMap;
use std::time::Duration;

use testudo_cluster::replica::{Outcome, Wish};
use testudo_datapath::NodeTable;
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::{Event, EventKind};

use super::{Answers, Engine};
use crate::node::clock;

/// How long an owner's answer is waited for. A takeover may go on meanwhile.
pub const PATIENCE: Duration = Duration::from_millis(800);

/// A flow to be let in.
#[derive(Debug)]
pub struct Question {
    /// The flow; epoch and sequence are the owner's to say.
    pub record: FlowRecord,
    /// The way back; nothing, if too many are under way.
    pub answers: Answers<Option<Outcome>>,
}

/// Who waits for an answer, by the number of the request.
#[derive(Debug, Default)]
pub struct Determining {
    asking: BTreeMap<u32, Answers<Option<Outcome>>>,
    /// Whether a flow was let in this turn, of which peers are to be told at once.
    placed: bool,
    counts: Counts,
}

/// What has come of flows that were determined, since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Flows that this node was told to let in.
    pub determined: u64,
    /// Flows that it has put into its node table for whoever has determined them.
    pub placed: u64,
    /// Flows that it had no room for.
    pub refused: u64,
}

impl Determining {
    /// What has come of them.
    pub(super) const fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a flow was let in since this was last asked.
    pub(super) fn take_placed(&mut self) -> bool {
        std::mem::take(&mut self.placed)
    }
}

impl Engine {
    pub(super) fn determine(&mut self, question: Question) {
        let Question { record, answers } = question;
        self.determining.counts.determined += 1;
        match self.parts.replica.determine(clock::now(), record, PATIENCE) {
            Some(number) => {
                self.determining.asking.insert(number, answers);
            }
            None => give(answers, None),
        }
    }

    /// Puts a flow into the node table that was determined, here or on another node.
    pub(super) fn place(&mut self, wish: Wish, record: FlowRecord) {
        let now = clock::now();
        let table = self.parts.datapath.table();
        let there = table.get(&record.key).map(|view| view.record);
        let Some(placed) = self.parts.replica.place(now, wish, record, there) else { return };
        if self.parts.datapath.table().install(&[placed], now).refused > 0 {
            self.determining.counts.refused += 1;
            return self.parts.replica.handle_not_placed(now, wish, &placed);
        }
        self.determining.placed = true;
        self.determining.counts.placed += 1;
        // No event tells of it: it did not begin with a packet.
        self.load_report.note(&Event { kind: EventKind::Created, record: placed });
    }

    pub(super) fn note_determined(&mut self, number: u32, outcome: Outcome) {
        if let Some(answers) = self.determining.asking.remove(&number) {
            give(answers, Some(outcome));
        }
    }
}

fn give(answers: Answers<Option<Outcome>>, outcome: Option<Outcome>) {
    // Nobody waits for an answer that can't be sent.
    let _given_up = answers.try_send(outcome).is_err();
}
