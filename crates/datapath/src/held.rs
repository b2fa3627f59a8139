//! Packets that wait here for their bucket.
//!
//! While a planned move brings a bucket, its packets come up and wait: the node that still has the
//! bucket handles the same ones, or is done with it and passes them here. When the bucket has come,
//! they are released in the order in which they came, but for those that the other node reports.
//!
//! Invariant: what waits is never more than [`MAX_PACKETS`] and [`MAX_BYTES`], and of one bucket never
//! more than [`MAX_BUCKET_PACKETS`] and [`MAX_BUCKET_BYTES`]: one busy bucket can't take the room of
//! the others that move at the same time. What finds no room is counted: the oldest packets of a bucket
//! make room for its newest, because the other node still handles what comes while it is asked to let go.

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

impl Released {
    /// One more packet was decided, and sent on or not.
    pub(crate) const fn note(&mut self, sent: bool) {
        if sent {
            self.sent += 1;
        } else {
            self.dropped += 1;
        }
    }
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

    /// Lets a packet wait; says how many found no room: the oldest of the bucket, which the owner has
    /// most likely handled, and this one only if others' packets take all the room.
    pub fn push(&mut self, bucket: BucketId, hash: PacketHash, bytes: usize, packet: T) -> usize {
        let Self { queues, packets: all_packets, bytes: all_bytes } = self;
        let empty = || Queue { packets: VecDeque::new(), bytes: 0 };
        let queue = queues.entry(bucket).or_insert_with(empty);
        let mut without_room = 0;
        while *all_packets >= MAX_PACKETS
            || *all_bytes + bytes > MAX_BYTES
            || queue.packets.len() >= MAX_BUCKET_PACKETS
            || queue.bytes + bytes > MAX_BUCKET_BYTES
        {
            without_room += 1;
            let Some((_, oldest, _)) = queue.packets.pop_front() else { return without_room };
            queue.bytes -= oldest;
            *all_packets -= 1;
            *all_bytes -= oldest;
        }
        queue.packets.push_back((hash, bytes, packet));
        queue.bytes += bytes;
        *all_packets += 1;
        *all_bytes += bytes;
        without_room
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

    /// How many packets found no room.
    fn push(held: &mut Held<usize>, bucket: u16, bytes: usize, number: usize) -> usize {
        held.push(BucketId(bucket), PacketHash(number as u64), bytes, number)
    }

    fn numbers(held: &mut Held<usize>, bucket: u16) -> Vec<usize> {
        held.take(BucketId(bucket)).map(|(_, number)| number).collect()
    }

    #[test]
    fn packets_come_out_in_the_order_in_which_they_came() {
        let mut held = Held::default();
        for number in 0..10 {
            assert_eq!(push(&mut held, number as u16 % 2, 100, number), 0);
        }
        assert_eq!((held.count(BucketId(0)), held.count(BucketId(7))), (5, 0));
        assert_eq!(numbers(&mut held, 1), [1, 3, 5, 7, 9]);
        assert_eq!((held.count(BucketId(1)), held.packets, held.bytes), (0, 5, 500));
        assert_eq!(numbers(&mut held, 1), [0_usize; 0]);
    }

    #[test]
    fn one_bucket_takes_no_more_than_its_share_and_keeps_its_newest() {
        let mut held = Held::default();
        let sent = MAX_BUCKET_PACKETS + 100;
        let without: usize = (0..sent).map(|number| push(&mut held, 0, 60, number)).sum();
        assert_eq!((without, held.packets), (100, MAX_BUCKET_PACKETS));
        assert_eq!(push(&mut held, 1, MAX_BUCKET_BYTES - 1, 0), 0);
        assert_eq!(push(&mut held, 1, 1, 1), 0);
        assert_eq!(push(&mut held, 1, 1, 2), 1, "a byte too many");
        assert_eq!(push(&mut held, 2, 60, 0), 0, "the other buckets have room");
        assert_eq!(push(&mut held, 3, MAX_BUCKET_BYTES + 1, 0), 1, "larger than all there is");
        assert_eq!(numbers(&mut held, 0), (100..sent).collect::<Vec<_>>());
        assert_eq!(numbers(&mut held, 1), [1, 2]);
        assert_eq!((held.packets, held.bytes), (1, 60));
    }

    #[test]
    fn a_node_keeps_no_more_than_it_has_room_for_and_has_room_again() {
        let mut held = Held::default();
        let sent = MAX_PACKETS * 2;
        let without: usize = (0..sent).map(|n| push(&mut held, n as u16 % 16, 60, n)).sum();
        assert_eq!((without, held.packets), (MAX_PACKETS, MAX_PACKETS));
        assert_eq!(push(&mut held, 16, 60, 0), 1, "all room is taken by others");
        let freed = held.take(BucketId(3)).count();
        let again = (0..freed + 5).filter(|&n| push(&mut held, 16, 60, n) == 0).count();
        assert_eq!(freed, again);

        let mut held = Held::default();
        let accepted = (0..40).filter(|&n| push(&mut held, n, MAX_BYTES / 16, 0) == 0).count();
        assert_eq!((accepted, held.bytes), (16, MAX_BYTES));
    }
}
