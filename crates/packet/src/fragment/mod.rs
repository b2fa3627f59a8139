//! The stage of fragments: each is handled as its datagram's first fragment would be.
//!
//! Only the first fragment shows ports. What it shows is remembered by what all fragments of the datagram carry
//! ([`table`]), and so a fragment behind it is of the same flow: same bucket, same entry, same translation, same way
//! on. Nothing is reassembled. A packet counts in its flow's counters as many times as it has fragments; the flow's
//! phase is the first one's matter.
//!
//! * A first fragment that is no whole transport header is dropped, and so is each byte that comes a second time:
//!   no receiver can be shown other ports, flags or data than this node has let through (RFC 1858, RFC 3128,
//!   RFC 5722). A fragment that repeats some bytes and not others ends its datagram: the rest is dropped.
//! * A fragment that comes before its first, or before that has begun its flow, goes up and waits a moment
//!   ([`UpcallReason::Fragment`]). A first fragment of no known flow goes up, too: there the flow begins with it.
//! * Who may see which fragments. In `shared` mode every node sees all of them, and remembers what each first
//!   fragment shows, whosever it is. In `steered` mode the router may spread them as it likes. So the datagram, too,
//!   has a bucket (`Spot`), and a node that is given a fragment passes it to the owner of that bucket; the owner
//!   remembers, and passes it to the owner of the flow. That makes two passes at most, plus what a moving bucket
//!   adds ([`reception`]): who has the first role passes on only what is not its own flow's, who has not only what
//!   a peer has not passed to it.
//!
//! Limits: datagrams of which fragments are on their way when the bucket of their `Spot` changes hands may be lost,
//! as may those of a flow that moves in between. An error about a fragment behind the first is dropped.

pub mod table;

use crate::bucket::{BucketSlot, BucketState, Nanos, NodeId};
use crate::env::{Env, Frame};
use crate::flow::{Direction, Protocol};
use crate::open;
use crate::pipeline;
use crate::placement::{Identifiers, PacketType, Placement};
use crate::reception::{self, Mode};
use crate::reverse_path;
use crate::stage::{self, Stage};
use crate::table::{Found, lookup};
use crate::tracking::TcpFlags;
use crate::translate::{self, Share};
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::wire::fragment::{self, Part, Spot};
use crate::wire::{self, Headers, Link};

use table::{Known, Shown};

/// Remembers what a first fragment shows, and hands over all of them.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &F) -> Verdict {
    let (_, part) = match parse(env, frame) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Drop(reason),
    };
    if part.from != 0 {
        return Verdict::Stage(Stage::FragmentFlow);
    }
    let headers = match headers_of(env, frame, &part) {
        Ok(headers) => headers,
        Err(reason) => return Verdict::Drop(reason),
    };
    let placer = env.placer();
    let place = env.place(&headers);
    let Headers { key, flags, answer, .. } = headers;
    let shown = Shown { key, place, flags, answer };
    let spot = part.datagram.spot(&placer);
    match table::note(env, &part.datagram, spot, &shown, env.now()) {
        Some(()) => Verdict::Stage(Stage::FragmentFlow),
        None => Verdict::Upcall(UpcallReason::Contended),
    }
}

/// Decides what becomes of a fragment, if its first one has been seen.
#[inline(always)]
pub fn follow<E: Env, F: Frame>(env: &E, frame: &mut F, interface: u32) -> Verdict {
    let (link, part) = match parse(env, frame) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Drop(reason),
    };
    let now = env.now();
    let spot = part.datagram.spot(&env.placer());
    let meets = match meet(env, frame, &link, interface, spot, now) {
        Ok(meets) => env.opaque(u64::from(meets)) != 0,
        Err(verdict) => return verdict,
    };
    let Some(known) = table::find(env, &part.datagram, spot, now) else {
        return Verdict::Upcall(UpcallReason::Fragment);
    };
    let known = known.opaque(env);
    let place = known.shown.place;
    let slot = match own(env, frame, &link, interface, place, meets, now) {
        Ok(slot) => slot,
        Err(verdict) => return verdict,
    };
    let verdict = decide(env, frame, &part, &known, slot, now, interface);
    stage::report(env, frame, place, slot, verdict);
    verdict
}

/// Decides what becomes of a fragment of a translated flow, and rewrites it. The stage before has marked its bytes;
/// if they were the last ones, what the first fragment had shown is gone, but for [`table::find_done`].
#[inline(always)]
pub fn translate<E: Env, F: Frame>(env: &E, frame: &mut F) -> Verdict {
    let (link, part) = match parse(env, frame) {
        Ok(parsed) => parsed,
        Err(reason) => return Verdict::Drop(reason),
    };
    let now = env.now();
    let (headers, place) = if part.from == 0 {
        let headers = match headers_of(env, frame, &part) {
            Ok(headers) => headers,
            Err(reason) => return Verdict::Drop(reason),
        };
        (headers, env.place(&headers))
    } else {
        let spot = part.datagram.spot(&env.placer());
        match table::find_done(env, &part.datagram, spot, now) {
            Some(known) => (stand_in(&part, &known.shown), known.shown.place),
            None => return Verdict::Drop(DropReason::Internal),
        }
    };
    match pipeline::admit(env, place.bucket, now) {
        Ok(slot) => {
            let share = if part.from == 0 { Share::First } else { Share::Later };
            translate::carry(env, frame, &link, &headers, place, slot, now, share)
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The link header, and what the fragment says of itself.
#[inline(always)]
fn parse<E: Env, F: Frame>(env: &E, frame: &F) -> Result<(Link, Part), DropReason> {
    let link = wire::parse_link(frame)?;
    let part = fragment::parse(frame, &link)?;
    Ok((link, part.opaque(env)))
}

/// The headers of a first fragment, of which the verifier knows nothing more; the addresses are the fragment's, which
/// need not be kept twice.
#[inline(always)]
fn headers_of<E: Env, F: Frame>(env: &E, frame: &F, part: &Part) -> Result<Headers, DropReason> {
    let (protocol, offset) = fragment::transport(frame, part)?;
    let place = env.opaque(u64::from(offset) | u64::from(protocol.0) << 32);
    let transport = (Protocol((place >> 32) as u8), place as u32);
    let headers = fragment::headers(frame, part, transport)?.opaque(env);
    let [.., ports] = headers.key.to_words();
    Ok(Headers { key: part.datagram.flow(ports), ..headers })
}

/// What stands for a fragment's headers: what the first one has shown. One behind it has no flags.
#[inline(always)]
fn stand_in(part: &Part, shown: &Shown) -> Headers {
    let first = part.from == 0;
    Headers {
        key: shown.key,
        packet_type: PacketType::Other,
        identifiers: Identifiers { own: 0, message: 0 },
        flags: TcpFlags(if first { shown.flags.0 } else { 0 }),
        answer: shown.answer,
        hops: part.hops,
        offset: 0,
        bytes: 0,
    }
}

/// In `steered` mode, has a fragment go to the node where those of its datagram meet; says whether this is that node.
#[inline(always)]
fn meet<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    interface: u32,
    spot: Spot,
    now: Nanos,
) -> Result<bool, Verdict> {
    // A node that has lost the majority neither keeps nor passes anything.
    if now >= env.lease() {
        return Err(Verdict::Drop(DropReason::NoLease));
    }
    if !matches!(env.mode(), Mode::Steered) {
        return Ok(false);
    }
    let Some(slot) = env.bucket(spot.bucket) else {
        return Err(Verdict::Drop(DropReason::Internal));
    };
    let node = env.node();
    if slot.owner == node {
        return Ok(true);
    }
    // From the node where they meet, unless that has been this one until now.
    if reception::is_passed(env, link, interface) && slot.previous != node {
        return Ok(false);
    }
    Err(reception::not_ours(env, frame, link, interface, slot, now))
}

/// As [`stage::own`]; but a node where fragments meet passes on what peers have passed to it.
#[inline(always)]
fn own<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    interface: u32,
    place: Placement,
    meets: bool,
    now: Nanos,
) -> Result<BucketSlot, Verdict> {
    if meets
        && let Some(slot) = env.bucket(place.bucket)
        && slot.owner != env.node()
        && slot.owner != NodeId::NONE
    {
        return Err(reception::pass_to(env, frame, link, interface, slot.owner));
    }
    stage::own(env, frame, link, interface, place, now)
}

/// A fragment of a bucket that is this node's to handle.
#[inline(always)]
fn decide<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    part: &Part,
    known: &Known,
    slot: BucketSlot,
    now: Nanos,
    interface: u32,
) -> Verdict {
    if let Some(reason) = known.refusal() {
        return Verdict::Drop(reason);
    }
    let (Shown { place, .. }, first) = (known.shown, part.from == 0);
    let (headers, epoch) = (stand_in(part, &known.shown), slot.epoch);
    let found = match lookup(env, place.hash, &headers.key) {
        Some(found) => hidden(env, found),
        None if matches!(slot.state, BucketState::Loading) => {
            return Verdict::Upcall(UpcallReason::Loading);
        }
        // The first one may be on its way up, where a flow begins with it.
        None if !first || !env.decides_all() => {
            return Verdict::Upcall(UpcallReason::Fragment);
        }
        None if !reverse_path::passes(env, &headers.key, interface) => {
            return begun(env, part, known, Verdict::Drop(DropReason::ReversePath));
        }
        None => match open::open(env, frame, &headers, place, epoch, now, interface) {
            Ok(found) => found,
            Err(verdict) => return begun(env, part, known, verdict),
        },
    };
    // Where numbers of TCP can be judged.
    if first && headers.key.protocol == Protocol::TCP && !env.decides_all() {
        return Verdict::Upcall(UpcallReason::Fragment);
    }
    if let Err(reason) = table::mark(env, known, part) {
        return Verdict::Drop(reason);
    }
    if found.is_translated() {
        return Verdict::Stage(Stage::FragmentTranslate);
    }
    let passed = if first && env.decides_all() {
        headers_of(env, frame, part).and_then(|headers| {
            pipeline::pass_first(env, frame, &headers, &found, place, epoch, now)
        })
    } else if first {
        pipeline::pass_first(env, frame, &headers, &found, place, epoch, now)
    } else {
        pipeline::follow(env, &found, place, now, frame.len())
    };
    match passed {
        Ok(()) => Verdict::Forward,
        Err(reason) => Verdict::Drop(reason),
    }
}

/// The same, of which the verifier knows nothing more ([`Env::opaque`]).
#[inline(always)]
fn hidden<E: Env>(env: &E, found: Found<E::Slot>) -> Found<E::Slot> {
    let reply = env.opaque(u64::from(matches!(found.direction, Direction::Reply)));
    let direction = if reply != 0 { Direction::Reply } else { Direction::Original };
    Found { control: env.opaque(found.control), direction, ..found }
}

/// A first fragment that a flow has begun with, or has not.
#[inline(always)]
fn begun<E: Env>(env: &E, part: &Part, known: &Known, verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Drop(_) => table::refuse(env, known, DropReason::FragmentRefused),
        Verdict::Forward | Verdict::Stage(_) => {
            if let Err(reason) = table::mark(env, known, part) {
                return Verdict::Drop(reason);
            }
        }
        _ => {}
    }
    match verdict {
        Verdict::Stage(_) => Verdict::Stage(Stage::FragmentTranslate),
        verdict => verdict,
    }
}
