//! A generator of packets, and where they end: the benchmark of forwarding.
//!
//! User space writes what flows there are to [`FLOWS`] and runs [`generate`] with live frames; each run makes one
//! packet of the next flow, in turns, and sends it out of a link. [`sink`] counts and drops what arrives at the far
//! end, and [`relay`] stands for a gateway that does nothing: it sends each packet out of the other link.
//!
//! A frame is written whole each time: the kernel hands the same memory out again, with what gateways made of it.
//!
//! `testudo-datapath` has the other half: `benches/forwarding/traffic.rs`.

#![no_std]
#![no_main]

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, PerCpuArray};
use aya_ebpf::programs::XdpContext;

/// Lets user space map an array into its memory (`BPF_F_MMAPABLE`).
const MMAPABLE: u32 = 1 << 10;

/// A flow: addresses; ports, the header's checksum; all as they stand in the packet. The loader sets the size.
#[map]
static FLOWS: Array<[u64; 2]> = Array::with_max_entries(1, MMAPABLE);

/// The words of [`CONTROL`].
mod control {
    /// The flow of the next packet.
    pub const NEXT: u32 = 0;
    /// How many flows there are.
    pub const FLOWS: u32 = 1;
    /// The link that packets go out of.
    pub const LINK: u32 = 2;
    /// The first 16 bytes of a frame: addresses of the link, type, and the two bytes behind.
    pub const HEAD: u32 = 3;
    /// How many words there are.
    pub const WORDS: u32 = 8;
}

#[map]
static CONTROL: Array<u64> = Array::with_max_entries(control::WORDS, MMAPABLE);

/// Packets and bytes that [`sink`] has seen.
#[map]
static ARRIVED: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(1, 0);

/// Where [`relay`] sends packets; the loader writes it.
#[unsafe(no_mangle)]
static RELAY_LINK: u64 = 0;

/// The bytes of a frame that are written: up to the end of a UDP or TCP header's ports.
#[repr(C, packed)]
struct Headers {
    head: [u64; 2],
    /// Length, identification, no fragment.
    first: [u16; 3],
    hops: u8,
    protocol: u8,
    checksum: u16,
    addresses: u64,
    ports: u32,
}

#[inline(always)]
fn word(index: u32) -> Option<*mut u64> {
    CONTROL.get_ptr_mut(index)
}

#[inline(always)]
fn write(ctx: &XdpContext) -> Option<u32> {
    let next = word(control::NEXT)?;
    let flows = word(control::FLOWS)?;
    let link = word(control::LINK)?;
    let (first, second) = (word(control::HEAD)?, word(control::HEAD + 1)?);
    // SAFETY: the map gave the pointers; one processor alone generates.
    let (index, flows, link, head) =
        unsafe { (next.read(), flows.read(), link.read(), [first.read(), second.read()]) };
    let flow = FLOWS.get_ptr(index as u32)?;
    let after = if index + 1 >= flows { 0 } else { index + 1 };
    if ctx.data() + size_of::<Headers>() > ctx.data_end() {
        return None;
    }
    let headers = ctx.data() as *mut Headers;
    // SAFETY: the frame is long enough, as was just compared; the map gave the other pointers.
    unsafe {
        let [addresses, rest] = flow.read();
        next.write(after);
        (&raw mut (*headers).head).write_unaligned(head);
        (&raw mut (*headers).hops).write(64);
        (&raw mut (*headers).checksum).write_unaligned((rest >> 32) as u16);
        (&raw mut (*headers).addresses).write_unaligned(addresses);
        (&raw mut (*headers).ports).write_unaligned(rest as u32);
    }
    Some(link as u32)
}

/// Makes one packet and sends it.
#[xdp]
pub fn generate(ctx: XdpContext) -> u32 {
    match write(&ctx) {
        // SAFETY: a helper that takes numbers.
        Some(link) => unsafe { bpf_redirect(link, 0) as u32 },
        None => xdp_action::XDP_ABORTED,
    }
}

/// Counts a packet and drops it.
#[xdp]
pub fn sink(ctx: XdpContext) -> u32 {
    if let Some(arrived) = ARRIVED.get_ptr_mut(0) {
        // SAFETY: each CPU has a value of its own, and the program is not interrupted by itself.
        unsafe {
            (*arrived)[0] += 1;
            (*arrived)[1] += (ctx.data_end() - ctx.data()) as u64;
        }
    }
    xdp_action::XDP_DROP
}

/// Sends a packet on as it is.
#[xdp]
pub fn relay(_: XdpContext) -> u32 {
    // SAFETY: a plain static; volatile, because the loader has changed its value.
    let link = unsafe { (&raw const RELAY_LINK).read_volatile() };
    // SAFETY: a helper that takes numbers.
    unsafe { bpf_redirect(link as u32, 0) as u32 }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Some helpers are for programs under a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
