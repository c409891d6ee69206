//! The storage of a real node, in a directory.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::storage::container::Container;
use crate::storage::medium::{Directory, FILE_NAME, Medium};

#[test]
fn the_first_start_makes_a_node_and_later_ones_find_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("below").join("it");
    let (storage, first) = RedbStorage::open(&path).unwrap();
    assert_ne!(first.id, NodeId(0));
    assert_eq!(first, Remembered::of_new(first.id));
    drop(storage);
    assert_eq!(fs::metadata(path.join(FILE_NAME)).unwrap().permissions().mode() & 0o777, 0o600);

    let (mut storage, again) = RedbStorage::open(&path).unwrap();
    assert_eq!(again, first);
    storage.found(&foundation()).unwrap();
    let mut history = History::new(1);
    for _ in 0..100 {
        let batch = history.next();
        storage.write(&batch).unwrap();
        history.acknowledge(&batch);
    }
    drop(storage);
    let (_, found) = RedbStorage::open(&path).unwrap();
    assert_eq!(found, Remembered { id: first.id, foundation: Some(foundation()), ..history.remembered() });

    let (_other, other) = RedbStorage::open(&directory.path().join("other")).unwrap();
    assert_ne!(other.id, first.id);
}

#[test]
fn what_a_cut_short_first_start_left_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join(format!("{FILE_NAME}.0123.new")), "half of").unwrap();
    drop(RedbStorage::open(directory.path()).unwrap());
    let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, [FILE_NAME]);
}

#[test]
fn two_first_starts_at_once_make_one_node() {
    let directory = tempfile::tempdir().unwrap();
    let barrier = std::sync::Barrier::new(2);
    std::thread::scope(|scope| {
        let start = || {
            barrier.wait();
            RedbStorage::open(directory.path())
        };
        let (one, two) = (scope.spawn(start), scope.spawn(start));
        // Both results live until here: the one that opened the storage still has it.
        let results = [one.join().unwrap(), two.join().unwrap()];
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1, "{results:?}");
        assert!(results.iter().any(|result| matches!(result, Err(OpenError::InUse { .. }))), "{results:?}");
    });
}

#[test]
fn a_second_process_is_told_which_file_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let (_storage, _) = RedbStorage::open(directory.path()).unwrap();
    let error = RedbStorage::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    assert!(error.to_string().contains(&directory.path().join(FILE_NAME).display().to_string()), "{error}");
}

#[test]
fn a_file_that_is_locked_without_being_opened_is_in_use_as_well() {
    let directory = tempfile::tempdir().unwrap();
    let (storage, _) = RedbStorage::open(directory.path()).unwrap();
    let container = Container::new(Directory::new(directory.path()).open().unwrap().unwrap());
    assert!(!container.lock().unwrap());
    drop(storage);
    assert!(container.lock().unwrap());
    let error = RedbStorage::open(directory.path()).unwrap_err();
    assert!(matches!(error, OpenError::InUse { .. }), "{error:?}");
    drop(container);
    RedbStorage::open(directory.path()).unwrap();
}

#[test]
fn a_cluster_is_founded_once() {
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(&disk).unwrap();
    storage.found(&foundation()).unwrap();
    storage.found(&foundation()).unwrap();
    let other = Foundation { cluster: ClusterId(1), members: Vec::new() };
    assert_eq!(refusal(storage.found(&other)), "the node belongs to another cluster already");
    drop(storage);
    assert_eq!(open(&disk).unwrap().1.foundation, Some(foundation()));
}

#[test]
fn a_batch_that_could_not_be_opened_again_is_refused_and_changes_nothing() {
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(&disk).unwrap();
    let good = Batch { hard_state: hard_state(3, 7, 1), entries: vec![entry(1, 3, 10), entry(2, 3, 10)], ..Batch::default() };
    storage.write(&good).unwrap();
    let operations = disk.operations();
    let gap = Batch { hard_state: hard_state(4, 0, 1), entries: vec![entry(4, 3, 10)], ..Batch::default() };
    assert_eq!(refusal(storage.write(&gap)), "entry 4 does not follow entry 2");
    assert_eq!(disk.operations(), operations);
    storage.write(&Batch { entries: vec![entry(3, 3, 10)], ..Batch::default() }).unwrap();
    drop(storage);
    let (_, found) = open(&disk).unwrap();
    assert_eq!((found.entries.len(), found.hard_state), (3, hard_state(3, 7, 1).unwrap()));
}

#[test]
fn both_storages_remember_the_same_and_writing_twice_is_writing_once() {
    for seed in 0..20 {
        let disk = SimDisk::new(seed);
        let (mut storage, _) = open(&disk).unwrap();
        let mut history = History::new(seed);
        for _ in 0..200 {
            let batch = history.next();
            storage.write(&batch).unwrap();
            history.acknowledge(&batch);
            if history.chance.u8(0..10) == 0 {
                storage.write(&batch).unwrap();
                history.acknowledge(&batch);
            }
            if history.chance.u8(0..40) == 0 {
                drop(storage);
                let found;
                (storage, found) = open(&disk).unwrap();
                assert_eq!(found, history.remembered(), "seed {seed}");
            }
        }
    }
}
