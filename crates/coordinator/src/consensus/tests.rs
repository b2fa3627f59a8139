//! One node, and messages that are made to measure.

use super::*;
use crate::log::{Place, Record};
use crate::wire::Writer;

/// Its value is who votes: the last command or snapshot as it is.
#[derive(Clone)]
struct Voters(Vec<NodeId>);

impl StateMachine for Voters {
    fn apply(&mut self, command: &[u8]) -> Result<(), String> {
        self.restore(command)
    }

    fn voters(&self) -> Vec<NodeId> {
        self.0.clone()
    }

    fn encode(&self) -> Vec<u8> {
        self.0.iter().map(|node| node.0).collect()
    }

    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String> {
        if snapshot.contains(&9) {
            return Err("9 is odd".to_owned());
        }
        self.0 = snapshot.iter().copied().map(NodeId).collect();
        Ok(())
    }
}

const NODES: [NodeId; 3] = [NodeId(0), NodeId(1), NodeId(2)];
const LEADER: NodeId = NodeId(1);
const NOW: Nanos = Nanos(1);

fn node() -> Raft<Voters> {
    let settings = Settings::new(NODES[0], NODES.to_vec(), 1);
    Raft::new(settings, Voters(NODES.to_vec()), Stored::default(), Nanos(0)).unwrap()
}

fn record(index: u64, term: u64) -> Record {
    Record { place: Place { index, term }, kind: Kind::Command, command: vec![0, 1, 2] }
}

/// Entries after a place; agreed on up to `commit`.
fn append(term: u64, after: (u64, u64), commit: u64, records: &[Record]) -> Message {
    let mut message = Message { term, index: after.0, log_term: after.1, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppend);
    message.commit = commit;
    message.set_entries(records.iter().map(convert::entry).collect::<Vec<_>>().into());
    message
}

fn snapshot(term: u64, place: Place, voters: &[u8], data: &[u8]) -> Message {
    let voters = voters.iter().copied().map(NodeId).collect();
    let image = Image { place, voters, data: data.to_vec() };
    let mut message = Message { term, ..Message::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    message.set_snapshot(convert::snapshot(&NODES, &image));
    message
}

fn tell(node: &mut Raft<Voters>, message: &Message) -> Result<(), MessageError> {
    let bytes = message::encode(message).expect("a kind that travels");
    let answer = node.handle_message(NOW, LEADER, &bytes);
    while let Some(output) = node.poll_output() {
        if let Output::Persist { ticket, .. } = output {
            node.handle_persisted(NOW, ticket);
        }
    }
    answer
}

fn refusal(node: &mut Raft<Voters>, message: &Message) -> String {
    match tell(node, message) {
        Err(MessageError::Impossible(why)) => why,
        other => panic!("taken in: {other:?}"),
    }
}

/// A follower in term 2 that has applied two entries and holds two more.
fn follower() -> Raft<Voters> {
    let mut node = node();
    let records = [record(1, 1), record(2, 1), record(3, 2), record(4, 2)];
    tell(&mut node, &append(2, (0, 0), 2, &records)).unwrap();
    assert_eq!((node.applied(), node.log_length()), (2, 4));
    node
}

#[test]
fn entries_that_contradict_what_was_agreed_on_are_refused() {
    let mut node = follower();
    let why = refusal(&mut node, &append(3, (0, 0), 0, &[record(1, 1), record(2, 2)]));
    assert_eq!(why, "entry 2 of term 2 contradicts what was agreed on");
    // Of a leader of the past they are merely late, and what is not agreed on can be replaced.
    tell(&mut node, &append(1, (1, 1), 0, &[record(2, 1)])).unwrap();
    tell(&mut node, &append(3, (2, 1), 3, &[record(3, 3)])).unwrap();
    assert_eq!((node.applied(), node.log_length()), (3, 3));
}

#[test]
fn entries_out_of_order_are_refused() {
    let mut node = follower();
    let bad = [
        append(2, (4, 2), 2, &[record(6, 2)]),
        append(2, (4, 2), 2, &[record(5, 1)]),
        append(2, (4, 2), 2, &[record(5, 3)]),
        append(2, (4, 3), 2, &[]),
    ];
    for message in bad {
        refusal(&mut node, &message);
    }
    assert_eq!((node.term(), node.log_length(), node.counters().impossible), (2, 4, 4));
}

#[test]
fn counts_that_would_overflow_are_refused() {
    let mut node = follower();
    let mut vote = Message { term: u64::MAX, ..Message::default() };
    vote.set_msg_type(MessageType::MsgRequestVote);
    assert_eq!(refusal(&mut node, &vote), format!("it counts up to {}", u64::MAX));
    vote.term = 0;
    assert_eq!(refusal(&mut node, &vote), "MsgRequestVote of term 0");
}

#[test]
fn votes_for_strangers_are_refused() {
    let mut node = follower();
    let stranger = Record { kind: Kind::AddVoter(NodeId(7)), ..record(5, 2) };
    let why = refusal(&mut node, &append(2, (4, 2), 2, &[stranger]));
    assert_eq!(why, "a vote for a node that is not in the cluster");
}

#[test]
fn a_leader_refuses_confirmations_of_what_it_has_not() {
    let mut node = node();
    for (kind, term) in [(MessageType::MsgTimeoutNow, 1), (MessageType::MsgRequestVoteResponse, 2)]
    {
        let mut message = Message { term, ..Message::default() };
        message.set_msg_type(kind);
        tell(&mut node, &message).unwrap();
    }
    assert!(node.is_leader());
    let mut message = Message { term: 2, index: 9, ..Message::default() };
    message.set_msg_type(MessageType::MsgAppendResponse);
    assert_eq!(refusal(&mut node, &message), "it confirms entry 9, the log ends at 1");
    assert!(!node.leads());
    message.index = 1;
    tell(&mut node, &message).unwrap();
    assert!(node.leads());
}

#[test]
fn a_snapshot_replaces_the_whole_log_also_what_lies_behind_it() {
    let mut node = follower();
    tell(&mut node, &snapshot(3, Place { index: 3, term: 3 }, &[0, 1], &[0, 1])).unwrap();
    assert_eq!((node.applied(), node.log_length()), (3, 0));
    assert_eq!(node.machine().voters(), [NodeId(0), NodeId(1)]);
    assert_eq!(node.raw.store().stored().fault(), None);
}

#[test]
fn snapshots_that_contradict_themselves_are_refused() {
    let mut node = follower();
    let place = Place { index: 9, term: 2 };
    let later = Place { index: 9, term: 3 };
    let bad = [
        (snapshot(3, place, &[], &[0]), "nobody would vote"),
        (snapshot(3, place, &[0], &[0, 1]), "a snapshot with other voters than its machine's"),
        (snapshot(3, place, &[0], &[9]), "a snapshot that can't be restored: 9 is odd"),
        (snapshot(2, later, &[0], &[0]), "a snapshot at Place { index: 9, term: 3 } in term 2"),
    ];
    for (message, why) in bad {
        assert_eq!(refusal(&mut node, &message), why);
    }
    assert_eq!((node.term(), node.applied()), (2, 2));
    // Of a leader of the past it is merely late: the library looks no further, and says so.
    tell(&mut node, &snapshot(1, place, &[0], &[0])).unwrap();
    assert_eq!((node.term(), node.applied()), (2, 2));
}

#[test]
fn a_message_that_became_impossible_while_it_waited_is_dropped() {
    let mut node = follower();
    let bytes = |message: &Message| message::encode(message).unwrap();
    let slow = append(2, (4, 2), 2, &[record(5, 2)]);
    let good = append(3, (2, 1), 3, &[record(3, 3)]);
    let bad = append(4, (2, 1), 2, &[record(3, 4)]);
    for message in [slow, good, bad] {
        node.handle_message(NOW, LEADER, &bytes(&message)).unwrap();
    }
    assert!(node.unwritten.is_some());
    while let Some(output) = node.poll_output() {
        if let Output::Persist { ticket, .. } = output {
            node.handle_persisted(NOW, ticket);
        }
    }
    assert_eq!((node.applied(), node.counters().impossible), (3, 1));
}

#[test]
fn outputs_that_nobody_fetches_are_bounded() {
    let mut node = follower();
    let mut heartbeat = Message { term: 2, ..Message::default() };
    heartbeat.set_msg_type(MessageType::MsgHeartbeat);
    let bytes = message::encode(&heartbeat).unwrap();
    for _ in 0..MAX_OUTPUTS + 10 {
        node.handle_message(NOW, LEADER, &bytes).unwrap();
    }
    assert_eq!((node.outputs.len(), node.counters().dropped), (MAX_OUTPUTS, 10));
}

#[test]
fn a_length_beyond_the_end_is_refused() {
    let mut out = Writer::default();
    out.u64(1);
    out.u64(1);
    out.u32(u32::MAX);
    assert!(Image::decode(&out.0).is_err());
}

/// A node that starts with four entries on disk, of which it knows none to be agreed on.
fn restarted() -> Raft<Voters> {
    let settings = Settings::new(NODES[0], NODES.to_vec(), 1);
    let stored = Stored {
        entries: [record(1, 1), record(2, 1), record(3, 2), record(4, 2)].into(),
        hard: crate::log::Hard { term: 2, ..crate::log::Hard::default() },
        ..Stored::default()
    };
    Raft::new(settings, Voters(NODES.to_vec()), stored, Nanos(0)).unwrap()
}

/// Whether the node said meanwhile that its machine has changed.
fn says_after(node: &mut Raft<Voters>, message: &Message) -> bool {
    let bytes = message::encode(message).expect("a kind that travels");
    node.handle_message(NOW, LEADER, &bytes).unwrap();
    let mut said = false;
    while let Some(output) = node.poll_output() {
        match output {
            Output::Persist { ticket, .. } => node.handle_persisted(NOW, ticket),
            Output::Changed => said = true,
            _ => {}
        }
    }
    said
}

#[test]
fn after_a_restart_nothing_is_told_before_all_that_may_have_been_told() {
    let mut node = restarted();
    assert!(!says_after(&mut node, &append(2, (4, 2), 2, &[])));
    assert_eq!(node.applied(), 2);
    assert!(says_after(&mut node, &append(2, (4, 2), 4, &[])));
    assert!(says_after(&mut node, &append(2, (4, 2), 5, &[record(5, 2)])), "and then as usual");

    // Entries that another leader replaces were never agreed on: nobody waits for so many.
    let mut node = restarted();
    assert!(!says_after(&mut node, &append(3, (2, 1), 2, &[record(3, 3)])));
    assert!(says_after(&mut node, &append(3, (3, 3), 3, &[])));
}
