//! What nodes tell each other beside entries, over the same streams.
//!
//! ```text
//! 0 kind u8
//! 1 agreement:  a message of the coordinator
//!   loads:      time u64 (ns), then for each bucket: bucket u16, packets u64, bytes u64,
//!               new flows u64, tunnels u64
//!   interfaces: for each configured interface, in order: MAC address u64
//!   renew:      nothing
//!   verify:     number u64
//!   verified:   number u64, then, unless the sender was busy: buckets u32, moved u32, and for each
//!               peer: node u8, equal u32, differ u32, open u32, count u8, so many buckets u16
//! ```
//!
//! All numbers are little-endian.

use std::time::Duration;

use testudo_cluster::plan::Load;
use testudo_cluster::replica::{Copies, Verification};
use testudo_packet::bucket::{BucketId, NodeId};
use testudo_packet::env::Mac;

/// A letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// Of the coordinator.
    Agreement(Vec<u8>),
    /// What the sender's buckets have carried.
    Loads {
        /// Over how long.
        time: Duration,
        /// Each bucket with something to tell.
        loads: Vec<(BucketId, Load)>,
    },
    /// By which MAC addresses the sender is reached, by the place of the interface in its
    /// configuration.
    Interfaces(Vec<Mac>),
    /// The sender has new certificates: whoever has dialled it is to dial it anew.
    Renew,
    /// Compare your buckets with all your peers, and tell what that has come to.
    Verify {
        /// What to tell it by.
        number: u64,
    },
    /// What it has come to.
    Verified {
        /// What it was asked for by.
        number: u64,
        /// What it is; nothing, if the sender has too much of this to do already.
        verification: Option<Verification>,
    },
}

/// Bytes that are no letter: the peer runs another release. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a letter of kind {kind} and {length} bytes that means nothing; expected kinds 0 to 5")]
pub struct LetterError {
    kind: u8,
    length: usize,
}

const AGREEMENT: u8 = 0;
const LOADS: u8 = 1;
const INTERFACES: u8 = 2;
const RENEW: u8 = 3;
const VERIFY: u8 = 4;
const VERIFIED: u8 = 5;

/// The length of one bucket's load.
const LOAD_BYTES: usize = 34;

impl Letter {
    /// The bytes of the letter.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Agreement(bytes) => [&[AGREEMENT], bytes.as_slice()].concat(),
            Self::Loads { time, loads } => {
                let mut out = vec![LOADS];
                out.extend((time.as_nanos() as u64).to_le_bytes());
                for (bucket, load) in loads {
                    out.extend(bucket.0.to_le_bytes());
                    for number in [load.packets, load.bytes, load.new_flows, load.tunnels] {
                        out.extend(number.to_le_bytes());
                    }
                }
                out
            }
            Self::Interfaces(macs) => {
                let macs = macs.iter().flat_map(|mac| mac.0.to_le_bytes());
                [INTERFACES].into_iter().chain(macs).collect()
            }
            Self::Renew => vec![RENEW],
            Self::Verify { number } => [&[VERIFY], number.to_le_bytes().as_slice()].concat(),
            Self::Verified { number, verification } => {
                let mut out = [&[VERIFIED], number.to_le_bytes().as_slice()].concat();
                if let Some(verification) = verification {
                    write_verification(&mut out, verification);
                }
                out
            }
        }
    }

    /// Reads a letter.
    pub fn decode(bytes: &[u8]) -> Result<Self, LetterError> {
        let kind = bytes.first().copied().unwrap_or(u8::MAX);
        read(bytes).ok_or(LetterError { kind, length: bytes.len() })
    }
}

fn read(bytes: &[u8]) -> Option<Letter> {
    let (&kind, rest) = bytes.split_first()?;
    Some(match kind {
        AGREEMENT => Letter::Agreement(rest.to_vec()),
        LOADS => {
            let (time, rest) = rest.split_first_chunk()?;
            let time = Duration::from_nanos(u64::from_le_bytes(*time));
            let (loads, left) = rest.as_chunks::<LOAD_BYTES>();
            let loads = left.is_empty().then(|| loads.iter().map(read_load).collect())?;
            Letter::Loads { time, loads }
        }
        INTERFACES => {
            let (macs, left) = rest.as_chunks();
            let macs = macs.iter().map(|mac| Mac(u64::from_le_bytes(*mac)));
            Letter::Interfaces(left.is_empty().then(|| macs.collect())?)
        }
        RENEW if rest.is_empty() => Letter::Renew,
        VERIFY => {
            let (number, left) = rest.split_first_chunk()?;
            let number = u64::from_le_bytes(*number);
            left.is_empty().then_some(Letter::Verify { number })?
        }
        VERIFIED => {
            let (number, rest) = rest.split_first_chunk()?;
            let verification = match rest {
                [] => None,
                rest => Some(read_verification(rest)?),
            };
            Letter::Verified { number: u64::from_le_bytes(*number), verification }
        }
        _ => return None,
    })
}

fn write_verification(out: &mut Vec<u8>, verification: &Verification) {
    for number in [verification.buckets, verification.moved] {
        out.extend(number.to_le_bytes());
    }
    for Copies { peer, equal, differ, different, open } in &verification.peers {
        out.push(peer.0);
        for number in [equal, differ, open] {
            out.extend(number.to_le_bytes());
        }
        out.push(different.len() as u8);
        out.extend(different.iter().flat_map(|bucket| bucket.0.to_le_bytes()));
    }
}

fn read_verification(bytes: &[u8]) -> Option<Verification> {
    let (head, mut rest) = bytes.split_first_chunk::<8>()?;
    let [buckets, moved] = words(head);
    let mut peers = Vec::new();
    while let Some((&peer, after)) = rest.split_first() {
        let (numbers, after) = after.split_first_chunk::<12>()?;
        let [equal, differ, open] = words(numbers);
        let (&count, after) = after.split_first()?;
        let (named, after) = after.split_at_checked(2 * usize::from(count))?;
        let named = named.as_chunks().0.iter();
        let different = named.map(|bucket| BucketId(u16::from_le_bytes(*bucket))).collect();
        peers.push(Copies { peer: NodeId(peer), equal, differ, different, open });
        rest = after;
    }
    Some(Verification { buckets, moved, peers })
}

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    let words = bytes.as_chunks().0;
    std::array::from_fn(|at| words.get(at).map_or(0, |word| u32::from_le_bytes(*word)))
}

fn read_load(bytes: &[u8; LOAD_BYTES]) -> (BucketId, Load) {
    let number = |at: usize| {
        let word = bytes.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    };
    let bucket = BucketId(u16::from_le_bytes([bytes[0], bytes[1]]));
    let load =
        Load { packets: number(2), bytes: number(10), new_flows: number(18), tunnels: number(26) };
    (bucket, load)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_survive_their_bytes_and_nothing_else_is_one() {
        let copies = |peer, different: &[u16]| Copies {
            peer: NodeId(peer),
            equal: 1 << 16,
            differ: 3,
            different: different.iter().map(|&bucket| BucketId(bucket)).collect(),
            open: 4,
        };
        let peers = vec![copies(2, &[]), copies(0, &[9, u16::MAX])];
        let verification = Verification { buckets: 85, moved: 1, peers };
        let load = Load { packets: 1, bytes: u64::MAX, new_flows: 3, tunnels: 4 };
        for letter in [
            Letter::Agreement(vec![1, 2, 3]),
            Letter::Loads { time: Duration::from_millis(7), loads: vec![(BucketId(9), load)] },
            Letter::Interfaces(vec![Mac(5), Mac(1 << 47)]),
            Letter::Renew,
            Letter::Verify { number: 1 << 40 },
            Letter::Verified { number: 7, verification: None },
            Letter::Verified { number: 8, verification: Some(verification) },
        ] {
            let mut bytes = letter.encode();
            assert_eq!(Letter::decode(&bytes), Ok(letter.clone()));
            bytes.pop();
            let cut = Letter::decode(&bytes);
            assert!(matches!(letter, Letter::Agreement(_)) || cut.is_err(), "{cut:?}");
        }
        assert!(Letter::decode(&[]).is_err());
        let error = Letter::decode(&[7, 7]).unwrap_err();
        assert!(error.to_string().contains("kind 7 and 2 bytes"), "{error}");
    }
}
