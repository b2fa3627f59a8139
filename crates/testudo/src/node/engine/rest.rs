//! How long the engine rests between two turns in which it finds nothing to do, and what wakes it.
//!
//! What happens to flows, and most packets that come up, wake nobody: they are looked for each millisecond.
//! Only a node that owns buckets has any, so one that owns none, as a spare node or a witness, is woken by its
//! mail and its streams, and looks around a few times less. Each wake-up costs several microseconds, which is
//! most of what a node takes that has nothing to do.
//!
//! While flows come and go a node turns each millisecond anyway, and what its peers say, most of it that they have
//! got what they were told, can wait for that: it would wake the engine as often again, or with many peers many
//! times as often. So a node rests *deaf* then, to all but its mail and packets that wait for it. It listens where
//! somebody waits for what peers say: first packets (`commit = "sync"` in any rule, here or at the peer), moves.
//!
//! Invariant: a node that owns a bucket never rests for longer than [`TICK`], nor does one that did not long
//! ago or is about to: what is left of that (packets that came up, entries to be taken out) wakes nobody either.

use std::time::Duration;

use testudo_cluster::replica::Replica;
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

/// How long the engine rests when it may be that something happens that does not wake it.
const TICK: Duration = Duration::from_millis(1);

/// And when not: not so long that deadlines of tenths of a second are missed by much.
const LONG: Duration = Duration::from_millis(10);

/// How long a node rests deaf. Two nodes that do so know within two of these that a change has come over: that is
/// to be less than two milliseconds, with what waking up takes.
const DEAF: Duration = Duration::from_micros(900);

/// How long a node is taken to be in the middle of something, in milliseconds. Whether it owns a bucket is
/// looked at more often than that.
const SETTLING: u64 = 500;

/// One rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Whatever comes wakes the engine.
    Listening(Duration),
    /// What comes from peers does not.
    Deaf(Duration),
}

/// How to rest.
#[derive(Debug)]
pub struct Rest {
    /// Until when the engine does not rest for long.
    stirred_until: Nanos,
    /// Whether flows have come or gone, as was last looked.
    flows_move: bool,
    /// Whether somebody may wait for what peers say.
    listens: bool,
    /// Whether first packets may wait for a peer.
    commits: bool,
}

impl Rest {
    /// Of a node whose rules let first packets wait for the peers, or do not.
    pub fn new(commits: bool) -> Self {
        Self { stirred_until: Nanos::default(), flows_move: false, listens: true, commits }
    }

    /// What packets have caused was looked at: so many things.
    pub fn note_events(&mut self, events: usize) {
        self.flows_move = events > 0;
    }

    /// Whether somebody waits for what peers say, besides first packets.
    pub fn listen(&mut self, listens: bool) {
        self.listens = listens;
    }

    /// Something has happened that may go on without waking the engine.
    pub fn stir(&mut self, now: Nanos) {
        self.stirred_until = now.plus_millis(SETTLING);
    }

    /// Looks whether this node owns a bucket, or one is on its way to or from it.
    pub fn look(&mut self, now: Nanos, me: NodeId, buckets: u32, replica: &Replica) {
        let owns = |bucket: u32| replica.slot(BucketId(bucket as u16)).owner == me;
        if replica.moving() != (0, 0) || (0..buckets).any(owns) {
            self.stir(now);
        }
    }

    /// How to wait for whatever wakes the engine.
    pub fn kind(&self, now: Nanos) -> Kind {
        if self.flows_move && !self.listens && !self.commits {
            return Kind::Deaf(DEAF);
        }
        Kind::Listening(if now < self.stirred_until { TICK } else { LONG })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_in_the_middle_of_something_looks_around_each_millisecond() {
        let now = Nanos(1);
        let mut rest = Rest::new(false);
        assert_eq!(rest.kind(now), Kind::Listening(LONG));
        rest.stir(now);
        assert_eq!(rest.kind(now.plus_millis(SETTLING - 1)), Kind::Listening(TICK));
        assert_eq!(rest.kind(now.plus_millis(SETTLING)), Kind::Listening(LONG));
    }

    #[test]
    fn a_node_is_deaf_to_its_peers_only_while_flows_move_and_nobody_waits_for_them() {
        let deaf = |commits, events, listens| {
            let mut rest = Rest::new(commits);
            rest.note_events(events);
            rest.listen(listens);
            matches!(rest.kind(Nanos(1)), Kind::Deaf(_))
        };
        assert!(deaf(false, 1, false));
        assert!(!deaf(false, 0, false), "nothing moves");
        assert!(!deaf(false, 1, true), "a move is under way");
        assert!(!deaf(true, 1, false), "first packets wait");
    }
}
