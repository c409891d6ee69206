//! The storage of a real node: one file, one database transaction per batch.
//!
//! A batch is acknowledged when it is committed *and* the seal that says so is on stable storage: two syncs. Why the
//! second one is worth its time is told in [`container`](super::container).

use std::fmt::Debug;
use std::path::Path;
use std::sync::Arc;
use std::{io, mem};

use ::redb::{
    Builder, CommitError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend,
    StorageError, Table, TableDefinition, TableError, TransactionError, WriteTransaction,
};
use dcs_core::BoxError;

use crate::command::Foundation;
use crate::identity::NodeId;
use crate::message::{LogEntry, SnapshotData};
use crate::storage::container::{Container, FORMAT_VERSION, Format, SealError, judge};
use crate::storage::medium::{Directory, Medium};
use crate::storage::outline::{Change, Outline};
use crate::storage::record::{self, Head, Place, RecordError};
use crate::storage::{Batch, BatchError, OpenError, Remembered, Storage, WriteError};

const SINGLES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("singles");
const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");

const HEAD: &str = "head";
const NODE: &str = "node";
const FOUNDATION: &str = "foundation";
const SNAPSHOT: &str = "snapshot";

/// The log is small and is read once: the library needs no more than what one transaction touches.
const CACHE: usize = 16 << 20;

/// A storage in one file.
#[derive(Debug)]
pub struct RedbStorage {
    medium: Box<dyn Medium>,
    id: NodeId,
    state: State,
    /// A file whose place was taken by a new one. It stays locked, for another process that opened it just before that.
    replaced: Option<Unsynced>,
}

/// After a failure the library refuses everything: it has to be opened again.
#[derive(Debug)]
enum State {
    Open(Opened),
    /// The file is as it should be, whether the batch is in it or not.
    Closed,
    /// What was written may be readable, and yet not on the medium: all of it is written again, to a new file. Until then
    /// the old one is not written, and stays locked.
    Unsynced(Unsynced),
}

#[derive(Debug)]
struct Unsynced {
    container: Container,
    /// What has it locked, unless the container itself has.
    _opened: Option<Opened>,
}

#[derive(Debug)]
struct Opened {
    database: Database,
    container: Container,
    head: Head,
}

impl RedbStorage {
    /// Opens the storage in a directory. The first time, directory and storage are made, with a new node in it, and are
    /// durable when this returns.
    ///
    /// # Errors
    ///
    /// See [`OpenError`]. A storage that is opened holds everything that was ever acknowledged, and what was returned
    /// here.
    pub fn open(directory: &Path) -> Result<(Self, Remembered), OpenError> {
        let medium = Directory::new(directory);
        let id = random_id().map_err(|source| OpenError::Io { place: medium.place(), source })?;
        Self::open_on(Box::new(medium), id)
    }

    /// Opens the storage that lies somewhere else. If there is none, it is made for this node.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_on(medium: Box<dyn Medium>, fresh: NodeId) -> Result<(Self, Remembered), OpenError> {
        let failed = |failure: Failure| failure.into_open_error(medium.place());
        let there = match load_if_there(&*medium).map_err(failed)? {
            Some(there) => Some(there),
            None => {
                make(&*medium, &Remembered::of_new(fresh), false).map_err(failed)?;
                load_if_there(&*medium).map_err(failed)?
            }
        };
        match there {
            Some((opened, remembered)) => Ok(Self::of(medium, opened, remembered)),
            None => Err(failed(io::Error::from(io::ErrorKind::NotFound).into())),
        }
    }

    /// Opens the storage that is there. Makes none.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub(crate) fn open_if_there(medium: Box<dyn Medium>) -> Result<Option<(Self, Remembered)>, OpenError> {
        let there = load_if_there(&*medium).map_err(|failure| failure.into_open_error(medium.place()))?;
        Ok(there.map(|(opened, remembered)| Self::of(medium, opened, remembered)))
    }

    fn of(medium: Box<dyn Medium>, opened: Opened, remembered: Remembered) -> (Self, Remembered) {
        medium.sweep();
        (Self { medium, id: remembered.id, state: State::Open(opened), replaced: None }, remembered)
    }

    /// Puts a new storage with this in it in the place of this one, all at once. This one is kept under another name, which
    /// is the answer. It stays locked until then: no node works on either meanwhile.
    ///
    /// # Errors
    ///
    /// Either of them is in its place.
    pub(crate) fn replace_with(self, remembered: &Remembered) -> Result<String, WriteError> {
        let replaced = || {
            let fresh = self.medium.create()?;
            let installed = fill(Arc::clone(&fresh.file), remembered).and_then(|()| {
                let kept = self.medium.keep()?;
                self.medium.install(&fresh, true)?;
                Ok(kept)
            });
            if installed.is_err() {
                self.medium.discard(&fresh);
            }
            installed
        };
        replaced().map_err(|failure: Failure| WriteError { place: self.medium.place(), source: failure.into() })
    }

    /// Does something with the open database, which is opened again first if it has to be.
    fn attempt(&mut self, action: impl FnOnce(&mut Opened) -> Result<(), Failure>) -> Result<(), WriteError> {
        let result = self.opened().and_then(action);
        // What the storage itself would not do leaves it as it was.
        if matches!(&result, Err(failure) if !matches!(failure, Failure::Batch(_))) {
            self.state = match mem::replace(&mut self.state, State::Closed) {
                State::Open(opened) if opened.container.sync_failed() => {
                    State::Unsynced(Unsynced { container: opened.container.clone(), _opened: Some(opened) })
                }
                State::Open(_) => State::Closed,
                failed => failed,
            };
        }
        result.map_err(|failure| WriteError { place: self.medium.place(), source: failure.into() })
    }

    fn opened(&mut self) -> Result<&mut Opened, Failure> {
        if !matches!(self.state, State::Open(_)) {
            if let State::Unsynced(old) = &self.state {
                let (_, remembered) = load(Container::new(old.container.copy()?))?;
                make(&*self.medium, &remembered, true)?;
            }
            let file = self.medium.open()?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            // From here on the new file is in its place; whatever happens to it, the old one is history.
            let before = mem::replace(&mut self.state, State::Closed);
            if let State::Unsynced(old) = before {
                self.replaced = Some(old);
            }
            let container = Container::new(file);
            let loaded = load(container.clone());
            // Opening failed half way, and let go of the lock; if somebody else has it now, the file is theirs.
            if loaded.is_err() && container.sync_failed() && container.lock()? {
                self.state = State::Unsynced(Unsynced { container, _opened: None });
            }
            let (opened, remembered) = loaded?;
            if remembered.id != self.id {
                return Err(Failure::Damaged("it is now the storage of another node".to_owned()));
            }
            self.medium.sweep();
            tracing::debug!("the Raft storage `{}` was opened again after a failed write", self.medium.place());
            self.state = State::Open(opened);
        }
        match &mut self.state {
            State::Open(opened) => Ok(opened),
            State::Closed | State::Unsynced(_) => Err(Failure::Io(io::Error::from(io::ErrorKind::NotConnected))),
        }
    }
}

impl Storage for RedbStorage {
    fn found(&mut self, foundation: &Foundation) -> Result<(), WriteError> {
        self.attempt(|opened| {
            opened.commit(|transaction, head| {
                let mut singles = transaction.open_table(SINGLES)?;
                let known = singles.get(FOUNDATION)?.map(|bytes| record::decode(Place::Single(FOUNDATION), bytes.value())).transpose()?;
                if known.is_some_and(|known: Foundation| known != *foundation) {
                    return Err(BatchError::FoundedBefore.into());
                }
                put(&mut singles, FOUNDATION, foundation)?;
                Ok(head.outline())
            })
        })
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WriteError> {
        self.attempt(|opened| opened.commit(|transaction, head| apply(transaction, &head.outline(), batch)))
    }
}

impl Opened {
    /// Commits what the action does, and seals it. Nothing was done if the action fails.
    fn commit(&mut self, action: impl FnOnce(&WriteTransaction, &Head) -> Result<Outline, Failure>) -> Result<(), Failure> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(Durability::Immediate).map_err(|error| Failure::Damaged(error.to_string()))?;
        let done = action(&transaction, &self.head).and_then(|outline| {
            let head = Head::new(self.head.sequence + 1, &outline);
            put(&mut transaction.open_table(SINGLES)?, HEAD, &head)?;
            Ok(head)
        });
        match done {
            Ok(head) => {
                transaction.commit()?;
                self.container.seal(head.sequence)?;
                self.head = head;
                Ok(())
            }
            Err(failure) => match (failure, transaction.abort()) {
                (Failure::Batch(_), Err(error)) => Err(error.into()),
                // After a failed write the library refuses to abort as well; the reason is what failed first.
                (failure, _) => Err(failure),
            },
        }
    }
}

/// Carries out a batch inside a transaction.
fn apply(transaction: &WriteTransaction, before: &Outline, batch: &Batch) -> Result<Outline, Failure> {
    let mut log = transaction.open_table(LOG)?;
    let Change { forget_through, replace_from, outline } = before.after(batch, |index| term_of(&log, index))?;
    log.retain_in(..=forget_through, |_, _| false)?;
    log.retain_in(replace_from.., |_, _| false)?;
    for entry in &batch.entries {
        log.insert(entry.index, record::encode(Place::Entry(entry.index), entry)?.as_slice())?;
    }
    if let Some(snapshot) = &batch.snapshot {
        put(&mut transaction.open_table(SINGLES)?, SNAPSHOT, snapshot)?;
    }
    Ok(outline)
}

fn term_of(log: &impl ReadableTable<u64, &'static [u8]>, index: u64) -> Result<Option<u64>, Failure> {
    let Some(bytes) = log.get(index)? else { return Ok(None) };
    let entry: LogEntry = record::decode(Place::Entry(index), bytes.value())?;
    Ok(Some(entry.term))
}

fn put<T: serde::Serialize>(singles: &mut Table<'_, &str, &[u8]>, name: &'static str, value: &T) -> Result<(), Failure> {
    singles.insert(name, record::encode(Place::Single(name), value)?.as_slice())?;
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE);
    builder.set_check_integrity_on_open(true);
    builder
}

/// Makes a new file with everything in it, and puts it in its place.
fn make(medium: &dyn Medium, remembered: &Remembered, replace: bool) -> Result<(), Failure> {
    let fresh = medium.create()?;
    let installed = fill(Arc::clone(&fresh.file), remembered).and_then(|()| Ok(medium.install(&fresh, replace)?));
    if !matches!(installed, Ok(true)) {
        medium.discard(&fresh);
    }
    installed.map(|_| ())
}

fn fill(file: Arc<dyn StorageBackend>, remembered: &Remembered) -> Result<(), Failure> {
    let container = Container::new(file);
    container.format()?;
    let database = builder().create_with_backend(container.database())?;
    let mut opened = Opened { database, container, head: Head::default() };
    opened.commit(|transaction, head| {
        let outline = apply(transaction, &head.outline(), &remembered.as_batch())?;
        let mut singles = transaction.open_table(SINGLES)?;
        put(&mut singles, NODE, &remembered.id)?;
        if let Some(foundation) = &remembered.foundation {
            put(&mut singles, FOUNDATION, foundation)?;
        }
        Ok(outline)
    })?;
    // Closed in order, so that what is put in its place is a whole file.
    opened.database.close()?;
    Ok(())
}

fn load_if_there(medium: &dyn Medium) -> Result<Option<(Opened, Remembered)>, Failure> {
    medium.open()?.map(|file| load(Container::new(file))).transpose()
}

/// Opens a file, checks everything in it, and makes sure that what is returned lasts.
fn load(container: Container) -> Result<(Opened, Remembered), Failure> {
    match container.read_format()? {
        Format::Known => (),
        Format::Newer(found) => return Err(Failure::NewerFormat(found)),
        Format::Unreadable(why) => return Err(Failure::Damaged(why.to_owned())),
    }
    let database = builder().create_with_backend(container.database())?;
    let (head, remembered) = read(&database)?;
    judge(container.seals()?, head.sequence)?;
    // A commit that nobody was told of may be in the file. From now on it counts.
    container.settle(head.sequence)?;
    Ok((Opened { database, container, head }, remembered))
}

/// Reads everything, and checks that it belongs together.
fn read(database: &Database) -> Result<(Head, Remembered), Failure> {
    let transaction = database.begin_read()?;
    let singles = transaction.open_table(SINGLES)?;
    let missing = |name| Failure::Damaged(format!("the record `{name}` is missing"));
    let head: Head = get(&singles, HEAD)?.ok_or_else(|| missing(HEAD))?;
    let id: NodeId = get(&singles, NODE)?.ok_or_else(|| missing(NODE))?;
    let foundation: Option<Foundation> = get(&singles, FOUNDATION)?;
    let snapshot: Option<SnapshotData> = get(&singles, SNAPSHOT)?;
    let outline = head.outline();
    let (snapshot_index, snapshot_term) = snapshot.as_ref().map_or((0, 0), |snapshot| (snapshot.index, snapshot.term));
    if (snapshot_index, snapshot_term) != (outline.snapshot_index, outline.snapshot_term) {
        return Err(Failure::Damaged("its snapshot is not the one that was written last".to_owned()));
    }

    let log = transaction.open_table(LOG)?;
    let mut entries: Vec<LogEntry> = Vec::with_capacity(usize::try_from(log.len()?).unwrap_or_default());
    for pair in log.iter()? {
        let (key, bytes) = pair?;
        let entry: LogEntry = record::decode(Place::Entry(key.value()), bytes.value())?;
        if entry.index != key.value() {
            return Err(Failure::Damaged(format!("entry {} lies in the place of entry {}", entry.index, key.value())));
        }
        entries.push(entry);
    }
    let remembered = Remembered { id, foundation, hard_state: outline.hard_state, snapshot, entries };
    // What is there must be what one batch could have written to an empty storage, and must be all that was written.
    let Change { outline: rebuilt, .. } = Outline::default().after(&remembered.as_batch(), |_| Ok::<_, BatchError>(None))?;
    if rebuilt != outline {
        return Err(Failure::Damaged(format!("its log ends with entry {}, not {}", rebuilt.last_index, outline.last_index)));
    }
    Ok((head, remembered))
}

fn get<T: serde::de::DeserializeOwned>(
    singles: &impl ReadableTable<&'static str, &'static [u8]>,
    name: &'static str,
) -> Result<Option<T>, Failure> {
    Ok(singles.get(name)?.map(|bytes| record::decode(Place::Single(name), bytes.value())).transpose()?)
}

/// A node that nobody has met.
fn random_id() -> Result<NodeId, BoxError> {
    let mut bytes = [0; 8];
    loop {
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "the operating system has no random numbers")?;
        match u64::from_ne_bytes(bytes) {
            0 => continue,
            id => return Ok(NodeId(id)),
        }
    }
}

/// What can go wrong with the file.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("another process has it open")]
    InUse,
    #[error("its format version {0} is newer than {FORMAT_VERSION}")]
    NewerFormat(u32),
    #[error("{0}")]
    Damaged(String),
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("a record cannot be encoded: {0}")]
    Encode(#[from] postcard::Error),
}

impl Failure {
    fn into_open_error(self, place: String) -> OpenError {
        match self {
            Self::Io(source) => OpenError::Io { place, source: source.into() },
            Self::Encode(source) => OpenError::Io { place, source: source.into() },
            Self::InUse => OpenError::InUse { place },
            Self::NewerFormat(found) => OpenError::NewerFormat { place, found, known: FORMAT_VERSION },
            Self::Damaged(damage) => OpenError::Damaged { place, damage },
            Self::Batch(error) => OpenError::Damaged { place, damage: error.to_string() },
        }
    }
}

impl From<SealError> for Failure {
    fn from(error: SealError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<RecordError> for Failure {
    fn from(error: RecordError) -> Self {
        Self::Damaged(error.to_string())
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            // These two kinds are how a file that is too short, or not a database, shows itself.
            StorageError::Io(error) if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
                Self::Io(error)
            }
            StorageError::PreviousIo => Self::Io(io::Error::other(error)),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<DatabaseError> for Failure {
    fn from(error: DatabaseError) -> Self {
        match error {
            DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => Self::InUse,
            DatabaseError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TableError> for Failure {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Storage(error) => error.into(),
            other => Self::Damaged(other.to_string()),
        }
    }
}
