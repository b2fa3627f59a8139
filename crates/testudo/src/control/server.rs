//! The daemon's end of the control socket: a thread of its own that answers questions.
//!
//! Invariant: no client can hold the server. Every client is read from and written to without
//! blocking and let go when it keeps still; at most [`MAX_CLIENTS`] are served at once, and who
//! comes then is told so. Only the answer itself takes the time it takes.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::protocol::{Reply, Request};
use super::session::Session;
use super::socket::Socket;

pub use super::socket::SocketError;

/// The most clients that are served at once.
pub const MAX_CLIENTS: usize = 16;

/// How long the server rests after an error of accept(2), which would come again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A running server. It ends, and its socket goes, when this is dropped.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    /// Closing it wakes the thread for the last time.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers on `path` from now on. `answer` is called in the server's thread, one question after
    /// the other.
    pub fn start(
        path: &Path,
        answer: impl FnMut(Request) -> Reply + Send + 'static,
    ) -> Result<Self, SocketError> {
        let failed =
            |what| move |source: io::Error| SocketError::Io { path: path.to_owned(), what, source };
        let socket = Socket::bind(path)?;
        socket.listener.set_nonblocking(true).map_err(failed("make it non-blocking"))?;
        let (stop, stopped) = UnixStream::pair().map_err(failed("make a pair of sockets"))?;
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || Serving { socket, stopped, clients: Vec::new(), answer }.run())
            .map_err(failed("start a thread"))?;
        Ok(Self { path: path.to_owned(), stop: Some(stop), thread: Some(thread) })
    }

    /// Where it answers.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If an answer panicked, that was told when it happened, and the socket is gone.
            let _ = thread.join();
        }
    }
}

struct Client {
    stream: UnixStream,
    session: Session,
}

struct Serving<A> {
    socket: Socket,
    stopped: UnixStream,
    clients: Vec<Client>,
    answer: A,
}

impl<A: FnMut(Request) -> Reply> Serving<A> {
    fn run(mut self) {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::EINTR) => continue,
                // Only ENOMEM is left: nothing to be done but to try again later.
                Err(_) => {
                    thread::sleep(ACCEPT_PAUSE);
                    continue;
                }
            };
            if ready.stop {
                return;
            }
            let now = Instant::now();
            for (client, ready) in self.clients.iter_mut().zip(ready.clients) {
                if ready && client.advance(now, &mut self.answer).is_err() {
                    client.session.abandon();
                }
            }
            self.clients.retain(|client| !client.session.is_over(now));
            if ready.listener {
                self.accept(now);
            }
        }
    }

    /// Waits until somebody has something to say or to hear, or somebody's time is up.
    fn wait(&self) -> Result<Ready, Errno> {
        let listener = self.socket.listener.as_fd();
        let mut fds = vec![interest(self.stopped.as_fd(), true), interest(listener, true)];
        for client in &self.clients {
            fds.push(interest(client.stream.as_fd(), client.session.wants_input()));
        }
        let deadline = self.clients.iter().map(|client| client.session.deadline()).min();
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            // Rounded up, or the server would spin through the last millisecond.
            PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX)
        });
        poll(&mut fds, timeout)?;
        let mut ready = fds.iter().map(|fd| fd.any().unwrap_or(true));
        Ok(Ready {
            stop: ready.next().unwrap_or(true),
            listener: ready.next().unwrap_or(false),
            clients: ready.collect(),
        })
    }

    fn accept(&mut self, now: Instant) {
        match self.socket.listener.accept() {
            Ok((stream, _)) => {
                if stream.set_nonblocking(true).is_err() {
                    return;
                }
                if self.clients.len() < MAX_CLIENTS {
                    self.clients.push(Client { stream, session: Session::new(now) });
                    return;
                }
                let reason = format!("{MAX_CLIENTS} clients are served already; try again later");
                let session = Session::turned_away(now, &reason);
                // A few bytes fit an empty socket, so one try is enough.
                let _ = Client { stream, session }.advance(now, &mut self.answer);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // Out of descriptors or memory: others have to give some back first.
            Err(_) => thread::sleep(ACCEPT_PAUSE),
        }
    }
}

struct Ready {
    stop: bool,
    listener: bool,
    clients: Vec<bool>,
}

fn interest(fd: BorrowedFd<'_>, input: bool) -> PollFd<'_> {
    PollFd::new(fd, if input { PollFlags::POLLIN } else { PollFlags::POLLOUT })
}

impl Client {
    /// Reads and writes what can be without waiting. An error means that the client has gone.
    fn advance(
        &mut self,
        now: Instant,
        answer: &mut dyn FnMut(Request) -> Reply,
    ) -> io::Result<()> {
        let mut bytes = [0; 4096];
        if self.session.wants_input() {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.session.handle_end(answer),
                Ok(count) => self.session.handle_bytes(now, &bytes[..count], answer),
                Err(error) => would_block(error)?,
            }
        }
        if !self.session.output().is_empty() {
            match self.stream.write(self.session.output()) {
                Ok(count) => self.session.written(now, count, answer),
                Err(error) => would_block(error)?,
            }
        }
        Ok(())
    }
}

fn would_block(error: io::Error) -> io::Result<()> {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}
