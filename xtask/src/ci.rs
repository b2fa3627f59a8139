//! `cargo xtask ci`: every check that a change has to pass, cheapest first, until one fails.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::{bpf, deny, examples, fuzz, process, sim, tidy};

/// How long each fuzz target runs.
const FUZZ_SECONDS: u64 = 60;
/// Packages outside the workspace, which cargo's own `--all` doesn't reach.
const OTHER_PACKAGES: [&str; 2] = ["crates/xdp", "fuzz"];

/// One check: its name, and what it does.
type Step = (&'static str, fn(&Path) -> Result<()>);

const STEPS: [Step; 9] = [
    ("format", format),
    ("clippy", clippy),
    ("tidy", tidy::run),
    ("bpf", |root| bpf::run(root, bpf::Args::checking())),
    ("doc", doc),
    ("deny", deny::run),
    ("examples", examples::run),
    ("sim", |root| sim::Args::for_a_change().iter().try_for_each(|args| sim::run(root, args))),
    ("fuzz", |root| fuzz::run(root, &fuzz::Args::all_for(FUZZ_SECONDS))),
];

/// Runs the checks in order.
pub fn run(root: &Path) -> Result<()> {
    let started = Instant::now();
    for (name, step) in STEPS {
        println!("=== {name}");
        let step_started = Instant::now();
        step(root).with_context(|| format!("the step {name} failed"))?;
        println!("=== {name}: passed in {:.1} s", step_started.elapsed().as_secs_f64());
    }
    println!("=== all {} steps passed in {:.1} s", STEPS.len(), started.elapsed().as_secs_f64());
    Ok(())
}

fn format(root: &Path) -> Result<()> {
    process::run(process::cargo(root).args(["fmt", "--all", "--check"]))?;
    for package in OTHER_PACKAGES {
        let directory = root.join(package);
        if directory.join("Cargo.toml").exists() {
            process::run(process::cargo(&directory).args(["fmt", "--check"]))?;
        }
    }
    Ok(())
}

fn clippy(root: &Path) -> Result<()> {
    let mut cargo = process::cargo(root);
    cargo.args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    process::run(&mut cargo)
}

fn doc(root: &Path) -> Result<()> {
    let mut cargo = process::cargo(root);
    cargo.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-Dwarnings");
    process::run(&mut cargo)
}
