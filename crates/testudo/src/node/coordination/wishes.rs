//! What operators want of the agreement, until it is agreed on.
//!
//! A command is made for a version of the map and refused if another changed the same buckets before: the
//! planner's, or another operator's. The operator is answered when the map says what was wanted, so a
//! command that came too late is made anew and proposed again meanwhile.
//!
//! Bounds: so many wishes wait, each so long.

use testudo_cluster::map::{Command, Map};
use testudo_packet::bucket::{BucketId, Nanos, NodeId};

use super::Coordination;
use crate::operate::order::{self, Answers, Refusal};

/// How many wishes wait at most.
const MOST: usize = 64;

/// How long one waits, in milliseconds. Less than an operator does.
const PATIENCE: u64 = 1500;

/// How long a command may take before it is proposed again, in milliseconds.
const AGAIN: u64 = 200;

/// What the map is to say.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wanted {
    Drained(NodeId),
    Undrained(NodeId),
    Owner(BucketId, NodeId),
}

impl Wanted {
    fn is_agreed(self, map: &Map) -> bool {
        match self {
            Self::Drained(node) => map.drained().contains(node),
            Self::Undrained(node) => !map.drained().contains(node),
            // Once it is agreed that the node makes a copy for that, the leader goes on by itself.
            Self::Owner(bucket, node) => {
                let invited = map.invited(bucket).filter(|invited| invited.wished);
                let first = invited.and_then(|invited| invited.nodes.first());
                map.ranks(bucket).first().into_iter().chain(first).any(|&first| first == node)
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Wish {
    wanted: Wanted,
    /// What the operator is told when it is agreed on.
    plan: order::Plan,
    answers: Answers<order::Plan>,
    until: Nanos,
    again: Nanos,
}

impl Coordination {
    /// Has the agreement come to it; the answer is given when it has.
    pub(super) fn want(
        &mut self,
        now: Nanos,
        wanted: Wanted,
        plan: order::Plan,
        answers: Answers<order::Plan>,
    ) {
        if self.wishes.len() >= MOST {
            let seen = format!("{MOST} orders wait for the agreement already");
            return answers.give(Err(Refusal::new(seen, "to be asked again")));
        }
        if let Err(refusal) = self.offer_wanted(now, wanted) {
            return answers.give(Err(refusal));
        }
        let (until, again) = (now.plus_millis(PATIENCE), now.plus_millis(AGAIN));
        self.wishes.push(Wish { wanted, plan, answers, until, again });
    }

    /// Answers what is agreed on, and proposes again what was overtaken.
    pub(super) fn look_after_wishes(&mut self, now: Nanos) {
        for mut wish in std::mem::take(&mut self.wishes) {
            if wish.wanted.is_agreed(self.parts.coordinator.machine()) {
                wish.answers.give(Ok(wish.plan));
            } else if now >= wish.until {
                let seen =
                    format!("the command was not agreed on within {PATIENCE} ms, and may be yet");
                wish.answers.give(Err(Refusal::new(seen, "a majority of voters that answer")));
            } else {
                if now >= wish.again {
                    wish.again = now.plus_millis(AGAIN);
                    // What stands against it now may be over soon; the operator is told in the end.
                    let _ = self.offer_wanted(now, wish.wanted);
                }
                self.wishes.push(wish);
            }
        }
    }

    fn offer_wanted(&mut self, now: Nanos, wanted: Wanted) -> Result<(), Refusal> {
        let command = match wanted {
            Wanted::Drained(node) => Command::Drain { node },
            Wanted::Undrained(node) => Command::Undrain { node },
            Wanted::Owner(bucket, to) => self.move_command(bucket, to)?,
        };
        let proposed = self.parts.coordinator.propose(now, command.encode());
        proposed.map_err(|error| Refusal::new(error.to_string(), "to be asked again"))
    }
}
