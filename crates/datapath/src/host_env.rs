//! The pipeline's surroundings in user space.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos, NodeId};
use testudo_packet::env::{Env, Mac, RuleVisitor};
use testudo_packet::event::Event;
use testudo_packet::flow::Address;
use testudo_packet::placement::Placer;
use testudo_packet::rule::Rule;
use testudo_packet::table::Slots;

use crate::memory::Words;
use crate::settings::Settings;
use crate::shared_table::{HostSlot, SharedTable};

/// The node that a packet is handled on in user space.
pub struct HostEnv<'a> {
    pub settings: &'a Settings,
    pub placer: Placer,
    pub table: &'a SharedTable,
    pub buckets: &'a Words,
    pub rules: &'a [Rule],
    pub lease: Nanos,
    pub now: Nanos,
    /// Whether a miss in a loading bucket is known to be a new flow.
    pub loaded: bool,
    pub events: RefCell<Vec<Event>>,
}

impl<'a> Slots for HostEnv<'a> {
    type Slot = HostSlot<'a>;

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<HostSlot<'a>> {
        Slots::slot(&self.table, index)
    }

    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        Slots::slot_mask(&self.table)
    }

    fn holder(&self) -> u8 {
        Slots::holder(&self.table)
    }

    fn count(&self, change: i64) {
        Slots::count(&self.table, change);
    }
}

impl Env for HostEnv<'_> {
    fn node(&self) -> NodeId {
        self.settings.node
    }

    #[inline(always)]
    fn placer(&self) -> Placer {
        self.placer
    }

    fn cluster_mac(&self) -> Mac {
        self.settings.cluster_mac
    }

    fn now(&self) -> Nanos {
        self.now
    }

    fn lease(&self) -> Nanos {
        self.lease
    }

    #[inline(always)]
    fn bucket(&self, bucket: BucketId) -> Option<BucketSlot> {
        let word = self.buckets.as_slice().get(usize::from(bucket.0))?;
        let mut slot = BucketSlot::from_word(word.load(Ordering::Acquire));
        if self.loaded {
            slot.state = BucketState::Active;
        }
        Some(slot)
    }

    fn scan_rules<V: RuleVisitor>(&self, visitor: &mut V) {
        for (index, rule) in (0..).zip(self.rules) {
            if !visitor.visit(index, &rule.to_words()) {
                return;
            }
        }
    }

    fn answers(&self, interface: u32, address: Address) -> Option<Mac> {
        let answers = &self.settings.answers;
        let mine = answers.iter().find(|a| a.interface == interface && a.address == address)?;
        Some(mine.own)
    }

    fn emit(&self, event: &Event) {
        self.events.borrow_mut().push(*event);
    }
}
