//! Files that are not what was written: whatever happened to them, they hold everything or are refused.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;

/// What becomes of a damaged file.
#[derive(Debug, Default)]
struct Tally {
    whole: usize,
    refused: usize,
}

impl Tally {
    fn try_open(&mut self, what: &str, content: &[u8], expected: &Remembered) {
        let disk = SimDisk::new(0);
        disk.set_content(content);
        let result = catch_unwind(AssertUnwindSafe(|| open(&disk)));
        match result {
            Ok(Ok((_, found))) => {
                assert!(found == *expected, "{what}: opened with less than was acknowledged, or something else");
                self.whole += 1;
            }
            Ok(Err(OpenError::Damaged { .. } | OpenError::NewerFormat { .. })) => self.refused += 1,
            Ok(Err(other)) => panic!("{what}: {other:?}"),
            Err(_) => panic!("{what}: panicked"),
        }
    }
}

/// A file with some hundred batches in it, as it is while the node runs, and as it is after the node stopped.
fn files() -> ([Vec<u8>; 2], Remembered) {
    let disk = SimDisk::new(1);
    let (mut storage, _) = open(&disk).unwrap();
    storage.found(&foundation()).unwrap();
    let mut history = History::new(2);
    let mut written = 0;
    while written < 400 || history.remembered().entries.len() < 60 {
        let batch = history.next();
        storage.write(&batch).unwrap();
        history.acknowledge(&batch);
        written += 1;
    }
    let running = disk.content().unwrap();
    drop(storage);
    let stopped = disk.content().unwrap();
    ([running, stopped], Remembered { foundation: Some(foundation()), ..history.remembered() })
}

/// Where something can be lost: sectors that hold anything.
fn used_sectors(content: &[u8]) -> Vec<usize> {
    (0..content.len().div_ceil(512)).filter(|sector| content[sector * 512..].iter().take(512).any(|byte| *byte != 0)).collect()
}

#[test]
fn a_flipped_bit_never_loses_what_was_acknowledged() {
    let (files, expected) = files();
    let mut chance = fastrand::Rng::with_seed(3);
    let mut tally = Tally::default();
    for (number, file) in files.iter().enumerate() {
        let flip = |byte: usize, bit: u8, tally: &mut Tally| {
            let mut content = file.clone();
            content[byte] ^= 1 << bit;
            tally.try_open(&format!("file {number}, byte {byte}, bit {bit}"), &content, &expected);
        };
        // Format, seals, and the header of the database with its two commits: every byte.
        for byte in (0..32).chain(4096..4112).chain(8192..8208).chain(12288..12288 + 320) {
            flip(byte, chance.u8(0..8), &mut tally);
        }
        // The byte that says which commit is the newest: every bit.
        for bit in 0..8 {
            flip(12288 + 9, bit, &mut tally);
        }
        // The head of every page, and somewhere in every sector that is in use.
        for sector in used_sectors(file) {
            if sector % 8 == 0 {
                for byte in 0..8 {
                    flip(sector * 512 + byte, chance.u8(0..8), &mut tally);
                }
            }
            flip(sector * 512 + chance.usize(0..512), chance.u8(0..8), &mut tally);
        }
    }
    assert!(tally.whole > 0 && tally.refused > 0, "{tally:?}");
}

#[test]
fn a_zeroed_sector_or_page_never_loses_what_was_acknowledged() {
    let (files, expected) = files();
    let mut tally = Tally::default();
    for (number, file) in files.iter().enumerate() {
        for sector in used_sectors(file) {
            let mut content = file.clone();
            content[sector * 512..][..512].fill(0);
            tally.try_open(&format!("file {number}, sector {sector}"), &content, &expected);
            if sector % 8 == 0 {
                content[sector * 512..][..4096].fill(0);
                tally.try_open(&format!("file {number}, page {}", sector / 8), &content, &expected);
            }
        }
    }
    assert!(tally.whole > 0 && tally.refused > 0, "{tally:?}");
}

#[test]
fn a_truncated_or_padded_file_never_loses_what_was_acknowledged() {
    let (files, expected) = files();
    let mut chance = fastrand::Rng::with_seed(4);
    let mut tally = Tally::default();
    for (number, file) in files.iter().enumerate() {
        let random = (0..100).map(|_| chance.usize(0..file.len()));
        let edges = [0, 1, 24, 4095, 4096, 8192, 12287, 12288, 12289, 12608, 16384, file.len() - 1, file.len() + 1, file.len() + 4096];
        let pages = (0..file.len()).step_by(4096);
        for length in random.chain(edges).chain(pages) {
            let mut content = file.clone();
            content.resize(length, 0);
            tally.try_open(&format!("file {number}, {length} of {} bytes", file.len()), &content, &expected);
        }
    }
    assert!(tally.refused > 0, "{tally:?}");
}

#[test]
fn several_damages_at_once_never_lose_what_was_acknowledged() {
    let (files, expected) = files();
    let mut chance = fastrand::Rng::with_seed(5);
    let mut tally = Tally::default();
    for (number, file) in files.iter().enumerate() {
        let used = used_sectors(file);
        for _ in 0..400 {
            let mut content = file.clone();
            let mut done = Vec::new();
            for _ in 0..chance.usize(2..6) {
                // The header of the database is where the worst can happen.
                let sector = if chance.bool() { 24 } else { used[chance.usize(0..used.len())] };
                if sector != 24 && chance.bool() {
                    content[sector * 512..][..512].fill(0);
                    done.push((sector, None));
                } else {
                    let byte = sector * 512 + chance.usize(0..if sector == 24 { 320 } else { 512 });
                    content[byte] ^= 1 << chance.u8(0..8);
                    done.push((sector, Some(byte)));
                }
            }
            tally.try_open(&format!("file {number}, {done:?}"), &content, &expected);
        }
    }
    assert!(tally.refused > 0, "{tally:?}");
}
