//! What a node answers on its control socket, put together from those who know.
//!
//! It works in the control socket's thread. Invariant: nothing that a client asks costs the engine
//! more than a copy of what it alone has, or the heartbeat thread more than a few words: the node
//! table is gone over here, and a thread that does not answer in time is told of instead of waited
//! for.

mod admission;
mod explaining;
mod learned;
mod ruling;
mod verification;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use testudo_cluster::config::Cluster;
use testudo_cluster::heartbeat::Role;
use testudo_cluster::membership::{Counters, PeerState, PeerStatus};
use testudo_cluster::replica::MoveCounters;
use testudo_datapath::{EntryView, NodeTable, SharedTable};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos, NodeId};
use testudo_packet::flow::FlowKey;

use self::explaining::Asked;
use super::credentials::keeper::Handle;
use super::interfaces::Links;
use super::mailbox::Sender;
use super::question::{MAX_LOOKED_FOR, Question, Standing};
use super::{clock, engine, heartbeat};
use crate::config::cluster::Mode;
use crate::config::interface::Interface;
use crate::config::mapping::Mapping;
use crate::config::service::Service;
use crate::control::protocol::{self, Activity, Flow, MAX_FLOWS, Reply, Request, Table};
use crate::operate::{OperateError, Operator};
use crate::pki::facts::Moment;

/// How long a thread may take for its part of an answer. A client waits several times as long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why there is no answer. Nothing has changed.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    /// The packet handling is not set up yet.
    #[error("this node is still starting; ask again")]
    Starting,
    /// A thread is busy, or hangs.
    #[error("the {0} thread did not answer within {PATIENCE:?}; ask again")]
    Late(&'static str),
    /// An operator's command came to nothing.
    #[error(transparent)]
    Operate(#[from] OperateError),
    /// A flow was not let in.
    #[error(transparent)]
    NotAdmitted(#[from] admission::NotAdmitted),
    /// Rules were not loaded.
    #[error(transparent)]
    NotLoaded(#[from] ruling::NotLoaded),
    /// Nothing is explained.
    #[error(transparent)]
    NotExplained(#[from] explaining::NotExplained),
    /// Too many want to know.
    #[error("four comparisons of all tables are under way, or were a moment ago; ask again")]
    Verifying,
    /// There is no such comparison, or it is forgotten.
    #[error("no comparison has number {seen}; expected one that was begun within half a minute")]
    NoVerification {
        /// The number asked for.
        seen: u64,
    },
    /// There is no such bucket.
    #[error("bucket {seen} does not exist; expected one below {buckets}")]
    NoBucket {
        /// The bucket asked for.
        seen: u16,
        /// How many there are.
        buckets: u32,
    },
}

/// Who answers.
pub struct Answerer {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// How packets reach it.
    pub mode: Mode,
    /// The node table, once there is one.
    pub table: Arc<OnceLock<SharedTable>>,
    /// The certificates that are in force, if there are some.
    pub credentials: Option<Handle>,
    /// The engine's mailbox.
    pub engine: Sender<engine::Input>,
    /// The heartbeat thread's.
    pub heartbeats: Sender<heartbeat::Input>,
    /// Who does what operators ask for.
    pub operator: Operator,
    /// The links that packets come and go by.
    pub links: Links,
    /// Their interfaces, in the order of the configuration.
    pub interfaces: Vec<Interface>,
    /// What a file of rules can name besides.
    pub services: Vec<Service>,
    /// The same.
    pub mappings: Vec<Mapping>,
    /// The file of rules that the configuration names.
    pub configured: Option<PathBuf>,
    /// What a scan for others' entries has found.
    pub scanned: Mutex<Scanned>,
}

/// What a scan of the node table has found, when, and how long it took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scanned {
    foreign: u64,
    begun: Nanos,
    took: Duration,
}

/// A scan is good for so many times as long as it took: who asks all the time may not keep a processor
/// and the memory busy that packets need.
const SCAN_SHARE: u32 = 20;

impl Answerer {
    /// Answers a question, or says why not.
    pub fn answer(&self, request: Request) -> Reply {
        self.tell(request).unwrap_or_else(|error| Reply::error(error.to_string()))
    }

    fn tell(&self, request: Request) -> Result<Reply, NoAnswer> {
        let operator = &self.operator;
        Ok(match request {
            Request::Status {} => Reply::Status(Box::new(self.status()?)),
            Request::Buckets { bucket } => Reply::Buckets(self.buckets(bucket)?),
            Request::Flows { table, bucket, limit } => {
                let limit = limit.min(MAX_FLOWS) as usize;
                Reply::Flows(self.flows(table, bucket, limit)?)
            }
            Request::Admit { protocol, initiator, responder } => {
                Reply::Admitted(self.admit(&protocol, initiator, responder)?)
            }
            Request::Drain { node, dry_run } => Reply::Plan(operator.drain(&node, dry_run)?),
            Request::Undrain { node, dry_run } => Reply::Plan(operator.undrain(&node, dry_run)?),
            Request::Move { bucket, node, dry_run } => {
                Reply::Plan(operator.move_bucket(bucket, &node, dry_run)?)
            }
            Request::Map {} => Reply::Map(operator.map()?),
            Request::History { limit } => Reply::History(operator.history(limit)?),
            Request::Health {} => Reply::Health(operator.health()),
            Request::Restart {} => Reply::Restarting(operator.restart()?),
            Request::Rules {} => Reply::Rules(self.rules()?),
            Request::Load { file, flush } => Reply::Loaded(self.load(&file, flush)?),
            Request::Explain { source, destination, protocol, ports, interface } => {
                let (protocol, ports) = (protocol.as_deref(), ports.as_deref());
                let interface = interface.as_deref();
                let asked = Asked { source, destination, protocol, ports, interface };
                Reply::Explanation(Box::new(self.explain(&asked)?))
            }
            Request::Sync {} => Reply::Syncs(self.syncs()?),
            Request::Verify {} => Reply::Verifying(self.begin_verifying()?),
            Request::Verified { number } => Reply::Verification(self.verification(number)?),
        })
    }

    fn status(&self) -> Result<protocol::Status, NoAnswer> {
        let table = self.table()?;
        let foreign = self.recent_foreign(table)?;
        let view = self.view()?;
        let standing = self.ask(Question::Standing)?;
        let node_table = protocol::NodeTable {
            entries: table.len() as u64,
            capacity: table.capacity() as u64,
            foreign,
            not_replicated: standing.reach.not_replicated,
        };
        let peers = view.peers.iter().map(|peer| self.peer(peer, &standing)).collect();
        Ok(protocol::Status {
            node: self.cluster.member(self.cluster.node()).to_owned(),
            cluster: self.cluster.name().to_owned(),
            mode: self.mode.name().to_owned(),
            role: role(view.role),
            tls: self.credentials.as_ref().map(tls),
            lease: protocol::Lease {
                held: view.lease.is_some(),
                remaining_ms: view.lease.map_or(0, millis),
            },
            buckets: self.bucket_counts(&standing.slots),
            node_table,
            common_table: protocol::CommonTable {
                entries: standing.flows as u64,
                digest: format!("{:016x}", standing.digest),
            },
            copies: self.copies(standing.reach.kept),
            peers,
            takeovers: standing.tallies.takeovers,
            takeover: protocol::Takeover {
                first_packet_micros: Some(standing.tallies.first_packet_micros)
                    .filter(|&micros| micros > 0),
            },
            buckets_taken: standing.tallies.buckets_taken,
            counters: counters(&standing, view.counters)
                .into_iter()
                .chain(self.counted()?)
                .collect(),
        })
    }

    fn buckets(&self, only: Option<u16>) -> Result<protocol::Buckets, NoAnswer> {
        self.table()?;
        let only = self.existing(only)?;
        let slots = self.ask(Question::Slots)?;
        let counts = self.ask(Question::Counts)?;
        let fenced = |peer: &&PeerStatus| peer.state == PeerState::Fenced;
        let view = self.view()?;
        let gone: Vec<_> = view.peers.iter().filter(fenced).map(|peer| peer.node).collect();
        let ranks = |bucket| view.map.ranks(bucket);
        let all = (0..self.cluster.buckets()).map(|bucket| BucketId(bucket as u16));
        let shown = all.zip(slots.iter().zip(counts));
        let shown = shown.filter(|(bucket, _)| only.is_none_or(|only| only == *bucket));
        let shown = shown.map(|(bucket, (slot, entries))| {
            self.bucket((bucket, ranks(bucket)), slot, entries, &gone)
        });
        Ok(protocol::Buckets { buckets: shown.collect() })
    }

    /// A bucket as it is shown. Nodes that are gone succeed nobody.
    fn bucket(
        &self,
        (bucket, ranks): (BucketId, &[NodeId]),
        slot: &BucketSlot,
        entries: u32,
        gone: &[NodeId],
    ) -> protocol::Bucket {
        let name = |node: NodeId| self.cluster.member(node).to_owned();
        let owner = Some(slot.owner).filter(|&node| node != NodeId::NONE);
        let ranks = ranks.iter().copied();
        let successors = ranks.filter(|node| Some(*node) != owner && !gone.contains(node));
        protocol::Bucket {
            bucket: bucket.0,
            owner: owner.map(name),
            successors: successors.map(name).collect(),
            epoch: slot.epoch.0,
            state: match slot.state {
                _ if slot.owner != self.cluster.node() => protocol::BucketState::Foreign,
                BucketState::Active => protocol::BucketState::Active,
                BucketState::Loading => protocol::BucketState::Loading,
                BucketState::Holding => protocol::BucketState::Holding,
                BucketState::Yielding => protocol::BucketState::Yielding,
            },
            entries: entries.into(),
        }
    }

    fn flows(
        &self,
        table: Table,
        bucket: Option<u16>,
        limit: usize,
    ) -> Result<protocol::Flows, NoAnswer> {
        let node_table = self.table()?;
        let bucket = self.existing(bucket)?;
        // One more than is shown says whether there are more.
        let most = limit + 1;
        let mut flows: Vec<Flow> = match table {
            Table::Node => self.with_replication(node_flows(node_table, bucket, most))?,
            Table::Common => {
                let question = |answers| Question::Flows { bucket, limit: most, answers };
                self.ask(question)?.iter().map(|record| Flow::new(record, None)).collect()
            }
        };
        let truncated = flows.len() > limit;
        flows.truncate(limit);
        Ok(protocol::Flows { flows, truncated })
    }

    /// Says of each flow whether the other nodes are told of it.
    fn with_replication(
        &self,
        mut flows: Vec<(BucketId, FlowKey, Flow)>,
    ) -> Result<Vec<Flow>, NoAnswer> {
        for part in flows.chunks_mut(MAX_LOOKED_FOR) {
            let keys = part.iter().map(|&(bucket, key, _)| (bucket, key)).collect();
            let known = self.ask(|answers| Question::Known { flows: keys, answers })?;
            for ((_, _, flow), known) in part.iter_mut().zip(known) {
                flow.replicated = Some(known);
            }
        }
        Ok(flows.into_iter().map(|(_, _, flow)| flow).collect())
    }

    fn table(&self) -> Result<&SharedTable, NoAnswer> {
        self.table.get().ok_or(NoAnswer::Starting)
    }

    fn existing(&self, bucket: Option<u16>) -> Result<Option<BucketId>, NoAnswer> {
        let buckets = self.cluster.buckets();
        match bucket {
            Some(seen) if u32::from(seen) >= buckets => Err(NoAnswer::NoBucket { seen, buckets }),
            bucket => Ok(bucket.map(BucketId)),
        }
    }

    /// As [`Self::foreign`], from a while ago if a scan takes long.
    fn recent_foreign(&self, table: &SharedTable) -> Result<u64, NoAnswer> {
        let mut scanned = self.scanned.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = clock::now();
        if clock::between(scanned.begun, begun) >= scanned.took * SCAN_SHARE {
            let foreign = self.foreign(table)?;
            *scanned = Scanned { foreign, begun, took: clock::between(begun, clock::now()) };
        }
        Ok(scanned.foreign)
    }

    /// How many flows of the node table are in buckets that this node does not own, nor is just
    /// handing over.
    ///
    /// Owners change while the table is gone over, so a flow counts only if it is still there, and
    /// its bucket another's, by the slots as they are after that.
    fn foreign(&self, table: &SharedTable) -> Result<u64, NoAnswer> {
        let strange = |kept: &[bool], bucket: BucketId| {
            kept.get(usize::from(bucket.0)).is_none_or(|kept| !kept)
        };
        let before = self.ask(Question::Kept)?;
        let mut suspects = Vec::new();
        table.scan(&mut |view: &EntryView| {
            if strange(&before, view.record.bucket) {
                suspects.push(view.record);
            }
        });
        if suspects.is_empty() {
            return Ok(0);
        }
        let after = self.ask(Question::Kept)?;
        let still = |bucket, key| strange(&after, bucket) && table.get(key).is_some();
        Ok(suspects.iter().filter(|flow| still(flow.bucket, &flow.key)).count() as u64)
    }

    fn view(&self) -> Result<heartbeat::View, NoAnswer> {
        ask("heartbeat", &self.heartbeats, heartbeat::Input::Ask)
    }

    fn ask<T>(&self, question: impl FnOnce(SyncSender<T>) -> Question) -> Result<T, NoAnswer> {
        ask("engine", &self.engine, |answers| engine::Input::Ask(question(answers)))
    }

    fn bucket_counts(&self, slots: &[BucketSlot]) -> protocol::BucketCounts {
        let own = slots.iter().filter(|slot| slot.owner == self.cluster.node());
        let loading = own.clone().filter(|slot| slot.state == BucketState::Loading).count();
        protocol::BucketCounts {
            total: self.cluster.buckets(),
            owned: own.count() as u32,
            loading: loading as u32,
        }
    }

    fn peer(&self, peer: &PeerStatus, standing: &Standing) -> protocol::Peer {
        let sync = standing.reach.peers.iter().find(|(node, ..)| *node == peer.node);
        let sync = sync.map(|(_, sync, delays)| protocol::Sync::new(sync, delays, clock::now()));
        protocol::Peer {
            name: self.cluster.member(peer.node).to_owned(),
            state: match peer.state {
                PeerState::Alive => protocol::PeerState::Alive,
                PeerState::Silent => protocol::PeerState::Silent,
                PeerState::Fenced => protocol::PeerState::Fenced,
            },
            heard_ms: peer.heard.map(millis),
            sync: sync.unwrap_or_default(),
        }
    }
}

/// Asks a thread and waits for its answer, but not for long.
fn ask<M, T>(
    who: &'static str,
    mailbox: &Sender<M>,
    question: impl FnOnce(SyncSender<T>) -> M,
) -> Result<T, NoAnswer> {
    // Room for the answer, so that giving it never waits.
    let (answers, answer) = mpsc::sync_channel(1);
    mailbox.send(question(answers)).map_err(|_| NoAnswer::Late(who))?;
    answer.recv_timeout(PATIENCE).map_err(|_| NoAnswer::Late(who))
}

fn node_flows(
    table: &SharedTable,
    bucket: Option<BucketId>,
    most: usize,
) -> Vec<(BucketId, FlowKey, Flow)> {
    let now = clock::now();
    let mut flows = Vec::new();
    table.scan(&mut |view| {
        let asked = bucket.is_none_or(|bucket| bucket == view.record.bucket);
        if asked && flows.len() < most {
            flows.push(viewed(view, now));
        }
    });
    flows
}

/// A flow of the node table as it is shown, but for whether others know it; with its bucket and its key.
fn viewed(view: &EntryView, now: Nanos) -> (BucketId, FlowKey, Flow) {
    let flow = Flow::new(&view.record, Some(activity(view, now)));
    let flow = Flow { learned: learned::shown(&view.learned), ..flow };
    (view.record.bucket, view.record.key, flow)
}

/// What is counted of a flow.
fn activity(view: &EntryView, now: Nanos) -> Activity {
    Activity {
        original_packets: view.original_packets,
        original_bytes: view.original_bytes,
        reply_packets: view.reply_packets,
        reply_bytes: view.reply_bytes,
        idle_ms: now.millis_since(view.last_seen),
    }
}

/// Every counter by name; the names of different parts do not meet.
fn counters(standing: &Standing, heartbeats: Counters) -> BTreeMap<String, u64> {
    let Counters { sent, received, rejected, late, leases_lost, restarts, notices_dropped } =
        heartbeats;
    let heartbeats = [
        ("heartbeats_sent", sent),
        ("heartbeats_received", received),
        ("heartbeats_rejected", rejected),
        ("heartbeats_late", late),
        ("leases_lost", leases_lost),
        ("restarts", restarts),
        ("notices_dropped", notices_dropped),
    ];
    let MoveCounters { handed_over, forced, withdrawn, arrived, held_in_vain } = standing.moves;
    let replica = [
        ("moves_handed_over", handed_over),
        ("moves_forced", forced),
        ("moves_withdrawn", withdrawn),
        ("moves_arrived", arrived),
        ("moves_held_in_vain", held_in_vain),
        ("letters_lost", standing.letters_lost),
        ("flows_replicated_early", standing.reach.replication.crowded),
    ];
    let all = standing.counters.iter().copied().chain(standing.tallies.named());
    let all = all.chain(standing.tallies.streams.named());
    let all = all.chain(heartbeats).chain(replica);
    all.map(|(name, count)| (name.to_owned(), count)).collect()
}

fn tls(credentials: &Handle) -> protocol::Tls {
    let current = credentials.current();
    protocol::Tls {
        valid_until: current.own.not_after.to_string(),
        days_left: current.own.not_after.days_since(Moment::now()),
        authorities: current.authorities.iter().map(|facts| facts.subject.clone()).collect(),
        refused: credentials.refused(),
    }
}

const fn role(role: Role) -> protocol::Role {
    match role {
        Role::Joining => protocol::Role::Joining,
        Role::Member => protocol::Role::Member,
    }
}

const fn millis(time: Duration) -> u64 {
    time.as_millis() as u64
}
