//! The queue of what happens next, and the daemons' drivers.

use std::collections::BTreeMap;

use testudo_cluster::membership::Output;
use testudo_cluster::replica::{Effect, SyncError};
use testudo_packet::bucket::NodeId;

use super::checkers::one_owner;
use super::kernel::Happened;
use super::node::{Input, Life, Node};
use super::options::{MS, Options, SECRET};
use super::rng::Rng;
use super::streams::{End, StreamId};

/// How often a daemon looks at deadlines of streams.
const TICK: u64 = 100 * MS;

/// The time between two packets that change a flow, somewhere.
const TRAFFIC: u64 = 2 * MS;

enum What {
    Input(usize, Life, Input),
    Traffic,
}

/// A cluster and its network.
pub struct World {
    pub options: Options,
    pub seed: u64,
    pub rng: Rng,
    /// Nanoseconds since the world began; no machine's clock shows it.
    pub now: u64,
    pub nodes: Vec<Node>,
    /// `cut[a][b]`: nothing gets from a to b.
    pub cut: Vec<Vec<bool>>,
    pub traffic: bool,
    /// The first moment of two owners.
    pub violation: Option<String>,
    /// Datagrams of the members, the latest last.
    pub overheard: Vec<(usize, Vec<u8>)>,
    pub sync_errors: Vec<SyncError>,
    pub(super) streams: BTreeMap<StreamId, [End; 2]>,
    pub(super) streams_made: u64,
    lives: u64,
    queue: BTreeMap<(u64, u64), What>,
    queued: u64,
}

impl World {
    /// A cluster that has just been switched on.
    pub fn new(options: Options, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let nodes: Vec<_> =
            (0..options.nodes).map(|n| Node::new(options.cluster(n, SECRET), &mut rng)).collect();
        let mut world = Self {
            seed,
            rng,
            now: 0,
            cut: vec![vec![false; nodes.len()]; nodes.len()],
            nodes,
            traffic: true,
            violation: None,
            overheard: Vec::new(),
            sync_errors: Vec::new(),
            streams: BTreeMap::new(),
            streams_made: 0,
            lives: 0,
            queue: BTreeMap::new(),
            queued: 0,
            options,
        };
        for node in 0..world.nodes.len() {
            world.start(node);
        }
        world.push(0, What::Traffic);
        world
    }

    /// A cluster in which every bucket is owned.
    pub fn formed(options: Options, seed: u64) -> Self {
        let mut world = Self::new(options, seed);
        world.until(3000, super::checkers::every_bucket_owned);
        world
    }

    // What a test does to it.

    pub fn start(&mut self, node: usize) {
        self.lives += 1;
        let life = Life(self.lives);
        self.nodes[node].start(self.now, life, &mut self.rng);
        self.input_at(self.now, node, life, Input::Wake(u64::MAX));
        self.input_at(self.now, node, life, Input::Tick);
    }

    /// The machine is gone at once, with all it knew.
    pub fn kill(&mut self, node: usize) {
        self.hang_up_all(node);
        self.nodes[node].lose_power();
    }

    /// The daemon is gone; the kernel goes on with what it was left.
    pub fn kill_daemon(&mut self, node: usize) {
        self.hang_up_all(node);
        self.nodes[node].daemon = None;
    }

    pub fn pause(&mut self, node: usize) {
        if let Some(daemon) = &mut self.nodes[node].daemon {
            daemon.paused = true;
        }
    }

    /// All that has come while the daemon was stopped is there at once.
    pub fn resume(&mut self, node: usize) {
        let Some(daemon) = &mut self.nodes[node].daemon else { return };
        daemon.paused = false;
        let life = daemon.life;
        for input in std::mem::take(&mut daemon.backlog) {
            self.input_at(self.now, node, life, input);
        }
    }

    pub fn cut_both_ways(&mut self, a: usize, b: usize) {
        self.cut[a][b] = true;
        self.cut[b][a] = true;
    }

    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|&other| other != node) {
            self.cut_both_ways(node, other);
        }
    }

    pub fn heal(&mut self) {
        self.cut.iter_mut().for_each(|row| row.fill(false));
    }

    // What a test asks.

    /// Who handles a bucket now.
    pub fn handler(&self, bucket: usize) -> Option<usize> {
        (0..self.nodes.len()).find(|&node| self.nodes[node].kernel.handles(self.now, bucket))
    }

    pub fn describe(&self) -> String {
        let nodes = self.nodes.iter().map(|node| {
            let daemon = node.daemon.as_ref();
            let pending: Vec<_> = daemon.map_or(Vec::new(), |daemon| {
                (0..self.nodes.len())
                    .map(|peer| daemon.replica.peer(NodeId(peer as u8)))
                    .map(|peer| (peer.connected, peer.pending))
                    .collect()
            });
            let handled = node.handled(self.now).len();
            format!("[{:?}, handles {handled}, sync {pending:?}]", node.role())
        });
        format!("at {} ms: {}", self.now / MS, nodes.collect::<Vec<_>>().join(" "))
    }

    /// Lets this much time pass, and fails if two nodes ever own one bucket.
    pub fn run(&mut self, span: u64) {
        self.run_unchecked(span);
        if let Some(violation) = &self.violation {
            panic!("{violation}");
        }
    }

    /// Lets this much time pass, or less if two nodes own one bucket.
    pub fn run_unchecked(&mut self, span: u64) {
        let end = self.now + span;
        while self.violation.is_none()
            && let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), what) = entry.remove_entry();
            self.now = at;
            match what {
                What::Traffic => self.packet(),
                What::Input(node, life, input) => self.deliver(node, life, input),
            }
        }
        self.now = end;
    }

    /// Lets time pass until `holds`, at most so many milliseconds.
    pub fn until(&mut self, millis: u64, holds: impl Fn(&Self) -> Result<(), String>) {
        let end = self.now + millis * MS;
        while let Err(error) = holds(self) {
            assert!(self.now < end, "not within {millis} ms: {error}");
            self.run(10 * MS);
        }
    }

    // How it goes on.

    pub(super) fn way(&mut self) -> u64 {
        self.rng.within(MS / 10..self.options.delay)
    }

    fn push(&mut self, at: u64, what: What) {
        self.queued += 1;
        self.queue.insert((at, self.queued), what);
    }

    pub(super) fn input_at(&mut self, at: u64, node: usize, life: Life, input: Input) {
        self.push(at, What::Input(node, life, input));
    }

    fn packet(&mut self) {
        self.push(self.now + TRAFFIC, What::Traffic);
        if !self.traffic {
            return;
        }
        for number in 0..self.nodes.len() {
            let node = &mut self.nodes[number];
            let Some(happened) = node.kernel.traffic(self.now, &mut self.rng) else { continue };
            let lag = self.rng.within(0..MS);
            let swallowed = self.rng.chance(self.options.swallowed);
            let Some(daemon) = node.daemon.as_mut().filter(|_| !swallowed) else { continue };
            daemon.events_until = daemon.events_until.max(self.now + lag);
            let (at, life) = (daemon.events_until, daemon.life);
            self.input_at(at, number, life, Input::Happened(happened));
        }
    }

    fn deliver(&mut self, node: usize, life: Life, input: Input) {
        let now = self.nodes[node].kernel.clock.read(self.now);
        let Some(daemon) = self.nodes[node].daemon.as_mut().filter(|d| d.life == life) else {
            return;
        };
        if daemon.paused {
            return daemon.backlog.push(input);
        }
        match input {
            // Only the latest alarm that was set rings.
            Input::Wake(due) if due == daemon.wake_at => {
                daemon.wake_at = u64::MAX;
                daemon.membership.handle_tick(now);
            }
            Input::Wake(_) => return,
            Input::Tick => {
                daemon.replica.handle_tick(now);
                self.dial(node);
                self.input_at(self.now + TICK, node, life, Input::Tick);
            }
            // A datagram that does not count is counted by the membership.
            Input::Datagram(bytes) => {
                let _ = daemon.membership.handle_datagram(now, &bytes);
            }
            Input::Ownership(change) => daemon.replica.handle_ownership(change),
            Input::Released(incarnation) => daemon.membership.handle_released(now, incarnation),
            Input::Loaded(bucket, epoch) => {
                self.nodes[node].load(bucket, epoch);
            }
            // An event of a bucket that was given up meanwhile is refused.
            Input::Happened(Happened::Changed(event)) => {
                let _ = daemon.replica.handle_event(event);
            }
            Input::Happened(Happened::Expired(record)) => {
                let _ = daemon.replica.handle_expired(&record);
            }
            Input::Accept(stream) => self.accept(node, stream),
            Input::Bytes(stream, side) => self.bytes(node, stream, side),
            Input::HangUp(stream, side) => self.hear_hang_up(node, life, stream, side),
        }
        self.drain(node);
    }

    fn hear_hang_up(&mut self, node: usize, life: Life, stream: StreamId, side: usize) {
        let Some(ends) = self.streams.get(&stream) else { return };
        if self.cut[ends[1 - side].node][node] {
            let at = self.now + 50 * MS;
            return self.input_at(at, node, life, Input::HangUp(stream, side));
        }
        self.hang_up(stream, side);
    }

    /// Does what the two state machines of a daemon say.
    fn drain(&mut self, node: usize) {
        while let Some(daemon) = &mut self.nodes[node].daemon
            && let Some(output) = daemon.membership.poll_output()
        {
            self.perform(node, output);
        }
        while let Some(daemon) = &mut self.nodes[node].daemon
            && let Some(effect) = daemon.replica.poll_effect()
        {
            self.carry_out(node, effect);
        }
        self.pump(node);
        self.set_alarm(node);
    }

    fn perform(&mut self, node: usize, output: Output) {
        match output {
            Output::SetLease(deadline) => {
                self.nodes[node].kernel.lease = deadline;
                self.check(node, None);
            }
            Output::Ownership(change) => {
                // The replica lives on another thread, which may be busy.
                let lag = self.rng.within(0..3 * MS);
                let Some(daemon) = &mut self.nodes[node].daemon else { return };
                daemon.ownership_until = daemon.ownership_until.max(self.now + lag);
                let (at, life) = (daemon.ownership_until, daemon.life);
                self.input_at(at, node, life, Input::Ownership(change));
            }
            Output::Send { to, datagram } => self.send(node, usize::from(to.0), datagram),
            Output::Notice(_) => {}
        }
    }

    fn carry_out(&mut self, node: usize, effect: Effect) {
        let Some(life) = self.nodes[node].life() else { return };
        match effect {
            Effect::SetBucket { bucket, slot } => {
                self.nodes[node].kernel.set_slot(bucket, slot);
                self.check(node, Some(usize::from(bucket.0)));
            }
            Effect::Clear { bucket } => self.nodes[node].kernel.clear(bucket),
            Effect::Install { bucket, epoch } => {
                let at = self.now + self.rng.within(0..20 * MS);
                self.input_at(at, node, life, Input::Loaded(bucket, epoch));
            }
            Effect::Released { incarnation } => {
                let at = self.now + self.rng.within(0..MS);
                self.input_at(at, node, life, Input::Released(incarnation));
            }
            Effect::Close { connection, error } => {
                self.sync_errors.push(error);
                let daemon = self.nodes[node].daemon.as_ref();
                if let Some(&(id, side)) = daemon.and_then(|d| d.streams.get(&connection)) {
                    self.hang_up(id, side);
                }
            }
            Effect::PeerConnected { .. } | Effect::PeerClosed { .. } => {}
        }
    }

    fn send(&mut self, from: usize, to: usize, datagram: Vec<u8>) {
        if self.overheard.len() < 10_000 {
            self.overheard.push((to, datagram.clone()));
        }
        let copies = 1 + u64::from(self.rng.chance(self.options.doubled));
        for _ in 0..copies {
            let lost = self.rng.chance(self.options.loss) || self.cut[from][to];
            let at = self.now + self.way();
            if let Some(life) = self.nodes[to].life().filter(|_| !lost) {
                self.input_at(at, to, life, Input::Datagram(datagram.clone()));
            }
        }
    }

    fn set_alarm(&mut self, node: usize) {
        let lag = self.rng.within(0..MS / 2);
        let now = self.now;
        let Node { kernel, daemon: Some(daemon), .. } = &mut self.nodes[node] else { return };
        let due = now + kernel.clock.wait(now, daemon.membership.next_wakeup());
        if due < daemon.wake_at {
            daemon.wake_at = due;
            let life = daemon.life;
            self.input_at(due + lag, node, life, Input::Wake(due));
        }
    }

    fn check(&mut self, node: usize, bucket: Option<usize>) {
        let result = one_owner(&self.nodes, self.now, node, bucket);
        self.violation = self.violation.take().or(result.err());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "again: TESTUDO_SEED={} cargo test -p testudo-cluster --tests {}",
                self.seed,
                std::thread::current().name().unwrap_or_default()
            );
        }
    }
}
