//! The file around the database.
//!
//! ```text
//! 0       4096    8192    12288
//! +-------+-------+-------+---------------------
//! | format| seal 0| seal 1| the redb database ...
//! +-------+-------+-------+---------------------
//! ```
//!
//! A database that finds its newest commit damaged takes the one before: after a crash that is right, because the newest
//! may have been written in part. But damage to a commit that was finished, and acknowledged, looks the same, and a node
//! that goes back in time without knowing it votes twice. So every commit has a number, and once it is on stable storage
//! the number is written to a *seal*, and synced, before anything is acknowledged. When a file is opened, the database must
//! be where the seal says, or one commit ahead of it, and never behind.
//!
//! The seals take turns, so that a crash while one is written leaves the other. A seal that cannot be read may have been
//! the newest one: then the database must be where that would have said. Both stand in blocks of their own.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::redb::backends::InMemoryBackend;
use ::redb::{BackendError, StorageBackend};

/// The version of the format that this program writes.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: [u8; 16] = *b"quorate raft\r\n\x1a\0";
const BLOCK: u64 = 4096;
const DATABASE: u64 = 3 * BLOCK;
const FORMAT_LENGTH: usize = MAGIC.len() + 8;
const SEAL_LENGTH: usize = 12;

/// What the first block of a file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// It can be opened.
    Known,
    /// A newer program wrote it.
    Newer(u32),
    /// It is not a storage of this program, or no longer.
    Unreadable(&'static str),
}

/// A seal that does not fit the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SealError {
    /// The database fell back.
    #[error("it holds only commit {found}, but commit {sealed} was acknowledged")]
    Behind { found: u64, sealed: u64 },
    /// What was acknowledged last is not known.
    #[error("a seal cannot be read, and commit {found} may not be the last one that was acknowledged")]
    Uncertain { found: u64 },
    /// The seals are of another time than the database, or than each other.
    #[error("its seals {seals:?} do not belong to its commit {found}")]
    Foreign { seals: [u64; 2], found: u64 },
    /// Nothing is known about what was acknowledged.
    #[error("neither of its seals can be read")]
    Gone,
}

/// Whether everything that was acknowledged is in a database that is at this commit.
pub(crate) fn judge(seals: [Option<u64>; 2], found: u64) -> Result<(), SealError> {
    let sealed = match seals {
        [Some(even), Some(odd)] => {
            if even.abs_diff(odd) != 1 {
                return Err(SealError::Foreign { seals: [even, odd], found });
            }
            even.max(odd)
        }
        // What the other one said was one less or one more.
        [Some(known), None] | [None, Some(known)] => {
            if found <= known {
                return Err(SealError::Uncertain { found });
            }
            known + 1
        }
        [None, None] => return Err(SealError::Gone),
    };
    if found < sealed {
        Err(SealError::Behind { found, sealed })
    } else if found > sealed + 1 {
        Err(SealError::Foreign { seals: seals.map(Option::unwrap_or_default), found })
    } else {
        Ok(())
    }
}

/// A file with a database and its seals in it.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    file: Arc<dyn StorageBackend>,
    sync_failed: Arc<AtomicBool>,
}

impl Container {
    pub(crate) fn new(file: Arc<dyn StorageBackend>) -> Self {
        Self { file, sync_failed: Arc::default() }
    }

    /// Writes the first blocks of a new file, whose database will be at commit 1.
    pub(crate) fn format(&self) -> io::Result<()> {
        let mut block = [0; FORMAT_LENGTH];
        let (text, sum) = block.split_at_mut(FORMAT_LENGTH - 4);
        text[..MAGIC.len()].copy_from_slice(&MAGIC);
        text[MAGIC.len()..].copy_from_slice(&FORMAT_VERSION.to_be_bytes());
        sum.copy_from_slice(&crc32fast::hash(text).to_be_bytes());
        self.set_len(DATABASE)?;
        self.write(0, &block)?;
        self.seal(0)?;
        self.seal(1)
    }

    /// Reads the first block.
    pub(crate) fn read_format(&self) -> io::Result<Format> {
        // A database of no length would be taken for a new one.
        if self.file.len()? <= DATABASE {
            return Ok(Format::Unreadable("it is cut short"));
        }
        let mut block = [0; FORMAT_LENGTH];
        self.file.read(0, &mut block)?;
        let (text, sum) = block.split_at(FORMAT_LENGTH - 4);
        if text[..MAGIC.len()] != MAGIC {
            return Ok(Format::Unreadable("it does not begin like a Raft storage"));
        }
        if *sum != crc32fast::hash(text).to_be_bytes() {
            return Ok(Format::Unreadable("its first block does not match its checksum"));
        }
        let mut version = [0; 4];
        version.copy_from_slice(&text[MAGIC.len()..]);
        Ok(match u32::from_be_bytes(version) {
            0 => Format::Unreadable("it has no format version"),
            1..=FORMAT_VERSION => Format::Known,
            newer => Format::Newer(newer),
        })
    }

    /// What the database library reads and writes.
    pub(crate) fn database(&self) -> impl StorageBackend + use<> {
        Database { container: self.clone() }
    }

    /// The seals that can be read.
    pub(crate) fn seals(&self) -> io::Result<[Option<u64>; 2]> {
        Ok([self.read_seal(0)?, self.read_seal(1)?])
    }

    fn read_seal(&self, slot: u64) -> io::Result<Option<u64>> {
        let mut bytes = [0; SEAL_LENGTH];
        self.file.read(BLOCK * (slot + 1), &mut bytes)?;
        let mut number = [0; 8];
        number.copy_from_slice(&bytes[..8]);
        let sequence = u64::from_be_bytes(number);
        Ok((bytes == seal_bytes(sequence) && sequence % 2 == slot).then_some(sequence))
    }

    /// Says that this commit is on stable storage; the seal itself is, once this returns.
    pub(crate) fn seal(&self, sequence: u64) -> io::Result<()> {
        self.write(BLOCK * (sequence % 2 + 1), &seal_bytes(sequence))?;
        self.sync()
    }

    /// Makes both seals say that the database is at this commit, which was read from stable storage.
    pub(crate) fn settle(&self, sequence: u64) -> io::Result<()> {
        let seals = self.seals()?;
        for wanted in [sequence.saturating_sub(1), sequence] {
            if !seals.contains(&Some(wanted)) {
                self.seal(wanted)?;
            }
        }
        Ok(())
    }

    /// Whether a sync failed. What was written before it may never reach the medium, although it can be read: later syncs
    /// do not try again. So nothing more is written that could refer to it, and the file stays as the medium has it.
    pub(crate) fn sync_failed(&self) -> bool {
        self.sync_failed.load(Ordering::Acquire)
    }

    /// Locks the file, until it is closed, without opening the database. The answer is false if another process has it.
    pub(crate) fn lock(&self) -> io::Result<bool> {
        match self.file.try_lock_range(Bound::Unbounded, Bound::Unbounded) {
            Ok(locked) => Ok(locked),
            // So does the database library: then there is nobody to lock it against.
            Err(BackendError::Unsupported) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }

    /// A copy in memory of what can be read.
    pub(crate) fn copy(&self) -> io::Result<Arc<dyn StorageBackend>> {
        let length = self.file.len()?;
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read(0, &mut content)?;
        let copy = InMemoryBackend::new();
        copy.set_len(length)?;
        copy.write(0, &content)?;
        Ok(Arc::new(copy))
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.ensure_synced()?;
        self.file.write(offset, data)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.ensure_synced()?;
        self.file.set_len(length)
    }

    fn sync(&self) -> io::Result<()> {
        self.ensure_synced()?;
        self.file.sync_data().inspect_err(|_| self.sync_failed.store(true, Ordering::Release))
    }

    fn ensure_synced(&self) -> io::Result<()> {
        if self.sync_failed() { Err(io::Error::other("an earlier sync of this file failed")) } else { Ok(()) }
    }
}

fn seal_bytes(sequence: u64) -> [u8; SEAL_LENGTH] {
    let mut bytes = [0; SEAL_LENGTH];
    let number = sequence.to_be_bytes();
    bytes[..8].copy_from_slice(&number);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(b"seal ");
    hasher.update(&number);
    bytes[8..].copy_from_slice(&hasher.finalize().to_be_bytes());
    bytes
}

/// The part of the file that is the database. Locks are those of the whole file.
#[derive(Debug)]
struct Database {
    container: Container,
}

impl StorageBackend for Database {
    fn len(&self) -> io::Result<u64> {
        Ok(self.container.file.len()?.saturating_sub(DATABASE))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.container.file.read(offset.saturating_add(DATABASE), out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.container.set_len(len.saturating_add(DATABASE))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.container.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.container.write(offset.saturating_add(DATABASE), data)
    }

    fn close(&self) -> io::Result<()> {
        self.container.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.container.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.container.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.container.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.container.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.container.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.container.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_may_be_one_commit_ahead_of_its_seals_and_never_behind() {
        assert_eq!(judge([Some(8), Some(7)], 8), Ok(()));
        assert_eq!(judge([Some(8), Some(9)], 10), Ok(()));
        assert_eq!(judge([Some(8), Some(9)], 8), Err(SealError::Behind { found: 8, sealed: 9 }));
        assert_eq!(judge([Some(8), Some(9)], 11), Err(SealError::Foreign { seals: [8, 9], found: 11 }));
        assert_eq!(judge([Some(8), Some(11)], 11), Err(SealError::Foreign { seals: [8, 11], found: 11 }));
    }

    #[test]
    fn an_unreadable_seal_is_taken_for_the_newest() {
        // A crash while seal 9 was written: the commit was on stable storage.
        assert_eq!(judge([Some(8), None], 9), Ok(()));
        // Either an old seal was lost, or the newest one and the commit that it spoke of.
        assert_eq!(judge([Some(8), None], 8), Err(SealError::Uncertain { found: 8 }));
        assert_eq!(judge([None, None], 8), Err(SealError::Gone));
    }
}
