//! The engine: it drives the [`Replica`] and owns the node's packet handling.
//!
//! One thread turns, at least once a millisecond while the node owns a bucket: changes of ownership first, then what packets have
//! caused, what peers say, what is due. Only this thread writes bucket slots, so the order in which
//! the replica asks for them is the order in which packets meet them.
//!
//! Invariant: every part of a turn is bounded, so that none keeps the others waiting: events are
//! drained before their ring overflows, a takeover begins at once, packets that came up are handled
//! also while a million entries are being installed.
//!
//! Why a thread that polls each millisecond and not one that is woken: a wake-up from the XDP program
//! costs each new flow several microseconds of softirq time. A tick without work costs several microseconds,
//! too, so a node that owns nothing ticks less often ([`rest`]).
//!
//! Limits: a bucket that is handed over just after events were lost waits until both tables have been gone
//! over, and all else with it. That is memory work, some tenths of a second for a million flows; the
//! watchdog allows for it.

mod announcing;
mod audit;
pub mod commits;
pub mod determined;
pub mod explaining;
mod flush;
mod hand_over;
mod letters;
mod load_report;
mod loading;
mod moves;
mod rest;
pub mod ruling;
mod sweep;
mod takeover;
mod tallies;
pub mod verify;

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use testudo_cluster::config::Cluster;
use testudo_cluster::map::Version;
use testudo_cluster::ownership::Ownership;
use testudo_cluster::replica::{Effect, Replica};
use testudo_datapath::kernel::nameless::NamelessFileSystem;
use testudo_datapath::{Datapath, NodeTable, SharedTable};
use testudo_packet::bucket::{BucketId, BucketSlot, Nanos, NodeId};
use testudo_packet::event::Occurrence;
use testudo_packet::tracking::Timeouts;

use self::announcing::Announcing;
use self::commits::Commits;
use self::determined::Determining;
use self::flush::Flush;
pub use self::hand_over::HandOverError;
use self::load_report::LoadReport;
use self::loading::Loading;
use self::moves::Yields;
use self::rest::Rest;
use self::ruling::Rulings;
use self::sweep::Sweep;
use self::takeover::Takeover;
pub use self::tallies::Tallies;
use super::clock;
use super::coordination;
use super::handover::Successor;
use super::health::{Finding, Handle};
use super::heartbeat;
use super::mailbox::{Mailbox, Sender};
use super::question::Question;
use super::stations::StationBook;
use super::streams::Streams;
use super::throttle::Throttle;
use super::watchdog::Turns;
use crate::rules::ruling::Ruling;

/// What the engine is told and asked.
#[derive(Debug)]
pub enum Input {
    /// Buckets have changed hands.
    Ownership {
        /// Which, and how.
        change: Ownership,
        /// When that was found out.
        decided: Nanos,
    },
    /// Somebody wants to know.
    Ask(Question),
    /// Somebody wants all tables to be compared.
    Verify(verify::Question),
    /// A flow is to be let in.
    Determine(determined::Question),
    /// Somebody wants to know about rules, or to change them.
    Rules(ruling::Question),
    /// Somebody wants to know what a packet would meet.
    Explain(explaining::Question),
    /// The kernel's routes or neighbours have changed.
    WaysChanged,
    /// A peer is to be told this.
    Letter {
        /// Which peer.
        to: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// The memory of packet handling is to be lent to the program that will replace this process, in a file system
    /// of this number; a witness has none.
    Lend(SyncSender<Result<Option<i32>, testudo_datapath::Error>>),
    /// What was lent is not needed any more.
    TakeBack,
    /// This process is to be replaced.
    HandOver {
        /// By what.
        successor: Arc<Successor>,
        /// Where to say that it was not, and why.
        failed: SyncSender<HandOverError>,
    },
}

/// How long events gather before they are read. Every write to a peer is answered by one that says
/// how far it has got, and that wakes the engine: were new events read and sent at once then, the two
/// nodes would toss single changes to and fro and pay a system call for each.
const GATHERING: Duration = Duration::from_micros(500);

/// The token of the mailbox; the streams have theirs.
const MAILBOX: Token = Token(0);

/// The token of packets that wait for the peers to know their flow.
const PACKETS: Token = Token(usize::MAX);

/// How many descriptors one poll tells of; the rest come with the next.
const MAX_EVENTS: usize = 256;

/// How many messages are taken in one turn at most.
const MAX_MESSAGES: usize = 64;

/// How often the replica's deadlines are looked at, and silent flows, in milliseconds.
const REPLICA_TICK: u64 = 100;
const EXPIRY_TICK: u64 = 1000;

/// How long a packet that met a bucket's old slot may still be on its way through the pipeline. It
/// takes microseconds; an interrupt may hold it up.
const GRACE: Duration = Duration::from_millis(1);

/// A node's packet handling, in the kernel or not.
pub type AnyDatapath = Box<dyn Datapath<Table = SharedTable>>;

/// What the engine works with.
pub struct Parts {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// The packet handling, attached. A witness has one that meets no packets.
    pub datapath: AnyDatapath,
    /// The common table and the sessions with the peers.
    pub replica: Replica,
    /// The sync streams.
    pub streams: Streams,
    /// What the streams are registered with.
    pub poll: Poll,
    /// The engine's mailbox.
    pub mailbox: Mailbox<Input>,
    /// The heartbeat thread's.
    pub heartbeats: Sender<heartbeat::Input>,
    /// The coordination thread's.
    pub coordination: Sender<coordination::Input>,
    /// Where this node's health is kept.
    pub health: Handle,
    /// The links that packets come and go by, and who is on them.
    pub stations: StationBook,
    /// How long silent flows are kept.
    pub timeouts: Timeouts,
    /// Which flows may begin.
    pub ruling: Arc<Ruling>,
    /// What the engine shows its life by.
    pub turns: Turns,
}

/// The engine.
pub struct Engine {
    parts: Parts,
    loading: Loading,
    takeover: Option<Takeover>,
    /// The latest takeover from another node, until its first packet has come.
    first_packet: Option<Takeover>,
    tallies: Tallies,
    sweep: Sweep,
    rounds: audit::Rounds,
    commits: Commits,
    rulings: Rulings,
    flush: Option<Flush>,
    determining: Determining,
    verifying: verify::Verifying,
    yields: Yields,
    load_report: LoadReport,
    rest: Rest,
    /// Where the memory is lent to the program that will replace this process.
    lent: Option<NamelessFileSystem>,
    /// Whether something may be in the mailbox.
    mail: bool,
    events_read: Nanos,
    replica_due: Nanos,
    expiry_due: Nanos,
    announcing: Announcing,
    lost: Throttle,
    apart: Throttle,
    bare: Throttle,
    refused: Throttle,
    closed: Throttle,
}

impl Engine {
    /// An engine at rest.
    pub fn new(parts: Parts) -> io::Result<Self> {
        let registry = parts.poll.registry();
        let mailbox = parts.mailbox.as_fd().as_raw_fd();
        registry.register(&mut SourceFd(&mailbox), MAILBOX, Interest::READABLE)?;
        if let Some(packets) = parts.datapath.waker() {
            let packets = packets.as_raw_fd();
            registry.register(&mut SourceFd(&packets), PACKETS, Interest::READABLE)?;
        }
        let waits = parts.ruling.waits();
        Ok(Self {
            sweep: Sweep::new(parts.cluster.buckets()),
            rounds: audit::Rounds::default(),
            commits: Commits::new(waits),
            rulings: Rulings::new(parts.ruling.clone()),
            flush: None,
            determining: Determining::default(),
            verifying: verify::Verifying::default(),
            yields: Yields::default(),
            load_report: LoadReport::new(parts.cluster.buckets(), parts.datapath.as_ref()),
            parts,
            rest: Rest::default(),
            lent: None,
            mail: true,
            loading: Loading::default(),
            takeover: None,
            first_packet: None,
            tallies: Tallies::default(),
            events_read: Nanos(0),
            replica_due: Nanos(0),
            expiry_due: Nanos(0),
            announcing: Announcing::default(),
            lost: Throttle::default(),
            apart: Throttle::default(),
            bare: Throttle::default(),
            refused: Throttle::default(),
            closed: Throttle::default(),
        })
    }

    /// Turns until told to stop; then no packet meets the programs any more. Gives its mailbox back,
    /// because the heartbeat thread, which ends with the process, may not find it gone before.
    pub fn run(mut self, stop: &AtomicBool) -> io::Result<Mailbox<Input>> {
        let mut events = Events::with_capacity(MAX_EVENTS);
        let mut busy = false;
        while !stop.load(Ordering::Relaxed) {
            let wait = if busy { Duration::ZERO } else { self.rest.length(clock::now()) };
            match self.parts.poll.poll(&mut events, Some(wait)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            for event in &events {
                match event.token() {
                    MAILBOX => self.mail = true,
                    PACKETS => {}
                    _ => self.parts.streams.handle_event(event),
                }
            }
            busy = self.turn();
            self.parts.turns.count();
        }
        let Parts { mut datapath, mailbox, .. } = self.parts;
        if let Err(error) = datapath.stand_down() {
            tracing::error!(%error, "the programs could not be taken off every interface");
        }
        drop(datapath);
        Ok(mailbox)
    }

    /// Does all that can be done without waiting; says whether there is more.
    fn turn(&mut self) -> bool {
        let mut more = self.read_mail();
        let now = clock::now();
        // What the node table shows is compared with what is known only when no event waits.
        if self.rounds.is_behind() || clock::between(self.events_read, now) >= GATHERING {
            self.events_read = now;
            self.drain_events(now);
            self.tallies.refused_events += self.parts.replica.handle_due(now) as u64;
            more |= self.audit_some(now);
        }
        self.handle_upcalls(now);
        self.begin_commits(now);
        more |= self.parts.streams.turn(now, &mut self.parts.replica);
        self.finish_commits();
        self.parts.replica.handle_determining(now);
        self.do_what_is_due(now);
        self.perform_effects();
        more |= self.determining.take_placed();
        self.parts.replica.handle_moves(clock::now());
        more |= self.sweep_some(now);
        more |= self.flush_some(now);
        more |= self.look_for_first_packet();
        more | self.load_some()
    }

    /// Takes in messages, if the poll has told of any; says whether there may be more.
    fn read_mail(&mut self) -> bool {
        if !self.mail {
            return false;
        }
        self.parts.mailbox.acknowledge();
        for _ in 0..MAX_MESSAGES {
            match self.parts.mailbox.take() {
                Some(Input::Ownership { change, decided }) => self.change_owners(change, decided),
                Some(Input::Ask(question)) => self.answer(question),
                Some(Input::Verify(question)) => self.verify(question),
                Some(Input::Determine(question)) => self.determine(question),
                Some(Input::Rules(question)) => self.ruling(question),
                Some(Input::Explain(question)) => self.explain(question),
                Some(Input::WaysChanged) => self.parts.datapath.forget_hops(),
                Some(Input::Letter { to, bytes }) => self.parts.replica.send_letter(to, &bytes),
                Some(Input::Lend(answer)) => drop(answer.try_send(self.lend())),
                Some(Input::TakeBack) => self.lent = None,
                Some(Input::HandOver { successor, failed }) => {
                    let why = self.hand_over(&successor);
                    // Whoever wanted it may have given up.
                    let _ = failed.try_send(why);
                }
                None => {
                    self.mail = false;
                    return false;
                }
            }
        }
        true
    }

    /// Flips the slots of all buckets of a change before anything else is done about it.
    fn change_owners(&mut self, change: Ownership, decided: Nanos) {
        let begun = match &change {
            Ownership::TakeOver { buckets } => {
                self.announcing.begin();
                Some(Takeover::new(buckets, decided))
            }
            Ownership::Release { buckets, .. } => {
                tracing::info!(buckets = buckets.len(), "buckets given up");
                None
            }
            Ownership::OwnerChanged { buckets } => {
                tracing::debug!(buckets = buckets.len(), "buckets are others' now");
                None
            }
            Ownership::Move { buckets } => {
                tracing::debug!(buckets = buckets.len(), "buckets are to be handed over");
                None
            }
            Ownership::Keepers { .. }
            | Ownership::LetGo { .. }
            | Ownership::Life { .. }
            | Ownership::Told { .. } => None,
        };
        let mut begun = begun;
        if let Some(begun) = &mut begun {
            begun.begin(self.parts.datapath.as_ref(), self.parts.cluster.buckets());
        }
        self.parts.replica.handle_ownership(change);
        self.perform_effects();
        if let Some(mut begun) = begun {
            if begun.nodes() > 0 {
                self.first_packet = Some(begun.clone());
            }
            begun.flipped(&self.parts.cluster, clock::now());
            self.tallies.note_takeover(&begun);
            self.takeover = Some(begun.after(self.takeover.take()));
        }
    }

    fn drain_events(&mut self, now: Nanos) {
        let Self { parts, tallies, refused, yields, load_report, rulings, .. } = self;
        let Parts { datapath, replica, .. } = parts;
        let drained = datapath.drain_events(&mut |occurrence| match occurrence {
            Occurrence::Handled(handled) => yields.note(handled),
            Occurrence::Flow(event) => {
                load_report.note(&event);
                rulings.note(now, &event);
                if let Err(error) = replica.handle_event(now, event) {
                    tallies.refused_events += 1;
                    if let Some(held_back) = refused.admit(now) {
                        tracing::debug!(%error, held_back, "an event was not taken over");
                    }
                }
            }
        });
        self.tallies.events += drained.events as u64;
        self.tallies.lost_handled += drained.lost_handled;
        if drained.lost > 0 {
            self.note_lost(now, drained.lost);
        }
    }

    /// Handles the packets that came up. A miss in a loading bucket is looked up in the common
    /// table, so a flow is installed when its first packet comes, before the bucket's turn.
    fn handle_upcalls(&mut self, now: Nanos) {
        let Parts { datapath, replica, .. } = &mut self.parts;
        let table = replica.table();
        let handled = datapath.handle_upcalls(now, &mut |bucket, key| table.of_packet(bucket, key));
        self.tallies.upcalls += handled as u64;
        self.note_refused();
    }

    fn do_what_is_due(&mut self, now: Nanos) {
        if now >= self.replica_due {
            self.replica_due = now.plus_millis(REPLICA_TICK);
            self.parts.replica.handle_tick(now);
            self.tick_verifying(now);
            let Parts { cluster, replica, .. } = &self.parts;
            self.rest.look(now, cluster.node(), cluster.buckets(), replica);
        }
        if now >= self.expiry_due {
            self.expiry_due = now.plus_millis(EXPIRY_TICK);
            self.loading.retry();
            let table = self.parts.datapath.table();
            self.parts.health.measure_table(table.len() as u64, table.capacity() as u64);
        }
        if self.announcing.is_due(now) {
            let addresses = self.parts.datapath.announce();
            tracing::debug!(
                addresses,
                "the hosts of the links are told of the cluster's addresses"
            );
        }
        self.expire_some(now);
        self.report_load(now);
    }

    /// Does what the replica asks for, in its order. Yielding is gathered, because it waits.
    fn perform_effects(&mut self) {
        loop {
            while let Some(effect) = self.parts.replica.poll_effect() {
                if !matches!(effect, Effect::Letter { .. }) {
                    self.rest.stir(clock::now());
                }
                self.perform(effect);
            }
            if !self.finish_yields() {
                return;
            }
        }
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::SetBucket { bucket, slot } => self.set_bucket(bucket, slot),
            Effect::Clear { bucket } => self.sweep.push(bucket, clock::now()),
            Effect::Install { bucket, epoch } => self.loading.push(bucket, epoch),
            Effect::ReadOut { bucket, reading } => self.read_out(bucket, reading),
            Effect::Released { incarnation } => {
                self.finish_sweep();
                self.tell_membership(heartbeat::Input::Released(incarnation));
            }
            Effect::Yield { bucket, slot } => self.yield_bucket(bucket, slot),
            Effect::ReleaseHeld { bucket, handled } => self.release_held(bucket, handled),
            Effect::DiscardHeld { bucket } => {
                self.tallies.held_discarded += self.parts.datapath.discard_held(bucket) as u64;
            }
            Effect::GivenUp { bucket, epoch } => {
                self.tell_membership(heartbeat::Input::GivenUp { bucket, epoch });
            }
            Effect::Delivered { bucket, epoch } => {
                self.tell_membership(heartbeat::Input::Delivered { bucket, epoch });
            }
            Effect::HandedOver { bucket, from, since } => {
                self.tell_membership(heartbeat::Input::HandedOver { bucket, from, since });
            }
            Effect::Place { wish, record } => self.place(wish, record),
            Effect::Determined { number, outcome } => self.note_determined(number, outcome),
            Effect::Synced { version } => self.note_synced(version),
            Effect::Letter { from, bytes } => self.take_letter(from, &bytes),
            Effect::Close { connection, error } => {
                let now = clock::now();
                if let Some(held_back) = self.closed.admit(now) {
                    tracing::warn!(%error, held_back, "a sync session was closed");
                }
                self.parts.streams.close(now, connection, &error);
            }
            Effect::PeerConnected { peer, connection } => {
                let name = self.parts.cluster.member(peer);
                tracing::info!(peer = name, "entries are synced with the peer");
                self.parts.streams.handle_peer_connected(peer, connection);
                self.introduce(peer);
            }
            Effect::PeerClosed { peer, .. } => {
                let name = self.parts.cluster.member(peer);
                tracing::info!(peer = name, "entries are no longer synced with the peer");
            }
            Effect::TakenBare { .. } | Effect::Diverged { .. } | Effect::Repaired { .. } => {
                self.tell_of_copies(&effect);
            }
        }
    }

    /// What copies have turned out to be.
    fn tell_of_copies(&mut self, effect: &Effect) {
        match *effect {
            Effect::TakenBare { bucket, previous } => {
                if let Some(held_back) = self.bare.admit(clock::now()) {
                    tracing::error!(
                        %bucket,
                        previous = self.parts.cluster.member(previous),
                        held_back,
                        "bucket taken over without a copy: nobody who has one lives, and its flows are lost"
                    );
                }
            }
            Effect::Diverged { peer, bucket } => {
                if let Some(held_back) = self.apart.admit(clock::now()) {
                    let peer = self.parts.cluster.member(peer);
                    tracing::warn!(
                        peer,
                        %bucket,
                        held_back,
                        "the peer's copy of a bucket has come apart; it is sent again"
                    );
                }
            }
            Effect::Repaired { peer, bucket, repair } => {
                let peer = self.parts.cluster.member(peer);
                tracing::debug!(peer, %bucket, ?repair, "the peer's copy is equal again");
            }
            _ => {}
        }
    }

    /// Without it the membership would wait for ever for what has happened.
    fn tell_membership(&self, input: heartbeat::Input) {
        self.parts.heartbeats.send(input).expect("the heartbeat thread reads its mail");
    }

    fn note_synced(&mut self, version: Option<Version>) {
        let finding = match version {
            Some(version) => Finding::Well(format!("complete as of version {}", version.0)),
            None => Finding::Well("entries of other nodes are still missing".to_owned()),
        };
        // The planner has its own word on that: a node is not unfit for being new.
        let _ = self.parts.health.report_sync(finding);
        self.tell_membership(heartbeat::Input::Synced(version));
    }

    fn set_bucket(&mut self, bucket: BucketId, slot: BucketSlot) {
        // It begins to yield, or does not any more.
        self.yields.forget(bucket);
        let own = slot.owner == self.parts.cluster.node();
        if own && self.sweep.has(bucket) {
            self.finish_sweep();
        }
        self.parts.datapath.set_bucket(bucket, slot);
        if !own {
            self.cut_commits_short(Some(bucket));
        }
    }

    fn load_some(&mut self) -> bool {
        let more = self.load_buckets();
        if !more && let Some(takeover) = self.takeover.take_if(|_| !self.loading.is_retrying()) {
            takeover.loaded(clock::now());
        }
        more
    }

    fn answer(&mut self, question: Question) {
        let Parts { cluster, replica, datapath, streams, .. } = &self.parts;
        let sweep = &self.sweep;
        self.tallies.streams = streams.counters();
        self.tallies.commits = self.commits.counts();
        self.tallies.determined = self.determining.counts();
        question.answer(cluster, replica, datapath.as_ref(), &self.tallies, &|bucket| {
            sweep.has(bucket)
        });
    }
}

/// Where an answer goes; the asker may have given up.
pub type Answers<T> = SyncSender<T>;
