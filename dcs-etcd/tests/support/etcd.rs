//! One or several etcd servers of one's own.
//!
//! Each cluster has a loopback address of its own, so that a port which the kernel once called free stays free while its
//! server is down.
//!
//! An etcd server allocates its log in pieces of 64 MB, before it has anything to write. So data go to disk and never to
//! memory, and directories are removed: by their owner, and if it was killed, by whoever starts servers after it.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dcs_core::BoxError;
use dcs_etcd::Config;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::certificates::Files;
use super::{eventually, on_the_path};

/// How servers are started.
#[derive(Clone, Debug)]
pub struct Options {
    pub servers: usize,
    /// Clients speak TLS.
    pub tls: Option<Files>,
    /// Clients must present a certificate of this authority.
    pub client_ca: Option<PathBuf>,
    /// The address that clients connect to; one of its own for each cluster if absent.
    pub address: Option<IpAddr>,
    /// Further arguments.
    pub more: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { servers: 1, tls: None, client_ca: None, address: None, more: Vec::new() }
    }
}

impl Options {
    pub fn three() -> Self {
        Self { servers: 3, ..Self::default() }
    }

    pub fn with_tls(files: &Files) -> Self {
        Self { tls: Some(files.clone()), ..Self::default() }
    }

    pub fn on_ipv6() -> Self {
        Self { address: Some(Ipv6Addr::LOCALHOST.into()), ..Self::default() }
    }
}

/// The servers; killed when this is dropped, and when the test dies.
#[derive(Debug)]
pub struct Cluster {
    servers: Vec<Server>,
    scheme: &'static str,
    /// Removed when this is dropped, after the servers were killed.
    directory: TempDir,
    /// Held as long as this process lives.
    _lock: File,
}

/// What the directories of servers begin with.
const PREFIX: &str = "quorate-etcd-";

/// The file in them that their owner holds locked.
const LOCK: &str = "owner";

/// Younger directories may not be locked yet.
const GRACE: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Server {
    client: SocketAddr,
    data: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Cluster {
    /// Starts servers and waits until all of them serve.
    pub async fn start(options: &Options) -> Self {
        remove_what_the_dead_left();
        let directory = tempfile::Builder::new().prefix(PREFIX).tempdir().expect("a directory");
        let lock = File::create(directory.path().join(LOCK)).expect("a lock file");
        lock.try_lock().expect("nobody else knows the directory");
        let own = IpAddr::V4(Ipv4Addr::new(127, fastrand::u8(1..=254), fastrand::u8(..), fastrand::u8(1..=254)));
        let address = options.address.unwrap_or(own);
        let scheme = if options.tls.is_some() { "https" } else { "http" };
        let addresses: Vec<_> = (0..options.servers).map(|_| (free_address(address), free_address(own))).collect();
        let name = |index: usize| format!("etcd{index}");
        let peers: Vec<_> = addresses.iter().enumerate().map(|(index, (_, peer))| format!("{}=http://{peer}", name(index))).collect();
        // A busy machine must not make three servers elect anew all the time; one alone should be there soon.
        let (heartbeat, election) = if options.servers > 1 { ("100", "1000") } else { ("50", "500") };
        let mut servers = Vec::new();
        for (index, (client, peer)) in addresses.iter().enumerate() {
            let data = directory.path().join(name(index));
            let client_url = format!("{scheme}://{client}");
            let peer_url = format!("http://{peer}");
            let mut arguments: Vec<String> = [
                ("--name", name(index)),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url),
                ("--initial-cluster", peers.join(",")),
                ("--initial-cluster-token", directory.path().display().to_string()),
                ("--heartbeat-interval", heartbeat.to_owned()),
                ("--election-timeout", election.to_owned()),
                ("--logger", "zap".to_owned()),
            ]
            .into_iter()
            .flat_map(|(option, value)| [option.to_owned(), value])
            .collect();
            if let Some(files) = &options.tls {
                let paths = [("--cert-file", &files.cert), ("--key-file", &files.key)];
                arguments.extend(paths.into_iter().flat_map(|(o, path)| [o.to_owned(), path.display().to_string()]));
            }
            if let Some(ca) = &options.client_ca {
                let ca = ca.display().to_string();
                arguments.extend(["--client-cert-auth".to_owned(), "--trusted-ca-file".to_owned(), ca]);
            }
            arguments.extend(options.more.iter().cloned());
            let log = directory.path().join(format!("{}.log", name(index)));
            servers.push(Server { data, client: *client, arguments, log, child: Mutex::new(None) });
        }
        let cluster = Self { servers, scheme, directory, _lock: lock };
        for index in 0..cluster.servers.len() {
            cluster.start_server(index);
        }
        for index in 0..cluster.servers.len() {
            cluster.serves(index).await;
        }
        cluster
    }

    /// Waits until the server is ready, as its own log says; that needs neither certificates nor users.
    pub async fn serves(&self, index: usize) {
        let server = &self.servers[index];
        eventually("etcd serves", Duration::from_secs(30), || async {
            let log = std::fs::read_to_string(&server.log).map_err(|error| error.to_string())?;
            let tail = log.rsplit("starting etcd").next().unwrap_or_default().to_owned();
            let tail = log.rsplit("--- started ---").next().map_or(tail, str::to_owned);
            if tail.contains("serving client traffic") || tail.contains("serving insecure client requests") {
                return Ok(());
            }
            Err(tail.lines().rev().take(5).collect::<Vec<_>>().join("\n"))
        })
        .await;
    }

    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// `host:port` of each server.
    pub fn hosts(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.client.to_string()).collect()
    }

    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(|server| server.client).collect()
    }

    /// The section of a configuration that names all servers, and `more`.
    pub fn section(&self, more: Value) -> Map<String, Value> {
        let mut section = json!({"hosts": self.hosts(), "protocol": self.scheme});
        let section = section.as_object_mut().expect("it is an object");
        section.extend(more.as_object().expect("options are an object").clone());
        section.clone()
    }

    pub fn config(&self) -> Config {
        Config::from_section(&self.section(json!({}))).expect("a good section")
    }

    /// A client of the library, to look behind the store's back.
    pub async fn direct(&self) -> etcd_client::Client {
        etcd_client::Client::connect(self.hosts(), None).await.expect("a client")
    }

    /// Kills the server as if its machine had gone.
    pub fn kill(&self, index: usize) {
        let child = self.servers[index].child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts a killed server again with its data.
    pub fn restart(&self, index: usize) {
        self.kill(index);
        self.start_server(index);
    }

    /// Starts a server again without its data.
    pub fn wipe(&self, index: usize) {
        self.kill(index);
        std::fs::remove_dir_all(&self.servers[index].data).expect("the data can be removed");
        self.start_server(index);
    }

    /// Stops a server without ending it: connections stay open and silent.
    pub async fn freeze(&self, index: usize) {
        self.signal(index, Signal::SIGSTOP);
        // The signal has to reach every thread.
        eventually("the server stops", Duration::from_secs(5), || async {
            let states = self.states_of_threads(index);
            if states.iter().all(|state| *state == 'T') { Ok(()) } else { Err(format!("{states:?}")) }
        })
        .await;
    }

    fn states_of_threads(&self, index: usize) -> Vec<char> {
        let child = self.servers[index].child.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(child) = &*child else { return Vec::new() };
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        let stat = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
        stat.filter_map(|stat| stat.rsplit_once(") ")?.1.chars().next()).collect()
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self, index: usize) {
        self.signal(index, Signal::SIGCONT);
    }

    /// How many requests the servers have got so far; streams count by their messages, watches and questions about the
    /// cluster itself not at all.
    pub fn requests(&self) -> Option<u64> {
        let counted = ["grpc_service=\"etcdserverpb.KV\"", "grpc_service=\"etcdserverpb.Lease\""];
        self.metric("grpc_server_msg_received_total{", &counted)
    }

    /// How many watches are open.
    pub fn watches(&self) -> Option<u64> {
        self.metric("etcd_debugging_mvcc_watcher_total ", &[""])
    }

    fn metric(&self, name: &str, labels: &[&str]) -> Option<u64> {
        self.servers.iter().map(|server| metric_of(server.client, name, labels).ok()).sum()
    }

    fn signal(&self, index: usize, signal: Signal) {
        let child = self.servers[index].child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = &*child {
            kill(Pid::from_raw(child.id().cast_signed()), signal).expect("the server runs");
        }
    }

    fn start_server(&self, index: usize) {
        let server = &self.servers[index];
        let mut log = OpenOptions::new().create(true).append(true).open(&server.log).expect("a log");
        std::io::Write::write_all(&mut log, b"--- started ---\n").expect("a log");
        let child = spawn(&server.arguments, log);
        *server.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for index in 0..self.servers.len() {
            self.kill(index);
        }
        if std::thread::panicking() {
            for server in &self.servers {
                let log = std::fs::read_to_string(&server.log).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(8).collect();
                eprintln!("the last lines of {}:", server.log.display());
                tail.iter().rev().for_each(|line| eprintln!("    {line}"));
            }
        }
    }
}

/// Starts etcd so that the kernel ends it with the thread that started it, whatever becomes of the test.
fn spawn(arguments: &[String], log: File) -> Child {
    let etcd = on_the_path("etcd").expect("etcd is installed");
    let mut command = match on_the_path("setpriv") {
        Some(setpriv) => {
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", "KILL", "--"]).arg(etcd);
            command
        }
        None => Command::new(etcd),
    };
    let errors = log.try_clone().expect("a log");
    command.args(arguments).env_clear().stdin(Stdio::null()).stdout(log).stderr(errors).spawn().expect("etcd starts")
}

/// Removes directories whose owner was killed before it could do so.
fn remove_what_the_dead_left() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if !ours || age().is_none_or(|age| age < GRACE) {
            continue;
        }
        if let Ok(lock) = File::open(entry.path().join(LOCK))
            && lock.try_lock().is_ok()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn free_address(address: IpAddr) -> SocketAddr {
    TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr()).expect("a free port")
}

/// Adds up what the server counts under `name` with one of `labels`, as it tells everybody who asks at `/metrics`.
fn metric_of(server: SocketAddr, name: &str, labels: &[&str]) -> Result<u64, BoxError> {
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
