//! Writes who is on the links into the maps that the program reads.
//!
//! Replacing is adding what is new and then taking out what is gone, so that no address that stays is
//! missing in between. The maps have room for both.

use std::collections::HashMap as Table;
use std::hash::Hash;

use aya::Pod;
use aya::maps::{HashMap, MapData};
use testudo_packet::bucket::NodeId;
use testudo_packet::env::Mac;
use testudo_packet::flow::Address;
use testudo_packet::mss::MostBytes;
use testudo_packet::reverse_path::ReversePath;

use super::refusal;
use crate::Error;
use crate::stations::{Station, Stations};

/// The maps of what is on the links, and of what comes in by them.
pub struct StationMaps {
    /// This node's addresses; the value means nothing.
    pub local: HashMap<MapData, [u64; 2], u64>,
    /// Address and interface to node.
    pub stations: HashMap<MapData, [u64; 2], u64>,
    /// Interface and node to address.
    pub macs: HashMap<MapData, u64, u64>,
    /// Interface to the largest segments that it takes.
    pub most_bytes: HashMap<MapData, u64, u64>,
    /// Interface to what it asks of sources.
    pub reverse_paths: HashMap<MapData, u64, u64>,
}

fn place(interface: u32, node: NodeId) -> u64 {
    u64::from(interface) << 8 | u64::from(node.0)
}

/// Makes a map hold what is wanted and nothing else.
pub fn replace<K: Pod + Eq + Hash>(
    name: &'static str,
    map: &mut HashMap<MapData, K, u64>,
    wanted: &Table<K, u64>,
) -> Result<(), Error> {
    let failed =
        |error: aya::maps::MapError| Error::Map { map: name, said: refusal::chain(&error) };
    for (key, value) in wanted {
        map.insert(key, value, 0).map_err(failed)?;
    }
    let present = map.keys().collect::<Result<Vec<_>, _>>().map_err(failed)?;
    for key in present.iter().filter(|key| !wanted.contains_key(key)) {
        map.remove(key).map_err(failed)?;
    }
    Ok(())
}

impl StationMaps {
    pub fn write_local(&mut self, addresses: &[Address]) -> Result<(), Error> {
        let wanted = addresses.iter().map(|address| ([address.high, address.low], 1)).collect();
        replace("LOCAL", &mut self.local, &wanted)
    }

    pub fn write_stations(&mut self, stations: &[Station]) -> Result<(), Error> {
        let mut nodes = Table::new();
        let mut macs = Table::new();
        // The first of several counts, as in a list.
        for Station { interface, node, mac } in stations.iter().rev() {
            nodes.insert([mac.0, u64::from(*interface)], u64::from(node.0));
            macs.insert(place(*interface, *node), mac.0);
        }
        replace("STATION_MACS", &mut self.macs, &macs)?;
        replace("STATIONS", &mut self.stations, &nodes)
    }

    pub fn write_reverse_paths(&mut self, checks: &Table<u32, ReversePath>) -> Result<(), Error> {
        let asking = checks.iter().filter(|(_, check)| **check != ReversePath::Off);
        let wanted = asking.map(|(interface, check)| (u64::from(*interface), *check as u64));
        replace("REVERSE_PATHS", &mut self.reverse_paths, &wanted.collect())
    }

    pub fn write_most_bytes(&mut self, clamps: &Table<u32, MostBytes>) -> Result<(), Error> {
        let wanted = clamps.iter().map(|(interface, most)| (u64::from(*interface), most.to_word()));
        replace("MOST_BYTES", &mut self.most_bytes, &wanted.collect())
    }

    /// What the maps hold of stations.
    pub fn read(&self) -> Result<Stations, Error> {
        let failed = |error: aya::maps::MapError| Error::Map {
            map: "STATIONS",
            said: refusal::chain(&error),
        };
        let local = self.local.keys().map(|key| key.map(|[high, low]| Address { high, low }));
        // Those that are passed to come first, for the first of several counts.
        let preferred = self.macs.iter().map(|entry| {
            entry.map(|(place, mac)| Station {
                interface: (place >> 8) as u32,
                node: NodeId(place as u8),
                mac: Mac(mac),
            })
        });
        let all = self.stations.iter().map(|entry| {
            entry.map(|([mac, interface], node)| Station {
                interface: interface as u32,
                node: NodeId(node as u8),
                mac: Mac(mac),
            })
        });
        let stations = preferred.chain(all);
        Ok(Stations {
            local: local.collect::<Result<_, _>>().map_err(failed)?,
            stations: stations.collect::<Result<_, _>>().map_err(failed)?,
        })
    }
}
