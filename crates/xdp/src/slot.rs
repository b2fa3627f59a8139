//! A slot of the node table in kernel memory.

use core::arch::asm;
use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

use testudo_packet::table::Slot;

/// A pointer to a slot that the map gave, which stays valid while the program runs.
#[derive(Clone, Copy)]
pub struct KernelSlot(pub *mut u64);

impl KernelSlot {
    #[inline(always)]
    fn word<const W: usize>(self) -> *mut u64 {
        // SAFETY: `W` is below the number of words of a slot: the pipeline names its words by
        // constants, and the verifier checks each against the size of the map's values.
        unsafe { self.0.add(W) }
    }
}

impl Slot for KernelSlot {
    #[inline(always)]
    fn load<const W: usize>(self) -> u64 {
        // SAFETY: within the slot. Other CPUs and the daemon write whole words with single stores.
        unsafe { self.word::<W>().read_volatile() }
    }

    #[inline(always)]
    fn store<const W: usize>(self, value: u64) {
        // SAFETY: as in `load`.
        unsafe { self.word::<W>().write_volatile(value) }
    }

    #[inline(always)]
    fn publish<const W: usize>(self, value: u64) {
        // SAFETY: as in `load`. An exchange is ordered against all that is around it (BPF
        // instruction set, "Atomic operations": BPF_XCHG is fully ordered).
        unsafe { atomic_xchg::<u64, { AtomicOrdering::SeqCst }>(self.word::<W>(), value) };
    }

    #[inline(always)]
    fn compare_exchange<const W: usize>(self, old: u64, new: u64) -> bool {
        const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;
        // SAFETY: as in `load`.
        unsafe { atomic_cxchg::<u64, ORDER, ORDER>(self.word::<W>(), old, new).1 }
    }

    /// There is no instruction that only fetches; but nothing waits for a word that is not used.
    #[inline(always)]
    fn fetch<const W: usize>(self) {
        self.load::<W>();
    }

    #[inline(always)]
    fn opaque(self, number: u64) -> u64 {
        let mut number = number;
        // SAFETY: a register is written to itself. With no instruction at all, two lines of source would begin at one, which the
        // kernel refuses.
        unsafe { asm!("{0} = {0}", inout(reg) number, options(pure, nomem, nostack)) };
        number
    }

    #[inline(always)]
    fn add<const W: usize>(self, value: u64) {
        // SAFETY: as in `load`.
        unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(self.word::<W>(), value) };
    }
}
