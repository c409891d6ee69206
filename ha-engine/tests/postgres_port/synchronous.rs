//! Synchronous replication on real servers: what a primary shows, and who decides about `synchronous_standby_names`.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::BootClock;
use dcs_core::model::Role;
use ha_engine::decide::sync::sample::{SyncSample, SyncWord};
use ha_engine::ports::Postgres;
use ha_engine::postgres::LocalPostgres;
use ha_engine::settings::SyncMode;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, Node, eventually, soon};

impl Lab {
    /// A primary in synchronous mode; the operator's own names are `somebody`.
    async fn synchronous_primary(&self, name: &str) -> Node {
        let mut settings = self.settings(name);
        settings.global.synchronous_mode = SyncMode::On;
        settings.postgresql.parameters.insert("synchronous_standby_names".to_owned(), "somebody".to_owned());
        settings.postgresql.parameters.insert("shared_buffers".to_owned(), "128MB".to_owned());
        let node = self.node_with(settings);
        node.bootstrap().await;
        node
    }
}

impl Node {
    async fn names(&self) -> String {
        self.must("SHOW synchronous_standby_names").await
    }

    async fn sample(&self) -> SyncSample {
        self.postgres.synchronous_replication(soon()).await.expect("a primary that answers")
    }
}

/// The standby `name` in a sample: how it takes part, and whether it has flushed everything that `sample` has.
fn standby(sample: &SyncSample, name: &str) -> Option<(SyncWord, bool)> {
    sample.walsender(name).map(|sender| (sender.sync, sender.flushed.is_some_and(|flushed| flushed >= sample.flushed)))
}

async fn a_decision_and_what_becomes_of_it(lab: Lab) {
    let mut primary = lab.synchronous_primary("pg1").await;
    assert_eq!(primary.names().await, "", "in synchronous mode the operator's names do not count");
    let replica = lab.standby("pg2", &primary).await;
    replica.eventually_streams().await;

    let shown = primary.postgres.set_synchronous_names(Some("pg2"), soon()).await.expect("set").expect("a primary");
    assert!(shown.settled && shown.names == "pg2");
    eventually("pg2 is synchronous", async || match standby(&primary.sample().await, "pg2") {
        Some((SyncWord::Sync, true)) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    primary.must("CREATE TABLE t AS SELECT 1 AS n").await;

    // Other settings come and go; what was decided stays.
    primary.reconfigure(|settings| drop(settings.postgresql.parameters.insert("work_mem".to_owned(), "5MB".to_owned()))).await;
    assert_eq!((primary.names().await.as_str(), primary.must("SHOW work_mem").await.as_str()), ("pg2", "5MB"));

    let quorum = primary.postgres.set_synchronous_names(Some("ANY 1 (pg2,pg3)"), soon()).await.expect("set").expect("a primary");
    assert_eq!(standby(&quorum, "pg2").map(|(word, _)| word), Some(SyncWord::Quorum));

    // A role that is not up to date yet keeps nobody from seeing what the server shows.
    primary.postgres.set_role(Role::Replica);
    let shown = primary.postgres.set_synchronous_names(Some("ANY 1 (pg2)"), soon()).await.expect("set");
    primary.postgres.set_role(Role::Primary);
    assert_eq!(shown.map(|shown| (shown.settled, shown.names)), Some((true, "ANY 1 (pg2)".to_owned())));

    primary.postgres.set_synchronous_names(None, soon()).await.expect("set");
    assert_eq!(primary.names().await, "somebody");
    primary.postgres.set_synchronous_names(Some(""), soon()).await.expect("set");
    assert_eq!(primary.names().await, "");
}

async fn a_commit_that_waits(lab: Lab) {
    let primary = lab.synchronous_primary("pg1").await;
    assert!(!primary.sample().await.commits_wait);
    primary.postgres.set_synchronous_names(Some("nobody"), soon()).await.expect("set");
    let waiting = primary.sql("CREATE TABLE t AS SELECT 1 AS n");
    let released = async {
        eventually("a commit waits", async || match primary.sample().await {
            sample if sample.commits_wait => Ok(()),
            sample => Err(format!("{sample:?}")),
        })
        .await;
        // The record for waiting standbys never waits itself.
        let before = primary.sample().await.flushed;
        primary.postgres.write_wal_record(soon()).await;
        eventually("the record is flushed", async || match primary.sample().await.flushed {
            flushed if flushed > before => Ok(()),
            flushed => Err(flushed.to_string()),
        })
        .await;
        primary.postgres.set_synchronous_names(Some(""), soon()).await.expect("set");
    };
    let (outcome, ()) = tokio::join!(waiting, released);
    outcome.expect("it is done as soon as nobody is waited for");
}

async fn an_agent_that_is_started_later(lab: Lab) {
    let primary = lab.synchronous_primary("pg1").await;
    primary.postgres.set_synchronous_names(Some("pg2"), soon()).await.expect("set");

    let mut settings = primary.settings.clone();
    let restarted = LocalPostgres::new(Arc::new(settings.clone()), Arc::new(BootClock));
    restarted.adopt(soon()).await;
    settings.postgresql.parameters.insert("work_mem".to_owned(), "5MB".to_owned());
    restarted.apply_settings(Arc::new(settings), true).await;
    assert_eq!((primary.names().await.as_str(), primary.must("SHOW work_mem").await.as_str()), ("pg2", "5MB"));
    let shown = restarted.set_synchronous_names(Some("pg2"), soon()).await.expect("set").expect("a primary");
    assert_eq!(shown.names, "pg2");
}

/// The checkpointer of a node, stopped in the middle of a checkpoint; it goes on when this is dropped.
struct HeldCheckpoint(Pid);

impl HeldCheckpoint {
    /// Begins checkpoints on `node` until one can be caught at work: one that hurries, like that after a promotion. What it
    /// has to write comes from `primary`, which may be the node itself.
    async fn catch(node: &Node, primary: &Node) -> Self {
        const CHECKPOINTER: &str =
            "SELECT pid || ' ' || coalesce(wait_event, 'at work') FROM pg_stat_activity WHERE backend_type = 'checkpointer'";
        primary.must("CREATE TABLE filler (n int)").await;
        let shown = node.must(CHECKPOINTER).await;
        let (pid, _) = shown.split_once(' ').expect("a pid");
        let held = Self(Pid::from_raw(pid.parse().expect("a number")));
        for _ in 0..50 {
            primary.must("INSERT INTO filler SELECT generate_series(1, 200000)").await;
            if node.port != primary.port {
                primary.must("CHECKPOINT").await;
                let position = primary.must("SELECT pg_current_wal_flush_lsn()").await;
                node.eventually_has(&format!("SELECT pg_last_wal_replay_lsn() >= '{position}'"), "t").await;
            }
            // It goes on in small steps, and is looked at after each.
            let caught = async {
                loop {
                    kill(held.0, Signal::SIGCONT).expect("it is ours");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    kill(held.0, Signal::SIGSTOP).expect("it is ours");
                    if !node.must(CHECKPOINTER).await.contains("Checkpoint") {
                        return true;
                    }
                }
            };
            let missed = async { node.must("CHECKPOINT").await.contains("never") };
            if tokio::select! { caught = caught => caught, missed = missed => missed } {
                return held;
            }
            kill(held.0, Signal::SIGCONT).expect("it is ours");
        }
        panic!("no checkpoint takes long enough to be caught");
    }
}

impl Drop for HeldCheckpoint {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// As long as the checkpointer has not read that commits shall wait, they do not, whatever all other processes show.
async fn a_checkpoint_that_goes_on(lab: Lab) {
    let brief = || dcs_core::Deadline::after(Duration::from_secs(5));
    let primary = lab.synchronous_primary("pg1").await;
    let standby = lab.standby("pg2", &primary).await;

    let held = HeldCheckpoint::catch(&standby, &primary).await;
    let outcome = standby.postgres.set_synchronous_names(Some("ANY 1 (pg1)"), brief()).await;
    drop(held);
    let refused = outcome.expect_err("promoted now, it would not wait");
    assert!(refused.to_string().contains("not every process"), "{refused}");
    let shown = standby.postgres.set_synchronous_names(Some("ANY 1 (pg1)"), soon()).await.expect("at rest it has read it");
    assert_eq!(shown, None);

    primary.must("DROP TABLE filler").await;
    let held = HeldCheckpoint::catch(&primary, &primary).await;
    let outcome = primary.postgres.set_synchronous_names(Some("nobody"), brief()).await;
    assert_eq!(primary.names().await, "nobody");
    // Nobody has that name: only a commit that does not wait comes back.
    primary.must("CREATE TABLE unprotected AS SELECT 1 AS n").await;
    assert!(!primary.sample().await.settled);
    let refused = outcome.expect_err("commits do not wait");
    assert!(refused.to_string().contains("not every process"), "{refused}");
    drop(held);

    let shown = primary.postgres.set_synchronous_names(Some("pg2"), soon()).await.expect("set").expect("a primary");
    assert_eq!((shown.settled, shown.names.as_str()), (true, "pg2"));
}

async fn a_text_that_the_server_does_not_take(lab: Lab) {
    let primary = lab.synchronous_primary("pg1").await;
    primary.must("ALTER SYSTEM SET synchronous_standby_names = 'byhand'").await;
    let deadline = dcs_core::Deadline::after(Duration::from_secs(1));
    let refused = primary.postgres.set_synchronous_names(Some("pg2"), deadline).await.expect_err("something else is in force");
    assert!(refused.to_string().contains("the server still has 'byhand'"), "{refused}");
    primary.must("ALTER SYSTEM RESET synchronous_standby_names").await;
    primary.postgres.set_synchronous_names(Some(""), soon()).await.expect("set");
}

crate::lab_tests! {
    what_was_decided_about_standbys_stays_until_something_else_is_decided => a_decision_and_what_becomes_of_it;
    a_commit_that_waits_for_a_standby_is_seen_and_the_record_for_standbys_does_not_wait => a_commit_that_waits;
    an_agent_that_is_started_after_its_primary_keeps_whom_commits_wait_for => an_agent_that_is_started_later;
    text_is_not_in_force_while_a_checkpoint_keeps_commits_from_waiting => a_checkpoint_that_goes_on;
    a_text_that_is_not_in_force_in_time_is_a_failure => a_text_that_the_server_does_not_take;
}
