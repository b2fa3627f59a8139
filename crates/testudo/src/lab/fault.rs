//! What can be done to a node of a lab.

use std::fmt;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::links::Links;
use super::netns::Namespace;
use super::plan::{Host, Segment};
use super::process::Process;
use super::state::{Etcd, State};

/// A fault, or its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL: the daemon is gone, its XDP program with it or not, as the kernel has it.
    Kill,
    /// SIGSTOP: the daemon is alive but does nothing; its XDP program goes on.
    Pause,
    /// SIGCONT: the end of a pause.
    Resume,
    /// The node's sync link loses its carrier.
    Cut,
    /// The end of a cut.
    Heal,
    /// The node's data links lose their carriers, while the sync link lives.
    CutData,
    /// The end of that.
    HealData,
    /// Everything at once: the daemon is killed and no link has a carrier.
    PowerOff,
    /// The links are back; the daemon is not.
    PowerOn,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "killed (SIGKILL)",
            Fault::Pause => "paused (SIGSTOP)",
            Fault::Resume => "resumed (SIGCONT)",
            Fault::Cut => "cut off from the sync segment",
            Fault::Heal => "back on the sync segment",
            Fault::CutData => "cut off from its data links",
            Fault::HealData => "back on its data links",
            Fault::PowerOff => "powered off (SIGKILL, all links down)",
            Fault::PowerOn => "powered on",
        })
    }
}

/// Do `fault` to the node of index `node`.
pub fn inflict(state: &State, node: usize, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill => signal(state, node, Signal::SIGKILL),
        Fault::Pause => signal(state, node, Signal::SIGSTOP),
        Fault::Resume => signal(state, node, Signal::SIGCONT),
        Fault::Cut => plug(state, node, &[Segment::Sync], false),
        Fault::Heal => plug(state, node, &[Segment::Sync], true),
        Fault::CutData => plug(state, node, state.plan.data(), false),
        Fault::HealData => plug(state, node, state.plan.data(), true),
        Fault::PowerOff => {
            signal(state, node, Signal::SIGKILL)?;
            plug(state, node, &[Segment::Sync], false)?;
            plug(state, node, state.plan.data(), false)
        }
        Fault::PowerOn => {
            plug(state, node, &[Segment::Sync], true)?;
            plug(state, node, state.plan.data(), true)
        }
    }
}

/// Do `fault` to the lab's etcd.
pub fn inflict_on_etcd(etcd: &Etcd, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill => send("etcd", etcd.process, Signal::SIGKILL),
        Fault::Pause => send("etcd", etcd.process, Signal::SIGSTOP),
        Fault::Resume => send("etcd", etcd.process, Signal::SIGCONT),
        _ => bail!("etcd can be killed, paused and resumed; expected one of these"),
    }
}

fn signal(state: &State, node: usize, signal: Signal) -> Result<()> {
    let node = &state.nodes[node];
    send(&node.name, node.process, signal)
}

fn send(name: &str, process: Option<Process>, signal: Signal) -> Result<()> {
    let process = process.with_context(|| format!("{name} was never started"))?;
    if !process.signal(signal)? {
        bail!("{name} does not run, so there is nobody to send {signal} to");
    }
    Ok(())
}

/// The switch's ends of the links go up or down, as when cables are pulled: the node keeps its
/// addresses and sees the carrier go.
fn plug(state: &State, node: usize, segments: &[Segment], up: bool) -> Result<()> {
    let switch = Namespace::open(&Host::Switch.namespace(&state.name))?;
    let mut links = switch.run(Links::open)??;
    for segment in segments {
        links.set_up(&port(state, node, *segment), up)?;
    }
    Ok(())
}

/// The switch's end of a node's link to `segment`.
pub fn port(state: &State, node: usize, segment: Segment) -> String {
    format!("{}-{}", state.nodes[node].name, segment.node_link())
}
