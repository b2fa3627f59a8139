//! How packets reach the cluster, and whose a packet is that has reached this node.
//!
//! * `shared`: every node sees every packet, addressed to the cluster's shared address on the link;
//!   each handles those of its own buckets.
//! * `steered`: a router or switch has picked this node by a hash of its own, and addressed the packet
//!   to this node. What belongs to another node is passed to it, once: with new addresses on the link
//!   and nothing else changed, because to the outside the nodes are one hop.
//! * `tap`: not inline. Every frame that is seen counts, and what this node owns goes to an analyser.
//!
//! Invariant: a packet that a peer has passed here is passed on only by a node that has itself just
//! given the bucket away. So a packet crosses the link between nodes twice at most, as long as the
//! giver of a bucket changes its slot after the taker has (the order of a planned move); two nodes
//! that disagree otherwise drop the packet instead of playing with it.
//!
//! Why not pass by a tunnel: nodes share the link that the packet came by, and a frame with the
//! owner's address is what the steering router would have sent, had it known.

use crate::bucket::{BucketSlot, Nanos, NodeId};
use crate::env::{Env, Frame};
use crate::flow::Address;
use crate::neighbour;
use crate::pipeline::set_link;
use crate::verdict::{DropReason, Verdict};
use crate::wire::{self, Link, Payload};

/// How packets reach the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Every node sees every packet.
    #[default]
    Shared,
    /// A router picks a node, which passes on what is another's.
    Steered,
    /// Not inline: packets of owned buckets go to an analyser.
    Tap {
        /// The number of the analyser's interface.
        interface: u32,
    },
}

impl Mode {
    /// The mode as one word for the eBPF build.
    pub const fn to_word(self) -> u64 {
        match self {
            Self::Shared => 0,
            Self::Steered => 1,
            Self::Tap { interface } => 2 | (interface as u64) << 32,
        }
    }

    /// The mode of a word.
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        match word as u32 {
            0 => Self::Shared,
            1 => Self::Steered,
            _ => Self::Tap { interface: (word >> 32) as u32 },
        }
    }

    /// Whether the pipeline is on the packet's way: it forwards and answers.
    #[inline(always)]
    pub const fn is_inline(self) -> bool {
        !matches!(self, Self::Tap { .. })
    }
}

/// Whether the pipeline takes a frame; if not, what becomes of it.
#[inline(always)]
pub fn receive<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    interface: u32,
) -> Result<(), Verdict> {
    let is_ip = matches!(link.payload, Payload::V4 | Payload::V6);
    let mode = env.mode();
    if !mode.is_inline() {
        return if is_ip { Ok(()) } else { Err(Verdict::Drop(DropReason::Unsupported)) };
    }
    if link.destination == env.cluster_mac() {
        return match link.payload {
            Payload::V4 | Payload::V6 => Ok(()),
            // A neighbour that asks again asks the address that it knows.
            Payload::Arp => Err(neighbour::handle(env, frame, link, interface)),
            Payload::Other => Err(Verdict::Drop(DropReason::Unsupported)),
        };
    }
    if link.destination.is_group() {
        return Err(neighbour::handle(env, frame, link, interface));
    }
    if matches!(mode, Mode::Steered) && is_ip && !is_for_node(env, frame, link) {
        return steered(env, link, interface);
    }
    Err(Verdict::Stack)
}

/// Whether a frame in `steered` mode that is not for the node itself was sent to it. A switch may flood
/// frames for others, and the stack leaves them. But as long as this node's own address is not known
/// here, the frame may be for it, and the stack would forward it.
#[inline(always)]
fn steered<E: Env>(env: &E, link: &Link, interface: u32) -> Result<(), Verdict> {
    let node = env.node();
    match env.station(interface, link.destination) {
        Some(station) if station == node => Ok(()),
        _ if env.station_mac(interface, node).is_some() => Err(Verdict::Stack),
        _ => Err(Verdict::Drop(DropReason::NoPeer)),
    }
}

/// Whether an IP packet that is addressed to this node on the link ends here: it goes to an address
/// of the node's own, or to one that no packet is forwarded to.
#[inline(always)]
fn is_for_node<E: Env, F: Frame>(env: &E, frame: &F, link: &Link) -> bool {
    match wire::destination(frame, link) {
        Some(address) => stays_on_link(address) || env.is_local(address),
        None => false,
    }
}

/// Multicast and link-local destinations, which a node's own protocols use: routing, neighbours.
#[inline(always)]
const fn stays_on_link(address: Address) -> bool {
    match address.as_v4() {
        Some(v4) => v4 >> 28 == 0xe || v4 == u32::MAX || v4 >> 16 == 0xa9fe,
        None => address.high >> 56 == 0xff || address.high >> 54 == 0xfe80 >> 6,
    }
}

/// What becomes of a packet whose bucket another node owns.
#[inline(always)]
pub fn not_ours<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    interface: u32,
    slot: BucketSlot,
    now: Nanos,
) -> Verdict {
    if !matches!(env.mode(), Mode::Steered) || slot.owner == NodeId::NONE {
        return Verdict::Drop(DropReason::NotOwner);
    }
    // A node that has lost the majority does not know whose the bucket is now.
    if now >= env.lease() {
        return Verdict::Drop(DropReason::NoLease);
    }
    if is_passed(env, link, interface) && slot.previous != env.node() {
        return Verdict::Drop(DropReason::PassedTwice);
    }
    pass_to(env, frame, link, interface, slot.owner)
}

/// Whether a peer has passed a frame here.
#[inline(always)]
pub(crate) fn is_passed<E: Env>(env: &E, link: &Link, interface: u32) -> bool {
    let node = env.node();
    env.station(interface, link.source).is_some_and(|peer| peer != node)
}

/// Passes a frame to another node.
#[inline(always)]
pub(crate) fn pass_to<E: Env, F: Frame>(
    env: &E,
    frame: &mut F,
    link: &Link,
    interface: u32,
    owner: NodeId,
) -> Verdict {
    // A frame from the shared address would teach the switch where it is.
    let own = if link.destination == env.cluster_mac() {
        env.station_mac(interface, env.node())
    } else {
        Some(link.destination)
    };
    let (Some(own), Some(mac)) = (own, env.station_mac(interface, owner)) else {
        return Verdict::Drop(DropReason::NoPeer);
    };
    match set_link(frame, own, mac) {
        Some(()) => Verdict::Pass(owner),
        None => Verdict::Drop(DropReason::Truncated),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_survives_its_word() {
        for mode in [Mode::Shared, Mode::Steered, Mode::Tap { interface: u32::MAX - 7 }] {
            assert_eq!(Mode::from_word(mode.to_word()), mode);
        }
    }

    #[test]
    fn multicast_and_link_local_destinations_stay_on_the_link() {
        use core::net::IpAddr;
        for (text, stays) in [
            ("224.0.0.5", true),
            ("255.255.255.255", true),
            ("169.254.1.1", true),
            ("223.255.255.255", false),
            ("10.1.2.3", false),
            ("ff02::5", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fec0::1", false),
            ("2001:db8::1", false),
        ] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(stays_on_link(address.into()), stays, "{text}");
        }
    }
}
