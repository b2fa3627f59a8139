//! A queue in which each number waits once.

use std::collections::VecDeque;

use testudo_packet::bucket::BucketId;

use crate::bits::Bits;

/// Small numbers, in the order in which they were put in, each at most once.
#[derive(Debug, Default)]
pub(super) struct UniqueQueue {
    queue: VecDeque<u32>,
    member: Bits,
    /// How many were ever put in, and taken out.
    pub(super) pushed: u64,
    pub(super) popped: u64,
}

impl UniqueQueue {
    /// Says whether it was not in already.
    pub(super) fn push(&mut self, number: u32) -> bool {
        let new = self.member.insert(number);
        if new {
            self.queue.push_back(number);
            self.pushed += 1;
        }
        new
    }

    pub(super) fn pop(&mut self) -> Option<u32> {
        let number = self.queue.pop_front()?;
        self.popped += 1;
        self.member.remove(number);
        Some(number)
    }

    pub(super) fn pop_bucket(&mut self) -> Option<BucketId> {
        self.pop().map(|number| BucketId(number as u16))
    }

    pub(super) fn contains(&self, number: u32) -> bool {
        self.member.contains(number)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn clear(&mut self) {
        self.queue.clear();
        self.popped = self.pushed;
        self.member.clear();
    }
}
