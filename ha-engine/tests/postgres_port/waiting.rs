//! Standbys that wait for something, and what ends it (section 22a of the specification of PostgreSQL).

use std::time::Duration;

use dcs_core::model::{Lsn, ServerState};
use ha_engine::Cancel;
use ha_engine::decide::observation::Monitor;
use ha_engine::ports::{Postgres, PromoteOutcome, RewindOutcome, StartOutcome, StopMode};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::{Lab, Node, eventually, shell, soon, stop_request};

impl Lab {
    /// A node whose autovacuum writes nothing by itself.
    fn quiet_node(&self, name: &str) -> Node {
        let mut settings = self.settings(name);
        settings.postgresql.parameters.insert("autovacuum".to_owned(), "off".to_owned());
        self.node_with(settings)
    }
}

impl Node {
    async fn insert_position(&self) -> Lsn {
        self.must("SELECT pg_current_wal_insert_lsn()").await.parse().expect("a position")
    }
}

/// Stops the background writer: nothing is written any more unless somebody asks for it. It goes on when the node is dropped.
async fn idle_for_good(node: &Node) {
    let pid = node.must("SELECT pid FROM pg_stat_activity WHERE backend_type = 'background writer'").await;
    kill(Pid::from_raw(pid.parse().expect("a pid")), Signal::SIGSTOP).expect("it is ours");
}

/// Trap 5 of postgresql.md 22a.
async fn a_rewound_primary_waits_for_an_idle_one(lab: Lab) {
    let first = lab.quiet_node("pg1");
    first.bootstrap().await;
    let second = lab.quiet_node("pg2");
    second.clone_from(&first).await;
    second.follow(&first).await;
    second.eventually_streams().await;
    first.postgres.stop(stop_request(StopMode::Immediate), None).await;
    assert_eq!(second.postgres.promote(Duration::from_secs(10), &Cancel::never()).await, PromoteOutcome::Promoted);
    second.must("CREATE TABLE t AS SELECT 1 AS n").await;
    assert!(second.postgres.checkpoint(&Cancel::never()).await);
    idle_for_good(&second).await;
    // Right after a switch the insert position lies behind the header of a page, where no record ends.
    second.must("SELECT pg_switch_wal()").await;

    first.postgres.single_user_recovery(&Cancel::never()).await.expect("it can recover");
    assert_eq!(first.postgres.rewind(&second.upstream(), true, &Cancel::never()).await, RewindOutcome::Done);
    let needed = first.postgres.control_data(soon()).await.expect("a control file").minimum_recovery_end;
    let plan = first.follow_plan(&second);
    let outcome = first.postgres.follow(&plan, false, Some(Duration::from_secs(1)), &Cancel::never()).await;
    assert_eq!(outcome, StartOutcome::StillStarting, "it has everything that there is, and that is not enough");
    assert_eq!((first.observe().await.monitor, needed), (Monitor::NotAsked, second.insert_position().await));

    second.postgres.write_wal_record(soon()).await;
    let written = second.insert_position().await;
    assert!(written > needed, "{written} is not beyond {needed}");
    eventually("a standby that is consistent", async || match first.observe().await {
        seen if seen.state == ServerState::Running => Ok(()),
        seen => Err(format!("{seen:?}")),
    })
    .await;
    eventually("the record", async || match first.standby_monitor().await.replayed {
        replayed if replayed >= written => Ok(()),
        replayed => Err(format!("{replayed} of {written}")),
    })
    .await;
    assert_eq!(first.must("SELECT n FROM t").await, "1");
}

/// Trap 4 of postgresql.md 22a. The interval is so long that nothing but the nudge can end the wait within the test.
async fn an_upstream_that_was_restarted(lab: Lab) {
    let primary = lab.primary("pg1").await;
    let mut settings = lab.settings("pg2");
    settings.postgresql.parameters.insert("wal_retrieve_retry_interval".to_owned(), "1h".to_owned());
    let reloads = lab.path().join("reloads");
    settings.postgresql.callbacks.insert("on_reload".to_owned(), shell(&format!("echo reload >> {}", reloads.display())));
    let standby = lab.node_with(settings);
    standby.clone_from(&primary).await;
    standby.follow(&primary).await;
    standby.eventually_streams().await;

    let sleeps = async || match standby.sql("SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup'").await {
        Ok(Some(event)) if event == "RecoveryRetrieveRetryInterval" => Ok(()),
        other => Err(format!("{other:?}")),
    };
    primary.postgres.stop(stop_request(StopMode::Fast), None).await;
    eventually("a startup process that has tried in vain and sleeps", sleeps).await;
    assert_eq!(primary.postgres.start_as_primary(None, &Cancel::never()).await, StartOutcome::Running);
    assert_eq!(sleeps().await, Ok(()), "nothing tells it that its upstream is back");
    assert!(!standby.standby_monitor().await.is_streaming());

    standby.postgres.nudge().await;
    standby.eventually_streams().await;
    primary.must("CREATE TABLE t AS SELECT 1").await;
    standby.eventually_has("SELECT count(*) FROM t", "1").await;
    assert!(!reloads.exists(), "a nudge calls nobody");
}

crate::lab_tests! {
    a_standby_streams_again_when_it_is_nudged_after_its_upstream_was_restarted => an_upstream_that_was_restarted;
    a_rewound_primary_becomes_consistent_when_the_idle_leader_writes_a_record => a_rewound_primary_waits_for_an_idle_one;
}
