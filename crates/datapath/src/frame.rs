//! The bytes of a packet in ordinary memory.

use testudo_packet::env::Frame;
use testudo_packet::packet_hash::{HASHED_BYTES, HASHED_WORDS};

/// A packet in a slice, from the Ethernet header on.
#[derive(Debug)]
pub struct SliceFrame<'a>(pub &'a mut [u8]);

impl SliceFrame<'_> {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let start = offset as usize;
        self.0.get(start..start.checked_add(N)?)?.try_into().ok()
    }

    fn write<const N: usize>(&mut self, offset: u32, bytes: [u8; N]) -> Option<()> {
        let start = offset as usize;
        self.0.get_mut(start..start.checked_add(N)?)?.copy_from_slice(&bytes);
        Some(())
    }
}

impl Frame for SliceFrame<'_> {
    fn len(&self) -> u32 {
        self.0.len() as u32
    }

    fn u8(&self, offset: u32) -> Option<u8> {
        self.read(offset).map(u8::from_be_bytes)
    }

    fn u16(&self, offset: u32) -> Option<u16> {
        self.read(offset).map(u16::from_be_bytes)
    }

    fn u32(&self, offset: u32) -> Option<u32> {
        self.read(offset).map(u32::from_be_bytes)
    }

    fn u64(&self, offset: u32) -> Option<u64> {
        self.read(offset).map(u64::from_be_bytes)
    }

    fn u32s<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = offset as usize;
        let (bytes, _) = self.0.get(start..start.checked_add(4 * N)?)?.as_chunks::<4>();
        let words: &[[u8; 4]; N] = bytes.try_into().ok()?;
        Some(words.map(u32::from_be_bytes))
    }

    fn copy(&self, offset: u32, bytes: u32, room: &mut [u64; HASHED_WORDS]) -> Option<()> {
        if bytes == 0 || bytes > HASHED_BYTES {
            return None;
        }
        let start = offset as usize;
        let seen = self.0.get(start..start.checked_add(bytes as usize)?)?;
        for (word, part) in room.iter_mut().zip(seen.chunks(8)) {
            let mut whole = word.to_ne_bytes();
            whole[..part.len()].copy_from_slice(part);
            *word = u64::from_ne_bytes(whole);
        }
        Some(())
    }

    fn set_u8(&mut self, offset: u32, value: u8) -> Option<()> {
        self.write(offset, value.to_be_bytes())
    }

    fn set_u16(&mut self, offset: u32, value: u16) -> Option<()> {
        self.write(offset, value.to_be_bytes())
    }

    fn set_u32(&mut self, offset: u32, value: u32) -> Option<()> {
        self.write(offset, value.to_be_bytes())
    }

    fn set_u32s<const N: usize>(&mut self, offset: u32, values: [u32; N]) -> Option<()> {
        let start = offset as usize;
        let (bytes, _) = self.0.get_mut(start..start.checked_add(4 * N)?)?.as_chunks_mut::<4>();
        bytes.iter_mut().zip(values).for_each(|(word, value)| *word = value.to_be_bytes());
        Some(())
    }

    fn set_u64(&mut self, offset: u32, value: u64) -> Option<()> {
        self.write(offset, value.to_be_bytes())
    }
}
