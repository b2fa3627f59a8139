//! Sets of addresses that rules name by number.
//!
//! A rule has room for one prefix; who wants thousands has them in a set, and the rule has the number of the set.
//! All sets are one table, in the kernel a trie over number and address, so that a set costs a rule one look-up,
//! whatever its size, and only if all else of the rule matches.
//!
//! Invariant: a set never changes while a rule in force names it. Rules that come into force with other addresses
//! name another set, so a packet meets the addresses of the rules that it meets.

use core::num::NonZeroU32;

use crate::flow::Address;

/// The number of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub NonZeroU32);

impl SetId {
    /// The set of this number; 0 is none.
    pub const fn new(number: u32) -> Option<Self> {
        match NonZeroU32::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
}

/// Where sets are looked up.
pub trait Sets {
    /// Whether the set of this number has the address; one that there is not has none.
    fn contains(&self, set: u32, address: Address) -> bool;
}

/// The most prefixes of all sets of rules that are in force together.
pub const MAX_PREFIXES: u32 = 1 << 19;

/// How many 32-bit words stand behind the length in a key of the trie.
pub const KEY_WORDS: usize = 5;

/// The bits of a key that name one address of a set.
pub const WHOLE_KEY: u32 = 32 + 128;

/// A prefix of a set, as the kernel's trie has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct TrieKey {
    /// How many bits of the words count: up to [`WHOLE_KEY`].
    pub length: u32,
    /// See [`key`].
    pub words: [u32; KEY_WORDS],
}

/// The key of an address, or of the addresses that begin like it, in the trie: set and address, in network order.
#[inline(always)]
pub const fn key(set: u32, address: Address) -> [u32; KEY_WORDS] {
    [
        set.to_be(),
        ((address.high >> 32) as u32).to_be(),
        (address.high as u32).to_be(),
        ((address.low >> 32) as u32).to_be(),
        (address.low as u32).to_be(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_number_and_the_address_as_on_the_wire() {
        let address = Address { high: 0x0102_0304_0506_0708, low: 0x090a_0b0c_0d0e_0f10 };
        let bytes: [[u8; 4]; KEY_WORDS] = key(0x1122_3344, address).map(u32::to_ne_bytes);
        let expected = [
            [0x11, 0x22, 0x33, 0x44],
            [1, 2, 3, 4],
            [5, 6, 7, 8],
            [9, 10, 11, 12],
            [13, 14, 15, 16],
        ];
        assert_eq!(bytes, expected);
        assert_eq!((SetId::new(0), SetId::new(1).map(|set| set.0.get())), (None, Some(1)));
    }
}
