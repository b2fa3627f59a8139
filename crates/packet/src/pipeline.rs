//! What becomes of a packet: the one place that decides it.
//!
//! [`handle`] takes a frame from its Ethernet header to a [`Verdict`]:
//!
//! ```text
//! link ─► for us? ─► headers ─► bucket ─► ours, and under lease? ─► node table ─┬─ hit ──► step ─► forward
//!   └─ ARP, ND ─► answer  │                 ├─ another's ─► drop, or pass       └─ miss ─► another stage
//!                         │                 └─ held ─► user space
//!                         └─ ICMP error ─► another stage
//! ```
//!
//! This is the main stage; what it leaves to others, and why, stands in [`crate::stage`].
//!
//! Invariant: no entry is read or written, and nothing is forwarded or answered, for a bucket that
//! this node does not own under an unexpired lease ([`admit`]). Nor is anything passed to another
//! node without a lease.

use crate::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos};
use crate::entry::{FlowRecord, FlowState};
use crate::env::{Env, Frame, Mac};
use crate::event::{Event, EventKind};
use crate::flow::{Direction, Protocol};
use crate::neighbour;
use crate::packet_hash::extent;
use crate::placement::Placement;
use crate::reception::{self, Mode};
use crate::reverse_path;
use crate::stage::Stage;
use crate::table::{self, Control, Found, Slot, twin, word};
use crate::tracking::{Phase, Step, TcpFlags};
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::window::{self, Course};
use crate::wire::{self, Headers, Link, Payload};

/// How often a state change is tried against other CPUs that change the same flow.
const STATE_TRIES: u32 = 4;

/// Decides what becomes of a frame that came in by this interface, and does all of it but the
/// forwarding itself ([`forward`]); or says which other stage does.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F, interface: u32) -> Verdict {
    let link = match wire::parse_link(frame) {
        Ok(link) => link,
        Err(reason) => return Verdict::Drop(reason),
    };
    if let Err(verdict) = reception::receive(env, frame, &link, interface) {
        return verdict;
    }
    match wire::parse(frame, &link) {
        Ok(headers) => handle_ip(env, frame, &link, &headers.opaque(env), interface),
        // Whose it is, the packet says that it quotes.
        Err(DropReason::Unrelated) => Verdict::Stage(Stage::Related),
        Err(DropReason::Fragment) => Verdict::Stage(Stage::Fragment),
        // Neighbour discovery runs between link-local and cluster addresses, which are not forwarded.
        Err(reason @ (DropReason::BadAddress | DropReason::Unsupported))
            if link.payload == Payload::V6 && env.mode().is_inline() =>
        {
            match neighbour::handle(env, frame, &link, interface) {
                Verdict::Stack => Verdict::Drop(reason),
                verdict => verdict,
            }
        }
        Err(reason) => Verdict::Drop(reason),
    }
}

/// Whether this node may handle packets of a bucket now.
#[inline(always)]
pub fn admit<E: Env>(env: &E, bucket: BucketId, now: Nanos) -> Result<BucketSlot, DropReason> {
    let slot = env.bucket(bucket).ok_or(DropReason::Internal)?;
    if slot.owner != env.node() || slot.state == BucketState::Holding {
        Err(DropReason::NotOwner)
    } else if now >= env.lease() {
        Err(DropReason::NoLease)
    } else {
        Ok(slot)
    }
}

/// [`stage::own`] and what follows it do the same for other stages. Here it is one function: shared, it made
/// the verifier follow half as many instructions again.
///
/// [`stage::own`]: crate::stage::own
#[inline(always)]
fn handle_ip<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    headers: &Headers,
    interface: u32,
) -> Verdict {
    let place = env.place(headers);
    let now = env.now();
    let Some(slot) = env.bucket(place.bucket) else { return Verdict::Drop(DropReason::Internal) };
    if slot.owner != env.node() {
        return reception::not_ours(env, frame, link, interface, slot, now);
    }
    table::fetch(env, place.hash);
    if now >= env.lease() {
        return Verdict::Drop(DropReason::NoLease);
    }
    let bytes = frame.len();
    env.count_load(place.bucket, bytes);
    if slot.state == BucketState::Holding {
        return Verdict::Upcall(UpcallReason::Held);
    }
    // The verifier need not remember the state on all the paths in between.
    let yielding = env.opaque(u64::from(slot.state == BucketState::Yielding));
    let verdict = handle_own(env, frame, headers, place, slot, now, interface);
    if yielding != 0 && !matches!(env.mode(), Mode::Steered) {
        report(env, frame, place.bucket, verdict);
    }
    verdict
}

/// A packet of a bucket that is this node's to handle.
#[inline(always)]
fn handle_own<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    headers: &Headers,
    place: Placement,
    slot: BucketSlot,
    now: Nanos,
    interface: u32,
) -> Verdict {
    if let Some(found) = table::lookup(env, place.hash, &headers.key) {
        if let Some(stage) = Stage::of_flow(headers.key.protocol, found.is_translated()) {
            return Verdict::Stage(stage);
        }
        return match pass(env, frame, headers, &found, place, slot.epoch, now) {
            Ok(()) => Verdict::Forward,
            Err(reason) => Verdict::Drop(reason),
        };
    }
    if slot.state == BucketState::Loading {
        return Verdict::Upcall(UpcallReason::Loading);
    }
    Verdict::Stage(reverse_path::or_open(env, interface))
}

/// Tells user space which packet of a yielding bucket has been handled, be it forwarded or refused.
/// One that goes up is not handled yet; user space reports it then. The link header is read once more:
/// if the verifier had to remember what was found there, it would follow each path once for each kind.
#[inline(always)]
pub(crate) fn report<E: Env, F: Frame>(env: &E, frame: &F, bucket: BucketId, verdict: Verdict) {
    use DropReason::{NoLease, NotOwner};
    if matches!(verdict, Verdict::Upcall(_) | Verdict::Stage(_) | Verdict::Drop(NoLease | NotOwner))
    {
        return;
    }
    let Ok(link) = wire::parse_link(frame) else { return };
    if let Some(extent) = extent(frame, &link) {
        env.emit_handled(bucket, frame, extent);
    }
}

/// A packet of a flow that is known. The flow may be bound to another bucket than the packet's own
/// identifiers name: two ISAKMP exchanges between the same endpoints are one flow, of the first one's
/// bucket. Then that bucket has to be this node's too.
#[inline(always)]
pub(crate) fn pass<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    headers: &Headers,
    found: &Found<E::Slot>,
    place: Placement,
    epoch: Epoch,
    now: Nanos,
) -> Result<(), DropReason> {
    let epoch = bound(env, found, place, epoch, now)?;
    let course = window::check(env, frame, headers, found)?;
    go_on(env, frame.len(), headers.flags, found, epoch, course, now);
    Ok(())
}

/// Has a packet of a known flow counted, and makes its step.
#[inline(always)]
pub(crate) fn go_on<E: Env>(
    env: &E,
    bytes: u32,
    flags: TcpFlags,
    found: &Found<E::Slot>,
    epoch: Epoch,
    course: Course,
    now: Nanos,
) {
    env.met(found, now);
    count(found.slot, found.direction, bytes, now);
    advance(env, flags, found, epoch, course);
}

/// The epoch of the bucket that a flow is bound to; an error if that is not this node's.
#[inline(always)]
pub(crate) fn bound<E: Env>(
    env: &E,
    found: &Found<E::Slot>,
    place: Placement,
    epoch: Epoch,
    now: Nanos,
) -> Result<Epoch, DropReason> {
    let bucket = Control::from_word(found.control).bucket;
    let epoch = if bucket == place.bucket { epoch } else { admit(env, bucket, now)?.epoch };
    Ok(Epoch(env.opaque(u64::from(epoch.0)) as u32))
}

/// The first fragment of a packet of a known flow. Where a segment of TCP ends its first fragment does not say. So its
/// numbers are judged, and what was known of the flow's is learned anew, from segments that are whole. That is done
/// where there is room for it ([`Env::decides_all`]); no such fragment comes here elsewhere.
#[inline(always)]
pub(crate) fn pass_first<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    headers: &Headers,
    found: &Found<E::Slot>,
    place: Placement,
    epoch: Epoch,
    now: Nanos,
) -> Result<(), DropReason> {
    let epoch = bound(env, found, place, epoch, now)?;
    let mut course = Course::ByFlags;
    // Nobody has looked at its tag.
    if headers.key.protocol == Protocol::SCTP {
        course = Course::Stay;
    }
    if env.decides_all() && headers.key.protocol == Protocol::TCP {
        course = window::check(env, frame, headers, found)?;
        window::forget(found.slot);
    }
    go_on(env, frame.len(), headers.flags, found, epoch, course, now);
    Ok(())
}

/// A fragment behind the first of a packet of a known flow: it counts, and makes no step.
#[inline(always)]
pub(crate) fn follow<E: Env>(
    env: &E,
    found: &Found<E::Slot>,
    place: Placement,
    now: Nanos,
    bytes: u32,
) -> Result<(), DropReason> {
    let bucket = Control::from_word(found.control).bucket;
    if bucket != place.bucket {
        admit(env, bucket, now)?;
    }
    env.met(found, now);
    count(found.slot, found.direction, bytes, now);
    Ok(())
}

/// Takes a flow the step that a packet makes in it, if it makes one.
#[inline(always)]
fn advance<E: Env>(env: &E, flags: TcpFlags, found: &Found<E::Slot>, epoch: Epoch, course: Course) {
    let word = found.slot.load::<{ word::STATE }>();
    // What nearly all packets are: of a flow in its midst, which they leave as it is.
    if course.is_usual(flags) && FlowState::is_midst(word) {
        return;
    }
    for _ in 0..STATE_TRIES {
        let word = found.slot.load::<{ word::STATE }>();
        // The flow has been taken out since it was found; its packet was let in before.
        let Some(state) = FlowState::from_word(word) else { return };
        let reply = matches!(found.direction, Direction::Reply);
        let (phase, confirmed) = match course.step(state.phase, found.direction, flags) {
            Step::Stay if state.confirmed || !reply => return,
            Step::Stay => (state.phase, true),
            Step::Go(phase) => (phase, state.confirmed || reply),
            Step::Reopen => (Phase::SynSent, false),
        };
        let sequence = state.sequence.wrapping_add(1);
        let next = FlowState { phase, confirmed, sequence, ..state };
        if found.slot.compare_exchange::<{ word::STATE }>(word, next.to_word()) {
            window::write_epoch(found.slot, epoch);
            return announce(env, found, epoch, next);
        }
    }
    // Other CPUs have changed the flow each time; their packets say where it is.
}

/// Tells user space that a known flow has changed, unless it has been taken out since: then whoever did that tells.
/// The key is the slot's: kept for as long as a packet is looked at, it takes more of the stack than there is.
#[inline(always)]
fn announce<E: Env>(env: &E, found: &Found<E::Slot>, epoch: Epoch, state: FlowState) {
    let key = twin::read_key(found.slot);
    if found.slot.load::<{ word::CONTROL }>() != found.control {
        return;
    }
    let bucket = Control::from_word(found.control).bucket;
    let kind = if state.phase.is_closed() { EventKind::Closed } else { EventKind::Updated };
    env.emit(&Event { kind, record: FlowRecord { translation: None, bucket, epoch, key, state } });
}

/// Counts a packet of a flow.
///
/// The counters of a direction are written by packets that travel this way, which a card gives to one processor. Where
/// two count at once, one packet may be missed: an addition that no other can come between costs more than all that
/// is done with most packets, because it waits for everything before it, misses of the cache included.
#[inline(always)]
pub(crate) fn count<S: Slot>(slot: S, direction: Direction, bytes: u32, now: Nanos) {
    slot.store::<{ word::LAST_SEEN }>(now.0);
    let bytes = bytes as u64;
    match direction {
        Direction::Original => {
            let packets = slot.load::<{ word::ORIGINAL_PACKETS }>();
            slot.store::<{ word::ORIGINAL_PACKETS }>(packets.wrapping_add(1));
            let sum = slot.load::<{ word::ORIGINAL_BYTES }>();
            slot.store::<{ word::ORIGINAL_BYTES }>(sum.wrapping_add(bytes));
        }
        Direction::Reply => {
            let packets = slot.load::<{ word::REPLY_PACKETS }>();
            slot.store::<{ word::REPLY_PACKETS }>(packets.wrapping_add(1));
            let sum = slot.load::<{ word::REPLY_BYTES }>();
            slot.store::<{ word::REPLY_BYTES }>(sum.wrapping_add(bytes));
        }
    }
}

/// Why a packet that may go on can't be sent straight to its next hop; the node's own stack knows
/// what to do with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDirect {
    /// It has no hop left (RFC 1812 §5.3.1): the stack tells the sender.
    Hops,
    /// It carries a VLAN tag: the stack has the VLAN's interface.
    Tagged,
    /// It is no IP packet, or too short for its own headers.
    Unreadable,
}

/// Turns a frame that [`handle`] let pass into the frame to send: one hop less, new addresses on the
/// link. On an error the frame is unchanged.
#[inline(always)]
pub fn forward<F: Frame>(
    frame: &mut F,
    link: &Link,
    source: Mac,
    destination: Mac,
) -> Result<(), NotDirect> {
    check_direct(frame, link)?;
    let written = match link.payload {
        Payload::V4 => take_hop_v4(frame, link.offset),
        _ => take_hop_v6(frame, link.offset),
    };
    written.and_then(|()| set_link(frame, source, destination)).ok_or(NotDirect::Unreadable)
}

/// Whether [`forward`] would succeed.
#[inline(always)]
pub fn check_direct<F: Frame>(frame: &F, link: &Link) -> Result<(), NotDirect> {
    if link.tagged {
        return Err(NotDirect::Tagged);
    }
    let hops = match link.payload {
        Payload::V4 => frame.u8(link.offset + 8),
        Payload::V6 => frame.u8(link.offset + 7),
        _ => None,
    };
    match hops {
        None => Err(NotDirect::Unreadable),
        Some(0 | 1) => Err(NotDirect::Hops),
        Some(_) => Ok(()),
    }
}

/// RFC 1141: the time to live is the high byte of its word, so one less adds 0x100 to the checksum.
#[inline(always)]
fn take_hop_v4<F: Frame>(frame: &mut F, at: u32) -> Option<()> {
    let life = frame.u32(at + 8)?;
    let sum = (life & 0xffff) + 0x100;
    let sum = sum + u32::from(sum >= 0xffff);
    frame.set_u32(at + 8, (life & 0xffff_0000).wrapping_sub(1 << 24) | sum & 0xffff)
}

#[inline(always)]
fn take_hop_v6<F: Frame>(frame: &mut F, at: u32) -> Option<()> {
    let hops = frame.u8(at + 7)?;
    frame.set_u8(at + 7, hops.wrapping_sub(1))
}

/// Writes both addresses of the Ethernet header.
#[inline(always)]
pub(crate) fn set_link<F: Frame>(frame: &mut F, source: Mac, destination: Mac) -> Option<()> {
    let both = (destination.0 << 16) as u32 | (source.0 >> 32) as u32;
    frame.set_u32s(0, [(destination.0 >> 16) as u32, both, source.0 as u32])
}
