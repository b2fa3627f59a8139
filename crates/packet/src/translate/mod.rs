//! The stage of translated flows (NAT): what comes of their packets, and how they are rewritten.
//!
//! A frame is handed over when its flow is translated; here the flow is found by either of
//! its keys ([`crate::table::twin`]), the packet makes its step in it like any other, and then the frame carries the
//! other side's endpoints. A packet that comes under the wrong key of the two is dropped: nobody outside reaches an
//! inside address that way.
//!
//! Invariants: the reply's bucket is the flow's, because the translated endpoint is of the class of the one that it
//! stands for; so whoever owns the flow gets its replies, on every node. A frame is rewritten last, when a
//! yielding bucket's packet has been reported as it came: the next owner holds the same bytes.
//!
//! Checksums change by the difference of what was rewritten (`change`); a sum that was wrong stays wrong, for its
//! receiver to find. ICMP errors about translated flows are turned in the stage that they belong to (`quoted`).

pub(crate) mod change;
mod quoted;

use crate::bucket::{BucketSlot, Nanos};
use crate::entry::{FlowRecord, Translation};
use crate::env::{Env, Frame};
use crate::event::{Event, EventKind};
use crate::flow::{Direction, FlowKey, Protocol};
use crate::meter::{self, Kind};
use crate::pipeline;
use crate::placement::Placement;
use crate::rule::{Commit, Matched};
use crate::stage::{self, Stage};
use crate::table::{self, Found, Inserted, Joined, insert_translated, twin, word};
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::wire::{self, Headers, Link, Payload};

use change::Change;
pub(crate) use quoted::{turn_error, turned};

/// Decides what becomes of a frame that another stage has found to be of a translated flow, and rewrites it.
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
    carry(env, frame, &link, &headers, place, slot, now, Share::Whole)
}

/// What of a packet a frame has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// All of it.
    Whole,
    /// Its first fragment.
    First,
    /// A fragment behind the first, of which nothing but the addresses is rewritten.
    Later,
}

/// A packet of a translated flow of a bucket that is this node's to handle, or a fragment of one.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "all that is known of the packet")]
pub(crate) fn carry<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    headers: &Headers,
    place: Placement,
    slot: BucketSlot,
    now: Nanos,
    share: Share,
) -> Verdict {
    let Some(met) = Met::find(env, place, &headers.key) else {
        return Verdict::Drop(DropReason::Untranslated);
    };
    let too_large = share == Share::Whole && exceeds(env, frame, link, &met.found);
    if too_large && !env.decides_all() {
        return Verdict::Upcall(UpcallReason::TooLarge);
    }
    let passed = match share {
        Share::Whole => pipeline::pass(env, frame, headers, &met.found, place, slot.epoch, now),
        Share::First => {
            pipeline::pass_first(env, frame, headers, &met.found, place, slot.epoch, now)
        }
        Share::Later => pipeline::follow(env, &met.found, place, now, frame.len()),
    };
    if let Err(reason) = passed {
        return Verdict::Drop(reason);
    }
    stage::report(env, frame, place, slot, Verdict::Forward);
    // Without a hop left, the stack tells the sender, by the packet as it was sent.
    if headers.hops <= 1 {
        return Verdict::Forward;
    }
    // As it was sent: its sender is to know it again.
    if too_large {
        return Verdict::Upcall(UpcallReason::TooLarge);
    }
    let Some((from, to)) = met.endpoints() else { return Verdict::Drop(DropReason::Untranslated) };
    let first = !matches!(share, Share::Later);
    match rewrite(env, frame, link, &Headers { key: from, ..*headers }, &to, first) {
        Some(()) => Verdict::Forward,
        None if from.protocol == Protocol::SCTP => Verdict::Drop(DropReason::Unsupported),
        None => Verdict::Drop(DropReason::Internal),
    }
}

/// Whether the node's own stack would have to tell a packet's sender that it is too large. It can't: once the packet has
/// other endpoints it would tell those.
#[inline(always)]
pub(crate) fn exceeds<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    link: &Link,
    found: &Found<E::Slot>,
) -> bool {
    env.too_large(frame, link, found) && !wire::may_be_cut(frame, link)
}

/// A translated flow, as a packet meets it.
pub(crate) struct Met<S> {
    /// The flow's own slot, and which way the packet travels.
    pub(crate) found: Found<S>,
    /// The flow's alias, and its control word.
    alias: (S, u64),
}

impl<S: table::Slot> Met<S> {
    #[inline(always)]
    fn find<E: Env<Slot = S>>(env: &E, place: Placement, key: &FlowKey) -> Option<Self> {
        Self::of(env, table::lookup(env, place.hash, key)?)
    }

    /// The flow of which this half was found.
    #[inline(always)]
    pub(crate) fn of<E: Env<Slot = S>>(env: &E, half: Found<S>) -> Option<Self> {
        // Each half is met in its own direction only: the other one would be under the wrong key.
        if !matches!(half.direction, Direction::Original) {
            return None;
        }
        let (other, control) = twin::other_half(env, half.slot)?;
        if half.is_alias() {
            let found = Found { slot: other, direction: Direction::Reply, control };
            return Some(Self { found, alias: (half.slot, half.control) });
        }
        Some(Self { found: half, alias: (other, control) })
    }

    /// The packet's key, and what it is turned into; `None` if the flow has gone meanwhile. Read when they are
    /// needed: kept for as long as the packet is looked at, they would take more of the stack than there is.
    #[inline(always)]
    pub(crate) fn endpoints(&self) -> Option<(FlowKey, Translation)> {
        let (flow, alias) = (twin::read_key(self.found.slot), twin::read_key(self.alias.0));
        let same = self.found.slot.load::<{ word::CONTROL }>() == self.found.control
            && self.alias.0.load::<{ word::CONTROL }>() == self.alias.1;
        let ends = match self.found.direction {
            Direction::Original => (flow, twin::translation_of(alias)),
            Direction::Reply => {
                (alias, Translation { source: flow.responder, destination: flow.initiator })
            }
        };
        same.then_some(ends)
    }
}

/// The first packet of a flow that is to be translated by a pool.
#[inline(always)]
pub(crate) fn open<E: Env>(
    env: &E,
    place: Placement,
    record: &FlowRecord,
    rule: &Matched,
    commit: Commit,
    now: Nanos,
) -> Verdict {
    let translation = match env.translation(&record.key, rule.pool) {
        Ok(translation) => translation,
        Err(verdict) => return verdict,
    };
    let record = FlowRecord { translation: Some(translation), ..*record };
    if matches!(commit, Commit::Sync) && !env.may_begin(rule, &record) {
        return Verdict::Upcall(UpcallReason::Commit);
    }
    if !meter::admits(env, record.key.initiator.address, Kind::HalfOpen, now) {
        return Verdict::Drop(DropReason::HalfOpenLimit);
    }
    let stage = Stage::of_flow(record.key.protocol, true).unwrap_or(Stage::Translate);
    let next = Verdict::Stage(stage);
    let hashes = (place.hash, env.placer().table_hash(&record.reply_key()));
    match insert_translated(env, hashes, &record, now) {
        Joined::Flow(Inserted::New(_, state, _)) => {
            env.count_rule(rule.index);
            env.translated(&record.key);
            env.emit(&Event { kind: EventKind::Created, record: FlowRecord { state, ..record } });
            next
        }
        Joined::Flow(Inserted::Present(_)) => next,
        Joined::Flow(Inserted::Full) => Verdict::Drop(DropReason::TableFull),
        Joined::Flow(Inserted::Busy) => Verdict::Upcall(UpcallReason::Contended),
        Joined::Taken => Verdict::Drop(DropReason::NoPort),
    }
}

/// Gives a packet other endpoints.
#[inline(always)]
fn rewrite<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    headers: &Headers,
    to: &Translation,
    first: bool,
) -> Option<()> {
    let v4 = matches!(link.payload, Payload::V4);
    let addresses = other_addresses(env, &headers.key, to, v4);
    if first {
        rewrite_transport(frame, headers, to, addresses, v4)?;
    }
    write_addresses(frame, link, to, addresses)
}

/// Gives a packet other addresses, and nothing else.
#[inline(always)]
pub(crate) fn rewrite_addresses<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    from: &FlowKey,
    to: &Translation,
) -> Option<()> {
    let addresses = other_addresses(env, from, to, matches!(link.payload, Payload::V4));
    write_addresses(frame, link, to, addresses)
}

/// What sums over a packet's addresses change by.
#[inline(always)]
fn other_addresses<E: Env>(env: &E, from: &FlowKey, to: &Translation, v4: bool) -> Change {
    let source = Change::NONE.address(env, from.initiator, to.source, v4);
    source.address(env, from.responder, to.destination, v4)
}

/// Writes the addresses, which are such a change, and the sum over the header.
#[inline(always)]
fn write_addresses<F: Frame>(
    frame: &mut F,
    link: &Link,
    to: &Translation,
    addresses: Change,
) -> Option<()> {
    let (source, destination, at) = (to.source.address, to.destination.address, link.offset);
    if matches!(link.payload, Payload::V4) {
        frame.set_u32(at + 12, source.as_v4()?)?;
        frame.set_u32(at + 16, destination.as_v4()?)?;
        let checksum = addresses.applied_to(frame.u16(at + 10)?);
        return frame.set_u16(at + 10, checksum);
    }
    frame.set_u64(at + 8, source.high)?;
    frame.set_u64(at + 16, source.low)?;
    frame.set_u64(at + 24, destination.high)?;
    frame.set_u64(at + 32, destination.low)
}

/// Ports and the checksum over them, which covers the addresses, too (RFC 9293 §3.1, RFC 768, RFC 4443 §2.3), but for
/// ICMP (RFC 792).
#[inline(always)]
fn rewrite_transport<F: Frame>(
    frame: &mut F,
    headers: &Headers,
    to: &Translation,
    addresses: Change,
    v4: bool,
) -> Option<()> {
    let (from, at) = (headers.key, headers.offset);
    let (source, destination) = (to.source.port, to.destination.port);
    let ports = addresses.word(from.initiator.port, source).word(from.responder.port, destination);
    match from.protocol {
        Protocol::TCP => {
            frame.set_u16(at, source)?;
            frame.set_u16(at + 2, destination)?;
            let checksum = ports.applied_to(frame.u16(at + 16)?);
            frame.set_u16(at + 16, checksum)
        }
        Protocol::UDP => {
            frame.set_u16(at, source)?;
            frame.set_u16(at + 2, destination)?;
            match frame.u16(at + 6)? {
                // The sender has made none.
                0 if v4 => Some(()),
                checksum => {
                    let checksum = ports.applied_to(checksum);
                    frame.set_u16(at + 6, if checksum == 0 { 0xffff } else { checksum })
                }
            }
        }
        // Both ends have one identifier, which stands there once.
        Protocol::ICMP => {
            frame.set_u16(at + 4, source)?;
            let identifier = Change::NONE.word(from.initiator.port, source);
            let checksum = identifier.applied_to(frame.u16(at + 2)?);
            frame.set_u16(at + 2, checksum)
        }
        Protocol::ICMPV6 => {
            frame.set_u16(at + 4, source)?;
            let identifier = addresses.word(from.initiator.port, source);
            let checksum = identifier.applied_to(frame.u16(at + 2)?);
            frame.set_u16(at + 2, checksum)
        }
        // No sum covers the addresses. Of SCTP this is a first fragment, see `crate::association`.
        _ if source == from.initiator.port && destination == from.responder.port => Some(()),
        _ => None,
    }
}
