//! Labs that stand by themselves: `lab up`, and what can be done to one.
//!
//! Invariant: between two commands a standing lab is nothing but its state file, its namespaces and
//! its daemons; every command finds it by its name alone.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::etcd;
use super::fault::{self, Fault};
use super::interrupt::Interrupt;
use super::netns::Namespace;
use super::nodes::{self, Settings};
use super::plan::Plan;
use super::process::Process;
use super::running::{Lab, ask, role_name};
use super::state::{self, State};
use super::topology::Topology;
use crate::control::protocol::Status;

/// What commands call the lab's etcd.
const ETCD: &str = "etcd";

/// Build a lab and leave it; with `bare`, without starting the nodes.
pub fn up(
    name: &str,
    plan: Plan,
    buckets: u32,
    settings: &Settings,
    bare: bool,
) -> Result<ExitCode> {
    let interrupt = Interrupt::listen()?;
    let mut lab = Lab::build(name, plan, buckets)?;
    match bare {
        true => lab.configure(settings)?,
        false => lab.start_nodes(settings, 0, &interrupt)?,
    }
    let seed = settings.seed;
    interrupt.check()?;
    let hosts = lab.state().namespaces.join(", ");
    lab.leave_standing()?;
    println!("lab {name} stands (seed {seed}): {hosts}");
    println!("a host runs a command by: testudo lab exec --name {name} HOST -- COMMAND");
    Ok(ExitCode::SUCCESS)
}

/// Run a command in the network namespace of `host`; its exit status is ours.
pub fn exec(name: &str, host: &str, command: &[String]) -> Result<ExitCode> {
    let state = State::load(name)?;
    let wanted = format!("{name}-{host}");
    if !state.namespaces.contains(&wanted) {
        let prefix = format!("{name}-");
        let hosts = state.namespaces.iter().map(|namespace| namespace.trim_start_matches(&prefix));
        bail!("lab {name} has no host {host}; it has {}", hosts.collect::<Vec<_>>().join(", "));
    }
    let [program, arguments @ ..] = command else { bail!("no command to run in {host}") };
    let mut command = Command::new(program);
    let status = Namespace::open(&wanted)?
        .run(|| command.args(arguments).status())?
        .with_context(|| format!("run {program} in {host}"))?;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    Ok(ExitCode::from(code.unwrap_or(1) as u8))
}

/// Do something to a node.
pub fn inflict(name: &str, node: &str, fault: Fault) -> Result<ExitCode> {
    let state = State::load(name)?;
    if let Some(etcd) = state.etcd.as_ref().filter(|_| node == ETCD) {
        fault::inflict_on_etcd(etcd, fault)?;
    } else {
        fault::inflict(&state, state.node(node)?, fault)?;
    }
    println!("{node} is {fault}");
    Ok(ExitCode::SUCCESS)
}

/// Start the daemon of a node that has none.
pub fn start(name: &str, node: &str) -> Result<ExitCode> {
    let mut state = State::load(name)?;
    let topology = Topology::standing(name, state.plan);
    if node == ETCD {
        if let Some(process) =
            state.etcd.as_ref().and_then(|etcd| etcd.process).filter(Process::alive)
        {
            bail!("etcd runs already: process {}", process.pid);
        }
        drop(etcd::start(&mut state, &topology)?);
        println!("etcd is started");
        return Ok(ExitCode::SUCCESS);
    }
    let index = state.node(node)?;
    if let Some(process) = state.nodes[index].process.filter(|process| process.alive()) {
        bail!("{node} runs already: process {}", process.pid);
    }
    // It is nobody's child when this command has ended, as after `lab up`.
    drop(nodes::start(&mut state, &topology, index as u8 + 1)?);
    println!("{node} is started");
    Ok(ExitCode::SUCCESS)
}

/// Remove a lab.
pub fn down(name: &str) -> Result<ExitCode> {
    state::down(name)?;
    println!("lab {name} is gone");
    Ok(ExitCode::SUCCESS)
}

/// Ask every node, and print what they say. Fails if one that runs does not answer.
pub fn status(name: &str, as_json: bool) -> Result<ExitCode> {
    let state = State::load(name)?;
    let mut silent = false;
    let mut objects = Vec::new();
    for node in &state.nodes {
        let condition = match node.process {
            None => "not started",
            Some(process) if !process.alive() => "dead",
            Some(process) if process.stopped() => "paused",
            Some(_) => "running",
        };
        let answer = match condition {
            "running" => ask(&node.control).ok(),
            _ => None,
        };
        silent |= condition == "running" && answer.is_none();
        match as_json {
            true => objects.push(object(&node.name, condition, answer.as_ref())),
            false => println!("{}", line(&node.name, condition, answer.as_ref())),
        }
    }
    if as_json {
        println!("{}", json!({ "lab": state.name, "nodes": objects }));
    }
    Ok(if silent { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn line(name: &str, condition: &str, answer: Option<&Status>) -> String {
    let Some(status) = answer else { return format!("{name:<5} {condition}") };
    format!(
        "{name:<5} {condition}  {} {}  buckets {}/{}  node table {}  common table {}  peers {}",
        role_name(status.role),
        if status.lease.held { "with lease" } else { "without lease" },
        status.buckets.owned,
        status.buckets.total,
        status.node_table.entries,
        status.common_table.entries,
        status
            .peers
            .iter()
            .map(|p| format!("{} {:?}", p.name, p.state).to_lowercase())
            .collect::<Vec<_>>()
            .join(" ")
    )
}

fn object(name: &str, condition: &str, answer: Option<&Status>) -> serde_json::Value {
    json!({
        "name": name,
        "process": condition,
        "role": answer.map(|status| status.role),
        "lease": answer.map(|status| status.lease.held),
        "buckets": answer.map(|status| status.buckets.owned),
        "node_table": answer.map(|status| status.node_table.entries),
        "foreign": answer.map(|status| status.node_table.foreign),
        "common_table": answer.map(|status| status.common_table.entries),
        "digest": answer.map(|status| &status.common_table.digest),
    })
}
