//! The table's concurrency argument, checked over every interleaving of a few threads.
//!
//! Only the first [`FREE`] slots of the window can be taken, so that flows compete for them. Each
//! property has a twin here that breaks one step of the algorithm and must be caught.

use std::sync::Arc;
use std::vec::Vec;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

use super::*;
use crate::bucket::Nanos;
use crate::flow::{Address, Endpoint, Protocol};
use crate::tracking::Phase;

/// Slots that are not taken by others from the beginning.
const FREE: usize = 2;

/// What is broken on purpose.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Taking a lock always succeeds.
    LocksHoldNothing,
    /// A slot's generation does not count: control words of two tenants are equal.
    NoGenerations,
    /// What a claimed slot is written with may become visible before the claim.
    UnorderedStores,
}

struct ModelTable {
    slots: Vec<[AtomicU64; SLOT_WORDS]>,
    fault: Fault,
}

#[derive(Clone, Copy)]
enum ModelSlot<'a> {
    Free(&'a [AtomicU64; SLOT_WORDS], Fault),
    Taken,
}

impl Slot for ModelSlot<'_> {
    fn load<const W: usize>(self) -> u64 {
        match self {
            Self::Free(words, fault) => {
                let word = words[W].load(Ordering::Acquire);
                let blind = fault == Fault::NoGenerations && W == word::CONTROL;
                if blind { word & 0xffff_ffff } else { word }
            }
            // Claimed by a flow of a home that nobody looks at.
            Self::Taken => u64::from(W == word::CONTROL),
        }
    }

    fn store<const W: usize>(self, value: u64) {
        let Self::Free(words, fault) = self else { panic!("a taken slot was written") };
        let order = match fault {
            Fault::UnorderedStores => Ordering::Relaxed,
            _ => Ordering::Release,
        };
        words[W].store(value, order);
    }

    fn publish<const W: usize>(self, value: u64) {
        let Self::Free(words, _) = self else { panic!("a taken slot was written") };
        words[W].store(value, Ordering::Release);
    }

    fn compare_exchange<const W: usize>(self, old: u64, new: u64) -> bool {
        let Self::Free(words, fault) = self else { return false };
        if fault == Fault::LocksHoldNothing && W == word::HOME {
            return true;
        }
        words[W].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn add<const W: usize>(self, value: u64) {
        let Self::Free(words, _) = self else { panic!("a taken slot was written") };
        words[W].fetch_add(value, Ordering::Relaxed);
    }

    fn relax(self) {
        thread::yield_now();
    }
}

impl<'a> Slots for &'a ModelTable {
    type Slot = ModelSlot<'a>;

    fn slot(&self, index: u32) -> Option<ModelSlot<'a>> {
        let words = self.slots.get(index as usize);
        Some(words.map_or(ModelSlot::Taken, |words| ModelSlot::Free(words, self.fault)))
    }

    fn slot_mask(&self) -> u32 {
        WINDOW - 1
    }

    fn holder(&self) -> u8 {
        9
    }

    fn count(&self, _: i64) {}
}

impl ModelTable {
    fn new(fault: Fault) -> Arc<Self> {
        let slot = |_| std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self { slots: (0..FREE).map(slot).collect(), fault })
    }

    /// How many live slots hold this flow.
    fn copies(&self, key: &FlowKey) -> usize {
        (0..FREE as u32).filter(|&i| holds((&self).slot(i).unwrap(), key).is_some()).count()
    }
}

fn key(port: u16) -> FlowKey {
    let end = |low, port| Endpoint { address: Address { high: u64::from(port), low }, port };
    FlowKey { initiator: end(1, port), responder: end(2, port), protocol: Protocol::TCP }
}

fn record(port: u16) -> FlowRecord {
    let state = FlowState { phase: Phase::SynSent, confirmed: false, rule: port, sequence: 1 };
    FlowRecord { translation: None, bucket: BucketId(3), epoch: Epoch(1), key: key(port), state }
}

fn insert_flow(table: &ModelTable, port: u16) -> Inserted<ModelSlot<'_>> {
    insert(&table, 0, &record(port), Nanos(0))
}

/// Runs `test` over every interleaving with at most three forced switches of threads, which is
/// enough for every race of two steps against one.
fn explore(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(test);
}

fn two_cpus_meet_one_flow(fault: Fault) {
    explore(move || {
        let table = ModelTable::new(fault);
        let other = table.clone();
        let peer = thread::spawn(move || matches!(insert_flow(&other, 7), Inserted::New(..)));
        let mine = matches!(insert_flow(&table, 7), Inserted::New(..));
        let theirs = peer.join().unwrap();
        assert!(mine != theirs, "one of two inserts the flow");
        assert_eq!(table.copies(&key(7)), 1);
        assert!(lookup(&&*table, 0, &key(7).reversed()).is_some());
    });
}

#[test]
fn a_flow_met_by_two_cpus_is_inserted_once() {
    two_cpus_meet_one_flow(Fault::None);
}

#[test]
#[should_panic]
fn locks_that_hold_nothing_are_caught() {
    two_cpus_meet_one_flow(Fault::LocksHoldNothing);
}

#[test]
fn flows_that_compete_for_slots_get_one_each() {
    explore(|| {
        let table = ModelTable::new(Fault::None);
        insert_flow(&table, 1);
        let other = table.clone();
        let peer = thread::spawn(move || matches!(insert_flow(&other, 2), Inserted::New(..)));
        let mine = matches!(insert_flow(&table, 3), Inserted::New(..));
        let theirs = peer.join().unwrap();
        assert!(mine != theirs, "one slot was left for two flows");
        assert_eq!(table.copies(&key(2)) + table.copies(&key(3)), 1);
        assert_eq!(table.copies(&key(1)), 1);
    });
}

/// One removes flow 1 and puts flow 2 where it was, one reads flow 1 meanwhile.
fn a_slot_changes_hands_under_a_reader(fault: Fault) {
    explore(move || {
        let table = ModelTable::new(fault);
        insert_flow(&table, 1);
        let other = table.clone();
        let peer = thread::spawn(move || {
            let control = (&*other).slot(0).unwrap().load::<{ word::CONTROL }>();
            assert_eq!(remove(&&*other, 0, control), Some(true));
            assert!(matches!(insert_flow(&other, 2), Inserted::New(..)));
        });
        if let Some(found) = lookup(&&*table, 0, &key(1))
            && let Some(read) = read_record(found.slot, found.control)
        {
            assert_eq!((read.key, read.state.rule), (key(1), 1), "half of another flow");
        }
        peer.join().unwrap();
        assert!(lookup(&&*table, 0, &key(1)).is_none());
        assert_eq!(table.copies(&key(2)), 1);
    });
}

#[test]
fn a_reader_never_sees_half_of_another_flow() {
    a_slot_changes_hands_under_a_reader(Fault::None);
}

#[test]
#[should_panic]
fn stores_that_overtake_their_claim_are_caught() {
    a_slot_changes_hands_under_a_reader(Fault::UnorderedStores);
}

#[test]
#[should_panic]
fn slots_without_generations_are_caught() {
    a_slot_changes_hands_under_a_reader(Fault::NoGenerations);
}

/// One changes the state of flow 1 on what it has read, while flow 2 moves in.
#[test]
fn a_late_change_does_not_reach_the_next_flow() {
    explore(|| {
        let table = ModelTable::new(Fault::None);
        insert_flow(&table, 1);
        let found = lookup(&&*table, 0, &key(1)).unwrap();
        let other = table.clone();
        let control = found.control;
        let peer = thread::spawn(move || {
            assert_eq!(remove(&&*other, 0, control), Some(true));
            assert!(matches!(insert_flow(&other, 2), Inserted::New(..)));
        });
        let seen = found.slot.load::<{ word::STATE }>();
        let state = FlowState::from_word(seen).unwrap();
        if state.rule == 1 {
            let reset = FlowState { phase: Phase::Reset, sequence: state.sequence + 1, ..state };
            thread::yield_now();
            found.slot.compare_exchange::<{ word::STATE }>(seen, reset.to_word());
        }
        peer.join().unwrap();
        let next = lookup(&&*table, 0, &key(2)).unwrap();
        let state = FlowState::from_word(next.slot.load::<{ word::STATE }>()).unwrap();
        assert_eq!((state.phase, state.rule), (Phase::SynSent, 2));
    });
}

#[test]
fn two_that_remove_one_flow_remove_it_once() {
    explore(|| {
        let table = ModelTable::new(Fault::None);
        insert_flow(&table, 1);
        let control = (&*table).slot(0).unwrap().load::<{ word::CONTROL }>();
        let other = table.clone();
        let peer = thread::spawn(move || remove(&&*other, 0, control) == Some(true));
        let mine = remove(&&*table, 0, control) == Some(true);
        assert!(mine != peer.join().unwrap());
        assert_eq!(table.copies(&key(1)), 0);
    });
}

/// A flow is dropped early while a packet answers it: either it stays, and answered, or it goes.
fn a_flow_is_answered_while_it_is_dropped(drop_early: fn(&ModelTable, u64, u64) -> bool) {
    explore(move || {
        let table = ModelTable::new(Fault::None);
        insert_flow(&table, 1);
        let found = lookup(&&*table, 0, &key(1)).unwrap();
        let (control, judged) = (found.control, found.slot.load::<{ word::STATE }>());
        let other = table.clone();
        let peer = thread::spawn(move || {
            let found = lookup(&&*other, 0, &key(1).reversed());
            let Some(found) = found else { return false };
            let seen = found.slot.load::<{ word::STATE }>();
            let Some(state) = FlowState::from_word(seen) else { return false };
            let sequence = state.sequence + 1;
            let answered = FlowState { confirmed: true, sequence, ..state };
            found.slot.compare_exchange::<{ word::STATE }>(seen, answered.to_word())
        });
        let dropped = drop_early(&table, control, judged);
        assert!(dropped != peer.join().unwrap(), "an answered flow was dropped, or neither");
    });
}

#[test]
fn a_flow_that_is_answered_is_not_dropped_early() {
    a_flow_is_answered_while_it_is_dropped(|table, control, judged| {
        remove_in_state(&table, 0, control, judged) == Some(true)
    });
}

#[test]
#[should_panic]
fn a_drop_that_does_not_ask_for_the_state_is_caught() {
    a_flow_is_answered_while_it_is_dropped(|table, control, _| {
        remove(&table, 0, control) == Some(true)
    });
}

#[test]
fn a_dead_holders_lock_and_claim_are_undone() {
    explore(|| {
        let table = ModelTable::new(Fault::None);
        insert_flow(&table, 1);
        // The holder took the lock, claimed the second slot, and died.
        let home = (&*table).slot(0).unwrap();
        let before = home.load::<{ word::HOME }>();
        assert!(home.compare_exchange::<{ word::HOME }>(before, before | 9 << 32));
        let claimed = Control {
            occupancy: Occupancy::Claimed,
            distance: 1,
            bucket: BucketId(0),
            generation: 1,
            alias: false,
        };
        (&*table).slot(1).unwrap().publish::<{ word::CONTROL }>(claimed.to_word());
        assert!(matches!(insert_flow(&table, 2), Inserted::Busy));
        assert_eq!(break_locks(&&*table, 9), 1);
        assert!(matches!(insert_flow(&table, 2), Inserted::New(..)));
        assert_eq!((table.copies(&key(1)), table.copies(&key(2))), (1, 1));
    });
}
