//! What is chosen, of which class it is, and that nothing is chosen twice.

use std::collections::HashSet;

use proptest::prelude::*;
use testudo_packet::placement::{Grounds, Identifiers, PacketType, Placer};
use testudo_packet::siphash::HashKey;

use super::*;

fn placing(buckets: u32) -> Placing {
    let key = HashKey::from_bytes(*b"a cluster secret");
    let grounds = Grounds::default();
    Placing::plain(Placer { key, bucket_mask: (buckets - 1) as u16, grounds })
}

fn one_address(placing: &Placing) -> Pools {
    Pools::new(&[Pool::of_sources(vec![Address::v4(0xc000_0201)])], placing)
}

fn key(host: u32, port: u16, server: u32, protocol: Protocol) -> FlowKey {
    let icmp = protocol == Protocol::ICMP;
    FlowKey {
        initiator: Endpoint { address: Address::v4(host), port },
        responder: Endpoint { address: Address::v4(server), port: if icmp { port } else { 443 } },
        protocol,
    }
}

proptest! {
    #[test]
    fn the_replys_bucket_is_the_flows(
        host: u32, port: u16, server: u32, kind in 0usize..3, size in 1u32..10,
    ) {
        let placing = placing(1 << size);
        let pools = one_address(&placing);
        let (protocol, packet_type) = [
            (Protocol::TCP, PacketType::Tcp),
            (Protocol::UDP, PacketType::Udp),
            (Protocol::ICMP, PacketType::Icmp),
        ][kind];
        let flow = key(host, port, server, protocol);
        let chosen = pools.choose(&placing, 1, &flow, |_| true).expect("all is free");
        let bucket = |key| placing.place(&key, packet_type, Identifiers::default()).bucket;
        prop_assert_eq!(bucket(flow), bucket(chosen.reply_key(protocol)));
        prop_assert_eq!(chosen.destination.address, flow.responder.address);
    }
}

/// Many nodes, each of which knows its own flows only, up to 95 of 100 ports of an address.
#[test]
fn no_two_flows_of_any_nodes_share_a_reply() {
    const BUCKETS: u32 = 64;
    let placing = placing(BUCKETS);
    let pools = one_address(&placing);
    let mut of_node: Vec<HashSet<FlowKey>> = vec![HashSet::new(); 4];
    let mut of_all = HashSet::new();
    let (mut host, mut refused) = (0x0a00_0000, 0);
    while of_all.len() < 64_511 * 95 / 100 {
        host += 1;
        let flow = key(host, 40_000, 0xc633_6401, Protocol::TCP);
        let place = placing.place(&flow, PacketType::Tcp, Identifiers::default());
        let own = &mut of_node[usize::from(place.bucket.0) % 4];
        match pools.choose(&placing, 1, &flow, |reply| !own.contains(reply)) {
            Some(chosen) => {
                let reply = chosen.reply_key(Protocol::TCP);
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
    let placing = placing(2);
    let pools = one_address(&placing);
    let kept = (0..1000u32).filter(|&host| {
        let flow = key(0x0a00_0001 + host, 40_000, 0xc633_6401, Protocol::TCP);
        pools.choose(&placing, 1, &flow, |_| true).unwrap().source.port == 40_000
    });
    // With two classes half of them are of the other one; six standard deviations are 95.
    let kept = kept.count();
    assert!((405..=595).contains(&kept), "{kept} of 1000 kept");
}

#[test]
fn what_can_not_be_translated_is_refused() {
    let placing = placing(256);
    let pools = one_address(&placing);
    let choose = |pool, key: FlowKey| pools.choose(&placing, pool, &key, |_| true);
    assert_eq!(choose(1, key(1, 0, 2, Protocol::ESP)), None, "no ports");
    assert_eq!(choose(2, key(1, 1, 2, Protocol::TCP)), None, "no such pool");
    assert_eq!(pools.choose(&placing, 1, &key(1, 1, 2, Protocol::TCP), |_| false), None);
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
    let listed = Listed::new(Address::v4(7), &placing(256));
    let mut ports = listed.ports.clone();
    ports.sort_unstable();
    let all: Vec<u16> = (1024..=u16::MAX).filter(|&port| port != 4500).collect();
    assert_eq!(ports, all);
    assert_eq!(listed.begins.last(), Some(&(all.len() as u32)));
}

/// Every port of a class is given away before the next address is asked, all of them before a flow is refused, and what
/// comes free is found, be it the only one. What one destination's flows hold is free for another destination.
#[test]
fn a_full_class_goes_on_with_the_next_address() {
    const SERVER: u32 = 0xc633_6401;
    let placing = placing(256);
    let addresses = [Address::v4(0xc000_0201), Address::v4(0xc000_0202)];
    let pools = Pools::new(&[Pool::of_sources(addresses.to_vec())], &placing);
    let flow = |host, server| key(host, 40_000, server, Protocol::TCP);
    let class = placing.class(flow(0x0a00_0000, SERVER).initiator);
    let mut hosts = (0x0a00_0000..0x0b00_0000)
        .filter(|&host| placing.class(flow(host, SERVER).initiator) == class);
    let mut next = || hosts.next().expect("a host of the class");
    let mut taken = HashSet::new();
    for address in addresses {
        for at in 0..Listed::new(address, &placing).of_class(class).len() {
            let chosen =
                pools.choose(&placing, 1, &flow(next(), SERVER), |reply| !taken.contains(reply));
            let chosen = chosen.unwrap_or_else(|| panic!("flow {at} of {address:?} is refused"));
            assert_eq!(chosen.source.address, address, "flow {at}");
            assert!(taken.insert(chosen.reply_key(Protocol::TCP)), "flow {at}: {chosen:?} again");
        }
    }
    let late = next();
    let choose = |server, taken: &HashSet<FlowKey>| {
        pools.choose(&placing, 1, &flow(late, server), |reply| !taken.contains(reply))
    };
    assert_eq!(choose(SERVER, &taken), None, "all is taken");
    assert!(choose(SERVER + 1, &taken).is_some(), "another destination");
    for reply in taken.clone() {
        taken.remove(&reply);
        let chosen = choose(SERVER, &taken).expect("one is free");
        assert_eq!(chosen.reply_key(Protocol::TCP), reply);
        taken.insert(reply);
    }
}
