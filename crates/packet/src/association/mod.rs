//! The stage of SCTP: which packets can be of an association, and what becomes of the others (RFC 9260).
//!
//! An association has two verification tags: each end names one when it opens, and every packet to it carries that. So a
//! stranger who knows the addresses and ports of an association can't end it or have anything delivered, and neither does
//! such a packet go on here, or do anything to the flow ([`DropReason::BadTag`]). The rules are in `judge`.
//!
//! The life of an association is that of a connection of TCP, and its phases are told by the same names
//! ([`crate::tracking::Phase`]): INIT, INIT ACK and COOKIE ECHO are the handshake, SHUTDOWN and SHUTDOWN ACK close a side
//! each, SHUTDOWN COMPLETE is the last acknowledgement, ABORT a reset. A path that an end tries beside the first one begins
//! with a HEARTBEAT; it is a flow of its own, of which both ends have spoken once that is acknowledged.
//!
//! Tags are not told to peers. Whoever takes a flow over learns them from its packets, as it does with windows, and until
//! [`SURE`] packets of a direction in a row have had the same tag it refuses none of that direction, and lets none end it.
//!
//! Checksums are not looked at, as everywhere; where the ports of a translated flow change, the checksum changes by what
//! that changes ([`crate::crc32c`]).
//!
//! Why a stage of its own: chunks are a loop, and a checksum of this kind is another; the verifier would follow both for
//! each packet of TCP.
//!
//! # Limits
//!
//! Addresses that an INIT names beside its own are not read: a second path needs a rule that lets it in. Fragments of an
//! SCTP packet begin no flow, make no step and are not judged by their tag, and those of a flow whose ports are
//! translated are dropped: their checksum covers a length that the first one does not say. SCTP avoids fragmentation by
//! itself (RFC 9260 §6.9).

mod judge;
#[cfg(test)]
mod tests;

pub use judge::{Judged, SURE, Scene, Side, judge};

use crate::crc32c;
use crate::entry::{FlowState, Translation};
use crate::env::{Env, Frame};
use crate::flow::{Direction, FlowKey, Protocol};
use crate::pipeline;
use crate::stage;
use crate::table::{self, Found, Slot, word};
use crate::tracking::TcpFlags;
use crate::translate::{self, Met};
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::window::Course;
use crate::wire::sctp::Packet;
use crate::wire::{self, Headers, Link};

const ORIGINAL: usize = word::ORIGINAL_WINDOW;
const REPLY: usize = word::REPLY_WINDOW;

/// Decides what becomes of a packet of SCTP that another stage has found to be of a known flow, translated or not.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F) -> Verdict {
    let link = match wire::parse_link(frame) {
        Ok(link) => link,
        Err(reason) => return Verdict::Drop(reason),
    };
    let headers = match wire::parse(frame, &link) {
        Ok(headers) => headers.opaque(env),
        Err(reason) => return Verdict::Drop(reason),
    };
    let place = env.place(&headers);
    let now = env.now();
    let slot = match pipeline::admit(env, place.bucket, now) {
        Ok(slot) => slot,
        Err(reason) => return Verdict::Drop(reason),
    };
    // It may have been taken out since.
    let Some(half) = table::lookup(env, place.hash, &headers.key) else {
        return Verdict::Drop(DropReason::NotFirst);
    };
    let (found, met) = if half.is_translated() {
        match Met::of(env, half) {
            Some(met) => (met.found, Some(met)),
            None => return Verdict::Drop(DropReason::Untranslated),
        }
    } else {
        (half, None)
    };
    let too_large = met.is_some() && translate::exceeds(env, frame, &link, &found);
    if too_large && !env.decides_all() {
        return Verdict::Upcall(UpcallReason::TooLarge);
    }
    let epoch = match pipeline::bound(env, &found, place, slot.epoch, now) {
        Ok(epoch) => epoch,
        Err(reason) => return Verdict::Drop(reason),
    };
    let (flags, course) = match check(env, frame, &headers, &found) {
        Ok(judged) => judged,
        Err(reason) => return Verdict::Drop(reason),
    };
    pipeline::go_on(env, frame.len(), flags, &found, epoch, course, now);
    stage::report(env, frame, place, slot, Verdict::Forward);
    // Without a hop left, the stack tells the sender, by the packet as it was sent.
    let Some(met) = met.filter(|_| headers.hops > 1) else { return Verdict::Forward };
    if too_large {
        return Verdict::Upcall(UpcallReason::TooLarge);
    }
    let Some((from, to)) = met.endpoints() else { return Verdict::Drop(DropReason::Untranslated) };
    match rewrite(env, frame, &link, &Headers { key: from, ..headers }, &to) {
        Some(()) => Verdict::Forward,
        None => Verdict::Drop(DropReason::Internal),
    }
}

/// What a packet of a known flow does to it; an error if it can't be of it. What it teaches is remembered.
#[inline(always)]
fn check<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    headers: &Headers,
    found: &Found<E::Slot>,
) -> Result<(TcpFlags, Course), DropReason> {
    let packet = Packet::read(env, frame, headers)?;
    // An analyser is shown what there is, and by the order in which copies of packets come.
    if !env.mode().is_inline() {
        return Ok((packet.flags, Course::ByFlags));
    }
    let state = FlowState::from_word(found.slot.load::<{ word::STATE }>());
    let Some(state) = state else { return Ok((packet.flags, Course::Stay)) };
    let original =
        Side::from_words(found.slot.load::<ORIGINAL>(), found.slot.load::<{ ORIGINAL + 1 }>());
    let reply = Side::from_words(found.slot.load::<REPLY>(), found.slot.load::<{ REPLY + 1 }>());
    let (direction, strict) = (found.direction, env.strict_windows());
    let (own, other) = match direction {
        Direction::Original => (original, reply),
        Direction::Reply => (reply, original),
    };
    let judged = judge(&Scene { phase: state.phase, direction, strict, own, other }, &packet)?;
    let judged = judged.opaque(env);
    match direction {
        Direction::Original => {
            write::<_, ORIGINAL, { ORIGINAL + 1 }>(found.slot, own, judged.own);
            write::<_, REPLY, { REPLY + 1 }>(found.slot, other, judged.other);
        }
        Direction::Reply => {
            write::<_, REPLY, { REPLY + 1 }>(found.slot, own, judged.own);
            write::<_, ORIGINAL, { ORIGINAL + 1 }>(found.slot, other, judged.other);
        }
    }
    Ok((packet.flags, judged.course))
}

/// Remembers what the first packet of a flow says of tags.
#[inline(always)]
pub(crate) fn begin<E: Env, F: Frame>(env: &E, frame: &F, headers: &Headers, slot: E::Slot) {
    if headers.key.protocol != Protocol::SCTP || !env.mode().is_inline() || headers.offset == 0 {
        return;
    }
    let at = headers.offset;
    let Some(tag) = frame.u32(at + 4) else { return };
    let begun = if headers.flags.has(TcpFlags::SYN) {
        let Some(initiate) = frame.u32(at + wire::sctp::HEADER + 4) else { return };
        [Side::default(), Side::sure(initiate)]
    } else {
        [Side::met(tag), Side::default()]
    };
    write::<_, ORIGINAL, { ORIGINAL + 1 }>(slot, Side::default(), begun[0]);
    write::<_, REPLY, { REPLY + 1 }>(slot, Side::default(), begun[1]);
}

/// Writes what is known of a direction. Its packets come by one queue, and what the other direction's say of it they say
/// when the association begins.
#[inline(always)]
fn write<S: Slot, const A: usize, const B: usize>(slot: S, seen: Side, next: Side) {
    let (seen, next) = (seen.to_words(), next.to_words());
    if seen.0 != next.0 {
        slot.store::<A>(next.0);
    }
    if seen.1 != next.1 {
        slot.store::<B>(next.1);
    }
}

/// Gives a packet other endpoints. Its checksum does not cover the addresses.
#[inline(always)]
fn rewrite<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    headers: &Headers,
    to: &Translation,
) -> Option<()> {
    let (at, FlowKey { initiator, responder, .. }) = (headers.offset, headers.key);
    let ports = |source: u16, destination: u16| u32::from(source) << 16 | u32::from(destination);
    let before = ports(initiator.port, responder.port);
    let after = ports(to.source.port, to.destination.port);
    if before != after {
        let by = crc32c::change(before ^ after, headers.bytes, |number| env.opaque(number));
        let checksum = frame.u32(at + 8)? ^ by;
        frame.set_u32(at, after)?;
        frame.set_u32(at + 8, checksum)?;
    }
    translate::rewrite_addresses(env, frame, link, &headers.key, to)?;
    Some(())
}
