//! The coordinator's log on disk, in one redb file.
//!
//! Invariant: when [`Store::write`] of a durable batch has returned, the batch survives a loss of
//! power; if it fails, the batch is either there as a whole or not at all, and the process has to end,
//! because nobody can tell which. A file is used by one process at a time, of the node and the
//! cluster that made it.
//!
//! redb because it is pure Rust, transactional with checksums, needs no background thread, and
//! refuses a second process by a lock on the file. The log is small (snapshots cut it), so nothing
//! here is tuned, and the whole file is verified whenever it is opened.
//!
//! Limits: a file that was deleted looks like a first start. What that means for a voter stands in
//! `testudo_coordinator`.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use redb::{
    CommitError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable,
    SetDurabilityError, StorageError, TableDefinition, TableError, TransactionError,
};
use testudo_coordinator::{Batch, Hard, Image, Place, Record, Stored};
use testudo_packet::bucket::NodeId;

/// The file's name in the state directory.
const FILE: &str = "coordination.redb";
/// Entries by their index.
const ENTRIES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("entries");
/// Everything else by its name.
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("facts");
/// How the values are encoded; a file of another format is refused.
const FORMAT: [u8; 1] = [1];

/// Whose log a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// What no two clusters share.
    pub cluster: [u8; 16],
    /// The node.
    pub node: NodeId,
}

/// Why the log can't be used. The file is as it was.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operator has started the node twice.
    #[error("{}: another process uses it; expected one node a state directory", .0.display())]
    Locked(PathBuf),
    /// The disk or another program has damaged it.
    #[error("{}: {why}; expected a log of this program. Restore it, or let the others remove this \
             node from the voters and delete it", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was seen.
        why: String,
    },
    /// The state directory belongs to something else: the operator's fault.
    #[error("{}: it is the log of {seen}, expected that of {expected}", .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        seen: String,
        /// Whose it should be.
        expected: String,
    },
    /// There is no room left on the disk.
    #[error("{}: the disk is full; the node can promise nothing more", .0.display())]
    Full(PathBuf),
    /// The system refuses.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A node's log.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    database: Database,
}

/// What can go wrong inside; the path is added at the door.
enum Fault {
    Storage(StorageError),
    Locked,
    Damaged(String),
}

impl Store {
    /// Opens the log in a directory; makes both if they are not there.
    ///
    /// # Errors
    ///
    /// If the log can't be used, or is another's.
    pub fn open(directory: &Path, owner: Owner) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let io = |source| StoreError::Io { path: path.clone(), source };
        fs::create_dir_all(directory).map_err(io)?;
        let opened = Database::builder().set_check_integrity_on_open(true).create(&path);
        let database = opened.map_err(|error| told(&path, error.into()))?;
        let store = Self { path, database };
        store.claim(owner)?;
        // Or a loss of power could take the file's name, and with it all that was promised.
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(|source| StoreError::Io { path: store.path.clone(), source })?;
        Ok(store)
    }

    /// Marks a new file; looks at the mark of an old one.
    fn claim(&self, owner: Owner) -> Result<(), StoreError> {
        let mark = [&FORMAT[..], &[owner.node.0], &owner.cluster].concat();
        let seen = self.tell(|| {
            let transaction = self.database.begin_write()?;
            transaction.open_table(ENTRIES)?;
            let mut facts = transaction.open_table(FACTS)?;
            let seen = facts.get("owner")?.map(|mark| mark.value().to_vec());
            if seen.is_none() {
                facts.insert("owner", mark.as_slice())?;
            }
            drop(facts);
            transaction.commit()?;
            Ok(seen)
        })?;
        match seen {
            Some(seen) if seen != mark => Err(StoreError::Foreign {
                path: self.path.clone(),
                seen: described(&seen),
                expected: described(&mark),
            }),
            _ => Ok(()),
        }
    }

    /// What the log holds.
    ///
    /// # Errors
    ///
    /// If it can't be read, or is not what was written.
    pub fn load(&self) -> Result<Stored, StoreError> {
        let stored = self.tell(|| {
            let transaction = self.database.begin_read()?;
            let facts = transaction.open_table(FACTS)?;
            let fact = |name| Ok::<_, StorageError>(facts.get(name)?.map(|v| v.value().to_vec()));
            let mut stored = Stored::default();
            if let Some(hard) = fact("hard")? {
                stored.hard = Hard::decode(&hard).map_err(damage("the promise"))?;
            }
            if let Some(image) = fact("image")? {
                let image = Image::decode(&image).map_err(damage("the snapshot"))?;
                stored.image = Some(image);
            }
            if let Some(base) = fact("base")? {
                stored.base = decode_place(&base)
                    .ok_or_else(|| Fault::Damaged(format!("the log begins at {base:?}")))?;
            }
            for entry in transaction.open_table(ENTRIES)?.iter()? {
                let (index, bytes) = entry?;
                let record = Record::decode(bytes.value()).map_err(damage("an entry"))?;
                if record.place.index != index.value() {
                    let (seen, expected) = (record.place.index, index.value());
                    return Err(Fault::Damaged(format!("entry {seen} in place {expected}")));
                }
                stored.entries.push_back(record);
            }
            Ok(stored)
        })?;
        match stored.fault() {
            Some(why) => Err(StoreError::Corrupt { path: self.path.clone(), why }),
            None => Ok(stored),
        }
    }

    /// Writes a batch; a durable one is on disk when this returns.
    ///
    /// # Errors
    ///
    /// If it can't be written. The process has to end then.
    pub fn write(&self, batch: &Batch) -> Result<(), StoreError> {
        self.tell(|| {
            let mut transaction = self.database.begin_write()?;
            let durability = if batch.durable { Durability::Immediate } else { Durability::None };
            transaction.set_durability(durability)?;
            let mut facts = transaction.open_table(FACTS)?;
            let mut entries = transaction.open_table(ENTRIES)?;
            if let Some(image) = &batch.image {
                facts.insert("image", image.encode().as_slice())?;
            }
            if batch.clear {
                entries.retain(|_, _| false)?;
            }
            if let Some(base) = batch.base {
                facts.insert("base", encode_place(base).as_slice())?;
                entries.retain_in(..=base.index, |_, _| false)?;
            }
            if let Some(first) = batch.entries.first() {
                entries.retain_in(first.place.index.., |_, _| false)?;
            }
            for record in &batch.entries {
                entries.insert(record.place.index, record.encode().as_slice())?;
            }
            if let Some(hard) = batch.hard {
                facts.insert("hard", hard.encode().as_slice())?;
            }
            drop((facts, entries));
            transaction.commit()?;
            Ok(())
        })
    }

    fn tell<T>(&self, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, StoreError> {
        work().map_err(|fault| told(&self.path, fault))
    }
}

fn encode_place(place: Place) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&place.index.to_le_bytes());
    bytes[8..].copy_from_slice(&place.term.to_le_bytes());
    bytes
}

fn decode_place(bytes: &[u8]) -> Option<Place> {
    let (index, term) = bytes.split_first_chunk()?;
    let term = u64::from_le_bytes(term.try_into().ok()?);
    Some(Place { index: u64::from_le_bytes(*index), term })
}

/// Whose log a mark stands for.
fn described(mark: &[u8]) -> String {
    match mark {
        [1, node, cluster @ ..] => {
            let digits: String = cluster.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("node {node} of cluster {digits}")
        }
        [format, ..] => format!("a program with format {format}"),
        [] => "nobody".to_owned(),
    }
}

fn damage<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> Fault {
    move |error| Fault::Damaged(format!("{what} can't be read: {error}"))
}

fn told(path: &Path, fault: Fault) -> StoreError {
    let path = path.to_owned();
    match fault {
        Fault::Locked => StoreError::Locked(path),
        Fault::Damaged(why) => StoreError::Corrupt { path, why },
        Fault::Storage(StorageError::Io(source)) => match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => StoreError::Full(path),
            // So redb says that a file is none of its own.
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
                StoreError::Corrupt { path, why: source.to_string() }
            }
            _ => StoreError::Io { path, source },
        },
        Fault::Storage(other) => StoreError::Corrupt { path, why: other.to_string() },
    }
}

impl From<StorageError> for Fault {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl From<DatabaseError> for Fault {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen => Self::Locked,
            DatabaseError::Storage(error) => Self::Storage(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TransactionError> for Fault {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => Self::Storage(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TableError> for Fault {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => Self::Storage(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => Self::Storage(error),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<SetDurabilityError> for Fault {
    fn from(error: SetDurabilityError) -> Self {
        Self::Damaged(error.to_string())
    }
}

#[cfg(test)]
mod tests;
