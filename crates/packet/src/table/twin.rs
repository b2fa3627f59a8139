//! Translated flows, which live in two slots.
//!
//! The *flow* itself stands under the key of its first packet, with state, counters and timers. Its *alias*
//! stands under the key that its replies carry, and has nothing but that key: what the flow is translated to can be
//! read off it ([`Translation`]). Each names the other by number and generation of its slot, so an alias whose flow
//! has gone leads nowhere, also when another flow has moved in there.
//!
//! An alias is put in *before* its flow. Inserting is atomic, so whoever gets its alias in has the reply's key for
//! itself: no two flows of a node share one. (Of two nodes no two do, because the reply's bucket is the flow's.)
//!
//! Invariant: a flow that names an alias has it; an alias may be without its flow for the moment in which one half
//! is put in or taken out. Only the daemon puts in and takes out translated flows, one at a time; packets that meet
//! half of one are taken for packets of no flow.
//!
//! Why not both keys in one slot: it would have to be found from two places of the table, and most flows are not
//! translated and would carry the room for it.

use super::insert::insert_half;
use super::{Control, Found, Inserted, Occupancy, Slot, Slots, remove, word};
use crate::bucket::Nanos;
use crate::entry::{FlowRecord, Translation};
use crate::flow::{FlowKey, KEY_WORDS};

/// What came of putting in a translated flow.
#[derive(Clone, Copy, Debug)]
pub enum Joined<S> {
    /// As for other flows.
    Flow(Inserted<S>),
    /// Another flow has these replies.
    Taken,
}

/// What names a slot, as one of these generations holds it.
#[inline(always)]
pub(super) const fn link(index: u32, generation: u32) -> u64 {
    (generation as u64) << 32 | index as u64
}

/// The other half of what is in a slot, if it is there: its slot and its control word.
#[inline(always)]
pub fn other_half<T: Slots>(table: &T, slot: T::Slot) -> Option<(T::Slot, u64)> {
    named(table, slot.load::<{ word::TWIN }>())
}

/// What stands in the slot that this word names, if it is still the same.
#[inline(always)]
fn named<T: Slots>(table: &T, twin: u64) -> Option<(T::Slot, u64)> {
    if twin == 0 {
        return None;
    }
    let other = table.slot(twin as u32 & table.slot_mask())?;
    let seen = other.load::<{ word::CONTROL }>();
    let control = Control::from_word(seen);
    let same =
        matches!(control.occupancy, Occupancy::Live) && control.generation == (twin >> 32) as u32;
    if same { Some((other, seen)) } else { None }
}

impl<S: Slot> Found<S> {
    /// Whether it is a half of a translated flow.
    #[inline(always)]
    pub fn is_translated(&self) -> bool {
        self.is_alias() || self.slot.load::<{ word::TWIN }>() != 0
    }

    /// Whether it is the half that replies find.
    #[inline(always)]
    pub fn is_alias(&self) -> bool {
        Control::from_word(self.control).alias
    }
}

/// The key in a slot.
#[inline(always)]
pub fn read_key<S: Slot>(slot: S) -> FlowKey {
    let words: [u64; KEY_WORDS] = [
        slot.load::<{ word::KEY }>(),
        slot.load::<{ word::KEY + 1 }>(),
        slot.load::<{ word::KEY + 2 }>(),
        slot.load::<{ word::KEY + 3 }>(),
        slot.load::<{ word::KEY + 4 }>(),
    ];
    FlowKey::from_words(words)
}

/// What a flow is translated to whose alias has this key.
#[inline(always)]
pub const fn translation_of(alias: FlowKey) -> Translation {
    Translation { source: alias.responder, destination: alias.initiator }
}

/// What the flow in a slot is translated to, if it is.
pub fn translation<T: Slots>(table: &T, slot: T::Slot) -> Option<Translation> {
    let (alias, seen) = other_half(table, slot)?;
    let key = read_key(alias);
    (alias.load::<{ word::CONTROL }>() == seen).then(|| translation_of(key))
}

/// Puts a flow in that has a translation, unless it is there or its replies are another's. `hashes`: of the flow's
/// key, and of the key of its replies.
#[inline(always)]
pub fn insert_translated<T: Slots>(
    table: &T,
    hashes: (u32, u32),
    record: &FlowRecord,
    now: Nanos,
) -> Joined<T::Slot> {
    let alias = FlowRecord { key: record.reply_key(), ..*record };
    let (alias_slot, alias_link) = match insert_half(table, hashes.1, &alias, now, (true, 0)) {
        Inserted::New(slot, _, link) => (slot, link),
        Inserted::Present(_) => {
            return match super::lookup(table, hashes.0, &record.key) {
                Some(found) => Joined::Flow(Inserted::Present(found)),
                None => Joined::Taken,
            };
        }
        other => return Joined::Flow(other),
    };
    let inserted = insert_half(table, hashes.0, record, now, (false, alias_link));
    match inserted {
        Inserted::New(_, _, link) => alias_slot.store::<{ word::TWIN }>(link),
        _ => {
            let control = alias_slot.load::<{ word::CONTROL }>();
            remove(table, alias_link as u32, control);
        }
    }
    Joined::Flow(inserted)
}

/// Takes the other half out of what was in a slot that named it by this word.
pub fn remove_other_half<T: Slots>(table: &T, twin: u64) {
    if let Some((_, control)) = named(table, twin) {
        remove(table, twin as u32, control);
    }
}
