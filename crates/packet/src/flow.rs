//! Which flow a packet belongs to.
//!
//! A [`FlowKey`] holds both endpoints in the order of the flow's first packet. A reply carries the
//! same endpoints the other way round; looking it up compares both orders, so keys are never sorted
//! and the direction of a packet falls out of the comparison.
//!
//! Why not sort: sorted keys need a bit for "who began", and the pipeline would branch on 128-bit
//! comparisons for every packet.

/// An IPv6 address, or an IPv4 address in the mapped form `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2), as
/// two big-endian halves. No packet on the wire may carry a mapped address, so the two families
/// never collide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// Bytes 0 to 7.
    pub high: u64,
    /// Bytes 8 to 15.
    pub low: u64,
}

/// What the low half of a mapped IPv4 address begins with.
const MAPPED: u64 = 0x0000_ffff_0000_0000;

impl Address {
    /// The mapped form of an IPv4 address given as a big-endian number.
    #[inline(always)]
    pub const fn v4(address: u32) -> Self {
        Self { high: 0, low: MAPPED | address as u64 }
    }

    /// The IPv4 address as a big-endian number, if this is one.
    #[inline(always)]
    pub const fn as_v4(self) -> Option<u32> {
        if self.is_v4() { Some(self.low as u32) } else { None }
    }

    /// Whether this is a mapped IPv4 address.
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.high == 0 && self.low & 0xffff_ffff_0000_0000 == MAPPED
    }

    /// From one big-endian number.
    pub const fn from_bits(bits: u128) -> Self {
        Self { high: (bits >> 64) as u64, low: bits as u64 }
    }

    /// As one big-endian number.
    pub const fn to_bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// From 16 bytes in network order.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self::from_bits(u128::from_be_bytes(bytes))
    }

    /// The 16 bytes in network order.
    pub const fn to_bytes(self) -> [u8; 16] {
        self.to_bits().to_be_bytes()
    }
}

impl From<core::net::IpAddr> for Address {
    fn from(address: core::net::IpAddr) -> Self {
        match address {
            core::net::IpAddr::V4(v4) => Self::v4(v4.to_bits()),
            core::net::IpAddr::V6(v6) => Self::from_bytes(v6.octets()),
        }
    }
}

impl From<Address> for core::net::IpAddr {
    fn from(address: Address) -> Self {
        match address.as_v4() {
            Some(v4) => Self::V4(v4.into()),
            None => Self::V6(address.to_bytes().into()),
        }
    }
}

/// An IP protocol number (IANA "Protocol Numbers").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);
    /// Generic Routing Encapsulation (RFC 2784).
    pub const GRE: Self = Self(47);
    /// Encapsulating Security Payload (RFC 4303).
    pub const ESP: Self = Self(50);
    /// Authentication Header (RFC 4302).
    pub const AH: Self = Self(51);
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: Self = Self(58);
    /// SCTP (RFC 9260).
    pub const SCTP: Self = Self(132);

    /// Whether its packets begin with two ports.
    #[inline(always)]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// Whether an endpoint of this protocol is told apart by the same number in both directions.
    /// An SPI is not: each direction of a tunnel has its own.
    #[inline(always)]
    pub const fn is_bidirectional(self) -> bool {
        !matches!(self, Self::ESP | Self::AH)
    }
}

/// One end of a flow: an address and the number that tells the flows of that address apart, which is
/// the port for TCP, UDP and SCTP, the identifier for ICMP queries (the same at both ends), a half of the
/// SPI for ESP and AH.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: Address,
    /// Port, identifier or half of an SPI.
    pub port: u16,
}

/// What tells a flow from all others: both endpoints, initiator first, and the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowKey {
    /// The endpoint that sent the flow's first packet.
    pub initiator: Endpoint,
    /// The endpoint that the first packet was sent to.
    pub responder: Endpoint,
    /// The IP protocol.
    pub protocol: Protocol,
}

/// How many 64-bit words a key takes in an entry.
pub const KEY_WORDS: usize = 5;

impl FlowKey {
    /// The key as a packet of the other direction spells it.
    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { initiator: self.responder, responder: self.initiator, protocol: self.protocol }
    }

    /// The key as the words of an entry.
    #[inline(always)]
    pub const fn to_words(self) -> [u64; KEY_WORDS] {
        [
            self.initiator.address.high,
            self.initiator.address.low,
            self.responder.address.high,
            self.responder.address.low,
            self.port_word(),
        ]
    }

    /// Ports and protocol as the last word of [`FlowKey::to_words`].
    #[inline(always)]
    pub const fn port_word(self) -> u64 {
        self.initiator.port as u64
            | (self.responder.port as u64) << 16
            | (self.protocol.0 as u64) << 32
    }

    /// The key that [`FlowKey::to_words`] made these words of.
    #[inline(always)]
    pub const fn from_words(words: [u64; KEY_WORDS]) -> Self {
        let [ah, al, bh, bl, ports] = words;
        Self {
            initiator: Endpoint { address: Address { high: ah, low: al }, port: ports as u16 },
            responder: Endpoint {
                address: Address { high: bh, low: bl },
                port: (ports >> 16) as u16,
            },
            protocol: Protocol((ports >> 32) as u8),
        }
    }
}

/// Which way a packet travels in its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the initiator.
    Original,
    /// From the responder.
    Reply,
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::IpAddr;

    fn key() -> FlowKey {
        let a: IpAddr = [10, 0, 0, 1].into();
        let b: IpAddr = "2001:db8::7".parse().unwrap();
        FlowKey {
            initiator: Endpoint { address: a.into(), port: 40000 },
            responder: Endpoint { address: b.into(), port: 443 },
            protocol: Protocol::TCP,
        }
    }

    #[test]
    fn words_hold_the_whole_key() {
        assert_eq!(FlowKey::from_words(key().to_words()), key());
        assert_ne!(key().reversed().to_words(), key().to_words());
        assert_eq!(key().reversed().reversed(), key());
    }

    #[test]
    fn both_families_survive_the_mapping() {
        for text in ["10.0.0.1", "255.255.255.255", "2001:db8::7", "::1", "::"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Address::from(address)), address);
        }
    }
}
