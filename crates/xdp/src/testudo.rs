//! The XDP programs, one for each stage of the pipeline, and the classifier that lets the node's own stack forward for the cluster.
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

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use testudo_packet::env::Env;
use testudo_packet::pipeline;
use testudo_packet::reception::Mode;
use testudo_packet::stage::{self, Stage};
use testudo_packet::verdict::{Counter, DropReason, Verdict};

use env::Kernel;
use frame::KernelFrame;

#[xdp]
pub fn testudo(ctx: XdpContext) -> u32 {
    let mut frame = KernelFrame::new(&ctx);
    let interface = ctx.ingress_ifindex() as u32;
    let kernel = Kernel::new(ctx.as_ptr());
    let verdict = pipeline::handle(&kernel, &mut frame, interface);
    act::<true, true, true>(&ctx, &kernel, &mut frame, interface, verdict)
}

#[xdp]
pub fn testudo_related(ctx: XdpContext) -> u32 {
    run::<false, false, false>(&ctx, Kernel::new(ctx.as_ptr()), Stage::Related)
}

#[xdp]
pub fn testudo_reverse_path(ctx: XdpContext) -> u32 {
    run::<true, false, false>(&ctx, Kernel::new(ctx.as_ptr()), Stage::ReversePath)
}

#[xdp]
pub fn testudo_open(ctx: XdpContext) -> u32 {
    let egress = if env::rules_ask_for_egress() { route::egress(&ctx) } else { 0 };
    run::<true, false, true>(&ctx, Kernel::out_by(ctx.as_ptr(), egress), Stage::Open)
}

#[xdp]
pub fn testudo_translate(ctx: XdpContext) -> u32 {
    run::<false, false, true>(&ctx, Kernel::new(ctx.as_ptr()), Stage::Translate)
}

#[xdp]
pub fn testudo_association(ctx: XdpContext) -> u32 {
    run::<false, false, false>(&ctx, Kernel::new(ctx.as_ptr()), Stage::Association)
}

#[xdp]
pub fn testudo_fragment(ctx: XdpContext) -> u32 {
    run::<true, true, false>(&ctx, Kernel::new(ctx.as_ptr()), Stage::Fragment)
}

#[xdp]
pub fn testudo_fragment_flow(ctx: XdpContext) -> u32 {
    run::<true, true, false>(&ctx, Kernel::new(ctx.as_ptr()), Stage::FragmentFlow)
}

#[xdp]
pub fn testudo_fragment_translate(ctx: XdpContext) -> u32 {
    run::<false, false, false>(&ctx, Kernel::new(ctx.as_ptr()), Stage::FragmentTranslate)
}

/// Runs a stage on a frame that another program has handed over; constants as in [`act`].
#[inline(always)]
fn run<const HANDS_OVER: bool, const ASKS_WAY_BACK: bool, const OPENS: bool>(
    ctx: &XdpContext,
    kernel: Kernel,
    stage: Stage,
) -> u32 {
    let mut frame = KernelFrame::new(ctx);
    let interface = ctx.ingress_ifindex() as u32;
    let verdict = stage::run(stage, &kernel, &mut frame, interface);
    act::<HANDS_OVER, ASKS_WAY_BACK, OPENS>(ctx, &kernel, &mut frame, interface, verdict)
}

/// Goes on with the program of a stage, and does not come back unless there is none.
///
/// The optimiser may make a function of what a program does, and call that. Then the other program returns to the call, with
/// its own action. So the optimiser is not to know what is returned here: of a program that decides nothing itself it
/// would conclude that it always drops, and overwrite the action.
#[inline(always)]
fn hand_over(ctx: &XdpContext, kernel: &Kernel, stage: Stage) -> u32 {
    // SAFETY: nothing here waits to be dropped.
    unsafe { maps::STAGES.tail_call(ctx, stage as u32) };
    maps::count(DropReason::Internal.counter());
    kernel.opaque(xdp_action::XDP_DROP as u64) as u32
}

/// Does what was decided, in the main program or in that of a stage; most stages hand over to no other. What goes up
/// may begin a flow there, and is asked for its way back before, unless it has been, or is of a known flow. `OPENS`: as of
/// [`route::forward`].
#[inline(always)]
fn act<const HANDS_OVER: bool, const ASKS_WAY_BACK: bool, const OPENS: bool>(
    ctx: &XdpContext,
    kernel: &Kernel,
    frame: &mut KernelFrame,
    interface: u32,
    verdict: Verdict,
) -> u32 {
    match verdict {
        Verdict::Forward => match kernel.mode() {
            Mode::Tap { interface } => {
                maps::count(Counter::Forwarded as u32);
                route::send_out(interface)
            }
            _ => route::forward::<OPENS>(ctx, kernel, frame, interface),
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
            let reason = kernel.opaque(reason as u64) as u32 | (kernel.limit() as u32) << 16;
            upcall::send::<ASKS_WAY_BACK>(ctx, kernel, frame, interface, reason)
        }
        Verdict::Stage(stage) if HANDS_OVER => hand_over(ctx, kernel, stage),
        Verdict::Stage(_) => {
            maps::count(DropReason::Internal.counter());
            xdp_action::XDP_DROP
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
