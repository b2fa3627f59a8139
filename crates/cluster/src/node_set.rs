//! A set of nodes, as the 256 bits that it takes in a heartbeat.

use crate::wire::{Reader, Truncated};
use testudo_packet::bucket::NodeId;

/// A set of nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct NodeSet([u64; 4]);

/// How many bytes a set takes on the wire.
pub const NODE_SET_BYTES: usize = 32;

impl NodeSet {
    /// Adds a node; says whether it is new.
    pub fn insert(&mut self, node: NodeId) -> bool {
        let new = !self.contains(node);
        self.0[usize::from(node.0 >> 6)] |= 1 << (node.0 & 63);
        new
    }

    /// Takes a node out; says whether it was in.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let old = self.contains(node);
        self.0[usize::from(node.0 >> 6)] &= !(1 << (node.0 & 63));
        old
    }

    /// Whether a node is in.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.0[usize::from(node.0 >> 6)] >> (node.0 & 63) & 1 != 0
    }

    /// Whether nobody is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// How many nodes are in.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// The nodes in one set and not in the other.
    #[must_use]
    pub fn symmetric_difference(self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }

    /// The nodes in either set.
    #[must_use]
    pub fn union(self, other: &Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// The nodes, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..NodeId::NONE.0).map(NodeId).filter(|&node| self.contains(node))
    }

    /// Appends the set to a message.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for word in self.0 {
            out.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Takes a set from a message.
    ///
    /// # Errors
    ///
    /// `Truncated` if the message ends within it.
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let mut words = [0; 4];
        for word in &mut words {
            *word = reader.u64()?;
        }
        Ok(Self(words))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in() {
        let mut set: NodeSet = [0, 63, 64, 253].map(NodeId).into_iter().collect();
        assert!(!set.insert(NodeId(63)));
        assert!(set.remove(NodeId(64)));
        assert!(!set.remove(NodeId(64)));
        assert_eq!(set.iter().map(|node| node.0).collect::<Vec<_>>(), [0, 63, 253]);
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        assert_eq!(bytes.len(), NODE_SET_BYTES);
        assert_eq!(NodeSet::decode(&mut Reader::new(&bytes)), Ok(set));
        assert!(NodeSet::decode(&mut Reader::new(&bytes[1..])).is_err());
        assert_eq!(set.union(&NodeSet::default()), set);
        assert!(!set.is_empty());
        let other: NodeSet = [63, 70].map(NodeId).into_iter().collect();
        assert_eq!(set.len(), 3);
        assert_eq!(set.symmetric_difference(&other).len(), 3);
    }
}
