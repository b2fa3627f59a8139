//! What nodes tell each other beside entries, over the same streams.
//!
//! ```text
//! 0 kind u8
//! 1 agreement:  a message of the coordinator
//!   loads:      time u64 (ns), then for each bucket: bucket u16, packets u64, bytes u64,
//!               new flows u64, tunnels u64
//!   interfaces: for each configured interface, in order: MAC address u64
//!   renew:      nothing
//! ```
//!
//! All numbers are little-endian.

use std::time::Duration;

use testudo_cluster::plan::Load;
use testudo_packet::bucket::BucketId;
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
}

/// Bytes that are no letter: the peer runs another release. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a letter of kind {kind} and {length} bytes that means nothing; expected kinds 0 to 3")]
pub struct LetterError {
    kind: u8,
    length: usize,
}

const AGREEMENT: u8 = 0;
const LOADS: u8 = 1;
const INTERFACES: u8 = 2;
const RENEW: u8 = 3;

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
        _ => return None,
    })
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
        let load = Load { packets: 1, bytes: u64::MAX, new_flows: 3, tunnels: 4 };
        for letter in [
            Letter::Agreement(vec![1, 2, 3]),
            Letter::Loads { time: Duration::from_millis(7), loads: vec![(BucketId(9), load)] },
            Letter::Interfaces(vec![Mac(5), Mac(1 << 47)]),
            Letter::Renew,
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
