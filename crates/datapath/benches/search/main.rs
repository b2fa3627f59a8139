//! The reference's figure 3 again: the time of one search against the number of entries.
//!
//! `cargo bench -p testudo-datapath --bench search` measures and prints; after `--`, `--write` puts the
//! result into `docs/` and `--quick` measures little. Without cargo's `--bench`, as under
//! `cargo test --benches`, it is always quick. Without root only user space is measured.
//!
//! Invariant: what is compared is measured in one run, round by round, and each search is checked to
//! have found what it should.

mod axis;
mod bpf_call;
mod bulk;
mod chains;
mod chart;
mod kernel;
mod population;
mod report;
mod search_time;
mod statistics;
mod user_space;

use anyhow::Result;

use bulk::Rates;
use search_time::{Effort, Tables, Times};

/// The numbers of entries that a node has of its own.
const OWN_ENTRIES: [u32; 6] = [10_000, 30_000, 90_000, 300_000, 1_000_000, 4_000_000];
const QUICK_OWN_ENTRIES: [u32; 2] = [1_000, 3_000];
/// The nodes of a cluster in which each has the entries of all.
const NODES: u32 = 3;
/// Beyond this the hash map is left out: it, the node table and the yardstick would fill the memory.
const MAP_LIMIT: u32 = 4_000_000;
const BULK_ENTRIES: u32 = 1_000_000;
const SEED: u64 = 3;

fn main() -> Result<()> {
    let has = |flag: &str| std::env::args().any(|argument| argument == flag);
    let quick = has("--quick") || !has("--bench");
    let in_kernel = nix::unistd::geteuid().is_root();
    if !in_kernel {
        println!("skipped: the kernel's half, which needs root to load BPF programs");
    }
    let (times, rates) = measure(quick, in_kernel)?;
    print!("{}", report::tables(&times, &rates));
    if has("--write") {
        report::write(&times, &rates)?;
    }
    Ok(())
}

/// Every number of entries, own and of all nodes, in rising order.
fn measure(quick: bool, in_kernel: bool) -> Result<(Vec<Times>, Rates)> {
    let own: &[u32] = if quick { &QUICK_OWN_ENTRIES } else { &OWN_ENTRIES };
    let effort = if quick {
        Effort { rounds: 2, searches: 512 }
    } else {
        Effort { rounds: 9, searches: kernel::MAX_SEARCHES }
    };
    let bulk_entries = if quick { QUICK_OWN_ENTRIES[1] } else { BULK_ENTRIES };
    let mut sizes: Vec<u32> = own.iter().flat_map(|&own| [own, own * NODES]).collect();
    sizes.sort_unstable();
    sizes.dedup();
    let (mut times, mut rates) = (Vec::new(), Rates::default());
    for entries in sizes {
        eprintln!("{entries} entries");
        let mut tables = Tables::filled(entries, in_kernel, entries <= MAP_LIMIT, SEED)?;
        times.push(tables.measure(effort)?);
        if entries == bulk_entries {
            rates = bulk::measure(&tables.table, tables.kernel.as_ref(), entries, effort.rounds)?;
        }
    }
    Ok((times, rates))
}
