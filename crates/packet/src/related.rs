//! ICMP errors: whose they are, and which of them go on.
//!
//! A router or host that can't deliver a packet tells its sender, and quotes the packet's first bytes
//! (RFC 792, RFC 4443 §3). So an error belongs to the flow of the packet that it quotes: to that flow's
//! bucket, by the same grounds, and to the node that owns it. It goes on if that flow is in the node table,
//! and if it goes to whoever sent the quoted packet; nothing else that calls itself an error does.
//!
//! Invariant: an error changes nothing of its flow: no phase, no timer, no counter, and no event tells of it.
//!
//! Why so little. Anybody who can guess a flow's endpoints can make an error that quotes it (RFC 5927). If
//! it ended a flow, or confirmed one, a stranger could do that; the ends look at sequence numbers, of which
//! nothing is known here, and it is theirs to give up. If it kept a flow alive, a flow whose other end is
//! gone would stay. So say RFC 5382 REQ-10, RFC 4787 REQ-12 and RFC 5508 REQ-6 of translators, which hold
//! the same kind of state. And a flow's counters are of its own packets, whichever way they travel; an
//! error comes from a third party. As load of its bucket it is counted like each packet that this node has
//! to handle.
//!
//! The checksum is not looked at, though a translator should drop an error whose is wrong (RFC 5508
//! REQ-3): a sum over a packet of any length is a loop that the verifier has to follow, its receiver asks
//! anyway, and what changes quoted headers keeps a right checksum right and a wrong one wrong if it
//! corrects it by what it changes (RFC 1624).
//!
//! Limits: an error about a fragment behind the first has no ports to go by and is dropped. A quote that
//! does not reach the cookie of ISAKMP is placed as plain UDP, which may be another bucket than its flow's;
//! there it is unrelated. In `tap` mode an error about a flow that is not shown is not shown either.

use crate::bucket::{BucketSlot, BucketState, Nanos};
use crate::env::{Env, Frame};
use crate::pipeline::admit;
use crate::placement::Placement;
use crate::stage;
use crate::table::{self, Control, Found};
use crate::translate;
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::wire::{self, quote};

/// Decides what becomes of an ICMP error that the main stage has handed over.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F, interface: u32) -> Verdict {
    let link = match wire::parse_link(frame) {
        Ok(link) => link,
        Err(reason) => return Verdict::Drop(reason),
    };
    let error = match quote::parse_error(frame, &link) {
        Ok(error) => error.opaque(env),
        Err(reason) => return Verdict::Drop(reason),
    };
    let quoted = match quote::parse(frame, &error) {
        Ok(quoted) => quoted.opaque(env),
        Err(reason) => return Verdict::Drop(reason),
    };
    let place = env.place(&quoted);
    let now = env.now();
    let slot = match stage::own(env, frame, &link, interface, place, now) {
        Ok(slot) => slot,
        Err(verdict) => return verdict,
    };
    let found = table::lookup(env, place.hash, &quoted.key);
    let verdict = match decide(env, &found, place, slot, now) {
        Verdict::Forward
            if found.is_some_and(|found| found.is_translated()) && !env.decides_all() =>
        {
            Verdict::Upcall(UpcallReason::Translate)
        }
        verdict => verdict,
    };
    stage::report(env, frame, place, slot, verdict);
    if !env.decides_all() {
        return verdict;
    }
    let translated =
        found.filter(|found| matches!(verdict, Verdict::Forward) && found.is_translated());
    let Some(half) = translated else { return verdict };
    match translate::turned(env, &half) {
        Some(turned) => match translate::turn_error(env, frame, &link, &error, &quoted, &turned) {
            Some(()) => Verdict::Forward,
            None => Verdict::Drop(DropReason::Truncated),
        },
        None => Verdict::Drop(DropReason::Unrelated),
    }
}

/// An error about a packet of a bucket that is this node's to handle, and of this flow. The flow was found in the
/// direction of the quoted packet; the error travels the other way.
#[inline(always)]
fn decide<E: Env>(
    env: &E,
    found: &Option<Found<E::Slot>>,
    place: Placement,
    slot: BucketSlot,
    now: Nanos,
) -> Verdict {
    let Some(found) = found else {
        return if slot.state == BucketState::Loading {
            Verdict::Upcall(UpcallReason::Loading)
        } else {
            Verdict::Drop(DropReason::Unrelated)
        };
    };
    // The flow may be bound to another bucket than its packets name, see `pipeline`.
    let bucket = Control::from_word(found.control).bucket;
    if bucket != place.bucket
        && let Err(reason) = admit(env, bucket, now)
    {
        return Verdict::Drop(reason);
    }
    Verdict::Forward
}
