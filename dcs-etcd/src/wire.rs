//! What the rotation needs of a connection, in whichever protocol.

use std::fmt;

use async_trait::async_trait;
use dcs_core::{BoxError, Timing};

use crate::config::Access;
use crate::connect::Target;
use crate::endpoint::Endpoint;
use crate::failure::Failure;
use crate::history::Header;

/// One connection to one server.
#[async_trait]
pub(crate) trait Wire: fmt::Debug + Send + Sync + Sized + 'static {
    /// The store's name in the configuration, in errors and in logs.
    const STORE: &'static str;

    /// Connects, and authenticates if the protocol does that once for each connection. The caller bounds it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes whatever was opened.
    async fn open(target: Target, serial: u64, access: Access, timing: Timing) -> Result<Self, Failure>;

    /// The server.
    fn target(&self) -> &Target;

    /// Distinguishes this connection from every other one of this client.
    fn serial(&self) -> u64;

    /// An answer has come: what listens there is an etcd server.
    fn has_answered(&self);

    /// Adds what may be the reason for a failure, if the server could not say it.
    fn explain(&self, failure: Failure) -> Failure;

    /// The client addresses of all members, as this server knows them.
    async fn members(&self) -> Result<Vec<Endpoint>, BoxError>;
}

/// An answer that says where its server stands.
pub(crate) trait Headed {
    /// Nothing if the answer does not say.
    fn header(&self) -> Option<Header>;
}
