//! The engine's rounds over the flows of its kernel and of its common table, against events that were
//! lost, and against those of whose loss nobody knows.
//!
//! Invariant: all events of a kernel have been taken in before its flows are looked at again.

use testudo_cluster::replica::{Audit, Replica};
use testudo_packet::bucket::Nanos;
use testudo_packet::flow::FlowKey;

use super::engine::TICK;
use crate::kernel::Kernel;
use crate::options::nanos;
use crate::world::World;

/// A part of a round, by its number and the number of all.
#[derive(Clone, Copy)]
struct Part(u64, u64);

impl Part {
    fn of(self, length: usize) -> std::ops::Range<usize> {
        let at = |part| (length as u64 * part / self.1) as usize;
        at(self.0)..at(self.0 + 1)
    }
}

/// Looks at a part of both tables. Of the flows in question, the ones of the part before are settled.
fn look(now: Nanos, replica: &mut Replica, kernel: &Kernel, ports: usize, part: Part) -> Audit {
    let get = |key: &FlowKey| kernel.flows.get(&key.initiator.port).copied();
    let mut audit = replica.handle_found_again(now, &get);
    let places = part.of(replica.table().places());
    audit.add(replica.handle_missing(places, &get));
    let shown = part.of(ports);
    replica.handle_found(shown.filter_map(|port| kernel.flows.get(&(port as u16)).copied()));
    audit
}

impl World {
    /// A share of a round, each tick.
    pub(crate) fn audit_some(&mut self, node: usize) {
        self.look_at_queues(node);
        let parts = nanos(self.options.timing.audit).div_ceil(TICK);
        self.audit(node, |audits| vec![Part(audits % parts, parts)]);
    }

    /// A whole round: events were lost.
    pub(crate) fn audit_all(&mut self, node: usize) {
        self.tally.count("node tables read anew");
        self.audit(node, |_| vec![Part(0, 1), Part(0, 1)]);
        self.note_audit(node);
    }

    /// A bucket is to leave, and what was kept back of it is in the kernel only.
    pub(crate) fn read_out(&mut self, node: usize) {
        self.look_at_queues(node);
        self.audit(node, |_| vec![Part(0, 1), Part(0, 1)]);
    }

    fn audit(&mut self, node: usize, parts: impl FnOnce(u64) -> Vec<Part>) {
        let ports = self.options.flows as usize;
        let machine = &mut self.machines[node];
        let now = machine.read(self.now);
        let Some(daemon) = &mut machine.daemon else { return };
        let mut found = Audit::default();
        for part in parts(daemon.audits) {
            found.add(look(now, &mut daemon.replica, &machine.kernel, ports, part));
        }
        self.tally.add("flows let through because their bucket leaves", found.let_through as u64);
        daemon.audits += 1;
        if !found.is_clean() {
            self.tally.add("flows put right by audits", (found.changed + found.removed) as u64);
            self.note_audit(node);
        }
    }
}
