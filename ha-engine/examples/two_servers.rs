//! The engine in a program of its own, without an agent: two PostgreSQL servers, an engine for each, and between them the
//! store in memory and a port of the program's own. When the engine that leads is ended the other one takes over.
//!
//! ```sh
//! cargo run -p ha-engine --example two_servers -- /usr/lib/postgresql/15/bin
//! ```
//!
//! PostgreSQL refuses to run as root. Two machines need a store that both reach (`dcs-etcd`, `dcs-raft` and the others in
//! the place of `dcs_core::memory`), and peers that ask each other over the network.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::keys::ClusterPath;
use dcs_core::memory::Server;
use dcs_core::model::{Lsn, MemberName};
use dcs_core::{BootClock, Deadline};
use ha_engine::decide::failsafe::exclusion::FailsafeCall;
use ha_engine::decide::observation::{PeerAnswer, PeerTarget};
use ha_engine::driver::{Engine, Parts};
use ha_engine::ports::{NoLeaseGuard, Peers};
use ha_engine::postgres::LocalPostgres;
use ha_engine::settings::{Authentication, BootstrapSettings, Credentials, InCode, PostgresSettings, ServerAddress};
use ha_engine::watchdog::MachineWatchdog;
use ha_engine::{Command, EngineHandle};
use serde_json::json;

/// Everything that can go wrong here ends the program.
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let bin_dir = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: two_servers DIRECTORY_OF_POSTGRESQL'S_PROGRAMS")?;
    let directory = tempfile::tempdir()?;
    run(&bin_dir, directory.path()).await
}

/// Makes a cluster of two, lets the leader go, and finds its data at the other one.
pub(crate) async fn run(bin_dir: &Path, directory: &Path) -> Outcome<()> {
    let (store, peers) = (Server::new(Arc::new(BootClock)), Arc::new(InThisProgram::default()));
    let alice = start("alice", bin_dir, directory, &store, &peers).await?;
    until("alice is the primary", || alice.primary_lease().is_some()).await?;
    let bob = start("bob", bin_dir, directory, &store, &peers).await?;
    until("bob follows", || replicas(&alice).contains(&"bob".into())).await?;
    println!("alice is the primary, and bob follows");

    sql(&alice, "CREATE TABLE notes AS SELECT 'written at alice' AS note").await?;
    // Stops PostgreSQL, and lets go of the lock once bob has everything.
    alice.send(Command::Shutdown).await?;
    until("bob is the primary", || bob.primary_lease().is_some()).await?;
    println!("bob is the primary; his note: {}", sql(&bob, "SELECT note FROM notes").await?);

    bob.send(Command::Shutdown).await?;
    until("the engines have ended", || alice.subscribe().has_changed().is_err() && bob.subscribe().has_changed().is_err()).await
}

/// Starts the engine of one node. It makes the database if there is none yet, and copies the leader's if there is one.
async fn start(name: &str, bin_dir: &Path, directory: &Path, store: &Arc<Server>, peers: &Arc<InThisProgram>) -> Outcome<EngineHandle> {
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let listen = ServerAddress { hosts: vec!["127.0.0.1".to_owned()], port };
    let user = |name: &str| Credentials::new(name, "a long random text");
    let authentication = Authentication { superuser: user("postgres"), replication: user("replicator"), rewind: None };
    let hba = ["host all all 127.0.0.1/32 scram-sha-256", "host replication replicator 127.0.0.1/32 scram-sha-256"];
    let mut postgresql = PostgresSettings {
        bin_dir: bin_dir.to_owned(),
        pg_hba: Some(hba.map(str::to_owned).to_vec()),
        ..PostgresSettings::new("demo", directory.join(name), listen, authentication)
    };
    postgresql.parameters.insert("unix_socket_directories".to_owned(), directory.display().to_string());
    let dcs = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}).as_object().cloned().unwrap_or_default();
    let bootstrap = BootstrapSettings { dcs, initdb: json!(["data-checksums", {"auth": "scram-sha-256"}]), ..BootstrapSettings::default() };
    let source = InCode::new(name.into(), "demo", &format!("in-this-program:{name}"), bootstrap, postgresql)?;

    let (settings, clock) = (source.settings(), Arc::clone(store.clock()));
    let (mut engine, handle) = Engine::new(Parts {
        dcs: store.dcs(ClusterPath::new(None, "demo"), name.into(), settings.global.timing()),
        postgres: LocalPostgres::new(Arc::clone(&settings), Arc::clone(&clock)),
        peers: Arc::clone(peers) as _,
        // This program has no way to be started as a guard.
        lease_guard: Arc::new(NoLeaseGuard),
        watchdog: Arc::new(MachineWatchdog::new(Arc::clone(&clock))),
        clock,
        source: Arc::new(source),
        settings,
    });
    engine.start().await?;
    peers.0.lock().unwrap_or_else(PoisonError::into_inner).push(handle.clone());
    // The engine owns everything from here on. Its end is seen at the handle, too.
    drop(tokio::spawn(engine.run()));
    Ok(handle)
}

/// How nodes ask each other for their state before one of them takes over: here by a call.
#[derive(Debug, Default)]
struct InThisProgram(Mutex<Vec<EngineHandle>>);

#[async_trait]
impl Peers for InThisProgram {
    async fn poll(&self, targets: &[PeerTarget], deadline: Deadline) -> Vec<(MemberName, PeerAnswer)> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut answers = Vec::new();
        for target in targets {
            let answer = match nodes.iter().find(|node| node.me == target.name) {
                Some(node) => node.answer_peer(deadline).await,
                None => PeerAnswer::Unreachable,
            };
            answers.push((target.name.clone(), answer));
        }
        answers
    }

    async fn ask_for_word(&self, targets: &[PeerTarget], call: &FailsafeCall, _: Deadline) -> Option<BTreeMap<MemberName, Lsn>> {
        let nodes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut positions = BTreeMap::new();
        for target in targets {
            let position = nodes.iter().find(|node| node.me == target.name)?.give_word(call.clone()).ok()?;
            positions.extend(position.map(|position| (target.name.clone(), position)));
        }
        Some(positions)
    }

    async fn is_alive(&self, _: &str, _: Deadline) -> bool {
        // Names are given out once in this program.
        false
    }
}

/// The members that run as replicas, as the leader sees them.
fn replicas(leader: &EngineHandle) -> Vec<MemberName> {
    let Some(view) = leader.snapshot().view.clone() else { return Vec::new() };
    let runs = |state: &Option<String>| state.as_deref() == Some("running");
    let replicas = view.members.iter().filter(|member| member.name != leader.me && runs(&member.record.state));
    replicas.map(|member| member.name.clone()).collect()
}

/// Runs one statement at a node, and returns the first value.
async fn sql(node: &EngineHandle, statement: &str) -> Outcome<String> {
    let settings = Arc::clone(&node.snapshot().settings);
    let (server, user) = (&settings.postgresql, &settings.postgresql.authentication.superuser);
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(server.listen.port).dbname(&server.database);
    config.user(user.username.as_deref().unwrap_or_default()).password(user.password.as_ref().map_or("", |secret| secret.expose()));
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    drop(tokio::spawn(connection));
    let rows = client.simple_query(statement).await?;
    Ok(rows
        .iter()
        .find_map(|row| if let tokio_postgres::SimpleQueryMessage::Row(row) = row { row.get(0) } else { None })
        .unwrap_or_default()
        .to_owned())
}

/// Waits for what takes a few seconds.
async fn until(what: &str, condition: impl Fn() -> bool) -> Outcome<()> {
    let deadline = Deadline::after(Duration::from_secs(120));
    while !condition() {
        if deadline.has_passed() {
            return Err(format!("in vain: {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}
