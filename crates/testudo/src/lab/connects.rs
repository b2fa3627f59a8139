//! Connections that are opened all the time, and whether each that was answered is still known after a node
//! has died.
//!
//! The client opens them at a pace and then says nothing more. Whether a gateway knows a connection shows
//! when the server speaks: what comes from the server passes by the connection's entry alone, and a SYN-ACK
//! that is repeated, because the client's answer died with a node, passes by nothing else.
//!
//! Invariant: what is judged is every connection whose SYN-ACK the client has seen when the check begins, of
//! those that are kept: the latest ones. A check ends with every one of them closed, known or lost.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use super::interrupt::Interrupt;
use super::plan::Host;
use super::topology::Topology;

/// Where the connections go to.
pub const PORT: u16 = 7002;
/// How many are kept; the oldest is closed for the next one.
pub const KEPT: usize = 2000;
/// How long a connection may take to carry what the server says. What is sent again is sent after twice the time
/// each time: a cluster that nobody forwards in for some seconds has forgotten nothing for that.
const CHECK: Duration = Duration::from_secs(25);
/// How often a thread looks whether there is something to do.
const TICK: Duration = Duration::from_millis(1);
/// The listener's token at the server; connections count from 0.
const LISTENER: Token = Token(usize::MAX);

/// What came of the connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Opened: the client has seen the SYN-ACK.
    pub acknowledged: u32,
    /// Of these, judged by a check.
    pub checked: u32,
    /// Of these, unknown to the cluster.
    pub lost: u32,
    /// How long each took to be opened, in microseconds.
    pub delays: Vec<u64>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// The number of the check that is wanted, and of the one that is over.
    wanted: AtomicU8,
    over: AtomicU8,
    lost: AtomicU32,
}

/// The threads.
#[derive(Debug)]
pub struct Connects {
    shared: Arc<Shared>,
    client: Option<JoinHandle<Result<Result<Outcome>>>>,
    server: Option<JoinHandle<Result<Result<()>>>>,
}

impl Connects {
    /// Begins to open so many connections a second.
    pub fn start(topology: &Topology, server: IpAddr, rate: u32) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let address = SocketAddr::new(server, PORT);
        let far = topology.namespace(Host::Server)?;
        let listener = far.run(|| TcpListener::bind(address))?;
        let listener = listener.context("listen for connections")?;
        let (here, there) = (Arc::clone(&shared), Arc::clone(&shared));
        let server = far.spawn("connects-server", move || serve(listener, &there))?;
        let work = move || Client::new(address, rate, here)?.run();
        let client = topology.namespace(Host::Client)?.spawn("connects", work)?;
        Ok(Self { shared, client: Some(client), server: Some(server) })
    }

    /// Looks which of the connections that the client has an answer to are known to the cluster. Gives how
    /// many were not, since the start.
    pub fn check(&self, interrupt: &Interrupt) -> Result<u32> {
        let number = self.shared.wanted.fetch_add(1, Ordering::AcqRel).wrapping_add(1);
        let done = || self.shared.over.load(Ordering::Acquire) == number;
        if !interrupt.wait(CHECK * 2, done)? {
            bail!("the thread that opens connections hangs");
        }
        Ok(self.shared.lost.load(Ordering::Acquire))
    }

    /// Ends it.
    pub fn finish(mut self) -> Result<Outcome> {
        self.shared.stop.store(true, Ordering::Release);
        let server = self.server.take().map(JoinHandle::join);
        let client = self.client.take().map(JoinHandle::join);
        match (client, server) {
            (Some(Ok(outcome)), Some(Ok(served))) => {
                served??;
                outcome?
            }
            _ => bail!("a thread that opens connections panicked"),
        }
    }
}

impl Drop for Connects {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        let threads = (self.client.take(), self.server.take());
        // Nobody has asked what came of it.
        let _ = threads.0.map(JoinHandle::join);
        let _ = threads.1.map(JoinHandle::join);
    }
}

struct Connection {
    stream: TcpStream,
    begun: Instant,
    acknowledged: bool,
    /// The number of the check that the server last spoke of.
    heard: Option<u8>,
    broken: bool,
}

impl Connection {
    /// Goes on; says whether the answer has just come.
    fn advance(&mut self) -> bool {
        let mut answered = false;
        if !self.acknowledged {
            if self.stream.take_error().ok().flatten().is_some() {
                self.broken = true;
            } else if self.stream.peer_addr().is_ok() {
                (self.acknowledged, answered) = (true, true);
            }
        }
        let mut bytes = [0; 64];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(0) => self.broken = true,
                Ok(count) => {
                    self.heard = Some(bytes[count - 1]);
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let waits = [io::ErrorKind::WouldBlock, io::ErrorKind::NotConnected];
                    self.broken |= !waits.contains(&error.kind());
                }
            }
            return answered;
        }
    }
}

struct Client {
    address: SocketAddr,
    rate: u32,
    shared: Arc<Shared>,
    poll: Poll,
    connections: BTreeMap<usize, Connection>,
    next: usize,
    due: Instant,
    /// The check under way, and until when it waits.
    check: Option<(u8, Instant)>,
    outcome: Outcome,
}

impl Client {
    fn new(address: SocketAddr, rate: u32, shared: Arc<Shared>) -> Result<Self> {
        Ok(Self {
            address,
            rate,
            shared,
            poll: Poll::new()?,
            connections: BTreeMap::new(),
            next: 0,
            due: Instant::now(),
            check: None,
            outcome: Outcome::default(),
        })
    }

    fn run(mut self) -> Result<Outcome> {
        let mut events = Events::with_capacity(1024);
        while !self.shared.stop.load(Ordering::Acquire) {
            match self.poll.poll(&mut events, Some(TICK)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            }
            for event in &events {
                self.advance(event.token().0);
            }
            match self.check {
                None => self.open_due()?,
                Some((number, end)) => self.go_on_checking(number, end),
            }
            self.begin_check();
        }
        Ok(self.outcome)
    }

    fn advance(&mut self, number: usize) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        if connection.advance() {
            self.outcome.acknowledged += 1;
            self.outcome.delays.push(connection.begun.elapsed().as_micros() as u64);
        }
        if connection.broken && !connection.acknowledged {
            self.connections.remove(&number);
        }
    }

    fn open_due(&mut self) -> Result<()> {
        let now = Instant::now();
        while self.due <= now {
            self.due += Duration::from_secs(1) / self.rate;
            if self.connections.len() >= KEPT {
                self.connections.pop_first();
            }
            let begun = Instant::now();
            let mut stream = match TcpStream::connect(self.address) {
                Ok(stream) => stream,
                // Out of ports, or a route is away for a moment.
                Err(_) => continue,
            };
            // It ends with a reset: a port that waits can't be used again.
            setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(self.next), interest)?;
            let connection =
                Connection { stream, begun, acknowledged: false, heard: None, broken: false };
            self.connections.insert(self.next, connection);
            self.next += 1;
        }
        Ok(())
    }

    fn begin_check(&mut self) {
        let wanted = self.shared.wanted.load(Ordering::Acquire);
        if self.check.is_none() && self.shared.over.load(Ordering::Acquire) != wanted {
            // Nobody has been promised anything on the others.
            self.connections.retain(|_, connection| connection.acknowledged);
            self.outcome.checked += self.connections.len() as u32;
            self.check = Some((wanted, Instant::now() + CHECK));
        }
    }

    fn go_on_checking(&mut self, number: u8, end: Instant) {
        let known = |connection: &Connection| connection.heard == Some(number);
        let late = Instant::now() >= end;
        let over = |connection: &Connection| known(connection) || connection.broken;
        if !late && !self.connections.values().all(over) {
            return;
        }
        self.outcome.lost += self.connections.values().filter(|c| !known(c)).count() as u32;
        self.connections.clear();
        self.due = Instant::now();
        self.check = None;
        self.shared.lost.store(self.outcome.lost, Ordering::Release);
        self.shared.over.store(number, Ordering::Release);
    }
}

/// Says the number of the check on every connection: at its beginning, and when there is another.
fn serve(mut listener: TcpListener, shared: &Shared) -> Result<()> {
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let mut peers: BTreeMap<usize, TcpStream> = BTreeMap::new();
    let (mut next, mut said) = (0, 0);
    while !shared.stop.load(Ordering::Acquire) {
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            // The client says nothing, so what can be read is its end.
            if event.token() != LISTENER {
                peers.remove(&event.token().0);
            }
        }
        let wanted = shared.wanted.load(Ordering::Acquire);
        if wanted != said {
            said = wanted;
            peers.retain(|_, peer| peer.write_all(&[said]).is_ok());
        }
        while let Ok((mut stream, _)) = listener.accept() {
            // It may be reset already.
            if stream.write_all(&[said]).is_ok() {
                poll.registry().register(&mut stream, Token(next), Interest::READABLE)?;
                peers.insert(next, stream);
                next += 1;
            }
        }
    }
    Ok(())
}
