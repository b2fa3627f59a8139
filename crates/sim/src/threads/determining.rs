//! Flows that nodes determine, wherever their buckets are: requests at random, and the engine's part.

use std::time::Duration;

use testudo_cluster::replica::{Outcome, Wish};
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::tracking::Phase;

use crate::checkers::let_in;
use crate::kernel::key;
use crate::options::{MS, Plant};
use crate::world::{What, World};

/// The time between two requests on average.
const GAP: u64 = 40 * MS;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many flows can be determined; packets never belong to them, so they stay as they are.
const FLOWS: u64 = 64;

impl World {
    /// The first port of determined flows, above all that packets have.
    fn first_determined(&self) -> u16 {
        self.options.flows as u16
    }

    /// Has some node determine a flow.
    pub(crate) fn determine_some(&mut self) {
        let gap = self.rng.within(0..2 * GAP);
        self.push(self.now + gap, What::Determines);
        if self.traffic.gap.is_none() {
            return;
        }
        let node = self.rng.index(self.machines.len());
        let port = self.first_determined() + self.rng.within(0..FLOWS) as u16;
        let exact = self.traffic.exact;
        let machine = &mut self.machines[node];
        let now = machine.read(self.now);
        if !machine.is_up() {
            return;
        }
        let Some(daemon) = &mut machine.daemon else { return };
        let record = FlowRecord {
            translation: None,
            bucket: BucketId(port % self.options.buckets as u16),
            epoch: Epoch(0),
            key: key(port),
            state: FlowState { phase: Phase::Unreplied, confirmed: false, rule: 9, sequence: 0 },
        };
        if let Some(number) = daemon.replica.determine(now, record, PATIENCE) {
            daemon.determined.insert(number, (record, exact));
            self.tally.count("flows determined");
        }
        self.do_effects(node);
        self.pump(node);
        self.turn_soon(node);
    }

    /// An engine turns each millisecond while an answer is awaited, or a bucket on its way.
    pub(crate) fn go_on_with_determining(&mut self, node: usize) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        daemon.replica.handle_determining(now);
        if daemon.replica.is_determining() {
            self.turn_soon(node);
        }
        self.do_effects(node);
    }

    /// Lets a flow in.
    pub(crate) fn place(&mut self, node: usize, wish: Wish, record: FlowRecord) {
        let machine = &mut self.machines[node];
        let now = machine.read(self.now);
        let Some(daemon) = &mut machine.daemon else { return };
        let there = machine.kernel.flows.get(&record.key.initiator.port).copied();
        let placed = daemon.replica.place(now, wish, record, there);
        if let Some(placed) = placed.filter(|_| self.options.plant != Plant::NotPlaced) {
            machine.kernel.install([placed].into_iter());
        }
    }

    /// A node has been told what has come of a flow.
    pub(crate) fn note_determined(&mut self, node: usize, number: u32, outcome: Outcome) {
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let Some((record, exact)) = daemon.determined.remove(&number) else { return };
        match outcome {
            Outcome::Placed { owner, was_there, .. } => {
                let elsewhere = usize::from(owner.0) != node;
                self.tally.add("flows let in by another node", elsewhere.into());
                self.tally.add("flows let in that were there", was_there.into());
                if exact
                    && self.traffic.exact
                    && let Err(error) = let_in(self, &record)
                {
                    self.fail(|| error);
                }
            }
            Outcome::Late { owner } => {
                self.tally.count("flows that nobody let in in time");
                if exact && self.traffic.exact {
                    let bucket = record.bucket;
                    self.fail(|| {
                        format!(
                            "node {node} has waited in vain for node {} to let a flow of bucket \
                             {bucket} in, though nothing fails",
                            owner.0
                        )
                    });
                }
            }
            Outcome::Full { .. } | Outcome::Busy { .. } => {
                self.fail(|| {
                    format!("node {node} is refused a flow for lack of room: {outcome:?}")
                });
            }
        }
    }
}
