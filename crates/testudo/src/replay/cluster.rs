//! A cluster in `shared` mode without wires: every packet comes to every node, and one handles it.
//!
//! Invariant: a packet that has a bucket is handled by the bucket's owner and refused as
//! `drop.not-owner` by all others; a packet that has none meets the same verdict everywhere. It is
//! checked for every packet, and with it what replication promises: all common tables are equal, and
//! hold what the node tables hold together. A [`Broken`] is a mistake in Testudo.
//!
//! Limits: there is no network between the nodes, so what one node says of a flow is known to all
//! before the next packet.

use std::collections::BTreeMap;

use testudo_cluster::common_table::{Authority, CommonTable, Refused};
use testudo_cluster::keys::Keys;
use testudo_cluster::plan::{self, Candidate};
use testudo_datapath::user::UserDatapath;
use testudo_datapath::{Datapath, NodeTable, Settings};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::env::Mac;
use testudo_packet::event::{Event, EventKind, Occurrence};
use testudo_packet::flow::FlowKey;
use testudo_packet::placement::Grounds;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::{Phase, Timeouts};
use testudo_packet::verdict::{DropReason, Verdict};

/// The cluster's address on the link that is not there.
pub const CLUSTER_MAC: [u8; 6] = [0x02, 0x74, 0x65, 0x73, 0x74, 0x75];
/// Always the same, so that a capture gives the same result each time.
const SECRET: [u8; 16] = *b"testudo replay..";
/// There is one link.
const INTERFACE: u32 = 1;
/// Nobody takes over here.
const EPOCH: Epoch = Epoch(1);
/// How often silent flows are looked for, by the capture's time.
const EXPIRY_MILLIS: u64 = 1000;

/// How large the cluster is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// The number of nodes, at least one.
    pub nodes: u8,
    /// The number of buckets, a power of two.
    pub buckets: u32,
    /// The slots of each node table, a power of two.
    pub slots: u32,
}

/// A promise that was not kept.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// What the nodes made of a packet does not fit together.
    #[error("the nodes disagree on a packet: {verdicts:?}")]
    Disagreement { verdicts: Vec<Verdict> },
    /// A node reports a flow of a bucket that it does not own.
    #[error("node {node} has a flow of bucket {bucket}, which is another's")]
    Foreign { node: usize, bucket: BucketId },
    /// A node's common table does not take what another node says.
    #[error("the common table of node {node} refuses a flow: {refused}")]
    Refused { node: usize, refused: Refused },
    /// A flow is not known to a node that should know it.
    #[error("the common table of node {node} lacks {key:?} of a node table, or has it otherwise")]
    Missing { node: usize, key: FlowKey },
    /// A common table has flows that no node table has.
    #[error("the common table of node {node} has {seen} flows; expected {expected}")]
    Surplus { node: usize, seen: usize, expected: usize },
}

/// What became of a packet, as the cluster sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// Let through.
    Forwarded,
    /// Left to the nodes' own stacks.
    Stack,
    /// Dropped.
    Dropped(DropReason),
}

impl Outcome {
    /// As counters name it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Stack => "stack",
            Self::Dropped(reason) => reason.name(),
        }
    }
}

/// A node, and what it has done.
#[derive(Debug)]
pub struct Node {
    datapath: UserDatapath,
    common: CommonTable,
    /// How many buckets it owns.
    pub buckets: u32,
    /// Packets of its buckets.
    pub packets: u64,
    /// Their bytes, link-layer headers included.
    pub bytes: u64,
    /// Packets of its buckets that it dropped.
    pub dropped: u64,
    /// Flows that began.
    pub flows: u64,
    /// The most entries that its table has had at once.
    pub most_entries: usize,
}

impl Node {
    /// How many flows are in its node table.
    pub fn entries(&self) -> usize {
        self.datapath.table().len()
    }

    /// How many flows are in its common table.
    pub fn common_entries(&self) -> usize {
        self.common.len()
    }
}

/// The nodes.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    owners: Vec<NodeId>,
    outcomes: BTreeMap<Outcome, u64>,
    timeouts: Timeouts,
    now: Nanos,
    expired: Nanos,
    verdicts: Vec<Verdict>,
}

impl Cluster {
    /// A cluster whose nodes are all alive and let every flow begin.
    pub fn new(size: Size) -> Result<Self, testudo_datapath::Error> {
        let owners = owners(size);
        let nodes = (0..size.nodes).map(|node| new_node(NodeId(node), size, &owners));
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>()?,
            owners,
            outcomes: BTreeMap::new(),
            timeouts: Timeouts::default(),
            now: Nanos(0),
            expired: Nanos(0),
            verdicts: Vec::new(),
        })
    }

    /// The nodes, in their order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How many packets had each outcome.
    pub const fn outcomes(&self) -> &BTreeMap<Outcome, u64> {
        &self.outcomes
    }

    /// Gives a frame to every node. Time that goes back stands still.
    pub fn handle(&mut self, frame: &mut [u8], time: Nanos) -> Result<(), Broken> {
        // The end of time is what the lease is granted until.
        self.now = self.now.max(time.min(Nanos(u64::MAX - 1)));
        if self.now.millis_since(self.expired) >= EXPIRY_MILLIS {
            self.expire()?;
        }
        self.verdicts.clear();
        for node in &mut self.nodes {
            // The nodes have no addresses of their own here: nothing is answered, no byte changes.
            let verdict = match node.datapath.handle(frame, INTERFACE, self.now) {
                Verdict::Upcall(_) => decided(&mut node.datapath, frame, self.now),
                verdict => verdict,
            };
            self.verdicts.push(verdict);
        }
        let outcome = self.settle(frame.len())?;
        *self.outcomes.entry(outcome).or_default() += 1;
        Ok(())
    }

    /// Ends the replay: what is silent by now is taken out, and all tables are compared.
    pub fn finish(&mut self) -> Result<(), Broken> {
        self.expire()?;
        self.check()
    }

    /// Compares the node tables with the common tables, and those with each other.
    fn check(&self) -> Result<(), Broken> {
        let expected = self.nodes.iter().map(Node::entries).sum();
        for (node, Node { common, .. }) in self.nodes.iter().enumerate() {
            if common.len() != expected || common.digest() != self.nodes[0].common.digest() {
                return Err(Broken::Surplus { node, seen: common.len(), expected });
            }
        }
        // Equal digests: what the first one has, all have.
        let common = &self.nodes[0].common;
        let mut missing = None;
        for node in self.nodes.iter().filter(|node| node.entries() > 0) {
            node.datapath.table().scan(&mut |view| {
                let FlowRecord { bucket, key, .. } = view.record;
                if common.get(bucket, &key) != Some(view.record) {
                    missing = Some(key);
                }
            });
        }
        missing.map_or(Ok(()), |key| Err(Broken::Missing { node: 0, key }))
    }

    /// What the nodes' verdicts on one packet mean together.
    fn settle(&mut self, bytes: usize) -> Result<Outcome, Broken> {
        let disagreement =
            |verdicts: &[Verdict]| Err(Broken::Disagreement { verdicts: verdicts.to_owned() });
        let first = self.verdicts[0];
        if let Some(outcome) = without_bucket(first) {
            return match self.verdicts.iter().all(|verdict| *verdict == first) {
                true => Ok(outcome),
                false => disagreement(&self.verdicts),
            };
        }
        let mut handled = self.verdicts.iter().enumerate().filter(|(_, v)| !is_refusal(**v));
        let (Some((owner, &verdict)), None) = (handled.next(), handled.next()) else {
            return disagreement(&self.verdicts);
        };
        let outcome = match verdict {
            Verdict::Forward => Outcome::Forwarded,
            Verdict::Drop(reason) if without_bucket(verdict).is_none() => Outcome::Dropped(reason),
            _ => return disagreement(&self.verdicts),
        };
        let node = &mut self.nodes[owner];
        node.packets += 1;
        node.bytes += bytes as u64;
        node.dropped += u64::from(outcome != Outcome::Forwarded);
        self.spread(owner)?;
        Ok(outcome)
    }

    /// Tells all nodes what has happened to a node's flows.
    fn spread(&mut self, owner: usize) -> Result<(), Broken> {
        let node = &mut self.nodes[owner];
        let mut events = Vec::new();
        node.datapath.drain_events(&mut |occurrence| match occurrence {
            Occurrence::Flow(event) => events.push(event),
            // No bucket moves while a capture is replayed.
            Occurrence::Handled(_) => {}
        });
        node.flows += events.iter().filter(|event| begins(event)).count() as u64;
        node.most_entries = node.most_entries.max(node.entries());
        for Event { record, .. } in events {
            let by_map = self.owners.get(usize::from(record.bucket.0));
            if by_map.map(|node| usize::from(node.0)) != Some(owner) {
                return Err(Broken::Foreign { node: owner, bucket: record.bucket });
            }
            for (node, Node { common, .. }) in self.nodes.iter_mut().enumerate() {
                let by = if node == owner { Authority::Owner } else { Authority::Other };
                common.apply(record, by).map_err(|refused| Broken::Refused { node, refused })?;
            }
        }
        Ok(())
    }

    /// Takes silent flows out of all tables.
    fn expire(&mut self) -> Result<(), Broken> {
        self.expired = self.now;
        let mut gone = Vec::new();
        for node in self.nodes.iter().filter(|node| node.entries() > 0) {
            let table = node.datapath.table();
            table.expire(self.now, &self.timeouts, &mut |record| gone.push(*record));
        }
        for (node, Node { common, .. }) in self.nodes.iter_mut().enumerate() {
            for record in &gone {
                common.remove(record).map_err(|refused| Broken::Refused { node, refused })?;
            }
        }
        Ok(())
    }
}

/// Who owns each bucket, as a cluster of equal nodes is formed.
fn owners(size: Size) -> Vec<NodeId> {
    let equal =
        |node| Candidate { node: NodeId(node), weight: 1, may_own: true, may_succeed: true };
    let candidates: Vec<_> = (0..size.nodes).map(equal).collect();
    let lists = plan::spread(size.buckets, &candidates, 1);
    lists.iter().map(|list| list.ranks[0]).collect()
}

fn new_node(id: NodeId, size: Size, owners: &[NodeId]) -> Result<Node, testudo_datapath::Error> {
    let mut datapath = UserDatapath::new(Settings {
        node: id,
        secret: SECRET,
        buckets: size.buckets,
        grounds: Grounds::default(),
        cluster_mac: Mac::from_bytes(CLUSTER_MAC),
        table_slots: size.slots,
        pools: Vec::new(),
        likenesses: Default::default(),
        answers: Vec::new(),
        mode: Mode::Shared,
    })?;
    datapath.set_lease(Nanos(u64::MAX));
    datapath.set_rules(&[Rule::any(Action::Accept)])?;
    let capacity = usize::from(size.nodes) * size.slots as usize;
    let mut common = CommonTable::new(Keys::new(&SECRET).table, size.buckets, capacity);
    let mut owned = 0;
    for (bucket, &owner) in (0..=u16::MAX).map(BucketId).zip(owners) {
        let slot =
            BucketSlot { owner, previous: NodeId::NONE, state: BucketState::Active, epoch: EPOCH };
        datapath.set_bucket(bucket, slot);
        common.set_epoch(bucket, EPOCH);
        owned += u32::from(owner == id);
    }
    Ok(Node {
        datapath,
        common,
        buckets: owned,
        packets: 0,
        bytes: 0,
        dropped: 0,
        flows: 0,
        most_entries: 0,
    })
}

/// Whether a flow begins with this event, under a new key or under that of one that is over.
fn begins(event: &Event) -> bool {
    let state = event.record.state;
    let again =
        event.kind == EventKind::Updated && state.phase == Phase::SynSent && !state.confirmed;
    event.kind == EventKind::Created || again
}

/// What becomes of a packet that has gone up. A fragment that has come before the first of its packet waits; it may go
/// on later, and counts as early all the same.
fn decided(datapath: &mut UserDatapath, frame: &[u8], now: Nanos) -> Verdict {
    datapath.handle_upcalls(now, &mut |_, _| None);
    let released = datapath.take_released();
    let this = released.into_iter().find(|(released, _)| released == frame);
    this.map_or(Verdict::Drop(DropReason::FragmentEarly), |(_, verdict)| verdict)
}

fn is_refusal(verdict: Verdict) -> bool {
    verdict == Verdict::Drop(DropReason::NotOwner)
}

/// The outcome of a verdict that is reached before there is a bucket.
const fn without_bucket(verdict: Verdict) -> Option<Outcome> {
    match verdict {
        Verdict::Stack => Some(Outcome::Stack),
        Verdict::Drop(
            reason @ (DropReason::Truncated
            | DropReason::BadHeader
            | DropReason::BadAddress
            | DropReason::BadFlags
            | DropReason::Fragment
            | DropReason::FragmentEarly
            | DropReason::FragmentLength
            | DropReason::FragmentTiny
            | DropReason::ExtensionHeaders
            | DropReason::Unsupported),
        ) => Some(Outcome::Dropped(reason)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster() -> Cluster {
        Cluster::new(Size { nodes: 2, buckets: 2, slots: 64 }).expect("a good size")
    }

    /// A UDP packet.
    fn frame() -> Vec<u8> {
        let ip = [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 1, 0, 1];
        [&CLUSTER_MAC[..], &[2, 0, 0, 0, 0, 9, 8, 0], &ip, &[0, 9, 0, 9, 0, 8, 0, 0]].concat()
    }

    /// Tells a node whose all buckets are.
    fn believe(cluster: &mut Cluster, node: usize, owner: u8) {
        for bucket in 0..2 {
            let datapath = &mut cluster.nodes[node].datapath;
            let slot = datapath.bucket(BucketId(bucket));
            datapath.set_bucket(BucketId(bucket), BucketSlot { owner: NodeId(owner), ..slot });
        }
    }

    #[test]
    fn two_owners_or_none_are_noticed() {
        for (first, second) in [(0, 1), (1, 0)] {
            let mut cluster = cluster();
            believe(&mut cluster, 0, first);
            believe(&mut cluster, 1, second);
            let error = cluster.handle(&mut frame(), Nanos(1)).unwrap_err();
            assert!(matches!(error, Broken::Disagreement { .. }), "{error}");
        }
    }

    #[test]
    fn a_flow_at_the_wrong_node_is_noticed() {
        let mut right = cluster();
        right.handle(&mut frame(), Nanos(1)).expect("one owner");
        let owner = right.nodes.iter().position(|node| node.packets == 1).expect("an owner");
        let mut wrong = cluster();
        let other = 1 - owner;
        believe(&mut wrong, 0, other as u8);
        believe(&mut wrong, 1, other as u8);
        let error = wrong.handle(&mut frame(), Nanos(1)).unwrap_err();
        assert!(matches!(error, Broken::Foreign { node, .. } if node == other), "{error}");
    }

    #[test]
    fn a_flow_that_a_node_was_not_told_of_is_noticed() {
        let mut cluster = cluster();
        cluster.handle(&mut frame(), Nanos(1)).expect("one owner");
        cluster.check().expect("equal tables");
        let record = cluster.nodes[1].common.iter().next().expect("the flow");
        cluster.nodes[1].common.remove(&record).expect("it is there");
        let error = cluster.finish().unwrap_err();
        assert!(matches!(error, Broken::Surplus { node: 1, seen: 0, expected: 1 }), "{error}");
    }
}
