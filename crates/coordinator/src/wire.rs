//! How messages and log records look as bytes: fixed-width little-endian fields.
//!
//! Invariant: reading never goes past the end, never allocates more than the message is long, and
//! never recurses.

use testudo_packet::bucket::NodeId;

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They end within a field.
    #[error("the bytes end within a field")]
    Truncated,
    /// They go on after the last field.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// A field has a value that it can't have.
    #[error("{field} is {seen}, expected {expected}")]
    Value {
        /// The field.
        field: &'static str,
        /// What it is.
        seen: u64,
        /// What it can be.
        expected: &'static str,
    },
    /// More than the agreed maximum.
    #[error("{length} bytes, expected at most {max}")]
    TooLong {
        /// How many.
        length: usize,
        /// The maximum.
        max: usize,
    },
}

/// Bytes, read from their front.
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*head)
    }

    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub fn flag(&mut self, field: &'static str) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            seen => Err(DecodeError::Value { field, seen: seen.into(), expected: "0 or 1" }),
        }
    }

    /// Bytes behind their length.
    pub fn blob(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    /// A sorted list of nodes behind its length.
    pub fn nodes(&mut self) -> Result<Vec<NodeId>, DecodeError> {
        let nodes: Vec<NodeId> = self.blob()?.iter().copied().map(NodeId).collect();
        match nodes.windows(2).find(|pair| pair[0] >= pair[1]) {
            None => Ok(nodes),
            Some(pair) => Err(DecodeError::Value {
                field: "a node in a list",
                seen: pair[1].0.into(),
                expected: "more than the one before it",
            }),
        }
    }

    /// The end.
    pub fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }
}

/// Bytes, written at their end.
#[derive(Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub fn blob(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).expect("a blob is shorter than a message"));
        self.0.extend_from_slice(bytes);
    }

    pub fn nodes(&mut self, nodes: &[NodeId]) {
        let bytes: Vec<u8> = nodes.iter().map(|node| node.0).collect();
        self.blob(&bytes);
    }
}
