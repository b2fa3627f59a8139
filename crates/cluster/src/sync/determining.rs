//! What the owner of a bucket says of a flow that another node has determined.

/// What has come of a flow that the owner of its bucket was asked to let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Answer {
    /// Its entry is in the owner's node table.
    Placed = 0,
    /// It was there before.
    WasThere = 1,
    /// The bucket is not the asked node's.
    NotOwner = 2,
    /// The owner has no room for it.
    Full = 3,
    /// The owner has too many of these under way.
    Busy = 4,
}

impl Answer {
    /// The answer of this number, if there is one.
    pub(crate) const fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Placed,
            1 => Self::WasThere,
            2 => Self::NotOwner,
            3 => Self::Full,
            4 => Self::Busy,
            _ => return None,
        })
    }
}
