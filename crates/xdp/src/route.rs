//! Sends a packet to its next hop, as the node's own routes and neighbours say.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_xdp_adjust_meta};
use aya_ebpf::programs::XdpContext;
use testudo_packet::env::{Env, Frame, Mac};
use testudo_packet::flow::Address;
use testudo_packet::hop::{self, NextHop};
use testudo_packet::mss::{self, MostBytes};
use testudo_packet::pipeline;
use testudo_packet::reverse_path::ReversePath;
use testudo_packet::verdict::{Counter, DropReason};
use testudo_packet::wire::{self, Link, Route};

use crate::env::{Kernel, Met, clamps_segments, hop_generation};
use crate::frame::KernelFrame;
use crate::maps;

/// `struct bpf_fib_lookup` of the kernel's interface, with the members that are used here.
#[repr(C)]
struct FibLookup {
    family: u8,
    protocol: u8,
    ports: [u16; 2],
    bytes: u16,
    interface: u32,
    class: u32,
    source: [u64; 2],
    destination: [u64; 2],
    /// A VLAN, then the source's address on the link and the destination's: as words, which are cleared at one stroke.
    link: [u64; 2],
}

impl FibLookup {
    /// What was found.
    #[inline(always)]
    fn hop(&self) -> NextHop {
        NextHop {
            interface: self.interface,
            source: Mac((self.link[0].to_be() & 0xffff_ffff) << 16 | self.link[1].to_be() >> 48),
            destination: Mac(self.link[1].to_be() & 0xffff_ffff_ffff),
            // The kernel puts the largest packet there.
            mtu: self.bytes,
        }
    }
}

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `BPF_FIB_LKUP_RET_*`.
mod fib_result {
    pub const SUCCESS: i64 = 0;
    pub const BLACKHOLE: i64 = 1;
    pub const UNREACHABLE: i64 = 2;
    pub const PROHIBIT: i64 = 3;
    pub const NO_NEIGHBOUR: i64 = 7;
    pub const TOO_LARGE: i64 = 8;
}

/// What stands before a packet that was left to the node's stack.
pub const LEFT_TO_STACK: u64 = u64::from_ne_bytes(*b"testudo\0");

/// Why there is no next hop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum NoHop {
    /// The route says so.
    Refused,
    /// The node's stack has to look: a neighbour to resolve, a special route. The interface that the packet goes out
    /// by, or 0.
    AskStack(u32),
    /// The packet is larger than the next hop takes: the node's stack cuts it, or tells its sender.
    TooLarge,
}

/// Asks the kernel's routes and neighbours as for a packet that comes in by an interface; says how that went, and what they
/// said. `fits`: whether the packet has to fit the link, too.
#[inline(always)]
fn look_up(context: *mut c_void, route: &Route, interface: u32, fits: bool) -> (i64, FibLookup) {
    let words = |address: Address| {
        if route.v4 {
            [(address.low as u32).to_be() as u64, 0]
        } else {
            [address.high.to_be(), address.low.to_be()]
        }
    };
    // Of a zero that it knows the compiler would make a call that writes byte by byte.
    let zero = maps::unknown_zero();
    let mut lookup = FibLookup {
        family: if route.v4 { AF_INET } else { AF_INET6 },
        protocol: route.protocol,
        ports: [0; 2],
        bytes: if fits { route.bytes } else { 0 },
        interface,
        class: 0,
        source: words(route.source),
        destination: words(route.destination),
        link: [zero; 2],
    };
    let size = size_of::<FibLookup>() as i32;
    // SAFETY: the context is the program's own, and the structure has the size that is given.
    let result = unsafe { bpf_fib_lookup(context, (&raw mut lookup).cast(), size, 0) };
    (result, lookup)
}

/// Where a packet goes next.
#[inline(always)]
pub fn next_hop(
    ctx: &XdpContext,
    frame: &impl Frame,
    link: &Link,
    interface: u32,
) -> Result<NextHop, NoHop> {
    let route = wire::route(frame, link).ok_or(NoHop::AskStack(0))?;
    let (result, lookup) = look_up(ctx.as_ptr(), &route, interface, true);
    match result {
        fib_result::SUCCESS => Ok(lookup.hop()),
        fib_result::BLACKHOLE | fib_result::UNREACHABLE | fib_result::PROHIBIT => {
            Err(NoHop::Refused)
        }
        fib_result::NO_NEIGHBOUR => Err(NoHop::AskStack(lookup.interface)),
        fib_result::TOO_LARGE => Err(NoHop::TooLarge),
        _ => Err(NoHop::AskStack(0)),
    }
}

/// The interface that the node's routes send the packet out by, whether its neighbour there is known or not; 0 if they
/// do not say.
#[inline(always)]
pub fn egress(ctx: &XdpContext) -> u32 {
    let frame = KernelFrame::new(ctx);
    let Ok(link) = wire::parse_link(&frame) else { return 0 };
    let Some(route) = wire::route(&frame, &link) else { return 0 };
    match look_up(ctx.as_ptr(), &route, ctx.ingress_ifindex() as u32, false) {
        (fib_result::SUCCESS | fib_result::NO_NEIGHBOUR, lookup) => lookup.interface,
        _ => 0,
    }
}

/// Whether a packet's source is routed back as the interface asks that it came in by: its addresses are looked up
/// the other way round, and no link is too small for it. Whether the neighbour is known is all one.
#[inline(always)]
pub fn comes_back(context: *mut c_void, packet: &Route, interface: u32) -> bool {
    // SAFETY: the daemon replaces a value as a whole word.
    let check = unsafe { maps::REVERSE_PATHS.get(&(interface as u64)) };
    let Some(check) = check.map(|word| ReversePath::from_word(*word)) else { return true };
    let (source, destination) = (packet.destination, packet.source);
    let back = Route { source, destination, ..*packet };
    let (result, lookup) = look_up(context, &back, interface, false);
    let routed = matches!(result, fib_result::SUCCESS | fib_result::NO_NEIGHBOUR);
    check.passes(interface, if routed { Some(lookup.interface) } else { None })
}

/// Sends the packet on. `OPENS`: it may be of the beginning of a TCP connection.
#[inline(always)]
pub fn forward<const OPENS: bool>(
    ctx: &XdpContext,
    kernel: &Kernel,
    frame: &mut impl Frame,
    interface: u32,
) -> u32 {
    let Ok(link) = wire::parse_link(frame) else { return by_stack(ctx) };
    if pipeline::check_direct(frame, &link).is_err() {
        return by_stack(ctx);
    }
    // Before the kernel is asked.
    let generation = hop_generation();
    let hop = match known_hop(kernel, frame, &link, generation) {
        Some(hop) => hop,
        None => match next_hop(ctx, frame, &link, interface) {
            Ok(hop) => {
                if let Some(Met { found, now }) = kernel.flow() {
                    hop::learn(&found, &hop, now, generation);
                }
                hop
            }
            Err(NoHop::AskStack(out)) => {
                shrink_segments::<OPENS>(ctx, interface, out);
                return by_stack(ctx);
            }
            Err(NoHop::TooLarge) => {
                learn_limit(ctx, kernel, frame, &link, interface, generation);
                return by_stack(ctx);
            }
            Err(NoHop::Refused) => {
                maps::count(DropReason::NoRoute.counter());
                return xdp_action::XDP_DROP;
            }
        },
    };
    shrink_segments::<OPENS>(ctx, interface, hop.interface);
    if pipeline::forward(frame, &link, hop.source, hop.destination).is_err() {
        return by_stack(ctx);
    }
    maps::count(Counter::Forwarded as u32);
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(hop.interface, 0) as u32 }
}

/// Keeps the next hop of a packet that is too large for it with its flow: whoever has to know how large a packet may be
/// finds it there.
#[inline(always)]
fn learn_limit(
    ctx: &XdpContext,
    kernel: &Kernel,
    frame: &impl Frame,
    link: &Link,
    interface: u32,
    generation: u64,
) {
    let Some(Met { found, now }) = kernel.flow() else { return };
    let Some(route) = wire::route(frame, link) else { return };
    if let (fib_result::SUCCESS, lookup) = look_up(ctx.as_ptr(), &route, interface, false) {
        hop::learn(&found, &lookup.hop(), now, generation);
    }
}

/// Has the ends of a connection send no larger segments than both interfaces take, if the packet is of its beginning.
#[inline(always)]
fn shrink_segments<const OPENS: bool>(ctx: &XdpContext, interface: u32, out: u32) {
    if OPENS && clamps_segments() {
        clamp(ctx.ctx as usize, interface, out);
    }
}

/// A function of its own: it has a stack of its own, and leaves nothing for the verifier to remember. The context comes as a
/// number: of a pointer the optimiser would have passed what it points to, and half of the packet's address is none.
#[inline(never)]
fn clamp(ctx: usize, interface: u32, out: u32) -> u64 {
    let ctx = XdpContext::new(ctx as *mut xdp_md);
    let kernel = Kernel::new(ctx.as_ptr());
    let most = || most_bytes(interface).and(most_bytes(out));
    mss::shrink(&mut KernelFrame::new(&ctx), most, |number| kernel.opaque(number));
    0
}

#[inline(always)]
fn most_bytes(interface: u32) -> MostBytes {
    // SAFETY: the daemon replaces a value as a whole word.
    let most = unsafe { maps::MOST_BYTES.get(&(interface as u64)) };
    most.map_or(MostBytes::ANY, |word| MostBytes::from_word(*word))
}

/// The next hop that the packet's flow has kept, if the packet fits there.
#[inline(always)]
fn known_hop(kernel: &Kernel, frame: &impl Frame, link: &Link, generation: u64) -> Option<NextHop> {
    let Met { found, now } = kernel.flow()?;
    let hop = hop::recall(&found, now, generation)?;
    // Out of the optimiser's sight: it would calculate with half a pointer, which the verifier prohibits.
    let bytes = core::hint::black_box(frame.len());
    if bytes <= hop.mtu as u32 + link.offset { Some(hop) } else { None }
}

/// Sends the frame out of an interface as it is. Not by `XDP_TX` where it is the one that the frame
/// came in by: a veth keeps such a frame until something else wakes its peer, unless the peer runs an
/// XDP program too.
#[inline(always)]
pub fn send_out(interface: u32) -> u32 {
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(interface, 0) as u32 }
}

/// Leaves the packet to the node's stack, with the mark by which the classifier knows that it was
/// left on purpose. Where there is no room for the mark, the stack takes the packet for another host's.
#[inline(always)]
fn by_stack(ctx: &XdpContext) -> u32 {
    maps::count(Counter::ForwardedByStack as u32);
    // SAFETY: the context is the program's own.
    let room = unsafe { bpf_xdp_adjust_meta(ctx.ctx, -(size_of::<u64>() as i32)) };
    let mark = ctx.metadata();
    if room == 0 && mark + size_of::<u64>() <= ctx.data() {
        // SAFETY: just compared with the end of the room.
        unsafe { (mark as *mut u64).write_volatile(LEFT_TO_STACK) };
    }
    xdp_action::XDP_PASS
}
