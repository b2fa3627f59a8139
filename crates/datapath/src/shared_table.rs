//! The node table as user space works on it.
//!
//! One implementation for both backends: they differ only in where the memory comes from. The
//! algorithm itself is [`testudo_packet::table`].

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use testudo_packet::bucket::Nanos;
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::{Address, FlowKey, Protocol};
use testudo_packet::table::{
    self, Control, Found, Inserted, Joined, LINE_WORDS, Occupancy, SLOT_WORDS, Slot, Slots, twin,
    word,
};
use testudo_packet::tracking::Timeouts;
use testudo_packet::{association, window};

use crate::bucket_set::BucketSet;
use crate::interface::{EntryView, Expired, Installed, Learned, NodeTable};
use crate::likenesses::Placing;
use crate::memory::{Words, prefetch};
use crate::meters::Translated;

/// How many records' places are fetched ahead of their insertion: enough misses under way at once.
const BATCH: usize = 32;

/// How far ahead of a scan its lines are fetched, in slots.
const SCAN_AHEAD: usize = 16;

/// What stands in the locks that the daemon takes.
pub const DAEMON: u8 = 2;

/// A slot in memory that this process has mapped.
#[derive(Clone, Copy, Debug)]
pub struct HostSlot<'a>(&'a [AtomicU64; SLOT_WORDS]);

impl<'a> HostSlot<'a> {
    /// The slot of this number among these words.
    pub(crate) fn at(words: &'a Words, index: usize) -> Option<Self> {
        let start = index * SLOT_WORDS;
        Some(Self(words.as_slice().get(start..start + SLOT_WORDS)?.try_into().ok()?))
    }
}

impl Slot for HostSlot<'_> {
    #[inline(always)]
    fn load<const W: usize>(self) -> u64 {
        self.0[W].load(Ordering::Acquire)
    }

    #[inline(always)]
    fn store<const W: usize>(self, value: u64) {
        self.0[W].store(value, Ordering::Release);
    }

    #[inline(always)]
    fn publish<const W: usize>(self, value: u64) {
        self.0[W].store(value, Ordering::Release);
    }

    #[inline(always)]
    fn compare_exchange<const W: usize>(self, old: u64, new: u64) -> bool {
        self.0[W].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    #[inline(always)]
    fn add<const W: usize>(self, value: u64) {
        self.0[W].fetch_add(value, Ordering::Relaxed);
    }

    #[inline(always)]
    fn fetch<const W: usize>(self) {
        prefetch(&self.0[W]);
    }

    #[inline(always)]
    fn relax(self) {
        std::hint::spin_loop();
    }
}

/// The node table over memory that may be shared with the kernel.
#[derive(Clone, Debug)]
pub struct SharedTable {
    slots: Arc<Words>,
    mask: u32,
    shared: Arc<Words>,
    flows: usize,
    placing: Placing,
    translated: Arc<Translated>,
}

impl SharedTable {
    /// A table over these slots, whose number is a power of two. Word `flows` of `shared` counts the
    /// flows.
    pub fn new(
        slots: Arc<Words>,
        shared: Arc<Words>,
        flows: usize,
        placing: Placing,
    ) -> io::Result<Self> {
        let count = slots.as_slice().len() / SLOT_WORDS;
        assert!(count.is_power_of_two(), "a node table of {count} slots, not a power of two");
        assert!(flows < shared.as_slice().len(), "the count of flows has no word");
        let translated = Arc::new(Translated::none()?);
        let table = Self { slots, mask: (count - 1) as u32, shared, flows, placing, translated };
        table.count_translated();
        Ok(table)
    }

    /// Counts what another process has left.
    fn count_translated(&self) {
        if self.is_empty() {
            return;
        }
        self.scan(&mut |view| {
            if view.record.translation.is_some() {
                self.translated.begins(&self.placing.placer, view.record.key.initiator.address);
            }
        });
    }

    /// A translated flow of this source has begun.
    pub(crate) fn note_translated(&self, source: Address) {
        self.translated.begins(&self.placing.placer, source);
    }

    /// How many translated flows a source has here.
    pub(crate) fn translated_of(&self, source: Address) -> u64 {
        self.translated.of(&self.placing.placer, source)
    }

    /// How flows are placed.
    #[must_use]
    pub fn placing(&self) -> &Placing {
        &self.placing
    }

    fn at(&self, index: usize) -> Option<HostSlot<'_>> {
        HostSlot::at(&self.slots, index)
    }

    /// The record of the flow in a slot, if there is one; an alias is none.
    fn record(&self, slot: HostSlot<'_>, control: u64) -> Option<FlowRecord> {
        let record = table::read_record(slot, control)?;
        Some(FlowRecord { translation: twin::translation(&self, slot), ..record })
    }

    /// The flow in a slot, if there is one.
    fn view(&self, slot: HostSlot<'_>, control: u64) -> Option<EntryView> {
        let record = self.record(slot, control)?;
        Some(EntryView {
            record,
            learned: learned(slot, record.key.protocol),
            last_seen: Nanos(slot.load::<{ word::LAST_SEEN }>()),
            original_packets: slot.load::<{ word::ORIGINAL_PACKETS }>(),
            original_bytes: slot.load::<{ word::ORIGINAL_BYTES }>(),
            reply_packets: slot.load::<{ word::REPLY_PACKETS }>(),
            reply_bytes: slot.load::<{ word::REPLY_BYTES }>(),
        })
    }

    /// Shows number, slot and control word of every one of these slots that holds a flow.
    fn each_live_in(&self, slots: Range<usize>, mut visit: impl FnMut(u32, HostSlot<'_>, u64)) {
        for index in slots {
            if let Some(ahead) = self.at(index + SCAN_AHEAD) {
                prefetch(&ahead.0[0]);
            }
            // Half of that way off its control word is there, and says whether the rest will be wanted.
            if let Some(near) = self.at(index + SCAN_AHEAD / 2)
                && is_live(near.load::<{ word::CONTROL }>())
            {
                prefetch(&near.0[LINE_WORDS]);
            }
            let Some(slot) = self.at(index) else { return };
            let control = slot.load::<{ word::CONTROL }>();
            if is_live(control) {
                visit(index as u32, slot, control);
            }
        }
    }

    /// Puts one flow in; see [`NodeTable::install`].
    fn install_one(&self, hash: u32, record: &FlowRecord, now: Nanos, outcome: &mut Installed) {
        let inserted = match record.translation {
            None => table::insert(&self, hash, record, now),
            Some(_) => {
                let hashes = (hash, self.placing.placer.table_hash(&record.reply_key()));
                match table::insert_translated(&self, hashes, record, now) {
                    Joined::Flow(inserted) => inserted,
                    Joined::Taken => return outcome.refused += 1,
                }
            }
        };
        match inserted {
            Inserted::New(..) => {
                outcome.installed += 1;
                if record.translation.is_some() {
                    self.note_translated(record.key.initiator.address);
                }
            }
            Inserted::Present(found) if replace(&found, record, now) => outcome.installed += 1,
            Inserted::Present(_) => outcome.stale += 1,
            Inserted::Full | Inserted::Busy => outcome.refused += 1,
        }
    }

    /// Takes a flow out of a slot, and its alias; says whether it was still there.
    fn take_out(&self, index: u32, slot: HostSlot<'_>, control: u64) -> bool {
        let left = Left::read(slot);
        let removed = table::remove(&self, index, control) == Some(true);
        if removed {
            self.forget(left);
        }
        removed
    }

    /// A flow has gone, and what is left of it goes, too.
    fn forget(&self, Left { twin, source }: Left) {
        if twin != 0 {
            twin::remove_other_half(&self, twin);
            self.translated.ends(&self.placing.placer, source);
        }
    }

    /// As [`Self::take_out`], if the flow is still in this state.
    fn take_out_unchanged(
        &self,
        index: u32,
        slot: HostSlot<'_>,
        control: u64,
        state: &FlowState,
    ) -> bool {
        let left = Left::read(slot);
        let word = state.to_word();
        let removed = table::remove_in_state(&self, index, control, word) == Some(true);
        if removed {
            self.forget(left);
        }
        removed
    }

    /// Whether a slot holds an alias whose flow has gone: its daemon died between the two.
    fn is_orphan(&self, slot: HostSlot<'_>, control: u64) -> bool {
        Control::from_word(control).alias && twin::other_half(&self, slot).is_none()
    }

    /// Frees the locks of a daemon that died holding them; returns how many there were.
    pub fn break_locks(&self) -> usize {
        table::break_locks(&self, DAEMON)
    }
}

/// What is left of a flow that is taken out of its slot.
struct Left {
    /// Names its alias, if it is translated.
    twin: u64,
    source: Address,
}

impl Left {
    fn read(slot: HostSlot<'_>) -> Self {
        let high = slot.load::<{ word::KEY }>();
        let low = slot.load::<{ word::KEY + 1 }>();
        Self { twin: slot.load::<{ word::TWIN }>(), source: Address { high, low } }
    }
}

/// Whether a slot with this control word holds a flow.
fn is_live(control: u64) -> bool {
    Control::from_word(control).occupancy == Occupancy::Live
}

/// Gives a flow that is in the table the state of a newer record of it; says whether it was newer.
fn replace(found: &Found<HostSlot<'_>>, record: &FlowRecord, now: Nanos) -> bool {
    let slot = found.slot;
    let seen = slot.load::<{ word::STATE }>();
    match table::read_record(slot, found.control) {
        Some(present) if record.supersedes(&present) => {}
        _ => return false,
    }
    // A packet that changes the state meanwhile knows better.
    let mut state = record.state;
    state.sequence = state.sequence.max((seen >> 32) as u32 + 1);
    if !slot.compare_exchange::<{ word::STATE }>(seen, state.to_word()) {
        return false;
    }
    // Whoever has told of the newer state has seen packets that were not seen here.
    window::forget(slot);
    slot.store::<{ word::EPOCH }>(record.epoch.0.into());
    slot.store::<{ word::LAST_SEEN }>(now.0);
    true
}

impl<'a> Slots for &'a SharedTable {
    type Slot = HostSlot<'a>;

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<HostSlot<'a>> {
        self.at(index as usize)
    }

    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        self.mask
    }

    #[inline(always)]
    fn holder(&self) -> u8 {
        DAEMON
    }

    #[inline(always)]
    fn count(&self, change: i64) {
        self.shared.as_slice()[self.flows].fetch_add(change as u64, Ordering::Relaxed);
    }
}

/// What the packets of the flow in a slot have taught.
fn learned(slot: HostSlot<'_>, protocol: Protocol) -> Learned {
    const ORIGINAL: usize = word::ORIGINAL_WINDOW;
    const REPLY: usize = word::REPLY_WINDOW;
    let original = (slot.load::<ORIGINAL>(), slot.load::<{ ORIGINAL + 1 }>());
    let reply = (slot.load::<REPLY>(), slot.load::<{ REPLY + 1 }>());
    match protocol {
        Protocol::TCP => Learned::Windows(
            [original, reply].map(|(numbers, rest)| window::Side { numbers, rest }),
        ),
        Protocol::SCTP => Learned::Tags(
            [original, reply].map(|(first, second)| association::Side::from_words(first, second)),
        ),
        _ => Learned::Nothing,
    }
}

impl NodeTable for SharedTable {
    fn install(&self, records: &[FlowRecord], now: Nanos) -> Installed {
        let mut outcome = Installed::default();
        let mut hashes = [0u32; BATCH];
        for batch in records.chunks(BATCH) {
            for (hash, record) in hashes.iter_mut().zip(batch) {
                *hash = self.placing.placer.table_hash(&record.key);
                if let Some(slot) = self.at((*hash & self.mask) as usize) {
                    prefetch(&slot.0[0]);
                    prefetch(&slot.0[LINE_WORDS]);
                    prefetch(&slot.0[2 * LINE_WORDS]);
                }
            }
            for (hash, record) in hashes.iter().zip(batch) {
                self.install_one(*hash, record, now, &mut outcome);
            }
        }
        outcome
    }

    fn clear_part(&self, slots: Range<usize>, buckets: &BucketSet) -> usize {
        let mut cleared = 0;
        self.each_live_in(slots, |index, slot, control| {
            let Control { bucket, alias, .. } = Control::from_word(control);
            if !buckets.contains(bucket) {
                return;
            }
            if !alias {
                cleared += usize::from(self.take_out(index, slot, control));
            } else if self.is_orphan(slot, control) {
                table::remove(&self, index, control);
            }
        });
        cleared
    }

    fn scan_part(&self, slots: Range<usize>, visit: &mut dyn FnMut(&EntryView)) {
        self.each_live_in(slots, |_, slot, control| {
            if let Some(view) = self.view(slot, control) {
                visit(&view);
            }
        });
    }

    fn expire_part(
        &self,
        slots: Range<usize>,
        now: Nanos,
        timeouts: &Timeouts,
        hurry: Option<u64>,
        expired: &mut dyn FnMut(&FlowRecord),
    ) -> Expired {
        let mut outcome = Expired::default();
        self.each_live_in(slots, |index, slot, control| {
            outcome.taken += 1;
            let last = Nanos(slot.load::<{ word::LAST_SEEN }>());
            let Some(record) = self.record(slot, control) else {
                if self.is_orphan(slot, control) {
                    table::remove(&self, index, control);
                }
                return;
            };
            let silent = now.millis_since(last);
            let FlowState { phase, .. } = record.state;
            let timeout = u64::from(timeouts.of(record.key.protocol, phase)) * 1000;
            let gone = if silent > timeout {
                let gone = self.take_out(index, slot, control);
                outcome.silent += usize::from(gone);
                gone
            } else if hurry.is_some_and(|hurry| silent > hurry) && phase.is_expendable() {
                let gone = self.take_out_unchanged(index, slot, control, &record.state);
                outcome.early += usize::from(gone);
                gone
            } else {
                false
            };
            if gone {
                outcome.taken -= 1;
                expired(&record);
            }
        });
        outcome
    }

    fn take_out_part(
        &self,
        slots: Range<usize>,
        unwanted: &dyn Fn(&FlowRecord) -> bool,
        taken: &mut dyn FnMut(&FlowRecord),
    ) {
        self.each_live_in(slots, |index, slot, control| {
            let Some(record) = self.record(slot, control) else { return };
            if unwanted(&record) && self.take_out(index, slot, control) {
                taken(&record);
            }
        });
    }

    fn get(&self, key: &FlowKey) -> Option<EntryView> {
        let found = table::lookup(&self, self.placing.placer.table_hash(key), key)?;
        if found.is_alias() {
            let (slot, control) = twin::other_half(&self, found.slot)?;
            return self.view(slot, control);
        }
        self.view(found.slot, found.control)
    }

    fn len(&self) -> usize {
        self.shared.as_slice()[self.flows].load(Ordering::Relaxed) as usize
    }

    fn capacity(&self) -> usize {
        self.mask as usize + 1
    }
}
