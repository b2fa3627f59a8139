//! How the nodes agree on one order of commands, without I/O.
//!
//! A [`StateMachine`] (the bucket map) takes commands. A [`Coordinator`] brings the same commands in
//! the same order to the machines of all nodes, and none of them before it can no longer be lost.
//! There are two here: [`Raft`] for the daemons among themselves, [`Static`] for a node alone.
//!
//! # Why the `raft` library
//!
//! Consensus is not written by hand. Of the two libraries in wide use, `raft` (of TiKV) is a state
//! machine that is stepped with messages and ticks and never does I/O by itself; openraft brings its
//! tasks, timers and an async runtime. So only the first runs unchanged on virtual time, and a
//! failure of a simulated cluster can be replayed. It has pre-vote, quorum checks, learners,
//! leadership transfer and snapshots, and the same code has carried TiKV for years.
//!
//! What it needs to fit here:
//!
//! * It draws election timeouts from the thread's random numbers. They are replaced after each step
//!   by a function of seed, node, term and attempt, before anything compares them ([`Raft`]), so the
//!   same inputs always give the same outputs.
//! * It trusts its peers' messages: some make it panic. Each is checked against the log first, and
//!   refused if no correct peer could have sent it. Messages and log records have an encoding of our
//!   own (`wire`), so the `protobuf` decoder, which can be made to recurse without end
//!   (RUSTSEC-2024-0437), never sees a byte from outside.
//! * It is built with the `protobuf` code generator, which brings its compiler along on x86-64 and
//!   AArch64; the `prost` one would need `protoc` on every machine that builds.
//!
//! # Invariants
//!
//! * Two machines that have applied equally many commands have applied the same commands.
//! * What a node tells another one, it has on disk: the messages of a step leave only after
//!   [`Coordinator::handle_persisted`] (a leader's own entries may travel while they are written).
//! * What a node is told of the machine ([`Output::Changed`]) never goes back, not even over a loss of
//!   power that has swallowed how far the log was agreed on.
//! * Who votes is what the machine says, changed by one node at a time, in the place in the order
//!   where the machine changed.
//!
//! # Limits
//!
//! A voter that has lost its disk is a voter without memory: it can vote a second time in a term in
//! which it has voted, and an entry that it had confirmed may exist nowhere else. An empty store
//! looks the same on a first start, so this can't be detected here. After a lost disk, let the
//! others remove the voter before it is started again. As a follower it is filled up by itself.

#![forbid(unsafe_code)]

mod bucket_map;
mod consensus;
mod convert;
mod guard;
mod log;
mod message;
mod settings;
mod single;
mod storage;
mod wire;

pub use consensus::{Counters, Raft};
pub use log::{Batch, Hard, Image, Kind, Place, Record, Stored};
pub use settings::{Settings, StartError};
pub use single::Static;
pub use wire::DecodeError;

use testudo_packet::bucket::{Nanos, NodeId};

/// What the nodes agree on: a value that commands change. It has to be deterministic.
pub trait StateMachine: Clone {
    /// Takes a command.
    ///
    /// # Errors
    ///
    /// Why it is refused. Nothing has changed then.
    fn apply(&mut self, command: &[u8]) -> Result<(), String>;
    /// Who votes after the last command, sorted, without doubles, never nobody.
    fn voters(&self) -> Vec<NodeId>;
    /// The value as bytes.
    fn encode(&self) -> Vec<u8>;
    /// Takes over a value from [`Self::encode`].
    ///
    /// # Errors
    ///
    /// Why the bytes are no such value. Nothing has changed then.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;
}

/// A node's part in the agreement.
///
/// # Driving it
///
/// Call a `handle_*` method, or one that asks for something, with the present time; then
/// [`Self::poll_output`] until it has no more, carrying each output out in order; then wait for the
/// next input, at most until [`Self::next_wakeup`], and call [`Self::handle_tick`].
///
/// An [`Output::Persist`] is answered by [`Self::handle_persisted`] once the batch would survive a
/// loss of power; it doesn't matter whether the driver waits for that or goes on meanwhile. If the
/// store fails, the process has to end: a coordinator that goes on would promise what it can't keep.
pub trait Coordinator<M> {
    /// Takes in a message of a peer, which the transport has authenticated.
    ///
    /// # Errors
    ///
    /// If it is no message that a correct peer sends. It has changed nothing.
    fn handle_message(
        &mut self,
        now: Nanos,
        from: NodeId,
        bytes: &[u8],
    ) -> Result<(), MessageError>;
    /// Lets time pass.
    fn handle_tick(&mut self, now: Nanos);
    /// Learns that a batch is on disk.
    fn handle_persisted(&mut self, now: Nanos, ticket: Ticket);
    /// Asks for a command to be agreed on. It may still get lost, or be refused when its turn comes:
    /// only the machine tells whether it took place. Any node may ask; the leader is told.
    ///
    /// # Errors
    ///
    /// If it surely won't take place. Nothing has changed.
    fn propose(&mut self, now: Nanos, command: Vec<u8>) -> Result<(), ProposeError>;
    /// What to do next, or `None` until the next input.
    fn poll_output(&mut self) -> Option<Output>;
    /// When [`Self::handle_tick`] is due, if nothing happens before.
    fn next_wakeup(&self) -> Nanos;
    /// Whether this node is the one to plan: it leads, and its machine has all that was agreed on
    /// before. Two nodes can believe so for a moment; only one of them gets commands through.
    fn leads(&self) -> bool;
    /// Who leads, as far as this node knows.
    fn leader(&self) -> Option<NodeId>;
    /// Gives leadership away, if this node has it. It may fail; the node leads on then.
    fn transfer(&mut self, now: Nanos, to: NodeId);
    /// The machine, after the commands so far.
    fn machine(&self) -> &M;
}

/// Names a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this to a peer. It may get lost, late or doubled.
    Send {
        /// The peer.
        to: NodeId,
        /// What to send.
        bytes: Vec<u8>,
    },
    /// Write this to disk, then call [`Coordinator::handle_persisted`].
    Persist {
        /// What to call it with.
        ticket: Ticket,
        /// What to write.
        batch: Batch,
    },
    /// The machine has changed, by one command or by many. After a start not before it is at least
    /// where it was when the last run of this node told of it, so nobody goes back by restarting.
    Changed,
    /// Another node leads, or none that this node knows.
    Leader(Option<NodeId>),
    /// An agreed command was refused by the machine, on all nodes alike.
    Refused {
        /// Why.
        why: String,
    },
}

/// Why a message was refused. Nothing has changed; the sender is at fault unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not in this version's encoding.
    #[error("a message that can't be read: {0}")]
    Unreadable(#[from] DecodeError),
    /// The sender is not in the configuration, or is this node.
    #[error("a message from node {}, expected another node of the cluster", .0.0)]
    Stranger(NodeId),
    /// A correct peer does not say this.
    #[error("a message that no correct peer sends: {0}")]
    Impossible(String),
    /// The disk is slow, and the room for messages is full. The peer repeats what matters.
    #[error("{waiting} messages wait for the disk already; this one was dropped")]
    Busy {
        /// How many wait.
        waiting: usize,
    },
    /// A node alone has no peers.
    #[error("a message for a coordinator that has no peers")]
    NoPeers,
}

/// Why a command was not even proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// The machine of this node refuses it.
    #[error("the command is refused: {0}")]
    Refused(String),
    /// It is longer than can be sent.
    #[error("the command has {length} bytes, expected 1 to {max}")]
    Length {
        /// Its length.
        length: usize,
        /// The most that is allowed.
        max: usize,
    },
    /// Nobody leads; try again.
    #[error("no node leads at the moment")]
    NoLeader,
    /// The leader would take its own vote away. It gives leadership away first; try again there.
    #[error("the leader can't take its own vote; it hands over to node {} first", .to.0)]
    LeaderLeaves {
        /// Who is to lead.
        to: NodeId,
    },
    /// A change of voters, a transfer of leadership or a write to disk is under way; try again.
    #[error("{0} is under way")]
    Busy(&'static str),
    /// Too many commands wait for agreement.
    #[error("too many commands wait for agreement")]
    Full,
}
