//! What a run found, judged.
//!
//! Invariant: `passed` is true exactly when `failures` is empty; each failure says what was expected.

use serde::Serialize;

use super::args::Scenario;
use super::connects::Outcome;
use super::plan::Mode;
use super::traffic::{Counts, Flow, Way, longest_gap};
use crate::control::protocol::Status;
use facts::{Balance, Facts, Memory};

pub mod facts;
mod text;

/// A flow that is silent for this long when the traffic ends is not alive, in microseconds.
const SILENT: u64 = 1_000_000;

/// The report of a run, as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// What was played.
    pub scenario: String,
    /// How packets reached the nodes.
    pub mode: &'static str,
    /// What repeats the run's choices.
    pub seed: u64,
    /// The nodes at the end.
    pub nodes: Vec<NodeReport>,
    /// TCP connections.
    pub connections: Connections,
    /// UDP flows.
    pub flows: Flows,
    /// Datagrams of the UDP flows, over the whole run; `received` are echoes.
    pub packets: Packets,
    /// Datagrams to the server that were sent from the first event on.
    pub up: Counts,
    /// Datagrams from the server that were sent from the first event on.
    pub down: Counts,
    /// The same two, as the analysers got them, in `tap` mode.
    pub analysed: Option<[Counts; 2]>,
    /// Longest gaps of the UDP flows around the events.
    pub blackout_ms: Quantiles,
    /// The longest gap of any flow around each event.
    pub events: Vec<EventReport>,
    /// Of these longest gaps, over the events.
    pub event_blackout_ms: Quantiles,
    /// How long planned steps took.
    pub steps: Vec<Steps>,
    /// What the routers did.
    pub routers: Vec<RouterReport>,
    /// A node without a majority.
    pub minority: Option<Minority>,
    /// A join.
    pub balance: Option<Balance>,
    /// Flows that were opened beside the load's, all the time.
    pub churned: u32,
    /// Connections that were opened beside the load's, all the time.
    pub connects: Connects,
    /// The most memory of each daemon.
    pub memory: Vec<Memory>,
    /// Buckets taken over from a node that failed.
    pub buckets_moved: u64,
    /// The most entries that were seen in a node table without its node owning their bucket.
    pub foreign_entries: u64,
    /// How often nodes were asked.
    pub samples: u64,
    /// How often a node that was to be alive did not answer.
    pub unanswered: u64,
    /// Whether the common tables of the live nodes agreed, and every bucket had one owner.
    pub common_tables_agree: bool,
    /// The command that plays the run again.
    pub replay: String,
    /// What was not as it had to be.
    pub failures: Vec<String>,
    /// Whether everything was.
    pub passed: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeReport {
    /// Its name.
    pub name: String,
    /// Whether its daemon runs.
    pub alive: bool,
    /// Buckets that it owns.
    pub buckets: u32,
    /// Entries in its node table.
    pub node_table: u64,
    /// Entries in its common table.
    pub common_table: u64,
    /// The same before the fault.
    pub before: Tables,
}

/// A node's share before the fault.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Tables {
    /// Buckets that it owned.
    pub buckets: u32,
    /// Entries in its node table.
    pub node_table: u64,
    /// Entries in its common table.
    pub common_table: u64,
}

/// TCP connections.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connections {
    /// Opened, with a first exchange.
    pub opened: u32,
    /// Carried data both ways at the end.
    pub alive: u32,
    /// Neither alive nor reset.
    pub lost: u32,
    /// Reset.
    pub reset: u32,
    /// Bytes that were as they were sent, at both ends together.
    pub verified_bytes: u64,
    /// The longest waits for an answer from the first event on, over the busy connections.
    pub stall_ms: Quantiles,
}

/// Connections that were opened all the time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Connects {
    /// Answered: the client has seen the SYN-ACK.
    pub acknowledged: u32,
    /// Of these, looked at after a kill, or at the end.
    pub checked: u32,
    /// Of these, unknown to the cluster.
    pub lost: u32,
    /// From the SYN to the SYN-ACK.
    pub opening_ms: Quantiles,
}

/// UDP flows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Flows {
    /// How many there were.
    pub opened: u32,
    /// How many got echoes up to the end.
    pub alive: u32,
}

/// Datagrams.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Packets {
    /// Sent by the client.
    pub sent: u64,
    /// Of these, echoed.
    pub received: u64,
    /// Of these, not echoed.
    pub lost: u64,
    /// Echoes that came again.
    pub duplicated: u64,
}

/// The middle, the tail and the worst of some times in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quantiles {
    /// Of half, at most.
    pub p50: f64,
    /// Of 99 %, at most.
    pub p99: f64,
    /// Of all.
    pub max: f64,
}

/// A fault.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventReport {
    /// Whose.
    pub node: String,
    /// The longest gap of any flow.
    pub blackout_ms: f64,
    /// From the decision to take over to the first packet forwarded; `null` if no node says so.
    pub first_packet_micros: Option<f64>,
    /// From the decision until all slots named the survivors.
    pub flipped_micros: Option<f64>,
    /// From the decision until all entries were in their node tables.
    pub loaded_micros: Option<f64>,
}

/// Planned steps of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Steps {
    /// `move`, `drain`...
    pub what: String,
    /// How many were done.
    pub count: usize,
    /// How long they took.
    pub took_ms: Quantiles,
}

/// A router changed its routes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RouterReport {
    /// `crouter` or `srouter`.
    pub router: String,
    /// The next hop.
    pub node: String,
    /// Whether it is in use from then on.
    pub up: bool,
    /// Since the last event.
    pub after_ms: f64,
}

/// What came out of a node while it had no majority and its lease had run out.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Minority {
    /// The node.
    pub node: String,
    /// How long it was looked at.
    pub for_ms: f64,
    /// Packets of the load.
    pub forwarded: u64,
}

impl Report {
    /// Judge a run.
    pub fn judge(facts: &Facts<'_>) -> Report {
        let (from, until) = facts.window;
        let flows = &facts.udp.flows;
        let lives = |flow: &&Flow| {
            let last = flow.down.arrived.times.last();
            last.is_some_and(|last| *last >= from && last + SILENT >= until)
        };
        let (up, down) = (|flow: &Flow| flow.up.clone(), |flow: &Flow| flow.down.clone());
        let gaps = gaps(facts);
        let events = events(facts, &gaps);
        let millis_of = |event: &EventReport| (event.blackout_ms * 1e3) as u64;
        let event_gaps = events.iter().map(millis_of).collect();
        let mut report = Report {
            scenario: facts.args.scenario.to_string(),
            mode: facts.state.plan.mode.name(),
            seed: facts.seed,
            nodes: nodes(facts),
            connections: connections(facts),
            flows: Flows {
                opened: flows.len() as u32,
                alive: flows.iter().filter(lives).count() as u32,
            },
            packets: packets(flows),
            up: flows.iter().map(|flow| up(flow).count(from, until)).sum(),
            down: flows.iter().map(|flow| down(flow).count(from, until)).sum(),
            analysed: analysed(facts),
            blackout_ms: quantiles(gaps.into_iter().flatten().collect()),
            events,
            event_blackout_ms: quantiles(event_gaps),
            steps: steps(facts),
            routers: routers(facts),
            minority: minority(facts),
            balance: facts.played.balance,
            churned: facts.played.opened,
            connects: connects(facts),
            memory: facts.played.memory.clone(),
            buckets_moved: moved(facts),
            foreign_entries: facts.after.foreign,
            samples: facts.after.samples,
            unanswered: facts.after.unanswered,
            common_tables_agree: facts.agree,
            replay: facts.args.replay(facts.seed),
            failures: Vec::new(),
            passed: false,
        };
        report.failures = failures(facts, &report);
        report.passed = report.failures.is_empty();
        report
    }
}

fn connections(facts: &Facts<'_>) -> Connections {
    let tcp = facts.tcp;
    Connections {
        opened: tcp.opened,
        alive: tcp.alive,
        lost: tcp.lost,
        reset: tcp.reset,
        verified_bytes: tcp.verified,
        stall_ms: quantiles(tcp.stalls.clone()),
    }
}

fn connects(facts: &Facts<'_>) -> Connects {
    let Outcome { acknowledged, checked, lost, delays } = &facts.played.connects;
    let opening_ms = quantiles(delays.clone());
    Connects { acknowledged: *acknowledged, checked: *checked, lost: *lost, opening_ms }
}

fn packets(flows: &[Flow]) -> Packets {
    let all = |way: &Way| way.count(0, u64::MAX);
    let up: Counts = flows.iter().map(|flow| all(&flow.up)).sum();
    let down: Counts = flows.iter().map(|flow| all(&flow.down)).sum();
    Packets {
        sent: up.sent,
        received: down.received,
        lost: up.sent - down.received,
        duplicated: up.doubled + down.doubled,
    }
}

/// What all analysers together got of each flow, both ways.
fn at_analysers(facts: &Facts<'_>) -> Option<Vec<Flow>> {
    let analysed = facts.analysed?;
    let flows = facts.udp.flows.iter().enumerate().map(|(number, flow)| {
        let mut seen = Flow::default();
        (seen.up.sent, seen.down.sent) = (flow.up.sent.clone(), flow.down.sent.clone());
        for got in analysed.iter().filter_map(|node| node.get(number)) {
            seen.up.arrived.merge(&got.up);
            seen.down.arrived.merge(&got.down);
        }
        seen
    });
    Some(flows.collect())
}

fn analysed(facts: &Facts<'_>) -> Option<[Counts; 2]> {
    let (from, until) = facts.window;
    let flows = at_analysers(facts)?;
    let up = flows.iter().map(|flow| flow.up.count(from, until)).sum();
    Some([up, flows.iter().map(|flow| flow.down.count(from, until)).sum()])
}

/// The longest gap of every flow, event by event; without events, over the whole window. In `tap` mode
/// what counts is what analysers see.
fn gaps(facts: &Facts<'_>) -> Vec<Vec<u64>> {
    let analysed = at_analysers(facts)
        .map(|flows| flows.into_iter().map(|flow| flow.up.arrived.times).collect::<Vec<_>>());
    let echoes = || facts.udp.flows.iter().map(|flow| flow.down.arrived.times.clone()).collect();
    let arrivals: Vec<Vec<u64>> = analysed.unwrap_or_else(echoes);
    let (from, until) = facts.window;
    let events = facts.played.events.iter().map(|event| (event.at, event.until.min(until)));
    let mut windows: Vec<(u64, u64)> = events.collect();
    if windows.is_empty() {
        windows.push((from, until));
    }
    let gaps = |(from, until): (u64, u64)| {
        arrivals.iter().map(|arrivals| longest_gap(arrivals, from, until)).collect()
    };
    windows.into_iter().map(gaps).collect()
}

fn events(facts: &Facts<'_>, gaps: &[Vec<u64>]) -> Vec<EventReport> {
    let events = facts.played.events.iter().zip(gaps);
    let report = |(event, gaps): (&facts::Event, &Vec<u64>)| EventReport {
        node: event.node.clone(),
        blackout_ms: millis(gaps.iter().copied().max().unwrap_or_default()),
        first_packet_micros: event.first_packet_micros,
        flipped_micros: event.flipped_micros,
        loaded_micros: event.loaded_micros,
    };
    events.map(report).collect()
}

fn steps(facts: &Facts<'_>) -> Vec<Steps> {
    let all = &facts.played.steps;
    let mut kinds: Vec<&str> = all.iter().map(|step| step.what).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let report = |kind: &str| {
        let steps = all.iter().filter(|step| step.what == kind);
        let micros: Vec<u64> = steps.map(|step| (step.millis * 1e3) as u64).collect();
        Steps { what: kind.to_owned(), count: micros.len(), took_ms: quantiles(micros) }
    };
    kinds.into_iter().map(report).collect()
}

fn routers(facts: &Facts<'_>) -> Vec<RouterReport> {
    let since = |at: u64| {
        let events = facts.played.events.iter().map(|event| event.at);
        let last = events.filter(|event| *event <= at).max();
        millis(at.saturating_sub(last.unwrap_or(facts.window.0)))
    };
    let routers = facts.played.routers.iter();
    routers
        .map(|(change, at)| RouterReport {
            router: change.router.name(),
            node: facts.state.nodes[usize::from(change.node) - 1].name.clone(),
            up: change.up,
            after_ms: since(*at),
        })
        .collect()
}

/// What came out of the links, and, in `tap` mode, what the node's analyser got.
fn minority(facts: &Facts<'_>) -> Option<Minority> {
    let (node, from, until, forwarded) = facts.played.minority?;
    let got = facts.analysed.and_then(|analysed| analysed.get(node)).into_iter().flatten();
    let times = got.flat_map(|got| got.up.times.iter().chain(&got.down.times));
    let analysed = times.filter(|at| (from..until).contains(*at)).count() as u64;
    Some(Minority {
        node: facts.state.nodes[node].name.clone(),
        for_ms: millis(until - from),
        forwarded: forwarded + analysed,
    })
}

fn quantiles(mut micros: Vec<u64>) -> Quantiles {
    micros.sort_unstable();
    let at = |percent| millis(percentile(&micros, percent));
    Quantiles { p50: at(50), p99: at(99), max: at(100) }
}

fn failures(facts: &Facts<'_>, report: &Report) -> Vec<String> {
    let mut failures = Vec::new();
    let mut demand = |holds: bool, failure: String| {
        if !holds {
            failures.push(failure);
        }
    };
    let Connections { opened, alive, lost, reset, .. } = report.connections;
    let asked = facts.args.connections;
    demand(opened == asked, format!("{opened} of {asked} connections could be opened"));
    demand(lost == 0, format!("{lost} connections were lost"));
    demand(reset == 0, format!("{reset} connections were reset"));
    demand(alive == opened, format!("{alive} of {opened} connections are alive"));
    let Connects { checked, lost, .. } = report.connects;
    demand(lost == 0, format!("{lost} of {checked} answered connections were lost"));
    demand(facts.args.connects == 0 || checked > 0, "no answered connection was checked".into());
    let flows = &report.flows;
    demand(
        flows.alive == facts.args.flows,
        format!("{} of {} UDP flows went on", flows.alive, facts.args.flows),
    );
    let corrupt: u32 = facts.udp.flows.iter().map(Flow::corrupt).sum();
    demand(corrupt == 0, format!("{corrupt} datagrams were not what was sent"));
    demand(
        report.foreign_entries == 0,
        format!("a node table had {} entries of others' buckets", report.foreign_entries),
    );
    demand(report.common_tables_agree, "the live nodes disagree at the end".into());
    demand(report.samples > 0, "no node ever answered".into());
    if facts.args.scenario == Scenario::Kill && facts.args.kills == 1 {
        demand(report.buckets_moved > 0, "no bucket was taken over".into());
    }
    if let Some(Minority { node, forwarded, for_ms }) = &report.minority {
        demand(
            *forwarded == 0,
            format!("{node} let {forwarded} packets through in {for_ms:.0} ms without a majority"),
        );
    }
    for (way, counts) in ways(facts, report) {
        let Counts { lost, doubled, .. } = counts;
        demand(doubled == 0, format!("{doubled} datagrams {way} came twice"));
        let planned = facts.args.scenario.is_planned();
        demand(!planned || lost == 0, format!("{lost} datagrams {way} were lost, and none had to"));
    }
    let nodes = report.nodes.iter().zip(facts.watched);
    for (node, _) in nodes.filter(|(node, watched)| **watched && !node.alive) {
        demand(false, format!("{} ended by itself", node.name));
    }
    failures.extend(facts.played.complaints.iter().cloned());
    failures.extend(facts.tcp.reasons.iter().cloned());
    failures
}

/// The packets that are judged. In `tap` mode client and server speak to each other without the
/// cluster's help, and what counts is what the analysers got.
fn ways(facts: &Facts<'_>, report: &Report) -> Vec<(&'static str, Counts)> {
    match (facts.state.plan.mode, report.analysed) {
        (Mode::Tap, Some([up, down])) => {
            vec![("to the server, at the analysers,", up), ("back, at the analysers,", down)]
        }
        _ => vec![("to the server", report.up), ("back", report.down)],
    }
}

fn nodes(facts: &Facts<'_>) -> Vec<NodeReport> {
    let names = facts.state.nodes.iter().map(|node| node.name.clone());
    names
        .enumerate()
        .map(|(index, name)| {
            let before = tables(facts.before.latest[index].as_ref());
            let after = match facts.alive[index] {
                true => tables(facts.after.latest[index].as_ref()),
                false => Tables::default(),
            };
            NodeReport {
                name,
                alive: facts.alive[index],
                buckets: after.buckets,
                node_table: after.node_table,
                common_table: after.common_table,
                before,
            }
        })
        .collect()
}

fn tables(status: Option<&Status>) -> Tables {
    status.map_or_else(Tables::default, |status| Tables {
        buckets: status.buckets.owned,
        node_table: status.node_table.entries,
        common_table: status.common_table.entries,
    })
}

/// Buckets that live nodes took over since before the fault.
fn moved(facts: &Facts<'_>) -> u64 {
    let pairs = facts.before.latest.iter().zip(&facts.after.latest);
    pairs
        .filter_map(|(before, after)| {
            let (before, after) = (before.as_ref()?, after.as_ref()?);
            Some(after.buckets_taken.saturating_sub(before.buckets_taken))
        })
        .sum()
}

/// The smallest value that at least `percent` of the sorted values do not exceed.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn millis(micros: u64) -> f64 {
    micros as f64 / 1000.0
}

#[cfg(test)]
mod tests;
