//! What an answer of etcd's gRPC API, or the lack of one, means.
//!
//! One table maps gRPC codes and etcd's messages to a [`Class`], which says what to do next, and a [`Fate`], which says
//! what became of a write. etcd gives the same code to very different failures, so that its messages have to be looked
//! at; they are part of etcd's API (`rpctypes`) and have not changed from 3.4 to 3.6.

use std::error::Error as _;

use dcs_core::{BoxError, Error, ErrorKind, Fate};
use tonic::Code;

use crate::failure::{Chain, Class, Failure, text_of};

/// The store's name in the configuration, in errors and in logs.
pub(crate) const STORE: &str = "etcd3";

/// A server said no, in its own words.
#[derive(Debug, thiserror::Error)]
#[error("{code}: {message}")]
struct Answer {
    code: &'static str,
    message: String,
}

/// Code (any if absent), a part of the message in lower case, what to do, what became of a write.
type Row = (Option<Code>, &'static str, Class, Fate);

/// The first row that fits counts.
const TABLE: &[Row] = &[
    // Authentication. All of these are checked before anything is proposed to the cluster.
    (None, "invalid auth token", Class::Token, Fate::NotApplied),
    (None, "auth store is old", Class::Token, Fate::NotApplied),
    (None, "user name is empty", Class::Token, Fate::NotApplied),
    (None, "authentication is not enabled", Class::AuthOff, Fate::NotApplied),
    (None, "authentication failed", Class::Denied, Fate::NotApplied),
    (Some(Code::Unauthenticated), "", Class::Token, Fate::NotApplied),
    (Some(Code::PermissionDenied), "", Class::Token, Fate::NotApplied),
    (None, "permission denied", Class::Token, Fate::NotApplied),
    // Leases
    (None, "requested lease not found", Class::LeaseGone, Fate::NotApplied),
    (None, "not a primary lessor", Class::NextServer, Fate::Unknown),
    // Limits. The last two are gRPC's own words, the server's and the client library's.
    (None, "request is too large", Class::TooLarge, Fate::NotApplied),
    (None, "message larger than max", Class::TooLarge, Fate::NotApplied),
    (None, "message length too large", Class::TooLarge, Fate::Unknown),
    (None, "database space exceeded", Class::Refused, Fate::NotApplied),
    (None, "too many requests", Class::Busy, Fate::NotApplied),
    // The cluster's state. "no leader" comes from a check in front of the request.
    (None, "no leader", Class::NextServer, Fate::NotApplied),
    (None, "not capable", Class::NextServer, Fate::NotApplied),
    (None, "not supported for learner", Class::NextServer, Fate::NotApplied),
    (Some(Code::Unavailable), "", Class::NextServer, Fate::Unknown),
    (Some(Code::DeadlineExceeded), "", Class::Busy, Fate::Unknown),
    (Some(Code::FailedPrecondition), "", Class::Busy, Fate::NotApplied),
    (Some(Code::ResourceExhausted), "", Class::Busy, Fate::Unknown),
    // Something else listens there.
    (Some(Code::Unimplemented), "", Class::Misconfigured, Fate::NotApplied),
    // Definite answers
    (Some(Code::InvalidArgument), "", Class::Refused, Fate::NotApplied),
    (Some(Code::NotFound), "", Class::Refused, Fate::NotApplied),
    (Some(Code::AlreadyExists), "", Class::Refused, Fate::NotApplied),
    (Some(Code::OutOfRange), "", Class::Refused, Fate::NotApplied),
    // Broken connections, and whatever nobody thought of.
    (None, "", Class::NextServer, Fate::Unknown),
];

fn look_up(code: Code, message: &str) -> (Class, Fate) {
    let message = message.to_ascii_lowercase();
    TABLE
        .iter()
        .find(|(row, part, ..)| row.is_none_or(|row| row == code) && message.contains(part))
        .map_or((Class::NextServer, Fate::Unknown), |(_, _, class, fate)| (*class, *fate))
}

/// The meaning of an error of the client library. A request that found no connection certainly did nothing.
impl From<etcd_client::Error> for Failure {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error as E;
        match error {
            E::GRpcStatus(status) => {
                if let Some(never_sent) = find_connect_error(&status) {
                    let cause = Box::new(Chain(text_of(never_sent)));
                    return Self { class: Class::Broken, fate: Fate::NotApplied, cause };
                }
                let (class, fate) = look_up(status.code(), status.message());
                let cause: BoxError = match status.source() {
                    // What the server says has no source.
                    Some(source) => {
                        let class = if class == Class::NextServer { Class::Broken } else { class };
                        return Self { class, fate, cause: Box::new(Chain(text_of(source))) };
                    }
                    None => Box::new(Answer { code: name_of(status.code()), message: status.message().to_owned() }),
                };
                Self { class, fate, cause }
            }
            E::TransportError(error) => Self::lost(Chain(text_of(&error))),
            error @ (E::InvalidArgs(_) | E::InvalidUri(_) | E::InvalidMetadataValue(_)) => {
                Self { class: Class::Misconfigured, fate: Fate::NotApplied, cause: Box::new(error) }
            }
            error => Self::lost(error),
        }
    }
}

/// An answer that does not have the form it must have.
pub(crate) fn malformed(operation: &'static str, problem: &'static str) -> Error {
    Error::new(STORE, operation, ErrorKind::Malformed, Fate::Unknown).because(problem)
}

fn find_connect_error(status: &tonic::Status) -> Option<&(dyn std::error::Error + 'static)> {
    let mut cause = status.source();
    while let Some(error) = cause {
        if let Some(connect) = error.downcast_ref::<tonic::ConnectError>() {
            return connect.source();
        }
        cause = error.source();
    }
    None
}

fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "ok",
        Code::Cancelled => "cancelled",
        Code::Unknown => "unknown error",
        Code::InvalidArgument => "invalid argument",
        Code::DeadlineExceeded => "deadline exceeded",
        Code::NotFound => "not found",
        Code::AlreadyExists => "already exists",
        Code::PermissionDenied => "permission denied",
        Code::ResourceExhausted => "resource exhausted",
        Code::FailedPrecondition => "failed precondition",
        Code::Aborted => "aborted",
        Code::OutOfRange => "out of range",
        Code::Unimplemented => "unimplemented",
        Code::Internal => "internal error",
        Code::Unavailable => "unavailable",
        Code::DataLoss => "data loss",
        Code::Unauthenticated => "unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code and message as etcd 3.4 to 3.6 send them (`api/v3rpc/rpctypes/error.go`), and what they mean.
    #[test]
    fn the_answers_of_etcd_mean_what_the_table_says() {
        use Fate::{NotApplied, Unknown};
        let cases = [
            // Users
            (Code::Unauthenticated, "etcdserver: invalid auth token", Class::Token, NotApplied, ErrorKind::Denied),
            (Code::Unauthenticated, "a message of the future", Class::Token, NotApplied, ErrorKind::Denied),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Class::Token, NotApplied, ErrorKind::Denied),
            (Code::InvalidArgument, "etcdserver: user name is empty", Class::Token, NotApplied, ErrorKind::Denied),
            (Code::PermissionDenied, "etcdserver: permission denied", Class::Token, NotApplied, ErrorKind::Denied),
            // A watch tells it in the text of its end.
            (
                Code::Unknown,
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
                Class::Token,
                NotApplied,
                ErrorKind::Denied,
            ),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled", Class::AuthOff, NotApplied, ErrorKind::Unavailable),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Class::Denied,
                NotApplied,
                ErrorKind::Denied,
            ),
            // Leases
            (Code::NotFound, "etcdserver: requested lease not found", Class::LeaseGone, NotApplied, ErrorKind::HandleGone),
            (Code::Unknown, "lease: not a primary lessor", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::FailedPrecondition, "etcdserver: lease already exists", Class::Busy, NotApplied, ErrorKind::Unavailable),
            (Code::OutOfRange, "etcdserver: too large lease TTL", Class::Refused, NotApplied, ErrorKind::Unavailable),
            // Limits
            (Code::InvalidArgument, "etcdserver: request is too large", Class::TooLarge, NotApplied, ErrorKind::Misconfigured),
            (
                Code::ResourceExhausted,
                "grpc: received message larger than max (5000000 vs. 2097152)",
                Class::TooLarge,
                NotApplied,
                ErrorKind::Misconfigured,
            ),
            (
                Code::OutOfRange,
                "Error, decoded message length too large: found 70000000 bytes, the limit is: 67108864 bytes",
                Class::TooLarge,
                Unknown,
                ErrorKind::Misconfigured,
            ),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded", Class::Refused, NotApplied, ErrorKind::Unavailable),
            (Code::ResourceExhausted, "etcdserver: too many requests", Class::Busy, NotApplied, ErrorKind::Unavailable),
            (Code::ResourceExhausted, "a message of the future", Class::Busy, Unknown, ErrorKind::Unavailable),
            // The cluster
            (Code::Unavailable, "etcdserver: no leader", Class::NextServer, NotApplied, ErrorKind::Unavailable),
            (Code::Unavailable, "etcdserver: leader changed", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::FailedPrecondition, "etcdserver: not leader", Class::Busy, NotApplied, ErrorKind::Unavailable),
            (Code::Unavailable, "etcdserver: request timed out", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Class::NextServer,
                Unknown,
                ErrorKind::Unavailable,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
                Class::NextServer,
                Unknown,
                ErrorKind::Unavailable,
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
                Class::NextServer,
                Unknown,
                ErrorKind::Unavailable,
            ),
            (Code::Unavailable, "etcdserver: server stopped", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::Unavailable, "etcdserver: unhealthy cluster", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::Unavailable, "etcdserver: not capable", Class::NextServer, NotApplied, ErrorKind::Unavailable),
            (Code::Unavailable, "etcdserver: rpc not supported for learner", Class::NextServer, NotApplied, ErrorKind::Unavailable),
            (Code::DataLoss, "etcdserver: corrupt cluster", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::DeadlineExceeded, "context deadline exceeded", Class::Busy, Unknown, ErrorKind::Unavailable),
            // Not etcd, or none of these APIs
            (Code::Unimplemented, "unknown service etcdserverpb.KV", Class::Misconfigured, NotApplied, ErrorKind::Misconfigured),
            // What we should never ask for
            (Code::InvalidArgument, "etcdserver: key is not provided", Class::Refused, NotApplied, ErrorKind::Unavailable),
            (Code::NotFound, "etcdserver: member not found", Class::Refused, NotApplied, ErrorKind::Unavailable),
            (Code::AlreadyExists, "a message of the future", Class::Refused, NotApplied, ErrorKind::Unavailable),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Class::Refused,
                NotApplied,
                ErrorKind::Unavailable,
            ),
            // Connections, and what nobody thought of
            (Code::Unknown, "transport error", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::Cancelled, "operation was canceled", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::Internal, "h2 protocol error: broken pipe", Class::NextServer, Unknown, ErrorKind::Unavailable),
            (Code::Aborted, "a message of the future", Class::NextServer, Unknown, ErrorKind::Unavailable),
        ];
        for (code, message, class, fate, kind) in cases {
            let failure = Failure::from(etcd_client::Error::GRpcStatus(tonic::Status::new(code, message)));
            assert_eq!((failure.class, failure.fate, failure.class.kind()), (class, fate, kind), "{code:?} {message}");
        }
        for (index, (row, part, ..)) in TABLE.iter().enumerate() {
            let found = |code: Code, message: &str| {
                let message = message.to_ascii_lowercase();
                TABLE.iter().position(|(row, part, ..)| row.is_none_or(|row| row == code) && message.contains(part))
            };
            let is_shown = cases.iter().any(|(code, message, ..)| found(*code, message) == Some(index));
            assert!(is_shown, "no answer is an example of the row {row:?} `{part}`");
        }
    }

    #[test]
    fn a_request_that_found_no_connection_did_nothing() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = tonic::Status::from_error(Box::new(tonic::ConnectError(Box::new(refused))));
        let failure = Failure::from(etcd_client::Error::GRpcStatus(status));
        assert_eq!((failure.class, failure.fate), (Class::Broken, Fate::NotApplied));
        assert_eq!(failure.cause.to_string(), "connection refused");
    }
}
