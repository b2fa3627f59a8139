//! The bucket map as what the nodes agree on.

use testudo_cluster::map::{Command, Map};
use testudo_packet::bucket::NodeId;

use crate::StateMachine;

impl StateMachine for Map {
    fn apply(&mut self, command: &[u8]) -> Result<(), String> {
        let command = Command::decode(command).map_err(|error| error.to_string())?;
        Map::apply(self, &command).map_err(|error| error.to_string())
    }

    fn voters(&self) -> Vec<NodeId> {
        Map::voters(self).iter().collect()
    }

    fn encode(&self) -> Vec<u8> {
        Map::encode(self)
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        *self = self.decode_like(snapshot).map_err(|error| error.to_string())?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_cluster::heartbeat::Incarnation;
    use testudo_cluster::map::Version;

    #[test]
    fn a_map_takes_commands_and_its_own_snapshots() {
        let nodes = [0, 1].map(NodeId);
        let mut map = Map::new(4, 2, nodes.into_iter().collect());
        let (basis, lives) = (Version(0), vec![(NodeId(1), Incarnation(5))]);
        let command = Command::Admit { basis, lives }.encode();
        StateMachine::apply(&mut map, &command).unwrap();
        let error = StateMachine::apply(&mut map, &command).unwrap_err();
        assert!(error.contains("admitted in version"), "{error}");
        assert!(StateMachine::apply(&mut map, &[9]).unwrap_err().contains("kind 9"));
        assert_eq!(StateMachine::voters(&map), nodes);
        let mut other = Map::new(4, 2, nodes.into_iter().collect());
        other.restore(&StateMachine::encode(&map)).unwrap();
        assert_eq!(other, map);

        let mut bytes = StateMachine::encode(&map);
        bytes.pop();
        let error = other.restore(&bytes).unwrap_err();
        assert!(error.ends_with("are no map of 2 nodes and 4 buckets"), "{error}");
        assert_eq!(other, map);
    }
}
