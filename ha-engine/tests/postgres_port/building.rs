//! New clusters and new copies, by our programs and by the operator's.

use std::collections::BTreeMap;
use std::time::Duration;

use dcs_core::model::{Role, ServerState};
use ha_engine::ports::{CloneSource, Postgres, StopMode, StopOutcome};
use ha_engine::settings::{BootstrapMethod, BootstrapSettings, ReplicaMethod};
use ha_engine::{Cancel, CancelSource};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::lab::{Lab, Node, bootstrap, eventually, shell, soon, stop_request};

fn method(name: &str, script: &str) -> ReplicaMethod {
    ReplicaMethod::Custom {
        name: name.to_owned(),
        command: shell(script),
        no_params: false,
        no_leader: false,
        keep_data: false,
        parameters: vec![("foo".to_owned(), json!("bar"))],
    }
}

fn source(node: &Node, methods: Vec<ReplicaMethod>) -> CloneSource {
    CloneSource { node: Some(node.upstream()), methods, fast_checkpoint: true }
}

/// P16-1, P9-5
async fn users_are_made_silently(lab: Lab) {
    let mut settings = lab.settings("pg1");
    settings.postgresql.parameters.extend([
        ("log_statement".to_owned(), "all".to_owned()),
        ("logging_collector".to_owned(), "on".to_owned()),
        ("log_directory".to_owned(), lab.path().join("log").display().to_string()),
    ]);
    let node = lab.node_with(settings);
    node.bootstrap().await;
    let roles = "SELECT string_agg(format('%s:%s:%s:%s', rolname, rolsuper, rolreplication, rolcanlogin), ' ' ORDER BY rolname) \
                 FROM pg_roles WHERE rolname !~ '^pg_'";
    assert_eq!(node.must(roles).await, "postgres:t:t:t replicator:f:t:t rewinder:f:f:t");
    let grants = "SELECT count(*) FROM pg_proc WHERE proname IN ('pg_ls_dir', 'pg_stat_file', 'pg_read_binary_file') \
                  AND has_function_privilege('rewinder', oid, 'EXECUTE')";
    assert_eq!(node.must(grants).await, "4");
    let logs = std::fs::read_dir(lab.path().join("log")).expect("a log directory");
    let text: String = logs.flatten().map(|entry| std::fs::read_to_string(entry.path()).unwrap_or_default()).collect();
    assert!(text.contains("SET log_statement"), "statements are logged: {text}");
    for secret in ["super-secret", "rewind-pass", "rep:pa"] {
        assert!(!text.contains(secret), "`{secret}` stands in the log: {text}");
    }
}

/// P9-3, P9-4
async fn the_operators_part_of_a_bootstrap(lab: Lab) {
    let seen = lab.path().join("seen");
    let script = format!(
        "echo $# \"$1\" > {0}; cat $PGPASSFILE >> {0}; echo $PGOPTIONS >> {0}; psql -XAtc 'SELECT 1' \"$1\" >> {0}",
        seen.display()
    );
    let node = lab.node("pg1");
    let how = BootstrapSettings { post_bootstrap: Some(shell(&script)), ..bootstrap() };
    node.postgres.bootstrap(&how, &Cancel::never()).await.expect("a new cluster");
    node.postgres.set_role(Role::Primary);
    node.postgres.post_bootstrap(&how, &Cancel::never()).await.expect("its users");
    let expected = format!(
        "1 dbname=postgres user=postgres host=localhost port={0}\nlocalhost:{0}:*:postgres:super-secret\n\
         -c synchronous_commit=local -c statement_timeout=0\n1\n",
        node.port
    );
    assert_eq!(std::fs::read_to_string(&seen).expect("it was called"), expected);

    let failing = BootstrapSettings { post_bootstrap: Some(shell("exit 1")), ..bootstrap() };
    let error = node.postgres.post_bootstrap(&failing, &Cancel::never()).await.expect_err("it fails");
    assert!(error.to_string().contains("returned non-zero code 1"), "{error}");
    assert!(node.postgres.move_data_directory_aside().await.is_err(), "not while it runs");
    node.postgres.stop(stop_request(StopMode::Immediate), None).await;
    node.postgres.move_data_directory_aside().await.expect("it can be renamed");
    assert!(node.data_dir().with_extension("failed").is_dir() && !node.data_dir().exists());
}

async fn bootstraps_that_fail(lab: Lab) {
    let node = lab.node("pg1");
    let how = BootstrapSettings { initdb: json!([{"encoding": "NONSENSE"}]), ..bootstrap() };
    assert!(node.postgres.bootstrap(&how, &Cancel::never()).await.is_err());
    assert_eq!(node.postgres.local().state, ServerState::InitdbFailed);
    let how = BootstrapSettings { initdb: json!(["pwfile"]), ..bootstrap() };
    let error = node.postgres.bootstrap(&how, &Cancel::never()).await.expect_err("it is forbidden");
    assert_eq!(error.to_string(), "pwfile option for initdb is not allowed");
}

fn custom(script: String, recovery_conf: Option<BTreeMap<String, String>>) -> BootstrapSettings {
    BootstrapSettings {
        method: BootstrapMethod::Custom {
            name: "restore".to_owned(),
            command: shell(&script),
            no_params: false,
            keep_existing_recovery_conf: false,
            recovery_conf,
            parameters: vec![("extra".to_owned(), "1".to_owned())],
        },
        ..BootstrapSettings::default()
    }
}

/// P9-6, P9-7
async fn a_bootstrap_by_the_operators_method(lab: Lab) {
    // A cluster with other passwords, restored from a base backup to where its log ends.
    let origin = lab.primary("origin").await;
    origin.must("CREATE TABLE t AS SELECT 1; ALTER ROLE postgres PASSWORD 'unknown'").await;
    let data = origin.data_dir();
    origin.postgres.stop(stop_request(StopMode::Fast), None).await;
    let archive = lab.path().join("archive");
    std::fs::create_dir(&archive).expect("a directory");
    let node = lab.node("pg1");
    let seen = lab.path().join("seen");
    let script = format!("echo $* > {}; cp -a {} {}", seen.display(), data.display(), node.data_dir().display());
    let recovery = BTreeMap::from([
        ("restore_command".to_owned(), format!("cp {}/%f %p", archive.display())),
        ("recovery_target_action".to_owned(), "promote".to_owned()),
    ]);
    let how = custom(script, Some(recovery));
    node.postgres.bootstrap(&how, &Cancel::never()).await.expect("a restored cluster");
    assert_eq!(
        std::fs::read_to_string(&seen).expect("it was called"),
        format!("--scope=batman --datadir={} --extra=1\n", node.data_dir().display())
    );
    eventually("the end of recovery", async || match node.observe().await.monitor {
        ha_engine::decide::observation::Monitor::Primary(_) => Ok(()),
        other => Err(format!("{other:?} {}", node.postgres.local().state)),
    })
    .await;
    node.postgres.set_role(Role::Primary);
    node.postgres.post_bootstrap(&how, &Cancel::never()).await.expect("its users");
    assert_eq!(node.must("SELECT count(*) FROM t").await, "1", "our password is in force, from our address");
    assert!(!node.data_dir().join("recovery.signal").exists());
    let conf = node.file("postgresql.conf");
    assert!(conf.contains("hot_standby = 'on'") && !conf.contains("recovery_target_action"), "{conf}");
    assert!(!node.file("pg_hba.conf").contains("trust"), "access is closed again");
    assert!(node.postgres.local().pending_restart.is_empty());
}

/// P10-1, P10-2, P10-4
async fn copies_by_the_operators_method(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let node = lab.node("pg2");
    let seen = lab.path().join("seen");
    let failing = method("first", &format!("mkdir {}; echo x > {0}/x; exit 3", node.data_dir().display()));
    let copying = format!(
        "echo \"$@\" > {0}; for a in \"$@\"; do case \"$a\" in --connstring=*) c=${{a#--connstring=}};; --datadir=*) d=${{a#--datadir=}};; esac; done; \
         test ! -e $d/x && {1}/pg_basebackup -D $d -X stream --checkpoint=fast -d \"$c\"",
        seen.display(),
        node.settings.postgresql.bin_dir.display()
    );
    let source = source(&primary, vec![failing, method("second", &copying)]);
    node.postgres.as_ref().clone_from(&source, &Cancel::never()).await.expect("the second method works");
    let arguments = std::fs::read_to_string(&seen).expect("it was called");
    assert_eq!(
        arguments,
        format!(
            "--foo=bar --scope=batman --role=replica --datadir={} --connstring=dbname=postgres user=replicator host=127.0.0.1 port={}\n",
            node.data_dir().display(),
            primary.port
        )
    );
    node.follow(&primary).await;
    node.eventually_streams().await;

    // Without a source only methods that need none are tried.
    let alone = CloneSource { node: None, ..source };
    node.postgres.stop(stop_request(StopMode::Fast), None).await;
    assert!(node.postgres.as_ref().clone_from(&alone, &Cancel::never()).await.is_err());
    assert!(node.data_dir().is_dir(), "nothing was touched");
}

/// P10-3
async fn base_backups_with_options(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let node = lab.node("pg2");
    let options = json!(["verbose", {"max-rate": "100M"}, {"checkpoint": "fast"}, {"format": "t"}]);
    let plain = CloneSource { fast_checkpoint: false, ..source(&primary, vec![ReplicaMethod::BaseBackup(options)]) };
    node.postgres.as_ref().clone_from(&plain, &Cancel::never()).await.expect("a copy");
    assert_eq!(node.postgres.local().state, ServerState::Stopped);
    assert!(node.data_dir().join("backup_label").exists());
    // From nobody: two attempts, and nothing is left behind.
    primary.postgres.stop(stop_request(StopMode::Fast), None).await;
    let begin = Instant::now();
    assert!(node.postgres.as_ref().clone_from(&plain, &Cancel::never()).await.is_err());
    assert!(begin.elapsed() < Duration::from_secs(10) && !node.data_dir().exists());
    assert_eq!(node.postgres.local().role, Role::Uninitialized);
}

/// P10-5
async fn a_copy_is_cancelled(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let node = lab.node("pg2");
    let slow = json!([{"max-rate": "32k"}, {"checkpoint": "fast"}]);
    let source = source(&primary, vec![ReplicaMethod::BaseBackup(slow), ReplicaMethod::BaseBackup(Value::Null)]);
    let cancel = CancelSource::new();
    let (postgres, token) = (std::sync::Arc::clone(&node.postgres), cancel.token());
    let copy = tokio::spawn(async move { postgres.as_ref().clone_from(&source, &token).await });
    eventually("a running base backup", async || {
        let running = primary.must("SELECT count(*) FROM pg_stat_progress_basebackup").await;
        if running == "1" { Ok(()) } else { Err(running) }
    })
    .await;
    let begin = Instant::now();
    cancel.cancel();
    assert!(copy.await.expect("no panic").is_err());
    assert!(begin.elapsed() < Duration::from_secs(9), "it ends when it is told to: {:?}", begin.elapsed());
    assert_eq!(node.postgres.local().state, ServerState::Stopped);
    let left = std::fs::read_dir(node.data_dir()).map_or(0, Iterator::count);
    assert_eq!(left, 0, "half a copy is nothing");
    let marker = format!("--pgdata={}", node.data_dir().display());
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&line).contains(&marker), "pg_basebackup still runs");
    }
}

async fn what_is_not_removed(lab: Lab) {
    let node = lab.primary("pg1").await;
    assert!(node.postgres.remove_data_directory().await.is_err(), "not while it runs");
    assert!(matches!(node.postgres.stop(stop_request(StopMode::Fast), None).await, StopOutcome::Stopped(_)));
    node.postgres.remove_data_directory().await.expect("it can be removed");
    let seen = node.observe().await;
    assert!(!node.data_dir().exists() && seen.system_id.is_none() && seen.major_version.is_none(), "{seen:?}");
    assert!(node.postgres.control_data(soon()).await.is_err());
    node.bootstrap().await;
    node.primary_timeline().await;
}

crate::lab_tests! {
    users_are_made_without_showing_their_passwords => users_are_made_silently;
    post_bootstrap_gets_a_connection_string_and_a_password_file => the_operators_part_of_a_bootstrap;
    a_failed_initdb_says_so => bootstraps_that_fail;
    a_cluster_can_be_made_by_the_operators_method => a_bootstrap_by_the_operators_method;
    a_copy_can_be_made_by_the_operators_method => copies_by_the_operators_method;
    base_backups_take_options_and_leave_nothing_when_they_fail => base_backups_with_options;
    a_cancelled_copy_leaves_no_process => a_copy_is_cancelled;
    a_running_data_directory_is_not_removed => what_is_not_removed;
}
