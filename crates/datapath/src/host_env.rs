//! The pipeline's surroundings in user space.

use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, Translation};
use testudo_packet::env::{Env, Frame, Mac, RuleVisitor, Steps};
use testudo_packet::event::{Event, Handled, Occurrence};
use testudo_packet::flow::{Address, Endpoint, FlowKey};
use testudo_packet::fragment::table::Datagrams;
use testudo_packet::meter::{Kind, Limit};
use testudo_packet::packet_hash::{Extent, Head};
use testudo_packet::placement::Placer;
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Matched, Rule, note_report};
use testudo_packet::set;
use testudo_packet::table::{self, Found, Slots};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};
use testudo_packet::wire::Link;

use crate::fragments::Fragments;
use crate::likenesses::Placing;
use crate::memory::{Word, Words};
use crate::meters::Meters;
use crate::pools::Pools;
use crate::sets::Sets;
use crate::settings::Settings;
use crate::shared_table::{HostSlot, SharedTable};
use crate::stations::Stations;

/// Whether the source of a packet of this key is routed back as the interface asks that it came in by.
pub type ComesBack<'a> = dyn Fn(&FlowKey, u32) -> bool + 'a;

/// The node that a packet is handled on in user space.
pub struct HostEnv<'a> {
    pub settings: &'a Settings,
    pub placing: &'a Placing,
    pub table: &'a SharedTable,
    pub buckets: &'a Words,
    pub fragments: &'a Fragments,
    pub rules: &'a [Rule],
    /// The sets that they name.
    pub sets: &'a Sets,
    /// How many flows each of them has let in or refused.
    pub hits: &'a Words,
    /// What a packet that a rule refuses may go up by; `None` for one that has.
    pub reports: Option<&'a Cell<u64>>,
    pub stations: &'a Stations,
    pub meters: &'a Meters,
    pub strict_windows: bool,
    /// Packets and bytes of each bucket; `None` for a packet that has been counted.
    pub loads: Option<&'a Words>,
    /// The interface that routes send the packet out by; 0 if that is not known.
    pub egress: u32,
    /// How large a packet its next hop takes, if it is larger; else 0.
    pub limit: u16,
    pub lease: Nanos,
    pub now: Nanos,
    pub pools: &'a Pools,
    /// Whether another flow than those of the table has replies of this key. `None`: this stands for the kernel, in
    /// which no translation is chosen and no error turned; such packets go up.
    pub taken: Option<&'a dyn Fn(&FlowKey) -> bool>,
    /// Whether sources are routed back; `None`: no interface asks.
    pub comes_back: Option<&'a ComesBack<'a>>,
    /// Whether a miss in a loading bucket is known to be a new flow.
    pub loaded: bool,
    /// Whether the peers know the packet's flow, or nobody waits for that any more.
    pub committed: bool,
    /// The flow that would have begun if they did.
    pub beginning: Cell<Option<FlowRecord>>,
    /// What a rule has refused that wants that to be told.
    pub refused: Cell<Option<(Matched, FlowKey)>>,
    pub occurrences: RefCell<Vec<Occurrence>>,
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

impl set::Sets for HostEnv<'_> {
    fn contains(&self, set: u32, address: Address) -> bool {
        self.sets.contains(set, address)
    }
}

impl<'a> Datagrams for HostEnv<'a> {
    type Head = HostSlot<'a>;
    type Units = Word<'a>;

    fn head(&self, index: u32) -> Option<HostSlot<'a>> {
        Datagrams::head(&self.fragments, index)
    }

    fn units(&self, index: u32) -> Option<Word<'a>> {
        Datagrams::units(&self.fragments, index)
    }
}

impl<'a> Env for HostEnv<'a> {
    fn node(&self) -> NodeId {
        self.settings.node
    }

    #[inline(always)]
    fn placer(&self) -> Placer {
        self.placing.placer
    }

    fn places_alike(&self) -> bool {
        !self.placing.likenesses.is_empty()
    }

    fn class(&self, endpoint: Endpoint) -> u64 {
        self.placing.whole_class(endpoint)
    }

    fn cluster_mac(&self) -> Mac {
        self.settings.cluster_mac
    }

    fn mode(&self) -> Mode {
        self.settings.mode
    }

    fn is_local(&self, address: Address) -> bool {
        self.stations.is_local(address)
    }

    fn station(&self, interface: u32, mac: Mac) -> Option<NodeId> {
        self.stations.node(interface, mac)
    }

    fn strict_windows(&self) -> bool {
        self.strict_windows
    }

    fn station_mac(&self, interface: u32, node: NodeId) -> Option<Mac> {
        self.stations.mac(interface, node)
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
        if self.loaded && slot.state == BucketState::Loading {
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

    fn repeat<S: Steps<Self>>(&self, most: u32, steps: &mut S) {
        for number in 0..most {
            if !steps.step(self, number) {
                return;
            }
        }
    }

    fn egress(&self) -> u32 {
        self.egress
    }

    fn answers(&self, interface: u32, address: Address) -> Option<Mac> {
        let answers = &self.settings.answers;
        let mine = answers.iter().find(|a| a.interface == interface && a.address == address)?;
        Some(mine.own)
    }

    fn asks_way_back(&self, _interface: u32) -> bool {
        self.comes_back.is_some()
    }

    fn comes_back(&self, key: &FlowKey, interface: u32) -> bool {
        self.comes_back.is_none_or(|comes_back| comes_back(key, interface))
    }

    fn may_begin(&self, rule: &Matched, record: &FlowRecord) -> bool {
        if !self.committed {
            // Of a packet that has come up: the one that is to wait.
            if self.reports.is_none() {
                self.count_rule(rule.index);
            }
            self.beginning.set(Some(*record));
        }
        self.committed
    }

    fn translation(&self, key: &FlowKey, pool: u16) -> Result<Translation, Verdict> {
        let Some(taken) = self.taken else { return Err(Verdict::Upcall(UpcallReason::Translate)) };
        let limit = self.meters.limits.translated;
        if limit != 0 && self.table.translated_of(key.initiator.address) >= limit {
            return Err(Verdict::Drop(DropReason::SourceLimit));
        }
        let free = |reply: &FlowKey| {
            table::lookup(self, self.placing.placer.table_hash(reply), reply).is_none()
                && !taken(reply)
        };
        let chosen = self.pools.choose(self.placing, pool, key, free);
        chosen.ok_or(Verdict::Drop(DropReason::NoPort))
    }

    fn too_large<F: Frame>(&self, frame: &F, link: &Link, _: &Found<HostSlot<'a>>) -> bool {
        self.limit != 0 && frame.len() > u32::from(self.limit) + link.offset
    }

    fn translated(&self, key: &FlowKey) {
        self.table.note_translated(key.initiator.address);
    }

    fn may_report(&self, rule: &Matched, key: &FlowKey) -> bool {
        let Some(reports) = self.reports else {
            self.refused.set(Some((*rule, *key)));
            return false;
        };
        let next = note_report(reports.get(), self.now);
        next.inspect(|next| reports.set(*next)).is_some()
    }

    fn count_rule(&self, index: u32) {
        // A flow that has waited was counted when it began to.
        if let Some(hits) = self.hits.as_slice().get(index as usize).filter(|_| !self.committed) {
            hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn decides_all(&self) -> bool {
        self.taken.is_some()
    }

    fn emit(&self, event: &Event) {
        self.occurrences.borrow_mut().push(Occurrence::Flow(*event));
    }

    fn emit_handled<F: Frame>(&self, bucket: BucketId, frame: &F, extent: Extent) {
        if let Some(head) = Head::read(frame, extent) {
            let packet = head.hash(self.placing.placer.key);
            self.occurrences.borrow_mut().push(Occurrence::Handled(Handled { bucket, packet }));
        }
    }

    fn limit(&self, kind: Kind) -> Limit {
        self.meters.limits.of(kind)
    }

    fn meter(&self, index: u32) -> Option<Word<'a>> {
        self.meters.meter(index)
    }

    fn count_load(&self, bucket: BucketId, bytes: u32) {
        let Some(loads) = self.loads else { return };
        let at = usize::from(bucket.0) * 2;
        if let Some([packets, octets]) = loads.as_slice().get(at..at + 2) {
            packets.fetch_add(1, Ordering::Relaxed);
            octets.fetch_add(bytes.into(), Ordering::Relaxed);
        }
    }
}
