//! The part of `cargo xtask ci` that checks dependencies: licences, sources, banned crates.
//!
//! `deny.toml` says what is allowed. Advisories are left out: their database is a git repository
//! that machines which reach only a package registry can't fetch, and a check that passes or fails
//! by the network is none. Where the network allows, `cargo deny check advisories` works as it is.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::process;
use crate::tools::CARGO_DENY;

/// The manifests of which each has a dependency graph of its own.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "crates/xdp/Cargo.toml", "fuzz/Cargo.toml"];
const CHECKS: [&str; 3] = ["bans", "licenses", "sources"];

/// Checks every dependency graph of the checkout.
pub fn run(root: &Path) -> Result<()> {
    let program = CARGO_DENY.find_or_install(root)?;
    for manifest in MANIFESTS.iter().filter(|manifest| root.join(manifest).exists()) {
        let mut command = Command::new(&program);
        command.current_dir(root).args(["--manifest-path", manifest, "--config", "deny.toml"]);
        command.arg("check").args(CHECKS);
        process::run(&mut command)?;
    }
    Ok(())
}
