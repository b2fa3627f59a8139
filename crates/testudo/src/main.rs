//! The `testudo` command: one module a subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod config;
mod control;
mod explain;
mod inspect;
mod lab;
mod netlink;
mod node;
mod operate;
mod pki;
mod protocol_names;
mod replay;
mod rules;

/// A stateful gateway of N Linux machines in which any node can die without a connection noticing.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node of a cluster, or have a running one do something.
    Node(node::Args),
    /// Show how a node is: lease, buckets, tables, peers, counters.
    Status(inspect::StatusArgs),
    /// Show what a node lives by: links, probes, load, peers, coordinator.
    Health(inspect::HealthArgs),
    /// Show what the cluster has agreed on.
    Map(inspect::MapArgs),
    /// Show whose the buckets are, and move them.
    Bucket(inspect::BucketArgs),
    /// Show which flows there are, and let one in.
    Flow(inspect::FlowArgs),
    /// Check a file of rules, show those in force with what they have let in, put others in force.
    Rule(operate::RuleArgs),
    /// Say what a packet would meet: bucket, owner, rule, translation.
    Explain(explain::Args),
    /// Make the certificates that nodes know each other by.
    #[command(subcommand)]
    Pki(pki::Command),
    /// Show how entries get to the other nodes, and compare all nodes' tables.
    Sync(operate::SyncArgs),
    /// Build a cluster in network namespaces, put traffic through it, play a scenario.
    Lab(lab::Args),
    /// Run a capture through a cluster in user space and show how its nodes share it.
    Replay(replay::Args),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Node(args) => node::run(&args),
        Command::Status(args) => inspect::status(&args),
        Command::Health(args) => inspect::health(&args),
        Command::Map(args) => inspect::map(&args),
        Command::Bucket(args) => inspect::bucket(&args),
        Command::Flow(args) => inspect::flow(&args),
        Command::Rule(args) => operate::rule(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Pki(command) => pki::run(&command),
        Command::Sync(args) => operate::sync(&args),
        Command::Lab(args) => lab::run(args),
        Command::Replay(args) => replay::run(&args),
    }
}
