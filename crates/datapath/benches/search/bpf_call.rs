//! The calls of bpf(2) that the loader's library lacks: timed test runs, and batches on hash maps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

/// A frame that is long enough for the kernel to run an XDP program on.
const FRAME: [u8; 64] = [0; 64];

/// What a run of a program gave.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What the program returned.
    pub result: u32,
    /// How long it ran, by the kernel's clock.
    pub nanos: u32,
}

/// The part of `union bpf_attr` that `BPF_PROG_TEST_RUN` reads.
#[repr(C)]
#[derive(Default)]
struct RunAttributes {
    program: u32,
    result: u32,
    bytes_in: u32,
    bytes_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    nanos: u32,
    context: [u64; 3],
    batch: u64,
}

/// The part of `union bpf_attr` that the batch calls read.
#[repr(C)]
#[derive(Default)]
struct BatchAttributes {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// # Safety
///
/// `attributes` is what the command reads, and its pointers are good for what the command does.
unsafe fn call<T>(command: libc::c_long, attributes: &mut T) -> io::Result<()> {
    let size = size_of::<T>();
    // SAFETY: the caller's promise; the size is the structure's own.
    let done =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs a program once.
pub fn test_run(program: BorrowedFd<'_>) -> io::Result<Run> {
    let mut attributes = RunAttributes {
        program: program.as_raw_fd() as u32,
        bytes_in: FRAME.len() as u32,
        data_in: FRAME.as_ptr() as u64,
        repeat: 1,
        ..RunAttributes::default()
    };
    // SAFETY: the only pointer is to a frame of the length that is said.
    unsafe { call(BPF_PROG_TEST_RUN, &mut attributes) }?;
    Ok(Run { result: attributes.result, nanos: attributes.nanos })
}

/// Puts entries into a map; `keys` and `values` are of the map's sizes.
pub fn update_batch<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    assert_eq!(keys.len(), values.len());
    let mut attributes = BatchAttributes {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        ..BatchAttributes::default()
    };
    // SAFETY: the kernel reads `count` keys and values, which the slices hold.
    unsafe { call(BPF_MAP_UPDATE_BATCH, &mut attributes) }
}

/// Takes entries out of a map.
pub fn delete_batch<K>(map: BorrowedFd<'_>, keys: &[K]) -> io::Result<()> {
    let mut attributes = BatchAttributes {
        keys: keys.as_ptr() as u64,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        ..BatchAttributes::default()
    };
    // SAFETY: the kernel reads `count` keys, which the slice holds.
    unsafe { call(BPF_MAP_DELETE_BATCH, &mut attributes) }
}

/// Reads a whole hash map into `keys` and `values`, batch by batch; returns how many entries there
/// were.
pub fn lookup_all<K, V>(
    map: BorrowedFd<'_>,
    keys: &mut [K],
    values: &mut [V],
) -> io::Result<usize> {
    assert_eq!(keys.len(), values.len());
    let (mut place, mut entries) = (0u32, 0);
    loop {
        let mut attributes = BatchAttributes {
            from: if entries == 0 { 0 } else { &raw const place as u64 },
            to: &raw mut place as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: keys.len() as u32,
            map: map.as_raw_fd() as u32,
            ..BatchAttributes::default()
        };
        // SAFETY: the kernel writes at most `count` keys and values, which the slices have room for,
        // and one word to the place.
        let done = unsafe { call(BPF_MAP_LOOKUP_BATCH, &mut attributes) };
        entries += attributes.count as usize;
        match done {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(entries),
            Err(error) => return Err(error),
        }
    }
}
