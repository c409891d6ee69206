//! Addresses and ports that nobody else uses.
//!
//! A server that is restarted must find its port free again, but a port that the kernel handed out once on 127.0.0.1 may meanwhile have become
//! the local end of somebody's outgoing connection. So each test claims a loopback network of its own, 127.x.y.0/24: connections to it
//! come from 127.0.0.1, so only those who were given an address there ever bind to it.
//!
//! The claim is a locked file: other test processes see it, and it ends with the process that made it, however that ends.

use std::fs::{self, File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, bail};

/// The first host number of servers of a store; those below belong to the nodes of a cluster.
pub const SERVERS: u8 = 101;

/// A loopback network that belongs to one test.
#[derive(Debug)]
pub struct Network {
    x: u8,
    y: u8,
    _claim: File,
}

impl Network {
    /// Takes a network that no other running test has.
    ///
    /// # Errors
    ///
    /// If the directory of claims cannot be written.
    pub fn claim() -> Result<Self> {
        let claims = std::env::temp_dir().join("quorate-networks");
        if fs::create_dir_all(&claims).is_ok() {
            // Another user's tests may come later. If it is theirs, this fails, and need not succeed.
            let _ = fs::set_permissions(&claims, fs::Permissions::from_mode(0o777));
        }
        for _ in 0..1000 {
            let (x, y) = (fastrand::u8(1..=254), fastrand::u8(0..=255));
            let path = claims.join(format!("{x}.{y}"));
            let Ok(file) = OpenOptions::new().create(true).truncate(false).write(true).open(&path) else {
                continue; // another user's claim, perhaps
            };
            if file.try_lock().is_ok() {
                return Ok(Self { x, y, _claim: file });
            }
        }
        bail!("no loopback network can be claimed in {}", claims.display());
    }

    /// The address of one participant.
    #[must_use]
    pub const fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.x, self.y, host)
    }

    /// An address of that participant with a port that is free now and stays so: the usual one, unless somebody listens there on all
    /// addresses, or else one from the kernel.
    ///
    /// # Errors
    ///
    /// If the kernel gives none.
    pub fn free(&self, host: u8, usual: u16) -> Result<SocketAddr> {
        let address = self.address(host);
        let listener = TcpListener::bind((address, usual))
            .or_else(|_| TcpListener::bind((address, 0)))
            .with_context(|| format!("cannot bind a port of {address}"))?;
        Ok(listener.local_addr()?)
    }
}
