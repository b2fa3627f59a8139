//! Commands of bpf(2) that the library has not, or only in forms which close the descriptor when they fail: a link
//! that could not be pinned would be taken off its interface.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use testudo_packet::set::TrieKey;

/// `enum bpf_cmd` of the kernel's interface.
const BPF_MAP_GET_NEXT_KEY: libc::c_long = 4;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

/// `enum membarrier_cmd`.
const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;

/// The part of `union bpf_attr` that the two commands read.
#[repr(C)]
union Attributes {
    pin: Pin,
    link: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Pin {
    path: u64,
    object: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that commands on many elements read.
#[repr(C)]
struct Batch {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// The part of `union bpf_attr` that commands on one element read.
#[repr(C)]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    next_key: u64,
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: the attributes are as long as is said and outlive the call; what they point to does too.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Gives a BPF object a name in a BPF file system.
pub fn pin(object: impl AsFd, path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let object = object.as_fd().as_raw_fd() as u32;
    let pin = Pin { path: path.as_ptr() as u64, object, flags: 0 };
    call(BPF_OBJ_PIN, &Attributes { pin }).map(|_| ())
}

/// Another descriptor of a link.
pub fn link(id: u32) -> io::Result<OwnedFd> {
    // The rest of the attributes has to be 0.
    let mut attributes = Attributes { pin: Pin { path: 0, object: 0, flags: 0 } };
    attributes.link = id;
    let fd = call(BPF_LINK_GET_FD_BY_ID, &attributes)?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Puts these keys into a trie of sets, each with a value of 0. After an error some may be there.
pub fn update_batch(map: BorrowedFd<'_>, keys: &[TrieKey]) -> io::Result<()> {
    let values = vec![0u64; keys.len()];
    let batch = Batch { values: values.as_ptr() as u64, ..batch(map, keys) };
    call(BPF_MAP_UPDATE_BATCH, &batch).map(|_| ())
}

/// Takes these keys out of a trie of sets. After an error some may be gone.
pub fn delete_batch(map: BorrowedFd<'_>, keys: &[TrieKey]) -> io::Result<()> {
    call(BPF_MAP_DELETE_BATCH, &batch(map, keys)).map(|_| ())
}

fn batch(map: BorrowedFd<'_>, keys: &[TrieKey]) -> Batch {
    Batch {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: 0,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        element_flags: 0,
        flags: 0,
    }
}

/// The key behind this one in a trie of sets, in an order of the kernel's; without one, the first. `None` behind the
/// last.
pub fn next_key(map: BorrowedFd<'_>, key: Option<&TrieKey>) -> io::Result<Option<TrieKey>> {
    let mut next = TrieKey::default();
    let element = Element {
        map: map.as_raw_fd() as u32,
        unused: 0,
        key: key.map_or(0, |key| std::ptr::from_ref(key) as u64),
        next_key: &raw mut next as u64,
    };
    match call(BPF_MAP_GET_NEXT_KEY, &element) {
        Ok(_) => Ok(Some(next)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns when every program run has ended that was under way on some CPU: membarrier(2) waits for a grace period of
/// RCU, which XDP programs run under. With one CPU none is under way during a system call.
pub fn wait_for_grace_period() -> io::Result<()> {
    // SAFETY: a call without memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
