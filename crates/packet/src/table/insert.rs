//! How flows come into the node table and leave it. The argument stands in the parent's header.

use super::twin::link;
use super::{Control, Found, LOCK_TRIES, Occupancy, Slot, Slots, WINDOW, find, home_of, word};
use crate::bucket::{BucketId, Nanos};
use crate::entry::{FlowRecord, FlowState};

/// What came of an insertion.
#[derive(Clone, Copy, Debug)]
pub enum Inserted<S> {
    /// The flow is new; it lives in this slot, in this state, and this names the slot ([`super::twin`]).
    New(S, FlowState, u64),
    /// The flow was there already.
    Present(Found<S>),
    /// Every slot of the window is taken.
    Full,
    /// The lock could not be had.
    Busy,
}

/// The home word: the bits of the window, the lock, and a count of changes.
#[derive(Clone, Copy)]
struct Home(u64);

const LOCK_SHIFT: u32 = 32;
const LOCK: u64 = 0xff << LOCK_SHIFT;
const CHANGE: u64 = 1 << 40;
/// The bits of the window.
const FLOWS: u64 = 0xffff_ffff;

impl Home {
    #[inline(always)]
    fn flows(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    fn locked_by(self, holder: u8) -> u64 {
        self.0 | (holder as u64) << LOCK_SHIFT
    }

    #[inline(always)]
    fn unlocked(self) -> u64 {
        self.0 & !LOCK
    }

    /// The word that gives the lock back with these flows.
    #[inline(always)]
    fn with_flows(self, flows: u64) -> u64 {
        (self.unlocked() & !FLOWS | flows & FLOWS).wrapping_add(CHANGE)
    }
}

/// Takes the lock of a home; `None` if it can't be had within the bound.
#[inline(always)]
fn lock<S: Slot>(home: S, holder: u8) -> Option<Home> {
    for _ in 0..LOCK_TRIES {
        let seen = Home(home.load::<{ word::HOME }>());
        if seen.0 & LOCK == 0
            && home.compare_exchange::<{ word::HOME }>(seen.0, seen.locked_by(holder))
        {
            return Some(seen);
        }
        home.relax();
    }
    None
}

/// Puts a flow in, unless it is there. What it is translated to is not looked at.
///
/// The sequence of the record's state may be raised, so that it does not go back in its slot.
#[inline(always)]
pub fn insert<T: Slots>(
    table: &T,
    hash: u32,
    record: &FlowRecord,
    now: Nanos,
) -> Inserted<T::Slot> {
    insert_half(table, hash, record, now, (false, 0))
}

/// Puts a flow in, or an alias, which names the slot of its other half.
#[inline(always)]
pub(super) fn insert_half<T: Slots>(
    table: &T,
    hash: u32,
    record: &FlowRecord,
    now: Nanos,
    (alias, twin): (bool, u64),
) -> Inserted<T::Slot> {
    let home_index = home_of(table, hash);
    let Some(home) = table.slot(home_index) else { return Inserted::Full };
    let Some(before) = lock(home, table.holder()) else { return Inserted::Busy };
    if let Some(found) = find(table, home_index, before.flows(), &record.key) {
        home.publish::<{ word::HOME }>(before.unlocked());
        return Inserted::Present(found);
    }
    for distance in 0..WINDOW {
        let index = home_index.wrapping_add(distance) & table.slot_mask();
        let Some(slot) = table.slot(index) else { break };
        if let Some(claimed) = claim(slot, distance as u8, record.bucket) {
            let state = write_record(slot, record, now);
            if alias {
                // No state of its own, so that nobody takes it for a flow.
                slot.store::<{ word::STATE }>(FlowState::gone(state.sequence));
            }
            slot.store::<{ word::TWIN }>(twin);
            slot.store::<{ word::ORIGINAL_PACKETS }>(0);
            slot.store::<{ word::ORIGINAL_BYTES }>(0);
            slot.store::<{ word::REPLY_PACKETS }>(0);
            slot.store::<{ word::REPLY_BYTES }>(0);
            forget_learned(slot);
            let live = Control { occupancy: Occupancy::Live, alias, ..claimed };
            slot.publish::<{ word::CONTROL }>(live.to_word());
            let flows = before.0 | 1u64 << distance;
            home.publish::<{ word::HOME }>(before.with_flows(flows));
            if !alias {
                table.count(1);
            }
            return Inserted::New(slot, state, link(index, claimed.generation));
        }
    }
    home.publish::<{ word::HOME }>(before.unlocked());
    Inserted::Full
}

/// Takes an empty slot for a flow that lives `distance` behind its home.
#[inline(always)]
fn claim<S: Slot>(slot: S, distance: u8, bucket: BucketId) -> Option<Control> {
    let seen = slot.load::<{ word::CONTROL }>();
    let control = Control::from_word(seen);
    if control.occupancy != Occupancy::Empty {
        return None;
    }
    let claimed = Control {
        occupancy: Occupancy::Claimed,
        distance,
        bucket,
        generation: control.generation.wrapping_add(1),
        alias: false,
    };
    slot.compare_exchange::<{ word::CONTROL }>(seen, claimed.to_word()).then_some(claimed)
}

/// Forgets what the flow before was learned to be like.
#[inline(always)]
fn forget_learned<S: Slot>(slot: S) {
    slot.store::<{ word::HOP_TIMES }>(0);
    slot.store::<{ word::ORIGINAL_WINDOW }>(0);
    slot.store::<{ word::ORIGINAL_WINDOW + 1 }>(0);
    slot.store::<{ word::REPLY_WINDOW }>(0);
    slot.store::<{ word::REPLY_WINDOW + 1 }>(0);
}

/// Writes what a record says into a claimed slot and returns the state as written.
#[inline(always)]
pub fn write_record<S: Slot>(slot: S, record: &FlowRecord, now: Nanos) -> FlowState {
    let [k0, k1, k2, k3, k4] = record.key.to_words();
    slot.store::<{ word::KEY }>(k0);
    slot.store::<{ word::KEY + 1 }>(k1);
    slot.store::<{ word::KEY + 2 }>(k2);
    slot.store::<{ word::KEY + 3 }>(k3);
    slot.store::<{ word::KEY + 4 }>(k4);
    let last = (slot.load::<{ word::STATE }>() >> 32) as u32;
    let after_last = last.wrapping_add(1);
    let sequence =
        if record.state.sequence < after_last { after_last } else { record.state.sequence };
    let state = FlowState { sequence, ..record.state };
    slot.store::<{ word::STATE }>(state.to_word());
    slot.store::<{ word::EPOCH }>(record.epoch.0 as u64);
    slot.store::<{ word::LAST_SEEN }>(now.0);
    state
}

/// Takes a flow's state word out of use; `None` if packets of the flow change it all the time.
#[inline(always)]
fn retire_state<S: Slot>(slot: S) -> Option<()> {
    for _ in 0..LOCK_TRIES {
        let seen = slot.load::<{ word::STATE }>();
        let gone = FlowState::gone(((seen >> 32) as u32).wrapping_add(1));
        if slot.compare_exchange::<{ word::STATE }>(seen, gone) {
            return Some(());
        }
    }
    None
}

/// Takes the flow out of the slot of this number, if its control word is still `control`. `None`:
/// others kept it busy, and nothing was changed.
#[inline(always)]
pub fn remove<T: Slots>(table: &T, index: u32, control: u64) -> Option<bool> {
    remove_by(table, index, control, retire_state)
}

/// As [`remove`], if its state word is still `state`, too: a packet that changes the flow at this moment keeps it. `None`
/// if it has changed.
#[inline(always)]
pub fn remove_in_state<T: Slots>(table: &T, index: u32, control: u64, state: u64) -> Option<bool> {
    remove_by(table, index, control, |slot| {
        let gone = FlowState::gone(((state >> 32) as u32).wrapping_add(1));
        slot.compare_exchange::<{ word::STATE }>(state, gone).then_some(())
    })
}

/// As [`remove`]; the state word is taken out of use by `retire`, which may refuse.
#[inline(always)]
fn remove_by<T: Slots>(
    table: &T,
    index: u32,
    control: u64,
    retire: impl FnOnce(T::Slot) -> Option<()>,
) -> Option<bool> {
    let seen = Control::from_word(control);
    let home = table.slot(index.wrapping_sub(seen.distance as u32) & table.slot_mask())?;
    let slot = table.slot(index & table.slot_mask())?;
    let before = lock(home, table.holder())?;
    // Whoever changes the control word of a live slot holds the lock of its home.
    if seen.occupancy != Occupancy::Live || slot.load::<{ word::CONTROL }>() != control {
        home.publish::<{ word::HOME }>(before.unlocked());
        return Some(false);
    }
    if retire(slot).is_none() {
        home.publish::<{ word::HOME }>(before.unlocked());
        return None;
    }
    let (distance, bucket, alias) = (0, BucketId(0), false);
    let empty = Control { occupancy: Occupancy::Empty, distance, bucket, alias, ..seen };
    slot.publish::<{ word::CONTROL }>(empty.to_word());
    let flows = before.0 & !(1u64 << seen.distance);
    home.publish::<{ word::HOME }>(before.with_flows(flows));
    if !seen.alias {
        table.count(-1);
    }
    Some(true)
}

/// Frees what a holder that no longer lives has left: its locks, and slots that it claimed and never
/// published. Call it before anyone uses `holder` again, with `holder` alone in the table's user
/// space; CPUs that handle packets may go on. Returns how many locks were freed.
pub fn break_locks<T: Slots>(table: &T, holder: u8) -> usize {
    let mut freed = 0;
    for index in 0..=table.slot_mask() {
        let Some(slot) = table.slot(index) else { break };
        let seen = slot.load::<{ word::HOME }>();
        if seen & LOCK == (holder as u64) << LOCK_SHIFT {
            repair_window(table, index, Home(seen));
            freed += 1;
        }
    }
    freed
}

/// Finishes what the holder of this home's lock began: a slot that it claimed for this home becomes
/// empty, one that it published and did not enter in the home word is entered.
fn repair_window<T: Slots>(table: &T, index: u32, seen: Home) {
    let Some(home) = table.slot(index) else { return };
    let mut flows = seen.0 & FLOWS;
    for distance in 0..WINDOW {
        let Some(slot) = table.slot(index.wrapping_add(distance) & table.slot_mask()) else {
            return;
        };
        let word = slot.load::<{ word::CONTROL }>();
        let control = Control::from_word(word);
        let ours = u32::from(control.distance) == distance;
        match control.occupancy {
            // Claimed under this home's lock, which only the dead holder had.
            Occupancy::Claimed if ours => {
                let empty = Control { occupancy: Occupancy::Empty, ..control };
                slot.publish::<{ word::CONTROL }>(empty.to_word());
            }
            Occupancy::Live if ours => {
                if flows >> distance & 1 == 0 && !control.alias {
                    table.count(1);
                }
                flows |= 1 << distance;
            }
            // Another home's, or none's: this home's flow has gone from here.
            _ => {
                if flows >> distance & 1 == 1 {
                    table.count(-1);
                }
                flows &= !(1 << distance);
            }
        }
    }
    home.publish::<{ word::HOME }>(seen.with_flows(flows));
}
