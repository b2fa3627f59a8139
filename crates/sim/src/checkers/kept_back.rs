//! Which flows peers know is as the rules say: what they keep back no other node knows, and what they do not
//! keep back every node does.
//!
//! What has to be known follows from a flow's state and its rule alone. What may be known besides: a flow of
//! a bucket that yields, for it is handed over whole; what a node that takes a bucket knows of it; what has
//! lived for its rule's time. So a flow that dies with a node is one that its rule had kept back.
//!
//! Limits: copies of an earlier life of a flow may linger on other nodes for as long as they can't be told
//! of its end. So at any moment only flows that were never let through are looked for on all nodes; of all
//! others it is asked when nothing happens any more.

use testudo_cluster::replica::Replicate;
use testudo_packet::bucket::{BucketId, BucketState};
use testudo_packet::entry::FlowRecord;
use testudo_packet::tracking::Phase;

use crate::kernel::key;
use crate::options::{Options, nanos};
use crate::world::World;

/// By how much a clock may be ahead: more than clocks run apart in any wait.
const SLACK: u64 = 500;

/// What is known of a port's flow at one node. A node that has been succeeded without knowing it has a life of
/// the flow of its own.
#[derive(Clone, Copy, Debug)]
struct Flow {
    /// When its present life began, in the world's time.
    born: u64,
    /// Whether this life of it may be known to other nodes.
    allowed: bool,
    /// Whether it was taken note of that its time had come.
    noted: bool,
}

/// Which flows may be known.
#[derive(Debug)]
pub struct KeptBack {
    policies: Vec<Replicate>,
    /// By node and port.
    flows: Vec<Vec<Flow>>,
    /// Of each port, whether any life of its flow so far may have been known.
    ever: Vec<bool>,
}

impl KeptBack {
    /// No flow has begun yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let policies: Vec<_> = (0..options.flows).map(|port| options.policy(port as u16)).collect();
        let ever: Vec<_> =
            policies.iter().map(|&policy| policy == Replicate::FirstPacket).collect();
        let flow = |&allowed: &bool| Flow { born: 0, allowed, noted: false };
        let flows = vec![ever.iter().map(flow).collect(); options.nodes];
        Self { policies, flows, ever }
    }

    /// Flows that packets don't have were determined, and are told of at once.
    fn policy(&self, port: u16) -> Replicate {
        self.policies.get(usize::from(port)).copied().unwrap_or_default()
    }

    fn is_determined(&self, port: u16) -> bool {
        usize::from(port) >= self.policies.len()
    }

    fn flow(&self, node: usize, port: u16) -> &Flow {
        &self.flows[node][usize::from(port)]
    }

    fn allow(&mut self, node: usize, port: u16) {
        if !self.is_determined(port) {
            self.flows[node][usize::from(port)].allowed = true;
            self.ever[usize::from(port)] = true;
        }
    }

    /// A first packet has begun the flow anew.
    fn begin(&mut self, now: u64, node: usize, port: u16) {
        self.ever[usize::from(port)] |= self.is_old_enough(now, node, port);
        let allowed = self.policy(port) == Replicate::FirstPacket;
        self.flows[node][usize::from(port)] = Flow { born: now, allowed, noted: false };
    }

    fn is_old_enough(&self, now: u64, node: usize, port: u16) -> bool {
        match self.policy(port) {
            Replicate::After(wait) => {
                let wait = nanos(wait) - nanos(wait) / SLACK;
                now >= self.flow(node, port).born + wait
            }
            _ => false,
        }
    }

    fn is_allowed(&self, now: u64, node: usize, port: u16) -> bool {
        self.is_determined(port)
            || self.flow(node, port).allowed
            || self.is_old_enough(now, node, port)
    }

    fn was_ever_allowed(&self, now: u64, port: u16) -> bool {
        let mut nodes = 0..self.flows.len();
        self.is_determined(port)
            || self.ever[usize::from(port)]
            || nodes.any(|node| self.is_old_enough(now, node, port))
    }

    /// Whether a flow has to be known by its state, sooner or later if its rule has it wait.
    pub(crate) fn must_be_known(&self, record: &FlowRecord) -> bool {
        match self.policy(port(record)) {
            Replicate::FirstPacket | Replicate::After(_) => true,
            Replicate::Established => record.state.phase == Phase::Established,
            Replicate::Never => false,
        }
    }
}

fn port(record: &FlowRecord) -> u16 {
    record.key.initiator.port
}

impl World {
    /// A node has handled a packet of the flow of this port.
    pub(crate) fn note_packet(&mut self, node: usize, port: u16) {
        let kernel = &self.machines[node].kernel;
        let Some(record) = kernel.flows.get(&port) else { return };
        if record.state.phase == Phase::SynSent {
            self.kept_back.begin(self.now, node, port);
        }
        let yields = kernel.slots[usize::from(record.bucket.0)].state == BucketState::Yielding;
        let established = record.state.phase == Phase::Established;
        let open = self.kept_back.policy(port) == Replicate::Established && established;
        if yields || open {
            self.kept_back.allow(node, port);
        }
    }

    /// A bucket of a node's begins to yield.
    pub(crate) fn note_yielding(&mut self, node: usize, bucket: BucketId) {
        for record in self.machines[node].kernel.of_bucket(usize::from(bucket.0)) {
            self.kept_back.allow(node, port(record));
        }
    }

    /// A node takes a bucket with all that it knows of it.
    pub(crate) fn note_inherited(&mut self, node: usize, bucket: BucketId) {
        let Some(daemon) = &self.machines[node].daemon else { return };
        for record in daemon.replica.table().bucket(bucket) {
            self.kept_back.allow(node, port(&record));
        }
    }

    /// A node has taken in what has happened to a flow of its own; whether it had told of it before.
    ///
    /// # Errors
    ///
    /// Who was told of it too early, or not.
    pub(crate) fn check_event(
        &mut self,
        node: usize,
        record: &FlowRecord,
        before: bool,
    ) -> Result<(), String> {
        let Some(daemon) = &self.machines[node].daemon else { return Ok(()) };
        let known = daemon.replica.table().find(record.bucket, &record.key).is_some();
        let policy = self.kept_back.policy(port(record));
        if before {
            // What is left of an earlier life stands for this one, too.
            self.kept_back.allow(node, port(record));
        }
        let late = matches!(policy, Replicate::After(_));
        if !known && (before || !late && self.kept_back.must_be_known(record)) {
            return Err(format!(
                "node {node} does not tell of {record:?}, whose rule says {policy:?}"
            ));
        }
        if known && !self.kept_back.is_allowed(self.now, node, port(record)) {
            return Err(format!("node {node} tells of {record:?}, whose rule says {policy:?}"));
        }
        Ok(())
    }

    /// Flows whose time has come have been told of since.
    pub(crate) fn note_due(&mut self, node: usize) {
        let Some(daemon) = &self.machines[node].daemon else { return };
        let own = self.machines[node].kernel.flows.values().filter(|record| {
            matches!(self.kept_back.policy(port(record)), Replicate::After(_))
                && !self.kept_back.flow(node, port(record)).noted
        });
        let told = own.filter_map(|record| daemon.replica.table().get(record.bucket, &record.key));
        let told: Vec<_> = told
            .filter(|record| {
                self.machines[node].kernel.handles(self.now, usize::from(record.bucket.0))
            })
            .collect();
        for record in told {
            self.kept_back.flows[node][usize::from(port(&record))].noted = true;
            self.tally.count("flows told of after their time");
            self.note_event(node, record);
        }
    }
}

/// Whether a node knows nothing that was kept back for ever.
///
/// # Errors
///
/// What it knows.
pub fn kept_back(world: &World, node: usize) -> Result<(), String> {
    let Some(daemon) = &world.machines[node].daemon else { return Ok(()) };
    let secret = |record: &FlowRecord| !world.kept_back.was_ever_allowed(world.now, port(record));
    let secret = daemon.replica.table().iter().find(secret);
    match secret {
        None => Ok(()),
        Some(record) => {
            let policy = world.kept_back.policy(port(&record));
            Err(format!("node {node} knows {record:?}, whose rule says {policy:?}"))
        }
    }
}

/// To be asked when nothing has happened for a while: whether a flow that all nodes know may be known, by
/// what its owner was to tell.
///
/// # Errors
///
/// What its rule says.
pub(crate) fn may_be_known(world: &World, owner: usize, number: u16) -> Result<(), String> {
    if world.kept_back.is_allowed(world.now, owner, number) {
        return Ok(());
    }
    let policy = world.kept_back.policy(number);
    let key = key(number);
    Err(format!("node {owner} has told all of {key:?}, whose rule says {policy:?}"))
}
