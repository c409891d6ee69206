//! Why a storage is not opened, and what to do about it.

use dcs_core::BoxError;

/// A storage that was not opened. The node must not start: it might have forgotten what it promised.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file, or its directory, cannot be made, read or written.
    #[error("cannot open the Raft storage `{place}`")]
    Io {
        /// The file.
        place: String,
        /// Why.
        #[source]
        source: BoxError,
    },
    /// Another process has it open.
    #[error(
        "the Raft storage `{place}` is in use by another process\n\n\
         hint: stop that process; if it is another node, give each of them a `raft.data_dir` of its own"
    )]
    InUse {
        /// The file.
        place: String,
    },
    /// A newer program wrote it.
    #[error(
        "the Raft storage `{place}` has format version {found}; this program knows versions up to {known}\n\n\
         hint: run the newer program that wrote it; or, to go back for good, move `{place}` away: the node then comes \
         back as a new member and receives everything from the others"
    )]
    NewerFormat {
        /// The file.
        place: String,
        /// The version of the file.
        found: u32,
        /// The newest version that this program reads.
        known: u32,
    },
    /// It does not hold what was written to it.
    #[error(
        "the Raft storage `{place}` is damaged: {damage}\n\n\
         hint: move `{place}` away and start again: the node then comes back as a new member and receives everything \
         from the others. That needs a majority of the members without this node; if there is none, bring back one of \
         the others first"
    )]
    Damaged {
        /// The file.
        place: String,
        /// What is wrong.
        damage: String,
    },
}
