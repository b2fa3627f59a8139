//! Version 3 of the protocol, to the byte. docs/sync-protocol.md says the same for people.
//!
//! A stream is a sequence of frames; a frame is a head and items of one kind and one size:
//!
//! ```text
//! head   kind: 1 byte   size of an item: 1   number of items: 2
//! kind   bit 7: whoever does not know all of this must end the stream
//!        bit 6: its items are not counted by acknowledgements
//! ```
//!
//! Numbers are little-endian, addresses in network order.
//!
//! Invariant: a reader never needs to hold more than a head or an item, so no length that a peer gives
//! can cost memory. Items have the size that the head says: what is longer than this build knows is
//! read as far as it is known, and a kind that is unknown is skipped, unless bit 7 forbids it.
//!
//! Why fixed layouts and not numbers of variable length: an item is then decoded without a branch for
//! each field, and what one more field costs is plain to see.

use super::SyncError;
use super::comparing::Verdict;
use super::determining::Answer;
use super::frame::{Frame, HANDLED, LETTER};
use super::references::{MAX_REFERENCES, Reference};
use crate::heartbeat::Incarnation;
use crate::map::Version;
use crate::wire::{Reader, Truncated};
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::{FlowRecord, FlowState, Translation};
use testudo_packet::flow::{Address, Endpoint, FlowKey, Protocol};
use testudo_packet::tracking::Phase;

/// The length of a frame's head.
pub const HEAD_BYTES: usize = 4;

/// The longest item of this build.
pub const MAX_ITEM: usize = 89;

/// A bit of a kind: the frame must not be skipped, nor any part of its items.
pub const CRITICAL: u8 = 0x80;

/// A bit of a kind: its items are not counted by acknowledgements.
pub const UNCOUNTED: u8 = 0x40;

/// The numbers of kinds, without [`CRITICAL`].
#[allow(missing_docs)] // Each is explained at its item.
pub mod kind {
    pub const INTRODUCE_4: u8 = 1;
    pub const INTRODUCE_6: u8 = 2;
    pub const CHANGE: u8 = 3;
    pub const LEAVE: u8 = 4;
    pub const REMOVE_4: u8 = 5;
    pub const REMOVE_6: u8 = 6;
    pub const SNAPSHOT_4: u8 = 7;
    pub const SNAPSHOT_6: u8 = 8;
    pub const CHECK: u8 = 9;
    pub const WANT: u8 = 10;
    pub const BEGIN: u8 = 11;
    pub const END: u8 = 12;
    pub const PREPARE: u8 = 13;
    pub const HOLDING: u8 = 14;
    pub const HANDLED: u8 = 15;
    pub const RELEASED: u8 = 16;
    pub const WITHDRAWN: u8 = 17;
    pub const LETTER: u8 = 18;
    pub const OTHER_LIFE: u8 = 19;
    pub const FORGOTTEN: u8 = 20;
    pub const COMPARED: u8 = 21;
    pub const DETERMINE_4: u8 = 22;
    pub const DETERMINE_6: u8 = 23;
    pub const DETERMINED: u8 = 24;
    pub const INTRODUCE_TRANSLATED: u8 = 25;
    pub const SNAPSHOT_TRANSLATED: u8 = 26;
    pub const ACKNOWLEDGE: u8 = super::UNCOUNTED;
    pub const EPOCH: u8 = super::UNCOUNTED + 1;
}

/// What stands before the items of a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// What the items are, and the two bits.
    pub kind: u8,
    /// How many bytes each of them has.
    pub size: u8,
    /// How many there are.
    pub count: u16,
}

impl Head {
    /// The head as bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEAD_BYTES] {
        let [low, high] = self.count.to_le_bytes();
        [self.kind, self.size, low, high]
    }

    /// Reads a head.
    #[must_use]
    pub fn from_bytes([kind, size, low, high]: [u8; HEAD_BYTES]) -> Self {
        Self { kind, size, count: u16::from_le_bytes([low, high]) }
    }

    /// Whether acknowledgements count its items.
    #[must_use]
    pub fn is_counted(self) -> bool {
        self.kind & UNCOUNTED == 0
    }

    /// Whether its items are of a kind that this build knows, and are to be decoded; others are skipped.
    ///
    /// # Errors
    ///
    /// [`SyncError::Short`] if items are too short for their kind, [`SyncError::Critical`] if they have
    /// what this build does not know and must not skip.
    pub fn check(self) -> Result<bool, SyncError> {
        let Self { kind, size, .. } = self;
        let known = least(kind & !CRITICAL);
        let (least, varies) = known.unwrap_or((0, false));
        // Items without a byte would cost more to skip than to send.
        if size < least.max(1) {
            return Err(SyncError::Short { kind, size, least: least.max(1) });
        }
        if kind & CRITICAL != 0 && size > least && !varies {
            return Err(SyncError::Critical { kind, size, known: least });
        }
        Ok(known.is_some())
    }
}

/// How long an item is at least, and whether it may be longer by its own contents.
fn least(kind: u8) -> Option<(u8, bool)> {
    Some(match kind {
        kind::INTRODUCE_4 => (25, false),
        kind::INTRODUCE_6 => (49, false),
        kind::INTRODUCE_TRANSLATED => (85, false),
        kind::SNAPSHOT_TRANSLATED => (89, false),
        kind::CHANGE => (8, false),
        kind::LEAVE | kind::FORGOTTEN => (3, false),
        kind::REMOVE_4 | kind::SNAPSHOT_4 | kind::DETERMINE_4 => (29, false),
        kind::REMOVE_6 | kind::SNAPSHOT_6 | kind::DETERMINE_6 => (53, false),
        kind::CHECK => (18, false),
        kind::WANT | kind::END => (2, false),
        kind::BEGIN | kind::EPOCH | kind::DETERMINED => (6, false),
        kind::PREPARE => (14, false),
        kind::HOLDING | kind::RELEASED | kind::WITHDRAWN => (10, false),
        kind::COMPARED => (11, false),
        kind::HANDLED => (3, true),
        kind::LETTER => (2, true),
        kind::OTHER_LIFE | kind::ACKNOWLEDGE => (8, false),
        _ => return None,
    })
}

/// What an item says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// As a frame of version 2; those of flows say all of a flow.
    Frame(Frame),
    /// A flow has changed, and is known by this reference from now on. The epoch of the record is the
    /// one that [`Item::Epoch`] has said last of its bucket.
    Introduce {
        /// The reference; `None` if it gets none.
        reference: Option<Reference>,
        /// The flow.
        record: FlowRecord,
    },
    /// A flow that was introduced has changed. The epoch is as of [`Item::Introduce`].
    Change {
        /// Which flow.
        reference: Reference,
        /// Its phase.
        phase: Phase,
        /// Whether the responder has answered.
        confirmed: bool,
        /// The number of changes so far.
        sequence: u32,
    },
    /// A flow that was introduced is gone, whatever its last state was.
    Leave {
        /// Which flow.
        reference: Reference,
    },
    /// A flow of the snapshot that is under way, known by this reference from now on.
    Snapshot {
        /// The reference; `None` if it gets none.
        reference: Option<Reference>,
        /// The flow.
        record: FlowRecord,
    },
    /// The receiver of this knows no flow by this reference: introduce it again.
    Forgotten {
        /// The reference.
        reference: Reference,
    },
    /// What is said of flows of this bucket from now on is said under this epoch.
    Epoch {
        /// The bucket.
        bucket: BucketId,
        /// The epoch.
        epoch: Epoch,
    },
}

impl Item {
    /// The number of its kind.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Introduce { record, .. } | Self::Frame(Frame::Upsert(record)) => {
                match record.translation {
                    Some(_) => kind::INTRODUCE_TRANSLATED,
                    None => kind::INTRODUCE_4 + wide(record),
                }
            }
            Self::Change { .. } => kind::CHANGE,
            Self::Leave { .. } => kind::LEAVE,
            Self::Snapshot { record, .. } | Self::Frame(Frame::Snapshot(record)) => {
                match record.translation {
                    Some(_) => kind::SNAPSHOT_TRANSLATED,
                    None => kind::SNAPSHOT_4 + wide(record),
                }
            }
            Self::Forgotten { .. } => kind::FORGOTTEN,
            Self::Epoch { .. } => kind::EPOCH,
            Self::Frame(Frame::Remove(record)) => kind::REMOVE_4 + wide(record),
            Self::Frame(Frame::Check { .. }) => kind::CHECK,
            Self::Frame(Frame::Want { .. }) => kind::WANT,
            Self::Frame(Frame::Begin { .. }) => kind::BEGIN,
            Self::Frame(Frame::End { .. }) => kind::END,
            Self::Frame(Frame::Acknowledge { .. }) => kind::ACKNOWLEDGE,
            Self::Frame(Frame::Prepare { .. }) => kind::PREPARE,
            Self::Frame(Frame::Holding { .. }) => kind::HOLDING,
            Self::Frame(Frame::Handled { .. }) => kind::HANDLED,
            Self::Frame(Frame::Released { .. }) => kind::RELEASED,
            Self::Frame(Frame::Withdrawn { .. }) => kind::WITHDRAWN,
            Self::Frame(Frame::Letter { .. }) => kind::LETTER,
            Self::Frame(Frame::OtherLife { .. }) => kind::OTHER_LIFE,
            Self::Frame(Frame::Compared { .. }) => kind::COMPARED,
            Self::Frame(Frame::Determine { record, .. }) => kind::DETERMINE_4 + wide(record),
            Self::Frame(Frame::Determined { .. }) => kind::DETERMINED,
        }
    }

    /// Appends the item, without a head.
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Introduce { reference, ref record } => put_whole(reference, record, out),
            Self::Frame(Frame::Upsert(ref record)) => put_whole(None, record, out),
            Self::Change { reference, phase, confirmed, sequence } => {
                let [r0, r1, r2, _] = reference.number().to_le_bytes();
                let [s0, s1, s2, s3] = sequence.to_le_bytes();
                out.extend_from_slice(&[r0, r1, r2, phase_byte(phase, confirmed), s0, s1, s2, s3]);
            }
            Self::Leave { reference } | Self::Forgotten { reference } => {
                out.extend_from_slice(&reference.number().to_le_bytes()[..3]);
            }
            Self::Snapshot { reference, ref record } => {
                put_whole(reference, record, out);
                out.extend_from_slice(&record.epoch.0.to_le_bytes());
            }
            Self::Frame(Frame::Snapshot(ref record)) => {
                put_whole(None, record, out);
                out.extend_from_slice(&record.epoch.0.to_le_bytes());
            }
            Self::Frame(Frame::Remove(ref record)) => {
                put_flow(None, record, wide(record) == 1, out);
                out.extend_from_slice(&record.epoch.0.to_le_bytes());
            }
            Self::Frame(Frame::Determine { number, ref record }) => {
                put_flow(None, record, wide(record) == 1, out);
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Epoch { bucket, epoch } => put_bucket(bucket, &epoch.0.to_le_bytes(), out),
            Self::Frame(ref frame) => put_frame(frame, out),
        }
    }

    /// Reads an item of a kind and a size that [`Head::check`] lets pass.
    ///
    /// # Errors
    ///
    /// [`SyncError::Frame`] if the bytes mean nothing.
    pub fn decode(kind: u8, bytes: &[u8]) -> Result<Self, SyncError> {
        let known = kind & !CRITICAL;
        let mut reader = Reader::new(bytes);
        let item = match known {
            kind::INTRODUCE_4 | kind::INTRODUCE_6 => flow(&mut reader, known == kind::INTRODUCE_6)
                .map(|(reference, record)| Self::Introduce { reference, record }),
            kind::CHANGE => change(&mut reader),
            kind::LEAVE => reference(&mut reader).map(|reference| Self::Leave { reference }),
            kind::FORGOTTEN => {
                reference(&mut reader).map(|reference| Self::Forgotten { reference })
            }
            kind::INTRODUCE_TRANSLATED => translated(&mut reader)
                .map(|(reference, record)| Self::Introduce { reference, record }),
            kind::SNAPSHOT_TRANSLATED => translated_with_epoch(&mut reader)
                .map(|(reference, record)| Self::Snapshot { reference, record }),
            kind::SNAPSHOT_4 | kind::SNAPSHOT_6 => {
                flow_with_epoch(&mut reader, known == kind::SNAPSHOT_6)
                    .map(|(reference, record)| Self::Snapshot { reference, record })
            }
            kind::REMOVE_4 | kind::REMOVE_6 => {
                match flow_with_epoch(&mut reader, known == kind::REMOVE_6) {
                    Ok((None, record)) => Ok(Self::Frame(Frame::Remove(record))),
                    _ => Err(Meaningless),
                }
            }
            kind::DETERMINE_4 | kind::DETERMINE_6 => {
                match flow_with_epoch(&mut reader, known == kind::DETERMINE_6) {
                    Ok((
                        None,
                        FlowRecord { translation: None, epoch: Epoch(number), bucket, key, state },
                    )) => {
                        let record =
                            FlowRecord { translation: None, bucket, epoch: Epoch(0), key, state };
                        Ok(Self::Frame(Frame::Determine { number, record }))
                    }
                    _ => Err(Meaningless),
                }
            }
            kind::EPOCH => {
                bucket_and_epoch(&mut reader).map(|(bucket, epoch)| Self::Epoch { bucket, epoch })
            }
            _ => read_frame(known, &mut reader).map(Self::Frame),
        };
        // Of what varies in size, all has a meaning, or is not to be skipped.
        let whole = kind & CRITICAL == 0 || reader.remaining() == 0;
        item.ok().filter(|_| whole).ok_or(SyncError::Frame { kind })
    }
}

/// The bytes mean nothing, or there are too few.
struct Meaningless;

impl From<Truncated> for Meaningless {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// What is added to a kind for IPv6: a flow that has an IPv6 address at either end.
fn wide(record: &FlowRecord) -> u8 {
    u8::from(!(record.key.initiator.address.is_v4() && record.key.responder.address.is_v4()))
}

fn phase_byte(phase: Phase, confirmed: bool) -> u8 {
    phase as u8 | u8::from(confirmed) << 7
}

fn put_bucket(bucket: BucketId, rest: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&bucket.0.to_le_bytes());
    out.extend_from_slice(rest);
}

/// A flow with what it is translated to: then always with addresses of 16 bytes, and behind it those that it is
/// translated to, source and destination, and both ports.
fn put_whole(reference: Option<Reference>, record: &FlowRecord, out: &mut Vec<u8>) {
    let Some(Translation { source, destination }) = record.translation else {
        return put_flow(reference, record, wide(record) == 1, out);
    };
    put_flow(reference, record, true, out);
    out.extend_from_slice(&source.address.to_bytes());
    out.extend_from_slice(&destination.address.to_bytes());
    out.extend_from_slice(&source.port.to_le_bytes());
    out.extend_from_slice(&destination.port.to_le_bytes());
}

/// Reference, phase, bucket, rule, sequence, both addresses, both ports, protocol.
fn put_flow(reference: Option<Reference>, record: &FlowRecord, wide: bool, out: &mut Vec<u8>) {
    let FlowRecord { bucket, key, state, .. } = record;
    let mut head = [0; 12];
    let number = reference.map_or(MAX_REFERENCES, Reference::number);
    head[..4].copy_from_slice(&number.to_le_bytes());
    head[3] = phase_byte(state.phase, state.confirmed);
    head[4..6].copy_from_slice(&bucket.0.to_le_bytes());
    head[6..8].copy_from_slice(&state.rule.to_le_bytes());
    head[8..].copy_from_slice(&state.sequence.to_le_bytes());
    out.extend_from_slice(&head);
    let (from, to) = (key.initiator, key.responder);
    if let (false, Some(from), Some(to)) = (wide, from.address.as_v4(), to.address.as_v4()) {
        let mut both = [0; 8];
        both[..4].copy_from_slice(&from.to_be_bytes());
        both[4..].copy_from_slice(&to.to_be_bytes());
        out.extend_from_slice(&both);
    } else {
        out.extend_from_slice(&from.address.to_bytes());
        out.extend_from_slice(&to.address.to_bytes());
    }
    let ([f0, f1], [t0, t1]) = (from.port.to_le_bytes(), to.port.to_le_bytes());
    out.extend_from_slice(&[f0, f1, t0, t1, key.protocol.0]);
}

fn put_frame(frame: &Frame, out: &mut Vec<u8>) {
    match *frame {
        Frame::Check { bucket, epoch, digest, count } => {
            put_bucket(bucket, &epoch.0.to_le_bytes(), out);
            out.extend_from_slice(&digest.to_le_bytes());
            out.extend_from_slice(&count.to_le_bytes());
        }
        Frame::Want { bucket } | Frame::End { bucket } => put_bucket(bucket, &[], out),
        Frame::Begin { bucket, epoch } => put_bucket(bucket, &epoch.0.to_le_bytes(), out),
        Frame::Acknowledge { frames } => out.extend_from_slice(&frames.to_le_bytes()),
        Frame::Prepare { bucket, since, epoch } => {
            put_bucket(bucket, &since.0.to_le_bytes(), out);
            out.extend_from_slice(&epoch.0.to_le_bytes());
        }
        Frame::Holding { bucket, since }
        | Frame::Released { bucket, since }
        | Frame::Withdrawn { bucket, since } => put_bucket(bucket, &since.0.to_le_bytes(), out),
        Frame::Handled { bucket, count, packets } => {
            put_bucket(bucket, &[count], out);
            for packet in packets.iter().take(usize::from(count)) {
                out.extend_from_slice(&packet.to_le_bytes());
            }
        }
        Frame::Letter { length, last, bytes } => {
            out.extend_from_slice(&[length, u8::from(last)]);
            out.extend_from_slice(bytes.get(..usize::from(length)).unwrap_or(&bytes));
        }
        Frame::Compared { bucket, check, verdict } => {
            put_bucket(bucket, &[verdict as u8], out);
            out.extend_from_slice(&check.to_le_bytes());
        }
        Frame::OtherLife { heard } => out.extend_from_slice(&heard.0.to_le_bytes()),
        Frame::Determined { number, answer, copies } => {
            out.extend_from_slice(&number.to_le_bytes());
            out.extend_from_slice(&[answer as u8, copies]);
        }
        // Flows have layouts of their own.
        Frame::Upsert(_) | Frame::Remove(_) | Frame::Snapshot(_) | Frame::Determine { .. } => {}
    }
}

fn number(reader: &mut Reader<'_>) -> Result<u32, Truncated> {
    let [r0, r1, r2] = reader.array()?;
    Ok(u32::from_le_bytes([r0, r1, r2, 0]))
}

fn reference(reader: &mut Reader<'_>) -> Result<Reference, Meaningless> {
    Reference::new(number(reader)?).ok_or(Meaningless)
}

fn phase(byte: u8) -> Result<(Phase, bool), Meaningless> {
    Ok((Phase::from_bits(byte & 0x7f).ok_or(Meaningless)?, byte & 0x80 != 0))
}

fn change(reader: &mut Reader<'_>) -> Result<Item, Meaningless> {
    let reference = reference(reader)?;
    let (phase, confirmed) = phase(reader.u8()?)?;
    Ok(Item::Change { reference, phase, confirmed, sequence: reader.u32()? })
}

/// One of a flow's addresses. Inlined, because what a call returns by way of memory has to wait until all
/// that was written before is in the cache, which for a new flow it is not.
#[inline(always)]
fn address(reader: &mut Reader<'_>, wide: bool) -> Result<Address, Truncated> {
    Ok(if wide {
        Address::from_bytes(reader.array()?)
    } else {
        Address::v4(u32::from_be_bytes(reader.array()?))
    })
}

/// What [`put_flow`] has written; the epoch is for the caller to say.
fn flow(
    reader: &mut Reader<'_>,
    wide: bool,
) -> Result<(Option<Reference>, FlowRecord), Meaningless> {
    let reference = Reference::new(number(reader)?);
    let (phase, confirmed) = phase(reader.u8()?)?;
    let (bucket, rule, sequence) = (BucketId(reader.u16()?), reader.u16()?, reader.u32()?);
    let (from, to) = (address(reader, wide)?, address(reader, wide)?);
    let initiator = Endpoint { address: from, port: reader.u16()? };
    let responder = Endpoint { address: to, port: reader.u16()? };
    let key = FlowKey { initiator, responder, protocol: Protocol(reader.u8()?) };
    let state = FlowState { phase, confirmed, rule, sequence };
    Ok((reference, FlowRecord { translation: None, bucket, epoch: Epoch(0), key, state }))
}

fn flow_with_epoch(
    reader: &mut Reader<'_>,
    wide: bool,
) -> Result<(Option<Reference>, FlowRecord), Meaningless> {
    let (reference, record) = flow(reader, wide)?;
    Ok((reference, FlowRecord { epoch: Epoch(reader.u32()?), ..record }))
}

fn translated(reader: &mut Reader<'_>) -> Result<(Option<Reference>, FlowRecord), Meaningless> {
    let (reference, record) = flow(reader, true)?;
    let (from, to) = (address(reader, true)?, address(reader, true)?);
    let source = Endpoint { address: from, port: reader.u16()? };
    let destination = Endpoint { address: to, port: reader.u16()? };
    Ok((reference, FlowRecord { translation: Some(Translation { source, destination }), ..record }))
}

fn translated_with_epoch(
    reader: &mut Reader<'_>,
) -> Result<(Option<Reference>, FlowRecord), Meaningless> {
    let (reference, record) = translated(reader)?;
    Ok((reference, FlowRecord { epoch: Epoch(reader.u32()?), ..record }))
}

fn bucket_and_epoch(reader: &mut Reader<'_>) -> Result<(BucketId, Epoch), Meaningless> {
    Ok((BucketId(reader.u16()?), Epoch(reader.u32()?)))
}

/// A frame that is not of a flow.
fn read_frame(kind: u8, reader: &mut Reader<'_>) -> Result<Frame, Meaningless> {
    if let kind::ACKNOWLEDGE | kind::OTHER_LIFE = kind {
        let number = reader.u64()?;
        return Ok(match kind {
            kind::ACKNOWLEDGE => Frame::Acknowledge { frames: number },
            _ => Frame::OtherLife { heard: Incarnation(number) },
        });
    }
    if kind == kind::LETTER {
        let [length, last] = reader.array()?;
        let last = [false, true].get(usize::from(last)).copied().ok_or(Meaningless)?;
        let mut bytes = [0; LETTER];
        let part = bytes.get_mut(..usize::from(length)).ok_or(Meaningless)?;
        part.copy_from_slice(reader.bytes(part.len())?);
        return Ok(Frame::Letter { length, last, bytes });
    }
    if kind == kind::DETERMINED {
        let number = reader.u32()?;
        let [answer, copies] = reader.array()?;
        let answer = Answer::from_number(answer.into()).ok_or(Meaningless)?;
        return Ok(Frame::Determined { number, answer, copies });
    }
    let bucket = BucketId(reader.u16()?);
    Ok(match kind {
        kind::CHECK => {
            let (epoch, digest) = (Epoch(reader.u32()?), reader.u64()?);
            Frame::Check { bucket, epoch, digest, count: reader.u32()? }
        }
        kind::WANT => Frame::Want { bucket },
        kind::BEGIN => Frame::Begin { bucket, epoch: Epoch(reader.u32()?) },
        kind::END => Frame::End { bucket },
        kind::PREPARE => {
            let since = Version(reader.u64()?);
            Frame::Prepare { bucket, since, epoch: Epoch(reader.u32()?) }
        }
        kind::HOLDING => Frame::Holding { bucket, since: Version(reader.u64()?) },
        kind::HANDLED => {
            let (count, mut packets) = (reader.u8()?, [0; HANDLED]);
            for packet in packets.get_mut(..usize::from(count)).ok_or(Meaningless)? {
                *packet = reader.u64()?;
            }
            Frame::Handled { bucket, count, packets }
        }
        kind::COMPARED => {
            let verdict = Verdict::from_number(reader.u8()?.into()).ok_or(Meaningless)?;
            Frame::Compared { bucket, check: reader.u64()?, verdict }
        }
        kind::RELEASED => Frame::Released { bucket, since: Version(reader.u64()?) },
        kind::WITHDRAWN => Frame::Withdrawn { bucket, since: Version(reader.u64()?) },
        _ => return Err(Meaningless),
    })
}

#[cfg(test)]
mod tests;
