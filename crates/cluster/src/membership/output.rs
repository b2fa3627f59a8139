//! What a [`super::Membership`] asks of its driver, and what it tells operators.

use crate::heartbeat::Incarnation;
use crate::ownership::Ownership;
use testudo_packet::bucket::{Nanos, NodeId};

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Let the kernel handle packets until then, by its monotonic clock; not at all if it is past.
    SetLease(Nanos),
    /// Hand this to the replica, in the order of the outputs.
    Ownership(Ownership),
    /// Send this to a peer. It may get lost, late or doubled.
    Send {
        /// The peer.
        to: NodeId,
        /// What to send.
        datagram: Vec<u8>,
    },
    /// Tell the operator.
    Notice(Notice),
}

/// What an operator wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// This life is a member of the cluster.
    Admitted,
    /// A majority supports this node.
    LeaseGained,
    /// No majority has supported this node for the length of a lease: it has stopped.
    LeaseLost,
    /// A peer has been silent for the takeover wait.
    Suspected(NodeId),
    /// A suspected peer was heard again before it was fenced.
    HeardAgain(NodeId),
    /// This node will not support the peer's life again.
    Fenced(NodeId),
    /// The peer's life can't own anything any more.
    Dead(NodeId),
    /// Two processes speak as this peer: the operator has started it twice.
    Doubled(NodeId),
    /// A peer hears another process that runs under this node's name: the operator has started two.
    Impersonated {
        /// The peer.
        heard_by: NodeId,
        /// The life that it hears.
        life: Incarnation,
    },
    /// This node has begun a new life.
    Restarted {
        /// The new life.
        incarnation: Incarnation,
        /// Why.
        cause: Cause,
    },
}

/// Why a node began a new life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Others have fenced it: a majority, and what it owned is theirs; or some, and it owned nothing.
    Fenced,
    /// It hears a majority, but gets no lease.
    NoLease,
    /// Its place was given to another life.
    Superseded,
}

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats heard, including those that came too late to count.
    pub received: u64,
    /// Datagrams that were no heartbeat for this node.
    pub rejected: u64,
    /// Heartbeats that were overtaken, doubled, or of another life than the one listened to.
    pub late: u64,
    /// Leases lost.
    pub leases_lost: u64,
    /// New lives begun.
    pub restarts: u64,
    /// Notices that nobody fetched in time.
    pub notices_dropped: u64,
}
