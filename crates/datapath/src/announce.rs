//! What tells a link's hosts where the cluster's addresses are before they ask: a gratuitous ARP request (RFC 5227 §2.3)
//! and an unsolicited advertisement (RFC 4861 §7.2.6).
//!
//! Whoever had another gateway under the address goes on sending there until its entry is old, which takes minutes.
//! The frames come from the node's own address on the link, as answers do: switches are not to learn where the
//! cluster's address is, because it is nowhere alone.

use testudo_packet::env::Mac;
use testudo_packet::flow::{Address, Protocol};

use crate::reject::transport_checksum;
use crate::settings::Answer;

const BROADCAST: [u8; 6] = [0xff; 6];
/// All nodes of the link: the group and its address there (RFC 4291 §2.7.1, RFC 2464 §7).
const ALL_NODES: Address = Address { high: 0xff02_0000_0000_0000, low: 1 };
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
/// From a router, and to be believed whatever was known.
const ROUTER_OVERRIDE: [u8; 4] = [0xa0, 0, 0, 0];

/// The frame that says that an address is the cluster's.
pub fn frame(answer: &Answer, cluster: Mac) -> Vec<u8> {
    match answer.address.as_v4() {
        Some(address) => request(address.to_be_bytes(), answer.own, cluster),
        None => advertisement(answer.address, answer.own, cluster),
    }
}

fn request(address: [u8; 4], own: Mac, cluster: Mac) -> Vec<u8> {
    let head = [&BROADCAST[..], &own.to_bytes(), &[0x08, 0x06]].concat();
    let kind = [0, 1, 8, 0, 6, 4, 0, 1];
    [&head[..], &kind, &cluster.to_bytes(), &address, &[0; 6], &address].concat()
}

fn advertisement(address: Address, own: Mac, cluster: Mac) -> Vec<u8> {
    let (from, to) = (address.to_bytes(), ALL_NODES.to_bytes());
    let head = [&[136, 0, 0, 0][..], &ROUTER_OVERRIDE].concat();
    let mut message = [&head[..], &from, &[2, 1], &cluster.to_bytes()].concat();
    let sum = transport_checksum(&from, &to, Protocol::ICMPV6.0, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let link = [&ALL_NODES_MAC[..], &own.to_bytes(), &[0x86, 0xdd]].concat();
    let header = [0x60, 0, 0, 0, 0, message.len() as u8, Protocol::ICMPV6.0, 255];
    [&link[..], &header, &from, &to, &message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn answer(text: &str) -> Answer {
        let address = text.parse::<IpAddr>().unwrap().into();
        Answer { interface: 1, address, own: Mac(0x0200_0000_0109) }
    }

    #[test]
    fn both_families_are_told_who_has_an_address() {
        let cluster = Mac(0x0274_6573_0001);
        let arp = frame(&answer("10.10.0.1"), cluster);
        let expected = [
            &[0xff; 6][..],
            &[2, 0, 0, 0, 1, 9, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &[2, 0x74, 0x65, 0x73, 0, 1, 10, 10, 0, 1],
            &[0, 0, 0, 0, 0, 0, 10, 10, 0, 1],
        ];
        assert_eq!(arp, expected.concat());
        let discovery = frame(&answer("fd10::1"), cluster);
        assert_eq!(discovery[..14], [0x33, 0x33, 0, 0, 0, 1, 2, 0, 0, 0, 1, 9, 0x86, 0xdd]);
        assert_eq!(discovery[54..58], [136, 0, discovery[56], discovery[57]]);
        assert_eq!(discovery[78..], [2, 1, 2, 0x74, 0x65, 0x73, 0, 1]);
        let (from, to) = (&discovery[22..38], &discovery[38..54]);
        assert_eq!(transport_checksum(from, to, 58, &discovery[54..]), 0, "its sum is right");
    }
}
