//! What a run is made of.

use std::sync::Arc;
use std::time::Duration;

use testudo_cluster::config::{Cluster, Settings, Timing};
use testudo_packet::bucket::NodeId;

pub const MS: u64 = 1_000_000;

/// The secret of the cluster under test.
pub const SECRET: [u8; 16] = [7; 16];

/// What a run is made of.
#[derive(Clone)]
pub struct Options {
    pub nodes: usize,
    pub buckets: u32,
    pub timing: Timing,
    /// The longest way of a datagram or a piece of a stream, in nanoseconds.
    pub delay: u64,
    /// How many of a thousand datagrams get lost, and how many come twice.
    pub loss: u64,
    pub doubled: u64,
    /// How many of a thousand events of the datapath never reach the daemon.
    pub swallowed: u64,
}

impl Options {
    pub fn of(nodes: usize) -> Self {
        Self {
            nodes,
            buckets: 32,
            timing: Timing {
                heartbeat: Duration::from_millis(30),
                lease: Duration::from_millis(100),
                takeover: Duration::from_millis(120),
                formation: Duration::from_millis(400),
            },
            delay: 2 * MS,
            loss: 0,
            doubled: 0,
            swallowed: 0,
        }
    }

    /// The cluster as node `node` knows it, if everyone knows `secret`.
    pub fn cluster(&self, node: usize, secret: [u8; 16]) -> Arc<Cluster> {
        let settings = Settings {
            name: "lab".into(),
            secret,
            members: (1..=self.nodes).map(|number| format!("n{number}")).collect(),
            node: NodeId(node as u8),
            buckets: self.buckets,
            timing: self.timing,
            max_flows: 1000,
        };
        // Not `new`: a planted bug is a timing that `new` refuses.
        Arc::new(Cluster::with_any_timing(settings).expect("settings that work"))
    }
}

/// A span in the world's nanoseconds.
pub fn nanos(span: Duration) -> u64 {
    span.as_nanos() as u64
}
