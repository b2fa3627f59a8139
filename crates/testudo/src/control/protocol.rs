//! What can be asked and what is answered, as JSON.
//!
//! Both ends share these types. Fields may be added: a reader ignores what it does not know in a
//! reply, and a node refuses what it does not know in a request, so that nobody takes an answer to
//! half a question for an answer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

mod explaining;
mod operating;
mod ruling;
mod syncing;

use serde::{Deserialize, Serialize};
use testudo_packet::entry::FlowRecord;

use crate::protocol_names;

pub use explaining::{DecidingLine, Decision, Explanation, NextHop, Outcome, Place};
pub use operating::{
    Admitted, Change, Health, HealthItem, HealthState, History, Map, MapNode, Move, Plan,
    Restarting, Share,
};
pub use ruling::{Loaded, RuleLine, RuleSet, Rules};
pub use syncing::{
    Commits, Copies, Difference, KeptBack, Sync, SyncPeer, Syncs, Verification, Verifying,
};

/// The longest request, in bytes, its newline included.
pub const MAX_REQUEST: usize = 64 * 1024;

/// The longest reply, in bytes, its newline included.
pub const MAX_REPLY: usize = 96 * 1024 * 1024;

/// The most flows that a reply holds; at a few hundred bytes each they fit [`MAX_REPLY`].
pub const MAX_FLOWS: u32 = 100_000;

/// How many flows a reply holds unless the request says otherwise.
pub const DEFAULT_FLOWS: u32 = 1000;

/// The most changes of the map that a reply holds.
pub const MAX_CHANGES: u32 = 10_000;

/// How many changes a reply holds unless the request says otherwise.
pub const DEFAULT_CHANGES: u32 = 100;

/// A question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// How the node is. Answered by [`Status`].
    Status {},
    /// Whose the buckets are. Answered by [`Buckets`].
    Buckets {
        /// Only this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<u16>,
    },
    /// Which flows there are. Answered by [`Flows`].
    Flows {
        /// Where to look.
        #[serde(default)]
        table: Table,
        /// Only those of this bucket.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bucket: Option<u16>,
        /// How many at most; more than [`MAX_FLOWS`] is taken for [`MAX_FLOWS`].
        #[serde(default = "default_flows")]
        limit: u32,
    },
    /// Let a flow in that no rule lets in; answered when whoever owns its bucket has it. Answered by
    /// [`Admitted`].
    Admit {
        /// `tcp` or `udp`.
        protocol: String,
        /// Who sends its first packet: address and port.
        initiator: SocketAddr,
        /// To whom.
        responder: SocketAddr,
    },
    /// Take all buckets away from a node, until it is undrained. Answered by [`Plan`].
    Drain {
        /// Its name.
        node: String,
        /// Only say what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// Let a node have buckets again. Answered by [`Plan`].
    Undrain {
        /// Its name.
        node: String,
        /// Only say what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// Move a bucket to a node. Answered by [`Plan`].
    Move {
        /// Its number.
        bucket: u16,
        /// The node's name.
        node: String,
        /// Only say what would move.
        #[serde(default)]
        dry_run: bool,
    },
    /// What is agreed. Answered by [`Map`].
    Map {},
    /// How that came to be. Answered by [`History`].
    History {
        /// How many changes at most; more than [`MAX_CHANGES`] is taken for [`MAX_CHANGES`].
        #[serde(default = "default_changes")]
        limit: u32,
    },
    /// What the node lives by. Answered by [`Health`].
    Health {},
    /// Hand the node over to a new process of the program as it is installed now. Answered by
    /// [`Restarting`].
    Restart {},
    /// Which rules are in force. Answered by [`Rules`].
    Rules {},
    /// Put the rules of a file in their place, all at once or not at all. Answered by [`Loaded`].
    Load {
        /// The file, as the node can read it: an absolute path.
        file: PathBuf,
        /// End flows, from now on, that the new rules would not let in.
        #[serde(default)]
        flush: bool,
    },
    /// What the first packet of a flow would meet. Answered by [`Explanation`].
    Explain {
        /// Where it comes from.
        source: IpAddr,
        /// Where it goes to.
        destination: IpAddr,
        /// Its protocol, by name or by number; without one it is a ping.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        protocol: Option<String>,
        /// What tells the protocol's flows apart: `TO` or `FROM:TO`, an identifier, an SPI.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        ports: Option<String>,
        /// The interface that it comes in by; without one, each of the node's.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        interface: Option<String>,
    },
    /// How far entries have got to the peers. Answered by [`Syncs`].
    Sync {},
    /// Compare the tables of all nodes. Answered by [`Verifying`], at once.
    Verify {},
    /// What that has come to. Answered by [`Verification`].
    Verified {
        /// The number that was given.
        number: u64,
    },
}

fn default_changes() -> u32 {
    DEFAULT_CHANGES
}

fn default_flows() -> u32 {
    DEFAULT_FLOWS
}

/// A table of flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Table {
    /// What packets are handled with: the flows of the node's own buckets.
    #[default]
    Node,
    /// What the node knows of the whole cluster's flows.
    Common,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Reply {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Buckets`].
    Buckets(Buckets),
    /// To [`Request::Flows`].
    Flows(Flows),
    /// To [`Request::Admit`].
    Admitted(Admitted),
    /// To [`Request::Drain`], [`Request::Undrain`] and [`Request::Move`].
    Plan(Plan),
    /// To [`Request::Map`].
    Map(Map),
    /// To [`Request::History`].
    History(History),
    /// To [`Request::Health`].
    Health(Health),
    /// To [`Request::Restart`].
    Restarting(Restarting),
    /// To [`Request::Rules`].
    Rules(Rules),
    /// To [`Request::Load`].
    Loaded(Loaded),
    /// To [`Request::Explain`].
    Explanation(Box<Explanation>),
    /// To [`Request::Sync`].
    Syncs(Syncs),
    /// To [`Request::Verify`].
    Verifying(Verifying),
    /// To [`Request::Verified`].
    Verification(Verification),
    /// To a question that has no answer.
    Error(Refusal),
}

impl Reply {
    /// A refusal in these words.
    pub fn error(error: impl Into<String>) -> Self {
        Self::Error(Refusal { error: error.into() })
    }
}

/// Why there is no answer. Nothing has changed by the question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What was seen and what was expected.
    pub error: String,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub node: String,
    /// Its cluster's name.
    pub cluster: String,
    /// How packets reach it: `shared`.
    pub mode: String,
    /// What it is in the cluster.
    pub role: Role,
    /// What it proves to peers who it is by; `null` if streams are not encrypted.
    #[serde(default)]
    pub tls: Option<Tls>,
    /// Its right to handle packets.
    pub lease: Lease,
    /// Its buckets.
    pub buckets: BucketCounts,
    /// What it handles packets with.
    pub node_table: NodeTable,
    /// What it knows of the cluster's flows.
    pub common_table: CommonTable,
    /// Who keeps which buckets' flows.
    #[serde(default)]
    pub copies: Copies,
    /// The others, as it sees them, in the order of the configuration.
    pub peers: Vec<Peer>,
    /// How many peers' deaths it has taken buckets over from.
    pub takeovers: u64,
    /// How the last of them went.
    #[serde(default)]
    pub takeover: Takeover,
    /// How many buckets it has taken over.
    pub buckets_taken: u64,
    /// Every counter of packets and events by name; they only rise.
    pub counters: BTreeMap<String, u64>,
}

/// The certificates of a node that are in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Until when its own is valid: `2026-11-25 03:14 UTC`.
    pub valid_until: String,
    /// How many whole days these are.
    pub days_left: i64,
    /// The authorities whose certificates it believes.
    pub authorities: Vec<String>,
    /// Why the files that are there now are not in force; `null` if they are.
    pub refused: Option<String>,
}

/// What a node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Its life was admitted: it owns buckets, or may at any moment.
    Member,
    /// Its life was not admitted yet, so it takes no buckets.
    Joining,
}

/// How the last takeover of another node's buckets went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takeover {
    /// From the decision to the first packet of these buckets, in microseconds; `null` if none has
    /// come, or nothing was taken over yet.
    pub first_packet_micros: Option<u64>,
}

/// A node's right to handle packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Whether the node may handle packets now.
    pub held: bool,
    /// How long it may go on without hearing from a majority, in milliseconds.
    pub remaining_ms: u64,
}

/// Numbers of buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketCounts {
    /// In the cluster.
    pub total: u32,
    /// Owned by the node.
    pub owned: u32,
    /// Of these, not yet loaded into the node table.
    pub loading: u32,
}

/// A node table in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeTable {
    /// Flows in it.
    pub entries: u64,
    /// Slots of it.
    pub capacity: u64,
    /// Flows in it whose bucket the node does not own: 0 but for moments. Of a large table, as of a
    /// moment ago.
    pub foreign: u64,
    /// Flows in it that the other nodes do not know. An estimate while buckets are being loaded or taken
    /// out.
    #[serde(default)]
    pub not_replicated: u64,
}

/// A common table in numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommonTable {
    /// Flows in it.
    pub entries: u64,
    /// Equal on nodes whose common tables agree: 16 hexadecimal digits.
    pub digest: String,
}

/// Another node, as a node sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether it lives.
    pub state: PeerState,
    /// How long ago it was last heard, in milliseconds; `null` if never.
    pub heard_ms: Option<u64>,
    /// How far entries have got to it.
    pub sync: Sync,
}

/// Whether a peer lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// It is heard.
    Alive,
    /// It is late, but its lease may not have run out yet.
    Silent,
    /// Its lease has run out for certain; its buckets are others' now.
    Fenced,
}

/// Whose the buckets are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buckets {
    /// The buckets, by number.
    pub buckets: Vec<Bucket>,
}

/// Whose a bucket is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its number.
    pub bucket: u16,
    /// Who handles its packets; `null` if nobody.
    pub owner: Option<String>,
    /// Who takes it over if the owner dies, the first first.
    pub successors: Vec<String>,
    /// Since which change of owner.
    pub epoch: u32,
    /// What the node that answers has of it.
    pub state: BucketState,
    /// Flows of it in the tables of the node that answers.
    pub entries: u64,
}

/// What the node that answers has of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BucketState {
    /// It owns the bucket and all its flows are in the node table.
    Active,
    /// It owns the bucket and flows are still on their way into the node table.
    Loading,
    /// It is about to own the bucket, and keeps its packets until then.
    Holding,
    /// It owns the bucket, and is about to give it to another node.
    Yielding,
    /// Another node owns it, or none.
    Foreign,
}

/// Which flows there are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// The flows, in no order.
    pub flows: Vec<Flow>,
    /// Whether there are more than the limit let through.
    pub truncated: bool,
}

/// A flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The IP protocol by name, or by number if it has none.
    pub protocol: String,
    /// Who sent the first packet.
    pub initiator: Endpoint,
    /// To whom.
    pub responder: Endpoint,
    /// What its packets are turned into, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translation: Option<Translation>,
    /// Where the flow is in its life: `established` and so on.
    pub phase: String,
    /// Whether the responder has answered.
    pub confirmed: bool,
    /// The rule that let it in, by its number in [`Rules`]; 65535 if a program has ([`Request::Admit`]). If
    /// another node has let the flow in, it is that node's number, which is the same if both have loaded the
    /// same files in turn.
    pub rule: u16,
    /// The bucket that it belongs to.
    pub bucket: u16,
    /// The epoch of that bucket in which its state was written.
    pub epoch: u32,
    /// How often its state has changed.
    pub sequence: u32,
    /// What its owner counts: there in the node table, not in the common table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
    /// Whether the other nodes are told of it: there in the node table; all flows of the common table are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replicated: Option<bool>,
    /// What its owner has learned from its packets, by direction; there in the node table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<Learned>,
}

/// What the owner of a flow has learned from its packets, from the initiator and from the responder. It is told to nobody:
/// whoever takes the flow over learns it anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Learned {
    /// Of a connection of TCP.
    Windows([Window; 2]),
    /// The verification tags of an association of SCTP; none while nobody has said them and too few packets have
    /// carried one.
    Tags([Option<u32>; 2]),
}

/// How far an end of a connection of TCP has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The number behind the last byte that it has sent.
    pub sent: u32,
    /// The number behind the last byte that the other end may send.
    pub room: u32,
    /// By how many bits its windows are shifted, if its SYN has said so.
    pub shift: Option<u8>,
    /// Whether packets that contradict this are dropped: it was seen from its SYN on, or enough packets have agreed.
    pub strict: bool,
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port, the identifier for ICMP, half of the SPI for ESP and AH.
    pub port: u16,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

/// What the owner of a flow counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Activity {
    /// Packets from the initiator.
    pub original_packets: u64,
    /// Bytes from the initiator, link-layer headers included.
    pub original_bytes: u64,
    /// Packets from the responder.
    pub reply_packets: u64,
    /// Bytes from the responder, link-layer headers included.
    pub reply_bytes: u64,
    /// How long ago its last packet came, in milliseconds.
    pub idle_ms: u64,
}

/// What the packets of a flow are turned into on their way from the initiator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translation {
    /// What the initiator becomes.
    pub source: Endpoint,
    /// What the responder becomes.
    pub destination: Endpoint,
}

impl Flow {
    /// A flow as it is shown, from a table's record of it.
    pub fn new(record: &FlowRecord, activity: Option<Activity>) -> Self {
        let endpoint = |end: testudo_packet::flow::Endpoint| Endpoint {
            address: end.address.into(),
            port: end.port,
        };
        Self {
            protocol: protocol_names::name(record.key.protocol),
            initiator: endpoint(record.key.initiator),
            responder: endpoint(record.key.responder),
            translation: record.translation.map(|to| Translation {
                source: endpoint(to.source),
                destination: endpoint(to.destination),
            }),
            phase: record.state.phase.name().to_owned(),
            confirmed: record.state.confirmed,
            rule: record.state.rule,
            bucket: record.bucket.0,
            epoch: record.epoch.0,
            sequence: record.state.sequence,
            activity,
            replicated: None,
            learned: None,
        }
    }
}
