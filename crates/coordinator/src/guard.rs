//! Which messages a correct peer can't send, given what is in the log.
//!
//! The library takes its peers for correct and panics where one is not: on a heartbeat that agrees
//! to entries that are not there, on an entry that contradicts an agreed one, on a snapshot without
//! voters. A gateway must not fall over because one of its peers is broken, so these are refused
//! here, with the reason, before the library sees them.

use raft::eraftpb::{Message, MessageType};
use raft::{Raft, RaftLog, StateRole, Storage};

use crate::convert;
use crate::log::Kind;
use crate::settings::Settings;

/// Terms and indices count elections and commands; a larger one is an attempt to overflow them.
const MAX_COUNT: u64 = 1 << 48;

/// Why no correct peer can have sent this, if so.
pub fn fault<S: Storage>(message: &Message, raft: &Raft<S>, settings: &Settings) -> Option<String> {
    let Message { term, index, log_term, commit, commit_term, .. } = *message;
    let largest = [term, index, log_term, commit, commit_term, message.reject_hint];
    if let Some(count) = largest.into_iter().find(|&count| count > MAX_COUNT) {
        return Some(format!("it counts up to {count}"));
    }
    let kind = message.get_msg_type();
    if (term == 0) != (kind == MessageType::MsgPropose) {
        return Some(format!("{kind:?} of term {term}"));
    }
    if message.entries.len() > 1 && kind == MessageType::MsgPropose {
        return Some(format!("{} commands proposed at once", message.entries.len()));
    }
    if message.entries.iter().any(|entry| !names_nodes(entry, settings)) {
        return Some("a vote for a node that is not in the cluster".to_owned());
    }
    // A leader that was asleep says what was right in its time. The library tells it so, and looks no
    // further; the log may have gone on without it.
    if term < raft.term && kind != MessageType::MsgPropose {
        return None;
    }
    match kind {
        MessageType::MsgPropose => propose_fault(message, settings),
        MessageType::MsgAppend => {
            // A leader of the past may not know what was agreed on since; the library ignores it.
            let is_past = term < raft.term;
            append_fault(message).or_else(|| contradiction(message, &raft.raft_log, is_past))
        }
        MessageType::MsgSnapshot => snapshot_fault(message, settings),
        MessageType::MsgAppendResponse => confirmation_fault(message, raft),
        _ => None,
    }
}

/// A follower can't have what its leader has not.
fn confirmation_fault<S: Storage>(message: &Message, raft: &Raft<S>) -> Option<String> {
    let (index, last) = (message.index, raft.raft_log.last_index());
    let is_mine = raft.state == StateRole::Leader && message.term == raft.term;
    (is_mine && !message.reject && index > last)
        .then(|| format!("it confirms entry {index}, the log ends at {last}"))
}

fn names_nodes(entry: &raft::eraftpb::Entry, settings: &Settings) -> bool {
    match convert::record(entry).kind {
        Kind::Command => true,
        Kind::AddVoter(node) | Kind::RemoveVoter(node) => settings.nodes.contains(&node),
    }
}

fn propose_fault(message: &Message, settings: &Settings) -> Option<String> {
    let Some(entry) = message.entries.first() else {
        return Some("a proposal of nothing".to_owned());
    };
    let length = convert::record(entry).command.len();
    let max = settings.max_command();
    (length == 0 || length > max)
        .then(|| format!("a command of {length} bytes, expected 1 to {max}"))
}

fn append_fault(message: &Message) -> Option<String> {
    let mut before = (message.index, message.log_term);
    if before.1 > message.term {
        return Some(format!("an entry of term {} in term {}", before.1, message.term));
    }
    for entry in &message.entries {
        if entry.index != before.0 + 1 || entry.term < before.1 || entry.term > message.term {
            let (index, term) = before;
            return Some(format!(
                "entry {} of term {} after entry {index} of term {term}, in term {}",
                entry.index, entry.term, message.term
            ));
        }
        before = (entry.index, entry.term);
    }
    None
}

fn contradiction<S: Storage>(message: &Message, log: &RaftLog<S>, is_past: bool) -> Option<String> {
    if is_past {
        return None;
    }
    // Below the base the log no longer knows its terms, and the library does not ask for them.
    let known = (log.first_index().saturating_sub(1))..=log.committed;
    let entries = message.entries.iter().map(|entry| (entry.index, entry.term));
    let mut agreed = entries.filter(|(index, _)| known.contains(index));
    let (index, term) = agreed.find(|&(index, term)| !log.match_term(index, term))?;
    Some(format!("entry {index} of term {term} contradicts what was agreed on"))
}

fn snapshot_fault(message: &Message, settings: &Settings) -> Option<String> {
    let image = convert::image(message.get_snapshot());
    if image.place.index == 0 || image.place.term == 0 || image.place.term > message.term {
        return Some(format!("a snapshot at {:?} in term {}", image.place, message.term));
    }
    settings.check_voters(&image.voters).err()
}
