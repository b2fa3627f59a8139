//! MAC addresses as operators write them.

use testudo_packet::env::Mac;

/// Reads six pairs of hexadecimal digits with colons between.
pub(super) fn parse(text: &str) -> Option<Mac> {
    let mut bytes = [0; 6];
    let mut pairs = text.split(':');
    for byte in &mut bytes {
        let pair = pairs.next()?;
        if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    if pairs.next().is_some() { None } else { Some(Mac::from_bytes(bytes)) }
}

/// Whether a single station can have this address: not a group (IEEE 802, I/G bit), not zero.
pub(super) fn is_unicast(mac: Mac) -> bool {
    !mac.is_group() && mac != Mac::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let mac = Mac::from_bytes([0x02, 0x74, 0x65, 0xab, 0x00, 0x01]);
        assert_eq!(parse("02:74:65:aB:00:01"), Some(mac));
        for text in ["", "02", "02:74:65:73:00", "02:74:65:73:00:01:02", "2:74:65:73:0:1"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for text in ["02-74-65-73-00-01", "02:74:65:73:00:g1", "+2:74:65:73:00:01"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        for (text, unicast) in [
            ("02:00:00:00:00:01", true),
            ("00:00:00:00:00:00", false),
            ("01:00:5e:00:00:01", false),
            ("ff:ff:ff:ff:ff:ff", false),
        ] {
            assert_eq!(is_unicast(parse(text).unwrap()), unicast, "{text}");
        }
    }
}
