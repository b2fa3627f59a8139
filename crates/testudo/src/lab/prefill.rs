//! Flows in the cluster's tables before a run: as many as are asked for, opened through the cluster.
//!
//! Each is one UDP datagram with an address and port of its own, sent as a raw frame from the client's
//! link; a socket at the server takes them and nobody reads it, so nothing comes back. The entries are
//! real ones: made by the datapath, sent to the other nodes, kept in all common tables.
//!
//! Invariant: what was not in every common table at the end is an error, not a smaller number.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send};

use super::interrupt::Interrupt;
use super::narrator::Narrator;
use super::nodes::last_words;
use super::plan::{CLUSTER_MAC, HOST_LINK, Host, Mode, Plan};
use super::running::{Lab, ask};
use super::sniffer::{link_address, packet_socket};

/// Where the datagrams go; the load's port is its neighbour.
const SINK: u16 = 7001;
/// Ports of each made-up address.
const PORTS: u32 = 40_000;
const FIRST_PORT: u16 = 20_000;
/// Added to the network's address: the first made-up address.
const FIRST_ADDRESS: u32 = 0x4000;
/// The pace of the first attempt; later ones are slower.
const RATE: u32 = 120_000;
/// How far ahead of its pace a sender may be: some tens of datagrams at once.
const AHEAD: Duration = Duration::from_micros(500);
/// How many flows churn opens at most.
const CHURN_FLOWS: u32 = 40_000_000;
const ATTEMPTS: u32 = 6;
/// Between two looks at the tables, and how many without progress end an attempt.
const LOOK: Duration = Duration::from_millis(500);
const IDLE_LOOKS: u32 = 4;
const FRAME: usize = 14 + 20 + 8;

/// Keeps the sink open.
#[derive(Debug)]
pub struct Prefilled(#[expect(dead_code, reason = "kept open until it is dropped")] UdpSocket);

/// Open `flows` flows through the cluster; returns when every node knows all of them.
pub fn fill(
    lab: &Lab,
    flows: u32,
    interrupt: &Interrupt,
    narrator: &Narrator,
) -> Result<Prefilled> {
    let topology = lab.topology();
    let sink = sink(lab)?;
    let template = frame(topology.plan())?;
    let begun = Instant::now();
    for attempt in 1..=ATTEMPTS {
        let rate = RATE / attempt;
        let client = topology.namespace(Host::Client)?;
        let go_on = || interrupt.check().map(|()| true);
        client.run(|| send_all(&template, 0..flows, rate, go_on))??;
        let known = settle(lab, flows, interrupt)?;
        if known >= u64::from(flows) {
            let seconds = begun.elapsed().as_secs_f64();
            narrator.say(&format!("{flows} more flows are known to every node ({seconds:.1} s)"));
            return Ok(Prefilled(sink));
        }
    }
    bail!("not all of {flows} made-up flows reached every common table in {ATTEMPTS} attempts")
}

/// Wait until the tables hold `flows`, or stop to grow. Gives the smallest number.
fn settle(lab: &Lab, flows: u32, interrupt: &Interrupt) -> Result<u64> {
    let (mut least, mut idle) = (0, 0);
    while idle < IDLE_LOOKS {
        interrupt.wait(LOOK, || false)?;
        let mut dead = lab.state().nodes.iter().filter(|n| n.process.is_some_and(|p| !p.alive()));
        if let Some(node) = dead.next() {
            bail!("{} ended under {flows} made-up flows; {}", node.name, last_words(node));
        }
        let nodes = lab.state().nodes.iter().filter(|node| !node.witness);
        let known =
            nodes.map(|node| ask(&node.control).map_or(0, |status| status.common_table.entries));
        let known = known.min().unwrap_or_default();
        if known >= u64::from(flows) {
            return Ok(known);
        }
        idle = if known > least { 0 } else { idle + 1 };
        least = least.max(known);
    }
    Ok(least)
}

/// New flows all the time, at a pace, until this is dropped.
#[derive(Debug)]
pub struct Churn {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Result<u32>>>>,
    _sink: UdpSocket,
}

impl Churn {
    /// Begins to open so many flows a second; they have numbers from `first` on.
    pub fn start(lab: &Lab, first: u32, rate: u32) -> Result<Churn> {
        let topology = lab.topology();
        let sink = sink(lab)?;
        let template = frame(topology.plan())?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let go_on = move || Ok(!stopped.load(Ordering::Relaxed));
        let work = move || send_all(&template, first..first + CHURN_FLOWS, rate, go_on);
        let thread = topology.namespace(Host::Client)?.spawn("churn", work)?;
        Ok(Churn { stop, thread: Some(thread), _sink: sink })
    }

    /// Ends it, and says how many flows were opened.
    pub fn finish(mut self) -> Result<u32> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(opened)) => opened?,
            _ => bail!("the thread that opens new flows panicked"),
        }
    }
}

impl Drop for Churn {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It was not asked how far it came.
            let _ = thread.join();
        }
    }
}

fn sink(lab: &Lab) -> Result<UdpSocket> {
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, SINK));
    let sink = lab.topology().namespace(Host::Server)?.run(|| UdpSocket::bind(address))?;
    sink.context("bind the sink of the made-up flows")
}

fn send_one(socket: &impl AsRawFd, frame: &[u8; FRAME]) -> Result<()> {
    loop {
        match send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => return Ok(()),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => thread::yield_now(),
            Err(errno) => return Err(io::Error::from(errno)).context("send a made-up flow"),
        }
    }
}

/// Opens the flows of these numbers, so many a second, until it is told to stop. Says how many it were.
fn send_all(
    template: &[u8; FRAME],
    numbers: Range<u32>,
    rate: u32,
    mut go_on: impl FnMut() -> Result<bool>,
) -> Result<u32> {
    let socket = packet_socket(&link_address(HOST_LINK)?)?;
    let mut frame = *template;
    let (begun, count) = (Instant::now(), numbers.len() as u32);
    for (sent, number) in (0..).zip(numbers) {
        if !go_on()? {
            return Ok(sent);
        }
        address(&mut frame, number);
        send_one(&socket, &frame)?;
        let due = Duration::from_secs_f64(f64::from(sent) / f64::from(rate));
        let ahead = due.saturating_sub(begun.elapsed());
        if ahead >= AHEAD {
            thread::sleep(ahead);
        }
    }
    Ok(count)
}

/// A frame without source address and port: Ethernet, IPv4, UDP without a checksum and payload.
fn frame(plan: Plan) -> Result<[u8; FRAME]> {
    let own = |host| {
        let links = plan.attachments(host).into_iter();
        links.filter(|link| link.link == HOST_LINK).map(|link| link.mac).next()
    };
    let gateway = match plan.mode {
        Mode::Steered => own(Host::ClientRouter),
        Mode::Shared | Mode::Tap => mac(CLUSTER_MAC),
    };
    let (Some(gateway), Some(client)) = (gateway, own(Host::Client)) else {
        bail!("the client has no link to a gateway")
    };
    let IpAddr::V4(server) = plan.server()[0] else { bail!("the server has no IPv4 address") };
    let (IpAddr::V4(network), _) = plan.ends()[0].networks()[0] else {
        bail!("the client has no IPv4 network")
    };
    let mut frame = [0; FRAME];
    frame[..6].copy_from_slice(&gateway);
    frame[6..12].copy_from_slice(&client);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..24].copy_from_slice(&[0x45, 0, 0, 28, 0, 0, 0x40, 0, 64, 17]);
    frame[26..30].copy_from_slice(&network.octets());
    frame[30..34].copy_from_slice(&server.octets());
    frame[36..38].copy_from_slice(&SINK.to_be_bytes());
    frame[38..40].copy_from_slice(&[0, 8]);
    Ok(frame)
}

/// Give the frame the source of flow `number`.
fn address(frame: &mut [u8; FRAME], number: u32) {
    let network = u32::from_be_bytes([frame[26], frame[27], 0, 0]);
    let source = network + FIRST_ADDRESS + number / PORTS;
    let port = FIRST_PORT + (number % PORTS) as u16;
    frame[26..30].copy_from_slice(&source.to_be_bytes());
    frame[34..36].copy_from_slice(&port.to_be_bytes());
    frame[24..26].fill(0);
    let words = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flow_has_a_source_of_its_own_in_the_clients_network() {
        let plan = Plan { mode: Mode::Shared, nodes: 3, witness: false, ..Plan::default() };
        let mut frame = frame(plan).unwrap();
        let mut sources = std::collections::HashSet::new();
        for number in (0..4_000_000).step_by(9_973) {
            address(&mut frame, number);
            assert_eq!(frame[26..28], [10, 10]);
            assert!(sources.insert(frame[26..36].to_vec()), "{number}");
            let words =
                frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the checksum holds");
        }
        assert_eq!(frame[..6], [0x02, 0x74, 0x65, 0x73, 0, 1]);
    }
}
