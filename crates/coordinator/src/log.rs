//! What is on disk, as plain data: the log, who was voted for, and the machine's last snapshot.
//!
//! [`Stored`] says what a store has to do with a [`Batch`]: a real store that is opened again has to
//! give what [`Stored::write`] gives. The coordinator keeps one in memory as its view of the disk.
//!
//! Invariant: the entries follow on [`Stored::base`] without a hole, and the snapshot lies at the
//! base or after it, so that the snapshot and the entries behind it make the whole.

use std::collections::VecDeque;

use testudo_packet::bucket::NodeId;

use crate::wire::{DecodeError, Reader, Writer};

/// A place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Counts entries, from 1 on. 0 is before the first.
    pub index: u64,
    /// In which term the entry was proposed.
    pub term: u64,
}

/// What an entry does besides being handed to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Command,
    /// It gives a node a vote.
    AddVoter(NodeId),
    /// It takes a node's vote; the node still gets the log.
    RemoveVoter(NodeId),
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it stands.
    pub place: Place,
    /// What it does besides.
    pub kind: Kind,
    /// The command for the machine; empty where a leader began its term.
    pub command: Vec<u8>,
}

/// What a node has promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hard {
    /// The latest term that it knows.
    pub term: u64,
    /// Whom it voted for in that term.
    pub vote: Option<NodeId>,
    /// Up to where it knows the log to be agreed on.
    pub commit: u64,
}

/// A snapshot of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The last entry that is in it.
    pub place: Place,
    /// Who votes after it, sorted.
    pub voters: Vec<NodeId>,
    /// The machine.
    pub data: Vec<u8>,
}

/// What to write in one transaction. The parts take effect in the order of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Whether it has to survive a loss of power before it is reported as persisted. If not, it
    /// may get lost with one, but only as a whole and only together with all later ones.
    pub durable: bool,
    /// Replaces the snapshot.
    pub image: Option<Image>,
    /// Removes all entries.
    pub clear: bool,
    /// Removes the entries up to and with this one; the log begins after it.
    pub base: Option<Place>,
    /// Removes the entries from the first of these on, then appends these.
    pub entries: Vec<Record>,
    /// Replaces the promise.
    pub hard: Option<Hard>,
}

/// All that a store holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The promise.
    pub hard: Hard,
    /// The snapshot, if there was one.
    pub image: Option<Image>,
    /// What stands before the first entry.
    pub base: Place,
    /// The entries.
    pub entries: VecDeque<Record>,
}

impl Batch {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self { durable: _, image, clear, base, entries, hard } = self;
        image.is_none() && !clear && base.is_none() && entries.is_empty() && hard.is_none()
    }
}

impl Stored {
    /// Does what a store does with a batch.
    pub fn write(&mut self, batch: &Batch) {
        if let Some(image) = &batch.image {
            self.image = Some(image.clone());
        }
        if batch.clear {
            self.entries.clear();
        }
        if let Some(base) = batch.base {
            self.base = base;
            while self.entries.front().is_some_and(|entry| entry.place.index <= base.index) {
                self.entries.pop_front();
            }
        }
        if let Some(first) = batch.entries.first() {
            while self.entries.back().is_some_and(|e| e.place.index >= first.place.index) {
                self.entries.pop_back();
            }
            self.entries.extend(batch.entries.iter().cloned());
        }
        if let Some(hard) = batch.hard {
            self.hard = hard;
        }
    }

    /// The last entry's place, or the base.
    #[must_use]
    pub fn last(&self) -> Place {
        self.entries.back().map_or(self.base, |entry| entry.place)
    }

    /// Whether it is as a store on its first start.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Why this can't be what a coordinator wrote, if it can't.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let indices = self.entries.iter().map(|entry| entry.place.index);
        let hole = (self.base.index + 1..).zip(indices).find(|(expected, seen)| expected != seen);
        if let Some((expected, seen)) = hole {
            return Some(format!("entry {seen} stands where {expected} was expected"));
        }
        let (last, Hard { commit, .. }) = (self.last().index, self.hard);
        if commit > last {
            return Some(format!("agreed up to {commit}, but the log ends at {last}"));
        }
        let image = self.image.as_ref().map_or(0, |image| image.place.index);
        if image < self.base.index || image > last {
            let base = self.base.index;
            return Some(format!("the snapshot is at {image}, the log from {base} to {last}"));
        }
        if image > commit {
            return Some(format!("the snapshot is at {image}, but agreed up to {commit} only"));
        }
        None
    }
}

impl Record {
    pub(crate) fn put(&self, out: &mut Writer) {
        let (kind, node) = match self.kind {
            Kind::Command => (0, 0),
            Kind::AddVoter(node) => (1, node.0),
            Kind::RemoveVoter(node) => (2, node.0),
        };
        out.u64(self.place.index);
        out.u64(self.place.term);
        out.u8(kind);
        out.u8(node);
        out.blob(&self.command);
    }

    pub(crate) fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let place = Place { index: from.u64()?, term: from.u64()? };
        let kind = match (from.u8()?, from.u8()?) {
            (0, 0) => Kind::Command,
            (1, node) if NodeId(node) != NodeId::NONE => Kind::AddVoter(NodeId(node)),
            (2, node) if NodeId(node) != NodeId::NONE => Kind::RemoveVoter(NodeId(node)),
            (seen, _) => {
                let expected = "0 without a node, or 1 or 2 with one";
                return Err(DecodeError::Value { field: "kind", seen: seen.into(), expected });
            }
        };
        Ok(Self { place, kind, command: from.blob()?.to_vec() })
    }

    /// The entry as bytes, for a store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.put(&mut out);
        out.0
    }

    /// The entry that bytes stand for.
    ///
    /// # Errors
    ///
    /// Why they stand for none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let record = Self::take(&mut from)?;
        from.end()?;
        Ok(record)
    }
}

impl Hard {
    /// The promise as bytes, for a store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.u64(self.term);
        out.u8(self.vote.unwrap_or(NodeId::NONE).0);
        out.u64(self.commit);
        out.0
    }

    /// The promise that bytes stand for.
    ///
    /// # Errors
    ///
    /// Why they stand for none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let (term, vote, commit) = (from.u64()?, NodeId(from.u8()?), from.u64()?);
        from.end()?;
        Ok(Self { term, vote: (vote != NodeId::NONE).then_some(vote), commit })
    }
}

impl Image {
    pub(crate) fn put(&self, out: &mut Writer) {
        out.u64(self.place.index);
        out.u64(self.place.term);
        out.nodes(&self.voters);
        out.blob(&self.data);
    }

    pub(crate) fn take(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            place: Place { index: from.u64()?, term: from.u64()? },
            voters: from.nodes()?,
            data: from.blob()?.to_vec(),
        })
    }

    /// The snapshot as bytes, for a store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.put(&mut out);
        out.0
    }

    /// The snapshot that bytes stand for.
    ///
    /// # Errors
    ///
    /// Why they stand for none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let image = Self::take(&mut from)?;
        from.end()?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(index: u64, term: u64) -> Record {
        Record { place: Place { index, term }, kind: Kind::Command, command: vec![7] }
    }

    #[test]
    fn a_batch_takes_effect_part_by_part() {
        let mut stored = Stored::default();
        let entries = (1..=6).map(|index| record(index, 1)).collect();
        let hard = Hard { term: 1, vote: Some(NodeId(0)), commit: 4 };
        stored.write(&Batch { entries, hard: Some(hard), ..Batch::default() });
        let image = Image { place: Place { index: 4, term: 1 }, voters: vec![], data: vec![] };
        let base = Some(Place { index: 2, term: 1 });
        let entries = vec![record(5, 2)];
        stored.write(&Batch { image: Some(image), base, entries, ..Batch::default() });
        let places: Vec<u64> = stored.entries.iter().map(|e| e.place.index).collect();
        assert_eq!((places, stored.last().term), (vec![3, 4, 5], 2));
        assert_eq!((stored.hard, stored.fault()), (hard, None));
        stored.write(&Batch { clear: true, ..Batch::default() });
        assert_eq!(stored.last(), stored.base);
        assert!(stored.fault().is_some(), "agreed up to where nothing is");
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for kind in [Kind::Command, Kind::AddVoter(NodeId(0)), Kind::RemoveVoter(NodeId(254))] {
            let record = Record { kind, ..record(3, 2) };
            assert_eq!(Record::decode(&record.encode()), Ok(record));
        }
        for vote in [None, Some(NodeId(0))] {
            let hard = Hard { term: 5, vote, commit: 9 };
            assert_eq!(Hard::decode(&hard.encode()), Ok(hard));
        }
        let voters = vec![NodeId(1), NodeId(3)];
        let image = Image { place: Place { index: 4, term: 1 }, voters, data: vec![1, 2] };
        assert_eq!(Image::decode(&image.encode()), Ok(image.clone()));
        let mut unsorted = image.encode();
        unsorted.swap(20, 21);
        assert!(matches!(Image::decode(&unsorted), Err(DecodeError::Value { .. })));
        let mut nobody = Record { kind: Kind::AddVoter(NodeId(0)), ..record(3, 2) }.encode();
        nobody[17] = 255;
        assert!(matches!(Record::decode(&nobody), Err(DecodeError::Value { .. })));
    }
}
