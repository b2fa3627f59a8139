//! The user-space backend: the pipeline over ordinary memory.
//!
//! It runs captures, fuzzers, differential tests and whoever embeds the library without root. It
//! has no interfaces: a frame is given to [`UserDatapath::handle`], and the verdict and the frame are
//! what comes of it.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::Occurrence;
use testudo_packet::flow::FlowKey;
use testudo_packet::mss::MostBytes;
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::reverse_path::ReversePath;
use testudo_packet::rule::{Links, MAX_RULES, Matched, Prefix, Rule};
use testudo_packet::stage;
use testudo_packet::verdict::{COUNTERS, Counter, DropReason, UpcallReason, Verdict, counter_name};

use crate::Error;
use crate::clamps::Clamps;
use crate::committing::{Committing, Resolve, is_taken};
use crate::early::{Early, is_awaited};
use crate::explain::{Explained, Grounds};
use crate::fragments::Fragments;
use crate::frame::SliceFrame;
use crate::held::{Held, Released};
use crate::host_env::HostEnv;
use crate::interface::{BucketLoad, Datapath, Drained, NodeTable, Refused};
use crate::memory::Words;
use crate::meters::{Limits, Meters};
use crate::place::{Place, place_of};
use crate::pools::Pools;
use crate::reject;
use crate::routes::Routes;
use crate::sets::Sets;
use crate::settings::Settings;
use crate::shared_table::SharedTable;
use crate::stations::{Station, Stations};

/// How many packets wait for user space's decision at most; more are dropped and counted.
const MAX_UPCALLS: usize = 1024;

/// How many events wait to be read at most; more are counted as lost.
const MAX_EVENTS: usize = 1 << 17;

/// A packet that went up.
#[derive(Clone, Debug)]
struct Waiting {
    frame: Vec<u8>,
    interface: u32,
    reason: UpcallReason,
}

/// A node's packet handling in user space.
#[derive(Debug)]
pub struct UserDatapath {
    settings: Settings,
    table: SharedTable,
    buckets: Words,
    fragments: Fragments,
    rules: Vec<Rule>,
    sets: Sets,
    hits: Words,
    reports: Cell<u64>,
    refused: VecDeque<Refused>,
    lease: Nanos,
    strict_windows: bool,
    pools: Pools,
    stations: Stations,
    meters: Meters,
    routes: Routes,
    clamps: Clamps,
    loads: Words,
    occurrences: Vec<Occurrence>,
    lost: u64,
    lost_handled: u64,
    upcalls: VecDeque<Waiting>,
    held: Held<Waiting>,
    committing: Committing<Waiting>,
    early: Early<Waiting>,
    released: Vec<(Vec<u8>, Verdict)>,
    counters: [u64; COUNTERS as usize],
}

impl UserDatapath {
    /// A node that owns no bucket, holds no lease and has no rules yet.
    pub fn new(settings: Settings) -> Result<Self, Error> {
        settings.check()?;
        let words = settings.table_slots as usize * testudo_packet::table::SLOT_WORDS;
        let slots = Arc::new(Words::zeroed(words).map_err(Error::Memory)?);
        let shared = Arc::new(Words::zeroed(1).map_err(Error::Memory)?);
        let table =
            SharedTable::new(slots, shared, 0, settings.placing()).map_err(Error::Memory)?;
        let buckets = Words::zeroed(settings.buckets as usize).map_err(Error::Memory)?;
        let loads = Words::zeroed(settings.buckets as usize * 2).map_err(Error::Memory)?;
        for word in buckets.as_slice() {
            word.store(BucketSlot::VACANT.to_word(), Ordering::Relaxed);
        }
        let pools = Pools::new(&settings.pools, table.placing());
        Ok(Self {
            settings,
            table,
            buckets,
            fragments: Fragments::zeroed().map_err(Error::Memory)?,
            rules: Vec::new(),
            sets: Sets::default(),
            hits: Words::zeroed(MAX_RULES as usize).map_err(Error::Memory)?,
            reports: Cell::new(0),
            refused: VecDeque::new(),
            lease: Nanos(0),
            strict_windows: true,
            pools,
            stations: Stations::default(),
            meters: Meters::zeroed().map_err(Error::Memory)?,
            routes: Routes::default(),
            clamps: Clamps::default(),
            loads,
            occurrences: Vec::new(),
            lost: 0,
            lost_handled: 0,
            upcalls: VecDeque::new(),
            held: Held::default(),
            committing: Committing::default(),
            early: Early::default(),
            released: Vec::new(),
            counters: [0; COUNTERS as usize],
        })
    }

    /// Handles a frame that came in by this interface. A frame that is answered has become the
    /// answer, one that is passed carries the owner's address; one that is forwarded has its translation and
    /// its segment size, and the hops and the link's addresses that it came with. One that goes up is kept for
    /// [`Datapath::handle_upcalls`].
    pub fn handle(&mut self, frame: &mut [u8], interface: u32, now: Nanos) -> Verdict {
        let verdict = self.run(frame, interface, now, Known::default(), None).verdict;
        if let Verdict::Upcall(reason) = verdict {
            if self.upcalls.len() >= MAX_UPCALLS {
                return self.count(Verdict::Drop(DropReason::UpcallFull));
            }
            self.upcalls.push_back(Waiting { frame: frame.to_vec(), interface, reason });
        }
        self.count(verdict)
    }

    /// Where packets would go out, by the first prefix that has their destination; an interface of 0 is none. Rules ask
    /// for it, and interfaces for the way back.
    pub fn set_routes(&mut self, routes: Vec<(Prefix, u32)>) {
        self.routes.set(routes);
    }

    /// The packets that went up and have been decided since the last call, with what was decided.
    pub fn take_released(&mut self) -> Vec<(Vec<u8>, Verdict)> {
        std::mem::take(&mut self.released)
    }

    /// What becomes of a frame.
    fn run(
        &mut self,
        frame: &mut [u8],
        interface: u32,
        now: Nanos,
        Known { loaded, committed }: Known,
        known: Option<Resolve<'_>>,
    ) -> Ran {
        let known = known.map(RefCell::new);
        let taken =
            |key: &FlowKey| is_taken(self.table.placing(), &self.committing, known.as_ref(), key);
        let comes_back = |key: &FlowKey, interface| self.routes.comes_back(key, interface);
        let env = HostEnv {
            comes_back: self.routes.is_asked().then_some(&comes_back),
            placing: self.table.placing(),
            settings: &self.settings,
            table: &self.table,
            buckets: &self.buckets,
            fragments: &self.fragments,
            rules: &self.rules,
            sets: &self.sets,
            hits: &self.hits,
            reports: (!loaded).then_some(&self.reports),
            stations: &self.stations,
            meters: &self.meters,
            loads: (!loaded).then_some(&self.loads),
            pools: &self.pools,
            taken: known.is_some().then_some(&taken),
            egress: self.routes.egress(frame),
            limit: 0,
            lease: self.lease,
            strict_windows: self.strict_windows,
            now,
            loaded,
            committed,
            beginning: Cell::new(None),
            refused: Cell::new(None),
            occurrences: RefCell::new(Vec::new()),
        };
        let verdict = stage::handle(&env, &mut SliceFrame(frame), interface);
        let (beginning, refused) = (env.beginning.take(), env.refused.take());
        if verdict == Verdict::Forward && self.settings.mode.is_inline() {
            self.clamps.apply(frame, [interface, env.egress]);
        }
        for occurrence in env.occurrences.into_inner() {
            if self.occurrences.len() < MAX_EVENTS {
                self.occurrences.push(occurrence);
                continue;
            }
            match occurrence {
                Occurrence::Flow(_) => self.lost += 1,
                Occurrence::Handled(_) => self.lost_handled += 1,
            }
        }
        let refused = refused.inspect(|(rule, key)| {
            reject::push_refused(&mut self.refused, Refused { rule: rule.number, key: *key });
        });
        Ran { verdict, beginning, refused: refused.map(|(rule, _)| rule) }
    }

    /// Decides a packet that went up, unless its bucket is still on its way: then it waits.
    fn take(
        &mut self,
        mut waiting: Waiting,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) {
        match place_of(self.table.placing(), &self.fragments, now, &mut waiting.frame) {
            Some(place) if self.is_holding(place.bucket) => self.hold(place, waiting),
            Some(Place { key, .. }) if let Some(flow) = self.committing.find(&key) => {
                let bytes = waiting.frame.len();
                let waits = self.committing.push(flow, bytes, waiting);
                self.note_waiting(waits);
            }
            _ => {
                self.decide(waiting, now, false, missing);
            }
        }
    }

    /// The fragments go on whose first one has begun its flow meanwhile.
    fn release_early(&mut self, now: Nanos, missing: Resolve<'_>) {
        let mut early = std::mem::take(&mut self.early);
        let ready = early.take_ready(now, |waiting| self.is_awaited(now, &mut waiting.frame));
        self.early = early;
        for _ in 0..ready.expired {
            self.count(Verdict::Drop(DropReason::FragmentEarly));
        }
        for waiting in ready.packets {
            self.take(waiting, now, missing);
        }
    }

    /// See [`is_awaited`].
    fn is_awaited(&self, now: Nanos, frame: &mut [u8]) -> bool {
        let (node, slot) = (self.settings.node, |bucket| self.bucket(bucket));
        is_awaited((&self.table, &self.fragments, &self.committing), node, slot, now, frame)
    }

    fn note_waiting(&mut self, waits: bool) -> bool {
        if !waits {
            self.count(Verdict::Drop(DropReason::CommitFull));
        }
        waits
    }

    fn is_holding(&self, bucket: BucketId) -> bool {
        let slot = self.bucket(bucket);
        slot.owner == self.settings.node && slot.state == BucketState::Holding
    }

    fn hold(&mut self, place: Place, waiting: Waiting) {
        let bytes = waiting.frame.len();
        for _ in 0..self.held.push(place.bucket, place.hash, bytes, waiting) {
            self.count(Verdict::Drop(DropReason::HoldFull));
        }
    }

    /// Decides a packet; says whether it goes on, or waits for the peers to know its flow.
    fn decide(
        &mut self,
        waiting: Waiting,
        now: Nanos,
        committed: bool,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> bool {
        let Waiting { mut frame, interface, reason } = waiting;
        // A bucket that has moved on since gets no entry any more, one that is on its way none yet.
        if let Some(place) = place_of(self.table.placing(), &self.fragments, now, &mut frame)
            && self.bucket(place.bucket).owner == self.settings.node
            && !self.is_holding(place.bucket)
            && let Some(record) = missing(place.bucket, &place.key)
        {
            self.table.install(&[record], now);
        }
        let known = Known { loaded: true, committed };
        let Ran { verdict, beginning, refused } =
            self.run(&mut frame, interface, now, known, Some(missing));
        if let Some(rule) = refused
            && reject::is_rejected(&self.rules, &rule)
            && let Some(answer) = reject::answer(&self.settings, &mut frame, interface)
        {
            self.count(Verdict::Answer);
            self.released.push((answer, Verdict::Answer));
            return false;
        }
        if let (Verdict::Upcall(UpcallReason::Commit), Some(record)) = (verdict, beginning) {
            let bytes = frame.len();
            let waits = self.committing.begin(record, bytes, Waiting { frame, interface, reason });
            return self.note_waiting(waits);
        }
        if verdict == Verdict::Upcall(UpcallReason::Fragment) {
            let bytes = frame.len();
            if !self.early.push(now, bytes, Waiting { frame, interface, reason }) {
                self.count(Verdict::Drop(DropReason::FragmentFull));
            }
            return false;
        }
        let verdict = match verdict {
            Verdict::Upcall(UpcallReason::Held) => Verdict::Drop(DropReason::HoldDiscarded),
            verdict => verdict,
        };
        self.count(verdict);
        self.released.push((frame, verdict));
        matches!(verdict, Verdict::Forward | Verdict::Pass(_))
    }

    fn count(&mut self, verdict: Verdict) -> Verdict {
        let counter = match verdict {
            Verdict::Forward => Counter::Forwarded as u32,
            Verdict::Pass(_) => Counter::Passed as u32,
            Verdict::Drop(reason) => reason.counter(),
            Verdict::Stack => Counter::Stack as u32,
            Verdict::Answer => Counter::Answered as u32,
            Verdict::Upcall(_) => Counter::Upcall as u32,
            // It was handled in all its stages.
            Verdict::Stage(_) => DropReason::Internal.counter(),
        };
        self.counters[counter as usize] += 1;
        verdict
    }
}

/// What is known of a packet that comes up.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// A miss is a new flow, also in a loading bucket.
    loaded: bool,
    /// The peers know its flow, or nobody waits for that any more.
    committed: bool,
}

impl Datapath for UserDatapath {
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
        self.lease = deadline;
    }

    fn set_strict_windows(&mut self, strict: bool) {
        self.strict_windows = strict;
    }

    fn set_limits(&mut self, limits: Limits) {
        self.meters.limits = limits;
    }

    fn set_rules(&mut self, rules: &[Rule]) -> Result<(), Error> {
        check_rules(rules)?;
        self.rules = rules.to_vec();
        for hits in self.hits.as_slice() {
            hits.store(0, Ordering::Relaxed);
        }
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
        let hits = self.hits.as_slice().iter().take(self.rules.len());
        hits.map(|hits| hits.load(Ordering::Relaxed)).collect()
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
        self.stations.set_local(addresses)
    }

    fn set_peers(&mut self, stations: &[Station]) -> Result<(), Error> {
        self.stations.set_stations(stations)
    }

    fn set_mss_clamps(&mut self, clamps: &HashMap<u32, MostBytes>) -> Result<(), Error> {
        self.clamps = Clamps::new(clamps);
        Ok(())
    }

    fn set_reverse_paths(&mut self, checks: &HashMap<u32, ReversePath>) -> Result<(), Error> {
        self.routes.set_checks(checks);
        Ok(())
    }

    fn drain_events(&mut self, occurrence: &mut dyn FnMut(Occurrence)) -> Drained {
        let mut drained = Drained {
            lost: std::mem::take(&mut self.lost),
            lost_handled: std::mem::take(&mut self.lost_handled),
            ..Drained::default()
        };
        for seen in self.occurrences.drain(..) {
            drained.count(&seen);
            self.meters.note(&self.table.placing().placer, &seen);
            occurrence(seen);
        }
        drained
    }

    fn loads(&self, loads: &mut [BucketLoad]) {
        for (load, words) in loads.iter_mut().zip(self.loads.as_slice().chunks_exact(2)) {
            let [packets, bytes] = [0, 1].map(|at: usize| words[at].load(Ordering::Relaxed));
            *load = BucketLoad { packets, bytes };
        }
    }

    fn handle_upcalls(
        &mut self,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> usize {
        let waiting = std::mem::take(&mut self.upcalls);
        let count = waiting.len();
        for packet in waiting {
            self.take(packet, now, missing);
        }
        self.release_early(now, missing);
        count
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
        for mut packet in std::mem::take(&mut self.upcalls) {
            match place_of(self.table.placing(), &self.fragments, now, &mut packet.frame) {
                Some(place) if packet.reason == UpcallReason::Held && place.bucket == bucket => {
                    self.hold(place, packet);
                }
                _ => self.take(packet, now, resolve),
            }
        }
        let mut released = Released::default();
        for (hash, packet) in self.held.take(bucket) {
            if handled(hash) {
                self.counters[Counter::Skipped as usize] += 1;
                released.skipped += 1;
            } else {
                released.note(self.decide(packet, now, false, resolve));
            }
        }
        released
    }

    fn discard_held(&mut self, bucket: BucketId) -> usize {
        let count = self.held.take(bucket).count();
        self.counters[DropReason::HoldDiscarded.counter() as usize] += count as u64;
        count
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
        let mut released = Released::default();
        for packet in self.committing.take(key) {
            released.note(self.decide(packet, now, true, resolve));
        }
        released
    }

    fn waker(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn lend_in(&self, _directory: &Path) -> Result<(), Error> {
        Ok(())
    }

    fn leave_in(&mut self, _directory: &Path) -> Result<(), Error> {
        // Its memory is this process's: there is nothing that could be left.
        Ok(())
    }

    fn leave_nothing(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn stand_down(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        (0..).zip(self.counters).filter_map(|(i, n)| Some((counter_name(i)?, n))).collect()
    }
}

/// What has become of a frame.
#[derive(Clone, Copy, Debug)]
struct Ran {
    verdict: Verdict,
    /// The flow that would have begun if the peers knew it.
    beginning: Option<FlowRecord>,
    /// The rule that has refused it, if that wants to be told.
    refused: Option<Matched>,
}

/// Refuses more rules than a packet is compared with.
pub(crate) fn check_rules(rules: &[Rule]) -> Result<(), Error> {
    if rules.len() > MAX_RULES as usize {
        return Err(Error::TooManyRules { seen: rules.len() });
    }
    Ok(())
}
