//! The pipeline's surroundings in the kernel.

use core::cell::Cell;
use core::ffi::c_void;
use core::ptr;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_coarse_ns, bpf_loop};
use aya_ebpf::maps::lpm_trie::Key;
use testudo_packet::bucket::{BucketId, BucketSlot, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, Translation};
use testudo_packet::env::{Env, Frame, Mac, RuleVisitor, Steps};
use testudo_packet::event::{EVENT_WORDS, Event, HANDLED_WORDS, handled_word};
use testudo_packet::flow::{Address, Endpoint, FlowKey};
use testudo_packet::fragment::table::Datagrams;
use testudo_packet::hop;
use testudo_packet::likeness::Likeness;
use testudo_packet::meter::{Kind, Limit};
use testudo_packet::packet_hash::{Extent, HASHED_WORDS};
use testudo_packet::placement::{Grounds, Placer};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{self, Matched};
use testudo_packet::set::{self, Sets, WHOLE_KEY};
use testudo_packet::siphash::HashKey;
use testudo_packet::table::{Found, Slots};
use testudo_packet::verdict::{UpcallReason, Verdict};
use testudo_packet::wire::{Link, Route};

use crate::maps::{self, AnswerKey, setting, shared};
use crate::route;
use crate::slot::KernelSlot;

/// What stands in the locks that the kernel takes.
const KERNEL: u8 = 1;

/// How many rules are looked at in a step of the loop: a step is a call, which costs as much as a rule does.
const RULES_AT_ONCE: u32 = 4;

/// What [`next_rules`] works on.
struct RuleScan<'a, V> {
    visitor: &'a mut V,
    first: u32,
    /// Behind the last.
    end: u32,
}

/// Shows some rules to the visitor; 1 ends the scan. A loop of the kernel's own calls it, because the
/// verifier can't follow a loop of our own over so many rules.
unsafe extern "C" fn next_rules<V: RuleVisitor>(step: u32, context: *mut c_void) -> i64 {
    // SAFETY: `scan_rules` passes a pointer to this, which outlives the loop.
    let scan = unsafe { &mut *context.cast::<RuleScan<V>>() };
    let begin = scan.first + step * RULES_AT_ONCE;
    for index in begin..begin + RULES_AT_ONCE {
        if index >= scan.end {
            return 1;
        }
        // A rule that is in force is not written; see `set_rules` of the daemon's half.
        match maps::RULES.get(index) {
            Some(words) if scan.visitor.visit(index, words) => {}
            _ => return 1,
        }
    }
    0
}

/// Does one step of some work; 1 ends it.
unsafe extern "C" fn next_step<S: Steps<Kernel>>(number: u32, context: *mut c_void) -> i64 {
    // SAFETY: `repeat` passes a pointer to this, which outlives the loop.
    let steps = unsafe { &mut *context.cast::<S>() };
    if steps.step(&Kernel::new(ptr::null_mut()), number) { 0 } else { 1 }
}

#[inline(always)]
fn placer() -> Placer {
    Placer {
        key: HashKey { k0: setting::HASH_KEY_LOW(), k1: setting::HASH_KEY_HIGH() },
        bucket_mask: setting::BUCKET_MASK() as u16,
        grounds: Grounds(setting::GROUNDS()),
    }
}

/// The class of what an endpoint is placed as. A function of its own: all that the verifier remembers of its paths when
/// they come back is a number.
#[inline(never)]
fn class_alike(high: u64, low: u64, port: u64) -> u64 {
    let endpoint = Endpoint { address: Address { high, low }, port: port as u16 };
    placer().class(like(endpoint).unwrap_or(endpoint))
}

/// What stands in for an endpoint, if something does.
#[inline(always)]
fn like(endpoint: Endpoint) -> Option<Endpoint> {
    let (kinds, Address { high, low }) = (setting::LIKENESSES(), endpoint.address);
    let room = maps::LIKE_KEY.get_ptr_mut(0)?;
    if kinds & 1 != 0 {
        // SAFETY: the map gave the pointer; this CPU alone has the room, and the program is not interrupted by itself.
        let key = unsafe {
            *room = [high, low, endpoint.port as u64];
            &*room
        };
        // SAFETY: nothing of the map is written after the program has begun.
        if let Some(words) = unsafe { maps::LIKE_ENDPOINTS.get(key) } {
            return Some(Likeness::stand_in(words, endpoint));
        }
    }
    if kinds & 2 != 0 {
        // The length and four words in network order, as they lie in memory.
        let (high, low) = (high.to_be(), low.to_be());
        // SAFETY: as above, and the room is larger than the key.
        let key = unsafe {
            *room = [128 | high << 32, high >> 32 | low << 32, low >> 32];
            &*room.cast::<Key<[u32; 4]>>()
        };
        let words = maps::LIKE_PREFIXES.get(key)?;
        return Some(Likeness::stand_in(words, endpoint));
    }
    None
}

/// The class of an endpoint that stands for itself. Many packets have few endpoints, so each CPU keeps the classes of those
/// that it has met last: to look one up costs a fifth of working it out. Whoever sends packets of ever new endpoints makes it
/// work out each one, as without.
#[inline(always)]
fn own_class(endpoint: Endpoint) -> u64 {
    let Address { high, low } = endpoint.address;
    let port = endpoint.port as u64 | maps::CLASS_IS_KEPT;
    let mixed = (high ^ low ^ port << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // SAFETY: a helper without arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    let place = cpu * maps::CLASSES_KEPT + (mixed >> 32) as u32 % maps::CLASSES_KEPT;
    let Some(kept) = maps::CLASSES.get_ptr_mut(place) else { return placer().class(endpoint) };
    // SAFETY: the map gave the pointer; this CPU alone uses its row, and the program is not interrupted by itself.
    let kept = unsafe { &mut *kept };
    if kept[0] == high && kept[1] == low && kept[2] == port {
        return kept[3];
    }
    let class = placer().class(endpoint);
    *kept = [high, low, port, class];
    class
}

/// A handled packet in the ring buffer.
#[repr(C)]
struct HandledItem {
    first: u64,
    words: [u64; HASHED_WORDS],
}

const _: () = assert!(size_of::<HandledItem>() == HANDLED_WORDS * 8);

/// Whether some rule in force asks for the interface that a packet goes out by.
#[inline(always)]
pub fn rules_ask_for_egress() -> bool {
    read_shared(shared::RULES) & shared::RULES_ASK_FOR_EGRESS != 0
}

/// Whether some interface asks for smaller segments.
#[inline(always)]
pub fn clamps_segments() -> bool {
    read_shared(shared::CLAMPS) != 0
}

/// The generation of next hops.
#[inline(always)]
pub fn hop_generation() -> u64 {
    read_shared(shared::HOPS)
}

/// The known flow that a packet is of.
#[derive(Clone, Copy)]
pub struct Met {
    /// Where it is, and which way the packet travels.
    pub found: Found<KernelSlot>,
    /// When the packet is handled.
    pub now: Nanos,
}

/// The node that the program runs on, and what it has found out about its packet.
pub struct Kernel {
    /// The known flow that the packet is of.
    flow: Cell<Option<Met>>,
    /// How large a packet its next hop takes, if it is larger.
    limit: Cell<u16>,
    /// The interface that routes send it out by; 0 if nobody has asked.
    pub egress: u32,
    /// The program's context, by which routes are asked; null in steps of a loop, which ask for none.
    context: *mut c_void,
}

impl Kernel {
    /// For one packet.
    #[inline(always)]
    pub const fn new(context: *mut c_void) -> Self {
        Self::out_by(context, 0)
    }

    /// For one packet, which routes send out by this interface.
    #[inline(always)]
    pub const fn out_by(context: *mut c_void, egress: u32) -> Self {
        Self { flow: Cell::new(None), limit: Cell::new(0), egress, context }
    }

    /// How large a packet the next hop takes, if this one is larger; else 0.
    #[inline(always)]
    pub fn limit(&self) -> u16 {
        self.limit.get()
    }

    /// The known flow that the packet is of, if it is of one.
    #[inline(always)]
    pub fn flow(&self) -> Option<Met> {
        self.flow.get()
    }
}

impl Slots for Kernel {
    type Slot = KernelSlot;

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<KernelSlot> {
        maps::NODE_TABLE.get_ptr_mut(index).map(|slot| KernelSlot(slot.cast()))
    }

    #[inline(always)]
    fn slot_mask(&self) -> u32 {
        setting::SLOT_MASK() as u32
    }

    #[inline(always)]
    fn holder(&self) -> u8 {
        KERNEL
    }

    #[inline(always)]
    fn count(&self, change: i64) {
        add_shared(shared::FLOWS, change as u64);
    }
}

#[inline(always)]
fn add_shared(index: u32, value: u64) {
    if let Some(word) = maps::shared_word(index) {
        testudo_packet::table::Slot::add::<0>(KernelSlot(word), value);
    }
}

#[inline(always)]
fn read_shared(index: u32) -> u64 {
    match maps::shared_word(index) {
        // SAFETY: the map gave the pointer; the daemon writes whole words.
        Some(word) => unsafe { word.read_volatile() },
        None => 0,
    }
}

impl Sets for Kernel {
    #[inline(always)]
    fn contains(&self, set: u32, address: Address) -> bool {
        maps::SETS.get(Key::new(WHOLE_KEY, set::key(set, address))).is_some()
    }
}

impl Datagrams for Kernel {
    type Head = KernelSlot;
    type Units = KernelSlot;

    #[inline(always)]
    fn head(&self, index: u32) -> Option<KernelSlot> {
        maps::FRAGMENTS.get_ptr_mut(index).map(|head| KernelSlot(head.cast()))
    }

    #[inline(always)]
    fn units(&self, index: u32) -> Option<KernelSlot> {
        maps::FRAGMENT_UNITS.get_ptr_mut(index).map(KernelSlot)
    }
}

impl Env for Kernel {
    #[inline(always)]
    fn node(&self) -> NodeId {
        NodeId(setting::NODE() as u8)
    }

    #[inline(always)]
    fn placer(&self) -> Placer {
        placer()
    }

    /// What the loader writes is known to the verifier: where nothing is placed alike, it follows none of that.
    #[inline(always)]
    fn places_alike(&self) -> bool {
        setting::LIKENESSES() != 0
    }

    #[inline(always)]
    fn own_class(&self, endpoint: Endpoint) -> u64 {
        own_class(endpoint)
    }

    #[inline(always)]
    fn class(&self, endpoint: Endpoint) -> u64 {
        class_alike(endpoint.address.high, endpoint.address.low, endpoint.port as u64)
    }

    #[inline(always)]
    fn cluster_mac(&self) -> Mac {
        Mac(setting::CLUSTER_MAC())
    }

    #[inline(always)]
    fn mode(&self) -> Mode {
        Mode::from_word(setting::MODE())
    }

    #[inline(always)]
    fn is_local(&self, address: Address) -> bool {
        // SAFETY: only the presence of the value is looked at.
        unsafe { maps::LOCAL.get(&[address.high, address.low]) }.is_some()
    }

    #[inline(always)]
    fn station(&self, interface: u32, mac: Mac) -> Option<NodeId> {
        // SAFETY: the daemon replaces a value as a whole word.
        unsafe { maps::STATIONS.get(&[mac.0, interface as u64]) }.map(|node| NodeId(*node as u8))
    }

    #[inline(always)]
    fn strict_windows(&self) -> bool {
        read_shared(shared::LOOSE_WINDOWS) == 0
    }

    #[inline(always)]
    fn station_mac(&self, interface: u32, node: NodeId) -> Option<Mac> {
        // SAFETY: as above.
        unsafe { maps::STATION_MACS.get(&maps::station_key(interface, node.0)) }
            .map(|mac| Mac(*mac))
    }

    #[inline(always)]
    fn now(&self) -> Nanos {
        // SAFETY: a helper without arguments.
        Nanos(unsafe { bpf_ktime_get_coarse_ns() })
    }

    #[inline(always)]
    fn lease(&self) -> Nanos {
        Nanos(read_shared(shared::LEASE))
    }

    #[inline(always)]
    fn bucket(&self, bucket: BucketId) -> Option<BucketSlot> {
        let slot = maps::BUCKETS.get_ptr(bucket.0 as u32)?;
        // SAFETY: the map gave the pointer; the daemon writes whole words.
        Some(BucketSlot::from_word(unsafe { slot.read_volatile() }))
    }

    #[inline(always)]
    fn scan_rules<V: RuleVisitor>(&self, visitor: &mut V) {
        let rules = read_shared(shared::RULES);
        let (first, count) = (rules as u32, (rules >> 32) as u32 & shared::RULE_COUNT);
        let mut scan = RuleScan { visitor, first, end: first + count };
        let callback = next_rules::<V> as *mut c_void;
        let steps = count.div_ceil(RULES_AT_ONCE);
        // SAFETY: the callback casts the context back to what it is.
        unsafe { bpf_loop(steps, callback, (&raw mut scan).cast(), 0) };
    }

    #[inline(always)]
    fn egress(&self) -> u32 {
        self.egress
    }

    #[inline(always)]
    fn repeat<S: Steps<Self>>(&self, most: u32, steps: &mut S) {
        let callback = next_step::<S> as *mut c_void;
        // SAFETY: the callback casts the context back to what it is.
        unsafe { bpf_loop(most, callback, (&raw mut *steps).cast(), 0) };
    }

    #[inline(always)]
    fn answers(&self, interface: u32, address: Address) -> Option<Mac> {
        let key = AnswerKey { high: address.high, low: address.low, interface: interface as u64 };
        // SAFETY: the daemon replaces a value as a whole word.
        unsafe { maps::ANSWERS.get(&key) }.map(|mac| Mac(*mac))
    }

    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        maps::opaque(number)
    }

    /// User space chooses: it knows which flows are still to come into the table.
    #[inline(always)]
    fn translation(&self, _key: &FlowKey, _pool: u16) -> Result<Translation, Verdict> {
        Err(Verdict::Upcall(UpcallReason::Translate))
    }

    #[inline(always)]
    fn asks_way_back(&self, interface: u32) -> bool {
        // SAFETY: only the presence of the value is looked at.
        unsafe { maps::REVERSE_PATHS.get(&(interface as u64)) }.is_some()
    }

    #[inline(always)]
    fn comes_back(&self, key: &FlowKey, interface: u32) -> bool {
        let (source, destination) = (key.initiator.address, key.responder.address);
        let (v4, protocol) = (source.is_v4(), key.protocol.0);
        let packet = Route { v4, source, destination, protocol, bytes: 0 };
        route::comes_back(self.context, &packet, interface)
    }

    #[inline(always)]
    fn may_begin(&self, _rule: &Matched, _record: &FlowRecord) -> bool {
        false
    }

    #[inline(always)]
    fn decides_all(&self) -> bool {
        false
    }

    #[inline(always)]
    fn may_report(&self, _rule: &Matched, _key: &FlowKey) -> bool {
        let Some(word) = maps::shared_word(shared::REPORTS) else { return false };
        // SAFETY: the map gave the pointer.
        let next = rule::note_report(unsafe { word.read_volatile() }, self.now());
        let Some(next) = next else { return false };
        // SAFETY: as above. Other CPUs write whole words, too.
        unsafe { word.write_volatile(next) };
        true
    }

    #[inline(always)]
    fn count_rule(&self, index: u32) {
        if let Some(hits) = maps::RULE_HITS.get_ptr_mut(index) {
            // SAFETY: each CPU has a value of its own, and the program is not interrupted by itself.
            unsafe { *hits += 1 };
        }
    }

    #[inline(always)]
    fn emit(&self, event: &Event) {
        match maps::EVENTS.reserve::<[u64; EVENT_WORDS]>(0) {
            Some(mut room) => {
                room.write(event.to_words());
                room.submit(BPF_RB_NO_WAKEUP as u64);
            }
            None => add_shared(shared::LOST_EVENTS, 1),
        }
    }

    #[inline(always)]
    fn emit_handled<F: Frame>(&self, bucket: BucketId, frame: &F, extent: Extent) {
        let Some(mut room) = maps::EVENTS.reserve::<HandledItem>(0) else {
            return add_shared(shared::LOST_HANDLED, 1);
        };
        room.write(HandledItem {
            first: handled_word(bucket, extent.length),
            // As in `look_up` of routes.
            words: [maps::unknown_zero(); HASHED_WORDS],
        });
        // SAFETY: just written.
        let item = unsafe { &mut *room.as_mut_ptr() };
        match frame.copy(extent.offset, extent.bytes, &mut item.words) {
            Some(()) => room.submit(BPF_RB_NO_WAKEUP as u64),
            None => {
                room.discard(BPF_RB_NO_WAKEUP as u64);
                add_shared(shared::LOST_HANDLED, 1);
            }
        }
    }

    #[inline(always)]
    fn met(&self, found: &Found<KernelSlot>, now: Nanos) {
        self.flow.set(Some(Met { found: *found, now }));
    }

    #[inline(always)]
    fn too_large<F: Frame>(&self, frame: &F, link: &Link, found: &Found<KernelSlot>) -> bool {
        let Some(hop) = hop::recall(found, self.now(), hop_generation()) else { return false };
        // Out of the optimiser's sight: it would calculate with half a pointer, which the verifier prohibits.
        let bytes = core::hint::black_box(frame.len());
        if bytes <= hop.mtu as u32 + link.offset {
            return false;
        }
        self.limit.set(hop.mtu);
        true
    }

    #[inline(always)]
    fn limit(&self, kind: Kind) -> Limit {
        let first = shared::LIMITS + 2 * kind as u32;
        Limit { interval: read_shared(first), depth: read_shared(first + 1) }
    }

    #[inline(always)]
    fn meter(&self, index: u32) -> Option<KernelSlot> {
        maps::METERS.get_ptr_mut(index).map(KernelSlot)
    }

    #[inline(always)]
    fn count_load(&self, bucket: BucketId, bytes: u32) {
        // SAFETY: a helper without arguments.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let row = setting::BUCKET_MASK() as u32 + 1;
        if let Some(load) = maps::LOADS.get_ptr_mut(cpu * row + bucket.0 as u32) {
            // SAFETY: the map gave the pointer; this CPU alone writes its row, and the program is not
            // interrupted by itself.
            unsafe {
                (*load)[0] += 1;
                (*load)[1] += bytes as u64;
            }
        }
    }
}
