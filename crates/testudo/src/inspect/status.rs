//! `testudo status`: how a node is.

use std::fmt::Write;

use super::columns::{Column, or_dash, render};
use super::{Connection, InspectError};
use crate::control::protocol::{Copies, PeerState, Role, Status, Tls};

/// Show how a node is: lease, buckets, tables, peers, counters
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn run(args: &Args) -> Result<(), InspectError> {
    let status = args.connection.open()?.status()?;
    args.connection.print(&status, render_status)
}

fn render_status(status: &Status) -> String {
    let mut text = summary(status);
    text.push('\n');
    text.push_str(&peers(status));
    let counted: Vec<[String; 2]> = status
        .counters
        .iter()
        .filter(|(_, value)| **value > 0)
        .map(|(name, value)| [name.clone(), value.to_string()])
        .collect();
    if !counted.is_empty() {
        text.push('\n');
        text.push_str(&render([Column::Left("COUNTER"), Column::Right("VALUE")], &counted));
    }
    text
}

fn summary(status: &Status) -> String {
    let Status { node, cluster, mode, buckets, node_table, common_table, .. } = status;
    let role = match status.role {
        Role::Member => "member",
        Role::Joining => "joining",
    };
    let lease = match status.lease.held {
        true => format!("held, {} ms left", status.lease.remaining_ms),
        false => "not held: no packets are handled".to_owned(),
    };
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{name:<14}{value}");
    };
    line("node", format!("{node}, {role} of cluster {cluster}, mode {mode}"));
    line("lease", lease);
    line("certificate", certificate(status.tls.as_ref()));
    line(
        "buckets",
        format!("{} of {} owned, {} loading", buckets.owned, buckets.total, buckets.loading),
    );
    let kept_back = match node_table.not_replicated {
        0 => String::new(),
        count => format!(", {count} not replicated"),
    };
    line(
        "node table",
        format!(
            "{} of {} entries, {} foreign{kept_back}",
            node_table.entries, node_table.capacity, node_table.foreign
        ),
    );
    line(
        "common table",
        format!("{} entries, digest {}", common_table.entries, common_table.digest),
    );
    line("copies", copies(&status.copies));
    line("takeovers", format!("{}, of {} buckets", status.takeovers, status.buckets_taken));
    text
}

/// Who keeps flows, and what that has cost.
pub fn copies(copies: &Copies) -> String {
    let Copies { replicas, kept, taken_without } = copies;
    let who = match replicas.as_str() {
        "all" => "replicas all".to_owned(),
        count => format!("replicas {count}, {kept} buckets kept here"),
    };
    match taken_without {
        0 => who,
        lost => format!("{who}, {lost} buckets TAKEN OVER WITHOUT A COPY: flows were lost"),
    }
}

fn certificate(tls: Option<&Tls>) -> String {
    let Some(tls) = tls else { return "none: streams between nodes are not encrypted".to_owned() };
    let trusted = match tls.authorities.len() {
        1 => "1 authority".to_owned(),
        count => format!("{count} authorities"),
    };
    let valid = format!("valid until {}, {trusted} trusted", tls.valid_until);
    match &tls.refused {
        Some(why) => format!("{valid}; new ones are refused: {why}"),
        None => valid,
    }
}

fn peers(status: &Status) -> String {
    let columns = [
        Column::Left("PEER"),
        Column::Left("STATE"),
        Column::Right("HEARD-MS"),
        Column::Left("SYNC"),
        Column::Right("SENT"),
        Column::Right("ACKNOWLEDGED"),
        Column::Right("PENDING"),
    ];
    let row = |peer: &crate::control::protocol::Peer| {
        let state = match peer.state {
            PeerState::Alive => "alive",
            PeerState::Silent => "silent",
            PeerState::Fenced => "fenced",
        };
        [
            peer.name.clone(),
            state.to_owned(),
            or_dash(peer.heard_ms),
            if peer.sync.connected { "connected" } else { "disconnected" }.to_owned(),
            peer.sync.sent.to_string(),
            peer.sync.acknowledged.to_string(),
            peer.sync.pending.to_string(),
        ]
    };
    let rows: Vec<_> = status.peers.iter().map(row).collect();
    render(columns, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::tests::status_json;

    #[test]
    fn a_status_fits_a_screen() {
        let status: Status = serde_json::from_value(status_json()).unwrap();
        let text = "\
node          n1, member of cluster lab, mode shared
lease         held, 87 ms left
certificate   valid until 2027-12-27 03:14 UTC, 1 authority trusted
buckets       86 of 256 owned, 0 loading
node table    334 of 262144 entries, 0 foreign
common table  1000 entries, digest 0123456789abcdef
copies        replicas 1, 171 buckets kept here
takeovers     1, of 43 buckets

PEER  STATE   HEARD-MS  SYNC          SENT  ACKNOWLEDGED  PENDING
n2    alive          3  connected       12            12        0
n3    fenced         -  disconnected     0             0        7

COUNTER    VALUE
forwarded     12
";
        assert_eq!(render_status(&status), text);
        let mut status = status;
        status.node_table.not_replicated = 4;
        let line = "node table    334 of 262144 entries, 0 foreign, 4 not replicated";
        assert!(render_status(&status).lines().any(|seen| seen == line));
    }
}
