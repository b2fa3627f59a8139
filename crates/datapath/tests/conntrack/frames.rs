//! What travels in a trace, as numbers, and its frames: with right checksums, for Linux verifies them.

use std::fmt;
use std::net::IpAddr;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const ACK: u8 = 0x10;

/// The gateway's address on both links.
pub const GATEWAY: [u8; 6] = [0x02, 0x74, 0x65, 0x73, 0x00, 0x01];
/// The ends' address on the links.
pub const ENDS: [u8; 6] = [0x02, 0, 0, 0, 0, 9];

/// A segment of TCP.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    pub flags: u8,
    pub sequence: u32,
    pub acknowledged: u32,
    pub window: u16,
    /// The window scale option.
    pub shift: Option<u8>,
    /// Bytes of data.
    pub data: u16,
}

impl Segment {
    pub const fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// The number behind the last that it takes up.
    pub const fn end(&self) -> u32 {
        let control = (self.has(SYN) as u32) + (self.has(FIN) as u32);
        self.sequence.wrapping_add(self.data as u32).wrapping_add(control)
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug)]
pub enum Load {
    Tcp(Segment),
    /// So many bytes.
    Udp(u16),
    /// A request or its reply.
    Echo {
        reply: bool,
    },
}

/// One packet of a trace.
#[derive(Clone, Copy)]
pub struct Packet {
    /// What it is for.
    pub what: &'static str,
    /// The end that sends it: 0 or 1.
    pub from: usize,
    pub load: Load,
}

impl fmt::Debug for Packet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = ["0 -> 1", "1 -> 0"][self.from];
        write!(out, "{way} {:<28} ", self.what)?;
        let Load::Tcp(segment) = self.load else { return write!(out, "{:?}", self.load) };
        let names = [(SYN, "SYN"), (FIN, "FIN"), (RST, "RST"), (ACK, "ACK")];
        let set = names.into_iter().filter(|&(flag, _)| segment.has(flag));
        let names: Vec<_> = set.map(|(_, name)| name).collect();
        let Segment { sequence, acknowledged, window, shift, data, .. } = segment;
        write!(
            out,
            "{} seq {sequence} +{data} ack {acknowledged} win {window} scale {shift:?}",
            names.join("/")
        )
    }
}

/// Between which ends a trace is.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub addresses: [IpAddr; 2],
    /// Also what identifies an echo request: the first.
    pub ports: [u16; 2],
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

fn tcp(segment: &Segment, ports: &[u8]) -> Vec<u8> {
    let options = segment.shift.map_or(vec![], |shift| vec![1, 3, 3, shift]);
    let mut bytes = ports.to_vec();
    bytes.extend([segment.sequence, segment.acknowledged].map(u32::to_be_bytes).concat());
    bytes.extend([(5 + options.len() as u8 / 4) << 4, segment.flags]);
    bytes.extend(segment.window.to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    bytes.resize(bytes.len() + usize::from(segment.data), 0x55);
    bytes
}

impl Packet {
    /// The frame in which it comes to the gateway. `number` is where both families have a number of the packet.
    pub fn frame(&self, ends: &Ends, number: u16) -> Vec<u8> {
        let (from, to) = (self.from, 1 - self.from);
        let ports = [ends.ports[from], ends.ports[to]].map(u16::to_be_bytes).concat();
        let v4 = ends.addresses[0].is_ipv4();
        let (protocol, at, mut bytes) = match &self.load {
            Load::Tcp(segment) => (6, 16, tcp(segment, &ports)),
            Load::Udp(data) => {
                let length = (8 + data).to_be_bytes();
                let data = vec![0x55; usize::from(*data)];
                (17, 6, [&ports[..], &length, &[0, 0], &data].concat())
            }
            Load::Echo { reply } => {
                let kind = if v4 { 8 - 8 * u8::from(*reply) } else { 128 + u8::from(*reply) };
                let [high, low] = ends.ports[0].to_be_bytes();
                (if v4 { 1 } else { 58 }, 2, vec![kind, 0, 0, 0, high, low, 0, 1, 0xaa, 0xbb])
            }
        };
        let addresses = addresses(ends, from);
        let length = bytes.len() as u16;
        let pseudo = [&addresses[..], &length.to_be_bytes(), &[0, protocol]].concat();
        let sum = if protocol == 1 {
            checksum(&bytes)
        } else {
            checksum(&[&pseudo[..], &bytes].concat())
        };
        bytes[at..at + 2].copy_from_slice(&sum);
        framed(ends, from, protocol, &bytes, number)
    }
}

/// Both addresses of a packet that this end sends.
fn addresses(ends: &Ends, from: usize) -> Vec<u8> {
    match [ends.addresses[from], ends.addresses[1 - from]] {
        [IpAddr::V4(from), IpAddr::V4(to)] => [from.octets(), to.octets()].concat(),
        [IpAddr::V6(from), IpAddr::V6(to)] => [from.octets(), to.octets()].concat(),
        mixed => panic!("{mixed:?} are not of one family"),
    }
}

/// The frame in which what an end sends comes to the gateway.
pub fn framed(ends: &Ends, from: usize, protocol: u8, bytes: &[u8], number: u16) -> Vec<u8> {
    let (addresses, length) = (addresses(ends, from), bytes.len() as u16);
    let head = if ends.addresses[0].is_ipv4() {
        let total = (20 + length).to_be_bytes();
        let [high, low] = number.to_be_bytes();
        let head = [0x45, 0, total[0], total[1], high, low, 0x40, 0, 64, protocol, 0, 0];
        let mut head = [&head[..], &addresses].concat();
        let sum = checksum(&head);
        head[10..12].copy_from_slice(&sum);
        [&[0x08, 0x00][..], &head].concat()
    } else {
        let ([high, low], [a, b]) = (length.to_be_bytes(), number.to_be_bytes());
        [&[0x86, 0xdd, 0x60, 0, a, b, high, low, protocol, 64], &addresses[..]].concat()
    };
    [&GATEWAY[..], &ENDS, &head, bytes].concat()
}

/// What of a frame is the same before and after it was forwarded: everything behind the link's addresses but the hop
/// limit and the header's checksum.
pub fn core(frame: &[u8]) -> Vec<u8> {
    let mut core = frame[12..].to_vec();
    match core[..2] {
        [0x08, 0x00] => {
            core[10] = 0;
            core[12..14].fill(0);
        }
        [0x86, 0xdd] => core[9] = 0,
        _ => {}
    }
    core
}
