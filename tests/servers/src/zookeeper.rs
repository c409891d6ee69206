//! Servers of ZooKeeper: those of Debian 12 (3.8), as one `java` process each.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::certificates::Files;
use crate::{Network, Plan, Servers, eventually, on_the_path};

/// Where Debian keeps the libraries of Java.
const JARS: &str = "/usr/share/java";

/// What a server needs of them. The first one names most of the others itself, but not those of netty that TLS needs.
const CLASSES: [&str; 4] = ["zookeeper.jar", "slf4j-simple.jar", "netty-codec.jar", "netty-resolver.jar"];

/// What a server keeps, in its directory: ZooKeeper names it after the format.
const DATA: &str = "version-2";

/// Its certificate and key, in its directory. The ending tells ZooKeeper the format.
const KEY_STORE: &str = "key.pem";

/// Whom it trusts about clients.
const TRUST_STORE: &str = "trust.pem";

/// How long a server may take to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// How servers are started.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many.
    pub servers: u8,
    /// Clients speak TLS, and nothing else.
    pub tls: Option<Files>,
    /// Clients must present a certificate of this authority.
    pub client_ca: Option<PathBuf>,
    /// The address that clients connect to; one of the network's if absent.
    pub address: Option<IpAddr>,
    /// Half of the shortest session, and the grain in which sessions expire.
    pub tick: Duration,
    /// The longest session that is granted.
    pub longest_session: Duration,
    /// Further lines of the configuration.
    pub more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let (tick, longest_session) = (Duration::from_millis(200), Duration::from_secs(60));
        Self { servers: 1, tls: None, client_ca: None, address: None, tick, longest_session, more: Vec::new() }
    }
}

/// Why there can be no server here, and what to do about it; nothing if there can.
#[must_use]
pub fn missing() -> Option<String> {
    let install = "`apt-get install libzookeeper-java libslf4j-java openjdk-17-jre-headless` installs it";
    if on_the_path("java").is_none() {
        return Some(format!("no `java` on the PATH; {install}"));
    }
    let lacking = CLASSES.iter().find(|jar| !Path::new(JARS).join(jar).exists())?;
    Some(format!("there is no {JARS}/{lacking}; {install}"))
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

    /// The servers that form one store.
    ///
    /// # Errors
    ///
    /// Something that is needed is not there, or no port is free.
    pub fn plan(&self, network: &Network, directory: &Path) -> Result<Vec<Plan>> {
        if let Some(missing) = missing() {
            bail!(missing);
        }
        let java = on_the_path("java").context("it was there just now")?;
        let addresses = (0..self.servers)
            .map(|index| {
                let free = |port| network.free(crate::network::SERVERS + index, port);
                let client = match self.address {
                    Some(address) => TcpListener::bind((address, 0))?.local_addr()?,
                    None => free(2181)?,
                };
                Ok([client, free(2888)?, free(3888)?])
            })
            .collect::<Result<Vec<[SocketAddr; 3]>>>()?;
        let ensemble: Vec<String> = addresses
            .iter()
            .enumerate()
            .map(|(index, [_, quorum, election])| format!("server.{}={}:{}:{}", index + 1, quorum.ip(), quorum.port(), election.port()))
            .collect();
        let classes: Vec<String> = CLASSES.iter().map(|jar| format!("{JARS}/{jar}")).collect();
        let certificates = self.certificates()?;
        let plans = addresses.iter().enumerate().map(|(index, [client, ..])| {
            let home = directory.join(format!("zookeeper{}", index + 1));
            let mut lines = self.lines(*client, &home);
            if self.servers > 1 {
                lines.extend(ensemble.iter().cloned());
            }
            let arguments = [
                // As little of the machine as it can do with.
                "-Xms32m",
                "-Xmx128m",
                "-XX:+UseSerialGC",
                "-XX:TieredStopAtLevel=1",
                "-Xshare:auto",
                "-Dorg.slf4j.simpleLogger.showDateTime=true",
                "-cp",
                &classes.join(":"),
                "org.apache.zookeeper.server.quorum.QuorumPeerMain",
                "zoo.cfg",
            ];
            Plan {
                name: format!("zookeeper{}", index + 1),
                address: *client,
                program: java.clone(),
                arguments: arguments.map(str::to_owned).into(),
                environment: Vec::new(),
                directory: home,
                files: [("zoo.cfg", format!("{}\n", lines.join("\n")).into_bytes()), ("myid", format!("{}\n", index + 1).into_bytes())]
                    .into_iter()
                    .chain(certificates.clone())
                    .collect(),
                data: DATA,
            }
        });
        Ok(plans.collect())
    }

    /// The certificates in the form in which a server wants them: one file with its own and the key, one with those to trust.
    fn certificates(&self) -> Result<Vec<(&'static str, Vec<u8>)>> {
        let Some(files) = &self.tls else { return Ok(Vec::new()) };
        let mut own = std::fs::read(&files.key)?;
        let cert = std::fs::read(&files.cert)?;
        own.extend(&cert);
        let trusted = self.client_ca.as_ref().map_or(Ok(cert), std::fs::read)?;
        Ok(vec![(KEY_STORE, own), (TRUST_STORE, trusted)])
    }

    fn lines(&self, client: SocketAddr, home: &Path) -> Vec<String> {
        let mut lines = vec![
            format!("tickTime={}", self.tick.as_millis()),
            // A busy machine must not make three servers elect anew all the time; but when the leader freezes, the others have to
            // notice within the time of one operation.
            "initLimit=50".to_owned(),
            "syncLimit=10".to_owned(),
            format!("maxSessionTimeout={}", self.longest_session.as_millis()),
            format!("dataDir={}", home.display()),
            "maxClientCnxns=0".to_owned(),
            "admin.enableServer=false".to_owned(),
            "4lw.commands.whitelist=*".to_owned(),
        ];
        if self.tls.is_none() {
            lines.extend([format!("clientPort={}", client.port()), format!("clientPortAddress={}", client.ip())]);
        } else {
            lines.extend([
                "serverCnxnFactory=org.apache.zookeeper.server.NettyServerCnxnFactory".to_owned(),
                format!("secureClientPort={}", client.port()),
                format!("secureClientPortAddress={}", client.ip()),
                format!("ssl.keyStore.location={}", home.join(KEY_STORE).display()),
                format!("ssl.trustStore.location={}", home.join(TRUST_STORE).display()),
                format!("ssl.clientAuth={}", if self.client_ca.is_some() { "need" } else { "none" }),
                "authProvider.x509=org.apache.zookeeper.server.auth.X509AuthenticationProvider".to_owned(),
            ]);
        }
        lines.extend(self.more.iter().cloned());
        lines
    }

    /// Starts them and waits until all of them serve.
    ///
    /// # Errors
    ///
    /// They cannot be started.
    pub async fn start(&self) -> Result<Servers> {
        let servers = Servers::start(|network, directory| self.plan(network, directory))?;
        for index in 0..servers.len() {
            if self.tls.is_some() {
                // Its commands would need TLS, too.
                servers.says(index, &["bound to port"]).await;
            } else {
                serves(&servers, index).await;
            }
        }
        Ok(servers)
    }
}

/// Waits until a server without TLS serves.
pub async fn serves(servers: &Servers, index: usize) {
    let address = servers.addresses()[index];
    eventually("ZooKeeper serves", PATIENCE, || async move {
        let answer = tokio::task::spawn_blocking(move || word(address, "srvr")).await;
        match answer.map_err(|error| error.to_string())? {
            Ok(answer) if answer.contains("Mode:") => Ok(()),
            Ok(answer) => Err(answer),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

/// Asks a server without TLS one of its four-letter words, e.g. `mntr`. While it starts, it accepts connections and does not
/// answer, so this has a limit of its own.
///
/// # Errors
///
/// It does not answer.
pub fn word(server: SocketAddr, word: &str) -> Result<String> {
    let patience = Duration::from_secs(2);
    let mut stream = TcpStream::connect_timeout(&server, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(word.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}
