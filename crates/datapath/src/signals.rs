//! What a process does about a peer that has closed its stream.
//!
//! It is here because asking for it takes `unsafe`, and here alone is room for that.

use std::io;

/// Has a write to a stream that nobody reads fail, and not end the process (SIGPIPE, signal(7)). A Rust program begins
/// so; an execve(2) by the standard library that fails leaves it otherwise.
pub fn ignore_closed_streams() -> io::Result<()> {
    // SAFETY: no handler of this process is called, nor one replaced that anybody relies on.
    let before = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}
