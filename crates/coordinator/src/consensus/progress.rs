//! What follows from an input: batches to write, messages to send, commands to apply, logs to cut.
//!
//! The library hands out its work piece by piece (`Ready`), and wants each dealt with before it sees
//! another input. At most one batch is under way; the rest of the work waits inside the library.

use raft::eraftpb::{Message, MessageType};
use raft::{Ready, SnapshotStatus};
use testudo_packet::bucket::NodeId;

use super::{Raft, Unwritten, decide};
use crate::convert::{self, node_id};
use crate::log::{Batch, Image, Kind, Place, Record};
use crate::message::{self, Parcel};
use crate::settings::Settings;
use crate::wire::DecodeError;
use crate::{Output, StateMachine, Ticket};

/// A peer's message, if it is one.
pub fn read(bytes: &[u8], from: NodeId, settings: &Settings) -> Result<Parcel, DecodeError> {
    let (length, max) = (bytes.len(), settings.max_message);
    if length > max {
        return Err(DecodeError::TooLong { length, max });
    }
    message::decode(bytes, from, settings.node, &settings.nodes)
}

impl<M: StateMachine> Raft<M> {
    /// Does all that can be done until the next input, or until a batch is on disk.
    pub(super) fn proceed(&mut self) {
        while self.unwritten.is_none() {
            if self.raw.has_ready() {
                let ready = self.raw.ready();
                self.work_off(ready);
            } else if self.has_no_vote_to_lead() {
                let term = self.term();
                self.raw.raft.become_follower(term, raft::INVALID_ID);
                self.settle_timeout();
            } else if let Some(message) = self.inbox.pop_front() {
                self.take(message);
            } else if !self.cut_log() {
                break;
            }
        }
    }

    /// The library lets a leader lead on that has lost its vote.
    fn has_no_vote_to_lead(&self) -> bool {
        self.is_leader() && !self.library().promotable()
    }

    fn take(&mut self, message: Message) {
        // What was possible when it came may no longer be, after it has waited for the disk.
        if self.fault(&message).is_some() {
            return;
        }
        if message.get_msg_type() == MessageType::MsgPropose {
            let kind = convert::record(&message.entries[0]).kind;
            if self.gives_way(kind).is_some() {
                self.settle_timeout();
                return;
            }
        }
        self.step(message);
    }

    fn work_off(&mut self, mut ready: Ready) {
        self.send(ready.take_messages());
        let messages = ready.take_persisted_messages();
        let image = (!ready.snapshot().is_empty()).then(|| convert::image(ready.snapshot()));
        let batch = Batch {
            durable: ready.must_sync(),
            clear: image.is_some(),
            base: image.as_ref().map(|image| image.place),
            image: image.clone(),
            entries: ready.entries().iter().map(convert::record).collect(),
            hard: ready.hs().map(convert::hard),
        };
        let committed = ready.take_committed_entries();
        let ticket = Ticket(ready.number());
        self.raw.mut_store().write(&batch);
        self.raw.advance_append_async(ready);
        self.apply_all(committed.iter().map(convert::record));
        let unwritten = Unwritten { ticket, of_library: true, messages, image };
        if batch.is_empty() {
            self.written(unwritten);
        } else {
            self.unwritten = Some(unwritten);
            self.output(Output::Persist { ticket, batch });
        }
        self.settle_timeout();
    }

    /// What had to wait for a batch.
    pub(super) fn written(&mut self, written: Unwritten) {
        if written.of_library {
            self.raw.on_persist_ready(written.ticket.0);
        }
        if let Some(image) = written.image {
            self.machine.restore(&image.data).expect("checked when the message came");
            self.raw.advance_apply_to(image.place.index);
            self.counters.restored += 1;
            self.changed = true;
        }
        self.send(written.messages);
        self.settle_timeout();
    }

    fn send(&mut self, messages: Vec<Message>) {
        for message in messages {
            let (Some(to), Some(bytes)) = (node_id(message.to), message::encode(&message)) else {
                continue;
            };
            self.output(Output::Send { to, bytes });
            // Whether it arrives shows in the answers to the entries that follow.
            if message.get_msg_type() == MessageType::MsgSnapshot {
                self.raw.report_snapshot(message.to, SnapshotStatus::Finish);
            }
        }
    }

    fn apply_all(&mut self, records: impl Iterator<Item = Record>) {
        let mut last = None;
        for record in records {
            last = Some(record.place.index);
            // A leader begins its term with an empty entry.
            if !record.command.is_empty() {
                self.apply(&record);
            }
        }
        if let Some(index) = last {
            self.raw.advance_apply_to(index);
        }
    }

    fn apply(&mut self, record: &Record) {
        match decide::applied(&self.machine, record, &self.settings) {
            Ok(next) => {
                self.machine = next;
                self.changed = true;
                if let Some(change) = convert::conf_change(record.kind) {
                    let state = self.raw.apply_conf_change(&change);
                    let state = state.expect("one node gets a vote or loses it, and one stays");
                    debug_assert_eq!(state.voters.len(), self.machine.voters().len());
                }
            }
            Err(why) => {
                let what = match record.kind {
                    Kind::Command => "a command",
                    _ => "a change of voters",
                };
                let Place { index, term } = record.place;
                let why = format!("{what} at {index} of term {term} is refused: {why}");
                self.output(Output::Refused { why });
            }
        }
    }

    /// Makes a snapshot and lets go of entries, if there are enough; says whether it did.
    fn cut_log(&mut self) -> bool {
        let stored = self.raw.store().stored();
        let keep = self.settings.snapshot_after;
        let applied = self.applied();
        let image_at = stored.image.as_ref().map_or(0, |image| image.place.index);
        if applied < stored.base.index + 2 * keep || applied <= image_at {
            return false;
        }
        let place = |index| Place {
            index,
            term: self.library().raft_log.term(index).expect("applied and not yet cut"),
        };
        let image = Image {
            place: place(applied),
            voters: self.machine.voters(),
            data: self.machine.encode(),
        };
        let batch = Batch {
            durable: true,
            image: Some(image),
            base: Some(place(applied - keep)),
            hard: Some(convert::hard(&self.library().hard_state())),
            ..Batch::default()
        };
        self.raw.mut_store().write(&batch);
        self.counters.snapshots += 1;
        // Beyond the library's numbers, which count up to it.
        let ticket = Ticket(u64::MAX - self.counters.snapshots);
        let unwritten = Unwritten { ticket, of_library: false, messages: Vec::new(), image: None };
        self.unwritten = Some(unwritten);
        self.output(Output::Persist { ticket, batch });
        true
    }
}
