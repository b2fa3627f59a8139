//! The load: TCP connections and UDP flows from the client through the cluster to the server.
//!
//! Two threads in the client's namespace and two in the server's, on the real kernel stacks. They
//! share nothing with the scenario but a [`Phase`] that only moves forward, and counters.
//!
//! Half of the connections are busy: each asks at its own pace. The others are idle: after one
//! exchange they are silent until the end. At the end **the server speaks first** on every
//! connection: what the server sends is passed by a gateway only if it still knows the connection,
//! while the client's packets might open it anew.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Unable;
use super::plan::Host;
use super::topology::Topology;

pub mod numbered;
mod server;
mod tcp;
mod udp;
pub mod wire;

pub use numbered::{Counts, Way};
pub use tcp::TcpOutcome;
pub use udp::Half;
pub use udp::{Flow, UdpOutcome, longest_gap};

/// The server's TCP and UDP port.
pub const PORT: u16 = 7000;

/// How much traffic a run makes.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// The server's addresses, IPv4 first.
    pub server: [IpAddr; 2],
    /// TCP connections.
    pub connections: u32,
    /// UDP flows.
    pub flows: u32,
    /// Whether half of both is IPv6.
    pub ipv6: bool,
    /// Whether the flows' paces follow Zipf's law, and are not all the same.
    pub zipf: bool,
    /// The addresses that the server is to see in the place of the client's, if it is.
    pub seen_as: Option<[IpAddr; 2]>,
    /// Paces and contents follow from it.
    pub seed: u64,
}

#[cfg(test)]
impl Default for Load {
    fn default() -> Load {
        let server = [std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
        Load { server, connections: 10, flows: 1, ipv6: true, zipf: false, seen_as: None, seed: 3 }
    }
}

impl Load {
    /// The address of whoever the server was not to see.
    fn exposes(&self, from: SocketAddr) -> Option<IpAddr> {
        let from = from.ip().to_canonical();
        self.seen_as.is_some_and(|addresses| !addresses.contains(&from)).then_some(from)
    }

    /// The server's endpoint for the connection or flow of this number.
    fn endpoint(&self, number: u32) -> SocketAddr {
        let [v4, v6] = self.server;
        let address = if self.ipv6 && number % 2 == 1 { v6 } else { v4 };
        SocketAddr::new(address, PORT)
    }
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Connections are opened.
    Opening,
    /// Busy connections and UDP flows send at their paces.
    Steady,
    /// The server speaks first on every connection; UDP flows go on.
    Checking,
    /// Nothing new is sent. What is under way still arrives.
    Quiet,
    /// The client's threads end.
    Stop,
    /// The servers end. Not sooner: a client would take it for a fault.
    Over,
}

impl Phase {
    const ALL: [Phase; 6] =
        [Phase::Opening, Phase::Steady, Phase::Checking, Phase::Quiet, Phase::Stop, Phase::Over];
}

/// What the threads and the scenario share.
#[derive(Debug)]
struct Shared {
    load: Load,
    /// Times of arrival count from here.
    start: Instant,
    phase: AtomicU8,
    opened: AtomicU32,
    failed: AtomicU32,
    checked: AtomicU32,
    /// Bytes of the connections that were as they were sent.
    verified: AtomicU64,
    /// When what the run is about began.
    event: AtomicU64,
    /// What the server saw go wrong, by connection. The first fault of a connection stays.
    faults: Mutex<HashMap<u32, wire::Broken>>,
}

impl Shared {
    fn phase(&self) -> Phase {
        Phase::ALL[usize::from(self.phase.load(Ordering::Acquire))]
    }

    fn micros(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }
}

/// How many connections are how far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Opened, with a first exchange.
    pub opened: u32,
    /// Ended before their time.
    pub failed: u32,
    /// Carried data both ways since the check began.
    pub checked: u32,
}

/// The running threads.
#[derive(Debug)]
pub struct Traffic {
    shared: Arc<Shared>,
    tcp: JoinHandle<Result<Result<TcpOutcome>>>,
    udp: JoinHandle<Result<Result<Vec<Half>>>>,
    tcp_server: JoinHandle<Result<Result<()>>>,
    udp_server: JoinHandle<Result<Result<Vec<Half>>>>,
}

impl Traffic {
    /// Start the servers, then the client, which begins to open connections.
    pub fn start(topology: &Topology, load: Load) -> Result<Traffic> {
        let shared = Arc::new(Shared {
            load,
            start: Instant::now(),
            phase: AtomicU8::new(Phase::Opening as u8),
            opened: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            checked: AtomicU32::new(0),
            verified: AtomicU64::new(0),
            event: AtomicU64::new(u64::MAX),
            faults: Mutex::default(),
        });
        let client = topology.namespace(Host::Client)?;
        let server = topology.namespace(Host::Server)?;
        // Bound before the client starts: nobody is refused for being early.
        let listener = server.run(server::listen)??;
        let echo = server.run(server::bind)??;
        let share = || Arc::clone(&shared);
        let (tcp_server, udp_server, tcp_client, udp_client) = (share(), share(), share(), share());
        let tcp_server =
            server.spawn("server-tcp", move || server::answer(listener, &tcp_server))?;
        let udp_server = server.spawn("server-udp", move || server::echo(&echo, &udp_server))?;
        let tcp = client.spawn("client-tcp", move || tcp::run(&tcp_client))?;
        let udp = client.spawn("client-udp", move || udp::run(&udp_client))?;
        Ok(Traffic { shared, tcp, udp, tcp_server, udp_server })
    }

    /// Go on to a later phase.
    pub fn enter(&self, phase: Phase) {
        assert!(phase >= self.shared.phase(), "a run does not go back to {phase:?}");
        self.shared.phase.store(phase as u8, Ordering::Release);
    }

    /// How far the connections are.
    pub fn progress(&self) -> Progress {
        Progress {
            opened: self.shared.opened.load(Ordering::Relaxed),
            failed: self.shared.failed.load(Ordering::Relaxed),
            checked: self.shared.checked.load(Ordering::Relaxed),
        }
    }

    /// Now, on the clock of the flows' arrival times.
    pub fn micros(&self) -> u64 {
        self.shared.micros()
    }

    /// `instant`, on the same clock.
    pub fn micros_at(&self, instant: Instant) -> u64 {
        instant.saturating_duration_since(self.shared.start).as_micros() as u64
    }

    /// When that clock was zero.
    pub fn start_instant(&self) -> Instant {
        self.shared.start
    }

    /// What the run is about begins now: from here on stalls count. Gives the time.
    pub fn begin_event(&self) -> u64 {
        let now = self.micros();
        self.shared.event.fetch_min(now, Ordering::Relaxed);
        now
    }

    /// Whether a thread has ended on its own, which none does unless it fails.
    pub fn broken(&self) -> bool {
        self.tcp.is_finished()
            || self.udp.is_finished()
            || self.tcp_server.is_finished()
            || self.udp_server.is_finished()
    }

    /// End the threads; tell what became of the connections and flows.
    pub fn finish(self) -> Result<(TcpOutcome, UdpOutcome)> {
        self.enter(Phase::Stop);
        let mut tcp = join(self.tcp).context("the TCP client")?;
        let udp = join(self.udp).context("the UDP client")?;
        self.shared.phase.store(Phase::Over as u8, Ordering::Release);
        join(self.tcp_server).context("the TCP server")?;
        let echoes = join(self.udp_server).context("the UDP server")?;
        let faults = self.shared.faults.lock().unwrap_or_else(PoisonError::into_inner);
        tcp.add_faults(&faults);
        tcp.verified = self.shared.verified.load(Ordering::Relaxed);
        let halves = udp.into_iter().zip(echoes);
        let flows = halves.map(|(client, server)| Flow::join(client, server)).collect();
        Ok((tcp, UdpOutcome { flows }))
    }
}

fn join<T>(thread: JoinHandle<Result<Result<T>>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("panicked"))??
}

/// Let this process open all sockets of `load`, of both ends, and so many more; beyond the hard limit if
/// it may.
pub fn raise_file_limit(load: Load, more: usize) -> Result<()> {
    let needed = 2 * u64::from(load.connections) + u64::from(load.flows) + 256 + more as u64;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).map_err(|errno| {
        let traffic = format!("{} connections and {} flows", load.connections, load.flows);
        let limit = format!("may have {hard} (the hard limit of open files): {errno}");
        Unable(format!("{traffic} need {needed} files, and this process {limit}")).into()
    })
}
