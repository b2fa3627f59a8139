//! A membership as bytes, for the process that takes its place.
//!
//! ```text
//!  0 magic "TSTF"    4 layout u16    6 node u8    7 flags u8 (1: fit)
//!  8 fingerprint u64, incarnation u64, born u64, member since u64, settled u64
//! 48 pause u64 (ns), lease's end u64, version of its voters u64
//! 72 fenced, dead, presumed: three sets of 32 bytes
//!    for each node: sequence u64, promised u64, known u8 (bits: latest, progress, trusted), then those
//!    that are known: latest life u64, sequence u64, sent u64; progress life u64, version u64,
//!    settled u64; trusted life u64
//!    for each bucket: slot u64
//!    the map, to the end
//! ```
//!
//! All numbers are little-endian; moments are of the machine's monotonic clock, which does not end with
//! the process.
//!
//! Invariant: whoever resumes has forgotten nothing that it has promised, and takes nothing for recent
//! that it has not heard itself. A frozen membership is resumed at most once: by what the bytes travel
//! in, not by anything in them.

use super::lease::Lease;
use super::pause::Pausing;
use super::peer::{Latest, Peer, Progress};
use super::{Membership, Role};
use crate::config::{Cluster, MAX_PAUSE};
use crate::heartbeat::Incarnation;
use crate::map::{Map, SnapshotError, Version};
use crate::node_set::NodeSet;
use crate::ownership::Ledger;
use crate::wire::{Reader, Truncated};
use std::sync::Arc;
use std::time::Duration;
use testudo_packet::bucket::{BucketSlot, Nanos, NodeId};

const MAGIC: [u8; 4] = *b"TSTF";
const LAYOUT: u16 = 1;
const FIT: u8 = 1;
const LATEST: u8 = 1;
const PROGRESS: u8 = 2;
const TRUSTED: u8 = 4;

/// A membership that rests. See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frozen {
    node: NodeId,
    fingerprint: u64,
    fit: bool,
    incarnation: Incarnation,
    born: Nanos,
    member_since: Nanos,
    settled: Version,
    ask: Duration,
    lease: Nanos,
    voters_since: Version,
    fenced: NodeSet,
    dead: NodeSet,
    presumed: NodeSet,
    peers: Vec<FrozenPeer>,
    slots: Vec<BucketSlot>,
    map: Vec<u8>,
}

/// What is kept of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct FrozenPeer {
    sequence: u64,
    promised: Nanos,
    latest: Option<(Incarnation, u64, Nanos)>,
    progress: Option<(Incarnation, Version, Version)>,
    trusted: Option<Incarnation>,
}

/// Why a membership can't rest now. It is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsettled {
    /// The others would take its place.
    #[error("the others have granted no pause; expected a majority of the voters to")]
    NoPause,
    /// Buckets are on their way.
    #[error("buckets are on their way; expected each to have arrived")]
    Moving,
}

/// Bytes that are no frozen membership: of another release, or damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes are no membership at rest, as this release writes it")]
pub struct FrozenError {
    /// How many bytes were seen.
    pub length: usize,
}

/// Why a membership can't go on. Nothing has changed: begin a new life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResumeError {
    /// It is another node's, or the settings have changed.
    #[error(
        "it is that of node {} with settings {seen:016x}; this is node {} with {expected:016x}; the \
         settings that all nodes share can't change in a restart", node.0, ours.0
    )]
    Other {
        /// Whose it is.
        node: NodeId,
        /// By which settings.
        seen: u64,
        /// This node.
        ours: NodeId,
        /// By these settings.
        expected: u64,
    },
    /// It came too late.
    #[error("its lease has been over for {:?}; expected it to be in force", .late)]
    Late {
        /// By how much.
        late: Duration,
    },
    /// Its map is none.
    #[error(transparent)]
    Map(#[from] SnapshotError),
}

impl Membership {
    /// All that another process needs to go on from here. Nothing may be sent or carried out for this
    /// one any more, unless it goes on itself because there will be no other.
    ///
    /// # Errors
    ///
    /// See [`Unsettled`].
    pub fn freeze(&mut self, now: Nanos) -> Result<Frozen, Unsettled> {
        self.advance(now);
        let (Some(pausing), Some(_)) = (self.pausing, self.paused_until(now)) else {
            return Err(Unsettled::NoPause);
        };
        let slots = self.ledger.settled().ok_or(Unsettled::Moving)?.to_vec();
        let trusted = self.lease.trusted();
        let peer = |(peer, &trusted): (&Peer, _)| FrozenPeer {
            sequence: peer.sequence,
            promised: peer.promised,
            latest: peer.latest.map(|latest| (latest.incarnation, latest.sequence, latest.sent)),
            progress: peer.progress.map(|known| (known.life, known.version, known.settled)),
            trusted,
        };
        Ok(Frozen {
            node: self.cluster.node(),
            fingerprint: self.cluster.fingerprint(),
            fit: self.fit,
            incarnation: self.incarnation,
            born: self.born,
            member_since: self.member_since.unwrap_or(self.now),
            settled: self.settled,
            ask: pausing.ask,
            lease: self.lease.deadline(),
            voters_since: self.lease.voters_since(),
            fenced: self.fenced,
            dead: self.dead,
            presumed: self.presumed,
            peers: self.peers.iter().zip(trusted).map(peer).collect(),
            slots,
            map: self.map.encode(),
        })
    }

    /// Goes on where another process has stopped. The kernel's lease and slots are as it has left them.
    ///
    /// # Errors
    ///
    /// See [`ResumeError`].
    pub fn resume(cluster: Arc<Cluster>, frozen: &Frozen, now: Nanos) -> Result<Self, ResumeError> {
        let (ours, expected) = (cluster.node(), cluster.fingerprint());
        let (node, seen) = (frozen.node, frozen.fingerprint);
        if (node, seen) != (ours, expected) {
            return Err(ResumeError::Other { node, seen, ours, expected });
        }
        if now >= frozen.lease {
            let late = crate::time::since(now, frozen.lease);
            return Err(ResumeError::Late { late });
        }
        let map: Map = cluster.first_map().decode_like(&frozen.map)?;
        let mut all = Self::new(cluster, frozen.incarnation, now);
        all.map = Arc::new(map);
        all.born = frozen.born;
        all.member_since = Some(frozen.member_since);
        all.fit = frozen.fit;
        all.settled = frozen.settled;
        (all.fenced, all.dead, all.presumed) = (frozen.fenced, frozen.dead, frozen.presumed);
        all.told_lease = frozen.lease;
        let trusted = frozen.peers.iter().map(|peer| peer.trusted).collect();
        all.lease = Lease::resumed(frozen.lease, frozen.voters_since, trusted);
        all.ledger = Ledger::resumed(ours, frozen.slots.clone());
        all.pausing = Some(Pausing { ask: frozen.ask.min(MAX_PAUSE), since: now, resumed: true });
        for (index, known) in frozen.peers.iter().enumerate() {
            let node = NodeId(index as u8);
            all.peers[index] = known.thaw();
            if let Some((life, ..)) = known.latest {
                all.ledger.note_life(node, life);
            }
            if let Some(admission) = all.map.admission(node) {
                all.peers[index].take_back(now, admission, frozen.fenced.contains(node));
            }
        }
        debug_assert_eq!(all.role(), Role::Member);
        all.judge();
        all.hurry();
        Ok(all)
    }
}

impl FrozenPeer {
    fn thaw(&self) -> Peer {
        let latest = self.latest.map(|(incarnation, sequence, sent)| Latest {
            incarnation,
            sequence,
            sent,
            // It is not recent any more.
            counted: false,
        });
        let progress =
            self.progress.map(|(life, version, settled)| Progress { life, version, settled });
        let Self { sequence, promised, .. } = *self;
        Peer { latest, progress, sequence, promised, ..Peer::default() }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let known = |is: bool, bit: u8| if is { bit } else { 0 };
        let mut put = |word: u64| out.extend(word.to_le_bytes());
        put(self.sequence);
        put(self.promised.0);
        out.push(
            known(self.latest.is_some(), LATEST)
                | known(self.progress.is_some(), PROGRESS)
                | known(self.trusted.is_some(), TRUSTED),
        );
        let latest = self.latest.map(|(life, sequence, sent)| [life.0, sequence, sent.0]);
        let progress = self.progress.map(|(life, version, settled)| [life.0, version.0, settled.0]);
        let words = latest.into_iter().chain(progress).flatten();
        for word in words.chain(self.trusted.map(|life| life.0)) {
            out.extend(word.to_le_bytes());
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let (sequence, promised) = (reader.u64()?, Nanos(reader.u64()?));
        let known = reader.u8()?;
        let mut peer = Self { sequence, promised, ..Self::default() };
        if known & LATEST != 0 {
            peer.latest = Some((Incarnation(reader.u64()?), reader.u64()?, Nanos(reader.u64()?)));
        }
        if known & PROGRESS != 0 {
            let life = Incarnation(reader.u64()?);
            peer.progress = Some((life, Version(reader.u64()?), Version(reader.u64()?)));
        }
        if known & TRUSTED != 0 {
            peer.trusted = Some(Incarnation(reader.u64()?));
        }
        Ok(peer)
    }
}

impl Frozen {
    /// Whose life it is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whose each bucket is. Buckets of this node are complete.
    #[must_use]
    pub fn slots(&self) -> &[BucketSlot] {
        &self.slots
    }

    /// Until when packets are handled.
    #[must_use]
    pub fn lease(&self) -> Nanos {
        self.lease
    }

    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(LAYOUT.to_le_bytes());
        out.extend([self.node.0, if self.fit { FIT } else { 0 }]);
        for word in [
            self.fingerprint,
            self.incarnation.0,
            self.born.0,
            self.member_since.0,
            self.settled.0,
            self.ask.as_nanos() as u64,
            self.lease.0,
            self.voters_since.0,
        ] {
            out.extend(word.to_le_bytes());
        }
        for set in [&self.fenced, &self.dead, &self.presumed] {
            set.encode(&mut out);
        }
        self.peers.iter().for_each(|peer| peer.encode(&mut out));
        for slot in &self.slots {
            out.extend(slot.to_word().to_le_bytes());
        }
        out.extend(&self.map);
        out
    }

    /// Reads the bytes of a node of this cluster.
    ///
    /// # Errors
    ///
    /// [`FrozenError`] if they are none. The map among them is looked at when it is resumed.
    pub fn decode(cluster: &Cluster, bytes: &[u8]) -> Result<Self, FrozenError> {
        let refused = FrozenError { length: bytes.len() };
        read(cluster, bytes).ok().flatten().ok_or(refused)
    }
}

fn read(cluster: &Cluster, bytes: &[u8]) -> Result<Option<Frozen>, Truncated> {
    let mut reader = Reader::new(bytes);
    if reader.array()? != MAGIC || reader.u16()? != LAYOUT {
        return Ok(None);
    }
    let (node, flags) = (NodeId(reader.u8()?), reader.u8()?);
    let fingerprint = reader.u64()?;
    let incarnation = Incarnation(reader.u64()?);
    let (born, member_since) = (Nanos(reader.u64()?), Nanos(reader.u64()?));
    let settled = Version(reader.u64()?);
    let ask = Duration::from_nanos(reader.u64()?);
    let (lease, voters_since) = (Nanos(reader.u64()?), Version(reader.u64()?));
    let fenced = NodeSet::decode(&mut reader)?;
    let [dead, presumed] = [NodeSet::decode(&mut reader)?, NodeSet::decode(&mut reader)?];
    let peers = cluster.nodes().map(|_| FrozenPeer::decode(&mut reader));
    let peers = peers.collect::<Result<_, _>>()?;
    let slots = (0..cluster.buckets()).map(|_| reader.u64().map(BucketSlot::from_word));
    let slots = slots.collect::<Result<_, _>>()?;
    let map = reader.bytes(reader.remaining())?.to_vec();
    let fit = flags & FIT != 0;
    Ok(Some(Frozen {
        node,
        fingerprint,
        fit,
        incarnation,
        born,
        member_since,
        settled,
        ask,
        lease,
        voters_since,
        fenced,
        dead,
        presumed,
        peers,
        slots,
        map,
    }))
}
