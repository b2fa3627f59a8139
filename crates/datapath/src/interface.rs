//! The two traits that the daemon drives a node's packet handling by.

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;

use testudo_packet::bucket::{BucketId, BucketSlot, Nanos};
use testudo_packet::entry::FlowRecord;
use testudo_packet::event::Occurrence;
use testudo_packet::flow::FlowKey;
use testudo_packet::mss::MostBytes;
use testudo_packet::packet_hash::PacketHash;
use testudo_packet::reverse_path::ReversePath;
use testudo_packet::rule::{Links, Rule};
use testudo_packet::tracking::Timeouts;
use testudo_packet::{association, window};

use crate::Error;
use crate::bucket_set::BucketSet;
use crate::explain::Explained;
use crate::held::Released;
use crate::meters::Limits;
use crate::pools::Pools;
use crate::sets::Sets;
use crate::stations::Station;

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
    /// What its packets have taught this node.
    pub learned: Learned,
}

/// What a node has learned from the packets of a flow and tells nobody: whoever takes the flow over learns it anew. Of
/// packets from the initiator, and of those from the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// Flows of this protocol are judged by their phases alone.
    Nothing,
    /// How far the ends of a connection of TCP have come.
    Windows([window::Side; 2]),
    /// The verification tags of an association of SCTP.
    Tags([association::Side; 2]),
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

/// What has come of looking for silent flows in some slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// Flows that were silent for longer than their timeouts.
    pub silent: usize,
    /// Flows that were not, and were dropped early.
    pub early: usize,
    /// Slots that are still in use, also by the second halves of translated flows.
    pub taken: usize,
}

/// The flows of the buckets that a node owns.
///
/// All methods work while packets are handled on other CPUs.
pub trait NodeTable {
    /// Puts flows in, as of now. A flow that is there already is replaced if the record is newer.
    fn install(&self, records: &[FlowRecord], now: Nanos) -> Installed;
    /// Takes out the flows of these buckets that are in these slots and says how many they were. A
    /// flow stays in its slot, so parts that make up the table take out all.
    fn clear_part(&self, slots: Range<usize>, buckets: &BucketSet) -> usize;
    /// Takes out all flows of these buckets and says how many they were.
    fn clear(&self, buckets: &BucketSet) -> usize {
        self.clear_part(0..self.capacity(), buckets)
    }
    /// Shows every flow in these slots once. A flow that comes or goes meanwhile may be shown or not.
    fn scan_part(&self, slots: Range<usize>, visit: &mut dyn FnMut(&EntryView));
    /// The same in the whole table.
    fn scan(&self, visit: &mut dyn FnMut(&EntryView)) {
        self.scan_part(0..self.capacity(), visit);
    }
    /// Takes out every flow in these slots that has been silent for longer than its timeout, and shows
    /// each. In a hurry, this is how many milliseconds of silence end a flow that is expendable
    /// ([`testudo_packet::tracking::Phase::is_expendable`]).
    fn expire_part(
        &self,
        slots: Range<usize>,
        now: Nanos,
        timeouts: &Timeouts,
        hurry: Option<u64>,
        expired: &mut dyn FnMut(&FlowRecord),
    ) -> Expired;
    /// The same in the whole table.
    fn expire(
        &self,
        now: Nanos,
        timeouts: &Timeouts,
        expired: &mut dyn FnMut(&FlowRecord),
    ) -> usize {
        self.expire_part(0..self.capacity(), now, timeouts, None, expired).silent
    }
    /// Takes out every flow in these slots that `unwanted` says is, and shows each as it was. A packet that
    /// has found the flow just before may still tell of a change of it.
    fn take_out_part(
        &self,
        slots: Range<usize>,
        unwanted: &dyn Fn(&FlowRecord) -> bool,
        taken: &mut dyn FnMut(&FlowRecord),
    );
    /// The flow of this key, in either direction; a translated one also by the key that its replies carry.
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
    /// Changes of flows read now.
    pub events: usize,
    /// Handled packets of yielding buckets read now.
    pub handled: usize,
    /// Events that could not be written since the last call, because they were not read in time.
    /// More than 0: the table has to be scanned, for its changes are not known otherwise.
    pub lost: u64,
    /// Handled packets of yielding buckets that could not be reported since the last call. More than
    /// 0: the next owner may send so many packets a second time.
    pub lost_handled: u64,
}

impl Drained {
    pub(crate) fn count(&mut self, occurrence: &Occurrence) {
        match occurrence {
            Occurrence::Flow(_) => self.events += 1,
            Occurrence::Handled(_) => self.handled += 1,
        }
    }
}

/// A flow that did not begin, because a rule refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number of the rule.
    pub rule: u16,
    /// The flow.
    pub key: FlowKey,
}

/// What a bucket has cost this node so far; both only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketLoad {
    /// Packets that came in for it while this node owned it.
    pub packets: u64,
    /// Their bytes, link-layer headers included.
    pub bytes: u64,
}

/// A node's packet handling.
pub trait Datapath {
    /// The backend's table.
    type Table: NodeTable;

    /// The flows of the buckets that the node owns.
    fn table(&self) -> &Self::Table;
    /// The slot of a bucket.
    fn bucket(&self, bucket: BucketId) -> BucketSlot;
    /// Changes the slot of a bucket; the next packet meets the change. One that is in the pipeline on
    /// another CPU at this moment is still handled by the slot as it was, within microseconds: whoever
    /// gives a bucket away reads the events once more a millisecond later.
    fn set_bucket(&mut self, bucket: BucketId, slot: BucketSlot);
    /// Until when packets are handled, unless this is called again.
    fn set_lease(&mut self, deadline: Nanos);
    /// Whether segments of TCP whose numbers can't be of their connection are dropped; so it is until this is
    /// called. [`testudo_packet::window`] has the rules.
    fn set_strict_windows(&mut self, strict: bool);
    /// Tells the hosts of its links which addresses are the cluster's; says how many it has told of.
    fn announce(&self) -> usize {
        0
    }
    /// How much sources may have from now on.
    fn set_limits(&mut self, limits: Limits);
    /// Has the next hop of each known flow's packets asked for anew, because routes or neighbours have changed: no more
    /// often than once in [`testudo_packet::hop::RAISED_AFTER`]. Where none are kept there is nothing to do.
    fn forget_hops(&mut self) {}
    /// Replaces the rules, all at once. Flows that are established stay, with the number of the rule that
    /// has let them in ([`Rule::mark`]). After an error the rules before are in force.
    fn set_rules(&mut self, rules: &[Rule]) -> Result<(), Error>;
    /// The rules in force.
    fn rules(&self) -> &[Rule];
    /// The sets that rules can name. Those that [`Datapath::set_rules`] is given have to be loaded before, and to be
    /// held until other rules are in force.
    fn sets(&self) -> &Sets;
    /// What rules translate to, by the number that they name.
    fn pools(&self) -> &Pools;
    /// Replaces that. The rules that name it are to come into force in the same step as far as packets go that are
    /// handled here: no call that handles any may be in between.
    fn set_pools(&mut self, pools: Pools);
    /// How many flows each of them has let in or refused since it came into force.
    fn rule_hits(&self) -> Vec<u64>;
    /// The next flow that a rule has refused which wants that to be told.
    fn poll_refused(&mut self) -> Option<Refused>;
    /// What would become of the first packet of a flow of this key that went this way, if this node owned
    /// its bucket: for ESP and AH the ports are the halves of the SPI, for ICMP the identifier. `resolve` is what
    /// `missing` is to [`Datapath::handle_upcalls`]. Changes and counts nothing.
    fn explain(
        &self,
        now: Nanos,
        key: &FlowKey,
        links: Links,
        resolve: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> Result<Explained, Error>;
    /// Replaces the node's own addresses, beside the cluster's: in `steered` mode, packets to them are
    /// for the node's own stack.
    fn set_local_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), Error>;
    /// Replaces the nodes' addresses on the links, this node's own among them; `steered` mode needs
    /// them. What is addressed to another address than this node's is not taken, and nothing is passed
    /// to a node without an address. Packets meet a mixture of old and new for a moment.
    fn set_peers(&mut self, stations: &[Station]) -> Result<(), Error>;
    /// Replaces what the largest segments are that interfaces take, by the numbers of those that ask for it: SYNs that
    /// leave or enter by one name no larger size ([`testudo_packet::mss`]).
    fn set_mss_clamps(&mut self, clamps: &HashMap<u32, MostBytes>) -> Result<(), Error>;
    /// Replaces what interfaces ask of the sources of first packets; those that are not named ask nothing.
    fn set_reverse_paths(&mut self, checks: &HashMap<u32, ReversePath>) -> Result<(), Error>;
    /// Reads what has happened since the last call.
    fn drain_events(&mut self, occurrence: &mut dyn FnMut(Occurrence)) -> Drained;
    /// Writes the load of each bucket, the first one first, into `loads`; what is beyond the number of
    /// buckets stays as it is. On a kernel backend a packet that is counted meanwhile may be missing
    /// its bytes.
    fn loads(&self, loads: &mut [BucketLoad]);
    /// Handles the packets that came up. `missing` is asked for a flow that a packet of a loading
    /// bucket belongs to and that is not in the table yet; what it gives is installed first. A packet of
    /// a holding bucket is put to those that wait. Returns how many packets were taken.
    fn handle_upcalls(
        &mut self,
        now: Nanos,
        missing: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> usize;
    /// How many packets wait for a bucket that is on its way here, of those that [`handle_upcalls`]
    /// has taken.
    ///
    /// [`handle_upcalls`]: Datapath::handle_upcalls
    fn held(&self, bucket: BucketId) -> usize;
    /// Handles the packets that wait for a bucket, the first one first, but for those that the last
    /// owner has handled: `handled` is asked once for each. The slot must say `Loading` or `Active`
    /// before; if it still says `Holding`, or another owner, the packets are dropped and counted.
    /// `resolve` is what `missing` is to [`Datapath::handle_upcalls`].
    ///
    /// Packets of one flow stay in order but for those that come in while this runs: these are handled
    /// in the kernel at once if the flow is in the node table. So a flow is out of order for at most as
    /// long as this call takes, from the change of the slot on.
    fn release_held(
        &mut self,
        now: Nanos,
        bucket: BucketId,
        handled: &mut dyn FnMut(PacketHash) -> bool,
        resolve: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> Released;
    /// Drops the packets that wait for a bucket, because it stays where it is; counts them. Returns how
    /// many they were.
    fn discard_held(&mut self, bucket: BucketId) -> usize;
    /// The next flow whose first packet waits for the peers to know it. It is in no table; its packets
    /// wait until [`Datapath::release_committed`] is called for its key.
    fn poll_commit(&mut self) -> Option<FlowRecord>;
    /// Handles the packets that wait for the peers to know this flow, the first one first, whether they
    /// know it or not. `resolve` is what `missing` is to [`Datapath::handle_upcalls`]. If the bucket is
    /// not this node's any more, they are passed on or dropped, and counted, as any other packet of it.
    fn release_committed(
        &mut self,
        now: Nanos,
        key: &FlowKey,
        resolve: &mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>,
    ) -> Released;
    /// What can be read when a packet has come up that waits for the peers, if there is such a thing.
    fn waker(&self) -> Option<BorrowedFd<'_>>;
    /// Lends its memory to another process in a directory of a BPF file system, if it is of a kind that can be lent,
    /// for what takes that process time before it begins. An error leaves nothing.
    fn lend_in(&self, directory: &Path) -> Result<(), Error>;
    /// Leaves everything in a directory of a BPF file system to another process, if it is of a kind that
    /// can be left; nothing waits in this process for a bucket. An error leaves nothing.
    fn leave_in(&mut self, directory: &Path) -> Result<(), Error>;
    /// Keeps everything for this process, and ends with it.
    fn leave_nothing(&mut self) -> Result<(), Error>;
    /// Takes the programs off the interfaces, for an end that somebody wants. After an error some are
    /// still there, and drop what is the cluster's once the lease has ended.
    fn stand_down(&mut self) -> Result<(), Error>;
    /// Every counter of the datapath by name, drops by their reason; they only rise.
    fn counters(&self) -> Vec<(&'static str, u64)>;
}
