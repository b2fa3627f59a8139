//! What rewriting does to checksums.

use crate::env::Env;
use crate::flow::Endpoint;

/// What a checksum changes by, as a sum of sixteen-bit words (RFC 1624, equation 3: ~m + m').
#[derive(Clone, Copy)]
pub(crate) struct Change(u32);

impl Change {
    /// None.
    pub(crate) const NONE: Self = Self(0);

    /// Another word of 16 bits.
    #[inline(always)]
    pub(crate) const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u32 + new as u32)
    }

    #[inline(always)]
    const fn two_words(self, old: u32, new: u32) -> Self {
        self.word((old >> 16) as u16, (new >> 16) as u16).word(old as u16, new as u16)
    }

    /// Another address. The verifier is not to remember of which family: it would follow all that comes behind
    /// once for each.
    #[inline(always)]
    pub(crate) fn address<E: Env>(self, env: &E, old: Endpoint, new: Endpoint, v4: bool) -> Self {
        let (old, new) = (old.address, new.address);
        let change = self.two_words(old.low as u32, new.low as u32);
        let change = if v4 {
            change
        } else {
            change
                .two_words((old.low >> 32) as u32, (new.low >> 32) as u32)
                .two_words(old.high as u32, new.high as u32)
                .two_words((old.high >> 32) as u32, (new.high >> 32) as u32)
        };
        change.opaque(env)
    }

    /// The same, of which the verifier knows nothing more ([`Env::opaque`]).
    #[inline(always)]
    pub(crate) fn opaque<E: Env>(self, env: &E) -> Self {
        Self(env.opaque(self.0 as u64) as u32)
    }

    /// Changes to two things that one sum covers.
    #[inline(always)]
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The checksum after the change.
    #[inline(always)]
    pub(crate) const fn applied_to(self, checksum: u16) -> u16 {
        let sum = !checksum as u32 + self.0;
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        !(sum as u16)
    }
}
