//! The first bytes of a connection, in clear: what this is, in which version, and how it goes on.
//!
//! These eleven bytes never change their form, whatever the version: each side can always name the version of the other.

use std::fmt;

use dcs_core::Deadline;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::error::TransportError;

/// The version of everything behind these bytes, the types in `message` and `command` included.
pub(super) const VERSION: u16 = 1;
/// Not text, so that nobody types it; a line end each way, so that nothing that converts them can be in between.
pub(super) const MAGIC: [u8; 8] = *b"\xd5QRFT\r\n\x1a";
/// How many bytes there are.
pub(super) const LENGTH: usize = 11;

/// What protects a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(u8);

impl Kind {
    const PASSWORD: u8 = 1;
    const TLS: u8 = 2;

    /// The kind for these settings.
    pub(super) const fn of(password: bool, tls: bool) -> Self {
        Self((if password { Self::PASSWORD } else { 0 }) | (if tls { Self::TLS } else { 0 }))
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const BOTH: u8 = Kind::PASSWORD | Kind::TLS;
        f.write_str(match self.0 {
            0 => "neither password nor TLS",
            Self::PASSWORD => "a password and without TLS certificates",
            Self::TLS => "TLS certificates and without a password",
            BOTH => "a password and TLS certificates",
            _ => "something unknown",
        })
    }
}

/// The bytes of one side.
pub(super) fn bytes(version: u16, kind: Kind) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..10].copy_from_slice(&version.to_be_bytes());
    bytes[10] = kind.0;
    bytes
}

/// What both sides said, the connecting side first.
pub(super) type Exchanged = [u8; LENGTH * 2];

/// Says it first.
pub(super) async fn connect(tcp: &mut TcpStream, kind: Kind, deadline: Deadline) -> Result<Exchanged, TransportError> {
    let ours = bytes(VERSION, kind);
    write(tcp, &ours, deadline).await?;
    let theirs = read(tcp, deadline).await?;
    compare(&theirs, kind)?;
    Ok(joined(ours, theirs))
}

/// Says it after the other side has, and not to somebody who speaks something else.
pub(super) async fn accept(tcp: &mut TcpStream, kind: Kind, deadline: Deadline) -> Result<Exchanged, TransportError> {
    let theirs = read(tcp, deadline).await?;
    let ours = bytes(VERSION, kind);
    write(tcp, &ours, deadline).await?;
    compare(&theirs, kind)?;
    Ok(joined(theirs, ours))
}

async fn write(tcp: &mut TcpStream, bytes: &[u8; LENGTH], deadline: Deadline) -> Result<(), TransportError> {
    deadline.bound("say the version of the protocol", tcp.write_all(bytes)).await?.map_err(TransportError::from_io)
}

async fn read(tcp: &mut TcpStream, deadline: Deadline) -> Result<[u8; LENGTH], TransportError> {
    let mut bytes = [0; LENGTH];
    deadline.bound("learn the version of the protocol", tcp.read_exact(&mut bytes)).await?.map_err(TransportError::from_io)?;
    if bytes.starts_with(&MAGIC) { Ok(bytes) } else { Err(TransportError::Foreign) }
}

fn compare(theirs: &[u8; LENGTH], ours: Kind) -> Result<(), TransportError> {
    let [.., high, low, kind] = *theirs;
    let (version, theirs) = (u16::from_be_bytes([high, low]), Kind(kind));
    if version != VERSION {
        Err(TransportError::Version { ours: VERSION, theirs: version })
    } else if theirs != ours {
        Err(TransportError::Security { ours, theirs })
    } else {
        Ok(())
    }
}

fn joined(connecting: [u8; LENGTH], accepting: [u8; LENGTH]) -> Exchanged {
    let mut both = [0; LENGTH * 2];
    both[..LENGTH].copy_from_slice(&connecting);
    both[LENGTH..].copy_from_slice(&accepting);
    both
}
