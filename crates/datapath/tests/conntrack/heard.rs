//! What whoever stands between two ends knows of them after the packets that went through: counted from the
//! packets alone, without anything of either gateway but the phase.

use testudo_packet::tracking::Phase;

use super::classes::Past;
use super::frames::{ACK, Load, RST, SYN, Segment};

/// Whether a number is behind another one (RFC 9293 §3.4).
pub const fn is_after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

const fn later(a: u32, b: u32) -> u32 {
    if is_after(a, b) { a } else { b }
}

/// Of one end.
#[derive(Clone, Copy, Default, Debug)]
pub struct End {
    /// Behind the last number that was sent as part of the stream.
    pub sent: u32,
    /// The same, with what resets, late SYNs and their answers carry.
    pub strayed: u32,
    /// How far the other end has let it send.
    pub limit: u32,
    /// The largest window it has announced.
    pub window: u32,
    pub acknowledged: Option<u32>,
    shift: Option<u8>,
    is_known: bool,
}

impl End {
    /// As far as it was sent, or as far as there was room if that is less.
    pub fn sent_with_leave(&self) -> u32 {
        if is_after(self.sent, self.limit) { self.limit } else { self.sent }
    }
}

#[derive(Default, Debug)]
pub struct Heard {
    pub ends: [End; 2],
    /// How often the flow has begun.
    pub begun: usize,
    /// Whether both ends have sent a SYN alone.
    pub crossed: bool,
    /// Whether a SYN/ACK has come while nothing was opened.
    pub late_syn_ack: bool,
    /// Whether a reset has gone through that did not end the flow.
    pub reset_in_vain: bool,
    /// Whether the responder's refusal of another SYN was dropped.
    pub wrong_refusal: bool,
    /// Whether the responder has answered the last SYN with its own, and behind which number.
    pub answer: Option<u32>,
    /// Whether it has answered one SYN with several of its own.
    pub answers_differ: bool,
    /// The initiator's last SYN, if it came in the midst.
    pub attempt: Option<Segment>,
}

impl Heard {
    /// After these packets, in the phase that the flow is in now.
    pub fn of(past: &[Past], now: Option<(Phase, usize)>) -> Self {
        let mut heard = Self::default();
        for (at, Past { packet, forwarded, flow }) in past.iter().enumerate() {
            let Load::Tcp(segment) = &packet.load else { continue };
            let after = past.get(at + 1).map_or(now, |next| next.flow);
            if *forwarded {
                heard.hear(packet.from, segment, *flow, after);
            } else if let Some((Phase::SynSent, initiator)) = *flow {
                heard.wrong_refusal |= segment.has(RST) && packet.from != initiator;
            }
        }
        heard
    }

    fn hear(
        &mut self,
        from: usize,
        segment: &Segment,
        before: Option<(Phase, usize)>,
        after: Option<(Phase, usize)>,
    ) {
        let phase = before.map(|(phase, _)| phase);
        let opening = matches!(phase, Some(Phase::SynSent | Phase::SynReceived));
        let opens = matches!(after, Some((Phase::SynSent | Phase::SynReceived, _)));
        let is_original = after.is_some_and(|(_, initiator)| initiator == from);
        let (syn, ack) = (segment.has(SYN), segment.has(ACK));
        self.crossed |= syn && !ack && !is_original;
        self.late_syn_ack |= syn && ack && !opening;
        if syn && !ack && is_original && opens && phase != Some(Phase::SynReceived) {
            self.begin(None);
        } else if syn && ack && opens && !opening {
            self.begin(self.attempt.map(|attempt| (1 - from, attempt)));
        } else if segment.has(RST) || syn && !opening {
            if segment.has(RST) {
                self.reset_in_vain |= before.is_some() && before == after;
            } else if !ack && is_original {
                self.attempt = Some(*segment);
            }
            let end = &mut self.ends[from];
            end.strayed = later(end.strayed, segment.end());
            if !(syn && ack) || segment.has(RST) {
                return;
            }
        }
        if !syn && !is_original && phase == Some(Phase::SynSent) {
            // Of an older connection of the responder's.
            return;
        }
        if syn && ack && !is_original {
            let answer = *self.answer.get_or_insert(segment.end());
            self.answers_differ |= opens && answer != segment.end();
        }
        self.learn(from, segment);
    }

    /// All that was known is forgotten, but for the SYN that the flow begins anew with.
    fn begin(&mut self, with: Option<(usize, Segment)>) {
        self.begun += 1;
        (self.answer, self.answers_differ) = (None, false);
        self.ends = [End::default(); 2];
        if let Some((from, attempt)) = with {
            self.learn(from, &attempt);
        }
    }

    fn learn(&mut self, from: usize, segment: &Segment) {
        let syn = segment.has(SYN);
        if syn && !self.ends[from].is_known {
            self.ends[from].shift = segment.shift;
        }
        let both = self.ends.map(|end| end.shift).iter().all(Option::is_some);
        let shift = if both && !syn { self.ends[from].shift.unwrap_or(0) } else { 0 };
        let window = u32::from(segment.window) << shift;
        let (end, ack) = (segment.end(), segment.acknowledged);
        let own = &mut self.ends[from];
        own.window = own.window.max(window.max(1));
        own.sent = if own.is_known { later(own.sent, end) } else { end };
        own.strayed = if own.is_known { later(own.strayed, end) } else { end };
        let is_first = !own.is_known || own.acknowledged.is_none();
        if !own.is_known {
            own.limit = if own.limit == 0 { end } else { own.limit };
        }
        own.is_known = true;
        if segment.has(ACK) {
            let before = own.acknowledged.unwrap_or(ack);
            own.acknowledged = Some(later(before, ack));
            let edge = ack.wrapping_add(window.max(1));
            let other = &mut self.ends[1 - from];
            other.limit = if is_first { edge } else { later(other.limit, edge) };
        }
    }
}
