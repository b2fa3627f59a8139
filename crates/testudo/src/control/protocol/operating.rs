//! What an operator asks for and is told: moves of buckets, the agreed map, health.

use serde::{Deserialize, Serialize};
use testudo_packet::bucket::Nanos;

use crate::node::health::{Item, Snapshot, State};

/// A flow that was let in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admitted {
    /// The bucket that it belongs to.
    pub bucket: u16,
    /// Who owns the bucket and has the flow's entry.
    pub owner: String,
    /// How many other nodes know the flow for certain.
    pub copies: u8,
    /// Whether the owner had it before.
    pub was_there: bool,
}

/// What is going to move, or would.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Whether this was a question only, and nothing has changed.
    pub dry_run: bool,
    /// The buckets that move, by number.
    pub moves: Vec<Move>,
    /// What the nodes carry before and after, in the order of the configuration; witnesses left out.
    pub shares: Vec<Share>,
    /// Whether the nodes can carry what they will have, by what was measured so far.
    pub can_carry: bool,
    /// Why they can or can't, or why nothing moves.
    pub reason: String,
}

/// A bucket that changes hands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Its number.
    pub bucket: u16,
    /// Whose it is; `null` if nobody's.
    pub from: Option<String>,
    /// Whose it will be.
    pub to: String,
}

/// A node's part of the work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// Its name.
    pub node: String,
    /// How many buckets it owns before.
    pub buckets_before: u32,
    /// And after.
    pub buckets_after: u32,
    /// How much of what it can carry it carries before, in percent.
    pub percent_before: f64,
    /// And after.
    pub percent_after: f64,
}

/// The agreed map of buckets, as the node that answers knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Map {
    /// How many commands have changed it.
    pub version: u64,
    /// Who puts the commands in order: `static`, `embedded` or `etcd`.
    pub coordinator: String,
    /// Who leads; `null` if nobody is known to.
    pub leader: Option<String>,
    /// The nodes, in the order of the configuration.
    pub nodes: Vec<MapNode>,
    /// Who is to own each bucket, and who comes after, by bucket.
    pub ranks: Vec<Vec<String>>,
}

/// What is agreed of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapNode {
    /// Its name.
    pub node: String,
    /// Its share of the buckets, in proportion to the others'.
    pub weight: u16,
    /// Whether it owns nothing, ever.
    pub witness: bool,
    /// Whether it votes.
    pub voter: bool,
    /// Since which version this life of it is a member; `null` if it is none.
    pub admitted: Option<u64>,
    /// Whether an operator has taken all its buckets away.
    pub drained: bool,
    /// How many buckets list it first.
    pub buckets: u32,
}

/// How the map came to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The latest changes, the oldest first.
    pub changes: Vec<Change>,
    /// Whether there were more, which are forgotten or beyond the limit.
    pub truncated: bool,
}

/// A command that changed the map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The map's version after it.
    pub version: u64,
    /// What it did.
    pub change: String,
    /// Why.
    pub reason: String,
}

/// What a node lives by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The node's name.
    pub node: String,
    /// Whether no item is bad.
    pub fit: bool,
    /// Each by its name.
    pub items: Vec<HealthItem>,
}

impl Health {
    /// Health as it is shown at a time.
    pub fn new(node: String, snapshot: &Snapshot, now: Nanos) -> Self {
        let item = |item: &Item| HealthItem {
            name: item.name.to_string(),
            state: match item.state {
                State::Good => HealthState::Good,
                State::Warning => HealthState::Warning,
                State::Bad => HealthState::Bad,
                State::Unknown => HealthState::Unknown,
            },
            reason: item.reason.clone(),
            for_ms: now.millis_since(item.since),
        };
        Self { node, fit: snapshot.fit, items: snapshot.items.iter().map(item).collect() }
    }
}

/// One thing that a node lives by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthItem {
    /// Its name: `link in0`, `probe 192.0.2.1`, `overload`, `sync`, `coordinator`,
    /// `certificate`.
    pub name: String,
    /// How it is.
    pub state: HealthState,
    /// Why, in words.
    pub reason: String,
    /// For how long, in milliseconds.
    pub for_ms: u64,
}

/// How an item of health is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// As it should be.
    Good,
    /// As it should be for now; an operator is to look at it.
    Warning,
    /// A reason to give buckets away.
    Bad,
    /// Nothing is known yet.
    Unknown,
}

/// A daemon that hands itself over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarting {
    /// The node's name.
    pub node: String,
    /// The process that is going to be succeeded.
    pub process: u32,
}
