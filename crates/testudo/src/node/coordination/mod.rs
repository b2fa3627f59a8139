//! The coordination thread: it drives the coordinator and, where that leads, the planner.
//!
//! Inputs come from three sides: letters of the peers' coordinators by way of the engine, what the
//! heartbeat thread knows of each node, and what operators ask for. What was agreed goes to the
//! heartbeat thread, which decides what may be done about it.
//!
//! Invariant: nothing waits for this thread. It writes to a disk, which may take long; leases and
//! takeovers need neither. A store that fails ends the process: a coordinator that goes on would
//! promise what it can't keep.

pub mod etcd;
mod external;
mod letter;
mod loads;
mod orders;
mod store;
mod wishes;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use testudo_cluster::config::Cluster;
use testudo_cluster::map::{Command, Map, Version};
use testudo_cluster::membership::Standing;
use testudo_cluster::plan::{BalanceSettings, Load};
use testudo_cluster::planner::Planner;
use testudo_coordinator::{Coordinator, Output};
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::mailbox::{Mailbox, Sender};
use super::restart::Restarter;
use super::throttle::Throttle;
use super::{clock, engine, heartbeat};
use crate::node::health::{Finding, Handle};
use crate::operate::order;
pub use external::External;
pub use letter::Letter;
use loads::Loads;
pub use loads::PERIOD as LOAD_PERIOD;
pub use store::{Owner, Store, StoreError};
use wishes::Wish;

/// What the thread is told and asked.
#[derive(Debug)]
pub enum Input {
    /// A peer's coordinator says something.
    Message {
        /// Which peer's.
        from: NodeId,
        /// What.
        bytes: Vec<u8>,
    },
    /// What a node's buckets have carried over some time.
    Loads {
        /// Which node's.
        from: NodeId,
        /// Over how long.
        time: Duration,
        /// Each bucket with something to tell.
        loads: Vec<(BucketId, Load)>,
    },
    /// What the membership knows of each node.
    Standings(Vec<Standing>),
    /// An operator wants something.
    Order(order::Request),
}

/// How often the planner looks at a cluster in which something changes.
const PLAN: Duration = Duration::from_millis(50);

/// How often it looks at one in which nothing does: its deadlines are seconds.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// How many inputs are taken in a turn.
const MAX_INPUTS: usize = 256;

/// How long a cluster may be without a leader before that is bad for this node's health.
const LEADERLESS: Duration = Duration::from_secs(10);

/// What the thread works with.
pub struct Parts {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// How the nodes agree, as operators read it.
    pub kind: &'static str,
    /// The coordinator.
    pub coordinator: Box<dyn Coordinator<Map> + Send>,
    /// Where its log is, if it has one.
    pub store: Option<Store>,
    /// When buckets move to even out load.
    pub balance: BalanceSettings,
    /// This thread's mailbox.
    pub mailbox: Mailbox<Input>,
    /// The engine's.
    pub engine: Sender<engine::Input>,
    /// The heartbeat thread's.
    pub heartbeats: Sender<heartbeat::Input>,
    /// Where this node's health is kept.
    pub health: Handle,
    /// What is to happen when an operator wants the node restarted.
    pub restart: Restarter,
}

/// The coordination thread.
pub struct Coordination {
    parts: Parts,
    planner: Planner,
    loads: Loads,
    standings: Vec<Standing>,
    planned_at: Nanos,
    /// What the planner has looked at and left as it is, and until when that need not be looked at again.
    unchanged: Option<(Version, bool, Vec<Standing>)>,
    unchanged_until: Nanos,
    leaderless_since: Option<Nanos>,
    told_health: Option<Finding>,
    trouble: Throttle,
    unsent: Throttle,
    told_elephant: Option<BucketId>,
    wishes: Vec<Wish>,
}

impl Coordination {
    /// Coordination that has not begun.
    pub fn new(parts: Parts) -> Self {
        Self {
            planner: Planner::new(parts.cluster.clone(), parts.balance),
            loads: Loads::new(&parts.cluster),
            standings: Vec::new(),
            planned_at: Nanos(0),
            unchanged: None,
            unchanged_until: Nanos(0),
            leaderless_since: None,
            told_health: None,
            trouble: Throttle::default(),
            unsent: Throttle::default(),
            told_elephant: None,
            wishes: Vec::new(),
            parts,
        }
    }

    /// Goes on until the process ends.
    pub fn run(mut self) -> ! {
        // What the store has is in force from the start.
        self.tell_map();
        loop {
            self.wait();
            self.read_mail();
            let now = clock::now();
            self.parts.coordinator.handle_tick(now);
            self.carry_out();
            self.plan(now);
            self.carry_out();
            self.look_after_wishes(now);
            self.note_health(now);
        }
    }

    fn wait(&self) {
        let now = clock::now();
        let due = self.parts.coordinator.next_wakeup();
        let wait = Duration::from_nanos(due.0.saturating_sub(now.0)).min(PLAN);
        let mut fds = [PollFd::new(self.parts.mailbox.as_fd(), PollFlags::POLLIN)];
        // Whatever came of it, all that can be done is done next.
        let _ = ppoll(&mut fds, Some(TimeSpec::from_duration(wait)), None);
    }

    fn read_mail(&mut self) {
        self.parts.mailbox.acknowledge();
        for _ in 0..MAX_INPUTS {
            let Some(input) = self.parts.mailbox.take() else { return };
            let now = clock::now();
            match input {
                Input::Message { from, bytes } => {
                    if let Err(error) = self.parts.coordinator.handle_message(now, from, &bytes)
                        && let Some(held_back) = self.trouble.admit(now)
                    {
                        let peer = self.parts.cluster.member(from);
                        tracing::warn!(peer, %error, held_back, "a coordinator's message was refused");
                    }
                }
                Input::Loads { from, time, loads } => self.loads.report(now, from, time, loads),
                Input::Standings(standings) => self.standings = standings,
                Input::Order(request) => self.handle_order(now, request),
            }
            self.carry_out();
        }
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.parts.coordinator.poll_output() {
            match output {
                Output::Send { to, bytes } => self.send(to, &bytes),
                Output::Persist { ticket, batch } => {
                    if let Some(store) = &self.parts.store {
                        let written = store.write(&batch);
                        // A promise that is not kept on disk may be broken after a restart.
                        written.unwrap_or_else(|error| panic!("the coordinator's log: {error}"));
                    }
                    self.parts.coordinator.handle_persisted(clock::now(), ticket);
                }
                Output::Changed => self.tell_map(),
                Output::Leader(leader) => {
                    let name = leader.map_or("nobody", |node| self.parts.cluster.member(node));
                    tracing::info!(leader = name, "the coordinator has another leader");
                }
                Output::Refused { why } => {
                    tracing::debug!(why, "a command came too late and changed nothing");
                }
            }
        }
    }

    fn send(&mut self, to: NodeId, bytes: &[u8]) {
        let bytes = Letter::Agreement(bytes.to_vec()).encode();
        let sent = self.parts.engine.send(engine::Input::Letter { to, bytes });
        if sent.is_err()
            && let Some(held_back) = self.unsent.admit(clock::now())
        {
            tracing::warn!(
                held_back,
                "the engine takes no more letters now; they will be repeated"
            );
        }
    }

    fn tell_map(&mut self) {
        let map = Arc::new(self.parts.coordinator.machine().clone());
        if let Some(change) = map.history().next_back() {
            tracing::info!(
                version = map.version().0,
                reason = change.reason.describe(|node| self.parts.cluster.member(node).to_owned()),
                buckets = change.buckets,
                "the bucket map has changed"
            );
        }
        let sent = self.parts.heartbeats.send(heartbeat::Input::Map(map));
        // Without it this node would go by an old map for ever.
        sent.expect("the heartbeat thread reads its mail");
    }

    fn plan(&mut self, now: Nanos) {
        if self.standings.is_empty() || now < self.planned_at {
            return;
        }
        self.planned_at = Nanos(now.0 + PLAN.as_nanos() as u64);
        if let Some(costs) = self.loads.take_costs(now) {
            self.planner.set_costs(costs);
            self.unchanged = None;
        }
        let leads = self.parts.coordinator.leads();
        let version = self.parts.coordinator.machine().version();
        if let Some((known, led, standings)) = &self.unchanged
            && (*known, *led, standings) == (version, leads, &self.standings)
            && now < self.unchanged_until
        {
            return;
        }
        self.give_leadership_away(now, leads);
        let map = self.parts.coordinator.machine();
        self.unchanged = match self.planner.plan(now, leads, map, &self.standings) {
            Some(command) => {
                self.propose(now, &command);
                None
            }
            None => Some((version, leads, self.standings.clone())),
        };
        self.unchanged_until = Nanos(now.0 + LOOK_AGAIN.as_nanos() as u64);
        self.tell_elephants();
    }

    /// A bucket that no move makes lighter is worth knowing of: more buckets would, or more weight.
    fn tell_elephants(&mut self) {
        let elephants = self.planner.elephants();
        let heaviest = elephants.first().map(|&(bucket, _)| bucket);
        if std::mem::replace(&mut self.told_elephant, heaviest) == heaviest {
            return;
        }
        if let Some((bucket, shares)) = elephants.first() {
            let (shares, others) = (format!("{shares:.1}"), elephants.len() - 1);
            tracing::info!(
                %bucket,
                shares,
                others,
                "a bucket carries more than a node's fair share: it stays where it is"
            );
        }
    }

    /// A leader without a lease can't plan; another may be better off.
    fn give_leadership_away(&mut self, now: Nanos, leads: bool) {
        let own = self.parts.cluster.node();
        let leased = |standing: &&Standing| standing.lease && standing.node != own;
        let voters = self.parts.coordinator.machine().voters();
        let mine = self.standings.get(usize::from(own.0)).is_some_and(|standing| standing.lease);
        let better = self.standings.iter().filter(leased).find(|s| voters.contains(s.node));
        if let Some(better) = better.filter(|_| leads && !mine) {
            self.parts.coordinator.transfer(now, better.node);
        }
    }

    /// This node is to be silent for a while: another had better lead meanwhile.
    fn step_down(&mut self, now: Nanos) {
        let own = self.parts.cluster.node();
        let voters = self.parts.coordinator.machine().voters();
        let other = self.standings.iter().find(|standing| {
            standing.lease && standing.node != own && voters.contains(standing.node)
        });
        if let Some(other) = other.filter(|_| self.parts.coordinator.leads()) {
            self.parts.coordinator.transfer(now, other.node);
        }
    }

    fn propose(&mut self, now: Nanos, command: &Command) {
        let Err(error) = self.parts.coordinator.propose(now, command.encode()) else { return };
        self.planner.not_proposed();
        if let Some(held_back) = self.trouble.admit(now) {
            tracing::warn!(%error, held_back, "a command could not be proposed");
        }
    }

    fn note_health(&mut self, now: Nanos) {
        self.leaderless_since = match self.parts.coordinator.leader() {
            Some(_) => None,
            None => Some(self.leaderless_since.unwrap_or(now)),
        };
        let finding = match self.leaderless_since {
            Some(since) if clock::between(since, now) > LEADERLESS => {
                let seconds = clock::between(since, now).as_secs();
                // Nobody could act on this node's being unfit, so it is told and not judged bad.
                Finding::Well(format!("nobody has led for {seconds} s: the map stays as it is"))
            }
            _ => Finding::Well("the agreement has a leader".to_owned()),
        };
        if self.told_health.as_ref() == Some(&finding) {
            return;
        }
        // Told again a moment later, if there is no room for it now.
        if self.parts.health.report_coordinator(finding.clone()).is_ok() {
            self.told_health = Some(finding);
        }
    }
}
