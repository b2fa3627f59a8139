//! The disagreements that are known, by name, each with what it looks like. Why Testudo is right stands in
//! docs/tracking.md.

use testudo_packet::tracking::Phase;
use testudo_packet::verdict::DropReason::{self, BadState, OutOfWindow};

use super::frames::{ACK, Load, Packet, RST, SYN, Segment};
use super::heard::{Heard, is_after};

/// A packet that both have let through, or both have dropped.
pub struct Past {
    pub packet: Packet,
    pub forwarded: bool,
    /// Testudo's flow before it, and the end that began it.
    pub flow: Option<(Phase, usize)>,
}

/// A packet on which both disagree, and what was before.
pub struct Moment<'a> {
    pub past: &'a [Past],
    pub packet: &'a Packet,
    /// Testudo's flow before the packet, and the end that began it.
    pub flow: Option<(Phase, usize)>,
    pub ours: Result<(), DropReason>,
    /// Whether Linux forwards it.
    pub linux: bool,
}

/// A kind of disagreement.
pub struct Class {
    pub name: &'static str,
    /// Which verdict of Linux it is about, if it is not both.
    linux: Option<bool>,
    holds: fn(&Scene) -> bool,
}

/// A segment of a flow on which both disagree.
struct Scene {
    from: usize,
    ours: Result<(), DropReason>,
    segment: Segment,
    phase: Phase,
    is_original: bool,
    heard: Heard,
}

pub const CLASSES: &[Class] = &[
    // Has no segment.
    Class { name: "echo-reply", linux: Some(false), holds: |_| false },
    Class { name: "behind", linux: Some(true), holds: Scene::is_behind },
    Class { name: "ahead", linux: Some(true), holds: Scene::is_ahead },
    Class { name: "acknowledges-a-stray", linux: Some(true), holds: Scene::acknowledges_no_data },
    Class { name: "syn-ack-out-of-window", linux: Some(true), holds: Scene::is_late_syn_ack },
    Class { name: "answers-another-syn", linux: Some(true), holds: Scene::answers_another },
    Class { name: "reset-out-of-window", linux: Some(true), holds: Scene::is_wrong_reset },
    Class { name: "responder-begins", linux: Some(true), holds: Scene::is_responders_syn },
    Class { name: "after-a-reset", linux: Some(false), holds: |at| at.phase == Phase::Reset },
    Class { name: "refuses-a-late-syn", linux: Some(false), holds: Scene::refuses_late_syn },
    Class { name: "crossed-syns", linux: None, holds: |at| at.heard.crossed },
    Class { name: "syn-ack-in-the-midst", linux: Some(false), holds: |at| at.heard.late_syn_ack },
    Class { name: "after-a-wrong-refusal", linux: None, holds: |at| at.heard.wrong_refusal },
    Class { name: "two-answers", linux: None, holds: |at| at.heard.answers_differ },
    Class { name: "after-a-reset-in-vain", linux: None, holds: |at| at.heard.reset_in_vain },
    Class { name: "begun-anew", linux: None, holds: |at| at.heard.begun > 1 },
    Class { name: "after-a-syn-in-the-midst", linux: None, holds: |at| at.heard.attempt.is_some() },
];

/// The class of a disagreement, if it is a known one.
pub fn class(moment: &Moment<'_>) -> Option<&'static str> {
    let segment = match &moment.packet.load {
        Load::Tcp(segment) => *segment,
        Load::Echo { reply: true } if !moment.linux => return Some("echo-reply"),
        _ => return None,
    };
    let (phase, initiator) = moment.flow?;
    let is_original = moment.packet.from == initiator;
    let heard = Heard::of(moment.past, moment.flow);
    let (from, ours) = (moment.packet.from, moment.ours);
    let scene = Scene { from, ours, segment, phase, is_original, heard };
    let mut classes = CLASSES.iter().filter(|class| class.linux != Some(!moment.linux));
    classes.find(|class| (class.holds)(&scene)).map(|class| class.name)
}

impl Scene {
    fn is_dropped_for(&self, reason: DropReason) -> bool {
        self.ours == Err(reason)
    }

    fn is_plain(&self) -> bool {
        !self.segment.has(RST) && !self.segment.has(SYN)
    }

    /// It ends, or acknowledges, more than a window before what is due.
    fn is_behind(&self) -> bool {
        let (own, other) = (&self.heard.ends[self.from], &self.heard.ends[1 - self.from]);
        let floor = own.sent_with_leave().wrapping_sub(other.window);
        let slack = own.window.max(66_000);
        let oldest = other.sent_with_leave().wrapping_sub(slack);
        let is_late = self.segment.has(ACK) && is_after(oldest, self.segment.acknowledged);
        let is_behind = is_after(floor, self.segment.end()) || is_late;
        self.is_plain() && self.is_dropped_for(OutOfWindow) && is_behind
    }

    /// It begins behind all that the other end has made room for.
    fn is_ahead(&self) -> bool {
        let limit = self.heard.ends[self.from].limit;
        self.is_plain()
            && self.is_dropped_for(OutOfWindow)
            && is_after(self.segment.sequence, limit)
    }

    /// What it acknowledges has come in no segment that is part of the stream.
    fn acknowledges_no_data(&self) -> bool {
        let other = &self.heard.ends[1 - self.from];
        self.is_plain()
            && self.is_dropped_for(OutOfWindow)
            && is_after(self.segment.acknowledged, other.sent)
            && !is_after(self.segment.acknowledged, other.strayed)
    }

    fn is_late_syn_ack(&self) -> bool {
        self.segment.has(SYN | ACK) && self.phase != Phase::SynSent
    }

    /// A refusal or an answer of a SYN that was not the last one.
    fn answers_another(&self) -> bool {
        let answers = self.segment.has(RST) || self.segment.has(SYN | ACK);
        let asked = self.heard.ends[1 - self.from].sent;
        self.phase == Phase::SynSent
            && !self.is_original
            && answers
            && self.is_dropped_for(OutOfWindow)
            && !(self.segment.has(ACK) && self.segment.acknowledged == asked)
    }

    /// A reset with a number that its receiver does not expect and has no room for, or with an acknowledgement of
    /// what was not sent.
    fn is_wrong_reset(&self) -> bool {
        let (own, other) = (&self.heard.ends[self.from], &self.heard.ends[1 - self.from]);
        let number = self.segment.sequence;
        let is_exact = number == own.sent || Some(number) == other.acknowledged;
        let expected = other.acknowledged.unwrap_or(own.sent);
        let fits = self.heard.answer.is_some()
            && !is_after(expected, number)
            && !is_after(number, own.limit);
        let ack = self.segment.acknowledged;
        let oldest = other.sent_with_leave().wrapping_sub(own.window.max(66_000));
        let acknowledges = ack == 0 || !is_after(ack, other.sent) && !is_after(oldest, ack);
        self.segment.has(RST)
            && self.is_dropped_for(OutOfWindow)
            && !(acknowledges && (is_exact || fits))
    }

    fn is_responders_syn(&self) -> bool {
        self.segment.has(SYN)
            && !self.segment.has(ACK)
            && !self.is_original
            && self.phase > Phase::Established
            && self.is_dropped_for(BadState)
    }

    /// The responder refuses the SYN that the initiator has sent in the midst of the connection.
    fn refuses_late_syn(&self) -> bool {
        let attempt = self.heard.attempt.map(|attempt| attempt.end());
        !self.is_original
            && self.segment.has(RST | ACK)
            && Some(self.segment.acknowledged) == attempt
    }
}
