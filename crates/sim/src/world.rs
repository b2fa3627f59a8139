//! The queue of what happens next, and what can be done to a cluster.
//!
//! Invariant: everything follows from the options and the seed. Inputs wait in one queue, ordered by
//! the moment they are due and then by when they were put in. A checker that finds something wrong ends
//! the run at that very moment.

use std::collections::BTreeMap;

use testudo_cluster::replica::SyncError;
use testudo_coordinator::Coordinator;
use testudo_packet::bucket::NodeId;

use crate::checkers::{Acknowledged, Copies, KeptBack, NeverBack, TranslatedAlone, one_owner};
use crate::kernel::Packet;
use crate::machine::{Input, Life, Machine, Thread};
use crate::options::{MS, Options, SECRET};
use crate::rng::Rng;
use crate::streams::{End, StreamId};
use crate::tally::Tally;
use crate::traffic::Traffic;

/// How many datagrams of the members are kept for whoever wants to replay them.
const OVERHEARD: usize = 2_000;

pub(crate) enum What {
    Input(usize, Life, Input),
    Traffic,
    Determines,
    Arrives(usize, Packet),
}

/// What gets through from node to node: `[a][b]` is the way from a to b.
#[derive(Clone, Debug)]
pub struct Cut {
    /// Where no heartbeat gets through.
    pub datagrams: Vec<Vec<bool>>,
    /// Where no stream gets through.
    pub streams: Vec<Vec<bool>>,
}

/// A cluster and its network.
pub struct World {
    /// What it is made of.
    pub options: Options,
    /// What it follows from.
    pub seed: u64,
    /// Its chance.
    pub rng: Rng,
    /// Nanoseconds since the world began; no machine's clock shows it.
    pub now: u64,
    /// Its machines, in the order of the members.
    pub machines: Vec<Machine>,
    /// Where nothing gets through.
    pub cut: Cut,
    /// The packets.
    pub traffic: Traffic,
    /// What a checker has found.
    pub violation: Option<String>,
    /// Datagrams of the members, with whom they were for.
    pub overheard: Vec<(usize, Vec<u8>)>,
    /// Why streams have ended.
    pub sync_errors: Vec<SyncError>,
    /// What happened.
    pub tally: Tally,
    /// Whether to say what happens.
    pub verbose: bool,
    pub(crate) acknowledged: Acknowledged,
    pub(crate) never_back: NeverBack,
    pub(crate) translated_alone: TranslatedAlone,
    pub(crate) kept_back: KeptBack,
    pub(crate) copies: Copies,
    pub(crate) streams: BTreeMap<StreamId, [End; 2]>,
    pub(crate) streams_made: u64,
    lives: u64,
    queue: BTreeMap<(u64, u64), What>,
    queued: u64,
}

impl World {
    /// A cluster all of whose machines are switched off.
    #[must_use]
    pub fn dark(options: Options, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let machine = |node| Machine::new(options.cluster(node, SECRET), &options, &mut rng);
        let machines: Vec<_> = (0..options.nodes).map(machine).collect();
        let none = vec![vec![false; machines.len()]; machines.len()];
        let mut world = Self {
            seed,
            rng,
            now: 0,
            cut: Cut { datagrams: none.clone(), streams: none },
            acknowledged: Acknowledged::new(&options),
            never_back: NeverBack::new(&options),
            translated_alone: TranslatedAlone::default(),
            kept_back: KeptBack::new(&options),
            copies: Copies::default(),
            machines,
            traffic: Traffic::default(),
            violation: None,
            overheard: Vec::new(),
            sync_errors: Vec::new(),
            tally: Tally::default(),
            verbose: false,
            streams: BTreeMap::new(),
            streams_made: 0,
            lives: 0,
            queue: BTreeMap::new(),
            queued: 0,
            options,
        };
        world.push(0, What::Traffic);
        world.push(0, What::Determines);
        world
    }

    /// A cluster that has just been switched on.
    #[must_use]
    pub fn new(options: Options, seed: u64) -> Self {
        let mut world = Self::dark(options, seed);
        (0..world.machines.len()).for_each(|node| world.start(node));
        world
    }

    /// A cluster in which every bucket is owned and every node is a member.
    ///
    /// # Panics
    ///
    /// If it does not come to that.
    #[must_use]
    pub fn formed(options: Options, seed: u64) -> Self {
        let mut world = Self::new(options, seed);
        world.until(5000, crate::checkers::healed);
        world
    }

    // What can be done to it.

    /// Starts a node's daemon, and its machine if need be.
    pub fn start(&mut self, node: usize) {
        self.say(node, || "starts".into());
        self.tally.count("daemon starts");
        self.lives += 1;
        let life = Life(self.lives);
        self.machines[node].start(self.now, life, &mut self.rng);
        self.acknowledged.forget(node);
        let plan = self.now + self.rng.within(0..100 * MS);
        self.input_at(self.now, node, life, Input::Wake(u64::MAX));
        self.input_at(self.now, node, life, Input::Tick);
        self.input_at(self.now, node, life, Input::Alarm(u64::MAX));
        self.input_at(plan, node, life, Input::Plan);
    }

    /// The machine is gone at once, with all it knew but its disk.
    pub fn kill(&mut self, node: usize) {
        self.say(node, || "loses its power".into());
        self.hang_up_all(node);
        self.machines[node].lose_power();
        self.acknowledged.forget(node);
    }

    /// The daemon is gone; the kernel goes on with what it was left.
    pub fn kill_daemon(&mut self, node: usize) {
        self.say(node, || "loses its daemon".into());
        self.hang_up_all(node);
        self.machines[node].end_daemon();
        self.acknowledged.forget(node);
    }

    /// The daemon is stopped.
    pub fn pause(&mut self, node: usize) {
        self.say(node, || "pauses".into());
        if let Some(daemon) = &mut self.machines[node].daemon {
            daemon.paused = true;
        }
    }

    /// All that has come while the daemon was stopped is there at once; datagrams are read first.
    pub fn resume(&mut self, node: usize) {
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        if !std::mem::replace(&mut daemon.paused, false) {
            return;
        }
        let life = daemon.life;
        let backlog = std::mem::take(&mut daemon.backlog);
        self.say(node, || "goes on".into());
        let (datagrams, others): (Vec<_>, Vec<_>) =
            backlog.into_iter().partition(|input| matches!(input, Input::Datagram(_)));
        for input in datagrams.into_iter().chain(others) {
            self.input_at(self.now, node, life, input);
        }
    }

    /// Nothing gets from one node to another any more.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.say(from, || format!("is not heard by {to}"));
        self.cut.datagrams[from][to] = true;
        self.cut.streams[from][to] = true;
    }

    /// Nothing gets from one node to another any more, nor back.
    pub fn cut_both_ways(&mut self, a: usize, b: usize) {
        self.cut_one_way(a, b);
        self.cut_one_way(b, a);
    }

    /// Two nodes hear each other's heartbeats and nothing else.
    pub fn cut_streams(&mut self, a: usize, b: usize) {
        self.say(a, || format!("has no stream with {b}"));
        self.cut.streams[a][b] = true;
        self.cut.streams[b][a] = true;
    }

    /// Two nodes hear each other by streams, and no heartbeats.
    pub fn cut_datagrams(&mut self, a: usize, b: usize) {
        self.say(a, || format!("has no heartbeats with {b}"));
        self.cut.datagrams[a][b] = true;
        self.cut.datagrams[b][a] = true;
    }

    /// A node is alone.
    pub fn isolate(&mut self, node: usize) {
        for other in (0..self.machines.len()).filter(|&other| other != node) {
            self.cut_both_ways(node, other);
        }
    }

    /// Everything gets through.
    pub fn heal(&mut self) {
        for way in [&mut self.cut.datagrams, &mut self.cut.streams] {
            way.iter_mut().for_each(|to| to.fill(false));
        }
        for machine in &mut self.machines {
            machine.slow = 0;
            machine.disk.slow = 0;
        }
    }

    /// An operator, or the node's own health, says something to a daemon.
    pub fn tell(&mut self, node: usize, input: Input) {
        if let Some(life) = self.machines[node].life() {
            self.say(node, || format!("is told {input:?}"));
            self.input_at(self.now, node, life, input);
        }
    }

    // What can be asked.

    /// Who handles a bucket now.
    #[must_use]
    pub fn handler(&self, bucket: usize) -> Option<usize> {
        (0..self.machines.len()).find(|&n| self.machines[n].kernel.handles(self.now, bucket))
    }

    /// The latest version of the map that a running node has.
    #[must_use]
    pub fn version(&self) -> u64 {
        let daemons = self.machines.iter().filter_map(|machine| machine.daemon.as_ref());
        daemons.map(|daemon| daemon.raft.machine().version().0).max().unwrap_or(0)
    }

    /// What a failure has to show.
    #[must_use]
    pub fn describe(&self) -> String {
        let nodes = self.machines.iter().enumerate().map(|(number, machine)| {
            let Some(daemon) = &machine.daemon else { return format!("\n  {number}: down") };
            let handled = machine.handled(self.now).len();
            let peer = |p| {
                let status = daemon.replica.peer(NodeId(p as u8));
                if status.connected { status.pending.to_string() } else { "-".into() }
            };
            let sync: Vec<_> = (0..self.machines.len()).map(peer).collect();
            let map = daemon.raft.machine();
            format!(
                "\n  {number}: {:?}{}, handles {handled}, map {} (raft {}), settled {}, lease {}, \
                 voters {:?}, leader {:?} term {}, synced {:?}, moving {:?}, sync [{}]",
                daemon.membership.role(),
                if daemon.paused { " paused" } else { "" },
                daemon.membership.map().version().0,
                map.version().0,
                daemon.membership.settled().0,
                machine.kernel.leased(self.now),
                map.voters().iter().map(|node| node.0).collect::<Vec<_>>(),
                daemon.raft.leader().map(|node| node.0),
                daemon.raft.term(),
                daemon.replica.synced().map(|version| version.0),
                daemon.replica.moving(),
                sync.join(" "),
            )
        });
        format!("at {} ms: {}", self.now / MS, nodes.collect::<String>())
    }

    /// Says what happens, if somebody listens.
    pub(crate) fn say(&self, node: usize, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>12.3} ms  node {node} {}", self.now as f64 / MS as f64, what());
        }
    }

    /// A checker has found something.
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(format!("{}; {}", what(), self.describe()));
        }
    }

    // How it goes on.

    /// Lets this much time pass.
    ///
    /// # Panics
    ///
    /// If a checker has found something.
    pub fn run(&mut self, span: u64) {
        self.run_unchecked(span);
        if let Some(violation) = &self.violation {
            panic!("{violation}");
        }
    }

    /// Lets this much time pass, or less if a checker finds something.
    pub fn run_unchecked(&mut self, span: u64) {
        let end = self.now + span;
        while self.violation.is_none()
            && let Some(entry) = self.queue.first_entry()
            && entry.key().0 <= end
        {
            let ((at, _), what) = entry.remove_entry();
            self.now = at;
            match what {
                What::Traffic => self.send_packet(),
                What::Determines => self.determine_some(),
                What::Arrives(node, packet) => self.packet_arrives(node, packet),
                What::Input(node, life, input) => self.deliver(node, life, input),
            }
        }
        self.now = self.now.max(end);
    }

    /// Lets time pass until `holds`, at most so many milliseconds.
    ///
    /// # Errors
    ///
    /// What does not hold then, or what a checker has found.
    pub fn wait(
        &mut self,
        millis: u64,
        holds: impl Fn(&Self) -> Result<(), String>,
    ) -> Result<(), String> {
        let end = self.now + millis * MS;
        while let Err(error) = holds(self) {
            if self.now >= end {
                return Err(format!("not within {millis} ms: {error}; {}", self.describe()));
            }
            self.run_unchecked(10 * MS);
            if let Some(violation) = &self.violation {
                return Err(violation.clone());
            }
        }
        Ok(())
    }

    /// As [`Self::wait`].
    ///
    /// # Panics
    ///
    /// Where that has an error.
    pub fn until(&mut self, millis: u64, holds: impl Fn(&Self) -> Result<(), String>) {
        self.wait(millis, holds).unwrap_or_else(|error| panic!("{error}"));
    }

    /// How long a datagram or a piece of a stream is under way.
    pub(crate) fn way(&mut self) -> u64 {
        self.rng.within(MS / 10..self.options.delay)
    }

    pub(crate) fn push(&mut self, at: u64, what: What) {
        self.queued += 1;
        self.queue.insert((at, self.queued), what);
    }

    pub(crate) fn input_at(&mut self, at: u64, node: usize, life: Life, input: Input) {
        self.push(at, What::Input(node, life, input));
    }

    /// A thread of a daemon tells another something.
    pub(crate) fn mail(&mut self, node: usize, from: Thread, input: Input) {
        let to = input.thread();
        // The engine has more to do than the others.
        let lag = self.rng.within(0..if to == Thread::Engine { 3 * MS } else { MS });
        let Some(daemon) = &mut self.machines[node].daemon else { return };
        let until = &mut daemon.mail[from as usize][to as usize];
        *until = (*until).max(self.now + lag);
        let (at, life) = (*until, daemon.life);
        self.input_at(at, node, life, input);
    }

    fn deliver(&mut self, node: usize, life: Life, input: Input) {
        let late = self.rng.chance(self.options.late);
        let lateness = self.rng.within(0..8 * MS);
        let Some(daemon) = self.machines[node].daemon.as_mut().filter(|d| d.life == life) else {
            return;
        };
        if daemon.paused {
            return daemon.backlog.push(input);
        }
        let thread = input.thread();
        let busy = &mut daemon.busy[thread as usize];
        if late && *busy <= self.now {
            *busy = self.now + lateness;
        }
        if *busy > self.now {
            let at = *busy;
            return self.input_at(at, node, life, input);
        }
        match thread {
            Thread::Heartbeat => self.heartbeat_thread(node, input),
            Thread::Engine => self.engine(node, input),
            Thread::Coordinator => self.coordinator(node, input),
        }
    }

    pub(crate) fn send(&mut self, from: usize, to: usize, datagram: Vec<u8>) {
        if self.overheard.len() < OVERHEARD {
            self.overheard.push((to, datagram.clone()));
        }
        self.tally.count("datagrams sent");
        self.tally.add("bytes of datagrams", datagram.len() as u64);
        let copies = 1 + u64::from(self.rng.chance(self.options.doubled));
        for _ in 0..copies {
            let lost = self.rng.chance(self.options.loss) || self.cut.datagrams[from][to];
            let at = self.now + self.way();
            if let Some(life) = self.machines[to].life().filter(|_| !lost) {
                self.input_at(at, to, life, Input::Datagram(datagram.clone()));
            }
        }
    }

    /// A lease word or the slot of a bucket (of all, if none is named) has been written.
    pub(crate) fn check(&mut self, node: usize, bucket: Option<usize>) {
        let found = one_owner(&self.machines, self.now, node, bucket)
            .and_then(|()| self.never_back.check(&self.machines[node], self.now, bucket));
        if let Err(error) = found {
            self.fail(|| error);
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let thread = std::thread::current();
            eprintln!(
                "again: TESTUDO_SEED={} cargo test -p testudo-sim {}",
                self.seed,
                thread.name().unwrap_or_default()
            );
        }
    }
}
