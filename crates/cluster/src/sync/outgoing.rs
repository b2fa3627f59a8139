//! What a peer still has to be told.
//!
//! A changed flow is noted by its slot in the table and looked up when its turn comes, so what is sent
//! is always its latest state, and a flow that changes a hundred times before that is sent once. A
//! flow that is gone is noted by its last record. Gone flows go first: a key that is used again must
//! not meet the remains of its earlier life.
//!
//! A peer is made complete by bucket: the owner sends count and digest, and only if the peer's
//! differ, all records. So a takeover costs no traffic for what the peers already agree on.
//! Count and digest go only when nothing else waits: then all that makes them up has been told, and equal
//! tables compare equal, however busy the bucket is. A peer that never catches up is never compared
//! with; its lag says so.
//!
//! All of a bucket takes its turn with the changes, so neither keeps the other waiting.
//!
//! A flow of which the peer knows by its slot's number is told of by that number. It may be another
//! flow's as soon as the flow is gone, so all flows that have left are told of before any flow gets a
//! number: changes and snapshots wait for that.
//!
//! A bucket that is handed over is released behind all changes that were noted before: the next owner
//! then has all of it.
//!
//! Bounds: letters, `MAX_LETTER_FRAMES`; answers to what the peer asks, `MAX_REPLIES`; changed flows, one entry a slot of the table; gone flows, the
//! table's capacity; references that lead nowhere, `MAX_FORGOTTEN`, beyond which they are told of when
//! they are used again. If more
//! flows go than that before the peer takes them, all notes are dropped, and all buckets are checked
//! instead.

use super::commits::Commits;
use super::comparing::{Comparing, Finding, Verdict};
use super::frame::{FRAME_BYTES, Frame, HANDLED, LETTER};
use super::handshake::Format;
use super::lag::{Delays, Lag, Noted};
use super::layout::Item;
use super::references::Reference;
use super::runs::{MOST_ADDED, Runs};
use crate::bits::Bits;
use crate::common_table::{CommonTable, SlotId};
use crate::map::Version;
use std::collections::{BTreeMap, VecDeque};
use testudo_packet::bucket::{BucketId, BucketSlot, Epoch, Nanos, NodeId};
use testudo_packet::entry::{FlowRecord, FlowState};

/// Small numbers, in the order in which they were put in, each at most once.
#[derive(Debug, Default)]
struct UniqueQueue {
    queue: VecDeque<u32>,
    member: Bits,
    /// How many were ever put in, and taken out.
    pushed: u64,
    popped: u64,
}

impl UniqueQueue {
    /// Says whether it was not in already.
    fn push(&mut self, number: u32) -> bool {
        let new = self.member.insert(number);
        if new {
            self.queue.push_back(number);
            self.pushed += 1;
        }
        new
    }

    fn pop(&mut self) -> Option<u32> {
        let number = self.queue.pop_front()?;
        self.popped += 1;
        self.member.remove(number);
        Some(number)
    }

    fn pop_bucket(&mut self) -> Option<BucketId> {
        self.pop().map(|number| BucketId(number as u16))
    }

    fn contains(&self, number: u32) -> bool {
        self.member.contains(number)
    }

    fn len(&self) -> usize {
        self.queue.len()
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.popped = self.pushed;
        self.member.clear();
    }
}

#[derive(Debug)]
struct Snapshot {
    bucket: BucketId,
    /// What is still to be sent, last first.
    rest: Vec<SlotId>,
    sent: u32,
}

/// The frames that let a bucket go, behind the changes that were noted before it.
#[derive(Debug)]
struct Mark {
    after: u64,
    bucket: BucketId,
    since: Version,
    frames: VecDeque<Frame>,
}

/// The most frames of letters that wait for a peer: a whole map of the largest cluster, and some.
pub(crate) const MAX_LETTER_FRAMES: usize = 1 << 15;

/// The most short messages that wait for a peer before an answer to it is left out. More than there are
/// requests and buckets: only who asks and does not read comes to that.
const MAX_REPLIES: usize = 1 << 17;

/// The most references that wait to be called forgotten.
const MAX_FORGOTTEN: usize = 1 << 16;

/// A flow that is gone, of which the peer knows by a reference.
#[derive(Debug)]
struct Departure {
    reference: Reference,
    bucket: BucketId,
    /// In which its last state was written.
    epoch: Epoch,
}

/// What is told next. A flow that is there comes with its slot.
enum Next {
    Frame(Frame),
    Departure(Departure),
    Upsert(SlotId, FlowRecord),
    Snapshot(SlotId, FlowRecord),
    Forgotten(Reference),
}

/// What one peer still has to be told.
#[derive(Debug, Default)]
pub(crate) struct Outgoing {
    /// Frames in the making, if the peer takes them in runs.
    runs: Option<Box<Runs>>,
    letters: VecDeque<Frame>,
    /// Short messages about moves, sent before all else.
    urgent: VecDeque<Frame>,
    marks: VecDeque<Mark>,
    /// Buckets whose last frame is on its way, with the number of that frame.
    on_the_way: VecDeque<(BucketId, Version, u64)>,
    gone: VecDeque<FlowRecord>,
    departures: VecDeque<Departure>,
    /// How many of both were ever put in, and taken out.
    gone_pushed: u64,
    gone_popped: u64,
    /// References of the peer's that lead nowhere.
    forgotten: UniqueQueue,
    changed: UniqueQueue,
    checks: UniqueQueue,
    wants: UniqueQueue,
    wanted: UniqueQueue,
    snapshot: Option<Snapshot>,
    turn: u8,
    sent: u64,
    acknowledged: u64,
    resyncs: u64,
    coalesced: u64,
    comparing: Comparing,
    /// Whether the peer says what a comparison has come to. Of the version before, it asks for what
    /// differs, and says nothing else.
    is_answered: bool,
    lag: Lag,
    commits: Commits,
}

/// Whose table and buckets frames are made of, and for whom.
pub(crate) struct Source<'a> {
    pub(crate) me: NodeId,
    pub(crate) peer: NodeId,
    pub(crate) table: &'a mut CommonTable,
    pub(crate) slots: &'a [BucketSlot],
    /// Buckets that are let go, of which this node still has to tell, with the slots that they had.
    pub(crate) leaving: &'a BTreeMap<BucketId, BucketSlot>,
}

impl Source<'_> {
    fn owned(&self, bucket: BucketId) -> Option<&BucketSlot> {
        let slot = self.slots.get(usize::from(bucket.0))?;
        // It is told under the epoch that it was this node's in, which is the one that counts there.
        let own = (slot.owner == self.me).then_some(slot);
        own.or_else(|| self.leaving.get(&bucket))
    }

    /// The reference by which the peer knows the flow in a slot from now on.
    fn refer(&mut self, slot: SlotId, bucket: BucketId) -> Option<Reference> {
        let reference = Reference::new(slot.0)?;
        self.table.tell(self.peer, bucket, slot);
        Some(reference)
    }
}

/// While flows change, one frame of this many is a snapshot's, so that both get on.
const SNAPSHOT_SHARE: u8 = 4;

impl Outgoing {
    /// For a stream that has just been opened.
    pub(crate) fn new(format: Format) -> Self {
        let runs = (format == Format::Runs).then(Box::default);
        Self { is_answered: runs.is_some(), runs, ..Self::default() }
    }

    /// A flow has changed.
    pub(crate) fn change(&mut self, slot: SlotId) {
        self.coalesced += u64::from(!self.changed.push(slot.0));
    }

    /// Somebody waits for the peer to have handled the last change of the flow in a slot. Gives its place;
    /// `None` if the peer is not to be told of it.
    pub(crate) fn want_acknowledged(&mut self, slot: SlotId) -> Option<u64> {
        let place = self.changed.contains(slot.0).then_some(self.changed.pushed)?;
        self.commits.want(place);
        Some(place)
    }

    /// Whether the peer has handled the change of this place.
    pub(crate) fn is_acknowledged(&self, place: u64) -> bool {
        self.commits.is_reached(place)
    }

    /// A flow is gone; the peer knows it by a reference, or does not. Says whether there was room to
    /// note it; if not, all notes are dropped, and the caller has all buckets checked.
    #[must_use]
    pub(crate) fn remove(
        &mut self,
        record: FlowRecord,
        reference: Option<Reference>,
        capacity: usize,
    ) -> bool {
        if self.gone.len() + self.departures.len() < capacity {
            match reference {
                Some(reference) => {
                    let FlowRecord { bucket, epoch, .. } = record;
                    self.departures.push_back(Departure { reference, bucket, epoch });
                }
                None => self.gone.push_back(record),
            }
            self.gone_pushed += 1;
            return true;
        }
        self.gone.clear();
        self.departures.clear();
        self.gone_popped = self.gone_pushed;
        self.changed.clear();
        self.commits.dropped(self.changed.pushed);
        self.resyncs += 1;
        false
    }

    /// The peer has used a reference that leads nowhere.
    pub(crate) fn forgotten(&mut self, reference: Reference) {
        if self.forgotten.len() < MAX_FORGOTTEN {
            self.forgotten.push(reference.number());
        }
    }

    /// The peer's copy of a bucket may differ.
    pub(crate) fn check(&mut self, bucket: BucketId) {
        self.comparing.doubt(bucket);
        self.compare(bucket);
    }

    /// The peer's copy of a bucket is to be compared, though nothing says that it may differ.
    pub(crate) fn compare(&mut self, bucket: BucketId) {
        self.checks.push(u32::from(bucket.0));
    }

    /// Whether a comparison of a bucket is under way.
    pub(crate) fn is_comparing(&self, bucket: BucketId) -> bool {
        self.checks.contains(u32::from(bucket.0)) || self.comparing.is_asked(bucket)
    }

    /// This node owes the peer an answer to the check in its frame of this number.
    pub(crate) fn answer(&mut self, bucket: BucketId, frame: u64, verdict: Verdict) {
        self.comparing.answer(bucket, frame, verdict);
    }

    /// The peer has answered a check.
    pub(crate) fn judge(
        &mut self,
        now: Nanos,
        bucket: BucketId,
        frame: u64,
        verdict: Verdict,
    ) -> Finding {
        self.comparing.judge(now, bucket, frame, verdict)
    }

    /// This node's copy of a bucket differs from the peer's.
    pub(crate) fn want(&mut self, bucket: BucketId) {
        self.wants.push(u32::from(bucket.0));
    }

    /// The peer wants all of a bucket.
    pub(crate) fn wanted(&mut self, bucket: BucketId) {
        self.wanted.push(u32::from(bucket.0));
    }

    /// Tells the peer something about a move; gives the number that its frame will have.
    pub(crate) fn tell(&mut self, frame: Frame) -> u64 {
        self.urgent.push_back(frame);
        self.sent + self.urgent.len() as u64
    }

    /// As [`Self::tell`], of what the peer has caused itself, as often as it likes: if it does not read its
    /// answers, there are no more of them.
    pub(crate) fn reply(&mut self, frame: Frame) {
        if self.urgent.len() < MAX_REPLIES {
            self.urgent.push_back(frame);
        }
    }

    /// Lets a bucket go, behind all that was noted before: these packets of it were handled.
    pub(crate) fn release(&mut self, bucket: BucketId, since: Version, packets: &[u64]) {
        let mut frames: VecDeque<_> = packets
            .chunks(HANDLED)
            .map(|chunk| {
                let mut packets = [0; HANDLED];
                packets[..chunk.len()].copy_from_slice(chunk);
                Frame::Handled { bucket, count: chunk.len() as u8, packets }
            })
            .collect();
        frames.push_back(Frame::Released { bucket, since });
        self.marks.push_back(Mark { after: self.changed.pushed, bucket, since, frames });
    }

    /// Puts a letter in line; `false` if there is no room for it, and it is lost.
    #[must_use]
    pub(crate) fn letter(&mut self, bytes: &[u8]) -> bool {
        let count = bytes.len().div_ceil(LETTER).max(1);
        if self.letters.len() + count > MAX_LETTER_FRAMES {
            return false;
        }
        for index in 0..count {
            let part = &bytes[index * LETTER..bytes.len().min((index + 1) * LETTER)];
            let mut bytes = [0; LETTER];
            bytes[..part.len()].copy_from_slice(part);
            let (length, last) = (part.len() as u8, index + 1 == count);
            self.letters.push_back(Frame::Letter { length, last, bytes });
        }
        true
    }

    /// The next bucket whose release the peer is known to have handled.
    pub(crate) fn poll_delivered(&mut self) -> Option<(BucketId, Version)> {
        let &(bucket, since, frame) = self.on_the_way.front()?;
        if frame > self.acknowledged {
            return None;
        }
        self.on_the_way.pop_front();
        Some((bucket, since))
    }

    /// The peer has handled so many frames; `false` if that is more than were sent.
    #[must_use]
    pub(crate) fn acknowledge(&mut self, now: Nanos, frames: u64, delays: &mut Delays) -> bool {
        let plausible = (self.acknowledged..=self.sent).contains(&frames);
        if plausible {
            self.acknowledged = frames;
            self.commits.acknowledged(frames);
            self.lag.acknowledged(now, frames, delays);
        }
        plausible
    }

    /// Takes note of when the changes were noted that are new.
    pub(crate) fn stamp(&mut self, now: Nanos) {
        self.lag.stamp(now, Noted { changed: self.changed.pushed, gone: self.gone_pushed });
    }

    /// Since when the oldest change waits for the peer's word.
    pub(crate) fn oldest(&self) -> Option<Nanos> {
        self.lag.oldest()
    }

    pub(crate) fn coalesced(&self) -> u64 {
        self.coalesced
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    pub(crate) fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// How much is not known to have been handled by the peer.
    pub(crate) fn pending(&self) -> u64 {
        let queues = [&self.changed, &self.checks, &self.wants, &self.wanted, &self.forgotten];
        let queued: usize = queues.iter().map(|queue| queue.len()).sum();
        let snapshot = self.snapshot.as_ref().map_or(0, |snapshot| snapshot.rest.len() + 1);
        let moves = self.urgent.len() + self.marks.len();
        let gone = self.gone.len() + self.departures.len();
        let answers = self.comparing.answers();
        (gone + queued + snapshot + moves + answers) as u64 + self.sent - self.acknowledged
    }

    /// Appends frames until there are none or `out` would be longer than `max`.
    pub(crate) fn transmit(&mut self, mut source: Source<'_>, out: &mut Vec<u8>, max: usize) {
        let Some(mut runs) = self.runs.take() else {
            return self.transmit_frames(&mut source, out, max);
        };
        while out.len() + runs.waiting() + MOST_ADDED <= max {
            let Some(next) = self.next(&mut source) else { break };
            put(&mut runs, next, &mut source, out);
            self.sent += 1;
        }
        runs.flush(out);
        self.runs = Some(runs);
        self.note_sent();
    }

    /// As [`Self::transmit`], to a peer of the version before.
    fn transmit_frames(&mut self, source: &mut Source<'_>, out: &mut Vec<u8>, max: usize) {
        while out.len() + FRAME_BYTES <= max {
            let frame = match self.next(source) {
                // Builds that speak no later version do not know it.
                Some(Next::Frame(
                    Frame::Compared { .. } | Frame::Determine { .. } | Frame::Determined { .. },
                )) => continue,
                Some(Next::Frame(frame)) => frame,
                Some(Next::Upsert(_, record)) => Frame::Upsert(record),
                Some(Next::Snapshot(_, record)) => Frame::Snapshot(record),
                // Such a peer knows no references, and uses none.
                Some(Next::Departure(_) | Next::Forgotten(_)) => continue,
                None => break,
            };
            frame.encode(out);
            self.sent += 1;
        }
        self.note_sent();
    }

    /// What has left the queues by now is in what was sent by now.
    fn note_sent(&mut self) {
        let sent = Noted { changed: self.changed.popped, gone: self.gone_popped };
        self.lag.sent(sent, self.sent);
        self.commits.sent(self.changed.popped, self.sent);
    }

    fn next(&mut self, source: &mut Source<'_>) -> Option<Next> {
        if let Some(frame) = self.urgent.pop_front().or_else(|| self.letters.pop_front()) {
            return Some(Next::Frame(frame));
        }
        // An answer goes ahead of the wish that follows from it.
        if let Some((bucket, check, verdict)) = self.comparing.next_answer() {
            return Some(Next::Frame(Frame::Compared { bucket, check, verdict }));
        }
        self.turn = (self.turn + 1) % SNAPSHOT_SHARE;
        if let Some(bucket) = self.wants.pop_bucket() {
            return Some(Next::Frame(Frame::Want { bucket }));
        }
        if let Some(reference) = self.forgotten.pop().and_then(Reference::new) {
            return Some(Next::Forgotten(reference));
        }
        // Before anything that a number could be used again for.
        if let Some(departure) = self.departures.pop_front() {
            self.gone_popped += 1;
            return Some(Next::Departure(departure));
        }
        if self.turn == 0
            && let Some(next) = self.next_of_snapshot(source)
        {
            return Some(next);
        }
        if let Some(record) = self.gone.pop_front() {
            self.gone_popped += 1;
            return Some(Next::Frame(Frame::Remove(record)));
        }
        if let Some(frame) = self.next_of_mark() {
            return Some(Next::Frame(frame));
        }
        while let Some(slot) = self.changed.pop().map(SlotId) {
            // What is gone meanwhile, or not this node's to tell of any more, is skipped.
            let record = source.table.at(slot);
            if let Some(record) = record.filter(|record| source.owned(record.bucket).is_some()) {
                return Some(Next::Upsert(slot, record));
            }
            if let Some(frame) = self.next_of_mark() {
                return Some(Next::Frame(frame));
            }
        }
        if let Some(next) = self.next_of_snapshot(source) {
            return Some(next);
        }
        while let Some(bucket) = self.checks.pop_bucket() {
            if let Some(slot) = source.owned(bucket) {
                let (digest, count) =
                    (source.table.bucket_digest(bucket), source.table.count(bucket));
                let epoch = slot.epoch;
                if self.is_answered {
                    self.comparing.ask(bucket, self.sent + 1);
                }
                return Some(Next::Frame(Frame::Check { bucket, epoch, digest, count }));
            }
        }
        None
    }

    /// A frame of a bucket that is let go, once all changes before it have been sent.
    fn next_of_mark(&mut self) -> Option<Frame> {
        let mark = self.marks.front_mut().filter(|mark| mark.after <= self.changed.popped)?;
        let frame = mark.frames.pop_front()?;
        if mark.frames.is_empty() {
            self.on_the_way.push_back((mark.bucket, mark.since, self.sent + 1));
            self.marks.pop_front();
        }
        Some(frame)
    }

    fn next_of_snapshot(&mut self, source: &Source<'_>) -> Option<Next> {
        let Some(snapshot) = &mut self.snapshot else { return self.begin_snapshot(source) };
        let bucket = snapshot.bucket;
        while let Some(slot) = snapshot.rest.pop() {
            if let Some(record) = source.table.at(slot).filter(|record| record.bucket == bucket) {
                snapshot.sent += 1;
                return Some(Next::Snapshot(slot, record));
            }
        }
        let sent = snapshot.sent;
        self.snapshot = None;
        if self.comparing.note_sent(bucket, sent) && self.is_answered {
            self.compare(bucket);
        }
        Some(Next::Frame(Frame::End { bucket }))
    }

    fn begin_snapshot(&mut self, source: &Source<'_>) -> Option<Next> {
        while let Some(bucket) = self.wanted.pop_bucket() {
            if let Some(slot) = source.owned(bucket) {
                let rest = source.table.bucket_slots(bucket).collect();
                self.snapshot = Some(Snapshot { bucket, rest, sent: 0 });
                return Some(Next::Frame(Frame::Begin { bucket, epoch: slot.epoch }));
            }
        }
        None
    }
}

/// Puts what is told next into a run.
fn put(runs: &mut Runs, next: Next, source: &mut Source<'_>, out: &mut Vec<u8>) {
    let item = match next {
        Next::Frame(frame) => {
            if let Frame::Begin { bucket, epoch } = frame {
                runs.note_epoch(bucket, epoch);
            }
            Item::Frame(frame)
        }
        Next::Forgotten(reference) => Item::Forgotten { reference },
        Next::Departure(Departure { reference, bucket, epoch }) => {
            // A later one is as good: it is this node's word in any case.
            if runs.epoch(bucket) < Some(epoch) {
                runs.set_epoch(bucket, epoch, out);
            }
            Item::Leave { reference }
        }
        Next::Upsert(slot, record) => {
            runs.set_epoch(record.bucket, record.epoch, out);
            let reference = Reference::new(slot.0);
            match reference.filter(|_| source.table.is_told(source.peer, slot)) {
                Some(reference) => {
                    let FlowState { phase, confirmed, sequence, .. } = record.state;
                    Item::Change { reference, phase, confirmed, sequence }
                }
                None => Item::Introduce { reference: source.refer(slot, record.bucket), record },
            }
        }
        Next::Snapshot(slot, record) => {
            Item::Snapshot { reference: source.refer(slot, record.bucket), record }
        }
    };
    runs.put(&item, out);
}
#[cfg(test)]
mod tests;
