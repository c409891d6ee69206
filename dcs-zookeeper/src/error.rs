//! One table from what the client library says to what our callers may conclude.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::tls::TlsError;
use dcs_core::{DeadlineExpired, Error, ErrorKind, Fate};
use zookeeper_client as zk;

/// The name of the store in errors.
pub(crate) const STORE: &str = "zookeeper";

/// Why a request has no useful answer.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The client library, or the server through it.
    #[error(transparent)]
    Client(#[from] zk::Error),
    /// The connection ended while the request was under way.
    #[error("the connection to {0} was lost")]
    Lost(String),
    /// Nothing was heard for as long as a server may take.
    #[error("no answer from {0} in {1:?}")]
    Silent(String, Duration),
    /// The caller's time was over.
    #[error(transparent)]
    Late(#[from] DeadlineExpired),
    /// Nothing was sent: no server can be reached.
    #[error("no server can be reached: {0}")]
    Unreachable(String),
    /// Nothing was sent: nobody tells where the servers are.
    #[error("{0}")]
    NoHosts(String),
    /// Nothing was sent: the certificates cannot be used.
    #[error(transparent)]
    Tls(Arc<TlsError>),
    /// Every server refused who we say we are.
    #[error("the server refused our credentials (`auth_data`)")]
    Credentials,
    /// Our session ended, and it is not known whose place the lock's node took.
    #[error("{0}")]
    Unproved(&'static str),
    /// An answer that makes no sense.
    #[error("{0}")]
    Malformed(&'static str),
    /// The request is too large to be sent.
    #[error("the value has {0} bytes; ZooKeeper takes up to 1 MiB in one request (`jute.maxbuffer`)")]
    TooLarge(usize),
}

impl Failure {
    /// The whole table.
    pub(crate) fn judge(&self) -> (ErrorKind, Fate) {
        use ErrorKind::{Denied, Malformed, Misconfigured, Unavailable};
        use Fate::{NotApplied, Unknown};
        match self {
            Self::Client(error) => judge(error),
            Self::Lost(_) | Self::Silent(..) | Self::Late(_) | Self::Unproved(_) => (Unavailable, Unknown),
            Self::Unreachable(_) | Self::NoHosts(_) => (Unavailable, NotApplied),
            Self::Tls(_) | Self::TooLarge(_) => (Misconfigured, NotApplied),
            Self::Credentials => (Denied, NotApplied),
            Self::Malformed(_) => (Malformed, Unknown),
        }
    }

    /// Whether the server answered. Then it is not the connection that failed.
    pub(crate) fn is_answer(&self) -> bool {
        match self {
            Self::Client(error) => !matches!(
                error,
                zk::Error::ConnectionLoss
                    | zk::Error::ClientClosed
                    | zk::Error::Timeout
                    | zk::Error::NoHosts
                    | zk::Error::UnexpectedError(_)
                    | zk::Error::UnmarshalError { .. }
                    | zk::Error::Custom(_)
                    | zk::Error::SessionMoved
                    | zk::Error::SessionExpired
                    | zk::Error::AuthFailed
            ),
            _ => false,
        }
    }

    /// Whether it says that the session is gone.
    pub(crate) fn is_expiry(&self) -> bool {
        matches!(self, Self::Client(zk::Error::SessionExpired))
    }

    /// The same as an error of `operation`.
    pub(crate) fn during(self, operation: &'static str) -> Error {
        let (kind, fate) = self.judge();
        let error = Error::new(STORE, operation, kind, fate);
        match self {
            Self::Client(zk::Error::Unimplemented) => {
                error.because("the server does not know this request; ZooKeeper 3.6 or newer is needed")
            }
            Self::Client(zk::Error::NoAuth) => error.because("the server denies access; see `auth_data`, `cert` and the ACLs of the nodes"),
            failure => error.because(failure),
        }
    }
}

/// What the client library says.
fn judge(error: &zk::Error) -> (ErrorKind, Fate) {
    use ErrorKind::{Denied, HandleGone, Malformed, Misconfigured, Unavailable};
    use Fate::{NotApplied, Unknown};
    match error {
        // The server, or the client in its name, says that the session is over. It executes nothing for it any more.
        zk::Error::SessionExpired => (HandleGone, NotApplied),
        // Another connection of ours has the session; this one's requests are refused.
        zk::Error::SessionMoved => (Unavailable, NotApplied),
        zk::Error::NoAuth | zk::Error::AuthFailed => (Denied, NotApplied),
        // Nothing was sent.
        zk::Error::NoHosts | zk::Error::Timeout => (Unavailable, NotApplied),
        // The server refuses to work now.
        zk::Error::NotReadOnly | zk::Error::Throttled | zk::Error::NoWatcher => (Unavailable, NotApplied),
        // The server refuses such a request.
        zk::Error::BadArguments(_)
        | zk::Error::InvalidAcl
        | zk::Error::QuotaExceeded
        | zk::Error::MarshallingError
        | zk::Error::Unimplemented
        | zk::Error::NoChildrenForEphemerals
        | zk::Error::NotEmpty
        | zk::Error::ReconfigDisabled => (Misconfigured, NotApplied),
        // Conditions that did not hold. Callers make outcomes of them; where none was expected, the answer makes no sense.
        zk::Error::NoNode | zk::Error::NodeExists | zk::Error::BadVersion => (Malformed, NotApplied),
        // Sent, or perhaps sent. Codes that the client does not know are those of servers in trouble.
        zk::Error::ConnectionLoss
        | zk::Error::ClientClosed
        | zk::Error::RuntimeInconsistent
        | zk::Error::UnmarshalError { .. }
        | zk::Error::UnexpectedError(_)
        | zk::Error::UnexpectedErrorCode(_)
        | zk::Error::Custom(_) => (Unavailable, Unknown),
        // Errors of a later version of the library.
        _ => (Unavailable, Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What servers answer, as the library reads it from their codes, is tried with real answers in `tests/specific/errors.rs`.
    #[test]
    fn the_table_of_errors() {
        use ErrorKind::{Denied, HandleGone, Malformed, Misconfigured, Unavailable};
        use Fate::{NotApplied, Unknown};
        let server = || "zk1:2181".to_owned();
        let rows: [(Failure, ErrorKind, Fate); 24] = [
            (zk::Error::SessionExpired.into(), HandleGone, NotApplied),
            (zk::Error::SessionMoved.into(), Unavailable, NotApplied),
            (zk::Error::NoAuth.into(), Denied, NotApplied),
            (zk::Error::AuthFailed.into(), Denied, NotApplied),
            (zk::Error::NotReadOnly.into(), Unavailable, NotApplied),
            (zk::Error::Throttled.into(), Unavailable, NotApplied),
            (zk::Error::InvalidAcl.into(), Misconfigured, NotApplied),
            (zk::Error::QuotaExceeded.into(), Misconfigured, NotApplied),
            (zk::Error::MarshallingError.into(), Misconfigured, NotApplied),
            (zk::Error::Unimplemented.into(), Misconfigured, NotApplied),
            (zk::Error::BadArguments(&"x").into(), Misconfigured, NotApplied),
            (zk::Error::NotEmpty.into(), Misconfigured, NotApplied),
            (zk::Error::NoNode.into(), Malformed, NotApplied),
            (zk::Error::ConnectionLoss.into(), Unavailable, Unknown),
            (zk::Error::ClientClosed.into(), Unavailable, Unknown),
            (zk::Error::UnexpectedError("x".to_owned()).into(), Unavailable, Unknown),
            (zk::Error::UnexpectedErrorCode(-1).into(), Unavailable, Unknown),
            (zk::Error::UnmarshalError { entity: "x", reason: &"y" }.into(), Unavailable, Unknown),
            (Failure::Lost(server()), Unavailable, Unknown),
            (Failure::Silent(server(), Duration::from_secs(1)), Unavailable, Unknown),
            (Failure::Unreachable(server()), Unavailable, NotApplied),
            (Failure::NoHosts("x".to_owned()), Unavailable, NotApplied),
            (Failure::Credentials, Denied, NotApplied),
            (Failure::TooLarge(1 << 20), Misconfigured, NotApplied),
        ];
        for (failure, kind, fate) in rows {
            assert_eq!(failure.judge(), (kind, fate), "{failure:?}");
        }
    }

    #[test]
    fn only_the_word_of_a_server_ends_a_session() {
        for error in [zk::Error::ConnectionLoss, zk::Error::SessionMoved, zk::Error::AuthFailed, zk::Error::Timeout] {
            assert!(!Failure::from(error).is_expiry());
        }
        assert!(!Failure::Lost("zk1:2181".to_owned()).is_expiry());
        assert!(Failure::from(zk::Error::SessionExpired).is_expiry());
    }

    #[test]
    fn a_cause_is_told_once_and_with_what_to_do() {
        let said = Failure::from(zk::Error::NoAuth).during("write a key").chain();
        assert_eq!(
            said,
            "write a key in zookeeper: the store refused access: the server denies access; see `auth_data`, `cert` and the ACLs of the nodes"
        );
        let said = Failure::Silent("zk1:2181".to_owned(), Duration::from_secs(3)).during("write a key").chain();
        assert_eq!(said, "write a key in zookeeper: the store is not available: no answer from zk1:2181 in 3s");
    }
}
