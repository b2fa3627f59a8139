//! Between the library's values and ours.
//!
//! The library numbers nodes from 1 on and takes 0 for none, so a node's number there is one more.

use protobuf::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, HardState, Snapshot};
use testudo_packet::bucket::NodeId;

use crate::log::{Hard, Image, Kind, Place, Record};

pub fn raft_id(node: NodeId) -> u64 {
    u64::from(node.0) + 1
}

/// The node of a number of the library; none for 0 and for numbers that no node has.
pub fn node_id(id: u64) -> Option<NodeId> {
    let node = u8::try_from(id.checked_sub(1)?).ok().map(NodeId)?;
    (node != NodeId::NONE).then_some(node)
}

/// The change of configuration that belongs to an entry.
pub fn conf_change(kind: Kind) -> Option<ConfChange> {
    let (change_type, node) = match kind {
        Kind::Command => return None,
        Kind::AddVoter(node) => (ConfChangeType::AddNode, node),
        // A node without a vote still gets the log.
        Kind::RemoveVoter(node) => (ConfChangeType::AddLearnerNode, node),
    };
    let mut change = ConfChange::default();
    change.set_change_type(change_type);
    change.node_id = raft_id(node);
    Some(change)
}

/// The data of a change travels in the entry's data, the command in its context then.
pub fn entry(record: &Record) -> Entry {
    let mut entry =
        Entry { index: record.place.index, term: record.place.term, ..Entry::default() };
    match conf_change(record.kind) {
        None => entry.data = record.command.clone().into(),
        Some(change) => {
            entry.set_entry_type(EntryType::EntryConfChange);
            entry.data = change.write_to_bytes().expect("its fields are all set").into();
            entry.context = record.command.clone().into();
        }
    }
    entry
}

/// An entry that this node proposed, or that [`entry`] made.
pub fn record(entry: &Entry) -> Record {
    let place = Place { index: entry.index, term: entry.term };
    if entry.get_entry_type() == EntryType::EntryNormal {
        return Record { place, kind: Kind::Command, command: entry.data.to_vec() };
    }
    let change = ConfChange::parse_from_bytes(&entry.data).expect("made by `entry`");
    let node = node_id(change.node_id).expect("made by `entry`");
    let kind = match change.get_change_type() {
        ConfChangeType::AddNode => Kind::AddVoter(node),
        _ => Kind::RemoveVoter(node),
    };
    Record { place, kind, command: entry.context.to_vec() }
}

pub fn hard_state(hard: &Hard) -> HardState {
    let vote = hard.vote.map_or(0, raft_id);
    HardState { term: hard.term, vote, commit: hard.commit, ..HardState::default() }
}

pub fn hard(state: &HardState) -> Hard {
    Hard { term: state.term, vote: node_id(state.vote), commit: state.commit }
}

/// Who votes, and who only gets the log.
pub fn conf_state(nodes: &[NodeId], voters: &[NodeId]) -> ConfState {
    let (voting, learning): (Vec<NodeId>, _) = nodes.iter().partition(|node| voters.contains(node));
    let ids = |nodes: Vec<NodeId>| nodes.into_iter().map(raft_id).collect::<Vec<u64>>();
    ConfState::from((ids(voting), ids(learning)))
}

pub fn snapshot(nodes: &[NodeId], image: &Image) -> Snapshot {
    let mut snapshot = Snapshot { data: image.data.clone().into(), ..Snapshot::default() };
    let metadata = snapshot.mut_metadata();
    metadata.index = image.place.index;
    metadata.term = image.place.term;
    metadata.set_conf_state(conf_state(nodes, &image.voters));
    snapshot
}

pub fn image(snapshot: &Snapshot) -> Image {
    let metadata = snapshot.get_metadata();
    let ids = metadata.get_conf_state().get_voters();
    let mut voters: Vec<NodeId> = ids.iter().filter_map(|&id| node_id(id)).collect();
    voters.sort_unstable();
    let place = Place { index: metadata.index, term: metadata.term };
    Image { place, voters, data: snapshot.get_data().to_vec() }
}
