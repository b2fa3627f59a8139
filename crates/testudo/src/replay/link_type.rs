//! What captured packets begin with, by the link type of the capture (the registry of
//! draft-ietf-opsawg-pcaplinktype), and how they become Ethernet frames for the cluster.

use std::fmt;

/// How the captured bytes begin.
#[derive(Clone, Copy, Debug)]
enum Head {
    Ethernet,
    /// A header of this many bytes and an IP packet; the version tells which.
    Ip(usize),
    /// A header of `bytes`, in which the EtherType stands at `ether`.
    Cooked {
        bytes: usize,
        ether: usize,
    },
}

/// The link types that are understood.
const KNOWN: [(u32, &str, Head); 8] = [
    (0, "NULL", Head::Ip(4)),
    (1, "ETHERNET", Head::Ethernet),
    (101, "RAW", Head::Ip(0)),
    (108, "LOOP", Head::Ip(4)),
    (113, "LINUX_SLL", Head::Cooked { bytes: 16, ether: 14 }),
    (228, "IPV4", Head::Ip(0)),
    (229, "IPV6", Head::Ip(0)),
    (276, "LINUX_SLL2", Head::Cooked { bytes: 20, ether: 0 }),
];

/// Names of some link types that are met and not understood.
const OTHERS: [(u32, &str); 9] = [
    (9, "PPP"),
    (105, "IEEE802_11"),
    (127, "IEEE802_11_RADIOTAP"),
    (187, "BLUETOOTH_HCI_H4"),
    (189, "USB_LINUX"),
    (220, "USB_LINUX_MMAPPED"),
    (227, "CAN_SOCKETCAN"),
    (239, "NFLOG"),
    (253, "NETLINK"),
];

/// A link type by number, and by name if that is known.
#[derive(Debug)]
pub struct Named(pub u32);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = KNOWN.iter().map(|&(number, name, _)| (number, name));
        match known.chain(OTHERS).find(|&(number, _)| number == self.0) {
            Some((number, name)) => write!(f, "{number} ({name})"),
            None => write!(f, "{}", self.0),
        }
    }
}

/// The names of the link types that are understood.
#[derive(Debug)]
pub struct Known;

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&KNOWN.map(|(_, name, _)| name).join(", "))
    }
}

/// A packet of a link type that is not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUnderstood;

/// The source address of frames whose capture has none.
const NO_SOURCE: [u8; 6] = [0x02, 0, 0, 0, 0, 0];

/// Writes the frame that carries a captured packet to the cluster: its destination is `cluster`,
/// unless it went to a group, which the cluster's nodes leave to their own stacks. A packet too
/// short for its own header becomes a frame too short.
pub fn write_frame(
    link: u32,
    packet: &[u8],
    cluster: [u8; 6],
    frame: &mut Vec<u8>,
) -> Result<(), NotUnderstood> {
    let &(_, _, head) = KNOWN.iter().find(|(number, ..)| *number == link).ok_or(NotUnderstood)?;
    frame.clear();
    match head {
        Head::Ethernet => {
            frame.extend(packet);
            if let Some(destination) = frame.first_chunk_mut()
                && destination[0] & 1 == 0
            {
                *destination = cluster;
            }
        }
        Head::Ip(bytes) => {
            let ip = packet.get(bytes..).unwrap_or(&[]);
            let ether: u16 = match ip.first().map(|first| first >> 4) {
                Some(4) => 0x0800,
                Some(6) => 0x86dd,
                _ => 0,
            };
            frame.extend([&cluster[..], &NO_SOURCE, &ether.to_be_bytes(), ip].concat());
        }
        Head::Cooked { bytes, ether } => {
            if let (Some(ether), Some(rest)) = (packet.get(ether..ether + 2), packet.get(bytes..)) {
                frame.extend([&cluster[..], &NO_SOURCE, ether, rest].concat());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: [u8; 6] = [2, 1, 1, 1, 1, 1];

    fn frame(link: u32, packet: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        write_frame(link, packet, CLUSTER, &mut frame).expect("a link type that is understood");
        frame
    }

    #[test]
    fn an_ethernet_frame_is_sent_to_the_cluster_unless_it_goes_to_a_group() {
        let there = [&[4, 5, 6, 7, 8, 9][..], b"source", &[8, 0, 0x45]].concat();
        assert_eq!(frame(1, &there), [&CLUSTER, &there[6..]].concat());
        let group = [&[0xff; 6][..], &there[6..]].concat();
        assert_eq!(frame(1, &group), group);
        assert_eq!(frame(1, &[1, 2]), [1, 2]);
    }

    #[test]
    fn an_ip_packet_gets_an_ethernet_header() {
        let head = |ether: [u8; 2]| [&CLUSTER[..], &NO_SOURCE, &ether].concat();
        assert_eq!(frame(101, &[0x45, 9]), [head([8, 0]), vec![0x45, 9]].concat());
        assert_eq!(frame(229, &[0x60, 9]), [head([0x86, 0xdd]), vec![0x60, 9]].concat());
        assert_eq!(frame(0, &[2, 0, 0, 0, 0x45]), [head([8, 0]), vec![0x45]].concat());
        let cooked = [&[0; 14][..], &[0x86, 0xdd, 0x60]].concat();
        assert_eq!(frame(113, &cooked), [head([0x86, 0xdd]), vec![0x60]].concat());
        let cooked = [&[8, 0][..], &[0; 18], &[0x45]].concat();
        assert_eq!(frame(276, &cooked), [head([8, 0]), vec![0x45]].concat());
        assert!(frame(276, &cooked[..19]).is_empty());
        assert_eq!(frame(108, &[1]).len(), 14);
    }

    #[test]
    fn link_types_have_names() {
        assert_eq!(Named(105).to_string(), "105 (IEEE802_11)");
        assert_eq!(Named(9999).to_string(), "9999");
        assert_eq!(write_frame(105, &[], CLUSTER, &mut Vec::new()), Err(NotUnderstood));
    }
}
