//! A packet that came up; `crates/xdp/src/upcall.rs` writes it.

use testudo_packet::env::Mac;
use testudo_packet::verdict::UpcallReason;

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    pub interface: u32,
    pub source: Mac,
    pub destination: Mac,
}

/// A packet that came up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upcall {
    /// The number of the interface that it came in by.
    pub interface: u32,
    /// Why it came up; `None`: for a reason that only another build of the program knows.
    pub reason: Option<UpcallReason>,
    /// Whether its source is routed back as the interface asks that it came in by.
    pub comes_back: bool,
    /// Where it goes next; `None`: the node's stack has to find out.
    pub next_hop: Option<NextHop>,
    /// The number of the interface that it goes out by, also if its neighbour there is not known; 0: that is not known.
    pub egress: u32,
    /// How large a packet its next hop takes, if it is larger; else 0.
    pub limit: u16,
    pub packet: Vec<u8>,
}

/// Stands in the reason of a packet whose source is not routed back as its interface asks.
const NO_WAY_BACK: u32 = 1 << 8;

/// Interface, length, reason and next interface (32 bits each), both addresses (64 bits each).
const HEAD_BYTES: usize = 32;

/// Reads what the kernel wrote; `None` if it is shorter than it says.
pub fn read(item: &[u8]) -> Option<Upcall> {
    let (head, data) = item.split_at_checked(HEAD_BYTES)?;
    let number = |at: usize| {
        let bytes = head.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let mac = |at: usize| {
        let bytes = head.get(at..at + 8)?;
        Some(Mac(u64::from_ne_bytes(bytes.try_into().ok()?)))
    };
    let (interface, bytes, reason, out) = (number(0)?, number(4)?, number(8)?, number(12)?);
    let next_hop = NextHop { interface: out, source: mac(16)?, destination: mac(24)? };
    Some(Upcall {
        interface,
        reason: UpcallReason::from_bits(reason as u8),
        comes_back: reason & NO_WAY_BACK == 0,
        next_hop: (out != 0 && next_hop.destination != Mac(0)).then_some(next_hop),
        egress: out,
        limit: (reason >> 16) as u16,
        packet: data.get(..bytes as usize)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_program_writes_and_nothing_shorter() {
        let mut item = vec![];
        for number in [7u32, 3, 1, 9] {
            item.extend(number.to_ne_bytes());
        }
        item.extend(0x0a0b_u64.to_ne_bytes());
        item.extend(0x0c0d_u64.to_ne_bytes());
        item.extend([1, 2, 3, 0, 0]);
        let hop = NextHop { interface: 9, source: Mac(0x0a0b), destination: Mac(0x0c0d) };
        let reason = Some(UpcallReason::Loading);
        let packet = vec![1, 2, 3];
        let next_hop = Some(hop);
        let expected = Upcall {
            interface: 7,
            reason,
            comes_back: true,
            next_hop,
            egress: 9,
            limit: 0,
            packet,
        };
        assert_eq!(read(&item), Some(expected));
        assert_eq!(read(&item[..34]), None);
        assert_eq!(read(&item[..20]), None);
        let mut unknown = item.clone();
        unknown[24..32].fill(0);
        let read_unknown = read(&unknown).unwrap();
        assert_eq!((read_unknown.next_hop, read_unknown.egress), (None, 9));
        item[12..16].copy_from_slice(&0u32.to_ne_bytes());
        assert_eq!(read(&item).unwrap().next_hop, None);
        item[8..12].copy_from_slice(&0x05dc_0101u32.to_ne_bytes());
        let spoofed = read(&item).unwrap();
        assert_eq!((spoofed.reason, spoofed.comes_back, spoofed.limit), (reason, false, 1500));
    }
}
