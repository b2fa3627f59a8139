//! A translated flow has its replies alone: no other flow that is in force anywhere has replies of the same key; they are of
//! the flow's bucket; and what a flow is translated to never changes while it lives.
//!
//! In force is what a node handles packets by: the entries of its kernel, of buckets that it owns under its lease. Replies
//! of one key are of one bucket, which one node handles at most, in whatever part of a cluster that has fallen apart; so all
//! flows that could share a key are in one kernel when one of them has a packet. That is when it is looked at, and when all
//! is quiet in all tables. When a flow begins, what the node's own common table has counts, too: its entries may be on their
//! way into the kernel, and a flow that takes another one's replies puts that one out of the table.
//!
//! A flow that was lost with its owner, unacknowledged, begins anew and may be translated otherwise. So changes count where
//! nothing fails, and, by [`super::Acknowledged`], for what a peer has acknowledged.

use std::collections::BTreeMap;

use testudo_packet::entry::{FlowRecord, Translation};
use testudo_packet::tracking::Phase;

use crate::world::World;

/// What flows were translated to when last seen, by their ports.
#[derive(Debug, Default)]
pub struct TranslatedAlone {
    seen: BTreeMap<u16, Translation>,
}

impl World {
    /// A node has handled a packet.
    pub(crate) fn note_translation(&mut self, node: usize, port: u16) {
        if let Err(error) = self.check_translation(node, port) {
            self.fail(|| format!("node {node}: {error}"));
        }
    }

    fn check_translation(&mut self, node: usize, port: u16) -> Result<(), String> {
        let kernel = &self.machines[node].kernel;
        let Some(record) = kernel.flows.get(&port).filter(|_| kernel.translations.concern(port))
        else {
            return Ok(());
        };
        let Some(translation) = record.translation else {
            return Err(format!("the translated flow {record:?} is not translated"));
        };
        let bucket = usize::from(record.bucket.0);
        if kernel.translations.bucket_of_reply(record) != bucket {
            return Err(format!("replies to {record:?} are of another bucket"));
        }
        let same = |other: &&FlowRecord| {
            other.key != record.key && other.translation == record.translation
        };
        if let Some(other) = kernel.of_bucket(bucket).find(same) {
            return Err(format!("{record:?} and {other:?} have the same replies"));
        }
        let daemon = self.machines[node].daemon.as_ref();
        let reply = record.reply_key();
        let known = daemon.and_then(|d| d.replica.table().of_packet(record.bucket, &reply));
        let begins = record.state.phase == Phase::SynSent;
        if let Some(other) = known.filter(|other| begins && other.key != record.key) {
            return Err(format!(
                "{record:?} and {other:?} (in the common table) have the same replies"
            ));
        }
        let before = match record.state.phase {
            Phase::TimeWait => self.translated_alone.seen.remove(&port),
            _ => self.translated_alone.seen.insert(port, translation),
        };
        self.tally.count("packets of translated flows");
        match before.filter(|before| self.traffic.exact && *before != translation) {
            Some(before) => Err(format!("{record:?} was translated to {before:?} before")),
            None => Ok(()),
        }
    }

    /// From now on nothing fails; what was seen before may be of flows that are lost.
    pub(crate) fn forget_translations(&mut self) {
        self.translated_alone.seen.clear();
    }
}

/// To be asked when nothing has happened for a while.
///
/// # Errors
///
/// Which two flows share their replies.
pub fn translated_alone(world: &World) -> Result<(), String> {
    let mut replies = BTreeMap::new();
    for bucket in 0..world.options.buckets as usize {
        let Some(owner) = world.handler(bucket) else { continue };
        for record in world.machines[owner].kernel.of_bucket(bucket) {
            if record.translation.is_none() {
                continue;
            }
            if let Some(other) = replies.insert(record.reply_key(), record) {
                return Err(format!("{record:?} and {other:?} have the same replies"));
            }
        }
    }
    Ok(())
}
