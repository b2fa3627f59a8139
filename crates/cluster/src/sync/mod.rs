//! How nodes tell each other of their flows: one session per pair of nodes, over a byte stream.
//!
//! A session has no I/O: bytes in, frames out, and the other way round. It begins with a
//! [`handshake`] in which each side proves that it knows the secret before it learns anything, and
//! goes on as [`layout`] says, or with [`frame`]s of equal size if the peer is of the release before;
//! nobody outside sees which. What is to be sent is no queue of changes but [`outgoing`], a set of
//! changed flows, so a slow peer costs coalescing and never unbounded memory.
//!
//! One stream per pair serves both directions: one handshake proves both sides, and there is one
//! thing to watch. The node with the higher number dials, so that a pair never has two.
//!
//! Invariant: a session that fails has handed over whole frames only, and hands over nothing after
//! its error.

mod commits;
pub mod comparing;
pub mod determining;
pub mod frame;
pub mod handshake;
pub mod lag;
pub mod layout;
pub mod outgoing;
mod queue;
pub mod references;
mod runs;

use crate::config::Cluster;
use crate::heartbeat::Incarnation;
use frame::{FRAME_BYTES, Frame};
use handshake::{Format, Handshake, Identity, NONCE_BYTES, Step, Versions};
use layout::{HEAD_BYTES, Head, Item};
use references::Dictionary;
use runs::Runs;
use testudo_packet::bucket::{BucketId, Epoch, Nanos, NodeId};

/// Which end of a stream this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node dialled that peer.
    Dialled(NodeId),
    /// Somebody dialled this node.
    Accepted,
    /// Somebody dialled this node and has shown below this layer to be that peer.
    Vouched(NodeId),
}

/// Why a session ended. What whole frames said before stands; nothing else was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// Not a sync stream.
    #[error("a stream that begins with {seen:02x?}; a sync stream begins with {expected:02x?}")]
    Magic {
        /// What it began with.
        seen: [u8; 8],
        /// What it should.
        expected: [u8; 8],
    },
    /// A peer of a release that is too far away.
    #[error("the peer speaks version {theirs} of the sync protocol; this node speaks {ours}")]
    Version {
        /// The peer's.
        theirs: Versions,
        /// This node's.
        ours: Versions,
    },
    /// Somebody between has made the peer look older than it is.
    #[error(
        "the peer's greeting named {heard} as its newest version, and the peer says {said}: \
         somebody between has changed the greeting"
    )]
    Changed {
        /// What the greeting said.
        heard: u16,
        /// What the peer says.
        said: u16,
    },
    /// A stranger, or a member with another secret.
    #[error("the peer could not prove that it knows the cluster's secret")]
    Proof,
    /// A member of another cluster that has the same secret.
    #[error("the peer is of cluster \"{theirs}\"; this node is of \"{ours}\"")]
    Cluster {
        /// The peer's.
        theirs: String,
        /// This node's.
        ours: String,
    },
    /// Settings differ.
    #[error("the peer has {theirs} buckets; this node has {ours}")]
    Buckets {
        /// The peer's.
        theirs: u32,
        /// This node's.
        ours: u32,
    },
    /// Settings differ in something that has no field of its own.
    #[error(
        "the peer's settings are {theirs:016x}, this node's {ours:016x}; members, witnesses, mode, \
         lease, takeover, coordinator and min_voters must agree"
    )]
    Settings {
        /// The peer's.
        theirs: u64,
        /// This node's.
        ours: u64,
    },
    /// The peer is not who it should be: two lists of members differ, or a node runs twice.
    #[error("the peer is \"{theirs}\", node {number}; expected {expected}")]
    Identity {
        /// Its name.
        theirs: String,
        /// Its number.
        number: u8,
        /// Who was expected.
        expected: String,
    },
    /// Two processes run as one node, or a restarted one is early: its heartbeats are not heard yet.
    #[error(
        "node {} spoke as life {seen}; its heartbeats are of life {heard}; if that goes on, two \
         processes run as one node", node.0
    )]
    OtherLife {
        /// The node.
        node: NodeId,
        /// The life at the other end.
        seen: Incarnation,
        /// The one that is heard.
        heard: Incarnation,
        /// How the stream is written.
        format: Format,
    },
    /// As [`SyncError::OtherLife`], by the word of the peer about this node.
    #[error(
        "the peer hears the heartbeats of life {heard} of this node, which is life {ours}; if that \
         goes on, another process runs as this node; stop one of them"
    )]
    Rival {
        /// The life that the peer hears.
        heard: Incarnation,
        /// This one.
        ours: Incarnation,
    },
    /// A frame without meaning. The peer's build is at fault.
    #[error("a frame of kind {kind} with contents that mean nothing")]
    Frame {
        /// Its kind.
        kind: u8,
    },
    /// Items too short for what they say they are. The peer's build is at fault.
    #[error("items of kind {kind} with {size} bytes; expected {least} at least")]
    Short {
        /// Their kind.
        kind: u8,
        /// How long they are.
        size: u8,
        /// How long they are at least.
        least: u8,
    },
    /// A peer of a later release that says what an older one can't do without.
    #[error(
        "items of kind {kind} with {size} bytes, to be understood as a whole; this node knows \
         {known} of them"
    )]
    Critical {
        /// Their kind.
        kind: u8,
        /// How long they are.
        size: u8,
        /// How much of that this node knows.
        known: u8,
    },
    /// A frame at the wrong time. The peer's build is at fault.
    #[error("a {seen} that is out of place: {expected}")]
    Order {
        /// What came.
        seen: &'static str,
        /// What should have.
        expected: &'static str,
    },
    /// No proof in time.
    #[error("the peer did not finish its handshake in time")]
    HandshakeTimeout,
    /// The peer has come back on a new stream; this one is over.
    #[error("the peer has a newer session")]
    Superseded,
    /// As many streams as there may be are open.
    #[error("{open} streams are open, which is the most")]
    TooMany {
        /// How many.
        open: usize,
    },
    /// No such stream, any more.
    #[error("the stream is not open")]
    NotOpen,
}

impl SyncError {
    /// What the peer is to be told before the stream is closed, if it has proved that it may know.
    #[must_use]
    pub fn farewell(&self) -> Option<Vec<u8>> {
        let Self::OtherLife { heard, format, .. } = *self else { return None };
        let mut bytes = Vec::with_capacity(FRAME_BYTES);
        write(format, Frame::OtherLife { heard }, &mut bytes);
        Some(bytes)
    }
}

/// Writes a frame that stands alone.
fn write(format: Format, frame: Frame, out: &mut Vec<u8>) {
    match format {
        Format::Frames => frame.encode(out),
        Format::Runs => {
            let mut runs = Runs::default();
            runs.put(&Item::Frame(frame), out);
            runs.flush(out);
        }
    }
}

/// What a session hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// The handshake is complete.
    Opened(Identity),
    /// What the peer says.
    Item(Item),
}

#[derive(Debug)]
enum State {
    Handshake(Box<Handshake>),
    Open,
    Failed,
}

/// The frame of which items are being read.
#[derive(Debug, Default)]
struct Reading {
    head: Head,
    /// How many of its items are still to come.
    left: u16,
    /// Whether they mean anything to this build.
    known: bool,
}

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Session {
    state: State,
    format: Format,
    reading: Reading,
    /// A message, a head or an item of which not all bytes are there; never a whole one.
    partial: Vec<u8>,
    /// The flows that the peer refers to.
    pub(crate) dictionary: Dictionary,
    /// Under which epoch the peer speaks of a bucket.
    epochs: Vec<Option<Epoch>>,
    /// What of the handshake is still to be sent.
    greeting: Vec<u8>,
    pub(crate) peer: Option<(NodeId, Incarnation)>,
    pub(crate) opened_at: Nanos,
    /// Frames handed over, without acknowledgements; and how many of them the peer knows of.
    received: u64,
    acknowledged_to_peer: u64,
    /// The bucket that the peer is sending a snapshot of, and whether it is believed.
    pub(crate) snapshot: Option<(BucketId, bool)>,
    /// A letter of which not all parts are there.
    pub(crate) letter: Vec<u8>,
}

impl Session {
    pub(crate) fn new(
        side: Side,
        nonce: [u8; NONCE_BYTES],
        incarnation: Incarnation,
        now: Nanos,
    ) -> Self {
        let mut greeting = Vec::new();
        let handshake = Handshake::new(side, nonce, incarnation, &mut greeting);
        Self {
            state: State::Handshake(Box::new(handshake)),
            format: Format::Frames,
            reading: Reading::default(),
            partial: Vec::new(),
            dictionary: Dictionary::default(),
            epochs: Vec::new(),
            greeting,
            peer: None,
            opened_at: now,
            received: 0,
            acknowledged_to_peer: 0,
            snapshot: None,
            letter: Vec::new(),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(self.state, State::Open)
    }

    /// How many frames were taken from the peer, acknowledgements not counted.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Takes one message from the front of `input`, if it is all there.
    pub(crate) fn next(
        &mut self,
        cluster: &Cluster,
        input: &mut &[u8],
    ) -> Result<Option<Incoming>, SyncError> {
        let result = self.step(cluster, input);
        if result.is_err() {
            self.state = State::Failed;
        }
        result
    }

    fn step(
        &mut self,
        cluster: &Cluster,
        input: &mut &[u8],
    ) -> Result<Option<Incoming>, SyncError> {
        loop {
            let handshake = match &mut self.state {
                State::Handshake(handshake) => handshake,
                State::Open => return self.next_item(input).map(|item| item.map(Incoming::Item)),
                State::Failed => return Err(SyncError::NotOpen),
            };
            let wanted = handshake.wanted();
            let Some(message) = take(&mut self.partial, input, wanted) else { return Ok(None) };
            let step = handshake.handle(cluster, message, &mut self.greeting)?;
            self.partial.clear();
            if let Step::Done(identity) = step {
                self.peer = Some((identity.node, identity.incarnation));
                self.format = handshake.format();
                self.epochs = vec![None; cluster.buckets() as usize];
                self.state = State::Open;
                return Ok(Some(Incoming::Opened(identity)));
            }
        }
    }

    /// What the peer says next, if it is all there.
    fn next_item(&mut self, input: &mut &[u8]) -> Result<Option<Item>, SyncError> {
        if self.format == Format::Frames {
            let Some(message) = take(&mut self.partial, input, FRAME_BYTES) else {
                return Ok(None);
            };
            let frame = Frame::decode(message)?;
            self.partial.clear();
            self.received += u64::from(!matches!(frame, Frame::Acknowledge { .. }));
            return Ok(Some(Item::Frame(frame)));
        }
        loop {
            let Reading { head, left, known } = &mut self.reading;
            if *left == 0 {
                let Some(bytes) = take(&mut self.partial, input, HEAD_BYTES) else {
                    return Ok(None);
                };
                *head = Head::from_bytes(*bytes.first_chunk().expect("as many as wanted"));
                self.partial.clear();
                (*left, *known) = (head.count, head.check()?);
            }
            if *left == 0 {
                continue;
            }
            let Some(bytes) = take(&mut self.partial, input, head.size.into()) else {
                return Ok(None);
            };
            let item = if *known { Some(Item::decode(head.kind, bytes)?) } else { None };
            self.partial.clear();
            *left -= 1;
            self.received += u64::from(head.is_counted());
            match item {
                Some(Item::Epoch { bucket, epoch }) => self.set_epoch(bucket, epoch)?,
                Some(Item::Frame(Frame::Begin { bucket, epoch })) => {
                    self.set_epoch(bucket, epoch)?;
                    return Ok(item);
                }
                Some(item) => return Ok(Some(item)),
                None => {}
            }
        }
    }

    fn set_epoch(&mut self, bucket: BucketId, epoch: Epoch) -> Result<(), SyncError> {
        let expected = "a bucket that there is";
        let wrong = SyncError::Order { seen: "epoch of a bucket", expected };
        *self.epochs.get_mut(usize::from(bucket.0)).ok_or(wrong)? = Some(epoch);
        Ok(())
    }

    /// Under which epoch the peer speaks of a bucket.
    pub(crate) fn epoch(&self, bucket: BucketId) -> Result<Epoch, SyncError> {
        let expected = "the epoch of its bucket first";
        let epoch = self.epochs.get(usize::from(bucket.0)).copied().flatten();
        epoch.ok_or(SyncError::Order { seen: "flow", expected })
    }

    /// How what follows the handshake is written.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Appends what of the handshake is to be sent. It is short, and sent whole.
    pub(crate) fn transmit_handshake(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.greeting);
    }

    /// Appends an acknowledgement if there is something new to acknowledge.
    pub(crate) fn transmit_acknowledgement(&mut self, out: &mut Vec<u8>) {
        if self.is_open() && self.received > self.acknowledged_to_peer {
            self.acknowledged_to_peer = self.received;
            write(self.format, Frame::Acknowledge { frames: self.received }, out);
        }
    }
}

/// Takes `wanted` bytes from the front of `input`, if they are all there, or what there is to `partial`.
/// If they are returned, the caller empties `partial` when it has read them.
fn take<'a, 'b: 'a>(
    partial: &'a mut Vec<u8>,
    input: &mut &'b [u8],
    wanted: usize,
) -> Option<&'a [u8]> {
    if partial.is_empty()
        && let Some((head, rest)) = input.split_at_checked(wanted)
    {
        *input = rest;
        return Some(head);
    }
    let missing = wanted - partial.len();
    let (head, rest) = input.split_at(missing.min(input.len()));
    partial.extend_from_slice(head);
    *input = rest;
    (partial.len() == wanted).then_some(partial)
}
