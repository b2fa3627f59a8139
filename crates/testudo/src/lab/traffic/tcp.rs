//! The client's TCP connections.
//!
//! Invariant: a connection is opened once and never again; whatever ends it before the run does is
//! counted. It is alive only if it has carried data both ways since the check began: it got the
//! server's push, then asked, and got the answer.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};

use super::wire::{Broken, Framed, Kind, Message, SIZE};
use super::{Load, Phase, Shared};
use crate::lab::random::Random;

/// Connections that are being opened at once: below what a listener queues.
const OPENING: usize = 64;
/// Asks without an answer, after which a busy connection waits: bounds what a blackout piles up.
const OUTSTANDING: u32 = 16;
/// The mean pace of a busy connection, unless that makes too many messages.
const PACE: Duration = Duration::from_millis(50);
/// Messages a second over all busy connections: well below what two cores carry.
const RATE: u32 = 10_000;
/// How long a phase may go unnoticed.
const TICK: Duration = Duration::from_millis(10);
/// Reasons that a report tells.
const REASONS: usize = 5;

/// What became of the connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpOutcome {
    /// Opened, with a first exchange.
    pub opened: u32,
    /// Opened, and carried data both ways in the check.
    pub alive: u32,
    /// Opened, and reset.
    pub reset: u32,
    /// Opened, and neither alive nor reset.
    pub lost: u32,
    /// Bytes checked, at both ends together.
    pub verified: u64,
    /// The longest that each busy connection waited for an answer since the event, in microseconds,
    /// in rising order.
    pub stalls: Vec<u64>,
    /// The first reasons why connections were not alive.
    pub reasons: Vec<String>,
    fates: Vec<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Unopened,
    Alive,
    Lost,
    Reset,
}

impl TcpOutcome {
    /// Take the server's view in: a connection on which it saw a fault is not alive.
    pub(super) fn add_faults(&mut self, faults: &HashMap<u32, Broken>) {
        for (number, broken) in faults {
            let Some(fate) = self.fates.get_mut(*number as usize) else { continue };
            if *fate == Fate::Alive || *fate == Fate::Lost {
                *fate = if matches!(broken, Broken::Reset) { Fate::Reset } else { Fate::Lost };
                if self.reasons.len() < REASONS {
                    self.reasons.push(format!("connection {number}, at the server: {broken}"));
                }
            }
        }
        self.count();
    }

    fn count(&mut self) {
        let count = |fate| self.fates.iter().filter(|other| **other == fate).count() as u32;
        self.opened = self.fates.len() as u32 - count(Fate::Unopened);
        self.alive = count(Fate::Alive);
        self.reset = count(Fate::Reset);
        self.lost = count(Fate::Lost);
    }
}

#[derive(Debug)]
enum Stage {
    Connecting,
    Open,
    Broken(Broken),
}

struct Connection {
    framed: Framed,
    number: u32,
    stage: Stage,
    opened: bool,
    asked: u32,
    answered: u32,
    pushed: bool,
    checked: bool,
    pace: Option<Duration>,
    /// When the asks that are not answered yet were sent.
    asked_at: VecDeque<u64>,
    /// The longest wait for an answer that came after the event.
    stall: u64,
}

struct Client<'a> {
    shared: &'a Shared,
    poll: Poll,
    connections: Vec<Connection>,
    opening: usize,
    due: BinaryHeap<Reverse<(Instant, usize)>>,
}

/// Open the connections and keep them going until the run stops.
pub fn run(shared: &Shared) -> Result<TcpOutcome> {
    let mut client = Client {
        shared,
        poll: Poll::new()?,
        connections: Vec::new(),
        opening: 0,
        due: BinaryHeap::new(),
    };
    let mut events = Events::with_capacity(1024);
    let mut random = Random::new(shared.load.seed);
    while shared.phase() < Phase::Stop {
        if shared.phase() == Phase::Opening {
            client.open(&mut random)?;
        }
        let now = Instant::now();
        if shared.phase() == Phase::Steady {
            client.ask_due(now);
        }
        match client.poll.poll(&mut events, Some(client.wait(now))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        }
        for event in &events {
            client.advance(event.token().0, Connection::serve);
        }
    }
    Ok(client.outcome())
}

/// The mean pace of the busy connections, when there are `busy` of them.
fn mean_pace(busy: u32) -> Duration {
    PACE.max(Duration::from_secs(1) * busy / RATE)
}

impl Client<'_> {
    /// Begin to open connections, as many at once as is good. Every second pair is busy, so both
    /// kinds are of both families.
    fn open(&mut self, random: &mut Random) -> Result<()> {
        let Load { connections, seed, .. } = self.shared.load;
        let mean = mean_pace(connections / 2).as_micros() as u64;
        while self.opening < OPENING && self.connections.len() < connections as usize {
            let index = self.connections.len();
            let number = index as u32;
            let mut stream = TcpStream::connect(self.shared.load.endpoint(number))?;
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll.registry().register(&mut stream, Token(index), interest)?;
            let pace = random.between(mean / 2, mean * 3 / 2);
            let busy = (number / 2).is_multiple_of(2);
            self.connections.push(Connection {
                framed: Framed::new(stream, seed),
                number,
                stage: Stage::Connecting,
                opened: false,
                asked: 0,
                answered: 0,
                pushed: false,
                checked: false,
                pace: busy.then_some(Duration::from_micros(pace)),
                asked_at: VecDeque::new(),
                stall: 0,
            });
            self.opening += 1;
        }
        Ok(())
    }

    fn wait(&self, now: Instant) -> Duration {
        let due = self.due.peek().map_or(TICK, |Reverse((due, _))| due.duration_since(now));
        if self.shared.phase() == Phase::Steady { due.min(TICK) } else { TICK }
    }

    fn ask_due(&mut self, now: Instant) {
        while let Some(Reverse((due, index))) = self.due.peek().copied() {
            if due > now {
                return;
            }
            self.due.pop();
            let pace = self.connections[index].pace.unwrap_or(PACE);
            let ask = |connection: &mut Connection, shared: &Shared| {
                let waiting = connection.asked - connection.answered;
                if waiting < OUTSTANDING { connection.ask(shared.micros()) } else { Ok(()) }
            };
            self.advance(index, ask);
            if matches!(self.connections[index].stage, Stage::Open) {
                self.due.push(Reverse((now + pace, index)));
            }
        }
    }

    /// Let `step` use a connection, and count what has changed by it.
    fn advance(
        &mut self,
        index: usize,
        step: impl FnOnce(&mut Connection, &Shared) -> Result<(), Broken>,
    ) {
        let connection = &mut self.connections[index];
        if matches!(connection.stage, Stage::Broken(_)) {
            return;
        }
        let (opened, checked) = (connection.opened, connection.checked);
        if let Err(broken) = step(connection, self.shared) {
            if !opened {
                self.opening -= 1;
            }
            connection.stage = Stage::Broken(broken);
            // Deregisters and, at the end of the run at the latest, closes it.
            let _ = self.poll.registry().deregister(&mut connection.framed.stream);
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        if connection.opened && !opened {
            self.opening -= 1;
            self.shared.opened.fetch_add(1, Ordering::Relaxed);
            if let Some(pace) = connection.pace {
                self.due.push(Reverse((Instant::now() + pace, index)));
            }
        }
        if connection.checked && !checked {
            self.shared.checked.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn outcome(self) -> TcpOutcome {
        let mut outcome = TcpOutcome::default();
        let now = self.shared.micros();
        let busy = self.connections.iter().filter(|c| c.opened && c.pace.is_some());
        outcome.stalls = busy.map(|connection| connection.stall_until(now)).collect();
        outcome.stalls.sort_unstable();
        for connection in &self.connections {
            let (fate, reason) = connection.fate();
            if let (Some(reason), true) = (reason, outcome.reasons.len() < REASONS) {
                outcome.reasons.push(format!("connection {}: {reason}", connection.number));
            }
            outcome.fates.push(fate);
        }
        outcome.count();
        outcome
    }
}

impl Connection {
    /// Go on after the kernel has said that something can be read or written.
    fn serve(&mut self, shared: &Shared) -> Result<(), Broken> {
        if matches!(self.stage, Stage::Connecting) {
            if let Some(error) = self.framed.stream.take_error()? {
                return Err(error.into());
            }
            if self.framed.stream.peer_addr().is_err() {
                return Ok(());
            }
            self.framed.stream.set_nodelay(true)?;
            self.stage = Stage::Open;
            self.ask(shared.micros())?;
        }
        self.framed.flush()?;
        let mut received = Vec::new();
        let end = self.framed.receive(&mut received);
        shared.verified.fetch_add((received.len() * SIZE) as u64, Ordering::Relaxed);
        let (now, event) = (shared.micros(), shared.event.load(Ordering::Relaxed));
        for message in received {
            self.take(message, now, event)?;
        }
        end
    }

    fn take(&mut self, message: Message, now: u64, event: u64) -> Result<(), Broken> {
        let expected = match message.kind {
            Kind::Answer => self.answered,
            Kind::Push => 0,
            Kind::Ask => u32::MAX,
        };
        let fits = message.connection == self.number && message.number == expected;
        if !fits || (message.kind == Kind::Push && self.pushed) {
            return Err(Broken::Unexpected { seen: message, expected });
        }
        if message.kind == Kind::Push {
            self.pushed = true;
            return self.ask(now);
        }
        // Answers come in order, so this one is to the oldest ask.
        let asked_at = self.asked_at.pop_front().unwrap_or(now);
        if now >= event {
            self.stall = self.stall.max(now.saturating_sub(asked_at));
        }
        self.answered += 1;
        self.opened = true;
        // The ask that followed the push was the last one.
        self.checked = self.pushed && self.answered == self.asked;
        Ok(())
    }

    /// The longest wait, the one that has not ended among them.
    fn stall_until(&self, now: u64) -> u64 {
        let waiting = self.asked_at.front().map_or(0, |since| now.saturating_sub(*since));
        self.stall.max(waiting)
    }

    fn ask(&mut self, now: u64) -> Result<(), Broken> {
        let message = Message { kind: Kind::Ask, connection: self.number, number: self.asked };
        self.asked += 1;
        self.asked_at.push_back(now);
        self.framed.send(message)
    }

    fn fate(&self) -> (Fate, Option<String>) {
        let reason = match &self.stage {
            Stage::Connecting => "was never answered".to_owned(),
            Stage::Broken(broken) => broken.to_string(),
            Stage::Open if self.checked => return (Fate::Alive, None),
            Stage::Open if !self.pushed => "nothing came from the server in the check".to_owned(),
            Stage::Open => {
                format!("{} of {} asks were answered", self.answered, self.asked)
            }
        };
        let fate = match self.stage {
            _ if !self.opened => Fate::Unopened,
            Stage::Broken(Broken::Reset) => Fate::Reset,
            _ => Fate::Lost,
        };
        (fate, Some(reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_busy_connections_are_slower_each() {
        assert_eq!(mean_pace(500), PACE);
        assert_eq!(mean_pace(5_000), Duration::from_millis(500));
    }

    #[test]
    fn what_the_server_saw_counts_too() {
        let fates = vec![Fate::Alive, Fate::Alive, Fate::Reset, Fate::Unopened, Fate::Alive];
        let mut outcome = TcpOutcome { fates, ..TcpOutcome::default() };
        let faults = HashMap::from([(1, Broken::Reset), (2, Broken::Closed), (4, Broken::Corrupt)]);
        outcome.add_faults(&faults);
        assert_eq!((outcome.opened, outcome.alive), (4, 1));
        assert_eq!((outcome.reset, outcome.lost), (2, 1));
    }
}
