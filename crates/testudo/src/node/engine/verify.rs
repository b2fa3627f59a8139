//! Comparing all tables of the cluster now: the engine's part.
//!
//! A node that is asked to says so to all it has a stream with. Each compares its own buckets with all its
//! peers ([`testudo_cluster::replica::rounds`]) and sends back what that has come to; the first puts the
//! answers together. So every copy is compared by the owner of its bucket, over the stream that made it.
//!
//! Bounds: [`MAX_RUNNING`] at a time, each with a deadline and forgotten some time after it; of the peers'
//! wishes, as many as the replica takes rounds.

use std::collections::BTreeMap;
use std::time::Duration;

use testudo_cluster::replica::Verification;
use testudo_packet::bucket::{Nanos, NodeId};

use super::{Answers, Engine};
use crate::node::clock;
use crate::node::coordination::Letter;

/// How long a peer's answers are waited for; and then the letters that tell of it.
const PATIENCE: Duration = Duration::from_secs(4);
const LETTERS: Duration = Duration::from_millis(500);

/// How long an outcome is kept for whoever has asked for it, in milliseconds.
const KEPT_MS: u64 = 30_000;

/// How many comparisons may be asked for at a time.
const MAX_RUNNING: usize = 4;

/// What the engine is asked.
#[derive(Debug)]
pub enum Question {
    /// Begin; answered by a number, or nothing if too many are under way.
    Begin(Answers<Option<u64>>),
    /// What has it come to? Nothing, if there is none of that number.
    Look {
        /// The number.
        number: u64,
        /// The way back.
        answers: Answers<Option<Found>>,
    },
}

/// What a comparison has come to.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Whether all have answered, or are not waited for any more.
    pub done: bool,
    /// What each node has found. Nothing, if it was busy with other comparisons.
    pub nodes: BTreeMap<NodeId, Option<Verification>>,
}

#[derive(Debug)]
struct Running {
    number: u64,
    /// This node's own round.
    round: Option<u64>,
    asked: Vec<NodeId>,
    deadline: Nanos,
    found: Found,
}

/// A round of this node's that a peer waits for.
#[derive(Debug)]
struct Wish {
    peer: NodeId,
    number: u64,
    round: u64,
}

/// The comparisons under way.
#[derive(Debug, Default)]
pub struct Verifying {
    begun: u64,
    running: Vec<Running>,
    wishes: Vec<Wish>,
}

impl Engine {
    pub(super) fn verify(&mut self, question: Question) {
        // Nobody waits for an answer that can't be sent.
        let _given_up = match question {
            Question::Begin(answers) => {
                let number = self.begin_verifying(clock::now());
                answers.try_send(number).is_err()
            }
            Question::Look { number, answers } => {
                let running = &self.verifying.running;
                let running = running.iter().find(|running| running.number == number);
                answers.try_send(running.map(|running| running.found.clone())).is_err()
            }
        };
    }

    fn begin_verifying(&mut self, now: Nanos) -> Option<u64> {
        if self.verifying.running.len() >= MAX_RUNNING {
            return None;
        }
        self.verifying.begun += 1;
        let number = self.verifying.begun;
        let (cluster, replica) = (self.parts.cluster.clone(), &mut self.parts.replica);
        let round = replica.verify(now, PATIENCE);
        let asked: Vec<_> = cluster.peers().filter(|&peer| replica.peer(peer).connected).collect();
        for &peer in &asked {
            replica.send_letter(peer, &Letter::Verify { number }.encode());
        }
        let mut found = Found::default();
        if round.is_none() {
            found.nodes.insert(cluster.node(), None);
        }
        let deadline = Nanos(now.0 + (PATIENCE + LETTERS).as_nanos() as u64);
        self.verifying.running.push(Running { number, round, asked, deadline, found });
        Some(number)
    }

    /// A peer wants this node to compare its buckets.
    pub(super) fn verify_for(&mut self, peer: NodeId, number: u64) {
        match self.parts.replica.verify(clock::now(), PATIENCE) {
            Some(round) => self.verifying.wishes.push(Wish { peer, number, round }),
            None => {
                let busy = Letter::Verified { number, verification: None };
                self.parts.replica.send_letter(peer, &busy.encode());
            }
        }
    }

    /// A peer has compared its buckets.
    pub(super) fn note_verified(
        &mut self,
        peer: NodeId,
        number: u64,
        verification: Option<Verification>,
    ) {
        let mut running = self.verifying.running.iter_mut();
        if let Some(running) = running.find(|running| running.number == number)
            && running.asked.contains(&peer)
        {
            running.found.nodes.insert(peer, verification);
        }
    }

    /// Looks at what has come to an end.
    pub(super) fn tick_verifying(&mut self, now: Nanos) {
        let Self { verifying: Verifying { running, wishes, .. }, parts, .. } = self;
        let replica = &mut parts.replica;
        wishes.retain(|&Wish { peer, number, round }| match replica.verification(round) {
            Some(verification) => {
                let verification = Some(verification);
                replica.send_letter(peer, &Letter::Verified { number, verification }.encode());
                false
            }
            None => true,
        });
        for Running { round, asked, deadline, found, .. } in running.iter_mut() {
            if let Some(verification) = round.and_then(|round| replica.verification(round)) {
                found.nodes.insert(parts.cluster.node(), Some(verification));
                *round = None;
            }
            let all = found.nodes.len() == asked.len() + 1;
            found.done |= all || now >= *deadline;
        }
        running.retain(|running| now < running.deadline.plus_millis(KEPT_MS));
    }
}
