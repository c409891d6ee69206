use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn cluster() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let data_dir = directory.path().join("data");
    fs::create_dir_all(data_dir.join("global")).expect("a directory");
    fs::create_dir_all(data_dir.join("pg_tblspc")).expect("a directory");
    fs::write(data_dir.join("PG_VERSION"), "15\n").expect("a file");
    fs::write(data_dir.join("global/pg_control"), "x").expect("a file");
    (directory, data_dir)
}

/// A directory beside the cluster, linked from inside it.
fn linked(root: &Path, data_dir: &Path, link: &str, name: &str) -> PathBuf {
    let target = root.join(name);
    fs::create_dir(&target).expect("a directory");
    fs::write(target.join("file"), "x").expect("a file");
    symlink(&target, data_dir.join(link)).expect("a link");
    target
}

#[test]
fn only_dot_files_and_lost_and_found_count_as_empty() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    assert_eq!(observe(&path.join("missing")), DataDir::Empty);
    assert_eq!(observe(path), DataDir::Empty);
    fs::write(path.join(".hidden"), "").expect("a file");
    fs::create_dir(path.join("lost+found")).expect("a directory");
    assert_eq!(observe(path), DataDir::Empty);
    fs::write(path.join("file"), "").expect("a file");
    assert_eq!(observe(path), DataDir::Present { recovery_file: false, backup_label: false });
}

#[test]
fn signal_files_and_a_backup_label_are_seen() {
    let (_root, data_dir) = cluster();
    assert_eq!(observe(&data_dir), DataDir::Present { recovery_file: false, backup_label: false });
    fs::write(data_dir.join("recovery.signal"), "").expect("a file");
    fs::write(data_dir.join("backup_label"), "").expect("a file");
    assert_eq!(observe(&data_dir), DataDir::Present { recovery_file: true, backup_label: true });
    fs::rename(data_dir.join("recovery.signal"), data_dir.join("standby.signal")).expect("renamed");
    assert!(has_recovery_file(&data_dir));
}

#[test]
fn what_is_not_a_directory_is_not_accessible() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("file");
    fs::write(&path, "").expect("a file");
    assert!(matches!(observe(&path), DataDir::Inaccessible(_)));
    assert!(matches!(observe(&path.join("below")), DataDir::Inaccessible(_)));
}

#[test]
fn the_major_version_is_read() {
    let (_root, data_dir) = cluster();
    assert_eq!(major_version(&data_dir), Some(150_000));
    fs::remove_file(data_dir.join("PG_VERSION")).expect("removed");
    assert_eq!(major_version(&data_dir), None);
    for (text, expected) in [("18", Some(180_000)), ("9.6", Some(90_600)), ("", None), ("x", None), ("15.x", None)] {
        assert_eq!(parse_major(text), expected, "{text}");
    }
}

/// P10-6
#[test]
fn removing_takes_external_wal_and_tablespaces_along() {
    let (root, data_dir) = cluster();
    let wal = linked(root.path(), &data_dir, "pg_wal", "wal");
    let space = linked(root.path(), &data_dir, "pg_tblspc/16384", "space");
    let other = linked(root.path(), &data_dir, "pg_tblspc/other", "other");
    remove(&data_dir).expect("removed");
    assert!(!data_dir.exists() && !wal.exists() && !space.exists());
    assert!(other.exists(), "only numeric links are tablespaces");
    remove(&data_dir).expect("nothing to do");
}

#[test]
fn a_link_in_place_of_the_data_directory_is_only_taken_away() {
    let (root, data_dir) = cluster();
    let link = root.path().join("link");
    symlink(&data_dir, &link).expect("a link");
    remove(&link).expect("removed");
    assert!(fs::symlink_metadata(&link).is_err() && data_dir.exists());
}

#[test]
fn moving_aside_keeps_everything_under_failed_names() {
    let (root, data_dir) = cluster();
    let wal = linked(root.path(), &data_dir, "pg_wal", "wal");
    let space = linked(root.path(), &data_dir, "pg_tblspc/16384", "space");
    fs::create_dir(root.path().join("data.failed")).expect("an earlier one");
    fs::write(root.path().join("data.failed/old"), "").expect("an earlier one");

    let with_slash = PathBuf::from(format!("{}/", data_dir.display()));
    move_aside(&with_slash).expect("moved");

    let failed = root.path().join("data.failed");
    assert!(!data_dir.exists() && !wal.exists() && !space.exists());
    assert!(!failed.join("old").exists(), "the earlier one is replaced");
    assert_eq!(fs::read_link(failed.join("pg_wal")).expect("a link"), root.path().join("wal.failed"));
    assert_eq!(fs::read_to_string(failed.join("pg_tblspc/16384/file")).expect("a file"), "x");
    move_aside(&data_dir).expect("nothing to do");
}

#[test]
fn modes_follow_the_data_directory() {
    let (_root, data_dir) = cluster();
    for (mode, file) in [(0o700, 0o600), (0o750, 0o640), (0o740, 0o600)] {
        fs::set_permissions(&data_dir, Permissions::from_mode(mode)).expect("a mode");
        assert_eq!(file_mode(&data_dir).mode(), file, "{mode:o}");
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(text in any::<String>(), number in "[0-9]{0,12}(\\.[0-9]{0,12})?") {
        let _ = parse_major(&text);
        let _ = parse_major(&number);
    }
}
