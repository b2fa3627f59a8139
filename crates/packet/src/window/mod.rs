//! TCP windows: which segments can be of a connection, as seen from between its ends.
//!
//! An end sends only what the other one has made room for, and acknowledges only what the other one has sent. A node
//! that sees both knows the bounds of all four numbers (Rooij, "Real stateful TCP packet filtering in IP Filter",
//! 2001; RFC 9293 §3.10.7.4 for the ends' own view; RFC 7323 for windows that are shifted). For a segment of one end,
//! with what the other has said:
//!
//! * it begins no later than the other has made room for;
//! * it ends no earlier than a window of the other before what was sent already: older data was acknowledged;
//! * it acknowledges nothing that the other has not sent;
//! * it acknowledges no less than a window of its own before what the other has sent.
//!
//! What lies outside is dropped ([`DropReason::OutOfWindow`]). The rules are in `judge`, what is remembered in `side`.
//! SACK blocks (RFC 2018) are not read: a selective acknowledgement comes with a cumulative one, which lies within
//! the bounds also while data is missing, for the other end can't be further than a window beyond it. Checksums are
//! not looked at: a sum over a packet of any length is a loop that the verifier has to follow.
//!
//! # What a node has not seen
//!
//! Windows are not told to peers: they change with each packet, and whoever takes a flow over learns them from the
//! next ones. Until then a segment is never refused for its numbers. What is learned counts once [`AGREED`] packets
//! of each direction in a row have agreed with it: data that another node has let through may still be
//! acknowledged here. The shift of windows is said in SYNs only; without them it is taken for the largest.
//!
//! # Concurrency
//!
//! The two directions of a flow may be handled by two CPUs at once. Each has two words of the slot, and a packet
//! changes those of its own direction only. Two packets of one direction at once are rare (its packets come by one
//! queue, but for those that user space decides): the first word is changed by compare-and-swap and holds maxima, so
//! none is lost but after a few others; the second may lose the change of one packet, which the next one of this
//! direction says again. A handshake that begins anew writes both directions' words. A packet of the old connection
//! that is in the pipeline at this moment may write its own over them; the answer to the new SYN puts that right.

mod judge;
mod side;
#[cfg(test)]
mod tests;

pub use judge::{Course, Judged, Other, Scene, judge};
pub use side::{AGREED, Marks, Side};

use crate::bucket::Epoch;
use crate::entry::FlowState;
use crate::env::{Env, Frame};
use crate::flow::{Direction, Protocol};
use crate::table::{Found, Slot, word};
use crate::tracking::Phase;
use crate::verdict::DropReason;
use crate::wire::Headers;
use crate::wire::segment::Segment;

const ORIGINAL: usize = word::ORIGINAL_WINDOW;
const REPLY: usize = word::REPLY_WINDOW;

/// The low half of [`word::EPOCH`].
const EPOCH: u64 = 0xffff_ffff;

/// How often a direction's numbers are tried to be written against other packets of this direction.
const TRIES: u32 = 3;

/// What the numbers of a packet of a known flow say: whether it may go on, and what its flags are worth then. What
/// they teach is remembered.
#[inline(always)]
pub(crate) fn check<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    headers: &Headers,
    found: &Found<E::Slot>,
) -> Result<Course, DropReason> {
    // An analyser is shown what there is, and by the order in which copies of packets come.
    if headers.key.protocol != Protocol::TCP || !env.mode().is_inline() {
        return Ok(Course::ByFlags);
    }
    // A flow that has been taken out since it was found: its packet was let in before.
    let state = FlowState::from_word(found.slot.load::<{ word::STATE }>());
    let Some(state) = state else { return Ok(Course::ByFlags) };
    let segment = Segment::read(env, frame, headers).ok_or(DropReason::Truncated)?;
    let (own, other) = load(found.slot, found.direction);
    let epoch = found.slot.load::<{ word::EPOCH }>();
    let last_syn = (epoch >> 32) as u32;
    let meeting = u64::from(state.confirmed)
        | u64::from(matches!(found.direction, Direction::Original)) << 1
        | u64::from(env.strict_windows()) << 2;
    let meeting = env.opaque(meeting);
    let phase = Phase::from_bits(env.opaque(state.phase as u64) as u8).unwrap_or(state.phase);
    let direction = if meeting & 2 != 0 { Direction::Original } else { Direction::Reply };
    let (confirmed, strict) = (meeting & 1 != 0, meeting & 4 != 0);
    let scene = Scene { phase, confirmed, direction, strict, own, other, last_syn };
    let judged = judge(&scene, &segment, |number| env.opaque(number))?.opaque(env);
    if judged.last_syn != last_syn {
        // If another packet has changed the epoch meanwhile, the SYN is not remembered.
        let next = u64::from(judged.last_syn) << 32 | epoch & EPOCH;
        found.slot.compare_exchange::<{ word::EPOCH }>(epoch, next);
    }
    match found.direction {
        Direction::Original => {
            write::<_, ORIGINAL, { ORIGINAL + 1 }>(found.slot, own, judged.own);
            begin_other::<_, REPLY, { REPLY + 1 }>(found.slot, &judged);
        }
        Direction::Reply => {
            write::<_, REPLY, { REPLY + 1 }>(found.slot, own, judged.own);
            begin_other::<_, ORIGINAL, { ORIGINAL + 1 }>(found.slot, &judged);
        }
    }
    Ok(judged.course)
}

/// Remembers the SYN that a flow begins with.
#[inline(always)]
pub(crate) fn begin<E: Env, F: Frame>(env: &E, frame: &F, headers: &Headers, slot: E::Slot) {
    // What stands for the headers of a fragment does not say where they are.
    if headers.key.protocol != Protocol::TCP || !env.mode().is_inline() || headers.offset == 0 {
        return;
    }
    if let Some(segment) = Segment::read(env, frame, headers) {
        set::<_, ORIGINAL, { ORIGINAL + 1 }>(slot, Side::opened(&segment));
        let epoch = slot.load::<{ word::EPOCH }>() & EPOCH;
        slot.store::<{ word::EPOCH }>(u64::from(segment.end) << 32 | epoch);
    }
}

/// Writes the epoch of a flow's state, beside which the last SYN is kept. A SYN that comes in the same moment may be
/// forgotten.
#[inline(always)]
pub(crate) fn write_epoch<S: Slot>(slot: S, epoch: Epoch) {
    let last_syn = slot.load::<{ word::EPOCH }>() & !EPOCH;
    slot.store::<{ word::EPOCH }>(last_syn | u64::from(epoch.0));
}

/// Forgets what the segments of the flow in a slot have said.
pub fn forget<S: Slot>(slot: S) {
    set::<_, ORIGINAL, { ORIGINAL + 1 }>(slot, Side::default());
    set::<_, REPLY, { REPLY + 1 }>(slot, Side::default());
}

/// What the packets of one direction and of the other have said.
#[inline(always)]
fn load<S: Slot>(slot: S, direction: Direction) -> (Side, Side) {
    let original = Side { numbers: slot.load::<ORIGINAL>(), rest: slot.load::<{ ORIGINAL + 1 }>() };
    let reply = Side { numbers: slot.load::<REPLY>(), rest: slot.load::<{ REPLY + 1 }>() };
    match direction {
        Direction::Original => (original, reply),
        Direction::Reply => (reply, original),
    }
}

#[inline(always)]
fn set<S: Slot, const A: usize, const B: usize>(slot: S, side: Side) {
    slot.store::<A>(side.numbers);
    slot.store::<B>(side.rest);
}

/// Writes what becomes of the end that a segment is sent to.
#[inline(always)]
fn begin_other<S: Slot, const A: usize, const B: usize>(slot: S, judged: &Judged) {
    match judged.other {
        Other::Kept => {}
        Other::Forgotten => set::<S, A, B>(slot, Side::default()),
        Other::Begun => set::<S, A, B>(slot, Side::begun(judged.last_syn)),
    }
}

/// Writes what is known of a segment's sender. If another packet of this direction has changed the numbers
/// meanwhile, the later of both count.
#[inline(always)]
fn write<S: Slot, const A: usize, const B: usize>(slot: S, seen: Side, side: Side) {
    if seen.rest != side.rest {
        slot.store::<B>(side.rest);
    }
    let (mut seen, mut next) = (seen.numbers, side.numbers);
    for _ in 0..TRIES {
        if seen == next || slot.compare_exchange::<A>(seen, next) {
            return;
        }
        seen = slot.load::<A>();
        let end = judge::later(seen as u32, side.end());
        let edge = judge::later((seen >> 32) as u32, side.edge());
        next = end as u64 | (edge as u64) << 32;
    }
}
