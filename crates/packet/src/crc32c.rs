//! The checksum of SCTP (RFC 9260 §6.8 and appendix A: CRC-32C, Castagnoli), as far as a translator needs it: what it
//! changes by when the ports change.
//!
//! A CRC is linear: the checksums of two packets of one length differ by the checksum of what the packets differ by, begun
//! with nothing. The packets differ in their first four bytes, and behind those come as many zeros as the packet is long.
//! Each zero byte multiplies by x⁸, so a packet of any length takes one multiplication for each bit of its length.

/// The polynomial, the power 31 of x in the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// How many bits the length of a packet has.
const LENGTH_BITS: usize = 16;

/// How many groups of four bits a remainder has, and how many values each has.
const GROUPS: usize = 8;
const VALUES: usize = 16;

/// One more power of x.
const fn times_x(remainder: u32) -> u32 {
    let carry = if remainder & 1 == 1 { POLYNOMIAL } else { 0 };
    remainder >> 1 ^ carry
}

/// The product of two remainders.
const fn product(a: u32, b: u32) -> u32 {
    let (mut sum, mut power, mut bit) = (0, b, 0);
    while bit < 32 {
        if a >> (31 - bit) & 1 == 1 {
            sum ^= power;
        }
        power = times_x(power);
        bit += 1;
    }
    sum
}

/// What each group of four bits of a remainder becomes by 2ᵏ more zero bytes, for each k.
const fn table() -> [[[u32; VALUES]; GROUPS]; LENGTH_BITS] {
    let mut table = [[[0; VALUES]; GROUPS]; LENGTH_BITS];
    // x⁸ to the power of 2ᵏ; x to the power of 0 is the highest bit.
    let (mut factor, mut k) = (1 << (31 - 8), 0);
    while k < LENGTH_BITS {
        let mut group = 0;
        while group < GROUPS {
            let mut value = 0;
            while value < VALUES {
                table[k][group][value] = product((value as u32) << (4 * group), factor);
                value += 1;
            }
            group += 1;
        }
        factor = product(factor, factor);
        k += 1;
    }
    table
}

static ZEROS: [[[u32; VALUES]; GROUPS]; LENGTH_BITS] = table();

/// What the checksum of a packet of so many bytes changes by, as it stands in the packet, if its first four bytes change
/// by `ports`. Both in network order, and both to be added without carry.
///
/// `opaque` is [`crate::env::Env::opaque`].
#[inline(always)]
pub fn change(ports: u32, bytes: u16, opaque: impl Fn(u64) -> u64) -> u32 {
    let mut remainder = ports.swap_bytes();
    let mut k = 0;
    while k < LENGTH_BITS {
        remainder = opaque(u64::from(remainder)) as u32;
        if bytes >> k & 1 == 1 {
            let (mut next, mut group) = (0, 0);
            while group < GROUPS {
                next ^= ZEROS[k][group][(remainder >> (4 * group)) as usize & (VALUES - 1)];
                group += 1;
            }
            remainder = next;
        }
        k += 1;
    }
    remainder.swap_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bit by bit, as the appendix of RFC 9260 has it.
    fn whole(bytes: &[u8]) -> u32 {
        let mut remainder = u32::MAX;
        for byte in bytes {
            remainder ^= u32::from(*byte);
            for _ in 0..8 {
                remainder = times_x(remainder);
            }
        }
        !remainder
    }

    #[test]
    fn it_is_the_checksum_that_everybody_means() {
        assert_eq!(whole(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn other_ports_give_the_checksum_of_the_other_packet(
            mut packet in proptest::collection::vec(any::<u8>(), 12..3000),
            ports in any::<u32>(),
        ) {
            packet[8..12].fill(0);
            let before = whole(&packet).to_le_bytes();
            let old = u32::from_be_bytes(packet[..4].try_into().unwrap());
            packet[..4].copy_from_slice(&ports.to_be_bytes());
            let after = u32::from_be_bytes(whole(&packet).to_le_bytes());
            let by = change(old ^ ports, packet.len() as u16, |number| number);
            prop_assert_eq!(u32::from_be_bytes(before) ^ by, after);
        }
    }
}
