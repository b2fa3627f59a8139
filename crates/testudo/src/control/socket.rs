//! The socket file: who may put one down, and who takes it away.
//!
//! Invariant: a running node's socket is never taken from it. A file is removed only while nobody
//! listens on it, under a lock of its directory, so that two nodes that start at once can't remove
//! each other's. From its first moment only its owner may connect to it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::client::{Client, ClientError};

/// Why a node can't answer on its control socket. Nothing else of it has been set up by then.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another node answers there.
    #[error("{node} answers on {} already; expected a socket of this node's own", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
        /// The other node, as it says itself.
        node: String,
    },
    /// Something that is no socket is there.
    #[error(
        "{} is not a socket; expected a socket or nothing there; it is left as it is",
        path.display()
    )]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The operating system did not let us.
    #[error("can't answer on {}: {what}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// How long another node may take to say who it is.
const NAME_LIMIT: Duration = Duration::from_secs(1);

/// How often and how far apart the lock of the directory is tried: about 5 seconds in all.
const LOCK_TRIES: u32 = 100;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Who takes calls and does not answer.
const SILENT: &str = "a node that does not say who it is";

/// How often somebody silent is asked: for about [`NAME_LIMIT`] each time.
const SILENT_TRIES: u32 = 5;

/// A listening socket and its file, which goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    pub listener: UnixListener,
    path: PathBuf,
    inode: (u64, u64),
}

impl Socket {
    /// Puts a socket down at `path`, in place of one that nobody listens on any more.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed =
            |what| move |source: io::Error| SocketError::Io { path: path.to_owned(), what, source };
        let directory = path.parent().unwrap_or(Path::new("/"));
        let _lock = lock(directory).map_err(failed("lock its directory"))?;
        remove_dead(path)?;
        let listener = listen_on(path).map_err(failed("listen"))?;
        let inode = inode(path).map_err(failed("look at it"))?;
        Ok(Self { listener, path: path.to_owned(), inode })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The file may be another's by now, if someone removed ours by hand.
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Locks the directory, which is made if it is not there and its parent is.
fn lock(directory: &Path) -> io::Result<Flock<File>> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let mut file = File::open(directory)?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((unlocked, Errno::EWOULDBLOCK)) => file = unlocked,
            Err((_, error)) => return Err(error.into()),
        }
        thread::sleep(LOCK_PAUSE);
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "another process keeps it locked"))
}

/// Removes the socket of a node that is gone. A process that was killed may take a moment to be: its
/// socket still takes calls then, and nobody answers.
fn remove_dead(path: &Path) -> Result<(), SocketError> {
    for _ in 1..SILENT_TRIES {
        match remove_stale(path) {
            Err(SocketError::InUse { node, .. }) if node == SILENT => thread::sleep(LOCK_PAUSE),
            other => return other,
        }
    }
    remove_stale(path)
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |what, source| SocketError::Io { path: path.to_owned(), what, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at it", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    let node = match Client::connect(path, NAME_LIMIT) {
        Err(ClientError::NoNode { source, .. })
            if source.kind() == io::ErrorKind::ConnectionRefused =>
        {
            return fs::remove_file(path).map_err(|error| failed("remove a dead node's", error));
        }
        Err(ClientError::NoNode { source, .. } | ClientError::Forbidden { source, .. }) => {
            return Err(failed("ask who answers there", source));
        }
        Ok(mut client) => client.status().ok().map(|status| (status.node, status.cluster)),
        Err(_) => None,
    };
    let node = match node {
        Some((node, cluster)) => format!("node {node} of cluster {cluster}"),
        None => SILENT.to_owned(),
    };
    Err(SocketError::InUse { path: path.to_owned(), node })
}

fn listen_on(path: &Path) -> io::Result<UnixListener> {
    let address = UnixAddr::new(path)?;
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    // The file that bind(2) makes has the mode of the socket, so it is never open to others.
    fchmod(&fd, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(fd.as_raw_fd(), &address)?;
    listen(&fd, Backlog::new(16)?)?;
    Ok(UnixListener::from(fd))
}
