//! Which translated flow a reply belongs to: its key is not the flow's reversed.
//!
//! Invariant: the keys are those of the replies of all translated flows in the table, and lead to their slots; each flow has
//! its own. An owner gives a flow no replies that another one has, so its word of them says that the other one is gone. A
//! copy may have missed that: its stream was down when the flow ended, and what is new is told before buckets are
//! compared. If the copy kept both and took the bucket over meanwhile, its node table would let in whichever it met first, and
//! the replies of the one that lives could go to the one that is gone. So the later one has them, and the table takes the
//! earlier one out.

use std::collections::HashMap;

use super::slots::SlotId;
use testudo_packet::bucket::BucketId;
use testudo_packet::entry::FlowRecord;
use testudo_packet::flow::FlowKey;

/// Keys of replies.
#[derive(Debug, Default)]
pub(super) struct Replies(HashMap<(BucketId, FlowKey), SlotId>);

impl Replies {
    pub(super) fn get(&self, bucket: BucketId, key: &FlowKey) -> Option<SlotId> {
        if self.0.is_empty() {
            return None;
        }
        // The other way round it is spelled by what somebody quotes who has seen the flow's own packets outside.
        let keys = [*key, key.reversed()];
        keys.into_iter().find_map(|key| self.0.get(&(bucket, key)).copied())
    }

    /// Says which slot had these replies before.
    pub(super) fn note(&mut self, record: &FlowRecord, slot: SlotId) -> Option<SlotId> {
        record.translation?;
        self.0.insert((record.bucket, record.reply_key()), slot)
    }

    pub(super) fn forget(&mut self, record: &FlowRecord, slot: SlotId) {
        if record.translation.is_none() {
            return;
        }
        let key = (record.bucket, record.reply_key());
        if self.0.get(&key) == Some(&slot) {
            self.0.remove(&key);
        }
    }

    pub(super) fn memory(&self) -> usize {
        self.0.capacity() * size_of::<((BucketId, FlowKey), SlotId)>()
    }
}
