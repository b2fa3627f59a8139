//! Capture files, as several programs write them.

/// Packets with the nanosecond since 1970 that each was captured in.
pub type Timed = Vec<(u64, Vec<u8>)>;

/// A number in a byte order.
fn put(file: &mut Vec<u8>, big_endian: bool, number: u32) {
    file.extend(if big_endian { number.to_be_bytes() } else { number.to_le_bytes() });
}

/// How a pcap file is written.
#[derive(Clone, Copy)]
pub struct Pcap {
    pub big_endian: bool,
    pub nanoseconds: bool,
    pub link: u32,
    /// The most of a packet that is kept.
    pub snapshot: usize,
}

pub const PLAIN: Pcap = Pcap { big_endian: false, nanoseconds: false, link: 1, snapshot: 262_144 };

/// A pcap file.
pub fn pcap(how: Pcap, packets: &Timed) -> Vec<u8> {
    let Pcap { big_endian, nanoseconds, link, snapshot } = how;
    let mut file = Vec::new();
    put(&mut file, big_endian, if nanoseconds { 0xa1b2_3c4d } else { 0xa1b2_c3d4 });
    file.extend(if big_endian { [0, 2, 0, 4] } else { [2, 0, 4, 0] });
    for number in [0, 0, snapshot as u32, link] {
        put(&mut file, big_endian, number);
    }
    for (time, packet) in packets {
        let kept = &packet[..packet.len().min(snapshot)];
        let fraction = time % 1_000_000_000 / if nanoseconds { 1 } else { 1000 };
        let head = [time / 1_000_000_000, fraction, kept.len() as u64, packet.len() as u64];
        head.iter().for_each(|&number| put(&mut file, big_endian, number as u32));
        file.extend(kept);
    }
    file
}

/// A pcapng file whose interface counts microseconds, as is the default.
pub fn pcapng(big_endian: bool, link: u16, packets: &Timed) -> Vec<u8> {
    let mut file = Vec::new();
    let mut block = |kind: u32, numbers: &[u32], bytes: &[u8]| {
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        let length = (12 + numbers.len() * 4 + bytes.len() + padding) as u32;
        for &number in [kind, length].iter().chain(numbers) {
            put(&mut file, big_endian, number);
        }
        file.extend(bytes);
        file.extend(vec![0; padding]);
        put(&mut file, big_endian, length);
    };
    let version = if big_endian { 0x0001_0000 } else { 1 };
    block(0x0a0d_0d0a, &[0x1a2b_3c4d, version, u32::MAX, u32::MAX], &[]);
    let link = if big_endian { u32::from(link) << 16 } else { u32::from(link) };
    block(1, &[link, 0], &[]);
    for (time, packet) in packets {
        let units = time / 1000;
        let length = packet.len() as u32;
        block(6, &[0, (units >> 32) as u32, units as u32, length, length], packet);
    }
    file
}
