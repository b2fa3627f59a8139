//! Frames of both versions of the sync protocol, from any bytes.
//!
//! What decodes says the same when it is encoded again; a head that lets its items pass leaves no item
//! undecided for want of bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use testudo_cluster::sync::frame::{FRAME_BYTES, Frame};
use testudo_cluster::sync::layout::{CRITICAL, HEAD_BYTES, Head, Item};

fuzz_target!(|input: &[u8]| {
    for bytes in input.chunks(FRAME_BYTES) {
        if let Ok(frame) = Frame::decode(bytes) {
            let mut again = Vec::new();
            frame.encode(&mut again);
            assert_eq!(again, bytes);
        }
    }
    let mut rest = input;
    while let Some((head, behind)) = rest.split_first_chunk::<HEAD_BYTES>() {
        let head = Head::from_bytes(*head);
        assert_eq!(Head::from_bytes(head.to_bytes()), head);
        let Ok(known) = head.check() else { return };
        rest = behind;
        for _ in 0..head.count {
            let Some((bytes, behind)) = rest.split_at_checked(head.size.into()) else { return };
            rest = behind;
            if known && item(head.kind, bytes).is_none() {
                return;
            }
        }
    }
});

fn item(kind: u8, bytes: &[u8]) -> Option<()> {
    let item = Item::decode(kind, bytes).ok()?;
    let mut again = Vec::new();
    item.put(&mut again);
    assert!(again.len() <= bytes.len());
    // IPv4 addresses spelled as IPv6 ones are written in the shorter way.
    if item.kind() == kind & !CRITICAL {
        assert_eq!(again, bytes[..again.len()], "{item:?}");
    }
    assert_eq!(Item::decode(item.kind(), &again).as_ref(), Ok(&item));
    Some(())
}
