//! Fragments of IPv4 (RFC 791 §3.2) and IPv6 (RFC 8200 §4.5) packets.
//!
//! [`parse`] reads what each fragment has, [`headers`] the transport header, which only the first has. A first
//! fragment that does not hold all of that header is refused (RFC 1858, RFC 7112), and so is what a sender of TCP
//! would put right behind it (RFC 3128).

use super::ip::{self, Network};
use super::{Headers, Link, Payload, transport};
use crate::bucket::BucketId;
use crate::env::{Env, Frame};
use crate::flow::{Address, Endpoint, FlowKey, Protocol};
use crate::placement::Placer;
use crate::verdict::DropReason;

/// The most bytes that a packet can have behind its IPv6 header, or with its IPv4 header.
const MAX_BYTES: u32 = 65_535;

/// Offsets count units of so many bytes.
pub const UNIT: u32 = 8;

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who has sent it.
    pub source: Address,
    /// Who it is for.
    pub destination: Address,
    /// What tells it from others of the same sender; 16 bits in IPv4.
    pub identification: u32,
    /// The protocol, which belongs to the identification in IPv4. In IPv6 only the first fragment's counts; there it
    /// is 1 for a packet of a single fragment and 0 for others.
    pub protocol: u8,
}

/// Where a datagram is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spot {
    /// In `steered` mode, the owner of this bucket sees all fragments first.
    pub bucket: BucketId,
    /// Gives the place in the table of datagrams.
    pub hash: u32,
}

impl Datagram {
    /// The flow of its packet, with ports and protocol as [`FlowKey::port_word`] gives them.
    #[inline(always)]
    #[must_use]
    pub const fn flow(&self, ports: u64) -> FlowKey {
        let (source, destination) = (self.source, self.destination);
        FlowKey::from_words([source.high, source.low, destination.high, destination.low, ports])
    }

    /// Where its fragments meet, on every node the same.
    #[inline(always)]
    #[must_use]
    pub fn spot(&self, placer: &Placer) -> Spot {
        let [high, low] = [(self.identification >> 16) as u16, self.identification as u16];
        let high = high ^ (self.protocol as u16) << 8;
        let basis = placer.class(Endpoint { address: self.source, port: low })
            ^ placer.class(Endpoint { address: self.destination, port: high });
        Spot { bucket: BucketId(basis as u16 & placer.bucket_mask), hash: (basis >> 32) as u32 }
    }
}

/// A fragment, but for the transport header that the first one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is a fragment of.
    pub datagram: Datagram,
    /// Where its data begins in the datagram's, in bytes: a multiple of [`UNIT`].
    pub from: u32,
    /// How many bytes of the datagram it has.
    pub bytes: u32,
    /// Whether others come behind it.
    pub more: bool,
    /// Time to live or hop limit.
    pub hops: u8,
    /// What its data begins with, if it is the first: a protocol, or one more extension header.
    next: u8,
    v4: bool,
    /// Where its data begins in the frame, and where it ends.
    at: u32,
    end: u32,
}

impl Part {
    /// Whether it is all there is (an IPv6 "atomic fragment", RFC 6946): it is handled as a packet of its own.
    #[inline(always)]
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.from == 0 && !self.more
    }

    /// The same, of which the verifier knows nothing more ([`Env::opaque`]).
    #[inline(always)]
    #[must_use]
    pub fn opaque<E: Env>(self, env: &E) -> Self {
        let Datagram { source, destination, identification, protocol } = self.datagram;
        let extent = env.opaque(u64::from(self.from) | u64::from(self.bytes) << 32);
        let place = env.opaque(u64::from(self.at) | u64::from(self.end) << 32);
        let rest = self.more as u64
            | (self.v4 as u64) << 8
            | (self.next as u64) << 16
            | (self.hops as u64) << 24
            | (protocol as u64) << 32;
        let rest = env.opaque(rest);
        let opaque =
            |Address { high, low }| Address { high: env.opaque(high), low: env.opaque(low) };
        Self {
            datagram: Datagram {
                source: opaque(source),
                destination: opaque(destination),
                identification: env.opaque(u64::from(identification)) as u32,
                protocol: (rest >> 32) as u8,
            },
            from: extent as u32,
            bytes: (extent >> 32) as u32,
            more: rest & 1 == 1,
            v4: rest >> 8 & 1 == 1,
            next: (rest >> 16) as u8,
            hops: (rest >> 24) as u8,
            at: place as u32,
            end: (place >> 32) as u32,
        }
    }
}

/// Reads a fragment that [`super::parse`] has refused as one.
#[inline(always)]
pub fn parse<F: Frame>(frame: &F, link: &Link) -> Result<Part, DropReason> {
    let (part, bytes_before) = match link.payload {
        Payload::V4 => parse_v4(frame, link.offset)?,
        Payload::V6 => parse_v6(frame, link.offset)?,
        _ => return Err(DropReason::Unsupported),
    };
    let empty = part.bytes == 0 && !part.is_whole();
    let ragged = part.more && part.bytes % UNIT != 0;
    if empty || ragged || bytes_before + part.from + part.bytes > MAX_BYTES {
        return Err(DropReason::FragmentLength);
    }
    // It would overwrite the flags of a TCP header (RFC 1858 §4.2.2).
    if part.from == UNIT && Protocol(part.next) == Protocol::TCP {
        return Err(DropReason::FragmentTiny);
    }
    Ok(part)
}

/// The part, and how many bytes of the packet's greatest length are not the datagram's.
#[inline(always)]
fn parse_v4<F: Frame>(frame: &F, at: u32) -> Result<(Part, u32), DropReason> {
    let ip = ip::header_v4(frame, at)?;
    let identification = frame.u16(at + 4).ok_or(DropReason::Truncated)?;
    let fragment = frame.u16(at + 6).ok_or(DropReason::Truncated)?;
    let datagram = Datagram {
        source: ip.source,
        destination: ip.destination,
        identification: identification as u32,
        protocol: ip.protocol.0,
    };
    let part = Part {
        datagram,
        from: u32::from(fragment & 0x1fff) * UNIT,
        bytes: ip.end - ip.offset,
        more: fragment & 0x2000 != 0,
        hops: ip.hops,
        next: ip.protocol.0,
        v4: true,
        at: ip.offset,
        end: ip.end,
    };
    Ok((part, ip.offset - at))
}

#[inline(always)]
fn parse_v6<F: Frame>(frame: &F, at: u32) -> Result<(Part, u32), DropReason> {
    let ip = ip::header_v6(frame, at)?;
    let header = ip::find_fragment_header(frame, ip.protocol.0, ip.offset)?;
    let next = frame.u8(header).ok_or(DropReason::Truncated)?;
    let fragment = frame.u16(header + 2).ok_or(DropReason::Truncated)?;
    let identification = frame.u32(header + 4).ok_or(DropReason::Truncated)?;
    if header + 8 > ip.end {
        return Err(DropReason::Truncated);
    }
    let (source, destination) = (ip.source, ip.destination);
    // One that is whole has nothing to do with others of its name (RFC 6946 §4).
    let protocol = u8::from(fragment & 0xfff9 == 0);
    let part = Part {
        datagram: Datagram { source, destination, identification, protocol },
        from: u32::from(fragment & 0xfff8),
        bytes: ip.end - header - 8,
        more: fragment & 1 != 0,
        hops: ip.hops,
        next,
        v4: false,
        at: header + 8,
        end: ip.end,
    };
    Ok((part, header - ip.offset))
}

/// Where the transport header of a first fragment begins, and of what protocol it is.
#[inline(always)]
pub fn transport<F: Frame>(frame: &F, part: &Part) -> Result<(Protocol, u32), DropReason> {
    let (protocol, offset) = if part.v4 {
        (Protocol(part.next), part.at)
    } else {
        ip::skip_extensions(frame, part.next, part.at)?
    };
    if offset > part.end { Err(DropReason::FragmentTiny) } else { Ok((protocol, offset)) }
}

/// Reads the transport header of a first fragment, which [`transport`] has found.
#[inline(always)]
pub fn headers<F: Frame>(
    frame: &F,
    part: &Part,
    (protocol, offset): (Protocol, u32),
) -> Result<Headers, DropReason> {
    let network = Network {
        source: part.datagram.source,
        destination: part.datagram.destination,
        protocol,
        offset,
        end: part.end,
        hops: part.hops,
        whole: part.is_whole(),
    };
    match transport::parse(frame, &network) {
        Err(DropReason::Truncated) if !part.is_whole() => Err(DropReason::FragmentTiny),
        // It quotes less than fits one fragment (RFC 1812 §4.3.2.3, RFC 4443 §2.4).
        Err(DropReason::Unrelated) => Err(DropReason::Unsupported),
        read => read,
    }
}
