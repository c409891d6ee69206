//! Connections between nodes, and from clients to nodes.
//!
//! ```text
//!   connecting side                                    accepting side
//!      PREAMBLE  magic, version, kind of security  ──►    anything else: closed without a word
//!                                                  ◄──  PREAMBLE; both compare, both say what does not fit
//!      ═══════════════════ TLS 1.3, if there is a password or `tls` ════════════════════
//!                                                  ◄──  ready
//!      proof of the password, for this connection  ──►
//!                                                  ◄──  proof of the password, for this connection
//!      Hello                                       ──►
//!                                                  ◄──  Welcome
//!      PeerFrame …                                 ──►    a node: one way, nothing is answered
//!   or (number, Request) …                         ◄─►  (number, Response) …
//! ```
//!
//! | settings | who may connect | what protects the bytes |
//! | --- | --- | --- |
//! | neither | everybody | nothing; a checksum against damage |
//! | `password` | who knows the password | TLS 1.3 with a key made at start |
//! | `tls` | who has a certificate of the CA | TLS 1.3 with the certificates |
//! | both | who has both | TLS 1.3 with the certificates |
//!
//! A node sends to every other one over a connection that it made itself ([`PeerLinks`]), and receives over those that
//! the others made ([`Listener`]). Clients, and nodes that have no cluster yet, use a [`ClientConnection`].

mod address;
mod client;
mod error;
mod frame;
mod link;
mod listener;
mod material;
mod preamble;
mod proof;
mod queue;
mod quiet;
mod secure;
mod serve;
mod socket;
#[cfg(test)]
mod tests;

pub use self::address::Address;
pub use self::client::{ClientConnection, RequestError};
pub use self::error::TransportError;
pub use self::link::{LinkStatus, LocalNode, PeerLinks};
pub use self::listener::{Accept, Introduction, Limits, Listener};
pub use self::material::{SecurityError, SecuritySettings, TlsFiles};
pub use self::queue::LinkReport;
pub use self::secure::Security;

/// A task that ends with its owner.
#[derive(Debug)]
struct Task(tokio::task::JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A lock whose holders do nothing that could panic.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
