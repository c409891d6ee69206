//! Servers of etcd: that of Debian 12 (3.4), or newer ones that `scripts/install-servers` unpacks.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::certificates::Files;
use crate::{Network, Plan, Servers, on_the_path, program};

/// Which etcd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    /// The one on the search path: 3.4 on Debian 12.
    #[default]
    Installed,
    /// 3.5, which `scripts/install-servers etcd-3.5` unpacks.
    V35,
}

impl Version {
    /// Its program.
    ///
    /// # Errors
    ///
    /// It is not there, and what to do about it.
    pub fn program(self) -> Result<PathBuf> {
        match self {
            Self::Installed => on_the_path("etcd").context("no `etcd` on the PATH; `apt-get install etcd-server` installs it"),
            Self::V35 => program("etcd-3.5/usr/bin/etcd", "etcd-3.5"),
        }
    }
}

/// How servers are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many.
    pub servers: u8,
    /// Which etcd.
    pub version: Version,
    /// Clients speak TLS.
    pub tls: Option<Files>,
    /// Clients must present a certificate of this authority.
    pub client_ca: Option<PathBuf>,
    /// The address that clients connect to; one of the network's if absent.
    pub address: Option<IpAddr>,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: 1, version: Version::default(), tls: None, client_ca: None, address: None, more: Vec::new() }
    }
}

impl Options {
    /// Three servers.
    #[must_use]
    pub fn three() -> Self {
        Self { servers: 3, ..Self::default() }
    }

    /// One server that speaks TLS.
    #[must_use]
    pub fn with_tls(files: &Files) -> Self {
        Self { tls: Some(files.clone()), ..Self::default() }
    }

    /// One server that listens on IPv6.
    #[must_use]
    pub fn on_ipv6() -> Self {
        Self { address: Some(Ipv6Addr::LOCALHOST.into()), ..Self::default() }
    }

    /// How clients speak to it.
    #[must_use]
    pub const fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// The servers that form one store.
    ///
    /// # Errors
    ///
    /// The program is not there, or no port is free.
    pub fn plan(&self, network: &Network, directory: &Path) -> Result<Vec<Plan>> {
        let program = self.version.program()?;
        let scheme = self.scheme();
        let addresses = (0..self.servers)
            .map(|index| Ok((self.client_address(network, index)?, network.free(crate::network::SERVERS + index, 2380)?)))
            .collect::<Result<Vec<(SocketAddr, SocketAddr)>>>()?;
        let name = |index: usize| format!("etcd{}", index + 1);
        let peers: Vec<_> = addresses.iter().enumerate().map(|(index, (_, peer))| format!("{}=http://{peer}", name(index))).collect();
        // A busy machine must not make three servers elect anew all the time; one alone should be there soon.
        let (heartbeat, election) = if self.servers > 1 { ("100", "1000") } else { ("50", "500") };
        let mut plans = Vec::new();
        for (index, (client, peer)) in addresses.iter().enumerate() {
            let client_url = format!("{scheme}://{client}");
            let peer_url = format!("http://{peer}");
            let mut arguments: Vec<String> = [
                ("--name", name(index)),
                ("--data-dir", DATA.to_owned()),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url),
                ("--initial-cluster", peers.join(",")),
                ("--initial-cluster-token", directory.display().to_string()),
                ("--heartbeat-interval", heartbeat.to_owned()),
                ("--election-timeout", election.to_owned()),
                ("--logger", "zap".to_owned()),
            ]
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect();
            if let Some(files) = &self.tls {
                let paths = [("--cert-file", &files.cert), ("--key-file", &files.key)];
                arguments.extend(paths.into_iter().flat_map(|(o, path)| [o.to_owned(), path.display().to_string()]));
            }
            if let Some(ca) = &self.client_ca {
                let ca = ca.display().to_string();
                arguments.extend(["--client-cert-auth".to_owned(), "--trusted-ca-file".to_owned(), ca]);
            }
            arguments.extend(self.more.iter().cloned());
            plans.push(Plan {
                name: name(index),
                address: *client,
                program: program.clone(),
                arguments,
                environment: Vec::new(),
                directory: directory.join(name(index)),
                files: Vec::new(),
                data: DATA,
            });
        }
        Ok(plans)
    }

    fn client_address(&self, network: &Network, index: u8) -> Result<SocketAddr> {
        let Some(address) = self.address else { return network.free(crate::network::SERVERS + index, 2379) };
        Ok(TcpListener::bind((address, 0))?.local_addr()?)
    }

    /// Starts them and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// They cannot be started.
    pub async fn start(&self) -> Result<Servers> {
        let servers = Servers::start(|network, directory| self.plan(network, directory))?;
        for index in 0..servers.len() {
            serves(&servers, index).await;
        }
        Ok(servers)
    }
}

const DATA: &str = "data";

/// Waits until a server is ready, as its own log says; that needs neither certificates nor users.
pub async fn serves(servers: &Servers, index: usize) {
    servers.says(index, &["serving client traffic", "serving insecure client requests"]).await;
}

/// Adds up what all servers count under `name` with one of `labels`, as they tell everybody who asks at `/metrics`. Nothing if
/// one does not answer.
#[must_use]
pub fn metric(servers: &Servers, name: &str, labels: &[&str]) -> Option<u64> {
    servers.addresses().into_iter().map(|server| metric_of(server, name, labels).ok()).sum()
}

fn metric_of(server: SocketAddr, name: &str, labels: &[&str]) -> Result<u64> {
    use std::io::{Read, Write};
    let patience = Duration::from_secs(5);
    let mut stream = std::net::TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let lines = text.lines().filter(|line| line.starts_with(name) && labels.iter().any(|label| line.contains(label)));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64)
}
