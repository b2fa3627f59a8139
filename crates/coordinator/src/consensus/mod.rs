//! Agreement among several nodes: the `raft` library, held to this crate's contract.
//!
//! Invariants: an input that is refused has not reached the library; while a batch is not yet on
//! disk, no further input reaches it (messages wait, time stands still), so a node with a stuck
//! disk neither leads nor promises; the election timeout is set after every step, before anything
//! compares it.
//!
//! A command that changes who votes travels as the library's change of configuration. Whether it
//! does is found by applying it to a copy of the machine when it is proposed, and checked again when
//! its turn comes ([`decide`]): by then the machine may have changed, and then it takes no effect.

mod decide;
mod progress;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};
use raft::{Config, Raft as Library, RawNode, StateRole};
use testudo_packet::bucket::{Nanos, NodeId};

use crate::convert::{self, node_id, raft_id};
use crate::guard;
use crate::log::{Image, Kind, Stored};
use crate::message::{self, Parcel};
use crate::settings::{Settings, StartError, TICKS_PER_HEARTBEAT};
use crate::storage::Log;
use crate::{Coordinator, MessageError, Output, ProposeError, StateMachine, Ticket};

/// How many messages wait for the disk; more are refused.
const MAX_INBOX: usize = 256;
/// How many outputs wait for being fetched; more messages are dropped, more refusals not told.
const MAX_OUTPUTS: usize = 4096;

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages taken in.
    pub received: u64,
    /// Messages that no correct peer sends.
    pub impossible: u64,
    /// Messages refused because too many waited for the disk.
    pub busy: u64,
    /// Outputs that nobody fetched in time.
    pub dropped: u64,
    /// Snapshots made to cut the log.
    pub snapshots: u64,
    /// Snapshots taken over from a leader.
    pub restored: u64,
    /// How often this node stood for election.
    pub elections: u64,
    /// Followers found to have lost their disk.
    pub lost_logs: u64,
}

/// A node that agrees with others. See the [crate](crate) for how to drive it.
pub struct Raft<M> {
    settings: Settings,
    raw: RawNode<Log>,
    machine: M,
    now: Nanos,
    next_tick: Nanos,
    /// How often this node stood for election: two that did so at once must not do so again.
    attempts: u64,
    /// The batch that is not yet on disk, and what waits for it.
    unwritten: Option<Unwritten>,
    inbox: VecDeque<Message>,
    outputs: VecDeque<Output>,
    /// How far the log went when this node started, until the machine has come so far.
    remembered: Option<u64>,
    changed: bool,
    told_leader: Option<NodeId>,
    counters: Counters,
}

struct Unwritten {
    ticket: Ticket,
    /// Whether the library waits for it; if not, it is a cut of the log.
    of_library: bool,
    messages: Vec<Message>,
    image: Option<Image>,
}

impl<M: StateMachine> Raft<M> {
    /// A node that starts. `machine` is the value before the first command, the same on all nodes;
    /// `stored` is what the node's store holds.
    ///
    /// # Errors
    ///
    /// If the settings contradict themselves, or the store holds something else.
    pub fn new(
        settings: Settings,
        mut machine: M,
        stored: Stored,
        now: Nanos,
    ) -> Result<Self, StartError> {
        let first_voters = machine.voters();
        settings.check(&first_voters)?;
        if let Some(why) = stored.fault() {
            return Err(StartError::Store(why));
        }
        let applied = stored.image.as_ref().map_or(0, |image| image.place.index);
        if let Some(image) = &stored.image {
            settings.check_voters(&image.voters).map_err(StartError::Store)?;
            machine.restore(&image.data).map_err(StartError::Store)?;
            if machine.voters() != image.voters {
                let why = "the snapshot's voters are not its machine's";
                return Err(StartError::Store(why.to_owned()));
            }
        }
        let config = configuration(&settings, applied);
        let log = Log::new(stored, settings.nodes.clone(), first_voters);
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger)
            .map_err(|error| StartError::Settings(error.to_string()))?;
        let mut node = Self {
            raw,
            machine,
            now,
            next_tick: after(now, settings.tick()),
            settings,
            attempts: 0,
            unwritten: None,
            inbox: VecDeque::new(),
            outputs: VecDeque::new(),
            remembered: None,
            changed: false,
            told_leader: None,
            counters: Counters::default(),
        };
        node.remembered = Some(node.library().raft_log.last_index());
        node.proceed();
        Ok(node)
    }

    /// How often things happened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last entry that the machine has seen.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.raw.raft.raft_log.applied()
    }

    /// The present term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// How many entries the log holds; snapshots bound it.
    #[must_use]
    pub fn log_length(&self) -> usize {
        self.raw.store().stored().entries.len()
    }

    fn library(&self) -> &Library<Log> {
        &self.raw.raft
    }

    fn is_leader(&self) -> bool {
        self.library().state == StateRole::Leader
    }

    /// Why no correct peer can have sent this, if so.
    fn fault(&mut self, message: &Message) -> Option<String> {
        let fault = guard::fault(message, self.library(), &self.settings)
            .or_else(|| decide::snapshot_fault(&self.machine, message));
        self.counters.impossible += u64::from(fault.is_some());
        fault
    }

    /// Hands a message to the library. Its refusals are of no consequence: a lost message is as
    /// good.
    fn step(&mut self, mut message: Message) {
        let raft = &mut self.raw.raft;
        let last = raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && message.commit > last
            && message.term >= raft.term
        {
            message.commit = last;
            if let Some(to) = node_id(message.from) {
                let bytes = message::encode_behind(message.term, last);
                self.output(Output::Send { to, bytes });
            }
        }
        let _ = self.raw.step(message);
        self.settle_timeout();
    }

    /// A follower's log ends before what it had confirmed: begin with it from the start.
    fn restart_follower(&mut self, from: NodeId, term: u64, last: u64) {
        let raft = &mut self.raw.raft;
        if raft.state != StateRole::Leader || raft.term != term {
            return;
        }
        if let Some(progress) = raft.mut_prs().get_mut(raft_id(from))
            && progress.matched > last
        {
            progress.matched = 0;
            progress.become_probe();
            self.counters.lost_logs += 1;
        }
    }

    /// Replaces the random election timeout by one that only depends on what is known.
    fn settle_timeout(&mut self) {
        let raft = &mut self.raw.raft;
        let shortest = self.settings.election_ticks();
        let node = u64::from(self.settings.node.0);
        let mixed = [node, raft.term, self.attempts].into_iter().fold(self.settings.seed, mix);
        let extra = mixed % shortest as u64;
        raft.set_randomized_election_timeout(shortest + extra as usize);
    }

    fn tick(&mut self) {
        let elapsed = self.library().election_elapsed;
        self.raw.tick();
        let begins_anew = elapsed > 0 && self.library().election_elapsed == 0;
        if begins_anew && !self.is_leader() {
            self.attempts += 1;
            self.counters.elections += 1;
        }
        self.settle_timeout();
    }

    /// Whether the machine is where it may have been before this node started. Entries at the end of
    /// the log that it does not know to be agreed on may have been applied, and acted upon, before; a
    /// leader confirms them or replaces them by its own.
    fn recalls(&mut self) -> bool {
        let Some(remembered) = &mut self.remembered else { return true };
        let log = &self.raw.raft.raft_log;
        *remembered = (*remembered).min(log.last_index());
        if log.applied() >= *remembered {
            self.remembered = None;
        }
        self.remembered.is_none()
    }

    fn output(&mut self, output: Output) {
        if self.outputs.len() < MAX_OUTPUTS || matches!(output, Output::Persist { .. }) {
            self.outputs.push_back(output);
        } else {
            self.counters.dropped += 1;
        }
    }

    /// The voter that could lead at once, or nearly.
    fn heir(&self) -> Option<NodeId> {
        let raft = self.library();
        let voters = self.machine.voters().into_iter().filter(|&voter| voter != self.settings.node);
        let candidates = voters.filter_map(|voter| {
            let progress = raft.prs().get(raft_id(voter))?;
            Some((progress.recent_active, progress.matched, std::cmp::Reverse(voter)))
        });
        candidates.max().map(|(_, _, voter)| voter.0)
    }

    /// If this node leads and the change takes its own vote: who is to lead instead.
    fn gives_way(&mut self, kind: Kind) -> Option<NodeId> {
        if !self.is_leader() || kind != Kind::RemoveVoter(self.settings.node) {
            return None;
        }
        let heir = self.heir()?;
        self.raw.transfer_leader(raft_id(heir));
        Some(heir)
    }

    fn propose_kind(&mut self, kind: Kind, command: Vec<u8>) -> Result<(), ProposeError> {
        if let Some(to) = self.gives_way(kind) {
            return Err(ProposeError::LeaderLeaves { to });
        }
        let done = match convert::conf_change(kind) {
            None => self.raw.propose(Vec::new(), command),
            Some(_) if self.library().has_pending_conf() => {
                return Err(ProposeError::Busy("another change of voters"));
            }
            Some(change) => self.raw.propose_conf_change(command, change),
        };
        let raft = self.library();
        done.map_err(|_| match raft {
            _ if raft.leader_id == raft::INVALID_ID => ProposeError::NoLeader,
            _ if raft.lead_transferee.is_some() => ProposeError::Busy("a change of leader"),
            _ => ProposeError::Full,
        })
    }
}

impl<M: StateMachine> Coordinator<M> for Raft<M> {
    fn handle_message(
        &mut self,
        now: Nanos,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<(), MessageError> {
        self.now = self.now.max(now);
        if from == self.settings.node || !self.settings.nodes.contains(&from) {
            return Err(MessageError::Stranger(from));
        }
        let parcel = progress::read(bytes, from, &self.settings)?;
        match parcel {
            Parcel::Behind { term, last } => self.restart_follower(from, term, last),
            Parcel::Raft(message) => {
                if let Some(why) = self.fault(&message) {
                    return Err(MessageError::Impossible(why));
                }
                let waiting = self.inbox.len();
                if waiting >= MAX_INBOX {
                    self.counters.busy += 1;
                    return Err(MessageError::Busy { waiting });
                }
                self.inbox.push_back(message);
            }
        }
        self.counters.received += 1;
        self.proceed();
        Ok(())
    }

    fn handle_tick(&mut self, now: Nanos) {
        self.now = self.now.max(now);
        let mut budget = TICKS_PER_HEARTBEAT;
        while self.next_tick <= self.now {
            // A driver that was late has not heard its peers either: that is no sign of their death.
            if budget == 0 {
                self.next_tick = after(self.now, self.settings.tick());
                break;
            }
            budget -= 1;
            self.next_tick = after(self.next_tick, self.settings.tick());
            if self.unwritten.is_none() {
                self.tick();
                self.proceed();
            }
        }
    }

    fn handle_persisted(&mut self, now: Nanos, ticket: Ticket) {
        self.now = self.now.max(now);
        if let Some(written) = self.unwritten.take_if(|unwritten| unwritten.ticket == ticket) {
            self.written(written);
        }
        self.proceed();
    }

    fn propose(&mut self, now: Nanos, command: Vec<u8>) -> Result<(), ProposeError> {
        self.now = self.now.max(now);
        let (length, max) = (command.len(), self.settings.max_command());
        if length == 0 || length > max {
            return Err(ProposeError::Length { length, max });
        }
        if self.unwritten.is_some() {
            return Err(ProposeError::Busy("a write to disk"));
        }
        let (kind, _) =
            decide::next(&self.machine, &command, &self.settings).map_err(ProposeError::Refused)?;
        let done = self.propose_kind(kind, command);
        self.settle_timeout();
        self.proceed();
        done
    }

    fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if self.recalls() && std::mem::take(&mut self.changed) {
            return Some(Output::Changed);
        }
        let leader = self.leader();
        (leader != self.told_leader).then(|| {
            self.told_leader = leader;
            Output::Leader(leader)
        })
    }

    fn next_wakeup(&self) -> Nanos {
        self.next_tick
    }

    fn leads(&self) -> bool {
        let raft = self.library();
        self.is_leader()
            && raft.apply_to_current_term()
            && raft.lead_transferee.is_none()
            && raft.promotable()
    }

    fn leader(&self) -> Option<NodeId> {
        node_id(self.library().leader_id)
    }

    fn transfer(&mut self, now: Nanos, to: NodeId) {
        self.now = self.now.max(now);
        if self.is_leader() && self.unwritten.is_none() && to != self.settings.node {
            self.raw.transfer_leader(raft_id(to));
            self.settle_timeout();
            self.proceed();
        }
    }

    fn machine(&self) -> &M {
        &self.machine
    }
}

fn configuration(settings: &Settings, applied: u64) -> Config {
    Config {
        id: raft_id(settings.node),
        election_tick: settings.election_ticks(),
        heartbeat_tick: TICKS_PER_HEARTBEAT as usize,
        applied,
        // The library's entries are shorter than ours, so this leaves room.
        max_size_per_msg: settings.max_message as u64 / 4,
        max_inflight_msgs: 64,
        check_quorum: true,
        pre_vote: true,
        max_uncommitted_size: settings.max_message as u64,
        max_committed_size_per_ready: settings.max_message as u64,
        ..Config::default()
    }
}

fn after(moment: Nanos, wait: Duration) -> Nanos {
    Nanos(moment.0.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX)))
}

/// The finishing steps of `SplitMix64` over both: every bit of the result depends on all of them.
fn mix(seed: u64, value: u64) -> u64 {
    let mut mixed = seed ^ value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
