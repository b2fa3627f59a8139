//! Connections, from the first SYN to the last acknowledgement and beyond.

use testudo_datapath::{Datapath, NodeTable};
use testudo_packet::event::EventKind::{Closed, Created, Updated};
use testudo_packet::rule::{Action, Rule};
use testudo_packet::tracking::Phase::{
    Established, FinOriginal, LastAck, Reset, SynReceived, SynSent, TimeWait,
};
use testudo_packet::tracking::Timeouts;
use testudo_packet::verdict::{DropReason, Verdict};

use crate::node::{INSIDE, Node, OUTSIDE, Row, Seen, flow, seen_of};
use crate::packets::{ACK, End, FIN_ACK, RST, SYN, SYN_ACK, ip, numbered_segment, tcp};

const CLIENT: End = ("10.10.2.7", 40_000);
const SERVER: End = ("10.20.0.1", 443);
const CLIENT_V6: End = ("fd10::7", 40_000);
const SERVER_V6: End = ("fd20::1", 443);

/// A whole connection; IPv6 headers are longer by `more` bytes.
fn connection(client: End, server: End, more: u64) -> Vec<Row> {
    let row = |what, from_client: bool, flags, data, entry, event| {
        let (interface, from, to) =
            if from_client { (INSIDE, client, server) } else { (OUTSIDE, server, client) };
        let frame = tcp(from, to, flags, data);
        Row { what, interface, frame, verdict: Verdict::Forward, entry: Some(entry), event }
    };
    let seen = |phase, confirmed, sequence, packets: [u64; 2], bytes: [u64; 2]| {
        let bytes = [bytes[0] + more * packets[0], bytes[1] + more * packets[1]];
        Seen(phase, confirmed, sequence, packets, bytes)
    };
    vec![
        row("SYN", true, SYN, 0, seen(SynSent, false, 1, [1, 0], [54, 0]), Some(Created)),
        row("SYN again", true, SYN, 0, seen(SynSent, false, 1, [2, 0], [108, 0]), None),
        row(
            "SYN/ACK",
            false,
            SYN_ACK,
            0,
            seen(SynReceived, true, 2, [2, 1], [108, 54]),
            Some(Updated),
        ),
        row("ACK", true, ACK, 0, seen(Established, true, 3, [3, 1], [162, 54]), Some(Updated)),
        row("request", true, ACK, 46, seen(Established, true, 3, [4, 1], [262, 54]), None),
        row("response", false, ACK, 946, seen(Established, true, 3, [4, 2], [262, 1054]), None),
        row(
            "FIN",
            true,
            FIN_ACK,
            0,
            seen(FinOriginal, true, 4, [5, 2], [316, 1054]),
            Some(Updated),
        ),
        row("late data", false, ACK, 46, seen(FinOriginal, true, 4, [5, 3], [316, 1154]), None),
        row("FIN", false, FIN_ACK, 0, seen(LastAck, true, 5, [5, 4], [316, 1208]), Some(Updated)),
        row("last ACK", true, ACK, 0, seen(TimeWait, true, 6, [6, 4], [370, 1208]), Some(Closed)),
        row("FIN again", false, FIN_ACK, 0, seen(TimeWait, true, 6, [6, 5], [370, 1262]), None),
    ]
}

#[test]
fn inside_opens_a_connection_through_the_gateway() {
    Node::new().plays(flow(6, CLIENT, SERVER), connection(CLIENT, SERVER, 0));
    Node::new().plays(flow(6, CLIENT_V6, SERVER_V6), connection(CLIENT_V6, SERVER_V6, 20));
}

#[test]
fn a_port_is_used_again_after_time_wait() {
    let mut node = Node::new();
    node.plays(flow(6, CLIENT, SERVER), connection(CLIENT, SERVER, 0));
    let row = |what, interface, frame, entry, event| Row {
        what,
        interface,
        frame,
        verdict: Verdict::Forward,
        entry: Some(entry),
        event,
    };
    node.plays(
        flow(6, CLIENT, SERVER),
        vec![
            Row {
                verdict: Verdict::Drop(DropReason::BadState),
                ..row(
                    "a SYN from the server does not open it",
                    OUTSIDE,
                    tcp(SERVER, CLIENT, SYN, 0),
                    Seen(TimeWait, true, 6, [6, 5], [370, 1262]),
                    None,
                )
            },
            row(
                "a SYN from the client does",
                INSIDE,
                tcp(CLIENT, SERVER, SYN, 0),
                Seen(SynSent, false, 7, [7, 5], [424, 1262]),
                Some(Updated),
            ),
            row(
                "and is answered",
                OUTSIDE,
                tcp(SERVER, CLIENT, SYN_ACK, 0),
                Seen(SynReceived, true, 8, [7, 6], [424, 1316]),
                Some(Updated),
            ),
        ],
    );
}

/// A segment from the client or to it, with these numbers.
fn numbered(
    from_client: bool,
    flags: u8,
    numbers: [u32; 2],
    offer: (u16, &[u8]),
    data: usize,
) -> Vec<u8> {
    let (from, to) = if from_client { (CLIENT, SERVER) } else { (SERVER, CLIENT) };
    ip(from.0, to.0, 6, &numbered_segment(from, to, flags, numbers, offer, data))
}

/// A packet and what becomes of it, from inside if the client has sent it.
fn judged(
    what: &'static str,
    from_client: bool,
    frame: Vec<u8>,
    verdict: Verdict,
    entry: Seen,
) -> Row {
    let interface = if from_client { INSIDE } else { OUTSIDE };
    Row { what, interface, frame, verdict, entry: Some(entry), event: None }
}

const OUT: Verdict = Verdict::Drop(DropReason::OutOfWindow);

/// A handshake in which others try to have a say. The client has room for 1000 << 2 bytes then, the server for 1000,
/// and for 1000 << 3 once it says so again.
fn contested_handshake() -> Vec<Row> {
    // Behind padding, and behind another option.
    let (four, three): (&[u8], &[u8]) = (&[1, 3, 3, 2], &[2, 4, 5, 0xb4, 1, 1, 3, 3, 3, 0, 0, 0]);
    let client = |flags, numbers, options| numbered(true, flags, numbers, (1000, options), 0);
    let server = |flags, numbers, options| numbered(false, flags, numbers, (1000, options), 0);
    let pass = Verdict::Forward;
    let asked = Seen(SynSent, false, 1, [1, 0], [58, 0]);
    let answered = Seen(SynReceived, true, 2, [1, 1], [58, 66]);
    let open = Seen(Established, true, 3, [2, 1], [112, 66]);
    let syn = client(SYN, [u32::MAX, 0], four);
    let other_answer = server(SYN_ACK, [99, 1], three);
    let other_reset = server(RST | ACK, [0, 1], &[]);
    vec![
        Row { event: Some(Created), ..judged("SYN", true, syn, pass, asked) },
        judged("an answer to another SYN", false, other_answer, OUT, asked),
        judged("a reset of another SYN", false, other_reset, OUT, asked),
        Row {
            event: Some(Updated),
            ..judged("SYN/ACK", false, server(SYN_ACK, [99, 0], three), pass, answered)
        },
        Row { event: Some(Updated), ..judged("ACK", true, client(ACK, [0, 100], &[]), pass, open) },
    ]
}

#[test]
fn what_is_out_of_window_is_dropped_and_leaves_nothing_behind() {
    let client = |flags, numbers, data| numbered(true, flags, numbers, (1000, &[]), data);
    let server = |flags, numbers, data| numbered(false, flags, numbers, (1000, &[]), data);
    let seen = |packets: [u64; 2], bytes: [u64; 2]| {
        let (packets, bytes) = ([2 + packets[0], 1 + packets[1]], [112 + bytes[0], 66 + bytes[1]]);
        Seen(Established, true, 3, packets, bytes)
    };
    let (one, both) = (seen([0, 1], [0, 55]), seen([1, 1], [55, 55]));
    let (reset, challenged) = (seen([1, 2], [55, 109]), seen([2, 2], [109, 109]));
    let pass = Verdict::Forward;
    let over = Seen(Reset, true, 4, [4, 4], [221, 229]);
    let rows = vec![
        judged("too far", false, server(ACK, [4101, 0], 1), OUT, seen([0, 0], [0, 0])),
        judged("far", false, server(ACK, [4100, 0], 1), pass, one),
        judged("too far", true, client(ACK, [8001, 100], 1), OUT, one),
        judged("far", true, client(ACK, [8000, 100], 1), pass, both),
        judged("of what was not sent", true, client(ACK, [0, 4102], 0), OUT, both),
        judged("a reset from far away", false, server(RST, [4201, 0], 0), OUT, both),
        judged("a reset that is not due", false, server(RST, [200, 0], 0), pass, reset),
        judged("a SYN to be challenged", true, client(SYN, [5000, 0], 0), pass, challenged),
        Row {
            event: Some(Closed),
            ..judged("a reset that is due", false, server(RST, [100, 0], 0), pass, over)
        },
    ];
    let story = contested_handshake().into_iter().chain(rows).collect();
    Node::new().plays(flow(6, CLIENT, SERVER), story);
}

#[test]
fn a_liberal_node_drops_nothing_for_its_numbers() {
    let mut node = Node::new();
    node.datapath.set_strict_windows(false);
    for row in contested_handshake() {
        let (verdict, _) = node.takes(row.interface, &row.frame);
        assert_eq!(verdict, Verdict::Forward, "{}", row.what);
    }
}

#[test]
fn the_server_resets_the_connection() {
    let row = |what, interface, frame, entry, event| Row {
        what,
        interface,
        frame,
        verdict: Verdict::Forward,
        entry: Some(entry),
        event,
    };
    Node::new().plays(
        flow(6, CLIENT, SERVER),
        vec![
            row(
                "SYN",
                INSIDE,
                tcp(CLIENT, SERVER, SYN, 0),
                Seen(SynSent, false, 1, [1, 0], [54, 0]),
                Some(Created),
            ),
            row(
                "RST: nobody listens",
                OUTSIDE,
                tcp(SERVER, CLIENT, RST | ACK, 0),
                Seen(Reset, true, 2, [1, 1], [54, 54]),
                Some(Closed),
            ),
            row(
                "SYN: another try",
                INSIDE,
                tcp(CLIENT, SERVER, SYN, 0),
                Seen(SynSent, false, 3, [2, 1], [108, 54]),
                Some(Updated),
            ),
        ],
    );
}

/// A packet that is dropped and leaves nothing behind.
fn refused(what: &'static str, interface: u32, frame: Vec<u8>, reason: DropReason) -> Row {
    Row { what, interface, frame, verdict: Verdict::Drop(reason), entry: None, event: None }
}

#[test]
fn a_stranger_from_outside_is_refused() {
    let key = flow(6, SERVER, CLIENT);
    Node::new().plays(
        key,
        vec![
            refused("SYN", OUTSIDE, tcp(SERVER, CLIENT, SYN, 0), DropReason::NoRule),
            refused(
                "SYN/ACK out of nowhere",
                OUTSIDE,
                tcp(SERVER, CLIENT, SYN_ACK, 0),
                DropReason::NotFirst,
            ),
            refused(
                "ACK out of nowhere",
                OUTSIDE,
                tcp(SERVER, CLIENT, ACK, 9),
                DropReason::NotFirst,
            ),
            refused(
                "RST out of nowhere",
                OUTSIDE,
                tcp(SERVER, CLIENT, RST, 0),
                DropReason::NotFirst,
            ),
        ],
    );
    let mut node = Node::with(0, 1024, &[Rule::any(Action::Drop)]);
    let row = refused("a rule says no", INSIDE, tcp(CLIENT, SERVER, SYN, 0), DropReason::Rule);
    node.plays(flow(6, CLIENT, SERVER), vec![row]);
}

#[test]
fn flags_that_no_tcp_sends_are_dropped() {
    let key = flow(6, CLIENT, SERVER);
    for flags in [0x00, 0x03, 0x06, 0x05, 0x01, 0x08, 0x29, 0xff] {
        let frame = tcp(CLIENT, SERVER, flags, 0);
        Node::new().plays(key, vec![refused("nonsense", INSIDE, frame, DropReason::BadFlags)]);
    }
}

#[test]
fn a_land_attack_is_dropped() {
    let key = flow(6, CLIENT, CLIENT);
    let land = refused("LAND", INSIDE, tcp(CLIENT, CLIENT, SYN, 0), DropReason::BadAddress);
    Node::new().plays(key, vec![land]);
}

#[test]
fn a_full_table_refuses_new_flows_and_keeps_the_old() {
    let slots = 32;
    let mut node = Node::with(0, slots, &[Rule::any(Action::Accept)]);
    let client = |port| ("10.10.2.7", port);
    let opened: Vec<u16> = (1..=100)
        .filter(|&port| {
            let (verdict, _) = node.takes(INSIDE, &tcp(client(port), SERVER, SYN, 0));
            let full = Verdict::Drop(DropReason::TableFull);
            assert!(verdict == Verdict::Forward || verdict == full, "{verdict:?}");
            verdict == Verdict::Forward
        })
        .collect();
    assert_eq!(opened, (1..=32).collect::<Vec<_>>());
    assert_eq!((node.datapath.table().len(), node.datapath.table().capacity()), (32, 32));
    for &port in &opened {
        let (verdict, _) = node.takes(OUTSIDE, &tcp(SERVER, client(port), SYN_ACK, 0));
        assert_eq!(verdict, Verdict::Forward);
        let view = node.datapath.table().get(&flow(6, client(port), SERVER)).expect("an old flow");
        assert_eq!(seen_of(&view), Seen(SynReceived, true, 2, [1, 1], [54, 54]));
    }
    // Silence makes room.
    node.now = node.now.plus_millis(61_000);
    let gone = node.datapath.table().expire(node.now, &Timeouts::default(), &mut |_| {});
    assert_eq!((gone, node.datapath.table().len()), (32, 0));
    let (verdict, _) = node.takes(INSIDE, &tcp(client(99), SERVER, SYN, 0));
    assert_eq!(verdict, Verdict::Forward);
}
