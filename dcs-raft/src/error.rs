//! What an error of the cluster means to the caller of the store.

use dcs_core::{Error, ErrorKind, Fate};

use crate::STORE;
use crate::cluster::ClusterError;

/// The store's error for one of the cluster.
pub(crate) fn failed(operation: &'static str, error: ClusterError) -> Error {
    let (kind, fate) = match &error {
        ClusterError::NotTaken(_) => (ErrorKind::Unavailable, Fate::NotApplied),
        ClusterError::NoAnswer(_) => (ErrorKind::Unavailable, Fate::Unknown),
        ClusterError::Denied(_) => (ErrorKind::Denied, Fate::NotApplied),
        ClusterError::Nonsense => (ErrorKind::Malformed, Fate::Unknown),
    };
    Error::new(STORE, operation, kind, fate).because(error)
}

/// The handle is gone, and nothing was written.
pub(crate) fn handle_gone(operation: &'static str) -> Error {
    Error::new(STORE, operation, ErrorKind::HandleGone, Fate::NotApplied)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_became_of_the_write() {
        let cases = [
            (ClusterError::NotTaken("refused".into()), ErrorKind::Unavailable, Fate::NotApplied),
            (ClusterError::NoAnswer("silent".into()), ErrorKind::Unavailable, Fate::Unknown),
            (ClusterError::Denied("another password".into()), ErrorKind::Denied, Fate::NotApplied),
            (ClusterError::Nonsense, ErrorKind::Malformed, Fate::Unknown),
        ];
        for (error, kind, fate) in cases {
            let error = failed("write a key", error);
            assert_eq!((error.kind, error.fate), (kind, fate), "{}", error.chain());
        }
        let error = failed("write a key", ClusterError::NoAnswer("the leader went away".into()));
        assert_eq!(
            error.chain(),
            "write a key in raft: the store is not available: no answer came in time: the leader went away",
            "the cause is said once"
        );
    }
}
