//! The stages of the pipeline, each of which is a program of its own in the kernel.
//!
//! The verifier follows a million instructions of a program and no more. So what most packets don't need
//! stands in stages behind the main one ([`pipeline::handle`]), and the main stage says which packets
//! belong there: [`Verdict::Stage`]. In the kernel the main program then jumps (a tail call) to the stage's
//! program; on the host [`handle`] calls the stage. A stage begins with the frame and parses it anew: between
//! programs nothing is carried but the frame, and so the verifier follows each stage by itself.
//!
//! Invariants:
//!
//! * The main stage hands a frame over before it has changed the frame, or changed or counted anything for
//!   it; what [`reception::receive`] checks it has checked, and the stage need not ask again. On the host [`open`]
//!   has begun the flow of a first packet that is translated, which that packet then is the first of.
//! * The load of a bucket is counted once a packet: by the stage that finds the bucket to be this node's
//!   to handle (`own` in stages that the main one could not place). Whoever hands over behind that point hands over a
//!   packet that has been counted.
//! * A stage hands over at most to one of a higher number ([`Stage::hands_over`]), so no packet can go in circles. What
//!   hands over where it must not is dropped as [`DropReason::Internal`], and so is what has no program to go to.
//!
//! To add a stage: a variant of [`Stage`] with the name of its program; its module with a `handle` like
//! [`related::handle`], and its arm in [`run`]; its program in `crates/xdp/src/testudo.rs`, three lines
//! like the others'. The loader finds programs and their places in the map of stages by [`STAGES`], and
//! the differential tests run it, for a test run of the main program follows its jumps.
//!
//! [`reception::receive`]: crate::reception::receive

use crate::association;
use crate::bucket::{BucketSlot, BucketState, Nanos};
use crate::env::{Env, Frame};
use crate::flow::Protocol;
use crate::fragment;
use crate::open;
use crate::pipeline;
use crate::placement::Placement;
use crate::reception::{self, Mode};
use crate::related;
use crate::reverse_path;
use crate::translate;
use crate::verdict::{DropReason, UpcallReason, Verdict};
use crate::wire::{self, Headers, Link};

/// A stage behind the main one. Its number is its place in the kernel's map of stages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// ICMP errors, which belong to the flow of the packet that they quote: [`related`].
    Related = 0,
    /// First packets that came in by an interface that asks where they came from: [`reverse_path`].
    ReversePath = 1,
    /// First packets, which no flow is known of: [`open`].
    Open = 2,
    /// Packets of flows that are translated: [`translate`].
    Translate = 3,
    /// Packets of SCTP of known flows, translated or not: [`association`].
    Association = 4,
    /// Fragments, of which the first one shows to which flow they belong: [`fragment::handle`].
    Fragment = 5,
    /// Fragments, if their first one has been seen: [`fragment::follow`].
    FragmentFlow = 6,
    /// Fragments of translated flows: [`fragment::translate`].
    FragmentTranslate = 7,
}

/// Every stage behind the main one, in the order of its number.
pub const STAGES: [Stage; 8] = [
    Stage::Related,
    Stage::ReversePath,
    Stage::Open,
    Stage::Translate,
    Stage::Association,
    Stage::Fragment,
    Stage::FragmentFlow,
    Stage::FragmentTranslate,
];

impl Stage {
    /// The name of its program in the object that the kernel loads.
    pub const fn program(self) -> &'static str {
        match self {
            Self::Related => "testudo_related",
            Self::ReversePath => "testudo_reverse_path",
            Self::Open => "testudo_open",
            Self::Translate => "testudo_translate",
            Self::Association => "testudo_association",
            Self::Fragment => "testudo_fragment",
            Self::FragmentFlow => "testudo_fragment_flow",
            Self::FragmentTranslate => "testudo_fragment_translate",
        }
    }

    /// The stage of packets of a known flow of this protocol that has one of its own.
    #[inline(always)]
    pub const fn of_flow(protocol: Protocol, translated: bool) -> Option<Self> {
        match protocol {
            Protocol::SCTP => Some(Self::Association),
            _ if translated => Some(Self::Translate),
            _ => None,
        }
    }

    /// Whether it may find that its packet is another stage's.
    #[inline(always)]
    pub const fn hands_over(self) -> bool {
        matches!(self, Self::ReversePath | Self::Open | Self::Fragment | Self::FragmentFlow)
    }
}

/// Decides what becomes of a frame, in the main stage or in the one that it names, and does all of it but
/// the forwarding itself. Never [`Verdict::Stage`].
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F, interface: u32) -> Verdict {
    let mut verdict = pipeline::handle(env, frame, interface);
    let mut hands_over = true;
    for _ in 0..STAGES.len() {
        let Verdict::Stage(stage) = verdict else { return verdict };
        if !hands_over {
            break;
        }
        hands_over = stage.hands_over();
        verdict = run(stage, env, frame, interface);
    }
    match verdict {
        Verdict::Stage(_) => Verdict::Drop(DropReason::Internal),
        verdict => verdict,
    }
}

/// Runs a stage on a frame that the main one has handed over.
#[inline(always)]
pub fn run<E: Env, F: Frame>(stage: Stage, env: &E, frame: &mut F, interface: u32) -> Verdict {
    match stage {
        Stage::Related => related::handle(env, frame, interface),
        Stage::ReversePath => reverse_path::handle(env, frame, interface),
        Stage::Open => open::handle(env, frame, interface),
        Stage::Translate => translate::handle(env, frame),
        Stage::Association => association::handle(env, frame),
        Stage::Fragment => fragment::handle(env, frame),
        Stage::FragmentFlow => fragment::follow(env, frame, interface),
        Stage::FragmentTranslate => fragment::translate(env, frame),
    }
}

/// Whether a packet of this place is this node's to handle now, and the slot of its bucket; if not, what
/// becomes of it. Counts it as load of a bucket that is. The stage decides it then, and [`report`]s it.
#[inline(always)]
pub(crate) fn own<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    interface: u32,
    place: Placement,
    now: Nanos,
) -> Result<BucketSlot, Verdict> {
    let Some(slot) = env.bucket(place.bucket) else {
        return Err(Verdict::Drop(DropReason::Internal));
    };
    if slot.owner != env.node() {
        return Err(reception::not_ours(env, frame, link, interface, slot, now));
    }
    if now >= env.lease() {
        return Err(Verdict::Drop(DropReason::NoLease));
    }
    env.count_load(place.bucket, frame.len());
    if slot.state == BucketState::Holding {
        return Err(Verdict::Upcall(UpcallReason::Held));
    }
    Ok(slot)
}

/// The headers of a frame that the main stage has read before.
#[inline(always)]
pub(crate) fn headers<E: Env, F: Frame>(env: &E, frame: &F) -> Result<Headers, DropReason> {
    let link = wire::parse_link(frame)?;
    Ok(wire::parse(frame, &link)?.opaque(env))
}

/// Has a packet that was decided reported, if its bucket is on its way to a node that sees it, too.
#[inline(always)]
pub(crate) fn report<E: Env, F: Frame>(
    env: &E,
    frame: &F,
    place: Placement,
    slot: BucketSlot,
    verdict: Verdict,
) {
    if slot.state == BucketState::Yielding && !matches!(env.mode(), Mode::Steered) {
        pipeline::report(env, frame, place.bucket, verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_programs_have_names_of_their_own() {
        for (place, stage) in STAGES.into_iter().enumerate() {
            assert_eq!(stage as usize, place);
            let same = STAGES.into_iter().filter(|other| other.program() == stage.program());
            assert_eq!(same.count(), 1);
        }
    }
}
