//! A BPF file system that is mounted nowhere: it lives as long as its descriptor is open.
//!
//! Invariant: what is pinned there goes when the last process ends that has the descriptor, however it
//! ends. So a daemon that replaces itself (execve(2) keeps descriptors that are meant to be kept) can
//! leave its packet handling to the new program, and if that never gets to take it, nothing is left on
//! the interfaces by anyone.

use std::ffi::{CStr, c_char};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::ptr;

use crate::Error;

/// `enum fsconfig_command` of the kernel's interface: make the file system.
const CREATE: libc::c_uint = 6;

/// The directory in it that is handed to [`super::KernelDatapath::pin`].
const PINS: &str = "pins";

/// Such a file system. The descriptor is inherited by programs that this process executes.
#[derive(Debug)]
pub struct NamelessFileSystem(OwnedFd);

impl NamelessFileSystem {
    /// Makes one. Needs Linux 5.2 and CAP_SYS_ADMIN.
    ///
    /// # Errors
    ///
    /// [`Error::Pin`]; nothing is left.
    pub fn make() -> Result<Self, Error> {
        make().map(Self).map_err(|error| Error::Pin {
            path: "a BPF file system without a name".into(),
            said: error.to_string(),
        })
    }

    /// The number of its descriptor, which the next program has to know.
    #[must_use]
    pub fn number(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// Where to pin and to adopt, in this process and in the program that it executes.
    #[must_use]
    pub fn directory(number: i32) -> PathBuf {
        Path::new("/proc/self/fd").join(number.to_string()).join(PINS)
    }

    /// Whether that is there.
    #[must_use]
    pub fn is_there(number: i32) -> bool {
        fs::exists(Self::directory(number)).unwrap_or(false)
    }
}

fn make() -> io::Result<OwnedFd> {
    let configured = open(c"bpf")?;
    let nothing = ptr::null::<c_char>();
    // SAFETY: this command reads no key and no value.
    let made = unsafe {
        libc::syscall(libc::SYS_fsconfig, configured.as_raw_fd(), CREATE, nothing, nothing, 0)
    };
    checked(made)?;
    // SAFETY: only numbers are passed.
    let mounted = unsafe { libc::syscall(libc::SYS_fsmount, configured.as_raw_fd(), 0, 0) };
    descriptor(mounted)
}

fn open(kind: &CStr) -> io::Result<OwnedFd> {
    const CLOSE_ON_EXEC: libc::c_uint = 1;
    // SAFETY: the name is a C string that outlives the call.
    descriptor(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC) })
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let number = checked(result)?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(number as i32) })
}
