//! How values lie in the database: a checksum over the place and the bytes, then the bytes. A record that was damaged, or
//! that lies where another one belongs, is not read as something else.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::storage::HardState;
use crate::storage::outline::Outline;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{place} {what}")]
pub(crate) struct RecordError {
    place: String,
    what: &'static str,
}

/// Where a record lies: the table, and what it is called there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// One of a few single records.
    Single(&'static str),
    /// An entry of the log.
    Entry(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Single(name) => write!(f, "the record `{name}`"),
            Self::Entry(index) => write!(f, "entry {index} of the log"),
        }
    }
}

const CHECKSUM: usize = 4;

fn checksum(place: Place, bytes: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = crc32fast::Hasher::new();
    match place {
        Place::Single(name) => {
            hasher.update(b"single ");
            hasher.update(name.as_bytes());
        }
        Place::Entry(index) => {
            hasher.update(b"entry ");
            hasher.update(&index.to_be_bytes());
        }
    }
    hasher.update(bytes);
    hasher.finalize().to_be_bytes()
}

pub(crate) fn encode<T: Serialize>(place: Place, value: &T) -> Result<Vec<u8>, postcard::Error> {
    let mut bytes = postcard::to_extend(value, vec![0; CHECKSUM])?;
    let sum = checksum(place, &bytes[CHECKSUM..]);
    bytes[..CHECKSUM].copy_from_slice(&sum);
    Ok(bytes)
}

pub(crate) fn decode<T: DeserializeOwned>(place: Place, bytes: &[u8]) -> Result<T, RecordError> {
    let error = |what| RecordError { place: place.to_string(), what };
    let (sum, rest) = bytes.split_at_checked(CHECKSUM).ok_or_else(|| error("is too short"))?;
    if sum != checksum(place, rest) {
        return Err(error("does not match its checksum"));
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(error("is longer than what it holds")),
        Err(_) => Err(error("is not what it was said to be")),
    }
}

/// What the database says about itself, written with every batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    /// Which commit this is, counted from when the file was made.
    pub(crate) sequence: u64,
    term: u64,
    vote: u64,
    commit: u64,
    snapshot_index: u64,
    snapshot_term: u64,
    last_index: u64,
    last_term: u64,
}

impl Head {
    pub(crate) fn new(sequence: u64, outline: &Outline) -> Self {
        let Outline { hard_state: HardState { term, vote, commit }, snapshot_index, snapshot_term, last_index, last_term } = *outline;
        Self { sequence, term, vote, commit, snapshot_index, snapshot_term, last_index, last_term }
    }

    pub(crate) fn outline(&self) -> Outline {
        Outline {
            hard_state: HardState { term: self.term, vote: self.vote, commit: self.commit },
            snapshot_index: self.snapshot_index,
            snapshot_term: self.snapshot_term,
            last_index: self.last_index,
            last_term: self.last_term,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_only_where_it_was_written_and_only_whole() {
        let bytes = encode(Place::Entry(7), &"something".to_owned()).unwrap();
        assert_eq!(decode::<String>(Place::Entry(7), &bytes).unwrap(), "something");
        assert_eq!(decode::<String>(Place::Entry(8), &bytes).unwrap_err().to_string(), "entry 8 of the log does not match its checksum");
        decode::<String>(Place::Single("node"), &bytes).unwrap_err();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            decode::<String>(Place::Entry(7), &damaged).unwrap_err();
        }
        for length in 0..bytes.len() {
            decode::<String>(Place::Entry(7), &bytes[..length]).unwrap_err();
        }
    }
}
