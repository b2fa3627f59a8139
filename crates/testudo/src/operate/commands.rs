//! The commands themselves: what is typed, what is asked, what is printed.

use std::fmt::Write;
use std::process::ExitCode;

use clap::Subcommand;

use crate::control::protocol::{Move, Plan, Request, Restarting, Share};
use crate::inspect::columns::{Column, or_dash, render};
use crate::inspect::{Connection, InspectError, finish};

/// What can be done to a node that runs.
#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Move all buckets of a node to the others, and give it none until it is undrained
    Drain(NodeArgs),
    /// Let a drained node have buckets again
    Undrain(NodeArgs),
    /// Hand this node over to a new process, of the program as it is installed now
    Restart {
        #[command(flatten)]
        connection: Connection,
    },
}

/// Which node, and whether in earnest.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// The node's name
    #[arg(value_name = "NAME")]
    node: String,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Move a bucket to a node.
#[derive(Debug, clap::Args)]
pub struct MoveArgs {
    /// The bucket's number
    bucket: u16,
    /// The name of the node that is to own it
    #[arg(value_name = "NODE")]
    node: String,
    #[command(flatten)]
    plan: PlanArgs,
}

/// Whether in earnest, and of whom it is asked.
#[derive(Debug, clap::Args)]
struct PlanArgs {
    /// Change nothing; say what would move, and whether the others can carry it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    connection: Connection,
}

impl PlanArgs {
    fn run(&self, order: &Request) -> Result<(), InspectError> {
        let plan = self.connection.open()?.plan(order)?;
        self.connection.print(&plan, render_plan)
    }
}

/// `testudo node drain|undrain|restart`
pub fn node(command: &NodeCommand) -> ExitCode {
    finish(match command {
        NodeCommand::Drain(args) => {
            let (node, dry_run) = (args.node.clone(), args.plan.dry_run);
            args.plan.run(&Request::Drain { node, dry_run })
        }
        NodeCommand::Undrain(args) => {
            let (node, dry_run) = (args.node.clone(), args.plan.dry_run);
            args.plan.run(&Request::Undrain { node, dry_run })
        }
        NodeCommand::Restart { connection } => restart(connection),
    })
}

/// `testudo bucket move`
pub fn move_bucket(args: &MoveArgs) -> Result<(), InspectError> {
    let MoveArgs { bucket, node, plan } = args;
    plan.run(&Request::Move { bucket: *bucket, node: node.clone(), dry_run: plan.dry_run })
}

fn restart(connection: &Connection) -> Result<(), InspectError> {
    let restarting = connection.open()?.restart()?;
    connection.print(&restarting, |Restarting { node, process }| {
        format!("{node}: process {process} hands over to a new one\n")
    })
}

/// Why first, then what it comes to for each node, then bucket by bucket.
fn render_plan(plan: &Plan) -> String {
    let mut text = String::new();
    let carry = if plan.can_carry { "can" } else { "can NOT" };
    let verb = if plan.dry_run { "would move" } else { "move" };
    // Writing to a string can't fail.
    let _ = writeln!(text, "{}", plan.reason);
    let _ = writeln!(text, "{} buckets {verb}; the nodes {carry} carry it", plan.moves.len());
    if plan.dry_run {
        text.push_str("dry run: nothing has changed\n");
    }
    if !plan.shares.is_empty() {
        text.push('\n');
        text.push_str(&shares(&plan.shares));
    }
    if !plan.moves.is_empty() {
        text.push('\n');
        text.push_str(&moves(&plan.moves));
    }
    text
}

fn shares(shares: &[Share]) -> String {
    let columns = [
        Column::Left("NODE"),
        Column::Right("BUCKETS"),
        Column::Right("AFTER"),
        Column::Right("LOAD-%"),
        Column::Right("AFTER-%"),
    ];
    let row = |share: &Share| {
        [
            share.node.clone(),
            share.buckets_before.to_string(),
            share.buckets_after.to_string(),
            format!("{:.1}", share.percent_before),
            format!("{:.1}", share.percent_after),
        ]
    };
    render(columns, &shares.iter().map(row).collect::<Vec<_>>())
}

fn moves(moves: &[Move]) -> String {
    let columns = [Column::Right("BUCKET"), Column::Left("FROM"), Column::Left("TO")];
    let row = |step: &Move| [step.bucket.to_string(), or_dash(step.from.as_ref()), step.to.clone()];
    render(columns, &moves.iter().map(row).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        let share = |node: &str, (before, after), (from, to)| Share {
            node: node.to_owned(),
            buckets_before: before,
            buckets_after: after,
            percent_before: from,
            percent_after: to,
        };
        Plan {
            dry_run: true,
            moves: vec![
                Move { bucket: 3, from: Some("n2".into()), to: "n1".into() },
                Move { bucket: 11, from: None, to: "n1".into() },
            ],
            shares: vec![share("n1", (5, 7), (20.04, 40.0)), share("n2", (2, 0), (20.0, 0.0))],
            can_carry: true,
            reason: "n1 is at 40 % afterwards".into(),
        }
    }

    #[test]
    fn a_plan_says_what_it_comes_to() {
        let text = "\
n1 is at 40 % afterwards
2 buckets would move; the nodes can carry it
dry run: nothing has changed

NODE  BUCKETS  AFTER  LOAD-%  AFTER-%
n1          5      7    20.0     40.0
n2          2      0    20.0      0.0

BUCKET  FROM  TO
     3  n2    n1
    11  -     n1
";
        assert_eq!(render_plan(&plan()), text);
        let nothing = Plan {
            dry_run: false,
            moves: Vec::new(),
            shares: Vec::new(),
            can_carry: false,
            reason: "n2 owns nothing".into(),
        };
        let text = "n2 owns nothing\n0 buckets move; the nodes can NOT carry it\n";
        assert_eq!(render_plan(&nothing), text);
    }
}
