//! Flows that the peers are to know before their first packet goes on.
//!
//! Invariant: [`Replica::is_committed`] says yes only when every peer that keeps the flow's bucket, and is
//! still connected, has acknowledged a frame that was sent after the flow was told of. Whose stream has
//! ended is waited for no more; whoever is connected anew has not been told on this stream, and only the
//! driver's timeout ends the waiting.
//!
//! Limits: a peer acknowledges what it has handled, also what it had no room for. That is counted there
//! ([`super::Rejected`]).

use testudo_packet::bucket::{BucketId, NodeId};
use testudo_packet::entry::FlowRecord;

use super::{ConnectionId, Refused, Replica};
use crate::common_table::SlotId;

/// What has to be acknowledged, by whom, for a flow to be committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ticket {
    marks: Vec<(NodeId, ConnectionId, u64)>,
}

impl Replica {
    /// A flow of this node's is to begin when [`Self::is_committed`] says so of what is returned. It is in
    /// the common table now, and the peers are told of it with the next bytes to them.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the table and the peers are as they were.
    pub fn handle_beginning(&mut self, record: FlowRecord) -> Result<Ticket, Refused> {
        self.check_own(record.bucket)?;
        // Whoever waits for the peers has them told, whatever keeps other flows back.
        let slot = self.tell(record)?;
        Ok(self.ticket(record.bucket, slot))
    }

    /// What has to be acknowledged for the last change of the flow in a slot, which is of this bucket and of
    /// which the peers are to be told.
    pub(super) fn ticket(&mut self, bucket: BucketId, slot: SlotId) -> Ticket {
        let peers = self.cluster.nodes().zip(&mut self.peers);
        let keepers = peers.filter(|(node, _)| self.placement.is_keeper(bucket, *node));
        let marks = keepers.filter_map(|(node, peer)| {
            Some((node, peer.connection?, peer.outgoing.want_acknowledged(slot)?))
        });
        Ticket { marks: marks.collect() }
    }

    /// How many peers have acknowledged a flow.
    pub(super) fn copies(&self, ticket: &Ticket) -> u8 {
        let acknowledged = |&&(node, connection, place): &&(NodeId, ConnectionId, u64)| {
            let peer = self.peers.get(usize::from(node.0));
            peer.is_some_and(|peer| {
                peer.connection == Some(connection) && peer.outgoing.is_acknowledged(place)
            })
        };
        u8::try_from(ticket.marks.iter().filter(acknowledged).count()).unwrap_or(u8::MAX)
    }

    /// Whether all peers know a flow that are to know it and can be told.
    #[must_use]
    pub fn is_committed(&self, ticket: &Ticket) -> bool {
        ticket.marks.iter().all(|&(node, connection, place)| {
            self.peers.get(usize::from(node.0)).is_none_or(|peer| match peer.connection {
                None => true,
                Some(present) => present == connection && peer.outgoing.is_acknowledged(place),
            })
        })
    }
}
