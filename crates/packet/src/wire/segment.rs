//! What of a TCP header says where in its stream a segment belongs (RFC 9293 §3.1).
//!
//! Read only once a flow is found, of a packet that [`super::parse`] has accepted: nobody else asks for it.

use super::Headers;
use crate::env::{Env, Frame};
use crate::tracking::TcpFlags;

/// How far the windows of one end are shifted (RFC 7323 §2), as its SYN has said it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scale(pub u8);

impl Scale {
    /// No SYN of this end was seen.
    pub const UNKNOWN: Self = Self(0);
    /// Its SYN was seen, and offered none.
    pub const NONE: Self = Self(1);
    /// The largest shift there is (RFC 7323 §2.3).
    pub const MOST: u32 = 14;

    /// The shift that a SYN offers. What is larger than the largest counts as that.
    #[inline(always)]
    pub const fn offered(shift: u8) -> Self {
        if shift as u32 > Self::MOST { Self(16) } else { Self(shift + 2) }
    }
}

/// Where in its stream a segment belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of its first byte, or of its SYN.
    pub sequence: u32,
    /// Behind the number of its last byte; SYN and FIN count as one each.
    pub end: u32,
    /// Up to which number the sender has everything of the other end; only with ACK.
    pub acknowledged: u32,
    /// The window as the header has it.
    pub window: u16,
    /// Its control bits.
    pub flags: TcpFlags,
    /// What it says of the scale of its windows, if it is a SYN.
    pub scale: Scale,
}

/// How many options are looked at: twice as many as any TCP is known to send, padding counted.
const MAX_OPTIONS: u32 = 20;

impl Segment {
    /// Reads the segment of a TCP packet; `None` if the frame is not what its headers were parsed from.
    #[inline(always)]
    pub fn read<E: Env, F: Frame>(env: &E, frame: &F, headers: &Headers) -> Option<Self> {
        let at = headers.offset;
        let sequence = frame.u32(at + 4)?;
        let acknowledged = frame.u32(at + 8)?;
        let rest = frame.u32(at + 12)?;
        let flags = headers.flags;
        let header = rest >> 28 << 2;
        let data = u32::from(headers.bytes).saturating_sub(header);
        let syn = u32::from(flags.0 >> 1 & 1);
        let end = sequence.wrapping_add(data + syn + u32::from(flags.0 & 1));
        let end = env.opaque(u64::from(end)) as u32;
        let scale = if syn == 0 {
            Scale::UNKNOWN
        } else {
            let offered = window_scale(env, frame, at + 20, header.saturating_sub(20));
            Scale(env.opaque(u64::from(offered.0)) as u8)
        };
        Some(Self { sequence, end, acknowledged, window: rest as u16, flags, scale })
    }
}

/// Looks for the window scale among a SYN's options (RFC 9293 §3.1, RFC 7323 §2.2). Of options that are not
/// well-formed, what stands before the fault counts. Behind the options that are looked at, the largest scale may
/// stand: it refuses nothing that is right.
#[inline(always)]
fn window_scale<E: Env, F: Frame>(env: &E, frame: &F, first: u32, length: u32) -> Scale {
    const END: u8 = 0;
    const PADDING: u8 = 1;
    const WINDOW_SCALE: u8 = 3;
    let mut at = 0;
    for _ in 0..MAX_OPTIONS {
        // All paths through the options so far look the same to the verifier.
        at = env.opaque(u64::from(at)) as u32 & 63;
        if at >= length {
            return Scale::NONE;
        }
        let step = match frame.u8(first + at) {
            Some(PADDING) => 1,
            None | Some(END) => return Scale::NONE,
            Some(kind) => {
                let Some(bytes) = frame.u8(first + at + 1) else { return Scale::NONE };
                if bytes < 2 || at + u32::from(bytes) > length {
                    return Scale::NONE;
                }
                if kind == WINDOW_SCALE && bytes == 3 {
                    return match frame.u8(first + at + 2) {
                        Some(shift) => Scale::offered(shift),
                        None => Scale::NONE,
                    };
                }
                u32::from(bytes)
            }
        };
        at += step;
    }
    if at < length { Scale::offered(Scale::MOST as u8) } else { Scale::NONE }
}
