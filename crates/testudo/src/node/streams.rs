//! The streams that entries are synced over: dialling, accepting, moving bytes.
//!
//! Nothing here knows what the bytes mean. The replica says whom to dial, takes what comes in and
//! gives what goes out. Who is at the other end is proved by certificates, in TLS, before the replica
//! hears of the stream, and once more by the cluster's secret, inside.
//!
//! Invariant: everything is bounded. A stream is read from and written to so many bytes a turn, at
//! most one batch is kept for a peer that does not read (what changes meanwhile stays in the
//! replica's sets of pending flows, where changes of one flow fold into one), strangers get so many
//! places ([`seats`]) and so much time, and a peer that can't be reached is dialled at growing intervals.
//!
//! When there are new certificates each stream is set up anew: who has dialled dials again, on its own or
//! because the other side has asked, and the new stream takes the place of the old one when both ends
//! have proved on it who they are. What has not come about after [`RENEWAL_MILLIS`] is ended, so nobody
//! stays connected by what is not believed any more.

mod channel;
mod counters;
mod dial;
mod seats;
mod stream;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;

use mio::event::Event;
use mio::net::TcpListener;
use mio::{Interest, Registry, Token};
use testudo_cluster::replica::{ConnectionId, Replica, SyncError};
use testudo_packet::bucket::{Nanos, NodeId};

pub use self::counters::Counters;
use self::dial::Dial;
use self::seats::Seats;
use self::stream::{Ended, Progress, Stream, Terms};
use super::coordination::Letter;
use super::credentials::keeper::Handle;
use super::throttle::Throttle;

/// The token of the listener; streams have those from [`FIRST_STREAM`] on.
const LISTENER: Token = Token(1);
const FIRST_STREAM: usize = 16;

/// How many streams are accepted in a turn: each costs a key.
const MAX_ACCEPTS: usize = 4;

/// How long a stream may live on by certificates that are not in force any more, in milliseconds.
const RENEWAL_MILLIS: u64 = 15_000;

/// How often it is looked for such streams, in milliseconds.
const RENEWAL_TICK: u64 = 100;

/// What streams are made of.
pub struct Parts {
    /// What they are waited for by.
    pub registry: Registry,
    /// Where peers dial this node.
    pub listener: TcpListener,
    /// Its own address.
    pub own: SocketAddr,
    /// Where all members listen.
    pub members: Vec<SocketAddr>,
    /// Whom this node dials.
    pub peers: Vec<(NodeId, SocketAddr)>,
    /// What this node proves who it is by; nothing with tls = "off".
    pub credentials: Option<Handle>,
}

/// The sync streams of a node.
pub struct Streams {
    registry: Registry,
    listener: TcpListener,
    own: SocketAddr,
    credentials: Option<Handle>,
    /// What new streams are set up by, and since when.
    terms: Terms,
    terms_since: Nanos,
    renewal_due: Nanos,
    /// Whether the listener may have more; it is told only once.
    acceptable: bool,
    dials: Vec<Dial>,
    streams: Vec<Stream>,
    seats: Seats,
    next_token: usize,
    counters: Counters,
    refused: Throttle,
    failed: Throttle,
    buffer: Vec<u8>,
}

impl Streams {
    /// Listens on the node's own sync address and dials peers.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let Parts { registry, mut listener, own, members, peers, credentials } = parts;
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            registry,
            listener,
            own,
            credentials,
            terms: Terms::default(),
            terms_since: Nanos(0),
            renewal_due: Nanos(0),
            acceptable: true,
            dials: peers.into_iter().map(|(peer, address)| Dial::new(peer, address)).collect(),
            streams: Vec::new(),
            seats: Seats::new(members.into_iter()),
            next_token: FIRST_STREAM,
            counters: Counters::default(),
            refused: Throttle::default(),
            failed: Throttle::default(),
            buffer: vec![0; stream::READ_BYTES],
        })
    }

    /// How many streams were refused, and why.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters;
        counters.files_refused = self.credentials.as_ref().map_or(0, Handle::refusals);
        counters
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
        self.renew(now, replica);
        self.dial(now);
        let mut more = self.accept(now, replica);
        let mut at = 0;
        while at < self.streams.len() {
            let stream = &mut self.streams[at];
            let joined = stream.connection.is_some();
            let advanced = stream.advance(now, replica, &mut self.buffer);
            let joins =
                !joined && stream.connection.is_some() && stream.terms.credentials.is_some();
            self.counters.handshakes += u64::from(joins);
            match advanced {
                Ok(progress) => {
                    more |= progress == Progress::More;
                    at += 1;
                }
                Err(ended) => self.end(now, at, &ended, replica),
            }
        }
        more
    }

    /// Ends a stream, and tells the replica if it does not know.
    fn end(&mut self, now: Nanos, at: usize, ended: &Ended, replica: &mut Replica) {
        self.tell_end(now, at, ended);
        let stream = self.take(at);
        if let Some(connection) = stream.connection {
            replica.handle_closed(connection);
        }
        self.note_end(now, stream.token);
    }

    /// A peer that is down is told of once, not each time that it is dialled in vain.
    fn tell_end(&mut self, now: Nanos, at: usize, ended: &Ended) {
        let Stream { token, address, dialled, connection, .. } = self.streams[at];
        let reason = ended.reason().filter(|_| connection.is_none());
        if let Some(reason) = reason {
            self.counters.refuse(reason);
        }
        match ended {
            Ended::Tls(_) if connection.is_some() => self.counters.broken += 1,
            Ended::Sync(error) => self.note_refused(error),
            _ => {}
        }
        let again = |dial: &Dial| dial.has(token) && dial.has_failed();
        if self.dials.iter().any(again) {
            tracing::debug!(%address, reason = %ended, "a peer was dialled in vain again");
            return;
        }
        let throttle = match reason {
            // A flood of strangers is not to hide what becomes of members.
            Some(_) if !dialled => &mut self.refused,
            _ => &mut self.failed,
        };
        if let Some(held_back) = throttle.admit(now) {
            tracing::warn!(%address, reason = %ended, held_back, "a sync stream ended");
        }
    }

    /// Counts a stream that the replica has ended for what a peer has said, or has not said in time.
    fn note_refused(&mut self, error: &SyncError) {
        let own = matches!(error, SyncError::Superseded | SyncError::NotOpen);
        self.counters.sync_refused += u64::from(!own);
    }

    /// Drops the stream of a connection that the replica has given up.
    pub fn close(&mut self, now: Nanos, connection: ConnectionId, error: &SyncError) {
        self.note_refused(error);
        if let Some(at) = self.position(|stream| stream.connection == Some(connection)) {
            let stream = self.take(at);
            self.note_end(now, stream.token);
        }
    }

    /// Takes note that a peer has proved who it is: dialling it again begins at once.
    pub fn handle_peer_connected(&mut self, peer: NodeId, connection: ConnectionId) {
        let Some(at) = self.position(|stream| stream.connection == Some(connection)) else {
            return;
        };
        let Stream { token, renewal, .. } = self.streams[at];
        self.counters.renewed += u64::from(renewal);
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.peer == peer) {
            dial.succeeded(token);
        }
    }

    /// A peer has new certificates, and waits to be dialled by them.
    pub fn handle_renewal_wanted(&mut self, now: Nanos, peer: NodeId) {
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.peer == peer) {
            dial.renew(now);
        }
    }

    fn position(&self, which: impl Fn(&Stream) -> bool) -> Option<usize> {
        self.streams.iter().position(which)
    }

    /// Takes up new certificates, and sees to it that no stream stays by the old ones.
    fn renew(&mut self, now: Nanos, replica: &mut Replica) {
        let Some(credentials) = &self.credentials else { return };
        if credentials.generation() != self.terms.generation {
            // In this order: what comes into force in between is taken up in the next turn.
            let generation = credentials.generation();
            self.terms = Terms { credentials: Some(credentials.current()), generation };
            self.terms_since = now;
        }
        if now < self.renewal_due {
            return;
        }
        self.renewal_due = now.plus_millis(RENEWAL_TICK);
        let late = now.millis_since(self.terms_since) >= RENEWAL_MILLIS;
        let mut at = 0;
        while at < self.streams.len() {
            let stream = &mut self.streams[at];
            if stream.terms.generation == self.terms.generation {
                at += 1;
                continue;
            }
            if late {
                self.counters.outdated += 1;
                self.end(now, at, &Ended::Outdated, replica);
                continue;
            }
            at += 1;
            let Some(peer) = stream.peer.filter(|_| stream.is_open(replica)) else { continue };
            if stream.dialled {
                self.handle_renewal_wanted(now, peer);
            } else if !std::mem::replace(&mut stream.asked, true) {
                replica.send_letter(peer, &Letter::Renew.encode());
            }
        }
    }

    fn dial(&mut self, now: Nanos) {
        for at in 0..self.dials.len() {
            if !self.dials[at].is_due(now) {
                continue;
            }
            let Dial { peer, address, .. } = self.dials[at];
            let token = self.draw_token();
            let to = (peer, address);
            match Stream::dial(&self.registry, token, to, self.own, self.terms.clone()) {
                Ok(mut stream) => {
                    stream.renewal = self.dials[at].dialled(now, token);
                    self.streams.push(stream);
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
        let streams = self.streams.iter().enumerate();
        let unproved = streams.filter(|(_, stream)| !stream.dialled && !stream.is_open(replica));
        let unproved = unproved.map(|(at, stream)| (at, stream.address.ip(), stream.since));
        if let Some(at) = self.seats.leaves(address.ip(), unproved) {
            let seats = self.seats.limit(address.ip());
            self.end(now, at, &Ended::Crowded { seats }, replica);
        }
        let (token, terms) = (self.draw_token(), self.terms.clone());
        match Stream::accept(&self.registry, token, (socket, address), now, terms) {
            Ok(stream) => self.streams.push(stream),
            Err(reason) => {
                if let Some(held_back) = self.refused.admit(now) {
                    tracing::warn!(%address, %reason, held_back, "a sync stream was refused");
                }
            }
        }
    }

    fn draw_token(&mut self) -> Token {
        let token = Token(self.next_token);
        self.next_token = self.next_token.wrapping_add(1).max(FIRST_STREAM);
        token
    }

    fn take(&mut self, at: usize) -> Stream {
        let mut stream = self.streams.swap_remove(at);
        stream.deregister(&self.registry);
        stream
    }

    fn note_end(&mut self, now: Nanos, token: Token) {
        if let Some(dial) = self.dials.iter_mut().find(|dial| dial.has(token)) {
            dial.ended(now, token);
        }
    }
}
