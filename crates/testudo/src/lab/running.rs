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

use super::etcd;
use super::interrupt::Interrupt;
use super::nodes::{self, Settings};
use super::plan::Plan;
use super::process::Process;
use super::state::State;
use super::topology::Topology;
use crate::control::client::{Client, ClientError};
use crate::control::protocol::{Role, Status};

/// How long nodes may take until every bucket has an owner.
const READY: Duration = Duration::from_secs(90);
/// How long a node may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

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
    pub fn build(name: &str, plan: Plan, buckets: u32) -> Result<Lab> {
        let state = State::claim(name, plan, buckets)?;
        match Topology::build(name, plan) {
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
    pub fn configure(&self, settings: &Settings) -> Result<()> {
        nodes::configure(&self.state, settings)
    }

    /// Start all nodes but the last `late` ones; returns when they are a cluster: each a member with a
    /// lease, every bucket owned and loaded.
    pub fn start_nodes(
        &mut self,
        settings: &Settings,
        late: u8,
        interrupt: &Interrupt,
    ) -> Result<()> {
        self.configure(settings)?;
        if self.state.etcd.is_some() {
            let child = etcd::start(&mut self.state, &self.topology)?;
            self.children.push(child);
        }
        let plan = self.topology.plan();
        let starting = (1..=plan.members())
            .filter(|number| plan.is_witness(*number) || *number + late <= plan.nodes);
        for number in starting {
            self.start_node(number)?;
        }
        let mut seen = Vec::new();
        let mut ended = None;
        let ready = interrupt.wait(READY, || {
            let mut started = self.state.nodes.iter().filter(|node| node.process.is_some());
            ended = started.find(|node| node.process.is_none_or(|p| !p.alive()));
            seen = self.ask_all();
            ended.is_some() || formed(&self.state, &seen)
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

    /// Start the daemon of member `number`, the first time or again.
    pub fn start_node(&mut self, number: u8) -> Result<()> {
        for child in &mut self.children {
            // Reaps those that have ended; what they ended with was the lab's doing.
            let _ = child.try_wait();
        }
        let child = nodes::start(&mut self.state, &self.topology, number)?;
        self.children.push(child);
        Ok(())
    }

    /// Take note of the process that runs as the node of index `node` now: it may have handed itself
    /// over to another. Says which it is, if there is exactly one.
    pub fn find_process(&mut self, node: usize) -> Result<Option<Process>> {
        let found = Process::with_argument(&self.state.nodes[node].config);
        if let [process] = found[..] {
            self.state.nodes[node].process = Some(process);
            self.state.save()?;
            return Ok(Some(process));
        }
        Ok(None)
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
        Role::Joining => "joining",
    }
}

/// Whether all nodes that were started are members that hold leases, and own all buckets between
/// them. Of a witness it is enough that it answers.
fn formed(state: &State, nodes: &[Option<Status>]) -> bool {
    let ready = |status: &Status| {
        status.role == Role::Member && status.lease.held && status.buckets.loading == 0
    };
    let pairs = state.nodes.iter().zip(nodes);
    let mut started = pairs.filter(|(node, _)| node.process.is_some());
    let owned: u32 = nodes.iter().flatten().map(|status| status.buckets.owned).sum();
    owned == state.buckets
        && started.all(|(node, status)| {
            status.as_ref().is_some_and(|status| node.witness || ready(status))
        })
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

    fn state(witness: bool) -> State {
        let process = serde_json::json!({"pid": 1, "started": 1});
        let node = |name: &str, witness: bool| {
            serde_json::json!({
                "name": name, "witness": witness, "process": process, "config": "", "control": "",
                "log": "", "state": "",
            })
        };
        serde_json::from_value(serde_json::json!({
            "name": "t", "owner": null, "buckets": 8, "namespaces": [],
            "plan": {"mode": "shared", "nodes": 2, "witness": witness},
            "nodes": [node("n1", false), node("n2", witness)],
        }))
        .unwrap()
    }

    #[test]
    fn a_cluster_is_formed_when_every_bucket_has_an_owner_with_a_lease() {
        assert!(formed(&state(false), &[node(true, 5), node(true, 3)]));
        assert!(!formed(&state(false), &[node(true, 5), node(false, 3)]));
        assert!(!formed(&state(false), &[node(true, 5), node(true, 2)]));
        assert!(!formed(&state(false), &[node(true, 8), None]));
        assert!(formed(&state(true), &[node(true, 8), node(false, 0)]), "a witness owns nothing");
        assert!(!formed(&state(true), &[node(true, 8), None]), "a witness that is silent");
        let mut late = state(false);
        late.nodes[1].process = None;
        assert!(formed(&late, &[node(true, 8), None]), "who was not started is not waited for");
    }
}
