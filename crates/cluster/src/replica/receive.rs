//! What peers say, and whether it is believed.

use testudo_packet::bucket::{BucketId, Epoch, Nanos, NodeId};
use testudo_packet::entry::FlowRecord;

use super::{ConnectionId, Effect, Replica};
use crate::common_table::{Authority, Refused, SlotId};
use crate::sync::comparing::Verdict;
use crate::sync::frame::{Frame, LETTER};
use crate::sync::outgoing::MAX_LETTER_FRAMES;
use crate::sync::{Incoming, Session, SyncError};

impl Replica {
    /// Bytes of a stream have come.
    ///
    /// # Errors
    ///
    /// Why the session is over: close the stream. What whole frames said before stands.
    pub fn handle_bytes(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        bytes: &[u8],
    ) -> Result<(), SyncError> {
        let mut input = bytes;
        self.count_received(connection, bytes.len());
        loop {
            let session = self.sessions.get_mut(&connection).ok_or(SyncError::NotOpen)?;
            let result = match session.next(&self.cluster, &mut input) {
                Ok(None) => return Ok(()),
                Ok(Some(Incoming::Opened(identity))) => self.open(connection, &identity),
                Ok(Some(Incoming::Item(item))) => self.handle_item(now, connection, item),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                self.handle_closed(connection);
                return Err(error);
            }
        }
    }

    /// Counts what a peer has sent; who has not proved to be one is not counted.
    fn count_received(&mut self, connection: ConnectionId, bytes: usize) {
        let peer = self.sessions.get(&connection).and_then(|session| session.peer);
        if let Some(peer) = peer.and_then(|(peer, _)| self.peers.get_mut(usize::from(peer.0))) {
            peer.bytes_received += bytes as u64;
        }
    }

    pub(super) fn handle_frame(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        peer: NodeId,
        frame: Frame,
    ) -> Result<(), SyncError> {
        match frame {
            Frame::Upsert(record) => self.upsert(peer, record),
            Frame::Remove(record) => self.remove(peer, &record),
            Frame::Check { bucket, epoch, digest, count } => {
                self.check(connection, peer, bucket, epoch, (digest, count));
            }
            Frame::Compared { bucket, check, verdict } => {
                self.compared(now, peer, bucket, check, verdict);
            }
            Frame::Want { bucket } => {
                if self.check_own(bucket).is_ok() || self.leaving.contains_key(&bucket) {
                    self.peers[usize::from(peer.0)].outgoing.wanted(bucket);
                }
            }
            Frame::Begin { bucket, epoch } => self.begin(connection, peer, bucket, epoch)?,
            Frame::Snapshot(record) => {
                let replaced = self.replace(connection, record)?;
                self.note(peer, replaced.map(|_| ()));
            }
            Frame::End { bucket } => {
                if self.in_snapshot(connection, bucket)? {
                    self.table.sweep(bucket);
                    self.trust(peer, bucket);
                }
                if let Some(session) = self.sessions.get_mut(&connection) {
                    session.snapshot = None;
                }
            }
            Frame::Acknowledge { frames } => {
                let state = &mut self.peers[usize::from(peer.0)];
                if !state.outgoing.acknowledge(now, frames, &mut state.delays) {
                    let expected = "an acknowledgement of frames that were sent";
                    return Err(SyncError::Order { seen: "acknowledgement", expected });
                }
                self.note_delivered(peer);
            }
            Frame::Prepare { bucket, since, epoch } => self.prepare(peer, bucket, since, epoch),
            Frame::Holding { bucket, since } => self.held(peer, bucket, since),
            Frame::Handled { bucket, count, packets } => {
                self.note_handled(peer, bucket, packets.get(..usize::from(count)).unwrap_or(&[]));
            }
            Frame::Released { bucket, since } => self.released(peer, bucket, since),
            Frame::Withdrawn { bucket, since } => self.withdrawn(peer, bucket, since),
            Frame::Letter { length, last, bytes } => {
                let part = bytes.get(..usize::from(length)).unwrap_or(&[]);
                return self.take_letter(connection, peer, part, last);
            }
            Frame::Determine { number, record } => self.handle_wish(peer, number, record),
            Frame::Determined { number, answer, copies } => {
                self.handle_answer(now, peer, number, answer, copies);
            }
            Frame::OtherLife { heard } => {
                return Err(SyncError::Rival { heard, ours: self.incarnation });
            }
        }
        Ok(())
    }

    /// A peer says what its copy of a bucket sums up to. It gets an answer, and is asked for all of it if
    /// this node's copy differs.
    fn check(
        &mut self,
        connection: ConnectionId,
        peer: NodeId,
        bucket: BucketId,
        epoch: Epoch,
        sum: (u64, u32),
    ) {
        if usize::from(bucket.0) >= self.slots.len() {
            return self.note(peer, self.check_own(bucket));
        }
        let differs = (self.table.bucket_digest(bucket), self.table.count(bucket)) != sum;
        let believed = self.believes(peer, bucket, epoch);
        let equal = self.equal_to.get(usize::from(bucket.0)) == Some(&peer);
        let mine = self.slot(bucket).owner == self.cluster.node();
        let verdict = match differs {
            // Whoever does not know yet that it has been succeeded goes on changing its copy.
            _ if !believed || mine => Verdict::NotOwner,
            true if equal => Verdict::Differs,
            true => Verdict::Outdated,
            false => Verdict::Equal,
        };
        let check = self.sessions.get(&connection).map_or(0, Session::received);
        let outgoing = &mut self.peers[usize::from(peer.0)].outgoing;
        outgoing.answer(bucket, check, verdict);
        match (believed, differs) {
            (true, true) => outgoing.want(bucket),
            (true, false) => self.trust(peer, bucket),
            (false, _) => {}
        }
    }

    /// Whether a peer that speaks for a bucket under this epoch is believed: as the owner that this
    /// node knows, or as one that this node does not know of yet. Two owners never share an epoch.
    pub(super) fn believes(&mut self, peer: NodeId, bucket: BucketId, epoch: Epoch) -> bool {
        let slot = self.slot(bucket);
        let newer = epoch > slot.epoch;
        let Some(heard) = self.heard.get_mut(usize::from(bucket.0)) else { return false };
        // Epochs rise, so whoever speaks under an older one than another peer did has been succeeded.
        let (latest, by) = *heard;
        let succeeded = latest > slot.epoch.max(epoch) && by != peer;
        let believed = (slot.owner == peer || newer) && !succeeded;
        if believed {
            let equal_to = &mut self.equal_to[usize::from(bucket.0)];
            if *equal_to != peer {
                *equal_to = NodeId::NONE;
            }
        }
        // Whoever is known as the owner is remembered, too: what is known of owners can be forgotten when
        // a node begins a new life, and its copies are not.
        if believed && epoch > latest {
            *heard = (epoch, peer);
            self.forget_snapshots(bucket, peer);
        }
        // A peer that is not believed may own the bucket, and this node hear of it later.
        let doubtful = !believed && slot.owner != self.cluster.node();
        if doubtful && !std::mem::replace(&mut self.doubtful[usize::from(bucket.0)], true) {
            // Whoever owns it by what this node knows may have said all before. If another owns it,
            // that one is asked when this node hears of it.
            let owner = if succeeded { by } else { slot.owner };
            if let Some(owner) = self.peers.get_mut(usize::from(owner.0)) {
                owner.outgoing.want(bucket);
            }
        }
        believed
    }

    /// A peer has said all that it has of a bucket. If no other is known to have succeeded it, that is
    /// all there is.
    fn trust(&mut self, peer: NodeId, bucket: BucketId) {
        let (slot, index) = (self.slot(bucket), usize::from(bucket.0));
        // Both callers have just believed the peer.
        self.equal_to[index] = peer;
        if slot.owner == peer
            && self.heard.get(index).is_some_and(|(heard, _)| *heard <= slot.epoch)
        {
            self.doubtful[index] = false;
            self.now_complete(bucket);
        }
    }

    /// Takes a part of a letter, and hands the letter over when it is whole.
    fn take_letter(
        &mut self,
        connection: ConnectionId,
        from: NodeId,
        part: &[u8],
        last: bool,
    ) -> Result<(), SyncError> {
        let session = self.sessions.get_mut(&connection).ok_or(SyncError::NotOpen)?;
        if session.letter.len() + part.len() > MAX_LETTER_FRAMES * LETTER {
            let expected = "the end of a letter";
            return Err(SyncError::Order { seen: "letter's part", expected });
        }
        session.letter.extend_from_slice(part);
        if last {
            let bytes = std::mem::take(&mut session.letter);
            self.effects.push_back(Effect::Letter { from, bytes });
        }
        Ok(())
    }

    fn upsert(&mut self, peer: NodeId, record: FlowRecord) {
        let bucket = record.bucket;
        let applied = if self.believes(peer, bucket, record.epoch) {
            self.table.apply(record, Authority::Owner).map(|_| ())
        } else {
            Err(Refused::NotOwner { bucket })
        };
        self.note(peer, applied);
    }

    fn remove(&mut self, peer: NodeId, record: &FlowRecord) {
        let bucket = record.bucket;
        let removed = if self.believes(peer, bucket, record.epoch) {
            self.table.remove(record).map(|_| ())
        } else {
            Err(Refused::NotOwner { bucket })
        };
        self.note(peer, removed);
    }

    fn begin(
        &mut self,
        connection: ConnectionId,
        peer: NodeId,
        bucket: BucketId,
        epoch: Epoch,
    ) -> Result<(), SyncError> {
        let believed = self.believes(peer, bucket, epoch);
        let session = self.sessions.get_mut(&connection).ok_or(SyncError::NotOpen)?;
        if session.snapshot.is_some() {
            let expected = "the end of the snapshot before";
            return Err(SyncError::Order { seen: "snapshot's beginning", expected });
        }
        session.snapshot = Some((bucket, believed));
        if believed {
            self.table.doubt(bucket);
        }
        Ok(())
    }

    /// Takes a record of the snapshot that is under way, whatever is known of the flow.
    pub(super) fn replace(
        &mut self,
        connection: ConnectionId,
        record: FlowRecord,
    ) -> Result<Result<SlotId, Refused>, SyncError> {
        let bucket = record.bucket;
        Ok(match self.in_snapshot(connection, bucket)? {
            true => self.table.replace(record),
            false => Err(Refused::NotOwner { bucket }),
        })
    }

    /// Whether the snapshot that a record or an end belongs to is believed.
    fn in_snapshot(&self, connection: ConnectionId, bucket: BucketId) -> Result<bool, SyncError> {
        let session = self.sessions.get(&connection).ok_or(SyncError::NotOpen)?;
        match session.snapshot {
            Some((of, believed)) if of == bucket => Ok(believed),
            _ => {
                let expected = "the beginning of a snapshot of the same bucket";
                Err(SyncError::Order { seen: "snapshot's part", expected })
            }
        }
    }

    pub(super) fn note(&mut self, peer: NodeId, result: Result<(), Refused>) {
        let rejected = &mut self.peers[usize::from(peer.0)].rejected;
        match result {
            // A flow that is gone already is what the peer wanted.
            Ok(()) | Err(Refused::Unknown) => {}
            Err(Refused::Older { .. } | Refused::StaleEpoch { .. }) => rejected.older += 1,
            Err(Refused::NotOwner { .. }) => rejected.not_owner += 1,
            Err(Refused::Full { .. }) => rejected.full += 1,
            Err(Refused::NoSuchBucket { .. }) => rejected.no_such_bucket += 1,
        }
    }
}
