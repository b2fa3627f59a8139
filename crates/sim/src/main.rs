//! Runs simulated clusters from the command line; `cargo xtask sim` calls it.
//!
//! Invariant: a failure ends with the one command that replays it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use testudo_sim::run::{Outcome, run};
use testudo_sim::tally::Tally;

/// Whole clusters under seeded faults.
#[derive(Debug, Parser)]
struct Args {
    /// How many seeds to run.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Run for this many hours instead of a number of seeds.
    #[arg(long)]
    hours: Option<f64>,
    /// Run this seed alone, and say what happens.
    #[arg(long)]
    replay: Option<u64>,
    /// Has some flows translated, in three of five clusters.
    #[arg(long)]
    translate: bool,
    /// On how many threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// How many failures to look for before giving up.
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if let Some(seed) = args.replay {
        let outcome = run(seed, args.translate, true);
        print!("{}", outcome.tally);
        return report(&[outcome], args.translate);
    }
    let began = Instant::now();
    let (tally, failures) = run_many(&args, began);
    print!("{tally}");
    println!("{:.1} s", began.elapsed().as_secs_f64());
    report(&failures, args.translate)
}

fn report(outcomes: &[Outcome], translate: bool) -> ExitCode {
    let translate = if translate { "--translate " } else { "" };
    let mut code = ExitCode::SUCCESS;
    for Outcome { seed, error, .. } in outcomes {
        if let Some(error) = error {
            println!("seed {seed}: {error}\nagain: cargo xtask sim {translate}--replay {seed}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

/// Runs seeds until there are no more, time is up, or enough have failed.
fn run_many(args: &Args, began: Instant) -> (Tally, Vec<Outcome>) {
    let limit = args.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
    let next = AtomicU64::new(args.from);
    let stop = AtomicBool::new(false);
    let found = Mutex::new((Tally::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..args.threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let over = match limit {
                        Some(limit) => began.elapsed() >= limit,
                        None => seed >= args.from + args.seeds,
                    };
                    if over {
                        return;
                    }
                    let outcome = run(seed, args.translate, false);
                    let mut found = found.lock().expect("no thread panics with it");
                    found.0.merge(&outcome.tally);
                    if outcome.error.is_some() {
                        found.1.push(outcome);
                        stop.store(found.1.len() >= args.failures, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    found.into_inner().expect("no thread panics with it")
}
