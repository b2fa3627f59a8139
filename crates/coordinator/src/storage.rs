//! The log as the library reads it: from memory, where a copy of all that is on disk is kept.
//!
//! Memory is bounded because the log is: snapshots cut it. So reading needs no I/O and can't fail.

use raft::eraftpb::{Entry, Snapshot};
use raft::{GetEntriesContext, RaftState, Result, Storage, StorageError};
use testudo_packet::bucket::NodeId;

use crate::convert;
use crate::log::{Batch, Stored};

pub struct Log {
    stored: Stored,
    nodes: Vec<NodeId>,
    /// Who votes before the first command.
    first_voters: Vec<NodeId>,
}

impl Log {
    pub fn new(stored: Stored, nodes: Vec<NodeId>, first_voters: Vec<NodeId>) -> Self {
        Self { stored, nodes, first_voters }
    }

    pub fn write(&mut self, batch: &Batch) {
        self.stored.write(batch);
    }

    pub fn stored(&self) -> &Stored {
        &self.stored
    }

    /// The position of an index among the entries, which may be one past the last.
    fn offset(&self, index: u64) -> Result<usize> {
        let first = self.stored.base.index + 1;
        let offset = index.checked_sub(first).ok_or(StorageError::Compacted)?;
        let offset = usize::try_from(offset).unwrap_or(usize::MAX);
        if offset > self.stored.entries.len() {
            return Err(StorageError::Unavailable.into());
        }
        Ok(offset)
    }
}

impl Storage for Log {
    fn initial_state(&self) -> Result<RaftState> {
        let voters = self.stored.image.as_ref().map_or(&self.first_voters, |image| &image.voters);
        let conf_state = convert::conf_state(&self.nodes, voters);
        Ok(RaftState { hard_state: convert::hard_state(&self.stored.hard), conf_state })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> Result<Vec<Entry>> {
        let range = self.offset(low)?..self.offset(high)?;
        let mut entries = self.stored.entries.range(range).map(convert::entry).collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index == self.stored.base.index {
            return Ok(self.stored.base.term);
        }
        let entry = self.stored.entries.get(self.offset(index)?);
        entry.map(|entry| entry.place.term).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.stored.base.index + 1)
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.stored.last().index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        match &self.stored.image {
            Some(image) if image.place.index >= request_index => {
                Ok(convert::snapshot(&self.nodes, image))
            }
            _ => Err(StorageError::SnapshotTemporarilyUnavailable.into()),
        }
    }
}
