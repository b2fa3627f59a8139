//! Other programs that a benchmark runs.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What is missing to measure anything: root, or one of these programs, each with a flag by which it ends at once.
pub fn missing(programs: &[(&str, &str)]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("network namespaces and BPF need root".to_owned());
    }
    let starts = |(program, flag): &(&str, &str)| {
        let mut command = Command::new(program);
        command.arg(flag).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok()
    };
    let missing = programs.iter().find(|program| !starts(program))?;
    Some(format!("there is no {}; it comes with a package", missing.0))
}

/// Runs a program to its end; gives what it printed.
pub fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("run {program}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {} ended with {}: {}", arguments.join(" "), output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
