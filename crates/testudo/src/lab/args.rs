//! The lab's command line.
//!
//! Invariant: what can't be played is refused here, before anything on the machine is touched.

use std::fmt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use clap::{Subcommand, ValueEnum};
use testudo_cluster::config::{MAX_REPLICAS, Replicas};

use super::nodes::{Settings, Timing};
use super::plan::{Coordinator, MAX_NODES, Mode, Plan};
use super::random;
use super::translated::Translated;

/// How many seconds a flow of the churn is known at most: its timeout and what it takes to notice it.
const LIFE: u32 = 40;

/// Build a cluster in network namespaces, put traffic through it, play a scenario.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    pub(super) verb: Option<Verb>,
    #[command(flatten)]
    pub(super) run: RunArgs,
}

/// A run.
#[derive(Debug, Clone, clap::Args)]
pub struct RunArgs {
    /// What the cluster is like.
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// What happens under load.
    #[arg(long, value_enum, default_value_t = Scenario::Kill)]
    pub scenario: Scenario,
    /// How often a node is killed and comes back, one after the other.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub kills: u32,
    /// How many buckets are moved, one after the other.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Seconds under load after the last event.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub hold: u32,
    /// Threads that keep the machine's processors busy meanwhile.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=64))]
    pub burn: u32,
    /// TCP connections to keep; half are busy, half idle.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub connections: u32,
    /// Paced UDP flows, which measure the blackout.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub flows: u32,
    /// Paces of the UDP flows by Zipf's law, instead of one pace for all.
    #[arg(long)]
    pub zipf: bool,
    /// Flows that the cluster knows before the run, beside those of the run.
    #[arg(long, hide = true, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=4_000_000))]
    pub prefill: u32,
    /// New flows a second beside the others, from the event to the end of the hold.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=200_000))]
    pub churn: u32,
    /// TCP connections opened a second beside the others, from the event to the end of the hold. Each that
    /// was answered has to be known after every kill.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2000))]
    pub connects: u32,
    /// What the first packets of these connections wait for.
    #[arg(long, value_enum, default_value_t = Commit::Sync)]
    pub commit: Commit,
    /// Of a hundred frames of each sync link, how many are lost, for as long.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub sync_loss: u32,
    /// How many milliseconds each frame of a sync link takes, for as long.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=50))]
    pub sync_delay: u32,
    /// How many seconds the streams stand still in the scenario of that name.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub stall: u32,
    /// IPv4 traffic only (by default half is IPv6).
    #[arg(long)]
    pub ipv4_only: bool,
    /// Print the report as one JSON object on standard output.
    #[arg(long)]
    pub json: bool,
    /// Keep the nodes' logs in this directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub logs: Option<PathBuf>,
    /// The lab's name, if it has to be known; by default it is one that no other lab has.
    #[arg(long)]
    pub name: Option<String>,
}

/// What first packets wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Commit {
    /// Nobody.
    Async,
    /// The other nodes.
    Sync,
}

/// A cluster.
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// Nodes of the cluster.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=i64::from(MAX_NODES)))]
    pub nodes: u8,
    /// A member more, which votes and owns nothing.
    #[arg(long)]
    pub witness: bool,
    /// How the nodes agree: by themselves, or by an etcd that the lab starts.
    #[arg(long, value_enum, default_value_t = Coordinator::Embedded)]
    pub coordinator: Coordinator,
    /// How packets reach the nodes.
    #[arg(long, value_enum, default_value_t = Mode::Shared)]
    pub mode: Mode,
    /// Buckets of the cluster: a power of two.
    #[arg(long, default_value_t = 256, value_parser = buckets)]
    pub buckets: u32,
    /// How many successors keep a bucket's flows besides its owner, or all.
    #[arg(long, default_value = "all", value_parser = replicas)]
    pub replicas: Replicas,
    /// Lease, takeover and heartbeat in milliseconds, if not the default: LEASE,TAKEOVER,HEARTBEAT
    #[arg(long, value_parser = timing)]
    pub timing: Option<Timing>,
    #[command(flatten)]
    pub translated: Translated,
    /// Repeats a run's choices: the node that fails, the paces, the cluster's secret.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// What happens under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// A node's daemon is killed (SIGKILL); with routers, the node loses power.
    Kill,
    /// A node's daemon is stopped (SIGSTOP) and goes on later.
    Pause,
    /// A node's sync link is cut and healed later.
    Cut,
    /// A node's data links are cut and healed later, while its sync link lives.
    CutData,
    /// Two nodes lose power one after the other.
    KillTwo,
    /// Buckets are moved by hand, one after the other.
    Moves,
    /// Every node is drained and undrained, one after the other.
    Drain,
    /// One more node joins.
    Join,
    /// Every daemon hands itself over to a new process, one after the other.
    Restart,
    /// A node's sync streams pass nothing for a while, while its heartbeats go on.
    Stall,
    /// Nothing.
    None,
}

impl Scenario {
    /// Whether nothing may be lost by it: what is planned has no blackout.
    pub fn is_planned(self) -> bool {
        matches!(
            self,
            Scenario::Moves
                | Scenario::Drain
                | Scenario::Join
                | Scenario::Restart
                | Scenario::Stall
                | Scenario::None
        )
    }

    /// How many nodes there have to be, at least, for somebody to go on.
    fn nodes_needed(self) -> u8 {
        match self {
            Scenario::None | Scenario::Join | Scenario::Restart => 1,
            Scenario::KillTwo => 4,
            _ => 2,
        }
    }

    /// Nodes that are not there at the beginning.
    pub fn late(self) -> u8 {
        u8::from(self == Scenario::Join)
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// What `testudo lab` can do beside a run.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Build a lab and leave it standing.
    Up {
        /// What the cluster is like.
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Hosts and links only: write the nodes' configurations, but start no daemon.
        #[arg(long)]
        bare: bool,
        /// Which lab.
        #[command(flatten)]
        name: NameArgs,
    },
    /// Run a command in a host's network namespace: client, server, switch, n1, n2...
    Exec {
        /// Which lab.
        #[command(flatten)]
        name: NameArgs,
        /// The host.
        host: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Start a node's daemon again, or the lab's etcd.
    Start(NodeArgs),
    /// Kill a node's daemon (SIGKILL), or the lab's etcd.
    Kill(NodeArgs),
    /// Stop a node's daemon (SIGSTOP).
    Pause(NodeArgs),
    /// Let a stopped daemon go on (SIGCONT).
    Resume(NodeArgs),
    /// Cut a node's sync link, or its data links.
    Cut(LinkArgs),
    /// Plug a node's links in again.
    Heal(LinkArgs),
    /// Ask every node of a standing lab.
    Status {
        /// Print the answers as JSON.
        #[arg(short, long)]
        json: bool,
        /// Which lab.
        #[command(flatten)]
        name: NameArgs,
    },
    /// Remove a standing lab, and what dead labs left behind.
    Down(NameArgs),
}

/// A lab.
#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// The lab's name.
    #[arg(long, default_value = "lab")]
    pub name: String,
}

/// A node of a lab.
#[derive(Debug, clap::Args)]
pub struct NodeArgs {
    /// The node: n1, n2..., or etcd
    pub node: String,
    /// Which lab.
    #[command(flatten)]
    pub name: NameArgs,
}

/// Links of a node of a lab.
#[derive(Debug, clap::Args)]
pub struct LinkArgs {
    /// Which node.
    #[command(flatten)]
    pub node: NodeArgs,
    /// The data links, not the sync link.
    #[arg(long)]
    pub data: bool,
}

impl RunArgs {
    /// Refuse what can't be played.
    pub fn check(&self) -> Result<()> {
        let (nodes, needed) = (self.cluster.nodes, self.scenario.nodes_needed());
        if nodes < needed {
            bail!(
                "--scenario {} needs --nodes {needed} or more: somebody has to go on",
                self.scenario
            );
        }
        if nodes == MAX_NODES && self.scenario == Scenario::Join {
            bail!("--scenario join adds a node, and {MAX_NODES} are the most; saw --nodes {nodes}");
        }
        if self.kills > 1 && self.scenario != Scenario::Kill {
            bail!("--kills goes with --scenario kill; saw --scenario {}", self.scenario);
        }
        if self.churn > 0 && self.cluster.mode == Mode::Tap {
            bail!("--churn needs a cluster that forwards; saw --mode tap");
        }
        if self.connects > 0 && self.cluster.mode == Mode::Tap {
            bail!("--connects needs a cluster that forwards; saw --mode tap");
        }
        let ClusterArgs { translated, mode, .. } = self.cluster;
        if translated.is_any() && mode != Mode::Shared {
            let options = translated.options();
            bail!("{} needs the cluster's addresses; saw --mode {}", options.trim(), mode.name());
        }
        if translated.dnat && self.prefill + self.churn + self.connects > 0 {
            bail!(
                "--dnat is of the server's one port; expected no --prefill, --churn or --connects"
            );
        }
        if self.prefill > 0 && (self.cluster.mode == Mode::Tap || self.scenario.late() > 0) {
            bail!("--prefill needs a cluster that forwards and is complete from the start");
        }
        Ok(())
    }

    /// Whether something is done to the sync links.
    pub fn is_impaired(&self) -> bool {
        self.sync_loss > 0 || self.sync_delay > 0 || self.scenario == Scenario::Stall
    }

    /// What the lab is built of; a node that joins later has its place from the start.
    pub fn plan(&self) -> Plan {
        Plan { nodes: self.cluster.nodes + self.scenario.late(), ..self.cluster.plan() }
    }

    /// What its nodes have in common.
    pub fn settings(&self, seed: u64) -> Settings {
        Settings {
            seed,
            flows: self.connections
                + self.flows
                + self.prefill
                + (self.churn + self.connects) * LIFE,
            committed: self.connects > 0 && self.commit == Commit::Sync,
            translated: self.cluster.translated,
            timing: self.cluster.timing,
            replicas: self.cluster.replicas,
            patient: self.prefill > 0,
            // Made-up flows are spread unevenly, and a move would be judged with the stall.
            still: self.scenario == Scenario::Stall,
        }
    }

    /// The command that plays the run again.
    pub fn replay(&self, seed: u64) -> String {
        let Self { cluster, .. } = self;
        let mut line = format!(
            "testudo lab --nodes {} --buckets {} --connections {} --flows {}",
            cluster.nodes, cluster.buckets, self.connections, self.flows
        );
        let mut add = |when: bool, text: String| {
            if when {
                line.push_str(&text);
            }
        };
        add(cluster.mode != Mode::Shared, format!(" --mode {}", cluster.mode.name()));
        add(cluster.witness, " --witness".into());
        add(cluster.coordinator == Coordinator::Etcd, " --coordinator etcd".into());
        if let Some(Timing { lease, takeover, heartbeat }) = cluster.timing {
            add(true, format!(" --timing {lease},{takeover},{heartbeat}"));
        }
        add(cluster.replicas.is_limited(), format!(" --replicas {}", cluster.replicas));
        add(self.ipv4_only, " --ipv4-only".into());
        add(self.zipf, " --zipf".into());
        add(self.prefill > 0, format!(" --prefill {}", self.prefill));
        add(self.churn > 0, format!(" --churn {}", self.churn));
        add(self.connects > 0, format!(" --connects {}", self.connects));
        add(self.commit == Commit::Async, " --commit async".into());
        add(true, cluster.translated.options());
        add(self.sync_loss > 0, format!(" --sync-loss {}", self.sync_loss));
        add(self.sync_delay > 0, format!(" --sync-delay {}", self.sync_delay));
        add(self.hold != 4, format!(" --hold {}", self.hold));
        add(self.burn > 0, format!(" --burn {}", self.burn));
        add(true, format!(" --scenario {}", self.scenario));
        add(self.kills > 1, format!(" --kills {}", self.kills));
        add(self.scenario == Scenario::Stall, format!(" --stall {}", self.stall));
        add(self.scenario == Scenario::Moves, format!(" --count {}", self.count));
        add(true, format!(" --seed {seed}"));
        line
    }
}

impl ClusterArgs {
    /// What the lab is built of.
    pub fn plan(&self) -> Plan {
        Plan {
            mode: self.mode,
            nodes: self.nodes,
            witness: self.witness,
            coordinator: self.coordinator,
        }
    }

    /// The seed that was asked for, or one of this moment's; short, since it may be typed again.
    pub fn seed(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.seed
            .unwrap_or_else(|| random::Random::new(now.as_nanos() as u64).between(0, 1_000_000))
    }
}

fn buckets(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(count) if count.is_power_of_two() && (2..=65_536).contains(&count) => Ok(count),
        _ => Err("expected a power of two from 2 to 65536".into()),
    }
}

fn replicas(text: &str) -> Result<Replicas, String> {
    match (text, text.parse::<u8>()) {
        ("all", _) => Ok(Replicas::All),
        (_, Ok(count)) if (1..=MAX_REPLICAS).contains(&count) => Ok(Replicas::Successors(count)),
        _ => Err(format!("expected all, or a number from 1 to {MAX_REPLICAS}")),
    }
}

fn timing(text: &str) -> Result<Timing, String> {
    let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match numbers.as_deref() {
        Ok(&[lease, takeover, heartbeat]) => Ok(Timing { lease, takeover, heartbeat }),
        _ => Err("expected three numbers of milliseconds, as 100,160,20".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn run(line: &str) -> RunArgs {
        Line::try_parse_from(line.split(' ').skip(1)).unwrap().args.run
    }

    #[test]
    fn buckets_are_a_power_of_two() {
        assert_eq!(buckets("256"), Ok(256));
        for text in ["0", "1", "255", "131072", "x"] {
            assert!(buckets(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_replay_command_is_the_run() {
        for line in [
            "testudo lab --nodes 3 --buckets 256 --connections 10 --flows 4 --scenario kill --seed 3",
            "testudo lab --nodes 5 --buckets 64 --connections 9 --flows 1 --mode steered --witness \
             --coordinator etcd \
             --timing 30,45,5 --ipv4-only --zipf --hold 9 --burn 2 --scenario moves --count 20 \
             --seed 8",
            "testudo lab --nodes 3 --buckets 64 --connections 9 --flows 1 --churn 9 --sync-loss 20 \
             --sync-delay 3 --scenario stall --stall 5 --seed 1",
            "testudo lab --nodes 3 --buckets 64 --connections 9 --flows 1 --connects 100 --commit async \
             --scenario kill --kills 3 --seed 1",
            "testudo lab --nodes 3 --buckets 64 --connections 9 --flows 1 --prefill 1000 \
             --scenario kill --kills 50 --seed 1",
        ] {
            let run = run(line);
            assert_eq!(run.replay(run.cluster.seed()), line);
            assert!(run.check().is_ok());
        }
    }

    #[test]
    fn what_can_not_be_played_is_refused() {
        for line in [
            "testudo lab --nodes 1",
            "testudo lab --nodes 3 --scenario kill-two",
            "testudo lab --nodes 32 --scenario join",
            "testudo lab --scenario moves --kills 2",
            "testudo lab --mode tap --prefill 5",
            "testudo lab --mode tap --connects 5",
        ] {
            assert!(run(line).check().is_err(), "{line}");
        }
        assert_eq!(run("testudo lab --scenario join").plan().nodes, 4);
    }
}
