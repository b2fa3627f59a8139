//! What can be done to a node of a lab.

use std::fmt;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use super::links::Links;
use super::netns::Namespace;
use super::plan::{Host, Segment};
use super::state::State;

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
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Kill => "killed (SIGKILL)",
            Fault::Pause => "paused (SIGSTOP)",
            Fault::Resume => "resumed (SIGCONT)",
            Fault::Cut => "cut off from the sync segment",
            Fault::Heal => "back on the sync segment",
        })
    }
}

/// Do `fault` to the node of index `node`.
pub fn inflict(state: &State, node: usize, fault: Fault) -> Result<()> {
    match fault {
        Fault::Kill => signal(state, node, Signal::SIGKILL),
        Fault::Pause => signal(state, node, Signal::SIGSTOP),
        Fault::Resume => signal(state, node, Signal::SIGCONT),
        Fault::Cut => plug(state, node, false),
        Fault::Heal => plug(state, node, true),
    }
}

fn signal(state: &State, node: usize, signal: Signal) -> Result<()> {
    let node = &state.nodes[node];
    let process = node.process.with_context(|| format!("{} was never started", node.name))?;
    if !process.signal(signal)? {
        bail!("{} does not run, so there is nobody to send {signal} to", node.name);
    }
    Ok(())
}

/// The switch's end of the link goes up or down, as when a cable is pulled: the node keeps its
/// addresses and sees the carrier go.
fn plug(state: &State, node: usize, up: bool) -> Result<()> {
    let port = format!("{}-{}", state.nodes[node].name, Segment::Sync.node_link());
    let switch = Namespace::open(&Host::Switch.namespace(&state.name))?;
    Ok(switch.run(Links::open)??.set_up(&port, up)?)
}
