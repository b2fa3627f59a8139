//! The XDP program, and the classifier that lets the node's own stack forward for the cluster.
//!
//! Everything that is decided here is decided by [`testudo_packet::pipeline`]; this crate gives it
//! the kernel's memory, clock, routes and interfaces.

#![no_std]
#![no_main]
#![allow(internal_features)]
#![feature(core_intrinsics, asm_experimental_arch)]

mod classifier;
mod env;
mod frame;
mod maps;
mod route;
mod slot;
mod upcall;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use testudo_packet::env::Env;
use testudo_packet::pipeline;
use testudo_packet::reception::Mode;
use testudo_packet::verdict::{Counter, Verdict};

use env::Kernel;
use frame::KernelFrame;

#[xdp]
pub fn testudo(ctx: XdpContext) -> u32 {
    let mut frame = KernelFrame::new(&ctx);
    let interface = ctx.ingress_ifindex() as u32;
    match pipeline::handle(&Kernel, &mut frame, interface) {
        Verdict::Forward => match Kernel.mode() {
            Mode::Tap { interface } => {
                maps::count(Counter::Forwarded as u32);
                route::send_out(interface)
            }
            _ => route::forward(&ctx, &mut frame, interface),
        },
        Verdict::Pass(_) => {
            maps::count(Counter::Passed as u32);
            route::send_out(interface)
        }
        Verdict::Drop(reason) => {
            maps::count(reason.counter());
            xdp_action::XDP_DROP
        }
        Verdict::Stack => {
            maps::count(Counter::Stack as u32);
            xdp_action::XDP_PASS
        }
        Verdict::Answer => {
            maps::count(Counter::Answered as u32);
            route::send_out(interface)
        }
        // The verifier need not follow each reason by itself.
        Verdict::Upcall(reason) => {
            upcall::send(&ctx, &frame, interface, Kernel.opaque(reason as u64) as u32)
        }
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

// Some helpers are for programs under a licence that is compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
