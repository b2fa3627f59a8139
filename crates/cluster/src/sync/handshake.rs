//! How two ends of a stream come to know each other.
//!
//! ```text
//! dialler                                   acceptor
//! hello: magic, versions, nonce d ──►
//!                                  ◄──      hello: magic, versions, nonce a
//! proof: HMAC("dial", d, a, v)    ──►
//!                                  ◄──      proof: HMAC("accept", d, a, v), identity
//! identity                        ──►
//! ```
//!
//! Each side says the oldest and the newest version that it speaks; the newest that both speak is used.
//! A build of version 2 compares the first of the two numbers with its own and leaves the second, which
//! was padding then, zero.
//!
//! Invariant: nobody is told a name, a number or a setting before it has proved that it knows the
//! secret. The dialler proves first, so a port scan gets no more than magic and versions; an impostor
//! that is dialled gets a code over two nonces. Nonces are drawn anew for each stream by the driver,
//! so proofs can't be replayed. An identity is authenticated together with both nonces and its side.
//! The versions in both hellos (v) are part of what is proved from version 3 on; in a session of
//! version 2 the identity repeats the newest, so that nobody between can have made it 2.
//!
//! Limits: frames after the handshake are protected by nothing but the stream below. With TLS there that
//! is enough; without, whoever can insert bytes into an open TCP connection can insert frames.

use super::{Side, SyncError};
use crate::config::{Cluster, MAX_NAME};
use crate::heartbeat::Incarnation;
use crate::keys::TAG_BYTES;
use crate::wire::{Reader, Truncated};
use testudo_packet::bucket::NodeId;

const MAGIC: [u8; 8] = *b"TESTUDOS";

/// The versions that this build speaks.
const OURS: Versions =
    Versions { oldest: Format::Frames.version(), newest: Format::Runs.version() };

/// The length of a nonce.
pub const NONCE_BYTES: usize = 16;
const HELLO_BYTES: usize = 8 + 8 + NONCE_BYTES;
const IDENTITY_BODY: usize = 24 + 2 * MAX_NAME;
const IDENTITY_BYTES: usize = IDENTITY_BODY + TAG_BYTES;

const DIALLER_PROOF: &[u8] = b"dial proof";
const ACCEPTOR_PROOF: &[u8] = b"accept proof";
const DIALLER_IDENTITY: &[u8] = b"dial identity";
const ACCEPTOR_IDENTITY: &[u8] = b"accept identity";

/// How what follows a handshake is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`super::frame`]s of equal size.
    Frames,
    /// [`super::layout`]: frames of many items, and references to flows.
    Runs,
}

impl Format {
    /// The version of the protocol that has it.
    #[must_use]
    pub const fn version(self) -> u16 {
        match self {
            Self::Frames => 2,
            Self::Runs => 3,
        }
    }
}

/// The versions of the protocol that a build speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The lowest.
    pub oldest: u16,
    /// The highest.
    pub newest: u16,
}

impl std::fmt::Display for Versions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "{oldest}") } else { write!(f, "{oldest} to {newest}") }
    }
}

impl Versions {
    /// The format of the newest version that both speak.
    fn agree(self, theirs: Self) -> Result<Format, SyncError> {
        let newest = self.newest.min(theirs.newest);
        let spoken = (self.oldest.max(theirs.oldest)..=newest).contains(&newest);
        let formats = [Format::Frames, Format::Runs];
        let format = formats.into_iter().find(|format| spoken && format.version() == newest);
        format.ok_or(SyncError::Version { theirs, ours: self })
    }
}

/// Who the peer is, proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its number.
    pub node: NodeId,
    /// Its life.
    pub incarnation: Incarnation,
}

#[derive(Debug)]
pub(super) enum Step {
    More,
    Done(Identity),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Hello,
    Proof,
    Identity,
}

#[derive(Debug)]
pub(super) struct Handshake {
    side: Side,
    incarnation: Incarnation,
    stage: Stage,
    ours: [u8; NONCE_BYTES],
    theirs: [u8; NONCE_BYTES],
    /// As the peer's hello has said; its newest is zero if it was a build of version 2.
    said: Versions,
    format: Format,
}

impl Handshake {
    pub(super) fn new(
        side: Side,
        nonce: [u8; NONCE_BYTES],
        incarnation: Incarnation,
        out: &mut Vec<u8>,
    ) -> Self {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&OURS.oldest.to_le_bytes());
        out.extend_from_slice(&OURS.newest.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&nonce);
        let (stage, theirs) = (Stage::Hello, [0; NONCE_BYTES]);
        Self { side, incarnation, stage, ours: nonce, theirs, said: OURS, format: Format::Frames }
    }

    /// What was agreed on, once the peer has greeted.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// How many bytes the next message of the peer has.
    pub(super) fn wanted(&self) -> usize {
        match self.stage {
            Stage::Hello => HELLO_BYTES,
            Stage::Proof => TAG_BYTES,
            Stage::Identity => IDENTITY_BYTES,
        }
    }

    fn dialled(&self) -> bool {
        matches!(self.side, Side::Dialled(_))
    }

    /// What each side has said in its hello, as far as it is part of proofs: the dialler's first.
    fn greetings(&self) -> Vec<u8> {
        let (d, a) = if self.dialled() {
            ((self.ours, OURS), (self.theirs, self.said))
        } else {
            ((self.theirs, self.said), (self.ours, OURS))
        };
        let mut greetings = [d.0, a.0].concat();
        if self.format != Format::Frames {
            for Versions { oldest, newest } in [d.1, a.1] {
                greetings.extend([oldest, newest].map(u16::to_le_bytes).as_flattened());
            }
        }
        greetings
    }

    /// Handles a message of the length wanted, and appends the answer.
    pub(super) fn handle(
        &mut self,
        cluster: &Cluster,
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, SyncError> {
        match self.stage {
            Stage::Hello => {
                (self.said, self.theirs) = hello(message)?;
                let Versions { oldest, newest } = self.said;
                let newest = if newest == 0 { oldest } else { newest };
                self.format = OURS.agree(Versions { oldest, newest })?;
                if self.dialled() {
                    self.prove(cluster, DIALLER_PROOF, out);
                }
                self.stage = Stage::Proof;
            }
            Stage::Proof => {
                let label = if self.dialled() { ACCEPTOR_PROOF } else { DIALLER_PROOF };
                if !cluster.keys().sync.verify(&[label, &self.greetings()], message) {
                    return Err(SyncError::Proof);
                }
                if self.dialled() {
                    self.identify(cluster, DIALLER_IDENTITY, out);
                } else {
                    self.prove(cluster, ACCEPTOR_PROOF, out);
                    self.identify(cluster, ACCEPTOR_IDENTITY, out);
                }
                self.stage = Stage::Identity;
            }
            Stage::Identity => return self.recognise(cluster, message).map(Step::Done),
        }
        Ok(Step::More)
    }

    fn prove(&self, cluster: &Cluster, label: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&cluster.keys().sync.tag(&[label, &self.greetings()]));
    }

    fn identify(&self, cluster: &Cluster, label: &[u8], out: &mut Vec<u8>) {
        let (cluster_name, name) = (cluster.name(), cluster.member(cluster.node()));
        let mut body = Vec::with_capacity(IDENTITY_BYTES);
        // Names are at most MAX_NAME long, which fits a byte. A build of version 2 reads no further.
        let lengths = [cluster_name.len() as u8, name.len() as u8];
        body.extend_from_slice(&[cluster.node().0, lengths[0], lengths[1], OURS.newest as u8]);
        body.extend_from_slice(&cluster.buckets().to_le_bytes());
        body.extend_from_slice(&cluster.fingerprint().to_le_bytes());
        body.extend_from_slice(&self.incarnation.0.to_le_bytes());
        for text in [cluster_name, name] {
            let mut field = [0; MAX_NAME];
            field[..text.len()].copy_from_slice(text.as_bytes());
            body.extend_from_slice(&field);
        }
        let tag = cluster.keys().sync.tag(&[label, &self.greetings(), &body]);
        out.extend_from_slice(&body);
        out.extend_from_slice(&tag);
    }

    fn recognise(&self, cluster: &Cluster, message: &[u8]) -> Result<Identity, SyncError> {
        let (body, tag) = message.split_at(IDENTITY_BODY);
        let label = if self.dialled() { ACCEPTOR_IDENTITY } else { DIALLER_IDENTITY };
        if !cluster.keys().sync.verify(&[label, &self.greetings(), body], tag) {
            return Err(SyncError::Proof);
        }
        self.check(cluster, body).unwrap_or(Err(SyncError::Proof))
    }

    fn check(
        &self,
        cluster: &Cluster,
        body: &[u8],
    ) -> Result<Result<Identity, SyncError>, Truncated> {
        let mut reader = Reader::new(body);
        let [number, cluster_length, name_length, newest] = reader.array()?;
        let (buckets, settings) = (reader.u32()?, reader.u64()?);
        let incarnation = Incarnation(reader.u64()?);
        let mut text = |length: u8| {
            let field = reader.bytes(MAX_NAME)?;
            let bytes = field.get(..usize::from(length)).ok_or(Truncated)?;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        let (cluster_name, name) = (text(cluster_length)?, text(name_length)?);
        Ok(if u16::from(newest) != self.said.newest {
            Err(SyncError::Changed { heard: self.said.newest, said: newest.into() })
        } else if cluster_name != cluster.name() {
            Err(SyncError::Cluster { theirs: cluster_name, ours: cluster.name().into() })
        } else if buckets != cluster.buckets() {
            Err(SyncError::Buckets { theirs: buckets, ours: cluster.buckets() })
        } else if let Some(expected) = self.stranger(cluster, number, &name) {
            Err(SyncError::Identity { theirs: name, number, expected })
        } else if settings != cluster.fingerprint() {
            Err(SyncError::Settings { theirs: settings, ours: cluster.fingerprint() })
        } else {
            Ok(Identity { node: NodeId(number), incarnation })
        })
    }

    /// Whom one would have expected, if this is somebody else.
    fn stranger(&self, cluster: &Cluster, number: u8, name: &str) -> Option<String> {
        let node = NodeId(number);
        let ours = cluster.node();
        match self.side {
            Side::Dialled(peer) if peer != node || cluster.member(peer) != name => {
                Some(format!("\"{}\", node {}", cluster.member(peer), peer.0))
            }
            Side::Vouched(peer) if peer != node => {
                let name = cluster.member(peer);
                Some(format!("\"{name}\", node {}, whom its certificate names", peer.0))
            }
            Side::Accepted | Side::Vouched(_) if node == ours => {
                Some(format!("another node than \"{}\", which is this one", cluster.member(ours)))
            }
            Side::Accepted | Side::Vouched(_)
                if cluster.member(node) != name || name.is_empty() =>
            {
                Some(format!("one of the members: {}", cluster.members().join(", ")))
            }
            Side::Accepted | Side::Vouched(_) if node < ours => {
                Some("a node with a higher number, for the higher one dials".into())
            }
            _ => None,
        }
    }
}

fn hello(message: &[u8]) -> Result<(Versions, [u8; NONCE_BYTES]), SyncError> {
    let mut reader = Reader::new(message);
    let mut read = || {
        let magic = reader.array()?;
        let said = Versions { oldest: reader.u16()?, newest: reader.u16()? };
        reader.bytes(4)?;
        Ok((magic, said, reader.array()?))
    };
    let Ok::<_, Truncated>((seen, said, nonce)) = read() else { return Err(SyncError::Proof) };
    if seen != MAGIC {
        return Err(SyncError::Magic { seen, expected: MAGIC });
    }
    Ok((said, nonce))
}
