//! Starting, stopping, and noticing.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use dcs_core::model::{Role, ServerState};
use dcs_core::{BootClock, Deadline};
use ha_engine::Cancel;
use ha_engine::decide::observation::{DataDir, Monitor, Postmaster};
use ha_engine::ports::{Postgres, RecoveryDiff, StartOutcome, StopEvent, StopHook, StopMode, StopOutcome, StopRequest};
use ha_engine::postgres::LocalPostgres;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::lab::{Lab, eventually, soon, stop_request};

async fn nothing_is_there(lab: Lab) {
    let node = lab.node("pg1");
    node.postgres.adopt(soon()).await;
    let seen = node.observe().await;
    assert_eq!((seen.state, seen.role), (ServerState::Stopped, Role::Uninitialized));
    assert_eq!((seen.postmaster, seen.data_dir, seen.monitor), (Postmaster::None, DataDir::Empty, Monitor::NotAsked));
    assert_eq!((seen.system_id, seen.major_version), (None, None));
    // With nothing to wait for, nothing is waited for.
    node.postgres.postmaster_ended().await;
    assert_eq!(node.postgres.stop(stop_request(StopMode::Fast), None).await, StopOutcome::Stopped(None));
    assert_eq!(node.postgres.start(Role::Replica, None, &Cancel::never()).await, StartOutcome::Failed);
}

/// P6-1, P6-5
async fn arguments_and_environment(lab: Lab) {
    let node = lab.primary("pg1").await;
    let pid = node.pid().expect("it runs");
    let raw = std::fs::read(format!("/proc/{pid}/cmdline")).expect("our process");
    let arguments: Vec<String> = raw.split(|byte| *byte == 0).skip(1).map(|part| String::from_utf8_lossy(part).into_owned()).collect();
    let data = node.data_dir().display().to_string();
    let expected = [
        "-D".to_owned(),
        data.clone(),
        format!("--config-file={data}/postgresql.conf"),
        "--listen_addresses=127.0.0.1".to_owned(),
        format!("--port={}", node.port),
        "--cluster_name=batman".to_owned(),
        "--wal_level=replica".to_owned(),
        "--hot_standby=on".to_owned(),
        "--max_connections=40".to_owned(),
        "--max_wal_senders=10".to_owned(),
        "--max_prepared_transactions=0".to_owned(),
        "--max_locks_per_transaction=64".to_owned(),
        "--track_commit_timestamp=off".to_owned(),
        "--max_replication_slots=10".to_owned(),
        "--max_worker_processes=8".to_owned(),
        "--wal_log_hints=on".to_owned(),
        String::new(),
    ];
    assert_eq!(arguments, expected);
    let environment = std::fs::read(format!("/proc/{pid}/environ")).expect("our process");
    let environment: Vec<_> = environment.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let has = |prefix: &str| environment.iter().any(|variable| variable.starts_with(prefix));
    assert!(!has("PATRONI_") && !has("KUBERNETES_") && !has("PG_MALLOC_ARENA_MAX"), "{environment:?}");
    assert_eq!(has("MALLOC_ARENA_MAX=2"), std::env::var("PG_MALLOC_ARENA_MAX").is_ok(), "{environment:?}");
    // A session of its own: it survives the agent and its terminal.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("our process");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    assert_eq!(fields[3], pid.to_string(), "it leads its session: {stat}");
    assert_ne!(fields[1], std::process::id().to_string(), "it is nobody's child: {stat}");
}

async fn a_fast_stop_tells_its_steps(lab: Lab) {
    let node = lab.primary("pg1").await;
    // A client in a transaction does not keep a fast stop from happening.
    node.must("CREATE TABLE t (n int)").await;
    let (events, mut heard) = mpsc::channel(8);
    let mut states = node.postgres.subscribe();
    let outcome = node.postgres.stop(StopRequest { checkpoint_first: true, ..stop_request(StopMode::Fast) }, Some(events)).await;
    let StopOutcome::Stopped(Some(position)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(position.final_lsn, position.checkpoint, "there is no WAL switch without archiving");
    let mut seen = Vec::new();
    while let Some(event) = heard.recv().await {
        seen.push(event);
    }
    assert_eq!(seen.first(), Some(&StopEvent::BackendsGone), "{seen:?}");
    if let Some(event) = seen.get(1) {
        assert_eq!(*event, StopEvent::ShutDown(position));
    }
    assert_eq!(states.borrow_and_update().state, ServerState::Stopped);
    assert_eq!(node.observe().await.postmaster, Postmaster::None);
    assert_eq!(node.postgres.control_data(soon()).await.expect("a control file").cluster_state, "shut down");
}

/// A walsender that does not read keeps the postmaster from ending after its control file says `shut down`.
async fn a_stop_goes_on_while_wal_is_shipped(lab: Lab) {
    let node = lab.primary("pg1").await;
    let standby = lab.standby("pg2", &node).await;
    let receiver = eventually("a WAL receiver", async || {
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", standby.pid().expect("it runs"))).unwrap_or_default();
        let found = children.split_whitespace().find(|pid| {
            let title = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&title).contains("walreceiver")
        });
        found.map(|pid| pid.parse::<i32>().expect("a pid")).ok_or(children.clone())
    })
    .await;
    let receiver = nix::unistd::Pid::from_raw(receiver);
    nix::sys::signal::kill(receiver, nix::sys::signal::Signal::SIGSTOP).expect("it is ours");

    let (events, mut heard) = mpsc::channel(8);
    let postgres = Arc::clone(&node.postgres);
    let stop = tokio::spawn(async move { postgres.stop(stop_request(StopMode::Fast), Some(events)).await });
    assert_eq!(heard.recv().await, Some(StopEvent::BackendsGone));
    let Some(StopEvent::ShutDown(position)) = heard.recv().await else { panic!("no news of the checkpoint") };
    assert!(!stop.is_finished() && node.pid().is_some(), "the postmaster still ships WAL");
    nix::sys::signal::kill(receiver, nix::sys::signal::Signal::SIGCONT).expect("it is ours");
    assert_eq!(stop.await.expect("no panic"), StopOutcome::Stopped(Some(position)));
}

async fn an_immediate_stop_overtakes_a_fast_one(lab: Lab) {
    let node = lab.primary("pg1").await;
    let postgres = Arc::clone(&node.postgres);
    // The hook holds the fast stop up before its signal.
    let pid = node.pid();
    let mut slow = node.settings.clone();
    slow.postgresql.before_stop = Some(crate::lab::shell("exec sleep 600"));
    node.postgres.apply_settings(Arc::new(slow), false).await;
    let slow = tokio::spawn(async move {
        let until = Deadline::after(Duration::from_secs(3));
        postgres.stop(StopRequest { hook: StopHook::RunUntil(until), ..stop_request(StopMode::Fast) }, None).await
    });
    eventually("state stopping", async || match node.postgres.local().state {
        ServerState::Stopping => Ok(()),
        other => Err(other.to_string()),
    })
    .await;
    let begin = Instant::now();
    let fast = StopRequest { hook: StopHook::Skip, ..stop_request(StopMode::Immediate) };
    assert_eq!(node.postgres.stop(fast, None).await, StopOutcome::Stopped(None));
    assert!(begin.elapsed() < Duration::from_secs(2), "nothing preceded the signal: {:?}", begin.elapsed());
    assert!(matches!(slow.await.expect("no panic"), StopOutcome::Stopped(_)));
    assert_ne!(node.pid(), pid);
}

/// P7-2
async fn a_hanging_server_is_killed_in_the_end(lab: Lab) {
    let node = lab.primary("pg1").await;
    let pid = nix::unistd::Pid::from_raw(node.pid().expect("it runs"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).expect("it is ours");
    let request = StopRequest { timeout: Some(Duration::from_secs(1)), ..stop_request(StopMode::Fast) };
    assert_eq!(node.postgres.stop(request, None).await, StopOutcome::Stopped(None));
    assert_eq!(node.observe().await.postmaster, Postmaster::None);
    assert_eq!(node.postgres.start_as_primary(None, &Cancel::never()).await, StartOutcome::Running);
}

/// P12-1, as far as it is the port's part.
async fn a_crash_wakes_whoever_waits(lab: Lab) {
    let node = lab.primary("pg1").await;
    let (postgres, begin) = (Arc::clone(&node.postgres), Instant::now());
    let ended = tokio::spawn(async move {
        postgres.postmaster_ended().await;
        Instant::now()
    });
    node.observe().await;
    let killed = Instant::now();
    node.kill_postmaster();
    let woken = tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it wakes").expect("no panic");
    assert!(woken >= killed && woken - killed < Duration::from_millis(500), "{:?} after {:?}", woken - killed, killed - begin);
    // A zombie, where init reaps late, is dead (trap 6).
    assert_eq!(node.observe().await.postmaster, Postmaster::None);
    assert_eq!(node.postgres.start_as_primary(Some(Duration::from_secs(30)), &Cancel::never()).await, StartOutcome::Running);
    assert_eq!(node.primary_timeline().await, dcs_core::model::Timeline(1));
}

/// P6-2, P11-1
async fn another_agent_adopts_the_server(lab: Lab) {
    let node = lab.primary("pg1").await;
    let pid = node.pid();
    let other = LocalPostgres::new(Arc::new(node.settings.clone()), Arc::new(BootClock));
    other.adopt(soon()).await;
    let local = other.local();
    assert_eq!((local.state, local.role), (ServerState::Running, Role::Primary));
    assert!(local.pending_restart.is_empty(), "{local:?}");
    assert!(!other.callback_called(), "finding a server is not starting one");
    assert_eq!(local.conn_url, format!("postgres://127.0.0.1:{}/postgres", node.port));
    assert!(matches!(other.observe(false, soon()).await.monitor, Monitor::Primary(_)));
    assert_eq!(node.pid(), pid, "it was not restarted");

    let standby = lab.standby("pg2", &node).await;
    let (pid, plan) = (standby.pid(), standby.follow_plan(&node));
    let other = LocalPostgres::new(Arc::new(standby.settings.clone()), Arc::new(BootClock));
    other.adopt(soon()).await;
    assert_eq!((other.local().state, other.local().role), (ServerState::Running, Role::Replica));
    // Its configuration has to come under control, once.
    assert_eq!(other.recovery_diff(&plan, soon()).await, RecoveryDiff::Reload);
    assert_eq!(other.recovery_diff(&plan, soon()).await, RecoveryDiff::None);
    assert_eq!(other.restart(Duration::from_secs(30), &Cancel::never()).await, StartOutcome::Running);
    assert!(standby.pid() != pid && standby.file("postgresql.conf").contains("primary_conninfo"), "a restart keeps its upstream");
    standby.eventually_streams().await;
}

/// P6-3
async fn the_pid_file_of_somebody_else(lab: Lab) {
    let node = lab.primary("pg1").await;
    assert!(matches!(node.postgres.stop(stop_request(StopMode::Fast), None).await, StopOutcome::Stopped(_)));
    let mut stranger = Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep");
    // As after a reboot: the pid belongs to another process now, which began at another time.
    let text = format!("{}\n{}\n1600000000\n{}\n\n127.0.0.1\n", stranger.id(), node.data_dir().display(), node.port);
    std::fs::write(node.data_dir().join("postmaster.pid"), text).expect("a pid file");
    assert_eq!(node.observe().await.postmaster, Postmaster::None);
    let outcome = node.postgres.start_as_primary(None, &Cancel::never()).await;
    let alive = stranger.try_wait().expect("our child").is_none();
    stranger.kill().and_then(|()| stranger.wait().map(drop)).expect("our child");
    assert_eq!(outcome, StartOutcome::Running);
    assert!(alive, "the stranger was left alone");
}

async fn a_start_that_cannot_work(lab: Lab) {
    let mut node = lab.primary("pg1").await;
    node.postgres.stop(stop_request(StopMode::Fast), None).await;
    let squatter = std::net::TcpListener::bind(("127.0.0.1", node.port)).expect("the port is free now");
    assert_eq!(node.postgres.start_as_primary(None, &Cancel::never()).await, StartOutcome::Failed);
    assert_eq!(node.postgres.local().state, ServerState::StartFailed);
    drop(squatter);
    assert_eq!(node.postgres.start_as_primary(None, &Cancel::never()).await, StartOutcome::Running);
    // A directory that cannot be made is fatal for a start, and says so.
    node.postgres.stop(stop_request(StopMode::Fast), None).await;
    std::fs::write(lab.path().join("file"), "").expect("a file");
    let sockets = lab.path().join("file").join("sockets").display().to_string();
    node.reconfigure(|settings| {
        settings.postgresql.parameters.insert("unix_socket_directories".to_owned(), sockets);
    })
    .await;
    assert_eq!(node.postgres.start_as_primary(None, &Cancel::never()).await, StartOutcome::Failed);
}

async fn reports_are_shared(lab: Lab) {
    let node = lab.primary("pg1").await;
    let standby = lab.standby("pg2", &node).await;
    let first = node.postgres.report(Duration::from_secs(1), soon()).await;
    let status = first.server.as_ref().expect("it runs");
    assert!(matches!(status.monitor, Monitor::Primary(_)), "{status:?}");
    assert!(status.server_version >= 120_000 && status.postmaster_start_epoch > 1.6e9, "{status:?}");
    assert!(status.postmaster_start_time.ends_with("+00:00") || status.postmaster_start_time.contains(':'), "{status:?}");
    let [follower] = status.replication.as_slice() else { panic!("{status:?}") };
    let text = |key: &str| follower.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    assert_eq!((text("usename"), text("application_name"), text("state")), ("replicator".into(), "pg2".into(), "streaming".into()));
    let second = node.postgres.report(Duration::from_secs(60), soon()).await;
    assert!(Arc::ptr_eq(&first, &second), "one question was enough");
    node.must("CREATE TABLE t AS SELECT 1").await;
    eventually("a replayed transaction", async || {
        let report = standby.postgres.report(Duration::ZERO, soon()).await;
        report.server.as_ref().and_then(|status| status.replayed_timestamp.clone()).ok_or("none".to_owned())
    })
    .await;
    node.postgres.stop(stop_request(StopMode::Fast), None).await;
    assert_eq!(node.postgres.report(Duration::ZERO, soon()).await.server, None);
}

/// P4-5, P4-4
async fn the_password_file_is_private(lab: Lab) {
    let node = lab.primary("pg1").await;
    let standby = lab.standby("pg2", &node).await;
    let path = &standby.settings.postgresql.pgpass;
    let mode = std::fs::metadata(path).expect("it was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(path).expect("it was written");
    assert_eq!(text, format!("127.0.0.1:{}:*:replicator:rep\\:pa\\\\ss\n", node.port));
    let conf = standby.file("postgresql.conf");
    assert!(conf.contains("passfile=") && !conf.contains("pa\\\\ss"), "{conf}");
}

crate::lab_tests! {
    an_empty_node_has_nothing_to_show => nothing_is_there;
    the_postmaster_has_exactly_our_arguments_and_belongs_to_nobody => arguments_and_environment;
    a_fast_stop_tells_that_clients_are_gone_and_where_it_ended => a_fast_stop_tells_its_steps;
    the_end_of_the_log_is_known_while_wal_is_still_shipped => a_stop_goes_on_while_wal_is_shipped;
    an_immediate_stop_does_not_wait_for_a_fast_one => an_immediate_stop_overtakes_a_fast_one;
    a_server_that_hangs_is_killed_after_twice_the_timeout => a_hanging_server_is_killed_in_the_end;
    the_death_of_the_postmaster_wakes_at_once => a_crash_wakes_whoever_waits;
    a_running_server_is_adopted_without_a_restart => another_agent_adopts_the_server;
    a_stale_pid_file_of_an_unrelated_process_does_not_prevent_a_start => the_pid_file_of_somebody_else;
    a_start_that_fails_says_so_and_the_next_one_works => a_start_that_cannot_work;
    askers_share_one_status_query => reports_are_shared;
    the_password_file_has_the_replication_password_and_mode_0600 => the_password_file_is_private;
}
