//! Processes that may outlive whoever started them.
//!
//! Invariant: a signal goes only to a process whose start time is the recorded one, so a process id
//! that the kernel has given to someone else since is left alone.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process, told from all others that had or will have its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its process id.
    pub pid: i32,
    /// When it was started, in clock ticks since boot (proc_pid_stat(5), field 22).
    pub started: u64,
}

impl Process {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Result<Process> {
        let (_, started) = stat(pid).with_context(|| format!("no process has the id {pid}"))?;
        Ok(Process { pid, started })
    }

    /// This process.
    pub fn own() -> Result<Process> {
        Process::of(nix::unistd::getpid().as_raw())
    }

    /// Whether it still runs (a stopped one does, one that only waits to be reaped does not).
    pub fn alive(&self) -> bool {
        stat(self.pid)
            .is_some_and(|(state, started)| started == self.started && !"ZX".contains(state))
    }

    /// Whether it is stopped by a signal.
    pub fn stopped(&self) -> bool {
        stat(self.pid).is_some_and(|(state, started)| started == self.started && state == 'T')
    }

    /// Send it a signal. Says whether it was there to get one.
    pub fn signal(&self, signal: Signal) -> Result<bool> {
        if !self.alive() {
            return Ok(false);
        }
        match kill(Pid::from_raw(self.pid), signal) {
            Ok(()) => Ok(true),
            Err(Errno::ESRCH) => Ok(false),
            Err(errno) => Err(errno).with_context(|| format!("send {signal} to {}", self.pid)),
        }
    }

    /// Ask all to end, and end those that have not done so in time `grace`.
    pub fn end(processes: &[Process], grace: Duration) -> Result<()> {
        for process in processes.iter().filter(|process| !process.stopped()) {
            process.signal(Signal::SIGTERM)?;
        }
        wait_for(processes.iter().filter(|process| !process.stopped()), grace);
        for process in processes {
            process.signal(Signal::SIGKILL)?;
        }
        wait_for(processes.iter(), Duration::from_secs(5));
        match processes.iter().find(|process| process.alive()) {
            Some(process) => anyhow::bail!("process {} outlived SIGKILL by 5 s", process.pid),
            None => Ok(()),
        }
    }

    /// The nodes and etcds that were started with `argument` among their arguments.
    pub fn with_argument(argument: &Path) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        entries
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid: &i32| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                let mut arguments = line.split(|byte| *byte == 0);
                matches!(arguments.nth(1), Some(b"node" | b"--data-dir"))
                    && arguments.any(|a| a == argument.as_os_str().as_encoded_bytes())
            })
            .filter_map(|pid| Process::of(pid).ok())
            .collect()
    }
}

fn wait_for<'a>(processes: impl Iterator<Item = &'a Process>, limit: Duration) {
    let deadline = Instant::now() + limit;
    for process in processes {
        while process.alive() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// State letter and start time; the command's name before them may hold spaces and parentheses.
fn stat(pid: i32) -> Option<(char, u64)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse(&line)
}

fn parse(line: &str) -> Option<(char, u64)> {
    let mut fields = line.get(line.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) (b c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(parse(line), Some(('S', 4711)));
        assert_eq!(parse("7 (a) S 1"), None);
    }

    #[test]
    fn a_recycled_id_gets_no_signal() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of(child.id() as i32).unwrap();
        let other = Process { started: process.started + 1, ..process };
        assert!(!other.alive());
        assert!(!other.signal(Signal::SIGKILL).unwrap());
        assert!(process.alive());
        Process::end(&[process], Duration::from_secs(5)).unwrap();
        assert!(!process.alive());
        child.wait().unwrap();
    }
}
