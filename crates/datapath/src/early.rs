//! Fragments that have come before the first of their packet, or before that has begun its flow.
//!
//! They wait here until it has, at most [`PATIENCE`], and then go on in the order in which they came: a
//! network that lets packets overtake each other does so by less.
//!
//! Invariant: what waits is never more than [`MAX_PACKETS`] and [`MAX_BYTES`]; what finds no room is dropped and
//! counted. So whoever sends fragments without their first ones takes others' patience, and nothing else.

use std::collections::VecDeque;

use testudo_packet::bucket::{BucketId, BucketSlot, BucketState, Nanos, NodeId};

use crate::committing::Committing;
use crate::fragments::Fragments;
use crate::interface::NodeTable;
use crate::place::place_of;
use crate::shared_table::SharedTable;

/// The most fragments that wait on a node.
pub const MAX_PACKETS: usize = 512;
/// The most bytes that wait on a node.
pub const MAX_BYTES: usize = 1 << 20;
/// How long they wait.
pub const PATIENCE: Nanos = Nanos(100_000_000);

/// The fragments that wait, the oldest first.
#[derive(Debug)]
pub struct Early<T> {
    packets: VecDeque<(Nanos, usize, T)>,
    bytes: usize,
}

impl<T> Default for Early<T> {
    fn default() -> Self {
        Self { packets: VecDeque::new(), bytes: 0 }
    }
}

/// What has become of those that waited.
#[derive(Debug)]
pub struct Ready<T> {
    /// They wait no longer.
    pub packets: Vec<T>,
    /// How many have waited in vain.
    pub expired: u64,
}

impl<T> Early<T> {
    /// Lets a fragment wait; says whether there was room.
    pub fn push(&mut self, now: Nanos, bytes: usize, packet: T) -> bool {
        let room = self.packets.len() < MAX_PACKETS && self.bytes + bytes <= MAX_BYTES;
        if room {
            self.packets.push_back((now, bytes, packet));
            self.bytes += bytes;
        }
        room
    }

    /// Takes out those that `is_known` says are to wait no longer, and those that have waited for too long.
    pub fn take_ready(&mut self, now: Nanos, mut is_known: impl FnMut(&mut T) -> bool) -> Ready<T> {
        let mut ready = Ready { packets: Vec::new(), expired: 0 };
        for _ in 0..self.packets.len() {
            let Some((since, bytes, mut packet)) = self.packets.pop_front() else { break };
            if is_known(&mut packet) {
                ready.packets.push(packet);
            } else if now.0.saturating_sub(since.0) > PATIENCE.0 {
                ready.expired += 1;
            } else {
                self.packets.push_back((since, bytes, packet));
                continue;
            }
            self.bytes -= bytes;
        }
        ready
    }
}

/// Whether what a fragment waits for has come: a flow that it can be handled by, or somebody else who handles it.
pub(crate) fn is_awaited<T>(
    (table, fragments, committing): (&SharedTable, &Fragments, &Committing<T>),
    node: NodeId,
    slot: impl Fn(BucketId) -> BucketSlot,
    now: Nanos,
    frame: &mut [u8],
) -> bool {
    let Some(place) = place_of(table.placing(), fragments, now, frame) else { return false };
    let slot = slot(place.bucket);
    slot.owner != node
        || slot.state == BucketState::Holding
        || table.get(&place.key).is_some()
        || committing.find(&place.key).is_some()
        || fragments.is_refused(&table.placing().placer, frame, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_goes_on_in_order_and_what_is_not_waits_no_longer_than_its_patience() {
        let mut early = Early::default();
        for number in 0..6 {
            assert!(early.push(Nanos(number), 100, number));
        }
        let ready = early.take_ready(Nanos(50), |number| *number % 2 == 1);
        assert_eq!((ready.packets, ready.expired), (vec![1, 3, 5], 0));
        let ready = early.take_ready(Nanos(PATIENCE.0 + 3), |_| false);
        assert_eq!((ready.packets, ready.expired), (vec![], 2), "0 and 2 have waited for too long");
        let ready = early.take_ready(Nanos(PATIENCE.0 + 4), |_| true);
        assert_eq!((ready.packets, early.bytes), (vec![4], 0));
    }

    #[test]
    fn no_more_wait_than_there_is_room_for() {
        let mut early = Early::default();
        let taken = (0..MAX_PACKETS * 2).filter(|&n| early.push(Nanos(0), 60, n)).count();
        assert_eq!((taken, early.bytes), (MAX_PACKETS, MAX_PACKETS * 60));
        assert_eq!(early.take_ready(Nanos(1), |number| *number < 3).packets.len(), 3);
        assert!(early.push(Nanos(1), 60, 0), "there is room again");
        let mut early = Early::default();
        assert!(early.push(Nanos(0), MAX_BYTES, 0));
        assert!(!early.push(Nanos(0), 1, 0), "a byte too many");
    }
}
