//! The server's side: answer every ask, push once on every connection when the check begins, echo
//! datagrams.
//!
//! Invariant: the server judges too. A connection on which it sees a fault is not counted as alive,
//! whatever the client thinks of it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use super::udp::{Half, widen};
use super::wire::{Broken, Framed, Kind, Message, SIZE};
use super::{PORT, Phase, Shared};

const LISTENER: Token = Token(usize::MAX);
/// How long a phase may go unnoticed.
const TICK: Duration = Duration::from_millis(10);

struct Peer {
    framed: Framed,
    /// Which connection it is: the client says so with its first message.
    connection: Option<u32>,
    asked: u32,
    /// Bytes checked since they were last reported.
    served: u64,
    pushed: bool,
    /// Where it comes from, if the server was not to see that.
    exposed: Option<IpAddr>,
}

/// Listen on all addresses of both families.
pub fn listen() -> Result<TcpListener> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    TcpListener::bind(any).with_context(|| format!("listen on {any}"))
}

/// Take datagrams on all addresses of both families.
pub fn bind() -> Result<UdpSocket> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let socket = UdpSocket::bind(any).with_context(|| format!("bind UDP {any}"))?;
    socket.set_read_timeout(Some(TICK))?;
    widen(&socket)?;
    Ok(socket)
}

/// Send every datagram back under its number, the first time that it comes, until the run is over.
/// Gives the server's half of every flow.
pub fn echo(socket: &UdpSocket, shared: &Shared) -> Result<Vec<Half>> {
    let mut halves = vec![Half::default(); shared.load.flows as usize];
    let mut buffer = [0; 2 * SIZE];
    while shared.phase() < Phase::Over {
        let (count, from) = match socket.recv_from(&mut buffer) {
            Ok(received) => received,
            Err(error) if transient(&error) => continue,
            Err(error) => return Err(error).context("receive datagrams"),
        };
        let (now, key) = (shared.micros(), shared.load.seed);
        let bytes = &buffer[..count];
        let flow = Message::from_datagram(bytes, key).map(|message| message.connection);
        // One that can't be read might be of any flow: it is held against the first.
        let flow = flow.filter(|flow| (*flow as usize) < halves.len()).unwrap_or_default();
        let half = &mut halves[flow as usize];
        if shared.load.exposes(from).is_some() {
            half.arrived.corrupt += 1;
            continue;
        }
        let Some(number) = half.take(bytes, Kind::Ask, flow, key, now) else { continue };
        half.sent.note(number, now);
        let answer = Message { kind: Kind::Answer, connection: flow, number };
        // A gateway that has just lost a node may answer with an error: the datagram is lost.
        drop(socket.send_to(&answer.encode(key), from));
    }
    Ok(halves)
}

/// Serve connections until the run is over.
pub fn answer(mut listener: TcpListener, shared: &Shared) -> Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut peers: HashMap<Token, Peer> = HashMap::new();
    let mut next = 0;
    while shared.phase() < Phase::Over {
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut peers, &mut next, shared)?;
            } else {
                with_peer(&mut peers, event.token(), shared, Peer::serve);
            }
        }
        if shared.phase() == Phase::Checking {
            let silent = peers.iter().filter(|(_, peer)| !peer.pushed);
            let silent: Vec<Token> = silent.map(|(token, _)| *token).collect();
            for token in silent {
                with_peer(&mut peers, token, shared, Peer::push);
            }
        }
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    peers: &mut HashMap<Token, Peer>,
    next: &mut usize,
    shared: &Shared,
) -> Result<()> {
    loop {
        let (mut stream, from) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if transient(&error) => continue,
            Err(error) => return Err(error).context("accept a connection"),
        };
        let token = Token(*next);
        *next += 1;
        // Fails only on a connection that is reset already, which its next read will tell.
        let _ = stream.set_nodelay(true);
        poll.registry().register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        let framed = Framed::new(stream, shared.load.seed);
        let exposed = shared.load.exposes(from);
        let (connection, asked, served, pushed) = (None, 0, 0, false);
        peers.insert(token, Peer { framed, connection, asked, served, pushed, exposed });
    }
}

/// Let `work` use a connection; forget the connection, and note why, if it can't be used any more.
fn with_peer(
    peers: &mut HashMap<Token, Peer>,
    token: Token,
    shared: &Shared,
    work: impl FnOnce(&mut Peer) -> Result<(), Broken>,
) {
    let Some(peer) = peers.get_mut(&token) else { return };
    let worked = work(peer);
    shared.verified.fetch_add(std::mem::take(&mut peer.served), Ordering::Relaxed);
    let Err(broken) = worked else { return };
    if let (Some(connection), true) = (peer.connection, shared.phase() < Phase::Quiet) {
        let mut faults = shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.entry(connection).or_insert(broken);
    }
    peers.remove(&token);
}

impl Peer {
    fn serve(&mut self) -> Result<(), Broken> {
        self.framed.flush()?;
        let mut messages = Vec::new();
        let end = self.framed.receive(&mut messages);
        for message in messages {
            let connection = *self.connection.get_or_insert(message.connection);
            if let Some(seen) = self.exposed {
                return Err(Broken::Exposed(seen));
            }
            let expected = Message { kind: Kind::Ask, connection, number: self.asked };
            if message != expected {
                return Err(Broken::Unexpected { seen: message, expected: self.asked });
            }
            self.asked += 1;
            self.served += SIZE as u64;
            self.framed.send(Message { kind: Kind::Answer, ..message })?;
        }
        end
    }

    fn push(&mut self) -> Result<(), Broken> {
        let Some(connection) = self.connection else { return Ok(()) };
        self.pushed = true;
        self.framed.send(Message { kind: Kind::Push, connection, number: 0 })
    }
}

/// Errors after which a socket that serves everybody goes on.
fn transient(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, HostUnreachable, Interrupted,
        NetworkUnreachable, TimedOut, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionAborted
            | ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkUnreachable
            | TimedOut
            | WouldBlock
    )
}
