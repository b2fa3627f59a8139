//! Connecting to a Unix socket without waiting for ever: a socket whose owner is stopped accepts
//! connections until its backlog is full, and then an ordinary connect(2) blocks.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect as connect_socket, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Connects within `limit`, which also becomes the stream's time limit to read and to write.
pub(super) fn connect(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let limit = limit.max(Duration::from_millis(1));
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The kernel bounds connect(2) on a Unix socket by the time limit to send.
    let seconds = libc_seconds(limit);
    setsockopt(&fd, sockopt::SendTimeout, &TimeVal::new(seconds, limit.subsec_micros().into()))?;
    connect_socket(fd.as_raw_fd(), &address)?;
    let stream = UnixStream::from(fd);
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

fn libc_seconds(limit: Duration) -> i64 {
    i64::try_from(limit.as_secs()).unwrap_or(i64::MAX)
}
