//! Rules that are counted, that answer whoever they reject, and that take the place of others.

use testudo_datapath::{Datapath, NodeTable, Refused};
use testudo_packet::bucket::BucketId;
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::{FlowKey, Protocol};
use testudo_packet::rule::{Action, Commit, Links, MAX_REPORTS, Ports, Prefix, Rule};
use testudo_packet::verdict::{DropReason, UpcallReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, flow};
use crate::packets::{ACK, CLUSTER_MAC, End, SYN, SYN_ACK, tcp, udp};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.9", 443);
const CLIENT_V6: End = ("fd10::7", 40_000);
const SERVER_V6: End = ("fd20::1", 443);
const GOES_UP: Verdict = Verdict::Upcall(UpcallReason::Refused);
const REFUSED: Verdict = Verdict::Drop(DropReason::Rule);

fn nothing(_: BucketId, _: &FlowKey) -> Option<FlowRecord> {
    None
}

fn to_port(port: u16, action: Action, mark: u64) -> Rule {
    let ports = Ports { first: port, last: port };
    Rule { destination_ports: ports, mark, ..Rule::any(action) }
}

fn comes_up(node: &mut Node) -> Vec<(Vec<u8>, Verdict)> {
    node.datapath.handle_upcalls(node.now, &mut nothing);
    node.datapath.take_released()
}

#[test]
fn each_flow_counts_once_by_the_rule_that_decides() {
    let rules = [
        Rule { commit: Commit::Sync, ..to_port(443, Action::Accept, 0) },
        to_port(53, Action::Accept, 1),
        to_port(25, Action::Drop, 2),
        Rule { reports: true, ..to_port(26, Action::Drop, 3) },
        Rule { protocol: Some(Protocol::UDP), ..Rule::any(Action::Accept) },
    ];
    let mut node = Node::with(0, 1024, &rules);
    // It comes up, waits, and goes on: three looks at one packet.
    let key = flow(6, CLIENT, SERVER);
    node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0));
    assert_eq!(node.datapath.rule_hits(), [0, 0, 0, 0, 0]);
    comes_up(&mut node);
    assert_eq!(node.datapath.rule_hits(), [1, 0, 0, 0, 0]);
    node.datapath.release_committed(node.now, &key, &mut nothing);
    assert_eq!(node.datapath.take_released().len(), 1);
    assert_eq!(node.datapath.rule_hits(), [1, 0, 0, 0, 0]);
    // What follows of the flow is not counted, nor is what begins no flow.
    node.takes(OUTSIDE, &tcp(SERVER, CLIENT, SYN_ACK, 0));
    node.takes(INSIDE, &tcp(CLIENT, SERVER, ACK, 10));
    node.takes(INSIDE, &tcp(CLIENT, ("10.20.0.9", 53), ACK, 10));
    node.takes(INSIDE, &tcp(CLIENT, ("10.20.0.9", 80), SYN, 0));
    assert_eq!(node.datapath.rule_hits(), [1, 0, 0, 0, 0]);
    // Each packet that is refused is one that wanted a flow to begin.
    for _ in 0..3 {
        assert_eq!(node.takes(INSIDE, &tcp(CLIENT, ("10.20.0.9", 25), SYN, 0)).0, REFUSED);
    }
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, ("10.20.0.9", 26), SYN, 0)).0, GOES_UP);
    assert_eq!(node.datapath.rule_hits(), [1, 0, 3, 0, 0]);
    let released = comes_up(&mut node);
    assert_eq!(released.iter().map(|(_, verdict)| *verdict).collect::<Vec<_>>(), [REFUSED]);
    node.takes(INSIDE, &udp(CLIENT, ("10.20.0.9", 53), &[1]));
    node.takes(INSIDE, &udp(CLIENT, ("10.20.0.9", 54), &[1]));
    assert_eq!(node.datapath.rule_hits(), [1, 1, 3, 1, 1]);
}

#[test]
fn flows_remember_the_number_of_their_line_and_not_the_place_of_its_rule() {
    let rules = [to_port(443, Action::Drop, 5), to_port(443, Action::Drop, 5)];
    let mut node =
        Node::with(0, 1024, &[&rules[..], &[to_port(80, Action::Accept, 7 << 16 | 900)]].concat());
    let server = ("10.20.0.9", 80);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, server, SYN, 0)).0, Verdict::Forward);
    let view = node.datapath.table().get(&flow(6, CLIENT, server)).expect("the flow");
    assert_eq!(view.record.state.rule, 900);
}

#[test]
fn other_rules_keep_flows_and_count_anew() {
    let mut node = Node::with(0, 1024, &[to_port(443, Action::Accept, 1)]);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0)).0, Verdict::Forward);
    assert_eq!(node.datapath.rule_hits(), [1]);
    let next = [to_port(443, Action::Drop, 2), to_port(80, Action::Accept, 3)];
    node.datapath.set_rules(&next).expect("few rules");
    assert_eq!(node.datapath.rule_hits(), [0, 0]);
    assert_eq!(node.takes(OUTSIDE, &tcp(SERVER, CLIENT, SYN_ACK, 0)).0, Verdict::Forward);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, ACK, 0)).0, Verdict::Forward);
    let other = ("10.10.2.7", 40_001);
    assert_eq!(node.takes(INSIDE, &tcp(other, SERVER, SYN, 0)).0, REFUSED);
    // Too many are refused, and nothing has changed.
    let many = vec![Rule::any(Action::Accept); 1025];
    assert!(node.datapath.set_rules(&many).is_err());
    assert_eq!(node.takes(INSIDE, &tcp(other, SERVER, SYN, 0)).0, REFUSED);
    assert_eq!((node.datapath.rules(), node.datapath.rule_hits()), (&next[..], vec![2, 0]));
}

/// The only answer to this packet, and what is told of it.
fn answer(from: End, to: End, frame: &[u8]) -> Vec<u8> {
    let protocol = if frame.len() > 60 && frame[12] == 0x86 { frame[20] } else { frame[23] };
    let mut node = Node::with(0, 1024, &[Rule { mark: 70, ..Rule::any(Action::Reject) }]);
    assert_eq!(node.takes(INSIDE, frame).0, GOES_UP);
    let mut released = comes_up(&mut node);
    assert_eq!(released.len(), 1);
    let (answer, verdict) = released.remove(0);
    assert_eq!(verdict, Verdict::Answer);
    let key = flow(protocol, from, to);
    assert_eq!(node.datapath.poll_refused(), Some(Refused { rule: 70, key }));
    assert_eq!(node.datapath.poll_refused(), None);
    assert!(node.datapath.table().is_empty());
    assert_eq!(node.datapath.rule_hits(), [1]);
    // Back to whoever has sent it, and not from the shared address.
    assert_eq!(answer[..6], frame[6..12]);
    assert_ne!(answer[6..12], CLUSTER_MAC);
    assert_eq!(answer[12..14], frame[12..14]);
    answer
}

/// The sum of the words, which is all ones over anything that has its checksum in it.
fn sum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let sum: u32 = words
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

#[test]
fn a_connection_that_is_rejected_is_reset() {
    for (client, server, ip) in [(CLIENT, SERVER, 20), (CLIENT_V6, SERVER_V6, 40)] {
        let syn = tcp(client, server, SYN, 4);
        let answer = answer(client, server, &syn);
        assert_eq!(answer.len(), 14 + ip + 20);
        let (header, segment) = answer[14..].split_at(ip);
        let asked = &syn[14 + ip..];
        assert_eq!([&segment[..2], &segment[2..4]], [&asked[2..4], &asked[..2]], "ports");
        assert_eq!(segment[4..8], [0; 4]);
        let sequence = u32::from_be_bytes(asked[4..8].try_into().unwrap());
        assert_eq!(segment[8..12], (sequence.wrapping_add(5)).to_be_bytes(), "SYN and four bytes");
        assert_eq!(segment[12..14], [0x50, 0x14], "RST and ACK");
        let at = if ip == 20 { 12 } else { 8 };
        let (addresses, asked) = (&header[at..], &syn[14 + at..14 + ip]);
        let half = addresses.len() / 2;
        assert_eq!([&addresses[half..], &addresses[..half]], [&asked[..half], &asked[half..]]);
        assert_eq!(sum(&[addresses, &[0, 6, 0, 20], segment]), 0xffff);
        if ip == 20 {
            assert_eq!(sum(&[header]), 0xffff);
        }
    }
}

#[test]
fn anything_else_that_is_rejected_is_prohibited() {
    let long = vec![7; 1400];
    let asked = udp(CLIENT, SERVER, &long);
    let packet = answer(CLIENT, SERVER, &asked);
    let (header, message) = packet[14..].split_at(20);
    assert_eq!(packet.len(), 14 + 576);
    assert_eq!((header[9], &message[..2], &message[4..8]), (1, &[3, 13][..], &[0; 4][..]));
    assert_eq!(message[8..], asked[14..14 + 576 - 28]);
    assert_eq!((sum(&[header]), sum(&[message])), (0xffff, 0xffff));
    assert_eq!(header[16..20], [10, 10, 2, 7]);

    let asked = udp(CLIENT_V6, SERVER_V6, &long);
    let packet = answer(CLIENT_V6, SERVER_V6, &asked);
    let (header, message) = packet[14..].split_at(40);
    assert_eq!(packet.len(), 14 + 1280);
    assert_eq!((header[6], &message[..2]), (58, &[1, 1][..]));
    assert_eq!(message[8..], asked[14..14 + 1280 - 48]);
    let length = (message.len() as u16).to_be_bytes();
    assert_eq!(sum(&[&header[8..], &length, &[0, 58], message]), 0xffff);
}

#[test]
fn so_many_are_told_in_a_second_and_the_rest_are_dropped_and_counted() {
    let mut node = Node::with(0, 1024, &[Rule::any(Action::Reject)]);
    let mut verdicts = [0, 0];
    for _ in 0..MAX_REPORTS + 50 {
        // All in the same moment.
        let verdict = node.datapath.handle(&mut tcp(CLIENT, SERVER, SYN, 0), INSIDE, node.now);
        verdicts[usize::from(verdict == REFUSED)] += 1;
    }
    assert_eq!(verdicts, [MAX_REPORTS, 50]);
    let answered = comes_up(&mut node).len() as u64;
    assert_eq!(answered, u64::from(MAX_REPORTS));
    assert_eq!(node.datapath.rule_hits(), [u64::from(MAX_REPORTS) + 50]);
    assert_eq!((node.counters()["answered"], node.counters()["drop.rule"]), (answered, 50));
    node.now = node.now.plus_millis(1000);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0)).0, GOES_UP, "another second");
}

#[test]
fn a_rule_asks_for_the_way_out_that_routes_say() {
    let out = |egress, action| Rule { egress: Some(egress), ..Rule::any(action) };
    let prefix = |address: [u8; 4], length| {
        Prefix::new(std::net::IpAddr::from(address).into(), length).expect("a prefix")
    };
    let routes = vec![(prefix([10, 20, 0, 0], 16), OUTSIDE), (prefix([10, 30, 0, 0], 16), 9)];
    let mut node = Node::with(0, 1024, &[out(OUTSIDE, Action::Accept), out(9, Action::Drop)]);
    // Without a route no such rule matches.
    let no_rule = Verdict::Drop(DropReason::NoRule);
    assert_eq!(node.takes(INSIDE, &tcp(CLIENT, SERVER, SYN, 0)).0, no_rule);
    node.datapath.set_routes(routes);
    for (server, verdict, hits) in [
        ("10.20.0.9", Verdict::Forward, [1, 0]),
        ("10.30.0.9", REFUSED, [1, 1]),
        ("10.40.0.9", no_rule, [1, 1]),
    ] {
        let frame = tcp(CLIENT, (server, 443), SYN, 0);
        assert_eq!(node.takes(INSIDE, &frame).0, verdict, "{server}");
        assert_eq!(node.datapath.rule_hits(), hits, "{server}");
    }
    // Whoever asks what would happen says which way.
    let key = flow(6, CLIENT, ("10.40.0.9", 443));
    let told = |output| {
        let links = Links { input: INSIDE, output };
        node.datapath.explain(node.now, &key, links, &mut nothing).expect("room").rule
    };
    assert_eq!([told(OUTSIDE), told(9), told(0)], [Some(0), Some(1), None]);
}
