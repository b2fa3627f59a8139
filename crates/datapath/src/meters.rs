//! What sources have asked for, and how much they may ([`testudo_packet::meter`]).

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use testudo_packet::event::Occurrence;
use testudo_packet::flow::Address;
use testudo_packet::meter::{self, Kind, Limit, METERS, SOURCES};
use testudo_packet::placement::Placer;
use testudo_packet::table::Slot;
use testudo_packet::tracking::Phase;

use crate::memory::{Word, Words};

/// How much a source may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Flows that nobody has answered.
    pub half_open: Limit,
    /// Packets that go up while others wait.
    pub upcalls: Limit,
    /// Flows that are translated; 0: any number.
    pub translated: u64,
}

impl Limits {
    /// The limit of a kind.
    #[must_use]
    pub const fn of(&self, kind: Kind) -> Limit {
        match kind {
            Kind::HalfOpen => self.half_open,
            Kind::Upcall => self.upcalls,
        }
    }
}

/// How many translated flows each source has in a node table. Sources that share a meter share a count.
#[derive(Debug)]
pub struct Translated(Words);

impl Translated {
    /// Of a table without flows.
    pub fn none() -> io::Result<Self> {
        Words::zeroed(SOURCES as usize).map(Self)
    }

    fn count(&self, placer: &Placer, source: Address) -> &AtomicU64 {
        let place = meter::place(placer.class(meter::end(source)), Kind::HalfOpen) / 2;
        &self.0.as_slice()[place as usize]
    }

    /// One more has begun.
    pub fn begins(&self, placer: &Placer, source: Address) {
        self.count(placer, source).fetch_add(1, Ordering::Relaxed);
    }

    /// One has gone.
    pub fn ends(&self, placer: &Placer, source: Address) {
        self.count(placer, source).fetch_sub(1, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn of(&self, placer: &Placer, source: Address) -> u64 {
        self.count(placer, source).load(Ordering::Relaxed)
    }
}

/// The meters of a node, in memory that may be shared with the kernel.
#[derive(Debug)]
pub struct Meters {
    words: Words,
    pub limits: Limits,
}

impl Meters {
    /// Without limits.
    pub fn new(words: Words) -> Self {
        Self { words, limits: Limits::default() }
    }

    /// Memory of this process.
    pub fn zeroed() -> io::Result<Self> {
        Words::zeroed(METERS as usize).map(Self::new)
    }

    /// One of them.
    pub fn meter(&self, index: u32) -> Option<Word<'_>> {
        self.words.as_slice().get(index as usize).map(Word)
    }

    /// Takes note of what has happened to a flow: one that was answered is not half open any more.
    pub fn note(&self, placer: &Placer, occurrence: &Occurrence) {
        let Occurrence::Flow(event) = occurrence else { return };
        let limit = self.limits.half_open;
        let answered = matches!(event.record.state.phase, Phase::SynReceived | Phase::Replied);
        if limit.interval == 0 || !answered {
            return;
        }
        let end = meter::end(event.record.key.initiator.address);
        let place = meter::place(placer.class(end), Kind::HalfOpen);
        let Some(word) = self.meter(place) else { return };
        let mut seen = word.load::<0>();
        while !word.compare_exchange::<0>(seen, meter::give_back(seen, limit)) {
            seen = word.load::<0>();
        }
    }
}
