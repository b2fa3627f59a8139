//! The time of a takeover against the number of entries.
//!
//! `cargo bench -p testudo --bench takeover` builds a lab of three nodes again and again, fills the
//! cluster's tables with flows that the datapath itself has made, kills a node, and reads from the
//! survivors how long they took from their decision. After `--`, `--write` puts the result into
//! `docs/` and `--quick` measures little. Without cargo's `--bench`, as under `cargo test --benches`,
//! it is always quick. Needs root, and says so without it.
//!
//! Invariant: a run that was not judged good by the lab gives no sample, and ends the benchmark.

#[path = "../../../datapath/benches/search/axis.rs"]
mod axis;
mod chart;
mod regression;
mod report;

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// The numbers of entries in every common table; a survivor gets half of the dead node's third.
const ENTRIES: [u32; 6] = [10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000];
const QUICK_ENTRIES: [u32; 2] = [1_000, 4_000];
const KILLS: u32 = 5;

/// What is measured: its name in the lab's report, and for people.
pub const MEASURES: [(&str, &str); 3] = [
    ("first_packet_micros", "first packet forwarded"),
    ("flipped_micros", "all slots flipped"),
    ("loaded_micros", "all entries installed"),
];

/// One takeover.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Entries in every common table.
    pub entries: u32,
    /// Microseconds from the decision, in the order of [`MEASURES`]; nothing where no node said it.
    pub micros: [Option<f64>; 3],
    /// The longest silence of a flow, detection included, in milliseconds.
    pub blackout_ms: f64,
}

fn main() -> Result<()> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let quick = has("--quick") || !has("--bench");
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: a lab needs root");
        return Ok(());
    }
    let (sizes, kills): (&[u32], u32) = if quick { (&QUICK_ENTRIES, 1) } else { (&ENTRIES, KILLS) };
    let mut samples = Vec::new();
    for &entries in sizes {
        for seed in 1..=kills {
            let sample = takeover(entries, seed)?;
            eprintln!("{entries} entries, seed {seed}: {:?}", sample.micros);
            samples.push(sample);
        }
    }
    print!("{}", report::tables(&samples));
    if has("--write") {
        report::write(&samples)?;
    }
    Ok(())
}

/// One kill in a lab of its own.
fn takeover(entries: u32, seed: u32) -> Result<Sample> {
    let output = Command::new(env!("CARGO_BIN_EXE_testudo"))
        .args(["lab", "--json", "--scenario", "kill", "--connections", "100", "--hold", "1"])
        .args(["--prefill", &entries.to_string(), "--seed", &seed.to_string()])
        .output()
        .context("start the lab")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("the lab with {entries} entries ended with {}: {said}", output.status);
    }
    let report: Value = serde_json::from_slice(&output.stdout).context("the lab's report")?;
    let event = report.pointer("/events/0").context("the report has no event")?;
    Ok(Sample {
        entries,
        micros: MEASURES.map(|(key, _)| event[key].as_f64()),
        blackout_ms: event["blackout_ms"].as_f64().context("the event has no blackout")?,
    })
}
