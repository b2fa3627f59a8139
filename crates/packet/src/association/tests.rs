//! What of an association passes, and what it does.

use super::*;
use crate::tracking::{Phase, Step};
use crate::wire::sctp::Kind;
use Direction::{Original, Reply};

/// The tag of what the initiator gets, and of what the responder gets.
const A: u32 = 0xaaaa_0001;
const B: u32 = 0xbbbb_0002;
const FORGED: u32 = 0x6666_6666;

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const FIN_ACK: u8 = 0x11;
const RST: u8 = 0x04;

fn packet(kind: Kind, flags: u8, tag: u32) -> Packet {
    Packet { tag, initiate: 0, kind, reflected: false, flags: TcpFlags(flags) }
}

fn init(initiate: u32) -> Packet {
    Packet { initiate, ..packet(Kind::Init, SYN, 0) }
}

fn init_ack(tag: u32, initiate: u32) -> Packet {
    Packet { initiate, ..packet(Kind::InitAck, SYN_ACK, tag) }
}

fn cookie(tag: u32) -> Packet {
    packet(Kind::CookieEcho, ACK, tag)
}

fn data(tag: u32) -> Packet {
    packet(Kind::Other, ACK, tag)
}

fn abort(tag: u32, reflected: bool) -> Packet {
    Packet { reflected, ..packet(Kind::Abort, RST, tag) }
}

/// A flow as one node knows it.
struct Flow {
    phase: Phase,
    original: Side,
    reply: Side,
}

impl Flow {
    fn begun() -> Self {
        Self { phase: Phase::SynSent, original: Side::default(), reply: Side::sure(A) }
    }

    fn open() -> Self {
        let mut flow = Self::begun();
        flow.plays(&[
            (Reply, init_ack(A, B), Ok(Phase::SynReceived)),
            (Original, cookie(B), Ok(Phase::Established)),
            (Reply, data(A), Ok(Phase::Established)),
        ]);
        flow
    }

    /// One that was taken over: where it is, is known, and its tags are not.
    fn taken_over(phase: Phase) -> Self {
        Self { phase, original: Side::default(), reply: Side::default() }
    }

    fn sees(&mut self, direction: Direction, packet: &Packet) -> Result<Phase, DropReason> {
        let (own, other) = match direction {
            Original => (self.original, self.reply),
            Reply => (self.reply, self.original),
        };
        let scene = Scene { phase: self.phase, direction, strict: true, own, other };
        let judged = judge(&scene, packet)?;
        (self.original, self.reply) = match direction {
            Original => (judged.own, judged.other),
            Reply => (judged.other, judged.own),
        };
        self.phase = match judged.course.step(self.phase, direction, packet.flags) {
            Step::Stay => self.phase,
            Step::Go(phase) => phase,
            Step::Reopen => Phase::SynSent,
        };
        Ok(self.phase)
    }

    fn plays(&mut self, packets: &[(Direction, Packet, Result<Phase, DropReason>)]) {
        for (number, (direction, packet, expected)) in packets.iter().enumerate() {
            assert_eq!(self.sees(*direction, packet), *expected, "packet {number}: {packet:?}");
        }
    }
}

#[test]
fn an_association_opens_talks_and_shuts_down() {
    Flow::open().plays(&[
        (Original, data(B), Ok(Phase::Established)),
        (Original, packet(Kind::Other, FIN_ACK, B), Ok(Phase::FinOriginal)),
        (Reply, packet(Kind::ShutdownAck, FIN_ACK, A), Ok(Phase::LastAck)),
        (Original, packet(Kind::ShutdownComplete, ACK, B), Ok(Phase::TimeWait)),
        (Original, init(A + 7), Ok(Phase::SynSent)),
        (Reply, init_ack(A, B), Err(DropReason::BadTag)),
        (Reply, init_ack(A + 7, B + 7), Ok(Phase::SynReceived)),
    ]);
}

#[test]
fn a_stranger_neither_speaks_nor_ends_an_association() {
    let mut flow = Flow::open();
    for direction in [Original, Reply] {
        for reflected in [false, true] {
            flow.plays(&[
                (direction, data(FORGED), Err(DropReason::BadTag)),
                (direction, abort(FORGED, reflected), Err(DropReason::BadTag)),
            ]);
        }
    }
    // The right number, but the other direction's: that is what the T bit is for.
    flow.plays(&[(Original, abort(A, false), Err(DropReason::BadTag))]);
    flow.plays(&[(Original, abort(A, true), Ok(Phase::Reset))]);
    Flow::open().plays(&[(Reply, abort(A, false), Ok(Phase::Reset))]);
    // Somebody who is refused says so with the initiator's tag.
    Flow::begun().plays(&[(Reply, abort(FORGED, false), Err(DropReason::BadTag))]);
    Flow::begun().plays(&[(Reply, abort(A, false), Ok(Phase::Reset))]);
}

#[test]
fn an_association_is_replaced_by_whoever_knows_both_new_tags() {
    let mut flow = Flow::open();
    flow.plays(&[
        (Original, init(A + 1), Ok(Phase::Established)),
        (Reply, init_ack(A + 1, B + 1), Ok(Phase::Established)),
        // Until then the old one is in force, and what the new one says does nothing.
        (Reply, data(A), Ok(Phase::Established)),
        (Reply, abort(A + 1, false), Ok(Phase::Established)),
        (Original, packet(Kind::Other, FIN_ACK, B + 1), Ok(Phase::Established)),
        (Original, cookie(B + 1), Ok(Phase::Established)),
        (Original, data(B), Err(DropReason::BadTag)),
        (Reply, data(A), Err(DropReason::BadTag)),
        (Original, data(B + 1), Ok(Phase::Established)),
        (Reply, abort(A + 1, false), Ok(Phase::Reset)),
    ]);
    // A stranger's INIT leaves the old one in force: its cookie would need the responder's tag.
    Flow::open().plays(&[
        (Original, init(FORGED), Ok(Phase::Established)),
        (Reply, init_ack(FORGED, B + 2), Ok(Phase::Established)),
        (Original, cookie(FORGED), Err(DropReason::BadTag)),
        (Original, data(B), Ok(Phase::Established)),
        (Reply, data(A), Ok(Phase::Established)),
        (Reply, abort(FORGED, false), Ok(Phase::Established)),
    ]);
}

#[test]
fn whoever_takes_a_flow_over_learns_its_tags_and_then_is_strict() {
    let mut flow = Flow::taken_over(Phase::Established);
    flow.plays(&[
        (Original, data(FORGED), Ok(Phase::Established)),
        (Original, abort(FORGED, false), Ok(Phase::Established)),
        (Reply, abort(FORGED, true), Ok(Phase::Established)),
    ]);
    for _ in 0..SURE {
        flow.plays(&[(Original, data(B), Ok(Phase::Established))]);
    }
    flow.plays(&[
        (Original, data(FORGED), Err(DropReason::BadTag)),
        (Reply, data(A), Ok(Phase::Established)),
        (Original, abort(B, false), Ok(Phase::Reset)),
    ]);
    // In the midst of the handshake, too.
    let mut flow = Flow::taken_over(Phase::SynSent);
    flow.plays(&[
        (Reply, init_ack(A, B), Ok(Phase::SynReceived)),
        (Original, data(FORGED), Err(DropReason::BadTag)),
        (Original, cookie(B), Ok(Phase::Established)),
    ]);
}

#[test]
fn an_initiator_says_nothing_before_it_is_answered() {
    Flow::begun().plays(&[
        (Original, data(FORGED), Err(DropReason::BadTag)),
        (Original, cookie(FORGED), Err(DropReason::BadTag)),
        (Original, abort(FORGED, false), Err(DropReason::BadTag)),
        (Original, abort(A, true), Err(DropReason::BadTag)),
        (Reply, abort(FORGED, true), Err(DropReason::BadTag)),
        (Original, init_ack(FORGED, 9), Err(DropReason::BadTag)),
    ]);
}

#[test]
fn the_end_of_an_association_of_before_is_told_while_the_next_one_opens() {
    let old = 0x0101_0101;
    let complete = Packet { reflected: true, ..packet(Kind::ShutdownComplete, ACK, old) };
    Flow::begun().plays(&[
        (Reply, packet(Kind::ShutdownAck, FIN_ACK, old), Ok(Phase::SynSent)),
        (Original, complete, Ok(Phase::SynSent)),
        (Reply, init_ack(A, B), Ok(Phase::SynReceived)),
    ]);
    Flow::open().plays(&[
        (Reply, packet(Kind::ShutdownAck, FIN_ACK, old), Err(DropReason::BadTag)),
        (Original, complete, Err(DropReason::BadTag)),
    ]);
}

#[test]
fn what_is_known_survives_its_words() {
    for side in [Side::default(), Side::sure(A), Side { tag: B, agreed: 3, next: A }] {
        let (first, second) = side.to_words();
        assert_eq!(Side::from_words(first, second), side);
    }
}
