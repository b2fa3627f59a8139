//! Nodes that are to have a copy of a bucket's flows before its list may name them.
//!
//! Where only some nodes keep a bucket's flows, a list that puts a node without a copy in the place of one
//! that has it would lose them with the next death. So that node is invited first: it keeps the bucket from
//! then on, beside those of the list. When it has all of it the list changes, and the invitation ends.
//!
//! Invariant: an invitation changes no list, no epoch and no owner. It ends with the bucket's next list.

use std::sync::Arc;

use testudo_packet::bucket::{BucketId, NodeId};

use super::{Map, Outdated, Version};
use crate::node_set::NodeSet;
use crate::wire::{Reader, Truncated};

/// Who is to have a copy of a bucket's flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invited {
    /// The nodes, at least one.
    pub nodes: Arc<[NodeId]>,
    /// Since which version.
    pub since: Version,
    /// Whether an operator wants the first of them to own the bucket.
    pub wished: bool,
}

impl Map {
    /// Who is invited to keep a bucket.
    #[must_use]
    pub fn invited(&self, bucket: BucketId) -> Option<&Invited> {
        self.buckets.get(usize::from(bucket.0))?.invited.as_ref()
    }

    /// Who keeps a bucket's flows besides whoever owns it: the first so many nodes of its list, dead or
    /// alive, and those that are invited.
    #[must_use]
    pub fn keepers(&self, bucket: BucketId, count: usize) -> NodeSet {
        let invited = self.invited(bucket).map_or(&[][..], |invited| &invited.nodes);
        self.ranks(bucket).iter().take(count).chain(invited).copied().collect()
    }

    /// The buckets that somebody is invited to keep.
    pub fn invitations(&self) -> impl Iterator<Item = (BucketId, &Invited)> + '_ {
        self.buckets().filter_map(|bucket| Some((bucket, self.invited(bucket)?)))
    }

    pub(super) fn invite(
        &mut self,
        basis: Version,
        guests: &[(BucketId, Vec<NodeId>)],
        (since, wished): (Version, bool),
    ) -> Result<usize, Outdated> {
        let mut new = false;
        for (bucket, nodes) in guests {
            let unknown = Outdated::Unknown { what: "bucket", number: u32::from(bucket.0) };
            let own = self.buckets.get(usize::from(bucket.0)).ok_or(unknown)?;
            let before = own.invited.as_ref().map(|invited| &invited.nodes[..]).unwrap_or_default();
            new |= before != nodes;
            if own.list.since > basis {
                let (bucket, since) = (*bucket, own.list.since);
                return Err(Outdated::Bucket { bucket, since, basis });
            }
            nodes.iter().try_for_each(|&node| self.check_admitted(node, basis))?;
        }
        if !new {
            return Err(Outdated::NothingNew);
        }
        for (bucket, nodes) in guests {
            let invited = Invited { nodes: nodes.as_slice().into(), since, wished };
            self.buckets[usize::from(bucket.0)].invited = (!nodes.is_empty()).then_some(invited);
        }
        Ok(0)
    }
}

/// Appends the invitations of a map: number u32, each: bucket u16, since u64, wished u8, length u8, nodes.
/// Nothing if there are none, so that builds without them read such maps.
pub(super) fn encode(map: &Map, out: &mut Vec<u8>) {
    let count = map.invitations().count() as u32;
    if count > 0 {
        out.extend(count.to_le_bytes());
    }
    for (bucket, Invited { nodes, since, wished }) in map.invitations() {
        out.extend(bucket.0.to_le_bytes());
        out.extend(since.0.to_le_bytes());
        out.extend([u8::from(*wished), nodes.len() as u8]);
        out.extend(nodes.iter().map(|node| node.0));
    }
}

/// Reads the invitations into a map; `None` if they are none of such a map.
pub(super) fn read(reader: &mut Reader<'_>, mut map: Map) -> Result<Option<Map>, Truncated> {
    if reader.remaining() == 0 {
        return Ok(Some(map));
    }
    let (count, mut last) = (reader.u32()?, None);
    for _ in 0..count {
        let bucket = BucketId(reader.u16()?);
        let (since, [wished, length]) = (Version(reader.u64()?), reader.array()?);
        let nodes: Vec<_> = reader.bytes(usize::from(length))?.iter().map(|&n| NodeId(n)).collect();
        let set: NodeSet = nodes.iter().copied().collect();
        let known = nodes.iter().all(|node| usize::from(node.0) < map.admissions.len());
        let ordered = last.replace(bucket).is_none_or(|last| last < bucket);
        let version = map.version;
        let Some(own) = map.buckets.get_mut(usize::from(bucket.0)) else { return Ok(None) };
        let sound = known && ordered && wished <= 1 && set.len() == nodes.len();
        if !sound || nodes.is_empty() || since > version || since <= own.list.since {
            return Ok(None);
        }
        own.invited = Some(Invited { nodes: nodes.into(), since, wished: wished == 1 });
    }
    Ok((count > 0).then_some(map))
}
