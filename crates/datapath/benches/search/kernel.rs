//! The kernel's half as user space drives it: maps, programs, keys.
//!
//! `crates/xdp/src/bench.rs` has the programs and says how a search is timed.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, anyhow};
use aya::maps::{Map, MapData};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use testudo_datapath::Words;
use testudo_packet::flow::KEY_WORDS;
use testudo_packet::table::SLOT_WORDS;

use crate::bpf_call::{self, Run};
use crate::population::Probe;

static OBJECT: &[u8] = include_bytes_aligned!("../../../xdp/objects/bench.bpf.o");

/// The most searches of one run.
pub const MAX_SEARCHES: usize = 16_384;
/// The words of a value of the hash map: with the key, what a slot of the node table holds.
pub const VALUE_WORDS: usize = SLOT_WORDS - KEY_WORDS;

const KEY_STRIDE: usize = 8;
const CONTROL_SEARCHES: usize = 0;
const CONTROL_POSITION: usize = 1;

/// A program of the kernel's half.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// Reads the keys and searches nothing.
    Empty,
    /// Follows pointers: one cache miss each, one after the other.
    Chase,
    /// Searches the node table; each search waits for the one before.
    TableChained,
    /// The same, several searches at once as the CPU likes.
    TableFree,
    /// As `TableChained`, with the keyed hash computed in the program.
    TableHashed,
    /// Searches the kernel's hash map; each search that hits holds up the next.
    MapChained,
    /// The same, several searches at once.
    MapFree,
}

impl Program {
    const ALL: [Self; 7] = [
        Self::Empty,
        Self::Chase,
        Self::TableChained,
        Self::TableFree,
        Self::TableHashed,
        Self::MapChained,
        Self::MapFree,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Chase => "chase",
            Self::TableChained => "table_chained",
            Self::TableFree => "table_free",
            Self::TableHashed => "table_hashed",
            Self::MapChained => "map_chained",
            Self::MapFree => "map_free",
        }
    }
}

/// The loaded programs with maps of one size.
pub struct Kernel {
    programs: Ebpf,
    /// The node table's words.
    pub slots: Arc<Words>,
    /// The words of the array to follow pointers through.
    pub chase: Words,
    map: MapData,
    keys: Words,
    control: Words,
}

impl Kernel {
    /// Loads the programs with a node table of `slots` slots and a hash map for `map_entries`.
    pub fn load(slots: u32, map_entries: u32) -> Result<Self> {
        let mask = u64::from(slots - 1);
        let mut loader = EbpfLoader::new();
        loader.override_global("SLOT_MASK", &mask, true);
        for array in ["NODE_TABLE", "CHASE"] {
            loader.map_max_entries(array, slots);
        }
        loader.map_max_entries("FLOW_MAP", map_entries);
        let mut programs = loader.load(OBJECT).context("the benchmark's maps")?;
        for program in Program::ALL {
            let name = program.name();
            let found = programs.program_mut(name).with_context(|| format!("no program {name}"))?;
            let xdp: &mut Xdp = found.try_into()?;
            xdp.load().with_context(|| format!("program {name}"))?;
        }
        let table_words = slots as usize * SLOT_WORDS;
        Ok(Self {
            slots: Arc::new(words(&mut programs, "NODE_TABLE", table_words)?),
            chase: words(&mut programs, "CHASE", table_words)?,
            keys: words(&mut programs, "KEYS", MAX_SEARCHES * KEY_STRIDE)?,
            control: words(&mut programs, "CONTROL", 2)?,
            map: match programs.take_map("FLOW_MAP") {
                Some(Map::HashMap(map)) => map,
                _ => return Err(anyhow!("the object has no hash map")),
            },
            programs,
        })
    }

    /// The hash map.
    pub fn map(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }

    /// Gives the programs their keys, and a place from which to follow pointers.
    pub fn prepare(&self, probes: &[Probe], position: u64) {
        for (words, probe) in self.keys.as_slice().chunks(KEY_STRIDE).zip(probes) {
            for (word, value) in words.iter().zip(probe.key.to_words()) {
                word.store(value, Ordering::Relaxed);
            }
            words[KEY_WORDS].store(probe.hash.into(), Ordering::Relaxed);
        }
        let control = self.control.as_slice();
        control[CONTROL_SEARCHES].store(probes.len() as u64, Ordering::Relaxed);
        control[CONTROL_POSITION].store(position, Ordering::Relaxed);
    }

    /// Runs a program once over the keys.
    pub fn run(&self, program: Program) -> Result<Run> {
        let found = self.programs.program(program.name()).context("loaded before")?;
        let xdp: &Xdp = found.try_into()?;
        Ok(bpf_call::test_run(xdp.fd()?.as_fd())?)
    }
}

/// Maps the values of an array into this process.
fn words(programs: &mut Ebpf, map: &str, count: usize) -> Result<Words> {
    match programs.take_map(map) {
        Some(Map::Array(data)) => Ok(Words::map(data.fd(), count)?),
        _ => Err(anyhow!("the object has no array {map}")),
    }
}
