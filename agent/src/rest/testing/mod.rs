//! A node that consists of a REST API, a store in memory, and a test that plays engine, PostgreSQL and peers.

pub(crate) mod postgres;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::fault::{FaultyStore, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::memory::Server;
use dcs_core::model::{ClusterView, Lsn, MemberName, MemberRecord, Role, ServerState, Tags};
use dcs_core::{Clock, Dcs, Deadline, LeaderLease, Moment, Timing};
use ha_engine::decide::failsafe::FailsafeMemory;
use ha_engine::decide::failsafe::exclusion::FailsafeCall;
use ha_engine::decide::observation::{PeerAnswer, PeerStatus, PeerTarget};
use ha_engine::ports::Peers;
use ha_engine::settings::{EffectiveSettings, SettingsSource as _};
use ha_engine::{Command, EngineHandle, RestartAnswer, Snapshot};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use self::postgres::FakePostgres;
use super::status::Facts;
use super::{RestServer, serve};
use crate::config::{AgentSettings, Environment, LocalConfig, RestApiSettings};
use crate::stores::RaftNode;

const CONFIGURATION: &str = "
scope: batman
name: a
restapi: {listen: '127.0.0.1:8008'}
etcd3: {hosts: '127.0.0.1:2379'}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: DATA
  authentication:
    superuser: {username: postgres, password: x}
    replication: {username: replicator, password: x}
tags: {zone: north, rank: 1}
";

fn configuration() -> LocalConfig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("quorate.yml");
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(&path, CONFIGURATION.replace("DATA", data.to_str().unwrap())).unwrap();
    LocalConfig::load(Some(&path), Environment::empty()).unwrap()
}

/// The settings of a REST API at some free port.
pub(crate) fn settings() -> RestApiSettings {
    let (mut settings, _) = configuration().rest_api().unwrap();
    settings.listen.port = 0;
    settings
}

/// The settings of a node, with `dynamic` as dynamic configuration.
pub(crate) fn effective(dynamic: &Value) -> Arc<EffectiveSettings> {
    let source = AgentSettings::new(configuration()).unwrap();
    source.effective(dynamic.as_object().unwrap()).unwrap()
}

/// A clock that a test moves; it also ticks by a nanosecond whenever it is read, so that no two moments are the same.
#[derive(Debug, Default)]
pub(crate) struct HandClock(Mutex<Duration>);

impl HandClock {
    pub(crate) fn advance(&self, span: Duration) {
        *self.0.lock().unwrap() += span;
    }
}

impl Clock for HandClock {
    fn now(&self) -> Moment {
        let mut time = self.0.lock().unwrap();
        *time += Duration::from_nanos(1);
        Moment::from_origin(Duration::from_secs(1000) + *time)
    }

    fn wall(&self) -> jiff::Timestamp {
        "2030-01-01T00:00:00Z".parse().unwrap()
    }
}

/// Peers that answer at once, or never.
#[derive(Debug, Default)]
pub(crate) struct FakePeers(Mutex<HashMap<String, PeerAnswer>>);

impl FakePeers {
    pub(crate) fn answer(&self, name: &str, answer: PeerAnswer) {
        self.0.lock().unwrap().insert(name.to_owned(), answer);
    }
}

/// A running replica of a normal cluster with a leader elsewhere.
pub(crate) fn good_facts() -> Facts {
    Facts {
        state: Some(ServerState::Running),
        role: Role::Replica,
        paused: false,
        standby_cluster: false,
        has_view: true,
        unlocked: false,
        duty: None,
        leader_position: Lsn(1000),
        latest_end: Lsn::ZERO,
        replayed: Lsn(1000),
        received: Lsn(1000),
        streaming: true,
        failsafe: false,
    }
}

pub(crate) fn good_peer() -> PeerStatus {
    PeerStatus {
        in_recovery: true,
        position: Lsn(1000),
        timeline: None,
        tags: Tags::default(),
        watchdog_failed: false,
        scope: None,
        system_id: None,
    }
}

#[async_trait]
impl Peers for FakePeers {
    async fn poll(&self, targets: &[PeerTarget], deadline: Deadline) -> Vec<(MemberName, PeerAnswer)> {
        let known = self.0.lock().unwrap().clone();
        let mut answers = Vec::new();
        for target in targets {
            let answer = known.get(target.name.as_str()).cloned();
            if answer.is_none() {
                tokio::time::sleep_until(deadline.instant()).await;
            }
            answers.push((target.name.clone(), answer.unwrap_or(PeerAnswer::Unreachable)));
        }
        answers
    }

    async fn ask_for_word(&self, _: &[PeerTarget], _: &FailsafeCall, _: Deadline) -> Option<BTreeMap<MemberName, Lsn>> {
        None
    }

    async fn is_alive(&self, _: &str, _: Deadline) -> bool {
        false
    }
}

/// What the test that plays the engine answers.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) restart: RestartAnswer,
    pub(crate) schedule_accepted: bool,
    pub(crate) schedule_deleted: bool,
    pub(crate) reinitialize_refusal: Option<String>,
    /// What was asked for.
    pub(crate) heard: Vec<String>,
    /// What was left for the journal.
    pub(crate) notes: Vec<String>,
}

pub(crate) struct Node {
    pub(crate) server: RestServer,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<HandClock>,
    pub(crate) postgres: Arc<FakePostgres>,
    pub(crate) peers: Arc<FakePeers>,
    pub(crate) script: Arc<Mutex<Script>>,
    pub(crate) snapshot: watch::Sender<Arc<Snapshot>>,
    /// What goes wrong with this node's store.
    pub(crate) plan: Plan,
    /// The store, as this node sees it.
    pub(crate) dcs: Arc<dyn Dcs>,
    store: Arc<Server>,
    client: reqwest::Client,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn said(&self) -> (u16, &str) {
        (self.status, &self.body)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

fn timing() -> Timing {
    Timing { ttl: Duration::from_secs(30), loop_wait: Duration::from_secs(10), retry_timeout: Duration::from_secs(3) }
}

impl Node {
    /// A replica in an empty cluster, with plain settings.
    pub(crate) async fn start() -> Self {
        Self::with(&settings()).await
    }

    pub(crate) async fn with(settings: &RestApiSettings) -> Self {
        Self::with_raft(settings, None).await
    }

    /// The same in an agent that is a node of the embedded store, or is not.
    pub(crate) async fn with_raft(settings: &RestApiSettings, raft: Option<RaftNode>) -> Self {
        let clock = Arc::new(HandClock::default());
        let as_clock: Arc<dyn Clock> = Arc::clone(&clock) as _;
        let store = Server::new(Arc::clone(&as_clock));
        let plan = Plan::new(Duration::from_millis(500));
        let path = ClusterPath::new(None, "batman");
        let faulty = FaultyStore::new(store.client(timing()), plan.clone());
        let dcs: Arc<dyn Dcs> = Arc::new(KeyValueDcs::new(faulty, Arc::clone(&as_clock), path, "a".into(), timing()));
        let postgres = FakePostgres::new(Arc::clone(&as_clock));
        let (snapshot, receiver) = watch::channel(Arc::new(snapshot(&clock)));
        let (mailbox, commands) = mpsc::channel(16);
        let script = Arc::new(Mutex::new(Script {
            restart: RestartAnswer::Restarted,
            schedule_accepted: true,
            schedule_deleted: true,
            reinitialize_refusal: None,
            heard: Vec::new(),
            notes: Vec::new(),
        }));
        tokio::spawn(play(commands, Arc::clone(&script)));
        let handle = EngineHandle::assemble("a".into(), mailbox, receiver, Arc::clone(&dcs), Arc::clone(&postgres) as _, as_clock);
        let peers = Arc::new(FakePeers::default());
        let server = serve(settings, handle, Arc::clone(&peers) as _, raft).await.unwrap();
        let address = server.local_addr().await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { server, address, clock, postgres, peers, script, snapshot, plan, dcs, store, client }
    }

    /// The cluster as the member `name` sees it.
    pub(crate) fn member(&self, name: &str) -> Arc<KeyValueDcs> {
        self.store.dcs(ClusterPath::new(None, "batman"), name.into(), timing())
    }

    /// Lets `name` publish itself.
    pub(crate) async fn publish(&self, name: &str) -> Arc<KeyValueDcs> {
        let member = self.member(name);
        let record = MemberRecord {
            conn_url: Some(format!("postgres://{name}:5432/postgres")),
            api_url: Some(format!("http://{name}:8008/patroni")),
            state: Some("running".to_owned()),
            role: Some("replica".to_owned()),
            ..MemberRecord::default()
        };
        member.touch_member(&record, deadline()).await.unwrap();
        member
    }

    /// The cluster now.
    pub(crate) async fn load(&self) -> ClusterView {
        self.member("observer").load(deadline()).await.unwrap()
    }

    /// Changes what the engine has published.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Snapshot)) {
        let mut snapshot = self.snapshot.borrow().as_ref().clone();
        change(&mut snapshot);
        self.snapshot.send_replace(Arc::new(snapshot));
    }

    /// The engine loads the cluster and publishes what it saw.
    pub(crate) async fn cycle(&self) {
        let view = Arc::new(self.load().await);
        let now = self.clock.now();
        self.change(|snapshot| {
            snapshot.view = Some(view);
            snapshot.view_loaded_at = Some(now);
        });
    }

    /// The engine holds the lock for another ttl.
    pub(crate) fn lead(&self) {
        let now = self.clock.now();
        self.change(|snapshot| snapshot.lease = Some(LeaderLease::granted(now, snapshot.settings.global.ttl)));
    }

    /// The dynamic configuration in force.
    pub(crate) fn configure(&self, dynamic: &Value) {
        let settings = effective(dynamic);
        self.change(|snapshot| snapshot.settings = settings);
    }

    pub(crate) fn heard(&self) -> Vec<String> {
        std::mem::take(&mut self.script.lock().unwrap().heard)
    }

    pub(crate) async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, None).await
    }

    pub(crate) async fn send(&self, method: &str, target: &str, body: Option<&str>) -> Answer {
        self.send_with(&self.client, "http", method, target, body).await.unwrap()
    }

    pub(crate) async fn send_with(
        &self,
        client: &reqwest::Client,
        scheme: &str,
        method: &str,
        target: &str,
        body: Option<&str>,
    ) -> Result<Answer, reqwest::Error> {
        let url = format!("{scheme}://{}{target}", self.address);
        let mut request = client.request(method.parse().unwrap(), url);
        if let Some(body) = body {
            request = request.body(body.to_owned());
        }
        let response = request.send().await?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body: response.text().await? })
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await.expect("the server closes").unwrap();
        String::from_utf8(answer).unwrap()
    }
}

pub(crate) fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(3))
}

fn snapshot(clock: &HandClock) -> Snapshot {
    let settings = effective(&Value::Object(Map::new()));
    Snapshot {
        watchdog_failed: false,
        view: Some(Arc::new(ClusterView::default())),
        view_loaded_at: Some(clock.now()),
        dcs_last_seen: 1_893_456_000,
        tags: settings.tags.clone(),
        settings,
        lease: None,
        failsafe: FailsafeMemory::default(),
        last_wal_lsn: None,
        server: None,
        task: None,
        scheduled_restart: None,
        next_run: clock.now() + Duration::from_secs(10),
        message: String::new(),
        timeline: Some(dcs_core::model::Timeline(2)),
        journal: ha_engine::journal::Journal::default(),
    }
}

/// Plays the engine's side of the mailbox.
async fn play(mut commands: mpsc::Receiver<Command>, script: Arc<Mutex<Script>>) {
    while let Some(command) = commands.recv().await {
        let mut script = script.lock().unwrap();
        // Whoever asked may have gone away meanwhile.
        match command {
            Command::Restart(request, reply) => {
                script.heard.push(format!("restart {request:?}"));
                let _ = reply.send(script.restart.clone());
            }
            Command::ScheduleRestart { at, filters, reply } => {
                script.heard.push(format!("restart at {at} {}", Value::Object(filters)));
                let _ = reply.send(script.schedule_accepted);
            }
            Command::DeleteScheduledRestart(reply) => {
                script.heard.push("delete restart".to_owned());
                let _ = reply.send(script.schedule_deleted);
            }
            Command::Reinitialize { force, from_leader, reply } => {
                script.heard.push(format!("reinitialize force={force} from_leader={from_leader}"));
                let _ = reply.send(script.reinitialize_refusal.clone());
            }
            Command::Note(record) => script.notes.push(format!("{}: {}", record.rule.name(), record.what)),
            Command::Wake => script.heard.push("wake".to_owned()),
            Command::Reload => script.heard.push("reload".to_owned()),
            Command::Shutdown => script.heard.push("shutdown".to_owned()),
        }
    }
}
