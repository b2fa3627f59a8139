//! One record of a capture: what of it is a packet, and when it came.
//!
//! The formats are pcap and pcapng, as draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng describe
//! them. `pcap_parser` takes records apart; what they mean together (whose packet, which clock) is
//! put together here. Nothing here reads a file.

use std::ops::Range;

use pcap_parser::nom;
use pcap_parser::{
    Block, InterfaceDescriptionBlock, LegacyPcapBlock, OptionCode, PcapError, PcapHeader,
};

/// What a section of a pcapng file begins with, in either byte order.
const SECTION: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// Where the bytes of a packet begin in an enhanced and in a simple packet block.
const ENHANCED_DATA: usize = 28;
const SIMPLE_DATA: usize = 12;

/// How to read what follows.
#[derive(Debug)]
pub enum Format {
    /// Nothing has been read yet.
    Unknown,
    /// pcap.
    Pcap(PcapHeader),
    /// pcapng, in a section of this byte order, with these interfaces so far.
    Pcapng { big_endian: bool, interfaces: Vec<Interface> },
}

/// Where packets of a pcapng file were captured.
#[derive(Clone, Copy, Debug)]
pub struct Interface {
    link: u32,
    snapshot: u32,
    resolution: u8,
    /// Seconds to be added to every timestamp.
    shift: i64,
}

/// A packet's place in its record, and what the record says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The link type, see [`super::link_type`].
    pub link: u32,
    /// Nanoseconds since 1970; `None` if the record doesn't say.
    pub time: Option<u64>,
    /// Where the packet stands in the record.
    pub data: Range<usize>,
    /// How long the packet was before the capture cut it.
    pub length: u32,
}

/// A record: how long it is, and the packet in it if there is one.
#[derive(Debug)]
pub struct Record {
    pub bytes: usize,
    pub entry: Option<Entry>,
}

/// Why there is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It goes on behind the bytes given.
    Incomplete,
    /// The file is none that is known.
    NotACapture,
    /// It contradicts itself.
    Malformed,
    /// Its packet came by an interface that the section has not described.
    NoInterface { interface: u32, known: usize },
}

impl From<nom::Err<PcapError<&[u8]>>> for Unread {
    fn from(error: nom::Err<PcapError<&[u8]>>) -> Self {
        match error {
            nom::Err::Incomplete(_) => Self::Incomplete,
            nom::Err::Error(PcapError::HeaderNotRecognized) => Self::NotACapture,
            nom::Err::Error(_) | nom::Err::Failure(_) => Self::Malformed,
        }
    }
}

impl Format {
    /// Reads the record that `data` begins with.
    pub fn read(&mut self, data: &[u8]) -> Result<Record, Unread> {
        match self {
            Self::Unknown if data.starts_with(&SECTION) => {
                *self = Self::Pcapng { big_endian: false, interfaces: Vec::new() };
                self.read(data)
            }
            Self::Unknown => {
                let (rest, header) = pcap_parser::parse_pcap_header(data)?;
                *self = Self::Pcap(header);
                Ok(Record { bytes: data.len() - rest.len(), entry: None })
            }
            Self::Pcap(header) => read_pcap(header, data),
            Self::Pcapng { big_endian, interfaces } => read_block(big_endian, interfaces, data),
        }
    }
}

fn read_pcap(header: &PcapHeader, data: &[u8]) -> Result<Record, Unread> {
    let (rest, LegacyPcapBlock { ts_sec, ts_usec, caplen, origlen, .. }) =
        if header.is_modified_format() {
            pcap_parser::parse_pcap_frame_modified(data)?
        } else if header.is_bigendian() {
            pcap_parser::parse_pcap_frame_be(data)?
        } else {
            pcap_parser::parse_pcap_frame(data)?
        };
    let bytes = data.len() - rest.len();
    let unit = if header.is_nanosecond_precision() { 1 } else { 1000 };
    let entry = Entry {
        // The upper half says how long a frame check sequence is.
        link: header.network.0 as u32 & 0xffff,
        time: Some(u64::from(ts_sec) * 1_000_000_000 + u64::from(ts_usec) * unit),
        data: bytes - caplen as usize..bytes,
        length: origlen,
    };
    Ok(Record { bytes, entry: Some(entry) })
}

fn read_block(
    big_endian: &mut bool,
    interfaces: &mut Vec<Interface>,
    data: &[u8],
) -> Result<Record, Unread> {
    // A section says its byte order itself; its block type reads the same in both.
    let parse = if *big_endian { pcap_parser::parse_block_be } else { pcap_parser::parse_block_le };
    let (rest, block) = parse(data).map_err(|error| match error.into() {
        Unread::Incomplete if is_whole(*big_endian, data) => Unread::Malformed,
        other => other,
    })?;
    let entry = match block {
        Block::SectionHeader(section) => {
            *big_endian = section.big_endian();
            interfaces.clear();
            None
        }
        Block::InterfaceDescription(description) => {
            interfaces.push(interface(*big_endian, &description));
            None
        }
        Block::EnhancedPacket(packet) => {
            let known = interfaces.len();
            let missing = Unread::NoInterface { interface: packet.if_id, known };
            let interface = interfaces.get(packet.if_id as usize).ok_or(missing)?;
            let units = u64::from(packet.ts_high) << 32 | u64::from(packet.ts_low);
            Some(Entry {
                link: interface.link,
                time: Some(interface.nanoseconds(units)),
                data: ENHANCED_DATA..ENHANCED_DATA + packet.caplen as usize,
                length: packet.origlen,
            })
        }
        Block::SimplePacket(packet) => {
            let missing = Unread::NoInterface { interface: 0, known: 0 };
            let interface = interfaces.first().ok_or(missing)?;
            let snapshot = if interface.snapshot == 0 { u32::MAX } else { interface.snapshot };
            let captured = packet.data.len().min(packet.origlen.min(snapshot) as usize);
            Some(Entry {
                link: interface.link,
                time: None,
                data: SIMPLE_DATA..SIMPLE_DATA + captured,
                length: packet.origlen,
            })
        }
        _ => None,
    };
    Ok(Record { bytes: data.len() - rest.len(), entry })
}

/// Whether all of the block is there, by its own account of its length.
fn is_whole(big_endian: bool, data: &[u8]) -> bool {
    let Some(&length) = data.get(4..).and_then(<[u8]>::first_chunk) else { return false };
    let read = |big| if big { u32::from_be_bytes(length) } else { u32::from_le_bytes(length) };
    let big_endian = match data.get(8..12) {
        Some(order) if data.starts_with(&SECTION) => order == 0x1a2b_3c4d_u32.to_be_bytes(),
        _ => big_endian,
    };
    data.len() >= read(big_endian) as usize
}

fn interface(big_endian: bool, description: &InterfaceDescriptionBlock<'_>) -> Interface {
    let shift = description.options.iter().find(|option| option.code == OptionCode::IfTsoffset);
    let shift = shift.and_then(|option| option.value().first_chunk().copied());
    let read = if big_endian { i64::from_be_bytes } else { i64::from_le_bytes };
    Interface {
        link: description.linktype.0 as u32,
        snapshot: description.snaplen,
        resolution: description.if_tsresol,
        shift: shift.map_or(0, read),
    }
}

impl Interface {
    /// A timestamp of this interface in nanoseconds since 1970, or the nearest that there is.
    fn nanoseconds(&self, units: u64) -> u64 {
        const SECOND: i128 = 1_000_000_000;
        let exponent = u32::from(self.resolution & 0x7f);
        let base: u128 = if self.resolution & 0x80 == 0 { 10 } else { 2 };
        let nanoseconds = match base.checked_pow(exponent) {
            Some(a_second) => u128::from(units) * SECOND as u128 / a_second,
            None => 0,
        };
        let shifted = nanoseconds as i128 + i128::from(self.shift) * SECOND;
        shifted.clamp(0, i128::from(u64::MAX)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_count_in_the_unit_of_their_interface() {
        let at = |resolution, shift, units| {
            Interface { link: 1, snapshot: 0, resolution, shift }.nanoseconds(units)
        };
        assert_eq!(at(6, 0, 1_500_000), 1_500_000_000);
        assert_eq!(at(9, 0, 1_500_000), 1_500_000);
        assert_eq!(at(0, 0, 3), 3_000_000_000);
        assert_eq!(at(0x80 | 10, 0, 512), 500_000_000);
        assert_eq!(at(6, 100, 1), 100_000_001_000);
        assert_eq!(at(6, -100, 1), 0);
        assert_eq!(at(0, i64::MAX, u64::MAX), u64::MAX);
        assert_eq!(at(0, i64::MIN, 5), 0);
        assert_eq!(at(127, 0, u64::MAX), 0);
    }
}
