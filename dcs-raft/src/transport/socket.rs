//! TCP as this protocol wants it: nothing waits for more bytes, and a dead host is noticed in seconds.

use std::time::Duration;

use dcs_core::Deadline;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::TcpStream;

use super::address::Address;
use super::error::TransportError;

/// How long bytes may stay unacknowledged, and with that how long a dead host goes unnoticed while something is sent.
const UNACKNOWLEDGED: Duration = Duration::from_secs(4);
/// How long a connection is idle, in seconds, before the system asks whether the other side is still there.
const IDLE_SECONDS: u32 = 2;
/// How long the system waits for each answer to that, in seconds, and how often it asks.
const PROBE_SECONDS: u32 = 1;
const PROBES: u32 = 3;

/// Connects to the first address of a host that answers.
pub(super) async fn connect(address: &Address, deadline: Deadline) -> Result<TcpStream, TransportError> {
    let found = address.resolve(deadline).await?;
    let mut failure = None;
    for (tried, &candidate) in found.iter().enumerate() {
        // One address that swallows packets must not use up the time of the others.
        let left = u32::try_from(found.len() - tried).unwrap_or(u32::MAX);
        let share = deadline.at_most(deadline.remaining() / left);
        let source = match share.bound("connect", TcpStream::connect(candidate)).await {
            Ok(Ok(tcp)) => {
                prepare(&tcp).map_err(TransportError::Broken)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => error,
            Err(_) => std::io::Error::from(std::io::ErrorKind::TimedOut),
        };
        failure = Some(TransportError::Connect { address: candidate.to_string(), source });
    }
    Err(failure.unwrap_or(TransportError::Closed))
}

/// Sets up a connection, on either side.
pub(super) fn prepare(tcp: &TcpStream) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    setsockopt(tcp, sockopt::KeepAlive, &true)?;
    setsockopt(tcp, sockopt::TcpKeepIdle, &IDLE_SECONDS)?;
    setsockopt(tcp, sockopt::TcpKeepInterval, &PROBE_SECONDS)?;
    setsockopt(tcp, sockopt::TcpKeepCount, &PROBES)?;
    setsockopt(tcp, sockopt::TcpUserTimeout, &u32::try_from(UNACKNOWLEDGED.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}
