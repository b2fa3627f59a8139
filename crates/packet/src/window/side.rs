//! What the packets of one direction have said, and how it is kept.
//!
//! All of it stays in the words of the slot, and is read out of them where it is needed: unpacked, two ends would
//! take more of the eBPF stack than there is.

use crate::wire::segment::{Scale, Segment};

/// How many packets in a row have to agree with what was learned from others before it is held against one.
pub const AGREED: u8 = 64;

/// What the packets of one direction have said, as two words of a slot. Only packets that travel this way change
/// it, but for a handshake that begins anew. All 0: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// [`Side::end`] and [`Side::edge`].
    pub numbers: u64,
    /// The rest.
    pub rest: u64,
}

/// What was seen of an end, beside numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(pub u64);

impl Marks {
    /// It has acknowledged something.
    pub const ACKS: Self = Self(1 << 53);
    /// Only SYNs were seen, whose windows are not shifted.
    pub const BARE: Self = Self(1 << 54);
    /// A packet was learned from.
    pub const KNOWN: Self = Self(1 << 55);
    /// It has sent a SYN in the midst of its connection, which would begin anew if that is answered.
    pub const PENDING: Self = Self(1 << 63);

    /// These and others.
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Side {
    /// What two numbers and the rest say: behind the last number that was sent, and behind the last one that the
    /// other end may send; the highest acknowledgement and the largest window, as headers have them.
    #[inline(always)]
    pub const fn new(
        [end, edge]: [u32; 2],
        (acknowledged, window): (u32, u16),
        scale: Scale,
        marks: Marks,
        agreed: u8,
    ) -> Self {
        Self {
            numbers: end as u64 | (edge as u64) << 32,
            rest: acknowledged as u64
                | (window as u64) << 32
                | (scale.0 as u64 & 31) << 48
                | marks.0
                | (agreed as u64) << 56,
        }
    }

    /// The same, of which the verifier knows nothing more.
    #[inline(always)]
    pub(super) fn opaque<O: Fn(u64) -> u64 + Copy>(&self, opaque: O) -> Self {
        Self { numbers: opaque(self.numbers), rest: opaque(self.rest) }
    }

    /// An end whose SYN this is.
    #[inline(always)]
    pub fn opened(segment: &Segment) -> Self {
        let marks = Marks::KNOWN.and(Marks::BARE);
        let Segment { window, scale, .. } = *segment;
        if segment.has_ack() {
            let edge = segment.acknowledged.wrapping_add(u32::from(window).max(1));
            let said = (segment.acknowledged, window);
            Self::new([segment.end, edge], said, scale, marks.and(Marks::ACKS), AGREED)
        } else {
            let behind_syn = segment.sequence.wrapping_add(1);
            Self::new([segment.end, behind_syn], (0, window), scale, marks, AGREED)
        }
    }

    /// An end whose SYN in the midst of its connection was answered. Its number alone was kept of it, so its windows
    /// are as little known as those of an end that was met later.
    #[inline(always)]
    pub const fn begun(behind_syn: u32) -> Self {
        let marks = Marks::KNOWN.and(Marks::BARE);
        Self::new([behind_syn, behind_syn], (0, 0), Scale::UNKNOWN, marks, AGREED)
    }

    /// Of which nothing is known but what it has acknowledged.
    #[inline(always)]
    pub const fn acknowledging(number: u32) -> Self {
        Self::new([0, 0], (number, 0), Scale::UNKNOWN, Marks::ACKS, 0)
    }

    /// Behind the last number that was sent.
    #[inline(always)]
    pub const fn end(&self) -> u32 {
        self.numbers as u32
    }

    /// Behind the last number that the other end may send. Before the first acknowledgement: behind the number
    /// of this end's SYN.
    #[inline(always)]
    pub const fn edge(&self) -> u32 {
        (self.numbers >> 32) as u32
    }

    /// The highest acknowledgement.
    #[inline(always)]
    pub const fn acknowledged(&self) -> u32 {
        self.rest as u32
    }

    /// The largest window, as headers have it.
    #[inline(always)]
    pub const fn window(&self) -> u16 {
        (self.rest >> 32) as u16
    }

    /// How far windows are shifted.
    #[inline(always)]
    pub const fn scale(&self) -> Scale {
        Scale((self.rest >> 48) as u8 & 31)
    }

    /// Whether this was seen of it.
    #[inline(always)]
    pub const fn is(&self, marks: Marks) -> bool {
        self.rest & marks.0 != 0
    }

    /// How many packets in a row have agreed with the other direction's, up to [`AGREED`].
    #[inline(always)]
    pub const fn agreed(&self) -> u8 {
        (self.rest >> 56) as u8 & 127
    }

    /// Whether this end's SYN was seen here, so that its windows are known to the byte.
    #[inline(always)]
    pub const fn is_opened(&self) -> bool {
        self.scale().0 != Scale::UNKNOWN.0
    }

    /// Whether this end's SYN was seen here and is not answered yet.
    #[inline(always)]
    pub const fn is_asking(&self) -> bool {
        self.is_opened() && !self.is(Marks::ACKS)
    }

    /// Whether this acknowledges this end's SYN, of which nothing else is known: the SYN alone, or data that
    /// came with it (RFC 7413), too.
    #[inline(always)]
    pub const fn is_answered_by(&self, acknowledged: u32) -> bool {
        acknowledged.wrapping_sub(self.edge()) <= self.end().wrapping_sub(self.edge())
    }

    /// How far this end's windows are shifted; both ends have to offer it (RFC 7323 §2.2). The most where no SYN
    /// was seen: a window taken for too large refuses nothing that is right.
    #[inline(always)]
    pub fn shift(&self, other: &Self) -> u32 {
        let scale = self.scale();
        if scale == Scale::NONE || other.scale() == Scale::NONE {
            0
        } else if scale == Scale::UNKNOWN {
            Scale::MOST
        } else {
            (u32::from(scale.0) - 2) & 15
        }
    }

    /// The largest window of this end, in bytes: at least one, so that a closed window can be probed.
    #[inline(always)]
    pub fn span(&self, other: &Self) -> u32 {
        let shift = if self.is(Marks::BARE) { 0 } else { self.shift(other) };
        (u32::from(self.window()) << shift).max(1)
    }
}
