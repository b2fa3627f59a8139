//! A part of a file in memory, with its place in the file.
//!
//! Records of a capture have no upper bound of their own, so the window grows to the record that is
//! read; whoever reads decides how far.

use std::io::{self, ErrorKind, Read};

/// How much is read at once.
const STEP: usize = 1 << 16;

/// What has been read of a file and not been used yet.
#[derive(Debug)]
pub struct Window<R> {
    reader: R,
    buffer: Vec<u8>,
    start: usize,
    offset: u64,
}

impl<R: Read> Window<R> {
    /// The beginning of a file, nothing of it read.
    pub const fn new(reader: R) -> Self {
        Self { reader, buffer: Vec::new(), start: 0, offset: 0 }
    }

    /// What has been read and not been used.
    pub fn data(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Where in the file [`Window::data`] begins.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads more, as much again as there is; `false` at the file's end.
    pub fn more(&mut self) -> io::Result<bool> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let before = self.buffer.len();
        self.buffer.resize(before + before.max(STEP), 0);
        let read = loop {
            match self.reader.read(&mut self.buffer[before..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.buffer.truncate(before + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }

    /// Uses the next bytes, of which there have to be as many.
    pub fn take(&mut self, bytes: usize) -> &[u8] {
        let taken = self.start..self.start + bytes;
        self.start = taken.end;
        self.offset += bytes as u64;
        &self.buffer[taken]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_place() {
        let file: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        let mut window = Window::new(&file[..]);
        assert!(window.data().is_empty());
        while window.more().unwrap() {
            if window.data().len() > 10 {
                let place = window.offset() as usize;
                assert_eq!(window.take(7), &file[place..place + 7]);
            }
        }
        let place = window.offset() as usize;
        assert_eq!(window.data(), &file[place..]);
    }
}
