//! `cargo xtask sim`: whole clusters under seeded faults, in virtual time.
//!
//! The simulator is a program of its own, built for speed; this verb builds it, passes its arguments on
//! and waits. A failure prints the command that replays it.

use std::path::Path;

use anyhow::Result;
use clap::Args as Arguments;

use crate::process;

/// The seeds that every change has to pass: about two minutes on two cores.
const CHANGE_SEEDS: u64 = 4000;
/// The same, with translated flows.
const TRANSLATED_SEEDS: u64 = 4000;

/// What to simulate.
#[derive(Debug, Arguments)]
pub struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run for this many hours instead.
    #[arg(long, conflicts_with = "seeds")]
    hours: Option<f64>,
    /// Run this seed alone, and say what happens.
    #[arg(long, conflicts_with_all = ["seeds", "from", "hours"])]
    replay: Option<u64>,
    /// Has some flows translated, in three of five clusters.
    #[arg(long)]
    translate: bool,
    /// How many failures to look for before giving up.
    #[arg(long, default_value_t = 1)]
    failures: u64,
}

impl Args {
    /// What every change has to pass.
    pub fn for_a_change() -> [Self; 2] {
        let seeds = |seeds, translate| Self {
            seeds,
            from: 1,
            hours: None,
            replay: None,
            translate,
            failures: 1,
        };
        [seeds(CHANGE_SEEDS, false), seeds(TRANSLATED_SEEDS, true)]
    }
}

/// Builds the simulator and runs it.
pub fn run(root: &Path, args: &Args) -> Result<()> {
    let mut cargo = process::cargo(root);
    cargo.args(["run", "--quiet", "--release", "--package", "testudo-sim", "--"]);
    match (args.replay, args.hours) {
        (Some(seed), _) => cargo.arg("--replay").arg(seed.to_string()),
        (None, Some(hours)) => cargo.arg("--hours").arg(hours.to_string()),
        (None, None) => cargo.arg("--seeds").arg(args.seeds.to_string()),
    };
    cargo.args(args.translate.then_some("--translate"));
    if args.replay.is_none() {
        cargo.arg("--from").arg(args.from.to_string());
        cargo.arg("--failures").arg(args.failures.to_string());
    }
    process::run(&mut cargo)
}
