//! SipHash-1-3 of an endpoint.
//!
//! A keyed pseudo-random function: whoever does not know the cluster's secret can't aim flows at one
//! bucket or at one place of the node table. The general function is unrolled here for the one
//! message length that packets are placed by, 18 bytes, because the eBPF build pays for each loop and
//! branch; whole words have a function of their own.
//!
//! Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF" (2012), with 1 and 3 rounds.

/// The 128-bit key, as the two little-endian words of the paper.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HashKey {
    /// Bytes 0 to 7.
    pub k0: u64,
    /// Bytes 8 to 15.
    pub k1: u64,
}

impl HashKey {
    /// The key of these 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        let whole = u128::from_le_bytes(bytes);
        Self { k0: whole as u64, k1: (whole >> 64) as u64 }
    }
}

type State = [u64; 4];

#[inline(always)]
fn round(v: State) -> State {
    let [mut v0, mut v1, mut v2, mut v3] = v;
    v0 = v0.wrapping_add(v1);
    v1 = v1.rotate_left(13) ^ v0;
    v0 = v0.rotate_left(32);
    v2 = v2.wrapping_add(v3);
    v3 = v3.rotate_left(16) ^ v2;
    v0 = v0.wrapping_add(v3);
    v3 = v3.rotate_left(21) ^ v0;
    v2 = v2.wrapping_add(v1);
    v1 = v1.rotate_left(17) ^ v2;
    v2 = v2.rotate_left(32);
    [v0, v1, v2, v3]
}

#[inline(always)]
fn begin(key: HashKey) -> State {
    [
        key.k0 ^ 0x736f_6d65_7073_6575,
        key.k1 ^ 0x646f_7261_6e64_6f6d,
        key.k0 ^ 0x6c79_6765_6e65_7261,
        key.k1 ^ 0x7465_6462_7974_6573,
    ]
}

#[inline(always)]
fn finish(v: State) -> u64 {
    let [v0, v1, v2, v3] = v;
    let [v0, v1, v2, v3] = round(round(round([v0, v1, v2 ^ 0xff, v3])));
    v0 ^ v1 ^ v2 ^ v3
}

#[inline(always)]
fn absorb(v: State, word: u64) -> State {
    let [v0, v1, v2, v3] = v;
    let [w0, w1, w2, w3] = round([v0, v1, v2, v3 ^ word]);
    [w0 ^ word, w1, w2, w3]
}

/// The hash of the 18 bytes that two words and a half-word make in little-endian order.
#[inline(always)]
pub fn hash18(key: HashKey, first: u64, second: u64, tail: u16) -> u64 {
    let v = absorb(absorb(begin(key), first), second);
    finish(absorb(v, 18 << 56 | tail as u64))
}

/// The hash of the bytes that whole words make in little-endian order.
#[inline(always)]
pub fn hash_words<const N: usize>(key: HashKey, words: &[u64; N]) -> u64 {
    let mut v = begin(key);
    for word in words {
        v = absorb(v, *word);
    }
    finish(absorb(v, (N as u64 * 8) << 56))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::Hasher;

    #[test]
    fn agrees_with_the_standard_librarys_siphash_1_3() {
        // The standard library's default hasher is SipHash-1-3 with a key of zeros.
        for seed in 0..1000u64 {
            let (first, second) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), !seed << 7);
            let mut reference = std::hash::DefaultHasher::new();
            let mut bytes = std::vec![];
            bytes.extend_from_slice(&first.to_le_bytes());
            bytes.extend_from_slice(&second.to_le_bytes());
            bytes.extend_from_slice(&(seed as u16).to_le_bytes());
            reference.write(&bytes);
            assert_eq!(
                hash18(HashKey::default(), first, second, seed as u16),
                reference.finish(),
                "seed {seed}"
            );
        }
    }

    #[test]
    fn whole_words_hash_as_their_bytes() {
        for seed in 0..1000u64 {
            let words = [seed, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), !seed << 7];
            let mut reference = std::hash::DefaultHasher::new();
            words.iter().for_each(|word| reference.write(&word.to_le_bytes()));
            let hash = hash_words(HashKey::default(), &words);
            assert_eq!(hash, reference.finish(), "seed {seed}");
        }
    }

    #[test]
    fn the_key_matters() {
        let other = HashKey::from_bytes([1; 16]);
        assert_ne!(hash18(HashKey::default(), 1, 2, 3), hash18(other, 1, 2, 3));
    }
}
