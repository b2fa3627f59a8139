//! The streams to the peers: who dials, who is at the other end, when one is over.

use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::{Comparisons, Effect, Rejected, Replica, own_buckets};
use crate::sync::handshake::{Identity, NONCE_BYTES};
use crate::sync::lag::Delays;
use crate::sync::outgoing::{Outgoing, Source};
use crate::sync::{Session, Side, SyncError};

/// How long a stream may take to prove who is at its other end, in milliseconds.
const HANDSHAKE_MILLIS: u64 = 3000;

/// How many streams may be open beside one for each peer: those that have not proved anything yet.
const STRANGERS: usize = 16;

/// A stream, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// How far a peer has been told what this node knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncStatus {
    /// Whether flows are exchanged now.
    pub connected: bool,
    /// Frames sent on the present stream.
    pub sent: u64,
    /// Frames that the peer has said it has handled.
    pub acknowledged: u64,
    /// Changes and frames that the peer has not said it has handled.
    pub pending: u64,
    /// How often more flows went than could be noted, so that all buckets were compared instead.
    pub resyncs: u64,
    /// Changes of flows that had no frame of their own, because the flow changed again before.
    pub coalesced: u64,
    /// When the oldest change was noted that the peer has not said it has handled.
    pub oldest: Option<Nanos>,
    /// Bytes given to all streams to the peer.
    pub bytes_sent: u64,
    /// Bytes taken from them.
    pub bytes_received: u64,
    /// What was refused of it.
    pub rejected: Rejected,
    /// What comparing with it has come to.
    pub comparisons: Comparisons,
}

impl Replica {
    /// The peers that this node dials; all others dial it.
    pub fn connects_to(&self) -> impl Iterator<Item = NodeId> + use<> {
        let me = self.cluster.node();
        self.cluster.nodes().filter(move |&node| node < me)
    }

    /// How far a peer has been told.
    #[must_use]
    pub fn peer(&self, node: NodeId) -> SyncStatus {
        let Some(peer) = self.peers.get(usize::from(node.0)) else { return SyncStatus::default() };
        SyncStatus {
            connected: peer.connection.is_some(),
            sent: peer.outgoing.sent(),
            acknowledged: peer.outgoing.acknowledged(),
            pending: peer.outgoing.pending(),
            resyncs: peer.outgoing.resyncs(),
            coalesced: peer.outgoing.coalesced(),
            oldest: peer.outgoing.oldest(),
            bytes_sent: peer.bytes_sent,
            bytes_received: peer.bytes_received,
            rejected: peer.rejected,
            comparisons: peer.comparisons,
        }
    }

    /// How long changes took until a peer had said that it has handled them.
    #[must_use]
    pub fn delays(&self, node: NodeId) -> Option<&Delays> {
        self.peers.get(usize::from(node.0)).map(|peer| &peer.delays)
    }

    /// A stream is there. `nonce` must never have been used before.
    ///
    /// # Errors
    ///
    /// [`SyncError::TooMany`]: close it.
    pub fn handle_connected(
        &mut self,
        now: Nanos,
        side: Side,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<ConnectionId, SyncError> {
        let open = self.sessions.len();
        if open >= self.peers.len() + STRANGERS {
            return Err(SyncError::TooMany { open });
        }
        self.connections += 1;
        let connection = ConnectionId(self.connections);
        self.sessions.insert(connection, Session::new(side, nonce, self.incarnation, now));
        Ok(connection)
    }

    /// A stream has ended.
    pub fn handle_closed(&mut self, connection: ConnectionId) {
        let Some(session) = self.sessions.remove(&connection) else { return };
        let Some((peer, _)) = session.peer else { return };
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return };
        if state.connection == Some(connection) {
            state.connection = None;
            state.outgoing = Outgoing::default();
            self.table.untell_all(peer);
            self.moves.doubt(peer);
            self.rounds.lose(peer);
            self.effects.push_back(Effect::PeerClosed { peer });
        }
    }

    /// Whether the peer at the other end has proved who it is.
    #[must_use]
    pub fn is_open(&self, connection: ConnectionId) -> bool {
        self.sessions.get(&connection).is_some_and(Session::is_open)
    }

    /// Looks at deadlines; call it about every 100 ms.
    pub fn handle_tick(&mut self, now: Nanos) {
        let late = |session: &Session| {
            !session.is_open() && now.millis_since(session.opened_at) >= HANDSHAKE_MILLIS
        };
        let late = self.sessions.iter().filter(|(_, session)| late(session));
        for connection in late.map(|(&connection, _)| connection).collect::<Vec<_>>() {
            self.close(connection, SyncError::HandshakeTimeout);
        }
        self.tick_moves(now);
        self.tick_comparison(now);
        self.note_synced();
    }

    fn close(&mut self, connection: ConnectionId, error: SyncError) {
        self.handle_closed(connection);
        self.effects.push_back(Effect::Close { connection, error });
    }

    /// The peer at the other end has proved who it is.
    ///
    /// # Errors
    ///
    /// [`SyncError::OtherLife`] if it is not the life that heartbeats are heard of.
    pub(super) fn open(
        &mut self,
        connection: ConnectionId,
        identity: &Identity,
    ) -> Result<(), SyncError> {
        let peer = identity.node;
        let Some(state) = self.peers.get(usize::from(peer.0)) else { return Ok(()) };
        let session = self.sessions.get(&connection).ok_or(SyncError::NotOpen)?;
        let format = session.format();
        if let Some(heard) = state.life.filter(|&life| life != identity.incarnation) {
            let seen = identity.incarnation;
            return Err(SyncError::OtherLife { node: peer, seen, heard, format });
        }
        if let Some(older) = state.connection {
            self.close(older, SyncError::Superseded);
        }
        self.table.untell_all(peer);
        let mut outgoing = Outgoing::new(format);
        for bucket in own_buckets(&self.slots, self.cluster.node()) {
            if self.placement.tells(bucket, peer) {
                outgoing.check(bucket);
            }
        }
        // It may not know that this node keeps them.
        self.lacking_of(peer).into_iter().for_each(|bucket| outgoing.want(bucket));
        if let Some(state) = self.peers.get_mut(usize::from(peer.0)) {
            state.connection = Some(connection);
            state.outgoing = outgoing;
        }
        self.effects.push_back(Effect::PeerConnected { peer, connection });
        self.resume_moves(peer);
        Ok(())
    }

    /// A snapshot of this bucket that is under way is not believed any more, unless it is the owner's.
    pub(super) fn forget_snapshots(&mut self, bucket: BucketId, owner: NodeId) {
        for session in self.sessions.values_mut() {
            if let Some((of, believed)) = &mut session.snapshot
                && *of == bucket
                && session.peer.is_none_or(|(peer, _)| peer != owner)
            {
                *believed = false;
                self.doubtful[usize::from(bucket.0)] = true;
            }
        }
    }

    /// Appends what a stream has to carry, until `out` is `max` bytes long or there is no more.
    /// Returns how many bytes were appended. What belongs to a handshake is appended in any case.
    pub fn poll_transmit(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        out: &mut Vec<u8>,
        max: usize,
    ) -> usize {
        let before = out.len();
        let Some(session) = self.sessions.get_mut(&connection) else { return 0 };
        session.transmit_handshake(out);
        session.transmit_acknowledgement(out);
        let peer = session.peer.filter(|_| session.is_open());
        if let Some((peer, _)) = peer
            && let Some(state) = self.peers.get_mut(usize::from(peer.0))
            && state.connection == Some(connection)
        {
            let (me, table) = (self.cluster.node(), &mut self.table);
            let (slots, leaving) = (&self.slots, &self.leaving);
            state.outgoing.stamp(now);
            let tells = |bucket| self.placement.tells(bucket, peer);
            let source = Source { me, peer, table, slots, leaving, tells: &tells };
            state.outgoing.transmit(source, out, max);
            state.bytes_sent += (out.len() - before) as u64;
        }
        out.len() - before
    }
}
