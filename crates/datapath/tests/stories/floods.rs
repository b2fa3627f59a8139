//! Floods of first packets: what gives way, and what does not.

use testudo_datapath::expiry::{Expiry, Turn};
use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::entry::FlowRecord;
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::{Phase, Timeouts};
use testudo_packet::verdict::Verdict;

use crate::node::{INSIDE, Node, OUTSIDE, flow};
use crate::packets::{ACK, End, SYN, SYN_ACK, tcp};

const SERVER: End = ("10.20.0.9", 443);

fn open_node(slots: u32) -> Node {
    let rules = [Rule::any(Action::Accept)];
    Node::with(0, slots, &rules)
}

/// A packet comes at once, whatever it does.
fn takes(node: &mut Node, interface: u32, frame: &[u8]) -> Verdict {
    node.datapath.handle(&mut frame.to_vec(), interface, node.now)
}

/// A SYN of some sender of a flood.
fn stranger(number: u32) -> Vec<u8> {
    let mut frame = tcp(("10.99.0.0", number as u16), SERVER, SYN, 0);
    frame[28..30].copy_from_slice(&((number >> 8) as u16 | 1).to_be_bytes());
    frame
}

/// A node whose table has these flows in this state, opened a millisecond after each other.
fn filled(slots: u32, flows: u16, state: impl Fn(&mut Node, End)) -> Node {
    let mut node = open_node(slots);
    for port in 1..=flows {
        let client = ("10.10.2.7", port);
        assert_eq!(takes(&mut node, INSIDE, &tcp(client, SERVER, SYN, 0)), Verdict::Forward);
        state(&mut node, client);
        node.now = node.now.plus_millis(1);
    }
    node
}

/// A round of expiry over the whole table, so many milliseconds later; says what it took out.
fn round_after(node: &mut Node, expiry: &mut Expiry, millis: u64) -> (Turn, Vec<FlowRecord>) {
    node.now = node.now.plus_millis(millis);
    let mut gone = Vec::new();
    let turn = expiry.turn(node.datapath.table(), node.now, &Timeouts::default(), &mut |record| {
        gone.push(*record);
    });
    (turn, gone)
}

#[test]
fn unanswered_flows_end_early_when_the_table_fills_up() {
    // Of 1,024 slots: below three eighths, above, and above a half.
    for (flows, silence) in [(380, None), (390, Some(1000)), (520, Some(100))] {
        let mut node = filled(1024, flows, |_, _| {});
        let begun = node.now;
        // The last one sends its SYN once more, later.
        node.now = begun.plus_millis(2000);
        takes(&mut node, INSIDE, &tcp(("10.10.2.7", flows), SERVER, SYN, 0));
        let last = silence.unwrap_or(1000);
        let (turn, gone) = round_after(&mut node, &mut Expiry::default(), last / 2);
        let expected = if silence.is_some() { u64::from(flows) - 1 } else { 0 };
        assert_eq!(turn, Turn { silent: 0, early: expected }, "{flows} flows");
        assert_eq!(gone.len() as u64, expected);
        assert!(node.datapath.table().get(&flow(6, ("10.10.2.7", flows), SERVER)).is_some());
    }
}

#[test]
fn what_the_server_has_answered_and_nobody_acknowledged_ends_early_too() {
    let mut node = filled(1024, 520, |node, client| {
        takes(node, OUTSIDE, &tcp(SERVER, client, SYN_ACK, 0));
    });
    let (turn, _) = round_after(&mut node, &mut Expiry::default(), 1200);
    assert_eq!(turn, Turn { silent: 0, early: 520 });
}

#[test]
fn an_established_connection_never_ends_early() {
    let mut node = filled(1024, 520, |node, client| {
        takes(node, OUTSIDE, &tcp(SERVER, client, SYN_ACK, 0));
        takes(node, INSIDE, &tcp(client, SERVER, ACK, 0));
    });
    let (turn, _) = round_after(&mut node, &mut Expiry::default(), 3_600_000);
    assert_eq!(turn, Turn::default());
    assert_eq!(node.datapath.table().len(), 520);
}

#[test]
fn a_round_looks_at_so_many_slots_in_a_millisecond_and_no_more() {
    // A table that is filled up, so that expiry hurries.
    let mut node = open_node(16_384);
    for number in 0..12_000 {
        takes(&mut node, INSIDE, &stranger(number));
    }
    let (mut expiry, mut most) = (Expiry::default(), 0);
    round_after(&mut node, &mut expiry, 5);
    node.now = node.now.plus_millis(60);
    for _ in 0..100 {
        let (turn, _) = round_after(&mut node, &mut expiry, 1);
        most = most.max(turn.early);
    }
    // After the pause it looks at more at once, for the time that has passed.
    assert!(most > 1024 && most <= 61 * 2048, "{most}");
    let (turn, _) = round_after(&mut node, &mut expiry, 1);
    assert!(turn.early <= 2048, "{turn:?}");
}

/// 100,000 SYNs a second against a table of 65,536, for three seconds, each of a sender of its own; meanwhile a
/// connection every 10 ms, whose answers come 40 ms after what they answer.
#[test]
fn connections_open_during_a_flood() {
    let mut node = open_node(65_536);
    let client = |number: u16| ("10.10.2.7", number + 1);
    let (mut expiry, mut early, mut tried, mut most) = (Expiry::default(), 0, 0, 0);
    for millis in 0..3000u32 {
        for number in millis * 100..(millis + 1) * 100 {
            takes(&mut node, INSIDE, &stranger(number));
        }
        if millis.is_multiple_of(10) {
            let number = (millis / 10) as u16;
            takes(&mut node, INSIDE, &tcp(client(number), SERVER, SYN, 0));
            tried += 1;
            if let Some(answered) = number.checked_sub(4) {
                takes(&mut node, OUTSIDE, &tcp(SERVER, client(answered), SYN_ACK, 0));
            }
            if let Some(done) = number.checked_sub(8) {
                takes(&mut node, INSIDE, &tcp(client(done), SERVER, ACK, 0));
            }
        }
        node.datapath.drain_events(&mut |_| {});
        most = most.max(node.datapath.table().len());
        early += round_after(&mut node, &mut expiry, 1).0.early;
    }
    let established = (0..tried - 8).filter(|&number| {
        let view = node.datapath.table().get(&flow(6, client(number), SERVER));
        view.is_some_and(|view| view.record.state.phase == Phase::Established)
    });
    let established = established.count();
    let counters = node.counters();
    println!("{established} of {} established, at most {most} flows, {counters:?}", tried - 8);
    assert_eq!(established, usize::from(tried - 8));
    assert!(early > 200_000, "{early} flows ended early");
    let refused = counters.get("drop.table-full").copied().unwrap_or(0);
    assert!(refused < 100, "{refused} refused of 300,000");
}
