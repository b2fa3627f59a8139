//! The stage of first packets: may a flow begin with this one?
//!
//! [`crate::pipeline::handle`] hands a frame over when no flow is known that it belongs to. Here the rules are asked,
//! and if one lets the flow in, it gets its entry; what its next packets need, the main stage has.
//!
//! Why a stage of its own: a comparison with rules and an insertion take the verifier as many steps as all that
//! known flows need. For one packet of each flow they cost a jump and the headers once more; to all others they
//! cost nothing.
//!
//! Invariant: no flow begins but by a rule that accepts it, and under the lease.

use crate::association;
use crate::bucket::{Epoch, Nanos};
use crate::entry::{FlowRecord, FlowState};
use crate::env::{Env, Frame};
use crate::event::{Event, EventKind};
use crate::flow::Direction;
use crate::meter::{self, Kind};
use crate::pipeline::{admit, count, pass};
use crate::placement::Placement;
use crate::rule::{self, Commit, Links, Matched, Outcome};
use crate::stage::{self, Stage};
use crate::table::{self, Found, Inserted};
use crate::tracking;
use crate::translate;
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::window;
use crate::wire::Headers;

/// Decides what becomes of a frame that the main stage has found to be of no known flow.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F, interface: u32) -> Verdict {
    let headers = match stage::headers(env, frame) {
        Ok(headers) => headers,
        Err(reason) => return Verdict::Drop(reason),
    };
    let place = env.place(&headers);
    let now = env.now();
    let slot = match admit(env, place.bucket, now) {
        Ok(slot) => slot,
        Err(reason) => return Verdict::Drop(reason),
    };
    let found = match open(env, frame, &headers, place, slot.epoch, now, interface) {
        Ok(found) => found,
        Err(verdict) => {
            stage::report(env, frame, place, slot, verdict);
            return verdict;
        }
    };
    // Another CPU has met a packet of the flow meanwhile.
    if let Some(stage) = Stage::of_flow(headers.key.protocol, found.is_translated()) {
        return Verdict::Stage(stage);
    }
    if !env.decides_all() {
        return Verdict::Upcall(UpcallReason::Contended);
    }
    if let Err(reason) = pass(env, frame, &headers, &found, place, slot.epoch, now) {
        return Verdict::Drop(reason);
    }
    stage::report(env, frame, place, slot, Verdict::Forward);
    Verdict::Forward
}

/// Begins a flow with a packet, if one may begin with it, and says what becomes of the packet; or finds that the
/// flow has begun since it was looked for.
#[inline(always)]
pub(crate) fn open<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    headers: &Headers,
    place: Placement,
    epoch: Epoch,
    now: Nanos,
    interface: u32,
) -> Result<Found<E::Slot>, Verdict> {
    // An analyser that is told nothing of connections older than itself would be blind for hours after
    // each start. Nothing is let through by it: in this mode packets are shown, not forwarded.
    let phase = match tracking::first(headers.key.protocol, headers.flags) {
        Some(phase) if !headers.answer => phase,
        _ if !env.mode().is_inline() => tracking::met(headers.key.protocol, headers.flags),
        _ => return Err(Verdict::Drop(DropReason::NotFirst)),
    };
    let (rule, commit) = decide(env, headers, interface)?;
    let state = FlowState { phase, confirmed: false, rule: rule.number, sequence: 1 };
    let (bucket, key) = (place.bucket, headers.key);
    let record = FlowRecord { bucket, epoch, key, state, translation: None };
    // The stack tells its sender, by the packet as it was sent.
    if rule.pool != 0 && headers.hops <= 1 && env.mode().is_inline() {
        return Err(Verdict::Forward);
    }
    if rule.pool != 0 {
        return Err(translate::open(env, place, &record, &rule, commit, now));
    }
    if matches!(commit, Commit::Sync) && !env.may_begin(&rule, &record) {
        return Err(Verdict::Upcall(UpcallReason::Commit));
    }
    if !meter::admits(env, key.initiator.address, Kind::HalfOpen, now) {
        return Err(Verdict::Drop(DropReason::HalfOpenLimit));
    }
    match table::insert(env, place.hash, &record, now) {
        Inserted::New(slot, state, _) => {
            window::begin(env, frame, headers, slot);
            association::begin(env, frame, headers, slot);
            count(slot, Direction::Original, frame.len(), now);
            env.count_rule(rule.index);
            env.emit(&Event { kind: EventKind::Created, record: FlowRecord { state, ..record } });
            Err(Verdict::Forward)
        }
        Inserted::Present(found) => Ok(found),
        Inserted::Full => Err(Verdict::Drop(DropReason::TableFull)),
        Inserted::Busy => Err(Verdict::Upcall(UpcallReason::Contended)),
    }
}

/// The rule that lets the flow in, and whether the peers are to know it before, or what becomes of its packet.
/// A refusal is counted by the rule here, and a flow when it has got its entry; so each counts once, however
/// often its packet is looked at.
#[inline(always)]
fn decide<E: Env>(
    env: &E,
    headers: &Headers,
    interface: u32,
) -> Result<(Matched, Commit), Verdict> {
    let links = Links { input: interface, output: env.egress() };
    let mut first = rule::FirstMatch::new(env, &headers.key, links);
    env.scan_rules(&mut first);
    let Some(rule) = first.matched() else { return Err(Verdict::Drop(DropReason::NoRule)) };
    match rule.outcome {
        Outcome::Accept(commit) => Ok((rule, commit)),
        Outcome::Report if env.may_report(&rule, &headers.key) => {
            Err(Verdict::Upcall(UpcallReason::Refused))
        }
        Outcome::Drop | Outcome::Report => {
            env.count_rule(rule.index);
            Err(Verdict::Drop(DropReason::Rule))
        }
    }
}
