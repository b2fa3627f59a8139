//! What nodes say to each other, and version 2 of how it is written: frames of one size.
//!
//! This is how a node of the release before is spoken to; [`super::layout`] is how others are. Every frame
//! has eight 64-bit words, little-endian:
//!
//! ```text
//! word 0      kind; its upper 56 bits are zero
//! words 1-7   upsert, snapshot, remove: the record, as in the packet crate
//!             check, begin:  bucket, epoch, digest, count (0 where unused), zero …
//!             want, end:     bucket, zero …
//!             acknowledge:   how many frames have been handled, zero …
//!             prepare, holding, released, withdrawn: bucket, version, epoch (prepare only), zero …
//!             handled:       bucket, number of packets, up to five packet hashes, zero …
//!             letter:        length | last << 8, then the bytes, zero …
//!             other life:    the life that is heard, zero …
//!             compared:      bucket, the number of the check's frame, verdict (0 equal, 1 differs,
//!                            2 not the owner, 3 outdated), zero …
//!             determine:     the record, with the request's number for its epoch
//!             determined:    the request's number, answer (0 there, 1 was there, 2 not the owner,
//!                            3 full, 4 busy), how many others know it, zero …
//! ```
//!
//! Frames of one size need no length to be trusted, and a reader never holds more than one.

use super::SyncError;
use super::comparing::Verdict;
use super::determining::Answer;
use crate::heartbeat::Incarnation;
use crate::map::Version;
use crate::wire::Reader;
use testudo_packet::bucket::{BucketId, Epoch};
use testudo_packet::entry::{FlowRecord, RECORD_WORDS};

/// The length of every frame.
pub const FRAME_BYTES: usize = 8 * (RECORD_WORDS + 1);

/// What one node tells another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A flow has changed. Loses against a newer state.
    Upsert(FlowRecord),
    /// A flow is gone, as of this state. Loses against a newer state.
    Remove(FlowRecord),
    /// This is what the owner's table holds of a bucket; [`Frame::Want`] it if yours differs.
    Check {
        /// The bucket.
        bucket: BucketId,
        /// Since when the sender owns it.
        epoch: Epoch,
        /// The digest of the bucket.
        digest: u64,
        /// The number of its flows.
        count: u32,
    },
    /// Send all of this bucket.
    Want {
        /// The bucket.
        bucket: BucketId,
    },
    /// All flows of this bucket follow.
    Begin {
        /// The bucket.
        bucket: BucketId,
        /// Since when the sender owns it.
        epoch: Epoch,
    },
    /// One of them. Wins against any state: it is the owner's word.
    Snapshot(FlowRecord),
    /// That was all; whatever else the receiver has in this bucket is gone.
    End {
        /// The bucket.
        bucket: BucketId,
    },
    /// So many frames, acknowledgements not counted, have been handled since the stream began.
    Acknowledge {
        /// How many.
        frames: u64,
    },
    /// The sender is to hand this bucket over to the receiver: hold its packets from now on.
    Prepare {
        /// The bucket.
        bucket: BucketId,
        /// The version of the map that says so.
        since: Version,
        /// The epoch under which the receiver will own it.
        epoch: Epoch,
    },
    /// The sender holds the packets of this bucket.
    Holding {
        /// The bucket.
        bucket: BucketId,
        /// The version of the map by which it is to get it.
        since: Version,
    },
    /// The sender has handled these packets of a bucket while the receiver held them.
    Handled {
        /// The bucket.
        bucket: BucketId,
        /// How many of the hashes there are.
        count: u8,
        /// Hashes of packets.
        packets: [u64; HANDLED],
    },
    /// The sender does not handle this bucket any more, and has told all of it.
    Released {
        /// The bucket.
        bucket: BucketId,
        /// The version of the map by which the receiver gets it.
        since: Version,
    },
    /// The bucket stays with the sender: let its packets go.
    Withdrawn {
        /// The bucket.
        bucket: BucketId,
        /// The version of the map by which the receiver was to get it.
        since: Version,
    },
    /// A part of a letter of the coordinator.
    Letter {
        /// How many of the bytes there are.
        length: u8,
        /// Whether the letter ends here.
        last: bool,
        /// The part.
        bytes: [u8; LETTER],
    },
    /// The last word of a stream: the sender hears the heartbeats of another life of the receiver.
    OtherLife {
        /// The life that it hears.
        heard: Incarnation,
    },
    /// The answer to a [`Frame::Check`].
    Compared {
        /// The bucket.
        bucket: BucketId,
        /// Which check: how many frames the receiver of this had sent with it, as in
        /// [`Frame::Acknowledge`].
        check: u64,
        /// How the sender's copy was when it had handled all frames before.
        verdict: Verdict,
    },
    /// The sender has determined this flow, and takes the receiver for the owner of its bucket: let it in.
    Determine {
        /// What the answer is to be known by. On the wire it has the place of the record's epoch, which
        /// is the owner's to say.
        number: u32,
        /// The flow, in epoch 0.
        record: FlowRecord,
    },
    /// The answer to a [`Frame::Determine`].
    Determined {
        /// The number given there.
        number: u32,
        /// What has come of it.
        answer: Answer,
        /// How many nodes are known to have the flow besides the sender.
        copies: u8,
    },
}

/// The most hashes in one frame.
pub const HANDLED: usize = 5;

/// The most bytes of a letter in one frame.
pub const LETTER: usize = 48;

impl Frame {
    fn words(&self) -> (u8, [u64; RECORD_WORDS]) {
        let words = |bucket: BucketId, epoch: Epoch, digest, count: u32| {
            let (bucket, epoch) = (u64::from(bucket.0), u64::from(epoch.0));
            [bucket, epoch, digest, u64::from(count), 0, 0, 0]
        };
        match *self {
            Self::Upsert(record) => (1, record.to_words()),
            Self::Remove(record) => (2, record.to_words()),
            Self::Check { bucket, epoch, digest, count } => {
                (3, words(bucket, epoch, digest, count))
            }
            Self::Want { bucket } => (4, words(bucket, Epoch(0), 0, 0)),
            Self::Begin { bucket, epoch } => (5, words(bucket, epoch, 0, 0)),
            Self::Snapshot(record) => (6, record.to_words()),
            Self::End { bucket } => (7, words(bucket, Epoch(0), 0, 0)),
            Self::Acknowledge { frames } => (8, [frames, 0, 0, 0, 0, 0, 0]),
            Self::Prepare { bucket, since, epoch } => (9, move_words(bucket, since, epoch)),
            Self::Holding { bucket, since } => (10, move_words(bucket, since, Epoch(0))),
            Self::Handled { bucket, count, packets: [a, b, c, d, e] } => {
                (11, [u64::from(bucket.0), u64::from(count), a, b, c, d, e])
            }
            Self::Released { bucket, since } => (12, move_words(bucket, since, Epoch(0))),
            Self::Withdrawn { bucket, since } => (13, move_words(bucket, since, Epoch(0))),
            Self::Letter { length, last, bytes } => {
                let mut words = [u64::from(length) | u64::from(last) << 8, 0, 0, 0, 0, 0, 0];
                for (word, bytes) in words[1..].iter_mut().zip(bytes.chunks_exact(8)) {
                    *word = u64::from_le_bytes(*bytes.first_chunk().expect("eight of them"));
                }
                (14, words)
            }
            Self::OtherLife { heard } => (15, [heard.0, 0, 0, 0, 0, 0, 0]),
            Self::Compared { bucket, check, verdict } => {
                (16, [u64::from(bucket.0), check, verdict as u64, 0, 0, 0, 0])
            }
            Self::Determine { number, record } => {
                (17, FlowRecord { epoch: Epoch(number), ..record }.to_words())
            }
            Self::Determined { number, answer, copies } => {
                (18, [u64::from(number), answer as u64, u64::from(copies), 0, 0, 0, 0])
            }
        }
    }

    /// Appends the frame to a stream.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (kind, words) = self.words();
        for word in [u64::from(kind)].into_iter().chain(words) {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads a frame.
    ///
    /// # Errors
    ///
    /// [`SyncError::Frame`] if the bytes are not exactly what [`Self::encode`] makes of some frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, SyncError> {
        let kind = bytes.first().copied().unwrap_or(0);
        let wrong = SyncError::Frame { kind };
        let mut reader = Reader::new(bytes);
        let mut words = [0; RECORD_WORDS + 1];
        for word in &mut words {
            *word = reader.u64().map_err(|_| wrong.clone())?;
        }
        let [first, rest @ ..] = words;
        let record = || FlowRecord::from_words(rest);
        let bucket = BucketId(rest[0] as u16);
        let epoch = Epoch(rest[1] as u32);
        let frame = match first {
            1 => record().map(Self::Upsert),
            2 => record().map(Self::Remove),
            3 => Some(Self::Check { bucket, epoch, digest: rest[2], count: rest[3] as u32 }),
            4 => Some(Self::Want { bucket }),
            5 => Some(Self::Begin { bucket, epoch }),
            6 => record().map(Self::Snapshot),
            7 => Some(Self::End { bucket }),
            8 => Some(Self::Acknowledge { frames: rest[0] }),
            17 => record().map(|record| Self::Determine {
                number: record.epoch.0,
                record: FlowRecord { epoch: Epoch(0), ..record },
            }),
            _ => decode_move(first, rest),
        };
        // Bits that the frame has no meaning for must be zero, so that they can get one later.
        let exact = frame.filter(|frame| frame.words() == (kind, rest) && reader.remaining() == 0);
        exact.ok_or(wrong)
    }
}

fn move_words(bucket: BucketId, since: Version, epoch: Epoch) -> [u64; RECORD_WORDS] {
    [u64::from(bucket.0), since.0, u64::from(epoch.0), 0, 0, 0, 0]
}

/// The frames of moves, letters and ends.
fn decode_move(kind: u64, rest: [u64; RECORD_WORDS]) -> Option<Frame> {
    let (bucket, since) = (BucketId(rest[0] as u16), Version(rest[1]));
    Some(match kind {
        9 => Frame::Prepare { bucket, since, epoch: Epoch(rest[2] as u32) },
        10 => Frame::Holding { bucket, since },
        11 => {
            let count = u8::try_from(rest[1]).ok()?;
            let packets = *rest[2..].first_chunk()?;
            let unused = packets.get(usize::from(count)..)?;
            if unused.iter().any(|&hash| hash != 0) {
                return None;
            }
            Frame::Handled { bucket, count, packets }
        }
        12 => Frame::Released { bucket, since },
        13 => Frame::Withdrawn { bucket, since },
        14 => {
            let mut bytes = [0; LETTER];
            for (to, word) in bytes.chunks_exact_mut(8).zip(&rest[1..]) {
                to.copy_from_slice(&word.to_le_bytes());
            }
            let length = rest[0] as u8;
            let unused = bytes.get(usize::from(length)..)?;
            if unused.iter().any(|&byte| byte != 0) {
                return None;
            }
            Frame::Letter { length, last: rest[0] >> 8 & 1 != 0, bytes }
        }
        15 => Frame::OtherLife { heard: Incarnation(rest[0]) },
        16 => Frame::Compared { bucket, check: rest[1], verdict: Verdict::from_number(rest[2])? },
        18 => {
            let (number, answer) = (rest[0] as u32, Answer::from_number(rest[1])?);
            Frame::Determined { number, answer, copies: rest[2] as u8 }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use testudo_packet::entry::FlowState;
    use testudo_packet::flow::FlowKey;
    use testudo_packet::tracking::Phase;

    #[test]
    fn every_frame_survives_its_bytes() {
        let record = FlowRecord {
            translation: None,
            bucket: BucketId(9),
            epoch: Epoch(3),
            key: FlowKey::default(),
            state: FlowState { phase: Phase::Replied, confirmed: true, rule: 2, sequence: 8 },
        };
        let (bucket, epoch) = (BucketId(7), Epoch(1 << 31));
        for frame in [
            Frame::Upsert(record),
            Frame::Remove(record),
            Frame::Check { bucket, epoch, digest: u64::MAX, count: 5 },
            Frame::Want { bucket },
            Frame::Begin { bucket, epoch },
            Frame::Snapshot(record),
            Frame::End { bucket },
            Frame::Acknowledge { frames: u64::MAX },
            Frame::Prepare { bucket, since: Version(4), epoch },
            Frame::Holding { bucket, since: Version(4) },
            Frame::Handled { bucket, count: 2, packets: [1, u64::MAX, 0, 0, 0] },
            Frame::Released { bucket, since: Version(4) },
            Frame::Withdrawn { bucket, since: Version(4) },
            Frame::Letter { length: LETTER as u8, last: true, bytes: [3; LETTER] },
            Frame::OtherLife { heard: Incarnation(u64::MAX) },
            Frame::Compared { bucket, check: 3, verdict: Verdict::NotOwner },
            Frame::Compared { bucket, check: 4, verdict: Verdict::Outdated },
            Frame::Determine { number: u32::MAX, record: FlowRecord { epoch: Epoch(0), ..record } },
            Frame::Determined { number: u32::MAX, answer: Answer::Busy, copies: u8::MAX },
        ] {
            let mut bytes = Vec::new();
            frame.encode(&mut bytes);
            assert_eq!(bytes.len(), FRAME_BYTES);
            assert_eq!(Frame::decode(&bytes), Ok(frame));
            assert!(Frame::decode(&bytes[1..]).is_err());
            // A bit in the part of the head that has no meaning.
            bytes[5] = 1;
            assert_eq!(Frame::decode(&bytes), Err(SyncError::Frame { kind: bytes[0] }));
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_frame_or_an_error(kind in 0u8..20, rest in prop::array::uniform32(0u8..)) {
            let mut bytes = vec![0; FRAME_BYTES];
            bytes[0] = kind;
            bytes[FRAME_BYTES - 32..].copy_from_slice(&rest);
            if let Ok(frame) = Frame::decode(&bytes) {
                let mut again = Vec::new();
                frame.encode(&mut again);
                prop_assert_eq!(again, bytes);
            }
        }
    }
}
