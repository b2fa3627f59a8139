//! The cluster that tests, benchmarks and fuzz targets of streams have in common: two nodes and nothing
//! special. What one of them needs otherwise, it says itself. Nothing waits for an overlap: their clocks
//! stand still, and a planned move would never come to its end.

use std::sync::Arc;
use std::time::Duration;

use testudo_cluster::config::{Cluster, Replicas, Settings, Timing};
use testudo_cluster::node_set::NodeSet;
use testudo_packet::bucket::NodeId;

/// The settings of node 0 or 1.
pub fn settings(node: u8) -> Settings {
    Settings {
        name: "stories".into(),
        label: String::new(),
        secret: *b"a cluster secret",
        members: vec!["n0".into(), "n1".into()],
        weights: vec![100; 2],
        witnesses: NodeSet::default(),
        min_voters: 2,
        node: NodeId(node),
        buckets: 8,
        replicas: Replicas::All,
        timing: Timing { overlap: Duration::ZERO, ..Timing::default() },
        max_flows: 1000,
    }
}

/// The cluster of these settings.
pub fn cluster(settings: Settings) -> Arc<Cluster> {
    Arc::new(Cluster::new(settings).expect("settings that work"))
}
