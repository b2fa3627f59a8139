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
//! Buckets that are not this node's for certain, or are still loading, are left alone. A flow that its rule
//! keeps back (`gate.rs`) is not missing.
//!
//! A sequence that is higher in the node table says nothing by itself: it is raised where a place has seen
//! higher ones.

use std::ops::Range;

use testudo_packet::bucket::{BucketId, BucketState, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;

use super::gate::is_same;
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
    /// Flows that were kept back, and are told of now because their bucket leaves. As it should be.
    pub let_through: usize,
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
        self.let_through += other.let_through;
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
    pub fn handle_found_again(
        &mut self,
        now: Nanos,
        look: &dyn Fn(&FlowKey) -> Option<FlowRecord>,
    ) -> Audit {
        let mut audit = Audit::default();
        for record in std::mem::take(&mut self.in_question) {
            // One that has changed meanwhile has a new event, and its turn in the next round.
            if look(&record.key) != Some(record) || !self.is_unknown(&record) {
                continue;
            }
            let known = self.table.find(record.bucket, &record.key).is_some();
            let kept_back = !known && self.is_kept_back(&record);
            match self.put_right(now, record) {
                Ok(()) if kept_back => audit.let_through += 1,
                Ok(()) => audit.changed += 1,
                Err(_) => audit.refused += 1,
            }
            if !kept_back {
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
        self.is_settled(record.bucket)
            && match self.table.get(record.bucket, &record.key) {
                Some(known) => !is_same(&known, &self.now_spoken(record)),
                None => self.is_missed(record),
            }
    }

    fn put_right(&mut self, now: Nanos, record: FlowRecord) -> Result<(), Refused> {
        self.check_own(record.bucket)?;
        if self.keeps_back(now, &record, true) {
            return Ok(());
        }
        let record = self.now_spoken(&record);
        match self.tell(record) {
            Err(Refused::Older { .. }) => {}
            result => return result.map(drop),
        }
        // Peers would take it for overtaken as well, so they get all of the bucket.
        self.table.replace(record)?;
        self.check_copies(record.bucket);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use testudo_packet::bucket::{BucketSlot, Epoch, NodeId};
    use testudo_packet::entry::FlowState;
    use testudo_packet::event::{Event, EventKind};
    use testudo_packet::flow::{Address, Endpoint, Protocol};
    use testudo_packet::tracking::Phase;

    use super::*;
    use crate::config::{Cluster, Replicas, Settings, Timing};
    use crate::heartbeat::Incarnation;
    use crate::node_set::NodeSet;
    use crate::ownership::Ownership;

    type NodeTable = BTreeMap<FlowKey, FlowRecord>;

    fn record(port: u16, phase: Phase, sequence: u32) -> FlowRecord {
        let end = |host, port| Endpoint { address: Address::v4(host), port };
        FlowRecord {
            translation: None,
            bucket: BucketId(port % 2),
            epoch: Epoch(1),
            key: FlowKey {
                initiator: end(0x0a00_0001, port),
                responder: end(0x0a00_0002, 80),
                protocol: Protocol::TCP,
            },
            state: FlowState { phase, confirmed: false, rule: 1, sequence },
        }
    }

    /// A node that owns two buckets; bucket 0 is loaded, bucket 1 as it is said.
    fn node(loaded: bool) -> Replica {
        let settings = Settings {
            name: "lab".into(),
            secret: [7; 16],
            members: ["n1", "n2"].map(String::from).into(),
            weights: vec![100; 2],
            witnesses: NodeSet::default(),
            min_voters: 1,
            node: NodeId(0),
            buckets: 2,
            replicas: Replicas::All,
            timing: Timing::default(),
            max_flows: 4,
            label: String::new(),
        };
        let cluster = Arc::new(Cluster::new(settings).expect("settings that work"));
        let mut replica = Replica::new(cluster, Incarnation(1));
        let (owner, previous) = (NodeId(0), NodeId::NONE);
        let slot = BucketSlot { owner, previous, state: BucketState::Loading, epoch: Epoch(1) };
        let buckets = vec![(BucketId(0), slot), (BucketId(1), slot)];
        replica.handle_ownership(Ownership::TakeOver { buckets });
        replica.handle_loaded(BucketId(0), Epoch(1));
        if loaded {
            replica.handle_loaded(BucketId(1), Epoch(1));
        }
        replica
    }

    fn look(table: &NodeTable) -> impl Fn(&FlowKey) -> Option<FlowRecord> + '_ {
        |key| table.get(key).copied()
    }

    /// A whole round.
    fn audit(replica: &mut Replica, table: &NodeTable) -> Audit {
        replica.handle_found(table.values().copied());
        let mut audit = replica.handle_found_again(Nanos(0), &look(table));
        audit.add(replica.handle_missing(0..replica.table().places(), &look(table)));
        audit
    }

    fn table(records: &[FlowRecord]) -> NodeTable {
        records.iter().map(|record| (record.key, *record)).collect()
    }

    #[test]
    fn what_the_node_table_has_is_right() {
        let mut replica = node(true);
        let kind = EventKind::Created;
        for (port, sequence) in [(0, 5), (1, 5), (2, 5)] {
            let record = record(port, Phase::Established, sequence);
            replica.handle_event(Nanos(0), Event { kind, record }).expect("room");
        }
        // One as it is known, though with a higher sequence; one that went back when its flow began
        // anew; one that is gone; and one that is new.
        let flows = [
            record(0, Phase::Established, 9),
            record(1, Phase::SynSent, 2),
            record(4, Phase::SynSent, 1),
        ];
        let found = audit(&mut replica, &table(&flows));
        assert_eq!((found.changed, found.removed, found.refused), (2, 1, 0));
        let known = replica.table();
        assert_eq!(known.len(), 3);
        for (record, sequence) in flows.iter().zip([5, 2, 1]) {
            let known = known.get(record.bucket, &record.key).expect("it is known");
            assert_eq!((known.state.phase, known.state.sequence), (record.state.phase, sequence));
        }
        assert!(audit(&mut replica, &table(&flows)).is_clean(), "nothing is left to do");
    }

    #[test]
    fn a_change_whose_event_is_under_way_is_not_taken_for_lost() {
        let mut replica = node(true);
        let (old, new) = (record(0, Phase::SynSent, 1), record(0, Phase::Established, 2));
        replica
            .handle_event(Nanos(0), Event { kind: EventKind::Created, record: old })
            .expect("room");
        replica.handle_found([new]);
        // Its event comes before the second look, which finds nothing.
        replica
            .handle_event(Nanos(0), Event { kind: EventKind::Updated, record: new })
            .expect("newer");
        assert!(replica.handle_found_again(Nanos(0), &look(&table(&[new]))).is_clean());
        // It changes again between the looks: its new event may still be under way.
        let newer = record(0, Phase::TimeWait, 3);
        replica.handle_found([record(0, Phase::Replied, 9)]);
        assert!(replica.handle_found_again(Nanos(0), &look(&table(&[newer]))).is_clean());
    }

    #[test]
    fn a_bucket_that_is_loading_or_disputed_is_left_alone() {
        let mut replica = node(false);
        let flow = record(1, Phase::Established, 5);
        replica.table.replace(flow).expect("room");
        assert!(audit(&mut replica, &NodeTable::new()).is_clean(), "it is loading");
        assert_eq!(replica.table().len(), 1);
        replica.handle_loaded(BucketId(1), Epoch(1));
        replica.heard[1] = (Epoch(2), NodeId(1));
        assert!(audit(&mut replica, &NodeTable::new()).is_clean(), "another speaks for it");
        replica.heard[1] = (Epoch(1), NodeId(0));
        assert_eq!(audit(&mut replica, &NodeTable::new()).removed, 1);
    }

    #[test]
    fn flows_that_find_no_room_are_counted() {
        let mut replica = node(true);
        let flows: Vec<_> = (0..6).map(|port| record(port, Phase::SynSent, 1)).collect();
        let found = audit(&mut replica, &table(&flows));
        assert_eq!((found.changed, found.refused), (4, 2));
    }
}
