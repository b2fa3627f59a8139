//! The kernel backend: the pipeline as an XDP program.
//!
//! The object that is loaded is committed beside its sources (`crates/xdp`). Its maps are shared:
//! the node table, the bucket slots and a few single words are mapped into this process, so that
//! installing, clearing, aging and reading them are plain memory work.
//!
//! Everything is held by file descriptors of this process: when it ends, however it ends, the kernel
//! takes the programs off the interfaces and frees the maps.

mod loader;
mod refusal;
mod send;
mod upcall;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aya::Ebpf;
use aya::maps::{Array, MapData, PerCpuArray, RingBuf};
use testudo_packet::bucket::{BucketId, BucketSlot, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::{EVENT_WORDS, Event};
use testudo_packet::flow::FlowKey;
use testudo_packet::pipeline;
use testudo_packet::rule::{MAX_RULES, RULE_WORDS, Rule};
use testudo_packet::verdict::{DropReason, Verdict, counter_name};

use crate::Error;
use crate::frame::SliceFrame;
use crate::host_env::HostEnv;
use crate::interface::{Datapath, Drained, NodeTable};
use crate::memory::Words;
use crate::settings::Settings;
use crate::shared_table::SharedTable;
use crate::user::{check_rules, flow_of};

use send::Sender;
use upcall::Upcall;

/// The words of the shared array; `crates/xdp/src/maps.rs` has the other half.
mod shared {
    pub const LEASE: usize = 0;
    pub const RULES: usize = 1;
    pub const FLOWS: usize = 2;
    pub const LOST_EVENTS: usize = 3;
    pub const WORDS: usize = 8;
}

/// How many packets are taken from the kernel in one call at most, so that a flood of them can't
/// keep the daemon from its other work.
const MAX_UPCALLS: usize = 512;

/// A node's packet handling in the kernel.
pub struct KernelDatapath {
    settings: Settings,
    table: SharedTable,
    buckets: Words,
    shared: Arc<Words>,
    rules: Vec<Rule>,
    rule_map: Array<MapData, [u64; RULE_WORDS]>,
    counts: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    upcalls: RingBuf<MapData>,
    /// Events of packets that were handled here, until they are read with the kernel's.
    own_events: Vec<Event>,
    own_counts: Vec<u64>,
    lost_seen: u64,
    sender: Sender,
    /// The programs; dropping them takes them off the interfaces.
    programs: Ebpf,
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

    /// Puts the programs on an interface of the network namespace that the calling thread is in.
    pub fn attach(&mut self, interface: &str) -> Result<(), Error> {
        loader::attach(&mut self.programs, interface)
    }

    /// The lease, for a thread that keeps it and does nothing else.
    pub fn lease_handle(&self) -> LeaseHandle {
        LeaseHandle(self.shared.clone())
    }

    /// The XDP program, for running it on packets without an interface.
    pub fn program(&mut self) -> Result<&mut aya::programs::Xdp, Error> {
        loader::program(&mut self.programs)
    }

    /// Handles one packet that came up.
    fn handle_upcall(
        &mut self,
        upcall: Upcall,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) {
        let mut frame = upcall.packet;
        // A bucket that has moved on since gets no entry any more.
        if let Some((bucket, key)) = flow_of(&self.settings, &mut frame)
            && self.bucket(bucket).owner == self.settings.node
            && let Some(record) = missing(bucket, &key)
        {
            self.table.install(&[record], now);
        }
        let env = HostEnv {
            placer: self.settings.placer(),
            settings: &self.settings,
            table: &self.table,
            buckets: &self.buckets,
            rules: &self.rules,
            lease: Nanos(self.shared.as_slice()[shared::LEASE].load(Ordering::Acquire)),
            now,
            loaded: true,
            events: RefCell::new(Vec::new()),
        };
        let verdict = pipeline::handle(&env, &mut SliceFrame(&mut frame), upcall.interface);
        self.own_events.extend(env.events.into_inner());
        let counter = match verdict {
            Verdict::Forward => match self.sender.send(&mut frame, upcall.next_hop) {
                Ok(counter) => counter as u32,
                Err(error) => {
                    tracing::debug!(%error, "a packet that came up could not be sent on");
                    DropReason::NoRoute.counter()
                }
            },
            Verdict::Drop(reason) => reason.counter(),
            // What comes up is a packet of an owned bucket; a lock that is held again is given up on.
            Verdict::Upcall(_) => DropReason::UpcallFull.counter(),
            Verdict::Stack | Verdict::Answer => DropReason::Internal.counter(),
        };
        self.own_counts[counter as usize] += 1;
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
        let word = u64::from(first) | (rules.len() as u64) << 32;
        self.shared.as_slice()[shared::RULES].store(word, Ordering::Release);
        self.rules = rules.to_vec();
        Ok(())
    }

    fn drain_events(&mut self, event: &mut dyn FnMut(Event)) -> Drained {
        let mut events = self.own_events.len();
        self.own_events.drain(..).for_each(&mut *event);
        while let Some(item) = self.events.next() {
            let mut words = [0; EVENT_WORDS];
            for (word, bytes) in words.iter_mut().zip(item.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            if let Some(read) = Event::from_words(words) {
                event(read);
                events += 1;
            }
        }
        let lost = self.shared.as_slice()[shared::LOST_EVENTS].load(Ordering::Relaxed);
        let drained = Drained { events, lost: lost.wrapping_sub(self.lost_seen) };
        self.lost_seen = lost;
        drained
    }

    fn handle_upcalls(
        &mut self,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> usize {
        for handled in 0..MAX_UPCALLS {
            let Some(upcall) = self.upcalls.next().and_then(|item| upcall::read(&item)) else {
                return handled;
            };
            self.handle_upcall(upcall, now, missing);
        }
        MAX_UPCALLS
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let kernel = |index| match self.counts.get(&index, 0) {
            Ok(values) => values.iter().sum(),
            Err(_) => 0u64,
        };
        let own = (0..).zip(&self.own_counts);
        own.filter_map(|(index, own)| Some((counter_name(index)?, own + kernel(index)))).collect()
    }
}
