//! Who runs where: packets on one processor, daemons on the others.
//!
//! The generator and what its packets cause have the first processor to themselves, as a gateway's
//! packets have those that its interfaces interrupt. A daemon that shared it would be woken for each
//! single event, in the middle of the batch, and every event would pay for the change.

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// For the generator, and the packets.
pub const PACKETS: std::ops::Range<usize> = 0..1;

/// From now on the calling thread, and what it starts, runs on these processors only.
pub fn keep_to(processors: std::ops::Range<usize>) -> Result<()> {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(processor).context("name a processor")?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("keep to some processors")
}

/// For the daemons: the rest, if there is one.
pub fn daemons() -> std::ops::Range<usize> {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if all > PACKETS.end { PACKETS.end..all } else { 0..all }
}
