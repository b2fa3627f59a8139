//! The routers of `steered` mode: they drop a next hop that is dead and take it back when it lives.
//!
//! A router with BFD probes each next hop every few milliseconds and calls it dead after three that
//! were missed; a node that knows itself unable to forward (no lease) tells its router, as a routing
//! daemon with a health check does. Here the probe is an ICMP echo from the router's own namespace, and
//! the node's word is its status. How long the router took is part of the report, apart from how long
//! the cluster took.
//!
//! Invariant: a router's routes name exactly the next hops that it holds for alive, all at once: a
//! change is one replaced route a family. When it holds none for alive, the last ones stay.

use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, recv, sendto, socket,
};

use super::links::Links;
use super::plan::{Host, Plan, Segment};
use super::state::State;
use super::topology::Topology;
use crate::control::client::Client;

/// Between two probes of a next hop.
const PROBE: Duration = Duration::from_millis(15);
/// Probes without an answer, after which a next hop is dead.
const MISSED: u16 = 3;
/// How long a dead next hop has to answer before it is used again.
const STEADY: Duration = Duration::from_secs(1);
/// Between two questions to a node about itself, and how long an answer may take.
const HEALTH: Duration = Duration::from_millis(100);
const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// A router changed its mind about a node.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Which router.
    pub router: Host,
    /// Which node.
    pub node: u8,
    /// Whether it is a next hop from now on.
    pub up: bool,
    /// When the route was replaced.
    pub at: Instant,
}

#[derive(Debug)]
struct Shared {
    plan: Plan,
    stop: AtomicBool,
    /// Whether each node says that it may forward.
    healthy: Vec<AtomicBool>,
    /// Whether nobody notices that a node says nothing.
    unwatched: Vec<AtomicBool>,
    changes: Mutex<Vec<Change>>,
}

/// The threads that watch: one a router, one a node.
#[derive(Debug)]
pub struct Monitor {
    shared: Arc<Shared>,
    routers: Vec<JoinHandle<Result<Result<()>>>>,
    nodes: Vec<JoinHandle<()>>,
}

impl Monitor {
    /// Begin to watch the nodes of a lab.
    pub fn start(topology: &Topology, state: &State) -> Result<Monitor> {
        let plan = topology.plan();
        let sockets = state.nodes.iter().filter(|node| !node.witness).map(|node| &node.control);
        let sockets: Vec<_> = sockets.cloned().collect();
        let healthy =
            sockets.iter().map(|socket| AtomicBool::new(may_forward(socket) == Some(true)));
        let shared = Arc::new(Shared {
            plan,
            stop: AtomicBool::new(false),
            healthy: healthy.collect(),
            unwatched: state.nodes.iter().map(|_| AtomicBool::new(false)).collect(),
            changes: Mutex::default(),
        });
        let mut monitor = Monitor { shared, routers: Vec::new(), nodes: Vec::new() };
        for (index, socket) in sockets.into_iter().enumerate() {
            let shared = Arc::clone(&monitor.shared);
            monitor.nodes.push(thread::spawn(move || shared.ask_node(index, &socket)));
        }
        for host in [Host::ClientRouter, Host::ServerRouter] {
            let shared = Arc::clone(&monitor.shared);
            let watch = move || Router::new(host, &shared)?.watch();
            monitor.routers.push(topology.namespace(host)?.spawn("router", watch)?);
        }
        Ok(monitor)
    }

    /// The routers go on by what this node has last said, as those do that nobody tells of it.
    pub fn look_away(&self, node: usize, away: bool) {
        self.shared.unwatched[node].store(away, Ordering::Relaxed);
    }

    /// What the routers have changed so far, in order.
    pub fn changes(&self) -> Vec<Change> {
        self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why a router does not watch any more, if one does not.
    pub fn failure(&mut self) -> Option<String> {
        let ended = self.routers.iter().position(JoinHandle::is_finished)?;
        let reason = match self.routers.swap_remove(ended).join() {
            Ok(Ok(Ok(()))) => "it ended".to_owned(),
            Ok(Ok(Err(error)) | Err(error)) => format!("{error:#}"),
            Err(_) => "it panicked".to_owned(),
        };
        Some(format!("a router stopped watching: {reason}"))
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.routers.drain(..) {
            // What went wrong there is told by `failure`, while the run is judged.
            let _ = thread.join();
        }
        for thread in self.nodes.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What the node behind `socket` says of itself; nothing if it does not answer.
fn may_forward(socket: &Path) -> Option<bool> {
    Some(Client::connect(socket, HEALTH).ok()?.status().ok()?.lease.held)
}

impl Shared {
    /// A node that says no is believed at once; one that says nothing, when it does so again.
    fn ask_node(&self, index: usize, socket: &Path) {
        let mut silent = false;
        while !self.stop.load(Ordering::Relaxed) {
            let answer = may_forward(socket);
            match answer {
                Some(healthy) => self.healthy[index].store(healthy, Ordering::Relaxed),
                None if self.unwatched[index].load(Ordering::Relaxed) => {}
                None if silent => self.healthy[index].store(false, Ordering::Relaxed),
                None => {}
            }
            silent = answer.is_none();
            thread::sleep(HEALTH);
        }
    }
}

/// One next hop, as its router sees it.
#[derive(Debug, Clone, Copy)]
struct Hop {
    number: u8,
    address: SocketAddrV4,
    /// The last probe that it answered.
    answered: u16,
    /// Since when it has been fit to be used, if it is.
    fit_since: Option<Instant>,
    up: bool,
}

struct Router<'a> {
    host: Host,
    shared: &'a Shared,
    links: Links,
    echo: OwnedFd,
    sequence: u16,
    hops: Vec<Hop>,
}

impl<'a> Router<'a> {
    fn new(host: Host, shared: &'a Shared) -> Result<Router<'a>> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let echo = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)
            .context("open a socket for ICMP echoes")?;
        let near = if host == Host::ClientRouter { Segment::Inside } else { Segment::Outside };
        let hops = (1..=shared.plan.nodes)
            .filter_map(|number| match near.host(1, number)[0] {
                IpAddr::V4(address) => Some(Hop {
                    number,
                    address: SocketAddrV4::new(address, 0),
                    answered: 0,
                    fit_since: None,
                    up: shared.healthy[usize::from(number) - 1].load(Ordering::Relaxed),
                }),
                IpAddr::V6(_) => None,
            })
            .collect();
        let mut router = Router { host, shared, links: Links::open()?, echo, sequence: 0, hops };
        router.set_routes()?;
        Ok(router)
    }

    fn watch(mut self) -> Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.sequence = self.sequence.wrapping_add(1);
            for hop in &self.hops {
                let request = echo_request(hop.number, self.sequence);
                let to = SockaddrIn::from(hop.address);
                // A next hop without a carrier or a neighbour can't be reached: it does not answer.
                let _ = sendto(self.echo.as_raw_fd(), &request, &to, MsgFlags::empty());
            }
            let due = Instant::now() + PROBE;
            while Instant::now() < due {
                self.take_replies()?;
                thread::sleep(Duration::from_millis(1));
            }
            self.judge()?;
        }
        Ok(())
    }

    fn take_replies(&mut self) -> Result<()> {
        let mut buffer = [0; 256];
        loop {
            let length = match recv(self.echo.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => continue,
                Err(errno) => return Err(errno).context("read ICMP echoes"),
            };
            let Some((number, sequence)) = echo_reply(&buffer[..length]) else { continue };
            for hop in self.hops.iter_mut().filter(|hop| hop.number == number) {
                hop.answered = sequence;
            }
        }
    }

    fn judge(&mut self) -> Result<()> {
        let now = Instant::now();
        let mut changed = Vec::new();
        for hop in &mut self.hops {
            let healthy = self.shared.healthy[usize::from(hop.number) - 1].load(Ordering::Relaxed);
            let fit = healthy && self.sequence.wrapping_sub(hop.answered) < MISSED;
            hop.fit_since = if fit { Some(hop.fit_since.unwrap_or(now)) } else { None };
            // The first probes of all have no answer yet.
            let early = self.sequence <= MISSED && healthy;
            let steady = hop.fit_since.is_some_and(|since| now - since >= STEADY);
            let up = if hop.up { fit || early } else { steady };
            if up != hop.up {
                hop.up = up;
                changed.push((hop.number, up));
            }
        }
        if changed.is_empty() {
            return Ok(());
        }
        self.set_routes()?;
        let at = Instant::now();
        let mut changes = self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = changed.into_iter();
        changes.extend(changed.map(|(node, up)| Change { router: self.host, node, up, at }));
        Ok(())
    }

    fn set_routes(&mut self) -> Result<()> {
        let alive = self.hops.iter().filter(|hop| hop.up).map(|hop| hop.number);
        let alive: Vec<u8> = alive.collect();
        if alive.is_empty() {
            return Ok(());
        }
        for route in self.shared.plan.over(self.host, &alive) {
            self.links.set_route(&route)?;
        }
        Ok(())
    }
}

fn echo_request(number: u8, sequence: u16) -> [u8; 8] {
    let mut message = [ECHO_REQUEST, 0, 0, 0, 0, number, 0, 0];
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let words = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    message
}

/// Whose reply a packet is (an IPv4 header first), and to which probe.
fn echo_reply(packet: &[u8]) -> Option<(u8, u16)> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let message = packet.get(header..header + 8)?;
    let number = u8::try_from(u16::from_be_bytes([message[4], message[5]])).ok()?;
    let sequence = u16::from_be_bytes([message[6], message[7]]);
    (message[0] == ECHO_REPLY).then_some((number, sequence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_names_its_next_hop_and_probe() {
        let request = echo_request(3, 0x1234);
        let sum: u32 =
            request.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum holds");
        let mut packet = vec![0x45];
        packet.resize(20, 0);
        packet.extend_from_slice(&request);
        assert_eq!(echo_reply(&packet), None, "a request of somebody else");
        packet[20] = ECHO_REPLY;
        assert_eq!(echo_reply(&packet), Some((3, 0x1234)));
        assert_eq!(echo_reply(&packet[..27]), None);
    }
}
