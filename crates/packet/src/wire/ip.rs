//! IPv4 (RFC 791) and IPv6 (RFC 8200) headers.

use crate::env::Frame;
use crate::flow::{Address, Protocol};
use crate::verdict::DropReason;

/// How many extension headers of an IPv6 packet are followed. RFC 8200 §4.1 names six kinds, one of
/// which may come twice.
const MAX_EXTENSIONS: u32 = 8;

/// No offset that the pipeline computes is larger; a packet that needs a larger one is refused. All bits of it are
/// set, so that it masks an offset of which the verifier has to know a bound.
pub(super) const MAX_OFFSET: u32 = 2047;

/// What is known after the IP header.
pub(super) struct Network {
    pub source: Address,
    pub destination: Address,
    pub protocol: Protocol,
    /// Where the transport header begins.
    pub offset: u32,
    /// Where the packet ends by its own account, which the frame is known to hold.
    pub end: u32,
    pub hops: u8,
    /// Whether it is all of its packet: no fragment.
    pub whole: bool,
}

impl Network {
    /// The same, of which the verifier knows nothing more ([`Frame::opaque`]): it follows what comes behind the header once,
    /// and not once for each way through it.
    #[inline(always)]
    pub(super) fn opaque<F: Frame>(self, frame: &F) -> Self {
        let address = |address: Address| Address {
            high: frame.opaque(address.high),
            low: frame.opaque(address.low),
        };
        let place = frame.opaque(u64::from(self.offset) | u64::from(self.end) << 32);
        let rest = self.protocol.0 as u64 | (self.hops as u64) << 8 | (self.whole as u64) << 16;
        let rest = frame.opaque(rest);
        Self {
            source: address(self.source),
            destination: address(self.destination),
            protocol: Protocol(rest as u8),
            offset: place as u32 & MAX_OFFSET,
            end: (place >> 32) as u32,
            hops: (rest >> 8) as u8,
            whole: rest >> 16 & 1 == 1,
        }
    }
}

#[inline(always)]
pub(super) fn parse_v4<F: Frame>(frame: &F, at: u32) -> Result<Network, DropReason> {
    let words = frame.u32s(at).ok_or(DropReason::Truncated)?;
    // "More fragments", or an offset (RFC 791 §3.1).
    if words[1] & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    judge_v4(frame, at, words)
}

/// An IPv4 header, whether of a fragment or not.
#[inline(always)]
pub(super) fn header_v4<F: Frame>(frame: &F, at: u32) -> Result<Network, DropReason> {
    judge_v4(frame, at, frame.u32s(at).ok_or(DropReason::Truncated)?)
}

/// The same, of which these are the words.
#[inline(always)]
fn judge_v4<F: Frame>(frame: &F, at: u32, words: [u32; 5]) -> Result<Network, DropReason> {
    let [lengths, _, life, source, destination] = words;
    let (first, total) = ((lengths >> 24) as u8, lengths & 0xffff);
    let (hops, protocol) = ((life >> 24) as u8, Protocol((life >> 16) as u8));
    let header = u32::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 || total < header {
        return Err(DropReason::BadHeader);
    }
    if at + total > frame.len() {
        return Err(DropReason::Truncated);
    }
    if !forwardable_v4(source) || !forwardable_v4(destination) {
        return Err(DropReason::BadAddress);
    }
    Ok(Network {
        source: Address::v4(source),
        destination: Address::v4(destination),
        protocol,
        offset: at + header,
        end: at + total,
        hops,
        whole: true,
    })
}

/// A quoted packet, of a frame that holds the quote up to `end`. What of it is not needed to find its flow
/// is not checked: it is a copy of what was let through.
#[inline(always)]
pub(super) fn quoted_v4<F: Frame>(frame: &F, at: u32, end: u32) -> Result<Network, DropReason> {
    let first = frame.u8(at).ok_or(DropReason::Truncated)?;
    let total = u32::from(frame.u16(at + 2).ok_or(DropReason::Truncated)?);
    let fragment = frame.u16(at + 6).ok_or(DropReason::Truncated)?;
    let hops = frame.u8(at + 8).ok_or(DropReason::Truncated)?;
    let protocol = Protocol(frame.u8(at + 9).ok_or(DropReason::Truncated)?);
    let source = frame.u32(at + 12).ok_or(DropReason::Truncated)?;
    let destination = frame.u32(at + 16).ok_or(DropReason::Truncated)?;
    let header = u32::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < 20 {
        return Err(DropReason::BadHeader);
    }
    // The first fragment has the ports; the others have not (RFC 791 §3.1).
    if fragment & 0x1fff != 0 {
        return Err(DropReason::Fragment);
    }
    Ok(Network {
        source: Address::v4(source),
        destination: Address::v4(destination),
        protocol,
        offset: at + header,
        end: sooner(at + total, end),
        hops,
        whole: true,
    })
}

/// The same for IPv6.
#[inline(always)]
pub(super) fn quoted_v6<F: Frame>(frame: &F, at: u32, end: u32) -> Result<Network, DropReason> {
    let first = frame.u8(at).ok_or(DropReason::Truncated)?;
    let payload = u32::from(frame.u16(at + 4).ok_or(DropReason::Truncated)?);
    let next = frame.u8(at + 6).ok_or(DropReason::Truncated)?;
    let hops = frame.u8(at + 7).ok_or(DropReason::Truncated)?;
    let source = address_v6(frame, at + 8)?;
    let destination = address_v6(frame, at + 24)?;
    if first >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    let (protocol, offset) = skip_extensions(frame, next, at + 40)?;
    let end = sooner(at + 40 + payload, end);
    Ok(Network { source, destination, protocol, offset, end, hops, whole: true })
}

/// Where a quoted packet ends: by its own account, or where the quote does.
#[inline(always)]
const fn sooner(packet: u32, quote: u32) -> u32 {
    if packet < quote { packet } else { quote }
}

/// Whether a forwarded packet may carry the address: not "this network", loopback, multicast or
/// above (RFC 1812 §5.3.7), nor link-local (RFC 3927 §2.7).
#[inline(always)]
const fn forwardable_v4(address: u32) -> bool {
    let first = address >> 24;
    first != 0 && first != 127 && first < 224 && address >> 16 != 0xa9fe
}

#[inline(always)]
pub(super) fn parse_v6<F: Frame>(frame: &F, at: u32) -> Result<Network, DropReason> {
    let header = header_v6(frame, at)?;
    let (protocol, offset) = skip_extensions(frame, header.protocol.0, at + 40)?;
    // What lies behind the packet's end is the link layer's padding.
    if offset > header.end {
        return Err(DropReason::Truncated);
    }
    Ok(Network { protocol, offset, ..header })
}

/// An IPv6 header alone; its protocol is that of the first header behind it.
#[inline(always)]
pub(super) fn header_v6<F: Frame>(frame: &F, at: u32) -> Result<Network, DropReason> {
    let first = frame.u8(at).ok_or(DropReason::Truncated)?;
    let payload = u32::from(frame.u16(at + 4).ok_or(DropReason::Truncated)?);
    let next = frame.u8(at + 6).ok_or(DropReason::Truncated)?;
    let hops = frame.u8(at + 7).ok_or(DropReason::Truncated)?;
    let source = address_v6(frame, at + 8)?;
    let destination = address_v6(frame, at + 24)?;
    if first >> 4 != 6 {
        return Err(DropReason::BadHeader);
    }
    let end = at + 40 + payload;
    if end > frame.len() {
        return Err(DropReason::Truncated);
    }
    if !forwardable_v6(source) || !forwardable_v6(destination) {
        return Err(DropReason::BadAddress);
    }
    let (protocol, offset) = (Protocol(next), at + 40);
    Ok(Network { source, destination, protocol, offset, end, hops, whole: true })
}

#[inline(always)]
fn address_v6<F: Frame>(frame: &F, at: u32) -> Result<Address, DropReason> {
    let high = frame.u64(at).ok_or(DropReason::Truncated)?;
    let low = frame.u64(at + 8).ok_or(DropReason::Truncated)?;
    Ok(Address { high, low })
}

/// Whether a forwarded packet may carry the address: not unspecified or loopback, mapped IPv4,
/// link-local or multicast (RFC 4291 §2.5, RFC 4443 aside).
#[inline(always)]
const fn forwardable_v6(address: Address) -> bool {
    let reserved = address.high == 0 && (address.low <= 1 || address.is_v4());
    let link_local = address.high >> 54 == 0xfe80 >> 6;
    let multicast = address.high >> 56 == 0xff;
    !reserved && !link_local && !multicast
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;

/// What follows an extension header, and where.
#[inline(always)]
fn pass_over<F: Frame>(frame: &F, at: u32) -> Result<(u8, u32), DropReason> {
    let length = u32::from(frame.u8(at + 1).ok_or(DropReason::Truncated)?);
    let next = frame.u8(at).ok_or(DropReason::Truncated)?;
    let behind = at + (length + 1) * 8;
    if behind > MAX_OFFSET { Err(DropReason::ExtensionHeaders) } else { Ok((next, behind)) }
}

/// Follows the extension headers to the fragment header, and says where that begins. Only the headers that each
/// router on the way looks at come before it (RFC 8200 §4.5).
#[inline(always)]
pub(super) fn find_fragment_header<F: Frame>(
    frame: &F,
    next: u8,
    at: u32,
) -> Result<u32, DropReason> {
    let (mut next, mut offset) = (next, at);
    for _ in 0..MAX_EXTENSIONS {
        match next {
            FRAGMENT => return Ok(offset),
            HOP_BY_HOP | ROUTING | DESTINATION => (next, offset) = pass_over(frame, offset)?,
            _ => return Err(DropReason::Internal),
        }
    }
    Err(DropReason::ExtensionHeaders)
}

/// Follows the extension headers (RFC 8200 §4) to the transport header.
#[inline(always)]
pub(super) fn skip_extensions<F: Frame>(
    frame: &F,
    next: u8,
    at: u32,
) -> Result<(Protocol, u32), DropReason> {
    const NONE: u8 = 59;
    let (mut next, mut offset) = (next, at);
    for _ in 0..MAX_EXTENSIONS {
        match next {
            HOP_BY_HOP | ROUTING | DESTINATION => (next, offset) = pass_over(frame, offset)?,
            FRAGMENT => return Err(DropReason::Fragment),
            NONE => return Err(DropReason::Unsupported),
            protocol => return Ok((Protocol(protocol), offset)),
        }
    }
    Err(DropReason::ExtensionHeaders)
}
