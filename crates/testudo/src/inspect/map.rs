//! `testudo map show` and `testudo map history`: what the cluster has agreed on, and how it came to it.

use std::fmt::Write;

use clap::Subcommand;

use super::columns::{Column, or_dash, render};
use super::{Connection, InspectError};
use crate::control::protocol::{Change, DEFAULT_CHANGES, History, Map, MapNode};

/// Show what the cluster has agreed on
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show who votes, who is admitted, who is drained, and the list of every bucket
    Show {
        #[command(flatten)]
        connection: Connection,
    },
    /// List the latest changes with their reasons, the oldest first
    History {
        /// How many at most
        #[arg(short = 'n', long, value_name = "N", default_value_t = DEFAULT_CHANGES)]
        limit: u32,
        #[command(flatten)]
        connection: Connection,
    },
}

pub(super) fn run(args: &Args) -> Result<(), InspectError> {
    match &args.command {
        Command::Show { connection } => {
            let map = connection.open()?.map()?;
            connection.print(&map, render_map)
        }
        Command::History { limit, connection } => {
            let history = connection.open()?.history(*limit)?;
            connection.print(&history, render_history)
        }
    }
}

fn render_map(map: &Map) -> String {
    let mut text = String::new();
    let leader = map.leader.as_deref().unwrap_or("nobody");
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "version {}, coordinator {}, led by {leader}\n",
        map.version, map.coordinator
    );
    text.push_str(&nodes(&map.nodes));
    text.push('\n');
    let columns = [Column::Right("BUCKET"), Column::Left("OWNER"), Column::Left("SUCCESSORS")];
    let row = |(bucket, ranks): (usize, &Vec<String>)| {
        let successors = ranks.get(1..).unwrap_or_default().join(",");
        let successors = Some(successors).filter(|names| !names.is_empty());
        [bucket.to_string(), or_dash(ranks.first()), or_dash(successors)]
    };
    text.push_str(&render(columns, &map.ranks.iter().enumerate().map(row).collect::<Vec<_>>()));
    text
}

fn nodes(nodes: &[MapNode]) -> String {
    let columns = [
        Column::Left("NODE"),
        Column::Right("WEIGHT"),
        Column::Left("ROLE"),
        Column::Left("VOTES"),
        Column::Right("ADMITTED"),
        Column::Left("DRAINED"),
        Column::Right("BUCKETS"),
    ];
    let yes = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    let row = |node: &MapNode| {
        [
            node.node.clone(),
            node.weight.to_string(),
            if node.witness { "witness" } else { "member" }.to_owned(),
            yes(node.voter),
            or_dash(node.admitted),
            yes(node.drained),
            node.buckets.to_string(),
        ]
    };
    render(columns, &nodes.iter().map(row).collect::<Vec<_>>())
}

/// Reasons are sentences, so here a row ends in several words.
fn render_history(history: &History) -> String {
    let columns = [Column::Right("VERSION"), Column::Left("CHANGE")];
    let row = |change: &Change| {
        [change.version.to_string(), format!("{}: {}", change.change, change.reason)]
    };
    let rows: Vec<_> = history.changes.iter().map(row).collect();
    let mut text = render(columns, &rows);
    if history.truncated {
        text.push_str("(older ones are left out; -n N shows more, as far as they are kept)\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_shows_its_voters_and_its_lists() {
        let node = |node: &str, voter, admitted, buckets| MapNode {
            node: node.into(),
            weight: 100,
            witness: buckets == 0,
            voter,
            admitted,
            drained: false,
            buckets,
        };
        let map = Map {
            version: 12,
            coordinator: "embedded".into(),
            leader: Some("n1".into()),
            nodes: vec![node("n1", true, Some(1), 2), node("w", false, None, 0)],
            ranks: vec![vec!["n1".into()], vec!["n1".into(), "n2".into(), "n3".into()], vec![]],
        };
        let text = "\
version 12, coordinator embedded, led by n1

NODE  WEIGHT  ROLE     VOTES  ADMITTED  DRAINED  BUCKETS
n1       100  member   yes           1  no             2
w        100  witness  no            -  no             0

BUCKET  OWNER  SUCCESSORS
     0  n1     -
     1  n1     n2,n3
     2  -      -
";
        assert_eq!(render_map(&map), text);
    }

    #[test]
    fn changes_have_reasons() {
        let change = |version, change: &str, reason: &str| Change {
            version,
            change: change.into(),
            reason: reason.into(),
        };
        let changes = vec![change(9, "voter n3 removed", "dead for 3 s")];
        let text = "VERSION  CHANGE\n      9  voter n3 removed: dead for 3 s\n";
        assert_eq!(render_history(&History { changes: changes.clone(), truncated: false }), text);
        let truncated = render_history(&History { changes, truncated: true });
        assert_eq!(truncated.lines().count(), 3, "{truncated}");
    }
}
