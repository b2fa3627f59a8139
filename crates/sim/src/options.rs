//! What a run is made of: the cluster, the network, the disks, and the bug that a test plants.

use std::sync::Arc;
use std::time::Duration;

use testudo_cluster::config::{Cluster, Replicas, Settings, Timing};
use testudo_cluster::node_set::NodeSet;
use testudo_cluster::replica::Replicate;
use testudo_packet::bucket::NodeId;

/// A millisecond of the world.
pub const MS: u64 = 1_000_000;

/// The secret of the cluster under test.
pub const SECRET: [u8; 16] = [7; 16];

/// How packets reach the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Every node sees every packet.
    Shared,
    /// A router picks a node, which passes on what is another's.
    Steered,
}

/// A bug that a test plants in the world around the nodes, to see a checker notice it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// No bug.
    None,
    /// The kernels handle packets without a lease.
    LeaseIgnored,
    /// The kernels drop packets that they should hold.
    HoldingForgotten,
    /// The daemons do not tell which packets they have handled while they yielded.
    HashesForgotten,
    /// So many of a thousand events of the kernel never reach the daemon.
    Swallowed(u64),
    /// The streams lose changes of flows, and acknowledge them.
    ChangesLost,
    /// The kernels write slots with an epoch that is too old.
    EpochsOld,
    /// The daemons lose a flow of each bucket that they take.
    TakenEmpty,
    /// The kernels do not take in flows that were determined.
    NotPlaced,
    /// The logs are never cut.
    LogUncut,
    /// The daemons tell of every flow, whatever its rule says.
    PoliciesForgotten,
    /// The daemons tell of no flow.
    AllKeptBack,
    /// The daemons do not look whether the time of a flow has come.
    DueForgotten,
    /// The daemons say that they have read a bucket out, and have not.
    ReadOutForgotten,
    /// The ports that flows are translated to are of another bucket.
    ClassIgnored,
    /// Flows are translated without a look at the common table.
    RepliesForgotten,
    /// Entries come into the kernels without what they are translated to, and are translated anew.
    TranslationsLost,
}

/// What a run is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many members the cluster has.
    pub nodes: usize,
    /// How many of them, the last ones, are witnesses.
    pub witnesses: usize,
    /// How many voters are left at least.
    pub min_voters: usize,
    /// How many buckets.
    pub buckets: u32,
    /// Who keeps copies.
    pub replicas: Replicas,
    /// How many flows there can be at once.
    pub flows: u64,
    /// Whether some of them are translated.
    pub translates: bool,
    /// Whether daemons hear at once of what packets that came up have done; otherwise when they look next.
    pub hears_at_once: bool,
    /// Times.
    pub timing: Timing,
    /// How packets come.
    pub mode: Mode,
    /// The longest way of a datagram or a piece of a stream, in nanoseconds.
    pub delay: u64,
    /// How many of a thousand datagrams get lost.
    pub loss: u64,
    /// How many of a thousand datagrams come twice.
    pub doubled: u64,
    /// How long a batch takes to get to the disk at most, in nanoseconds.
    pub disk: u64,
    /// How many of a thousand inputs find their thread late by some milliseconds.
    pub late: u64,
    /// Whether the planner balances by load.
    pub balance: bool,
    /// From when on peers are told of flows, for each rule; flows have them in turn. Without any, all are told
    /// of from their first packet on.
    pub policies: Vec<Replicate>,
    /// The bug.
    pub plant: Plant,
}

impl Options {
    /// A quiet cluster of so many nodes, with short times.
    #[must_use]
    pub fn of(nodes: usize) -> Self {
        Self {
            nodes,
            witnesses: 0,
            min_voters: 2.min(nodes),
            buckets: 32,
            flows: 400,
            translates: false,
            hears_at_once: false,
            replicas: Replicas::All,
            timing: Timing {
                heartbeat: Duration::from_millis(30),
                lease: Duration::from_millis(100),
                takeover: Duration::from_millis(120),
                formation: Duration::from_millis(400),
                removal: Duration::from_millis(600),
                handover: Duration::from_millis(150),
                overlap: Duration::from_millis(1),
                comparison: Duration::from_millis(500),
                audit: Duration::from_millis(1000),
            },
            mode: Mode::Shared,
            delay: 2 * MS,
            loss: 0,
            doubled: 0,
            disk: MS,
            late: 0,
            balance: false,
            policies: Vec::new(),
            plant: Plant::None,
        }
    }

    /// What the rule says that lets the flow of this port in.
    #[must_use]
    pub fn policy(&self, port: u16) -> Replicate {
        let rule = usize::from(rule_of(port, self.buckets as usize, self.policies.len()));
        self.policies.get(rule).copied().unwrap_or_default()
    }

    /// What the daemons take the policies to be.
    #[must_use]
    pub fn believed_policies(&self) -> Vec<Replicate> {
        match self.plant {
            Plant::PoliciesForgotten => Vec::new(),
            Plant::AllKeptBack => vec![Replicate::Never; self.policies.len()],
            _ => self.policies.clone(),
        }
    }

    /// The cluster as node `node` knows it, if everyone knows `secret`.
    ///
    /// # Panics
    ///
    /// If the options make no cluster.
    #[must_use]
    pub fn cluster(&self, node: usize, secret: [u8; 16]) -> Arc<Cluster> {
        let settings = Settings {
            name: "lab".into(),
            secret,
            members: (1..=self.nodes).map(|number| format!("n{number}")).collect(),
            weights: vec![100; self.nodes],
            witnesses: self.witnesses(),
            min_voters: self.min_voters,
            node: NodeId(node as u8),
            buckets: self.buckets,
            replicas: self.replicas,
            timing: self.timing,
            max_flows: 1000,
            label: String::new(),
        };
        // Not `new`: a planted bug is a timing that `new` refuses.
        Arc::new(Cluster::with_any_timing(settings).expect("settings that work"))
    }

    /// The members that own nothing.
    #[must_use]
    pub fn witnesses(&self) -> NodeSet {
        (self.nodes - self.witnesses..self.nodes).map(|node| NodeId(node as u8)).collect()
    }
}

/// The rule that lets the flow of a port in, of so many rules: each bucket has flows of all of them.
#[must_use]
pub fn rule_of(port: u16, buckets: usize, rules: usize) -> u16 {
    match rules {
        0 => 1,
        _ => (usize::from(port) / buckets % rules) as u16,
    }
}

/// A span in the world's nanoseconds.
#[must_use]
pub fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}
