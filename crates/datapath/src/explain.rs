//! What would become of a packet that begins a flow, asked without one.
//!
//! The packet is made, and goes through the same pipeline as all others ([`testudo_packet::stage`]), by the node's own
//! rules, pools and addresses on the links; but over a table and buckets that last for the question, in which this
//! node owns every bucket under a lease. So it is decided as the owner of its bucket decides it, by this node's rules.
//!
//! Routes are not asked: whether the packet would pass the reverse-path check of its interface is not said.
//!
//! Invariant: nothing is left of it. No entry, no count and no event is, and no endpoint is taken by a translation
//! that it would get: a flow that begins a moment later may get the same.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Epoch, Nanos, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::env::{Env, Mac};
use testudo_packet::event::{EventKind, Occurrence};
use testudo_packet::flow::{Address, FlowKey, Protocol};
use testudo_packet::placement::{Ground, PacketType};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{FirstMatch, Links, MAX_RULES, Rule};
use testudo_packet::stage;
use testudo_packet::table::{SLOT_WORDS, WINDOW};
use testudo_packet::verdict::{DropReason, Verdict};

use crate::Error;
use crate::committing::{Committing, Resolve, is_taken};
use crate::fragments::Fragments;
use crate::frame::SliceFrame;
use crate::host_env::HostEnv;
use crate::interface::NodeTable;
use crate::memory::Words;
use crate::meters::Meters;
use crate::place::place_of;
use crate::pools::Pools;
use crate::reject;
use crate::sets::Sets;
use crate::settings::Settings;
use crate::shared_table::SharedTable;
use crate::stations::Stations;

/// What would become of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Where it belongs; nothing if it is no packet of a flow.
    pub bucket: Option<BucketId>,
    /// The classes of its ends, of which the bucket is made; nothing if it is made of something else.
    pub classes: Option<[u16; 2]>,
    /// What becomes of it. [`UpcallReason::Commit`] is that it waits for the peers, and goes on then.
    ///
    /// [`UpcallReason::Commit`]: testudo_packet::verdict::UpcallReason::Commit
    pub verdict: Verdict,
    /// Whether its sender is told that it was refused.
    pub rejected: bool,
    /// The place of the rule that decides among the rules in force; nothing if none is asked or none matches.
    pub rule: Option<usize>,
    /// The flow that it begins.
    pub begins: Option<FlowRecord>,
}

/// What a packet is decided by.
pub(crate) struct Grounds<'a, T> {
    pub settings: &'a Settings,
    pub rules: &'a [Rule],
    pub sets: &'a Sets,
    pub pools: &'a Pools,
    pub stations: &'a Stations,
    /// The flows that there are.
    pub table: &'a SharedTable,
    /// And those that are to begin.
    pub committing: &'a Committing<T>,
    pub now: Nanos,
}

/// As many slots as a packet's flow can need.
const SLOTS: u32 = 4 * WINDOW;

/// The sender's address on the link; no node has it.
const SENDER: Mac = Mac(0x0200_0000_0001);

impl<T> Grounds<'_, T> {
    /// What would become of the first packet of a flow of this key that goes this way. For ESP and AH the
    /// ports are the halves of the SPI, for ICMP the identifier.
    pub fn explain(
        &self,
        key: &FlowKey,
        links: Links,
        resolve: Resolve<'_>,
    ) -> Result<Explained, Error> {
        let known = RefCell::new(resolve);
        let placing = self.table.placing();
        let taken = |key: &FlowKey| {
            self.table.get(key).is_some() || is_taken(placing, self.committing, Some(&known), key)
        };
        let interface = links.input;
        let mut frame = self.frame(key, interface);
        let fragments = Fragments::zeroed().map_err(Error::Memory)?;
        let place = place_of(placing, &fragments, self.now, &mut frame);
        let zeroed = |words: usize| Words::zeroed(words).map_err(Error::Memory);
        let slots = Arc::new(zeroed(SLOTS as usize * SLOT_WORDS)?);
        let table = SharedTable::new(slots, Arc::new(zeroed(1)?), 0, placing.clone())
            .map_err(Error::Memory)?;
        let buckets = self.own_buckets().map_err(Error::Memory)?;
        let hits = zeroed(MAX_RULES as usize)?;
        let meters = Meters::zeroed().map_err(Error::Memory)?;
        let env = HostEnv {
            strict_windows: true,
            placing,
            comes_back: None,
            settings: self.settings,
            table: &table,
            buckets: &buckets,
            fragments: &fragments,
            rules: self.rules,
            sets: self.sets,
            hits: &hits,
            reports: None,
            stations: self.stations,
            meters: &meters,
            loads: None,
            pools: self.pools,
            taken: Some(&taken),
            egress: links.output,
            limit: 0,
            lease: Nanos(u64::MAX),
            now: self.now,
            loaded: true,
            committed: false,
            beginning: Cell::new(None),
            refused: Cell::new(None),
            occurrences: RefCell::new(Vec::new()),
        };
        let mut first = FirstMatch::new(self.sets, key, links);
        env.scan_rules(&mut first);
        let verdict = stage::handle(&env, &mut SliceFrame(&mut frame), interface);
        let refused = env.refused.take();
        let begun = env.occurrences.take().into_iter().find_map(|occurrence| match occurrence {
            Occurrence::Flow(event) if event.kind == EventKind::Created => Some(event.record),
            _ => None,
        });
        let rule = first.matched().filter(|_| is_ruled(verdict));
        Ok(Explained {
            bucket: place.map(|place| place.bucket),
            classes: place.and_then(|place| self.classes(&place.key)),
            verdict,
            rejected: refused.is_some_and(|(rule, _)| reject::is_rejected(self.rules, &rule)),
            rule: rule.map(|rule| rule.index as usize),
            begins: begun.or(env.beginning.take()),
        })
    }

    /// Slots that all name this node.
    fn own_buckets(&self) -> io::Result<Words> {
        let buckets = Words::zeroed(self.settings.buckets as usize)?;
        let own = self.own_slot().to_word();
        buckets.as_slice().iter().for_each(|word| word.store(own, Ordering::Relaxed));
        Ok(buckets)
    }

    fn own_slot(&self) -> BucketSlot {
        BucketSlot {
            owner: self.settings.node,
            previous: NodeId::NONE,
            epoch: Epoch(1),
            state: BucketState::Active,
        }
    }

    fn classes(&self, key: &FlowKey) -> Option<[u16; 2]> {
        let placing = self.table.placing();
        let class = |end| placing.class(end);
        let by_endpoints =
            placing.placer.grounds.of(PacketType::of(key.protocol)) == Ground::Endpoints;
        by_endpoints.then(|| [class(key.initiator), class(key.responder)])
    }

    /// A packet with which such a flow begins, as it comes in by an interface.
    fn frame(&self, key: &FlowKey, interface: u32) -> Vec<u8> {
        let settings = self.settings;
        let own = match settings.mode {
            Mode::Steered => self.stations.mac(interface, settings.node),
            Mode::Shared | Mode::Tap { .. } => None,
        };
        let packet = first_packet(key);
        let kind: [u8; 2] = if key.initiator.address.is_v4() { [0x08, 0] } else { [0x86, 0xdd] };
        let mut frame = Vec::with_capacity(14 + packet.len());
        frame.extend(own.unwrap_or(settings.cluster_mac).to_bytes());
        frame.extend(SENDER.to_bytes());
        frame.extend(kind);
        frame.extend(packet);
        frame
    }
}

/// Whether a rule has had a say.
fn is_ruled(verdict: Verdict) -> bool {
    use DropReason::{NoPort, Rule, TableFull};
    match verdict {
        Verdict::Forward | Verdict::Upcall(_) => true,
        Verdict::Drop(reason) => matches!(reason, Rule | NoPort | TableFull),
        _ => false,
    }
}

fn first_packet(key: &FlowKey) -> Vec<u8> {
    let octets = |address: Address| match IpAddr::from(address) {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (from, to) = (octets(key.initiator.address), octets(key.responder.address));
    let mut payload = first_payload(key);
    // Where the checksum stands, and whether it covers the addresses.
    let (at, covers) = match key.protocol {
        Protocol::TCP => (16, true),
        Protocol::UDP => (6, true),
        Protocol::ICMP => (2, false),
        Protocol::ICMPV6 => (2, true),
        _ => return reject::packet(&from, &to, key.protocol.0, &payload),
    };
    let sum = match covers {
        true => reject::transport_checksum(&from, &to, key.protocol.0, &payload),
        false => reject::checksum(&payload),
    };
    payload[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    reject::packet(&from, &to, key.protocol.0, &payload)
}

/// What is behind the IP header, without its checksum.
fn first_payload(key: &FlowKey) -> Vec<u8> {
    let (from, to) = (key.initiator.port.to_be_bytes(), key.responder.port.to_be_bytes());
    let spi = [from, to].concat();
    match key.protocol {
        // A SYN of 20 bytes with a window (RFC 9293 §3.1).
        Protocol::TCP => {
            [&spi[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]].concat()
        }
        Protocol::UDP => [&spi[..], &[0, 8, 0, 0]].concat(),
        // An INIT that names a tag and a stream each way (RFC 9260 §3.3.2); nobody looks at its checksum.
        Protocol::SCTP => {
            let init = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
            [&spi[..], &[0; 8], &init].concat()
        }
        Protocol::ICMP => [&[8, 0, 0, 0][..], &from, &[0, 1]].concat(),
        Protocol::ICMPV6 => [&[128, 0, 0, 0][..], &from, &[0, 1]].concat(),
        Protocol::ESP => [&spi[..], &[0, 0, 0, 1, 0, 0, 0, 0]].concat(),
        Protocol::AH => [&[59, 1, 0, 0][..], &spi, &[0, 0, 0, 1]].concat(),
        _ => vec![0; 8],
    }
}
