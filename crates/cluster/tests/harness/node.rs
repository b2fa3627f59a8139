//! A machine: its kernel, and its daemon if that runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_cluster::config::Cluster;
use testudo_cluster::heartbeat::{Incarnation, Role};
use testudo_cluster::membership::Membership;
use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{ConnectionId, Replica};
use testudo_packet::bucket::{BucketId, BucketState, Epoch};

use super::kernel::{Clock, Happened, Kernel};
use super::rng::Rng;
use super::streams::StreamId;

/// One run of a daemon; what was meant for an earlier one is nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life(pub u64);

/// What comes to a daemon.
#[derive(Clone, Debug)]
pub enum Input {
    /// The alarm that was set for this moment of the world.
    Wake(u64),
    Tick,
    Datagram(Vec<u8>),
    Ownership(Ownership),
    Released(Incarnation),
    Loaded(BucketId, Epoch),
    Happened(Happened),
    Accept(StreamId),
    Bytes(StreamId, usize),
    HangUp(StreamId, usize),
}

/// A running daemon.
pub struct Daemon {
    pub life: Life,
    pub membership: Membership,
    pub replica: Replica,
    /// Which end of which stream a connection is.
    pub streams: BTreeMap<ConnectionId, (StreamId, usize)>,
    /// Stopped: what comes is kept, in `backlog`.
    pub paused: bool,
    pub backlog: Vec<Input>,
    /// When the earliest wake-up that was asked for is due, in the world's time.
    pub wake_at: u64,
    /// Messages of one thread to another stay in order: not before these, in the world's time.
    pub ownership_until: u64,
    pub events_until: u64,
}

/// A machine.
pub struct Node {
    pub cluster: Arc<Cluster>,
    pub kernel: Kernel,
    pub daemon: Option<Daemon>,
}

impl Node {
    pub fn new(cluster: Arc<Cluster>, rng: &mut Rng) -> Self {
        let kernel = Kernel::new(&cluster, Clock::new(rng));
        Self { cluster, kernel, daemon: None }
    }

    /// Starts the daemon, which finds or makes the kernel's half empty.
    pub fn start(&mut self, now: u64, life: Life, rng: &mut Rng) {
        self.kernel = Kernel::new(&self.cluster, self.kernel.clock);
        let incarnation = Incarnation(rng.next());
        let at = self.kernel.clock.read(now);
        self.daemon = Some(Daemon {
            life,
            membership: Membership::new(self.cluster.clone(), incarnation, at),
            replica: Replica::new(self.cluster.clone(), incarnation),
            streams: BTreeMap::new(),
            paused: false,
            backlog: Vec::new(),
            wake_at: u64::MAX,
            ownership_until: 0,
            events_until: 0,
        });
    }

    /// The machine loses its power.
    pub fn lose_power(&mut self) {
        self.daemon = None;
        self.kernel = Kernel::new(&self.cluster, self.kernel.clock);
    }

    pub fn life(&self) -> Option<Life> {
        self.daemon.as_ref().map(|daemon| daemon.life)
    }

    /// Whether the daemon runs and is not stopped.
    pub fn is_up(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| !daemon.paused)
    }

    pub fn role(&self) -> Option<Role> {
        self.daemon.as_ref().map(|daemon| daemon.membership.role())
    }

    /// The buckets whose packets this node handles.
    pub fn handled(&self, now: u64) -> Vec<usize> {
        (0..self.kernel.slots.len()).filter(|&bucket| self.kernel.handles(now, bucket)).collect()
    }

    /// Of these, the ones that are complete.
    pub fn active(&self, now: u64) -> usize {
        let slots = &self.kernel.slots;
        self.handled(now).iter().filter(|&&b| slots[b].state == BucketState::Active).count()
    }
}

impl Node {
    /// Puts the entries of a bucket into the kernel, as `Effect::Install` asks.
    pub fn load(&mut self, bucket: BucketId, epoch: Epoch) {
        let Some(daemon) = &mut self.daemon else { return };
        let slot = daemon.replica.slot(bucket);
        if slot.owner == self.cluster.node() && slot.epoch == epoch {
            self.kernel.install(daemon.replica.table().bucket(bucket));
        }
        daemon.replica.handle_loaded(bucket, epoch);
    }
}
