//! `cargo xtask`: the one entry point for the project's chores, one verb a module.
//!
//! CI calls these verbs and nothing else, so what passes here passes there. The verbs are Rust and
//! not shell because they parse Rust and TOML, and because their own checks have tests.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod bpf;
mod ci;
mod deny;
mod examples;
mod fuzz;
mod process;
mod root;
#[cfg(test)]
mod scratch;
mod sim;
mod tidy;
mod tools;

/// The project's chores.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Check the rules of style and layout that no compiler checks.
    Tidy,
    /// Build the eBPF objects that are committed under crates/xdp/objects.
    Bpf(bpf::Args),
    /// Run every check that a change has to pass; stop at the first that fails.
    Ci,
    /// Run each fuzz target for a while.
    Fuzz(fuzz::Args),
    /// Simulate whole clusters under seeded faults.
    Sim(sim::Args),
    /// Run the workspace's benchmarks.
    Bench,
    /// Install the tools that the other verbs need, in the versions that they need.
    Tools,
}

fn main() -> ExitCode {
    if let Some(status) = bpf::rustc_wrapper::run_if_asked() {
        return status;
    }
    match run(Cli::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<()> {
    let root = root::workspace_root();
    match verb {
        Verb::Tidy => tidy::run(&root),
        Verb::Bpf(args) => bpf::run(&root, args),
        Verb::Ci => ci::run(&root),
        Verb::Fuzz(args) => fuzz::run(&root, &args),
        Verb::Sim(args) => sim::run(&root, &args),
        Verb::Bench => process::run(process::cargo(&root).args(["bench", "--workspace"])),
        Verb::Tools => tools::install_all(&root),
    }
}
