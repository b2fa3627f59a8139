//! Moves that an operator asks for.

use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::placing::Fit;
use super::{Lists, Scene, candidates};
use crate::config::Cluster;
use crate::map::{Command, Map, Reason, Version};
use crate::membership::Standing;
use crate::plan::Change;

/// Why a bucket can't be moved as asked. Nothing was moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ByHandError {
    /// No such bucket.
    #[error("bucket {bucket}; expected one below {buckets}")]
    NoSuchBucket {
        /// The bucket.
        bucket: BucketId,
        /// How many there are.
        buckets: usize,
    },
    /// The node can't own buckets now.
    #[error(
        "{node} can't own buckets now; expected a member that is alive, in sync, fit and not drained"
    )]
    CannotOwn {
        /// The node's name.
        node: String,
    },
    /// An earlier change of the bucket is not through.
    #[error("bucket {bucket} is on its way by version {} of the map; try again when it has arrived", since.0)]
    OnItsWay {
        /// The bucket.
        bucket: BucketId,
        /// The version that sent it.
        since: Version,
    },
    /// Nobody owns it or keeps a copy: it goes first to whoever may remember it.
    #[error(
        "bucket {bucket} is about to get an owner that may remember it; try again when it has one"
    )]
    Orphaned {
        /// The bucket.
        bucket: BucketId,
    },
    /// It owns the bucket already.
    #[error("{node} is the owner of bucket {bucket} already")]
    OwnsAlready {
        /// The node's name.
        node: String,
        /// The bucket.
        bucket: BucketId,
    },
}

impl ByHandError {
    /// Whether it is worth to ask again.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::OnItsWay { .. } | Self::Orphaned { .. })
    }
}

/// The command that makes a node the owner of a bucket; or the one that has copies of the bucket made
/// first, where moving it now could lose one: the planner then goes on by itself.
///
/// # Errors
///
/// [`ByHandError`].
pub fn move_bucket(
    cluster: &Cluster,
    map: &Map,
    standings: &[Standing],
    bucket: BucketId,
    node: NodeId,
) -> Result<Command, ByHandError> {
    let buckets = map.buckets().len();
    let name = || cluster.member(node).to_owned();
    let list = map.list(bucket).ok_or(ByHandError::NoSuchBucket { bucket, buckets })?;
    let candidates = candidates(cluster, map, standings);
    if !candidates.iter().any(|candidate| candidate.node == node && candidate.may_own) {
        return Err(ByHandError::CannotOwn { node: name() });
    }
    if list.ranks.first() == Some(&node) {
        return Err(ByHandError::OwnsAlready { node: name(), bucket });
    }
    let living = standings.iter().filter(|standing| !standing.gone);
    let settled = living.map(|standing| standing.settled).min().unwrap_or_default();
    if map.older(bucket).next().is_some() && settled < list.since {
        return Err(ByHandError::OnItsWay { bucket, since: list.since });
    }
    let stays = |&other: &NodeId| {
        other != node && candidates.iter().any(|c| c.node == other && c.may_succeed)
    };
    let others = list.ranks.iter().copied().filter(stays);
    let length = cluster.replicas().ranks();
    let ranks: Vec<_> = [node].into_iter().chain(others).take(length).collect();
    let scene = Scene { cluster, now: Nanos(0), map, standings };
    let lists = Lists::new(map, standings);
    let held = &lists.held()[usize::from(bucket.0)];
    let (basis, reason) = (map.version(), Reason::Operator(node));
    match scene.fit(Change { bucket, ranks }, (held, false), &candidates) {
        Fit::Now(Change { bucket, ranks }) if ranks.first() == Some(&node) => {
            Ok(Command::Assign { basis, settled, lists: vec![(bucket, ranks)], reason })
        }
        Fit::Fill(bucket, nodes) => {
            let others = nodes.into_iter().filter(|&other| other != node);
            let nodes = [node].into_iter().chain(others).collect();
            Ok(Command::Invite { basis, guests: vec![(bucket, nodes)], reason })
        }
        Fit::Now(_) => Err(ByHandError::Orphaned { bucket }),
    }
}
