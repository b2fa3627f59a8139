//! What the engine can be asked: its half of an answer to a client of the control socket.
//!
//! Invariant: a question costs the engine well below a millisecond per thousand flows that are asked
//! for, and nothing that grows with the node table. Going over that is the asker's work, in the
//! asker's thread: the table is shared memory, so only what the engine alone has is copied here.

use testudo_cluster::config::Cluster;
use testudo_cluster::replica::{MoveCounters, Replica, Replication, SyncStatus};
use testudo_cluster::sync::lag::Delays;
use testudo_datapath::{Datapath, NodeTable, SharedTable};
use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, NodeId};
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;

use super::engine::{Answers, Tallies, commits};

/// A question, with the way back for its answer.
#[derive(Debug)]
pub enum Question {
    /// How is everything?
    Standing(Answers<Standing>),
    /// How far have entries got to the peers?
    Peers(Answers<Reach>),
    /// Which of these flows, [`MAX_LOOKED_FOR`] at most, does the whole cluster have?
    Known {
        /// The flows, as the node table has them.
        flows: Vec<(BucketId, FlowKey)>,
        /// The way back.
        answers: Answers<Vec<bool>>,
    },
    /// Whose are the buckets, as packets meet them now?
    Slots(Answers<Vec<BucketSlot>>),
    /// Of which buckets are entries rightly in the node table: of those that are the node's, that it is
    /// handing over, and whose entries it is just taking out?
    Kept(Answers<Vec<bool>>),
    /// How many buckets are on their way, or not complete?
    Moving(Answers<usize>),
    /// How many flows has each bucket?
    Counts(Answers<Vec<u32>>),
    /// Which flows does the whole cluster have?
    Flows {
        /// Only those of this bucket.
        bucket: Option<BucketId>,
        /// How many at most.
        limit: usize,
        /// The way back.
        answers: Answers<Vec<FlowRecord>>,
    },
}

/// How many flows may be looked for with one question.
pub const MAX_LOOKED_FOR: usize = 1024;
/// What the node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// How many buckets' flows, its own included.
    pub buckets: usize,
    /// How many buckets it has taken over without a whole copy.
    pub taken_bare: u64,
}

/// How far entries have got to each peer.
pub type Peers = Vec<(NodeId, SyncStatus, Delays)>;

/// How far entries have got, and which are kept back.
#[derive(Debug)]
pub struct Reach {
    /// To each peer.
    pub peers: Peers,
    /// What the node keeps.
    pub kept: Kept,
    /// What has come of packets that waited for that.
    pub commits: commits::Counts,
    /// What is kept back.
    pub replication: Replication,
    /// How many flows the node table has that the common table has not; an estimate while buckets are being
    /// loaded or taken out.
    pub not_replicated: u64,
}

/// What the engine has to say in a status.
#[derive(Debug)]
pub struct Standing {
    /// The slots of all buckets.
    pub slots: Vec<BucketSlot>,
    /// How many flows the common table has.
    pub flows: usize,
    /// What the common table's contents sum up to.
    pub digest: u64,
    /// How far entries have got.
    pub reach: Reach,
    /// What the engine counts.
    pub tallies: Tallies,
    /// How planned moves ended.
    pub moves: MoveCounters,
    /// Letters to peers that found no way.
    pub letters_lost: u64,
    /// What the packet handling counts.
    pub counters: Vec<(&'static str, u64)>,
}

impl Question {
    /// Answers, unless the asker has given up.
    pub fn answer(
        self,
        cluster: &Cluster,
        replica: &Replica,
        datapath: &dyn Datapath<Table = SharedTable>,
        tallies: &Tallies,
        swept: &dyn Fn(BucketId) -> bool,
    ) {
        let all = || (0..cluster.buckets()).map(|bucket| BucketId(bucket as u16));
        let slots = || all().map(|bucket| datapath.bucket(bucket)).collect();
        let table = replica.table();
        let reach = || reach(cluster, replica, datapath.table(), tallies);
        // Nobody waits for an answer that can't be sent.
        let _given_up = match self {
            Self::Standing(answers) => answers
                .try_send(Standing {
                    slots: slots(),
                    flows: table.len(),
                    digest: table.digest(),
                    reach: reach(),
                    tallies: *tallies,
                    moves: replica.move_counters(),
                    letters_lost: replica.letters_lost(),
                    counters: datapath.counters(),
                })
                .is_err(),
            Self::Peers(answers) => answers.try_send(reach()).is_err(),
            Self::Known { flows, answers } => {
                let flows = flows.iter().take(MAX_LOOKED_FOR);
                let known = flows.map(|(bucket, key)| table.find(*bucket, key).is_some());
                answers.try_send(known.collect()).is_err()
            }
            Self::Kept(answers) => {
                let own = |bucket| datapath.bucket(bucket).owner == cluster.node();
                let leaves = |bucket| replica.is_leaving(bucket) || swept(bucket);
                let kept = all().map(|bucket| own(bucket) || leaves(bucket));
                answers.try_send(kept.collect()).is_err()
            }
            Self::Slots(answers) => answers.try_send(slots()).is_err(),
            Self::Moving(answers) => {
                let (leaving, arriving) = replica.moving();
                let loading = all().filter(|&bucket| is_loading(cluster, replica, bucket)).count();
                answers.try_send(leaving + arriving + loading).is_err()
            }
            Self::Counts(answers) => {
                answers.try_send(all().map(|bucket| table.count(bucket)).collect()).is_err()
            }
            Self::Flows { bucket, limit, answers } => {
                let flows = match bucket {
                    Some(bucket) => table.bucket(bucket).take(limit).collect(),
                    None => table.iter().take(limit).collect(),
                };
                answers.try_send(flows).is_err()
            }
        };
    }
}

fn is_loading(cluster: &Cluster, replica: &Replica, bucket: BucketId) -> bool {
    let slot = replica.slot(bucket);
    slot.owner == cluster.node() && slot.state == BucketState::Loading
}

fn reach(cluster: &Cluster, replica: &Replica, table: &SharedTable, tallies: &Tallies) -> Reach {
    let replication = replica.replication();
    Reach {
        peers: peers(cluster, replica),
        kept: Kept { buckets: replica.kept(), taken_bare: replica.taken_bare() },
        commits: tallies.commits,
        replication,
        not_replicated: (table.len() as u64).saturating_sub(replication.told),
    }
}

fn peers(cluster: &Cluster, replica: &Replica) -> Peers {
    let delays = |peer| replica.delays(peer).cloned().unwrap_or_default();
    cluster.peers().map(|peer| (peer, replica.peer(peer), delays(peer))).collect()
}
