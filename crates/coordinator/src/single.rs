//! A coordinator for one node: what it proposes is agreed.
//!
//! For a node without peers, and for tests of what stands on a coordinator. Nothing is written to
//! disk: the map of a node that is alone is made anew at each start.

use testudo_packet::bucket::{Nanos, NodeId};

use crate::{Coordinator, MessageError, Output, ProposeError, StateMachine, Ticket};

/// A node that agrees with itself.
#[derive(Debug)]
pub struct Static<M> {
    node: NodeId,
    machine: M,
    changed: bool,
    told_leader: bool,
}

impl<M: StateMachine> Static<M> {
    /// The coordinator of `node`.
    #[must_use]
    pub fn new(node: NodeId, machine: M) -> Self {
        Self { node, machine, changed: false, told_leader: false }
    }
}

impl<M: StateMachine> Coordinator<M> for Static<M> {
    fn handle_message(&mut self, _: Nanos, _: NodeId, _: &[u8]) -> Result<(), MessageError> {
        Err(MessageError::NoPeers)
    }

    fn handle_tick(&mut self, _: Nanos) {}

    fn handle_persisted(&mut self, _: Nanos, _: Ticket) {}

    fn propose(&mut self, _: Nanos, command: Vec<u8>) -> Result<(), ProposeError> {
        self.machine.apply(&command).map_err(ProposeError::Refused)?;
        self.changed = true;
        Ok(())
    }

    fn poll_output(&mut self) -> Option<Output> {
        if !std::mem::replace(&mut self.told_leader, true) {
            return Some(Output::Leader(Some(self.node)));
        }
        std::mem::take(&mut self.changed).then_some(Output::Changed)
    }

    fn next_wakeup(&self) -> Nanos {
        Nanos(u64::MAX)
    }

    fn leads(&self) -> bool {
        true
    }

    fn leader(&self) -> Option<NodeId> {
        Some(self.node)
    }

    fn transfer(&mut self, _: Nanos, _: NodeId) {}

    fn machine(&self) -> &M {
        &self.machine
    }
}
