//! Copying WAL out of the data directory before a rewind or a new copy gives it up.
//!
//! Each copy has a directory of its own, made under another name and renamed when it is complete and on disk: what has the
//! final name is whole. Nothing here ever removes one.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use dcs_core::Deadline;
use dcs_core::model::{Lsn, Timeline};

use super::{LocalPostgres, blocking};
use crate::cancel::Cancel;
use crate::ports::{KeptWal, OperationFailed, WalToKeep};

/// The size of a segment, if the control file cannot be read: PostgreSQL's own default.
const USUAL_SEGMENT: u64 = 16 << 20;
/// How long reading the control file may take.
const LOOK: std::time::Duration = std::time::Duration::from_secs(10);

impl LocalPostgres {
    pub(super) async fn copy_wal(&self, wal: &WalToKeep, cancel: &Cancel) -> Result<KeptWal, OperationFailed> {
        let size = match self.read_control_data(Deadline::after(LOOK)).await {
            Ok(data) => segment_size(&data.lines).unwrap_or(USUAL_SEGMENT),
            Err(_) => USUAL_SEGMENT,
        };
        let (from, wal, cancel) = (self.data_dir().join("pg_wal"), wal.clone(), cancel.clone());
        let (name, now) = (dcs_core::keys::slot_name_from_member(self.settings().name.as_str()), jiff::Timestamp::now());
        let made = format!("{name}-{}{:03}Z", now.strftime("%Y%m%dT%H%M%S"), now.subsec_millisecond());
        let into = wal.directory.join(made);
        let shown = into.display().to_string();
        blocking(move || copy(&from, &into, &wal, size, &cancel)).await.map_err(|error| OperationFailed(format!("{shown}: {error}")))
    }
}

/// `Bytes per WAL segment` of the control file.
fn segment_size(lines: &[(String, String)]) -> Option<u64> {
    lines.iter().find(|(label, _)| label == "Bytes per WAL segment")?.1.parse().ok().filter(|size| *size > 0)
}

fn copy(from: &Path, into: &Path, wal: &WalToKeep, size: u64, cancel: &Cancel) -> io::Result<KeptWal> {
    let mut unfinished = into.as_os_str().to_owned();
    unfinished.push(".unfinished");
    let unfinished = PathBuf::from(unfinished);
    fs::create_dir_all(&unfinished)?;
    match copy_files(from, &unfinished, wal, size, cancel) {
        Ok(segments) => {
            fs::rename(&unfinished, into)?;
            File::open(&wal.directory)?.sync_all()?;
            Ok(KeptWal { directory: into.to_owned(), segments })
        }
        Err(error) => {
            // Half a copy is of no use to anybody and would fill the disk when this is tried again.
            fs::remove_dir_all(&unfinished)?;
            Err(error)
        }
    }
}

fn copy_files(from: &Path, into: &Path, wal: &WalToKeep, size: u64, cancel: &Cancel) -> io::Result<usize> {
    let mut segments = 0;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let is_segment = belongs(name, wal.since, size);
        if !is_segment && !name.ends_with(".history") {
            continue;
        }
        if cancel.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        let copied = into.join(name);
        fs::copy(entry.path(), &copied)?;
        File::open(&copied)?.sync_all()?;
        segments += usize::from(is_segment);
    }
    let mut note = File::create(into.join("README"))?;
    writeln!(note, "{}", wal.note)?;
    note.sync_all()?;
    File::open(into)?.sync_all()?;
    Ok(segments)
}

/// Whether the file `name` is a segment that is to be kept: on the timeline that was left, from the segment on in which it
/// was left, or on a later one; all of them if nothing is known about that.
fn belongs(name: &str, since: Option<(Timeline, Lsn)>, size: u64) -> bool {
    let Some((timeline, segment)) = parse(name.strip_suffix(".partial").unwrap_or(name), size) else { return false };
    since.is_none_or(|(left, lsn)| timeline > left.0 || (timeline == left.0 && segment >= lsn.0 / size))
}

/// The timeline and the number of a segment file.
fn parse(name: &str, size: u64) -> Option<(u32, u64)> {
    if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
    let per_file_group = (1u64 << 32) / size;
    Some((part(0)?, u64::from(part(8)?) * per_file_group + u64::from(part(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cancel::CancelSource;

    const SIZE: u64 = 16 << 20;

    fn wal(directory: &Path, since: Option<(u32, u64)>) -> WalToKeep {
        let since = since.map(|(timeline, lsn)| (Timeline(timeline), Lsn(lsn)));
        WalToKeep { directory: directory.to_owned(), since, note: "of node a".to_owned() }
    }

    #[test]
    fn segments_are_kept_from_the_one_on_in_which_the_histories_parted() {
        let since = Some((Timeline(2), Lsn(0x1_0500_0010)));
        for (name, kept) in [
            ("000000020000000100000005", true),
            ("000000020000000100000006", true),
            ("000000020000000200000000", true),
            ("000000020000000100000005.partial", true),
            ("000000030000000100000004", true),
            ("000000020000000100000004", false),
            ("0000000200000000000000FF", false),
            ("000000010000000100000007", false),
            ("00000002.history", false),
            ("archive_status", false),
            ("000000020000000100000005.00000028.backup", false),
        ] {
            assert_eq!(belongs(name, since, SIZE), kept, "{name}");
        }
        assert!(belongs("000000010000000100000007", None, SIZE), "all of them if nothing is known");
        assert!(!belongs("archive_status", None, SIZE));
    }

    #[test]
    fn segments_of_another_size_are_counted_rightly() {
        let since = Some((Timeline(1), Lsn(0x1_4000_0000)));
        assert!(belongs("000000010000000100000001", since, 1 << 30));
        assert!(!belongs("000000010000000100000000", since, 1 << 30));
        let lines = [("Bytes per WAL segment".to_owned(), "1073741824".to_owned())];
        assert_eq!(segment_size(&lines), Some(1 << 30));
    }

    #[test]
    fn a_copy_has_the_segments_the_history_and_a_note_and_its_name_only_when_it_is_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        let from = dir.path().join("pg_wal");
        fs::create_dir_all(from.join("archive_status")).expect("made");
        for name in ["000000010000000000000003", "000000010000000000000004", "00000002.history"] {
            fs::write(from.join(name), name).expect("written");
        }
        let kept = dir.path().join("kept");
        let made = copy(&from, &kept.join("a-1"), &wal(&kept, Some((1, 4 * SIZE))), SIZE, &Cancel::never()).expect("copied");
        assert_eq!(made, KeptWal { directory: kept.join("a-1"), segments: 1 });
        let mut names: Vec<_> = fs::read_dir(&made.directory).expect("there").map(|entry| entry.expect("one").file_name()).collect();
        names.sort();
        assert_eq!(names, ["000000010000000000000004", "00000002.history", "README"]);

        let cancelled = CancelSource::new();
        cancelled.cancel();
        copy(&from, &kept.join("a-2"), &wal(&kept, None), SIZE, &cancelled.token()).expect_err("cancelled");
        assert_eq!(fs::read_dir(&kept).expect("there").count(), 1, "nothing is left of half a copy");
        copy(&dir.path().join("nothing"), &kept.join("a-3"), &wal(&kept, None), SIZE, &Cancel::never()).expect_err("no WAL there");
    }
}
