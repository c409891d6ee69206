//! Every cell of the rules.

use dcs_core::model::ServerState;
use serde_json::json;

use super::*;
use crate::rest::testing::good_facts as replica;

fn primary() -> Facts {
    Facts { role: Role::Primary, streaming: false, received: Lsn::ZERO, replayed: Lsn::ZERO, ..replica() }
}

fn with_duty(duty: SyncDuty) -> Facts {
    Facts { duty: Some(duty), ..replica() }
}

fn check(target: &str, facts: &Facts, is_leader: bool, tags: &Tags) -> bool {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    is_healthy(path, &Query::parse(query), Node { facts, is_leader, tags })
}

#[track_caller]
fn answers(facts: &Facts, is_leader: bool, good: &[&str], bad: &[&str]) {
    for (targets, expected) in [(good, true), (bad, false)] {
        for target in targets {
            assert_eq!(check(target, facts, is_leader, &Tags::default()), expected, "{target} {facts:?} {is_leader}");
        }
    }
}

/// The answers leader, primary, standby leader, replica.
fn basic(facts: &Facts, is_leader: bool) -> [bool; 4] {
    let basic = Basic::of(Node { facts, is_leader, tags: &Tags::default() }, None);
    [basic.leader, basic.primary, basic.standby_leader, basic.replica]
}

#[test]
fn without_a_view_in_pause_the_role_decides() {
    for is_leader in [false, true] {
        for standby_cluster in [false, true] {
            let lost = |role| Facts { has_view: false, paused: true, unlocked: true, role, standby_cluster, ..replica() };
            assert_eq!(basic(&lost(Role::Primary), is_leader), [true, true, false, false]);
            assert_eq!(basic(&lost(Role::StandbyLeader), is_leader), [true, false, true, false]);
            assert_eq!(basic(&lost(Role::Replica), is_leader), [false, false, false, true]);
            assert_eq!(basic(&lost(Role::Demoted), is_leader), [false, false, false, false]);
        }
    }
}

#[test]
fn the_leader_of_a_standby_cluster_is_not_a_primary() {
    let of = |role| Facts { standby_cluster: true, role, ..replica() };
    assert_eq!(basic(&of(Role::StandbyLeader), true), [true, false, true, false]);
    assert_eq!(basic(&of(Role::Replica), true), [true, false, true, false]);
    assert_eq!(basic(&of(Role::Primary), true), [true, false, false, false]);
    assert_eq!(basic(&of(Role::Replica), false), [false, false, false, true]);
    assert_eq!(basic(&of(Role::StandbyLeader), false), [false, false, false, false]);
}

#[test]
fn a_leader_is_a_primary_whatever_postgresql_does() {
    assert_eq!(basic(&primary(), true), [true, true, false, false]);
    for state in [None, Some(ServerState::Starting), Some(ServerState::Crashed)] {
        assert_eq!(basic(&Facts { state, ..primary() }, true), [true, true, false, false]);
    }
    assert_eq!(basic(&Facts { role: Role::Promoted, ..replica() }, true), [true, true, false, false]);
    assert_eq!(basic(&replica(), true), [true, true, false, true]);
}

#[test]
fn who_is_not_the_leader_is_nothing_but_a_replica() {
    assert_eq!(basic(&primary(), false), [false, false, false, false]);
    assert_eq!(basic(&replica(), false), [false, false, false, true]);
    let lost = Facts { has_view: false, unlocked: true, ..primary() };
    assert_eq!(basic(&lost, false), [false, false, false, false]);
    assert_eq!(basic(&lost, true), [true, true, false, false]);
    let paused = Facts { paused: true, ..primary() };
    assert_eq!(basic(&paused, false), [false, false, false, false]);
}

#[test]
fn a_replica_serves_reads_if_it_runs_and_is_not_excluded() {
    let reads = |facts: &Facts, tags: Value| {
        let Value::Object(tags) = tags else { panic!("tags are an object") };
        Basic::of(Node { facts, is_leader: false, tags: &Tags(tags) }, None).replica
    };
    assert!(reads(&replica(), json!({})));
    assert!(reads(&replica(), json!({"noloadbalance": false})));
    assert!(!reads(&replica(), json!({"noloadbalance": true})));
    for state in [None, Some(ServerState::Starting), Some(ServerState::Stopped)] {
        assert!(!reads(&Facts { state, ..replica() }, json!({})));
    }
    for role in [Role::Primary, Role::StandbyLeader, Role::Demoted, Role::Promoted, Role::Uninitialized] {
        assert!(!reads(&Facts { role, ..replica() }, json!({})));
    }
}

#[test]
fn every_path_on_a_leader() {
    answers(
        &primary(),
        true,
        &[
            "/",
            "/primary",
            "/master",
            "/read-write",
            "/leader",
            "/foo/primary",
            "/primary/foo",
            "/xleaderx",
            "/read-only",
            "/health",
            "/read-only-sync",
            "/read-only-synchronous",
            "/read-only-quorum",
            "/healthz",
        ],
        &[
            "/standby_leader",
            "/standby-leader",
            "/replica",
            "/sync",
            "/synchronous",
            "/quorum",
            "/async",
            "/asynchronous",
            "/patroni",
            "/cluster",
            "/config",
            "/history",
            "/metrics",
            "/liveness",
            "/readiness",
            "/failsafe",
            "/nosuch",
            "*",
            "",
            "/sync/",
        ],
    );
}

#[test]
fn every_path_on_a_replica_that_nobody_waits_for() {
    answers(
        &replica(),
        false,
        &["/replica", "/xreplicax", "/read-only", "/async", "/asynchronous", "/health"],
        &[
            "/",
            "/primary",
            "/master",
            "/read-write",
            "/leader",
            "/standby_leader",
            "/standby-leader",
            "/sync",
            "/synchronous",
            "/quorum",
            "/read-only-sync",
            "/read-only-synchronous",
            "/read-only-quorum",
            "/nosuch",
            "/async/",
            "/patroni",
        ],
    );
}

#[test]
fn every_path_on_a_synchronous_standby() {
    answers(
        &with_duty(SyncDuty::Sync),
        false,
        &["/replica", "/read-only", "/sync", "/synchronous", "/read-only-sync", "/read-only-synchronous", "/health"],
        &["/primary", "/leader", "/quorum", "/async", "/asynchronous", "/read-only-quorum"],
    );
}

#[test]
fn every_path_on_a_quorum_standby() {
    answers(
        &with_duty(SyncDuty::Quorum),
        false,
        &["/replica", "/read-only", "/quorum", "/read-only-quorum", "/health"],
        &["/primary", "/leader", "/sync", "/synchronous", "/async", "/asynchronous", "/read-only-sync"],
    );
}

#[test]
fn every_path_on_the_leader_of_a_standby_cluster() {
    let facts = Facts { standby_cluster: true, role: Role::StandbyLeader, ..replica() };
    answers(
        &facts,
        true,
        &["/standby_leader", "/standby-leader", "/leader", "/read-only", "/health", "/read-only-sync", "/read-only-quorum"],
        &["/", "/primary", "/master", "/read-write", "/replica", "/sync", "/async", "/quorum"],
    );
}

#[test]
fn without_a_view_only_the_first_six_rules_apply() {
    let facts = Facts { has_view: false, unlocked: true, ..replica() };
    answers(
        &facts,
        false,
        &["/replica", "/read-only", "/health"],
        &["/async", "/asynchronous", "/sync", "/quorum", "/read-only-sync", "/read-only-quorum", "/primary", "/"],
    );
    let paused = Facts { paused: true, ..primary() };
    let lost = Facts { has_view: false, ..paused };
    answers(&lost, false, &["/", "/primary", "/leader", "/read-only"], &["/read-only-sync", "/standby-leader"]);
}

#[test]
fn health_needs_a_server_that_answers() {
    for (state, expected) in [(Some(ServerState::Running), true), (None, false), (Some(ServerState::Starting), false)] {
        let facts = Facts { state, ..primary() };
        assert_eq!(check("/health", &facts, false, &Tags::default()), expected);
    }
}

#[test]
fn a_lag_in_bytes_or_with_a_unit_excludes_who_is_further_behind() {
    let behind = |bytes: u64| Facts { leader_position: Lsn(100 << 20), replayed: Lsn((100 << 20) - bytes), ..replica() };
    for (target, bytes, expected) in [
        ("/replica?lag=10MB", 11 << 20, false),
        ("/replica?lag=10MB", 9 << 20, true),
        ("/replica?lag=10MB", 10 << 20, true),
        ("/replica?lag=1024", 1025, false),
        ("/replica?lag=1kB", 1024, true),
        ("/replica?lag=1GB", 90 << 20, true),
        ("/replica?lag=1TB", 90 << 20, true),
        ("/replica?lag=5B", 6, false),
        ("/replica?lag=0", 1, false),
        ("/replica?lag=1M", 90 << 20, true),
        ("/replica?lag=1mb", 90 << 20, true),
        ("/replica?lag=abc", 90 << 20, true),
        ("/replica?lag=", 90 << 20, true),
        ("/replica", 90 << 20, true),
        ("/replica?lag=1&lag=10MB", 9 << 20, false),
        ("/read-only?lag=1", 2, false),
        ("/async?lag=1", 2, false),
    ] {
        assert_eq!(check(target, &behind(bytes), false, &Tags::default()), expected, "{target} {bytes}");
    }
    let unknown = Facts { leader_position: Lsn::ZERO, replayed: Lsn::ZERO, ..replica() };
    assert!(check("/replica?lag=0", &unknown, false, &Tags::default()));
    let unreplayed = Facts { replayed: Lsn::ZERO, ..replica() };
    assert!(!check("/replica?lag=1", &unreplayed, false, &Tags::default()));
}

#[test]
fn tags_in_the_query_must_match_where_tags_are_checked() {
    let Value::Object(tags) = json!({"clonefrom": true, "zone": "A b", "rank": 1, "weight": 1.4, "nothing": null, "no": false}) else {
        panic!("tags are an object")
    };
    let tags = Tags(tags);
    for (query, expected) in [
        ("tag_clonefrom=true", true),
        ("tag_clonefrom=True", false),
        ("tag_zone=A+b", true),
        ("tag_zone=a+b", false),
        ("tag_rank=1", true),
        ("tag_rank=2", false),
        ("tag_weight=1.4", true),
        ("tag_nothing=none", false),
        ("tag_no=false", true),
        ("tag_absent=1", false),
        ("tag_absent=", true),
        ("tag_rank=1&tag_zone=x", false),
        ("replication_state=streaming", true),
    ] {
        for path in ["/replica", "/read-only", "/health", "/async"] {
            assert_eq!(check(&format!("{path}?{query}"), &replica(), false, &tags), expected, "{path}?{query}");
        }
    }
    assert!(check("/sync?tag_rank=1", &with_duty(SyncDuty::Sync), false, &tags));
    assert!(!check("/sync?tag_rank=2", &with_duty(SyncDuty::Sync), false, &tags));
    assert!(check("/primary?tag_x=1", &primary(), true, &tags));
    assert!(check("/leader?tag_x=1", &primary(), true, &tags));
    assert!(!check("/read-only?tag_x=1", &primary(), true, &tags));
    assert!(!check("/read-only-sync?tag_x=1", &primary(), true, &tags));
}

#[test]
fn liveness_allows_a_primary_one_ttl_and_others_two() {
    let seconds = Duration::from_secs;
    let (next, ttl) = (Moment::from_origin(seconds(100)), seconds(30));
    let live = |paused, primary, now| is_live(paused, primary, next, ttl, Moment::from_origin(seconds(now)));
    assert!(live(false, true, 129) && !live(false, true, 130));
    assert!(live(false, false, 159) && !live(false, false, 160));
    assert!(live(true, true, 100_000) && live(true, false, 100_000));
}

#[test]
fn readiness_step_by_step() {
    let tags = Tags::default();
    let ready = |facts: &Facts, is_leader, query: &str| {
        readiness(&Query::parse(Some(query)), Node { facts, is_leader, tags: &tags }, 1_048_576).is_ok()
    };
    assert!(ready(&Facts { state: None, ..primary() }, true, ""));
    assert!(ready(&replica(), false, ""));
    assert!(!ready(&Facts { state: Some(ServerState::Starting), ..replica() }, false, ""));
    assert!(!ready(&Facts { streaming: false, ..replica() }, false, ""));

    let lost = Facts { has_view: false, leader_position: Lsn::ZERO, latest_end: Lsn::ZERO, ..replica() };
    assert!(!ready(&lost, false, ""));
    assert!(ready(&Facts { failsafe: true, ..lost.clone() }, false, ""));
    assert!(ready(&Facts { leader_position: Lsn(1000), latest_end: Lsn(1000), ..lost }, false, ""));

    let behind = Facts { leader_position: Lsn(3_000_000), received: Lsn(2_900_000), replayed: Lsn(1_000_000), ..replica() };
    assert!(!ready(&behind, false, ""));
    assert!(!ready(&behind, false, "mode=apply"));
    assert!(!ready(&behind, false, "lag=nonsense"));
    assert!(ready(&behind, false, "lag=2MB"));
    assert!(ready(&behind, false, "mode=write"));
    assert!(ready(&behind, false, "mode=write&lag=100000"));
    assert!(!ready(&behind, false, "mode=write&lag=99999"));
}
