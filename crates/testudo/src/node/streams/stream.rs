//! One sync stream: a socket and what it is wrapped in.
//!
//! Invariant: the replica does not hear of a stream, and no byte of it leaves by one, before the
//! certificate at its other end is believed. That takes [`HANDSHAKE_MILLIS`] at most.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, setsockopt, socket, sockopt,
};
use testudo_cluster::replica::{ConnectionId, Replica};
use testudo_cluster::sync::{Side, SyncError};
use testudo_packet::bucket::{Nanos, NodeId};

use super::channel::Channel;
use crate::node::credentials::Credentials;
use crate::node::credentials::refusal::{self, Reason};

/// How much is read at once, in bytes, and how often in a turn.
pub const READ_BYTES: usize = 64 * 1024;
const MAX_READS: usize = 4;

/// How much is made ready to be written, in bytes, and how often in a turn.
const WRITE_BYTES: usize = 256 * 1024;
const MAX_WRITES: usize = 4;

/// How much is read at once before the peer has proved who it is, in bytes.
const SHAKE_BYTES: usize = 4096;

/// How long a peer may take to show its certificate, in milliseconds.
const HANDSHAKE_MILLIS: u64 = 3000;

/// How long written bytes may stay unacknowledged, and how long nothing may come: then the peer is
/// gone, as far as this stream goes. Whether it lives is for heartbeats to say, and much sooner.
const USER_TIMEOUT_MS: u32 = 5000;
const KEEPALIVE_SECONDS: u32 = 2;
const KEEPALIVE_PROBES: u32 = 2;

/// Why a stream has ended. The replica sends again on the next what was not acknowledged.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The peer has closed it.
    #[error("the peer closed it")]
    Closed,
    /// The peer has closed it, and has not proved who it is.
    #[error(
        "the peer closed it within the handshake: it refuses this node's version, secret, name or \
         settings, and its log says which, or it has no room"
    )]
    TurnedAway,
    /// The peer has closed it, and has not shown a certificate.
    #[error(
        "the peer closed it before it had shown a certificate: it is no member, has tls = \"off\" or an \
         older release, or it has no room"
    )]
    Unshown,
    /// TLS could not be agreed on, or what came by it later can't be believed.
    #[error("{}", refusal::words(.0))]
    Tls(#[from] rustls::Error),
    /// The peer did not show a certificate in time.
    #[error("the peer did not show a certificate within {HANDSHAKE_MILLIS} ms")]
    Late,
    /// There was no room for a stream that had proved nothing yet.
    #[error("it had proved nothing yet, and others came after it; {seats} such streams are served")]
    Crowded {
        /// How many of its kind.
        seats: usize,
    },
    /// It was set up by certificates that are not in force any more, and was not renewed in time.
    #[error("it was set up by an older certificate, and was not renewed in time")]
    Outdated,
    /// The network, or a side of it, failed.
    #[error("{0}")]
    Socket(#[from] io::Error),
    /// What the peer said was refused.
    #[error("{0}")]
    Sync(#[from] SyncError),
    /// No random number could be drawn.
    #[error("no random number: {0}")]
    Random(#[from] getrandom::Error),
}

impl Ended {
    /// What it is counted as, if it has to do with who may have a stream at all.
    pub fn reason(&self) -> Option<Reason> {
        match self {
            Self::Tls(error) => Some(Reason::of(error)),
            Self::Unshown => Some(Reason::TurnedAway),
            Self::Late => Some(Reason::Late),
            Self::Crowded { .. } => Some(Reason::Crowded),
            _ => None,
        }
    }
}

/// Whether a stream could go on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It could: the turn's share was used up.
    More,
    /// It waits for the peer.
    Waiting,
}

/// What a stream is set up by.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// What this node proves who it is by; nothing with tls = "off".
    pub credentials: Option<Arc<Credentials>>,
    /// Which credentials these are.
    pub generation: u64,
}

/// One stream.
pub struct Stream {
    /// What the poll knows it by.
    pub token: Token,
    /// Where it leads.
    pub address: SocketAddr,
    /// What the replica knows it by; nothing before a certificate was shown.
    pub connection: Option<ConnectionId>,
    /// Who is at the other end: whom it was dialled to, or whom the certificate there names.
    pub peer: Option<NodeId>,
    /// Whether this node dialled.
    pub dialled: bool,
    /// Whether it is to take the place of another one.
    pub renewal: bool,
    /// Since when there is a connection.
    pub since: Nanos,
    /// Whether the peer was asked to dial anew.
    pub asked: bool,
    /// What it was set up by.
    pub terms: Terms,
    /// Whether the connection is not there yet.
    dialling: bool,
    socket: TcpStream,
    channel: Channel,
    /// Whether this node's greeting was sent.
    greeted: bool,
    readable: bool,
    /// Whether the poll has seen its end, which is said once, perhaps together with bytes before it.
    ends: bool,
    writable: bool,
    output: Vec<u8>,
}

impl Stream {
    /// Begins to dial a peer, from an address of this node's.
    pub fn dial(
        registry: &Registry,
        token: Token,
        (peer, address): (NodeId, SocketAddr),
        from: SocketAddr,
        terms: Terms,
    ) -> Result<Self, Ended> {
        let socket = begin_to_connect(from, address)?;
        let channel = match &terms.credentials {
            Some(credentials) => Channel::dialled(credentials, peer)?,
            None => Channel::plain(),
        };
        let stream = Self::new(registry, token, (socket, channel), address, terms)?;
        Ok(Self { peer: Some(peer), dialled: true, dialling: true, ..stream })
    }

    /// Takes a stream that somebody dialled.
    pub fn accept(
        registry: &Registry,
        token: Token,
        (socket, address): (TcpStream, SocketAddr),
        now: Nanos,
        terms: Terms,
    ) -> Result<Self, Ended> {
        let channel = match &terms.credentials {
            Some(credentials) => Channel::accepted(credentials, address)?,
            None => Channel::plain(),
        };
        let stream = Self::new(registry, token, (socket, channel), address, terms)?;
        Ok(Self { since: now, ..stream })
    }

    fn new(
        registry: &Registry,
        token: Token,
        (mut socket, channel): (TcpStream, Channel),
        address: SocketAddr,
        terms: Terms,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        setsockopt(&socket, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
        setsockopt(&socket, sockopt::KeepAlive, &true)?;
        setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_SECONDS)?;
        setsockopt(&socket, sockopt::TcpKeepInterval, &KEEPALIVE_SECONDS)?;
        setsockopt(&socket, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            token,
            address,
            connection: None,
            peer: None,
            dialled: false,
            renewal: false,
            since: Nanos(0),
            asked: false,
            terms,
            dialling: false,
            socket,
            channel,
            greeted: false,
            readable: false,
            ends: false,
            writable: false,
            output: Vec::new(),
        })
    }

    /// Takes note of what the poll saw. It says each thing once, so it is kept until found wrong.
    pub fn note(&mut self, event: &Event) {
        self.ends |= event.is_read_closed() || event.is_error();
        self.readable |= event.is_readable() || self.ends;
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Whether the peer has proved to the replica who it is.
    pub fn is_open(&self, replica: &Replica) -> bool {
        self.connection.is_some_and(|connection| replica.is_open(connection))
    }

    /// Reads and writes this turn's share.
    pub fn advance(
        &mut self,
        now: Nanos,
        replica: &mut Replica,
        buffer: &mut [u8],
    ) -> Result<Progress, Ended> {
        if self.dialling {
            if !self.writable {
                return Ok(Progress::Waiting);
            }
            if let Some(error) = self.socket.take_error()? {
                return Err(error.into());
            }
            (self.dialling, self.since) = (false, now);
        }
        let connection = match self.connection {
            Some(connection) => connection,
            None => match self.shake(now, buffer)? {
                true => self.join(now, replica)?,
                false => return Ok(Progress::Waiting),
            },
        };
        if !std::mem::replace(&mut self.greeted, self.writable) {
            // Before anything can be refused: the greeting tells a peer of another release which one
            // this is.
            self.write(now, connection, replica)?;
        }
        self.read(now, connection, replica, buffer)?;
        self.write(now, connection, replica)?;
        let backlog = self.readable || (self.writable && self.channel.wants_write());
        Ok(if backlog { Progress::More } else { Progress::Waiting })
    }

    /// Goes on with TLS; says whether it is agreed on.
    fn shake(&mut self, now: Nanos, buffer: &mut [u8]) -> Result<bool, Ended> {
        loop {
            self.flush()?;
            if self.channel.is_ready() {
                return Ok(true);
            }
            if now.millis_since(self.since) >= HANDSHAKE_MILLIS {
                return Err(Ended::Late);
            }
            if !self.readable {
                return Ok(false);
            }
            let room = buffer.len().min(SHAKE_BYTES);
            match self.socket.read(&mut buffer[..room]) {
                Ok(0) => return Err(Ended::Unshown),
                Ok(count) => {
                    if let Err(error) = self.channel.shake(&buffer[..count]) {
                        self.part();
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    return Err(Ended::Unshown);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tells the replica that the stream is there, and who is at its other end.
    fn join(&mut self, now: Nanos, replica: &mut Replica) -> Result<ConnectionId, Ended> {
        if let (None, Some(credentials)) = (self.peer, &self.terms.credentials) {
            let shown = self.channel.certificate();
            let shown = shown.ok_or(rustls::Error::NoCertificatesPresented)?;
            self.peer = Some(credentials.member(shown)?);
        }
        let side = match self.peer {
            Some(peer) if self.dialled => Side::Dialled(peer),
            Some(peer) => Side::Vouched(peer),
            None => Side::Accepted,
        };
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let connection = replica.handle_connected(now, side, nonce)?;
        self.connection = Some(connection);
        Ok(connection)
    }

    fn read(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        replica: &mut Replica,
        buffer: &mut [u8],
    ) -> Result<(), Ended> {
        // What came behind the handshake is there already.
        let mut count = 0;
        for turn in 0..=MAX_READS {
            let mut take = |bytes: &[u8]| Ok(replica.handle_bytes(now, connection, bytes)?);
            if let Err(ended) = self.channel.take_in(&buffer[..count], &mut take) {
                if let Ended::Sync(error) = &ended {
                    // The session is over on both sides of this call.
                    self.connection = None;
                    self.say_farewell(error);
                }
                self.part();
                return Err(ended);
            }
            count = 0;
            if !self.readable || turn == MAX_READS {
                return Ok(());
            }
            match self.socket.read(buffer) {
                Ok(0) if replica.is_open(connection) => return Err(Ended::Closed),
                Ok(0) => return Err(Ended::TurnedAway),
                Ok(some) => {
                    // What fits was all there is; the poll tells of what comes behind it.
                    self.readable &= some == buffer.len() || self.ends;
                    count = some;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tells the peer why, where it may know. A word that finds no room is a word less in a log.
    fn say_farewell(&mut self, error: &SyncError) {
        if let Some(mut word) = error.farewell().filter(|_| !self.channel.wants_write()) {
            let _ = self.channel.seal(&mut word);
        }
    }

    /// Lets the last words go, and reads what is there: a socket that is closed with something unread
    /// in it takes back what was said.
    fn part(&mut self) {
        let _ = self.channel.write_to(&mut self.socket);
        let _ = self.socket.shutdown(Shutdown::Write);
        let _ = self.socket.read(&mut [0; SHAKE_BYTES]);
    }

    fn write(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        replica: &mut Replica,
    ) -> Result<(), Ended> {
        for _ in 0..MAX_WRITES {
            if !self.writable {
                return Ok(());
            }
            if !self.channel.wants_write() {
                replica.poll_transmit(now, connection, &mut self.output, WRITE_BYTES);
                if self.output.is_empty() {
                    return Ok(());
                }
                self.channel.seal(&mut self.output)?;
            }
            self.write_some()?;
        }
        Ok(())
    }

    /// Writes all that is on its way out, or as much as there is room for.
    fn flush(&mut self) -> Result<(), Ended> {
        while self.writable && self.channel.wants_write() {
            self.write_some()?;
        }
        Ok(())
    }

    fn write_some(&mut self) -> Result<(), Ended> {
        match self.channel.write_to(&mut self.socket) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Takes the stream out of the poll.
    pub fn deregister(&mut self, registry: &Registry) {
        // It closes with the socket anyway.
        let _ = registry.deregister(&mut self.socket);
    }
}

/// A socket that connects from an address of this node's own, which its peers know it by.
fn begin_to_connect(mut from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    from.set_port(0);
    bind(socket.as_raw_fd(), &SockaddrStorage::from(from))?;
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) | Err(Errno::EINPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(TcpStream::from_std(socket.into()))
}
