//! The question what a packet would meet, and its answer.

use serde::{Deserialize, Serialize};

use super::{Bucket, Endpoint, Flow, Lease, Translation};

/// What the first packet of a flow would meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The node that answers; `null` if none was asked but a file.
    pub node: Option<String>,
    /// The IP protocol by name, or by number if it has none.
    pub protocol: String,
    /// Who sends the packet.
    pub from: Endpoint,
    /// To whom.
    pub to: Endpoint,
    /// Where it belongs; `null` if that is not known: no packet of a flow, or no configuration.
    pub place: Option<Place>,
    /// Whose that bucket is, as far as the node knows; `null` if no node was asked.
    pub bucket: Option<Bucket>,
    /// The node's right to handle packets; `null` if none was asked.
    pub lease: Option<Lease>,
    /// The flow that such a packet belongs to, if the node knows one already. Then no rule is asked.
    pub flow: Option<Flow>,
    /// What would become of it if it began a flow, by the interface that it comes in by.
    pub decisions: Vec<Decision>,
    /// Where the node's routes send it; `null` if that is not known.
    #[serde(default)]
    pub next_hop: Option<NextHop>,
}

/// Where a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its bucket.
    pub bucket: u16,
    /// The classes of both ends, whose exclusive or is the bucket; `null` if it is made of something else.
    pub classes: Option<[u16; 2]>,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// If it comes in by one of these.
    pub interfaces: Vec<String>,
    /// What.
    pub outcome: Outcome,
    /// The counter of packets that are dropped so, if it is dropped.
    pub drop: Option<String>,
    /// The line that decides; `null` if none is asked, or none matches.
    pub rule: Option<DecidingLine>,
    /// From when on the other nodes are told of the flow, if one begins.
    pub replicate: Option<String>,
    /// How long the packet waits for the other nodes at most, in milliseconds; `null` if it does not.
    pub commit_ms: Option<u64>,
    /// What it is turned into, if it is. Nothing is taken by asking: the flow itself may get another endpoint.
    pub translation: Option<Translation>,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// On to its next hop; in `tap` mode to the analyser.
    Forward,
    /// Nowhere.
    Drop,
    /// Nowhere, and its sender is told.
    Reject,
    /// To the node's own network stack.
    Stack,
    /// It is answered by the node.
    Answer,
}

/// The line of the rules that decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecidingLine {
    /// The line of the file, or the place among the sections, from 1.
    pub line: u64,
    /// What flows that it has let in show as their rule.
    pub number: u16,
    /// What it says.
    pub text: String,
}

/// Where a packet goes next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The name of the interface that it goes out by.
    pub interface: String,
    /// The router on that link that it goes to; `null` if its destination is on the link.
    pub gateway: Option<std::net::IpAddr>,
}
