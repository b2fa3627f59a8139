//! The daemon's end of operators' commands.
//!
//! It works in the control socket's thread. Invariant: it waits for the coordinator's thread, and for
//! nobody else, and not longer than [`PATIENCE`].

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_packet::bucket::{BucketId, NodeId};

use super::order::{self, Answers, Refusal};
use crate::control::protocol::{self, MAX_CHANGES};
use crate::node::health::Handle;
use crate::node::mailbox::Sender;
use crate::node::{clock, coordination};

/// How long the coordinator's thread may take. A client waits longer; the control socket's thread,
/// which waits here, keeps others waiting meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a restart may take to be prepared: buckets may be on their way.
const RESTART: Duration = Duration::from_secs(4);

/// How many names a message lists before it breaks off.
const MAX_LISTED: usize = 8;

/// Why a command came to nothing. All but the late one have changed nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// There is no such node.
    #[error("no member is named \"{seen}\"; expected one of {expected}; nothing has changed")]
    NoMember {
        /// The name.
        seen: String,
        /// Those that there are.
        expected: String,
    },
    /// There is no such bucket.
    #[error("bucket {seen} does not exist; expected one below {buckets}; nothing has changed")]
    NoBucket {
        /// Its number.
        seen: u16,
        /// How many there are.
        buckets: u32,
    },
    /// Its mailbox is full.
    #[error("the coordinator's thread takes no more orders now; ask again; nothing has changed")]
    Full,
    /// It is busy, or hangs, or has nobody to agree with.
    #[error(
        "the coordinator's thread did not answer in time; what was asked for may still \
         come to pass: see `testudo map history`"
    )]
    Late,
    /// It knows why not.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Who carries out what operators ask of a node.
#[derive(Debug)]
pub struct Operator {
    cluster: Arc<Cluster>,
    coordination: Sender<coordination::Input>,
    health: Handle,
}

impl Operator {
    /// An operator with a coordination thread behind this mailbox, and a watcher of this node's
    /// health.
    pub const fn new(
        cluster: Arc<Cluster>,
        coordination: Sender<coordination::Input>,
        health: Handle,
    ) -> Self {
        Self { cluster, coordination, health }
    }

    /// Takes all buckets away from a node.
    pub fn drain(&self, node: &str, dry_run: bool) -> Result<protocol::Plan, OperateError> {
        let node = self.member(node)?;
        let plan = self.ask(|answers| order::Request::Drain { node, dry_run, answers })?;
        Ok(self.plan(dry_run, plan))
    }

    /// Lets a node have buckets again.
    pub fn undrain(&self, node: &str, dry_run: bool) -> Result<protocol::Plan, OperateError> {
        let node = self.member(node)?;
        let plan = self.ask(|answers| order::Request::Undrain { node, dry_run, answers })?;
        Ok(self.plan(dry_run, plan))
    }

    /// Moves a bucket to a node.
    pub fn move_bucket(
        &self,
        seen: u16,
        to: &str,
        dry_run: bool,
    ) -> Result<protocol::Plan, OperateError> {
        let buckets = self.cluster.buckets();
        if u32::from(seen) >= buckets {
            return Err(OperateError::NoBucket { seen, buckets });
        }
        let (bucket, to) = (BucketId(seen), self.member(to)?);
        let plan = self.ask(|answers| order::Request::Move { bucket, to, dry_run, answers })?;
        Ok(self.plan(dry_run, plan))
    }

    /// What is agreed.
    pub fn map(&self) -> Result<protocol::Map, OperateError> {
        self.ask(order::Request::Map).map(|map| self.show(&map))
    }

    /// How the agreed map came to be.
    pub fn history(&self, limit: u32) -> Result<protocol::History, OperateError> {
        let limit = limit.min(MAX_CHANGES) as usize;
        let (changes, truncated) =
            self.ask(|answers| order::Request::History { limit, answers })?;
        let shown = |change: order::Change| protocol::Change {
            version: change.version,
            change: change.change,
            reason: change.reason,
        };
        let changes = changes.into_iter().map(shown).collect();
        Ok(protocol::History { changes, truncated })
    }

    /// What this node lives by.
    pub fn health(&self) -> protocol::Health {
        let node = self.name(self.cluster.node());
        protocol::Health::new(node, &self.health.snapshot(), clock::now())
    }

    /// Hands this node over to a new process.
    pub fn restart(&self) -> Result<protocol::Restarting, OperateError> {
        self.ask_for(RESTART, order::Request::Restart)?;
        let node = self.name(self.cluster.node());
        Ok(protocol::Restarting { node, process: std::process::id() })
    }

    /// Asks the coordinator's thread and waits for its answer, but not for long.
    fn ask<T>(&self, order: impl FnOnce(Answers<T>) -> order::Request) -> Result<T, OperateError> {
        self.ask_for(PATIENCE, order)
    }

    fn ask_for<T>(
        &self,
        patience: Duration,
        order: impl FnOnce(Answers<T>) -> order::Request,
    ) -> Result<T, OperateError> {
        let (sender, answer) = mpsc::sync_channel(1);
        let order = coordination::Input::Order(order(Answers::new(sender)));
        self.coordination.send(order).map_err(|_| OperateError::Full)?;
        Ok(answer.recv_timeout(patience).map_err(|_| OperateError::Late)??)
    }

    fn member(&self, seen: &str) -> Result<NodeId, OperateError> {
        let names = self.cluster.members();
        let at = names.iter().position(|name| name == seen);
        if let Some(id) = at.and_then(|at| u8::try_from(at).ok()) {
            return Ok(NodeId(id));
        }
        let more = if names.len() > MAX_LISTED { ", …" } else { "" };
        let listed = names[..names.len().min(MAX_LISTED)].join(", ");
        let expected = format!("{listed}{more}");
        Err(OperateError::NoMember { seen: seen.chars().take(64).collect(), expected })
    }

    fn name(&self, node: NodeId) -> String {
        self.cluster.member(node).to_owned()
    }

    fn plan(&self, dry_run: bool, plan: order::Plan) -> protocol::Plan {
        let moves = plan.moves.iter().map(|&(bucket, from, to)| protocol::Move {
            bucket: bucket.0,
            from: from.map(|from| self.name(from)),
            to: self.name(to),
        });
        let shares = plan.shares.iter().map(|share| protocol::Share {
            node: self.name(share.node),
            buckets_before: share.buckets.0,
            buckets_after: share.buckets.1,
            percent_before: share.percent.0,
            percent_after: share.percent.1,
        });
        protocol::Plan {
            dry_run,
            moves: moves.collect(),
            shares: shares.collect(),
            can_carry: plan.can_carry,
            reason: plan.reason,
        }
    }

    fn show(&self, map: &order::Map) -> protocol::Map {
        let mut first = vec![0; self.cluster.members().len()];
        for owner in map.ranks.iter().filter_map(|ranks| ranks.first()) {
            if let Some(count) = first.get_mut(usize::from(owner.0)) {
                *count += 1;
            }
        }
        let node = |node: &order::Node| protocol::MapNode {
            node: self.name(node.node),
            weight: node.weight,
            witness: node.witness,
            voter: node.voter,
            admitted: node.admitted,
            drained: node.drained,
            buckets: first.get(usize::from(node.node.0)).copied().unwrap_or(0),
        };
        let names = |ranks: &Vec<NodeId>| ranks.iter().map(|&node| self.name(node)).collect();
        protocol::Map {
            version: map.version,
            coordinator: map.coordinator.to_owned(),
            leader: map.leader.map(|leader| self.name(leader)),
            nodes: map.nodes.iter().map(node).collect(),
            ranks: map.ranks.iter().map(names).collect(),
        }
    }
}

#[cfg(test)]
#[path = "operator/tests.rs"]
mod tests;
