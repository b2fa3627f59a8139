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
    /// Whether the machine has changed since that was last asked. Not a result of the calls: one that
    /// fails may have changed it before.
    changed: bool,
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
            changed: false,
        }
    }

    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Whether the machine has changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Reads and applies all that is new.
    pub fn catch_up(&mut self, client: &mut Client) -> Result<(), LogError> {
        loop {
            // With the last one known, or it would not be seen that etcd has lost what it had.
            let is_kept = self.applied > self.snapshot;
            let from = self.keys.entry(if is_kept { self.applied } else { self.applied + 1 });
            let entries = get_range(&from, &self.keys.entries_end(), READ);
            let known = [is_of(&self.keys.snapshot(), self.snapshot_revision)];
            let otherwise = [entries.clone(), get(&self.keys.snapshot())];
            let Outcome { succeeded, reads } = client.transact(&known, &[entries], &otherwise)?;
            if !succeeded {
                self.take_snapshot(reads.get(1).and_then(|pairs| pairs.first()))?;
            }
            let entries = reads.first().map_or(&[][..], Vec::as_slice);
            let first = entries.first().and_then(|pair| self.keys.index(&pair.key));
            if self.applied > self.snapshot && first.is_none_or(|first| first > self.applied) {
                return Err(LogError::Foreign(format!("command {} is gone", self.applied)));
            }
            for pair in entries {
                self.take_entry(pair)?;
            }
            if (entries.len() as u64) < READ {
                return Ok(());
            }
        }
    }

    fn take_snapshot(&mut self, pair: Option<&Pair>) -> Result<(), LogError> {
        let pair = pair.ok_or_else(|| LogError::Foreign("the snapshot is gone".to_owned()))?;
        let (index, machine) = pair
            .value
            .split_first_chunk()
            .ok_or_else(|| LogError::Foreign("the snapshot has no index".to_owned()))?;
        let index = u64::from_le_bytes(*index);
        if index > self.applied {
            self.machine.restore(machine).map_err(LogError::Foreign)?;
            self.applied = index;
            self.changed = true;
            if let Some(attempt) = self.attempt.as_mut().filter(|a| a.index <= index) {
                attempt.fate = Fate::Hidden;
            }
        }
        self.snapshot = index;
        self.snapshot_revision = pair.mod_revision;
        Ok(())
    }

    fn take_entry(&mut self, pair: &Pair) -> Result<(), LogError> {
        let index = self.keys.index(&pair.key);
        let index = index.ok_or_else(|| {
            LogError::Foreign(format!("the key {:?}", String::from_utf8_lossy(&pair.key)))
        })?;
        if index <= self.applied {
            return Ok(());
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
        if let Ok(machine) = next(&self.machine, &pair.value) {
            self.machine = machine;
            self.changed = true;
        }
        Ok(())
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
    pub fn append(&mut self, client: &mut Client, command: &[u8]) -> Result<(), LogError> {
        for _ in 0..TRIES {
            self.catch_up(client)?;
            if let Some(attempt) = self.attempt.take() {
                match attempt.fate {
                    Fate::Agreed => return Ok(()),
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
                let _ = self.catch_up(client);
                return Ok(());
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
        self.catch_up(client)
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
