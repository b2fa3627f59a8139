//! A lab that this process owns.
//!
//! Invariant: a [`Lab`] is either removed, or left standing on purpose: an error, a panic or a signal
//! on the way drops it, and that removes it.

use std::fs;
use std::mem;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::interrupt::Interrupt;
use super::nodes;
use super::state::State;
use super::topology::Topology;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Role, Status};

/// How long nodes may take until every bucket has an owner.
const READY: Duration = Duration::from_secs(20);
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_millis(500);

/// Ask the node behind `socket` for its status. A stopped node does not stop who asks.
pub fn ask(socket: &Path) -> Result<Status, ClientError> {
    Client::connect(socket, ANSWER)?.status()
}

/// A lab, as long as this process owns it.
#[derive(Debug)]
pub struct Lab {
    state: State,
    topology: Topology,
    children: Vec<Child>,
    /// Where its nodes' logs are to stay.
    logs: Option<PathBuf>,
    /// Whether dropping this removes it.
    ours: bool,
}

impl Lab {
    /// Build the hosts and links of a new lab.
    pub fn build(name: &str, node_count: u8, buckets: u32) -> Result<Lab> {
        let state = State::claim(name, node_count, buckets)?;
        match Topology::build(name, node_count) {
            Ok(topology) => {
                Ok(Lab { state, topology, children: Vec::new(), logs: None, ours: true })
            }
            Err(error) => {
                state.remove()?;
                Err(error)
            }
        }
    }

    /// Copy the nodes' logs to `directory` when the lab is removed.
    pub fn keep_logs(&mut self, directory: Option<PathBuf>) {
        self.logs = directory;
    }

    /// What its state file says.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Its namespaces.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Write the nodes' configurations, without starting them.
    pub fn configure(&self, seed: u64, flows: u32) -> Result<()> {
        nodes::configure(&self.state, seed, flows)
    }

    /// Start all nodes with room for `flows` flows; returns when they are a cluster: each a member with a lease, every bucket
    /// owned and loaded.
    pub fn start_nodes(&mut self, seed: u64, flows: u32, interrupt: &Interrupt) -> Result<()> {
        self.configure(seed, flows)?;
        for number in 1..=self.topology.nodes() {
            let child = nodes::start(&mut self.state, &self.topology, number)?;
            self.children.push(child);
        }
        let mut seen = Vec::new();
        let mut ended = None;
        let ready = interrupt.wait(READY, || {
            ended = self.state.nodes.iter().find(|node| node.process.is_none_or(|p| !p.alive()));
            seen = self.ask_all();
            ended.is_some() || formed(&seen, self.state.buckets)
        })?;
        if let Some(node) = ended {
            bail!("node {} ended before it was ready; {}", node.name, nodes::last_words(node));
        }
        if !ready {
            let seconds = READY.as_secs();
            bail!("the nodes were no cluster after {seconds} s: {}", describe(&self.state, &seen));
        }
        Ok(())
    }

    /// Ask every node for its status; nothing from those that don't answer.
    fn ask_all(&self) -> Vec<Option<Status>> {
        let nodes = self.state.nodes.iter();
        nodes.map(|node| ask(&node.control).ok()).collect()
    }

    /// Give the lab up: it stands by itself from now on.
    pub fn leave_standing(mut self) -> Result<()> {
        self.state.owner = None;
        self.state.save()?;
        self.ours = false;
        Ok(())
    }

    /// Remove the lab, and say if that failed.
    pub fn remove(mut self) -> Result<()> {
        self.ours = false;
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<()> {
        let kept = self.logs.as_deref().map_or(Ok(()), |directory| self.copy_logs(directory));
        let removed = self.state.remove();
        for mut child in mem::take(&mut self.children) {
            // Only to reap: what it ended with was our signal.
            let _ = child.try_wait();
        }
        removed.and(kept)
    }

    fn copy_logs(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
        for node in self.state.nodes.iter().filter(|node| node.log.exists()) {
            let copy = directory.join(format!("{}.log", node.name));
            fs::copy(&node.log, &copy).with_context(|| format!("write {}", copy.display()))?;
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = self.tear_down()
        {
            eprintln!("testudo lab: {error:#}; the next lab command tries again");
        }
    }
}

/// A role, as the control socket writes it.
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Standby => "standby",
        Role::Joining => "joining",
    }
}

/// Whether all nodes are members that hold leases, and own all buckets between them.
fn formed(nodes: &[Option<Status>], buckets: u32) -> bool {
    let ready = |status: &Status| {
        status.role == Role::Member && status.lease.held && status.buckets.loading == 0
    };
    let owned: u32 = nodes.iter().flatten().map(|status| status.buckets.owned).sum();
    nodes.iter().all(|node| node.as_ref().is_some_and(ready)) && owned == buckets
}

fn describe(state: &State, seen: &[Option<Status>]) -> String {
    let nodes = state.nodes.iter().zip(seen).map(|(node, status)| match status {
        None => format!("{} does not answer ({})", node.name, nodes::last_words(node)),
        Some(status) => format!(
            "{} is {} {} a lease, owns {} of {} buckets, {} loading",
            node.name,
            role_name(status.role),
            if status.lease.held { "with" } else { "without" },
            status.buckets.owned,
            state.buckets,
            status.buckets.loading
        ),
    });
    nodes.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(held: bool, owned: u32) -> Option<Status> {
        let status = serde_json::json!({
            "node": "n1", "cluster": "t", "mode": "shared", "role": "member",
            "lease": {"held": held, "remaining_ms": 80},
            "buckets": {"total": 8, "owned": owned, "loading": 0},
            "node_table": {"entries": 0, "capacity": 64, "foreign": 0},
            "common_table": {"entries": 0, "digest": "0000000000000000"},
            "peers": [], "takeovers": 0, "buckets_taken": 0, "counters": {},
        });
        Some(serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_cluster_is_formed_when_every_bucket_has_an_owner_with_a_lease() {
        assert!(formed(&[node(true, 5), node(true, 3)], 8));
        assert!(!formed(&[node(true, 5), node(false, 3)], 8));
        assert!(!formed(&[node(true, 5), node(true, 2)], 8));
        assert!(!formed(&[node(true, 8), None], 8));
    }
}
