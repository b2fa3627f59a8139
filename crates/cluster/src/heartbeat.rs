//! The datagram that nodes send each other, and its layout.
//!
//! ```text
//!  0 magic "TSTH"     4 version u16    6 from u8    7 to u8
//!  8 fingerprint u64 of the configuration
//! 16 incarnation u64 of the sender    24 sequence u64    32 sent u64 (the sender's clock, ns)
//! 40 echo: incarnation u64, sent u64 (of the receiver, as last heard by the sender)
//! 56 flags u64
//! 64 version u64, settled u64, standing u64 (all ones: none), of the bucket map
//! 88 pause u32, patience u32, offer u32: milliseconds
//! 100 suspected, fenced: two sets of 32 bytes
//! 164 HMAC-SHA256 over all before, cut to 16 bytes
//! ```
//!
//! All numbers are little-endian. The code binds each statement to one sender and one receiver, so a
//! stranger can neither invent nor redirect one. A replayed datagram is harmless: within an
//! incarnation the sequence must rise, and what a heartbeat says counts only if its echo shows that
//! it was sent after a heartbeat of the receiver's present incarnation, not long ago.
//!
//! Limits: contents are readable by anyone on the path.

use crate::config::Cluster;
use crate::keys::TAG_BYTES;
use crate::map::Version;
use crate::node_set::{NODE_SET_BYTES, NodeSet};
use crate::wire::{Reader, Truncated};
use std::fmt;
use std::time::Duration;
use testudo_packet::bucket::{Nanos, NodeId};

const MAGIC: [u8; 4] = *b"TSTH";
const VERSION: u16 = 3;

/// The length of every heartbeat datagram.
pub const HEARTBEAT_BYTES: usize = 100 + 2 * NODE_SET_BYTES + TAG_BYTES;

/// What has its place in every version: magic, version, sender, receiver, fingerprint.
const HEAD_BYTES: usize = 16;

/// One life of a node. Drawn at random when its process starts, and counted up when the node has to
/// begin anew within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The next life within the same process.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What a node is to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// New, or back after it had to stop: owns nothing and has no lease.
    Joining,
    /// Its life has been admitted: it may hold a lease, and own what the map gives it.
    Member,
}

impl Role {
    /// The role as operators read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Member => "member",
        }
    }
}

/// What a heartbeat says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Who says it.
    pub from: NodeId,
    /// To whom.
    pub to: NodeId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Rises with each heartbeat of one life to one receiver.
    pub sequence: u64,
    /// When, by the sender's clock.
    pub sent: Nanos,
    /// The receiver's life that the sender last heard of.
    pub echo: Incarnation,
    /// When the receiver, by its own clock, sent what the sender last heard.
    pub echo_sent: Nanos,
    /// Whether the receiver's echoed life may hold a lease: the sender will help nobody take its
    /// buckets before the takeover wait, counted from when it heard the echoed heartbeat.
    pub grant: bool,
    /// Whether the sender may grant and fence: it votes, and has sat out its quarantine.
    pub ready: bool,
    /// Whether the sender holds a lease.
    pub lease: bool,
    /// Whether the sender is fit to own buckets, by its own health items.
    pub fit: bool,
    /// Whether the sender's common table is complete, as the owners have said.
    pub synced: bool,
    /// The version of the bucket map that the sender goes by.
    pub version: Version,
    /// The latest version by which the sender holds no bucket that another is first of.
    pub settled: Version,
    /// The version since which the sender's life is a member; `None` if it is none.
    pub standing: Option<Version>,
    /// How long the sender may be silent after this: it asks that its place be kept meanwhile. 0 if it
    /// means to speak on.
    pub pause: Duration,
    /// With a grant: the sender will wait for so long, if that is longer than the takeover wait, from
    /// when it heard the echoed heartbeat, unless it hears one that asks for less.
    pub patience: Duration,
    /// With a grant: the sender will wait for so long, whatever it hears.
    pub offer: Duration,
    /// Whom the sender has not heard for too long. Can be taken back.
    pub suspected: NodeSet,
    /// Whose admitted lives the sender will never again support, in this life of the sender. Final.
    pub fenced: NodeSet,
}

const GRANT: u64 = 1;
const READY: u64 = 2;
const LEASE: u64 = 4;
const FIT: u64 = 8;
const SYNCED: u64 = 16;

/// No standing, as a number.
const NO_STANDING: u64 = u64::MAX;

/// Why a datagram was not taken for a heartbeat. It was counted and has changed nothing. Unless said
/// otherwise, whoever sent it is at fault: a stranger, or a node with other settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeartbeatError {
    /// Not the length of a heartbeat.
    #[error("a datagram of {seen} bytes; a heartbeat has {HEARTBEAT_BYTES}")]
    Length {
        /// The length seen.
        seen: usize,
    },
    /// Not a heartbeat at all.
    #[error("a datagram that begins with {seen:02x?}; a heartbeat begins with {MAGIC:02x?}")]
    Magic {
        /// The first bytes seen.
        seen: [u8; 4],
    },
    /// A heartbeat of another release.
    #[error("node {} speaks version {seen} of the heartbeat; this one speaks {VERSION}", from.0)]
    Version {
        /// The sender, by its own word.
        from: NodeId,
        /// Its version.
        seen: u16,
    },
    /// A node whose settings differ.
    #[error(
        "node {} runs with settings {seen:016x}, this one with {ours:016x}; name, secret, members, \
         witnesses, buckets, mode, lease, takeover, coordinator and min_voters must agree", from.0
    )]
    Settings {
        /// The sender, by its own word.
        from: NodeId,
        /// Its fingerprint.
        seen: u64,
        /// Ours.
        ours: u64,
    },
    /// A code that does not belong to the bytes.
    #[error("a heartbeat of node {} does not prove that its sender knows the secret", from.0)]
    Code {
        /// The sender, by its own word.
        from: NodeId,
    },
    /// A field without meaning, under a right code: the sender's build is at fault.
    #[error("a heartbeat of node {} has {seen} as its {field}, which means nothing", from.0)]
    Field {
        /// The sender.
        from: NodeId,
        /// Which field.
        field: &'static str,
        /// Its value.
        seen: u64,
    },
    /// A heartbeat for another node.
    #[error("a heartbeat of node {} is for node {}; this is node {}", from.0, to.0, ours.0)]
    NotForUs {
        /// The sender.
        from: NodeId,
        /// Whom it is for.
        to: NodeId,
        /// This node.
        ours: NodeId,
    },
    /// A heartbeat under this node's own number: two nodes run with one configuration.
    #[error("another node also runs as node {} (incarnation {incarnation})", node.0)]
    OwnNumber {
        /// The number.
        node: NodeId,
        /// The other node's life.
        incarnation: Incarnation,
    },
    /// Overtaken by a later one, or a duplicate: the network's doing.
    #[error("heartbeat {seen} of node {} came after heartbeat {known}", from.0)]
    Late {
        /// The sender.
        from: NodeId,
        /// Its sequence number.
        seen: u64,
        /// The highest one before.
        known: u64,
    },
    /// A heartbeat of another life of a node whose known life still speaks.
    #[error(
        "node {} spoke as incarnation {seen} while incarnation {known} was still heard", from.0
    )]
    OtherLife {
        /// The sender.
        from: NodeId,
        /// The life that was rejected.
        seen: Incarnation,
        /// The life that is known.
        known: Incarnation,
    },
}

impl Heartbeat {
    /// The datagram.
    #[must_use]
    pub fn encode(&self, cluster: &Cluster) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEARTBEAT_BYTES);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[self.from.0, self.to.0]);
        for word in [
            cluster.fingerprint(),
            self.incarnation.0,
            self.sequence,
            self.sent.0,
            self.echo.0,
            self.echo_sent.0,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let flag = |set: bool, bit: u64| if set { bit } else { 0 };
        let flags = flag(self.grant, GRANT)
            | flag(self.ready, READY)
            | flag(self.lease, LEASE)
            | flag(self.fit, FIT)
            | flag(self.synced, SYNCED);
        let standing = self.standing.map_or(NO_STANDING, |version| version.0);
        for word in [flags, self.version.0, self.settled.0, standing] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        for wait in [self.pause, self.patience, self.offer] {
            let millis = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
            out.extend_from_slice(&millis.to_le_bytes());
        }
        self.suspected.encode(&mut out);
        self.fenced.encode(&mut out);
        let tag = cluster.keys().heartbeat.tag(&[&out]);
        out.extend_from_slice(&tag);
        out
    }

    /// Checks a datagram from front to back: what it is, whose it is, whether it is genuine, what it
    /// says.
    ///
    /// # Errors
    ///
    /// See [`HeartbeatError`]; never the last two, which depend on what was heard before.
    pub fn decode(cluster: &Cluster, datagram: &[u8]) -> Result<Self, HeartbeatError> {
        let length = HeartbeatError::Length { seen: datagram.len() };
        // The head first: it has its place in every version, and a peer of another release is to be
        // told from a stranger.
        let (from, to) = decode_head(cluster, &mut Reader::new(datagram)).unwrap_or(Err(length))?;
        if datagram.len() != HEARTBEAT_BYTES {
            return Err(length);
        }
        let (signed, tag) = datagram.split_at(HEARTBEAT_BYTES - TAG_BYTES);
        if !cluster.keys().heartbeat.verify(&[signed], tag) {
            return Err(HeartbeatError::Code { from });
        }
        let mut reader = Reader::new(&signed[HEAD_BYTES..]);
        decode_body(cluster, &mut reader, from, to).unwrap_or(Err(length))
    }
}

type Decoded<T> = Result<Result<T, HeartbeatError>, Truncated>;

fn decode_head(cluster: &Cluster, reader: &mut Reader<'_>) -> Decoded<(NodeId, NodeId)> {
    let magic = reader.array()?;
    let version = reader.u16()?;
    let (from, to) = (NodeId(reader.u8()?), NodeId(reader.u8()?));
    let seen = reader.u64()?;
    let ours = cluster.fingerprint();
    Ok(if magic != MAGIC {
        Err(HeartbeatError::Magic { seen: magic })
    } else if version != VERSION {
        Err(HeartbeatError::Version { from, seen: version })
    } else if seen != ours {
        Err(HeartbeatError::Settings { from, seen, ours })
    } else {
        Ok((from, to))
    })
}

fn decode_body(
    cluster: &Cluster,
    reader: &mut Reader<'_>,
    from: NodeId,
    to: NodeId,
) -> Decoded<Heartbeat> {
    let incarnation = Incarnation(reader.u64()?);
    let sequence = reader.u64()?;
    let sent = Nanos(reader.u64()?);
    let echo = Incarnation(reader.u64()?);
    let echo_sent = Nanos(reader.u64()?);
    let flags = reader.u64()?;
    let [version, settled] = [Version(reader.u64()?), Version(reader.u64()?)];
    let standing = Some(reader.u64()?).filter(|&word| word != NO_STANDING).map(Version);
    let mut wait = || reader.u32().map(|millis| Duration::from_millis(millis.into()));
    let [pause, patience, offer] = [wait()?, wait()?, wait()?];
    let [suspected, fenced] = [NodeSet::decode(reader)?, NodeSet::decode(reader)?];
    let bad = |field, seen| Ok(Err(HeartbeatError::Field { from, field, seen }));
    if usize::from(from.0) >= cluster.members().len() {
        return bad("sender", u64::from(from.0));
    }
    let ours = cluster.node();
    if from == ours {
        return Ok(Err(HeartbeatError::OwnNumber { node: from, incarnation }));
    }
    if to != ours {
        return Ok(Err(HeartbeatError::NotForUs { from, to, ours }));
    }
    if flags & !(GRANT | READY | LEASE | FIT | SYNCED) != 0 {
        return bad("flags", flags);
    }
    Ok(Ok(Heartbeat {
        from,
        to,
        incarnation,
        sequence,
        sent,
        echo,
        echo_sent,
        grant: flags & GRANT != 0,
        ready: flags & READY != 0,
        lease: flags & LEASE != 0,
        fit: flags & FIT != 0,
        synced: flags & SYNCED != 0,
        version,
        settled,
        standing,
        pause,
        patience,
        offer,
        suspected,
        fenced,
    }))
}
