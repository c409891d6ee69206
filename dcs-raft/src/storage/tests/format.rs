//! Files of every version of the format that there was.

use std::path::{Path, PathBuf};

use super::*;

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/storage-version-{version}.db"))
}

/// What is in the fixture of version 1.
fn content_of_version_1() -> (Vec<Batch>, Remembered) {
    let snapshot = SnapshotData {
        index: 2,
        term: 1,
        configuration: Configuration { voters: vec![NODE.0, 7], learners: vec![8], ..Configuration::default() },
        state: b"the state as of entry 2".to_vec(),
    };
    let entries: Vec<_> = (1..=5).map(|index| entry(index, index.div_ceil(2), 10)).collect();
    let batches = vec![
        Batch { hard_state: hard_state(3, 7, 3), entries: entries.clone(), ..Batch::default() },
        Batch { snapshot: Some(snapshot.clone()), forget_through: Some(2), ..Batch::default() },
    ];
    let remembered = Remembered {
        id: NODE,
        foundation: Some(foundation()),
        hard_state: hard_state(3, 7, 3).unwrap(),
        snapshot: Some(snapshot),
        entries: entries[2..].to_vec(),
    };
    (batches, remembered)
}

#[test]
fn a_file_of_version_1_is_opened_with_what_is_in_it() {
    let disk = SimDisk::new(0);
    disk.set_content(&unpack(&std::fs::read(fixture(1)).unwrap()));
    let (mut storage, found) = open(&disk).unwrap();
    assert_eq!(found, content_of_version_1().1);
    storage.write(&Batch { entries: vec![entry(6, 3, 10)], ..Batch::default() }).unwrap();
}

/// Writes the fixture. Only for a new version of the format: the files of earlier versions must stay as they are.
#[test]
#[ignore = "writes a file of the repository"]
fn make_the_fixture_of_this_version() {
    let disk = SimDisk::new(0);
    let (mut storage, _) = open(&disk).unwrap();
    storage.found(&foundation()).unwrap();
    for batch in content_of_version_1().0 {
        storage.write(&batch).unwrap();
    }
    drop(storage);
    std::fs::write(fixture(crate::storage::container::FORMAT_VERSION), pack(&disk.content().unwrap())).unwrap();
}

#[test]
fn a_newer_version_is_refused_and_both_versions_are_named() {
    let disk = SimDisk::new(0);
    drop(open(&disk).unwrap());
    let mut content = disk.content().unwrap();
    content[16..20].copy_from_slice(&7_u32.to_be_bytes());
    let sum = crc32fast::hash(&content[..20]);
    content[20..24].copy_from_slice(&sum.to_be_bytes());
    disk.set_content(&content);
    let error = open(&disk).unwrap_err();
    assert!(matches!(error, OpenError::NewerFormat { found: 7, known: 1, .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("version 7") && text.contains("up to 1"), "{text}");
}

#[test]
fn another_file_under_this_name_is_left_alone() {
    let disk = SimDisk::new(0);
    for content in [Vec::new(), b"something else".to_vec(), b"something else".repeat(10_000)] {
        disk.set_content(&content);
        let error = open(&disk).unwrap_err();
        assert!(matches!(error, OpenError::Damaged { .. }), "{error:?}");
        assert!(error.to_string().contains("move `raft.db` away"), "{error}");
        assert_eq!(disk.content().unwrap(), content);
    }
}

/// A file is mostly zeros: in the repository it is a list of the pages that hold something, each behind its number.
fn pack(content: &[u8]) -> Vec<u8> {
    let mut packed = (content.len() as u64).to_be_bytes().to_vec();
    for (number, page) in content.chunks(512).enumerate() {
        if page.iter().any(|byte| *byte != 0) {
            packed.extend((number as u32).to_be_bytes());
            packed.extend(page);
        }
    }
    packed
}

fn unpack(packed: &[u8]) -> Vec<u8> {
    let (length, pages) = packed.split_at(8);
    let mut content = vec![0; usize::try_from(u64::from_be_bytes(length.try_into().unwrap())).unwrap()];
    for page in pages.chunks(4 + 512) {
        let number = u32::from_be_bytes(page[..4].try_into().unwrap());
        content[number as usize * 512..][..512].copy_from_slice(&page[4..]);
    }
    content
}
