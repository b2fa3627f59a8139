//! The paced UDP flows, which measure the blackout.
//!
//! Every flow sends one numbered datagram a period, without waiting for the one before; the server
//! gives each that it gets for the first time back under the same number. So both ways are counted,
//! each packet by itself. The longest time between two echoes is what an application saw of a
//! takeover, no finer than the pace.
//!
//! Invariant: a datagram that is late is not sent twice and its successor not sooner: a generator that
//! was held up shows as a gap, and is not hidden by a burst.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};
use nix::sys::socket::{setsockopt, sockopt};

use super::numbered::{Arrived, Sent, Way};
use super::wire::{Kind, Message, SIZE};
use super::{Load, Phase, Shared};

/// Time between two datagrams of a flow, when all flows have the same pace.
const PERIOD_MICROS: u64 = 5_000;
/// The longest time between two datagrams of a flow, when their paces differ.
const MOST_PERIOD_MICROS: u64 = 200_000;
const TICK: Duration = Duration::from_millis(1);
/// What a socket holds: what it could not hold would look like a packet that the cluster lost. Half a
/// minute of datagrams: on a busy machine a thread may wait for seconds for its turn.
const SOCKET_BUFFER: usize = 64 << 20;

/// One flow, after the run.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// From the client to the server.
    pub up: Way,
    /// Back again.
    pub down: Way,
}

/// All flows, after the run.
#[derive(Debug, Clone, Default)]
pub struct UdpOutcome {
    /// Each flow.
    pub flows: Vec<Flow>,
}

/// One end's half of every flow: what it sent, what it got.
#[derive(Debug, Clone, Default)]
pub struct Half {
    /// What it sent.
    pub sent: Sent,
    /// What it got.
    pub arrived: Arrived,
}

impl Flow {
    /// Both halves of a flow together.
    pub fn join(client: Half, server: Half) -> Flow {
        Flow {
            up: Way { sent: client.sent, arrived: server.arrived },
            down: Way { sent: server.sent, arrived: client.arrived },
        }
    }

    /// Datagrams that were not what was sent, at either end.
    pub fn corrupt(&self) -> u32 {
        self.up.arrived.corrupt + self.down.arrived.corrupt
    }
}

impl Half {
    /// Take a datagram of `kind` that belongs to `flow`. Gives its number if it is the first copy.
    pub fn take(&mut self, bytes: &[u8], kind: Kind, flow: u32, key: u64, now: u64) -> Option<u32> {
        let message = Message::from_datagram(bytes, key);
        let Some(message) = message.filter(|m| m.kind == kind && m.connection == flow) else {
            self.arrived.corrupt += 1;
            return None;
        };
        self.arrived.note(message.number, now).then_some(message.number)
    }
}

/// Let `socket` hold a burst. Root may, whatever the machine's limit is.
pub fn widen(socket: &impl AsFd) -> Result<()> {
    setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER).context("widen a socket's buffer")
}

struct Sender {
    socket: UdpSocket,
    due: u64,
    period: u64,
    half: Half,
}

/// Send and receive until the run stops.
pub fn run(shared: &Shared) -> Result<Vec<Half>> {
    let mut poll = Poll::new()?;
    let mut senders = open(shared, &poll)?;
    let mut events = Events::with_capacity(256);
    while shared.phase() < Phase::Stop {
        let sending = (Phase::Steady..Phase::Quiet).contains(&shared.phase());
        if sending {
            send_due(&mut senders, shared)?;
        }
        match poll.poll(&mut events, Some(TICK)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            receive(&mut senders, event.token().0, shared)?;
        }
    }
    Ok(senders.into_iter().map(|sender| sender.half).collect())
}

/// The periods of the flows. With `zipf`, flow k is k times as slow as the first, and all together
/// send as much as they would at one pace; no flow is so slow that a blackout passes it by.
fn periods(load: &Load) -> Vec<u64> {
    let flows = load.flows;
    if !load.zipf {
        return vec![PERIOD_MICROS; flows as usize];
    }
    let harmonic: f64 = (1..=flows).map(|rank| 1.0 / f64::from(rank)).sum();
    let first = PERIOD_MICROS as f64 * harmonic / f64::from(flows);
    (1..=flows)
        .map(|rank| ((first * f64::from(rank)) as u64).clamp(1, MOST_PERIOD_MICROS))
        .collect()
}

/// The flows, their first datagrams spread over one period.
fn open(shared: &Shared, poll: &Poll) -> Result<Vec<Sender>> {
    let flows = shared.load.flows;
    (0..flows)
        .zip(periods(&shared.load))
        .map(|(number, period)| {
            let to = shared.load.endpoint(number);
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let mut socket = UdpSocket::bind(any)?;
            widen(&socket)?;
            socket.connect(to).with_context(|| format!("connect a UDP socket to {to}"))?;
            poll.registry().register(&mut socket, Token(number as usize), Interest::READABLE)?;
            let due = period * u64::from(number) / u64::from(flows);
            Ok(Sender { socket, due, period, half: Half::default() })
        })
        .collect()
}

fn send_due(senders: &mut [Sender], shared: &Shared) -> Result<()> {
    let now = shared.micros();
    for (number, sender) in (0..).zip(senders) {
        if sender.due > now {
            continue;
        }
        // On the flow's own grid, and never more than one at a time.
        let late = now - sender.due;
        sender.due += sender.period * (1 + late / sender.period);
        let next = sender.half.sent.next();
        let message = Message { kind: Kind::Ask, connection: number, number: next };
        match sender.socket.send(&message.encode(shared.load.seed)) {
            Err(error) if !passing(&error) => return Err(error).context("send a datagram"),
            // What the stack did not take is a lost packet like any other.
            _ => sender.half.sent.note(next, now),
        }
    }
    Ok(())
}

fn receive(senders: &mut [Sender], index: usize, shared: &Shared) -> Result<()> {
    let sender = &mut senders[index];
    let mut buffer = [0; 2 * SIZE];
    loop {
        match sender.socket.recv(&mut buffer) {
            Ok(count) => {
                let (now, key) = (shared.micros(), shared.load.seed);
                let bytes = &buffer[..count];
                sender.half.take(bytes, Kind::Answer, index as u32, key, now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if passing(&error) => {}
            Err(error) => return Err(error).context("receive a datagram"),
        }
    }
}

/// Errors that a flow survives: an ICMP error that came back, a full queue.
fn passing(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock,
    };
    matches!(
        error.kind(),
        ConnectionRefused | HostUnreachable | Interrupted | NetworkUnreachable | WouldBlock
    ) || error.raw_os_error() == Some(nix::libc::ENOBUFS)
}

/// The longest time without an arrival that touches `from..=until`. Silence before `until` counts
/// as if an echo had arrived at `until`, so a flow that never came back shows its whole silence.
pub fn longest_gap(arrivals: &[u64], from: u64, until: u64) -> u64 {
    let before = arrivals.iter().copied().take_while(|at| *at < from).last().unwrap_or(from);
    let during = arrivals.iter().copied().filter(|at| (from..until).contains(at));
    let mut last = before;
    let mut longest = 0;
    for at in during.chain([until]) {
        longest = longest.max(at - last);
        last = at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_the_one_around_the_event() {
        let arrivals = [5, 10, 90, 95, 180, 185, 190];
        assert_eq!(longest_gap(&arrivals, 100, 192), 85, "95 to 180, over the event at 100");
        assert_eq!(longest_gap(&arrivals, 182, 192), 5, "what was before does not count");
        assert_eq!(longest_gap(&arrivals, 100, 400), 210, "silent since 190");
        assert_eq!(longest_gap(&[], 100, 400), 300);
    }

    #[test]
    fn an_echo_counts_once_and_only_on_its_flow() {
        let mut half = Half::default();
        let bytes = |kind, connection, number| Message { kind, connection, number }.encode(9);
        let mut take = |bytes: &[u8], now| half.take(bytes, Kind::Answer, 4, 9, now);
        assert_eq!(take(&bytes(Kind::Answer, 4, 1), 100), Some(1));
        assert_eq!(take(&bytes(Kind::Answer, 4, 1), 110), None);
        assert_eq!(take(&bytes(Kind::Answer, 5, 0), 120), None);
        assert_eq!(take(&bytes(Kind::Ask, 4, 2), 130), None);
        assert_eq!(take(&bytes(Kind::Answer, 4, 0)[1..], 140), None);
        assert_eq!(half.arrived.corrupt, 3);
        assert_eq!(half.arrived.times, [100]);
    }

    #[test]
    fn zipf_has_the_same_sum_as_one_pace_and_a_heavy_head() {
        let mut load = Load { flows: 32, ..Load::default() };
        let rate = |load: &Load| -> f64 { periods(load).iter().map(|p| 1e6 / *p as f64).sum() };
        let uniform = rate(&load);
        load.zipf = true;
        assert!((rate(&load) / uniform - 1.0).abs() < 0.01, "{} {uniform}", rate(&load));
        let periods = periods(&load);
        assert!(periods[0] * 30 < periods[31] && periods[31] <= MOST_PERIOD_MICROS);
    }
}
