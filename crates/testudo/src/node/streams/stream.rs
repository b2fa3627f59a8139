//! One sync stream: a socket and what is on its way out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use nix::sys::socket::{setsockopt, sockopt};
use testudo_cluster::replica::{ConnectionId, Replica};
use testudo_cluster::sync::{Side, SyncError};
use testudo_packet::bucket::{Nanos, NodeId};

/// How much is read at once, in bytes, and how often in a turn.
pub const READ_BYTES: usize = 64 * 1024;
const MAX_READS: usize = 4;

/// How much is made ready to be written, in bytes, and how often in a turn.
const WRITE_BYTES: usize = 256 * 1024;
const MAX_WRITES: usize = 4;

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

/// Whether a stream could go on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It could: the turn's share was used up.
    More,
    /// It waits for the peer.
    Waiting,
}

/// One stream.
pub struct Stream {
    /// What the poll knows it by.
    pub token: Token,
    /// Where it leads.
    pub address: SocketAddr,
    /// What the replica knows it by; nothing while it is being dialled.
    pub connection: Option<ConnectionId>,
    /// Whom it was dialled to; nothing once the connection is there, or for an accepted one.
    dialling: Option<NodeId>,
    socket: TcpStream,
    /// Whether this node's greeting was sent.
    greeted: bool,
    readable: bool,
    writable: bool,
    output: Vec<u8>,
    written: usize,
}

impl Stream {
    /// Begins to dial a peer.
    pub fn dial(
        registry: &Registry,
        token: Token,
        peer: NodeId,
        address: SocketAddr,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect(address)?;
        let stream = Self { dialling: Some(peer), ..Self::new(registry, token, socket, address)? };
        Ok(stream)
    }

    /// Takes a stream that somebody dialled.
    pub fn accept(
        registry: &Registry,
        token: Token,
        socket: TcpStream,
        address: SocketAddr,
    ) -> Result<Self, Ended> {
        Ok(Self::new(registry, token, socket, address)?)
    }

    fn new(
        registry: &Registry,
        token: Token,
        mut socket: TcpStream,
        address: SocketAddr,
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
            dialling: None,
            socket,
            greeted: false,
            readable: false,
            writable: false,
            output: Vec::new(),
            written: 0,
        })
    }

    /// Takes note of what the poll saw. It says each thing once, so it is kept until found wrong.
    pub fn note(&mut self, event: &Event) {
        self.readable |= event.is_readable() || event.is_read_closed() || event.is_error();
        self.writable |= event.is_writable() || event.is_write_closed() || event.is_error();
    }

    /// Tells the replica that the stream is there.
    pub fn connect(&mut self, now: Nanos, side: Side, replica: &mut Replica) -> Result<(), Ended> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        self.connection = Some(replica.handle_connected(now, side, nonce)?);
        Ok(())
    }

    /// Reads and writes this turn's share.
    pub fn advance(
        &mut self,
        now: Nanos,
        replica: &mut Replica,
        buffer: &mut [u8],
    ) -> Result<Progress, Ended> {
        if let Some(peer) = self.dialling {
            if !self.writable {
                return Ok(Progress::Waiting);
            }
            if let Some(error) = self.socket.take_error()? {
                return Err(error.into());
            }
            self.dialling = None;
            self.connect(now, Side::Dialled(peer), replica)?;
        }
        let Some(connection) = self.connection else { return Ok(Progress::Waiting) };
        if !std::mem::replace(&mut self.greeted, self.writable) {
            // Before anything can be refused: the greeting tells a peer of another release which one
            // this is.
            self.write(now, connection, replica)?;
        }
        self.read(now, connection, replica, buffer)?;
        self.write(now, connection, replica)?;
        let backlog = self.readable || (self.writable && !self.output.is_empty());
        Ok(if backlog { Progress::More } else { Progress::Waiting })
    }

    fn read(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        replica: &mut Replica,
        buffer: &mut [u8],
    ) -> Result<(), Ended> {
        for _ in 0..MAX_READS {
            if !self.readable {
                return Ok(());
            }
            match self.socket.read(buffer) {
                Ok(0) if replica.is_open(connection) => return Err(Ended::Closed),
                Ok(0) => return Err(Ended::TurnedAway),
                Ok(count) => {
                    let taken = replica.handle_bytes(now, connection, &buffer[..count]);
                    if let Err(error) = taken {
                        // The session is over on both sides of this call.
                        self.connection = None;
                        self.part(&error);
                        return Err(error.into());
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Tells the peer why, where it may know. A word that finds no room is a word less in a log.
    fn part(&mut self, error: &SyncError) {
        if let Some(word) = error.farewell().filter(|_| self.output.is_empty()) {
            let _ = self.socket.write(&word);
        }
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
            if self.output.is_empty() {
                replica.poll_transmit(now, connection, &mut self.output, WRITE_BYTES);
            }
            if self.output.is_empty() {
                return Ok(());
            }
            match self.socket.write(&self.output[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
            if self.written == self.output.len() {
                self.output.clear();
                self.written = 0;
            }
        }
        Ok(())
    }

    /// Takes the stream out of the poll.
    pub fn deregister(&mut self, registry: &Registry) {
        // It closes with the socket anyway.
        let _ = registry.deregister(&mut self.socket);
    }
}
