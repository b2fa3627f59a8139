//! The largest segment that the ends of a TCP connection let each other send, made smaller where a link on the way takes
//! less than they know of (RFC 9293 §3.7.1; RFC 4459 §3.2 on why routers do it).
//!
//! Both ends name it in their SYNs. A link whose packets are wrapped once more behind a router's back (PPPoE, tunnels)
//! carries less than its neighbours; where the errors that say so are lost on the way, connections hang.
//!
//! Invariant: a size is only ever made smaller, and what names none stays as it is: its end then means the size that fits
//! every link (RFC 9293 §3.7.1). The checksum is changed by what has changed, so a segment that was damaged stays so.

use crate::env::Frame;
use crate::tracking::TcpFlags;
use crate::translate::change::Change;
use crate::wire::{self, Link, Payload};

const TCP: u8 = 6;
/// RFC 9293 §3.1: where in the header the flags, the checksum and the options are.
const FLAGS: u32 = 13;
const CHECKSUM: u32 = 16;
const OPTIONS: u32 = 20;
/// RFC 9293 §3.2: the kind of the option and all of its bytes.
const KIND: u8 = 2;
const BYTES: u8 = 4;
/// How many options are looked at; the size comes first or second wherever it was seen.
const MAX_OPTIONS: u32 = 12;
/// What stands before the TCP header is less: two VLAN tags and an IPv4 header with all of its options are 82 bytes.
const MAX_BEFORE: u32 = 0x7f;

/// The largest segments that an interface takes, in bytes, by IPv4 and by IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MostBytes {
    /// In packets of IPv4.
    pub v4: u16,
    /// In packets of IPv6.
    pub v6: u16,
}

impl MostBytes {
    /// Where nothing is asked.
    pub const ANY: Self = Self { v4: u16::MAX, v6: u16::MAX };

    /// What fits packets of so many bytes: less the headers of IP (20 and 40 bytes) and TCP (20).
    pub const fn of_mtu(mtu: u32) -> Self {
        Self { v4: Self::within(mtu, 40), v6: Self::within(mtu, 60) }
    }

    const fn within(mtu: u32, headers: u32) -> u16 {
        let bytes = mtu.saturating_sub(headers);
        if bytes > u16::MAX as u32 { u16::MAX } else { bytes as u16 }
    }

    /// It as a number.
    #[inline(always)]
    pub const fn to_word(self) -> u64 {
        self.v4 as u64 | (self.v6 as u64) << 16
    }

    /// What a number stands for.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self { v4: word as u16, v6: (word >> 16) as u16 }
    }

    /// What both of two interfaces take.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        const fn less(a: u16, b: u16) -> u16 {
            if a < b { a } else { b }
        }
        Self { v4: less(self.v4, other.v4), v6: less(self.v6, other.v6) }
    }
}

/// Makes the size that a SYN names, with an acknowledgement or without, no larger than its links take; `most` is asked of
/// SYNs alone. Other packets stay as they are, and so does a size that is small enough. The packet is one that the
/// pipeline lets pass. `opaque`: as [`crate::env::Env::opaque`].
#[inline(always)]
pub fn shrink<F: Frame>(
    frame: &mut F,
    most: impl FnOnce() -> MostBytes,
    opaque: impl Fn(u64) -> u64,
) {
    let Ok(link) = wire::parse_link(frame) else { return };
    if let Some(header) = syn(frame, &link) {
        // Nothing to do is no fault.
        let _ = clamp(frame, &link, header, most(), opaque);
    }
}

/// Where the TCP header of a SYN is, with an acknowledgement or without; `None` for everything else. A SYN behind
/// extension headers, or cut into fragments, is not looked for: no system sends them.
#[inline(always)]
fn syn<F: Frame>(frame: &F, link: &Link) -> Option<u32> {
    let at = link.offset;
    let header = match link.payload {
        Payload::V4 if frame.u8(at + 9)? == TCP && frame.u16(at + 6)? & 0x3fff == 0 => {
            u32::from(frame.u8(at)? & 15) * 4
        }
        Payload::V6 if frame.u8(at + 6)? == TCP => 40,
        _ => return None,
    };
    let flags = TcpFlags(frame.u8(at + header + FLAGS)?);
    flags.has(TcpFlags::SYN).then_some(header)
}

/// Makes the size that a SYN names no larger than `most`. `header`: what [`syn`] has found. `None` if it is
/// as it was.
#[inline(always)]
fn clamp<F: Frame>(
    frame: &mut F,
    link: &Link,
    header: u32,
    most: MostBytes,
    opaque: impl Fn(u64) -> u64,
) -> Option<()> {
    let most = if link.payload == Payload::V4 { most.v4 } else { most.v6 };
    let most = opaque(u64::from(most)) as u16;
    // From here on all families and tags look the same to the verifier, which needs a bound.
    let tcp = opaque(u64::from(link.offset + header)) as u32 & MAX_BEFORE;
    let length = u32::from(frame.u8(tcp + 12)? >> 4) * 4;
    let place = find(frame, tcp, length, opaque)?;
    let seen = frame.u16(tcp + place + 2)?;
    if seen <= most {
        return None;
    }
    let sum = frame.u16(tcp + CHECKSUM)?;
    // The sum is of words from the header's beginning on; the size may lie across two of them.
    let change = if place & 1 == 0 {
        Change::NONE.word(seen, most)
    } else {
        Change::NONE.word(seen.swap_bytes(), most.swap_bytes())
    };
    frame.set_u16(tcp + place + 2, most)?;
    frame.set_u16(tcp + CHECKSUM, change.applied_to(sum))
}

/// Where in the TCP header the option begins. Of options that are not well-formed, what stands before the fault counts.
#[inline(always)]
fn find<F: Frame>(frame: &F, tcp: u32, length: u32, opaque: impl Fn(u64) -> u64) -> Option<u32> {
    const END: u8 = 0;
    const PADDING: u8 = 1;
    let mut at = OPTIONS;
    for _ in 0..MAX_OPTIONS {
        // All paths through the options so far look the same to the verifier.
        at = opaque(u64::from(at)) as u32 & 63;
        if at >= length {
            return None;
        }
        at += match frame.u8(tcp + at)? {
            END => return None,
            PADDING => 1,
            kind => {
                let bytes = frame.u8(tcp + at + 1)?;
                if bytes < 2 || at + u32::from(bytes) > length {
                    return None;
                }
                if kind == KIND && bytes == BYTES {
                    return Some(at);
                }
                u32::from(bytes)
            }
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_two_links_is_the_smaller_one() {
        let link = MostBytes::of_mtu(1500);
        assert_eq!(link, MostBytes { v4: 1460, v6: 1440 });
        assert_eq!(MostBytes::from_word(link.to_word()), link);
        assert_eq!(link.and(MostBytes { v4: 1400, v6: 9000 }), MostBytes { v4: 1400, v6: 1440 });
        assert_eq!(link.and(MostBytes::ANY), link);
        assert_eq!(MostBytes::of_mtu(65_635), MostBytes { v4: 65_535, v6: 65_535 });
        assert_eq!(MostBytes::of_mtu(50), MostBytes { v4: 10, v6: 0 });
    }
}
