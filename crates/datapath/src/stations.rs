//! Who is on the links of a node in `steered` mode: its own addresses, and all nodes' link addresses.
//!
//! The kernel has the same in hash maps; this is what packets that came up are handled with. Lists,
//! because there are few: a packet that comes up has cost more before it is here.

use std::net::IpAddr;

use testudo_packet::bucket::NodeId;
use testudo_packet::env::Mac;
use testudo_packet::flow::Address;

use crate::Error;

/// The most addresses that a node can have of its own.
pub const MAX_LOCAL_ADDRESSES: usize = 1024;

/// The most link addresses of nodes, over all interfaces.
pub const MAX_STATIONS: usize = 4096;

/// A node's address on the link of one of this node's interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Station {
    /// The number of this node's interface there.
    pub interface: u32,
    /// Whose address it is; this node's own are among them.
    pub node: NodeId,
    /// The address.
    pub mac: Mac,
}

/// All of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stations {
    pub local: Vec<Address>,
    pub stations: Vec<Station>,
}

impl Stations {
    pub fn is_local(&self, address: Address) -> bool {
        self.local.contains(&address)
    }

    pub fn node(&self, interface: u32, mac: Mac) -> Option<NodeId> {
        let mut stations = self.stations.iter();
        stations.find(|one| one.interface == interface && one.mac == mac).map(|one| one.node)
    }

    pub fn mac(&self, interface: u32, node: NodeId) -> Option<Mac> {
        let mut stations = self.stations.iter();
        stations.find(|one| one.interface == interface && one.node == node).map(|one| one.mac)
    }

    pub fn set_local(&mut self, addresses: &[IpAddr]) -> Result<(), Error> {
        limit("local addresses", addresses.len(), MAX_LOCAL_ADDRESSES)?;
        self.local = addresses.iter().map(|&address| address.into()).collect();
        Ok(())
    }

    pub fn set_stations(&mut self, stations: &[Station]) -> Result<(), Error> {
        limit("link addresses of nodes", stations.len(), MAX_STATIONS)?;
        self.stations = stations.to_vec();
        Ok(())
    }
}

fn limit(what: &'static str, seen: usize, most: usize) -> Result<(), Error> {
    if seen > most { Err(Error::TooMany { what, seen, most }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_there_is_room_for_is_refused_and_what_was_known_stays() {
        let mut stations = Stations::default();
        let address: IpAddr = [10, 0, 0, 1].into();
        stations.set_local(&[address]).unwrap();
        let before = stations.clone();
        let error = stations.set_local(&vec![address; MAX_LOCAL_ADDRESSES + 1]).unwrap_err();
        assert!(error.to_string().contains("1025 local addresses"), "{error}");
        let station = Station { interface: 1, node: NodeId(1), mac: Mac(2) };
        stations.set_stations(&vec![station; MAX_STATIONS + 1]).unwrap_err();
        assert_eq!(stations, before);
    }
}
