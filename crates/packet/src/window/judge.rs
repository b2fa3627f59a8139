//! The rules: what is known of a flow and a segment in, what becomes of both out.

use super::side::{AGREED, Marks, Side};
use crate::env::Env;
use crate::flow::Direction;
use crate::tracking::{self, Phase, Step, TcpFlags};
use crate::verdict::DropReason;
use crate::wire::segment::Segment;

/// How far behind what was sent an acknowledgement may be in any case: the largest window that is not shifted, and
/// some room, as other trackers have it.
const SLACK: u32 = 66_000;

/// What is known when a segment comes.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Where the flow is in its life.
    pub phase: Phase,
    /// Whether the responder has answered.
    pub confirmed: bool,
    /// Which way the segment travels.
    pub direction: Direction,
    /// Whether anything is refused; if not, everything is learned from all the same.
    pub strict: bool,
    /// The segment's sender.
    pub own: Side,
    /// The other end.
    pub other: Side,
    /// Behind the number of the initiator's last SYN: the one that the flow began with, or one that came later.
    pub last_syn: u32,
}

/// What a segment's flags are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// The flow takes the step that they say ([`crate::tracking::step`]).
    ByFlags,
    /// Nothing: the segment goes on, and its receiver will not believe them, or answers with a challenge (RFC 5961).
    Stay,
    /// The responder has answered a SYN that came while the flow was thought to live: it begins anew.
    Answered,
}

impl Course {
    /// Whether a segment of this course and with these flags leaves a flow in its midst as it is
    /// ([`crate::entry::FlowState::is_midst`]).
    #[inline(always)]
    pub const fn is_usual(self, flags: TcpFlags) -> bool {
        let opens_or_closes = TcpFlags::SYN.0 | TcpFlags::FIN.0 | TcpFlags::RST.0;
        !matches!(self, Self::Answered) && flags.0 & opens_or_closes == 0
    }

    /// What a packet of this course does to a flow in this phase.
    #[inline(always)]
    pub fn step(self, phase: Phase, direction: Direction, flags: TcpFlags) -> Step {
        match self {
            Self::ByFlags => tracking::step(phase, direction, flags),
            Self::Stay => Step::Stay,
            Self::Answered => Step::Go(Phase::SynReceived),
        }
    }
}

/// What becomes of a segment that may go on, and of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What its flags are worth.
    pub course: Course,
    /// The segment's sender.
    pub own: Side,
    /// What has become of the other end.
    pub other: Other,
    /// Behind the number of the initiator's last SYN: the one that the flow began with, or one that came later.
    pub last_syn: u32,
}

impl Judged {
    /// The same, of which the verifier knows nothing more.
    #[inline(always)]
    pub(super) fn opaque<E: Env>(self, env: &E) -> Self {
        let course = match env.opaque(self.course as u64) {
            0 => Course::ByFlags,
            1 => Course::Stay,
            _ => Course::Answered,
        };
        let other = match env.opaque(self.other as u64) {
            0 => Other::Kept,
            1 => Other::Forgotten,
            _ => Other::Begun,
        };
        let opaque = |number| env.opaque(number);
        let last_syn = env.opaque(u64::from(self.last_syn)) as u32;
        Self { course, own: self.own.opaque(opaque), other, last_syn }
    }
}

/// What a segment makes of what is known of the end that it is sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Nothing.
    Kept,
    /// It is not known any more: the initiator begins anew.
    Forgotten,
    /// It is what its last SYN has said.
    Begun,
}

/// Whether a segment may go on, and what is known after it. An error changes nothing.
///
/// `opaque` is [`crate::env::Env::opaque`]: between the steps the verifier forgets what it knows of numbers, or it
/// would follow the last step once for every way through the first ones.
#[inline(always)]
pub fn judge<O: Fn(u64) -> u64 + Copy>(
    scene: &Scene,
    segment: &Segment,
    opaque: O,
) -> Result<Judged, DropReason> {
    let fits = Fits::new(scene, segment, opaque);
    let scene = &scene.opaque(opaque);
    if segment.flags.has(TcpFlags::RST) {
        return Ok(scene.unchanged(reset(scene, segment, fits)?));
    }
    match (segment.flags.has(TcpFlags::SYN), segment.has_ack()) {
        (true, false) => syn(scene, segment),
        (true, true) => syn_ack(scene, segment, fits, opaque),
        _ => data(scene, segment, fits, opaque),
    }
}

/// The later of two numbers of one stream (RFC 9293 §3.4).
#[inline(always)]
pub(super) const fn later(a: u32, b: u32) -> u32 {
    if is_after(b, a) { b } else { a }
}

#[inline(always)]
const fn earlier(a: u32, b: u32) -> u32 {
    if is_after(a, b) { b } else { a }
}

#[inline(always)]
const fn is_after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

impl Segment {
    /// Whether the acknowledgement counts.
    #[inline(always)]
    pub const fn has_ack(&self) -> bool {
        self.flags.has(TcpFlags::ACK)
    }
}

impl Scene {
    /// The same, of which the verifier knows nothing more.
    #[inline(always)]
    fn opaque<O: Fn(u64) -> u64 + Copy>(&self, opaque: O) -> Self {
        Self {
            own: self.own.opaque(opaque),
            other: self.other.opaque(opaque),
            last_syn: opaque(u64::from(self.last_syn)) as u32,
            ..*self
        }
    }

    #[inline(always)]
    const fn unchanged(&self, course: Course) -> Judged {
        self.with_own(self.own, course)
    }

    #[inline(always)]
    const fn with_own(&self, own: Side, course: Course) -> Judged {
        Judged { course, own, other: Other::Kept, last_syn: self.last_syn }
    }

    #[inline(always)]
    const fn is_original(&self) -> bool {
        matches!(self.direction, Direction::Original)
    }

    /// Whether what is known of both ends is held against a segment.
    #[inline(always)]
    const fn is_settled(&self) -> bool {
        self.strict && self.own.agreed() == AGREED && self.other.agreed() == AGREED
    }

    /// Refuses a segment that can't be of the flow as far as it has come, if that is known.
    #[inline(always)]
    const fn refuse(&self, known: bool) -> Result<Judged, DropReason> {
        if self.strict && known {
            Err(DropReason::BadState)
        } else {
            Ok(self.unchanged(Course::Stay))
        }
    }

    /// Whether the responder answers a SYN that came in the midst of the connection.
    #[inline(always)]
    const fn answers_attempt(&self, segment: &Segment) -> bool {
        self.other.is(Marks::PENDING) && self.last_syn == segment.acknowledged
    }

    /// Whether a reset has ended the flow before the responder said anything: nothing of it can follow.
    #[inline(always)]
    const fn is_void(&self) -> bool {
        self.strict && matches!(self.phase, Phase::Reset) && !self.confirmed
    }
}

/// Which of the bounds a segment keeps. Where an end is not known, all.
#[derive(Clone, Copy)]
struct Fits(u8);

impl Fits {
    /// It begins no later than the other end has made room for.
    const BEGIN: Self = Self(1);
    /// What it acknowledges was sent, and no longer than a window ago.
    const ACK: Self = Self(2);
    /// These two, and it ends no earlier than a window before what was sent.
    const ALL: Self = Self(7);

    #[inline(always)]
    fn new<O: Fn(u64) -> u64 + Copy>(scene: &Scene, segment: &Segment, opaque: O) -> Self {
        let numbers = numbers(scene, segment, opaque);
        let scene = &scene.opaque(opaque);
        let ack = acknowledges(scene, segment, opaque);
        let known = sign_of(scene.other.is(Marks::KNOWN)) & sign_of(segment.has_ack());
        let ack = opaque(u64::from(ack & known) >> 31) << 1;
        Self(opaque((numbers | ack) ^ 7) as u8)
    }

    #[inline(always)]
    const fn has(self, bounds: Self) -> bool {
        self.0 & bounds.0 == bounds.0
    }
}

/// A number whose sign is set if this holds.
#[inline(always)]
const fn sign_of(holds: bool) -> u32 {
    (holds as u32) << 31
}

/// The bits of the bounds of sequence numbers that are not kept. The signs of differences are put together without a
/// branch, for each one doubles what the verifier has to follow.
#[inline(always)]
fn numbers<O: Fn(u64) -> u64 + Copy>(scene: &Scene, segment: &Segment, opaque: O) -> u64 {
    let Scene { own, other, .. } = scene;
    let window = opaque(u64::from(other.span(own))) as u32;
    let limit = if other.is(Marks::ACKS) { other.edge() } else { own.end().wrapping_add(window) };
    let limit = opaque(u64::from(limit)) as u32;
    // Of what was sent, what there was room for counts: a byte that probes a closed window moves no bound.
    let floor = opaque(u64::from(earlier(own.end(), limit).wrapping_sub(window))) as u32;
    let known = (own.rest & other.rest & Marks::KNOWN.0) >> 55;
    let begin = u64::from(limit.wrapping_sub(segment.sequence)) >> 31 & known;
    let end = u64::from(segment.end.wrapping_sub(floor)) >> 31 & known;
    opaque(begin | end << 2)
}

/// A number whose sign is set if what a segment acknowledges was not sent, or longer than a window ago.
#[inline(always)]
fn acknowledges<O: Fn(u64) -> u64 + Copy>(scene: &Scene, segment: &Segment, opaque: O) -> u32 {
    let Scene { own, other, .. } = scene;
    let window = opaque(u64::from(own.span(other))) as u32;
    let slack = opaque(u64::from(if window > SLACK { window } else { SLACK })) as u32;
    let (sent, room) = if own.is(Marks::ACKS) {
        (later(other.end(), own.acknowledged()), own.edge())
    } else {
        (other.end(), other.end())
    };
    let (sent, room) = (opaque(u64::from(sent)) as u32, opaque(u64::from(room)) as u32);
    let oldest = opaque(u64::from(earlier(other.end(), room).wrapping_sub(slack))) as u32;
    let ack = segment.acknowledged;
    sent.wrapping_sub(ack) | ack.wrapping_sub(oldest)
}

/// Any segment of a connection that is neither SYN nor RST.
#[inline(always)]
fn data<O: Fn(u64) -> u64 + Copy>(
    scene: &Scene,
    segment: &Segment,
    fits: Fits,
    opaque: O,
) -> Result<Judged, DropReason> {
    if matches!(scene.phase, Phase::SynSent) {
        if scene.is_original() && scene.own.is_opened() {
            return scene.refuse(true);
        }
        if !scene.is_original() && scene.other.is_asking() {
            return challenged(scene, segment);
        }
    }
    if scene.is_void() {
        return Err(DropReason::BadState);
    }
    let holds = fits.has(Fits::ALL);
    if !holds && scene.is_settled() {
        return Err(DropReason::OutOfWindow);
    }
    Ok(scene.with_own(learned(scene, segment, holds, opaque), Course::ByFlags))
}

/// The responder answers a SYN with a plain acknowledgement: it has a connection of these endpoints, or half of one,
/// and the initiator will reset that by this number (RFC 9293 §3.5.1, RFC 5961 §4).
#[inline(always)]
fn challenged(scene: &Scene, segment: &Segment) -> Result<Judged, DropReason> {
    if segment.flags.has(TcpFlags::FIN) {
        return scene.refuse(true);
    }
    Ok(scene.with_own(Side::acknowledging(segment.acknowledged), Course::Stay))
}

/// What is known of a segment's sender after it.
#[inline(always)]
fn learned<O: Fn(u64) -> u64 + Copy>(
    scene: &Scene,
    segment: &Segment,
    holds: bool,
    opaque: O,
) -> Side {
    let shift = opaque(u64::from(scene.own.shift(&scene.other))) as u32 & 15;
    let syn = segment.flags.has(TcpFlags::SYN);
    let announced = u32::from(segment.window) << if syn { 0 } else { shift };
    let announced = opaque(u64::from(announced.max(1))) as u32;
    let edge = segment.acknowledged.wrapping_add(announced);
    let own = scene.own.opaque(opaque);
    let pending = Marks(own.rest & Marks::PENDING.0);
    let marks = Marks::KNOWN.and(Marks::ACKS).and(pending);
    if !own.is(Marks::KNOWN) || !holds {
        let marks = if syn { marks.and(Marks::BARE) } else { marks };
        let said = (segment.acknowledged, segment.window);
        return Side::new([segment.end, edge], said, own.scale(), marks, u8::from(holds));
    }
    // The window of a SYN is not shifted; from now on it counts in the unit of all others, rounded up.
    let unit = (1u32 << shift) - 1;
    let bare = own.is(Marks::BARE);
    let before = u32::from(own.window());
    let before = opaque(u64::from(if bare & !syn { (before + unit) >> shift } else { before }));
    let window = before.max(u64::from(segment.window));
    let window = opaque(window) as u16;
    let end = opaque(u64::from(later(own.end(), segment.end))) as u32;
    let (edge, acknowledged) = if own.is(Marks::ACKS) {
        (later(own.edge(), edge), later(own.acknowledged(), segment.acknowledged))
    } else {
        (edge, segment.acknowledged)
    };
    let (edge, acknowledged) =
        (opaque(u64::from(edge)) as u32, opaque(u64::from(acknowledged)) as u32);
    let marks = if bare & syn { marks.and(Marks::BARE) } else { marks };
    let marks = Marks(opaque(marks.0));
    let agreed = own.agreed();
    let agreed = opaque(u64::from(if agreed < AGREED { agreed + 1 } else { AGREED })) as u8;
    Side::new([end, edge], (acknowledged, window), own.scale(), marks, agreed)
}

/// A SYN alone.
#[inline(always)]
fn syn(scene: &Scene, segment: &Segment) -> Result<Judged, DropReason> {
    let phase = scene.phase;
    if scene.is_original() {
        // The newest attempt counts.
        let (own, last_syn) = (Side::opened(segment), segment.end);
        return Ok(match phase {
            Phase::SynSent => Judged { last_syn, ..scene.with_own(own, Course::ByFlags) },
            Phase::TimeWait | Phase::Reset => {
                Judged { course: Course::ByFlags, own, other: Other::Forgotten, last_syn }
            }
            // A copy of the SYN that the flow began with, late or sent again, is no attempt.
            _ if last_syn == scene.last_syn => scene.unchanged(Course::Stay),
            // Whatever its number is: an end that knows the connection answers with a challenge, one that does
            // not know it any more begins a new one.
            _ => {
                let own = Side { rest: scene.own.rest | Marks::PENDING.0, ..scene.own };
                Judged { last_syn, ..scene.with_own(own, Course::Stay) }
            }
        });
    }
    // Both have sent a SYN at once (RFC 9293 §3.5).
    if matches!(phase, Phase::SynSent) {
        return Ok(scene.with_own(Side::opened(segment), Course::ByFlags));
    }
    // It is sent again as long as it has not acknowledged the other one.
    let is_copy = (scene.own.end() == segment.end) & !scene.own.is(Marks::ACKS);
    if matches!(phase, Phase::SynReceived) && is_copy {
        return Ok(scene.unchanged(Course::Stay));
    }
    // No rule was asked whether the responder may begin a flow.
    scene.refuse(scene.own.is(Marks::KNOWN) | phase.is_closed())
}

/// A SYN that acknowledges something.
#[inline(always)]
fn syn_ack<O: Fn(u64) -> u64 + Copy>(
    scene: &Scene,
    segment: &Segment,
    fits: Fits,
    opaque: O,
) -> Result<Judged, DropReason> {
    let opening = matches!(scene.phase, Phase::SynSent | Phase::SynReceived);
    if scene.is_original() {
        // The initiator sends it only when both have sent a SYN at once.
        if !matches!(scene.phase, Phase::SynReceived) {
            return scene.refuse(scene.own.is(Marks::KNOWN));
        }
    } else if scene.answers_attempt(segment) {
        let other = Other::Begun;
        return Ok(Judged { other, ..scene.with_own(Side::opened(segment), Course::Answered) });
    } else if opening
        && scene.other.is_asking()
        && !scene.other.is_answered_by(segment.acknowledged)
    {
        return out_of_window(scene).map(|course| scene.unchanged(course));
    }
    if scene.is_void() {
        return Err(DropReason::BadState);
    }
    let holds = fits.has(Fits::ALL) & scene.own.is(Marks::KNOWN);
    let asked = scene.other.is_asking() | !scene.own.is(Marks::KNOWN);
    if opening && !scene.is_original() && !holds && asked {
        return Ok(scene.with_own(Side::opened(segment), Course::ByFlags));
    }
    if !holds && scene.is_settled() {
        return Err(DropReason::OutOfWindow);
    }
    Ok(scene.with_own(learned(scene, segment, holds, opaque), Course::ByFlags))
}

#[inline(always)]
const fn out_of_window(scene: &Scene) -> Result<Course, DropReason> {
    if scene.strict { Err(DropReason::OutOfWindow) } else { Ok(Course::Stay) }
}

/// A reset: whether it ends the flow (RFC 5961 §3.2, RFC 9293 §3.10.7).
#[inline(always)]
fn reset(scene: &Scene, segment: &Segment, fits: Fits) -> Result<Course, DropReason> {
    let Scene { own, other, .. } = scene;
    let answers = !scene.is_original() && segment.has_ack();
    if answers && scene.answers_attempt(segment) {
        return Ok(Course::ByFlags);
    }
    if scene.is_void() {
        return Err(DropReason::BadState);
    }
    if matches!(scene.phase, Phase::SynSent) && !scene.is_original() && other.is_asking() {
        let answered = answers && other.is_answered_by(segment.acknowledged);
        return if answered { Ok(Course::ByFlags) } else { out_of_window(scene) };
    }
    let number = segment.sequence;
    let acks = other.is(Marks::ACKS);
    let exact =
        own.is(Marks::KNOWN) & (number == own.end()) | acks & (number == other.acknowledged());
    if !scene.is_settled() {
        // Nothing to hold it against: it counts, as it does for a flow that was taken over.
        return if exact || !own.is_opened() && !acks {
            Ok(Course::ByFlags)
        } else if own.is_opened() && !other.is(Marks::KNOWN) {
            out_of_window(scene)
        } else {
            Ok(Course::Stay)
        };
    }
    // An acknowledgement of nothing is what some send along with a reset.
    if segment.acknowledged != 0 && !fits.has(Fits::ACK) {
        return out_of_window(scene);
    }
    let expected = if acks { other.acknowledged() } else { own.end() };
    if exact {
        Ok(Course::ByFlags)
    } else if is_after(expected, number) || !fits.has(Fits::BEGIN) {
        out_of_window(scene)
    } else {
        Ok(Course::Stay)
    }
}
