//! What the agent tells the guard: one small record in a file in memory.
//!
//! Not a message: it is there when nobody listens, it outlives the agent, and the next agent of the same data directory
//! finds it. Both sides only touch memory, so that neither a full pipe nor a disk that hangs can hold them up.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dcs_core::Moment;
use nix::fcntl::OFlag;
use nix::unistd::Uid;

/// What a record begins with.
const MAGIC: [u8; 8] = *b"QUORATE1";
/// Its length, with the checksum that ends it.
const LENGTH: usize = 48;
/// Where files are kept in memory on Linux.
const IN_MEMORY: &str = "/dev/shm";

/// A process that is named for ever: the pid may be used again, the pid with its start time not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) pid: i32,
    /// In clock ticks since boot.
    pub(super) start_ticks: u64,
}

/// What is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Which agent says so: the later one counts.
    pub(super) generation: u64,
    /// When PostgreSQL must be stopped, on the clock that counts suspend; nothing: it need not.
    pub(super) until: Option<Moment>,
    /// The postmaster, if it is known.
    pub(super) postmaster: Option<Named>,
}

impl Record {
    pub(super) fn to_bytes(self) -> [u8; LENGTH] {
        let nanoseconds = self.until.map_or(0, |until| u64::try_from(until.since_origin().as_nanos()).unwrap_or(u64::MAX));
        let (pid, ticks) = self.postmaster.map_or((0, 0), |named| (i64::from(named.pid), named.start_ticks));
        let mut bytes = [0; LENGTH];
        let fields = [MAGIC, self.generation.to_le_bytes(), nanoseconds.to_le_bytes(), pid.to_le_bytes(), ticks.to_le_bytes()];
        for (place, field) in bytes.chunks_exact_mut(8).zip(fields) {
            place.copy_from_slice(&field);
        }
        let sum = u64::from(crc32fast::hash(&bytes[..LENGTH - 8]));
        bytes[LENGTH - 8..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Nothing if it is not whole: it is being written, or was never written.
    pub(super) fn from_bytes(bytes: &[u8; LENGTH]) -> Option<Self> {
        let mut fields = bytes.chunks_exact(8).map(|field| field.try_into().map(u64::from_le_bytes).unwrap_or_default());
        let mut next = || fields.next().unwrap_or_default();
        let [magic, generation, nanoseconds, pid, start_ticks, sum] = std::array::from_fn(|_| next());
        if magic != u64::from_le_bytes(MAGIC) || sum != u64::from(crc32fast::hash(&bytes[..LENGTH - 8])) {
            return None;
        }
        let until = (nanoseconds != 0).then(|| Moment::from_origin(Duration::from_nanos(nanoseconds)));
        let pid = i32::try_from(pid).ok().filter(|pid| *pid > 0);
        Some(Self { generation, until, postmaster: pid.map(|pid| Named { pid, start_ticks }) })
    }

    pub(super) fn read(file: &File) -> Option<Self> {
        let mut bytes = [0; LENGTH];
        file.read_exact_at(&mut bytes, 0).ok()?;
        Self::from_bytes(&bytes)
    }

    pub(super) fn write(self, file: &File) -> io::Result<()> {
        file.write_all_at(&self.to_bytes(), 0)
    }
}

/// Where the record of the agent of `data_dir` is, for this user.
pub(super) fn path_of(data_dir: &Path) -> PathBuf {
    let memory = Path::new(IN_MEMORY);
    let directory = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    // FNV-1a: a name must be the same whoever computes it, which the standard library does not promise of its hashes.
    let hash = data_dir
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    directory.join(format!("quorate-lease-guard.{}.{hash:016x}", Uid::effective()))
}

/// Opens the record of `data_dir`, and makes it if there is none. Behind the record stands the directory that it is about.
pub(super) fn open(data_dir: &Path) -> io::Result<File> {
    let path = path_of(data_dir);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlag::O_NOFOLLOW.bits())
        .open(&path)?;
    let found = file.metadata()?;
    // The directory is everybody's: what somebody else has put there says nothing to us.
    if !found.is_file() || found.uid() != Uid::effective().as_raw() || found.nlink() != 1 {
        return Err(io::Error::other(format!("{} is not a file of ours", path.display())));
    }
    if found.len() < LENGTH as u64 {
        file.write_all_at(&[0; LENGTH], 0)?;
        file.write_all_at(data_dir.as_os_str().as_encoded_bytes(), LENGTH as u64)?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record() -> impl Strategy<Value = Record> {
        let until = proptest::option::of(1..u64::MAX).prop_map(|nanos| nanos.map(|nanos| Moment::from_origin(Duration::from_nanos(nanos))));
        let postmaster = proptest::option::of((1..i32::MAX, any::<u64>()));
        let named = postmaster.prop_map(|named| named.map(|(pid, start_ticks)| Named { pid, start_ticks }));
        (any::<u64>(), until, named).prop_map(|(generation, until, postmaster)| Record { generation, until, postmaster })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_what_is_damaged_is_not(record in record(), place in 0..LENGTH, bit in 0..8_u32) {
            let mut bytes = record.to_bytes();
            prop_assert_eq!(Record::from_bytes(&bytes), Some(record));
            bytes[place] ^= 1_u8 << bit;
            prop_assert_eq!(Record::from_bytes(&bytes), None);
        }

        #[test]
        fn half_of_one_record_and_half_of_another_are_none(one in record(), other in record(), at in 8..40_usize) {
            prop_assume!(one != other);
            let mut bytes = one.to_bytes();
            bytes[..at].copy_from_slice(&other.to_bytes()[..at]);
            let read = Record::from_bytes(&bytes);
            prop_assert!(read.is_none() || read == Some(one) || read == Some(other));
        }
    }

    #[test]
    fn every_data_directory_has_a_record_of_its_own_that_is_found_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let (a, b) = (directory.path().join("a"), directory.path().join("b"));
        assert_ne!(path_of(&a), path_of(&b));
        let said = Record { generation: 1, until: None, postmaster: None };
        let file = open(&a).expect("made");
        assert_eq!(Record::read(&file), None, "nobody has said anything");
        said.write(&file).expect("written");
        assert_eq!(Record::read(&open(&a).expect("found")), Some(said));
        std::fs::remove_file(path_of(&a)).expect("removed");
    }
}
