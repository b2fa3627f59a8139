//! Passes a packet up to user space, whole, with what user space needs to send it on.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, xdp_action};
use aya_ebpf::helpers::generated::bpf_xdp_load_bytes;
use aya_ebpf::programs::XdpContext;
use testudo_packet::env::{Env, Frame};
use testudo_packet::meter::{self, Kind};
use testudo_packet::verdict::{Counter, DropReason, UpcallReason};
use testudo_packet::wire;

use crate::env::Kernel;
use crate::maps::{self, UPCALL_ROOM};
use crate::route::{self, NoHop};

/// The most bytes of a packet that go up; a longer one is dropped and counted.
const MAX_BYTES: u32 = 2048;

/// Stands in the reason of a packet whose source is not routed back as its interface asks.
const NO_WAY_BACK: u32 = 1 << 8;

/// What goes up. `testudo-datapath` reads it by offset: `kernel/upcall.rs`.
#[repr(C)]
struct Upcall {
    interface: u32,
    bytes: u32,
    reason: u32,
    /// The interface that the packet goes out by, or 0 if the node's stack has to find out.
    out_interface: u32,
    /// Both addresses on that link, or 0 if the node's stack has to find out.
    source: u64,
    destination: u64,
    packet: [u8; MAX_BYTES as usize],
}

/// Whether packets that go up for a reason are counted by their sources. Not what waits for a bucket to come or to be
/// read: those are of flows that have long begun.
#[inline(always)]
fn is_metered(reason: u32) -> bool {
    let reason = reason & 0xff;
    reason != UpcallReason::Loading as u32 && reason != UpcallReason::Held as u32
}

/// Passes the packet up, for an [`UpcallReason`] by its number, above which stands how large a packet its next hop takes,
/// if it is larger; and takes it off the kernel's hands.
#[inline(always)]
pub fn send<const ASKS_WAY_BACK: bool>(
    ctx: &XdpContext,
    kernel: &Kernel,
    frame: &impl Frame,
    interface: u32,
    reason: u32,
) -> u32 {
    let bytes = frame.len();
    if bytes == 0 || bytes > MAX_BYTES {
        maps::count(DropReason::UpcallFull.counter());
        return xdp_action::XDP_DROP;
    }
    // An analyser is no hop.
    let link = wire::parse_link(frame).ok().filter(|_| kernel.mode().is_inline());
    if let Some(packet) = link.filter(|_| is_metered(reason)).and_then(|l| wire::route(frame, &l))
        && meter::is_crowded(maps::UPCALLS.query(BPF_RB_AVAIL_DATA as u64), UPCALL_ROOM as u64)
        && !meter::admits(kernel, packet.source, Kind::Upcall, kernel.now())
    {
        maps::count(DropReason::UpcallLimit.counter());
        return xdp_action::XDP_DROP;
    }
    let hop = match link {
        Some(link) => route::next_hop(ctx, frame, &link, interface),
        None => Err(NoHop::AskStack(0)),
    };
    let (out, hop) = match hop {
        Ok(hop) => (hop.interface, Some(hop)),
        Err(NoHop::AskStack(out)) if out != 0 => (out, None),
        Err(_) => (kernel.egress, None),
    };
    // User space has no routes, and believes what is found here.
    let packet = link.filter(|_| ASKS_WAY_BACK).and_then(|link| wire::route(frame, &link));
    let comes_back = match packet {
        Some(packet) => route::comes_back(ctx.as_ptr(), &packet, interface),
        None => true,
    };
    let reason = if comes_back { reason } else { reason | NO_WAY_BACK };
    let Some(mut room) = maps::UPCALLS.reserve::<Upcall>(0) else {
        maps::count(DropReason::UpcallFull.counter());
        return xdp_action::XDP_DROP;
    };
    let upcall = room.as_mut_ptr();
    // The same number again, in a form whose bounds the verifier can follow.
    let copied_bytes = (core::hint::black_box(bytes - 1) & (MAX_BYTES - 1)) + 1;
    // SAFETY: the ring gave room for the whole structure; the helper writes `bytes` bytes at most,
    // which fit, as was checked above.
    let copied = unsafe {
        (&raw mut (*upcall).interface).write(interface);
        (&raw mut (*upcall).bytes).write(bytes);
        (&raw mut (*upcall).reason).write(reason);
        (&raw mut (*upcall).out_interface).write(out);
        (&raw mut (*upcall).source).write(hop.map_or(0, |hop| hop.source.0));
        (&raw mut (*upcall).destination).write(hop.map_or(0, |hop| hop.destination.0));
        bpf_xdp_load_bytes(ctx.as_ptr().cast(), 0, (&raw mut (*upcall).packet).cast(), copied_bytes)
    };
    if copied != 0 {
        room.discard(BPF_RB_NO_WAKEUP as u64);
        maps::count(DropReason::Internal.counter());
        return xdp_action::XDP_DROP;
    }
    // Somebody waits for it: the wake-up costs less than the daemon's next look.
    let waits = reason & 0xff == UpcallReason::Commit as u32;
    let wakeup = if waits { BPF_RB_FORCE_WAKEUP } else { BPF_RB_NO_WAKEUP };
    room.submit(wakeup as u64);
    maps::count(Counter::Upcall as u32);
    xdp_action::XDP_DROP
}
