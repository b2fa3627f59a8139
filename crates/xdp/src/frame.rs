//! The bytes of a packet, read and written where the driver put them.
//!
//! Each access compares its end with the packet's, which is what the verifier asks for. The
//! offset's bound is part of it: the verifier can't follow an offset that it knows no bound of.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_load_bytes;
use aya_ebpf::programs::XdpContext;
use testudo_packet::env::Frame;
use testudo_packet::packet_hash::{HASHED_BYTES, HASHED_WORDS};

use crate::maps;

/// No header begins behind this offset.
const MAX_OFFSET: u32 = 0x0fff;

/// The packet that the program was called for.
pub struct KernelFrame {
    data: usize,
    end: usize,
    ctx: *mut xdp_md,
}

impl KernelFrame {
    #[inline(always)]
    pub fn new(ctx: &XdpContext) -> Self {
        Self { data: ctx.data(), end: ctx.data_end(), ctx: ctx.ctx }
    }

    #[inline(always)]
    fn at<T>(&self, offset: u32) -> Option<*mut T> {
        if offset > MAX_OFFSET {
            return None;
        }
        let mut after = self.data + offset as usize + size_of::<T>();
        // SAFETY: a register moved to itself. It hides where the number comes from, so that the comparison
        // below stays as it is written: the verifier learns nothing from "start < end".
        unsafe { asm!("{0} = {0}", inout(reg) after) };
        if after > self.end {
            return None;
        }
        Some((after - size_of::<T>()) as *mut T)
    }

    #[inline(always)]
    fn read<T>(&self, offset: u32) -> Option<T> {
        let place = self.at::<T>(offset)?;
        // SAFETY: `at` has checked that the bytes lie within the packet, and any bytes are a number.
        // The load may be unaligned: the verifier lets it through only where the machine can do it.
        Some(unsafe { place.read_volatile() })
    }

    #[inline(always)]
    fn write<T>(&mut self, offset: u32, value: T) -> Option<()> {
        let place = self.at::<T>(offset)?;
        // SAFETY: as in `read`; the program is the packet's only user while it runs.
        unsafe { place.write_volatile(value) };
        Some(())
    }
}

impl Frame for KernelFrame {
    #[inline(always)]
    fn len(&self) -> u32 {
        (self.end - self.data) as u32
    }

    #[inline(always)]
    fn opaque(&self, number: u64) -> u64 {
        maps::opaque(number)
    }

    #[inline(always)]
    fn u8(&self, offset: u32) -> Option<u8> {
        self.read(offset)
    }

    #[inline(always)]
    fn u16(&self, offset: u32) -> Option<u16> {
        self.read(offset).map(u16::from_be)
    }

    #[inline(always)]
    fn u32(&self, offset: u32) -> Option<u32> {
        self.read(offset).map(u32::from_be)
    }

    #[inline(always)]
    fn u64(&self, offset: u32) -> Option<u64> {
        self.read(offset).map(u64::from_be)
    }

    #[inline(always)]
    fn u32s<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        self.read::<[u32; N]>(offset).map(|words| words.map(u32::from_be))
    }

    /// By the kernel's own copy: a run of unknown length is one step for the verifier then.
    #[inline(always)]
    fn copy(&self, offset: u32, bytes: u32, room: &mut [u64; HASHED_WORDS]) -> Option<()> {
        // Out of the optimiser's sight, so that the bounds are compared where the verifier looks.
        let bytes = core::hint::black_box(bytes);
        if bytes == 0 || bytes > HASHED_BYTES {
            return None;
        }
        // SAFETY: the context is the program's own, and the helper writes no more than has room.
        let copied =
            unsafe { bpf_xdp_load_bytes(self.ctx, offset, room.as_mut_ptr().cast(), bytes) };
        (copied == 0).then_some(())
    }

    #[inline(always)]
    fn set_u8(&mut self, offset: u32, value: u8) -> Option<()> {
        self.write(offset, value)
    }

    #[inline(always)]
    fn set_u16(&mut self, offset: u32, value: u16) -> Option<()> {
        self.write(offset, value.to_be())
    }

    #[inline(always)]
    fn set_u32(&mut self, offset: u32, value: u32) -> Option<()> {
        self.write(offset, value.to_be())
    }

    #[inline(always)]
    fn set_u32s<const N: usize>(&mut self, offset: u32, values: [u32; N]) -> Option<()> {
        self.write(offset, values.map(u32::to_be))
    }

    #[inline(always)]
    fn set_u64(&mut self, offset: u32, value: u64) -> Option<()> {
        self.write(offset, value.to_be())
    }
}
