//! What this node's buckets carry, reported to the planners of all nodes.
//!
//! Packets and bytes are counted by the datapath for each bucket, new flows by their events. Tunnels are known
//! from the common table at once, and those that their rules keep back from it from the round over the node
//! table, which may be as old as a round. Every node reports to every other, because any of them may lead, and a
//! new leader should know at once.

use testudo_cluster::common_table::is_tunnel;
use testudo_cluster::plan::Load;
use testudo_datapath::{BucketLoad, Datapath, SharedTable};
use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::{Event, EventKind};

use super::{Engine, Parts};
use crate::node::clock;
use crate::node::coordination::{self, LOAD_PERIOD, Letter};

/// What was counted since the last report.
#[derive(Debug)]
pub struct LoadReport {
    before: Vec<BucketLoad>,
    now: Vec<BucketLoad>,
    new_flows: Vec<u64>,
    /// Tunnels that are there.
    tunnels: Vec<u64>,
    /// Those in the node table: in the last round over it, and in this one so far.
    seen: Vec<u64>,
    seen_so_far: Vec<u64>,
    reported: Option<Nanos>,
}

impl LoadReport {
    /// Counts from now on: what an earlier process has left has carried something already.
    pub fn new(buckets: u32, datapath: &dyn Datapath<Table = SharedTable>) -> Self {
        let mut before = vec![BucketLoad::default(); buckets as usize];
        datapath.loads(&mut before);
        Self::since(before)
    }

    fn since(before: Vec<BucketLoad>) -> Self {
        let buckets = before.len();
        Self {
            before,
            now: vec![BucketLoad::default(); buckets],
            new_flows: vec![0; buckets],
            tunnels: vec![0; buckets],
            seen: vec![0; buckets],
            seen_so_far: vec![0; buckets],
            reported: None,
        }
    }

    /// Something has happened to a flow.
    pub fn note(&mut self, event: &Event) {
        let new = self.new_flows.get_mut(usize::from(event.record.bucket.0));
        if let Some(new) = new.filter(|_| event.kind == EventKind::Created) {
            *new += 1;
        }
    }

    /// Some flows of the node table, as the round over it meets them, and whether it ends with them.
    pub fn look_at(&mut self, shown: &[FlowRecord], ends: bool) {
        for record in shown.iter().filter(|record| is_tunnel(record)) {
            if let Some(tunnels) = self.seen_so_far.get_mut(usize::from(record.bucket.0)) {
                *tunnels += 1;
            }
        }
        if ends {
            std::mem::swap(&mut self.seen, &mut self.seen_so_far);
            self.seen_so_far.fill(0);
        }
    }

    /// Counts the tunnels of each bucket: `told` says how many of an own bucket are in the common table.
    fn count_tunnels(&mut self, told: impl Fn(BucketId) -> Option<u64>) {
        let buckets = (0..=u16::MAX).map(BucketId);
        for (bucket, (tunnels, seen)) in buckets.zip(self.tunnels.iter_mut().zip(&self.seen)) {
            *tunnels = told(bucket).map_or(0, |told| told.max(*seen));
        }
    }

    /// What there is to say of each bucket since the last time.
    fn take(&mut self) -> Vec<(BucketId, Load)> {
        let mut loads = Vec::new();
        for (bucket, (now, before)) in self.now.iter().zip(&mut self.before).enumerate() {
            let new_flows = std::mem::take(&mut self.new_flows[bucket]);
            let load = Load {
                packets: now.packets.saturating_sub(before.packets),
                bytes: now.bytes.saturating_sub(before.bytes),
                new_flows,
                tunnels: self.tunnels[bucket],
            };
            *before = *now;
            if load != Load::default() {
                loads.push((BucketId(bucket as u16), load));
            }
        }
        loads
    }
}

impl Engine {
    pub(super) fn report_load(&mut self, now: Nanos) {
        let since = *self.load_report.reported.get_or_insert(now);
        let time = clock::between(since, now);
        if time < LOAD_PERIOD {
            return;
        }
        self.load_report.reported = Some(now);
        self.parts.datapath.loads(&mut self.load_report.now);
        self.count_tunnels();
        let loads = self.load_report.take();
        if loads.is_empty() {
            return;
        }
        let bytes = Letter::Loads { time, loads: loads.clone() }.encode();
        for peer in self.parts.cluster.peers() {
            self.parts.replica.send_letter(peer, &bytes);
        }
        // The next report says more of the same.
        let from = self.parts.cluster.node();
        let _ = self.parts.coordination.send(coordination::Input::Loads { from, time, loads });
    }

    fn count_tunnels(&mut self) {
        let Self { parts: Parts { replica, cluster, .. }, load_report, .. } = self;
        load_report.count_tunnels(|bucket| {
            let own = replica.slot(bucket).owner == cluster.node();
            own.then(|| replica.table().tunnels(bucket).into())
        });
    }
}

#[cfg(test)]
mod tests {
    use testudo_packet::bucket::Epoch;
    use testudo_packet::entry::FlowState;
    use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
    use testudo_packet::tracking::Phase;

    use super::*;

    /// A flow of a bucket.
    fn flow(bucket: u16, protocol: Protocol) -> FlowRecord {
        let end = |host, port| Endpoint { address: Address::v4(host), port };
        let key = FlowKey { initiator: end(1, 7), responder: end(2, 7), protocol };
        let state = FlowState { phase: Phase::Unreplied, confirmed: false, rule: 0, sequence: 1 };
        FlowRecord { translation: None, bucket: BucketId(bucket), epoch: Epoch(1), key, state }
    }

    #[test]
    fn tunnels_that_peers_are_not_told_of_count_once_a_round_has_met_them() {
        let mut report = LoadReport::since(vec![BucketLoad::default(); 3]);
        let tunnels = |report: &mut LoadReport| {
            report.count_tunnels(|bucket| [Some(1), None, Some(0)][usize::from(bucket.0)]);
            report.take().into_iter().map(|(bucket, load)| (bucket.0, load.tunnels)).collect()
        };
        let first: Vec<(u16, u64)> = tunnels(&mut report);
        assert_eq!(first, [(0, 1)]);
        // Two in the first bucket, one of them told of; one in another node's; one in the last, and a connection.
        report.look_at(&[flow(0, Protocol::ESP), flow(0, Protocol::AH)], false);
        assert_eq!(tunnels(&mut report), [(0, 1)], "the round is not over");
        let rest = [flow(1, Protocol::ESP), flow(2, Protocol::ESP), flow(2, Protocol::TCP)];
        report.look_at(&rest, true);
        assert_eq!(tunnels(&mut report), [(0, 2), (2, 1)]);
        report.look_at(&[], true);
        assert_eq!(tunnels(&mut report), [(0, 1)], "they have gone");
    }
}
