//! What a run found, judged.
//!
//! Invariant: `passed` is true exactly when `failures` is empty; each failure says what was expected.

use std::fmt;

use serde::Serialize;

use super::Scenario;
use super::samples::Seen;
use super::state::State;
use super::traffic::{Load, TcpOutcome, UdpOutcome, longest_gap};
use crate::control::protocol::Status;

/// A flow that is silent for this long when the traffic ends is not alive, in microseconds.
const SILENT: u64 = 1_000_000;

/// What a judgement rests on.
#[derive(Debug)]
pub struct Facts<'a> {
    /// What was played.
    pub scenario: Scenario,
    /// What traffic was asked for.
    pub load: Load,
    /// The lab.
    pub state: &'a State,
    /// The nodes before the fault.
    pub before: &'a Seen,
    /// The nodes after the traffic.
    pub after: &'a Seen,
    /// Whose daemon runs at the end.
    pub alive: &'a [bool],
    /// Who was to be alive at the end.
    pub watched: &'a [bool],
    /// Whether the common tables agreed and every bucket had one owner, at the end.
    pub agree: bool,
    /// From when to when blackouts count, on the clock of the flows.
    pub window: (u64, u64),
    /// The connections.
    pub tcp: &'a TcpOutcome,
    /// The flows.
    pub udp: &'a UdpOutcome,
}

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
    /// Datagrams of the UDP flows; `received` are echoes.
    pub packets: Packets,
    /// Longest gaps of the UDP flows.
    pub blackout_ms: Blackout,
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

/// Longest gaps between echoes, over the flows, in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Blackout {
    /// Of half of the flows, at most.
    pub p50: f64,
    /// Of 99 % of the flows, at most.
    pub p99: f64,
    /// Of all.
    pub max: f64,
}

impl Report {
    /// Judge a run.
    pub fn judge(facts: &Facts<'_>) -> Report {
        let (from, until) = facts.window;
        let flows = &facts.udp.flows;
        let mut gaps: Vec<u64> =
            flows.iter().map(|flow| longest_gap(&flow.arrivals, from, until)).collect();
        gaps.sort_unstable();
        let lives = |arrivals: &Vec<u64>| {
            arrivals.last().is_some_and(|last| *last >= from && last + SILENT >= until)
        };
        let sent: u64 = flows.iter().map(|flow| u64::from(flow.sent)).sum();
        let received: u64 = flows.iter().map(|flow| u64::from(flow.received())).sum();
        let alive = flows.iter().filter(|flow| lives(&flow.arrivals)).count();
        let mut report = Report {
            scenario: facts.scenario.to_string(),
            mode: "shared",
            seed: facts.load.seed,
            nodes: nodes(facts),
            connections: Connections {
                opened: facts.tcp.opened,
                alive: facts.tcp.alive,
                lost: facts.tcp.lost,
                reset: facts.tcp.reset,
            },
            flows: Flows { opened: flows.len() as u32, alive: alive as u32 },
            packets: Packets {
                sent,
                received,
                lost: sent - received,
                duplicated: flows.iter().map(|flow| u64::from(flow.duplicated)).sum(),
            },
            blackout_ms: Blackout {
                p50: millis(percentile(&gaps, 50)),
                p99: millis(percentile(&gaps, 99)),
                max: millis(percentile(&gaps, 100)),
            },
            buckets_moved: moved(facts),
            foreign_entries: facts.after.foreign,
            samples: facts.after.samples,
            unanswered: facts.after.unanswered,
            common_tables_agree: facts.agree,
            replay: replay(facts),
            failures: Vec::new(),
            passed: false,
        };
        report.failures = failures(facts, &report);
        report.passed = report.failures.is_empty();
        report
    }
}

fn failures(facts: &Facts<'_>, report: &Report) -> Vec<String> {
    let mut failures = Vec::new();
    let mut demand = |holds: bool, failure: String| {
        if !holds {
            failures.push(failure);
        }
    };
    let Connections { opened, alive, lost, reset } = report.connections;
    let asked = facts.load.connections;
    demand(opened == asked, format!("{opened} of {asked} connections could be opened"));
    demand(lost == 0, format!("{lost} connections were lost"));
    demand(reset == 0, format!("{reset} connections were reset"));
    demand(alive == opened, format!("{alive} of {opened} connections are alive"));
    let flows = &report.flows;
    demand(
        flows.alive == facts.load.flows,
        format!("{} of {} UDP flows went on", flows.alive, facts.load.flows),
    );
    let corrupt: u32 = facts.udp.flows.iter().map(|flow| flow.corrupt).sum();
    demand(corrupt == 0, format!("{corrupt} datagrams were not what was sent"));
    demand(
        report.foreign_entries == 0,
        format!("a node table had {} entries of others' buckets", report.foreign_entries),
    );
    demand(report.common_tables_agree, "the live nodes disagree at the end".into());
    demand(report.samples > 0, "no node ever answered".into());
    if facts.scenario == Scenario::Kill {
        demand(report.buckets_moved > 0, "no bucket was taken over".into());
    }
    let nodes = report.nodes.iter().zip(facts.watched);
    for (node, _) in nodes.filter(|(node, watched)| **watched && !node.alive) {
        demand(false, format!("{} ended by itself", node.name));
    }
    failures.extend(facts.tcp.reasons.iter().cloned());
    failures
}

fn replay(facts: &Facts<'_>) -> String {
    let Load { connections, flows, ipv6, seed } = facts.load;
    format!(
        "testudo lab --nodes {} --buckets {} --connections {connections} --flows {flows}{} \
         --scenario {} --seed {seed}",
        facts.state.nodes.len(),
        facts.state.buckets,
        if ipv6 { "" } else { " --ipv4-only" },
        facts.scenario,
    )
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

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Connections { opened, alive, lost, reset } = &self.connections;
        let Packets { sent, received, lost: gone, duplicated } = &self.packets;
        let Blackout { p50, p99, max } = &self.blackout_ms;
        writeln!(f)?;
        writeln!(f, "connections   opened {opened}   alive {alive}   lost {lost}   reset {reset}")?;
        writeln!(
            f,
            "packets       sent {sent}   received {received}   lost {gone}   duplicated \
             {duplicated}   ({} of {} UDP flows alive)",
            self.flows.alive, self.flows.opened
        )?;
        writeln!(f, "blackout      p50 {p50:.1} ms   p99 {p99:.1} ms   max {max:.1} ms")?;
        writeln!(f, "buckets       moved {}", self.buckets_moved)?;
        writeln!(f)?;
        writeln!(
            f,
            "node          {:>16}  {:>16}  {:>16}",
            "buckets", "node table", "common table"
        )?;
        for node in &self.nodes {
            let pair = |before: u64, after: u64| match node.alive {
                true => format!("{before} → {after}"),
                false => format!("{before} → –"),
            };
            writeln!(
                f,
                "{:<6}{:<8}{:>16}  {:>16}  {:>16}",
                node.name,
                if node.alive { "alive" } else { "dead" },
                pair(node.before.buckets.into(), node.buckets.into()),
                pair(node.before.node_table, node.node_table),
                pair(node.before.common_table, node.common_table),
            )?;
        }
        writeln!(f)?;
        for failure in &self.failures {
            writeln!(f, "  {failure}")?;
        }
        match self.passed {
            true => write!(f, "passed: nothing was lost"),
            false => {
                write!(f, "FAILED; again: {}", self.replay)
            }
        }
    }
}

#[cfg(test)]
mod tests;
