//! A coordinator outside of the nodes, as the coordination thread drives it.
//!
//! Invariant: the thread never waits for it. Requests and answers go through bounded queues; what finds
//! no room is told as not proposed, and the planner names it again.

use testudo_cluster::map::Map;
use testudo_coordinator::{Coordinator, MessageError, Output, ProposeError, Ticket};
use testudo_packet::bucket::{Nanos, NodeId};

use super::etcd::{Answer, Etcd, Request};
use crate::node::throttle::Throttle;

/// How often answers are looked for.
const LOOK_MS: u64 = 5;

/// An etcd that puts the commands in order.
#[derive(Debug)]
pub struct External {
    etcd: Etcd<Map>,
    node: NodeId,
    map: Map,
    leads: bool,
    changed: bool,
    told_leader: Option<NodeId>,
    next_look: Nanos,
    trouble: Throttle,
}

impl External {
    /// The map is as it was before the first command until the etcd has answered.
    pub fn new(etcd: Etcd<Map>, node: NodeId, map: Map) -> Self {
        Self {
            etcd,
            node,
            map,
            leads: false,
            changed: false,
            told_leader: None,
            next_look: Nanos(0),
            trouble: Throttle::default(),
        }
    }
}

impl Coordinator<Map> for External {
    fn handle_message(&mut self, _: Nanos, _: NodeId, _: &[u8]) -> Result<(), MessageError> {
        Err(MessageError::NoPeers)
    }

    fn handle_tick(&mut self, now: Nanos) {
        self.next_look = now.plus_millis(LOOK_MS);
        while let Ok(answer) = self.etcd.answers().try_recv() {
            match answer {
                Answer::Changed(map) => (self.map, self.changed) = (map, true),
                Answer::Leads(leads) => self.leads = leads,
                Answer::Trouble(trouble) => {
                    if let Some(held_back) = self.trouble.admit(now) {
                        tracing::warn!(trouble, held_back, "etcd");
                    }
                }
            }
        }
    }

    fn handle_persisted(&mut self, _: Nanos, _: Ticket) {}

    fn propose(&mut self, _: Nanos, command: Vec<u8>) -> Result<(), ProposeError> {
        self.etcd.ask(Request::Propose(command)).map_err(|_| ProposeError::Full)
    }

    fn poll_output(&mut self) -> Option<Output> {
        if std::mem::take(&mut self.changed) {
            return Some(Output::Changed);
        }
        let leader = self.leader();
        if std::mem::replace(&mut self.told_leader, leader) != leader {
            return Some(Output::Leader(leader));
        }
        None
    }

    fn next_wakeup(&self) -> Nanos {
        self.next_look
    }

    fn leads(&self) -> bool {
        self.leads
    }

    fn leader(&self) -> Option<NodeId> {
        self.leads.then_some(self.node)
    }

    fn transfer(&mut self, _: Nanos, _: NodeId) {
        // Whoever is better off takes it; if there is no room for the request, the next one asks again.
        let _ = self.etcd.ask(Request::StepDown);
    }

    fn machine(&self) -> &Map {
        &self.map
    }
}
