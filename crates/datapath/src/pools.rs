//! What the sources of flows are translated to: pools of addresses, and a free endpoint of one for a flow.
//!
//! An endpoint stands in for another one only if it is of the same class ([`Placer::class`]): then the reply's bucket
//! is the flow's, whoever the flow goes to. The ports of each address are listed by class once, so there is no search
//! for a port of the class, only for one under which no reply of another flow comes. For one destination, ports of a
//! class and buckets go together, so nodes that own different buckets never choose the same endpoint, and need not
//! ask each other.
//!
//! The identifier of an ICMP query stands at both ends, so its class depends on the destination, too, and can't be
//! listed: identifiers are tried.
//!
//! Limits: ports below 1024 are never chosen, and a class has some 64,512 / buckets ports of each address for one
//! destination. What finds none is dropped and counted (`drop.no-port`); a port of another class would need its
//! flow to be bound to another bucket than its packets name, which there is no table for yet.

use testudo_packet::entry::Translation;
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::placement::Placer;

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
    fn new(address: Address, placer: &Placer) -> Self {
        let class = |port| usize::from(class(placer, Endpoint { address, port }));
        let mut begins = vec![0u32; usize::from(placer.bucket_mask) + 2];
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

fn class(placer: &Placer, endpoint: Endpoint) -> u16 {
    placer.class(endpoint) as u16 & placer.bucket_mask
}

/// All pools of a node, by their number: the first one is 1.
#[derive(Clone, Debug, Default)]
pub struct Pools(Vec<Vec<Listed>>);

impl Pools {
    /// Lists the ports of all addresses.
    pub fn new(pools: &[Vec<Address>], placer: &Placer) -> Self {
        let listed = |address: &Address| Listed::new(*address, placer);
        Self(pools.iter().map(|pool| pool.iter().map(listed).collect()).collect())
    }

    /// What a flow of this key is translated to by a pool; `free` says whether no other flow has replies of a key.
    /// `None`: the pool has no endpoint left for it, or the protocol has no ports.
    pub fn choose(
        &self,
        placer: &Placer,
        pool: u16,
        key: &FlowKey,
        mut free: impl FnMut(&FlowKey) -> bool,
    ) -> Option<Translation> {
        let v4 = key.initiator.address.is_v4();
        let pool = self.0.get(usize::from(pool).checked_sub(1)?)?;
        pool.iter().filter(|listed| listed.address.is_v4() == v4).find_map(|listed| {
            candidates(listed, placer, key).take(TRIES).find(|translation| {
                free(&FlowKey {
                    initiator: translation.destination,
                    responder: translation.source,
                    protocol: key.protocol,
                })
            })
        })
    }
}

/// What a flow can be translated to by one address, the same port first, if it is of the class.
fn candidates(
    listed: &Listed,
    placer: &Placer,
    key: &FlowKey,
) -> Box<dyn Iterator<Item = Translation>> {
    let (FlowKey { initiator, responder, protocol }, address) = (*key, listed.address);
    let source = move |port| Endpoint { address, port };
    match protocol {
        Protocol::TCP | Protocol::UDP => {
            let ports = listed.of_class(class(placer, initiator)).to_vec();
            // Flows to different places begin at different ports, so that one is free at once.
            let start = (placer.class(responder) >> 40) as usize % ports.len().max(1);
            let same = ports.contains(&initiator.port).then_some(initiator.port);
            let count = ports.len();
            let ports = (0..count).map(move |at| ports[(start + at) % count]);
            let translation =
                move |port| Translation { source: source(port), destination: responder };
            Box::new(same.into_iter().chain(ports).map(translation))
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let placer = *placer;
            let bucket = class(&placer, initiator) ^ class(&placer, responder);
            let identifiers = (0..=u16::MAX).map(move |at| initiator.port.wrapping_add(at));
            let translation = move |port| Translation {
                source: source(port),
                destination: Endpoint { port, ..responder },
            };
            Box::new(identifiers.map(translation).filter(move |to| {
                class(&placer, to.source) ^ class(&placer, to.destination) == bucket
            }))
        }
        _ => Box::new(std::iter::empty()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use testudo_packet::placement::{Grounds, Identifiers, PacketType};
    use testudo_packet::siphash::HashKey;

    use super::*;

    fn placer(buckets: u32) -> Placer {
        let key = HashKey::from_bytes(*b"a cluster secret");
        Placer { key, bucket_mask: (buckets - 1) as u16, grounds: Grounds::default() }
    }

    fn key(host: u32, port: u16, server: u32, protocol: Protocol) -> FlowKey {
        let icmp = protocol == Protocol::ICMP;
        FlowKey {
            initiator: Endpoint { address: Address::v4(host), port },
            responder: Endpoint {
                address: Address::v4(server),
                port: if icmp { port } else { 443 },
            },
            protocol,
        }
    }

    fn reply(translation: Translation, protocol: Protocol) -> FlowKey {
        FlowKey { initiator: translation.destination, responder: translation.source, protocol }
    }

    proptest! {
        #[test]
        fn the_replys_bucket_is_the_flows(
            host: u32, port: u16, server: u32, kind in 0usize..3, size in 1u32..10,
        ) {
            let placer = placer(1 << size);
            let pools = Pools::new(&[vec![Address::v4(0xc000_0201)]], &placer);
            let (protocol, packet_type) = [
                (Protocol::TCP, PacketType::Tcp),
                (Protocol::UDP, PacketType::Udp),
                (Protocol::ICMP, PacketType::Icmp),
            ][kind];
            let flow = key(host, port, server, protocol);
            let chosen = pools.choose(&placer, 1, &flow, |_| true).expect("all is free");
            let bucket = |key| placer.place(&key, packet_type, Identifiers::default()).bucket;
            prop_assert_eq!(bucket(flow), bucket(reply(chosen, protocol)));
            prop_assert_eq!(chosen.destination.address, flow.responder.address);
        }
    }

    /// Many nodes, each of which knows its own flows only, up to 95 of 100 ports of an address.
    #[test]
    fn no_two_flows_of_any_nodes_share_a_reply() {
        const BUCKETS: u32 = 64;
        let placer = placer(BUCKETS);
        let pools = Pools::new(&[vec![Address::v4(0xc000_0201)]], &placer);
        let mut of_node: Vec<HashSet<FlowKey>> = vec![HashSet::new(); 4];
        let mut of_all = HashSet::new();
        let (mut host, mut refused) = (0x0a00_0000, 0);
        while of_all.len() < 64_511 * 95 / 100 {
            host += 1;
            let flow = key(host, 40_000, 0xc633_6401, Protocol::TCP);
            let place = placer.place(&flow, PacketType::Tcp, Identifiers::default());
            let own = &mut of_node[usize::from(place.bucket.0) % 4];
            match pools.choose(&placer, 1, &flow, |reply| !own.contains(reply)) {
                Some(chosen) => {
                    let reply = reply(chosen, Protocol::TCP);
                    own.insert(reply);
                    assert!(of_all.insert(reply), "{reply:?} is another flow's");
                }
                None => refused += 1,
            }
        }
        // Classes fill unevenly; what is refused then is counted, and the rest goes on.
        assert!(refused < of_all.len(), "{refused} refused");
    }

    #[test]
    fn the_same_port_is_kept_where_its_class_allows() {
        let placer = placer(2);
        let pools = Pools::new(&[vec![Address::v4(0xc000_0201)]], &placer);
        let kept = (0..1000u32).filter(|&host| {
            let flow = key(0x0a00_0001 + host, 40_000, 0xc633_6401, Protocol::TCP);
            pools.choose(&placer, 1, &flow, |_| true).unwrap().source.port == 40_000
        });
        // With two classes half of them are of the other one; six standard deviations are 95.
        let kept = kept.count();
        assert!((405..=595).contains(&kept), "{kept} of 1000 kept");
    }

    #[test]
    fn what_can_not_be_translated_is_refused() {
        let placer = placer(256);
        let pools = Pools::new(&[vec![Address::v4(0xc000_0201)]], &placer);
        let choose = |pool, key: FlowKey| pools.choose(&placer, pool, &key, |_| true);
        assert_eq!(choose(1, key(1, 0, 2, Protocol::ESP)), None, "no ports");
        assert_eq!(choose(2, key(1, 1, 2, Protocol::TCP)), None, "no such pool");
        assert_eq!(pools.choose(&placer, 1, &key(1, 1, 2, Protocol::TCP), |_| false), None);
        let v6 = Address { high: 0x2001_0db8 << 32, low: 1 };
        let wide = FlowKey {
            initiator: Endpoint { address: v6, port: 1 },
            responder: Endpoint { address: Address { low: 2, ..v6 }, port: 2 },
            protocol: Protocol::TCP,
        };
        assert_eq!(choose(1, wide), None, "the pool has no IPv6 address");
    }

    #[test]
    fn every_port_is_listed_once() {
        let listed = Listed::new(Address::v4(7), &placer(256));
        let mut ports = listed.ports.clone();
        ports.sort_unstable();
        let all: Vec<u16> = (1024..=u16::MAX).filter(|&port| port != 4500).collect();
        assert_eq!(ports, all);
        assert_eq!(listed.begins.last(), Some(&(all.len() as u32)));
    }
}
