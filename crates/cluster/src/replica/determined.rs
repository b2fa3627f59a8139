//! Flows that are determined on a node that need not own their bucket.
//!
//! A node may learn of a flow before the flow's first packet: an FTP server names a data connection's
//! port on the control connection, a program announces what it is about to open (the reference, page
//! 12). That flow's packets go to whoever owns its bucket, so that node needs the entry, and needs it
//! before they come.
//!
//! ```text
//!   determining node                              owner of the bucket
//!   [`Replica::determine`]   ── Determine ──►
//!                                                 tells its peers, puts the entry into its node table,
//!                                                 waits for the peers' acknowledgements, not for long
//!                            ◄── Determined ──
//!   [`Effect::Determined`]
//! ```
//!
//! Invariant: a flow is reported as placed only after its entry has been in the node table of the node
//! that owned the bucket then. Whoever keeps back what announces the flow until that report is there (the
//! program's own packet, or its answer) knows that the flow's first packet finds the entry, or a successor
//! that has it.
//!
//! Deadlines: a request that nobody has answered in the time that it was given ends as late; the flow may
//! be placed after all, and then expires like one that nobody answers. An owner that is asked waits for its
//! peers for [`COPYING`] and then says how many know the flow.
//!
//! Bounds: [`MAX_REQUESTS`] of a node's own, as many that it serves; beyond that they are refused at once.

use std::collections::BTreeMap;
use std::time::Duration;

use testudo_packet::bucket::{BucketSlot, BucketState, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};

use super::{ConnectionId, Effect, Refused, Replica, Ticket};
use crate::sync::determining::Answer;
use crate::sync::frame::Frame;
use crate::time::after;

/// How many requests a node has under way at most, and how many it serves.
pub const MAX_REQUESTS: usize = 4096;

/// How long an owner waits for its peers to know the flow before it answers.
pub const COPYING: Duration = Duration::from_millis(50);

/// How long a node waits before it asks again: whoever it took for the owner was not, or says nothing.
const AGAIN: Duration = Duration::from_millis(20);
const SILENCE: Duration = Duration::from_millis(100);

/// A request to let a flow in: whose it is, and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Which node has determined the flow.
    pub from: NodeId,
    /// The number that it has given its request.
    pub number: u32,
}

/// What has come of a flow that this node has determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its entry is in the node table of its bucket's owner.
    Placed {
        /// The owner.
        owner: NodeId,
        /// How many other nodes know it for certain.
        copies: u8,
        /// Whether the owner had it before.
        was_there: bool,
    },
    /// The owner has no room for it. Nothing has changed.
    Full {
        /// The owner.
        owner: NodeId,
    },
    /// The owner has too many of these under way. Nothing has changed.
    Busy {
        /// The owner.
        owner: NodeId,
    },
    /// Nobody has said in time that it has let the flow in. It may come to pass.
    Late {
        /// Who owns the bucket as far as this node knows; [`NodeId::NONE`] if nobody does.
        owner: NodeId,
    },
}

/// A request of this node's.
#[derive(Debug)]
struct Request {
    record: FlowRecord,
    deadline: Nanos,
    /// Whom it was sent to, by which stream; this node itself needs none.
    asked: Option<(NodeId, Option<ConnectionId>)>,
    /// When it is sent again.
    again: Nanos,
}

/// A flow that this node has let in, of which the peers are being told.
#[derive(Debug)]
struct Serving {
    wish: Wish,
    record: FlowRecord,
    ticket: Ticket,
    was_there: bool,
    until: Nanos,
}

/// All requests under way.
#[derive(Debug, Default)]
pub(super) struct Determining {
    last: u32,
    requests: BTreeMap<u32, Request>,
    serving: Vec<Serving>,
}

impl Replica {
    /// This node has determined a flow: whoever owns its bucket is to let it in. Epoch and sequence of the
    /// record are the owner's to say. [`Effect::Determined`] tells what has come of it, by the number that is
    /// returned; there is none if too many are under way.
    pub fn determine(&mut self, now: Nanos, record: FlowRecord, patience: Duration) -> Option<u32> {
        let determining = &mut self.determining;
        if determining.requests.len() >= MAX_REQUESTS {
            return None;
        }
        determining.last = determining.last.wrapping_add(1);
        let (number, deadline) = (determining.last, after(now, patience));
        let request = Request { record, deadline, asked: None, again: now };
        determining.requests.insert(number, request);
        self.handle_determining(now);
        Some(number)
    }

    /// Goes on with flows that were determined, here or elsewhere. To be called in each turn; costs nothing
    /// when there are none.
    pub fn handle_determining(&mut self, now: Nanos) {
        self.answer_served(now);
        let mut numbers: Vec<u32> = Vec::new();
        let due = |request: &Request, slot: BucketSlot, stream: Option<ConnectionId>| {
            let here = slot.owner == self.cluster.node();
            let to = (slot.owner, stream);
            (here || stream.is_some()) && (request.asked != Some(to) || now >= request.again)
        };
        for (&number, request) in &self.determining.requests {
            let slot = self.slot(request.record.bucket);
            if now >= request.deadline || due(request, slot, self.stream_to(slot.owner)) {
                numbers.push(number);
            }
        }
        for number in numbers {
            self.go_on_with_request(now, number);
        }
    }

    /// Whether something is under way.
    #[must_use]
    pub fn is_determining(&self) -> bool {
        !self.determining.requests.is_empty() || !self.determining.serving.is_empty()
    }

    fn stream_to(&self, node: NodeId) -> Option<ConnectionId> {
        self.peers.get(usize::from(node.0)).and_then(|peer| peer.connection)
    }

    fn go_on_with_request(&mut self, now: Nanos, number: u32) {
        let me = self.cluster.node();
        let Some(request) = self.determining.requests.get(&number) else { return };
        let record = request.record;
        let owner = self.slot(record.bucket).owner;
        if now >= request.deadline {
            return self.finish(number, Outcome::Late { owner });
        }
        let stream = self.stream_to(owner);
        if let Some(request) = self.determining.requests.get_mut(&number) {
            request.asked = Some((owner, stream));
            request.again = after(now, SILENCE);
        }
        if owner == me {
            self.effects.push_back(Effect::Place { wish: Wish { from: me, number }, record });
        } else if let Some(peer) = self.peers.get_mut(usize::from(owner.0)) {
            peer.outgoing.tell(Frame::Determine { number, record });
        }
    }

    fn finish(&mut self, number: u32, outcome: Outcome) {
        if self.determining.requests.remove(&number).is_some() {
            self.effects.push_back(Effect::Determined { number, outcome });
        }
    }

    /// A peer has determined a flow.
    pub(super) fn handle_wish(&mut self, from: NodeId, number: u32, record: FlowRecord) {
        self.effects.push_back(Effect::Place { wish: Wish { from, number }, record });
    }

    /// A peer has answered.
    pub(super) fn handle_answer(
        &mut self,
        now: Nanos,
        owner: NodeId,
        number: u32,
        answer: Answer,
        copies: u8,
    ) {
        let Some(request) = self.determining.requests.get_mut(&number) else { return };
        if request.asked.map(|(asked, _)| asked) != Some(owner) {
            // Somebody else has been asked meanwhile, and has the last word.
            return;
        }
        let placed = |was_there| Outcome::Placed { owner, copies, was_there };
        match answer {
            Answer::Placed => self.finish(number, placed(false)),
            Answer::WasThere => self.finish(number, placed(true)),
            Answer::Full => self.finish(number, Outcome::Full { owner }),
            Answer::Busy => self.finish(number, Outcome::Busy { owner }),
            Answer::NotOwner => request.again = after(now, AGAIN),
        }
    }

    /// Lets a flow in that was determined, here or elsewhere. `there` is the flow as the node table has it.
    /// What is returned is to be put into the node table; if there is no room, call
    /// [`Self::handle_not_placed`].
    pub fn place(
        &mut self,
        now: Nanos,
        wish: Wish,
        record: FlowRecord,
        there: Option<FlowRecord>,
    ) -> Option<FlowRecord> {
        if self.check_own(record.bucket).is_err() {
            self.answer_wish(now, wish, Answer::NotOwner, 0);
            return None;
        }
        if self.determining.serving.len() >= MAX_REQUESTS {
            self.answer_wish(now, wish, Answer::Busy, 0);
            return None;
        }
        let slot = self.slot(record.bucket);
        // While a bucket is loading, entries of the common table are on their way into the node table.
        let loading = slot.state == BucketState::Loading;
        let known = self.table.get(record.bucket, &record.key);
        let alive = there.or(known.filter(|_| loading));
        let alive = alive.filter(|flow| !flow.state.phase.is_closed());
        let was_there = alive.is_some();
        let sequence = |flow: Option<FlowRecord>| flow.map_or(0, |flow| flow.state.sequence);
        let sequence = sequence(there).max(sequence(known)).wrapping_add(1);
        let state = FlowState { sequence, ..record.state };
        let placed = alive.unwrap_or(FlowRecord { epoch: slot.epoch, state, ..record });
        match self.tell_of(placed, was_there) {
            Ok(ticket) => {
                let until = after(now, COPYING);
                let serving = Serving { wish, record: placed, ticket, was_there, until };
                self.determining.serving.push(serving);
                there.filter(|_| was_there).is_none().then_some(placed)
            }
            Err(Refused::Full { .. }) => {
                self.answer_wish(now, wish, Answer::Full, 0);
                None
            }
            // Of a later epoch than this node's: the bucket is another's, who has told of the flow.
            Err(_) => {
                self.answer_wish(now, wish, Answer::NotOwner, 0);
                None
            }
        }
    }

    /// Has the peers told of a flow, also of one that they may know already.
    fn tell_of(&mut self, record: FlowRecord, was_there: bool) -> Result<Ticket, Refused> {
        match self.handle_beginning(record) {
            Err(Refused::Older { .. }) if was_there => {}
            result => return result,
        }
        let Some(slot) = self.table.find(record.bucket, &record.key) else {
            return Err(Refused::Unknown);
        };
        self.tell_changed(record.bucket, slot);
        Ok(self.ticket(record.bucket, slot))
    }

    /// The node table has no room for a flow that was to be let in.
    pub fn handle_not_placed(&mut self, now: Nanos, wish: Wish, record: &FlowRecord) {
        self.determining.serving.retain(|serving| serving.wish != wish);
        // Of a bucket that is loading the entry finds its way through user space.
        let _gone = self.handle_expired(record).is_ok();
        self.answer_wish(now, wish, Answer::Full, 0);
    }

    /// Answers those whose flows are known to all that can be told, or have waited long enough.
    fn answer_served(&mut self, now: Nanos) {
        let mut serving = std::mem::take(&mut self.determining.serving);
        let served: Vec<_> = serving
            .extract_if(.., |one| {
                let lost = self.check_own(one.record.bucket).is_err();
                lost || now >= one.until || self.is_committed(&one.ticket)
            })
            .collect();
        self.determining.serving = serving;
        for Serving { wish, record, ticket, was_there, .. } in served {
            let answer = match was_there {
                // The next owner has it, or will be asked to let it in.
                _ if self.check_own(record.bucket).is_err() => Answer::NotOwner,
                true => Answer::WasThere,
                false => Answer::Placed,
            };
            let copies = self.copies(&ticket);
            self.answer_wish(now, wish, answer, copies);
        }
    }

    fn answer_wish(&mut self, now: Nanos, wish: Wish, answer: Answer, copies: u8) {
        let Wish { from, number } = wish;
        if from == self.cluster.node() {
            return self.handle_answer(now, from, number, answer, copies);
        }
        // Whose stream has ended asks again.
        if let Some(peer) = self.peers.get_mut(usize::from(from.0))
            && peer.connection.is_some()
        {
            peer.outgoing.reply(Frame::Determined { number, answer, copies });
        }
    }
}
