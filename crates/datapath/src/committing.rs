//! Packets that wait here until the peers know the flow that they begin.
//!
//! The first packet of a flow whose rule says so comes up before the flow is in the node table. It waits,
//! and what else comes of its flow waits behind it, until somebody says that the peers know enough.
//!
//! Invariant: what waits is never more than [`MAX_PACKETS`] and [`MAX_BYTES`], and of one flow never more
//! than [`MAX_FLOW_PACKETS`], so that one loud flow can't take the room of the others. What finds no room is
//! refused, newest first, and counted. A flow is announced once, when its first packet begins to wait.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};

use testudo_packet::bucket::BucketId;
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;

use crate::likenesses::Placing;

/// The most packets that wait on a node.
pub const MAX_PACKETS: usize = 8192;
/// The most bytes that wait on a node.
pub const MAX_BYTES: usize = 8 << 20;
/// The most packets of one flow that wait.
pub const MAX_FLOW_PACKETS: usize = 32;

/// All packets that wait.
#[derive(Debug)]
pub struct Committing<T> {
    /// By the key of the first packet.
    flows: HashMap<FlowKey, Vec<(usize, T)>>,
    /// What replies of those carry that are translated.
    replies: HashMap<FlowKey, FlowKey>,
    /// Flows that nobody has asked for yet.
    begun: VecDeque<FlowRecord>,
    packets: usize,
    bytes: usize,
}

impl<T> Default for Committing<T> {
    fn default() -> Self {
        let (flows, replies) = (HashMap::new(), HashMap::new());
        Self { flows, replies, begun: VecDeque::new(), packets: 0, bytes: 0 }
    }
}

impl<T> Committing<T> {
    /// The key of the flow that a packet of this key would wait behind, whichever way it travels.
    pub fn find(&self, key: &FlowKey) -> Option<FlowKey> {
        if self.flows.is_empty() {
            return None;
        }
        [*key, key.reversed()].into_iter().find(|key| self.flows.contains_key(key))
    }

    /// Whether a translated flow waits whose replies have this key.
    pub fn expects(&self, reply: &FlowKey) -> bool {
        self.replies.values().any(|waiting| waiting == reply)
    }

    /// Lets the first packet of a flow wait; says whether there was room.
    pub fn begin(&mut self, record: FlowRecord, bytes: usize, packet: T) -> bool {
        let begun = self.push(record.key, bytes, packet);
        if begun {
            self.begun.push_back(record);
            if record.translation.is_some() {
                self.replies.insert(record.key, record.reply_key());
            }
        }
        begun
    }

    /// Lets a packet wait behind the others of its flow; says whether there was room.
    pub fn push(&mut self, key: FlowKey, bytes: usize, packet: T) -> bool {
        let there = self.flows.get(&key).map_or(0, Vec::len);
        let full = self.packets >= MAX_PACKETS
            || self.bytes + bytes > MAX_BYTES
            || there >= MAX_FLOW_PACKETS;
        if full {
            return false;
        }
        self.flows.entry(key).or_default().push((bytes, packet));
        self.packets += 1;
        self.bytes += bytes;
        true
    }

    /// The next flow whose first packet waits.
    pub fn poll(&mut self) -> Option<FlowRecord> {
        self.begun.pop_front()
    }

    /// Takes out the packets of a flow, the first one first.
    pub fn take(&mut self, key: &FlowKey) -> impl Iterator<Item = T> + use<T> {
        let packets = self.flows.remove(key).unwrap_or_default();
        self.replies.remove(key);
        self.packets -= packets.len();
        self.bytes -= packets.iter().map(|(bytes, _)| bytes).sum::<usize>();
        packets.into_iter().map(|(_, packet)| packet)
    }
}

/// Asked for a flow that is not in the node table.
pub(crate) type Resolve<'a> = &'a mut dyn FnMut(BucketId, &FlowKey) -> Option<FlowRecord>;

/// Whether a flow that is not in the node table has replies of this key: one that waits for the peers, or one of
/// the common table that is still to be installed.
pub(crate) fn is_taken<T>(
    placing: &Placing,
    committing: &Committing<T>,
    known: Option<&RefCell<Resolve<'_>>>,
    key: &FlowKey,
) -> bool {
    committing.expects(key)
        || known.is_some_and(|known| (known.borrow_mut())(placing.bucket(key), key).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_packet::bucket::{BucketId, Epoch};
    use testudo_packet::entry::FlowState;
    use testudo_packet::flow::{Address, Endpoint, Protocol};
    use testudo_packet::tracking::Phase;

    fn record(port: u16) -> FlowRecord {
        let end = |host, port| Endpoint { address: Address::v4(host), port };
        let (initiator, responder) = (end(1, port), end(2, 80));
        let key = FlowKey { initiator, responder, protocol: Protocol::UDP };
        let state = FlowState { phase: Phase::Unreplied, confirmed: false, rule: 0, sequence: 1 };
        FlowRecord { translation: None, bucket: BucketId(0), epoch: Epoch(1), key, state }
    }

    #[test]
    fn a_flow_is_announced_once_and_its_packets_keep_their_order() {
        let mut committing = Committing::default();
        let key = record(1).key;
        assert_eq!(committing.find(&key), None);
        assert!(committing.begin(record(1), 60, 0));
        for key in [key, key.reversed()] {
            assert_eq!(committing.find(&key), Some(record(1).key));
        }
        assert!(committing.push(key, 60, 1) && committing.push(key, 60, 2));
        assert_eq!((committing.poll(), committing.poll()), (Some(record(1)), None));
        assert_eq!(committing.take(&key).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(committing.take(&key).count(), 0);
        assert_eq!((committing.packets, committing.bytes, committing.find(&key)), (0, 0, None));
    }

    #[test]
    fn neither_a_flow_nor_all_of_them_take_more_than_their_room() {
        let mut committing = Committing::default();
        assert!(committing.begin(record(1), 60, 0));
        let more = (0..100).filter(|_| committing.push(record(1).key, 60, 0)).count();
        assert_eq!(more, MAX_FLOW_PACKETS - 1);
        let others = (2..=u16::MAX).filter(|&port| committing.begin(record(port), 60, 0)).count();
        assert_eq!(others, MAX_PACKETS - MAX_FLOW_PACKETS);
        assert_eq!(committing.begun.len(), others + 1, "none is announced that does not wait");
        assert_eq!(committing.take(&record(1).key).count(), MAX_FLOW_PACKETS);
        assert!(committing.begin(record(1), 60, 0), "there is room again");

        let mut committing = Committing::default();
        assert!(committing.begin(record(1), MAX_BYTES, 0));
        assert!(!committing.begin(record(2), 1, 0), "a byte too many");
    }
}
