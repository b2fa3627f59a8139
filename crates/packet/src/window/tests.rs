//! Conversations, segment by segment, and what is known of them.

use super::side::AGREED;
use super::*;
use crate::entry::FlowState;
use crate::tracking::{Phase, Step, TcpFlags};
use crate::wire::segment::Scale;
use Direction::{Original, Reply};
use DropReason::{BadState, OutOfWindow};

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// The first numbers of both ends, the initiator's near the end of the number space.
const ISS: u32 = 0xffff_fff0;
const IRS: u32 = 5_000;

/// A flow as a node keeps it.
struct Flow {
    phase: Phase,
    confirmed: bool,
    strict: bool,
    sides: [Side; 2],
    last_syn: u32,
}

impl Flow {
    /// One that was taken over.
    fn unknown(phase: Phase) -> Self {
        let sides = [Side::default(); 2];
        Self { phase, confirmed: true, strict: true, sides, last_syn: 0 }
    }

    /// One that begins with this SYN.
    fn begun(segment: Segment) -> Self {
        let sides = [Side::opened(&segment), Side::default()];
        let last_syn = segment.end;
        Self { phase: Phase::SynSent, confirmed: false, strict: true, sides, last_syn }
    }

    /// One that is established, with windows of 10,000 bytes shifted by 3 and 2; nothing was sent yet.
    fn established() -> Self {
        let mut flow = Self::begun(syn(ISS, 10_000, Some(3)));
        flow.passes(Reply, syn_ack(IRS, ISS + 1, 10_000, Some(2)));
        flow.passes(Original, ack(ISS + 1, IRS + 1, 0, 10_000));
        flow.passes(Reply, ack(IRS + 1, ISS + 1, 0, 10_000));
        assert_eq!(flow.phase, Phase::Established);
        flow
    }

    fn takes(&mut self, direction: Direction, segment: Segment) -> Result<(), DropReason> {
        let (own, other) = if direction == Original { (0, 1) } else { (1, 0) };
        let scene = Scene {
            phase: self.phase,
            confirmed: self.confirmed,
            direction,
            strict: self.strict,
            own: self.sides[own],
            other: self.sides[other],
            last_syn: self.last_syn,
        };
        let judged = judge(&scene, &segment, |number| number)?;
        self.sides[own] = judged.own;
        match judged.other {
            Other::Kept => {}
            Other::Forgotten => self.sides[other] = Side::default(),
            Other::Begun => self.sides[other] = Side::begun(judged.last_syn),
        }
        self.last_syn = judged.last_syn;
        self.confirmed |= direction == Reply;
        match judged.course.step(self.phase, direction, segment.flags) {
            Step::Stay => {}
            Step::Go(phase) => self.phase = phase,
            Step::Reopen => (self.phase, self.confirmed) = (Phase::SynSent, false),
        }
        Ok(())
    }

    #[track_caller]
    fn passes(&mut self, direction: Direction, segment: Segment) {
        assert_eq!(self.takes(direction, segment), Ok(()), "{direction:?} {segment:?}");
    }

    /// Refused, and as if it had not come.
    #[track_caller]
    fn refuses(&mut self, direction: Direction, segment: Segment, reason: DropReason) {
        let before = (self.phase, self.sides, self.last_syn);
        assert_eq!(self.takes(direction, segment), Err(reason), "{direction:?} {segment:?}");
        assert_eq!((self.phase, self.sides, self.last_syn), before);
    }
}

fn segment(flags: u8, sequence: u32, acknowledged: u32, data: u32, window: u16) -> Segment {
    let marks = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
    let end = sequence.wrapping_add(data + marks);
    let scale = if flags & SYN != 0 { Scale::NONE } else { Scale::UNKNOWN };
    Segment { sequence, end, acknowledged, window, flags: TcpFlags(flags), scale }
}

fn syn(sequence: u32, window: u16, shift: Option<u8>) -> Segment {
    let scale = shift.map_or(Scale::NONE, Scale::offered);
    Segment { scale, ..segment(SYN, sequence, 0, 0, window) }
}

fn syn_ack(sequence: u32, acknowledged: u32, window: u16, shift: Option<u8>) -> Segment {
    let scale = shift.map_or(Scale::NONE, Scale::offered);
    Segment { scale, ..segment(SYN | ACK, sequence, acknowledged, 0, window) }
}

fn ack(sequence: u32, acknowledged: u32, data: u32, window: u16) -> Segment {
    segment(ACK, sequence, acknowledged, data, window)
}

fn rst(sequence: u32) -> Segment {
    segment(RST, sequence, 0, 0, 0)
}

/// Numbers of the initiator and of the responder, counted from their first byte.
const fn a(bytes: u32) -> u32 {
    ISS.wrapping_add(1).wrapping_add(bytes)
}

const fn b(bytes: u32) -> u32 {
    IRS.wrapping_add(1).wrapping_add(bytes)
}

#[test]
fn words_hold_a_side() {
    let scale = Scale::offered(14);
    let marks = Marks::ACKS.and(Marks::KNOWN);
    let side = Side::new([0x0102_0304, 0xf5f6_f7f8], (0x890a_0b0c, 0xfedc), scale, marks, AGREED);
    assert_eq!((side.end(), side.edge()), (0x0102_0304, 0xf5f6_f7f8));
    assert_eq!((side.acknowledged(), side.window()), (0x890a_0b0c, 0xfedc));
    assert_eq!((side.scale(), side.agreed()), (scale, AGREED));
    assert!(side.is(Marks::ACKS) && side.is(Marks::KNOWN) && !side.is(Marks::BARE));
    let all = marks.and(Marks::BARE).and(Marks::PENDING);
    let full = Side::new([!0; 2], (!0, !0), Scale(31), all, 127);
    assert_eq!(full, Side { numbers: !0, rest: !0 });
    let nothing = Side::new([0; 2], (0, 0), Scale::UNKNOWN, Marks::default(), 0);
    assert_eq!(nothing, Side::default());
}

#[test]
fn a_connection_passes_from_its_syn_to_its_end() {
    let mut flow = Flow::established();
    flow.passes(Original, ack(a(0), b(0), 1000, 10_000));
    flow.passes(Reply, ack(b(0), a(1000), 5000, 9_000));
    flow.passes(Original, segment(FIN | ACK, a(1000), b(5000), 0, 10_000));
    assert_eq!(flow.phase, Phase::FinOriginal);
    flow.passes(Reply, ack(b(5000), a(1001), 500, 9_000));
    flow.passes(Reply, segment(FIN | ACK, b(5500), a(1001), 0, 9_000));
    flow.passes(Original, ack(a(1001), b(5501), 0, 10_000));
    assert_eq!(flow.phase, Phase::TimeWait);
    // The last acknowledgement got lost.
    flow.passes(Reply, segment(FIN | ACK, b(5500), a(1001), 0, 9_000));
    flow.passes(Original, ack(a(1001), b(5501), 0, 10_000));
}

#[test]
fn data_goes_as_far_as_the_window_and_no_further() {
    // The responder's window is 10,000 << 2.
    Flow::established().passes(Original, ack(a(40_000), b(0), 100, 10_000));
    Flow::established().refuses(Original, ack(a(40_001), b(0), 100, 10_000), OutOfWindow);
    Flow::established().refuses(Original, ack(a(0x7fff_0000), b(0), 1, 10_000), OutOfWindow);
    // The initiator's is 10,000 << 3.
    Flow::established().passes(Reply, ack(b(80_000), a(0), 100, 10_000));
    Flow::established().refuses(Reply, ack(b(80_001), a(0), 100, 10_000), OutOfWindow);
}

#[test]
fn windows_are_shifted_only_if_both_offer_it() {
    for (one, other) in [(Some(7), None), (None, Some(7)), (None, None)] {
        let mut flow = Flow::begun(syn(ISS, 1000, one));
        flow.passes(Reply, syn_ack(IRS, a(0), 1000, other));
        flow.passes(Original, ack(a(0), b(0), 0, 1000));
        flow.refuses(Original, ack(a(1001), b(0), 1, 1000), OutOfWindow);
        flow.passes(Original, ack(a(1000), b(0), 1, 1000));
        flow.refuses(Reply, ack(b(1001), a(0), 1, 1000), OutOfWindow);
        flow.passes(Reply, ack(b(1000), a(0), 1, 1000));
    }
}

#[test]
fn the_window_of_a_syn_is_not_shifted() {
    let mut flow = Flow::begun(syn(ISS, 1000, Some(7)));
    flow.passes(Reply, syn_ack(IRS, a(0), 1000, Some(7)));
    flow.passes(Original, ack(a(1000), b(0), 1, 1000));
    flow.refuses(Original, ack(a(1001), b(0), 1, 1000), OutOfWindow);
}

#[test]
fn what_was_sent_may_be_sent_again_within_a_window() {
    let mut flow = Flow::established();
    for at in (0..400_000).step_by(10_000) {
        flow.passes(Original, ack(a(at), b(0), 10_000, 10_000));
        flow.passes(Reply, ack(b(0), a(at + 10_000), 0, 10_000));
    }
    // The end was 400,000, the responder's window is 40,000.
    flow.passes(Original, ack(a(350_000), b(0), 10_000, 10_000));
    flow.refuses(Original, ack(a(350_000), b(0), 9_999, 10_000), OutOfWindow);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_refused() {
    let mut flow = Flow::established();
    flow.passes(Reply, ack(b(0), a(0), 3000, 10_000));
    flow.passes(Original, ack(a(0), b(3000), 0, 10_000));
    flow.refuses(Original, ack(a(0), b(3001), 0, 10_000), OutOfWindow);
}

#[test]
fn an_acknowledgement_may_be_late_by_a_window() {
    let mut flow = Flow::established();
    for at in (0..400_000).step_by(10_000) {
        flow.passes(Reply, ack(b(at), a(0), 10_000, 10_000));
        flow.passes(Original, ack(a(0), b(at + 10_000), 0, 10_000));
    }
    // The initiator's window is 80,000.
    flow.passes(Original, ack(a(0), b(320_000), 0, 10_000));
    flow.refuses(Original, ack(a(0), b(319_999), 0, 10_000), OutOfWindow);
}

#[test]
fn a_closed_window_can_be_probed() {
    let mut flow = Flow::established();
    flow.passes(Original, ack(a(0), b(0), 40_000, 10_000));
    flow.passes(Reply, ack(b(0), a(40_000), 0, 0));
    // One byte more, again and again, and a keep-alive: one byte less.
    for _ in 0..3 {
        flow.passes(Original, ack(a(40_000), b(0), 1, 10_000));
        flow.passes(Reply, ack(b(0), a(40_000), 0, 0));
        flow.passes(Original, ack(a(39_999), b(0), 0, 10_000));
    }
    flow.refuses(Original, ack(a(40_002), b(0), 1, 10_000), OutOfWindow);
    flow.passes(Reply, ack(b(0), a(40_001), 0, 10_000));
    flow.passes(Original, ack(a(40_001), b(0), 40_000, 10_000));
}

#[test]
fn data_behind_a_gap_is_acknowledged_late_without_harm() {
    let mut flow = Flow::established();
    // The first of four is lost behind this node; the others are acknowledged selectively, by blocks not read here.
    for at in [0, 1000, 2000, 3000] {
        flow.passes(Reply, ack(b(at), a(0), 1000, 10_000));
    }
    for _ in 0..3 {
        flow.passes(Original, ack(a(0), b(0), 0, 10_000));
    }
    flow.passes(Reply, ack(b(0), a(0), 1000, 10_000));
    flow.passes(Original, ack(a(0), b(4000), 0, 10_000));
}

#[test]
fn an_answer_acknowledges_the_syn_and_nothing_else() {
    for wrong in [a(0).wrapping_sub(1), a(1), a(1000), 0] {
        let mut flow = Flow::begun(syn(ISS, 1000, None));
        flow.refuses(Reply, syn_ack(IRS, wrong, 1000, None), OutOfWindow);
        flow.refuses(Reply, segment(RST | ACK, 0, wrong, 0, 0), OutOfWindow);
        flow.refuses(Reply, rst(0), OutOfWindow);
        flow.passes(Reply, segment(RST | ACK, 0, a(0), 0, 0));
        assert_eq!(flow.phase, Phase::Reset);
    }
}

#[test]
fn data_with_a_syn_is_acknowledged_or_not() {
    // RFC 7413.
    for taken in [0, 700] {
        let mut flow = Flow::begun(segment(SYN, ISS, 0, 700, 1000));
        flow.passes(Reply, syn_ack(IRS, a(taken), 1000, None));
        // The responder need not wait for the last step of the handshake.
        flow.passes(Reply, ack(b(0), a(taken), 500, 1000));
        flow.passes(Reply, ack(b(500), a(taken), 500, 1000));
        flow.passes(Original, ack(a(taken), b(1000), 0, 1000));
        assert_eq!(flow.phase, Phase::Established);
    }
}

#[test]
fn nothing_goes_before_the_answer() {
    let mut flow = Flow::begun(syn(ISS, 1000, None));
    flow.refuses(Original, ack(a(0), b(0), 0, 1000), BadState);
    flow.refuses(Original, syn_ack(ISS, b(0), 1000, None), BadState);
    flow.refuses(Reply, segment(FIN | ACK, b(0), a(0), 0, 1000), BadState);
    flow.passes(Original, syn(ISS, 1000, None));
    flow.passes(Reply, syn_ack(IRS, a(0), 1000, None));
}

#[test]
fn a_newer_syn_replaces_one_that_was_not_answered() {
    let mut flow = Flow::begun(syn(ISS, 1000, None));
    flow.passes(Original, syn(777, 1000, None));
    flow.refuses(Reply, syn_ack(IRS, a(0), 1000, None), OutOfWindow);
    flow.passes(Reply, syn_ack(IRS, 778, 1000, None));
    flow.passes(Reply, syn_ack(IRS, 778, 1000, None));
    flow.passes(Original, ack(778, b(0), 0, 1000));
}

#[test]
fn both_may_open_at_once() {
    let mut flow = Flow::begun(syn(ISS, 1000, Some(2)));
    flow.passes(Reply, syn(IRS, 1000, Some(2)));
    assert_eq!(flow.phase, Phase::SynReceived);
    flow.passes(Reply, syn(IRS, 1000, Some(2)));
    flow.refuses(Reply, syn(IRS + 9, 1000, Some(2)), BadState);
    flow.passes(Original, syn_ack(ISS, b(0), 1000, Some(2)));
    flow.passes(Reply, syn_ack(IRS, a(0), 1000, Some(2)));
    flow.passes(Original, ack(a(0), b(0), 100, 1000));
    assert_eq!(flow.phase, Phase::Established);
    flow.passes(Reply, ack(b(0), a(100), 100, 1000));
    flow.refuses(Reply, ack(b(4001), a(100), 100, 1000), OutOfWindow);
    flow.refuses(Original, ack(a(4101), b(100), 1, 1000), OutOfWindow);
}

#[test]
fn a_reset_counts_only_with_the_number_that_is_expected() {
    // Nothing is under way: what the other end expects is what was sent.
    let mut flow = Flow::established();
    flow.passes(Reply, ack(b(0), a(0), 1000, 10_000));
    // The initiator has acknowledged 0 of 1000 bytes.
    for (number, phase) in [
        (b(1), Phase::Established),
        (b(80_000), Phase::Established),
        (b(0), Phase::Reset),
        (b(1000), Phase::Reset),
    ] {
        let mut flow = Flow { sides: flow.sides, ..Flow::established() };
        flow.passes(Reply, rst(number));
        assert_eq!(flow.phase, phase, "{number}");
    }
    flow.refuses(Reply, rst(b(0) - 1), OutOfWindow);
    flow.refuses(Reply, rst(b(80_001)), OutOfWindow);
    flow.refuses(Reply, segment(RST | ACK, b(0), a(1), 0, 0), OutOfWindow);
    flow.passes(Reply, segment(RST | ACK, b(0), a(0), 0, 0));
    assert_eq!(flow.phase, Phase::Reset);
}

#[test]
fn a_restarted_initiator_is_challenged_and_resets() {
    let mut flow = Flow::established();
    flow.passes(Original, ack(a(0), b(0), 100, 10_000));
    // It has forgotten everything, and connects from the same port.
    flow.passes(Original, syn(0x7000_0000, 10_000, None));
    assert_eq!(flow.phase, Phase::Established);
    flow.passes(Reply, ack(b(0), a(100), 0, 10_000));
    flow.passes(Original, rst(b(0)));
    // That was not the number: it is the initiator's numbers that count in its reset.
    assert_eq!(flow.phase, Phase::Established);
    flow.passes(Original, rst(a(100)));
    assert_eq!(flow.phase, Phase::Reset);
    flow.passes(Original, syn(0x7000_0000, 10_000, None));
    assert_eq!((flow.phase, flow.confirmed), (Phase::SynSent, false));
    flow.passes(Reply, syn_ack(99, 0x7000_0001, 10_000, None));
    flow.refuses(Reply, ack(b(0), a(100), 0, 10_000), OutOfWindow);
    flow.passes(Original, ack(0x7000_0001, 100, 0, 10_000));
    assert_eq!(flow.phase, Phase::Established);
}

#[test]
fn a_responder_that_knows_half_a_connection_is_reset_while_the_flow_opens() {
    let mut flow = Flow::begun(syn(ISS, 1000, None));
    flow.passes(Reply, ack(b(0), 0x1234, 0, 1000));
    assert_eq!(flow.phase, Phase::SynSent);
    flow.refuses(Original, rst(0x1235), OutOfWindow);
    flow.passes(Original, rst(0x1234));
    assert_eq!(flow.phase, Phase::Reset);
    flow.passes(Original, syn(ISS, 1000, None));
    flow.passes(Reply, syn_ack(IRS, a(0), 1000, None));
}

#[test]
fn a_responder_that_has_forgotten_the_connection_answers_a_new_syn() {
    let mut flow = Flow::established();
    flow.passes(Original, ack(a(0), b(0), 100, 10_000));
    flow.refuses(Reply, syn_ack(0x4000_0000, 0x7000_0001, 1000, None), OutOfWindow);
    flow.passes(Original, syn(0x7000_0000, 1000, Some(1)));
    flow.refuses(Reply, syn_ack(0x4000_0000, 0x7000_0002, 1000, Some(1)), OutOfWindow);
    flow.passes(Reply, syn_ack(0x4000_0000, 0x7000_0001, 1000, Some(1)));
    assert_eq!(flow.phase, Phase::SynReceived);
    flow.passes(Reply, syn_ack(0x4000_0000, 0x7000_0001, 1000, Some(1)));
    flow.passes(Original, ack(0x7000_0001, 0x4000_0001, 100, 1000));
    assert_eq!(flow.phase, Phase::Established);
    flow.refuses(Original, ack(a(100), b(0), 100, 10_000), OutOfWindow);
    flow.passes(Reply, ack(0x4000_0001, 0x7000_0065, 100, 1000));
    flow.refuses(Reply, ack(0x4000_0001, 0x7000_0066, 100, 1000), OutOfWindow);
    // How far the initiator's windows are shifted now, was not kept.
    flow.passes(Reply, ack(0x4000_0001 + 16_384_000, 0x7000_0065, 1, 1000));
    flow.refuses(Reply, ack(0x4000_0001 + 16_384_001, 0x7000_0065, 1, 1000), OutOfWindow);
}

#[test]
fn a_responder_that_has_forgotten_the_connection_refuses_a_new_syn() {
    let mut flow = Flow::established();
    flow.passes(Original, syn(0x7000_0000, 1000, None));
    flow.refuses(Reply, segment(RST | ACK, 0, 0x7000_0000, 0, 0), OutOfWindow);
    flow.passes(Reply, segment(RST | ACK, 0, 0x7000_0001, 0, 0));
    assert_eq!(flow.phase, Phase::Reset);
}

#[test]
fn late_copies_of_the_handshake_change_nothing() {
    let mut flow = Flow::established();
    flow.passes(Original, ack(a(0), b(0), 100, 10_000));
    flow.passes(Reply, ack(b(0), a(100), 100, 10_000));
    let before = flow.sides;
    flow.passes(Original, syn(ISS, 10_000, Some(3)));
    flow.passes(Reply, syn_ack(IRS, a(0), 10_000, Some(2)));
    assert_eq!((flow.phase, flow.sides), (Phase::Established, before));
    flow.refuses(Original, syn_ack(ISS, b(0), 10_000, Some(3)), BadState);
    flow.refuses(Reply, syn(IRS, 10_000, None), BadState);
}

#[test]
fn what_nobody_answered_is_over_with_the_initiators_reset() {
    let mut flow = Flow::begun(syn(ISS, 1000, None));
    flow.passes(Original, rst(a(0)));
    assert_eq!(flow.phase, Phase::Reset);
    flow.refuses(Original, ack(a(0), b(0), 0, 1000), BadState);
    flow.refuses(Original, rst(a(0)), BadState);
    flow.refuses(Reply, syn_ack(IRS, a(0), 1000, None), BadState);
    flow.refuses(Reply, syn(IRS, 1000, None), BadState);
    flow.passes(Original, syn(ISS, 1000, None));
    assert_eq!(flow.phase, Phase::SynSent);
}

#[test]
fn a_flow_that_was_taken_over_is_learned_before_it_is_judged() {
    let mut flow = Flow::unknown(Phase::Established);
    // Both have a window of 64,000 << 7, of which nothing is known, and megabytes under way.
    flow.passes(Original, ack(a(5_000_000), b(0), 1000, 64_000));
    flow.passes(Reply, ack(b(7_000_000), a(1_000_000), 1000, 64_000));
    flow.passes(Original, ack(a(1_000_000), b(0), 1000, 64_000));
    flow.passes(Original, ack(a(5_001_000), b(7_001_000), 1000, 64_000));
    let mut sent = [a(5_002_000), b(7_001_000)];
    for round in 0..2 * u32::from(AGREED) + 1 {
        let was = round == u32::from(AGREED) / 2;
        // What the node before has let through is acknowledged in the middle of that.
        let jump = if was { 400_000 } else { 0 };
        flow.passes(Original, ack(sent[0], sent[1], 1000, 64_000));
        sent[0] = sent[0].wrapping_add(1000 + jump);
        flow.passes(Reply, ack(sent[1], sent[0], 1000, 64_000));
        sent[1] = sent[1].wrapping_add(1000);
    }
    flow.refuses(Original, ack(sent[0], sent[1].wrapping_add(1), 0, 64_000), OutOfWindow);
    flow.refuses(Reply, ack(sent[1], sent[0].wrapping_add(1), 0, 64_000), OutOfWindow);
    flow.refuses(Original, ack(sent[0].wrapping_add(0x7000_0000), sent[1], 1, 1), OutOfWindow);
    flow.passes(Original, ack(sent[0], sent[1], 1000, 64_000));
}

#[test]
fn junk_that_is_learned_first_does_not_lock_the_ends_out() {
    let mut flow = Flow::unknown(Phase::Established);
    flow.passes(Original, ack(a(0x4000_0000), b(0x5000_0000), 1000, 1));
    flow.passes(Reply, ack(b(0x6000_0000), a(0x7000_0000), 1000, 1));
    for round in 0..3 * u32::from(AGREED) {
        flow.passes(Original, ack(a(round * 100), b(round * 100), 100, 1000));
        flow.passes(Reply, ack(b(round * 100), a(round * 100 + 100), 100, 1000));
    }
    flow.refuses(Original, ack(a(0x4000_0000), b(0), 1, 1), OutOfWindow);
}

#[test]
fn a_reset_of_a_flow_of_which_nothing_is_known_counts() {
    for direction in [Original, Reply] {
        let mut flow = Flow::unknown(Phase::Established);
        flow.passes(direction, rst(12_345));
        assert_eq!(flow.phase, Phase::Reset);
        // Once the other end has said what it expects, that alone does.
        let mut flow = Flow::unknown(Phase::Established);
        let other = if direction == Original { Reply } else { Original };
        flow.passes(other, ack(1000, 2000, 10, 1000));
        flow.passes(direction, rst(12_345));
        assert_eq!(flow.phase, Phase::Established);
        flow.passes(direction, rst(2000));
        assert_eq!(flow.phase, Phase::Reset);
    }
}

#[test]
fn a_handshake_that_was_taken_over_completes() {
    let mut flow = Flow { confirmed: false, ..Flow::unknown(Phase::SynSent) };
    flow.passes(Original, ack(a(0), b(0), 0, 1000));
    flow.passes(Reply, ack(b(0), a(0), 10, 1000));
    assert_eq!(flow.phase, Phase::Established);
    let mut flow = Flow { confirmed: false, ..Flow::unknown(Phase::SynSent) };
    flow.passes(Reply, syn_ack(IRS, a(0), 1000, Some(7)));
    flow.passes(Original, ack(a(0), b(0), 10, 1000));
    assert_eq!(flow.phase, Phase::Established);
    // How far the initiator's windows are shifted, nobody knows.
    flow.passes(Reply, ack(b(1_000_000), a(10), 10, 1000));
}

#[test]
fn a_node_that_is_not_strict_refuses_nothing() {
    let mut flow = Flow { strict: false, ..Flow::established() };
    flow.passes(Original, ack(a(0x4000_0000), b(0x5000_0000), 1000, 1));
    flow.passes(Reply, syn(IRS, 1000, None));
    flow.passes(Reply, rst(b(0x3000_0000)));
    assert_eq!(flow.phase, Phase::Established);
    let mut flow = Flow { strict: false, ..Flow::begun(syn(ISS, 1000, None)) };
    flow.passes(Original, ack(a(0), b(0), 0, 1000));
    flow.passes(Reply, syn_ack(IRS, 77, 1000, None));
}

#[test]
fn what_is_usual_leaves_a_flow_in_its_midst_as_it_is() {
    let mut usual = 0;
    for phase in crate::tracking::PHASES {
        for (confirmed, flags) in
            [false, true].into_iter().flat_map(|c| (0..64).map(move |f| (c, f)))
        {
            let flags = TcpFlags(flags);
            let state = FlowState { phase, confirmed, rule: 0xffff, sequence: u32::MAX };
            for course in [Course::ByFlags, Course::Stay, Course::Answered] {
                if FlowState::is_midst(state.to_word()) && course.is_usual(flags) {
                    usual += 1;
                    assert!(confirmed);
                    for direction in [Original, Reply] {
                        assert_eq!(
                            course.step(phase, direction, flags),
                            Step::Stay,
                            "{phase:?} {flags:?}"
                        );
                    }
                }
            }
        }
    }
    // Two phases, two courses, eight combinations of the other flags.
    assert_eq!(usual, 2 * 2 * 8);
}

#[test]
fn a_responder_that_has_answered_does_not_ask() {
    let mut flow = Flow::begun(syn(ISS, 1000, None));
    flow.passes(Reply, syn_ack(IRS, a(0), 1000, None));
    flow.refuses(Reply, syn(IRS, 1000, None), BadState);
    // One that has asked as well asks again until it has answered.
    let mut flow = Flow::begun(syn(ISS, 1000, None));
    flow.passes(Reply, syn(IRS, 1000, None));
    flow.passes(Reply, syn(IRS, 1000, None));
    assert_eq!(flow.phase, Phase::SynReceived);
}
