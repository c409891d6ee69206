//! What goes wrong with a connection, in words for the log of either side.

use dcs_core::DeadlineExpired;

use super::preamble::Kind;

/// A connection was not made, or is over.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A setting is no address.
    #[error("`{address}` is not an address: {problem}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name means nothing.
    #[error("cannot find the address of `{host}`")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An address does not answer.
    #[error("cannot connect to {address}")]
    Connect {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The other side is something else.
    #[error("the other side does not speak the protocol of the embedded store")]
    Foreign,
    /// The other side is older or newer.
    #[error("the other side speaks version {theirs} of the protocol, this side version {ours}")]
    Version {
        /// Our version.
        ours: u16,
        /// Theirs.
        theirs: u16,
    },
    /// One side is protected in another way than the other.
    #[error(
        "this side is set up with {ours}, the other side with {theirs}; `password` and `tls` in the section `raft` must be the same on all nodes"
    )]
    Security {
        /// What protects our side.
        ours: Kind,
        /// What protects theirs.
        theirs: Kind,
    },
    /// TLS does not accept the other side, or what it says.
    #[error("TLS failed")]
    Tls(#[source] std::io::Error),
    /// The other side does not know the password, or somebody is in between.
    #[error("the other side has another password, or somebody is between the two")]
    Password,
    /// The other side does not want this one.
    #[error("the other side refused: {0}")]
    Refused(String),
    /// More was said at once than is allowed.
    #[error("a frame of {size} bytes, where {limit} are allowed")]
    TooLarge {
        /// How much it was.
        size: usize,
        /// How much it may be.
        limit: usize,
    },
    /// Bytes changed on their way.
    #[error("a frame arrived damaged: its checksum is wrong")]
    Damaged,
    /// What was said has no meaning.
    #[error("a frame cannot be understood")]
    Malformed(#[source] postcard::Error),
    /// The other side ended the connection.
    #[error("the other side closed the connection")]
    Closed,
    /// The connection ended by itself.
    #[error("the connection broke")]
    Broken(#[source] std::io::Error),
    /// Nothing happened for too long.
    #[error(transparent)]
    Deadline(#[from] DeadlineExpired),
}

impl TransportError {
    /// A word for errors of the same kind, of which the log shows only some.
    pub(super) const fn kind(&self) -> &'static str {
        match self {
            Self::Address { .. } => "address",
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::Listen { .. } => "listen",
            Self::Foreign => "foreign",
            Self::Version { .. } => "version",
            Self::Security { .. } => "security",
            Self::Tls(_) => "tls",
            Self::Password => "password",
            Self::Refused(_) => "refused",
            Self::TooLarge { .. } => "large",
            Self::Damaged => "damaged",
            Self::Malformed(_) => "malformed",
            Self::Closed => "closed",
            Self::Broken(_) => "broken",
            Self::Deadline(_) => "deadline",
        }
    }

    /// Whether trying again soon is of no use: somebody has to change a setting first.
    pub(crate) const fn needs_a_person(&self) -> bool {
        matches!(
            self,
            Self::Address { .. }
                | Self::Foreign
                | Self::Version { .. }
                | Self::Security { .. }
                | Self::Tls(_)
                | Self::Password
                | Self::Refused(_)
        )
    }

    /// What reading or writing ended with.
    pub(super) fn from_io(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Self::Closed,
            // What rustls says about bytes that are not the other side's: a record that does not decrypt, an alert.
            std::io::ErrorKind::InvalidData => Self::Tls(error),
            _ => Self::Broken(error),
        }
    }

    /// The whole chain in one line, for a log line that stands alone.
    pub fn chain(&self) -> String {
        dcs_core::chain(self)
    }
}
