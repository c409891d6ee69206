//! Servers and agents of Consul: 1.8, the last that a Debian had, which `scripts/install-servers` unpacks.
//!
//! A client of Consul has one endpoint. Where there are three servers, that is an agent on its own machine, which finds a server
//! that works: so here, too, an agent stands beside three servers, behind them in the list.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use crate::certificates::Files;
use crate::{Network, Plan, Servers, program};

/// The token that may do everything, where tokens are asked for.
pub const MASTER_TOKEN: &str = "6f1a3a8e-0c0d-4b43-9b5c-1d1f6f0a7a11";

const CONFIG: &str = "consul.json";
const DATA: &str = "data";

/// The program.
///
/// # Errors
///
/// It is not there, and what to do about it.
pub fn consul() -> Result<PathBuf> {
    program("consul/usr/bin/consul", "consul")
}

/// How servers are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many.
    pub servers: u8,
    /// Beside them, an agent that is no server.
    pub agent: bool,
    /// The least time to live of a session; Consul's own is 10 s.
    pub session_ttl_min: &'static str,
    /// Tokens are asked for, and without one nothing is allowed.
    pub acl: bool,
    /// Clients speak TLS: certificate and key, and the authority that they were signed by.
    pub tls: Option<(Files, PathBuf)>,
    /// Clients must present a certificate of that authority.
    pub client_certificates: bool,
    /// The address that clients connect to; one of the network's if absent.
    pub address: Option<IpAddr>,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: 1, agent: false, session_ttl_min: "1s", acl: false, tls: None, client_certificates: false, address: None }
    }
}

impl Options {
    /// Three servers and an agent.
    #[must_use]
    pub fn three() -> Self {
        Self { servers: 3, agent: true, ..Self::default() }
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

    /// The servers that form one store, and the agent behind them, if there is one.
    ///
    /// # Errors
    ///
    /// The program is not there, or no port is free.
    pub fn plan(&self, network: &Network, directory: &Path) -> Result<Vec<Plan>> {
        let program = consul()?;
        let count = self.servers + u8::from(self.agent);
        let gossip =
            (0..count).map(|index| Ok(network.free(crate::network::SERVERS + index, 8301)?.to_string())).collect::<Result<Vec<_>>>()?;
        let mut plans = Vec::new();
        for index in 0..count {
            let is_server = index < self.servers;
            let name = if is_server { format!("consul{}", index + 1) } else { "consul-agent".to_owned() };
            let client = self.client_address(network, index)?;
            let config = self.config(network, index, &name, client, &gossip)?;
            plans.push(Plan {
                name: name.clone(),
                address: client,
                program: program.clone(),
                arguments: ["agent", "-config-file", CONFIG].map(str::to_owned).to_vec(),
                environment: Vec::new(),
                directory: directory.join(name),
                files: vec![(CONFIG, serde_json::to_vec_pretty(&config)?)],
                data: DATA,
            });
        }
        Ok(plans)
    }

    fn config(&self, network: &Network, index: u8, name: &str, client: SocketAddr, gossip: &[String]) -> Result<Value> {
        let is_server = index < self.servers;
        let port = |usual| Ok::<_, anyhow::Error>(network.free(crate::network::SERVERS + index, usual)?.port());
        let (http, https) = if self.tls.is_some() { (-1, i32::from(client.port())) } else { (i32::from(client.port()), -1) };
        let own = network.address(crate::network::SERVERS + index).to_string();
        let own_gossip = gossip[usize::from(index)].rsplit(':').next().unwrap_or_default().parse::<u16>()?;
        let mut config = json!({
            "node_name": name,
            "data_dir": DATA,
            "bind_addr": own,
            "addresses": {"dns": own},
            "client_addr": client.ip().to_string(),
            "server": is_server,
            "ports": {
                "http": http, "https": https, "grpc": -1,
                "dns": port(8600)?, "server": port(8300)?, "serf_lan": own_gossip, "serf_wan": port(8302)?,
            },
            "retry_join": gossip,
            "retry_interval": "1s",
            "session_ttl_min": self.session_ttl_min,
            "leave_on_terminate": false,
            "disable_update_check": true,
            "performance": {"raft_multiplier": 1},
            // So that who is gone is known to be gone before a client has lost patience.
            "gossip_lan": {"probe_interval": "250ms", "probe_timeout": "150ms", "suspicion_mult": 3, "gossip_interval": "50ms"},
        });
        let mut add = |key: &str, value: Value| {
            config[key] = value;
        };
        if is_server {
            add("bootstrap_expect", self.servers.into());
            // Servers that are killed come back, and must be voters then.
            add("autopilot", json!({"cleanup_dead_servers": false, "server_stabilization_time": "1s"}));
        }
        if self.acl {
            let tokens = json!({"master": MASTER_TOKEN, "agent": MASTER_TOKEN});
            add("acl", json!({"enabled": true, "default_policy": "deny", "tokens": tokens}));
        }
        if let Some((files, authority)) = &self.tls {
            add("ca_file", authority.display().to_string().into());
            add("cert_file", files.cert.display().to_string().into());
            add("key_file", files.key.display().to_string().into());
            add("verify_incoming_https", self.client_certificates.into());
        }
        Ok(config)
    }

    fn client_address(&self, network: &Network, index: u8) -> Result<SocketAddr> {
        let Some(address) = self.address else { return network.free(crate::network::SERVERS + index, 8500) };
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

/// Waits until a server or agent has told the leader about itself, as its own log says; that needs neither certificates nor
/// tokens, and without it there are no sessions.
pub async fn serves(servers: &Servers, index: usize) {
    servers.says(index, &["Synced node info"]).await;
}

/// Where a server or agent answers DNS, over UDP.
///
/// # Panics
///
/// These are not servers of Consul.
#[must_use]
pub fn dns(servers: &Servers, index: usize) -> SocketAddr {
    let config = config_of(servers.plan(index));
    let address = format!("{}:{}", config["bind_addr"].as_str().unwrap_or_default(), config["ports"]["dns"]);
    address.parse().expect("every plan has an address for DNS")
}

/// What finds out which server leads, as the `host:port` of its clients: the last of `servers` is asked each time.
///
/// # Panics
///
/// There are no servers.
pub fn leader_finder(servers: &Servers) -> impl Fn() -> Option<String> + Send + Sync + 'static {
    let asked = *servers.addresses().last().expect("there are servers");
    let hosts: Vec<(String, String)> = (0..servers.len())
        .map(|index| {
            let (plan, config) = (servers.plan(index), config_of(servers.plan(index)));
            let ip = config["bind_addr"].as_str().unwrap_or_default();
            (format!("{ip}:{}", config["ports"]["server"]), plan.address.to_string())
        })
        .collect();
    move || {
        let leader = leader_told_by(asked).ok()?;
        hosts.iter().find(|(rpc, _)| leader.contains(&format!("\"{rpc}\""))).map(|(_, host)| host.clone())
    }
}

fn leader_told_by(agent: SocketAddr) -> Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&agent, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET /v1/status/leader HTTP/1.0\r\nHost: {agent}\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn config_of(plan: &Plan) -> Value {
    let content = plan.files.iter().find(|(name, _)| *name == CONFIG).map(|(_, content)| content.as_slice());
    serde_json::from_slice(content.unwrap_or_default()).unwrap_or_default()
}
