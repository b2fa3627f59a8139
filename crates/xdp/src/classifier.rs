//! Lets the node's own stack take what the XDP program has left to it.
//!
//! A frame to the cluster's shared address is for another host as far as the stack can tell. The XDP
//! program marks what it leaves to the stack on purpose, because a neighbour has to be found or the
//! sender told something; this program believes the mark and not the address. Else, in the moment in
//! which a dying node has lost one program and not yet the other, its stack would forward what is
//! other nodes'.

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::helpers::generated::bpf_skb_change_type;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::route::LEFT_TO_STACK;

const PACKET_HOST: u32 = 0;
const PACKET_OTHERHOST: u32 = 3;

#[classifier]
pub fn testudo_stack(ctx: TcContext) -> i32 {
    // SAFETY: the context is the program's own.
    let skb = unsafe { &*ctx.skb.skb };
    let mark = skb.data_meta as usize;
    if skb.pkt_type == PACKET_OTHERHOST && mark + size_of::<u64>() <= skb.data as usize {
        // SAFETY: just compared with the end of what stands before the packet.
        let mark = unsafe { (mark as *const u64).read_volatile() };
        if mark == LEFT_TO_STACK {
            // SAFETY: the context is the program's own.
            unsafe { bpf_skb_change_type(ctx.skb.skb, PACKET_HOST) };
        }
    }
    TC_ACT_UNSPEC
}
