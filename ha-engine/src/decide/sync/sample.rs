//! What one look at a primary in synchronous mode shows.

use dcs_core::model::Lsn;

/// Which position of a standby counts for a commit (`synchronous_commit`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitLevel {
    /// `remote_write`: written, not necessarily flushed.
    Write,
    /// `on`, and everything that does not wait for standbys at all.
    #[default]
    Flush,
    /// `remote_apply`: replayed.
    Apply,
}

impl CommitLevel {
    /// The level that a value of `synchronous_commit` means.
    pub fn of_setting(value: &str) -> Self {
        match value {
            "remote_write" => Self::Write,
            "remote_apply" => Self::Apply,
            _ => Self::Flush,
        }
    }
}

/// How a WAL sender takes part in synchronous replication. Ordered as the baseline orders the words: a standby that is
/// synchronous already is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SyncWord {
    /// `async`
    #[default]
    Async,
    /// `potential`
    Potential,
    /// `quorum`
    Quorum,
    /// `sync`
    Sync,
}

impl SyncWord {
    /// Reads `sync_state`; what is unknown does not take part.
    pub fn of_column(word: &str) -> Self {
        match word {
            "sync" => Self::Sync,
            "quorum" => Self::Quorum,
            "potential" => Self::Potential,
            _ => Self::Async,
        }
    }
}

/// A standby that streams from this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walsender {
    /// Its name: the member's, if it is one of ours.
    pub application_name: String,
    /// How it takes part.
    pub sync: SyncWord,
    /// What it has written; nothing before its first report.
    pub written: Option<Lsn>,
    /// What it has flushed.
    pub flushed: Option<Lsn>,
    /// What it has replayed.
    pub replayed: Option<Lsn>,
}

impl Walsender {
    /// How far it is, as far as commits of `level` are concerned.
    pub fn position(&self, level: CommitLevel) -> Option<Lsn> {
        match level {
            CommitLevel::Write => self.written,
            CommitLevel::Flush => self.flushed,
            CommitLevel::Apply => self.replayed,
        }
    }
}

/// One look at a primary in synchronous mode. All of it was read by one statement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncSample {
    /// The commit level of sessions that set none of their own.
    pub level: CommitLevel,
    /// `synchronous_standby_names`, as the server shows it.
    pub names: String,
    /// Whether every process of the server goes by `names`: those that send WAL, those that wait, and the one that says
    /// whether anybody waits at all.
    pub settled: bool,
    /// The flushed position of this server.
    pub flushed: Lsn,
    /// Whether a backend waits for a standby.
    pub commits_wait: bool,
    /// Who streams.
    pub walsenders: Vec<Walsender>,
}

impl SyncSample {
    /// The WAL sender called `name`, without regard to case. Of several, the one that takes part most and is furthest: an
    /// old connection may linger beside the new one of the same standby.
    pub fn walsender(&self, name: &str) -> Option<&Walsender> {
        self.walsenders
            .iter()
            .filter(|sender| sender.application_name.to_lowercase() == name.to_lowercase())
            .max_by_key(|sender| (sender.sync, sender.position(self.level)))
    }
}
