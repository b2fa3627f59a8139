//! What all nodes have reported of their buckets' loads.
//!
//! Invariant: a bucket counts with what was reported last, by whoever did; a node that reports nothing
//! for a while has nothing to say about its buckets any more. Reports are gathered for a period, so that
//! all nodes' are in the same one.

use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_cluster::plan::{Load, Rates};
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::clock;

/// How often nodes report, and costs are reckoned anew.
pub const PERIOD: Duration = Duration::from_secs(1);

/// In which time a measurement loses half of its weight.
const HALF_LIFE: Duration = Duration::from_secs(5);

/// How many periods a node that is silent counts with what it has said last: it may be restarting.
const SILENCE: u32 = 5;

/// How many periods go into the first costs: single ones have two reports of some nodes and none of
/// others.
const FIRST: u32 = 5;

#[derive(Debug)]
pub struct Loads {
    rates: Rates,
    /// What was reported in this period, as if each had been over the whole of it.
    gathered: Vec<Load>,
    /// What was gathered in the period before, and who reported it last.
    before: Vec<(Load, NodeId)>,
    /// For how many periods each node has reported nothing.
    silent: Vec<u32>,
    observed: u32,
    since: Option<Nanos>,
}

impl Loads {
    pub fn new(cluster: &Cluster) -> Self {
        let buckets = cluster.buckets();
        Self {
            rates: Rates::new(buckets, HALF_LIFE),
            gathered: vec![Load::default(); buckets as usize],
            before: vec![(Load::default(), NodeId::NONE); buckets as usize],
            silent: vec![0; cluster.members().len()],
            observed: 0,
            since: None,
        }
    }

    pub fn report(
        &mut self,
        now: Nanos,
        from: NodeId,
        time: Duration,
        loads: Vec<(BucketId, Load)>,
    ) {
        self.since.get_or_insert(now);
        if let Some(silent) = self.silent.get_mut(usize::from(from.0)) {
            *silent = 0;
        }
        let scale = PERIOD.as_secs_f64() / time.as_secs_f64().max(0.001);
        let scaled = |number: u64| (number as f64 * scale) as u64;
        for (bucket, load) in loads {
            if let Some(own) = self.gathered.get_mut(usize::from(bucket.0)) {
                own.packets = own.packets.saturating_add(scaled(load.packets));
                own.bytes = own.bytes.saturating_add(scaled(load.bytes));
                own.new_flows = own.new_flows.saturating_add(scaled(load.new_flows));
                own.tunnels = own.tunnels.saturating_add(load.tunnels);
                self.before[usize::from(bucket.0)].1 = from;
            }
        }
    }

    /// Buckets of nodes that have said nothing in this period count as in the one before.
    fn fill_in(&mut self) {
        for (gathered, (before, from)) in self.gathered.iter_mut().zip(&mut self.before) {
            let silent = self.silent.get(usize::from(from.0)).copied().unwrap_or(0);
            if *gathered == Load::default() && (1..=SILENCE).contains(&silent) {
                *gathered = *before;
            }
            *before = *gathered;
        }
        self.silent.iter_mut().for_each(|silent| *silent = silent.saturating_add(1));
    }

    /// The cost of each bucket, once in a period.
    pub fn take_costs(&mut self, now: Nanos) -> Option<Vec<f64>> {
        self.since.filter(|&since| clock::between(since, now) >= PERIOD)?;
        self.since = Some(now);
        self.fill_in();
        self.observed = self.observed.saturating_add(1);
        self.rates.observe(&self.gathered, PERIOD);
        self.gathered.fill(Load::default());
        (self.observed >= FIRST).then(|| self.rates.costs().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_cluster::config::{Replicas, Settings, Timing};

    fn cluster() -> Cluster {
        let settings = Settings {
            name: "lab".into(),
            label: String::new(),
            secret: [1; 16],
            members: vec!["n1".into(), "n2".into()],
            weights: vec![100, 100],
            witnesses: [].into_iter().collect(),
            min_voters: 1,
            node: NodeId(0),
            buckets: 4,
            replicas: Replicas::All,
            timing: Timing::default(),
            max_flows: 10,
        };
        Cluster::new(settings).unwrap()
    }

    #[test]
    fn costs_come_once_a_period_and_from_all_nodes() {
        let mut loads = Loads::new(&cluster());
        let load = Load { packets: 1000, ..Load::default() };
        let second = 1_000_000_000;
        assert_eq!(loads.take_costs(Nanos(0)), None, "nothing was reported");
        let mut costs = None;
        for period in 0..u64::from(FIRST) {
            assert_eq!(costs, None, "too early");
            let now = Nanos(period * second + 1);
            loads.report(now, NodeId(0), PERIOD, vec![(BucketId(1), load)]);
            loads.report(now, NodeId(1), PERIOD / 2, vec![(BucketId(2), load)]);
            loads.report(now, NodeId(1), PERIOD, vec![(BucketId(9), load)]);
            assert_eq!(loads.take_costs(Nanos(now.0 + second / 2)), None);
            costs = loads.take_costs(Nanos(now.0 + second));
        }
        let costs = costs.unwrap();
        assert_eq!(costs[0], 0.0);
        assert!(costs[1] > 0.0 && (costs[2] / costs[1] - 2.0).abs() < 0.01, "{costs:?}");
        // A node that restarts counts as before; one that stays silent does not.
        let mut later = Vec::new();
        for period in 1..=u64::from(SILENCE) + 8 {
            let now = Nanos((u64::from(FIRST) + period) * second + 1);
            loads.report(now, NodeId(1), PERIOD / 2, vec![(BucketId(2), load)]);
            later.push(loads.take_costs(now).unwrap());
        }
        assert!(later[SILENCE as usize - 1][1] >= costs[1] * 0.99, "{later:?}");
        assert!(later[SILENCE as usize + 7][1] < costs[1] * 0.6, "{later:?}");
    }
}
