//! Disks that are full or do not answer, and how much of them is used.

use super::*;

fn large(index: u64) -> Batch {
    Batch { entries: vec![entry(index, 1, 100_000)], ..Batch::default() }
}

#[test]
fn a_batch_that_found_no_room_is_written_once_there_is_room() {
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(&disk).unwrap();
    disk.set_capacity(Some(600));
    let mut index = 1;
    while storage.write(&large(index)).is_ok() {
        index += 1;
        assert!(index < 1000, "the disk was never full");
    }
    for _ in 0..3 {
        storage.write(&large(index)).unwrap_err();
    }
    disk.set_capacity(None);
    storage.write(&large(index)).unwrap();
    storage.write(&large(index + 1)).unwrap();
    drop(storage);
    let (_, found) = open(&disk).unwrap();
    assert_eq!(found.entries, (1..=index + 1).map(|index| entry(index, 1, 100_000)).collect::<Vec<_>>());
}

#[test]
fn a_full_disk_loses_nothing_when_the_node_stops_there() {
    for seed in 0..40 {
        let disk = SimDisk::new(seed);
        let (mut storage, _) = open(&disk).unwrap();
        disk.set_capacity(Some(200 + 5 * seed as usize));
        let mut index = 1;
        while storage.write(&large(index)).is_ok() {
            index += 1;
        }
        drop(storage);
        disk.set_capacity(None);
        disk.cut_power();
        disk.restore_power();
        let (mut storage, found) = open(&disk).unwrap();
        let last = found.entries.len() as u64;
        assert!(last == index - 1 || last == index, "seed {seed}: {last} entries, {} acknowledged", index - 1);
        storage.write(&large(index)).unwrap();
    }
}

#[test]
fn a_storage_that_cannot_be_written_anew_leaves_no_files_behind() {
    let disk = SimDisk::new(0);
    disk.set_capacity(Some(5));
    for _ in 0..3 {
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, OpenError::Io { .. }), "{error:?}");
    }
    assert_eq!(disk.files(), 0);
    disk.set_capacity(None);
    let (mut storage, _) = open(&disk).unwrap();
    disk.fail_syncs(1);
    storage.write(&large(1)).unwrap_err();
    disk.set_capacity(Some(20));
    for _ in 0..3 {
        storage.write(&large(1)).unwrap_err();
    }
    assert_eq!(disk.files(), 1);
    disk.set_capacity(None);
    storage.write(&large(1)).unwrap();
    assert_eq!(disk.files(), 1);
}

#[test]
fn what_is_acknowledged_after_a_failed_sync_survives_a_power_failure() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let mut history = History::new(seed);
        let (mut storage, _) = open(&disk).unwrap();
        for round in 0..10 {
            let batch = history.next();
            disk.fail_syncs(history.chance.u64(0..4));
            let mut tries = 0;
            while storage.write(&batch).is_err() {
                tries += 1;
                assert!(tries < 10, "seed {seed}, round {round}");
            }
            history.acknowledge(&batch);
            disk.fail_syncs(0);
        }
        disk.cut_power();
        disk.restore_power();
        let (_, found) = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert!(found == history.remembered(), "seed {seed}");
    }
}

#[test]
fn the_file_of_a_node_that_writes_for_ever_does_not_grow() {
    const ENTRIES: u64 = 100_000;
    const KEPT: u64 = 1_000;
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(&disk).unwrap();
    let mut largest = 0;
    for first in (1..=ENTRIES).step_by(10) {
        let mut batch = Batch { entries: (first..first + 10).map(|index| entry(index, 1, 100)).collect(), ..Batch::default() };
        let last = first + 9;
        batch.hard_state = hard_state(1, NODE.0, last);
        storage.write(&batch).unwrap();
        if last % KEPT == 0 {
            let snapshot = SnapshotData { index: last, term: 1, state: vec![1; 10_000], ..SnapshotData::default() };
            storage.write(&Batch { snapshot: Some(snapshot), forget_through: Some(last), ..Batch::default() }).unwrap();
            largest = largest.max(disk.content().unwrap().len());
        }
    }
    // A thousand entries of 120 bytes and two snapshots are some 150 kB, of which two versions may be there.
    assert!(largest < 1 << 20, "the file grew to {largest} bytes");
}
