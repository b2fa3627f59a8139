//! A cluster on virtual time: a network and disks that misbehave by a seed, and checks of what must
//! hold at every instant.
//!
//! Checked after each step of each node: its machine's lines and the longest that any machine had
//! are the same as far as both go; no two nodes lead in one term; no log grows beyond its bound; and
//! what a node promises in a message would survive a loss of power at that moment ([`promise`]).

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod book;
mod promise;
mod random;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use book::Book;
pub use random::Random;
use testudo_coordinator::{Batch, Coordinator, Output, Raft, Settings, Stored, Ticket};
use testudo_packet::bucket::{Nanos, NodeId};

const SNAPSHOT_AFTER: u64 = 5;
/// Two rounds of entries behind a snapshot, and what a leader adds before the next one.
const LOG_BOUND: usize = 2 * SNAPSHOT_AFTER as usize + 100;

/// How the network and the disks behave.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    pub loss_percent: u64,
    pub double_percent: u64,
    pub delay_ms: (u64, u64),
    pub disk_ms: (u64, u64),
}

pub const CALM: Weather =
    Weather { loss_percent: 0, double_percent: 0, delay_ms: (1, 2), disk_ms: (0, 0) };
pub const ROUGH: Weather =
    Weather { loss_percent: 10, double_percent: 5, delay_ms: (1, 80), disk_ms: (0, 30) };

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Deliver { from: u8, to: u8, bytes: Vec<u8> },
    Written { node: u8, life: u64, ticket: u64 },
}

#[derive(Default)]
pub struct Disk {
    /// What survives a loss of power.
    pub safe: Stored,
    /// What survives the end of the process only.
    cached: Vec<Batch>,
    /// What is not yet written at all.
    underway: Vec<(Ticket, Batch)>,
}

impl Disk {
    fn write(&mut self, batch: Batch) {
        let durable = batch.durable;
        self.cached.push(batch);
        if durable {
            self.flush();
        }
    }

    fn flush(&mut self) {
        for batch in self.cached.drain(..) {
            self.safe.write(&batch);
        }
    }
}

pub struct World {
    pub now: Nanos,
    pub random: Random,
    pub weather: Weather,
    pub nodes: Vec<Option<Raft<Book>>>,
    pub disks: Vec<Disk>,
    lives: Vec<u64>,
    first: Book,
    events: BinaryHeap<Reverse<(Nanos, u64, Event)>>,
    sequence: u64,
    /// `blocked[from][to]`: nothing gets through.
    pub blocked: Vec<Vec<bool>>,
    /// The longest lines that any machine has had.
    pub agreed: Vec<String>,
    leaders: BTreeMap<u64, u8>,
    pub refusals: Vec<String>,
    /// All that was sent and written, for comparing runs.
    pub trace: Vec<String>,
    pub keep_trace: bool,
    /// All messages that were sent.
    pub messages: Vec<Vec<u8>>,
    pub keep_messages: bool,
}

impl World {
    pub fn new(seed: u64, nodes: u8, voters: &[u8], weather: Weather) -> Self {
        let count = usize::from(nodes);
        let mut world = Self {
            now: Nanos(1),
            random: Random(seed),
            weather,
            nodes: (0..nodes).map(|_| None).collect(),
            disks: (0..nodes).map(|_| Disk::default()).collect(),
            lives: vec![0; count],
            first: Book::new(voters),
            events: BinaryHeap::new(),
            sequence: 0,
            blocked: vec![vec![false; count]; count],
            agreed: Vec::new(),
            leaders: BTreeMap::new(),
            refusals: Vec::new(),
            trace: Vec::new(),
            keep_trace: false,
            messages: Vec::new(),
            keep_messages: false,
        };
        (0..nodes).for_each(|node| world.start(node));
        world
    }

    fn settings(&self, node: u8) -> Settings {
        let nodes = (0..self.nodes.len()).map(|node| NodeId(node as u8)).collect();
        let snapshot_after = SNAPSHOT_AFTER;
        Settings { snapshot_after, ..Settings::new(NodeId(node), nodes, 7) }
    }

    pub fn start(&mut self, node: u8) {
        let at = usize::from(node);
        assert!(self.nodes[at].is_none(), "node {node} is running");
        self.disks[at].flush();
        self.lives[at] += 1;
        let stored = self.disks[at].safe.clone();
        let raft = Raft::new(self.settings(node), self.first.clone(), stored, self.now);
        self.nodes[at] = Some(raft.unwrap_or_else(|error| panic!("node {node}: {error}")));
        self.carry_out(node);
    }

    /// Ends a node's process; with the power, what was not made durable goes, too.
    pub fn stop(&mut self, node: u8, power: bool) {
        let at = usize::from(node);
        self.nodes[at] = None;
        self.disks[at].underway.clear();
        if power {
            self.disks[at].cached.clear();
        }
    }

    pub fn cut_off(&mut self, node: u8, cut: bool) {
        for other in 0..self.nodes.len() {
            self.blocked[usize::from(node)][other] = cut;
            self.blocked[other][usize::from(node)] = cut;
        }
    }

    pub fn node(&self, node: u8) -> &Raft<Book> {
        self.nodes[usize::from(node)].as_ref().expect("the node runs")
    }

    /// Calls a node and carries its outputs out.
    pub fn with<T>(&mut self, node: u8, act: impl FnOnce(&mut Raft<Book>, Nanos) -> T) -> T {
        let raft = self.nodes[usize::from(node)].as_mut().expect("the node runs");
        let result = act(raft, self.now);
        self.carry_out(node);
        result
    }

    pub fn running(&self) -> Vec<u8> {
        let running = |(node, raft): (usize, &Option<_>)| raft.as_ref().map(|_| node as u8);
        self.nodes.iter().enumerate().filter_map(running).collect()
    }

    pub fn leader(&self) -> Option<u8> {
        self.running().into_iter().find(|&node| self.node(node).leads())
    }

    pub fn propose(&mut self, node: u8, line: &str) -> bool {
        self.with(node, |raft, now| raft.propose(now, line.as_bytes().to_vec())).is_ok()
    }

    /// Lets time pass, as far as `until` allows.
    fn step(&mut self, until: Nanos) -> bool {
        let wakeups = self.running().into_iter().map(|node| (self.node(node).next_wakeup(), node));
        let wakeup = wakeups.min().unwrap_or((Nanos(u64::MAX), 0));
        let event = self.events.peek().map_or(Nanos(u64::MAX), |Reverse((at, ..))| *at);
        if wakeup.0.min(event) > until {
            self.now = until;
            return false;
        }
        if event <= wakeup.0 {
            let Reverse((at, _, event)) = self.events.pop().expect("peeked");
            self.now = self.now.max(at);
            self.happen(event);
        } else {
            self.now = self.now.max(wakeup.0);
            self.with(wakeup.1, |raft, now| raft.handle_tick(now));
        }
        true
    }

    pub fn run(&mut self, time: Duration) {
        let until = Nanos(self.now.0 + time.as_nanos() as u64);
        while self.step(until) {}
    }

    /// Lets time pass until something holds, which it has to within a minute.
    pub fn run_until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let limit = Nanos(self.now.0 + 60_000_000_000);
        while !holds(self) {
            assert!(self.step(limit), "after a minute still not: {what}");
        }
    }

    /// Gets a line agreed on: asks whoever leads, again and again.
    pub fn agree(&mut self, line: &str) {
        for _ in 0..100 {
            if self.agreed.iter().any(|agreed| agreed == line) {
                return;
            }
            self.run_until("a leader", |world| world.leader().is_some());
            let leader = self.leader().expect("just seen");
            self.propose(leader, line);
            self.run(Duration::from_millis(500));
        }
        panic!("{line} was not agreed on; refused: {:?}", self.refusals);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deliver { from, to, bytes } => {
                let blocked = self.blocked[usize::from(from)][usize::from(to)];
                if !blocked && self.nodes[usize::from(to)].is_some() {
                    self.with(to, |raft, now| raft.handle_message(now, NodeId(from), &bytes))
                        .unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
                }
            }
            Event::Written { node, life, ticket } => {
                let at = usize::from(node);
                if self.lives[at] == life && self.nodes[at].is_some() {
                    let (seen, batch) = self.disks[at].underway.remove(0);
                    assert_eq!(seen, Ticket(ticket), "batches are written in their order");
                    self.disks[at].write(batch);
                    self.with(node, |raft, now| raft.handle_persisted(now, Ticket(ticket)));
                }
            }
        }
    }

    fn carry_out(&mut self, node: u8) {
        while let Some(output) = self.nodes[usize::from(node)].as_mut().unwrap().poll_output() {
            if self.keep_trace {
                self.trace.push(format!("{} {node} {output:?}", self.now.0));
            }
            match output {
                Output::Send { to, bytes } => self.send(node, to.0, bytes),
                Output::Persist { ticket, batch } => self.persist(node, ticket, batch),
                Output::Refused { why } => self.refusals.push(why),
                Output::Changed | Output::Leader(_) => {}
            }
        }
        self.check(node);
    }

    fn send(&mut self, from: u8, to: u8, bytes: Vec<u8>) {
        let Weather { loss_percent, double_percent, delay_ms, .. } = self.weather;
        promise::check(&self.disks[usize::from(from)].safe, NodeId(to), &bytes);
        if self.keep_messages {
            self.messages.push(bytes.clone());
        }
        let copies = match self.random.below(100) {
            drawn if drawn < loss_percent => 0,
            drawn if drawn < loss_percent + double_percent => 2,
            _ => 1,
        };
        for _ in 0..copies {
            let bytes = bytes.clone();
            self.schedule(delay_ms, Event::Deliver { from, to, bytes });
        }
    }

    fn schedule(&mut self, (least, most): (u64, u64), event: Event) {
        let wait = self.random.below((most - least) * 1_000_000 + 1);
        let at = Nanos(self.now.plus_millis(least).0 + wait);
        self.sequence += 1;
        self.events.push(Reverse((at, self.sequence, event)));
    }

    fn persist(&mut self, node: u8, ticket: Ticket, batch: Batch) {
        let at = usize::from(node);
        if self.weather.disk_ms == (0, 0) {
            self.disks[at].write(batch);
            let raft = self.nodes[at].as_mut().expect("it has just asked");
            raft.handle_persisted(self.now, ticket);
            return;
        }
        self.disks[at].underway.push((ticket, batch));
        let life = self.lives[at];
        self.schedule(self.weather.disk_ms, Event::Written { node, life, ticket: ticket.0 });
    }

    fn check(&mut self, node: u8) {
        let raft = self.nodes[usize::from(node)].as_ref().expect("it has just acted");
        let lines = &raft.machine().lines;
        let both = lines.len().min(self.agreed.len());
        assert_eq!(lines[..both], self.agreed[..both], "node {node} has another order");
        if lines.len() > both {
            self.agreed.extend_from_slice(&lines[both..]);
        }
        if raft.leads() {
            let first = *self.leaders.entry(raft.term()).or_insert(node);
            assert_eq!(first, node, "two lead in term {}", raft.term());
        }
        assert!(raft.log_length() < LOG_BOUND, "node {node}: {} entries", raft.log_length());
    }
}
