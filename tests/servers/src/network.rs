//! Addresses and ports that nobody else uses.
//!
//! A server that is restarted must find its port free again, but a port that the kernel handed out once on 127.0.0.1 may meanwhile have become
//! the local end of somebody's outgoing connection. So each test claims a loopback network of its own, 127.x.y.0/24: connections to it
//! come from 127.0.0.1, so only those who were given an address there ever bind to it.
//!
//! The claim is a locked file: other test processes see it, and it ends with the process that made it, however that ends.

use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
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

/// The lowest port that is chosen.
const LOWEST: u16 = 10_000;

/// As many ports of an address that everybody shares, where no loopback address will do: free now, and none that the kernel hands
/// out, or one of them could become the local end of somebody's connection while its server is dead.
///
/// # Errors
///
/// If the kernel hands out all ports, or none of the others is free.
pub fn lasting(address: IpAddr, count: usize) -> Result<Vec<SocketAddr>> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").context("which ports does the kernel hand out?")?;
    let mut ports = never_handed_out(&range)?;
    fastrand::shuffle(&mut ports);
    // They are held until all are found, so that none is found twice.
    let found: Vec<_> = ports.into_iter().filter_map(|port| TcpListener::bind((address, port)).ok()).take(count).collect();
    if found.len() < count {
        bail!("{address} has no {count} free ports but those that the kernel hands out");
    }
    found.iter().map(|listener| Ok(listener.local_addr()?)).collect()
}

/// The ports outside `range`, which is as the kernel writes it.
fn never_handed_out(range: &str) -> Result<Vec<u16>> {
    let mut bounds = range.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(first)), Some(Ok(last))) = (bounds.next(), bounds.next()) else { bail!("{range:?} is no range of ports") };
    Ok((LOWEST..=u16::MAX).filter(|port| !(first..=last).contains(port)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_last_are_distinct_and_none_that_the_kernel_hands_out() {
        let ports = never_handed_out("32768\t60999\n").unwrap();
        assert_eq!((ports.first(), ports.last()), (Some(&LOWEST), Some(&u16::MAX)));
        assert!(ports.contains(&32767) && !ports.contains(&32768) && !ports.contains(&60999) && ports.contains(&61000));
        assert!(never_handed_out("").is_err());

        let mut found = lasting(Ipv4Addr::LOCALHOST.into(), 50).unwrap();
        found.sort();
        found.dedup();
        assert_eq!(found.len(), 50);
    }
}
