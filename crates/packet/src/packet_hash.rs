//! Which packet it is, in 64 bits.
//!
//! While a bucket moves, the old owner says which packets it has handled and the new owner leaves
//! those out of what it has held. Both have seen the same frame, perhaps with another padding at its
//! end or another address at its front, so the hash is over the IP packet alone: its length and its
//! first bytes, as it came in. It is keyed with the cluster's secret: a sender can't make two packets
//! that are taken for one another.
//!
//! The eBPF build hashes nothing: it copies what is to be hashed into the ring buffer, straight from
//! the packet. That is cheaper for the packet, and the verifier's stack has no room for the hash.
//!
//! Limits: packets that agree in their length and first [`HASHED_BYTES`] bytes have one hash. IPv4
//! packets of one sender differ in their identification, TCP segments in their sequence number;
//! where two packets are the same, they are counted, and it does not matter which one is left out.

use crate::env::Frame;
use crate::siphash::{HashKey, hash_words};
use crate::wire::{Link, Payload};

/// How many bytes of a packet are hashed.
pub const HASHED_BYTES: u32 = 96;

/// How many 64-bit words those are.
pub const HASHED_WORDS: usize = HASHED_BYTES as usize / 8;

/// The hash of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketHash(pub u64);

/// Where the hashed part of a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the IP header begins, from the start of the frame.
    pub offset: u32,
    /// How many bytes are hashed from there on, 1 to [`HASHED_BYTES`].
    pub bytes: u32,
    /// The length of the IP packet by its own account.
    pub length: u32,
}

/// Where the hashed part of an IP packet is that has a place: [`crate::wire::parse`] has accepted it, or
/// the packet that it quotes; `None` for anything else.
#[inline(always)]
pub fn extent<F: Frame>(frame: &F, link: &Link) -> Option<Extent> {
    let length = match link.payload {
        Payload::V4 => u32::from(frame.u16(link.offset + 2)?),
        Payload::V6 => u32::from(frame.u16(link.offset + 4)?) + 40,
        _ => return None,
    };
    let bytes = if length < HASHED_BYTES { length } else { HASHED_BYTES };
    Some(Extent { offset: link.offset, bytes, length })
}

/// The hashed part of a packet: its length, and its first bytes in the order of memory with zeros
/// behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The length of the IP packet.
    pub length: u32,
    /// Its first bytes.
    pub words: [u64; HASHED_WORDS],
}

impl Head {
    /// Reads it; `None` if the frame does not hold it.
    #[inline(always)]
    pub fn read<F: Frame>(frame: &F, extent: Extent) -> Option<Self> {
        let mut words = [0; HASHED_WORDS];
        frame.copy(extent.offset, extent.bytes, &mut words)?;
        Some(Self { length: extent.length, words })
    }

    /// The hash of the packet.
    pub fn hash(&self, key: HashKey) -> PacketHash {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = self.words.map(u64::from_le);
        let length = u64::from(self.length);
        PacketHash(hash_words(key, &[a, b, c, d, e, f, g, h, i, j, k, l, length]))
    }
}

/// The hash of an IP packet that has a place, see [`extent`]; `None` for anything else.
pub fn packet_hash<F: Frame>(frame: &F, link: &Link, key: HashKey) -> Option<PacketHash> {
    Some(Head::read(frame, extent(frame, link)?)?.hash(key))
}
