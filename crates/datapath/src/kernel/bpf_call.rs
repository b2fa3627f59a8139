//! Two commands of bpf(2) that the library has only in forms which close the descriptor when they fail:
//! a link that could not be pinned would be taken off its interface.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// `enum bpf_cmd` of the kernel's interface.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_GET_FD_BY_ID: libc::c_long = 30;

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

fn call(command: libc::c_long, attributes: &Attributes) -> io::Result<libc::c_long> {
    let attributes = std::ptr::from_ref(attributes);
    // SAFETY: the attributes are as long as is said and outlive the call; what they point to does too.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<Attributes>()) };
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
