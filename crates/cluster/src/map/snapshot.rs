//! A whole map as bytes, for a node that is too far behind to be told each change.
//!
//! ```text
//!  0 magic "TSTM"    4 layout u16    6 nodes u16    8 buckets u32    12 version u64
//! 20 voters since u64, voters 32 bytes, drained 32 bytes
//! 92 for each node:   life u64, since u64 (all ones: never admitted)
//!    for each bucket: number of lists u8 (the present one last), each: since u64, length u8, nodes
//!    number of changes u16, each: version u64, reason u8 and its node u8, buckets u32
//!    if somebody is invited to keep buckets: the invitations (`invited.rs`)
//! ```
//!
//! All numbers are little-endian.

use testudo_packet::bucket::NodeId;

use super::history::History;
use super::invited;
use super::{Admission, Bucket, Change, HISTORY, List, MAX_OLDER, Map, Reason, Version};
use crate::heartbeat::Incarnation;
use crate::node_set::NodeSet;
use crate::wire::{Reader, Truncated};

const MAGIC: [u8; 4] = *b"TSTM";
const LAYOUT: u16 = 1;
const NEVER: u64 = u64::MAX;

/// Bytes that are no map of this cluster. The map is as it was; whoever made them has other settings
/// or another release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{length} bytes are no map of {nodes} nodes and {buckets} buckets")]
pub struct SnapshotError {
    /// How many bytes were seen.
    pub length: usize,
    /// The nodes that were expected.
    pub nodes: usize,
    /// The buckets that were expected.
    pub buckets: usize,
}

impl Map {
    /// The bytes of the map.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend(MAGIC);
        out.extend(LAYOUT.to_le_bytes());
        out.extend((self.admissions.len() as u16).to_le_bytes());
        out.extend((self.buckets.len() as u32).to_le_bytes());
        out.extend(self.version.0.to_le_bytes());
        out.extend(self.voters_since.0.to_le_bytes());
        self.voters.encode(&mut out);
        self.drained.encode(&mut out);
        for admission in &self.admissions {
            let (life, since) = admission.map_or((0, NEVER), |a| (a.life.0, a.since.0));
            out.extend(life.to_le_bytes());
            out.extend(since.to_le_bytes());
        }
        for bucket in &self.buckets {
            out.push(bucket.older.len() as u8 + 1);
            for list in bucket.older.iter().chain([&bucket.list]) {
                out.extend(list.since.0.to_le_bytes());
                out.push(list.ranks.len() as u8);
                out.extend(list.ranks.iter().map(|node| node.0));
            }
        }
        let changes: Vec<_> = self.history.iter().collect();
        out.extend((changes.len() as u16).to_le_bytes());
        for change in changes {
            out.extend(change.version.0.to_le_bytes());
            out.extend(change.reason.code());
            out.extend((change.buckets as u32).to_le_bytes());
        }
        invited::encode(self, &mut out);
        out
    }

    /// Reads a map of the same cluster as this one.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`] if the bytes are not exactly what [`Self::encode`] makes of such a map.
    pub fn decode_like(&self, bytes: &[u8]) -> Result<Self, SnapshotError> {
        let (nodes, buckets) = (self.admissions.len(), self.buckets.len());
        let wrong = SnapshotError { length: bytes.len(), nodes, buckets };
        let mut reader = Reader::new(bytes);
        let map = read(&mut reader, nodes, buckets).ok().flatten().ok_or(wrong)?;
        if reader.remaining() == 0 { Ok(map) } else { Err(wrong) }
    }
}

fn read(reader: &mut Reader<'_>, nodes: usize, buckets: usize) -> Result<Option<Map>, Truncated> {
    let head = (reader.array()?, reader.u16()?, reader.u16()?, reader.u32()?);
    if head != (MAGIC, LAYOUT, nodes as u16, buckets as u32) {
        return Ok(None);
    }
    let (version, voters_since) = (Version(reader.u64()?), Version(reader.u64()?));
    let (voters, drained) = (NodeSet::decode(reader)?, NodeSet::decode(reader)?);
    let mut admissions = Vec::with_capacity(nodes);
    for _ in 0..nodes {
        let (life, since) = (Incarnation(reader.u64()?), reader.u64()?);
        admissions.push((since != NEVER).then_some(Admission { life, since: Version(since) }));
    }
    let known = |set: &NodeSet| set.iter().all(|node| usize::from(node.0) < nodes);
    if !known(&voters) || !known(&drained) || voters.is_empty() {
        return Ok(None);
    }
    let mut all = Vec::with_capacity(buckets);
    for _ in 0..buckets {
        let Some(bucket) = read_bucket(reader, nodes, version)? else { return Ok(None) };
        all.push(bucket);
    }
    let Some(history) = read_history(reader)? else { return Ok(None) };
    let buckets = all;
    let map = Map { version, buckets, admissions, voters, voters_since, drained, history };
    invited::read(reader, map)
}

fn read_bucket(
    reader: &mut Reader<'_>,
    nodes: usize,
    version: Version,
) -> Result<Option<Bucket>, Truncated> {
    let count = usize::from(reader.u8()?);
    if !(1..=MAX_OLDER + 1).contains(&count) {
        return Ok(None);
    }
    let mut lists: Vec<List> = Vec::with_capacity(count);
    for _ in 0..count {
        let (since, length) = (Version(reader.u64()?), reader.u8()?);
        let ranks: Vec<_> = reader.bytes(usize::from(length))?.iter().map(|&n| NodeId(n)).collect();
        let set: NodeSet = ranks.iter().copied().collect();
        if set.len() != ranks.len() || ranks.iter().any(|node| usize::from(node.0) >= nodes) {
            return Ok(None);
        }
        // Nobody's are the buckets that nobody was ever given, and no others.
        let hole = ranks.is_empty() && since > Version(0);
        let backwards = lists.last().is_some_and(|before| before.since >= since);
        if hole || backwards || since > version {
            return Ok(None);
        }
        lists.push(List { ranks: ranks.into(), since });
    }
    let list = lists.pop();
    Ok(list.map(|list| Bucket { list, older: lists, invited: None }))
}

fn read_history(reader: &mut Reader<'_>) -> Result<Option<History>, Truncated> {
    let count = usize::from(reader.u16()?);
    let mut history = History::default();
    for _ in 0..count {
        let version = Version(reader.u64()?);
        let Some(reason) = Reason::from_code(reader.array()?) else { return Ok(None) };
        history.push(Change { version, reason, buckets: reader.u32()? as usize });
    }
    Ok((count <= HISTORY).then_some(history))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::map::Command;
    use testudo_packet::bucket::BucketId;

    #[test]
    fn a_map_survives_its_bytes_and_no_other_bytes_are_a_map() {
        let nodes: NodeSet = [0, 1, 2].map(NodeId).into_iter().collect();
        let empty = Map::new(4, 3, nodes);
        let mut map = empty.clone();
        let lives = vec![(NodeId(0), Incarnation(7)), (NodeId(2), Incarnation(9))];
        map.apply(&Command::Admit { basis: Version(0), lives }).unwrap();
        for ranks in [[0, 2], [2, 0]] {
            let lists = vec![(BucketId(3), ranks.map(NodeId).to_vec())];
            let (basis, reason) = (map.version(), Reason::Joined(NodeId(2)));
            map.apply(&Command::Assign { basis, settled: Version(0), lists, reason }).unwrap();
        }
        map.apply(&Command::Drain { node: NodeId(1) }).unwrap();
        let uninvited = map.encode();
        let guests =
            vec![(BucketId(1), vec![NodeId(2), NodeId(0)]), (BucketId(3), vec![NodeId(2)])];
        let (basis, reason) = (map.version(), Reason::Operator(NodeId(2)));
        map.apply(&Command::Invite { basis, guests, reason }).unwrap();
        assert!(empty.decode_like(&uninvited).is_ok_and(|map| map.invitations().count() == 0));
        let bytes = map.encode();
        assert_eq!(empty.decode_like(&bytes), Ok(map.clone()));
        let mut invitations = Vec::new();
        invited::encode(&map, &mut invitations);
        for end in 0..bytes.len() {
            // Without its invitations it is a map, too.
            let whole = end + invitations.len() == bytes.len();
            assert_eq!(empty.decode_like(&bytes[..end]).is_ok(), whole, "{end} bytes");
        }
        for spoil in [
            |list: &mut List| list.ranks = Vec::new().into(),
            |list: &mut List| list.since = Version(99),
            |list: &mut List| list.since = Version(2),
        ] {
            let mut holed = map.clone();
            spoil(&mut holed.buckets[3].list);
            let error =
                empty.decode_like(&holed.encode()).expect_err("no such map was ever agreed on");
            assert_eq!(error.length, holed.encode().len());
        }
        let other = Map::new(8, 3, nodes);
        assert!(other.decode_like(&bytes).unwrap_err().to_string().contains("8 buckets"));
    }
}
