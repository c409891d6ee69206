//! What goes wrong with a store, in terms of what the caller may conclude.

/// The cause of an error, kept for the log.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A store could not do what was asked, or cannot tell whether it did.
///
/// A lost race, a failed condition and an absent key are results, never errors.
#[derive(Debug, thiserror::Error)]
#[error("{operation} in {store}: {kind}")]
pub struct Error {
    /// What the caller should do about it.
    pub kind: ErrorKind,
    /// What became of the write, if it was one.
    pub fate: Fate,
    /// What was being done, e.g. `renew the leader lock`.
    pub operation: &'static str,
    /// The store's name, e.g. `etcd3`.
    pub store: &'static str,
    /// The cause.
    #[source]
    pub source: Option<BoxError>,
}

/// What the caller of a failed operation should do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The store could not be used within the deadline: try again later. Nothing may be concluded about the lock.
    Unavailable,
    /// The liveness handle is gone and could not be made anew within the deadline.
    HandleGone,
    /// The store answered and refused for good: credentials or permissions.
    Denied,
    /// The store answered with something that cannot be understood.
    Malformed,
    /// The store's limits or our configuration do not allow this request at all.
    Misconfigured,
}

impl std::fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unavailable => "the store is not available",
            Self::HandleGone => "the lease or session is gone",
            Self::Denied => "the store refused access",
            Self::Malformed => "the store's answer cannot be understood",
            Self::Misconfigured => "the store cannot take this request",
        })
    }
}

/// What became of a write that did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It did not happen and will not.
    NotApplied,
    /// It may have happened, or may still happen.
    Unknown,
}

impl Error {
    /// An error without a cause.
    pub fn new(store: &'static str, operation: &'static str, kind: ErrorKind, fate: Fate) -> Self {
        Self { kind, fate, operation, store, source: None }
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The whole chain in one line, for a log line that stands alone.
    pub fn chain(&self) -> String {
        chain(self)
    }
}

/// An error with all its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
