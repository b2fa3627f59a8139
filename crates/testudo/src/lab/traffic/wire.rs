//! What the client and the server say to each other: numbered messages, checked to the last byte.
//!
//! Invariant: every byte of a message follows from the run's key, who sends it, on which connection,
//! and its number. A byte that a gateway changed, a message delivered on another connection, twice or
//! out of order is seen by whoever receives it, without either end keeping what was sent.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::IpAddr;

use mio::net::TcpStream;

use crate::lab::random::Random;

/// Bytes of a message; datagrams are one message each.
pub const SIZE: usize = 64;
const HEADER: usize = 12;

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The client asks; the server gives an answer with the same number.
    Ask = 1,
    /// The server's answer.
    Answer = 2,
    /// The server speaks first.
    Push = 3,
}

/// One message. Its body follows from the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// What it is for.
    pub kind: Kind,
    /// The connection or flow that it belongs to.
    pub connection: u32,
    /// Its number among those of its kind on its connection, from 0.
    pub number: u32,
}

/// Bytes that no message of this run consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Corrupt;

impl Message {
    /// Its bytes, in the run of `key`.
    pub fn encode(&self, key: u64) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.connection.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.number.to_be_bytes());
        let place = u64::from(self.connection) << 32 | u64::from(self.number);
        let mut random = Random::new(key ^ place ^ ((self.kind as u64) << 56));
        for chunk in bytes[HEADER..].chunks_mut(8) {
            chunk.copy_from_slice(&random.draw().to_be_bytes()[..chunk.len()]);
        }
        bytes
    }

    /// Read a message, and check that every byte is as it was sent.
    pub fn decode(bytes: &[u8; SIZE], key: u64) -> Result<Message, Corrupt> {
        let kind = match bytes[0] {
            1 => Kind::Ask,
            2 => Kind::Answer,
            3 => Kind::Push,
            _ => return Err(Corrupt),
        };
        let number = |at: usize| {
            u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let message = Message { kind, connection: number(4), number: number(8) };
        if message.encode(key) == *bytes { Ok(message) } else { Err(Corrupt) }
    }

    /// Read a datagram's payload: one message, and nothing else.
    pub fn from_datagram(bytes: &[u8], key: u64) -> Option<Message> {
        let whole = bytes.first_chunk::<SIZE>().filter(|_| bytes.len() == SIZE)?;
        Message::decode(whole, key).ok()
    }
}

/// Why a connection can't be used any more.
#[derive(Debug)]
pub enum Broken {
    /// The peer, or someone in its name, reset it.
    Reset,
    /// The peer closed it, which neither end does during a run.
    Closed,
    /// Bytes came that were not sent.
    Corrupt,
    /// A message came that was not the next one.
    Unexpected {
        /// What came.
        seen: Message,
        /// The number that was to come.
        expected: u32,
    },
    /// It came from an address that the server was not to see.
    Exposed(IpAddr),
    /// The kernel gave up.
    Failed(io::Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Broken::Reset => f.write_str("reset"),
            Broken::Closed => f.write_str("closed by the peer"),
            Broken::Corrupt => f.write_str("bytes came that were not sent"),
            Broken::Unexpected { seen, expected } => {
                write!(f, "{:?} {} came, expected {expected}", seen.kind, seen.number)
            }
            Broken::Exposed(seen) => {
                write!(f, "it came from {seen}, which is not the cluster's address")
            }
            Broken::Failed(error) => error.fmt(f),
        }
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Broken {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Broken::Reset,
            _ => Broken::Failed(error),
        }
    }
}

/// A non-blocking stream cut into messages. What waits to be sent is bounded by its users: a client
/// stops asking while answers are due.
#[derive(Debug)]
pub struct Framed {
    /// The stream itself, to register and to close.
    pub stream: TcpStream,
    key: u64,
    partial: [u8; SIZE],
    filled: usize,
    waiting: Vec<u8>,
}

impl Framed {
    /// Wrap a stream.
    pub fn new(stream: TcpStream, key: u64) -> Framed {
        Framed { stream, key, partial: [0; SIZE], filled: 0, waiting: Vec::new() }
    }

    /// Read until nothing more is there; append the messages to `into`.
    pub fn receive(&mut self, into: &mut Vec<Message>) -> Result<(), Broken> {
        let mut buffer = [0; 16 * SIZE];
        loop {
            let mut bytes = match self.stream.read(&mut buffer) {
                Ok(0) => return Err(Broken::Closed),
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(bytes.len().min(SIZE - self.filled));
                self.partial[self.filled..self.filled + now.len()].copy_from_slice(now);
                self.filled += now.len();
                bytes = later;
                if self.filled == SIZE {
                    self.filled = 0;
                    let message = Message::decode(&self.partial, self.key);
                    into.push(message.map_err(|Corrupt| Broken::Corrupt)?);
                }
            }
        }
    }

    /// Send a message, now or when the stream takes it.
    pub fn send(&mut self, message: Message) -> Result<(), Broken> {
        self.waiting.extend_from_slice(&message.encode(self.key));
        self.flush()
    }

    /// Send what waits, as far as the stream takes it.
    pub fn flush(&mut self) -> Result<(), Broken> {
        while !self.waiting.is_empty() {
            match self.stream.write(&self.waiting) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_counts() {
        let message = Message { kind: Kind::Push, connection: 999, number: 70_000 };
        let bytes = message.encode(5);
        assert_eq!(Message::decode(&bytes, 5), Ok(message));
        assert_eq!(Message::decode(&bytes, 6), Err(Corrupt));
        for at in 0..SIZE {
            let mut changed = bytes;
            changed[at] ^= 1;
            assert_eq!(Message::decode(&changed, 5), Err(Corrupt), "byte {at}");
        }
    }
}
