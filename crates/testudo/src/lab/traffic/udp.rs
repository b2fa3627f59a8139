//! The paced UDP flows, which measure the blackout.
//!
//! Every flow sends one numbered datagram a period, without waiting for the one before, and notes when
//! echoes arrive. The longest time between two echoes is what an application saw of a takeover, no
//! finer than the pace.
//!
//! Invariant: a datagram that is late is not sent twice and its successor not sooner: a generator that
//! was held up shows as a gap, and is not hidden by a burst.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token};

use super::wire::{Kind, Message, SIZE};
use super::{Phase, Shared};

/// Time between two datagrams of a flow.
const PERIOD_MICROS: u64 = 5_000;
const TICK: Duration = Duration::from_millis(1);

/// One flow, after the run. Times are in microseconds on the run's clock.
#[derive(Debug, Clone, Default)]
pub struct Flow {
    /// Datagrams sent.
    pub sent: u32,
    /// When echoes arrived, in order.
    pub arrivals: Vec<u64>,
    /// Echoes that had arrived before.
    pub duplicated: u32,
    /// Echoes that were not what was sent.
    pub corrupt: u32,
    echoed: Vec<bool>,
}

/// All flows, after the run.
#[derive(Debug, Clone, Default)]
pub struct UdpOutcome {
    /// Each flow.
    pub flows: Vec<Flow>,
}

impl Flow {
    /// Datagrams whose echo arrived.
    pub fn received(&self) -> u32 {
        self.echoed.iter().filter(|echoed| **echoed).count() as u32
    }

    fn take(&mut self, bytes: &[u8], number: u32, key: u64, now: u64) {
        let message = bytes.first_chunk::<SIZE>().filter(|_| bytes.len() == SIZE);
        let message = message.and_then(|bytes| Message::decode(bytes, key).ok());
        let echoed = match message {
            Some(Message { kind: Kind::Ask, connection, number: at }) if connection == number => {
                self.echoed.get_mut(at as usize)
            }
            _ => None,
        };
        match echoed {
            None => self.corrupt += 1,
            Some(true) => self.duplicated += 1,
            Some(echoed) => {
                *echoed = true;
                self.arrivals.push(now);
            }
        }
    }
}

struct Sender {
    socket: UdpSocket,
    due: u64,
    flow: Flow,
}

/// Send and receive until the run stops.
pub fn run(shared: &Shared) -> Result<UdpOutcome> {
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
    Ok(UdpOutcome { flows: senders.into_iter().map(|sender| sender.flow).collect() })
}

/// The flows, their first datagrams spread over one period.
fn open(shared: &Shared, poll: &Poll) -> Result<Vec<Sender>> {
    let flows = shared.load.flows;
    (0..flows)
        .map(|number| {
            let to = shared.load.endpoint(number);
            let any: SocketAddr = match to {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let mut socket = UdpSocket::bind(any)?;
            socket.connect(to).with_context(|| format!("connect a UDP socket to {to}"))?;
            poll.registry().register(&mut socket, Token(number as usize), Interest::READABLE)?;
            let due = PERIOD_MICROS * u64::from(number) / u64::from(flows);
            Ok(Sender { socket, due, flow: Flow::default() })
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
        sender.due += PERIOD_MICROS * (1 + late / PERIOD_MICROS);
        let message = Message { kind: Kind::Ask, connection: number, number: sender.flow.sent };
        match sender.socket.send(&message.encode(shared.load.seed)) {
            Err(error) if !passing(&error) => return Err(error).context("send a datagram"),
            // What the stack did not take is a lost packet like any other.
            _ => {
                sender.flow.sent += 1;
                sender.flow.echoed.push(false);
            }
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
                sender.flow.take(&buffer[..count], index as u32, key, now);
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
    fn an_echo_counts_once_and_only_if_it_was_sent() {
        let mut flow = Flow { sent: 2, echoed: vec![false; 2], ..Flow::default() };
        let bytes = |connection, number| Message { kind: Kind::Ask, connection, number }.encode(9);
        flow.take(&bytes(4, 1), 4, 9, 100);
        flow.take(&bytes(4, 1), 4, 9, 110);
        flow.take(&bytes(5, 0), 4, 9, 120);
        flow.take(&bytes(4, 2), 4, 9, 130);
        flow.take(&bytes(4, 0)[1..], 4, 9, 140);
        assert_eq!((flow.received(), flow.duplicated, flow.corrupt), (1, 1, 3));
        assert_eq!(flow.arrivals, [100]);
    }
}
