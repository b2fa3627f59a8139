//! Searches by a program of user space, over the same memory as the kernel's.
//!
//! Timed as the kernel's are: a loop over keys, less the same loop without searches, and each search
//! waits for the one before, by a fence and by words that its place hangs on.

use std::hint::black_box;
use std::sync::atomic::{Ordering, fence};
use std::time::Instant;

use testudo_datapath::{NodeTable, SharedTable, Words};
use testudo_packet::table::{self, SLOT_WORDS, Slot, Slots, word};

use crate::chains::Chains;
use crate::population::Probe;

/// What a loop of searches gave.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// How many found something.
    pub found: usize,
    /// Nanoseconds each.
    pub nanos: f64,
}

/// Does `search` for each of the keys; it says whether it found the key, and what it read.
fn each(probes: &[Probe], mut search: impl FnMut(&Probe) -> (bool, u64)) -> Run {
    let zero = black_box(0u64);
    let (mut carry, mut found) = (0, 0);
    let start = Instant::now();
    for probe in probes {
        fence(Ordering::SeqCst);
        let mix = carry & zero;
        let mut probe = *probe;
        probe.key.initiator.address.low ^= mix;
        probe.hash ^= mix as u32;
        let (hit, read) = search(&probe);
        carry = read;
        found += usize::from(hit);
    }
    black_box(carry);
    Run { found, nanos: start.elapsed().as_nanos() as f64 / probes.len() as f64 }
}

/// No search: the cost of the loop.
pub fn empty(probes: &[Probe]) -> Run {
    each(probes, |probe| {
        let [a, b, c, d, e] = probe.key.to_words();
        (false, a ^ b ^ c ^ d ^ e ^ u64::from(probe.hash))
    })
}

/// The node table, by a hash that is given.
pub fn lookup(table: &SharedTable, probes: &[Probe]) -> Run {
    each(probes, |probe| {
        let found = table::lookup(&table, probe.hash, &probe.key);
        let home = table.slot(table::home_of(&table, probe.hash));
        let home = home.map_or(0, |slot| slot.load::<{ word::HOME }>());
        found.map_or((false, home), |found| (true, found.control ^ home))
    })
}

/// The node table as the daemon asks it: the keyed hash, the search and a copy of the whole entry.
pub fn get(table: &SharedTable, probes: &[Probe]) -> Run {
    each(probes, |probe| {
        let found = table.get(&probe.key);
        found.map_or((false, 0), |view| (true, view.last_seen.0 ^ view.reply_bytes))
    })
}

/// The reference's kind of table.
pub fn chains(chains: &Chains, probes: &[Probe]) -> Run {
    each(probes, |probe| (chains.contains(probe), 0))
}

/// The yardstick: follows pointers through the array.
pub fn chase(array: &Words, start: u64, steps: usize) -> Run {
    let words = array.as_slice();
    let mask = words.len() / SLOT_WORDS - 1;
    let mut place = start as usize & mask;
    let begin = Instant::now();
    for _ in 0..steps {
        place = words[place * SLOT_WORDS].load(Ordering::Relaxed) as usize & mask;
    }
    black_box(place);
    Run { found: steps, nanos: begin.elapsed().as_nanos() as f64 / steps as f64 }
}
