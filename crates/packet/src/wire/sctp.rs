//! What of an SCTP packet its association goes by (RFC 9260 §3).
//!
//! Read only once a flow is found, of a packet that [`super::parse`] has accepted; what a first packet needs before is
//! its first chunk alone, for INIT is never bundled.

use super::Headers;
use super::ip::MAX_OFFSET;
use crate::env::{Env, Frame};
use crate::tracking::TcpFlags;
use crate::verdict::DropReason;

/// The bytes of the common header.
pub const HEADER: u32 = 12;

/// How many chunks are looked at. Control chunks come before DATA (RFC 9260 §6.10), at which the look ends; no packet
/// of a real peer has more of them than a few.
const MAX_CHUNKS: u32 = 12;

/// Chunk types (RFC 9260 §3.2, RFC 8260 §2.1).
mod chunk {
    pub const DATA: u8 = 0;
    pub const INIT: u8 = 1;
    pub const INIT_ACK: u8 = 2;
    pub const HEARTBEAT: u8 = 4;
    pub const ABORT: u8 = 6;
    pub const SHUTDOWN: u8 = 7;
    pub const SHUTDOWN_ACK: u8 = 8;
    pub const COOKIE_ECHO: u8 = 10;
    pub const SHUTDOWN_COMPLETE: u8 = 14;
    pub const I_DATA: u8 = 64;
}

/// What a packet has that decides by which tag it is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// INIT: it names the tag of what its sender will get, and carries none.
    Init,
    /// INIT ACK: it names the tag of what its sender will get.
    InitAck,
    /// COOKIE ECHO: its sender has got what the other end has named.
    CookieEcho,
    /// SHUTDOWN ACK: its sender has nothing more to say, perhaps in an association of before.
    ShutdownAck,
    /// ABORT: the end of the association.
    Abort,
    /// SHUTDOWN COMPLETE: its end as well.
    ShutdownComplete,
    /// Anything else.
    Other,
}

/// An SCTP packet, as far as its association goes by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The verification tag that it carries.
    pub tag: u32,
    /// The tag that it names, if it is an INIT or INIT ACK.
    pub initiate: u32,
    /// What it is.
    pub kind: Kind,
    /// Whether the tag is the receiver's own, reflected by an end that knows of no association (the T bit).
    pub reflected: bool,
    /// What its chunks do to the flow, in the flags of TCP that do the same ([`flags`]).
    pub flags: TcpFlags,
}

/// What a chunk does to its flow, in the flags of TCP that do the same: an INIT opens like a SYN, INIT ACK answers it,
/// SHUTDOWN and its acknowledgement close a side like a FIN, ABORT is a reset.
#[inline(always)]
pub const fn flags(kind: u8) -> TcpFlags {
    TcpFlags(match kind {
        chunk::INIT => TcpFlags::SYN.0,
        chunk::INIT_ACK => TcpFlags::SYN.0 | TcpFlags::ACK.0,
        chunk::SHUTDOWN | chunk::SHUTDOWN_ACK => TcpFlags::FIN.0 | TcpFlags::ACK.0,
        chunk::ABORT => TcpFlags::RST.0,
        chunk::HEARTBEAT => TcpFlags::HEARTBEAT.0 | TcpFlags::ACK.0,
        _ => TcpFlags::ACK.0,
    })
}

/// Whether a packet of which the first chunk is of this type may carry this tag: none is INIT's, and INIT's alone
/// (RFC 9260 §8.5.1).
#[inline(always)]
pub const fn suits(kind: u8, tag: u32) -> bool {
    (kind == chunk::INIT) == (tag == 0)
}

/// What has been seen of a packet's chunks: their flags, and these bits.
#[derive(Clone, Copy)]
struct Seen(u64);

impl Seen {
    const INIT: u64 = 1 << 8;
    const INIT_ACK: u64 = 1 << 9;
    const COOKIE_ECHO: u64 = 1 << 10;
    const ABORT: u64 = 1 << 11;
    const SHUTDOWN_ACK: u64 = 1 << 14;
    const SHUTDOWN_COMPLETE: u64 = 1 << 15;
    const REFLECTED: u64 = 1 << 12;
    /// What has to be alone in its packet.
    const ALONE: u64 = 1 << 13;

    #[inline(always)]
    const fn and(self, kind: u8, bits: u8) -> Self {
        let reflected = if bits & 1 != 0 { Self::REFLECTED } else { 0 };
        let own = match kind {
            chunk::INIT => Self::INIT | Self::ALONE,
            chunk::INIT_ACK => Self::INIT_ACK | Self::ALONE,
            chunk::COOKIE_ECHO => Self::COOKIE_ECHO,
            chunk::ABORT => Self::ABORT | reflected,
            chunk::SHUTDOWN_ACK => Self::SHUTDOWN_ACK,
            chunk::SHUTDOWN_COMPLETE => Self::SHUTDOWN_COMPLETE | Self::ALONE | reflected,
            _ => 0,
        };
        Self(self.0 | flags(kind).0 as u64 | own)
    }

    #[inline(always)]
    const fn has(self, bit: u64) -> bool {
        self.0 & bit != 0
    }

    #[inline(always)]
    const fn kind(self) -> Kind {
        if self.has(Self::INIT) {
            Kind::Init
        } else if self.has(Self::INIT_ACK) {
            Kind::InitAck
        } else if self.has(Self::ABORT) {
            Kind::Abort
        } else if self.has(Self::SHUTDOWN_COMPLETE) {
            Kind::ShutdownComplete
        } else if self.has(Self::SHUTDOWN_ACK) {
            Kind::ShutdownAck
        } else if self.has(Self::COOKIE_ECHO) {
            Kind::CookieEcho
        } else {
            Kind::Other
        }
    }
}

impl Packet {
    /// Reads a packet's tag and its control chunks. A chunk that reaches beyond the packet, one of no length, and one
    /// that has to be alone and is not, make it no SCTP.
    #[inline(always)]
    pub fn read<E: Env, F: Frame>(
        env: &E,
        frame: &F,
        headers: &Headers,
    ) -> Result<Self, DropReason> {
        let (first, end) = (headers.offset + HEADER, headers.offset + u32::from(headers.bytes));
        let tag = frame.u32(headers.offset + 4).ok_or(DropReason::Truncated)?;
        let (mut seen, mut at, mut number) = (Seen(0), first, 0);
        while number < MAX_CHUNKS {
            // All ways through the chunks so far look the same to the verifier.
            at = env.opaque(u64::from(at)) as u32;
            seen = Seen(env.opaque(seen.0));
            if at > MAX_OFFSET || at + 4 > end {
                break;
            }
            let word = frame.u32(at).ok_or(DropReason::Truncated)?;
            let (kind, length) = ((word >> 24) as u8, word & 0xffff);
            if length < 4 || at + length > end {
                return Err(DropReason::BadHeader);
            }
            if kind == chunk::DATA || kind == chunk::I_DATA {
                seen = seen.and(kind, 0);
                number += 1;
                break;
            }
            seen = seen.and(kind, (word >> 16) as u8);
            at += (length + 3) & !3;
            number += 1;
        }
        let number = env.opaque(u64::from(number));
        if number == 0 || seen.has(Seen::ALONE) && (number != 1 || at < end) {
            return Err(DropReason::BadHeader);
        }
        let kind = seen.kind();
        let mut initiate = 0;
        if matches!(kind, Kind::Init | Kind::InitAck) {
            initiate = frame.u32(first + 4).ok_or(DropReason::Truncated)?;
            if initiate == 0 {
                return Err(DropReason::BadHeader);
            }
        }
        let reflected = seen.has(Seen::REFLECTED);
        Ok(Self { tag, initiate, kind, reflected, flags: TcpFlags(seen.0 as u8) })
    }
}
