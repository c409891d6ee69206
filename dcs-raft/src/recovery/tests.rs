//! Forming a new cluster: what is in it, what is refused, and power failures in the middle.

use std::fs;

use super::*;
use crate::command::{Command, Operation, Record, StoredKey, Transaction};
use crate::message::LogEntry;
use crate::storage::sim::SimDisk;
use crate::storage::{Batch, Storage};

const NODE: NodeId = NodeId(7);
const OLD: ClusterId = ClusterId(1);
const NEW: ClusterId = ClusterId(2);

fn foundation() -> Foundation {
    let member = |id, address: &str| Member { id: NodeId(id), address: address.to_owned(), absent: false };
    Foundation { cluster: OLD, members: vec![member(7, "a:1"), member(8, "b:1"), member(9, "c:1")] }
}

fn entry(index: u64, time_ms: u64, operations: Vec<Operation>) -> LogEntry {
    let transaction = Transaction { then: operations, ..Transaction::default() };
    let record = Record { time_ms, proposal: None, command: Command::Transaction(transaction) };
    LogEntry { index, term: 3, data: record::encode(&record), ..LogEntry::default() }
}

fn put(key: &str, handle: Option<u64>) -> Operation {
    Operation::Put { key: key.to_owned(), value: b"x".to_vec(), handle }
}

/// A node of three with four entries, two of which it knows to be committed.
fn fill(mut storage: RedbStorage) {
    storage.found(&foundation()).unwrap();
    let entries = vec![
        LogEntry { index: 1, term: 3, ..LogEntry::default() },
        entry(2, 1_000, vec![put("/committed", None), Operation::Grant { ttl_ms: 30_000 }]),
        entry(3, 2_000, vec![put("/bound", Some(2))]),
        entry(4, 25_000, vec![put("/received", None)]),
    ];
    let hard_state = Some(HardState { term: 5, vote: 8, commit: 2 });
    storage.write(&Batch { hard_state, entries, ..Batch::default() }).unwrap();
}

fn on(directory: &Path) -> Result<(RedbStorage, Remembered), OpenError> {
    RedbStorage::open_on(Box::new(Directory::new(directory)), NODE)
}

fn disk(seed: u64) -> SimDisk {
    let disk = SimDisk::new(seed);
    fill(RedbStorage::open_on(Box::new(disk.clone()), NODE).unwrap().0);
    disk
}

fn address() -> Address {
    "a:2".parse().unwrap()
}

fn remembered(disk: &SimDisk) -> Remembered {
    RedbStorage::open_if_there(Box::new(disk.clone())).unwrap().unwrap().1
}

fn cluster_of(remembered: &Remembered) -> ClusterId {
    remembered.foundation.as_ref().unwrap().cluster
}

#[test]
fn a_report_says_what_there_is_and_what_may_be_lost() {
    let directory = tempfile::tempdir().unwrap();
    fill(on(directory.path()).unwrap().0);
    let report = inspect(directory.path()).unwrap();
    assert_eq!((report.cluster, report.term, report.last_index, report.commit), (OLD, 5, 4, 2));
    assert_eq!((report.snapshot_index, report.clock_ms, report.keys, report.members.len()), (0, 25_000, 3, 3));
    let text = report.what_may_be_lost().join("\n");
    assert!(text.contains("after entry 4") && text.contains("entries 3 to 4") && !text.contains("a:1"), "{text}");
    assert_eq!(inspect(directory.path()).unwrap(), report, "looking changes nothing");
}

#[test]
fn the_new_cluster_has_everything_that_the_node_had_and_nobody_else() {
    let disk = disk(1);
    let report = form_on(Box::new(disk.clone()), &address(), NEW).unwrap();
    assert!(report.kept.is_some());
    let new = remembered(&disk);
    assert_eq!((new.id, cluster_of(&new)), (report.node, NEW));
    assert!(new.hard_state.term > 5 && new.hard_state.vote == 0 && new.entries.is_empty());

    let snapshot = new.snapshot.unwrap();
    assert_eq!(snapshot.configuration, Configuration { voters: vec![report.node.0], ..Configuration::default() });
    let state = State::decode(&snapshot.state).unwrap();
    assert_eq!((state.cluster(), state.applied(), state.clock_ms()), (NEW, snapshot.index, 25_000));
    assert_eq!(state.members().values().map(|member| member.address.as_str()).collect::<Vec<_>>(), ["a:2"]);
    let keys: Vec<String> = state.keys_with_prefix("").into_iter().map(|StoredKey { key, .. }| key).collect();
    assert_eq!(keys, ["/bound", "/committed", "/received"]);
    assert!(snapshot.index > 1_000_000, "an index that the old cluster may have used is used again: {}", snapshot.index);
    assert_eq!(state.due_ms(), Some(55_000), "the handle lives its whole time from the end of the log on");
}

#[test]
fn a_power_failure_at_any_moment_leaves_the_old_cluster_or_the_new_one() {
    let (mut old, mut new) = (0, 0);
    for operations in 1.. {
        let disk = disk(operations);
        disk.cut_power_after(operations);
        let formed = form_on(Box::new(disk.clone()), &address(), NEW);
        let finished = !disk.is_dark();
        disk.restore_power();
        let found = remembered(&disk);
        match cluster_of(&found) {
            OLD => {
                assert!(formed.is_err(), "after {operations} operations: it was said to be done");
                assert_eq!((found.entries.len(), found.hard_state.term), (4, 5));
                old += 1;
            }
            cluster => {
                assert_eq!(cluster, NEW);
                assert!(State::decode(&found.snapshot.unwrap().state).is_ok());
                new += 1;
            }
        }
        // It can be done again, whatever there is.
        form_on(Box::new(disk.clone()), &address(), ClusterId(3)).unwrap();
        assert_eq!(cluster_of(&remembered(&disk)), ClusterId(3));
        if finished {
            break;
        }
    }
    assert!(old > 10 && new > 0, "{old} times the old, {new} times the new");
}

#[test]
fn every_storage_that_was_replaced_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    fill(on(directory.path()).unwrap().0);
    let before = fs::read(directory.path().join("raft.db")).unwrap();
    let kept: Vec<String> = (0..2).map(|_| form_new_cluster(directory.path(), &address()).unwrap().kept.unwrap()).collect();
    assert!(kept[0].ends_with("raft.db.before-recovery-1") && kept[1].ends_with("raft.db.before-recovery-2"), "{kept:?}");
    assert_eq!(fs::read(&kept[0]).unwrap().len(), before.len());
    // What was kept can be used again.
    fs::rename(&kept[0], directory.path().join("raft.db")).unwrap();
    assert_eq!(inspect(directory.path()).unwrap().cluster, OLD);
}

#[test]
fn without_a_cluster_there_is_nothing_to_form_one_from() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("missing");
    assert!(matches!(inspect(&missing), Err(RecoveryError::NoStorage { .. })));
    assert!(matches!(form_new_cluster(&missing, &address()), Err(RecoveryError::NoStorage { .. })));
    assert!(!missing.exists(), "looking made something");

    drop(RedbStorage::open(directory.path()).unwrap());
    assert!(matches!(inspect(directory.path()), Err(RecoveryError::NotFounded { .. })));
    assert!(matches!(form_new_cluster(directory.path(), &address()), Err(RecoveryError::NotFounded { .. })));
}

#[test]
fn a_storage_that_is_open_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    fill(on(directory.path()).unwrap().0);
    let running = RedbStorage::open(directory.path()).unwrap();
    for result in [inspect(directory.path()), form_new_cluster(directory.path(), &address())] {
        assert!(matches!(result, Err(RecoveryError::Open(OpenError::InUse { .. }))), "{result:?}");
    }
    drop(running);
    assert_eq!(inspect(directory.path()).unwrap().cluster, OLD);
}
