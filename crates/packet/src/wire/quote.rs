//! The packet that an ICMP error quotes.
//!
//! Two steps: [`parse_error`] reads the error's own headers, [`parse`] the packet behind them. A quote is
//! cut off somewhere: RFC 792 asks for the first eight bytes behind the IP header, RFC 1812 §4.3.2.3 and
//! RFC 4443 §2.4 for more. So its own lengths say where the packet *ended*, the error's where the quote
//! ends, and nothing is read beyond either: what RFC 4884 puts behind a quote is not taken for a part of it.

use super::ip;
use super::{Headers, Link, Payload, transport};
use crate::env::{Env, Frame};
use crate::flow::{Address, Protocol};
use crate::verdict::DropReason;

/// Type, code, checksum, and four bytes that depend on the type (RFC 792, RFC 4443 §2.1).
const ERROR_BYTES: u32 = 8;

/// Where an ICMP error quotes a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whether both are IPv4; else both are IPv6.
    pub v4: bool,
    /// Who is told: the sender of the quoted packet.
    pub destination: Address,
    /// Where the quoted packet begins, in bytes from the start of the frame.
    pub offset: u32,
    /// Where the error ends.
    pub end: u32,
}

impl Error {
    /// How many bytes of its own an error has before the packet that it quotes.
    pub const HEADER: u32 = ERROR_BYTES;

    /// The same, of which the verifier knows nothing more ([`Env::opaque`]).
    #[inline(always)]
    pub fn opaque<E: Env>(self, env: &E) -> Self {
        let extent = env.opaque(u64::from(self.offset) | u64::from(self.end) << 32);
        let Address { high, low } = self.destination;
        Self {
            v4: env.opaque(u64::from(self.v4)) != 0,
            destination: Address { high: env.opaque(high), low: env.opaque(low) },
            offset: extent as u32,
            end: (extent >> 32) as u32,
        }
    }
}

/// Reads the headers of an ICMP error that is forwarded, if the frame holds one.
#[inline(always)]
pub fn parse_error<F: Frame>(frame: &F, link: &Link) -> Result<Error, DropReason> {
    let (ip, v4) = match link.payload {
        Payload::V4 => (ip::parse_v4(frame, link.offset)?, true),
        Payload::V6 => (ip::parse_v6(frame, link.offset)?, false),
        _ => return Err(DropReason::Unsupported),
    };
    let protocol = if v4 { Protocol::ICMP } else { Protocol::ICMPV6 };
    if ip.protocol != protocol {
        return Err(DropReason::Unsupported);
    }
    let kind = frame.u8(ip.offset).ok_or(DropReason::Truncated)?;
    if !transport::is_error(protocol, kind) {
        return Err(DropReason::Unsupported);
    }
    let offset = ip.offset + ERROR_BYTES;
    if offset > ip.end {
        return Err(DropReason::Truncated);
    }
    Ok(Error { v4, destination: ip.destination, offset, end: ip.end })
}

/// Reads the packet that an error quotes, as far as it is quoted. Its key is spelled as that packet spells
/// it; it has no flags, for they are seldom quoted. Never [`DropReason::Unrelated`]: whether there is such a
/// flow, only its owner knows.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, error: &Error) -> Result<Headers, DropReason> {
    let Error { v4, offset, end, .. } = *error;
    let quoted =
        if v4 { ip::quoted_v4(frame, offset, end)? } else { ip::quoted_v6(frame, offset, end)? };
    // An error goes to whoever sent what it is about (RFC 792, RFC 4443 §3).
    if quoted.source != error.destination {
        return Err(DropReason::BadHeader);
    }
    transport::quoted(frame, &quoted)
}
