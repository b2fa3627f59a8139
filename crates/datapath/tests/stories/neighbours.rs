//! Who has the cluster's address?

use testudo_datapath::Datapath;
use testudo_packet::bucket::BucketState;
use testudo_packet::bucket::{BucketId, NodeId};
use testudo_packet::verdict::{DropReason, Verdict};

use crate::node::{BUCKETS, CLUSTER_V4, CLUSTER_V6, INSIDE, Node, own_mac, slot};
use crate::packets::{CLUSTER_MAC, SENDER_MAC, checksum, tagged, v6};

const NODES: u8 = 3;

fn v4_bytes(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().expect("an IPv4 address").octets()
}

fn v6_bytes(text: &str) -> [u8; 16] {
    text.parse::<std::net::Ipv6Addr>().expect("an IPv6 address").octets()
}

/// Three nodes that share the buckets.
fn cluster() -> Vec<Node> {
    let share = |number| {
        let mut node = Node::with(number, 64, &[]);
        for bucket in 0..BUCKETS as u16 {
            let owner = NodeId((bucket % u16::from(NODES)) as u8);
            node.datapath.set_bucket(BucketId(bucket), slot(owner, BucketState::Active));
        }
        node
    };
    (0..NODES).map(share).collect()
}

/// RFC 826: destination, sender's address twice, and the question.
fn arp(destination: [u8; 6], operation: u8, asker: &str, target: &str) -> Vec<u8> {
    let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, operation];
    let asker = [&SENDER_MAC[..], &v4_bytes(asker)].concat();
    [&destination[..], &SENDER_MAC, &head, &asker, &[0; 6], &v4_bytes(target)].concat()
}

/// What each node makes of a frame: the number of the one that answers and its answer. All others
/// drop it as another's.
fn answers(nodes: &mut [Node], frame: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut answers = Vec::new();
    for (number, node) in (0..).zip(nodes) {
        match node.takes(INSIDE, frame) {
            (Verdict::Answer, answer) => answers.push((number, answer)),
            (verdict, _) => assert_eq!(verdict, Verdict::Drop(DropReason::NotOwner)),
        }
    }
    answers
}

#[test]
fn arp_request_for_the_cluster_is_answered_by_one_node_only() {
    let mut nodes = cluster();
    let mut answered = [0; NODES as usize];
    for host in 1..=60 {
        let asker = format!("10.10.2.{host}");
        let answers = answers(&mut nodes, &arp([0xff; 6], 1, &asker, CLUSTER_V4));
        let [(node, answer)] = &answers[..] else { panic!("{} answers", answers.len()) };
        let head = [0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 2];
        let expected = [
            &SENDER_MAC[..],
            &own_mac(*node),
            &head,
            &CLUSTER_MAC,
            &v4_bytes(CLUSTER_V4),
            &SENDER_MAC,
            &v4_bytes(&asker),
        ]
        .concat();
        assert_eq!(*answer, expected);
        answered[usize::from(*node)] += 1;
    }
    assert!(answered.iter().all(|&count| count > 5), "{answered:?}");
}

#[test]
fn who_asks_again_asks_the_address_that_he_knows() {
    let mut nodes = cluster();
    assert_eq!(answers(&mut nodes, &arp(CLUSTER_MAC, 1, "10.10.2.7", CLUSTER_V4)).len(), 1);
}

#[test]
fn other_arp_goes_to_the_stack() {
    let mut node = Node::new();
    for frame in [
        arp([0xff; 6], 1, "10.10.2.7", "10.10.0.2"),
        arp([0xff; 6], 2, "10.10.2.7", CLUSTER_V4),
        tagged(&arp([0xff; 6], 1, "10.10.2.7", CLUSTER_V4)),
    ] {
        assert_eq!(node.takes(INSIDE, &frame).0, Verdict::Stack);
    }
}

/// RFC 4861 §4.3, with the source link-layer address.
fn solicitation(asker: &str, target: &str) -> Vec<u8> {
    let message =
        [&[135, 0, 0, 0, 0, 0, 0, 0][..], &v6_bytes(target), &[1, 1], &SENDER_MAC].concat();
    let mut frame = v6(asker, "ff02::1:ff00:1", 58, &message);
    frame[..6].copy_from_slice(&[0x33, 0x33, 0xff, 0, 0, 1]);
    frame[21] = 255;
    frame
}

/// Whether the ICMPv6 message of a frame has the checksum of RFC 4443 §2.3, computed anew.
fn has_right_checksum(frame: &[u8]) -> bool {
    let (addresses, message) = (&frame[22..54], &frame[54..]);
    let length = (message.len() as u32).to_be_bytes();
    let mut whole = [addresses, &length, &[0, 0, 0, 58], message].concat();
    let at = addresses.len() + 8 + 2;
    let sum = [whole[at], whole[at + 1]];
    whole[at..at + 2].fill(0);
    checksum(&whole).to_be_bytes() == sum
}

#[test]
fn a_neighbour_solicitation_is_answered_with_the_right_checksum() {
    let mut nodes = cluster();
    for host in 1..=200 {
        let asker = format!("fd10::{host:x}:{:x}", 0xffff - host);
        let answers = answers(&mut nodes, &solicitation(&asker, CLUSTER_V6));
        let [(node, answer)] = &answers[..] else { panic!("{} answers", answers.len()) };
        assert!(has_right_checksum(answer), "{asker}: {answer:02x?}");
        let head = [0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255];
        let expected = [
            &SENDER_MAC[..],
            &own_mac(*node),
            &head,
            &v6_bytes(CLUSTER_V6),
            &v6_bytes(&asker),
            &[136, 0],
            &answer[56..58],
            &[0xe0, 0, 0, 0],
            &v6_bytes(CLUSTER_V6),
            &[2, 1],
            &CLUSTER_MAC,
        ]
        .concat();
        assert_eq!(*answer, expected);
    }
}

#[test]
fn a_host_that_has_no_address_yet_is_not_answered() {
    let (verdict, _) = Node::new().takes(INSIDE, &solicitation("::", CLUSTER_V6));
    assert_eq!(verdict, Verdict::Drop(DropReason::Unsupported));
}

#[test]
fn a_solicitation_from_beyond_the_link_is_not_answered() {
    let mut frame = solicitation("fd10::7", CLUSTER_V6);
    frame[21] = 254;
    assert_eq!(Node::new().takes(INSIDE, &frame).0, Verdict::Stack);
    let other = solicitation("fd10::7", "fd10::2");
    assert_eq!(Node::new().takes(INSIDE, &other).0, Verdict::Stack);
}

#[test]
fn a_solicitation_that_ends_early_is_not_answered_and_not_touched() {
    let frame = solicitation("fd10::7", CLUSTER_V6);
    for length in 14..frame.len() {
        assert_eq!(Node::new().takes(INSIDE, &frame[..length]).0, Verdict::Stack, "{length} bytes");
    }
    let question = arp([0xff; 6], 1, "10.10.2.7", CLUSTER_V4);
    for length in 14..question.len() {
        assert_eq!(Node::new().takes(INSIDE, &question[..length]).0, Verdict::Stack);
    }
}
