//! The TCP streams that entries are synced over: dialling, accepting, moving bytes.
//!
//! Nothing here knows what the bytes mean. The replica says whom to dial, takes what comes in and
//! gives what goes out; who a peer is, is proved inside the stream.
//!
//! Invariant: everything is bounded. A stream is read from and written to so many bytes a turn, at
//! most one batch is kept for a peer that does not read (what changes meanwhile stays in the
//! replica's sets of pending flows, where changes of one flow fold into one), strangers get so many
//! places, and a peer that can't be reached is dialled at growing intervals.

mod dial;
mod stream;

use std::io;
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use testudo_cluster::replica::{ConnectionId, Replica};
use testudo_cluster::sync::Side;
use testudo_packet::bucket::{Nanos, NodeId};

use self::dial::Dial;
use self::stream::{Ended, Progress, Stream};
use super::throttle::Throttle;

/// The token of the listener; streams have those from [`FIRST_STREAM`] on.
const LISTENER: Token = Token(1);
const FIRST_STREAM: usize = 16;

/// How many accepted streams there may be beyond two for each member: strangers that have not been
/// found out yet. Two, because a peer's new stream comes before the loss of its old one is noticed.
const SPARE_STREAMS: usize = 16;

/// How many streams are accepted in a turn.
const MAX_ACCEPTS: usize = 16;

/// The sync streams of a node.
pub struct Streams {
    registry: Registry,
    listener: TcpListener,
    /// Whether the listener may have more; it is told only once.
    acceptable: bool,
    dials: Vec<Dial>,
    streams: Vec<Stream>,
    most_streams: usize,
    next_token: usize,
    refused: Throttle,
    failed: Throttle,
    buffer: Vec<u8>,
}

impl Streams {
    /// Listens on the node's own sync address and dials `peers`.
    pub fn new(
        registry: Registry,
        mut listener: TcpListener,
        members: usize,
        peers: impl Iterator<Item = (NodeId, SocketAddr)>,
    ) -> io::Result<Self> {
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            registry,
            listener,
            acceptable: true,
            dials: peers.map(|(peer, address)| Dial::new(peer, address)).collect(),
            streams: Vec::new(),
            most_streams: 2 * members + SPARE_STREAMS,
            next_token: FIRST_STREAM,
            refused: Throttle::default(),
            failed: Throttle::default(),
            buffer: vec![0; stream::READ_BYTES],
        })
    }

    /// Takes note of what the poll saw.
    pub fn handle_event(&mut self, event: &Event) {
        if event.token() == LISTENER {
            self.acceptable = true;
        } else if let Some(at) = self.position(|stream| stream.token == event.token()) {
            self.streams[at].note(event);
        }
    }

    /// Dials, accepts, reads and writes what can be without waiting. Says whether more can be done
    /// at once.
    pub fn turn(&mut self, now: Nanos, replica: &mut Replica) -> bool {
        self.dial(now);
        let mut more = self.accept(now, replica);
        let mut at = 0;
        while at < self.streams.len() {
            let stream = &mut self.streams[at];
            match stream.advance(now, replica, &mut self.buffer) {
                Ok(progress) => {
                    more |= progress == Progress::More;
                    at += 1;
                }
                Err(ended) => {
                    self.tell_end(now, at, &ended);
                    self.remove(now, at, replica);
                }
            }
        }
        more
    }

    /// A peer that is down is told of once, not each time that it is dialled in vain.
    fn tell_end(&mut self, now: Nanos, at: usize, ended: &Ended) {
        let Stream { token, address, .. } = self.streams[at];
        let again = |dial: &Dial| dial.stream() == Some(token) && dial.has_failed();
        if self.dials.iter().any(again) {
            tracing::debug!(%address, reason = %ended, "a peer was dialled in vain again");
        } else if let Some(held_back) = self.failed.admit(now) {
            tracing::warn!(%address, reason = %ended, held_back, "a sync stream ended");
        }
    }

    /// Drops the stream of a connection that the replica has given up.
    pub fn close(&mut self, now: Nanos, connection: ConnectionId) {
        if let Some(at) = self.position(|stream| stream.connection == Some(connection)) {
            let stream = self.take(at);
            self.redial_later(now, stream.token);
        }
    }

    /// Takes note that a peer has proved who it is: dialling it again begins at once.
    pub fn handle_peer_connected(&mut self, peer: NodeId) {
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.peer == peer) {
            dial.succeeded();
        }
    }

    fn position(&self, which: impl Fn(&Stream) -> bool) -> Option<usize> {
        self.streams.iter().position(which)
    }

    fn dial(&mut self, now: Nanos) {
        for at in 0..self.dials.len() {
            if !self.dials[at].is_due(now) {
                continue;
            }
            let Dial { peer, address, .. } = self.dials[at];
            let token = self.draw_token();
            match Stream::dial(&self.registry, token, peer, address) {
                Ok(stream) => {
                    self.streams.push(stream);
                    self.dials[at].dialled(token);
                }
                Err(error) => {
                    if let Some(held_back) = self.failed.admit(now) {
                        tracing::warn!(%address, %error, held_back, "a peer could not be dialled");
                    }
                    self.dials[at].failed(now);
                }
            }
        }
    }

    fn accept(&mut self, now: Nanos, replica: &mut Replica) -> bool {
        for _ in 0..MAX_ACCEPTS {
            if !self.acceptable {
                return false;
            }
            match self.listener.accept() {
                Ok((socket, address)) => self.admit(now, socket, address, replica),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.acceptable = false,
                Err(error) => {
                    // A caller that has hung up, or no descriptor left: the next turn tries again.
                    if let Some(held_back) = self.failed.admit(now) {
                        tracing::warn!(%error, held_back, "a sync stream could not be accepted");
                    }
                    return false;
                }
            }
        }
        true
    }

    fn admit(
        &mut self,
        now: Nanos,
        socket: mio::net::TcpStream,
        address: SocketAddr,
        replica: &mut Replica,
    ) {
        let refused = if self.streams.len() >= self.most_streams {
            format!("{} streams are served already", self.streams.len())
        } else {
            let token = self.draw_token();
            let accepted = Stream::accept(&self.registry, token, socket, address);
            let connected = accepted.and_then(|mut stream| {
                stream.connect(now, Side::Accepted, replica)?;
                Ok(stream)
            });
            match connected {
                Ok(stream) => return self.streams.push(stream),
                Err(ended) => ended.to_string(),
            }
        };
        if let Some(held_back) = self.refused.admit(now) {
            tracing::warn!(%address, reason = refused, held_back, "a sync stream was refused");
        }
    }

    fn draw_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token = self.next_token.wrapping_add(1).max(FIRST_STREAM);
        token
    }

    /// Drops a stream that has ended, and tells the replica if it does not know.
    fn remove(&mut self, now: Nanos, at: usize, replica: &mut Replica) {
        let stream = self.take(at);
        if let Some(connection) = stream.connection {
            replica.handle_closed(connection);
        }
        self.redial_later(now, stream.token);
    }

    fn take(&mut self, at: usize) -> Stream {
        let mut stream = self.streams.swap_remove(at);
        stream.deregister(&self.registry);
        stream
    }

    fn redial_later(&mut self, now: Nanos, token: Token) {
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.stream() == Some(token)) {
            dial.failed(now);
        }
    }
}
