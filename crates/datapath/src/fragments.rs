//! The memory of datagrams of which fragments are on their way; the algorithm is [`testudo_packet::fragment::table`].

use std::io;

use testudo_packet::bucket::Nanos;
use testudo_packet::flow::FlowKey;
use testudo_packet::fragment::table::{self, DATAGRAMS, Datagrams, UNIT_WORDS};
use testudo_packet::placement::{Placement, Placer};
use testudo_packet::table::SLOT_WORDS;
use testudo_packet::wire::{self, Link, fragment};

use crate::frame::SliceFrame;
use crate::likenesses::Placing;
use crate::memory::{Word, Words};
use crate::shared_table::HostSlot;

/// How many words the heads take.
pub const HEAD_WORDS: usize = DATAGRAMS as usize * SLOT_WORDS;
/// How many words the units take.
pub const ALL_UNIT_WORDS: usize = (DATAGRAMS * UNIT_WORDS) as usize;

/// Memory that may be shared with the kernel.
#[derive(Debug)]
pub struct Fragments {
    pub heads: Words,
    pub units: Words,
}

impl Fragments {
    /// Memory of this process.
    pub fn zeroed() -> io::Result<Self> {
        Ok(Self { heads: Words::zeroed(HEAD_WORDS)?, units: Words::zeroed(ALL_UNIT_WORDS)? })
    }

    /// The flow that a fragment is of and where that belongs, if that is known.
    pub fn place(
        &self,
        placing: &Placing,
        frame: &SliceFrame<'_>,
        link: &Link,
        now: Nanos,
    ) -> Option<(FlowKey, Placement)> {
        let part = fragment::parse(frame, link).ok()?;
        if part.from == 0 {
            let headers =
                fragment::headers(frame, &part, fragment::transport(frame, &part).ok()?).ok()?;
            let place = placing.place(&headers.key, headers.packet_type, headers.identifiers);
            return Some((headers.key, place));
        }
        let spot = part.datagram.spot(&placing.placer);
        let known = table::find(&self, &part.datagram, spot, now)?;
        Some((known.shown.key, known.shown.place))
    }

    /// Whether the rest of a fragment's packet is dropped.
    pub fn is_refused(&self, placer: &Placer, frame: &mut [u8], now: Nanos) -> bool {
        let frame = SliceFrame(frame);
        let part = wire::parse_link(&frame).and_then(|link| fragment::parse(&frame, &link));
        let Ok(part) = part else { return true };
        let known = table::find(&self, &part.datagram, part.datagram.spot(placer), now);
        known.is_some_and(|known| known.refusal().is_some())
    }
}

impl<'a> Datagrams for &'a Fragments {
    type Head = HostSlot<'a>;
    type Units = Word<'a>;

    fn head(&self, index: u32) -> Option<HostSlot<'a>> {
        HostSlot::at(&self.heads, index as usize)
    }

    fn units(&self, index: u32) -> Option<Word<'a>> {
        self.units.as_slice().get(index as usize).map(Word)
    }
}
