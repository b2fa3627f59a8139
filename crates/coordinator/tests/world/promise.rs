//! What a message promises, and whether it is on disk.
//!
//! Reads the two kinds of message that promise something by their bytes: version, kind, then eight
//! bytes each of term, log term, index, commit, commit term, hint; then whether it is a refusal.

use testudo_coordinator::Stored;
use testudo_packet::bucket::NodeId;

const APPEND_RESPONSE: u8 = 3;
const VOTE_RESPONSE: u8 = 5;

pub fn check(safe: &Stored, to: NodeId, message: &[u8]) {
    let kind = message[1];
    if ![APPEND_RESPONSE, VOTE_RESPONSE].contains(&kind) {
        return;
    }
    let number = |at: usize| u64::from_le_bytes(message[at..at + 8].try_into().expect("eight"));
    let (term, index, refuses) = (number(2), number(18), message[50] == 1);
    if refuses {
        return;
    }
    if kind == APPEND_RESPONSE {
        let last = safe.last().index;
        assert!(index <= last, "confirmed up to {index}, on disk up to {last}");
    } else {
        assert_eq!(
            (safe.hard.term, safe.hard.vote),
            (term, Some(to)),
            "a vote that is not on disk"
        );
    }
}
