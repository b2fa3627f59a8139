//! Who is on the links of a node in `steered` mode, and by which addresses.
//!
//! Nodes tell each other their MAC addresses when their sync session begins, so there is nothing to
//! configure and nothing that goes stale when a machine is replaced. Interfaces are matched by their
//! place in the configuration: the first of each node is on the same segment, and so on.

use std::collections::BTreeMap;

use testudo_datapath::Station;
use testudo_packet::bucket::NodeId;
use testudo_packet::env::Mac;

/// The links of a node and the addresses on them.
#[derive(Debug)]
pub struct StationBook {
    /// Whether packets are passed between nodes at all.
    passing: bool,
    /// The numbers of this node's interfaces, in the order of the configuration.
    interfaces: Vec<u32>,
    known: BTreeMap<NodeId, Vec<Mac>>,
    own: NodeId,
}

impl StationBook {
    /// A node that knows itself only: its interfaces by number and address, in the order of the
    /// configuration.
    pub fn new(passing: bool, own: NodeId, interfaces: &[(u32, Mac)]) -> Self {
        let macs = interfaces.iter().map(|&(_, mac)| mac).collect();
        Self {
            passing,
            interfaces: interfaces.iter().map(|&(number, _)| number).collect(),
            known: [(own, macs)].into_iter().collect(),
            own,
        }
    }

    /// What peers have to know of this node.
    pub fn own(&self) -> Option<Vec<Mac>> {
        self.passing.then(|| self.known[&self.own].clone())
    }

    /// What a peer has said.
    pub fn note(&mut self, peer: NodeId, macs: Vec<Mac>) {
        if peer != self.own {
            self.known.insert(peer, macs);
        }
    }

    /// What the peers have said.
    pub fn peers(&self) -> Vec<(NodeId, Vec<Mac>)> {
        let peers = self.known.iter().filter(|(node, _)| **node != self.own);
        peers.map(|(&node, macs)| (node, macs.clone())).collect()
    }

    /// Every address on every link.
    pub fn all(&self) -> Vec<Station> {
        let of_node = |(&node, macs): (&NodeId, &Vec<Mac>)| {
            let links = self.interfaces.iter().zip(macs.clone());
            links.map(|(&interface, mac)| Station { interface, node, mac }).collect::<Vec<_>>()
        };
        self.known.iter().flat_map(of_node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_matched_by_their_place() {
        let own = NodeId(1);
        let mut book = StationBook::new(true, own, &[(7, Mac(1)), (9, Mac(2))]);
        assert_eq!(book.own(), Some(vec![Mac(1), Mac(2)]));
        book.note(NodeId(0), vec![Mac(3), Mac(4), Mac(5)]);
        book.note(own, vec![Mac(6)]);
        let station =
            |interface, node, mac| Station { interface, node: NodeId(node), mac: Mac(mac) };
        let all = [station(7, 0, 3), station(9, 0, 4), station(7, 1, 1), station(9, 1, 2)];
        assert_eq!(book.all(), all);
        assert_eq!(StationBook::new(false, own, &[]).own(), None);
    }
}
