//! SCTP: associations by their tags, alone and translated.

use testudo_datapath::pools::Pool;
use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::event::EventKind::{self, Closed, Created, Updated};
use testudo_packet::flow::{Endpoint, FlowKey};
use testudo_packet::reception::Mode;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase::{
    self, Established, FinOriginal, LastAck, Replied, Reset, SynReceived, SynSent, TimeWait,
    Unreplied,
};
use testudo_packet::verdict::{DropReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, Row, Seen, flow};
use crate::packets::{End, error, ip, v4};
use crate::sctp_wire::*;
use crate::translation::{begin, passes, turns};

const SCTP: u8 = 132;
const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.9", 5060);
const CLIENT_6: End = ("fd10::7", 40_000);
const SERVER_6: End = ("fd20::9", 5060);
const OUTSIDE_V4: &str = "192.0.2.1";
const OUTSIDE_V6: &str = "2001:db8::1";

/// The tag of what the client gets, and of what the server gets.
const TO_CLIENT: u32 = 0xc11e_0001;
const TO_SERVER: u32 = 0x5e7e_0002;

/// A chunk of this type with so many bytes behind its header, padded.
fn chunk(kind: u8, bytes: usize) -> Vec<u8> {
    let [high, low] = ((4 + bytes) as u16).to_be_bytes();
    let mut chunk = vec![kind, 0, high, low];
    chunk.resize((4 + bytes).next_multiple_of(4), 0x5a);
    chunk
}

/// An INIT or INIT ACK chunk that names a tag.
fn naming(kind: u8, tag: u32) -> Vec<u8> {
    let rest = [0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];
    [&[kind, 0, 0, 20], &tag.to_be_bytes()[..], &rest].concat()
}

/// A packet behind its IP header, with the checksum that it should have.
fn payload(from: End, to: End, tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    packet([from.1, to.1], tag, &chunks.concat())
}

fn sctp(from: End, to: End, tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
    ip(from.0, to.0, SCTP, &payload(from, to, tag, chunks))
}

/// The first packet of an association.
pub fn init(from: End, to: End) -> Vec<u8> {
    sctp(from, to, 0, &[naming(INIT, TO_CLIENT)])
}

/// A story of one association: sizes and counts are added up here.
struct Told {
    ends: [End; 2],
    entry: Option<Seen>,
    rows: Vec<Row>,
}

impl Told {
    fn between(client: End, server: End) -> Self {
        Self { ends: [client, server], entry: None, rows: Vec::new() }
    }

    fn key(&self) -> FlowKey {
        flow(SCTP, self.ends[0], self.ends[1])
    }

    fn frame(&self, reply: bool, tag: u32, chunks: &[Vec<u8>]) -> Vec<u8> {
        let [client, server] = self.ends;
        let (from, to) = if reply { (server, client) } else { (client, server) };
        sctp(from, to, tag, chunks)
    }

    /// A packet that goes on, and leaves the flow in this phase.
    fn passes(
        &mut self,
        what: &'static str,
        (reply, tag): (bool, u32),
        chunks: &[Vec<u8>],
        phase: Phase,
    ) {
        let frame = self.frame(reply, tag, chunks);
        let bytes = frame.len() as u64;
        let first = Seen(phase, false, 0, [0, 0], [0, 0]);
        let Seen(before, answered, changes, mut packets, mut sizes) = self.entry.unwrap_or(first);
        packets[usize::from(reply)] += 1;
        sizes[usize::from(reply)] += bytes;
        let confirmed = answered || reply;
        let changed = before != phase || confirmed != answered || self.entry.is_none();
        let changes = changes + u32::from(changed);
        let kind = |phase: Phase| if phase.is_closed() { Closed } else { Updated };
        let event = match self.entry {
            None => Some(Created),
            Some(_) if changed => Some(kind(phase)),
            Some(_) => None::<EventKind>,
        };
        self.entry = Some(Seen(phase, confirmed, changes, packets, sizes));
        let interface = if reply { OUTSIDE } else { INSIDE };
        let (verdict, entry) = (Verdict::Forward, self.entry);
        self.rows.push(Row { what, interface, frame, verdict, entry, event });
    }

    /// A packet that is dropped.
    fn drops(
        &mut self,
        what: &'static str,
        (reply, tag): (bool, u32),
        chunks: &[Vec<u8>],
        reason: DropReason,
    ) {
        let frame = self.frame(reply, tag, chunks);
        let interface = if reply { OUTSIDE } else { INSIDE };
        let (verdict, entry) = (Verdict::Drop(reason), self.entry);
        self.rows.push(Row { what, interface, frame, verdict, entry, event: None });
    }

    fn opens(&mut self) {
        let (out, back) = ((false, TO_SERVER), (true, TO_CLIENT));
        self.passes("INIT", (false, 0), &[naming(INIT, TO_CLIENT)], SynSent);
        self.passes("INIT again", (false, 0), &[naming(INIT, TO_CLIENT)], SynSent);
        self.passes("INIT ACK", back, &[naming(INIT_ACK, TO_SERVER)], SynReceived);
        self.passes("COOKIE ECHO", out, &[chunk(COOKIE_ECHO, 61), chunk(DATA, 40)], Established);
        self.passes("COOKIE ACK", back, &[chunk(COOKIE_ACK, 0), chunk(SACK, 12)], Established);
    }
}

#[test]
fn an_association_opens_talks_and_shuts_down() {
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        let mut told = Told::between(client, server);
        let (out, back) = ((false, TO_SERVER), (true, TO_CLIENT));
        told.opens();
        told.passes("data", back, &[chunk(DATA, 900)], Established);
        told.passes("its acknowledgement", out, &[chunk(SACK, 12)], Established);
        told.passes(
            "SHUTDOWN behind another chunk",
            out,
            &[chunk(SACK, 12), chunk(SHUTDOWN, 4)],
            FinOriginal,
        );
        told.passes("SHUTDOWN ACK", back, &[chunk(SHUTDOWN_ACK, 0)], LastAck);
        told.passes("SHUTDOWN COMPLETE", out, &[chunk(SHUTDOWN_COMPLETE, 0)], TimeWait);
        told.passes("late data", back, &[chunk(DATA, 900)], TimeWait);
        Node::new().plays(told.key(), told.rows);
    }
}

#[test]
fn strangers_have_no_part_in_an_association() {
    for (client, server) in [(CLIENT, SERVER), (CLIENT_6, SERVER_6)] {
        let mut told = Told::between(client, server);
        told.opens();
        for reply in [false, true] {
            let forged = (reply, 0x0bad_0bad);
            told.drops("data", forged, &[chunk(DATA, 100)], DropReason::BadTag);
            told.drops("an end", forged, &[chunk(ABORT, 0)], DropReason::BadTag);
            let complete = [chunk(SHUTDOWN_COMPLETE, 0)];
            told.drops("another end", forged, &complete, DropReason::BadTag);
        }
        told.passes("the real one", (true, TO_CLIENT), &[chunk(ABORT, 0)], Reset);
        Node::new().plays(told.key(), told.rows);
    }
}

#[test]
fn a_second_path_begins_with_a_heartbeat() {
    let mut told = Told::between(CLIENT, SERVER);
    told.passes("HEARTBEAT", (false, TO_SERVER), &[chunk(HEARTBEAT, 40)], Unreplied);
    told.passes("its answer", (true, TO_CLIENT), &[chunk(HEARTBEAT_ACK, 40)], Replied);
    told.passes("data", (false, TO_SERVER), &[chunk(DATA, 40)], Replied);
    Node::new().plays(told.key(), told.rows);
}

#[test]
fn nothing_else_begins_an_association() {
    let mut told = Told::between(CLIENT, SERVER);
    for kind in [DATA, SACK, ABORT, SHUTDOWN, SHUTDOWN_ACK, COOKIE_ECHO, SHUTDOWN_COMPLETE] {
        let chunks = [chunk(kind, 8)];
        told.drops("no flow", (false, TO_SERVER), &chunks, DropReason::NotFirst);
    }
    let answer = [naming(INIT_ACK, TO_SERVER)];
    told.drops("an answer", (false, TO_CLIENT), &answer, DropReason::NotFirst);
    told.drops("INIT with a tag", (false, 7), &[naming(INIT, 1)], DropReason::BadHeader);
    told.drops("no tag", (false, 0), &[chunk(DATA, 8)], DropReason::BadHeader);
    Node::new().plays(told.key(), told.rows);
}

#[test]
fn chunks_that_contradict_themselves_go_nowhere() {
    let mut told = Told::between(CLIENT, SERVER);
    told.opens();
    let out = (false, TO_SERVER);
    for (what, chunks) in [
        ("a chunk of no length", vec![vec![SACK, 0, 0, 0]]),
        ("a chunk beyond the packet", vec![vec![SACK, 0, 1, 0]]),
        ("a second one beyond it", vec![chunk(SACK, 12), vec![DATA, 0, 0, 99]]),
        ("INIT ACK with another", vec![naming(INIT_ACK, 5), chunk(SACK, 12)]),
        ("SHUTDOWN COMPLETE with another", vec![chunk(SHUTDOWN_COMPLETE, 0), chunk(SACK, 12)]),
        ("INIT ACK that names no tag", vec![naming(INIT_ACK, 0)]),
    ] {
        told.drops(what, out, &chunks, DropReason::BadHeader);
    }
    told.passes("what is right", out, &[chunk(SACK, 12)], Established);
    Node::new().plays(told.key(), told.rows);
}

fn translating() -> Node {
    let rule = Rule { interface: Some(INSIDE), source_pool: 1, ..Rule::any(Action::Accept) };
    let address = |text: &str| text.parse::<std::net::IpAddr>().expect("an address").into();
    let pool = Pool::of_sources(vec![address(OUTSIDE_V4), address(OUTSIDE_V6)]);
    Node::with_pools(Mode::Shared, 0, 1024, &[rule], vec![pool])
}

fn is_summed(frame: &[u8]) -> bool {
    let at = if frame[14] >> 4 == 4 { 34 } else { 54 };
    let mut packet = frame[at..].to_vec();
    let stated = packet.splice(8..12, [0; 4]).collect::<Vec<_>>();
    stated == crc32c(&packet).to_le_bytes()
}

#[test]
fn a_translated_association_keeps_its_checksum_right() {
    for (client, server, outside) in
        [(CLIENT, SERVER, OUTSIDE_V4), (CLIENT_6, SERVER_6, OUTSIDE_V6)]
    {
        let (mut node, key) = (translating(), flow(SCTP, client, server));
        let first = sctp(client, server, 0, &[naming(INIT, TO_CLIENT)]);
        let (out, to) = begin(&mut node, &first, &key);
        assert!(is_summed(&out));
        let seen: End = (outside, to.source.port);
        assert_ne!(to.source.port, client.1, "a port that is preserved proves nothing");
        assert_eq!(out, sctp(seen, server, 0, &[naming(INIT, TO_CLIENT)]));
        let chunks = [naming(INIT_ACK, TO_SERVER)];
        let back = passes(&mut node, OUTSIDE, &sctp(server, seen, TO_CLIENT, &chunks));
        assert_eq!(back, sctp(server, client, TO_CLIENT, &chunks));
        for length in [0, 1, 2, 3, 100, 1399] {
            let chunks = [chunk(COOKIE_ECHO, 8), chunk(DATA, length)];
            let out = passes(&mut node, INSIDE, &sctp(client, server, TO_SERVER, &chunks));
            assert_eq!(out, sctp(seen, server, TO_SERVER, &chunks), "{length}");
        }
        let forged = sctp(server, seen, 7, &[chunk(ABORT, 0)]);
        assert_eq!(node.takes(OUTSIDE, &forged).0, Verdict::Drop(DropReason::BadTag));
        let view = node.datapath.table().get(&key).expect("the flow");
        assert_eq!(view.record.state.phase, Established);
        // Who is told of a packet that can't go on recognises it.
        let sent = sctp(seen, server, TO_SERVER, &[chunk(DATA, 1200)]);
        let router = if client.0.contains(':') { "fd20::9:9" } else { "10.20.9.9" };
        let kind = if client.0.contains(':') { [2, 0] } else { [3, 4] };
        let told = turns(&mut node, OUTSIDE, &error(router, outside, kind, &sent, 28 + 20));
        let quoted = sctp(client, server, TO_SERVER, &[chunk(DATA, 1200)]);
        let at = told.len() - (28 + 20);
        assert_eq!(told[at..at + 10], quoted[14..24], "its header");
        let ports = at + if client.0.contains(':') { 40 } else { 20 };
        assert_eq!(
            told[ports..ports + 4],
            [client.1.to_be_bytes(), server.1.to_be_bytes()].concat()
        );
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let (mut node, key) = (translating(), flow(SCTP, CLIENT, SERVER));
    let mut first = sctp(CLIENT, SERVER, 0, &[naming(INIT, TO_CLIENT)]);
    let end = first.len() - 1;
    first[end] ^= 1;
    let (out, _) = begin(&mut node, &first, &key);
    assert!(!is_summed(&out));
}

#[test]
fn a_first_fragment_whose_ports_would_change_goes_nowhere() {
    let (mut node, key) = (translating(), flow(SCTP, CLIENT, SERVER));
    begin(&mut node, &sctp(CLIENT, SERVER, 0, &[naming(INIT, TO_CLIENT)]), &key);
    let whole = payload(CLIENT, SERVER, TO_SERVER, &[chunk(DATA, 2000)]);
    let mut part = v4(CLIENT.0, SERVER.0, SCTP, &[], &whole[..1200]);
    part[20] |= 0x20;
    let sum = crate::packets::checksum(&[&part[14..24], &[0, 0], &part[26..34]].concat());
    part[24..26].copy_from_slice(&sum.to_be_bytes());
    assert_eq!(node.takes(INSIDE, &part).0, Verdict::Drop(DropReason::Unsupported));
}

#[test]
fn both_ends_are_placed_by_their_ports() {
    let node = Node::new();
    let placing = node.datapath.table().placing();
    let bucket = |client: u16| placing.bucket(&flow(SCTP, (CLIENT.0, client), SERVER));
    let first = bucket(40_000);
    assert!((40_001..40_020).any(|port| bucket(port) != first));
    let Endpoint { port, .. } = flow(SCTP, CLIENT, SERVER).initiator;
    assert_eq!(port, CLIENT.1);
}
