//! ICMP errors about packets of translated flows: both the error and the packet that it quotes are turned.
//!
//! Whoever is told has to recognise its own packet, so the quote is turned back into what it sent; and the error
//! itself goes to where that came from. One that comes from the side of an end that is translated goes out under what
//! stands in for that end, whoever there has sent it (RFC 5508 REQ-4 and REQ-5).
//!
//! All sums over what is rewritten are corrected by the difference: the quoted packet's own, where the quote reaches
//! so far, and the error's, which covers the quote and so also what those sums change by.

use super::Change;
use crate::entry::Translation;
use crate::env::{Env, Frame};
use crate::flow::{Address, Direction, Endpoint, FlowKey, Protocol};
use crate::table::{Found, twin};
use crate::wire::quote::Error;
use crate::wire::{Headers, Link};

/// Stands where the place of a sum would, if there is none that can be corrected.
const NO_SUM: u32 = u32::MAX;

/// What an error about a packet of a translated flow is turned into.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turned {
    /// What the quoted packet becomes.
    quoted: Translation,
    /// Where the error comes from then; nothing, if that stays.
    from: Option<Endpoint>,
}

/// How an error is turned that quotes a packet of this half of a translated flow. `None`: no packet of the flow
/// that was ever sent looks like the quoted one.
#[inline(always)]
pub(crate) fn turned<E: Env>(env: &E, half: &Found<E::Slot>) -> Option<Turned> {
    // What the flow's own node has sent on is spelled as nobody but the far end sees it: each half is met
    // backwards.
    if !matches!(half.direction, Direction::Reply) {
        return None;
    }
    let (other, _) = twin::other_half(env, half.slot)?;
    let there = twin::read_key(other);
    let here = twin::read_key(half.slot);
    Some(if half.is_alias() {
        // The flow's initiator has sent it, and is told by somebody on the responder's side.
        let FlowKey { initiator, responder, .. } = there;
        let quoted = Translation { source: initiator, destination: responder };
        Turned { quoted, from: instead_of(here.initiator, responder) }
    } else {
        // Its responder has sent it, and is told by somebody on the initiator's side.
        let Translation { source, destination } = twin::translation_of(there);
        let quoted = Translation { source: destination, destination: source };
        Turned { quoted, from: instead_of(here.initiator, source) }
    })
}

/// What hides the side of this end; nothing, if the flow does not.
#[inline(always)]
fn instead_of(end: Endpoint, seen: Endpoint) -> Option<Endpoint> {
    let Address { high, low } = end.address;
    if high == seen.address.high && low == seen.address.low { None } else { Some(seen) }
}

/// Rewrites an error and what it quotes. `quoted`: the headers of the quoted packet.
#[inline(always)]
pub(crate) fn turn_error<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    error: &Error,
    quoted: &Headers,
    turned: &Turned,
) -> Option<()> {
    let (from, to) = (&quoted.key, &turned.quoted);
    let addresses = Change::NONE.address(env, from.initiator, to.source, error.v4).address(
        env,
        from.responder,
        to.destination,
        error.v4,
    );
    let header = turn_quoted_addresses(frame, error, to, addresses)?;
    let transport = turn_quoted_transport(frame, error, quoted, to, addresses)?;
    let outer = turn_outer(env, frame, link, error, turned)?;
    let mut change = header.and(transport);
    if !error.v4 {
        // Its sum covers the addresses as well (RFC 4443 §2.3).
        change = change.and(outer);
    }
    let at = error.offset - Error::HEADER + 2;
    let checksum = change.applied_to(frame.u16(at)?);
    frame.set_u16(at, checksum)
}

/// The addresses of the error itself: it goes to whoever sent the quoted packet.
#[inline(always)]
fn turn_outer<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    error: &Error,
    turned: &Turned,
) -> Option<Change> {
    let at = link.offset;
    let told = Endpoint { address: error.destination, port: 0 };
    let mut change = Change::NONE.address(env, told, turned.quoted.source, error.v4);
    if error.v4 {
        if let Some(from) = turned.from {
            let seen = Endpoint { address: Address::v4(frame.u32(at + 12)?), port: 0 };
            change = change.address(env, seen, from, true);
            frame.set_u32(at + 12, from.address.as_v4()?)?;
        }
        frame.set_u32(at + 16, turned.quoted.source.address.as_v4()?)?;
        let checksum = change.applied_to(frame.u16(at + 10)?);
        frame.set_u16(at + 10, checksum)?;
        return Some(change);
    }
    if let Some(from) = turned.from {
        let (high, low) = (frame.u64(at + 8)?, frame.u64(at + 16)?);
        let seen = Endpoint { address: Address { high, low }, port: 0 };
        change = change.address(env, seen, from, false);
        frame.set_u64(at + 8, from.address.high)?;
        frame.set_u64(at + 16, from.address.low)?;
    }
    frame.set_u64(at + 24, turned.quoted.source.address.high)?;
    frame.set_u64(at + 32, turned.quoted.source.address.low)?;
    Some(change)
}

/// The addresses of the quoted packet, which are such a change, and its header's own sum.
#[inline(always)]
fn turn_quoted_addresses<F: Frame>(
    frame: &mut F,
    error: &Error,
    to: &Translation,
    change: Change,
) -> Option<Change> {
    let at = error.offset;
    if error.v4 {
        frame.set_u32(at + 12, to.source.address.as_v4()?)?;
        frame.set_u32(at + 16, to.destination.address.as_v4()?)?;
        let before = frame.u16(at + 10)?;
        let after = change.applied_to(before);
        frame.set_u16(at + 10, after)?;
        return Some(change.word(before, after));
    }
    frame.set_u64(at + 8, to.source.address.high)?;
    frame.set_u64(at + 16, to.source.address.low)?;
    frame.set_u64(at + 24, to.destination.address.high)?;
    frame.set_u64(at + 32, to.destination.address.low)?;
    Some(change)
}

/// The ports of the quoted packet, and the sum over them, if it is quoted. All of them stand in the first eight bytes,
/// which every error quotes, but for the sum of TCP.
#[inline(always)]
fn turn_quoted_transport<F: Frame>(
    frame: &mut F,
    error: &Error,
    quoted: &Headers,
    to: &Translation,
    addresses: Change,
) -> Option<Change> {
    let (at, from) = (quoted.offset, quoted.key);
    let (source, destination) = (to.source.port, to.destination.port);
    let identifier = Change::NONE.word(from.initiator.port, source);
    let ports = identifier.word(from.responder.port, destination);
    let (ports_at, change, sum_at, covered) = match from.protocol {
        Protocol::TCP => (0, ports, 16, addresses.and(ports)),
        Protocol::UDP => (0, ports, 6, addresses.and(ports)),
        // Its sum is not corrected: the whole packet is not there, of which it would have to be made anew.
        Protocol::SCTP => (0, ports, NO_SUM, ports),
        Protocol::ICMP => (4, identifier, 2, identifier),
        Protocol::ICMPV6 => (4, identifier, 2, addresses.and(identifier)),
        _ => return None,
    };
    frame.set_u16(at + ports_at, source)?;
    if ports_at == 0 {
        frame.set_u16(at + 2, destination)?;
    }
    if sum_at == NO_SUM || at + sum_at + 2 > error.end {
        return Some(change);
    }
    let before = frame.u16(at + sum_at)?;
    if from.protocol == Protocol::UDP && error.v4 && before == 0 {
        return Some(change);
    }
    let after = covered.applied_to(before);
    frame.set_u16(at + sum_at, after)?;
    Some(change.word(before, after))
}
