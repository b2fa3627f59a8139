//! Packets that wait here for their bucket.
//!
//! While a planned move brings a bucket, its packets come up and wait: the node that still has the
//! bucket handles the same ones, or is done with it and passes them here. When the bucket has come,
//! they are released in the order in which they came, but for those that the other node reports.
//!
//! Invariant: what waits is never more than [`MAX_PACKETS`] and [`MAX_BYTES`], and of one bucket never
//! more than [`MAX_BUCKET_PACKETS`] and [`MAX_BUCKET_BYTES`]: one busy bucket can't take the room of
//! the others that move at the same time. What finds no room is refused, newest first, and counted.

use std::collections::{HashMap, VecDeque};

use testudo_packet::bucket::BucketId;
use testudo_packet::packet_hash::PacketHash;

/// The most packets that wait on a node.
pub const MAX_PACKETS: usize = 16_384;
/// The most bytes that wait on a node.
pub const MAX_BYTES: usize = 16 << 20;
/// The most packets that wait for one bucket.
pub const MAX_BUCKET_PACKETS: usize = MAX_PACKETS / 4;
/// The most bytes that wait for one bucket.
pub const MAX_BUCKET_BYTES: usize = MAX_BYTES / 4;

/// What became of the packets that waited for a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Sent on, or waiting for the peers to know their flow.
    pub sent: usize,
    /// Left out, because the last owner has handled them.
    pub skipped: usize,
    /// Dropped by the pipeline's decision, or because they could not be sent; counted by reason.
    pub dropped: usize,
}

/// Packets of one bucket.
#[derive(Debug)]
struct Queue<T> {
    packets: VecDeque<(PacketHash, usize, T)>,
    bytes: usize,
}

/// All packets that wait.
#[derive(Debug)]
pub struct Held<T> {
    queues: HashMap<BucketId, Queue<T>>,
    packets: usize,
    bytes: usize,
}

impl<T> Default for Held<T> {
    fn default() -> Self {
        Self { queues: HashMap::new(), packets: 0, bytes: 0 }
    }
}

impl<T> Held<T> {
    /// How many packets wait for a bucket.
    pub fn count(&self, bucket: BucketId) -> usize {
        self.queues.get(&bucket).map_or(0, |queue| queue.packets.len())
    }

    /// Lets a packet wait; says whether there was room.
    pub fn push(&mut self, bucket: BucketId, hash: PacketHash, bytes: usize, packet: T) -> bool {
        let (packets_there, bytes_there) = match self.queues.get(&bucket) {
            Some(queue) => (queue.packets.len(), queue.bytes),
            None => (0, 0),
        };
        let full = self.packets >= MAX_PACKETS
            || self.bytes + bytes > MAX_BYTES
            || packets_there >= MAX_BUCKET_PACKETS
            || bytes_there + bytes > MAX_BUCKET_BYTES;
        if full {
            return false;
        }
        let empty = || Queue { packets: VecDeque::new(), bytes: 0 };
        let queue = self.queues.entry(bucket).or_insert_with(empty);
        queue.packets.push_back((hash, bytes, packet));
        queue.bytes += bytes;
        self.packets += 1;
        self.bytes += bytes;
        true
    }

    /// Takes all packets of a bucket, the first one first.
    pub fn take(&mut self, bucket: BucketId) -> impl Iterator<Item = (PacketHash, T)> + use<T> {
        let queue = self.queues.remove(&bucket);
        if let Some(queue) = &queue {
            self.packets -= queue.packets.len();
            self.bytes -= queue.bytes;
        }
        let packets = queue.map(|queue| queue.packets).unwrap_or_default();
        packets.into_iter().map(|(hash, _, packet)| (hash, packet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(held: &mut Held<usize>, bucket: u16, bytes: usize, number: usize) -> bool {
        held.push(BucketId(bucket), PacketHash(number as u64), bytes, number)
    }

    #[test]
    fn packets_come_out_in_the_order_in_which_they_came() {
        let mut held = Held::default();
        for number in 0..10 {
            assert!(push(&mut held, number as u16 % 2, 100, number));
        }
        assert_eq!((held.count(BucketId(0)), held.count(BucketId(7))), (5, 0));
        let numbers: Vec<_> = held.take(BucketId(1)).map(|(_, number)| number).collect();
        assert_eq!(numbers, [1, 3, 5, 7, 9]);
        assert_eq!((held.count(BucketId(1)), held.packets, held.bytes), (0, 5, 500));
        assert_eq!(held.take(BucketId(1)).count(), 0);
    }

    #[test]
    fn one_bucket_takes_no_more_than_its_share_of_packets_or_bytes() {
        let mut held = Held::default();
        let accepted = (0..MAX_PACKETS).filter(|&n| push(&mut held, 0, 60, n)).count();
        assert_eq!(accepted, MAX_BUCKET_PACKETS);
        assert!(push(&mut held, 1, MAX_BUCKET_BYTES, 0));
        assert!(!push(&mut held, 1, 1, 0), "a byte too many");
        assert!(push(&mut held, 2, 60, 0), "the other buckets have room");
    }

    #[test]
    fn a_node_keeps_no_more_than_it_has_room_for_and_has_room_again() {
        let mut held = Held::default();
        let accepted = (0..MAX_PACKETS * 2).filter(|&n| push(&mut held, n as u16 % 16, 60, n));
        assert_eq!(accepted.count(), MAX_PACKETS);
        let freed = held.take(BucketId(3)).count();
        let again = (0..MAX_PACKETS).filter(|&n| push(&mut held, n as u16 % 16, 60, n)).count();
        assert_eq!(freed, again);

        let mut held = Held::default();
        let accepted = (0..40).filter(|&n| push(&mut held, n, MAX_BYTES / 16, 0)).count();
        assert_eq!((accepted, held.bytes), (16, MAX_BYTES));
    }
}
