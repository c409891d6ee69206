//! `patroni.dynamic.json`: the last dynamic configuration, beside the data, in case the store is wiped.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The name of the file in the data directory.
pub(super) const FILE_NAME: &str = "patroni.dynamic.json";

/// Where the cache of the data directory `data_dir` is.
pub(super) fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

/// Reads the cached document; nothing if there is none.
///
/// # Errors
///
/// The file is there and cannot be read, or is not a JSON object.
pub(super) fn load(data_dir: &Path) -> io::Result<Option<Map<String, Value>>> {
    let bytes = match fs::read(path(data_dir)) {
        Ok(bytes) => bytes,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(serde_json::from_slice(&bytes)?))
}

/// Writes `document`: into a temporary file of the same directory, which then takes the name. A crash leaves the old
/// document or the new one.
///
/// # Errors
///
/// The directory does not take the file. What was there before is still there.
pub(super) fn store(data_dir: &Path, document: &Map<String, Value>) -> io::Result<()> {
    // PostgreSQL's own rule: readable by the group exactly if the data directory is.
    let group = fs::metadata(data_dir)?.permissions().mode() & 0o050 == 0o050;
    let mut file = tempfile::Builder::new().prefix(FILE_NAME).tempfile_in(data_dir)?;
    serde_json::to_writer(&mut file, document)?;
    file.flush()?;
    file.as_file().set_permissions(fs::Permissions::from_mode(if group { 0o640 } else { 0o600 }))?;
    file.as_file().sync_all()?;
    file.persist(path(data_dir)).map_err(|error| error.error)?;
    fs::File::open(data_dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(value: Value) -> Map<String, Value> {
        value.as_object().expect("an object").clone()
    }

    #[test]
    fn what_is_stored_is_loaded_and_nothing_else_is_left_behind() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(load(dir.path()).expect("no file"), None);
        for ttl in [30, 40] {
            let document = document(json!({"ttl": ttl, "unknown": {"x": [1]}}));
            store(dir.path(), &document).expect("writable");
            assert_eq!(load(dir.path()).expect("valid"), Some(document));
        }
        let names: Vec<_> = fs::read_dir(dir.path()).expect("readable").map(|entry| entry.expect("one").file_name()).collect();
        assert_eq!(names, [FILE_NAME]);
    }

    #[test]
    fn the_mode_follows_the_data_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        for (directory, file) in [(0o700, 0o600), (0o750, 0o640)] {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(directory)).expect("ours");
            store(dir.path(), &Map::new()).expect("writable");
            assert_eq!(fs::metadata(path(dir.path())).expect("there").permissions().mode() & 0o777, file);
        }
    }

    #[test]
    fn a_broken_file_is_an_error_and_a_missing_directory_is_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        for content in ["", "{", "[1]", "\u{0}"] {
            fs::write(path(dir.path()), content).expect("writable");
            assert!(load(dir.path()).is_err(), "{content:?}");
        }
        assert_eq!(load(&dir.path().join("missing")).expect("nothing"), None);
        assert!(store(&dir.path().join("missing"), &Map::new()).is_err());
    }
}
