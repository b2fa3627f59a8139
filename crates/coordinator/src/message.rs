//! Messages as bytes.
//!
//! Invariant: what [`decode`] gives, [`encode`] gives back byte by byte; and it is a message of a
//! kind that peers send, never one of those that the library sends to itself.

use raft::eraftpb::{Entry, Message, MessageType};
use testudo_packet::bucket::NodeId;

use crate::convert::{self, raft_id};
use crate::log::{Image, Record};
use crate::wire::{DecodeError, Reader, Writer};

/// What a peer says.
#[derive(Debug)]
pub enum Parcel {
    /// A message between the libraries.
    Raft(Message),
    /// "My log ends before what you know me to have": of a follower that has lost its disk. Without
    /// this the leader would for ever wait for what it believes to be under way.
    Behind {
        /// The leader's term.
        term: u64,
        /// Where the log ends.
        last: u64,
    },
}

/// Nodes refuse messages of other versions.
const VERSION: u8 = 1;
/// The kind of [`Parcel::Behind`]; the others are in [`KINDS`].
const BEHIND: u8 = 0;
/// The kinds of the library that travel, by their number here, from 1 on.
const KINDS: [MessageType; 11] = [
    MessageType::MsgPropose,
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgTimeoutNow,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

pub fn encode_behind(term: u64, last: u64) -> Vec<u8> {
    let mut out = Writer::default();
    out.u8(VERSION);
    out.u8(BEHIND);
    out.u64(term);
    out.u64(last);
    out.0
}

/// The message as bytes; none for a kind that does not travel.
pub fn encode(message: &Message) -> Option<Vec<u8>> {
    let kind = KINDS.iter().position(|&kind| kind == message.get_msg_type())?;
    let mut out = Writer::default();
    out.u8(VERSION);
    out.u8(u8::try_from(kind + 1).expect("there are few kinds"));
    for number in [message.term, message.log_term, message.index, message.commit] {
        out.u64(number);
    }
    out.u64(message.commit_term);
    out.u64(message.reject_hint);
    out.u8(u8::from(message.reject));
    out.u8(u8::from(is_transfer(message)));
    out.u32(u32::try_from(message.entries.len()).expect("a message has few entries"));
    for entry in &message.entries {
        convert::record(entry).put(&mut out);
    }
    let snapshot = message.get_snapshot();
    out.u8(u8::from(!snapshot.is_empty()));
    if !snapshot.is_empty() {
        convert::image(snapshot).put(&mut out);
    }
    Some(out.0)
}

/// Whether a candidate was asked to take over, which makes others vote in spite of a living leader.
fn is_transfer(message: &Message) -> bool {
    let votes = [MessageType::MsgRequestVote, MessageType::MsgRequestPreVote];
    votes.contains(&message.get_msg_type()) && message.context[..] == *raft::CAMPAIGN_TRANSFER
}

/// The message that bytes stand for, from one node to another.
pub fn decode(
    bytes: &[u8],
    from: NodeId,
    to: NodeId,
    nodes: &[NodeId],
) -> Result<Parcel, DecodeError> {
    let mut reader = Reader::new(bytes);
    let version = reader.u8()?;
    if version != VERSION {
        let seen = version.into();
        return Err(DecodeError::Value { field: "the version", seen, expected: "1" });
    }
    let kind = reader.u8()?;
    if kind == BEHIND {
        let parcel = Parcel::Behind { term: reader.u64()?, last: reader.u64()? };
        reader.end()?;
        return Ok(parcel);
    }
    let kind = *KINDS.get(usize::from(kind - 1)).ok_or(DecodeError::Value {
        field: "the kind of message",
        seen: kind.into(),
        expected: "at most 11",
    })?;
    let mut message = Message { from: raft_id(from), to: raft_id(to), ..Message::default() };
    message.set_msg_type(kind);
    message.term = reader.u64()?;
    message.log_term = reader.u64()?;
    message.index = reader.u64()?;
    message.commit = reader.u64()?;
    message.commit_term = reader.u64()?;
    message.reject_hint = reader.u64()?;
    message.reject = reader.flag("reject")?;
    if reader.flag("transfer")? {
        message.context = raft::CAMPAIGN_TRANSFER.into();
    }
    message.set_entries(entries(&mut reader)?.into());
    if reader.flag("has a snapshot")? {
        message.set_snapshot(convert::snapshot(nodes, &Image::take(&mut reader)?));
    }
    reader.end()?;
    Ok(Parcel::Raft(message))
}

fn entries(reader: &mut Reader<'_>) -> Result<Vec<Entry>, DecodeError> {
    // A count that lies ends at the end of the bytes, so it must not reserve memory.
    let mut entries = Vec::new();
    for _ in 0..reader.u32()? {
        entries.push(convert::entry(&Record::take(reader)?));
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::{Kind, Place};

    const NODES: [NodeId; 3] = [NodeId(0), NodeId(1), NodeId(254)];

    fn decoded(bytes: &[u8]) -> Result<Parcel, DecodeError> {
        decode(bytes, NODES[1], NODES[0], &NODES)
    }

    fn example() -> Message {
        let mut message = Message { term: 7, index: 3, commit: 9, ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        message.from = raft_id(NODES[1]);
        message.to = raft_id(NODES[0]);
        let kinds = [Kind::Command, Kind::AddVoter(NODES[2]), Kind::RemoveVoter(NODES[0])];
        let record = |(kind, index)| Record {
            place: Place { index, term: 7 },
            kind,
            command: vec![1, 2, 3],
        };
        let entries: Vec<Entry> =
            kinds.into_iter().zip(4..).map(record).map(|r| convert::entry(&r)).collect();
        message.set_entries(entries.into());
        let place = Place { index: 2, term: 6 };
        let image = Image { place, voters: vec![NODES[0], NODES[2]], data: b"machine".to_vec() };
        message.set_snapshot(convert::snapshot(&NODES, &image));
        message
    }

    #[test]
    fn a_message_survives_its_bytes() {
        let message = example();
        let bytes = encode(&message).unwrap();
        let Parcel::Raft(seen) = decoded(&bytes).unwrap() else { panic!("another parcel") };
        assert_eq!(seen, message);
        let Parcel::Behind { term: 4, last: 5 } = decoded(&encode_behind(4, 5)).unwrap() else {
            panic!("another parcel")
        };
    }

    #[test]
    fn every_cut_and_every_addition_is_refused() {
        let bytes = encode(&example()).unwrap();
        for length in 0..bytes.len() {
            assert!(decoded(&bytes[..length]).is_err(), "cut to {length}");
        }
        assert_eq!(decoded(&[&bytes[..], &[0]].concat()).unwrap_err(), DecodeError::Trailing(1));
    }

    #[test]
    fn unknown_kinds_and_versions_are_refused() {
        for (at, value) in [(0, 2), (1, 12), (1, 255)] {
            let mut bytes = encode(&example()).unwrap();
            bytes[at] = value;
            assert!(matches!(decoded(&bytes), Err(DecodeError::Value { .. })), "{at} {value}");
        }
        let mut local = Message::default();
        local.set_msg_type(MessageType::MsgHup);
        assert_eq!(encode(&local), None);
    }

    #[test]
    fn a_count_that_lies_takes_no_memory() {
        let mut message = example();
        message.clear_entries();
        message.clear_snapshot();
        let mut bytes = encode(&message).unwrap();
        let count = bytes.len() - 5;
        bytes[count..count + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decoded(&bytes).unwrap_err(), DecodeError::Truncated);
    }
}
