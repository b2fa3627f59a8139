//! How nodes tell each other of their flows: one session per pair of nodes, over a byte stream.
//!
//! A session has no I/O: bytes in, frames out, and the other way round. It begins with a
//! [`handshake`] in which each side proves that it knows the secret before it learns anything, and
//! goes on with [`frame`]s of equal size. What is to be sent is no queue of changes but [`outgoing`],
//! a set of changed flows, so a slow peer costs coalescing and never unbounded memory.
//!
//! One stream per pair serves both directions: one handshake proves both sides, and there is one
//! thing to watch. The node with the higher number dials, so that a pair never has two.
//!
//! Invariant: a session that fails has handed over whole frames only, and hands over nothing after
//! its error.

pub mod comparing;
pub mod frame;
pub mod handshake;
pub mod lag;
pub mod outgoing;

use crate::config::Cluster;
use crate::heartbeat::Incarnation;
use frame::{FRAME_BYTES, Frame};
use handshake::{Handshake, Identity, NONCE_BYTES, Step};
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

/// Which end of a stream this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// This node dialled that peer.
    Dialled(NodeId),
    /// Somebody dialled this node.
    Accepted,
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
    /// A peer of another release.
    #[error("the peer speaks version {theirs} of the sync protocol; this node speaks {ours}")]
    Version {
        /// The peer's.
        theirs: u16,
        /// This node's.
        ours: u16,
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
        let Self::OtherLife { heard, .. } = self else { return None };
        let mut bytes = Vec::with_capacity(FRAME_BYTES);
        Frame::OtherLife { heard: *heard }.encode(&mut bytes);
        Some(bytes)
    }
}

/// What a session hands over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Incoming {
    /// The handshake is complete.
    Opened(Identity),
    /// A frame of the peer.
    Frame(Frame),
}

#[derive(Debug)]
enum State {
    Handshake(Box<Handshake>),
    Open,
    Failed,
}

/// One end of a stream.
#[derive(Debug)]
pub(crate) struct Session {
    state: State,
    /// A message of which not all bytes are there; never a whole one.
    partial: Vec<u8>,
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
            partial: Vec::new(),
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
            let wanted = match &self.state {
                State::Handshake(handshake) => handshake.wanted(),
                State::Open => FRAME_BYTES,
                State::Failed => return Err(SyncError::NotOpen),
            };
            let missing = wanted - self.partial.len();
            let (head, rest) = input.split_at(missing.min(input.len()));
            self.partial.extend_from_slice(head);
            *input = rest;
            if self.partial.len() < wanted {
                return Ok(None);
            }
            let message = std::mem::take(&mut self.partial);
            let State::Handshake(handshake) = &mut self.state else {
                let frame = Frame::decode(&message)?;
                self.received += u64::from(!matches!(frame, Frame::Acknowledge { .. }));
                return Ok(Some(Incoming::Frame(frame)));
            };
            if let Step::Done(identity) = handshake.handle(cluster, &message, &mut self.greeting)? {
                self.peer = Some((identity.node, identity.incarnation));
                self.state = State::Open;
                return Ok(Some(Incoming::Opened(identity)));
            }
        }
    }

    /// Appends what of the handshake is to be sent. It is short, and sent whole.
    pub(crate) fn transmit_handshake(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.greeting);
    }

    /// Appends an acknowledgement if there is something new to acknowledge.
    pub(crate) fn transmit_acknowledgement(&mut self, out: &mut Vec<u8>) {
        if self.is_open() && self.received > self.acknowledged_to_peer {
            self.acknowledged_to_peer = self.received;
            Frame::Acknowledge { frames: self.received }.encode(out);
        }
    }
}
