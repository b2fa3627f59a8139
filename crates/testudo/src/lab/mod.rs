//! `testudo lab`: a whole cluster on one machine, under load, with something going wrong.
//!
//! Client, server and nodes are network namespaces ([`plan`] says who is where), the nodes are real
//! daemons, the traffic goes through the real kernel stacks. `testudo lab` alone builds a lab, plays a
//! [`scenario`], reports, and removes the lab; `lab up` leaves one standing for experiments by hand.
//!
//! Invariants: nothing is changed outside the lab's own namespaces, its directory under
//! `/run/testudo/lab` and its names under `/run/netns`; whatever way a lab ends, those are removed, by
//! itself or by the next lab command. No other program is needed.

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};

mod fault;
mod interrupt;
mod links;
mod narrator;
mod netlink;
mod netns;
mod nodes;
mod offload;
mod plan;
mod process;
mod random;
mod report;
mod running;
mod samples;
mod scenario;
mod standing;
mod state;
mod topology;
mod traffic;

use fault::Fault;
use interrupt::{Interrupt, Interrupted};
use narrator::Narrator;
use running::Lab;

/// The run was judged, and something was lost.
const FAILED: u8 = 1;
/// Nothing could be judged.
const UNABLE: u8 = 2;
/// As shells say it: ended by SIGINT.
const INTERRUPTED: u8 = 130;

/// Build a cluster in network namespaces, put traffic through it, play a scenario.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, Clone, clap::Args)]
struct RunArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// What happens under load.
    #[arg(long, value_enum, default_value_t = Scenario::Kill)]
    scenario: Scenario,
    /// TCP connections to keep; half are busy, half idle.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    connections: u32,
    /// Paced UDP flows, which measure the blackout.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    flows: u32,
    /// IPv4 traffic only (by default half is IPv6).
    #[arg(long)]
    ipv4_only: bool,
    /// Print the report as one JSON object on standard output.
    #[arg(long)]
    json: bool,
    /// Keep the nodes' logs in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    logs: Option<PathBuf>,
    /// The lab's name, if it has to be known; by default it is one that no other lab has.
    #[arg(long)]
    name: Option<String>,
}

#[derive(Debug, Clone, clap::Args)]
struct ClusterArgs {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(plan::MAX_NODES)))]
    nodes: u8,
    /// Buckets of the cluster: a power of two.
    #[arg(long, default_value_t = 256, value_parser = buckets)]
    buckets: u32,
    /// Repeats a run's choices: the node that fails, the paces, the cluster's secret.
    #[arg(long)]
    seed: Option<u64>,
}

/// What happens to a node under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A node's daemon is killed (SIGKILL).
    Kill,
    /// A node's daemon is stopped (SIGSTOP) and goes on later.
    Pause,
    /// A node's sync link is cut and healed later.
    Cut,
    /// Nothing.
    None,
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Scenario::Kill => "kill",
            Scenario::Pause => "pause",
            Scenario::Cut => "cut",
            Scenario::None => "none",
        })
    }
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build a lab and leave it standing.
    Up {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Hosts and links only: write the nodes' configurations, but start no daemon.
        #[arg(long)]
        bare: bool,
        #[command(flatten)]
        name: NameArgs,
    },
    /// Run a command in a host's network namespace: client, server, switch, n1, n2...
    Exec {
        #[command(flatten)]
        name: NameArgs,
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start a node's daemon again.
    Start(NodeArgs),
    /// Kill a node's daemon (SIGKILL).
    Kill(NodeArgs),
    /// Stop a node's daemon (SIGSTOP).
    Pause(NodeArgs),
    /// Let a stopped daemon go on (SIGCONT).
    Resume(NodeArgs),
    /// Cut a node's sync link.
    Cut(NodeArgs),
    /// Plug a node's sync link in again.
    Heal(NodeArgs),
    /// Ask every node of a standing lab.
    Status {
        /// Print the answers as JSON.
        #[arg(short, long)]
        json: bool,
        #[command(flatten)]
        name: NameArgs,
    },
    /// Remove a standing lab, and what dead labs left behind.
    Down(NameArgs),
}

#[derive(Debug, clap::Args)]
struct NameArgs {
    /// The lab's name.
    #[arg(long, default_value = "lab")]
    name: String,
}

#[derive(Debug, clap::Args)]
struct NodeArgs {
    /// The node: n1, n2...
    node: String,
    #[command(flatten)]
    name: NameArgs,
}

/// This machine can't run a lab, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unable(String);

/// Do what the command line says.
pub fn run(args: Args) -> ExitCode {
    let done = need_root().and_then(|()| match args.verb {
        Some(verb) => act(verb),
        None => play(&args.run),
    });
    done.unwrap_or_else(|error| {
        if error.is::<Interrupted>() {
            return ExitCode::from(INTERRUPTED);
        }
        eprintln!("testudo lab: {error:#}");
        ExitCode::from(UNABLE)
    })
}

fn act(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Up { cluster, bare, name } => {
            standing::up(&name.name, cluster.nodes, cluster.buckets, seed(&cluster), bare)
        }
        Verb::Exec { name, host, command } => standing::exec(&name.name, &host, &command),
        Verb::Start(node) => standing::start(&node.name.name, &node.node),
        Verb::Kill(node) => standing::inflict(&node.name.name, &node.node, Fault::Kill),
        Verb::Pause(node) => standing::inflict(&node.name.name, &node.node, Fault::Pause),
        Verb::Resume(node) => standing::inflict(&node.name.name, &node.node, Fault::Resume),
        Verb::Cut(node) => standing::inflict(&node.name.name, &node.node, Fault::Cut),
        Verb::Heal(node) => standing::inflict(&node.name.name, &node.node, Fault::Heal),
        Verb::Status { json, name } => standing::status(&name.name, json),
        Verb::Down(name) => standing::down(&name.name),
    }
}

fn play(args: &RunArgs) -> Result<ExitCode> {
    if args.cluster.nodes < 2 && args.scenario != Scenario::None {
        bail!("--scenario {} needs --nodes 2 or more: somebody has to go on", args.scenario);
    }
    let seed = seed(&args.cluster);
    let name = args.name.clone().unwrap_or_else(|| format!("lab-{}", std::process::id()));
    let load = traffic::Load {
        connections: args.connections,
        flows: args.flows,
        ipv6: !args.ipv4_only,
        seed,
    };
    traffic::raise_file_limit(load)?;
    let interrupt = Interrupt::listen()?;
    let narrator = Narrator::new(args.json);
    narrator.say(&format!(
        "{} nodes, {} buckets, {} connections, scenario {}, seed {seed}",
        args.cluster.nodes, args.cluster.buckets, args.connections, args.scenario
    ));
    let mut lab = Lab::build(&name, args.cluster.nodes, args.cluster.buckets)?;
    lab.keep_logs(args.logs.clone());
    lab.start_nodes(seed, args.connections + args.flows, &interrupt)?;
    narrator.say("all nodes are members, every bucket has an owner");
    let report = scenario::play(&lab, args.scenario, load, &interrupt, &narrator)?;
    lab.remove()?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(ExitCode::from(if report.passed { 0 } else { FAILED }))
}

fn need_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Unable(format!(
            "needs root: network namespaces and XDP are the kernel's to give (this is user {})",
            nix::unistd::geteuid()
        ))
        .into());
    }
    Ok(())
}

/// The seed that was asked for, or one of this moment's; short, since it may be typed again.
fn seed(args: &ClusterArgs) -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    args.seed.unwrap_or_else(|| random::Random::new(now.as_nanos() as u64).between(0, 1_000_000))
}

fn buckets(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(count) if count.is_power_of_two() && (2..=65_536).contains(&count) => Ok(count),
        _ => Err("expected a power of two from 2 to 65536".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_a_power_of_two() {
        assert_eq!(buckets("256"), Ok(256));
        for text in ["0", "1", "255", "131072", "x"] {
            assert!(buckets(text).is_err(), "{text}");
        }
    }
}
