//! The rules: what is known of a flow and a packet in, what becomes of both out (RFC 9260 §8.5).
//!
//! An end that has lost its association may begin a new one under the same ports (RFC 9260 §5.2). Whoever sends its INIT
//! may be a stranger, too. So the tags that INIT and INIT ACK name then stand beside those in force: packets that
//! carry them pass, and do nothing to the flow. When the initiator of the new one shows by its COOKIE ECHO that it has
//! got the other end's tag, which a stranger has not, they are in force.

use crate::env::Env;
use crate::flow::Direction;
use crate::tracking::Phase;
use crate::verdict::DropReason;
use crate::window::Course;
use crate::wire::sctp::{Kind, Packet};

/// After how many packets in a row a tag that was learned from them counts.
pub const SURE: u8 = 8;

/// What is known of the packets of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Side {
    /// The tag that they carry; 0 if that is not known.
    pub tag: u32,
    /// How many in a row have carried it, up to [`SURE`].
    pub agreed: u8,
    /// The tag of an association that may follow this one; 0 if there is none.
    pub next: u32,
}

impl Side {
    /// Packets that carry this tag, as their receiver has said.
    #[must_use]
    #[inline(always)]
    pub const fn sure(tag: u32) -> Self {
        Self { tag, agreed: SURE, next: 0 }
    }

    /// Packets of which the first one has this tag.
    #[must_use]
    #[inline(always)]
    pub const fn met(tag: u32) -> Self {
        Self { tag, agreed: 1, next: 0 }
    }

    #[inline(always)]
    pub(super) const fn to_words(self) -> (u64, u64) {
        (self.tag as u64 | (self.agreed as u64) << 32, self.next as u64)
    }

    /// What two words of a slot say.
    #[must_use]
    #[inline(always)]
    pub const fn from_words(first: u64, second: u64) -> Self {
        Self { tag: first as u32, agreed: (first >> 32) as u8, next: second as u32 }
    }

    /// Whether the tag counts.
    #[must_use]
    #[inline(always)]
    pub const fn is_sure(self) -> bool {
        self.agreed >= SURE
    }

    /// The same after one more packet with this tag, while it is not sure.
    #[inline(always)]
    const fn taught(self, tag: u32) -> Self {
        let known = self.tag == tag && self.agreed > 0;
        Self { tag, agreed: if known { self.agreed + 1 } else { 1 }, ..self }
    }

    #[inline(always)]
    fn opaque<E: Env>(self, env: &E) -> Self {
        let (first, second) = self.to_words();
        Self::from_words(env.opaque(first), env.opaque(second))
    }
}

/// What is known when a packet comes.
#[derive(Clone, Copy, Debug)]
pub struct Scene {
    /// Where the flow is in its life.
    pub phase: Phase,
    /// Which way the packet travels.
    pub direction: Direction,
    /// Whether anything is refused; if not, everything is learned from all the same.
    pub strict: bool,
    /// Packets that travel the same way.
    pub own: Side,
    /// Packets that travel the other way.
    pub other: Side,
}

/// What becomes of a packet that may go on, and of what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// What its chunks are worth.
    pub course: Course,
    /// Packets that travel the same way.
    pub own: Side,
    /// Packets that travel the other way.
    pub other: Side,
}

impl Judged {
    /// The same, of which the verifier knows nothing more.
    #[inline(always)]
    pub(super) fn opaque<E: Env>(self, env: &E) -> Self {
        let course = match env.opaque(self.course as u64) {
            0 => Course::ByFlags,
            _ => Course::Stay,
        };
        Self { course, own: self.own.opaque(env), other: self.other.opaque(env) }
    }
}

/// How a tag stands to what is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fit {
    /// It is the one in force.
    Right,
    /// Nobody can say yet.
    Unknown,
    /// It is that of an association that may follow.
    Next,
}

impl Scene {
    #[inline(always)]
    fn fit(&self, side: Side, tag: u32) -> Result<Fit, DropReason> {
        if !side.is_sure() && self.is_unanswered() && self.strict {
            // Nobody has said yet what the initiator is to use.
            Err(DropReason::BadTag)
        } else if !side.is_sure() {
            Ok(Fit::Unknown)
        } else if side.tag == tag {
            Ok(Fit::Right)
        } else if side.next == tag && tag != 0 || !self.strict {
            Ok(Fit::Next)
        } else {
            Err(DropReason::BadTag)
        }
    }

    #[inline(always)]
    const fn unchanged(&self, course: Course) -> Judged {
        Judged { course, own: self.own, other: self.other }
    }

    #[inline(always)]
    const fn is_original(&self) -> bool {
        matches!(self.direction, Direction::Original)
    }

    /// Whether the initiator's INIT has come here, and no answer to it.
    #[inline(always)]
    const fn is_unanswered(&self) -> bool {
        let reply = if self.is_original() { self.other } else { self.own };
        matches!(self.phase, Phase::SynSent) && reply.is_sure()
    }

    /// Whether the association is still to be agreed on: what is said of it now counts.
    #[inline(always)]
    const fn is_opening(&self) -> bool {
        matches!(self.phase, Phase::SynSent | Phase::SynReceived)
    }
}

/// Whether a packet may go on, and what is known after it. An error changes nothing.
#[inline(always)]
pub fn judge(scene: &Scene, packet: &Packet) -> Result<Judged, DropReason> {
    match packet.kind {
        Kind::Init => Ok(init(scene, packet)),
        // Who begins anew may meet the end of an association that the other end has not yet seen the end of
        // (RFC 9260 §9.2): its tag is nobody's any more, and nothing comes of it here.
        Kind::ShutdownAck if scene.is_opening() && !scene.is_original() => {
            Ok(scene.unchanged(Course::Stay))
        }
        Kind::ShutdownComplete if scene.is_opening() && scene.is_original() && packet.reflected => {
            Ok(scene.unchanged(Course::Stay))
        }
        Kind::InitAck => init_ack(scene, packet),
        Kind::CookieEcho if scene.own.next != 0 && scene.own.next == packet.tag => {
            Ok(begun_anew(scene))
        }
        Kind::Abort | Kind::ShutdownComplete => end(scene, packet),
        Kind::CookieEcho | Kind::ShutdownAck | Kind::Other => talk(scene, packet),
    }
}

#[inline(always)]
fn init(scene: &Scene, packet: &Packet) -> Judged {
    let other = Side::sure(packet.initiate);
    if scene.is_opening() {
        Judged { course: Course::ByFlags, own: scene.own, other }
    } else if scene.phase.is_closed() && scene.is_original() {
        Judged { course: Course::ByFlags, own: Side::default(), other }
    } else {
        may_follow(scene, packet)
    }
}

/// An association that may follow, if the other end agrees: its tag is remembered.
#[inline(always)]
const fn may_follow(scene: &Scene, packet: &Packet) -> Judged {
    let other = Side { next: packet.initiate, ..scene.other };
    Judged { course: Course::Stay, own: scene.own, other }
}

#[inline(always)]
fn init_ack(scene: &Scene, packet: &Packet) -> Result<Judged, DropReason> {
    let fit = scene.fit(scene.own, packet.tag)?;
    if scene.is_opening() && fit != Fit::Next {
        let other = Side::sure(packet.initiate);
        return Ok(Judged { course: Course::ByFlags, own: scene.own, other });
    }
    Ok(may_follow(scene, packet))
}

/// The initiator of a new association has shown that it speaks with the other end.
#[inline(always)]
const fn begun_anew(scene: &Scene) -> Judged {
    let other = match scene.other.next {
        0 => scene.other,
        next => Side::sure(next),
    };
    Judged { course: Course::Stay, own: Side::sure(scene.own.next), other }
}

/// The end of the association, if it comes with a tag that is known to be right. With the T bit it carries what its
/// receiver would expect of the other direction (RFC 9260 §8.5.1).
#[inline(always)]
fn end(scene: &Scene, packet: &Packet) -> Result<Judged, DropReason> {
    // Whoever has not been answered has nothing to reflect.
    if packet.reflected && scene.is_original() && scene.is_unanswered() && scene.strict {
        return Err(DropReason::BadTag);
    }
    let side = if packet.reflected { scene.other } else { scene.own };
    let course = match scene.fit(side, packet.tag)? {
        Fit::Right => Course::ByFlags,
        Fit::Unknown | Fit::Next => Course::Stay,
    };
    Ok(scene.unchanged(course))
}

#[inline(always)]
fn talk(scene: &Scene, packet: &Packet) -> Result<Judged, DropReason> {
    Ok(match scene.fit(scene.own, packet.tag)? {
        Fit::Right => scene.unchanged(Course::ByFlags),
        Fit::Next => scene.unchanged(Course::Stay),
        Fit::Unknown => {
            let own = scene.own.taught(packet.tag);
            Judged { course: Course::ByFlags, own, other: scene.other }
        }
    })
}
