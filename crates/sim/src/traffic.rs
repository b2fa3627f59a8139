//! Packets: how they reach the nodes, and what becomes of each.
//!
//! Invariant: every packet that a node handles is told to the checker of that, by whatever way it came.

use testudo_packet::bucket::NodeId;

use crate::checkers::HandledOnce;
use crate::kernel::{Fate, Packet};
use crate::machine::Input;
use crate::options::{MS, Mode, nanos};
use crate::world::{What, World};

/// By how much nodes see one packet at different moments at most: less than two nodes meet the packets
/// of a bucket that moves, and less than an owner waits for what its old slot has let in.
const SPREAD: u64 = 900_000;

/// How long a packet that is passed on is under way.
const PASSING: std::ops::Range<u64> = 20_000..90_000;

/// All packets.
#[derive(Debug)]
pub struct Traffic {
    /// The time between two packets; none are sent if it is `None`.
    pub gap: Option<u64>,
    /// Whether each packet has to be handled: nothing but planned moves goes on.
    pub exact: bool,
    pub(crate) once: HandledOnce,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { gap: Some(2 * MS), exact: false, once: HandledOnce::default() }
    }
}

impl World {
    /// How long a packet may wait: as long as a move whose owner does not answer.
    pub(crate) fn longest_wait(&self) -> u64 {
        5 * nanos(self.options.timing.handover)
    }

    pub(crate) fn send_packet(&mut self) {
        self.push(self.now + self.traffic.gap.unwrap_or(2 * MS), What::Traffic);
        let before = self.now.saturating_sub(self.longest_wait());
        if let Err(error) = self.traffic.once.settle(before) {
            self.fail(|| error);
        }
        if self.traffic.gap.is_none() {
            return;
        }
        let port = self.rng.within(0..self.options.flows) as u16;
        let bucket = usize::from(port) % self.options.buckets as usize;
        let id = self.traffic.once.sent(self.now, bucket, self.traffic.exact);
        let packet = Packet { id, port, last: self.rng.chance(300), passed_by: None };
        self.tally.count("packets sent");
        match self.options.mode {
            Mode::Shared => {
                for node in 0..self.machines.len() {
                    if !self.machines[node].on {
                        continue;
                    }
                    let at = self.now + self.rng.within(0..SPREAD);
                    self.push(at, What::Arrives(node, packet));
                }
            }
            Mode::Steered => {
                // A node that has no lease, or does not know all owners, tells the router.
                let serves = |&node: &usize| {
                    let kernel = &self.machines[node].kernel;
                    let known = kernel.slots.iter().all(|slot| slot.owner != NodeId::NONE);
                    kernel.leased(self.now) && known
                };
                let nodes: Vec<_> = (0..self.machines.len()).filter(serves).collect();
                if !nodes.is_empty() {
                    let node = self.rng.pick(&nodes);
                    self.push(self.now, What::Arrives(node, packet));
                }
            }
        }
    }

    pub(crate) fn packet_arrives(&mut self, node: usize, packet: Packet) {
        if self.machines[node].on {
            let fate = self.machines[node].kernel.meet(self.now, packet);
            self.account(node, packet, fate);
        }
    }

    /// Takes note of what became of a packet at a node.
    pub(crate) fn account(&mut self, node: usize, packet: Packet, fate: Fate) {
        match fate {
            Fate::Handled => {
                self.tally.count("packets handled");
                if let Err(error) = self.traffic.once.handled(node, packet.id) {
                    self.fail(|| error);
                }
                self.note_packet(node, packet.port);
                self.note_translation(node, packet.port);
            }
            Fate::Passed(to) => {
                self.tally.count("packets passed");
                let at = self.now + self.rng.within(PASSING);
                let passed_by = Some(self.machines[node].cluster.node());
                self.push(at, What::Arrives(usize::from(to.0), Packet { passed_by, ..packet }));
            }
            Fate::Waits | Fate::Dropped => {}
        }
        let kernel = &self.machines[node].kernel;
        let idle = kernel.events.is_empty() && kernel.upcalls.is_empty();
        let lag = self.rng.within(0..MS);
        if let Some(daemon) = &mut self.machines[node].daemon
            && !idle
            && !std::mem::replace(&mut daemon.looks, true)
        {
            let life = daemon.life;
            self.input_at(self.now + lag, node, life, Input::Queues);
        }
    }
}
