//! What an operator is told of a takeover: whose buckets, how many, how fast.

use std::collections::BTreeSet;
use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_datapath::{BucketLoad, Datapath, Installed, SharedTable};
use testudo_packet::bucket::{BucketId, BucketSlot, Nanos, NodeId};

use super::{Engine, Tallies, loading};
use crate::node::clock;

/// A takeover, from the decision to the last entry.
#[derive(Clone, Debug)]
pub struct Takeover {
    decided: Nanos,
    buckets: usize,
    /// Buckets of each owner before; those that nobody owned are not among them.
    taken: usize,
    from: BTreeSet<NodeId>,
    installed: Installed,
    /// How many packets of these buckets had come before.
    packets: u64,
    which: Vec<BucketId>,
}

/// How long a takeover waits for its first packet; a quiet bucket may have none for long.
const QUIET: Duration = Duration::from_millis(500);

impl Takeover {
    /// A takeover of these buckets, decided on just then.
    pub fn new(buckets: &[(BucketId, BucketSlot)], decided: Nanos) -> Self {
        let before = buckets.iter().map(|(_, slot)| slot.previous);
        let before = before.filter(|&node| node != NodeId::NONE);
        Self {
            decided,
            buckets: buckets.len(),
            taken: before.clone().count(),
            from: before.collect(),
            installed: Installed::default(),
            packets: 0,
            which: buckets.iter().map(|&(bucket, _)| bucket).collect(),
        }
    }

    /// From how many nodes buckets came.
    pub fn nodes(&self) -> usize {
        self.from.len()
    }

    /// How many buckets came from other nodes.
    pub const fn taken(&self) -> usize {
        self.taken
    }

    /// This takeover, which an earlier one that is still loading becomes part of.
    pub fn after(mut self, earlier: Option<Self>) -> Self {
        if let Some(earlier) = earlier {
            self.buckets += earlier.buckets;
            self.decided = earlier.decided;
            self.from.extend(earlier.from);
            self.installed = earlier.installed;
        }
        self
    }

    /// All slots name this node.
    pub fn flipped(&mut self, cluster: &Cluster, now: Nanos) {
        let from: Vec<&str> = self.from.iter().map(|&node| cluster.member(node)).collect();
        let from = if from.is_empty() { "nobody".to_owned() } else { from.join(", ") };
        let micros = clock::between(self.decided, now).as_micros();
        tracing::info!(buckets = self.buckets, from, micros, "buckets taken: all slots flipped");
    }

    /// Entries have been installed.
    pub const fn add(&mut self, installed: Installed) {
        self.installed = loading::sum(self.installed, installed);
    }

    /// All entries are in the node table.
    pub fn loaded(self, now: Nanos) {
        let micros = clock::between(self.decided, now).as_micros();
        let Installed { installed, stale, refused } = self.installed;
        tracing::info!(
            buckets = self.buckets,
            entries = installed,
            known_already = stale,
            refused,
            micros,
            "buckets loaded: all entries installed"
        );
    }
}

impl Takeover {
    fn count(&self, datapath: &dyn Datapath<Table = SharedTable>, loads: &mut [BucketLoad]) -> u64 {
        datapath.loads(loads);
        let packets = |bucket: &BucketId| loads.get(usize::from(bucket.0)).map_or(0, |l| l.packets);
        self.which.iter().map(packets).sum()
    }

    /// Before the slots are flipped: what comes from now on is the takeover's.
    pub fn begin(&mut self, datapath: &dyn Datapath<Table = SharedTable>, buckets: u32) {
        let mut loads = vec![BucketLoad::default(); buckets as usize];
        self.packets = self.count(datapath, &mut loads);
    }
}

impl Engine {
    /// Looks whether a takeover has had its first packet; says whether it is worth looking again at
    /// once.
    pub(super) fn look_for_first_packet(&mut self) -> bool {
        let Self { parts, first_packet, tallies, .. } = self;
        look(first_packet, parts.datapath.as_ref(), parts.cluster.buckets(), tallies);
        first_packet.is_some()
    }
}

/// Looks whether the takeover that waits for its first packet has had it, and takes note of that.
pub(super) fn look(
    first_packet: &mut Option<Takeover>,
    datapath: &dyn Datapath<Table = SharedTable>,
    buckets: u32,
    tallies: &mut Tallies,
) {
    let Some(waiting) = first_packet else { return };
    let waited = clock::between(waiting.decided, clock::now());
    let mut loads = vec![BucketLoad::default(); buckets as usize];
    let came = waiting.count(datapath, &mut loads) > waiting.packets;
    if came {
        // 0 stands for none.
        let micros = (waited.as_micros() as u64).max(1);
        tallies.first_packet_micros = micros;
        tracing::info!(micros, "the first packet of buckets that were taken has come");
    }
    if came || waited > QUIET {
        *first_packet = None;
    }
}

#[cfg(test)]
mod tests {
    use testudo_packet::bucket::{BucketState, Epoch};

    use super::*;

    #[test]
    fn only_buckets_that_somebody_had_are_taken_from_somebody() {
        let state = BucketState::Loading;
        let slot = |previous| BucketSlot { owner: NodeId(0), previous, state, epoch: Epoch(1) };
        let buckets: Vec<_> = [NodeId(1), NodeId::NONE, NodeId(2), NodeId(1)]
            .into_iter()
            .zip(0..)
            .map(|(previous, bucket)| (BucketId(bucket), slot(previous)))
            .collect();
        let takeover = Takeover::new(&buckets, Nanos(5));
        assert_eq!((takeover.nodes(), takeover.taken(), takeover.buckets), (2, 3, 4));
        let later = Takeover::new(&buckets[..1], Nanos(9)).after(Some(takeover));
        assert_eq!((later.buckets, later.decided), (5, Nanos(5)));
    }
}
