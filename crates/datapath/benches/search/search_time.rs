//! The time of one search, for each way to search, at one number of entries.
//!
//! A round measures each way once, in an order of its own and with fresh random keys each time, so that
//! a noisy moment hits all alike, no way finds in the cache what another has fetched, and none always
//! runs behind the same other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use testudo_datapath::likenesses::Placing;
use testudo_datapath::{NodeTable, SharedTable, Words};
use testudo_packet::bucket::Nanos;
use testudo_packet::table::SLOT_WORDS;

use crate::bpf_call;
use crate::chains::{CHAINS, Chains};
use crate::kernel::{Kernel, Program, VALUE_WORDS};
use crate::population::{self, Kind, Random};
use crate::statistics::Samples;
use crate::user_space;

/// Entries that are put in at a time.
const INSTALL_AT_ONCE: u32 = 65_536;
/// A round of the chains passes about so many entries; at large sizes that is few searches.
const CHAIN_STEPS: usize = 500_000;

/// A way to search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// A program in the kernel.
    Kernel(Program),
    /// The loop of user space without a search.
    UserEmpty,
    /// The yardstick in user space.
    UserChase,
    /// The node table in user space, by a hash that is given.
    UserLookup,
    /// The node table in user space with the keyed hash and the whole entry.
    UserGet,
    /// The reference's kind of table.
    Chains,
}

impl Way {
    /// The loops that are taken off the others.
    const EMPTY: [Self; 2] = [Self::Kernel(Program::Empty), Self::UserEmpty];
    /// The others.
    const ALL: [Self; 10] = [
        Self::Kernel(Program::Chase),
        Self::Kernel(Program::TableChained),
        Self::Kernel(Program::MapChained),
        Self::Kernel(Program::TableHashed),
        Self::Kernel(Program::TableFree),
        Self::Kernel(Program::MapFree),
        Self::UserChase,
        Self::UserLookup,
        Self::UserGet,
        Self::Chains,
    ];

    /// Whether it searches for keys, so that hits and misses differ.
    pub const fn searches(self) -> bool {
        !matches!(
            self,
            Self::Kernel(Program::Empty | Program::Chase) | Self::UserEmpty | Self::UserChase
        )
    }
}

impl Way {
    /// Whether this way says anything of such searches: misses in the hash map can't be chained.
    const fn tells(self, kind: Kind) -> bool {
        !matches!((self, kind), (Self::Kernel(Program::MapChained), Kind::Miss))
    }
}

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// How often each way is measured.
    pub rounds: usize,
    /// The searches of a round.
    pub searches: usize,
}

/// The tables with one number of entries.
pub struct Tables {
    entries: u32,
    random: Random,
    chains: Chains,
    /// The kernel's half, unless there is none.
    pub kernel: Option<Kernel>,
    /// The node table; in the kernel's memory if there is a kernel's half.
    pub table: SharedTable,
    /// The array to follow pointers through, if there is no kernel's half.
    chase: Option<Words>,
    /// Whether the hash map has the entries too.
    has_map: bool,
}

/// What was measured at one number of entries.
pub struct Times {
    /// The number of entries.
    pub entries: u32,
    /// The slots of the node table.
    pub slots: u32,
    /// The entries that found no room in their window.
    pub refused: usize,
    /// Nanoseconds a search, less the empty loop.
    pub nanos: BTreeMap<(Way, Kind), Samples>,
}

impl Times {
    /// The samples of a way to search.
    pub fn of(&self, way: Way, kind: Kind) -> Option<&Samples> {
        self.nanos.get(&(way, kind))
    }

    /// The median of a way to search; NaN if it was not measured.
    pub fn median(&self, way: Way, kind: Kind) -> f64 {
        self.of(way, kind).map_or(f64::NAN, Samples::median)
    }
}

/// The node table's size for so many entries.
pub fn slots_for(entries: u32) -> u32 {
    (2 * entries).next_power_of_two()
}

impl Tables {
    /// Fills all tables. Without `in_kernel` there are those of user space alone.
    pub fn filled(entries: u32, in_kernel: bool, has_map: bool, seed: u64) -> Result<Self> {
        let mut random = Random(seed);
        let slots = slots_for(entries);
        let map_entries = if has_map { slots } else { 1 };
        let kernel = if in_kernel { Some(Kernel::load(slots, map_entries)?) } else { None };
        let words = slots as usize * SLOT_WORDS;
        let memory = match &kernel {
            Some(kernel) => kernel.slots.clone(),
            None => Arc::new(Words::zeroed(words)?),
        };
        let chase = if kernel.is_none() { Some(Words::zeroed(words)?) } else { None };
        let shared = Arc::new(Words::zeroed(1)?);
        let table = SharedTable::new(memory, shared, 0, Placing::plain(population::placer()))
            .expect("memory");
        let chains = Chains::filled(entries, &mut random);
        let has_map = has_map && in_kernel;
        let mut tables = Self { entries, random, chains, kernel, table, chase, has_map };
        tables.fill_node_table();
        tables.fill_chase(slots);
        tables.fill_map().context("filling the hash map")?;
        Ok(tables)
    }

    fn fill_node_table(&self) {
        let placer = population::placer();
        for first in (0..self.entries).step_by(INSTALL_AT_ONCE as usize) {
            let last = (first + INSTALL_AT_ONCE).min(self.entries);
            let records: Vec<_> = (first..last).map(|n| population::record(&placer, n)).collect();
            self.table.install(&records, Nanos(1));
        }
    }

    fn fill_chase(&mut self, slots: u32) {
        let cycle = self.random.cycle(slots);
        for (words, next) in self.chase().as_slice().chunks(SLOT_WORDS).zip(cycle) {
            words[0].store(next.into(), Ordering::Relaxed);
        }
    }

    fn fill_map(&self) -> Result<()> {
        let Some(kernel) = self.kernel.as_ref().filter(|_| self.has_map) else { return Ok(()) };
        let placer = population::placer();
        for first in (0..self.entries).step_by(INSTALL_AT_ONCE as usize) {
            let last = (first + INSTALL_AT_ONCE).min(self.entries);
            let records = (first..last).map(|n| population::record(&placer, n));
            let keys: Vec<_> = records.map(|record| record.key.to_words()).collect();
            bpf_call::update_batch(kernel.map(), &keys, &vec![[1u64; VALUE_WORDS]; keys.len()])?;
        }
        Ok(())
    }

    fn chase(&self) -> &Words {
        match (&self.kernel, &self.chase) {
            (Some(kernel), _) => &kernel.chase,
            (None, Some(own)) => own,
            (None, None) => unreachable!("one of them is made"),
        }
    }

    fn can(&self, way: Way) -> bool {
        match way {
            Way::Kernel(Program::MapChained | Program::MapFree) => self.has_map,
            Way::Kernel(_) => self.kernel.is_some(),
            _ => true,
        }
    }

    /// Measures every way, round by round.
    pub fn measure(&mut self, effort: Effort) -> Result<Times> {
        let mut times = Times {
            entries: self.entries,
            slots: self.table.capacity() as u32,
            refused: self.entries as usize - self.table.len(),
            nanos: BTreeMap::new(),
        };
        for _ in 0..effort.rounds {
            for kind in [Kind::Hit, Kind::Miss] {
                self.round(kind, effort.searches, &mut times)?;
            }
        }
        Ok(times)
    }

    /// Measures every way once.
    fn round(&mut self, kind: Kind, searches: usize, times: &mut Times) -> Result<()> {
        let (mut in_kernel, mut in_user) = (0.0, 0.0);
        for way in Way::EMPTY.into_iter().filter(|way| self.can(*way)).collect::<Vec<_>>() {
            let gross = self.once(way, kind, searches)?;
            *(if way == Way::UserEmpty { &mut in_user } else { &mut in_kernel }) = gross;
            times.nanos.entry((way, kind)).or_default().push(gross);
        }
        for index in self.random.order(Way::ALL.len() as u32) {
            let way = Way::ALL[index as usize];
            if !self.can(way) || !way.tells(kind) {
                continue;
            }
            let less = match way {
                // The loop that follows pointers reads no keys; its time is the misses'.
                Way::Kernel(Program::Chase) | Way::UserChase => 0.0,
                Way::Kernel(_) => in_kernel,
                _ => in_user,
            };
            let gross = self.once(way, kind, searches)?;
            times.nanos.entry((way, kind)).or_default().push(gross - less);
        }
        Ok(())
    }

    /// One run; nanoseconds a search with its loop.
    fn once(&mut self, way: Way, kind: Kind, searches: usize) -> Result<f64> {
        let passed = self.entries as usize / CHAINS as usize + 1;
        let count = match way {
            Way::Chains => (CHAIN_STEPS / passed).clamp(16, searches),
            _ => searches,
        };
        let probes = population::probes(&mut self.random, kind, self.entries, count);
        let start = self.random.next();
        let (found, nanos) = match way {
            Way::Kernel(program) => {
                let kernel = self.kernel.as_ref().context("asked for without a kernel's half")?;
                kernel.prepare(&probes, start);
                let run = kernel.run(program)?;
                (run.result as usize, f64::from(run.nanos) / count as f64)
            }
            _ => {
                let run = match way {
                    Way::UserEmpty => user_space::empty(&probes),
                    Way::UserChase => user_space::chase(self.chase(), start, count),
                    Way::UserLookup => user_space::lookup(&self.table, &probes),
                    Way::UserGet => user_space::get(&self.table, &probes),
                    _ => user_space::chains(&self.chains, &probes),
                };
                (run.found, run.nanos)
            }
        };
        if way.searches() {
            let right = match kind {
                // A few flows may have found no room.
                Kind::Hit => found * 100 >= count * 99,
                Kind::Miss => found == 0,
            };
            ensure!(right, "{way:?} found {found} of {count} in a run of {kind:?}");
        }
        Ok(nanos)
    }
}
