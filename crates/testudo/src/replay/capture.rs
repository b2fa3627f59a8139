//! Captures, packet by packet.
//!
//! Files come from anywhere. Invariant: whatever a file holds, reading it takes bounded memory and
//! ends with its end or with a [`CaptureError`] that says where; packets before that place are
//! given out.

use std::fmt;
use std::io::{self, Read};

use super::link_type;
use super::record::{Entry, Format, Record, Unread};
use super::window::Window;

/// The longest record that is read. Captures hold packets of at most 256 KiB; names and secrets
/// beside them may be longer.
const MAX_RECORD: usize = 16 << 20;

/// A packet of a capture.
#[derive(Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// Its number in the file, from 1.
    pub number: u64,
    /// When it was captured, in nanoseconds since 1970; `None` if the file doesn't say.
    pub time: Option<u64>,
    /// The link type, see [`link_type`].
    pub link: u32,
    /// As much of it as was captured.
    pub bytes: &'a [u8],
    /// How long it was.
    pub length: u32,
}

/// Why a capture can't be read on, and where. What came before is fine.
#[derive(Debug, thiserror::Error)]
#[error("byte {offset}, after {packets} packets: {fault}")]
pub struct CaptureError {
    /// Where the record that can't be read begins.
    pub offset: u64,
    /// How many packets were read.
    pub packets: u64,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with a capture.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system doesn't give it.
    #[error("{0}")]
    Unreadable(#[from] io::Error),
    /// It is another kind of file.
    #[error("the file begins with {seen}; expected pcap or pcapng")]
    NotACapture { seen: Hex },
    /// It ends too early.
    #[error("the file ends {seen} bytes into a record; expected the rest of it")]
    Truncated { seen: usize },
    /// A record contradicts itself.
    #[error("a record that begins with {seen} contradicts itself")]
    Malformed { seen: Hex },
    /// A record is not to be believed.
    #[error("a record of more than {MAX_RECORD} bytes")]
    TooLong,
    /// A packet belongs to nothing.
    #[error("a packet of interface {interface}; {known} interfaces are described before it")]
    NoInterface { interface: u32, known: usize },
    /// There is no Ethernet or IP in it.
    #[error("a packet of link type {}; expected one of {}",
            link_type::Named(*.link), link_type::Known)]
    LinkType { link: u32 },
}

/// The first bytes of something, for people.
#[derive(Debug, PartialEq, Eq)]
pub struct Hex(Vec<u8>);

impl Hex {
    fn of(data: &[u8]) -> Self {
        Self(data.iter().take(8).copied().collect())
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nothing");
        }
        f.write_str("0x")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A file that is being read.
#[derive(Debug)]
pub struct Capture<R> {
    window: Window<R>,
    format: Format,
    packets: u64,
    /// Where the record of the packet read last begins.
    last: u64,
}

impl<R: Read> Capture<R> {
    /// The capture in a file, from its beginning.
    pub const fn new(reader: R) -> Self {
        Self { window: Window::new(reader), format: Format::Unknown, packets: 0, last: 0 }
    }

    /// An error at the packet read last.
    pub fn refuse_last(&self, fault: Fault) -> CaptureError {
        let packets = self.packets.saturating_sub(1);
        CaptureError { offset: self.last, packets, fault }
    }

    /// The next packet; `None` at the end.
    pub fn next(&mut self) -> Result<Option<Packet<'_>>, CaptureError> {
        let (bytes, entry) = loop {
            match self.format.read(self.window.data()) {
                Ok(Record { bytes, entry: Some(entry) }) => break (bytes, entry),
                Ok(Record { bytes, entry: None }) => {
                    self.window.take(bytes);
                }
                Err(Unread::Incomplete) => {
                    if self.read_more().map_err(|fault| self.error(fault))? {
                        continue;
                    }
                    return Ok(None);
                }
                Err(Unread::NotACapture) => {
                    let seen = Hex::of(self.window.data());
                    return Err(self.error(Fault::NotACapture { seen }));
                }
                Err(Unread::Malformed) => {
                    let seen = Hex::of(self.window.data());
                    return Err(self.error(Fault::Malformed { seen }));
                }
                Err(Unread::NoInterface { interface, known }) => {
                    return Err(self.error(Fault::NoInterface { interface, known }));
                }
            }
        };
        self.packets += 1;
        self.last = self.window.offset();
        let Entry { link, time, data, length } = entry;
        let bytes = &self.window.take(bytes)[data];
        Ok(Some(Packet { number: self.packets, time, link, bytes, length }))
    }

    /// Reads on in the file; `false` if it ends where a record may end.
    fn read_more(&mut self) -> Result<bool, Fault> {
        if self.window.data().len() >= MAX_RECORD {
            return Err(Fault::TooLong);
        }
        if self.window.more()? {
            return Ok(true);
        }
        match (self.window.data(), &self.format) {
            ([], Format::Unknown) => Err(Fault::NotACapture { seen: Hex::of(&[]) }),
            ([], _) => Ok(false),
            (rest, _) => Err(Fault::Truncated { seen: rest.len() }),
        }
    }

    const fn error(&self, fault: Fault) -> CaptureError {
        CaptureError { offset: self.window.offset(), packets: self.packets, fault }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A pcapng file in big-endian byte order with two packets, the second without a time.
    fn pcapng() -> Vec<u8> {
        let mut file = Vec::new();
        let mut block = |kind: u32, body: &[u8]| {
            let length = (12 + body.len() as u32).to_be_bytes();
            file.extend([&kind.to_be_bytes()[..], &length, body, &length].concat());
        };
        let length_unknown = [0xff; 8];
        block(0x0a0d_0d0a, &[&[0x1a, 0x2b, 0x3c, 0x4d, 0, 1, 0, 0][..], &length_unknown].concat());
        block(1, &[0, 1, 0, 0, 0, 0, 0, 3, 0, 9, 0, 1, 9, 0, 0, 0, 0, 0, 0, 0]);
        block(0x1234, b"what is unknown is passed over..");
        block(6, &[&[0; 11][..], &[7, 0, 0, 0, 2, 0, 0, 0, 60, 0xaa, 0xbb, 0, 0]].concat());
        block(3, &[0, 0, 0, 4, 0xcc, 0xdd, 0xee, 0xff]);
        file
    }

    /// Reads a file to its end: the packets' bytes, and what ended it.
    fn read(file: &[u8]) -> (Vec<Vec<u8>>, Option<CaptureError>) {
        let mut capture = Capture::new(file);
        let mut packets = Vec::new();
        loop {
            match capture.next() {
                Ok(Some(packet)) => packets.push(packet.bytes.to_vec()),
                Ok(None) => return (packets, None),
                Err(error) => return (packets, Some(error)),
            }
        }
    }

    #[test]
    fn a_section_of_the_other_byte_order_is_read() {
        let file = pcapng();
        let mut capture = Capture::new(&file[..]);
        let first = Packet { number: 1, time: Some(7), link: 1, bytes: &[0xaa, 0xbb], length: 60 };
        assert_eq!(capture.next().unwrap(), Some(first));
        let cut = &[0xcc, 0xdd, 0xee];
        let second = Packet { number: 2, time: None, link: 1, bytes: cut, length: 4 };
        assert_eq!(capture.next().unwrap(), Some(second));
        assert_eq!(capture.next().unwrap(), None);
    }

    #[test]
    fn an_error_says_where() {
        let whole = pcapng();
        let message = |file: &[u8]| read(file).1.expect("an error").to_string();
        assert_eq!(
            message(b""),
            "byte 0, after 0 packets: the file begins with nothing; expected pcap or pcapng"
        );
        assert_eq!(
            message(b"GIF89a, and more of it"),
            "byte 0, after 0 packets: the file begins with 0x4749463839612c20; expected pcap or pcapng"
        );
        assert_eq!(
            message(&whole[..whole.len() - 3]),
            "byte 140, after 1 packets: the file ends 17 bytes into a record; expected the rest of it"
        );
        let mut strange = whole;
        strange[28 + 32 + 44 + 11] = 5;
        assert_eq!(
            message(&strange),
            "byte 104, after 0 packets: a packet of interface 5; 1 interfaces are described before it"
        );
    }

    #[test]
    fn a_record_that_claims_gigabytes_is_not_waited_for() {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0];
        file.extend([0; 12]);
        file.extend([1, 0, 0, 0]);
        file.extend([0; 8]);
        file.extend([0xff; 8]);
        let endless = io::Read::chain(&file[..], io::repeat(0));
        let error = Capture::new(endless).next().unwrap_err();
        assert!(matches!(error.fault, Fault::TooLong), "{error}");
    }

    proptest! {
        #[test]
        fn no_damage_to_a_file_does_more_than_end_it(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            length: prop::sample::Index,
        ) {
            let mut file = pcapng();
            for (at, byte) in changes {
                let at = at.index(file.len());
                file[at] = byte;
            }
            file.truncate(length.index(file.len() + 1));
            let (packets, _) = read(&file);
            prop_assert!(packets.iter().map(Vec::len).sum::<usize>() <= file.len());
        }
    }
}
