//! What a replay found, for people and for scripts.

use std::fmt::Write;

use serde::Serialize;

use super::cluster::{Cluster, Node};
use crate::inspect::columns::{Column, render};

/// What was read of the capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Read {
    /// The file as it was named.
    pub file: String,
    /// Packets read.
    pub packets: u64,
    /// Packets of which the capture has only the beginning; they were handled at their full length.
    pub cut_short: u64,
    /// From the earliest to the latest packet.
    pub seconds: f64,
    /// Why the file was not read to its end, if it was not.
    pub error: Option<String>,
}

/// What a node did.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct NodeReport {
    node: String,
    buckets: u32,
    packets: u64,
    bytes: u64,
    dropped: u64,
    flows: u64,
    node_table: TableReport,
    common_table: CommonReport,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct TableReport {
    entries: usize,
    most_entries: usize,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct CommonReport {
    entries: usize,
}

/// The busiest node's share by the mean of all; 1 is even. `None` if there was nothing.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Balance {
    packets: Option<f64>,
    flows: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
struct OutcomeReport {
    outcome: &'static str,
    packets: u64,
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    capture: Read,
    nodes: Vec<NodeReport>,
    balance: Balance,
    outcomes: Vec<OutcomeReport>,
}

impl Report {
    /// What has become of the packets so far.
    pub fn new(capture: Read, cluster: &Cluster) -> Self {
        let nodes: Vec<_> = cluster.nodes().iter().zip(1..).map(node_report).collect();
        let balance = Balance {
            packets: balance(nodes.iter().map(|node| node.packets)),
            flows: balance(nodes.iter().map(|node| node.flows)),
        };
        let outcomes = cluster.outcomes().iter();
        let outcomes = outcomes
            .map(|(outcome, &packets)| OutcomeReport { outcome: outcome.name(), packets })
            .collect();
        Self { capture, nodes, balance, outcomes }
    }

    /// As columns for people.
    pub fn to_text(&self) -> String {
        let Read { file, packets, cut_short, seconds, .. } = &self.capture;
        // Writing to a string can't fail.
        let mut text = String::new();
        let _ = writeln!(text, "{file}: {packets} packets in {seconds:.3} s");
        if *cut_short > 0 {
            let _ = writeln!(text, "{cut_short} of them cut short by the capture");
        }
        let _ = writeln!(text, "\n{}", self.node_columns());
        let ratio = |value: Option<f64>| value.map_or("-".to_owned(), |v| format!("{v:.3}"));
        let Balance { packets, flows } = &self.balance;
        let (packets, flows) = (ratio(*packets), ratio(*flows));
        let _ = writeln!(text, "balance (most/mean): packets {packets}, flows {flows}");
        if !self.outcomes.is_empty() {
            let row = |o: &OutcomeReport| [o.outcome.to_owned(), o.packets.to_string()];
            let rows: Vec<_> = self.outcomes.iter().map(row).collect();
            let columns = [Column::Left("OUTCOME"), Column::Right("PACKETS")];
            let _ = write!(text, "\n{}", render(columns, &rows));
        }
        text
    }

    fn node_columns(&self) -> String {
        let columns = [
            Column::Left("NODE"),
            Column::Right("BUCKETS"),
            Column::Right("PACKETS"),
            Column::Right("BYTES"),
            Column::Right("DROPPED"),
            Column::Right("FLOWS"),
            Column::Right("NODE-TABLE"),
            Column::Right("AT-MOST"),
            Column::Right("COMMON-TABLE"),
        ];
        let row = |node: &NodeReport| {
            [
                node.node.clone(),
                node.buckets.to_string(),
                node.packets.to_string(),
                node.bytes.to_string(),
                node.dropped.to_string(),
                node.flows.to_string(),
                node.node_table.entries.to_string(),
                node.node_table.most_entries.to_string(),
                node.common_table.entries.to_string(),
            ]
        };
        render(columns, &self.nodes.iter().map(row).collect::<Vec<_>>())
    }
}

fn node_report((node, number): (&Node, u32)) -> NodeReport {
    NodeReport {
        node: format!("n{number}"),
        buckets: node.buckets,
        packets: node.packets,
        bytes: node.bytes,
        dropped: node.dropped,
        flows: node.flows,
        node_table: TableReport { entries: node.entries(), most_entries: node.most_entries },
        common_table: CommonReport { entries: node.common_entries() },
    }
}

fn balance(shares: impl ExactSizeIterator<Item = u64> + Clone) -> Option<f64> {
    let (count, most) = (shares.len() as f64, shares.clone().max()?);
    let sum: u64 = shares.sum();
    (sum > 0).then(|| most as f64 * count / sum as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balance_is_the_most_by_the_mean() {
        assert_eq!(balance([2, 2, 2].into_iter()), Some(1.0));
        assert_eq!(balance([6, 0, 0].into_iter()), Some(3.0));
        assert_eq!(balance([0, 0].into_iter()), None);
    }
}
