//! What the kernel says of the machine's load: the parts of `/proc` that are read.
//!
//! Limit: both files are the whole machine's. On one that does other work too, drops may be that
//! work's; they delay a gateway's packets all the same.

use std::fs;

/// Packets that found no room in a CPU's backlog, since boot; 0 if that can't be read.
pub fn softnet_drops() -> u64 {
    fs::read_to_string("/proc/net/softnet_stat").map_or(0, |text| parse_softnet(&text))
}

/// CPU time that a hypervisor gave to others and all CPU time, in ticks since boot.
pub fn cpu_ticks() -> Option<(u64, u64)> {
    parse_stat(&fs::read_to_string("/proc/stat").ok()?)
}

/// One line a CPU, columns in hexadecimal; the second counts drops.
fn parse_softnet(text: &str) -> u64 {
    let drops = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(drops).sum()
}

/// The first line: user, nice, system, idle, iowait, irq, softirq, steal; guests are within user
/// (proc(5)).
fn parse_stat(text: &str) -> Option<(u64, u64)> {
    let line = text.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Option<Vec<u64>> =
        line.split_whitespace().take(8).map(|word| word.parse().ok()).collect();
    let ticks = ticks.filter(|ticks| ticks.len() == 8)?;
    Some((ticks[7], ticks.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_of_all_cpus_are_added() {
        let text = "00000010 0000000a 00000000\n00000020 00000001 00000000\n\nnonsense\n";
        assert_eq!(parse_softnet(text), 11);
        assert_eq!(parse_softnet(""), 0);
    }

    #[test]
    fn stolen_time_is_the_eighth() {
        let text = "cpu  1 2 3 4 5 6 7 8 100 100\ncpu0 1 2 3 4 5 6 7 8 100 100\n";
        assert_eq!(parse_stat(text), Some((8, 36)));
        for text in ["", "cpu 1 2 3", "intr 5", "cpu  1 2 3 4 5 6 7 x"] {
            assert_eq!(parse_stat(text), None, "{text:?}");
        }
        assert!(cpu_ticks().is_some_and(|(stolen, all)| all > stolen));
    }
}
