//! Power failures at any moment.

use super::*;

/// What a node may find after a power failure: everything that was acknowledged, and at most the batch under way.
fn assert_recovers(disk: &SimDisk, history: &mut History, under_way: Option<&Batch>, context: &str) -> RedbStorage {
    disk.restore_power();
    let (storage, found) = open(disk).unwrap_or_else(|error| panic!("{context}: {error}"));
    if found != history.remembered() {
        if let Some(batch) = under_way {
            history.acknowledge(batch);
        }
        assert!(found == history.remembered(), "{context}: neither with nor without the batch under way");
    }
    storage
}

#[test]
fn a_power_failure_at_any_moment_leaves_what_was_acknowledged_and_at_most_the_batch_under_way() {
    let mut with = 0;
    let mut without = 0;
    for seed in 0..600 {
        let disk = SimDisk::new(seed);
        let mut history = History::new(seed);
        let mut chance = fastrand::Rng::with_seed(seed);
        // The first power failure may hit the making of the file.
        disk.cut_power_after(chance.u64(1..150));
        let mut storage = open(&disk).ok().map(|(storage, _)| storage);
        for life in 0..4 {
            let context = format!("seed {seed}, life {life}");
            let mut under_way = None;
            if let Some(mut open) = storage {
                loop {
                    let batch = history.next();
                    if open.write(&batch).is_err() {
                        under_way = Some(batch);
                        break;
                    }
                    history.acknowledge(&batch);
                }
            }
            assert!(disk.is_dark(), "{context}");
            let before = history.remembered();
            let recovered = assert_recovers(&disk, &mut history, under_way.as_ref(), &context);
            if history.remembered() == before {
                without += 1;
            } else {
                with += 1;
            }
            disk.cut_power_after(chance.u64(1..150));
            // The next one may hit the recovery itself.
            drop(recovered);
            storage = open(&disk).ok().map(|(storage, _)| storage);
        }
    }
    assert!(with > 20 && without > 20, "{with} with, {without} without the batch under way");
}

#[test]
fn what_was_seen_after_a_power_failure_is_not_lost_in_the_next_one() {
    for seed in 0..300 {
        let disk = SimDisk::new(seed);
        let mut history = History::new(seed);
        let (mut storage, _) = open(&disk).unwrap();
        let mut under_way = history.next();
        disk.cut_power_after(seed % 40 + 1);
        while storage.write(&under_way).is_ok() {
            history.acknowledge(&under_way);
            under_way = history.next();
        }
        drop(assert_recovers(&disk, &mut history, Some(&under_way), &format!("seed {seed}")));
        // Closing it did something, of which the power failure may leave anything.
        disk.cut_power();
        assert_recovers(&disk, &mut history, None, &format!("seed {seed}, again"));
    }
}

#[test]
fn a_founded_node_stays_founded() {
    for seed in 0..100 {
        let disk = SimDisk::new(seed);
        let (mut storage, _) = open(&disk).unwrap();
        disk.cut_power_after(seed % 12 + 1);
        let founded = storage.found(&foundation()).is_ok();
        disk.restore_power();
        let (_, found) = open(&disk).unwrap();
        assert!(found.foundation == Some(foundation()) || (!founded && found.foundation.is_none()), "seed {seed}: {found:?}");
    }
}

#[test]
fn a_power_failure_after_failed_operations_leaves_what_was_acknowledged() {
    let mut between_tries = 0;
    for seed in 0..600 {
        let disk = SimDisk::new(seed);
        let mut history = History::new(seed);
        let mut chance = fastrand::Rng::with_seed(seed);
        let (mut storage, _) = open(&disk).unwrap();
        disk.cut_power_after(chance.u64(1..150));
        let under_way = 'life: loop {
            let batch = history.next();
            let mut tries = 0;
            loop {
                match chance.u8(0..6) {
                    0 => disk.fail_syncs(chance.u64(1..3)),
                    1 | 2 => disk.fail_after(chance.u64(0..20)),
                    _ => (),
                }
                if storage.write(&batch).is_ok() {
                    break;
                }
                if disk.is_dark() {
                    between_tries += usize::from(tries > 0);
                    break 'life batch;
                }
                tries += 1;
            }
            history.acknowledge(&batch);
        };
        drop(storage);
        assert_recovers(&disk, &mut history, Some(&under_way), &format!("seed {seed}"));
    }
    assert!(between_tries > 20, "{between_tries}");
}
