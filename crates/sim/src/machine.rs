//! A machine: its kernel, its disk, and its daemon if that runs.
//!
//! What the three share is kept apart as it is on a machine: a daemon that ends leaves behind a kernel
//! that goes on by its lease, and a disk; a loss of power leaves behind what was safe on the disk.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_cluster::heartbeat::{Incarnation, Role};
use testudo_cluster::map::Map;
use testudo_cluster::membership::{Membership, Standing};
use testudo_cluster::ownership::Ownership;
use testudo_cluster::plan::BalanceSettings;
use testudo_cluster::planner::Planner;
use testudo_cluster::replica::{ConnectionId, Replica};
use testudo_coordinator::{Batch, Raft, Settings, Stored, Ticket};
use testudo_packet::bucket::{BucketId, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::FlowRecord;

use crate::clock::Clock;
use crate::kernel::{Kernel, Packet};
use crate::options::{MS, Options, Plant};
use crate::rng::Rng;
use crate::streams::StreamId;
use crate::translations::Translations;

/// After so many more entries the log is cut.
const SNAPSHOT_AFTER: u64 = 16;

/// One run of a daemon; what was meant for an earlier one is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(pub u64);

/// The threads of a daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thread {
    /// Drives the membership.
    Heartbeat,
    /// Drives the replica, and writes slots.
    Engine,
    /// Drives the coordinator and the planner.
    Coordinator,
}

/// How many threads a daemon has.
pub const THREADS: usize = 3;

/// What an operator asks a node for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// A node is to own nothing.
    Drain(NodeId),
    /// It may own again.
    Undrain(NodeId),
    /// A bucket is to be this node's.
    Move(BucketId, NodeId),
}

/// What the coordinator's thread wants the standings for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To plan, if this node leads.
    Plan,
    /// For an operator's order.
    Order(Order),
}

/// What comes to a daemon.
#[derive(Clone, Debug)]
pub enum Input {
    /// The heartbeat thread's alarm for this moment of the world.
    Wake(u64),
    /// From a peer.
    Datagram(Vec<u8>),
    /// From the engine to the heartbeat thread.
    Released(Incarnation),
    /// From the engine to the heartbeat thread.
    GivenUp(BucketId, Epoch),
    /// From the engine to the heartbeat thread.
    Delivered(BucketId, Epoch),
    /// From the engine to the heartbeat thread.
    HandedOver(BucketId, NodeId, testudo_cluster::map::Version),
    /// From the engine to the heartbeat thread.
    Synced(Option<testudo_cluster::map::Version>),
    /// From the coordinator to the heartbeat thread.
    Map(Arc<Map>),
    /// From the coordinator to the heartbeat thread, which answers.
    Ask(Purpose),
    /// Whether the node can forward.
    Fitness(bool),
    /// From the heartbeat thread to the engine.
    Ownership(Ownership),
    /// The engine's deadlines.
    Tick,
    /// The entries of a bucket have been read out of the common table.
    Loaded(BucketId, Epoch),
    /// The flows of a bucket that is to leave have been read out of the kernel, for the reading of this
    /// number.
    ReadOut(BucketId, u64),
    /// The kernel's queues are looked at.
    Queues,
    /// No packet that met the old slot is under way any more.
    Yielded(BucketId),
    /// It is time to look at buckets on their way.
    Turn,
    /// From the coordinator to the engine, for a peer.
    Post(NodeId, Vec<u8>),
    /// A stream was dialled.
    Accept(StreamId),
    /// The next piece of a stream, of which this side is the sender.
    Bytes(StreamId, usize),
    /// A stream has ended.
    HangUp(StreamId, usize),
    /// The coordinator's alarm for this moment of the world.
    Alarm(u64),
    /// From the engine to the coordinator.
    Letter(NodeId, Vec<u8>),
    /// A batch is on disk.
    Persisted(Ticket),
    /// The heartbeat thread's answer.
    Standings(Vec<Standing>, Purpose),
    /// The planner's time has come.
    Plan,
    /// An operator's wish.
    Order(Order),
}

impl Input {
    /// Who takes it in.
    #[must_use]
    pub fn thread(&self) -> Thread {
        match self {
            Self::Wake(_)
            | Self::Datagram(_)
            | Self::Released(_)
            | Self::GivenUp(..)
            | Self::Delivered(..)
            | Self::HandedOver(..)
            | Self::Synced(_)
            | Self::Map(_)
            | Self::Ask(_)
            | Self::Fitness(_) => Thread::Heartbeat,
            Self::Ownership(_)
            | Self::Tick
            | Self::Loaded(..)
            | Self::ReadOut(..)
            | Self::Queues
            | Self::Yielded(_)
            | Self::Turn
            | Self::Post(..)
            | Self::Accept(_)
            | Self::Bytes(..)
            | Self::HangUp(..) => Thread::Engine,
            Self::Alarm(_)
            | Self::Letter(..)
            | Self::Persisted(_)
            | Self::Standings(..)
            | Self::Plan
            | Self::Order(_) => Thread::Coordinator,
        }
    }
}

/// A running daemon.
pub struct Daemon {
    /// Which run.
    pub life: Life,
    /// Who is there, who may own.
    pub membership: Membership,
    /// The common table.
    pub replica: Replica,
    /// The agreement.
    pub raft: Raft<Map>,
    /// The leader's plans.
    pub planner: Planner,
    /// Which end of which stream a connection is.
    pub streams: BTreeMap<ConnectionId, (StreamId, usize)>,
    /// Packets that wait until their bucket is this node's.
    pub held: BTreeMap<BucketId, Vec<Packet>>,
    /// Stopped: what comes is kept, in `backlog`.
    pub paused: bool,
    /// What has come meanwhile.
    pub backlog: Vec<Input>,
    /// When the earliest wake-up that was asked for is due, in the world's time.
    pub wake_at: u64,
    /// The same of the coordinator.
    pub alarm_at: u64,
    /// Flows that it has determined and waits for an answer about, and whether nothing failed then.
    pub determined: BTreeMap<u32, (FlowRecord, bool)>,
    /// How many parts of rounds over its tables it has looked at.
    pub audits: u64,
    /// Whether the engine is about to look at the kernel's queues.
    pub looks: bool,
    /// Whether it is going to look at buckets on their way anyway.
    pub waits: bool,
    /// Until when each thread is kept from running, in the world's time.
    pub busy: [u64; THREADS],
    /// Messages of one thread to another stay in order: not before these, in the world's time.
    pub mail: [[u64; THREADS]; THREADS],
}

/// What holds the log.
#[derive(Debug, Default)]
pub struct Disk {
    /// What survives a loss of power.
    pub safe: Stored,
    /// What survives the end of the process only.
    cached: Vec<Batch>,
    /// What is not yet written at all.
    underway: VecDeque<(Ticket, Batch)>,
    /// When the last of these will be, in the world's time.
    pub until: u64,
    /// How long a batch takes beyond the usual.
    pub slow: u64,
}

impl Disk {
    /// Begins to write a batch.
    pub fn begin(&mut self, ticket: Ticket, batch: Batch) {
        self.underway.push_back((ticket, batch));
    }

    /// The first batch under way is written.
    pub fn written(&mut self) -> Option<Ticket> {
        let (ticket, batch) = self.underway.pop_front()?;
        let durable = batch.durable;
        self.cached.push(batch);
        if durable {
            self.flush();
        }
        Some(ticket)
    }

    fn flush(&mut self) {
        for batch in self.cached.drain(..) {
            self.safe.write(&batch);
        }
    }
}

/// A machine.
pub struct Machine {
    /// The cluster as it is told of it.
    pub cluster: Arc<Cluster>,
    /// Its kernel.
    pub kernel: Kernel,
    /// Its disk.
    pub disk: Disk,
    /// Its daemon, if that runs.
    pub daemon: Option<Daemon>,
    /// Whether it has power.
    pub on: bool,
    /// By how much its streams are slower than those of others.
    pub slow: u64,
    options: Options,
}

impl Machine {
    /// A machine that is switched off.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, options: &Options, rng: &mut Rng) -> Self {
        let mut kernel = Kernel::new(&cluster, Clock::new(rng), options.mode, options.plant);
        kernel.rules = options.policies.len();
        kernel.translations = Translations::new(options);
        let disk = Disk::default();
        let options = options.clone();
        Self { cluster, kernel, disk, daemon: None, on: false, slow: 0, options }
    }

    fn empty_kernel(&self) -> Kernel {
        let Options { mode, plant, .. } = self.options;
        let mut kernel = Kernel::new(&self.cluster, self.kernel.clock, mode, plant);
        kernel.rules = self.options.policies.len();
        kernel.translations = Translations::new(&self.options);
        kernel
    }

    /// Starts the daemon, which finds or makes the kernel's half empty.
    ///
    /// # Panics
    ///
    /// If the disk holds what no coordinator wrote.
    pub fn start(&mut self, now: u64, life: Life, rng: &mut Rng) {
        self.on = true;
        self.kernel = self.empty_kernel();
        self.disk.flush();
        let incarnation = Incarnation(rng.draw());
        let at = self.kernel.clock.read(now);
        let cluster = &self.cluster;
        let raft = Raft::new(self.settings(), cluster.first_map(), self.disk.safe.clone(), at);
        let balance = BalanceSettings {
            hysteresis_percent: 20.0,
            rest: Duration::from_millis(500),
            per_minute: if self.options.balance { 64 } else { 0 },
        };
        let mut replica = Replica::new(cluster.clone(), incarnation);
        replica.set_policies(self.options.believed_policies());
        self.daemon = Some(Daemon {
            life,
            membership: Membership::new(cluster.clone(), incarnation, at),
            replica,
            raft: raft.unwrap_or_else(|error| panic!("node {}: {error}", cluster.node().0)),
            planner: Planner::new(cluster.clone(), balance),
            streams: BTreeMap::new(),
            held: BTreeMap::new(),
            paused: false,
            backlog: Vec::new(),
            wake_at: u64::MAX,
            alarm_at: u64::MAX,
            audits: 0,
            looks: false,
            waits: false,
            determined: BTreeMap::new(),
            busy: [0; THREADS],
            mail: [[0; THREADS]; THREADS],
        });
    }

    fn settings(&self) -> Settings {
        let uncut = self.options.plant == Plant::LogUncut;
        Settings {
            election: Duration::from_millis(250),
            heartbeat: Duration::from_millis(50),
            snapshot_after: if uncut { 1 << 20 } else { SNAPSHOT_AFTER },
            max_message: 1 << 20,
            ..Settings::new(self.cluster.node(), self.cluster.nodes().collect(), 7)
        }
    }

    /// The daemon ends; the kernel goes on.
    pub fn end_daemon(&mut self) {
        self.daemon = None;
        self.disk.underway.clear();
        self.disk.until = 0;
    }

    /// The machine loses its power.
    pub fn lose_power(&mut self) {
        self.end_daemon();
        self.disk.cached.clear();
        self.kernel = self.empty_kernel();
        self.on = false;
    }

    /// Which run of the daemon this is.
    #[must_use]
    pub fn life(&self) -> Option<Life> {
        self.daemon.as_ref().map(|daemon| daemon.life)
    }

    /// Whether the daemon runs and is not stopped.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| !daemon.paused)
    }

    /// What the node is to the cluster by its own word.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.daemon.as_ref().map(|daemon| daemon.membership.role())
    }

    /// What the machine's clock shows.
    #[must_use]
    pub fn read(&self, now: u64) -> Nanos {
        self.kernel.clock.read(now)
    }

    /// The buckets whose packets this node handles.
    #[must_use]
    pub fn handled(&self, now: u64) -> Vec<usize> {
        (0..self.kernel.slots.len()).filter(|&bucket| self.kernel.handles(now, bucket)).collect()
    }

    /// Of these, the ones that are complete.
    #[must_use]
    pub fn active(&self, now: u64) -> usize {
        let slots = &self.kernel.slots;
        self.handled(now).iter().filter(|&&b| slots[b].state != BucketState::Loading).count()
    }

    /// How long the disk takes for a batch.
    pub fn disk_time(&self, rng: &mut Rng) -> u64 {
        let usual = rng.within(MS / 20..self.options.disk.max(MS / 10));
        usual + if self.disk.slow > 0 { rng.within(0..self.disk.slow) } else { 0 }
    }
}
