//! The bytes of a log entry: a version, then postcard. Entries of earlier versions are read for ever, because they may be
//! in somebody's log.

use crate::command::Record;

/// The version that is written.
const VERSION: u8 = 1;

/// An entry of the log that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// It has a version that this program does not know.
    #[error("it has version {found}, and this program knows version {VERSION}")]
    Version {
        /// The version of the entry.
        found: u8,
    },
    /// It is not what it claims to be.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// The bytes of a record.
pub fn encode(record: &Record) -> Vec<u8> {
    postcard::to_extend(record, vec![VERSION]).expect("a record has no part that postcard cannot write, and memory grows")
}

/// The record in some bytes.
///
/// # Errors
///
/// They are of another version, or damaged.
pub fn decode(bytes: &[u8]) -> Result<Record, RecordError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => postcard::from_bytes(rest).map_err(|error| RecordError::Damaged(error.to_string())),
        Some((&found, _)) => Err(RecordError::Version { found }),
        None => Err(RecordError::Damaged("it is empty".to_owned())),
    }
}

/// The time of the record in some bytes, if there is one.
pub(crate) fn time_of(bytes: &[u8]) -> Option<u64> {
    decode(bytes).ok().map(|record| record.time_ms)
}
