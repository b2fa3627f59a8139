//! Whether this node's own flows are in the common table as they are in the node table.
//!
//! The common table learns of them by events, and events can get lost. So the driver goes over both tables
//! all the time, a share at a time, and over all of them at once when it knows of lost events:
//!
//! * Flows that are in the node table are shown to [`Replica::handle_found`]. What is not known, or in
//!   another state, is in question: its event may be under way. It is settled by
//!   [`Replica::handle_found_again`] after the driver has taken in all events: what is still there in
//!   the same state then, and still not known, has an event that was lost.
//! * Flows that are in the common table are looked for in the node table by
//!   [`Replica::handle_missing`]. A flow is there before its first event is, and leaves by this
//!   node's own hand, so what is not there is gone.
//!
//! Which buckets have lost events nobody knows: the ring that was full can't say, and a bucket's flows lie
//! all over the node table. So a round over all slots is as cheap as one for a single bucket.
//!
//! Invariants: the node table is right, always: it is what packets meet. Each flow is judged by itself, at
//! one moment, so nothing has to stand still during a round, and no turn costs more than its share.
//! Buckets that are not this node's for certain, or are still loading, are left alone.
//!
//! A sequence that is higher in the node table says nothing by itself: it is raised where a place has seen
//! higher ones.

use std::ops::Range;

use testudo_packet::bucket::{BucketId, BucketState};
use testudo_packet::entry::{FlowRecord, FlowState};
use testudo_packet::flow::FlowKey;

use super::{Refused, Replica};

/// What comparing the node table with the common table has found and put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Flows that were unknown, or known in another state.
    pub changed: usize,
    /// Flows that are no longer there.
    pub removed: usize,
    /// Flows that could not be taken over, for lack of room.
    pub refused: usize,
    /// The bucket of the first of them.
    pub first: Option<BucketId>,
}

impl Audit {
    /// Whether all was as it should be.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.changed + self.removed + self.refused == 0
    }

    /// Adds what another part has found.
    pub fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.removed += other.removed;
        self.refused += other.refused;
        self.first = self.first.or(other.first);
    }
}

impl Replica {
    /// These flows are in the node table now, which were read after the events before had been handled.
    /// What is in question stays so until [`Self::handle_found_again`], which is to be called before
    /// more are shown.
    pub fn handle_found(&mut self, records: impl IntoIterator<Item = FlowRecord>) {
        self.in_question.clear();
        for record in records {
            if self.is_unknown(&record) {
                self.in_question.push(record);
            }
        }
    }

    /// All events have been handled that were there when [`Self::handle_found`] was called. `look` finds a
    /// flow in the node table.
    pub fn handle_found_again(&mut self, look: &dyn Fn(&FlowKey) -> Option<FlowRecord>) -> Audit {
        let mut audit = Audit::default();
        for record in std::mem::take(&mut self.in_question) {
            // One that has changed meanwhile has a new event, and its turn in the next round.
            if look(&record.key) == Some(record) && self.is_unknown(&record) {
                match self.put_right(record) {
                    Ok(()) => audit.changed += 1,
                    Err(_) => audit.refused += 1,
                }
                audit.first = audit.first.or(Some(record.bucket));
            }
        }
        audit
    }

    /// Looks in the node table for the flows in these places of the common table, of which there are
    /// [`crate::common_table::CommonTable::places`].
    pub fn handle_missing(
        &mut self,
        places: Range<usize>,
        look: &dyn Fn(&FlowKey) -> Option<FlowRecord>,
    ) -> Audit {
        let there = |known: &FlowRecord| {
            look(&known.key).is_some_and(|record| record.bucket == known.bucket)
        };
        let known = places.filter_map(|place| self.table.at_place(place));
        let own = known.filter(|record| self.is_settled(record.bucket));
        let gone: Vec<_> = own.filter(|record| !there(record)).collect();
        let mut audit =
            Audit { first: gone.first().map(|record| record.bucket), ..Audit::default() };
        for record in gone {
            audit.removed += usize::from(self.handle_expired(&record).is_ok());
        }
        audit
    }

    /// Whether a bucket is this node's, and all its flows are in the node table. A node whose lease is over
    /// may not know yet whose the bucket is now, and then knows more of its flows from that one.
    fn is_settled(&self, bucket: BucketId) -> bool {
        self.slot(bucket).state == BucketState::Active && self.is_undisputed(bucket)
    }

    fn is_unknown(&self, record: &FlowRecord) -> bool {
        let same = |known: FlowRecord| {
            let FlowState { phase, confirmed, rule, .. } = known.state;
            known.key == record.key
                && (phase, confirmed, rule)
                    == (record.state.phase, record.state.confirmed, record.state.rule)
                // Else its next change would be taken for an old one.
                && !known.supersedes(record)
        };
        self.is_settled(record.bucket)
            && !self.table.get(record.bucket, &record.key).is_some_and(same)
    }

    fn put_right(&mut self, record: FlowRecord) -> Result<(), Refused> {
        match self.learn(record) {
            Err(Refused::Older { .. }) => {}
            result => return result,
        }
        // Peers would take it for overtaken as well, so they get all of the bucket.
        self.table.replace(record)?;
        for peer in self.peers.iter_mut().filter(|peer| peer.connection.is_some()) {
            peer.outgoing.check(record.bucket);
        }
        Ok(())
    }
}
