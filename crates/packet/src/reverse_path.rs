//! Whether a packet comes from where its answers would go: the reverse-path check (RFC 3704).
//!
//! A source that is not routed back by the interface that its packet came in by is most likely not the sender's own.
//! Only the first packet of a flow is asked: what follows it belongs to a flow that has passed, and whose answers have
//! found their way. Routes are the kernel's to know; the packet's own addresses, swapped, are looked up in them
//! ([`Env::comes_back`]).
//!
//! Why a stage of its own, before [`crate::open`]: the call of the kernel needs room on the stack, which comparing with
//! rules has taken up. Packets that come in by an interface that asks nothing don't come here.

use crate::env::{Env, Frame};
use crate::flow::FlowKey;
use crate::pipeline::admit;
use crate::stage::{self, Stage};
use crate::verdict::{DropReason, Verdict};

/// What an interface asks of the sources of the first packets that come in by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum ReversePath {
    /// Nothing.
    #[default]
    Off = 0,
    /// A route to the source, by whatever interface (RFC 3704 §2.4).
    Loose = 1,
    /// A route to the source by this very interface (RFC 3704 §2.2).
    Strict = 2,
}

impl ReversePath {
    /// The check of this number; every other number is none.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        match word {
            1 => Self::Loose,
            2 => Self::Strict,
            _ => Self::Off,
        }
    }

    /// Whether a packet passes that came in by an interface, if its source is routed by another or the same one, or
    /// by none.
    #[inline(always)]
    pub const fn passes(self, interface: u32, routed_by: Option<u32>) -> bool {
        match (self, routed_by) {
            (Self::Off, _) | (Self::Loose, Some(_)) => true,
            (Self::Strict, Some(by)) => by == interface,
            (_, None) => false,
        }
    }
}

/// Where a packet goes that no flow is known of.
#[inline(always)]
pub(crate) fn or_open<E: Env>(env: &E, interface: u32) -> Stage {
    if env.asks_way_back(interface) { Stage::ReversePath } else { Stage::Open }
}

/// Whether a flow may begin with a packet of this key that came in by an interface. An analyser is shown everything.
#[inline(always)]
pub(crate) fn passes<E: Env>(env: &E, key: &FlowKey, interface: u32) -> bool {
    !env.mode().is_inline() || env.comes_back(key, interface)
}

/// Decides what becomes of a frame that the main stage has found to be of no known flow, and that came in by an
/// interface that asks for a way back.
#[inline(always)]
pub fn handle<E: Env, F: Frame>(env: &E, frame: &mut F, interface: u32) -> Verdict {
    let headers = match stage::headers(env, frame) {
        Ok(headers) => headers,
        Err(reason) => return Verdict::Drop(reason),
    };
    if passes(env, &headers.key, interface) {
        return Verdict::Stage(Stage::Open);
    }
    let place = env.place(&headers);
    let slot = match admit(env, place.bucket, env.now()) {
        Ok(slot) => slot,
        Err(reason) => return Verdict::Drop(reason),
    };
    let verdict = Verdict::Drop(DropReason::ReversePath);
    stage::report(env, frame, place, slot, verdict);
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_asks_for_more_than_the_one_before() {
        use ReversePath::{Loose, Off, Strict};
        for (check, same, other, none) in
            [(Off, true, true, true), (Loose, true, true, false), (Strict, true, false, false)]
        {
            assert_eq!(ReversePath::from_word(check as u64), check);
            let passes = [Some(7), Some(8), None].map(|by| check.passes(7, by));
            assert_eq!(passes, [same, other, none], "{check:?}");
        }
    }
}
