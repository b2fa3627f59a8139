//! What this node's buckets carry, reported to the planners of all nodes.
//!
//! Packets and bytes are counted by the datapath for each bucket, new flows by their events. Every node
//! reports to every other, because any of them may lead, and a new leader should know at once.

use testudo_cluster::plan::Load;
use testudo_datapath::{BucketLoad, Datapath, SharedTable};
use testudo_packet::bucket::{BucketId, Nanos};
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
    reported: Option<Nanos>,
}

impl LoadReport {
    /// Counts from now on: what an earlier process has left has carried something already.
    pub fn new(buckets: u32, datapath: &dyn Datapath<Table = SharedTable>) -> Self {
        let buckets = buckets as usize;
        let mut before = vec![BucketLoad::default(); buckets];
        datapath.loads(&mut before);
        Self {
            before,
            now: vec![BucketLoad::default(); buckets],
            new_flows: vec![0; buckets],
            tunnels: vec![0; buckets],
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
        for (bucket, tunnels) in (0..=u16::MAX).map(BucketId).zip(&mut load_report.tunnels) {
            let own = replica.slot(bucket).owner == cluster.node();
            *tunnels = if own { replica.table().tunnels(bucket).into() } else { 0 };
        }
    }
}
