//! The agreed log in etcd, and the machine that follows it.

use serde_json::Value;
use testudo_coordinator::StateMachine;

use super::MAX_MACHINE;
use super::client::{
    CallError, Client, Outcome, Pair, delete_range, get, get_range, is_of, is_there, put,
};
use super::keys::Keys;

/// How many commands are read at once; more follow at once.
const READ: u64 = 128;
/// How often a command is tried again at the next index, when another node was faster.
const TRIES: u32 = 8;

/// Why a command was not written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(transparent)]
    Call(#[from] CallError),
    /// The machine refuses it.
    #[error("the command is refused: {0}")]
    Refused(String),
    /// Others write all the time.
    #[error("other nodes were faster {TRIES} times")]
    Overtaken,
    /// Nobody can tell any more.
    #[error("a snapshot hides whether it was")]
    Hidden,
    /// Another program has written to the keys.
    #[error("the keys in etcd are not as Testudo writes them: {0}")]
    Foreign(String),
}

/// What became of a command that was written without an answer.
enum Fate {
    /// It can still be agreed on, at its index and nowhere else.
    Open,
    Agreed,
    /// A snapshot has come that ends behind it.
    Hidden,
}

struct Attempt {
    index: u64,
    command: Vec<u8>,
    fate: Fate,
}

pub struct Log<M> {
    keys: Keys,
    machine: M,
    /// The last command that the machine has taken or refused.
    applied: u64,
    /// The last command in the snapshot, and the revision of its key; 0 if there is none.
    snapshot: u64,
    snapshot_revision: u64,
    snapshot_after: u64,
    attempt: Option<Attempt>,
}

impl<M: StateMachine> Log<M> {
    pub fn new(keys: Keys, machine: M, snapshot_after: u64) -> Self {
        Self {
            keys,
            machine,
            applied: 0,
            snapshot: 0,
            snapshot_revision: 0,
            snapshot_after,
            attempt: None,
        }
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Reads and applies all that is new; says whether the machine has changed.
    pub fn catch_up(&mut self, client: &mut Client) -> Result<bool, LogError> {
        let mut changed = false;
        loop {
            // With the last one known, or it would not be seen that etcd has lost what it had.
            let is_kept = self.applied > self.snapshot;
            let from = self.keys.entry(if is_kept { self.applied } else { self.applied + 1 });
            let entries = get_range(&from, &self.keys.entries_end(), READ);
            let known = [is_of(&self.keys.snapshot(), self.snapshot_revision)];
            let otherwise = [entries.clone(), get(&self.keys.snapshot())];
            let Outcome { succeeded, reads } = client.transact(&known, &[entries], &otherwise)?;
            if !succeeded {
                changed |= self.take_snapshot(reads.get(1).and_then(|pairs| pairs.first()))?;
            }
            let entries = reads.first().map_or(&[][..], Vec::as_slice);
            let first = entries.first().and_then(|pair| self.keys.index(&pair.key));
            if self.applied > self.snapshot && first.is_none_or(|first| first > self.applied) {
                return Err(LogError::Foreign(format!("command {} is gone", self.applied)));
            }
            for pair in entries {
                changed |= self.take_entry(pair)?;
            }
            if (entries.len() as u64) < READ {
                return Ok(changed);
            }
        }
    }

    fn take_snapshot(&mut self, pair: Option<&Pair>) -> Result<bool, LogError> {
        let pair = pair.ok_or_else(|| LogError::Foreign("the snapshot is gone".to_owned()))?;
        let (index, machine) = pair
            .value
            .split_first_chunk()
            .ok_or_else(|| LogError::Foreign("the snapshot has no index".to_owned()))?;
        let index = u64::from_le_bytes(*index);
        let is_ahead = index > self.applied;
        if is_ahead {
            self.machine.restore(machine).map_err(LogError::Foreign)?;
            self.applied = index;
            if let Some(attempt) = self.attempt.as_mut().filter(|a| a.index <= index) {
                attempt.fate = Fate::Hidden;
            }
        }
        self.snapshot = index;
        self.snapshot_revision = pair.mod_revision;
        Ok(is_ahead)
    }

    fn take_entry(&mut self, pair: &Pair) -> Result<bool, LogError> {
        let index = self.keys.index(&pair.key);
        let index = index.ok_or_else(|| {
            LogError::Foreign(format!("the key {:?}", String::from_utf8_lossy(&pair.key)))
        })?;
        if index <= self.applied {
            return Ok(false);
        }
        if index != self.applied + 1 {
            let expected = self.applied + 1;
            return Err(LogError::Foreign(format!("command {index} where {expected} should be")));
        }
        self.applied = index;
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.index == index);
        if let Some(attempt) = attempt.filter(|attempt| attempt.command == pair.value) {
            attempt.fate = Fate::Agreed;
        }
        // Refused by one machine, refused by all.
        match next(&self.machine, &pair.value) {
            Ok(machine) => self.machine = machine,
            Err(_) => return Ok(false),
        }
        Ok(true)
    }

    /// What must hold for the next index to be free, and for nothing to be written anew there.
    fn is_next(&self) -> Vec<Value> {
        let mut conditions = vec![
            is_of(&self.keys.snapshot(), self.snapshot_revision),
            is_there(&self.keys.entry(self.applied + 1), false),
        ];
        if self.applied > self.snapshot {
            conditions.push(is_there(&self.keys.entry(self.applied), true));
        }
        conditions
    }

    /// Writes a command at the next index, after having applied all before it. After a
    /// [`LogError::Call`] it can be called again with the same command, which is never doubled: until
    /// it is known what stands at the index that was tried, no other one is.
    pub fn append(&mut self, client: &mut Client, command: &[u8]) -> Result<bool, LogError> {
        let mut changed = false;
        for _ in 0..TRIES {
            changed |= self.catch_up(client)?;
            if let Some(attempt) = self.attempt.take() {
                match attempt.fate {
                    Fate::Agreed => return Ok(changed),
                    Fate::Hidden => return Err(LogError::Hidden),
                    Fate::Open => {}
                }
            }
            next(&self.machine, command).map_err(LogError::Refused)?;
            let index = self.applied + 1;
            let write = [put(&self.keys.entry(index), command, None)];
            let conditions = self.is_next();
            self.attempt = Some(Attempt { index, command: command.to_vec(), fate: Fate::Open });
            if client.transact(&conditions, &write, &[])?.succeeded {
                self.attempt = None;
                // If it can't be read now, it will be.
                return Ok(changed | self.catch_up(client).unwrap_or(false));
            }
        }
        self.attempt = None;
        Err(LogError::Overtaken)
    }

    /// Forgets about a command that was not written for too long.
    pub fn give_up(&mut self) {
        self.attempt = None;
    }

    /// Replaces old commands by a snapshot, if there are enough.
    pub fn cut(&mut self, client: &mut Client) -> Result<(), LogError> {
        if self.applied < self.snapshot + 2 * self.snapshot_after {
            return Ok(());
        }
        let value = [&self.applied.to_le_bytes()[..], &self.machine.encode()].concat();
        let kept = self.keys.entry(self.applied - self.snapshot_after + 1);
        let write =
            [put(&self.keys.snapshot(), &value, None), delete_range(&self.keys.entry(0), &kept)];
        let known = [is_of(&self.keys.snapshot(), self.snapshot_revision)];
        client.transact(&known, &write, &[])?;
        // If another node was faster, its snapshot is as good.
        self.catch_up(client).map(|_| ())
    }
}

/// The machine after a command.
fn next<M: StateMachine>(machine: &M, command: &[u8]) -> Result<M, String> {
    let mut next = machine.clone();
    next.apply(command)?;
    match next.encode().len() {
        length if length > MAX_MACHINE => {
            Err(format!("{length} bytes to write all that is agreed, expected {MAX_MACHINE}"))
        }
        _ => Ok(next),
    }
}
