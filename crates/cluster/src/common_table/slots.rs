//! Where the common table keeps its records: slots that are reused, linked by bucket.
//!
//! A slot is one cache line: the seven words of a record, and the two links of its bucket's list.
//! Bits that a record leaves free say whether the slot is in use, whether its flow is in doubt, whether it
//! is in the digests, whether it is translated, and the slot's generation: how many flows have left it. Slots come in chunks that never move, so growing
//! copies nothing. What the few flows that are translated are translated to stands aside.

use std::collections::HashMap;

use testudo_packet::bucket::BucketId;
use testudo_packet::entry::{FlowRecord, RECORD_WORDS, Translation};
use testudo_packet::flow::{FlowKey, KEY_WORDS};

/// The number of a slot. It is another flow's after the flow in it has been taken out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SlotId(pub(crate) u32);

/// Which of the flows that a slot has ever held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) slot: SlotId,
    pub(crate) generation: u32,
}

impl Place {
    /// Where no flow is.
    pub(crate) const NOWHERE: Self = Self { slot: NO_SLOT, generation: 0 };
}

pub(super) const NO_SLOT: SlotId = SlotId(u32::MAX);

const CHUNK: usize = 4096;

/// Bits 16 to 31 of a record's last word have no meaning in the record.
const DISTRIBUTION: usize = RECORD_WORDS - 1;
const IN_USE: u64 = 1 << 16;
const STALE: u64 = 1 << 17;
const SUMMED: u64 = 1 << 18;
const TRANSLATED: u64 = 1 << 19;
const FLAGS: u64 = 0xffff_0000;

/// Bits 40 to 63 of a record's word of ports have no meaning in the record.
const PORTS: usize = 4;
const GENERATION_SHIFT: u32 = 40;
const ONE_GENERATION: u64 = 1 << GENERATION_SHIFT;
const NO_GENERATION: u64 = ONE_GENERATION - 1;

#[derive(Clone, Copy, Debug)]
struct Slot {
    words: [u64; RECORD_WORDS],
    previous: SlotId,
    next: SlotId,
}

const FREE: Slot = Slot { words: [0; RECORD_WORDS], previous: NO_SLOT, next: NO_SLOT };

#[derive(Debug)]
pub(super) struct Slots {
    chunks: Vec<Box<[Slot]>>,
    /// How many slots have ever been used.
    touched: u32,
    /// The first of the slots that were used and are free, linked by `next`.
    free: SlotId,
    translations: HashMap<SlotId, Translation>,
}

impl Default for Slots {
    fn default() -> Self {
        let translations = HashMap::new();
        Self { chunks: Vec::new(), touched: 0, free: NO_SLOT, translations }
    }
}

impl Slots {
    fn get(&self, slot: SlotId) -> Option<&Slot> {
        self.chunks.get(slot.0 as usize / CHUNK)?.get(slot.0 as usize % CHUNK)
    }

    fn at(&mut self, slot: SlotId) -> &mut Slot {
        &mut self.chunks[slot.0 as usize / CHUNK][slot.0 as usize % CHUNK]
    }

    pub(super) fn record(&self, slot: SlotId) -> Option<FlowRecord> {
        let mut words = self.get(slot)?.words;
        if words[DISTRIBUTION] & IN_USE == 0 {
            return None;
        }
        let translated = words[DISTRIBUTION] & TRANSLATED != 0;
        let translation = if translated { self.translations.get(&slot).copied() } else { None };
        words[DISTRIBUTION] &= !FLAGS;
        words[PORTS] &= NO_GENERATION;
        FlowRecord::from_words(words).map(|record| FlowRecord { translation, ..record })
    }

    /// The place of the flow that is in a slot now.
    pub(super) fn place(&self, slot: SlotId) -> Place {
        let ports = self.get(slot).map_or(0, |slot| slot.words[PORTS]);
        Place { slot, generation: (ports >> GENERATION_SHIFT) as u32 }
    }

    fn at_place(&self, place: Place) -> Option<&Slot> {
        let generation = |slot: &&Slot| slot.words[PORTS] >> GENERATION_SHIFT;
        self.get(place.slot).filter(|slot| generation(slot) == u64::from(place.generation))
    }

    pub(super) fn bucket_at(&self, place: Place) -> Option<BucketId> {
        let distribution = self.at_place(place)?.words[DISTRIBUTION];
        (distribution & IN_USE != 0).then_some(BucketId(distribution as u16))
    }

    pub(super) fn record_at(&self, place: Place) -> Option<FlowRecord> {
        self.at_place(place).and_then(|_| self.record(place.slot))
    }

    /// Whether a slot has the flow of this bucket with this key, or with its reverse where a flow has
    /// both directions. Most slots that are asked about have it, or another of the same tag.
    pub(super) fn holds(&self, slot: SlotId, bucket: BucketId, key: &FlowKey) -> bool {
        let Some(Slot { words, .. }) = self.get(slot) else { return false };
        let distribution = words[DISTRIBUTION];
        if distribution & IN_USE == 0 || distribution as u16 != bucket.0 {
            return false;
        }
        // Word by word: an array that is made for the comparison is written and read in pieces of
        // different sizes, which keeps the processor waiting for every write before it.
        let is = |[k0, k1, k2, k3, ports]: [u64; KEY_WORDS]| {
            words[PORTS] & NO_GENERATION == ports
                && words[1] == k1
                && words[3] == k3
                && words[0] == k0
                && words[2] == k2
        };
        is(key.to_words()) || key.protocol.is_bidirectional() && is(key.reversed().to_words())
    }

    /// Overwrites the record of a slot in use; the flow is in doubt no longer, and in no digest.
    pub(super) fn write(&mut self, slot: SlotId, record: FlowRecord) {
        let mut words = record.to_words();
        words[DISTRIBUTION] |= IN_USE;
        match record.translation {
            Some(translation) => {
                words[DISTRIBUTION] |= TRANSLATED;
                self.translations.insert(slot, translation);
            }
            None => self.forget_translation(slot),
        }
        let slot = self.at(slot);
        words[PORTS] |= slot.words[PORTS] & !NO_GENERATION;
        slot.words = words;
    }

    /// Puts a record into a free slot, at the front of the list that begins with `first`.
    pub(super) fn link(&mut self, record: FlowRecord, first: SlotId) -> SlotId {
        let slot = self.take_free();
        self.write(slot, record);
        self.at(slot).previous = NO_SLOT;
        self.at(slot).next = first;
        if first != NO_SLOT {
            self.at(first).previous = slot;
        }
        slot
    }

    fn forget_translation(&mut self, slot: SlotId) {
        if self.at(slot).words[DISTRIBUTION] & TRANSLATED != 0 {
            self.translations.remove(&slot);
        }
    }

    /// Frees a slot; returns the one behind it in its list.
    pub(super) fn unlink(&mut self, slot: SlotId) -> SlotId {
        self.forget_translation(slot);
        let Slot { previous, next, words } = *self.at(slot);
        if previous != NO_SLOT {
            self.at(previous).next = next;
        }
        if next != NO_SLOT {
            self.at(next).previous = previous;
        }
        let mut free = Slot { next: self.free, ..FREE };
        free.words[PORTS] = (words[PORTS] & !NO_GENERATION).wrapping_add(ONE_GENERATION);
        *self.at(slot) = free;
        self.free = slot;
        next
    }

    fn take_free(&mut self) -> SlotId {
        if self.free != NO_SLOT {
            let slot = self.free;
            self.free = self.at(slot).next;
            return slot;
        }
        if self.touched as usize == self.chunks.len() * CHUNK {
            self.chunks.push(vec![FREE; CHUNK].into_boxed_slice());
        }
        self.touched += 1;
        SlotId(self.touched - 1)
    }

    pub(super) fn is_stale(&self, slot: SlotId) -> bool {
        self.get(slot).is_some_and(|slot| slot.words[DISTRIBUTION] & STALE != 0)
    }

    pub(super) fn set_stale(&mut self, slot: SlotId, stale: bool) {
        let word = &mut self.at(slot).words[DISTRIBUTION];
        *word = if stale { *word | STALE } else { *word & !STALE };
    }

    /// Whether the flow in a slot is in the digests as it is.
    pub(super) fn is_summed(&self, slot: SlotId) -> bool {
        self.get(slot).is_some_and(|slot| slot.words[DISTRIBUTION] & SUMMED != 0)
    }

    /// The flow in a slot is in the digests now.
    pub(super) fn set_summed(&mut self, slot: SlotId) {
        self.at(slot).words[DISTRIBUTION] |= SUMMED;
    }

    /// The list that begins with a slot.
    pub(super) fn chain(&self, first: SlotId) -> impl Iterator<Item = SlotId> + '_ {
        let in_use = |slot: SlotId| (slot != NO_SLOT).then_some(slot);
        std::iter::successors(in_use(first), move |&slot| in_use(self.get(slot)?.next))
    }

    /// How many slots have ever been used.
    pub(super) fn touched(&self) -> usize {
        self.touched as usize
    }

    /// All slots that have ever been used.
    pub(super) fn all(&self) -> impl Iterator<Item = SlotId> + use<> {
        (0..self.touched).map(SlotId)
    }

    pub(super) fn memory(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Slot>()
            + self.translations.capacity() * size_of::<(SlotId, Translation)>()
    }
}
