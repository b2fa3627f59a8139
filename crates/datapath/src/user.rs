//! The user-space backend: the pipeline over ordinary memory.
//!
//! It runs captures, fuzzers, differential tests and whoever embeds the library without root. It
//! has no interfaces: a frame is given to [`UserDatapath::handle`], and the verdict and the frame are
//! what comes of it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use testudo_packet::bucket::{BucketId, BucketSlot, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::Event;
use testudo_packet::flow::FlowKey;
use testudo_packet::pipeline;
use testudo_packet::rule::{MAX_RULES, Rule};
use testudo_packet::verdict::{COUNTERS, Counter, DropReason, Verdict, counter_name};
use testudo_packet::wire;

use crate::Error;
use crate::frame::SliceFrame;
use crate::host_env::HostEnv;
use crate::interface::{Datapath, Drained};
use crate::memory::Words;
use crate::settings::Settings;
use crate::shared_table::SharedTable;

/// How many packets wait for user space's decision at most; more are dropped and counted.
const MAX_UPCALLS: usize = 1024;

/// How many events wait to be read at most; more are counted as lost.
const MAX_EVENTS: usize = 1 << 17;

/// A node's packet handling in user space.
#[derive(Debug)]
pub struct UserDatapath {
    settings: Settings,
    table: SharedTable,
    buckets: Words,
    rules: Vec<Rule>,
    lease: Nanos,
    events: Vec<Event>,
    lost: u64,
    upcalls: VecDeque<(Vec<u8>, u32)>,
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
        let table = SharedTable::new(slots, shared, 0, settings.placer());
        let buckets = Words::zeroed(settings.buckets as usize).map_err(Error::Memory)?;
        for word in buckets.as_slice() {
            word.store(BucketSlot::VACANT.to_word(), Ordering::Relaxed);
        }
        Ok(Self {
            settings,
            table,
            buckets,
            rules: Vec::new(),
            lease: Nanos(0),
            events: Vec::new(),
            lost: 0,
            upcalls: VecDeque::new(),
            released: Vec::new(),
            counters: [0; COUNTERS as usize],
        })
    }

    /// Handles a frame that came in by this interface. A frame that is answered has become the
    /// answer; one that is forwarded is unchanged, for there are no routes here. One that goes up is
    /// kept for [`Datapath::handle_upcalls`].
    pub fn handle(&mut self, frame: &mut [u8], interface: u32, now: Nanos) -> Verdict {
        let verdict = self.run(frame, interface, now, false);
        if let Verdict::Upcall(_) = verdict {
            if self.upcalls.len() >= MAX_UPCALLS {
                return self.count(Verdict::Drop(DropReason::UpcallFull));
            }
            self.upcalls.push_back((frame.to_vec(), interface));
        }
        self.count(verdict)
    }

    /// The packets that went up and have been decided since the last call, with what was decided.
    pub fn take_released(&mut self) -> Vec<(Vec<u8>, Verdict)> {
        std::mem::take(&mut self.released)
    }

    fn run(&mut self, frame: &mut [u8], interface: u32, now: Nanos, loaded: bool) -> Verdict {
        let env = HostEnv {
            placer: self.settings.placer(),
            settings: &self.settings,
            table: &self.table,
            buckets: &self.buckets,
            rules: &self.rules,
            lease: self.lease,
            now,
            loaded,
            events: RefCell::new(Vec::new()),
        };
        let verdict = pipeline::handle(&env, &mut SliceFrame(frame), interface);
        for event in env.events.into_inner() {
            if self.events.len() < MAX_EVENTS {
                self.events.push(event);
            } else {
                self.lost += 1;
            }
        }
        verdict
    }

    fn count(&mut self, verdict: Verdict) -> Verdict {
        let counter = match verdict {
            Verdict::Forward => Counter::Forwarded as u32,
            Verdict::Drop(reason) => reason.counter(),
            Verdict::Stack => Counter::Stack as u32,
            Verdict::Answer => Counter::Answered as u32,
            Verdict::Upcall(_) => Counter::Upcall as u32,
        };
        self.counters[counter as usize] += 1;
        verdict
    }
}

/// The bucket and flow of a frame, if it is a packet that has them.
pub(crate) fn flow_of(settings: &Settings, frame: &mut [u8]) -> Option<(BucketId, FlowKey)> {
    let frame = SliceFrame(frame);
    let link = wire::parse_link(&frame).ok()?;
    let headers = wire::parse(&frame, &link).ok()?;
    let place = settings.placer().place(&headers.key, headers.packet_type, headers.identifiers);
    Some((place.bucket, headers.key))
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

    fn set_rules(&mut self, rules: &[Rule]) -> Result<(), Error> {
        check_rules(rules)?;
        self.rules = rules.to_vec();
        Ok(())
    }

    fn drain_events(&mut self, event: &mut dyn FnMut(Event)) -> Drained {
        let drained = Drained { events: self.events.len(), lost: std::mem::take(&mut self.lost) };
        self.events.drain(..).for_each(event);
        drained
    }

    fn handle_upcalls(
        &mut self,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> usize {
        let waiting = std::mem::take(&mut self.upcalls);
        let count = waiting.len();
        for (mut frame, interface) in waiting {
            if let Some((bucket, key)) = flow_of(&self.settings, &mut frame)
                && self.bucket(bucket).owner == self.settings.node
                && let Some(record) = missing(bucket, &key)
            {
                use crate::interface::NodeTable;
                self.table.install(&[record], now);
            }
            let verdict = self.run(&mut frame, interface, now, true);
            let verdict = self.count(verdict);
            self.released.push((frame, verdict));
        }
        count
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        (0..).zip(self.counters).filter_map(|(i, n)| Some((counter_name(i)?, n))).collect()
    }
}

/// Refuses more rules than a packet is compared with.
pub(crate) fn check_rules(rules: &[Rule]) -> Result<(), Error> {
    if rules.len() > MAX_RULES as usize {
        return Err(Error::TooManyRules { seen: rules.len() });
    }
    Ok(())
}
