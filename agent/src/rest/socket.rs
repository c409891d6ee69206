//! Sockets, as the settings want them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::RestListen;

/// A queue shorter than this makes clients wait for a second whenever many come at once.
const LEAST_QUEUE: u32 = 128;

/// A connection without traffic is probed after this time.
const KEEPALIVE_IDLE: u32 = 3;

/// A connection whose other end does not answer is given up after this time.
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Listens at `address`: everywhere means both address families if the machine has both, otherwise IPv4.
pub(super) async fn listen(address: &RestListen, queue: u32) -> io::Result<TcpListener> {
    let candidates: Vec<SocketAddr> = if address.is_any() {
        let any: [IpAddr; 2] = [Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()];
        any.map(|any| SocketAddr::new(any, address.port)).to_vec()
    } else {
        tokio::net::lookup_host((address.host.as_str(), address.port)).await?.collect()
    };
    let mut problem = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        match listen_at(candidate, address.is_any(), queue) {
            Ok(listener) => return Ok(listener),
            // Of several the first that is in use says more than a family that this machine does not have.
            Err(error) if problem.kind() == io::ErrorKind::AddrInUse => drop(error),
            Err(error) => problem = error,
        }
    }
    Err(problem)
}

fn listen_at(address: SocketAddr, dual_stack: bool, queue: u32) -> io::Result<TcpListener> {
    let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &!dual_stack)?;
    }
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(queue.max(LEAST_QUEUE))
}

/// Sets up an accepted connection: answers leave at once, and a dead client is noticed soon.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &2)?;
    setsockopt(stream, sockopt::TcpKeepCount, &3)?;
    let dead_after = u32::try_from(DEAD_AFTER.as_millis()).unwrap_or(u32::MAX);
    setsockopt(stream, sockopt::TcpUserTimeout, &dead_after)?;
    Ok(())
}
