//! No node that takes a bucket over lacks a flow that it has acknowledged.
//!
//! A change counts as acknowledged by a peer when the owner, still under its lease, knows that the peer
//! has handled the frame that told of it. From then on the peer has to have the flow, in that state
//! or a newer one, and with the same translation, when it takes the bucket over: until the owner ends the
//! flow, another owner turns out not to have it, or the peer's memory is lost.

use std::collections::{BTreeMap, VecDeque};

use testudo_packet::bucket::{BucketId, BucketState, NodeId};
use testudo_packet::entry::FlowRecord;

use crate::kernel::key;
use crate::options::Options;
use crate::world::World;

/// A change that an owner has told.
#[derive(Clone, Copy, Debug)]
struct Noted {
    life: u64,
    record: FlowRecord,
}

/// What one peer has not acknowledged yet.
#[derive(Clone, Debug, Default)]
struct Open {
    unsent: Vec<Noted>,
    /// What went with frames up to this one.
    sent: VecDeque<(u64, Vec<Noted>)>,
}

/// Who has acknowledged what.
#[derive(Debug)]
pub struct Acknowledged {
    buckets: usize,
    /// Which life of its flow each port is in.
    lives: Vec<u64>,
    /// What each node has to have, by port.
    has: Vec<BTreeMap<u16, FlowRecord>>,
    /// By owner and peer.
    open: Vec<Vec<Open>>,
}

impl Acknowledged {
    /// Nothing was acknowledged yet.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        Self {
            buckets: options.buckets as usize,
            lives: vec![0; options.flows as usize],
            has: vec![BTreeMap::new(); options.nodes],
            open: vec![vec![Open::default(); options.nodes]; options.nodes],
        }
    }

    /// A node has lost its memory.
    pub(crate) fn forget(&mut self, node: usize) {
        self.has[node].clear();
        self.open[node].iter_mut().for_each(|open| *open = Open::default());
    }

    /// A flow has ended.
    pub(crate) fn end(&mut self, port: u16) {
        self.lives[usize::from(port)] += 1;
        self.has.iter_mut().for_each(|has| {
            has.remove(&port);
        });
    }

    fn ports(&self, bucket: BucketId) -> impl Iterator<Item = u16> + use<> {
        (usize::from(bucket.0)..self.lives.len()).step_by(self.buckets).map(|port| port as u16)
    }
}

fn port(record: &FlowRecord) -> u16 {
    record.key.initiator.port
}

impl World {
    /// An owner's replica has taken over what happened to a flow.
    pub(crate) fn note_event(&mut self, node: usize, record: FlowRecord) {
        let Some(daemon) = &self.machines[node].daemon else { return };
        // Nobody is told of what its rule keeps back.
        if daemon.replica.table().find(record.bucket, &record.key).is_none() {
            return;
        }
        // The event of a change does not tell of a translation.
        let known = daemon.replica.table().get(record.bucket, &record.key);
        let translation = known.and_then(|known| known.translation);
        let record = FlowRecord { translation, ..record };
        let life = self.acknowledged.lives[usize::from(port(&record))];
        for (peer, open) in self.acknowledged.open[node].iter_mut().enumerate() {
            let (bucket, peer) = (record.bucket, NodeId(peer as u8));
            if daemon.replica.peer(peer).connected && daemon.replica.is_kept_by(bucket, peer) {
                open.unsent.push(Noted { life, record });
            }
        }
    }

    /// An owner has gone over its node table: flows that it lacks have ended.
    pub(crate) fn note_audit(&mut self, node: usize) {
        let machine = &self.machines[node];
        let Some(daemon) = &machine.daemon else { return };
        let own = (0..self.acknowledged.buckets).map(|bucket| BucketId(bucket as u16));
        let own = own.filter(|&bucket| {
            let slot = daemon.replica.slot(bucket);
            slot.owner == machine.cluster.node() && slot.state == BucketState::Active
        });
        let ports: Vec<_> = own.flat_map(|bucket| self.acknowledged.ports(bucket)).collect();
        for port in ports {
            if !machine.kernel.flows.contains_key(&port) {
                self.acknowledged.end(port);
            }
        }
    }

    /// A node may have heard of acknowledgements.
    pub(crate) fn note_acknowledged(&mut self, node: usize) {
        let machine = &self.machines[node];
        let Some(daemon) = &machine.daemon else { return };
        let Acknowledged { lives, has, open, .. } = &mut self.acknowledged;
        for (peer, open) in open[node].iter_mut().enumerate() {
            if open.unsent.is_empty() && open.sent.is_empty() {
                continue;
            }
            let status = daemon.replica.peer(NodeId(peer as u8));
            let newest = open.sent.back().map_or(0, |(frame, _)| *frame);
            if !status.connected || status.sent < newest {
                *open = Open::default();
                continue;
            }
            if status.pending == status.sent - status.acknowledged && !open.unsent.is_empty() {
                open.sent.push_back((status.sent, std::mem::take(&mut open.unsent)));
            }
            while open.sent.front().is_some_and(|(frame, _)| *frame <= status.acknowledged) {
                let (_, noted) = open.sent.pop_front().expect("just seen");
                for Noted { life, record } in noted {
                    let bucket = usize::from(record.bucket.0);
                    let alive = lives[usize::from(port(&record))] == life;
                    // Who does not keep the bucket, or has just begun to, has handled what it does not have.
                    let kept = self.machines[peer].daemon.as_ref().is_some_and(|daemon| {
                        daemon.replica.has_whole(record.bucket)
                            || !self.options.replicas.is_limited()
                    });
                    if alive && kept && machine.kernel.handles(self.now, bucket) {
                        has[peer].insert(port(&record), record);
                    }
                }
            }
        }
    }

    /// A node has dropped a bucket: what it has acknowledged of it is with another keeper.
    pub(crate) fn pass_on(&mut self, node: usize, bucket: BucketId) {
        let heirs = self.heirs(node, bucket);
        // Whoever is dead itself counts for nothing, and may know so only when it wakes; an heir, too.
        let dead = self.is_fenced(node) || !heirs.iter().any(|&heir| self.lives_for(heir, node));
        let mut lost = None;
        for port in self.acknowledged.ports(bucket) {
            let Some(record) = self.acknowledged.has[node].remove(&port) else { continue };
            let known = |&heir: &usize| {
                let daemon = self.machines[heir].daemon.as_ref();
                daemon.and_then(|daemon| daemon.replica.table().get(bucket, &key(port)))
            };
            let heir = heirs.iter().find_map(|heir| Some((*heir, known(heir)?)));
            match heir {
                Some((heir, known)) => {
                    let least = if record.supersedes(&known) { known } else { record };
                    self.acknowledged.has[heir].entry(port).or_insert(least);
                }
                None if dead || heirs.iter().all(|&heir| self.is_under_way(bucket, heir)) => {}
                None => lost = Some(record),
            }
        }
        if let Some(record) = lost {
            self.fail(|| {
                format!(
                    "node {node} drops bucket {bucket} with {record:?}, which it has acknowledged \
                     and none of the keepers {heirs:?} has"
                )
            });
        }
    }

    /// A node has taken a bucket: what it knows is what there is from now on.
    pub(crate) fn note_taken(&mut self, node: usize, bucket: BucketId) {
        let Some(daemon) = &self.machines[node].daemon else { return };
        let table = daemon.replica.table();
        let mut lost = None;
        for port in self.acknowledged.ports(bucket) {
            let known = table.get(bucket, &key(port));
            // Where the kernel's first word of a flow found no room, what it is translated to is not known before the audit.
            let lacks = |record: &FlowRecord| {
                known.is_none_or(|known| {
                    let told = record.translation.is_some();
                    record.supersedes(&known) || told && record.translation != known.translation
                })
            };
            let own = self.acknowledged.has[node].get(&port).copied();
            lost = lost.or(own.filter(lacks).map(|record| (record, known)));
            for has in &mut self.acknowledged.has {
                if has.get(&port).is_some_and(lacks) {
                    has.remove(&port);
                }
            }
            self.acknowledged.lives[usize::from(port)] += 1;
        }
        if let Some((record, known)) = lost {
            self.fail(|| {
                format!(
                    "node {node} takes bucket {bucket} and has {known:?} of a flow that it has \
                     acknowledged as {record:?}"
                )
            });
        }
    }
}
