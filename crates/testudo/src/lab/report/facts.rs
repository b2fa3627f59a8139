//! What a judgement rests on: the run as it was played, before anybody says whether it was good.

use serde::Serialize;

use crate::lab::analyser::Got;
use crate::lab::args::RunArgs;
use crate::lab::connects::Outcome;
use crate::lab::router::Change;
use crate::lab::samples::Seen;
use crate::lab::state::State;
use crate::lab::traffic::{TcpOutcome, UdpOutcome};

/// What a judgement rests on. Times are in microseconds on the run's clock.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What was asked for.
    pub args: &'a RunArgs,
    /// What the run's choices followed from.
    pub seed: u64,
    /// The lab.
    pub state: &'a State,
    /// The nodes before the event.
    pub before: &'a Seen,
    /// The nodes after the traffic.
    pub after: &'a Seen,
    /// Whose daemon runs at the end.
    pub alive: &'a [bool],
    /// Who was to be alive at the end.
    pub watched: &'a [bool],
    /// Whether the common tables agreed and every bucket had one owner, at the end.
    pub agree: bool,
    /// From the first event to the end of the traffic.
    pub window: (u64, u64),
    /// What happened between them.
    pub played: &'a Played,
    /// The connections.
    pub tcp: &'a TcpOutcome,
    /// The flows.
    pub udp: &'a UdpOutcome,
    /// What each node's analyser got of each flow, in `tap` mode.
    pub analysed: Option<&'a [Vec<Got>]>,
}

/// What happened, and when.
#[derive(Debug, Clone, Default)]
pub struct Played {
    /// Faults.
    pub events: Vec<Event>,
    /// Planned steps that were done.
    pub steps: Vec<Step>,
    /// What the routers did about it, and when.
    pub routers: Vec<(Change, u64)>,
    /// A node without a majority, from when to when, and the packets that came out of it meanwhile.
    pub minority: Option<(usize, u64, u64, u64)>,
    /// A join.
    pub balance: Option<Balance>,
    /// How many flows were opened beside the load's.
    pub opened: u32,
    /// What came of the connections that were opened all the time.
    pub connects: Outcome,
    /// What the daemons needed.
    pub memory: Vec<Memory>,
    /// What did not go as it had to.
    pub complaints: Vec<String>,
}

/// A fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Whose.
    pub node: String,
    /// When it began.
    pub at: u64,
    /// Until when its blackout is looked for.
    pub until: u64,
    /// From the survivors' decision to the first packet that one of them forwarded.
    pub first_packet_micros: Option<f64>,
    /// From their decision until all slots named them.
    pub flipped_micros: Option<f64>,
    /// From their decision until all entries were in their node tables.
    pub loaded_micros: Option<f64>,
}

/// A planned step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Step {
    /// `move`, `drain`...
    pub what: &'static str,
    /// How long it took, from the command until it was in force everywhere.
    pub millis: f64,
}

/// The most memory that a daemon has had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Whose.
    pub node: String,
    /// Before the event, in KiB.
    pub before_kib: u64,
    /// At the end, in KiB.
    pub peak_kib: u64,
}

/// What a join changed. A load is the most loaded node's packets over the mean of all.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Balance {
    /// Buckets that moved to the newcomer.
    pub moved: u32,
    /// The load of the nodes before.
    pub before: f64,
    /// The load of all nodes when the newcomer has its share.
    pub after: f64,
    /// The same at the end of the hold, in which the cluster balances.
    pub held: f64,
}
