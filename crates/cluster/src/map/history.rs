//! What has changed in the map, and why: the part of it that operators read.

use std::collections::VecDeque;

use super::{Reason, Version};

/// How many changes are kept.
pub const HISTORY: usize = 256;

/// A change of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The version that it made.
    pub version: Version,
    /// Why it was made.
    pub reason: Reason,
    /// How many buckets got another first node.
    pub buckets: usize,
}

/// The latest changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct History(VecDeque<Change>);

impl History {
    pub(super) fn push(&mut self, change: Change) {
        if self.0.len() == HISTORY {
            self.0.pop_front();
        }
        self.0.push_back(change);
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Change> {
        self.0.iter()
    }
}
