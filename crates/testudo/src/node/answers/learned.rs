//! What a flow's packets have taught its owner, as it is shown.

use testudo_datapath::Learned;
use testudo_packet::association;
use testudo_packet::window::{AGREED, Side};
use testudo_packet::wire::segment::Scale;

use crate::control::protocol::{self, Window};

/// What is shown of it; `None` if flows of this kind teach nothing.
pub(super) fn shown(learned: &Learned) -> Option<protocol::Learned> {
    match learned {
        Learned::Nothing => None,
        Learned::Windows([original, reply]) => {
            let strict = original.agreed() == AGREED && reply.agreed() == AGREED;
            let windows = [original, reply].map(|side| window(side, strict));
            Some(protocol::Learned::Windows(windows))
        }
        Learned::Tags(sides) => Some(protocol::Learned::Tags(sides.map(tag))),
    }
}

fn window(side: &Side, strict: bool) -> Window {
    let shift = match side.scale() {
        Scale::UNKNOWN => None,
        Scale::NONE => Some(0),
        Scale(offered) => Some(offered - 2),
    };
    Window { sent: side.end(), room: side.edge(), shift, strict }
}

fn tag(side: association::Side) -> Option<u32> {
    side.is_sure().then_some(side.tag)
}

#[cfg(test)]
mod tests {
    use testudo_packet::tracking::TcpFlags;
    use testudo_packet::wire::segment::Segment;

    use super::*;

    #[test]
    fn an_end_shows_what_its_syn_has_said() {
        let syn = Segment {
            sequence: 1000,
            end: 1001,
            acknowledged: 0,
            window: 64_240,
            flags: TcpFlags::SYN,
            scale: Scale::offered(7),
        };
        let side = Side::opened(&syn);
        let seen = shown(&Learned::Windows([side, Side::default()]));
        let own = Window { sent: 1001, room: 1001, shift: Some(7), strict: false };
        let other = Window { sent: 0, room: 0, shift: None, strict: false };
        assert_eq!(seen, Some(protocol::Learned::Windows([own, other])));
        let plain = Segment { scale: Scale::NONE, ..syn };
        assert_eq!(window(&Side::opened(&plain), true).shift, Some(0));
    }

    #[test]
    fn a_tag_is_shown_once_it_counts() {
        let sides = [association::Side::sure(0xc11e_0001), association::Side::met(7)];
        let seen = shown(&Learned::Tags(sides));
        assert_eq!(seen, Some(protocol::Learned::Tags([Some(0xc11e_0001), None])));
        assert_eq!(shown(&Learned::Nothing), None);
    }
}
