//! The two traits that the daemon drives a node's packet handling by.

use testudo_packet::bucket::{BucketId, BucketSlot, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::Event;
use testudo_packet::flow::FlowKey;
use testudo_packet::rule::Rule;
use testudo_packet::tracking::Timeouts;

use crate::Error;
use crate::bucket_set::BucketSet;

/// A flow as it stands in a node table, with what is counted of it there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryView {
    /// What peers know of it too.
    pub record: FlowRecord,
    /// When its last packet came.
    pub last_seen: Nanos,
    /// Packets from the initiator.
    pub original_packets: u64,
    /// Bytes from the initiator, link-layer headers included.
    pub original_bytes: u64,
    /// Packets from the responder.
    pub reply_packets: u64,
    /// Bytes from the responder, link-layer headers included.
    pub reply_bytes: u64,
}

/// What became of records that were to be installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Now in the table, or newer than what was there.
    pub installed: usize,
    /// Older than what was there: left out.
    pub stale: usize,
    /// No room, or the place was held by another writer for too long: left out. They stay in the
    /// common table, and a packet of theirs is a miss.
    pub refused: usize,
}

/// The flows of the buckets that a node owns.
///
/// All methods work while packets are handled on other CPUs.
pub trait NodeTable {
    /// Puts flows in, as of now. A flow that is there already is replaced if the record is newer.
    fn install(&self, records: &[FlowRecord], now: Nanos) -> Installed;
    /// Takes out all flows of these buckets and says how many they were.
    fn clear(&self, buckets: &BucketSet) -> usize;
    /// Shows every flow once. A flow that comes or goes meanwhile may be shown or not.
    fn scan(&self, visit: &mut dyn FnMut(&EntryView));
    /// Takes out every flow that has been silent for longer than its timeout, and shows each.
    fn expire(
        &self,
        now: Nanos,
        timeouts: &Timeouts,
        expired: &mut dyn FnMut(&FlowRecord),
    ) -> usize;
    /// The flow of this key, in either direction.
    fn get(&self, key: &FlowKey) -> Option<EntryView>;
    /// How many flows are in the table.
    fn len(&self) -> usize;
    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// How many slots the table has.
    fn capacity(&self) -> usize;
}

/// What reading the events gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Events read now.
    pub events: usize,
    /// Events that could not be written since the last call, because they were not read in time.
    /// More than 0: the table has to be scanned, for its changes are not known otherwise.
    pub lost: u64,
}

/// A node's packet handling.
pub trait Datapath {
    /// The backend's table.
    type Table: NodeTable;

    /// The flows of the buckets that the node owns.
    fn table(&self) -> &Self::Table;
    /// The slot of a bucket.
    fn bucket(&self, bucket: BucketId) -> BucketSlot;
    /// Changes the slot of a bucket; the next packet meets the change.
    fn set_bucket(&mut self, bucket: BucketId, slot: BucketSlot);
    /// Until when packets are handled, unless this is called again.
    fn set_lease(&mut self, deadline: Nanos);
    /// Replaces the rules. Flows that are established stay.
    fn set_rules(&mut self, rules: &[Rule]) -> Result<(), Error>;
    /// Reads what has happened to flows since the last call.
    fn drain_events(&mut self, event: &mut dyn FnMut(Event)) -> Drained;
    /// Handles the packets that came up. `missing` is asked for a flow that a packet of a loading
    /// bucket belongs to and that is not in the table yet; what it gives is installed first.
    /// Returns how many packets were handled.
    fn handle_upcalls(
        &mut self,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> usize;
    /// Every counter of the datapath by name, drops by their reason; they only rise.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}
