//! From nothing to a cluster of two, and the roles changed.

use dcs_core::model::{Role, ServerState, Timeline};
use ha_engine::Cancel;
use ha_engine::decide::observation::{DataDir, Monitor, Postmaster};
use ha_engine::ports::{Postgres, PromoteOutcome, RewindOutcome, StopMode, StopOutcome};
use std::time::Duration;

use crate::lab::{Lab, soon, stop_request};

async fn a_whole_life(lab: Lab) {
    let first = lab.primary("pg1").await;
    let seen = first.observe().await;
    assert_eq!((seen.state, seen.role), (ServerState::Running, Role::Primary));
    assert!(matches!(seen.postmaster, Postmaster::Running { .. }), "{seen:?}");
    assert_eq!(seen.data_dir, DataDir::Present { recovery_file: false, backup_label: false });
    assert!(seen.system_id.is_some() && seen.slots == Some(Vec::new()), "{seen:?}");
    let Monitor::Primary(primary) = seen.monitor else { panic!("{seen:?}") };
    assert_eq!(primary.timeline, Timeline(1));

    let second = lab.standby("pg2", &first).await;
    first.must("CREATE TABLE t (n int); INSERT INTO t VALUES (1)").await;
    second.eventually_has("SELECT count(*) FROM t", "1").await;

    let position = match first.postgres.stop(stop_request(StopMode::Fast), None).await {
        StopOutcome::Stopped(Some(position)) => position,
        other => panic!("not a clean stop of a primary: {other:?}"),
    };
    assert!(position.checkpoint_end > position.checkpoint, "{position:?}");
    assert_eq!(second.postgres.promote(Duration::from_secs(10), &Cancel::never()).await, PromoteOutcome::Promoted);
    assert_eq!(second.primary_timeline().await, Timeline(2));
    assert!(second.postgres.checkpoint(&Cancel::never()).await, "the control file has the new timeline");

    // What the former primary writes now, nobody else has.
    std::fs::remove_file(first.data_dir().join("standby.signal")).ok();
    first.postgres.start_as_primary(None, &Cancel::never()).await;
    first.must("INSERT INTO t VALUES (2)").await;
    second.must("INSERT INTO t VALUES (3)").await;
    assert!(matches!(first.postgres.stop(stop_request(StopMode::Fast), None).await, StopOutcome::Stopped(Some(_))));

    let facts = first.postgres.observe_divergence(&second.upstream(), soon()).await.expect("both can be asked");
    assert_eq!((facts.local_timeline, facts.leader_timeline), (Timeline(1), Timeline(2)));
    let history = facts.leader_history.expect("timeline 2 has a history");
    assert!(!facts.local_in_recovery && facts.local_lsn > history[0].lsn, "{history:?}");
    assert!(first.postgres.can_rewind().await);
    assert_eq!(first.postgres.rewind(&second.upstream(), true, &Cancel::never()).await, RewindOutcome::Done);
    first.follow(&second).await;
    first.eventually_streams().await;
    first.eventually_has("SELECT string_agg(n::text, ',' ORDER BY n) FROM t", "1,3").await;
}

crate::lab_tests! {
    a_cluster_of_two_changes_its_roles_and_the_old_primary_is_rewound => a_whole_life;
}
