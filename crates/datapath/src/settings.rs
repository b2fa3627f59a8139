//! What a node's packet handling is set up with, and keeps until it is set up anew.

use std::sync::Arc;

use testudo_packet::bucket::{MAX_BUCKETS, NodeId};
use testudo_packet::env::Mac;
use testudo_packet::flow::Address;
use testudo_packet::placement::{Grounds, Placer};
use testudo_packet::reception::Mode;
use testudo_packet::siphash::HashKey;
use testudo_packet::table::WINDOW;

use crate::Error;
use crate::likenesses::{Likenesses, Placing};
use crate::pools::Pool;

/// An address that the cluster has on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Answer {
    /// The number of the interface.
    pub interface: u32,
    /// The cluster's address there.
    pub address: Address,
    /// The node's own address on the link, which answers are sent from.
    pub own: Mac,
}

/// A node's settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This node.
    pub node: NodeId,
    /// Keys the placement of flows; the same on all nodes.
    pub secret: [u8; 16],
    /// The number of buckets: a power of two up to [`MAX_BUCKETS`].
    pub buckets: u32,
    /// What placement looks at.
    pub grounds: Grounds,
    /// The address on the link that the cluster's packets are sent to.
    pub cluster_mac: Mac,
    /// The number of slots of the node table: a power of two.
    pub table_slots: u32,
    /// The cluster's addresses.
    pub answers: Vec<Answer>,
    /// How packets reach the cluster.
    pub mode: Mode,
    /// What flows are translated to: the first pool has number 1 ([`testudo_packet::rule::Rule::source_pool`]).
    pub pools: Vec<Pool>,
    /// Which endpoints are placed alike; the same on all nodes.
    pub likenesses: Arc<Likenesses>,
}

/// The most slots that a node table can have: 8 GiB of memory.
pub const MAX_TABLE_SLOTS: u32 = 1 << 26;

impl Settings {
    /// How flows are placed.
    pub fn placing(&self) -> Placing {
        Placing { placer: self.placer(), likenesses: self.likenesses.clone() }
    }

    /// By which hash, secret and grounds.
    pub fn placer(&self) -> Placer {
        Placer {
            key: HashKey::from_bytes(self.secret),
            bucket_mask: (self.buckets - 1) as u16,
            grounds: self.grounds,
        }
    }

    /// Refuses numbers that no map can have.
    pub fn check(&self) -> Result<(), Error> {
        let power = |what, seen: u32, least: u32, most: u32| {
            let good = seen.is_power_of_two() && (least..=most).contains(&seen);
            if good { Ok(()) } else { Err(Error::NotAPowerOfTwo { what, seen, least, most }) }
        };
        power("the number of buckets", self.buckets, 2, MAX_BUCKETS)?;
        power("the number of table slots", self.table_slots, WINDOW, MAX_TABLE_SLOTS)
    }
}
