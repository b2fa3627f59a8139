//! Endpoints that are placed alike, though they differ.
//!
//! A flow whose destination is translated is met under two endpoints: the one that its initiator knows, and the one
//! that answers. Its reply has the flow's bucket only if both are of one class. So some endpoints have a *stand-in*:
//! they are placed as if they were that one. A service and all its backends share one; of two prefixes that are
//! translated into each other the address outside has the one inside.
//!
//! Invariant: which endpoints have which stand-in is the same on every node of a cluster, as the hash key is, and for
//! as long. An endpoint's stand-in follows from the endpoint alone; so both directions of every flow, translated or
//! not, still share a bucket.
//!
//! Why not bind the reply's key to the flow's bucket, flow by flow: every node would have to know of each such flow
//! before its first reply comes, for any of them may be the one that the reply's own bucket leads to. A table of
//! endpoints is known before the first packet.

use crate::flow::{Address, Endpoint};

/// How the stand-in of an endpoint is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Likeness {
    /// What the stand-in's address has where `mask` has no bits.
    pub base: Address,
    /// Which bits of the endpoint's address its stand-in keeps.
    pub mask: Address,
    /// The stand-in's port; that of the endpoint, if there is none.
    pub port: Option<u16>,
}

/// How many 64-bit words a likeness takes.
pub const LIKENESS_WORDS: usize = 5;

const HAS_PORT: u64 = 1 << 16;

impl Likeness {
    /// One that stands for itself alone.
    #[must_use]
    pub const fn to(endpoint: Endpoint) -> Self {
        let mask = Address { high: 0, low: 0 };
        Self { base: endpoint.address, mask, port: Some(endpoint.port) }
    }

    /// The likeness as words.
    #[must_use]
    pub const fn to_words(self) -> [u64; LIKENESS_WORDS] {
        let port = match self.port {
            Some(port) => port as u64 | HAS_PORT,
            None => 0,
        };
        [self.base.high, self.base.low, self.mask.high, self.mask.low, port]
    }

    /// What stands in for an endpoint by a likeness of these words.
    #[inline(always)]
    pub const fn stand_in(words: &[u64; LIKENESS_WORDS], of: Endpoint) -> Endpoint {
        let [base_high, base_low, mask_high, mask_low, port] = *words;
        let address = Address {
            high: base_high | of.address.high & mask_high,
            low: base_low | of.address.low & mask_low,
        };
        let port = if port & HAS_PORT != 0 { port as u16 } else { of.port };
        Endpoint { address, port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_keeps_what_the_mask_says() {
        let of = Endpoint { address: Address { high: 0x2001_0db8_0000_0001, low: 7 }, port: 80 };
        let inside = Endpoint { address: Address { high: 0xfd00 << 48, low: 9 }, port: 443 };
        let stand_in = |likeness: Likeness| Likeness::stand_in(&likeness.to_words(), of);
        assert_eq!(stand_in(Likeness::to(inside)), inside);
        assert_eq!(stand_in(Likeness::to(Endpoint { port: 0, ..inside })).port, 0);
        let prefix = Likeness {
            base: Address { low: 0, ..inside.address },
            mask: Address { high: 0xffff, low: u64::MAX },
            port: None,
        };
        let address = Address { high: 0xfd00 << 48 | 1, low: 7 };
        assert_eq!(stand_in(prefix), Endpoint { address, port: 80 });
    }
}
