//! Bucket lists while they are being changed.
//!
//! A list is kept in two parts: its head (owner and the successors that take their share) and its tail
//! (successors of last resort), so that whoever fills or moves within the head cannot put a drained
//! node before a fit one.
//!
//! Invariant: head and tail together name a node once.

use super::roster::Roster;
use super::{Change, Held};
use testudo_packet::bucket::{BucketId, NodeId};

/// The list of one bucket.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) bucket: BucketId,
    /// Owner first, then fit successors.
    pub(super) head: Vec<NodeId>,
    /// Successors of last resort.
    tail: Vec<NodeId>,
    /// Whether the list is to be changed: others only count for the evenness of the whole.
    pub(super) open: bool,
}

impl Row {
    /// An empty list.
    pub(super) fn empty(bucket: BucketId) -> Self {
        Self { bucket, head: Vec::new(), tail: Vec::new(), open: true }
    }

    /// A list without those that may no longer be named. Who acts stays first, whoever it is.
    fn kept(bucket: BucketId, held: &Held<'_>, roster: &Roster, length: usize) -> Self {
        let mut row = Self { open: false, ..Self::empty(bucket) };
        row.head.extend(held.owner);
        for &node in held.ranks.iter().filter(|&&node| Some(node) != held.owner) {
            let part = match () {
                () if roster.is_fit(node) => &mut row.head,
                () if roster.is_spare(node) => &mut row.tail,
                () => continue,
            };
            if !part.contains(&node) {
                part.push(node);
            }
        }
        row.head.truncate(length);
        row
    }

    /// Gives the bucket to `to`. The old owner succeeds next if it is fit, else last.
    pub(super) fn move_to(&mut self, to: NodeId, roster: &Roster) {
        self.head.retain(|&node| node != to);
        let old = self.head.first().copied();
        if let Some(old) = old.filter(|&old| !roster.is_fit(old)) {
            self.head.remove(0);
            if roster.is_spare(old) {
                self.tail.insert(0, old);
            }
        }
        self.head.insert(0, to);
        self.open = true;
    }

    /// The whole list, as long as asked and as there are nodes.
    pub(super) fn ranks(&self, length: usize, roster: &Roster) -> Vec<NodeId> {
        let named = self.head.iter().chain(&self.tail).copied();
        let mut ranks: Vec<_> = named.take(length).collect();
        for node in roster.spare() {
            if ranks.len() >= length {
                break;
            }
            if !ranks.contains(&node) {
                ranks.push(node);
            }
        }
        ranks
    }
}

/// The lists as they are, without those that may no longer be named, and no longer than asked.
pub(super) fn kept(lists: &[Held<'_>], roster: &Roster, length: usize) -> Vec<Row> {
    let row = |(bucket, held): (usize, &Held<'_>)| {
        let bucket = BucketId(u16::try_from(bucket).expect("no more buckets than MAX_BUCKETS"));
        Row::kept(bucket, held, roster, length)
    };
    lists.iter().enumerate().map(row).collect()
}

/// The changes that make `lists` what the open rows say. A list that nobody is left for is not changed.
pub(super) fn changes(
    rows: &[Row],
    lists: &[Held<'_>],
    roster: &Roster,
    length: usize,
) -> Vec<Change> {
    rows.iter()
        .filter(|row| row.open)
        .map(|row| Change { bucket: row.bucket, ranks: row.ranks(length, roster) })
        .filter(|change| {
            let old = lists.get(usize::from(change.bucket.0)).map_or(&[][..], |held| held.ranks);
            !change.ranks.is_empty() && change.ranks != old
        })
        .collect()
}
