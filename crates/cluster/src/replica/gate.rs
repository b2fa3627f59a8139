//! Which of this node's flows the peers are told of, and from when on: the rule of each says.
//!
//! A flow that is over in a moment, or that nobody answers, may be worth less than what every other node
//! pays for knowing it. So a rule can have its flows kept back: until they are established, until they have
//! lived for some time, or for ever. A flow that is kept back dies with its node; that is what its rule asks
//! for.
//!
//! Invariants:
//!
//! * A flow is kept back by not being in the common table, and by nothing else. Whatever is in that table is
//!   told, counted, compared, and kept up to date, whatever its rule says. So no peer, no digest and no
//!   comparison knows of the gate, and a flow that has come by a takeover or a move is never kept back.
//! * While a bucket is on its way to another node, nothing of it is kept back, and what was before is read
//!   out of the node table ([`Effect::ReadOut`]) before the next owner is asked to take it: planned moves
//!   lose nothing.
//! * What waits for its time is bounded. A flow that finds no room is told of at once, and counted.
//!
//! Why the owner decides here, when it learns of a flow, and not where its packets are handled: the packet
//! handling would need a state "not told yet" for each flow and a branch for each packet; and not where
//! records are sent: then the table would hold what the digests must leave out.
//!
//! Limits: what keeps back by time remembers a record of each such flow, some hundred bytes; of a translated flow
//! that waits for its next state what it is translated to; and what else is kept back costs nothing here. After
//! the death of the process nobody knows how long a flow has lived; see [`Replica::handle_due`].

use std::collections::BTreeMap;
use std::time::Duration;

use testudo_packet::bucket::{BucketId, Nanos};
use testudo_packet::entry::{FlowRecord, FlowState, Translation};
use testudo_packet::flow::FlowKey;
use testudo_packet::tracking::Phase;

#[cfg(doc)]
use super::Effect;
use super::Replica;
use crate::time::after;

/// How many flows wait for their time at most: as many as begin in a second on a busy node.
pub const MAX_WAITING: usize = 1 << 17;

/// How many flows a turn tells of at most because their time has come.
const MAX_DUE: usize = 1 << 12;

/// From when on peers are told of the flows of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replicate {
    /// From their first packet on.
    #[default]
    FirstPacket,
    /// From when on both ends have agreed to them: a TCP connection's handshake is complete, or the
    /// responder of anything else has answered.
    Established,
    /// From when on they have lived for so long.
    After(Duration),
    /// Never, but for what a planned move hands over.
    Never,
}

impl Replicate {
    /// Whether a flow in this state, that nobody was told of, is to be told of for that state alone.
    const fn admits(self, state: &FlowState) -> bool {
        match self {
            Self::FirstPacket => true,
            Self::Established => has_come_about(state.phase),
            Self::After(_) | Self::Never => false,
        }
    }
}

/// Whether both ends have agreed to a flow that is not over.
const fn has_come_about(phase: Phase) -> bool {
    match phase {
        Phase::SynSent | Phase::SynReceived | Phase::Unreplied => false,
        Phase::Established | Phase::FinOriginal | Phase::FinReply | Phase::LastAck => true,
        Phase::Replied => true,
        Phase::TimeWait | Phase::Reset => false,
    }
}

/// What the gate keeps back, and what it had to let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replication {
    /// How many flows of own buckets are in the common table.
    pub told: u64,
    /// How many flows wait for their time now.
    pub waiting: u64,
    /// How many were told of before their time since the start, because too many waited.
    pub crowded: u64,
}

#[derive(Debug)]
struct Waiting {
    due: (Nanos, u64),
    record: FlowRecord,
}

/// The policies, and the flows that wait.
#[derive(Debug)]
pub(super) struct Gate {
    /// By the number of the rule.
    policies: Vec<Replicate>,
    /// How many may wait.
    room: usize,
    /// In the order of their buckets, so that those of one can be forgotten at once.
    waiting: BTreeMap<(BucketId, FlowKey), Waiting>,
    /// In the order of their time. The number makes each one's place its own.
    due: BTreeMap<(Nanos, u64), (BucketId, FlowKey)>,
    /// What flows are translated to that wait to be established, or to begin anew: of what is told of a flow only
    /// the first word says it.
    translations: BTreeMap<(BucketId, FlowKey), Translation>,
    begun: u64,
    crowded: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            policies: Vec::new(),
            room: MAX_WAITING,
            waiting: BTreeMap::new(),
            due: BTreeMap::new(),
            translations: BTreeMap::new(),
            begun: 0,
            crowded: 0,
        }
    }
}

impl Gate {
    /// A flow whose rule is not known here (it is another process's) is told of.
    fn policy(&self, state: &FlowState) -> Replicate {
        self.policies.get(usize::from(state.rule)).copied().unwrap_or_default()
    }

    /// Whether a flow may be kept back at all.
    pub(super) fn is_selective(&self) -> bool {
        self.policies.iter().any(|policy| *policy != Replicate::FirstPacket)
    }

    /// Takes note of a flow that waits, or of its present state if it does already. A state that is older
    /// than what is known changes nothing, unless it is known to be right. Returns whether there was
    /// room.
    fn keep(&mut self, now: Nanos, wait: Duration, record: &FlowRecord, right: bool) -> bool {
        let place = (record.bucket, record.key);
        if let Some(waiting) = self.waiting.get_mut(&place) {
            if right || !waiting.record.supersedes(record) {
                waiting.record = *record;
            }
            return true;
        }
        if self.waiting.len() >= self.room {
            self.crowded += 1;
            return false;
        }
        self.begun += 1;
        let due = (after(now, wait), self.begun);
        self.due.insert(due, place);
        self.waiting.insert(place, Waiting { due, record: *record });
        true
    }

    /// Takes note of what a flow is translated to that waits for its next state, if it is. Returns whether there
    /// was room.
    fn remember(&mut self, record: &FlowRecord) -> bool {
        let Some(translation) = record.translation else { return true };
        let place = (record.bucket, record.key);
        if self.translations.len() >= self.room && !self.translations.contains_key(&place) {
            self.crowded += 1;
            return false;
        }
        self.translations.insert(place, translation);
        true
    }

    /// A flow does not wait any more: it is told of, or over. Says whether it did.
    pub(super) fn forget(&mut self, record: &FlowRecord) -> bool {
        self.forget_at((record.bucket, record.key))
    }

    fn forget_at(&mut self, place: (BucketId, FlowKey)) -> bool {
        self.translations.remove(&place);
        let waiting = self.waiting.remove(&place);
        waiting.is_some_and(|waiting| self.due.remove(&waiting.due).is_some())
    }

    /// A bucket is not this node's any more.
    pub(super) fn forget_bucket(&mut self, bucket: BucketId) {
        let (waiting, translated) = (&self.waiting, &self.translations);
        let places = of_bucket(waiting, bucket).chain(of_bucket(translated, bucket));
        for place in places.collect::<Vec<_>>() {
            self.forget_at(place);
        }
    }

    /// What a flow that waits is translated to.
    pub(super) fn translation(&self, record: &FlowRecord) -> Option<Translation> {
        let place = (record.bucket, record.key);
        let waiting = || self.waiting.get(&place)?.record.translation;
        self.translations.get(&place).copied().or_else(waiting)
    }

    /// Whether a flow waits in this state.
    fn has(&self, record: &FlowRecord) -> bool {
        let waiting = self.waiting.get(&(record.bucket, record.key));
        waiting.is_some_and(|waiting| is_same(&waiting.record, record))
    }

    fn take_due(&mut self, now: Nanos) -> Vec<FlowRecord> {
        let mut records = Vec::new();
        while records.len() < MAX_DUE
            && let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let waiting = self.waiting.remove(&entry.remove());
            records.extend(waiting.map(|waiting| waiting.record));
        }
        records
    }
}

/// The places of a bucket's flows.
fn of_bucket<T>(
    flows: &BTreeMap<(BucketId, FlowKey), T>,
    bucket: BucketId,
) -> impl Iterator<Item = (BucketId, FlowKey)> {
    let places = flows.range((bucket, FlowKey::default())..).map(|(place, _)| *place);
    places.take_while(move |(of, _)| *of == bucket)
}

/// Whether what is known of a flow is what is so, and its next change will not be taken for an old one, if
/// that comes under the epoch of the record.
pub(super) fn is_same(known: &FlowRecord, record: &FlowRecord) -> bool {
    let state = |record: &FlowRecord| {
        let FlowState { phase, confirmed, rule, .. } = record.state;
        (phase, confirmed, rule)
    };
    (known.key, known.translation) == (record.key, record.translation)
        && state(known) == state(record)
        && !known.supersedes(record)
}

impl Replica {
    /// From when on peers are told of the flows of each rule, by its number. Without a word from here
    /// all are told of from their first packet on.
    pub fn set_policies(&mut self, policies: Vec<Replicate>) {
        self.gate.policies = policies;
    }

    /// How much is kept back.
    #[must_use]
    pub fn replication(&self) -> Replication {
        let own = super::own_buckets(&self.slots, self.cluster.node());
        let told = own.into_iter().map(|bucket| u64::from(self.table.count(bucket))).sum();
        Replication { told, waiting: self.gate.waiting.len() as u64, crowded: self.gate.crowded }
    }

    /// Tells of the flows that have lived for long enough; to be called whenever all events have been taken in.
    /// With a time that is later than all others it tells of all that wait: how long flows have lived that
    /// another process has left nobody knows. Returns how many found no room in the common table; going
    /// over the node table finds these again.
    pub fn handle_due(&mut self, now: Nanos) -> usize {
        let mut refused = 0;
        for record in self.gate.take_due(now) {
            if self.check_own(record.bucket).is_ok() {
                let record = self.now_spoken(&record);
                refused += usize::from(self.tell(record).is_err());
            }
        }
        refused
    }

    /// A flow as this node speaks of it now. It may have changed last before the bucket's epoch did, and who
    /// is told of it under an older epoch than that of a comparison may take this node for one that was
    /// succeeded.
    pub(super) fn now_spoken(&self, record: &FlowRecord) -> FlowRecord {
        let epoch = self.slot(record.bucket).epoch.max(record.epoch);
        FlowRecord { epoch, ..*record }
    }

    /// Whether the peers are not to be told of a flow, as it is now. `right` if that is how it is for
    /// certain, whatever was heard of it before.
    pub(super) fn keeps_back(&mut self, now: Nanos, record: &FlowRecord, right: bool) -> bool {
        let policy = self.gate.policy(&record.state);
        if policy.admits(&record.state)
            || self.is_told_of(record.bucket)
            || self.table.find(record.bucket, &record.key).is_some()
        {
            return false;
        }
        match policy {
            Replicate::After(_) if record.state.phase.is_closed() => {
                self.gate.forget(record);
                // It may begin anew as it is.
                self.gate.remember(record)
            }
            Replicate::After(wait) => self.gate.keep(now, wait, record, right),
            Replicate::Established => self.gate.remember(record),
            Replicate::FirstPacket | Replicate::Never => true,
        }
    }

    /// Whether a flow that is not in the common table is missing there, or among those that wait.
    pub(super) fn is_missed(&self, record: &FlowRecord) -> bool {
        self.is_told_of(record.bucket) || !self.is_kept_back(record)
    }

    /// Whether a flow that is not in the common table is rightly kept back, but for a move.
    pub(super) fn is_kept_back(&self, record: &FlowRecord) -> bool {
        let policy = self.gate.policy(&record.state);
        match policy {
            Replicate::After(_) => record.state.phase.is_closed() || self.gate.has(record),
            _ => !policy.admits(&record.state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use testudo_packet::bucket::Epoch;

    const WAIT: Duration = Duration::from_millis(100);

    fn record(bucket: u16, port: u16) -> FlowRecord {
        let mut key = FlowKey::default();
        key.initiator.port = port;
        let state = FlowState { phase: Phase::SynSent, confirmed: false, rule: 0, sequence: 1 };
        FlowRecord { translation: None, bucket: BucketId(bucket), epoch: Epoch(1), key, state }
    }

    fn at(millis: u64) -> Nanos {
        Nanos(1_000_000 * millis)
    }

    fn ports(records: &[FlowRecord]) -> Vec<u16> {
        records.iter().map(|record| record.key.initiator.port).collect()
    }

    #[test]
    fn flows_wait_by_their_own_time_and_find_no_room_where_there_is_none() {
        let mut gate = Gate { room: 3, ..Gate::default() };
        for (millis, port) in [(0, 1), (0, 2), (7, 3)] {
            assert!(gate.keep(at(millis), WAIT, &record(0, port), false));
        }
        assert!(!gate.keep(at(8), WAIT, &record(0, 4), false));
        assert_eq!(gate.crowded, 1);
        assert!(gate.keep(at(50), WAIT, &record(0, 1), false), "it has its place already");
        assert_eq!(ports(&gate.take_due(at(99))), []);
        assert_eq!(ports(&gate.take_due(at(100))), [1, 2]);
        assert!(gate.keep(at(101), WAIT, &record(0, 4), false), "there is room again");
        assert_eq!(ports(&gate.take_due(at(1000))), [3, 4]);
        assert_eq!((gate.waiting.len(), gate.due.len()), (0, 0));
    }

    #[test]
    fn a_turn_takes_so_many_at_most() {
        let mut gate = Gate::default();
        let count = MAX_DUE as u16 + 5;
        for port in 0..count {
            assert!(gate.keep(at(0), WAIT, &record(port % 4, port), false));
        }
        assert_eq!(gate.take_due(at(100)).len(), MAX_DUE);
        assert_eq!(gate.take_due(at(100)).len(), 5);
    }

    #[test]
    fn a_bucket_is_forgotten_and_no_other() {
        let mut gate = Gate::default();
        for port in 0..30 {
            assert!(gate.keep(at(0), WAIT, &record(port % 3, port), false));
        }
        gate.forget_bucket(BucketId(1));
        assert!(gate.forget(&record(0, 3)));
        assert!(!gate.forget(&record(0, 3)));
        let rest: Vec<_> = (0..30).filter(|port| port % 3 != 1 && *port != 3).collect();
        assert_eq!(ports(&gate.take_due(at(100))), rest);
        assert!(gate.waiting.is_empty());
    }
}
