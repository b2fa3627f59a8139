//! Answers to who asks for a cluster address on the link: ARP (RFC 826) and neighbour discovery
//! (RFC 4861).
//!
//! In `shared` mode every node sees each question. The asker's address gives a bucket like any
//! packet's; its owner answers, so there is one answer, and another node gives it after a death.
//! The answer names the cluster's shared address but is *sent from* the node's own: a switch that
//! never sees a frame from the shared address keeps flooding frames to it.

use crate::bucket::BucketId;
use crate::env::{Env, Frame, Mac};
use crate::flow::{Address, Endpoint};
use crate::pipeline::{admit, set_link};
use crate::siphash::hash18;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{Link, Payload};

const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// A solicitation or advertisement with one option, the link-layer address of an Ethernet interface.
const MESSAGE_BYTES: u16 = 32;
/// Router, solicited, override (RFC 4861 §4.4).
const ADVERTISEMENT_FLAGS: u32 = 0xe000_0000;
/// Target link-layer address, one unit of eight bytes (RFC 4861 §4.6.1).
const TARGET_OPTION: u16 = 0x0201;

/// Answers a question for a cluster address; all else goes to the node's stack.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F, link: &Link, interface: u32) -> Verdict {
    if link.tagged {
        return Verdict::Stack;
    }
    let answered = match link.payload {
        Payload::Arp => arp(env, frame, link.offset, interface),
        Payload::V6 => discovery(env, frame, link.offset, interface),
        _ => None,
    };
    answered.unwrap_or(Verdict::Stack)
}

/// Whether this node is the one to answer this asker.
#[inline(always)]
fn is_ours<E: Env>(env: &E, asker: Address) -> Result<(), DropReason> {
    let placer = env.placer();
    let asker = Endpoint { address: asker, port: 0 };
    let class = hash18(placer.key, asker.address.high, asker.address.low, asker.port);
    admit(env, BucketId(class as u16 & placer.bucket_mask), env.now()).map(|_| ())
}

#[inline(always)]
fn arp<E: Env, F: Frame>(env: &E, frame: &mut F, at: u32, interface: u32) -> Option<Verdict> {
    // Ethernet and IPv4, with their address lengths, and "request".
    if frame.u32(at)? != 0x0001_0800 || frame.u32(at + 4)? != 0x0604_0001 {
        return None;
    }
    let target = frame.u32(at + 24)?;
    let own = env.answers(interface, Address::v4(target))?;
    let asker = frame.u32(at + 14)?;
    if let Err(reason) = is_ours(env, Address::v4(asker)) {
        return Some(Verdict::Drop(reason));
    }
    let asker_mac = Mac(u64::from(frame.u16(at + 8)?) << 32 | u64::from(frame.u32(at + 10)?));
    let cluster = env.cluster_mac().0;
    frame.set_u16(at + 6, 2)?;
    frame.set_u16(at + 8, (cluster >> 32) as u16)?;
    frame.set_u32(at + 10, cluster as u32)?;
    frame.set_u32(at + 14, target)?;
    frame.set_u16(at + 18, (asker_mac.0 >> 32) as u16)?;
    frame.set_u32(at + 20, asker_mac.0 as u32)?;
    frame.set_u32(at + 24, asker)?;
    set_link(frame, own, asker_mac)?;
    Some(Verdict::Answer)
}

#[inline(always)]
fn address<F: Frame>(frame: &F, at: u32) -> Option<Address> {
    Some(Address { high: frame.u64(at)?, low: frame.u64(at + 8)? })
}

#[inline(always)]
fn discovery<E: Env, F: Frame>(env: &E, frame: &mut F, at: u32, interface: u32) -> Option<Verdict> {
    let message = at + 40;
    // RFC 4861 §7.1.1: the hop limit shows that the asker is on the link.
    if frame.u8(at + 6)? != ICMPV6
        || frame.u8(at + 7)? != 255
        || frame.u8(message)? != SOLICITATION
        || frame.u8(message + 1)? != 0
    {
        return None;
    }
    let target = address(frame, message + 8)?;
    let own = env.answers(interface, target)?;
    let asker = address(frame, at + 8)?;
    // From the unspecified address another host asks whether it may take the address; the silence
    // of the cluster would let it, but it has no address to be answered at.
    if frame.u16(at + 4)? != MESSAGE_BYTES || asker == (Address { high: 0, low: 0 }) {
        return Some(Verdict::Drop(DropReason::Unsupported));
    }
    if let Err(reason) = is_ours(env, asker) {
        return Some(Verdict::Drop(reason));
    }
    // Nothing is written unless all of the answer has room.
    frame.u32(message + 28)?;
    let asker_mac = Mac(u64::from(frame.u16(6)?) << 32 | u64::from(frame.u32(8)?));
    let cluster = env.cluster_mac();
    frame.set_u64(at + 8, target.high)?;
    frame.set_u64(at + 16, target.low)?;
    frame.set_u64(at + 24, asker.high)?;
    frame.set_u64(at + 32, asker.low)?;
    frame.set_u8(message, ADVERTISEMENT)?;
    frame.set_u16(message + 2, advertisement_checksum(target, asker, cluster))?;
    frame.set_u32(message + 4, ADVERTISEMENT_FLAGS)?;
    frame.set_u16(message + 24, TARGET_OPTION)?;
    frame.set_u16(message + 26, (cluster.0 >> 32) as u16)?;
    frame.set_u32(message + 28, cluster.0 as u32)?;
    set_link(frame, own, asker_mac)?;
    Some(Verdict::Answer)
}

/// RFC 4443 §2.3, over the fields that an advertisement has.
#[inline(always)]
fn advertisement_checksum(source: Address, destination: Address, mac: Mac) -> u16 {
    let words =
        |word: u64| (word >> 48) + (word >> 32 & 0xffff) + (word >> 16 & 0xffff) + (word & 0xffff);
    let pseudo = words(source.high)
        + words(source.low)
        + words(destination.high)
        + words(destination.low)
        + u64::from(MESSAGE_BYTES)
        + u64::from(ICMPV6);
    // The target is the source; it stands in the message once more.
    let message = (u64::from(ADVERTISEMENT) << 8)
        + u64::from(ADVERTISEMENT_FLAGS >> 16)
        + words(source.high)
        + words(source.low)
        + u64::from(TARGET_OPTION)
        + words(mac.0);
    let sum = pseudo + message;
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}
