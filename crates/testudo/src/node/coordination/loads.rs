//! What all nodes have reported of their buckets' loads.
//!
//! Invariant: a bucket counts with what was reported last, by whoever did; a node that reports nothing
//! for a while has nothing to say about its buckets any more. Reports are gathered for a period, so that
//! all nodes' are in the same one.

use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_cluster::plan::{Load, Rates};
use testudo_packet::bucket::{BucketId, Nanos};

use super::clock;

/// How often nodes report, and costs are reckoned anew.
pub const PERIOD: Duration = Duration::from_secs(1);

/// In which time a measurement loses half of its weight.
const HALF_LIFE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Loads {
    rates: Rates,
    /// What was reported in this period, as if each had been over the whole of it.
    gathered: Vec<Load>,
    since: Option<Nanos>,
}

impl Loads {
    pub fn new(cluster: &Cluster) -> Self {
        let buckets = cluster.buckets();
        Self {
            rates: Rates::new(buckets, HALF_LIFE),
            gathered: vec![Load::default(); buckets as usize],
            since: None,
        }
    }

    pub fn report(&mut self, now: Nanos, time: Duration, loads: Vec<(BucketId, Load)>) {
        self.since.get_or_insert(now);
        let scale = PERIOD.as_secs_f64() / time.as_secs_f64().max(0.001);
        let scaled = |number: u64| (number as f64 * scale) as u64;
        for (bucket, load) in loads {
            if let Some(own) = self.gathered.get_mut(usize::from(bucket.0)) {
                own.packets = own.packets.saturating_add(scaled(load.packets));
                own.bytes = own.bytes.saturating_add(scaled(load.bytes));
                own.new_flows = own.new_flows.saturating_add(scaled(load.new_flows));
                own.tunnels = own.tunnels.saturating_add(load.tunnels);
            }
        }
    }

    /// The cost of each bucket, once in a period.
    pub fn take_costs(&mut self, now: Nanos) -> Option<Vec<f64>> {
        self.since.filter(|&since| clock::between(since, now) >= PERIOD)?;
        self.since = Some(now);
        self.rates.observe(&self.gathered, PERIOD);
        self.gathered.fill(Load::default());
        Some(self.rates.costs().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_cluster::config::{Settings, Timing};
    use testudo_packet::bucket::NodeId;

    fn cluster() -> Cluster {
        let settings = Settings {
            name: "lab".into(),
            secret: [1; 16],
            members: vec!["n1".into()],
            weights: vec![100],
            witnesses: [].into_iter().collect(),
            min_voters: 1,
            node: NodeId(0),
            buckets: 4,
            timing: Timing::default(),
            max_flows: 10,
            label: String::new(),
        };
        Cluster::new(settings).unwrap()
    }

    #[test]
    fn costs_come_once_a_period_and_from_all_nodes() {
        let mut loads = Loads::new(&cluster());
        let load = Load { packets: 1000, ..Load::default() };
        let second = 1_000_000_000;
        assert_eq!(loads.take_costs(Nanos(0)), None, "nothing was reported");
        loads.report(Nanos(1), PERIOD, vec![(BucketId(1), load)]);
        loads.report(Nanos(1), PERIOD / 2, vec![(BucketId(2), load)]);
        loads.report(Nanos(1), PERIOD, vec![(BucketId(9), load)]);
        assert_eq!(loads.take_costs(Nanos(second / 2)), None);
        let costs = loads.take_costs(Nanos(second + 1)).unwrap();
        assert_eq!(costs[0], 0.0);
        assert!(costs[1] > 0.0 && costs[2] == 2.0 * costs[1], "{costs:?}");
        let later = loads.take_costs(Nanos(2 * second + 1)).unwrap();
        assert!(later[1] < costs[1], "silence makes it cheaper");
    }
}
