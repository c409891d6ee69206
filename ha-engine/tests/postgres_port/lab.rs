//! Real servers in temporary directories, gone when the test ends, however it ends.

use std::fs::Permissions;
use std::future::Future;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{MemberName, Role, Tags, Timeline};
use dcs_core::{BootClock, Deadline};
use ha_engine::Cancel;
use ha_engine::decide::observation::{Monitor, ServerObservation, StandbyMonitor, Upstream};
use ha_engine::ports::{CloneSource, FollowPlan, Postgres, StartOutcome, StopHook, StopMode, StopRequest};
use ha_engine::postgres::LocalPostgres;
use ha_engine::settings::{
    Authentication, BootstrapMethod, BootstrapSettings, CommandLine, Credentials, EffectiveSettings, GlobalConfig, LeaseGuardMode,
    PostgresSettings, ServerAddress, SyncMode, WatchdogSettings,
};
use serde_json::{Map, json};
use tokio_postgres::NoTls;

/// The longest that any single wait of a test takes. Generous: two cores may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where PostgreSQL's programs are; nothing if they are not installed.
fn bin_dir() -> Option<PathBuf> {
    if let Some(directory) = std::env::var_os("QUORATE_TEST_PG_BIN") {
        return Some(directory.into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    versions
        .flatten()
        .filter_map(|version| Some((version.file_name().to_str()?.parse::<u32>().ok()?, version.path().join("bin"))))
        .filter(|(_, bin)| bin.join("initdb").is_file() && bin.join("pg_basebackup").is_file())
        .max()
        .map(|(_, bin)| bin)
}

/// Runs the body of a test. PostgreSQL refuses to run as root, so root runs this very test again as `postgres`.
pub(crate) fn run<F: Future<Output = ()>>(name: &str, body: impl FnOnce(Lab) -> F) {
    let Some(bin_dir) = bin_dir() else {
        println!("skipped: PostgreSQL's programs are not installed (hint: `apt-get install postgresql`)");
        return;
    };
    if nix::unistd::geteuid().is_root() {
        // A checkout or a cache below root's home is closed to other users, so they get a copy that is not.
        let open =
            tempfile::Builder::new().prefix("quorate-port-").permissions(Permissions::from_mode(0o755)).tempdir().expect("a directory");
        let exe = open.path().join("postgres_port");
        std::fs::copy(std::env::current_exe().expect("a path to this program"), &exe).expect("a copy of this program");
        let mut command = Command::new("runuser");
        let name = name.split_once("::").map_or(name, |(_, name)| name);
        command.args(["-u", "postgres", "--"]).arg(exe).args(["--exact", name, "--nocapture"]).current_dir("/");
        // What an agent may have in its environment and its server must not see.
        command.env("PATRONI_SUPERUSER_PASSWORD", "x").env("KUBERNETES_SERVICE_HOST", "x").env("PG_MALLOC_ARENA_MAX", "2");
        let status = command.env("TMPDIR", "/tmp").env_remove("HOME").status().expect("runuser is installed");
        assert!(status.success(), "the test failed as user postgres");
        return;
    }
    let _ = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_test_writer().try_init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let dir = tempfile::Builder::new().prefix("quorate-port-").tempdir().expect("a directory");
    let lab = Lab { bin_dir, dir: Arc::new(dir) };
    runtime.block_on(async { tokio::time::timeout(PATIENCE * 3, body(lab)).await.expect("the test takes too long") });
}

/// Where the servers of one test live.
pub(crate) struct Lab {
    bin_dir: PathBuf,
    dir: Arc<tempfile::TempDir>,
}

/// One server.
pub(crate) struct Node {
    pub(crate) postgres: Arc<LocalPostgres>,
    pub(crate) settings: EffectiveSettings,
    pub(crate) port: u16,
    dir: Arc<tempfile::TempDir>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

impl Lab {
    /// A directory of the test.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Where PostgreSQL's programs are.
    pub(crate) fn bin_dir(&self) -> &Path {
        &self.bin_dir
    }

    /// The settings of a node.
    pub(crate) fn settings(&self, name: &str) -> EffectiveSettings {
        let port = free_port();
        let home = self.path().join(name);
        std::fs::create_dir_all(&home).expect("a directory");
        let listen = ServerAddress { hosts: vec!["127.0.0.1".to_owned()], port };
        let authentication = Authentication {
            superuser: Credentials::new("postgres", "super-secret"),
            replication: Credentials::new("replicator", "rep:pa\\ss"),
            rewind: Some(Credentials::new("rewinder", "rewind-pass")),
        };
        let mut postgresql = PostgresSettings {
            connect_address: Some(format!("127.0.0.1:{port}")),
            bin_dir: self.bin_dir.clone(),
            pg_hba: Some(
                ["host all all 127.0.0.1/32 scram-sha-256", "host replication replicator 127.0.0.1/32 scram-sha-256"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            use_pg_rewind: true,
            pg_ctl_timeout: PATIENCE,
            ..PostgresSettings::new("batman", home.join("data"), listen, authentication)
        };
        let parameters = [
            ("unix_socket_directories", home.to_str().expect("a readable path")),
            ("wal_level", "replica"),
            ("max_connections", "40"),
            ("wal_keep_size", "128MB"),
            ("shared_buffers", "16MB"),
            ("fsync", "off"),
        ];
        postgresql.parameters.extend(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())));
        EffectiveSettings {
            watchdog: WatchdogSettings::off(),
            global: global(),
            name: MemberName::from(name),
            scope: "batman".to_owned(),
            tags: Tags::default(),
            api_url: "http://127.0.0.1:8008/patroni".to_owned(),
            bootstrap: Some(bootstrap()),
            postgresql,
        }
    }

    /// A node with these settings; nothing runs yet.
    pub(crate) fn node_with(&self, settings: EffectiveSettings) -> Node {
        let postgres = LocalPostgres::new(Arc::new(settings.clone()), Arc::new(BootClock));
        Node { postgres, port: settings.postgresql.listen.port, settings, dir: Arc::clone(&self.dir) }
    }

    /// A node; nothing runs yet.
    pub(crate) fn node(&self, name: &str) -> Node {
        self.node_with(self.settings(name))
    }

    /// A running primary.
    pub(crate) async fn primary(&self, name: &str) -> Node {
        let node = self.node(name);
        node.bootstrap().await;
        node
    }

    /// A standby of `primary`, streaming.
    pub(crate) async fn standby(&self, name: &str, primary: &Node) -> Node {
        let node = self.node(name);
        node.clone_from(primary).await;
        node.follow(primary).await;
        node.eventually_streams().await;
        node
    }
}

fn global() -> GlobalConfig {
    GlobalConfig {
        document: Map::new(),
        ttl: Duration::from_secs(30),
        loop_wait: Duration::from_secs(10),
        retry_timeout: Duration::from_secs(10),
        maximum_lag_on_failover: 1 << 20,
        max_timelines_history: 0,
        check_timeline: false,
        primary_start_timeout: Duration::from_secs(300),
        primary_stop_timeout: Duration::ZERO,
        synchronous_mode: SyncMode::Off,
        synchronous_mode_strict: false,
        synchronous_node_count: 1,
        maximum_lag_on_syncnode: -1,
        failsafe_mode: false,
        pause: false,
        member_slots_ttl: Duration::from_secs(1800),
        slots: Map::new(),
        ignore_slots: Vec::new(),
        standby_cluster: None,
        lease_guard: LeaseGuardMode::Automatic,
        keep_divergent_wal: None,
    }
}

/// How the clusters of these tests are made: without waiting for the disk.
pub(crate) fn bootstrap() -> BootstrapSettings {
    BootstrapSettings {
        method: BootstrapMethod::Initdb,
        initdb: json!([{"encoding": "UTF8"}, "data-checksums", "no-sync", {"auth": "scram-sha-256"}]),
        ..BootstrapSettings::default()
    }
}

/// A shell command with arguments of its own.
pub(crate) fn shell(script: &str) -> CommandLine {
    CommandLine { program: "/bin/sh".to_owned(), arguments: vec!["-c".to_owned(), script.to_owned(), "sh".to_owned()] }
}

/// A stop that disturbs nobody longer than necessary.
pub(crate) fn stop_request(mode: StopMode) -> StopRequest {
    StopRequest { mode, checkpoint_first: false, hook: StopHook::Run, timeout: None, part_of_restart: false }
}

/// A deadline that only a hanging test misses.
pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

/// Waits until `look` finds something; fails with what `describe` says otherwise.
pub(crate) async fn eventually<T, F: Future<Output = Result<T, String>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let limit = soon();
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(!limit.has_passed(), "{what}: last seen: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl Node {
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.settings.postgresql.data_dir.clone()
    }

    /// Takes changed settings into use.
    pub(crate) async fn reconfigure(&mut self, change: impl FnOnce(&mut EffectiveSettings)) {
        change(&mut self.settings);
        self.postgres.apply_settings(Arc::new(self.settings.clone()), false).await;
    }

    pub(crate) async fn bootstrap(&self) {
        let how = self.settings.bootstrap.clone().expect("a bootstrap section");
        self.postgres.bootstrap(&how, &Cancel::never()).await.expect("a new cluster");
        self.postgres.set_role(Role::Primary);
        self.postgres.post_bootstrap(&how, &Cancel::never()).await.expect("its users");
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream {
            name: self.settings.name.to_string(),
            host: "127.0.0.1".to_owned(),
            port: Some(self.port),
            dbname: Some("postgres".to_owned()),
            remote: false,
        }
    }

    pub(crate) fn follow_plan(&self, upstream: &Node) -> FollowPlan {
        FollowPlan { upstream: Some(upstream.upstream()), slot: None, role: Role::Replica, overrides: Vec::new() }
    }

    pub(crate) async fn clone_from(&self, source: &Node) {
        let source = CloneSource {
            node: Some(source.upstream()),
            methods: self.settings.postgresql.create_replica_methods.clone(),
            fast_checkpoint: true,
        };
        self.postgres.as_ref().clone_from(&source, &Cancel::never()).await.expect("a copy");
    }

    pub(crate) async fn follow(&self, upstream: &Node) {
        let outcome = self.postgres.follow(&self.follow_plan(upstream), false, None, &Cancel::never()).await;
        assert_eq!(outcome, StartOutcome::Running);
    }

    pub(crate) async fn observe(&self) -> ServerObservation {
        self.postgres.observe(true, soon()).await
    }

    pub(crate) async fn standby_monitor(&self) -> StandbyMonitor {
        match self.observe().await.monitor {
            Monitor::Standby(standby) => standby,
            other => panic!("not a standby: {other:?}"),
        }
    }

    pub(crate) async fn eventually_streams(&self) {
        eventually("a standby that streams", async || match self.observe().await.monitor {
            Monitor::Standby(StandbyMonitor { replication_state: Some(state), .. }) if state == "streaming" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// The timeline of a primary.
    pub(crate) async fn primary_timeline(&self) -> Timeline {
        match self.observe().await.monitor {
            Monitor::Primary(primary) => primary.timeline,
            other => panic!("not a primary: {other:?}"),
        }
    }

    /// Runs statements as the superuser; the first column of the first row.
    pub(crate) async fn sql(&self, sql: &str) -> Result<Option<String>, tokio_postgres::Error> {
        let config = format!("host=127.0.0.1 port={} user=postgres password=super-secret dbname=postgres connect_timeout=5", self.port);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await?;
        let connection = tokio::spawn(connection);
        let result = client.simple_query(sql).await;
        drop(client);
        let _ = connection.await;
        Ok(result?.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    /// The same, which has to work.
    pub(crate) async fn must(&self, sql: &str) -> String {
        match self.sql(sql).await {
            Ok(value) => value.unwrap_or_default(),
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }

    pub(crate) async fn eventually_has(&self, sql: &str, expected: &str) {
        eventually(sql, async || match self.sql(sql).await {
            Ok(Some(value)) if value == expected => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }

    /// The pid in the pid file.
    pub(crate) fn pid(&self) -> Option<i32> {
        let text = std::fs::read_to_string(self.data_dir().join("postmaster.pid")).ok()?;
        text.lines().next()?.trim().parse().ok()
    }

    /// SIGKILL for the postmaster; its children find out by themselves.
    pub(crate) fn kill_postmaster(&self) {
        let pid = self.pid().expect("a running postmaster");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("it is ours");
    }

    /// Everything that is written about the server on disk, for failures.
    pub(crate) fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.data_dir().join(name)).unwrap_or_default()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The directory outlives the server in it.
        let _keep = Arc::clone(&self.dir);
        let (marker, me) = (self.data_dir().display().to_string(), std::process::id().cast_signed());
        let running = || -> Vec<i32> {
            let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
            let ours = entries.filter_map(|entry| {
                let pid = entry.file_name().to_string_lossy().parse().ok().filter(|pid| *pid != me)?;
                let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                let cwd = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
                (String::from_utf8_lossy(&line).contains(&marker) || cwd == self.data_dir()).then_some(pid)
            });
            ours.collect()
        };
        let signal = |signal| {
            for pid in running() {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal);
            }
        };
        // A server that is asked first gives its shared memory back, which SIGKILL would leave behind.
        signal(nix::sys::signal::Signal::SIGCONT);
        if let Some(pid) = self.pid().filter(|pid| running().contains(pid)) {
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGQUIT);
        }
        for _ in 0..100 {
            if running().is_empty() {
                return;
            }
            pause(Duration::from_millis(20));
        }
        signal(nix::sys::signal::Signal::SIGKILL);
    }
}

#[expect(clippy::disallowed_methods, reason = "a destructor cannot wait in any other way")]
fn pause(span: Duration) {
    std::thread::sleep(span);
}
