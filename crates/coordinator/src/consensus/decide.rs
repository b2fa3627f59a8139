//! What a command would do, found on a copy of the machine. Pure, so the same on all nodes.

use raft::eraftpb::{Message, MessageType};
use testudo_packet::bucket::NodeId;

use crate::StateMachine;
use crate::convert;
use crate::log::{Kind, Record};
use crate::settings::Settings;

/// The machine after a command, and how the command has to travel.
pub fn next<M: StateMachine>(
    machine: &M,
    command: &[u8],
    settings: &Settings,
) -> Result<(Kind, M), String> {
    let mut next = machine.clone();
    next.apply(command)?;
    let kind = kind(&machine.voters(), &next.voters(), settings)?;
    let (length, max) = (next.encode().len(), settings.max_machine());
    if length > max {
        return Err(format!("it would take {length} bytes to send all that is agreed, of {max}"));
    }
    Ok((kind, next))
}

/// The machine after an entry, if its command does what it was announced to do.
pub fn applied<M: StateMachine>(
    machine: &M,
    record: &Record,
    settings: &Settings,
) -> Result<M, String> {
    let (kind, next) = next(machine, &record.command, settings)?;
    if kind != record.kind {
        let expected = record.kind;
        return Err(format!("it came as {expected:?}, but by now it would be {kind:?}"));
    }
    Ok(next)
}

fn kind(before: &[NodeId], after: &[NodeId], settings: &Settings) -> Result<Kind, String> {
    settings.check_voters(after)?;
    let added: Vec<NodeId> = after.iter().copied().filter(|v| !before.contains(v)).collect();
    let removed: Vec<NodeId> = before.iter().copied().filter(|v| !after.contains(v)).collect();
    match (added.as_slice(), removed.as_slice()) {
        ([], []) => Ok(Kind::Command),
        ([node], []) => Ok(Kind::AddVoter(*node)),
        ([], [node]) => Ok(Kind::RemoveVoter(*node)),
        _ => {
            Err(format!("it changes {} voters, expected at most one", added.len() + removed.len()))
        }
    }
}

/// Why a snapshot that a message carries can't be taken over, if so.
pub fn snapshot_fault<M: StateMachine>(machine: &M, message: &Message) -> Option<String> {
    if message.get_msg_type() != MessageType::MsgSnapshot {
        return None;
    }
    let image = convert::image(message.get_snapshot());
    let mut machine = machine.clone();
    if let Err(why) = machine.restore(&image.data) {
        return Some(format!("a snapshot that can't be restored: {why}"));
    }
    (machine.voters() != image.voters)
        .then(|| "a snapshot with other voters than its machine's".to_owned())
}
