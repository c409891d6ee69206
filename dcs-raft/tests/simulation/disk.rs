//! A disk in memory: it outlives the node that wrote to it, can be full, and can be there or not be there for a write in
//! the middle of which its node died.

use std::sync::{Arc, Mutex, PoisonError};

use dcs_raft::command::Foundation;
use dcs_raft::identity::NodeId;
use dcs_raft::storage::{Batch, HardState, Remembered, Storage, WriteError};

#[derive(Debug)]
struct Content {
    remembered: Remembered,
    full: bool,
    /// The node dies in its next write, which is then there or not.
    crash: Option<bool>,
    crashed: bool,
}

/// What is left when a node dies.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<Mutex<Content>>);

/// The disk, as its node uses it.
#[derive(Debug)]
pub(crate) struct DiskStorage(Disk);

impl Disk {
    pub(crate) fn new(id: NodeId) -> Self {
        let remembered = Remembered { id, foundation: None, hard_state: HardState::default(), snapshot: None, entries: Vec::new() };
        Self(Arc::new(Mutex::new(Content { remembered, full: false, crash: None, crashed: false })))
    }

    pub(crate) fn open(&self) -> DiskStorage {
        DiskStorage(self.clone())
    }

    pub(crate) fn remembered(&self) -> Remembered {
        self.with(|content| {
            (content.crash, content.crashed) = (None, false);
            content.remembered.clone()
        })
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.with(|content| content.full = full);
    }

    pub(crate) fn crash_at_next_write(&self, kept: bool) {
        self.with(|content| content.crash = Some(kept));
    }

    pub(crate) fn has_crashed(&self) -> bool {
        self.with(|content| content.crashed)
    }

    fn with<T>(&self, action: impl FnOnce(&mut Content) -> T) -> T {
        action(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Storage for DiskStorage {
    fn found(&mut self, foundation: &Foundation) -> Result<(), WriteError> {
        self.0.with(|content| {
            assert!(content.remembered.foundation.is_none(), "a node has one cluster");
            content.remembered.foundation = Some(foundation.clone());
        });
        Ok(())
    }

    fn write(&mut self, batch: &Batch) -> Result<(), WriteError> {
        self.0.with(|content| {
            if content.crashed || content.full {
                return Err(no("no room"));
            }
            match content.crash.take() {
                Some(kept) => {
                    content.crashed = true;
                    if kept {
                        put(&mut content.remembered, batch);
                    }
                    Err(no("the node died"))
                }
                None => {
                    put(&mut content.remembered, batch);
                    Ok(())
                }
            }
        })
    }
}

fn no(why: &str) -> WriteError {
    WriteError { place: "disk".to_owned(), source: why.to_owned().into() }
}

fn put(remembered: &mut Remembered, batch: &Batch) {
    if let Some(hard_state) = batch.hard_state {
        assert!(hard_state.term >= remembered.hard_state.term, "the term went back");
        remembered.hard_state = hard_state;
    }
    if let Some(snapshot) = &batch.snapshot {
        remembered.snapshot = Some(snapshot.clone());
    }
    if let Some(through) = batch.forget_through {
        remembered.entries.retain(|entry| entry.index > through);
    }
    if let Some(first) = batch.entries.first() {
        remembered.entries.retain(|entry| entry.index < first.index);
        remembered.entries.extend(batch.entries.iter().cloned());
    }
    let behind = remembered.snapshot.as_ref().map_or(0, |snapshot| snapshot.index);
    for (expected, entry) in (behind + 1..).zip(&remembered.entries) {
        assert_eq!(entry.index, expected, "the log has a gap");
    }
}
