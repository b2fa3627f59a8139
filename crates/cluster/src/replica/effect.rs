//! What a [`super::Replica`] asks of its driver.

use testudo_packet::bucket::{BucketId, BucketSlot, Epoch, NodeId};
use testudo_packet::entry::FlowRecord;

use super::{ConnectionId, Outcome, Repair, Wish};
use crate::heartbeat::Incarnation;
use crate::map::Version;
use crate::sync::SyncError;

/// What the driver has to do, in the order given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write the slot of a bucket.
    SetBucket {
        /// The bucket.
        bucket: BucketId,
        /// Its slot.
        slot: BucketSlot,
    },
    /// Take the entries of a bucket out of the node table.
    Clear {
        /// The bucket.
        bucket: BucketId,
    },
    /// Put the entries that the common table has of a bucket into the node table, then call
    /// [`super::Replica::handle_loaded`].
    Install {
        /// The bucket.
        bucket: BucketId,
        /// Since when this node owns it.
        epoch: Epoch,
    },
    /// Read all flows of a bucket that the node table has, from now on: show them to
    /// [`super::Replica::handle_found`] and settle them as usual, then call
    /// [`super::Replica::handle_read_out`]. Some of them were kept back, and the bucket is to leave.
    ReadOut {
        /// The bucket.
        bucket: BucketId,
        /// Which reading, of all there ever were.
        reading: u64,
    },
    /// Set the slot of a bucket that is to be handed over so that it names the next owner, wait until
    /// no packet that met the old slot is under way, take in all events, then call
    /// [`super::Replica::handle_yielded`].
    Yield {
        /// The bucket.
        bucket: BucketId,
        /// Its slot.
        slot: BucketSlot,
    },
    /// Handle the packets of a bucket that were held, but those that the owner before has handled.
    ReleaseHeld {
        /// The bucket.
        bucket: BucketId,
        /// Hashes of what was handled; each stands for one packet.
        handled: Vec<u64>,
    },
    /// Drop the packets of a bucket that were held: it stays with its owner.
    DiscardHeld {
        /// The bucket.
        bucket: BucketId,
    },
    /// No slot names this node for a bucket that is to be handed over: call
    /// [`crate::membership::Membership::handle_given_up`].
    GivenUp {
        /// The bucket.
        bucket: BucketId,
        /// The epoch under which its next owner will own it.
        epoch: Epoch,
    },
    /// The next owner knows all of a bucket: call
    /// [`crate::membership::Membership::handle_delivered`].
    Delivered {
        /// The bucket.
        bucket: BucketId,
        /// The epoch under which its next owner owns it.
        epoch: Epoch,
    },
    /// The owner of a bucket has handed it over to this node: call
    /// [`crate::membership::Membership::handle_handed_over`].
    HandedOver {
        /// The bucket.
        bucket: BucketId,
        /// Who has.
        from: NodeId,
        /// The version of the map that says so.
        since: Version,
    },
    /// Whether the table is complete has changed: call
    /// [`crate::membership::Membership::handle_synced`].
    Synced {
        /// By which version of the map the owners are known; `None` if it is not complete.
        version: Option<Version>,
    },
    /// The coordinator of a peer says this to this node's.
    Letter {
        /// The peer.
        from: NodeId,
        /// What it says.
        bytes: Vec<u8>,
    },
    /// All buckets are given up; the membership wants to know.
    Released {
        /// The life that begins.
        incarnation: Incarnation,
    },
    /// Let a flow in that was determined, here or on another node: call [`super::Replica::place`], and put
    /// what it returns into the node table.
    Place {
        /// Whose request it is.
        wish: Wish,
        /// The flow.
        record: FlowRecord,
    },
    /// What has come of a flow that this node has determined.
    Determined {
        /// The number of the request.
        number: u32,
        /// What has come of it.
        outcome: Outcome,
    },
    /// Close a connection. The replica has forgotten it.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        error: SyncError,
    },
    /// This node has taken a bucket over without a whole copy, because nobody who keeps one lives: what it
    /// does not have is lost.
    TakenBare {
        /// The bucket.
        bucket: BucketId,
        /// Whose it was.
        previous: NodeId,
    },
    /// A peer's copy of an own bucket was equal and is not any more, though it was told of all
    /// changes. It is being sent again.
    Diverged {
        /// Whose copy.
        peer: NodeId,
        /// Of which bucket.
        bucket: BucketId,
    },
    /// A copy that had diverged is equal again.
    Repaired {
        /// Whose copy.
        peer: NodeId,
        /// Of which bucket.
        bucket: BucketId,
        /// How it was repaired.
        repair: Repair,
    },
    /// A peer has proved who it is; flows are exchanged from now on.
    PeerConnected {
        /// Which.
        peer: NodeId,
        /// By which connection.
        connection: ConnectionId,
    },
    /// Flows are no longer exchanged with a peer.
    PeerClosed {
        /// Which.
        peer: NodeId,
    },
}
