//! How two ends of a stream come to know each other.
//!
//! ```text
//! dialler                                   acceptor
//! hello: magic, version, nonce d  ──►
//!                                  ◄──      hello: magic, version, nonce a
//! proof: HMAC("dial", d, a)       ──►
//!                                  ◄──      proof: HMAC("accept", d, a), identity
//! identity                        ──►
//! ```
//!
//! Invariant: nobody is told a name, a number or a setting before it has proved that it knows the
//! secret. The dialler proves first, so a port scan gets no more than magic and version; an impostor
//! that is dialled gets a code over two nonces. Nonces are drawn anew for each stream by the driver,
//! so proofs can't be replayed. An identity is authenticated together with both nonces and its side.
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
const VERSION: u16 = 2;

/// The length of a nonce.
pub const NONCE_BYTES: usize = 16;
const HELLO_BYTES: usize = 8 + 8 + NONCE_BYTES;
const IDENTITY_BODY: usize = 24 + 2 * MAX_NAME;
const IDENTITY_BYTES: usize = IDENTITY_BODY + TAG_BYTES;

const DIALLER_PROOF: &[u8] = b"dial proof";
const ACCEPTOR_PROOF: &[u8] = b"accept proof";
const DIALLER_IDENTITY: &[u8] = b"dial identity";
const ACCEPTOR_IDENTITY: &[u8] = b"accept identity";

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
}

impl Handshake {
    pub(super) fn new(
        side: Side,
        nonce: [u8; NONCE_BYTES],
        incarnation: Incarnation,
        out: &mut Vec<u8>,
    ) -> Self {
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&nonce);
        Self { side, incarnation, stage: Stage::Hello, ours: nonce, theirs: [0; NONCE_BYTES] }
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

    /// Both nonces, the dialler's first.
    fn nonces(&self) -> [&[u8]; 2] {
        if self.dialled() { [&self.ours, &self.theirs] } else { [&self.theirs, &self.ours] }
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
                self.theirs = hello(message)?;
                if self.dialled() {
                    self.prove(cluster, DIALLER_PROOF, out);
                }
                self.stage = Stage::Proof;
            }
            Stage::Proof => {
                let label = if self.dialled() { ACCEPTOR_PROOF } else { DIALLER_PROOF };
                let [d, a] = self.nonces();
                if !cluster.keys().sync.verify(&[label, d, a], message) {
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
        let [d, a] = self.nonces();
        out.extend_from_slice(&cluster.keys().sync.tag(&[label, d, a]));
    }

    fn identify(&self, cluster: &Cluster, label: &[u8], out: &mut Vec<u8>) {
        let (cluster_name, name) = (cluster.name(), cluster.member(cluster.node()));
        let mut body = Vec::with_capacity(IDENTITY_BYTES);
        // Names are at most MAX_NAME long, which fits a byte.
        body.extend_from_slice(&[cluster.node().0, cluster_name.len() as u8, name.len() as u8, 0]);
        body.extend_from_slice(&cluster.buckets().to_le_bytes());
        body.extend_from_slice(&cluster.fingerprint().to_le_bytes());
        body.extend_from_slice(&self.incarnation.0.to_le_bytes());
        for text in [cluster_name, name] {
            let mut field = [0; MAX_NAME];
            field[..text.len()].copy_from_slice(text.as_bytes());
            body.extend_from_slice(&field);
        }
        let [d, a] = self.nonces();
        let tag = cluster.keys().sync.tag(&[label, d, a, &body]);
        out.extend_from_slice(&body);
        out.extend_from_slice(&tag);
    }

    fn recognise(&self, cluster: &Cluster, message: &[u8]) -> Result<Identity, SyncError> {
        let (body, tag) = message.split_at(IDENTITY_BODY);
        let label = if self.dialled() { ACCEPTOR_IDENTITY } else { DIALLER_IDENTITY };
        let [d, a] = self.nonces();
        if !cluster.keys().sync.verify(&[label, d, a, body], tag) {
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
        let [number, cluster_length, name_length, _] = reader.array()?;
        let (buckets, settings) = (reader.u32()?, reader.u64()?);
        let incarnation = Incarnation(reader.u64()?);
        let mut text = |length: u8| {
            let field = reader.bytes(MAX_NAME)?;
            let bytes = field.get(..usize::from(length)).ok_or(Truncated)?;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        };
        let (cluster_name, name) = (text(cluster_length)?, text(name_length)?);
        Ok(if cluster_name != cluster.name() {
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

fn hello(message: &[u8]) -> Result<[u8; NONCE_BYTES], SyncError> {
    let mut reader = Reader::new(message);
    let mut read = || {
        let (magic, version) = (reader.array()?, reader.u16()?);
        reader.bytes(6)?;
        Ok((magic, version, reader.array()?))
    };
    let Ok::<_, Truncated>((seen, theirs, nonce)) = read() else { return Err(SyncError::Proof) };
    if seen != MAGIC {
        return Err(SyncError::Magic { seen, expected: MAGIC });
    }
    if theirs != VERSION {
        return Err(SyncError::Version { theirs, ours: VERSION });
    }
    Ok(nonce)
}
