//! A request that failed: what to do next, and what became of it. What the servers' answers mean stands in the table of
//! each protocol (`error.rs`).

use std::fmt;

use dcs_core::{BoxError, Error, ErrorKind, Fate};

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// This server is of no use now: ask another.
    NextServer,
    /// The same, because the connection broke.
    Broken,
    /// The cluster is busy or has no leader yet: pause, ask again.
    Busy,
    /// Our token is not (or no longer) valid: get a new one, ask again.
    Token,
    /// The server does not know users: go on without a token.
    AuthOff,
    /// The lease does not exist.
    LeaseGone,
    /// The server refuses for good.
    Denied,
    /// Too large for etcd.
    TooLarge,
    /// Cannot be done, and asking again will not help within this call.
    Refused,
    /// Local settings are wrong, or what listens there does not speak this protocol.
    Misconfigured,
    /// The answer does not have the form it must have.
    Malformed,
}

impl Class {
    /// What the caller of the store should do.
    pub(crate) const fn kind(self) -> ErrorKind {
        match self {
            Self::NextServer | Self::Broken | Self::Busy | Self::Refused | Self::AuthOff => ErrorKind::Unavailable,
            Self::LeaseGone => ErrorKind::HandleGone,
            Self::Token | Self::Denied => ErrorKind::Denied,
            Self::TooLarge | Self::Misconfigured => ErrorKind::Misconfigured,
            Self::Malformed => ErrorKind::Malformed,
        }
    }
}

/// A request, or the attempt to connect, failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) fate: Fate,
    pub(crate) cause: BoxError,
}

/// The whole chain of an error as one text, without repetitions.
#[derive(Debug)]
pub(crate) struct Chain(pub(crate) String);

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Chain {}

impl Failure {
    /// No connection could be had.
    pub(crate) fn unreachable(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::NextServer, fate: Fate::NotApplied, cause: cause.into() }
    }

    /// The same failure with what may be the reason.
    pub(crate) fn perhaps(self, reason: &str) -> Self {
        let cause = Box::new(Chain(format!("{}; {reason}", self.cause)));
        Self { cause, ..self }
    }

    /// A connection broke, or did not answer, with a request on it.
    pub(crate) fn lost(cause: impl Into<BoxError>) -> Self {
        Self { class: Class::NextServer, fate: Fate::Unknown, cause: cause.into() }
    }

    /// The failure as the contract's error.
    pub(crate) fn into_error(self, store: &'static str, operation: &'static str) -> Error {
        let Self { class, fate, cause } = self;
        Error { kind: class.kind(), fate, operation, store, source: Some(cause) }
    }
}

/// The chain of `error` in one line. Libraries tend to repeat a cause in the text of what it caused.
pub(crate) fn text_of(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_tells_the_caller_what_to_do() {
        let kinds = [
            (Class::NextServer, ErrorKind::Unavailable),
            (Class::Broken, ErrorKind::Unavailable),
            (Class::Busy, ErrorKind::Unavailable),
            (Class::Refused, ErrorKind::Unavailable),
            (Class::AuthOff, ErrorKind::Unavailable),
            (Class::LeaseGone, ErrorKind::HandleGone),
            (Class::Token, ErrorKind::Denied),
            (Class::Denied, ErrorKind::Denied),
            (Class::TooLarge, ErrorKind::Misconfigured),
            (Class::Misconfigured, ErrorKind::Misconfigured),
            (Class::Malformed, ErrorKind::Malformed),
        ];
        for (class, kind) in kinds {
            let failure = Failure { class, fate: Fate::Unknown, cause: "why".into() };
            let error = failure.into_error("etcd3", "renew the leader lock");
            assert_eq!((error.kind, error.fate, error.store), (kind, Fate::Unknown, "etcd3"));
            assert!(error.chain().ends_with(": why"), "{}", error.chain());
        }
    }
}
