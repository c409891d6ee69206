//! A storage in memory for simulations, which write tens of thousands of histories. It accepts and refuses the same
//! batches as the storage on a disk, and fails when it is told to.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::command::Foundation;
use crate::identity::NodeId;
use crate::storage::outline::{Change, Outline};
use crate::storage::{Batch, BatchError, Remembered, Storage, WriteError};

/// How the next write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is no room, and nothing is written. The storage can be written again.
    Full,
    /// The write fails although all of it is there. The storage can be written again.
    Unsure,
    /// The node loses power before anything is there. Every write fails until the storage is opened again.
    CrashBefore,
    /// The node loses power when all of it is there, and nobody was told. Every write fails until the storage is opened
    /// again.
    CrashAfter,
}

/// What survives a node: a disk, as it were. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct MemoryDisk {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug)]
struct Disk {
    outline: Outline,
    remembered: Remembered,
    fault: Option<Fault>,
    crashed: bool,
    /// Which storage may write: the one that was opened last.
    opened: u64,
    writes: u64,
}

/// A storage on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryStorage {
    disk: MemoryDisk,
    opened: u64,
}

impl MemoryDisk {
    /// The disk of a new node.
    pub fn new(id: NodeId) -> Self {
        let remembered = Remembered::of_new(id);
        let disk = Disk { outline: Outline::default(), remembered, fault: None, crashed: false, opened: 0, writes: 0 };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// Opens the storage, after which one that was opened before cannot write any more.
    pub fn open(&self) -> (MemoryStorage, Remembered) {
        let mut disk = self.lock();
        disk.crashed = false;
        disk.opened += 1;
        (MemoryStorage { disk: self.clone(), opened: disk.opened }, disk.remembered.clone())
    }

    /// The next write fails in this way, or no longer does.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.lock().fault = fault;
    }

    /// What is on the disk.
    pub fn remembered(&self) -> Remembered {
        self.lock().remembered.clone()
    }

    /// Whether the node lost power in a write, and was not opened since.
    pub fn is_crashed(&self) -> bool {
        self.lock().crashed
    }

    /// How many writes were done.
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn write(&mut self, batch: &Batch) -> Result<(), BatchError> {
        let entries = &mut self.remembered.entries;
        let Change { forget_through, replace_from, outline } = self.outline.after(batch, |index| {
            let place = entries.binary_search_by_key(&index, |entry| entry.index);
            Ok(place.ok().and_then(|place| entries.get(place)).map(|entry| entry.term))
        })?;
        entries.truncate(entries.partition_point(|entry| entry.index < replace_from));
        entries.drain(..entries.partition_point(|entry| entry.index <= forget_through));
        entries.extend(batch.entries.iter().cloned());
        if let Some(snapshot) = &batch.snapshot {
            self.remembered.snapshot = Some(snapshot.clone());
        }
        self.outline = outline;
        self.remembered.hard_state = outline.hard_state;
        Ok(())
    }

    fn found(&mut self, foundation: &Foundation) -> Result<(), BatchError> {
        match &self.remembered.foundation {
            Some(known) if known != foundation => Err(BatchError::FoundedBefore),
            _ => {
                self.remembered.foundation = Some(foundation.clone());
                Ok(())
            }
        }
    }
}

impl MemoryStorage {
    fn attempt(&self, action: impl FnOnce(&mut Disk) -> Result<(), BatchError>) -> Result<(), WriteError> {
        let error = |source: dcs_core::BoxError| WriteError { place: "memory".to_owned(), source };
        let mut disk = self.disk.lock();
        if disk.crashed || disk.opened != self.opened {
            return Err(error("the node has lost power".into()));
        }
        let fault = disk.fault.take();
        disk.crashed = matches!(fault, Some(Fault::CrashBefore | Fault::CrashAfter));
        if !matches!(fault, Some(Fault::Full | Fault::CrashBefore)) {
            action(&mut disk).map_err(|refused| error(refused.into()))?;
            disk.writes += 1;
        }
        match fault {
            None => Ok(()),
            Some(Fault::Full) => Err(error("no space left".into())),
            Some(Fault::Unsure) => Err(error("the disk did not answer".into())),
            Some(Fault::CrashBefore | Fault::CrashAfter) => Err(error("the node loses power".into())),
        }
    }
}

impl Storage for MemoryStorage {
    fn found(&mut self, foundation: &Foundation) -> Result<(), WriteError> {
        self.attempt(|disk| disk.found(foundation))
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WriteError> {
        self.attempt(|disk| disk.write(batch))
    }
}
