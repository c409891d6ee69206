//! The bytes of a state, in which a node keeps it and sends it to others: a version, then postcard.

use super::State;

/// The version that is written.
const VERSION: u8 = 1;

/// Bytes that are not a state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They have a version that this program does not know.
    #[error("it has version {found}, and this program knows version {known}")]
    UnknownVersion {
        /// The version of the bytes.
        found: u8,
        /// The version that this program reads and writes.
        known: u8,
    },
    /// They are not what they claim to be.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// They cannot be read.
    #[error("it is damaged")]
    Unreadable(#[source] postcard::Error),
}

impl State {
    /// The bytes of the state. The same state always has the same bytes.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![VERSION]).expect("a state has no part that postcard cannot write, and memory grows")
    }

    /// The state in some bytes.
    ///
    /// # Errors
    ///
    /// They are of another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let rest = match bytes.split_first() {
            Some((&VERSION, rest)) => rest,
            Some((&found, _)) => return Err(DecodeError::UnknownVersion { found, known: VERSION }),
            None => return Err(DecodeError::Damaged("it is empty")),
        };
        let (mut state, behind) = postcard::take_from_bytes::<Self>(rest).map_err(DecodeError::Unreadable)?;
        if !behind.is_empty() {
            return Err(DecodeError::Damaged("something follows its end"));
        }
        // Such a key would never expire.
        if state.keys.values().filter_map(|stored| stored.handle).any(|handle| !state.handles.contains_key(&handle)) {
            return Err(DecodeError::Damaged("a key is bound to a handle that does not exist"));
        }
        state.recent.count();
        Ok(state)
    }
}
