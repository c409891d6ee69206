//! A disk that loses power, fills up and fails, for tests and simulations.
//!
//! What is written is there for whoever reads it, but lasts only once it was synced. When the power goes, each 512-byte
//! sector that was written since the last sync is on the disk or is not, as chance has it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ::redb::StorageBackend;

use crate::storage::medium::{Fresh, Medium};

const SECTOR: usize = 512;
const BLOCK: usize = 4096;
const IN_PLACE: &str = "raft.db";

/// A disk with one storage on it. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    chance: fastrand::Rng,
    /// By name. A file that was replaced lives on without a name, with whoever has it open.
    names: BTreeMap<String, usize>,
    files: Vec<File>,
    /// How many times the power came back: what was open before is not any more.
    boots: u64,
    operations: u64,
    power_fails_at: Option<u64>,
    dark: bool,
    capacity: Option<usize>,
    failing_syncs: u64,
    breaks_at: Option<u64>,
}

#[derive(Debug, Default)]
struct File {
    /// What a reader sees.
    cached: Vec<u8>,
    /// What is on the disk for sure.
    durable: Vec<u8>,
    /// What has changed since.
    pending: Vec<Pending>,
    /// The blocks that take room: a file that was made longer is not filled.
    blocks: BTreeSet<usize>,
}

#[derive(Debug)]
enum Pending {
    Length(usize),
    Sector { at: usize, bytes: Vec<u8> },
}

impl Pending {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Length(length) => content.resize(*length, 0),
            Self::Sector { at, bytes } => {
                let end = at + bytes.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[*at..end].copy_from_slice(bytes);
            }
        }
    }
}

impl SimDisk {
    /// An empty disk; the seed decides what a power failure leaves.
    pub fn new(seed: u64) -> Self {
        let disk = Disk {
            chance: fastrand::Rng::with_seed(seed),
            names: BTreeMap::new(),
            files: Vec::new(),
            boots: 0,
            operations: 0,
            power_fails_at: None,
            dark: false,
            capacity: None,
            failing_syncs: 0,
            breaks_at: None,
        };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// The power fails when this many more operations (writes, syncs, changes of a length) have been done.
    pub fn cut_power_after(&self, operations: u64) {
        let mut disk = self.lock();
        disk.power_fails_at = Some(disk.operations + operations);
    }

    /// The power fails now.
    pub fn cut_power(&self) {
        self.lock().cut_power();
    }

    /// Whether the power is off. Then every operation fails.
    pub fn is_dark(&self) -> bool {
        self.lock().dark
    }

    /// The power comes back, and the disk works again. What was open before stays useless.
    pub fn restore_power(&self) {
        let mut disk = self.lock();
        if !disk.dark {
            disk.cut_power();
        }
        disk.dark = false;
        disk.power_fails_at = None;
        disk.failing_syncs = 0;
        disk.breaks_at = None;
        disk.boots += 1;
    }

    /// Limits how many blocks of 4096 bytes all files together may hold; no limit without.
    pub fn set_capacity(&self, blocks: Option<usize>) {
        self.lock().capacity = blocks;
    }

    /// How many files there are.
    pub fn files(&self) -> usize {
        self.lock().names.len()
    }

    /// The next syncs fail. What they should have written can still be read, but any of it is lost when the power fails,
    /// even if a later sync succeeds: this is what Linux does.
    pub fn fail_syncs(&self, count: u64) {
        self.lock().failing_syncs = count;
    }

    /// One operation fails, after this many more were done: a write that may have been done all the same, a change of a
    /// length that was not, or a sync as with [`SimDisk::fail_syncs`].
    pub fn fail_after(&self, operations: u64) {
        let mut disk = self.lock();
        disk.breaks_at = Some(disk.operations + operations + 1);
    }

    /// How many operations were done.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// The content of the storage's file, as a reader sees it.
    pub fn content(&self) -> Option<Vec<u8>> {
        let disk = self.lock();
        disk.names.get(IN_PLACE).map(|file| disk.files[*file].cached.clone())
    }

    /// Puts another content into the storage's file, durably.
    pub fn set_content(&self, content: &[u8]) {
        let mut disk = self.lock();
        let file = disk.add(IN_PLACE);
        disk.files[file].cached = content.to_vec();
        disk.files[file].durable = content.to_vec();
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, file: usize, boot: u64) -> Arc<dyn StorageBackend> {
        Arc::new(Handle { disk: self.clone(), file, boot })
    }
}

impl Disk {
    fn add(&mut self, name: &str) -> usize {
        self.files.push(File::default());
        let file = self.files.len() - 1;
        self.names.insert(name.to_owned(), file);
        file
    }

    /// Counts one operation, during which the power may fail.
    fn operation(&mut self) -> io::Result<()> {
        if self.dark {
            return Err(io::Error::other("the power is off"));
        }
        self.operations += 1;
        if self.power_fails_at.is_some_and(|at| self.operations >= at) {
            self.cut_power();
            return Err(io::Error::other("the power fails"));
        }
        Ok(())
    }

    /// Counts one operation, which may fail by itself.
    fn fallible_operation(&mut self) -> io::Result<()> {
        self.operation()?;
        if self.breaks_at == Some(self.operations) { Err(io::Error::other("the disk did not take it")) } else { Ok(()) }
    }

    fn cut_power(&mut self) {
        self.dark = true;
        for file in &mut self.files {
            let survives = *self.chance.choice([0.0, 0.1, 0.5, 0.9, 1.0].iter()).unwrap_or(&0.5);
            for pending in file.pending.drain(..) {
                if self.chance.f64() < survives {
                    pending.apply(&mut file.durable);
                }
            }
            file.cached = file.durable.clone();
        }
    }

    /// Takes the room that a write needs.
    fn take_room(&mut self, file: usize, at: usize, length: usize) -> io::Result<()> {
        let needed = at / BLOCK..(at + length).div_ceil(BLOCK);
        if let Some(capacity) = self.capacity {
            let used: usize = self.names.values().map(|file| self.files[*file].blocks.len()).sum();
            let more = needed.clone().filter(|block| !self.files[file].blocks.contains(block)).count();
            if more > 0 && used + more > capacity {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        self.files[file].blocks.extend(needed);
        Ok(())
    }
}

impl Medium for SimDisk {
    fn place(&self) -> String {
        IN_PLACE.to_owned()
    }

    fn open(&self) -> io::Result<Option<Arc<dyn StorageBackend>>> {
        let disk = self.lock();
        if disk.dark {
            return Err(io::Error::other("the power is off"));
        }
        Ok(disk.names.get(IN_PLACE).map(|file| self.handle(*file, disk.boots)))
    }

    fn create(&self) -> io::Result<Fresh> {
        let mut disk = self.lock();
        disk.operation()?;
        let name = format!("{IN_PLACE}.{}.new", disk.files.len());
        let file = disk.add(&name);
        Ok(Fresh { file: self.handle(file, disk.boots), name })
    }

    fn install(&self, fresh: &Fresh, replace: bool) -> io::Result<bool> {
        let mut disk = self.lock();
        disk.operation()?;
        if !replace && disk.names.contains_key(IN_PLACE) {
            return Ok(false);
        }
        let Some(file) = disk.names.remove(&fresh.name) else { return Err(io::ErrorKind::NotFound.into()) };
        disk.names.insert(IN_PLACE.to_owned(), file);
        Ok(true)
    }

    fn keep(&self) -> io::Result<String> {
        let mut disk = self.lock();
        disk.operation()?;
        let Some(file) = disk.names.get(IN_PLACE).copied() else { return Err(io::ErrorKind::NotFound.into()) };
        let kept = format!("{IN_PLACE}.kept.{}", disk.names.len());
        disk.names.insert(kept.clone(), file);
        Ok(kept)
    }

    fn discard(&self, fresh: &Fresh) {
        self.lock().names.remove(&fresh.name);
    }

    fn sweep(&self) {
        self.lock().names.retain(|name, _| !name.ends_with(".new"));
    }
}

#[derive(Debug)]
struct Handle {
    disk: SimDisk,
    file: usize,
    boot: u64,
}

impl Handle {
    fn with<T>(&self, action: impl FnOnce(&mut Disk) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.boots != self.boot || disk.dark {
            return Err(io::Error::other("the power was off"));
        }
        action(&mut disk)
    }
}

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        self.with(|disk| Ok(disk.files[self.file].cached.len() as u64))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.with(|disk| {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            let found = disk.files[self.file].cached.get(start..start.saturating_add(out.len()));
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|disk| {
            let length = usize::try_from(len).map_err(io::Error::other)?;
            disk.fallible_operation()?;
            let file = &mut disk.files[self.file];
            file.blocks.split_off(&length.div_ceil(BLOCK));
            let pending = Pending::Length(length);
            pending.apply(&mut file.cached);
            file.pending.push(pending);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.with(|disk| {
            disk.operation()?;
            let fails = disk.failing_syncs > 0 || disk.breaks_at == Some(disk.operations);
            disk.failing_syncs = disk.failing_syncs.saturating_sub(1);
            let file = &mut disk.files[self.file];
            for pending in file.pending.drain(..) {
                if !fails || disk.chance.bool() {
                    pending.apply(&mut file.durable);
                }
            }
            if fails { Err(io::Error::other("the disk did not take it")) } else { Ok(()) }
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|disk| {
            let mut at = usize::try_from(offset).map_err(io::Error::other)?;
            disk.take_room(self.file, at, data.len())?;
            let mut rest = data;
            let mut sectors = Vec::new();
            while !rest.is_empty() {
                let (now, later) = rest.split_at(rest.len().min(SECTOR - at % SECTOR));
                sectors.push(Pending::Sector { at, bytes: now.to_vec() });
                at += now.len();
                rest = later;
            }
            let file = &mut disk.files[self.file];
            for sector in sectors {
                sector.apply(&mut file.cached);
                file.pending.push(sector);
            }
            // After it, so that a write during which the power fails may be on the disk in part.
            disk.fallible_operation()
        })
    }
}
