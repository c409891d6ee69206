//! Health checks, `/patroni`, `/cluster`, `/history`, `/liveness`, `/readiness`, `/metrics`, `/failsafe`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::codec::parse_schedule;
use dcs_core::fault::Connection;
use dcs_core::model::{
    Leader, Lsn, Member, MemberRecord, PendingRestart, Revision, Role, ServerState, Status, SyncRecord, SyncState, SystemId, Timeline,
};
use dcs_core::{Dcs as _, Moment};
use futures::future::join_all;
use ha_engine::decide::observation::{DataDir, Monitor, Postmaster, ServerObservation};
use ha_engine::decide::restart::ScheduledRestart;
use serde_json::{Value, json};

use crate::rest::testing::postgres::{orphan, primary, standby};
use crate::rest::testing::{Node, deadline};

impl Node {
    /// The engine sees `b` as leader.
    fn see_a_leader(&self) {
        self.change(|snapshot| {
            let view = Arc::make_mut(snapshot.view.as_mut().unwrap());
            view.leader = Some(Leader { name: "b".into(), revision: Revision::from(1_u64), handle: None });
        });
    }

    /// `GET /patroni` without what changes with every release.
    async fn status(&self) -> Value {
        let mut status = self.get("/patroni").await.json();
        assert_eq!(status["quorate"]["version"].take(), env!("CARGO_PKG_VERSION"));
        status
    }

    async fn code(&self, target: &str) -> u16 {
        self.get(target).await.status
    }
}

#[tokio::test]
async fn all_methods_of_a_health_check_give_the_same_code() {
    let node = Node::start().await;
    node.see_a_leader();
    for (target, code) in [("/", 503), ("/primary", 503), ("/replica", 200), ("/health", 200), ("/async", 200), ("/x", 503)] {
        for method in ["GET", "HEAD", "OPTIONS"] {
            let answer = node.send(method, target, None).await;
            assert_eq!(answer.status, code, "{method} {target}");
            assert_eq!(answer.body.is_empty(), method != "GET", "{method} {target}");
        }
    }
    for target in ["/patroni", "/cluster", "/config", "/history", "/metrics", "/liveness", "/readiness", "/failsafe"] {
        for method in ["HEAD", "OPTIONS"] {
            assert_eq!(node.send(method, target, None).await.status, 503, "{method} {target}");
        }
    }
}

#[tokio::test]
async fn a_health_check_carries_the_status_with_its_own_code() {
    let node = Node::start().await;
    node.see_a_leader();
    let primary = node.get("/primary").await;
    let replica = node.get("/replica").await;
    assert_eq!((primary.status, replica.status), (503, 200));
    assert_eq!(primary.json(), replica.json());
    assert_eq!(primary.json(), node.get("/patroni").await.json());
    assert_eq!(replica.header("content-type"), Some("application/json"));
}

#[tokio::test]
async fn a_primary_is_one_only_while_its_lease_lasts() {
    let node = Node::start().await;
    node.postgres.change(|local| local.role = Role::Primary);
    node.postgres.say(Some(primary(2000)));
    node.see_a_leader();
    assert_eq!(node.code("/primary").await, 503);
    node.lead();
    for target in ["/", "/primary", "/master", "/read-write", "/leader", "/read-only"] {
        assert_eq!(node.code(target).await, 200, "{target}");
    }
    node.clock.advance(Duration::from_millis(29_999));
    assert_eq!(node.code("/primary").await, 200);
    node.clock.advance(Duration::from_millis(1));
    for method in ["GET", "HEAD", "OPTIONS"] {
        assert_eq!(node.send(method, "/primary", None).await.status, 503);
    }
}

#[tokio::test]
async fn a_paused_primary_stays_one_when_the_store_is_lost() {
    let node = Node::start().await;
    node.configure(&json!({"pause": true}));
    node.postgres.change(|local| local.role = Role::Primary);
    node.postgres.say(Some(primary(2000)));
    node.see_a_leader();
    assert_eq!(node.code("/primary").await, 503);
    node.clock.advance(Duration::from_secs(30));
    for method in ["GET", "OPTIONS"] {
        assert_eq!(node.send(method, "/primary", None).await.status, 200);
    }
    let status = node.get("/patroni").await.json();
    assert_eq!((&status["pause"], &status["cluster_unlocked"]), (&json!(true), &json!(true)));
}

#[tokio::test]
async fn a_hanging_server_does_not_hold_up_what_the_lease_decides() {
    let node = Node::start().await;
    node.see_a_leader();
    node.lead();
    node.postgres.hang();
    let started = tokio::time::Instant::now();
    assert_eq!(node.send("OPTIONS", "/primary", None).await.status, 200);
    assert!(started.elapsed() < Duration::from_millis(500));
    let answer = node.get("/primary").await;
    assert_eq!((answer.status, &answer.json()["state"]), (200, &json!("unknown")));
}

#[tokio::test]
async fn one_query_a_second_serves_all_health_checks() {
    let node = Node::start().await;
    for _ in 0..20 {
        node.get("/replica").await;
    }
    assert_eq!(node.postgres.queries(), 1);
    node.postgres.say(Some(standby(3000)));
    node.clock.advance(Duration::from_millis(999));
    assert_eq!(node.get("/replica").await.json()["xlog"]["replayed_location"], 1000);
    node.clock.advance(Duration::from_millis(1));
    assert_eq!(node.get("/replica").await.json()["xlog"]["replayed_location"], 3000);
    assert_eq!(node.postgres.queries(), 2);
}

#[tokio::test]
async fn peers_get_positions_that_were_read_for_them() {
    let node = Node::start().await;
    assert_eq!(node.get("/patroni").await.json()["xlog"]["received_location"], 1000);
    node.postgres.say(Some(standby(1001)));
    assert_eq!(node.get("/patroni").await.json()["xlog"]["received_location"], 1001);
}

#[tokio::test]
async fn peers_that_ask_together_share_a_query() {
    let node = Node::start().await;
    let answers = join_all((0..50).map(|_| node.get("/patroni"))).await;
    assert!(answers.iter().all(|answer| answer.json()["xlog"]["received_location"] == 1000));
    assert!(node.postgres.queries() < 25, "{}", node.postgres.queries());
}

#[tokio::test]
async fn a_standby_without_a_leader_looks_up_its_timeline_for_peers() {
    let node = Node::start().await;
    node.see_a_leader();
    assert_eq!(node.get("/patroni").await.json()["timeline"], 2);
    assert_eq!(node.postgres.timeline_queries(), 0);
    node.postgres.say(Some(orphan(1000)));
    for asked in 1..3 {
        let status = node.get("/patroni").await.json();
        assert_eq!((&status["timeline"], &status["xlog"]["received_location"]), (&json!(3), &json!(1000)));
        assert_eq!(node.postgres.timeline_queries(), asked);
    }
    // While it is the leader's, it cannot have changed.
    node.change(|snapshot| {
        let record = MemberRecord { timeline: Some(Timeline(3)), ..MemberRecord::default() };
        let leader = Member { name: "b".into(), revision: Revision::from(1_u64), handle: None, record };
        Arc::make_mut(snapshot.view.as_mut().unwrap()).members = vec![leader];
    });
    assert_eq!(node.get("/patroni").await.json()["timeline"], 3);
    assert_eq!(node.postgres.timeline_queries(), 2);
}

#[tokio::test]
async fn a_server_that_could_not_be_asked_is_asked_again_for_peers() {
    let node = Node::start().await;
    node.postgres.say(None);
    let later = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        node.postgres.say(Some(standby(1000)));
    };
    let (answer, ()) = tokio::join!(node.get("/patroni"), later);
    assert_eq!(answer.json()["xlog"]["received_location"], 1000);
}

#[tokio::test]
async fn peers_are_answered_in_time_even_if_the_server_hangs() {
    let node = Node::start().await;
    node.postgres.hang();
    let started = tokio::time::Instant::now();
    let answers = join_all((0..5).map(|_| node.get("/patroni"))).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(answers.iter().all(|answer| answer.json()["state"] == "unknown"));
}

#[tokio::test]
async fn lag_is_told_from_the_leader_as_last_loaded() {
    let node = Node::start().await;
    node.see_a_leader();
    node.change(|snapshot| {
        let view = Arc::make_mut(snapshot.view.as_mut().unwrap());
        view.status = Status { last_lsn: Lsn(12 << 20), ..Status::default() };
    });
    node.postgres.say(Some(standby(1 << 20)));
    assert_eq!(node.code("/replica?lag=10MB").await, 503);
    assert_eq!(node.code("/replica?lag=11MB").await, 200);
    assert_eq!(node.code("/replica?lag=1M").await, 200);
    assert_eq!(node.code("/replica?lag=100MB&tag_zone=north").await, 200);
    assert_eq!(node.code("/replica?tag_zone=south").await, 503);
}

#[tokio::test]
async fn synchronous_standbys_are_found_by_the_sync_key() {
    let node = Node::start().await;
    node.see_a_leader();
    node.change(|snapshot| {
        let view = Arc::make_mut(snapshot.view.as_mut().unwrap());
        let record = SyncRecord { leader: Some("b".into()), standbys: vec!["A".into()], quorum: 0 };
        view.sync = SyncState { record, ..SyncState::default() };
    });
    for (mode, sync, quorum, field) in [("on", 200, 503, "sync_standby"), ("quorum", 503, 200, "quorum_standby"), ("off", 503, 503, "none")]
    {
        node.configure(&json!({"synchronous_mode": mode}));
        assert_eq!((node.code("/sync").await, node.code("/quorum").await), (sync, quorum), "{mode}");
        let status = node.get("/patroni").await.json();
        for name in ["sync_standby", "quorum_standby"] {
            assert_eq!(status.get(name).is_some(), name == field, "{mode} {name}");
        }
    }
}

#[tokio::test]
async fn the_status_of_a_replica() {
    let node = Node::start().await;
    node.see_a_leader();
    insta::assert_json_snapshot!(node.status().await);
}

#[tokio::test]
async fn the_status_of_a_primary_with_everything_there_is() {
    let node = Node::start().await;
    node.postgres.change(|local| {
        local.role = Role::Primary;
        let change = PendingRestart { old_value: "100".to_owned(), new_value: "200".to_owned() };
        local.pending_restart = BTreeMap::from([("max_connections".to_owned(), change)]);
    });
    node.postgres.say(Some(primary(67_171_424)));
    node.configure(&json!({"pause": true}));
    let server = ServerObservation {
        state: ServerState::Running,
        role: Role::Primary,
        since: Moment::ZERO,
        postmaster: Postmaster::None,
        data_dir: DataDir::Empty,
        system_id: SystemId::parse("7000000000000000001"),
        monitor: Monitor::NotAsked,
        slots: None,
        major_version: Some(150_000),
        pending_restart: BTreeMap::new(),
    };
    node.change(|snapshot| {
        snapshot.server = Some(Arc::new(server));
        snapshot.scheduled_restart = Some(ScheduledRestart {
            at: parse_schedule("2030-05-06T07:08:09+02:00").unwrap(),
            postmaster_started_at: Some(1),
            filters: json!({"restart_pending": true}).as_object().unwrap().clone(),
        });
    });
    insta::assert_json_snapshot!(node.status().await);
}

#[tokio::test]
async fn the_status_of_a_stopped_server_has_no_positions() {
    let node = Node::start().await;
    node.postgres.change(|local| {
        local.state = ServerState::Stopped;
        local.role = Role::Demoted;
    });
    node.change(|snapshot| snapshot.tags.0.clear());
    insta::assert_json_snapshot!(node.status().await);
    assert_eq!(node.postgres.queries(), 0);
}

#[tokio::test]
async fn agents_that_ask_are_told_the_tag_that_makes_them_skip_this_node_and_load_balancers_are_not() {
    let node = Node::start().await;
    node.see_a_leader();
    let asks = "/replica?tag_nofailover=true";
    assert_eq!((node.status().await["tags"].get("nofailover"), node.code(asks).await), (None, 503));
    node.change(|snapshot| drop(snapshot.tags.0.insert("nofailover".to_owned(), json!(true))));
    let tags = &node.status().await["tags"];
    assert_eq!((&tags["nofailover"], &tags["zone"]), (&json!(true), &json!("north")));
    assert_eq!(node.code(asks).await, 503, "a load balancer asks for what the operator has configured");
    assert_eq!(node.code("/replica").await, 200);
}

#[tokio::test]
async fn who_asks_is_told_that_a_watchdog_is_required_and_cannot_be_used() {
    let node = Node::start().await;
    assert_eq!(node.status().await.get("watchdog_failed"), None);
    node.change(|snapshot| snapshot.watchdog_failed = true);
    assert_eq!(node.status().await["watchdog_failed"], json!(true));
}

#[tokio::test]
async fn in_a_standby_cluster_the_own_role_counts() {
    let node = Node::start().await;
    node.configure(&json!({"standby_cluster": {"host": "elsewhere"}}));
    node.postgres.change(|local| local.role = Role::StandbyLeader);
    node.see_a_leader();
    node.lead();
    assert_eq!(node.get("/patroni").await.json()["role"], "standby_leader");
    for (target, code) in [("/", 503), ("/standby-leader", 200), ("/leader", 200), ("/read-only", 200), ("/replica", 503)] {
        assert_eq!(node.code(target).await, code, "{target}");
    }
}

#[tokio::test]
async fn liveness_follows_the_loop() {
    let node = Node::start().await;
    assert_eq!(node.get("/liveness").await.said(), (200, ""));
    node.clock.advance(Duration::from_secs(41));
    assert_eq!(node.code("/liveness").await, 200);
    node.postgres.change(|local| local.role = Role::Primary);
    assert_eq!(node.code("/liveness").await, 503);
    node.configure(&json!({"pause": true}));
    assert_eq!(node.code("/liveness").await, 200);
}

#[tokio::test]
async fn readiness_follows_replication() {
    let node = Node::start().await;
    node.see_a_leader();
    assert_eq!(node.get("/readiness").await.said(), (200, ""));
    node.change(|snapshot| {
        Arc::make_mut(snapshot.view.as_mut().unwrap()).status = Status { last_lsn: Lsn(3 << 20), ..Status::default() };
    });
    assert_eq!(node.code("/readiness").await, 503);
    assert_eq!(node.code("/readiness?lag=3MB").await, 200);
    node.lead();
    assert_eq!(node.code("/readiness").await, 200);
}

#[tokio::test]
async fn metrics_of_a_replica_and_of_a_server_that_is_down() {
    let node = Node::start().await;
    node.see_a_leader();
    let running = node.get("/metrics").await;
    assert_eq!((running.status, running.header("content-type")), (200, Some("text/plain")));
    insta::assert_snapshot!("metrics_of_a_replica", running.body);
    node.postgres.change(|local| local.state = ServerState::Stopped);
    insta::assert_snapshot!("metrics_of_a_stopped_server", node.get("/metrics").await.body);
}

#[tokio::test]
async fn the_cluster_is_read_anew_for_everybody_who_asks() {
    let node = Node::start().await;
    let empty = json!({"members": [], "scope": "batman"});
    assert_eq!(node.get("/cluster").await.json(), empty);
    let b = node.publish("b").await;
    node.publish("a").await;
    b.attempt_to_acquire_leader(deadline()).await.unwrap();
    let cluster = node.get("/cluster/of/whatever").await.json();
    insta::assert_json_snapshot!(cluster);
}

#[tokio::test]
async fn history_comes_from_the_view_or_the_store() {
    let node = Node::start().await;
    assert_eq!(node.get("/history").await.json(), json!([]));
    let lines = json!([[1, 67_171_424, "no recovery target specified", "2030-01-01T00:00:00+00:00", "a"]]);
    node.dcs.set_history(&lines, deadline()).await.unwrap();
    assert_eq!(node.get("/history").await.json(), json!([]));
    node.clock.advance(Duration::from_secs(30));
    assert_eq!(node.get("/history").await.json(), lines);
}

#[tokio::test]
async fn failsafe_members_are_told_as_last_loaded() {
    let node = Node::start().await;
    assert_eq!(node.code("/failsafe").await, 502);
    let members = json!({"a": "http://a:8008/patroni"});
    // Also while the store is away.
    node.change(|snapshot| (snapshot.view, snapshot.failsafe.map) = (None, Some(members.clone())));
    assert_eq!(node.get("/failsafe").await.json(), members);
    node.change(|snapshot| snapshot.failsafe.map = Some(json!([1])));
    assert_eq!(node.code("/failsafe").await, 502);
    node.change(|snapshot| (snapshot.failsafe.map, snapshot.dcs_last_seen) = (None, 0));
    assert_eq!(node.get("/failsafe").await.said(), (200, "{}"));
}

/// Must hold: rest-api.md 6 (8), on the side of the replica; section 3, when failsafe mode is active.
#[tokio::test]
async fn a_leader_without_the_store_gets_this_nodes_word_as_patroni_would_give_it() {
    const CALL: &str = r#"{"name": "b", "conn_url": "postgres://b:5432/postgres", "api_url": "http://b:8008/patroni", "slots": {"b": 7}}"#;
    let node = Node::start().await;
    assert_eq!(node.send("POST", "/failsafe", Some(CALL)).await.status, 502, "the mode is off");
    node.configure(&json!({"failsafe_mode": true}));
    for (body, status) in [(None, 411), (Some("{}"), 400), (Some("no"), 400), (Some(r#"{"name": "b", "conn_url": "x"}"#), 400)] {
        assert_eq!(node.send("POST", "/failsafe", body).await.status, status, "{body:?}");
    }
    let is_active = async || node.get("/patroni").await.json().get("failsafe_mode_is_active").cloned();
    assert_eq!(is_active().await, None);

    node.postgres.change(|local| (local.state, local.role) = (ServerState::Running, Role::Primary));
    assert_eq!(node.send("POST", "/failsafe", Some(CALL)).await.said(), (500, "Running as a leader"));
    assert_eq!(is_active().await, None, "nothing was promised");

    node.postgres.change(|local| (local.state, local.role) = (ServerState::Running, Role::Replica));
    let accepted = node.send("POST", "/failsafe", Some(CALL)).await;
    assert_eq!((accepted.said(), accepted.header("lsn")), ((200, "Accepted"), None));
    assert_eq!(is_active().await, Some(json!(true)));
    assert!(node.get("/metrics").await.body.contains("patroni_failsafe_mode_is_active{scope=\"batman\",name=\"a\"} 1"));
    node.change(|snapshot| snapshot.last_wal_lsn = Some(Lsn(67_109_120)));
    assert_eq!(node.send("POST", "/failsafe", Some(CALL)).await.header("lsn"), Some("67109120"));

    node.clock.advance(Duration::from_secs(30));
    assert_eq!(is_active().await, None, "a promise lasts for ttl");
}

#[tokio::test]
async fn without_the_store_everything_answers_and_says_so() {
    let node = Node::start().await;
    node.see_a_leader();
    node.configure(&json!({"retry_timeout": 3}));
    node.clock.advance(Duration::from_secs(30));
    node.plan.set_connection(Connection::Cut);
    let requests = [
        ("GET", "/cluster", None),
        ("GET", "/history", None),
        ("GET", "/config", None),
        ("PATCH", "/config", Some(r#"{"ttl": 20}"#)),
        ("PUT", "/config", Some(r#"{"ttl": 20}"#)),
        ("POST", "/switchover", Some(r#"{"leader": "b"}"#)),
        ("POST", "/failover", Some(r#"{"candidate": "b"}"#)),
        ("DELETE", "/switchover", None),
        ("POST", "/restart", None),
    ];
    let started = tokio::time::Instant::now();
    let slow = join_all(requests.map(|(method, target, body)| node.send(method, target, body)));
    let quick = async {
        assert_eq!(node.code("/replica").await, 200);
        assert_eq!(node.code("/async").await, 503);
        assert_eq!(node.get("/patroni").await.json()["cluster_unlocked"], true);
        started.elapsed()
    };
    let (answers, quick) = tokio::join!(slow, quick);
    assert!(quick < Duration::from_secs(1));
    assert!(started.elapsed() < Duration::from_secs(4));
    for (answer, (method, target, _)) in answers.iter().zip(requests) {
        assert_eq!(answer.status, 503, "{method} {target}");
        assert!(answer.body.contains("memory"), "{method} {target}: {}", answer.body);
    }
}
