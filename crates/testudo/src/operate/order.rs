//! What the coordinator's thread is asked by operators, and what it answers.
//!
//! Nodes and buckets are numbers here, and known to exist; names are the control socket's.

use std::sync::mpsc::SyncSender;

use testudo_packet::bucket::{BucketId, NodeId};

/// The way back for an answer. It has room for one, so giving it never waits.
#[derive(Debug)]
pub struct Answers<T>(SyncSender<Result<T, Refusal>>);

impl<T> Answers<T> {
    /// The way back to who waits behind this.
    pub(super) const fn new(sender: SyncSender<Result<T, Refusal>>) -> Self {
        Self(sender)
    }

    /// Gives the answer, unless the asker has given up.
    pub fn give(self, answer: Result<T, Refusal>) {
        // Nobody waits for an answer that can't be sent.
        let _given_up = self.0.try_send(answer).is_err();
    }
}

/// Why an order is not carried out. Nothing has changed by it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{seen}; expected {expected}; nothing has changed")]
pub struct Refusal {
    /// What stands against it.
    pub seen: String,
    /// What would not.
    pub expected: String,
}

impl Refusal {
    /// A refusal in these words.
    pub fn new(seen: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { seen: seen.into(), expected: expected.into() }
    }
}

/// What is asked. With `dry_run`, only what would move is told.
#[derive(Debug)]
pub enum Request {
    /// Take all buckets away from a node, and give it none until it is undrained.
    Drain {
        /// Which.
        node: NodeId,
        /// Change nothing.
        dry_run: bool,
        /// The way back. The answer is due when it is agreed on, not when all has moved.
        answers: Answers<Plan>,
    },
    /// Let a drained node have buckets again.
    Undrain {
        /// Which.
        node: NodeId,
        /// Change nothing.
        dry_run: bool,
        /// The way back.
        answers: Answers<Plan>,
    },
    /// Move a bucket to a node.
    Move {
        /// Which.
        bucket: BucketId,
        /// To whom.
        to: NodeId,
        /// Change nothing.
        dry_run: bool,
        /// The way back.
        answers: Answers<Plan>,
    },
    /// What is agreed?
    Map(Answers<Map>),
    /// How did that come to be?
    History {
        /// How many changes at most, the latest.
        limit: usize,
        /// The way back: the changes, the oldest first, and whether there were more.
        answers: Answers<(Vec<Change>, bool)>,
    },
    /// Hand this node over to a new process. The answer is due before that begins.
    Restart(Answers<()>),
}

/// What moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The buckets that change hands: which, whose it is, whose it will be.
    pub moves: Vec<(BucketId, Option<NodeId>, NodeId)>,
    /// What the nodes carry.
    pub shares: Vec<Share>,
    /// Whether they can carry it afterwards.
    pub can_carry: bool,
    /// Why they can or can't, or why nothing moves.
    pub reason: String,
}

/// A node's part of the work, before and after.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Whose.
    pub node: NodeId,
    /// How many buckets it owns.
    pub buckets: (u32, u32),
    /// How much of what it can carry it carries, in percent.
    pub percent: (f64, f64),
}

/// What is agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// How many commands have changed it.
    pub version: u64,
    /// Who puts commands in order.
    pub coordinator: &'static str,
    /// Who leads, if it is known.
    pub leader: Option<NodeId>,
    /// Every node, in the order of the configuration.
    pub nodes: Vec<Node>,
    /// The list of each bucket, by bucket.
    pub ranks: Vec<Vec<NodeId>>,
}

/// What is agreed of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node {
    /// Which.
    pub node: NodeId,
    /// Its share of the buckets, in proportion to the others'.
    pub weight: u16,
    /// Whether it owns nothing, ever.
    pub witness: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Since which version this life of it is a member, if it is.
    pub admitted: Option<u64>,
    /// Whether it is drained.
    pub drained: bool,
}

/// A command that changed the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The map's version after it.
    pub version: u64,
    /// What it did.
    pub change: String,
    /// Why.
    pub reason: String,
}
