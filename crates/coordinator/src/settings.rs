//! What has to be known before a coordinator can start.

use std::time::Duration;

use testudo_packet::bucket::NodeId;

/// The settings of one node. All but `node` are the same on all nodes of a cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// All nodes of the cluster, sorted. All get the log; who votes, the machine says.
    pub nodes: Vec<NodeId>,
    /// What election timeouts are derived from.
    pub seed: u64,
    /// How long a leader may be silent before others want to lead. At least five heartbeats.
    pub election: Duration,
    /// How often a leader is heard.
    pub heartbeat: Duration,
    /// How many applied entries are kept behind a snapshot for nodes that lag; after as many more
    /// the next snapshot is made.
    pub snapshot_after: u64,
    /// The longest message in bytes. The encoded machine has to fit in it: a command that makes it
    /// longer is refused.
    pub max_message: usize,
}

/// How many ticks a heartbeat takes: the more, the rarer do two nodes stand for election at once.
pub(crate) const TICKS_PER_HEARTBEAT: u32 = 4;
/// What a snapshot message has besides the machine, at most.
const ENVELOPE: usize = 512;
/// The least that a message must be able to hold.
const MIN_MESSAGE: usize = 4096;

/// Why a coordinator can't start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The settings contradict themselves: the operator's fault.
    #[error("the settings can't be used: {0}")]
    Settings(String),
    /// The store holds what no coordinator of this cluster has written.
    #[error("the stored log can't be used: {0}")]
    Store(String),
}

impl Settings {
    /// Settings with the usual times and sizes.
    #[must_use]
    pub fn new(node: NodeId, nodes: Vec<NodeId>, seed: u64) -> Self {
        Self {
            node,
            nodes,
            seed,
            election: Duration::from_secs(1),
            heartbeat: Duration::from_millis(100),
            snapshot_after: 256,
            max_message: 4 << 20,
        }
    }

    /// The longest command.
    #[must_use]
    pub fn max_command(&self) -> usize {
        self.max_message / 4
    }

    /// The longest encoded machine.
    #[must_use]
    pub fn max_machine(&self) -> usize {
        self.max_message - ENVELOPE
    }

    pub(crate) fn tick(&self) -> Duration {
        self.heartbeat / TICKS_PER_HEARTBEAT
    }

    pub(crate) fn election_ticks(&self) -> usize {
        let ticks = self.election.as_nanos() / self.tick().as_nanos();
        usize::try_from(ticks).expect("checked at the start")
    }

    pub(crate) fn check(&self, voters: &[NodeId]) -> Result<(), StartError> {
        let refuse = |why: String| Err(StartError::Settings(why));
        if self.nodes.windows(2).any(|pair| pair[0] >= pair[1]) {
            return refuse("the nodes are not sorted, or one is there twice".to_owned());
        }
        if !self.nodes.contains(&self.node) || self.nodes.contains(&NodeId::NONE) {
            return refuse(format!("node {} is not among {:?}", self.node.0, self.nodes));
        }
        if self.tick().is_zero() || self.heartbeat.as_secs() > 60 {
            return refuse(format!("a heartbeat every {:?}", self.heartbeat));
        }
        if self.election < self.heartbeat * 5 || self.election.as_secs() > 600 {
            let Self { election, heartbeat, .. } = self;
            return refuse(format!(
                "elections after {election:?} with a heartbeat every {heartbeat:?}, expected at \
                 least five heartbeats and at most 10 minutes"
            ));
        }
        if self.max_message < MIN_MESSAGE || self.snapshot_after == 0 {
            return refuse(format!(
                "messages of {} bytes, snapshots after {} entries; expected at least \
                 {MIN_MESSAGE} and 1",
                self.max_message, self.snapshot_after
            ));
        }
        self.check_voters(voters).map_err(StartError::Settings)
    }

    /// Whether these can be the voters of this cluster.
    pub(crate) fn check_voters(&self, voters: &[NodeId]) -> Result<(), String> {
        if voters.is_empty() {
            return Err("nobody would vote".to_owned());
        }
        if voters.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err("the voters are not sorted, or one is there twice".to_owned());
        }
        match voters.iter().find(|voter| !self.nodes.contains(voter)) {
            Some(voter) => Err(format!("voter {} is no node of the cluster", voter.0)),
            None => Ok(()),
        }
    }
}
