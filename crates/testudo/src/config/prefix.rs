//! Address prefixes, and which addresses a file may name at all.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All addresses that begin with the same bits. Invariant: the bits behind the length are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// What keeps a text from being a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not of the form `ADDRESS/LENGTH`.
    #[error("not a prefix")]
    Malformed,
    /// Longer than the addresses of its family.
    #[error("longer than the {bits} bits of an address")]
    TooLong {
        /// The bits of an address of that family.
        bits: u8,
    },
    /// Bits behind the length are set; the prefix without them is given.
    #[error("with host bits set")]
    HostBits {
        /// The prefix that the address is in.
        prefix: Prefix,
    },
    /// An IPv4 address in the clothes of IPv6, which no packet may carry.
    #[error("an IPv4-mapped address, which no packet may carry")]
    Mapped,
}

impl Prefix {
    /// The prefix that an address begins with.
    fn of(address: IpAddr, length: u8) -> Self {
        let address = match address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, length }
    }

    /// Reads `ADDRESS/LENGTH`, or an address alone, which stands for itself.
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Malformed)?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
                digits.parse().map_err(|_| PrefixError::Malformed)?
            }
            Some(_) => return Err(PrefixError::Malformed),
        };
        if length > bits {
            return Err(PrefixError::TooLong { bits });
        }
        if is_mapped(address) && length >= 96 {
            return Err(PrefixError::Mapped);
        }
        let prefix = Self::of(address, length);
        if prefix.address == address { Ok(prefix) } else { Err(PrefixError::HostBits { prefix }) }
    }

    /// An address alone.
    pub const fn whole(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// The first address.
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits the addresses share.
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether this is an IPv6 prefix that all of IPv4 in its mapped form is in.
    pub const fn takes_in_mapped(self) -> bool {
        matches!(self.address, IpAddr::V6(v6) if v6.is_unspecified()) && self.length <= 80
    }

    /// Whether an address is one of them.
    pub fn contains(self, address: IpAddr) -> bool {
        self.is_ipv4() == address.is_ipv4() && Self::of(address, self.length) == self
    }

    /// Whether the addresses are IPv4.
    pub const fn is_ipv4(self) -> bool {
        self.address.is_ipv4()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Whether this is an IPv4 address in the mapped form (RFC 4291 §2.5.5.2).
pub(super) fn is_mapped(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Whether an address means another station on each link.
pub(super) fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Whether a station can have this address on a link.
pub(super) fn is_station(address: IpAddr) -> bool {
    let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
    !(address.is_unspecified()
        || address.is_multicast()
        || address.is_loopback()
        || is_mapped(address)
        || broadcast)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_as_they_are_written() {
        for text in ["10.10.0.0/16", "0.0.0.0/0", "10.0.0.1/32", "fd10::/64", "::/0", "fd10::1/128"]
        {
            assert_eq!(Prefix::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Prefix::parse("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(Prefix::parse("fd10::1").unwrap().to_string(), "fd10::1/128");
    }

    #[test]
    fn what_is_no_prefix_is_told_apart() {
        let malformed =
            ["", "10.10/16", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/8", "10.0.0.0/999"];
        for text in malformed {
            assert_eq!(Prefix::parse(text), Err(PrefixError::Malformed), "{text}");
        }
        assert_eq!(Prefix::parse("10.0.0.0/33"), Err(PrefixError::TooLong { bits: 32 }));
        assert_eq!(Prefix::parse("fd10::/129"), Err(PrefixError::TooLong { bits: 128 }));
        assert_eq!(Prefix::parse("::ffff:10.0.0.0/104"), Err(PrefixError::Mapped));
        let prefix = Prefix::parse("10.10.0.0/16").unwrap();
        assert_eq!(Prefix::parse("10.10.0.1/16"), Err(PrefixError::HostBits { prefix }));
    }

    #[test]
    fn only_stations_are_stations() {
        for (text, station) in [
            ("10.0.0.1", true),
            ("fe80::1", true),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("127.0.0.1", false),
            ("::1", false),
            ("ff02::1", false),
            ("::ffff:10.0.0.1", false),
        ] {
            assert_eq!(is_station(text.parse().unwrap()), station, "{text}");
        }
    }
}
