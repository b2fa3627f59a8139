//! The coordinator's thread: it drives the agreement and, on the leader, the planner.

use std::sync::Arc;

use testudo_cluster::map::Command;
use testudo_cluster::membership::Standing;
use testudo_cluster::planner;
use testudo_coordinator::{Coordinator, MessageError, Output, Ticket};
use testudo_packet::bucket::{Nanos, NodeId};

use crate::machine::{Input, Order, Purpose, Thread};
use crate::options::MS;
use crate::world::World;

/// How often the leader plans.
const PLAN: u64 = 100 * MS;

impl World {
    pub(crate) fn coordinator(&mut self, node: usize, input: Input) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        match input {
            Input::Alarm(due) if due == daemon.alarm_at => {
                daemon.alarm_at = u64::MAX;
                daemon.raft.handle_tick(now);
            }
            Input::Letter(from, bytes) => self.take_letter(node, now, from, &bytes),
            Input::Persisted(ticket) => self.persisted(node, now, ticket),
            Input::Plan => {
                let life = daemon.life;
                self.ask_for_standings(node);
                self.input_at(self.now + PLAN, node, life, Input::Plan);
            }
            Input::Standings(standings, Purpose::Plan) => self.plan(node, now, &standings),
            Input::Standings(standings, Purpose::Order(order)) => {
                self.order(node, now, order, &standings);
            }
            Input::Order(order) => {
                self.mail(node, Thread::Coordinator, Input::Ask(Purpose::Order(order)));
            }
            _ => return,
        }
        while let Some(daemon) = &mut self.machines[node].daemon
            && let Some(output) = daemon.raft.poll_output()
        {
            self.carry_out(node, output);
        }
        self.set_alarm(node);
    }

    fn take_letter(&mut self, node: usize, now: Nanos, from: NodeId, bytes: &[u8]) {
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        match daemon.raft.handle_message(now, from, bytes) {
            Ok(()) => {}
            Err(MessageError::Busy { .. }) => self.tally.count("letters refused: slow disk"),
            Err(error) => self.fail(|| format!("node {node} refuses a letter: {error}")),
        }
    }

    fn persisted(&mut self, node: usize, now: Nanos, ticket: Ticket) {
        let machine = &mut self.machines[node];
        let Some(daemon) = &mut machine.daemon else { return };
        let written = machine.disk.written();
        assert_eq!(written, Some(ticket), "batches are written in their order");
        daemon.raft.handle_persisted(now, ticket);
    }

    /// Asks the heartbeat thread, if this node is the one to plan.
    fn ask_for_standings(&mut self, node: usize) {
        let now = self.machines[node].read(self.now);
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        if daemon.raft.leads() {
            self.mail(node, Thread::Coordinator, Input::Ask(Purpose::Plan));
        } else {
            daemon.planner.plan(now, false, daemon.raft.machine(), &[]);
        }
    }

    fn plan(&mut self, node: usize, now: Nanos, standings: &[Standing]) {
        let balance = self.options.balance && self.rng.chance(100);
        let costs = (0..self.options.buckets).map(|_| self.rng.within(1..100) as f64);
        let costs: Vec<_> = if balance { costs.collect() } else { Vec::new() };
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        daemon.planner.set_costs(costs);
        let leads = daemon.raft.leads();
        let command = daemon.planner.plan(now, leads, daemon.raft.machine(), standings);
        if let Some(command) = command
            && !self.propose(node, now, &command)
            && let Some(daemon) = &mut self.machines[node].daemon
        {
            daemon.planner.not_proposed();
        }
    }

    fn order(&mut self, node: usize, now: Nanos, order: Order, standings: &[Standing]) {
        let machine = &mut self.machines[node];
        let Some(daemon) = &machine.daemon else { return };
        let command = match order {
            Order::Drain(node) => Ok(Command::Drain { node }),
            Order::Undrain(node) => Ok(Command::Undrain { node }),
            Order::Move(bucket, to) => {
                let map = daemon.raft.machine();
                planner::move_bucket(&machine.cluster, map, standings, bucket, to)
            }
        };
        match command {
            Ok(command) => {
                self.propose(node, now, &command);
            }
            Err(error) => self.say(node, || format!("refuses the operator: {error}")),
        }
    }

    fn propose(&mut self, node: usize, now: Nanos, command: &Command) -> bool {
        let Some(daemon) = &mut self.machines[node].daemon else { return false };
        let proposed = daemon.raft.propose(now, command.encode());
        self.say(node, || format!("proposes {command:?}: {proposed:?}"));
        self.tally.count(if proposed.is_ok() { "commands proposed" } else { "proposals refused" });
        proposed.is_ok()
    }

    fn carry_out(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { to, bytes } => {
                self.mail(node, Thread::Coordinator, Input::Post(to, bytes));
            }
            Output::Persist { ticket, batch } => {
                let time = self.machines[node].disk_time(&mut self.rng);
                let machine = &mut self.machines[node];
                machine.disk.begin(ticket, batch);
                machine.disk.until = machine.disk.until.max(self.now + time);
                let at = machine.disk.until;
                if let Some(life) = machine.life() {
                    self.input_at(at, node, life, Input::Persisted(ticket));
                }
            }
            Output::Changed => {
                let Some(daemon) = &self.machines[node].daemon else { return };
                let map = Arc::new(daemon.raft.machine().clone());
                self.note_lists(&map);
                let last = map.history().next_back().cloned();
                self.say(node, || format!("has map {}: {last:?}", map.version().0));
                self.tally.most("most versions of a map", map.version().0);
                self.mail(node, Thread::Coordinator, Input::Map(map));
                self.ask_for_standings(node);
            }
            Output::Leader(leader) => {
                if leader.is_some_and(|leader| usize::from(leader.0) == node) {
                    self.say(node, || "leads".into());
                    self.tally.count("elections won");
                }
                self.ask_for_standings(node);
            }
            Output::Refused { why } => {
                self.say(node, || format!("sees a command refused: {why}"));
                self.tally.count("commands refused when agreed");
            }
        }
    }

    fn set_alarm(&mut self, node: usize) {
        let lag = self.rng.within(0..MS / 2);
        let machine = &mut self.machines[node];
        let Some(daemon) = &mut machine.daemon else { return };
        let wait = machine.kernel.clock.wait(self.now, daemon.raft.next_wakeup());
        let due = self.now.saturating_add(wait);
        if due < daemon.alarm_at {
            daemon.alarm_at = due;
            let life = daemon.life;
            self.input_at(due.saturating_add(lag), node, life, Input::Alarm(due));
        }
    }
}
