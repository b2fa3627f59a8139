//! Running other programs, so that a failure names the whole command and what became of it.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a bounded wait looks whether the program has ended.
const POLL: Duration = Duration::from_millis(50);

/// Cargo of the toolchain that runs this program, started in `dir`.
///
/// `cargo run` describes the running package in the environment. A nested cargo must not see that:
/// build scripts that watch those variables would run again each time the verb and a plain cargo
/// command take turns.
pub fn cargo(dir: &Path) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(dir);
    remove_variables(&mut command, |name| {
        name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || matches!(name, "CARGO_BIN_NAME" | "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE")
    });
    command
}

/// Hides from `command` every variable of our environment whose name `unwanted` accepts.
pub fn remove_variables(command: &mut Command, unwanted: impl Fn(&str) -> bool) {
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(&unwanted) {
            command.env_remove(&name);
        }
    }
}

/// Runs `command` with our own standard streams; anything but success is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {}", line(command)))?;
    expect_success(command, status)
}

/// Runs `command` and returns what it wrote to standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}, expected success:\n{stderr}", line(command), output.status);
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("{} wrote something that is not UTF-8", line(command)))
}

/// Like [`run`], but a program that is not done at the `limit` is killed, which is an error too.
pub fn run_within(command: &mut Command, limit: Duration) -> Result<()> {
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start {}", line(command)))?;
    loop {
        if let Some(status) = child.try_wait()? {
            return expect_success(command, status);
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            bail!("{} still ran after {limit:?}, expected it to end by itself", line(command));
        }
        thread::sleep(POLL);
    }
}

fn expect_success(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("{} ended with {status}, expected success", line(command))
}

/// The command as a reader would type it.
fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect();
    format!("`{}`", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_status() {
        let error = run(Command::new("false").arg("--really")).unwrap_err().to_string();
        assert_eq!(error, "`false --really` ended with exit status: 1, expected success");
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        let started = Instant::now();
        let error = run_within(Command::new("sleep").arg("60"), POLL).unwrap_err().to_string();
        assert!(error.contains("still ran"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(30));
    }
}
