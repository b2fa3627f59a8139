//! What things took: processor time, memory.
//!
//! Processor time is the scheduler's own count in nanoseconds, by thread. Work that the kernel does in
//! a softirq is counted to the thread that it interrupted or that caused it; what it leaves to its own
//! threads is counted there ([`softirq_threads`]). What all processors together did not spend idle is
//! [`machine`]: it has everything, and also whatever else runs on this machine.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Clock ticks of `/proc`, which are hundredths of a second on every Linux (proc(5), `USER_HZ`).
const TICKS: u64 = 100;

/// Processor time of a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Busy {
    /// All of it.
    pub total: Duration,
    /// How much of it in user space, as far as ticks of the clock can tell.
    pub user: Duration,
}

impl Busy {
    /// What was spent since an earlier look.
    pub fn since(self, earlier: Self) -> Self {
        let total = self.total.saturating_sub(earlier.total);
        Self { total, user: self.user.saturating_sub(earlier.user).min(total) }
    }
}

/// Of the calling thread.
pub fn thread() -> Result<Duration> {
    ran("/proc/thread-self/schedstat")
}

/// Of a process, all its threads that live.
pub fn process(pid: u32) -> Result<Busy> {
    let mut total = Duration::ZERO;
    for task in fs::read_dir(format!("/proc/{pid}/task")).context("the process has ended")? {
        total += ran(&format!("{}/schedstat", task?.path().display()))?;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may have anything in it; the 12th field from there is the user time.
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let ticks = |at: usize| behind.split_whitespace().nth(at).and_then(|word| word.parse().ok());
    let user: u64 = ticks(11).context("user time in /proc/PID/stat")?;
    let system: u64 = ticks(12).context("system time in /proc/PID/stat")?;
    let share = user as f64 / (user + system).max(1) as f64;
    Ok(Busy { total, user: total.mul_f64(share) })
}

/// Of the kernel's threads that handle packets when a softirq takes too long.
pub fn softirq_threads() -> Result<Duration> {
    let mut total = Duration::ZERO;
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("ksoftirqd/") {
            total += ran(&format!("{}/schedstat", path.display()))?;
        }
    }
    Ok(total)
}

/// Of all processors, whatever they did but wait.
pub fn machine() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|w| w.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq
    let busy: u64 = ticks.iter().take(7).sum::<u64>() - ticks.iter().skip(3).take(2).sum::<u64>();
    Ok(Duration::from_millis(busy * 1000 / TICKS))
}

/// Memory of a process that is its own, in bytes.
pub fn memory(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(1024 * kilobytes.context("RssAnon in /proc/PID/status")?)
}

fn ran(path: &str) -> Result<Duration> {
    let text = fs::read_to_string(path).with_context(|| format!("read {path}"))?;
    let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
    nanos.map(Duration::from_nanos).with_context(|| format!("{path} says {text:?}"))
}
