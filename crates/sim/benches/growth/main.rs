//! What each node costs as a cluster grows: bytes on the sync network and processor time.
//!
//! ```text
//! cargo bench -p testudo-sim --bench growth               # measure and print
//! cargo bench -p testudo-sim --bench growth -- --write    # and renew docs/benchmarks.md and the picture
//! cargo bench -p testudo-sim --bench growth -- --quick    # little, to see that it works
//! ```
//!
//! Without cargo's `--bench` it is always quick.

#[path = "../../../datapath/benches/search/axis.rs"]
mod axis;
mod chart;
mod mesh;
mod page;
mod standing;

use std::time::Duration;

use mesh::{Cost, Mesh};
use standing::{Standing, standing};
use testudo_cluster::config::Replicas;

/// How many nodes a cluster has.
const SIZES: [u8; 5] = [2, 4, 8, 16, 32];

/// How a cluster is configured.
pub const PLANS: [(&str, Replicas); 2] =
    [("replicas = all", Replicas::All), ("replicas = 2", Replicas::Successors(2))];

/// What a cluster of one size costs.
#[derive(Debug)]
pub struct Sample {
    /// How many nodes.
    pub nodes: u8,
    /// Without connections.
    pub standing: Standing,
    /// By plan, the rounds.
    pub costs: Vec<Vec<Cost>>,
}

fn main() {
    let arguments: Vec<_> = std::env::args().collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let quick = has("--quick") || !has("--bench");
    let (rounds, turns, seconds) = if quick { (1, 20, 1) } else { (3, 300, 20) };
    let sizes = if quick { &SIZES[..3] } else { &SIZES[..] };
    let mut samples: Vec<_> = sizes
        .iter()
        .map(|&nodes| {
            let standing = standing(nodes, seconds);
            Sample { nodes, standing, costs: vec![Vec::new(); PLANS.len()] }
        })
        .collect();
    // Sizes take turns, so that what else the machine does falls on all of them.
    for _ in 0..rounds {
        for sample in &mut samples {
            for ((_, replicas), costs) in PLANS.iter().zip(&mut sample.costs) {
                costs.push(Mesh::new(sample.nodes, *replicas).measure(turns));
            }
        }
    }
    println!("{}", page::tables(&samples));
    if has("--write") {
        page::write(&samples).expect("docs/ can be written");
    }
}

/// Microseconds.
pub fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1000.0
}
