//! The changes of the map that nodes agree on, and their bytes.
//!
//! ```text
//! 0 kind u8
//! 1 admit:          basis u64, count u8, then for each: node u8, life u64
//!   drain, undrain: node u8
//!   assign:         reason u8 and its node u8, basis u64, settled u64, count u32, then for each
//!                   bucket: bucket u16, number of nodes u8, the nodes
//!   voters:         acknowledged u64, the set of 32 bytes
//!   invite:         reason u8 and its node u8, basis u64, count u32, then for each bucket: bucket u16,
//!                   number of nodes u8, the nodes
//! ```
//!
//! All numbers are little-endian.

use testudo_packet::bucket::{BucketId, NodeId};

use super::Version;
use crate::heartbeat::Incarnation;
use crate::node_set::NodeSet;
use crate::wire::{Reader, Truncated};

/// The most bytes of a command: room for 65,536 buckets with lists of three nodes in one plan.
pub const MAX_COMMAND: usize = 1 << 19;

/// A change of the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// The places of nodes that are dead, or have never been there, belong to these lives from now
    /// on, if the voters are still those of `basis`. Lives that are admitted together may support
    /// each other's first leases.
    Admit {
        /// The version by whose voters the lives before are dead.
        basis: Version,
        /// Each node with its life.
        lives: Vec<(NodeId, Incarnation)>,
    },
    /// These buckets get these lists, if none of them has changed since `basis`.
    Assign {
        /// The version that the plan was made for.
        basis: Version,
        /// A version that everyone who is not dead has settled.
        settled: Version,
        /// The buckets and their nodes.
        lists: Vec<(BucketId, Vec<NodeId>)>,
        /// Why.
        reason: Reason,
    },
    /// These nodes are to keep these buckets' flows besides those of the lists, until the next list of
    /// each; in the stead of those that were invited before. No list has changed since `basis`.
    Invite {
        /// The version that the plan was made for.
        basis: Version,
        /// The buckets and their nodes; none if nobody is invited any more.
        guests: Vec<(BucketId, Vec<NodeId>)>,
        /// Why.
        reason: Reason,
    },
    /// These nodes have a say from now on.
    Voters {
        /// A version that everyone who is not dead goes by.
        acknowledged: Version,
        /// The voters.
        voters: NodeSet,
    },
    /// An operator wants the node to own nothing.
    Drain {
        /// The node.
        node: NodeId,
    },
    /// An operator lets the node own again.
    Undrain {
        /// The node.
        node: NodeId,
    },
}

/// Why the map was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A node has come (back).
    Admitted(NodeId),
    /// A node gets its share after it has come.
    Joined(NodeId),
    /// The cluster begins.
    Formed,
    /// Others vote now.
    Voters,
    /// A node owns nothing by an operator's wish.
    Drained(NodeId),
    /// A node may own again.
    Undrained(NodeId),
    /// Nodes had unequal shares.
    Balance,
    /// A node is not fit to forward.
    Unfit(NodeId),
    /// Dead nodes left the lists, and others became successors in their stead.
    Succession,
    /// An operator moved buckets to this node by hand.
    Operator(NodeId),
    /// Nodes are to have copies before lists name them, or need none any more.
    Copies,
}

impl Reason {
    /// The reason in words, with the names of nodes.
    pub fn describe(&self, name: impl Fn(NodeId) -> String) -> String {
        match *self {
            Self::Admitted(node) => format!("{} admitted", name(node)),
            Self::Joined(node) => format!("{} joined", name(node)),
            Self::Formed => "formed".to_owned(),
            Self::Voters => "voters changed".to_owned(),
            Self::Drained(node) => format!("{} drained", name(node)),
            Self::Undrained(node) => format!("{} undrained", name(node)),
            Self::Balance => "balance".to_owned(),
            Self::Unfit(node) => format!("{} unfit", name(node)),
            Self::Succession => "succession".to_owned(),
            Self::Operator(node) => format!("moved to {} by hand", name(node)),
            Self::Copies => "copies made for moves".to_owned(),
        }
    }
}

/// Bytes that are no command: the build of whoever proposed it is at fault. The map is as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a command of kind {kind} and {length} bytes whose contents mean nothing")]
pub struct CommandError {
    /// The kind seen.
    pub kind: u8,
    /// The length seen.
    pub length: usize,
}

const ADMIT: u8 = 1;
const ASSIGN: u8 = 2;
const DRAIN: u8 = 3;
const UNDRAIN: u8 = 4;
const VOTERS: u8 = 5;
const INVITE: u8 = 6;

impl Reason {
    /// The reason as two bytes.
    pub(super) fn code(&self) -> [u8; 2] {
        match self {
            Self::Admitted(node) => [0, node.0],
            Self::Drained(node) => [1, node.0],
            Self::Undrained(node) => [2, node.0],
            Self::Balance => [3, 0],
            Self::Unfit(node) => [4, node.0],
            Self::Succession => [5, 0],
            Self::Operator(node) => [6, node.0],
            Self::Joined(node) => [7, node.0],
            Self::Formed => [8, 0],
            Self::Voters => [9, 0],
            Self::Copies => [10, 0],
        }
    }

    /// The reason that two bytes stand for.
    pub(super) fn from_code([code, node]: [u8; 2]) -> Option<Self> {
        let node = NodeId(node);
        Some(match code {
            0 => Self::Admitted(node),
            1 => Self::Drained(node),
            2 => Self::Undrained(node),
            3 => Self::Balance,
            4 => Self::Unfit(node),
            5 => Self::Succession,
            6 => Self::Operator(node),
            7 => Self::Joined(node),
            8 => Self::Formed,
            9 => Self::Voters,
            10 => Self::Copies,
            _ => return None,
        })
    }
}

impl Command {
    /// Why the map changes.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            Self::Admit { lives, .. } => {
                Reason::Admitted(lives.first().map_or(NodeId::NONE, |(node, _)| *node))
            }
            Self::Voters { .. } => Reason::Voters,
            Self::Assign { reason, .. } | Self::Invite { reason, .. } => reason.clone(),
            Self::Drain { node } => Reason::Drained(*node),
            Self::Undrain { node } => Reason::Undrained(*node),
        }
    }

    /// The bytes of the command.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Admit { basis, lives } => {
                let mut out = vec![ADMIT];
                out.extend(basis.0.to_le_bytes());
                out.push(lives.len() as u8);
                for (node, life) in lives {
                    out.push(node.0);
                    out.extend(life.0.to_le_bytes());
                }
                out
            }
            Self::Voters { acknowledged, voters } => {
                let mut out = vec![VOTERS];
                out.extend(acknowledged.0.to_le_bytes());
                voters.encode(&mut out);
                out
            }
            Self::Drain { node } => vec![DRAIN, node.0],
            Self::Undrain { node } => vec![UNDRAIN, node.0],
            Self::Assign { basis, settled, lists, reason } => {
                let mut out = vec![ASSIGN];
                out.extend(reason.code());
                out.extend(basis.0.to_le_bytes());
                out.extend(settled.0.to_le_bytes());
                write_lists(lists, &mut out);
                out
            }
            Self::Invite { basis, guests, reason } => {
                let mut out = vec![INVITE];
                out.extend(reason.code());
                out.extend(basis.0.to_le_bytes());
                write_lists(guests, &mut out);
                out
            }
        }
    }

    /// Reads a command.
    ///
    /// # Errors
    ///
    /// [`CommandError`] if the bytes are not exactly what [`Self::encode`] makes of some command.
    pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
        let kind = bytes.first().copied().unwrap_or(0);
        let wrong = CommandError { kind, length: bytes.len() };
        let mut reader = Reader::new(bytes);
        let command = read(&mut reader).ok().flatten().ok_or(wrong)?;
        if reader.remaining() == 0 && command.encode() == bytes { Ok(command) } else { Err(wrong) }
    }
}

/// Buckets, each with nodes.
type Lists = Vec<(BucketId, Vec<NodeId>)>;

fn write_lists(lists: &[(BucketId, Vec<NodeId>)], out: &mut Vec<u8>) {
    out.extend((lists.len() as u32).to_le_bytes());
    for (bucket, nodes) in lists {
        out.extend(bucket.0.to_le_bytes());
        out.push(nodes.len() as u8);
        out.extend(nodes.iter().map(|node| node.0));
    }
}

fn read(reader: &mut Reader<'_>) -> Result<Option<Command>, Truncated> {
    let kind = reader.u8()?;
    Ok(Some(match kind {
        ADMIT => return read_admit(reader),
        VOTERS => Command::Voters {
            acknowledged: Version(reader.u64()?),
            voters: NodeSet::decode(reader)?,
        },
        DRAIN => Command::Drain { node: NodeId(reader.u8()?) },
        UNDRAIN => Command::Undrain { node: NodeId(reader.u8()?) },
        ASSIGN => return read_assign(reader),
        INVITE => return read_invite(reader),
        _ => return Ok(None),
    }))
}

fn read_admit(reader: &mut Reader<'_>) -> Result<Option<Command>, Truncated> {
    let basis = Version(reader.u64()?);
    let mut lives = Vec::new();
    for _ in 0..reader.u8()? {
        lives.push((NodeId(reader.u8()?), Incarnation(reader.u64()?)));
    }
    let unique = (1..lives.len()).all(|index| lives[..index].iter().all(|l| l.0 != lives[index].0));
    Ok((unique && !lives.is_empty()).then_some(Command::Admit { basis, lives }))
}

fn read_assign(reader: &mut Reader<'_>) -> Result<Option<Command>, Truncated> {
    let Some(reason) = Reason::from_code(reader.array()?) else { return Ok(None) };
    let (basis, settled) = (Version(reader.u64()?), Version(reader.u64()?));
    let lists = read_lists(reader)?;
    Ok(lists.map(|lists| Command::Assign { basis, settled, lists, reason }))
}

fn read_invite(reader: &mut Reader<'_>) -> Result<Option<Command>, Truncated> {
    let Some(reason) = Reason::from_code(reader.array()?) else { return Ok(None) };
    let basis = Version(reader.u64()?);
    let guests = read_lists(reader)?;
    Ok(guests.map(|guests| Command::Invite { basis, guests, reason }))
}

/// Buckets and their nodes; `None` if one is named twice for a bucket.
fn read_lists(reader: &mut Reader<'_>) -> Result<Option<Lists>, Truncated> {
    let count = reader.u32()?;
    let mut lists = Vec::new();
    for _ in 0..count {
        let bucket = BucketId(reader.u16()?);
        let length = reader.u8()?;
        let ranks = reader.bytes(usize::from(length))?.iter().map(|&node| NodeId(node)).collect();
        lists.push((bucket, ranks));
    }
    let unique = lists.iter().all(|(_, ranks): &(_, Vec<NodeId>)| {
        ranks.iter().enumerate().all(|(index, node)| !ranks[..index].contains(node))
    });
    Ok(unique.then_some(lists))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_command_survives_its_bytes() {
        let node = NodeId(3);
        let lists = vec![(BucketId(7), vec![NodeId(1), NodeId(0)]), (BucketId(8), vec![])];
        for command in [
            Command::Admit { basis: Version(3), lives: vec![(node, Incarnation(u64::MAX))] },
            Command::Assign {
                basis: Version(9),
                settled: Version(8),
                lists,
                reason: Reason::Unfit(node),
            },
            Command::Voters { acknowledged: Version(2), voters: [node].into_iter().collect() },
            Command::Invite {
                basis: Version(9),
                guests: vec![(BucketId(7), vec![node]), (BucketId(8), vec![])],
                reason: Reason::Copies,
            },
            Command::Drain { node },
            Command::Undrain { node },
        ] {
            let mut bytes = command.encode();
            assert_eq!(Command::decode(&bytes), Ok(command));
            bytes.push(0);
            assert!(Command::decode(&bytes).is_err());
        }
    }

    #[test]
    fn a_list_that_names_a_node_twice_is_refused() {
        let lists = vec![(BucketId(7), vec![NodeId(1), NodeId(1)])];
        let command = Command::Assign {
            basis: Version(9),
            settled: Version(8),
            lists,
            reason: Reason::Balance,
        };
        let error = Command::decode(&command.encode()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "a command of kind 2 and 28 bytes whose contents mean nothing"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_command_or_an_error(bytes in prop::collection::vec(0u8..8, 0..40)) {
            if let Ok(command) = Command::decode(&bytes) {
                prop_assert_eq!(command.encode(), bytes);
            }
        }
    }
}
