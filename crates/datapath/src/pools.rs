//! What the endpoints of flows are translated to: pools of addresses and backends, and a free choice of both for a flow.
//!
//! An endpoint stands in for another one only if it is of the same class ([`Placing::class`]): then the reply's bucket
//! is the flow's, whoever the flow goes to. The ports of each address are listed by class once, so there is no search
//! for a port of the class, only for one under which no reply of another flow comes. For one destination, ports of a
//! class and buckets go together, so nodes that own different buckets never choose the same endpoint, and need not
//! ask each other.
//!
//! A backend is of its service's class, because it is placed alike ([`crate::likenesses`]); so is each of two addresses
//! that are mapped to each other. Which backend a client gets depends on the client's address and on the cluster's
//! secret alone: each backend has a rank for each client, and the first one is taken (highest random weight, Thaler
//! and Ravishankar, 1998). So a client stays with its backend, whichever node it meets, and when a backend comes or
//! goes, no client changes between two others.
//!
//! The identifier of an ICMP query stands at both ends, so its class depends on the destination, too, and can't be
//! listed: identifiers are tried.
//!
//! Invariant: nothing is chosen whose reply would have another bucket than the flow.
//!
//! Limits: ports below 1024 are never chosen, and a class has some 64,512 / buckets ports of each address for one
//! destination. When they are taken, the pool's next address is asked. What finds none at any of them is dropped and
//! counted (`drop.no-port`); a port of another class would need its flow to be bound to another bucket than its packets
//! name, which there is no table for yet. At most `TRIES` ports of a class are looked at for each address, so with
//! fewer than 32 buckets, whose classes have more, a free one may be missed.

use std::collections::BTreeMap;
use std::sync::Arc;

use testudo_packet::entry::Translation;
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::placement::PacketType;
use testudo_packet::siphash::hash18;

use crate::likenesses::Placing;
use crate::mapping::Mapping;

/// What the flows of a rule are translated to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// What stands in for the source, with a port for each flow; nothing, if the source stays.
    pub sources: Vec<Address>,
    /// What stands in for the destination; nothing, if that stays. All are placed as the destinations are that flows
    /// come to by the rule.
    pub backends: Vec<Endpoint>,
    /// Instead of both: whichever end is in one of the prefixes gets its counterpart in the other.
    pub mapping: Option<Mapping>,
}

impl Pool {
    /// Of addresses that stand in for the source.
    #[must_use]
    pub fn of_sources(sources: Vec<Address>) -> Self {
        Self { sources, ..Self::default() }
    }
}

/// The lowest port that is chosen: those below are for services (RFC 6056 §3.2).
const FIRST_PORT: u16 = 1024;

/// A port that packets are told apart by (RFC 3948), so it is not chosen for others.
const IPSEC_NAT_TRAVERSAL: u16 = 4500;

/// How many ports of a class, or identifiers, are tried for one flow and address.
const TRIES: usize = 4096;

/// The most addresses of all pools together: each costs 130 kB.
pub const MAX_ADDRESSES: usize = 256;

/// An address and its ports, those of one class together.
#[derive(Clone, Debug)]
struct Listed {
    address: Address,
    ports: Vec<u16>,
    /// Where the ports of each class begin, and where the last ones end.
    begins: Vec<u32>,
}

impl Listed {
    fn new(address: Address, placing: &Placing) -> Self {
        let class = |port| usize::from(placing.class(Endpoint { address, port }));
        let mut begins = vec![0u32; usize::from(placing.placer.bucket_mask) + 2];
        let ports = || (FIRST_PORT..=u16::MAX).filter(|&port| port != IPSEC_NAT_TRAVERSAL);
        let classes: Vec<usize> = ports().map(class).collect();
        for class in &classes {
            begins[class + 1] += 1;
        }
        for at in 1..begins.len() {
            begins[at] += begins[at - 1];
        }
        let (mut next, mut sorted) = (begins.clone(), vec![0; classes.len()]);
        for (port, class) in ports().zip(classes) {
            sorted[next[class] as usize] = port;
            next[class] += 1;
        }
        Self { address, ports: sorted, begins }
    }

    fn of_class(&self, class: u16) -> &[u16] {
        let at = usize::from(class);
        &self.ports[self.begins[at] as usize..self.begins[at + 1] as usize]
    }
}

/// All pools of a node, by their number: the first one is 1.
#[derive(Clone, Debug, Default)]
pub struct Pools(Vec<Listing>);

/// A pool, with the ports of its addresses.
#[derive(Clone, Debug)]
struct Listing {
    pool: Pool,
    /// Those that several pools have are listed once.
    sources: Vec<Arc<Listed>>,
}

impl Pools {
    /// Lists the ports of all addresses.
    pub fn new(pools: &[Pool], placing: &Placing) -> Self {
        Self::default().next(pools, placing)
    }

    /// Other pools, where packets are placed as before. The ports of an address that these have, too, are not listed
    /// again; each other one takes some milliseconds.
    #[must_use]
    pub fn next(&self, pools: &[Pool], placing: &Placing) -> Self {
        let known = self.0.iter().flat_map(|listing| &listing.sources);
        let mut known: BTreeMap<Address, Arc<Listed>> =
            known.map(|listed| (listed.address, listed.clone())).collect();
        let mut listed = |address: &Address| {
            let listed = known.entry(*address);
            listed.or_insert_with(|| Arc::new(Listed::new(*address, placing))).clone()
        };
        let listing = |pool: &Pool| Listing {
            pool: pool.clone(),
            sources: pool.sources.iter().map(&mut listed).collect(),
        };
        Self(pools.iter().map(listing).collect())
    }

    /// What a flow of this key is translated to by a pool; `free` says whether no other flow has replies of a key.
    /// `None`: the pool has no endpoint left for it, or the protocol has no ports; of GRE, the pool maps no
    /// addresses one to one.
    pub fn choose(
        &self,
        placing: &Placing,
        pool: u16,
        key: &FlowKey,
        mut free: impl FnMut(&FlowKey) -> bool,
    ) -> Option<Translation> {
        let Listing { pool, sources } = self.0.get(usize::from(pool).checked_sub(1)?)?;
        // Of GRE no sum covers the addresses, so those alone may change.
        let portless = matches!(PacketType::of(key.protocol), PacketType::Other);
        if portless && (pool.mapping.is_none() || key.protocol != Protocol::GRE) {
            return None;
        }
        let bucket = placing.bucket(key);
        let mut fits = |translation: &Translation| {
            let reply = translation.reply_key(key.protocol);
            free(&reply) && placing.bucket(&reply) == bucket
        };
        if let Some(mapping) = &pool.mapping {
            return mapped(mapping, key).filter(|translation| fits(translation));
        }
        destinations(&pool.backends, placing, key).into_iter().find_map(|destination| {
            if sources.is_empty() {
                let translation = Translation { source: key.initiator, destination };
                return Some(translation).filter(|translation| fits(translation));
            }
            let v4 = key.initiator.address.is_v4();
            let mut sources = sources.iter().filter(|listed| listed.address.is_v4() == v4);
            sources.find_map(|listed| {
                let seen = FlowKey { responder: destination, ..*key };
                candidates(listed, placing, &seen).take(TRIES).find(&mut fits)
            })
        })
    }
}

/// A flow whose ends, or one of them, have counterparts. `None`: neither has.
fn mapped(mapping: &Mapping, key: &FlowKey) -> Option<Translation> {
    let (from, to) = (key.initiator, key.responder);
    let counterpart = |inside: bool, address, other: Option<Address>| match inside {
        true => other,
        false => Some(address),
    };
    // An address that has none although it is in the prefix must not go on as it is.
    let (out, home) = (mapping.is_inside(from.address), mapping.is_outside(to.address));
    let source = counterpart(out, from.address, mapping.outward(from.address))?;
    let destination = counterpart(home, to.address, mapping.inward(to.address))?;
    (out || home).then_some(Translation {
        source: Endpoint { address: source, ..from },
        destination: Endpoint { address: destination, ..to },
    })
}

/// Where a flow can go, the client's first choice first.
fn destinations(backends: &[Endpoint], placing: &Placing, key: &FlowKey) -> Vec<Endpoint> {
    if backends.is_empty() {
        return vec![key.responder];
    }
    let client = key.initiator.address;
    let secret = placing.placer.key;
    let of_client = hash18(secret, client.high, client.low, 0);
    let rank = |backend: &Endpoint| {
        let Endpoint { address: Address { high, low }, port } = *backend;
        hash18(secret, hash18(secret, high, low, port), of_client, 0)
    };
    let v4 = client.is_v4();
    let mut fit: Vec<_> =
        backends.iter().copied().filter(|backend| backend.address.is_v4() == v4).collect();
    fit.sort_by_cached_key(rank);
    fit
}

/// What a flow can be translated to by one address, the same port first, if it is of the class.
fn candidates<'a>(
    listed: &'a Listed,
    placing: &'a Placing,
    key: &FlowKey,
) -> Box<dyn Iterator<Item = Translation> + 'a> {
    let (FlowKey { initiator, responder, protocol }, address) = (*key, listed.address);
    let source = move |port| Endpoint { address, port };
    match protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            let ports = listed.of_class(placing.class(initiator));
            // Each flow begins somewhere else, so that of many ports that are taken it meets few: of half of them one, of
            // 95 in a hundred some twenty.
            let ends = placing.placer.class(initiator) ^ placing.placer.class(responder);
            let start = (ends >> 40) as usize % ports.len().max(1);
            let same = ports.contains(&initiator.port).then_some(initiator.port);
            let count = ports.len();
            let ports = (0..count).map(move |at| ports[(start + at) % count]);
            let translation =
                move |port| Translation { source: source(port), destination: responder };
            Box::new(same.into_iter().chain(ports).map(translation))
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let bucket = placing.class(initiator) ^ placing.class(responder);
            let identifiers = (0..=u16::MAX).map(move |at| initiator.port.wrapping_add(at));
            let translation = move |port| Translation {
                source: source(port),
                destination: Endpoint { port, ..responder },
            };
            Box::new(identifiers.map(translation).filter(move |to| {
                placing.class(to.source) ^ placing.class(to.destination) == bucket
            }))
        }
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests;
