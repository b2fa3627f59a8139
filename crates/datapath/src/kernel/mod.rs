//! The kernel backend: the pipeline as an XDP program.
//!
//! The object that is loaded is committed beside its sources (`crates/xdp`). Its maps are shared:
//! the node table, the bucket slots and a few single words are mapped into this process, so that
//! installing, clearing, aging and reading them are plain memory work.
//!
//! Everything is held by file descriptors of this process: when it ends, however it ends, the kernel
//! takes the programs off the interfaces and frees the maps. Unless it was pinned ([`pinning`]): then
//! packets are handled on until the lease ends, and the next process adopts what is there.

mod attachment;
mod bpf_call;
mod guard;
mod likenesses;
mod loader;
pub mod nameless;
mod packets;
pub mod pinning;
mod programs;
mod refusal;
mod send;
mod stations;
pub(crate) mod trie;
mod upcall;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues, RingBuf};
use testudo_packet::bucket::{BucketId, BucketSlot, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::{EVENT_WORDS, Event, HANDLED_WORDS, Occurrence};
use testudo_packet::flow::FlowKey;
use testudo_packet::mss::MostBytes;
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::reverse_path::ReversePath;
use testudo_packet::rule::{Links, MAX_RULES, RULE_WORDS, Rule};
use testudo_packet::siphash::HashKey;
use testudo_packet::stage::Stage;
use testudo_packet::verdict::{COUNTERS, counter_name};

use crate::Error;
use crate::announce;
use crate::clamps::Clamps;
use crate::committing::Committing;
use crate::early::Early;
use crate::explain::{Explained, Grounds};
use crate::fragments::Fragments;
use crate::held::{Held, Released};
use crate::interface::{BucketLoad, Datapath, Drained, Refused};
use crate::memory::Words;
use crate::meters::{Limits, Meters};
use crate::pools::Pools;
use crate::sets::Sets;
use crate::settings::{Answer, Settings};
use crate::shared_table::SharedTable;
use crate::stations::{Station, Stations};
use crate::user::check_rules;

use attachment::Attachment;
use programs::Programs;
use send::Sender;
use stations::StationMaps;
use upcall::Upcall;

/// The words of the shared array; `crates/xdp/src/maps.rs` has the other half.
mod shared {
    pub const LEASE: usize = 0;
    pub const RULES: usize = 1;
    pub const RULES_ASK_FOR_EGRESS: u64 = 1 << 63;
    pub const FLOWS: usize = 2;
    pub const LOST_EVENTS: usize = 3;
    pub const LOST_HANDLED: usize = 4;
    /// The last number that a set was given.
    pub const LAST_SET: usize = 7;
    /// Not 0 once everything is pinned.
    pub const PINNED: usize = 5;
    /// The generation of next hops.
    pub const HOPS: usize = 30;
    /// How much a source may have, an interval and a depth of each kind.
    pub const LIMITS: usize = 24;
    /// Not 0: some interface asks for smaller segments.
    pub const CLAMPS: usize = 29;
    /// Not 0: segments of TCP are not refused for their numbers.
    pub const LOOSE_WINDOWS: usize = 31;
    /// What a successor compares with what it expects, see [`super::pinning`].
    pub const IDENTITY: usize = 8;
    /// What the daemon itself counts of packets, by the number of the counter.
    pub const OWN_COUNTS: usize = 32;
    pub const WORDS: usize = 128;
}

pub(crate) use shared::LAST_SET;

const _: () = assert!(shared::OWN_COUNTS + COUNTERS as usize <= shared::WORDS);

/// How many packets are taken from the kernel in one call at most, so that a flood of them can't
/// keep the daemon from its other work.
const MAX_UPCALLS: usize = 512;

/// A node's packet handling in the kernel.
pub struct KernelDatapath {
    settings: Settings,
    table: SharedTable,
    buckets: Words,
    fragments: Fragments,
    shared: Arc<Words>,
    rules: Vec<Rule>,
    sets: Sets,
    pools: Pools,
    rule_map: Array<MapData, [u64; RULE_WORDS]>,
    /// Flows by the rule that has let them in or refused them, for both sets of rules.
    hit_map: PerCpuArray<MapData, u64>,
    /// As [`Self::hit_map`], of packets that were handled here, for the set in force.
    own_hits: Words,
    /// Flows that were refused and are to be told of.
    refused: VecDeque<Refused>,
    counts: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    upcalls: RingBuf<MapData>,
    /// Packets and bytes of each bucket: a row of buckets for each CPU.
    loads: Words,
    meters: Meters,
    stations: Stations,
    clamps: Clamps,
    station_maps: StationMaps,
    held: Held<Upcall>,
    committing: Committing<Upcall>,
    early: Early<Upcall>,
    /// What packets that were handled here have changed, until it is read with the kernel's.
    own_occurrences: Vec<Occurrence>,
    lost_seen: u64,
    lost_handled_seen: u64,
    /// How many senders were told in this second how large a packet may be.
    told: u64,
    sender: Sender,
    programs: Programs,
    /// Where the programs are; dropping them takes those off that are not pinned.
    attached: Vec<Attachment>,
    /// Every map once more, to be pinned.
    maps: Vec<(&'static str, MapData)>,
    /// Where everything is pinned.
    pinned: Option<PathBuf>,
    /// Where the links are pinned, for the case that the process dies.
    guarded: Option<PathBuf>,
}

/// The lease of a node's packet handling. Once that is gone, setting it has no effect.
#[derive(Clone, Debug)]
pub struct LeaseHandle(Arc<Words>);

impl LeaseHandle {
    /// Until when packets are handled, unless this is called again.
    pub fn set(&self, deadline: Nanos) {
        self.0.as_slice()[shared::LEASE].store(deadline.0, Ordering::Release);
    }
}

impl KernelDatapath {
    /// Loads the programs and makes the maps. Nothing is attached yet: no packet meets the programs.
    pub fn load(settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        loader::load(settings)
    }

    /// Puts the programs on an interface of the network namespace that the calling thread is in. An
    /// interface that has them, because they were adopted, is left as it is.
    pub fn attach(&mut self, interface: &str) -> Result<(), Error> {
        attachment::attach(self, interface)
    }

    /// Has the programs stay on the interfaces when this process is killed: once the lease has ended
    /// they drop what is the cluster's. Their links get names in a directory of a BPF file system, which
    /// is made if it is not there; [`Self::attach`] puts the programs into links that it finds there.
    ///
    /// After an error some interfaces may be guarded already.
    pub fn guard(&mut self, directory: &Path) -> Result<(), Error> {
        guard::guard(self, directory)
    }

    /// Leaves everything in a directory of a BPF file system, which is made if it is not there: from
    /// now on packets are handled on when this process ends, until the lease does. Interfaces that
    /// are attached later are left there too. What waits in this process for a bucket does not survive
    /// it: a restart has to wait for the end of moves.
    ///
    /// An error leaves nothing there.
    pub fn pin(&mut self, directory: &Path) -> Result<(), Error> {
        pinning::pin(self, directory)
    }

    /// Lends the maps to another process, in a directory of a BPF file system that is made for it:
    /// [`Self::prepare`] there. [`Self::pin`] may leave everything in the same directory.
    ///
    /// An error leaves nothing there.
    pub fn lend(&self, directory: &Path) -> Result<(), Error> {
        pinning::lend(self, directory)
    }

    /// Has the programs verified over the maps that another process has lent in a directory, and leaves
    /// them there, so that a process with the same settings which adopts the rest need not. Packets are
    /// handled as before; nothing but the programs is written.
    pub fn prepare(directory: &Path, settings: &Settings) -> Result<(), Error> {
        settings.check()?;
        programs::prepare(directory, settings)
    }

    /// Goes on with what another process has left in a directory, which must have ended: the same
    /// table, slots, lease, rules and counters. The programs are loaded anew, unless they have been
    /// [prepared](Self::prepare), and put in the place of
    /// those that run, each interface's in one step, so this is how a new build of them comes into
    /// force, too. Cluster addresses, mode and interfaces may differ from what was left; whatever the
    /// memory's meaning depends on must not.
    ///
    /// Changes that the last process has read and not told its peers are not told again: scan the table.
    ///
    /// An error leaves what is there handling packets as before, on some interfaces perhaps by the new
    /// build of the programs already.
    pub fn adopt(directory: &Path, settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        pinning::adopt(directory, settings)
    }

    /// The lease of what was left in a directory, at once: to load the programs anew takes a second or
    /// more, which a lease may not have. The settings are checked as by [`KernelDatapath::adopt`].
    pub fn pinned_lease(directory: &Path, settings: &Settings) -> Result<LeaseHandle, Error> {
        pinning::shared_words(directory, settings).map(|words| LeaseHandle(Arc::new(words)))
    }

    /// Takes away what was left in a directory. The programs go off the interfaces within moments,
    /// unless a process that lives holds them; then they go with it.
    pub fn unpin(directory: &Path) -> Result<(), Error> {
        pinning::unpin(directory)
    }

    /// Begins to count anew for rules that are about to come into force. What packets are still counted that
    /// met the rules before is lost.
    fn forget_hits(&mut self, first: u32, count: u32) -> Result<(), Error> {
        let failed = |said: String| Error::Map { map: "RULE_HITS", said };
        let cpus =
            aya::util::nr_cpus().map_err(|(file, error)| failed(format!("{file}: {error}")))?;
        for index in first..first + count {
            let zeros = PerCpuValues::try_from(vec![0; cpus]).map_err(|e| failed(e.to_string()))?;
            self.hit_map.set(index, zeros, 0).map_err(|error| failed(error.to_string()))?;
        }
        for hits in self.own_hits.as_slice() {
            hits.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The lease, for a thread that keeps it and does nothing else.
    pub fn lease_handle(&self) -> LeaseHandle {
        LeaseHandle(self.shared.clone())
    }

    /// The main XDP program, for running it on packets without an interface; it runs the stages, too.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp, Error> {
        self.programs.packets()
    }

    /// The XDP program of a stage, which the main one jumps to.
    pub fn stage_program(&mut self, stage: Stage) -> Result<&mut aya::programs::Xdp, Error> {
        self.programs.stage(stage)
    }
}

impl Datapath for KernelDatapath {
    type Table = SharedTable;

    fn table(&self) -> &SharedTable {
        &self.table
    }

    fn bucket(&self, bucket: BucketId) -> BucketSlot {
        match self.buckets.as_slice().get(usize::from(bucket.0)) {
            Some(word) => BucketSlot::from_word(word.load(Ordering::Acquire)),
            None => BucketSlot::VACANT,
        }
    }

    fn set_bucket(&mut self, bucket: BucketId, slot: BucketSlot) {
        if let Some(word) = self.buckets.as_slice().get(usize::from(bucket.0)) {
            word.store(slot.to_word(), Ordering::Release);
        }
    }

    fn set_lease(&mut self, deadline: Nanos) {
        self.shared.as_slice()[shared::LEASE].store(deadline.0, Ordering::Release);
    }

    fn set_strict_windows(&mut self, strict: bool) {
        let loose = u64::from(!strict);
        self.shared.as_slice()[shared::LOOSE_WINDOWS].store(loose, Ordering::Release);
    }

    fn announce(&self) -> usize {
        let Settings { answers, cluster_mac, .. } = &self.settings;
        let told = |answer: &&Answer| {
            let frame = announce::frame(answer, *cluster_mac);
            let sent = self.sender.send_as_is(&frame, answer.interface);
            sent.inspect_err(|error| tracing::debug!(%error, "an address was not announced"))
                .is_ok()
        };
        answers.iter().filter(told).count()
    }

    fn set_limits(&mut self, limits: Limits) {
        self.meters.limits = limits;
        let kinds = [limits.half_open, limits.upcalls];
        let words = kinds.into_iter().flat_map(|limit| [limit.interval, limit.depth]);
        for (word, value) in self.shared.as_slice()[shared::LIMITS..].iter().zip(words) {
            word.store(value, Ordering::Release);
        }
    }

    fn forget_hops(&mut self) {
        self.shared.as_slice()[shared::HOPS].fetch_add(1, Ordering::AcqRel);
    }

    /// The rules are written beside those in force, which one store then replaces. A packet that is
    /// being compared meanwhile meets the old rules to their end, unless rules are replaced twice
    /// within that packet's microsecond.
    fn set_rules(&mut self, rules: &[Rule]) -> Result<(), Error> {
        check_rules(rules)?;
        let in_force = self.shared.as_slice()[shared::RULES].load(Ordering::Acquire) as u32;
        let first = if in_force == 0 { MAX_RULES } else { 0 };
        for (index, rule) in (first..).zip(rules) {
            let written = self.rule_map.set(index, rule.to_words(), 0);
            written.map_err(|error| Error::Map { map: "RULES", said: error.to_string() })?;
        }
        self.forget_hits(first, rules.len() as u32)?;
        let asks = rules.iter().any(|rule| rule.egress.is_some());
        let asks = if asks { shared::RULES_ASK_FOR_EGRESS } else { 0 };
        let word = u64::from(first) | (rules.len() as u64) << 32 | asks;
        self.shared.as_slice()[shared::RULES].store(word, Ordering::Release);
        self.rules = rules.to_vec();
        Ok(())
    }

    fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn sets(&self) -> &Sets {
        &self.sets
    }

    fn pools(&self) -> &Pools {
        &self.pools
    }

    fn set_pools(&mut self, pools: Pools) {
        self.pools = pools;
    }

    fn rule_hits(&self) -> Vec<u64> {
        let first = self.shared.as_slice()[shared::RULES].load(Ordering::Acquire) as u32;
        let hits = |(index, own): (u32, &AtomicU64)| {
            let kernel: u64 = match self.hit_map.get(&(first + index), 0) {
                Ok(values) => values.iter().sum(),
                Err(_) => 0,
            };
            kernel + own.load(Ordering::Relaxed)
        };
        (0..).zip(self.own_hits.as_slice()).take(self.rules.len()).map(hits).collect()
    }

    fn poll_refused(&mut self) -> Option<Refused> {
        self.refused.pop_front()
    }

    fn explain(
        &self,
        now: Nanos,
        key: &FlowKey,
        links: Links,
        resolve: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> Result<Explained, Error> {
        Grounds {
            settings: &self.settings,
            rules: &self.rules,
            sets: &self.sets,
            pools: &self.pools,
            stations: &self.stations,
            table: &self.table,
            committing: &self.committing,
            now,
        }
        .explain(key, links, resolve)
    }

    fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        let mut next = self.stations.clone();
        next.set_local(addresses)?;
        self.station_maps.write_local(&next.local)?;
        self.stations = next;
        Ok(())
    }

    fn set_peers(&mut self, stations: &[Station]) -> Result<(), Error> {
        let mut next = self.stations.clone();
        next.set_stations(stations)?;
        self.station_maps.write_stations(&next.stations)?;
        self.stations = next;
        Ok(())
    }

    fn set_mss_clamps(&mut self, clamps: &HashMap<u32, MostBytes>) -> Result<(), Error> {
        self.station_maps.write_most_bytes(clamps)?;
        self.clamps = Clamps::new(clamps);
        let any = u64::from(!clamps.is_empty());
        self.shared.as_slice()[shared::CLAMPS].store(any, Ordering::Release);
        Ok(())
    }

    fn set_reverse_paths(&mut self, checks: &HashMap<u32, ReversePath>) -> Result<(), Error> {
        self.station_maps.write_reverse_paths(checks)
    }

    fn drain_events(&mut self, occurrence: &mut dyn FnMut(Occurrence)) -> Drained {
        let placer = self.settings.placer();
        let mut drained = Drained::default();
        let mut note = |seen: Occurrence| {
            drained.count(&seen);
            self.meters.note(&placer, &seen);
            occurrence(seen);
        };
        self.own_occurrences.drain(..).for_each(&mut note);
        loop {
            // Looked at where it is: to move it would wait for all that was written before.
            let next = self.events.next();
            let Some(item) = &next else { break };
            if let Some(seen) = read_occurrence(item, placer.key) {
                note(seen);
            }
        }
        let shared = self.shared.as_slice();
        let lost = shared[shared::LOST_EVENTS].load(Ordering::Relaxed);
        let lost_handled = shared[shared::LOST_HANDLED].load(Ordering::Relaxed);
        drained.lost = lost.wrapping_sub(self.lost_seen);
        drained.lost_handled = lost_handled.wrapping_sub(self.lost_handled_seen);
        (self.lost_seen, self.lost_handled_seen) = (lost, lost_handled);
        drained
    }

    fn loads(&self, loads: &mut [BucketLoad]) {
        let row = self.settings.buckets as usize * 2;
        for (bucket, load) in loads.iter_mut().take(self.settings.buckets as usize).enumerate() {
            *load = BucketLoad::default();
            for cpu in self.loads.as_slice().chunks_exact(row) {
                load.packets += cpu[bucket * 2].load(Ordering::Relaxed);
                load.bytes += cpu[bucket * 2 + 1].load(Ordering::Relaxed);
            }
        }
    }

    fn handle_upcalls(
        &mut self,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> usize {
        let mut handled = 0;
        while handled < MAX_UPCALLS
            && let Some(upcall) = self.upcalls.next().and_then(|item| upcall::read(&item))
        {
            self.take(upcall, now, missing);
            handled += 1;
        }
        self.release_early(now, missing);
        handled
    }

    fn held(&self, bucket: BucketId) -> usize {
        self.held.count(bucket)
    }

    fn release_held(
        &mut self,
        now: Nanos,
        bucket: BucketId,
        handled: &mut dyn FnMut(PacketHash) -> bool,
        resolve: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> Released {
        self.release(now, bucket, handled, resolve)
    }

    fn discard_held(&mut self, bucket: BucketId) -> usize {
        self.discard(bucket)
    }

    fn poll_commit(&mut self) -> Option<FlowRecord> {
        self.committing.poll()
    }

    fn release_committed(
        &mut self,
        now: Nanos,
        key: &FlowKey,
        resolve: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> Released {
        self.commit(now, key, resolve)
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        Some(self.upcalls.as_fd())
    }

    fn lend_in(&self, directory: &Path) -> Result<(), Error> {
        self.lend(directory)
    }

    fn leave_in(&mut self, directory: &Path) -> Result<(), Error> {
        self.pin(directory)
    }

    fn stand_down(&mut self) -> Result<(), Error> {
        guard::stand_down(self)
    }

    fn leave_nothing(&mut self) -> Result<(), Error> {
        pinning::keep(self)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let kernel = |index| match self.counts.get(&index, 0) {
            Ok(values) => values.iter().sum(),
            Err(_) => 0u64,
        };
        let own = (0..).zip(&self.shared.as_slice()[shared::OWN_COUNTS..]);
        let own = own.map(|(index, own)| (index, own.load(Ordering::Relaxed)));
        own.map_while(|(index, own)| Some((counter_name(index)?, own + kernel(index)))).collect()
    }
}

/// Reads an item of the ring of events; `None` if it is none.
fn read_occurrence(item: &[u8], key: HashKey) -> Option<Occurrence> {
    let (words, _) = item.as_chunks::<8>();
    // Nearly all are events: read word by word, they need not be put down and taken up again.
    if let Ok(words) = <&[[u8; 8]; EVENT_WORDS]>::try_from(words) {
        return Event::from_words(words.map(u64::from_ne_bytes)).map(Occurrence::Flow);
    }
    let mut read = [0; HANDLED_WORDS];
    let length = words.len().min(HANDLED_WORDS);
    for (word, bytes) in read.iter_mut().zip(words) {
        *word = u64::from_ne_bytes(*bytes);
    }
    Occurrence::from_words(&read[..length], key)
}
