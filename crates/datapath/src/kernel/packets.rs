//! Packets that came up: the host build of the pipeline over the same table, and the way out.
//!
//! A packet whose bucket is on its way here waits ([`crate::held`]), and so does one that begins a flow
//! which the peers are to know before ([`crate::committing`]), or a fragment that comes before the first of its
//! packet ([`crate::early`]). All others are decided at once.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use testudo_packet::bucket::{BucketId, BucketState, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::{Address, FlowKey};
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::reception::Mode;
use testudo_packet::rule::note_report;
use testudo_packet::stage;
use testudo_packet::verdict::{Counter, DropReason, UpcallReason, Verdict};
use testudo_packet::wire;

use super::{KernelDatapath, shared, upcall, upcall::Upcall};
use crate::committing::{Resolve, is_taken};
use crate::early::is_awaited;
use crate::frame::SliceFrame;
use crate::held::Released;
use crate::host_env::HostEnv;
use crate::interface::{Datapath, NodeTable, Refused};
use crate::place::{Place, place_of};
use crate::reject;

/// How many packets the ring can hold that takes them up, and a few: one release reads no more.
const MAX_WAITING: usize = 4096;

impl KernelDatapath {
    /// Handles one packet that came up, or lets it wait.
    pub(super) fn take(&mut self, mut upcall: Upcall, now: Nanos, missing: Resolve<'_>) {
        match place_of(self.table.placing(), &self.fragments, now, &mut upcall.packet) {
            Some(place) if self.is_holding(place.bucket) => self.hold(place, upcall),
            Some(Place { key, .. }) if let Some(flow) = self.committing.find(&key) => {
                let bytes = upcall.packet.len();
                let waits = self.committing.push(flow, bytes, upcall);
                self.note_waiting(waits);
            }
            place => {
                self.decide(upcall, place, now, false, missing);
            }
        }
    }

    /// The fragments go on whose first one has begun its flow meanwhile.
    pub(super) fn release_early(&mut self, now: Nanos, missing: Resolve<'_>) {
        let mut early = std::mem::take(&mut self.early);
        let ready = early.take_ready(now, |upcall| self.is_awaited(now, &mut upcall.packet));
        self.early = early;
        self.count(DropReason::FragmentEarly.counter(), ready.expired);
        for upcall in ready.packets {
            self.take(upcall, now, missing);
        }
    }

    /// See [`is_awaited`].
    fn is_awaited(&self, now: Nanos, frame: &mut [u8]) -> bool {
        let (node, slot) = (self.settings.node, |bucket| self.bucket(bucket));
        is_awaited((&self.table, &self.fragments, &self.committing), node, slot, now, frame)
    }

    fn note_waiting(&self, waits: bool) -> bool {
        if !waits {
            self.count(DropReason::CommitFull.counter(), 1);
        }
        waits
    }

    /// See [`Datapath::release_committed`].
    pub(super) fn commit(&mut self, now: Nanos, key: &FlowKey, resolve: Resolve<'_>) -> Released {
        let mut released = Released::default();
        for mut upcall in self.committing.take(key) {
            let place = place_of(self.table.placing(), &self.fragments, now, &mut upcall.packet);
            released.note(self.decide(upcall, place, now, true, resolve));
        }
        released
    }

    fn is_holding(&self, bucket: BucketId) -> bool {
        let slot = self.bucket(bucket);
        slot.owner == self.settings.node && slot.state == BucketState::Holding
    }

    fn hold(&mut self, place: Place, upcall: Upcall) {
        let bytes = upcall.packet.len();
        let without_room = self.held.push(place.bucket, place.hash, bytes, upcall);
        self.count(DropReason::HoldFull.counter(), without_room as u64);
    }

    fn count(&self, counter: u32, packets: u64) {
        let counts = &self.shared.as_slice()[shared::OWN_COUNTS..];
        counts[counter as usize].fetch_add(packets, Ordering::Relaxed);
    }

    /// See [`Datapath::release_held`]. What is still in the ring came before what waits for nothing, so
    /// it is read first.
    pub(super) fn release(
        &mut self,
        now: Nanos,
        bucket: BucketId,
        handled: &mut dyn FnMut(PacketHash) -> bool,
        resolve: Resolve<'_>,
    ) -> Released {
        for _ in 0..MAX_WAITING {
            let Some(mut upcall) = self.upcalls.next().and_then(|item| upcall::read(&item)) else {
                break;
            };
            match place_of(self.table.placing(), &self.fragments, now, &mut upcall.packet) {
                Some(place)
                    if upcall.reason == Some(UpcallReason::Held) && place.bucket == bucket =>
                {
                    self.hold(place, upcall);
                }
                _ => self.take(upcall, now, resolve),
            }
        }
        let mut released = Released::default();
        for (hash, mut upcall) in self.held.take(bucket) {
            if handled(hash) {
                self.count(Counter::Skipped as u32, 1);
                released.skipped += 1;
                continue;
            }
            let place = place_of(self.table.placing(), &self.fragments, now, &mut upcall.packet);
            released.note(self.decide(upcall, place, now, false, resolve));
        }
        released
    }

    /// See [`Datapath::discard_held`].
    pub(super) fn discard(&mut self, bucket: BucketId) -> usize {
        let packets = self.held.take(bucket).count();
        self.count(DropReason::HoldDiscarded.counter(), packets as u64);
        packets
    }

    /// Handles a packet; says whether it was sent on, or waits for the peers to know its flow.
    fn decide(
        &mut self,
        upcall: Upcall,
        place: Option<Place>,
        now: Nanos,
        committed: bool,
        missing: Resolve<'_>,
    ) -> bool {
        // A bucket that has moved on since gets no entry any more, one that is on its way none yet.
        if let Some(place) = place
            && self.bucket(place.bucket).owner == self.settings.node
            && !self.is_holding(place.bucket)
            && let Some(record) = missing(place.bucket, &place.key)
        {
            self.table.install(&[record], now);
        }
        let mut upcall = upcall;
        let goes_to = route_of(&mut upcall.packet);
        let (verdict, beginning) = self.run(&mut upcall, now, committed, missing);
        if route_of(&mut upcall.packet) != goes_to {
            // It was looked up for the packet as it came.
            upcall.next_hop = None;
        }
        if let (Verdict::Upcall(UpcallReason::Commit), Some(record)) = (verdict, beginning) {
            let bytes = upcall.packet.len();
            let waits = self.committing.begin(record, bytes, upcall);
            return self.note_waiting(waits);
        }
        if verdict == Verdict::Upcall(UpcallReason::Fragment) {
            let bytes = upcall.packet.len();
            if !self.early.push(now, bytes, upcall) {
                self.count(DropReason::FragmentFull.counter(), 1);
            }
            return false;
        }
        let (counter, sent) = self.carry_out(&mut upcall, verdict);
        self.count(counter, 1);
        sent
    }

    /// What becomes of a packet, and the flow that would have begun if the peers knew it.
    fn run(
        &mut self,
        upcall: &mut Upcall,
        now: Nanos,
        committed: bool,
        known: Resolve<'_>,
    ) -> (Verdict, Option<FlowRecord>) {
        let known = RefCell::new(known);
        let taken =
            |key: &FlowKey| is_taken(self.table.placing(), &self.committing, Some(&known), key);
        let refused = |_: &FlowKey, _: u32| false;
        let env = HostEnv {
            comes_back: (!upcall.comes_back).then_some(&refused),
            placing: self.table.placing(),
            settings: &self.settings,
            table: &self.table,
            buckets: &self.buckets,
            fragments: &self.fragments,
            rules: &self.rules,
            sets: &self.sets,
            hits: &self.own_hits,
            reports: None,
            stations: &self.stations,
            meters: &self.meters,
            loads: None,
            pools: &self.pools,
            taken: Some(&taken),
            strict_windows: self.shared.as_slice()[shared::LOOSE_WINDOWS].load(Ordering::Acquire)
                == 0,
            egress: upcall.egress,
            limit: upcall.limit,
            lease: Nanos(self.shared.as_slice()[shared::LEASE].load(Ordering::Acquire)),
            now,
            loaded: true,
            committed,
            beginning: Cell::new(None),
            refused: Cell::new(None),
            occurrences: RefCell::new(Vec::new()),
        };
        let verdict = stage::handle(&env, &mut SliceFrame(&mut upcall.packet), upcall.interface);
        let (beginning, refused) = (env.beginning.take(), env.refused.take());
        self.own_occurrences.extend(env.occurrences.into_inner());
        if verdict == Verdict::Upcall(UpcallReason::TooLarge) {
            return (self.tell_limit(upcall, now), beginning);
        }
        let Some((rule, key)) = refused else { return (verdict, beginning) };
        reject::push_refused(&mut self.refused, Refused { rule: rule.number, key });
        if reject::is_rejected(&self.rules, &rule)
            && let Some(answer) =
                reject::answer(&self.settings, &mut upcall.packet, upcall.interface)
        {
            upcall.packet = answer;
            return (Verdict::Answer, beginning);
        }
        (verdict, beginning)
    }

    /// Tells the sender of a packet how large one may be; not more often than senders are told of refusals.
    fn tell_limit(&mut self, upcall: &mut Upcall, now: Nanos) -> Verdict {
        let next = note_report(self.told, now);
        let told = next.and_then(|next| {
            self.told = next;
            let Upcall { packet, interface, limit, .. } = upcall;
            reject::too_large(&self.settings, packet, *interface, *limit)
        });
        let Some(answer) = told else { return Verdict::Drop(DropReason::TooLarge) };
        upcall.packet = answer;
        Verdict::Answer
    }

    /// Does what was decided; says how it is counted, and whether the packet was sent.
    fn carry_out(&self, upcall: &mut Upcall, verdict: Verdict) -> (u32, bool) {
        let sent = match (verdict, self.settings.mode) {
            (Verdict::Forward, Mode::Tap { interface }) => {
                self.sender.send_as_is(&upcall.packet, interface).map(|()| Counter::Forwarded)
            }
            (Verdict::Forward, _) => {
                self.clamps.apply(&mut upcall.packet, [upcall.interface, upcall.egress]);
                self.sender.send(&mut upcall.packet, upcall.next_hop)
            }
            (Verdict::Pass(_), _) => {
                self.sender.send_as_is(&upcall.packet, upcall.interface).map(|()| Counter::Passed)
            }
            (Verdict::Drop(reason), _) => return (reason.counter(), false),
            (Verdict::Upcall(UpcallReason::Held), _) => {
                return (DropReason::HoldDiscarded.counter(), false);
            }
            // What comes up is a packet of an owned bucket; a lock that is held again is given up on.
            (Verdict::Upcall(_), _) => return (DropReason::UpcallFull.counter(), false),
            // Made here, of a packet that a rule rejects. The stack knows the way back, also if another node
            // has passed the packet here.
            (Verdict::Answer, _) => match self.sender.send_by_stack(&mut upcall.packet) {
                Ok(()) => return (Counter::Answered as u32, false),
                Err(error) => Err(error),
            },
            (Verdict::Stack | Verdict::Stage(_), _) => {
                return (DropReason::Internal.counter(), false);
            }
        };
        match sent {
            Ok(counter) => (counter as u32, true),
            Err(error) => {
                tracing::debug!(%error, "a packet that came up could not be sent on");
                (DropReason::NoRoute.counter(), false)
            }
        }
    }
}

/// Where a packet goes to.
fn route_of(packet: &mut [u8]) -> Option<Address> {
    let frame = SliceFrame(packet);
    let link = wire::parse_link(&frame).ok()?;
    wire::destination(&frame, &link)
}
