//! What peers say of flows by reference, and whether it is believed.
//!
//! Invariant: whether a change is applied does not depend on how it is spelled. A flow that is told of by
//! a reference meets the same questions as one that is told of in full: does the peer speak for the
//! bucket, and is it newer than what is known. The epoch is the one that the peer has said last of the
//! bucket.
//!
//! A reference that leads nowhere (the flow found no room here, was not believed, or is gone by another
//! node's word) is told back, and the peer introduces the flow again.

use testudo_packet::bucket::{BucketId, Nanos, NodeId};
use testudo_packet::entry::FlowRecord;

use super::{ConnectionId, Replica};
use crate::common_table::{Authority, CommonTable, Place, Refused, SlotId};
use crate::sync::SyncError;
use crate::sync::layout::Item;
use crate::sync::references::Reference;

impl Replica {
    pub(super) fn handle_item(
        &mut self,
        now: Nanos,
        connection: ConnectionId,
        item: Item,
    ) -> Result<(), SyncError> {
        let session = self.sessions.get_mut(&connection).ok_or(SyncError::NotOpen)?;
        let (peer, _) = session.peer.ok_or(SyncError::NotOpen)?;
        match item {
            Item::Frame(frame) => return self.handle_frame(now, connection, peer, frame),
            Item::Introduce { reference, record } => {
                let epoch = session.epoch(record.bucket)?;
                let place = self.introduce(peer, FlowRecord { epoch, ..record });
                self.refer(connection, reference, place)?;
            }
            Item::Snapshot { reference, record } => {
                let replaced = self.replace(connection, record)?;
                let place = replaced.ok().map(|slot| self.table.place(slot));
                self.note(peer, replaced.map(|_| ()));
                self.refer(connection, reference, place)?;
            }
            Item::Change { reference, phase, confirmed, sequence } => {
                let place = session.dictionary.get(reference);
                let Some((place, bucket)) = locate(&self.table, place) else {
                    self.peers[usize::from(peer.0)].rejected.unknown += 1;
                    self.peers[usize::from(peer.0)].outgoing.forgotten(reference);
                    return Ok(());
                };
                let epoch = session.epoch(bucket)?;
                let changed = if self.believes(peer, bucket, epoch) {
                    self.table.change(place, epoch, (phase, confirmed), sequence)
                } else {
                    Err(Refused::NotOwner { bucket })
                };
                self.note(peer, changed);
            }
            Item::Leave { reference } => {
                let place = session.dictionary.get(reference);
                session.dictionary.set(reference, None);
                if let Some((place, bucket)) = locate(&self.table, place) {
                    let epoch = session.epoch(bucket)?;
                    let removed = if self.believes(peer, bucket, epoch) {
                        self.table.remove_at(place, epoch)
                    } else {
                        Err(Refused::NotOwner { bucket })
                    };
                    self.note(peer, removed);
                }
            }
            Item::Forgotten { reference } => self.introduce_again(peer, reference.slot()),
            // The session has taken note of it.
            Item::Epoch { .. } => {}
        }
        Ok(())
    }

    fn refer(
        &mut self,
        connection: ConnectionId,
        reference: Option<Reference>,
        place: Option<Place>,
    ) -> Result<(), SyncError> {
        if let Some(reference) = reference {
            let session = self.sessions.get_mut(&connection).ok_or(SyncError::NotOpen)?;
            session.dictionary.set(reference, place);
        }
        Ok(())
    }

    /// Takes what a peer says of a flow; returns where the flow is, if it is as the peer knows it.
    fn introduce(&mut self, peer: NodeId, record: FlowRecord) -> Option<Place> {
        let bucket = record.bucket;
        let applied = if self.believes(peer, bucket, record.epoch) {
            self.table.apply(record, Authority::Owner)
        } else {
            Err(Refused::NotOwner { bucket })
        };
        self.note(peer, applied.map(|_| ()));
        let slot = match applied {
            Ok(slot) => slot,
            Err(Refused::Older { .. }) => {
                let slot = self.table.find(bucket, &record.key)?;
                let known = self.table.at(slot)?;
                let same = (known.key, known.state.rule) == (record.key, record.state.rule);
                same.then_some(slot)?
            }
            Err(_) => return None,
        };
        Some(self.table.place(slot))
    }

    /// A peer knows no flow by the number of this slot.
    fn introduce_again(&mut self, peer: NodeId, slot: SlotId) {
        self.table.untell(peer, slot);
        if self.table.at(slot).is_some() {
            self.peers[usize::from(peer.0)].outgoing.change(slot);
        }
    }
}

/// Where a reference leads, and the bucket of the flow there.
fn locate(table: &CommonTable, place: Option<Place>) -> Option<(Place, BucketId)> {
    let place = place?;
    Some((place, table.bucket_at(place)?))
}
