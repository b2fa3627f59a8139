//! Two prefixes whose addresses are translated into each other, one to one.
//!
//! Plainly, an address keeps its bits behind the prefix (RFC 3022 §2.1, "basic NAT"), with its ports. Or it is changed
//! such that no checksum changes with it (NPTv6, RFC 6296): one word of the address takes up the difference between
//! the prefixes, so a transport that nothing here knows of passes as well.
//!
//! Invariant: what is translated outwards is translated back inwards to the same, and both are of one class
//! ([`Mapping::likeness`]).

use testudo_packet::flow::Address;
use testudo_packet::likeness::Likeness;

/// How addresses are made of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The bits behind the prefix stay.
    Plain,
    /// Checksums stay; IPv6 with prefixes up to 64 bits only.
    Neutral,
}

/// Two prefixes of one family and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mapping {
    /// The prefix inside, without bits behind it.
    pub inside: Address,
    /// The prefix outside.
    pub outside: Address,
    /// How many bits they have, of 128: 96 more than an IPv4 prefix says.
    pub length: u8,
    /// How addresses are made of each other.
    pub kind: Kind,
}

/// The sum of an address's words in ones' complement, from 0 to fffe.
fn sum(address: u128) -> u32 {
    (0..8).map(|word| (address >> (16 * word)) as u32 & 0xffff).sum::<u32>() % 0xffff
}

impl Mapping {
    /// The bits of the prefix.
    const fn mask(&self) -> u128 {
        match self.length {
            0 => 0,
            length => u128::MAX << (128 - length as u32),
        }
    }

    /// Whether an address is one of those inside.
    #[must_use]
    pub const fn is_inside(&self, address: Address) -> bool {
        address.to_bits() & self.mask() == self.inside.to_bits()
    }

    /// Whether an address is one of those outside.
    #[must_use]
    pub const fn is_outside(&self, address: Address) -> bool {
        address.to_bits() & self.mask() == self.outside.to_bits()
    }

    /// What an address inside is outside. `None`: it is not inside, or has no counterpart (RFC 6296 §3.5, §3.6).
    #[must_use]
    pub fn outward(&self, address: Address) -> Option<Address> {
        self.is_inside(address).then(|| self.exchange(address, self.outside)).flatten()
    }

    /// What an address outside is inside.
    #[must_use]
    pub fn inward(&self, address: Address) -> Option<Address> {
        self.is_outside(address).then(|| self.exchange(address, self.inside)).flatten()
    }

    fn exchange(&self, address: Address, prefix: Address) -> Option<Address> {
        let (seen, mask, prefix) = (address.to_bits(), self.mask(), prefix.to_bits());
        let changed = prefix | seen & !mask;
        if self.kind == Kind::Plain {
            return Some(Address::from_bits(changed));
        }
        let shift = self.balance(seen)?;
        let word = (seen >> shift) as u32 & 0xffff;
        let word = (word + sum(seen & mask) + 0xffff - sum(prefix)) % 0xffff;
        Some(Address::from_bits(changed & !(0xffff << shift) | u128::from(word) << shift))
    }

    /// Where the word begins that takes up the difference: the one behind 48 bits, or the first one of the interface's
    /// identifier. One of ffff is passed over, or can't be translated, because it is 0 as well.
    fn balance(&self, address: u128) -> Option<u32> {
        let words: &[u32] = if self.length <= 48 { &[64] } else { &[48, 32] };
        words.iter().copied().find(|shift| (address >> shift) as u16 != 0xffff)
    }

    /// What the addresses of both prefixes are placed as: what both have in common, behind the prefix inside.
    #[must_use]
    pub fn likeness(&self) -> Likeness {
        let changed = match self.kind {
            Kind::Plain => 0,
            Kind::Neutral if self.length <= 48 => 0xffff << 64,
            Kind::Neutral => 0xffff_ffff << 32,
        };
        Likeness {
            base: self.inside,
            mask: Address::from_bits(!self.mask() & !changed),
            port: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;
    use testudo_packet::flow::Endpoint;

    use super::*;

    fn address(text: &str) -> Address {
        text.parse::<IpAddr>().expect("an address").into()
    }

    fn mapping(inside: &str, outside: &str, length: u8, kind: Kind) -> Mapping {
        Mapping { inside: address(inside), outside: address(outside), length, kind }
    }

    #[test]
    fn the_bits_behind_a_plain_prefix_stay() {
        let plain = mapping("10.1.0.0", "192.0.2.0", 96 + 24, Kind::Plain);
        assert_eq!(plain.outward(address("10.1.0.77")), Some(address("192.0.2.77")));
        assert_eq!(plain.inward(address("192.0.2.77")), Some(address("10.1.0.77")));
        assert_eq!(plain.outward(address("10.1.1.77")), None);
        assert_eq!(plain.inward(address("10.1.0.77")), None);
        let one = mapping("fd10::7", "2001:db8::1", 128, Kind::Plain);
        assert_eq!(one.outward(address("fd10::7")), Some(address("2001:db8::1")));
    }

    /// RFC 6296 §3.1.
    #[test]
    fn the_example_of_the_rfc() {
        let nptv6 = mapping("fd01:203:405::", "2001:db8:1::", 48, Kind::Neutral);
        let (inside, outside) = ("fd01:203:405:1::1234", "2001:db8:1:d550::1234");
        assert_eq!(nptv6.outward(address(inside)), Some(address(outside)));
        assert_eq!(nptv6.inward(address(outside)), Some(address(inside)));
        // A subnet of ffff has no counterpart.
        assert_eq!(nptv6.outward(address("fd01:203:405:ffff::1")), None);
    }

    #[test]
    fn a_long_prefix_changes_the_identifier_and_passes_ffff_over() {
        let nptv6 = mapping("fd01:203:405:7::", "2001:db8:1:9::", 64, Kind::Neutral);
        let out = |text| nptv6.outward(address(text)).map(|a| IpAddr::from(a).to_string());
        let first = out("fd01:203:405:7:1:2:3:4").expect("a counterpart");
        assert!(first.ends_with(":2:3:4") && first.starts_with("2001:db8:1:9:"), "{first}");
        let second = out("fd01:203:405:7:ffff:2:3:4").expect("a counterpart");
        assert!(second.contains(":ffff:") && second.ends_with(":3:4"), "{second}");
        assert_eq!(out("fd01:203:405:7:ffff:ffff:3:4"), None);
    }

    proptest! {
        #[test]
        fn both_ways_lead_back_with_the_same_sum_and_class(
            inside: u128, outside: u128, host: u128, length in 1u8..=64, neutral: bool, port: u16,
        ) {
            let kind = if neutral { Kind::Neutral } else { Kind::Plain };
            let mask = u128::MAX << (128 - u32::from(length));
            let mapping = Mapping {
                inside: Address::from_bits(inside & mask), outside: Address::from_bits(outside & mask), length, kind,
            };
            let host = inside & mask | host & !mask;
            let Some(out) = mapping.outward(Address::from_bits(host)) else { return Ok(()) };
            // What is 0 in ones' complement has two spellings; ffff is never sent.
            prop_assert_eq!(mapping.inward(out), Some(Address::from_bits(host)));
            if neutral {
                prop_assert_eq!(sum(out.to_bits()), sum(host));
            }
            let words = mapping.likeness().to_words();
            let stand_in = |address| Likeness::stand_in(&words, Endpoint { address, port });
            prop_assert_eq!(stand_in(out), stand_in(Address::from_bits(host)));
            prop_assert!(mapping.is_inside(stand_in(out).address));
        }
    }
}
