//! Random associations of SCTP through both, chunk by chunk, with tags that are right and others.

use std::collections::BTreeMap;
use std::fmt;

use testudo_packet::flow::Protocol;
use testudo_packet::tracking::Phase;
use testudo_packet::verdict::DropReason;

use super::firewall::Firewall;
use super::frames::{Ends, framed};
use super::ours::Testudo;
use super::sctp_wire::*;
use super::trace::Dice;

/// How many packets a trace has at most.
const MOST: usize = 16;

/// What a packet's tag is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// What the other end has asked for.
    Right,
    /// What the sender has asked for, with the T bit.
    Reflected,
    /// What the sender has asked for, without it.
    Own,
    /// Nobody's.
    Forged,
}

/// A packet of a trace.
#[derive(Clone, Copy)]
pub struct Packet {
    pub from: usize,
    pub chunk: u8,
    pub tag: Tag,
    /// What it asks for, if it is an INIT or INIT ACK.
    pub initiate: u32,
    value: u32,
}

impl fmt::Debug for Packet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.chunk {
            DATA => "DATA",
            INIT => "INIT",
            INIT_ACK => "INIT ACK",
            SACK => "SACK",
            HEARTBEAT => "HEARTBEAT",
            HEARTBEAT_ACK => "HEARTBEAT ACK",
            ABORT => "ABORT",
            SHUTDOWN => "SHUTDOWN",
            SHUTDOWN_ACK => "SHUTDOWN ACK",
            COOKIE_ECHO => "COOKIE ECHO",
            COOKIE_ACK => "COOKIE ACK",
            _ => "SHUTDOWN COMPLETE",
        };
        let way = ["0 -> 1", "1 -> 0"][self.from];
        write!(
            out,
            "{way} {name:<18} {:?} {:#x} asks for {:#x}",
            self.tag, self.value, self.initiate
        )
    }
}

impl Packet {
    fn frame(&self, ends: &Ends, number: u16) -> Vec<u8> {
        let flags = u8::from(self.tag == Tag::Reflected);
        let rest: &[u8] = match self.chunk {
            INIT | INIT_ACK => &[0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1],
            DATA => &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            SHUTDOWN => &[0, 0, 0, 1],
            _ => &[],
        };
        let asks = matches!(self.chunk, INIT | INIT_ACK);
        let initiate = if asks { self.initiate.to_be_bytes().to_vec() } else { Vec::new() };
        let length = (4 + initiate.len() + rest.len()) as u16;
        let chunk = [&[self.chunk, flags], &length.to_be_bytes()[..], &initiate, rest].concat();
        let ports = [ends.ports[self.from], ends.ports[1 - self.from]];
        let bytes = packet(ports, self.value, &chunk);
        framed(ends, self.from, Protocol::SCTP.0, &bytes, number)
    }
}

/// Two ends. Each knows what it asks for, and what the other one has asked for.
struct Talk {
    dice: Dice,
    tags: [u32; 2],
    packets: Vec<Packet>,
}

impl Talk {
    fn says(&mut self, from: usize, chunk: u8, tag: Tag) {
        let value = match (chunk, tag) {
            (INIT, _) => 0,
            (_, Tag::Right) => self.tags[1 - from],
            (_, Tag::Reflected | Tag::Own) => self.tags[from],
            (_, Tag::Forged) => self.tags[1 - from] ^ 0x5000,
        };
        let initiate = self.tags[from];
        self.packets.push(Packet { from, chunk, tag, initiate, value });
    }

    fn opens(&mut self) {
        for (from, chunk) in [(0, INIT), (1, INIT_ACK), (0, COOKIE_ECHO), (1, COOKIE_ACK)] {
            self.says(from, chunk, Tag::Right);
            if self.dice.one_in(8) {
                self.says(from, chunk, Tag::Right);
            }
            if self.dice.one_in(12) {
                self.odd();
            }
        }
    }

    fn closes(&mut self) {
        let from = self.dice.below(2) as usize;
        self.says(from, SHUTDOWN, Tag::Right);
        self.says(1 - from, SHUTDOWN_ACK, Tag::Right);
        self.says(from, SHUTDOWN_COMPLETE, Tag::Right);
    }

    /// An end has lost its association and begins anew.
    fn restarts(&mut self) {
        self.tags[0] += 0x11;
        self.says(0, INIT, Tag::Right);
        self.tags[1] += 0x11;
        for (from, chunk) in [(1, INIT_ACK), (0, COOKIE_ECHO), (1, COOKIE_ACK)] {
            self.says(from, chunk, Tag::Right);
        }
    }

    fn usual(&mut self) {
        let from = self.dice.below(2) as usize;
        let chunk = self.dice.pick(&[DATA, DATA, SACK, HEARTBEAT, HEARTBEAT_ACK]);
        self.says(from, chunk, Tag::Right);
    }

    fn odd(&mut self) {
        let from = self.dice.below(2) as usize;
        let chunk = self.dice.pick(&[
            DATA,
            SACK,
            ABORT,
            SHUTDOWN,
            SHUTDOWN_ACK,
            SHUTDOWN_COMPLETE,
            COOKIE_ECHO,
            INIT_ACK,
            HEARTBEAT,
        ]);
        let reflects = matches!(chunk, ABORT | SHUTDOWN_COMPLETE);
        let tag = match self.dice.below(3) {
            0 if reflects => Tag::Reflected,
            1 => Tag::Own,
            _ => Tag::Forged,
        };
        self.says(from, chunk, tag);
    }
}

fn trace(dice: &mut Dice) -> Vec<Packet> {
    let tags = [0xc11e_0001, 0x5e7e_0002];
    let dice = Dice(u64::from(dice.below(u32::MAX)) << 20);
    let mut talk = Talk { dice, tags, packets: Vec::new() };
    let odds = talk.dice.pick(&[0, 3, 6]);
    talk.opens();
    while talk.packets.len() < MOST {
        if odds > 0 && talk.dice.one_in(odds) {
            talk.odd();
        } else if talk.dice.one_in(9) {
            talk.closes();
        } else if talk.dice.one_in(9) {
            talk.restarts();
        } else if talk.dice.one_in(16) {
            let from = talk.dice.below(2) as usize;
            let tag = talk.dice.pick(&[Tag::Right, Tag::Reflected]);
            talk.says(from, ABORT, tag);
        } else {
            talk.usual();
        }
    }
    talk.packets
}

/// A disagreement: what is known when it comes.
pub struct Moment<'a> {
    pub past: &'a [(Packet, bool)],
    pub packet: &'a Packet,
    pub phase: Option<Phase>,
    pub ours: Result<(), DropReason>,
}

/// A disagreement that is known and has a reason.
pub struct Class {
    pub name: &'static str,
    /// Whether Linux forwards it.
    pub linux: bool,
    pub is: fn(&Moment<'_>) -> bool,
}

pub const CLASSES: [Class; 3] = [
    Class {
        name: "sctp-heartbeat-with-any-tag",
        linux: true,
        is: |moment| {
            let heartbeat = matches!(moment.packet.chunk, HEARTBEAT | HEARTBEAT_ACK);
            heartbeat && moment.ours == Err(DropReason::BadTag)
        },
    },
    Class {
        name: "sctp-shutdown-ack-with-any-tag",
        linux: true,
        is: |moment| moment.packet.chunk == SHUTDOWN_ACK && moment.ours == Err(DropReason::BadTag),
    },
    Class {
        name: "sctp-end-of-the-one-before",
        linux: false,
        is: |moment| {
            let Packet { from, chunk, tag, .. } = *moment.packet;
            let complete = (from, chunk, tag) == (0, SHUTDOWN_COMPLETE, Tag::Reflected);
            complete && matches!(moment.phase, Some(Phase::SynSent | Phase::SynReceived))
        },
    },
];

/// What was compared.
#[derive(Default, Debug)]
pub struct Tally {
    pub packets: usize,
    pub forwarded: usize,
    pub classes: BTreeMap<&'static str, usize>,
    pub faults: Vec<String>,
}

/// Plays one trace until the two disagree.
pub fn play(
    (linux, ours): (&mut Firewall, &mut Testudo),
    ends: &Ends,
    seed: u64,
    tally: &mut Tally,
) {
    let packets = trace(&mut Dice(seed.wrapping_mul(0xda94_2042_e4dd_58b5)));
    let mut past: Vec<(Packet, bool)> = Vec::new();
    for (number, packet) in (0..).zip(&packets) {
        let frame = packet.frame(ends, number);
        let phase = ours.phase_of(ends, Protocol::SCTP).map(|(phase, _)| phase);
        let forwards = linux.forwards(packet.from, &frame);
        let judged = ours.judges(&frame);
        tally.packets += 1;
        tally.forwarded += usize::from(forwards);
        if judged.is_ok() == forwards {
            past.push((*packet, forwards));
            continue;
        }
        let moment = Moment { past: &past, packet, phase, ours: judged };
        let known = CLASSES.iter().find(|class| class.linux == forwards && (class.is)(&moment));
        match known {
            Some(class) => *tally.classes.entry(class.name).or_default() += 1,
            None => tally.faults.push(told(&moment, forwards, seed)),
        }
        return;
    }
}

fn told(moment: &Moment<'_>, linux: bool, seed: u64) -> String {
    let verdict = |forwarded| if forwarded { "forwarded" } else { "dropped" };
    let line =
        |(packet, forwarded): &(Packet, bool)| format!("  {:<9} {packet:?}\n", verdict(*forwarded));
    let past: String = moment.past.iter().map(line).collect();
    let Moment { packet, phase, ours, .. } = moment;
    format!(
        "{past}  here      {packet:?}\n  {} by Linux; Testudo: {ours:?}, its flow was {phase:?}\n  \
         TESTUDO_SEED={seed} cargo test -p testudo-datapath --test conntrack\n",
        verdict(linux)
    )
}
