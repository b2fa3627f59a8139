//! What the pipeline needs from where it runs.
//!
//! Time, memory and the outside world are arguments here, never ambient. Both builds implement the
//! same two traits: [`Frame`] for the bytes of a packet and [`Env`] for everything else.

use crate::bucket::{BucketId, BucketSlot, Nanos, NodeId};
use crate::entry::{FlowRecord, Translation};
use crate::event::Event;
use crate::flow::{Address, Endpoint, FlowKey};
use crate::fragment::table::Datagrams;
use crate::meter::{Kind, Limit};
use crate::packet_hash::{Extent, HASHED_WORDS};
use crate::placement::{AS_THEMSELVES, Placement, Placer};
use crate::reception::Mode;
use crate::rule::{Matched, RULE_WORDS};
use crate::set::Sets;
use crate::table::{Found, Slots};
use crate::verdict::Verdict;
use crate::wire::{Headers, Link};

/// An Ethernet address, its six bytes in network order in the low 48 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Mac(pub u64);

impl Mac {
    /// The address of these bytes.
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = bytes;
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    /// The bytes of this address.
    pub const fn to_bytes(self) -> [u8; 6] {
        let [_, _, a, b, c, d, e, f] = self.0.to_be_bytes();
        [a, b, c, d, e, f]
    }

    /// Whether this is a group address (broadcast or multicast).
    #[inline(always)]
    pub const fn is_group(self) -> bool {
        self.0 >> 40 & 1 == 1
    }
}

/// The bytes of a packet, from the Ethernet header on. Numbers are big-endian on the wire. A read or
/// write that does not lie within the packet gives `None` and changes nothing.
pub trait Frame {
    /// How many bytes there are.
    fn len(&self) -> u32;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The same number; as [`Env::opaque`].
    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number
    }
    /// Reads one byte.
    fn u8(&self, offset: u32) -> Option<u8>;
    /// Reads two bytes.
    fn u16(&self, offset: u32) -> Option<u16>;
    /// Reads four bytes.
    fn u32(&self, offset: u32) -> Option<u32>;
    /// Reads eight bytes.
    fn u64(&self, offset: u32) -> Option<u64>;
    /// Reads so many times four bytes, which are there all or none.
    fn u32s<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;
    /// Copies `bytes` bytes from `offset` on, as they are: 1 to [`crate::packet_hash::HASHED_BYTES`]
    /// of them. What is behind them in `room` stays.
    fn copy(&self, offset: u32, bytes: u32, room: &mut [u64; HASHED_WORDS]) -> Option<()>;
    /// Writes one byte.
    fn set_u8(&mut self, offset: u32, value: u8) -> Option<()>;
    /// Writes two bytes.
    fn set_u16(&mut self, offset: u32, value: u16) -> Option<()>;
    /// Writes four bytes.
    fn set_u32(&mut self, offset: u32, value: u32) -> Option<()>;
    /// Writes so many times four bytes, all or none.
    fn set_u32s<const N: usize>(&mut self, offset: u32, values: [u32; N]) -> Option<()>;
    /// Writes eight bytes.
    fn set_u64(&mut self, offset: u32, value: u64) -> Option<()>;
}

/// Looks at rules.
pub trait RuleVisitor {
    /// Looks at the words of the rule of this number; says whether to go on to the next.
    fn visit(&mut self, index: u32, words: &[u64; RULE_WORDS]) -> bool;
}

/// Work that is done in equal steps.
pub trait Steps<E> {
    /// Does the step of this number; says whether there is another one.
    fn step(&mut self, env: &E, number: u32) -> bool;
}

/// The node that a packet is handled on.
pub trait Env: Slots + Sets + Datagrams {
    /// This node.
    fn node(&self) -> NodeId;
    /// How packets are placed.
    fn placer(&self) -> Placer;
    /// Whether any endpoint is placed as another one ([`crate::likeness`]).
    fn places_alike(&self) -> bool;
    /// The class of an endpoint that stands for itself: what [`Placer::class`] says, which may have been kept.
    #[inline(always)]
    fn own_class(&self, endpoint: Endpoint) -> u64 {
        self.placer().class(endpoint)
    }
    /// The class of what an endpoint is placed as.
    fn class(&self, endpoint: Endpoint) -> u64;
    /// Where the packet of these headers belongs.
    #[inline(always)]
    fn place(&self, headers: &Headers) -> Placement {
        let Headers { key, packet_type, identifiers, .. } = *headers;
        let own = |endpoint| self.own_class(endpoint);
        if self.places_alike() {
            let class = |endpoint| self.class(endpoint);
            return self.placer().place_by(own, &key, packet_type, identifiers, Some(class));
        }
        self.placer().place_by(own, &key, packet_type, identifiers, AS_THEMSELVES)
    }
    /// The address that the cluster's packets are sent to on the link.
    fn cluster_mac(&self) -> Mac;
    /// How packets reach the cluster.
    fn mode(&self) -> Mode;
    /// Whether the address is one of this node's own, beside the cluster's.
    fn is_local(&self, address: Address) -> bool;
    /// The node that has this address on the link of an interface; this node has one there too.
    fn station(&self, interface: u32, mac: Mac) -> Option<NodeId>;
    /// Whether segments of TCP that can't be of their connection are dropped ([`crate::window`]).
    fn strict_windows(&self) -> bool;
    /// The address of a node on the link of an interface.
    fn station_mac(&self, interface: u32, node: NodeId) -> Option<Mac>;
    /// Now. Its grain may be a few milliseconds; a lease is granted with that in mind.
    fn now(&self) -> Nanos;
    /// Until when packets may be handled.
    fn lease(&self) -> Nanos;
    /// The slot of a bucket; `None` only beyond the cluster's count.
    fn bucket(&self, bucket: BucketId) -> Option<BucketSlot>;
    /// Shows the rules in their order, one at a time, until one is taken. The index that each is shown with
    /// is where it is kept: less than twice [`crate::rule::MAX_RULES`].
    fn scan_rules<V: RuleVisitor>(&self, visitor: &mut V);
    /// Does some work step by step, at most so many steps. A loop that the verifier need not follow.
    fn repeat<S: Steps<Self>>(&self, most: u32, steps: &mut S)
    where
        Self: Sized;
    /// The interface that the node's routes send the packet out by that is being decided; 0 if that is not known. It is
    /// looked up only if some rule in force asks for it.
    fn egress(&self) -> u32;
    /// The node's own address on an interface, if the cluster has this address there.
    fn answers(&self, interface: u32, address: Address) -> Option<Mac>;
    /// The same number. The eBPF build makes the verifier forget what it knows of the number, so that
    /// paths which differ in nothing else are followed once.
    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        number
    }
    /// Whether an interface asks anything of the sources of first packets that come in by it
    /// ([`crate::reverse_path`]).
    fn asks_way_back(&self, interface: u32) -> bool;
    /// Whether the source of a first packet is routed back as the interface asks that it came in by.
    fn comes_back(&self, key: &FlowKey, interface: u32) -> bool;
    /// Whether a flow may begin now that the peers are to know before; if not, it has not begun, and
    /// its packet goes up. There it is counted by the rule when it begins to wait, and not when it goes on.
    fn may_begin(&self, rule: &Matched, record: &FlowRecord) -> bool;
    /// Whether the packet that wants to begin this flow goes up now that the rule which refuses it asks for
    /// that; if not, it is dropped here, and counted by the rule. It was not counted before it went up.
    fn may_report(&self, rule: &Matched, key: &FlowKey) -> bool;
    /// Counts a flow that has begun by the rule of this index, or was refused by it.
    fn count_rule(&self, index: u32);
    /// What a flow of this key is translated to by a pool: endpoints under which no reply of another flow comes. An
    /// error is what becomes of its packet instead.
    fn translation(&self, key: &FlowKey, pool: u16) -> Result<Translation, Verdict>;
    /// Whether a packet of this flow is larger than its next hop takes, as far as that is known.
    #[inline(always)]
    fn too_large<F: Frame>(&self, _frame: &F, _link: &Link, _found: &Found<Self::Slot>) -> bool {
        false
    }
    /// Told that a flow has begun that is translated.
    fn translated(&self, _key: &FlowKey) {}
    /// Whether this is where packets come that others send up because they are rare, and would take the verifier more
    /// paths than it is willing to follow, or more of the stack than there is: ICMP errors about translated flows, first
    /// fragments that begin a flow or are segments of TCP, and packets whose flow begins at the same moment.
    fn decides_all(&self) -> bool;
    /// Tells user space of a change.
    fn emit(&self, event: &Event);
    /// Tells user space that a packet of a yielding bucket has been handled here.
    fn emit_handled<F: Frame>(&self, bucket: BucketId, frame: &F, extent: Extent);
    /// Told of which known flow the packet is that is being decided now. Where it goes next may be kept there
    /// ([`crate::hop`]).
    #[inline(always)]
    fn met(&self, _found: &Found<Self::Slot>, _now: Nanos) {}
    /// How much of something a source may have.
    fn limit(&self, kind: Kind) -> Limit;
    /// The meter of this number ([`crate::meter`]).
    fn meter(&self, index: u32) -> Option<Self::Units>;
    /// Counts a packet that this node owns, as load of its bucket.
    fn count_load(&self, bucket: BucketId, bytes: u32);
}
