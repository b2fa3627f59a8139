//! Words of memory that several CPUs, and perhaps the kernel, work on at once.
//!
//! A [`Words`] is a run of 64-bit atomics, either of this process or mapped from a BPF array. All
//! access is through atomics, so a kernel that writes at the same time is no data race.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use testudo_packet::table::Slot;

/// A run of words in pages of its own.
#[derive(Debug)]
pub struct Words {
    start: NonNull<AtomicU64>,
    count: usize,
}

// SAFETY: the memory is reached through atomics only, and belongs to nobody but this value.
unsafe impl Send for Words {}
// SAFETY: as above.
unsafe impl Sync for Words {}

const PROTECTION: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

fn bytes(count: usize) -> io::Result<NonZeroUsize> {
    NonZeroUsize::new(count * 8)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a mapping of no words"))
}

impl Words {
    /// Zeroed words of this process. A page costs memory once it is written.
    pub fn zeroed(count: usize) -> io::Result<Self> {
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at a place that the kernel picks.
        let start = unsafe { mmap_anonymous(None, bytes(count)?, PROTECTION, flags) }?;
        Ok(Self { start: start.cast(), count })
    }

    /// The values of a memory-mapped BPF array, as one run of words.
    pub fn map(array: impl AsFd, count: usize) -> io::Result<Self> {
        let flags = MapFlags::MAP_SHARED;
        // SAFETY: a new mapping at a place that the kernel picks.
        let start = unsafe { mmap(None, bytes(count)?, PROTECTION, flags, array, 0) }?;
        Ok(Self { start: start.cast(), count })
    }

    /// All the words.
    pub fn as_slice(&self) -> &[AtomicU64] {
        // SAFETY: the memory is `count` words long, aligned for them, and lives as long as `self`;
        // any bytes are a number.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

/// One word of them, as the pipeline works on it.
#[derive(Clone, Copy, Debug)]
pub struct Word<'a>(pub &'a AtomicU64);

impl Slot for Word<'_> {
    fn load<const W: usize>(self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn store<const W: usize>(self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    fn publish<const W: usize>(self, value: u64) {
        self.0.store(value, Ordering::Release);
    }

    fn compare_exchange<const W: usize>(self, old: u64, new: u64) -> bool {
        self.0.compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn add<const W: usize>(self, value: u64) {
        self.0.fetch_add(value, Ordering::Relaxed);
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and nothing borrows from it any more.
        if let Err(error) = unsafe { munmap(self.start.cast(), self.count * 8) } {
            tracing::error!(%error, "a mapping could not be undone");
        }
    }
}

/// Asks the CPU to bring the line of this word near, to be written.
#[inline(always)]
pub fn prefetch(word: &AtomicU64) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; it reads nothing and faults on nothing.
    unsafe {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(word).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = word;
}
