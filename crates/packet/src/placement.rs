//! Which bucket a packet belongs to.
//!
//! `bucket = class(endpoint a) XOR class(endpoint b)`: both directions give the same bucket with no
//! sorting, and a source NAT stays in its bucket when it picks an external port of the class of the
//! inside endpoint. The class is a keyed pseudo-random function, see [`crate::siphash`].
//!
//! What of the packet is looked at, its [`Ground`], is data and differs by packet type (the
//! reference, step 601).
//!
//! The same two hashes also give the place in the node table, from bits that the bucket does not
//! use: a node owns only some buckets, and its table must still fill evenly.

use crate::bucket::BucketId;
use crate::flow::{Endpoint, FlowKey, Protocol};
use crate::siphash::{HashKey, hash18};

/// A kind of packet, as far as placement tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PacketType {
    /// TCP.
    Tcp = 0,
    /// UDP that is not ISAKMP.
    Udp = 1,
    /// ICMP and ICMPv6 echo.
    Icmp = 2,
    /// ESP (RFC 4303).
    Esp = 3,
    /// AH (RFC 4302).
    Ah = 4,
    /// ISAKMP: UDP 500, and 4500 behind the non-ESP marker (RFC 3948 §2.2).
    Isakmp = 5,
    /// Any other IP protocol.
    Other = 6,
    /// SCTP.
    Sctp = 7,
}

impl PacketType {
    /// The type of packets of a protocol by which flows can be translated, as their endpoints alone tell it.
    #[must_use]
    pub const fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::TCP => Self::Tcp,
            Protocol::UDP => Self::Udp,
            Protocol::SCTP => Self::Sctp,
            Protocol::ICMP | Protocol::ICMPV6 => Self::Icmp,
            _ => Self::Other,
        }
    }

    /// The packet type of this number; a number that has none is [`PacketType::Other`].
    #[inline(always)]
    pub const fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Tcp,
            1 => Self::Udp,
            2 => Self::Icmp,
            3 => Self::Esp,
            4 => Self::Ah,
            5 => Self::Isakmp,
            7 => Self::Sctp,
            _ => Self::Other,
        }
    }
}

/// What the bucket of a packet is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ground {
    /// Both addresses.
    Addresses = 0,
    /// Both addresses with their ports; for ICMP, with the identifier.
    Endpoints = 1,
    /// What the packet type has of its own: the SPI of ESP and AH, the initiator cookie of ISAKMP.
    Identifier = 2,
    /// The message identifier of ISAKMP, and the initiator cookie where it is zero (the exchanges
    /// that come before any message identifier, RFC 2408 §3.1).
    MessageId = 3,
}

impl Ground {
    /// Whether a packet of this type has what this ground looks at.
    pub const fn suits(self, packet_type: PacketType) -> bool {
        match self {
            Self::Addresses => true,
            Self::Endpoints => matches!(
                packet_type,
                PacketType::Tcp
                    | PacketType::Udp
                    | PacketType::Icmp
                    | PacketType::Isakmp
                    | PacketType::Sctp
            ),
            Self::Identifier => {
                matches!(packet_type, PacketType::Esp | PacketType::Ah | PacketType::Isakmp)
            }
            Self::MessageId => matches!(packet_type, PacketType::Isakmp),
        }
    }
}

/// The ground of each packet type, two bits a type, so that it is one constant for the eBPF build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grounds(pub u64);

impl Grounds {
    /// The ground of a packet type.
    #[inline(always)]
    pub const fn of(self, packet_type: PacketType) -> Ground {
        match self.0 >> (packet_type as u8 * 2) & 3 {
            0 => Ground::Addresses,
            1 => Ground::Endpoints,
            2 => Ground::Identifier,
            _ => Ground::MessageId,
        }
    }

    /// The same grounds but for one packet type; `None` if the ground does not suit it.
    pub const fn with(self, packet_type: PacketType, ground: Ground) -> Option<Self> {
        if !ground.suits(packet_type) {
            return None;
        }
        let shift = packet_type as u8 * 2;
        Some(Self(self.0 & !(3 << shift) | (ground as u64) << shift))
    }
}

impl Default for Grounds {
    /// Endpoints where there are ports, the SPI for ESP and AH, the initiator cookie for ISAKMP.
    fn default() -> Self {
        let mut grounds = Self(0);
        for (packet_type, ground) in [
            (PacketType::Tcp, Ground::Endpoints),
            (PacketType::Udp, Ground::Endpoints),
            (PacketType::Icmp, Ground::Endpoints),
            (PacketType::Sctp, Ground::Endpoints),
            (PacketType::Esp, Ground::Identifier),
            (PacketType::Ah, Ground::Identifier),
            (PacketType::Isakmp, Ground::Identifier),
        ] {
            if let Some(next) = grounds.with(packet_type, ground) {
                grounds = next;
            }
        }
        grounds
    }
}

/// Numbers of a packet that a ground may look at instead of its endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identifiers {
    /// SPI or initiator cookie; 0 where there is none.
    pub own: u64,
    /// Message identifier of ISAKMP; 0 where there is none.
    pub message: u32,
}

/// Where a packet belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Its bucket.
    pub bucket: BucketId,
    /// What its place in the node table is computed from; the same for both directions.
    pub hash: u32,
}

/// How a cluster places packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placer {
    /// The cluster's secret.
    pub key: HashKey,
    /// The number of buckets less one; the number is a power of two.
    pub bucket_mask: u16,
    /// What is looked at.
    pub grounds: Grounds,
}

impl Placer {
    /// The class of an endpoint that stands for itself; the bucket mask cuts it to size.
    #[inline(always)]
    pub fn class(&self, endpoint: Endpoint) -> u64 {
        hash18(self.key, endpoint.address.high, endpoint.address.low, endpoint.port)
    }

    /// What the place of a flow in the node table is computed from, see [`Placement::hash`].
    #[inline(always)]
    pub fn table_hash(&self, key: &FlowKey) -> u32 {
        ((self.class(key.initiator) ^ self.class(key.responder)) >> 32) as u32
    }

    /// Where a packet of this flow and type belongs. `alike`: the class of what an end is placed
    /// as, if that can be another one ([`crate::likeness`]); it counts for the bucket only. In the node table flows have the places of
    /// their own ends, for those that are placed alike would crowd there.
    #[inline(always)]
    pub fn place(
        &self,
        key: &FlowKey,
        packet_type: PacketType,
        ids: Identifiers,
        alike: Option<impl Fn(Endpoint) -> u64>,
    ) -> Placement {
        self.place_by(|endpoint| self.class(endpoint), key, packet_type, ids, alike)
    }

    /// The same, where [`Placer::class`] is looked up by `own`: whoever places many packets may have kept some.
    #[inline(always)]
    pub fn place_by(
        &self,
        own: impl Fn(Endpoint) -> u64,
        key: &FlowKey,
        packet_type: PacketType,
        ids: Identifiers,
        alike: Option<impl Fn(Endpoint) -> u64>,
    ) -> Placement {
        let placed_alike = alike.is_some();
        let ground = self.grounds.of(packet_type);
        // Before anything else is worked out, so that it need not be kept meanwhile.
        let alike = match (alike, ground) {
            (Some(class), Ground::Endpoints) => class(key.initiator) ^ class(key.responder),
            (Some(class), Ground::Addresses) => {
                class(Endpoint { port: 0, ..key.initiator })
                    ^ class(Endpoint { port: 0, ..key.responder })
            }
            _ => 0,
        };
        let own = own(key.initiator) ^ own(key.responder);
        let basis = match ground {
            Ground::Endpoints | Ground::Addresses if placed_alike => alike,
            Ground::Endpoints => own,
            Ground::Addresses => {
                self.class(Endpoint { port: 0, ..key.initiator })
                    ^ self.class(Endpoint { port: 0, ..key.responder })
            }
            Ground::Identifier => hash18(self.key, ids.own, 0, 0),
            Ground::MessageId if ids.message != 0 => hash18(self.key, ids.message as u64, 1, 0),
            Ground::MessageId => hash18(self.key, ids.own, 0, 0),
        };
        Placement { bucket: BucketId(basis as u16 & self.bucket_mask), hash: (own >> 32) as u32 }
    }
}

/// No end is placed as another one.
pub const AS_THEMSELVES: Option<fn(Endpoint) -> u64> = None;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Address;
    use proptest::prelude::*;

    fn placer(buckets: u32) -> Placer {
        Placer {
            key: HashKey::from_bytes(*b"a cluster secret"),
            bucket_mask: (buckets - 1) as u16,
            grounds: Grounds::default(),
        }
    }

    fn key(a: u64, a_port: u16, b: u64, b_port: u16) -> FlowKey {
        FlowKey {
            initiator: Endpoint { address: Address { high: 0, low: a }, port: a_port },
            responder: Endpoint { address: Address { high: 7, low: b }, port: b_port },
            protocol: Protocol::TCP,
        }
    }

    proptest! {
        #[test]
        fn both_directions_share_a_bucket_and_a_place(
            a: u64, a_port: u16, b: u64, b_port: u16, kind in 0u8..3,
        ) {
            let packet_type = [PacketType::Tcp, PacketType::Udp, PacketType::Other][kind as usize];
            let key = key(a, a_port, b, b_port);
            let ids = Identifiers::default();
            let there = placer(4096).place(&key, packet_type, ids, AS_THEMSELVES);
            prop_assert_eq!(there, placer(4096).place(&key.reversed(), packet_type, ids, AS_THEMSELVES));
            prop_assert!(there.bucket.0 < 4096);
        }

        #[test]
        fn an_external_port_of_the_inside_class_keeps_the_bucket(
            inside: u64, port: u16, server: u64, external: u64,
        ) {
            let placer = placer(64);
            let ids = Identifiers::default();
            let flow = key(inside, port, server, 443);
            let class = placer.class(flow.initiator) & 63;
            let translated = (1024..=u16::MAX)
                .map(|port| Endpoint { address: Address { high: 1, low: external }, port })
                .find(|&endpoint| placer.class(endpoint) & 63 == class)
                .expect("64,512 ports hold every one of 64 classes");
            let outside = FlowKey { initiator: translated, ..flow };
            prop_assert_eq!(
                placer.place(&flow, PacketType::Tcp, ids, AS_THEMSELVES).bucket,
                placer.place(&outside, PacketType::Tcp, ids, AS_THEMSELVES).bucket
            );
        }
    }

    #[test]
    fn grounds_decide_what_counts() {
        let by_address = Placer {
            grounds: Grounds::default().with(PacketType::Tcp, Ground::Addresses).unwrap(),
            ..placer(65536)
        };
        let ids = Identifiers::default();
        let (one, two) = (key(1, 1000, 2, 80), key(1, 2000, 2, 80));
        let place = |p: &Placer, k| p.place(k, PacketType::Tcp, ids, AS_THEMSELVES).bucket;
        assert_eq!(place(&by_address, &one), place(&by_address, &two));
        assert_ne!(place(&placer(65536), &one), place(&placer(65536), &two));
        let spi = |own| {
            placer(65536).place(
                &one,
                PacketType::Esp,
                Identifiers { own, message: 0 },
                AS_THEMSELVES,
            )
        };
        assert_ne!(spi(1).bucket, spi(2).bucket);
    }

    /// Whoever is placed alike is met in one bucket by everybody, and has a place of its own in the table.
    #[test]
    fn a_backend_is_placed_as_its_service() {
        let placer = placer(65536);
        let (at_service, at_backend) = (key(1, 1000, 2, 443), key(1, 1000, 3, 8443));
        let class = |end| match end == at_backend.responder {
            true => placer.class(at_service.responder),
            false => placer.class(end),
        };
        let place =
            |key: &FlowKey| placer.place(key, PacketType::Tcp, Identifiers::default(), Some(class));
        let (there, answer) = (place(&at_service), place(&at_backend.reversed()));
        assert_eq!(there.bucket, answer.bucket);
        assert_ne!(there.hash, answer.hash);
        assert_eq!(answer.hash, placer.table_hash(&at_backend));
        let unlike =
            placer.place(&at_backend, PacketType::Tcp, Identifiers::default(), AS_THEMSELVES);
        assert_ne!(unlike.bucket, answer.bucket);
    }

    #[test]
    fn a_ground_that_a_packet_type_lacks_is_refused() {
        assert_eq!(Grounds::default().with(PacketType::Tcp, Ground::Identifier), None);
        assert_eq!(Grounds::default().with(PacketType::Esp, Ground::Endpoints), None);
        assert_eq!(Grounds::default().with(PacketType::Udp, Ground::MessageId), None);
    }

    #[test]
    fn sequential_clients_spread_evenly() {
        let mut counts = [0u32; 256];
        for port in 0..60_000u16 {
            let k = key(0x0a00_0001, port, 0x0a14_0001, 80);
            let place =
                placer(256).place(&k, PacketType::Tcp, Identifiers::default(), AS_THEMSELVES);
            counts[usize::from(place.bucket.0)] += 1;
        }
        // Poisson with mean 234: six standard deviations are 92.
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 142 && *most < 326, "{least} to {most} of 60,000 in 256 buckets");
    }
}
