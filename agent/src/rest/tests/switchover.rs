//! Switchover and failover, from the request to the answer.

use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::fault::{Call, Fault};
use dcs_core::model::{FailoverRequest, MemberName, SyncRecord, Tags, Timeline};
use dcs_core::{Acquisition, Dcs as _};
use ha_engine::decide::observation::{PeerAnswer, PeerStatus};
use serde_json::json;

use crate::rest::testing::{Node, deadline, good_peer};

/// `a` (this node) leads; `b` and `c` are good candidates.
async fn cluster() -> (Node, [Arc<KeyValueDcs>; 3]) {
    let node = Node::start().await;
    let members = [node.publish("a").await, node.publish("b").await, node.publish("c").await];
    assert!(matches!(members[0].attempt_to_acquire_leader(deadline()).await, Ok(Acquisition::Won(_))));
    for name in ["b", "c"] {
        node.peers.answer(name, PeerAnswer::Status(good_peer()));
    }
    (node, members)
}

async fn set_sync(node: &Node, mode: &str, standbys: &[&str]) {
    let config = json!({"synchronous_mode": mode});
    node.dcs.set_config(config.as_object().unwrap(), None, deadline()).await.unwrap();
    let standbys = standbys.iter().map(|&name| MemberName::from(name)).collect();
    let record = SyncRecord { leader: Some("a".into()), standbys, quorum: 0 };
    let seen = node.dcs.load(deadline()).await.unwrap().sync.revision;
    assert!(node.dcs.set_sync(&record, seen.as_ref(), deadline()).await.unwrap().is_applied());
}

/// Plays the leader that steps down, and `winner` that takes over, once the request is there.
async fn hand_over(node: &Node, leader: &KeyValueDcs, winner: &KeyValueDcs) {
    wait_for_request(node).await;
    leader.release_leader(None, deadline()).await.unwrap();
    assert!(matches!(winner.attempt_to_acquire_leader(deadline()).await, Ok(Acquisition::Won(_))));
    winner.set_failover(&FailoverRequest::default(), None, deadline()).await.unwrap();
}

async fn wait_for_request(node: &Node) {
    while node.load().await.failover.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn post(node: &Node, target: &str, body: &str) -> (u16, String) {
    let answer = node.send("POST", target, Some(body)).await;
    (answer.status, answer.body)
}

#[tokio::test]
async fn bad_requests_are_refused_before_anything_is_looked_at() {
    let (node, _members) = cluster().await;
    for (target, body, status, text) in [
        ("/failover", r#"{"foo": "bar"}"#, 400, "Failover could be performed only to a specific candidate"),
        ("/switchover", r#"{"candidate": "b"}"#, 400, "Switchover could be performed only from a specific leader"),
        ("/failover", r#"{"candidate": "b", "scheduled_at": "x"}"#, 400, "Failover can't be scheduled"),
        ("/switchover", r#"{"leader": "a", "candidate": "a"}"#, 400, "Switchover target and source are the same"),
        ("/switchover", r#"{"leader": "b"}"#, 412, "leader name does not match"),
        ("/switchover", r#"{"leader": "a", "candidate": "x"}"#, 412, "candidate does not exists"),
        ("/failover", r#"{"candidate": "x"}"#, 412, "candidate does not exists"),
    ] {
        assert_eq!(post(&node, target, body).await, (status, text.to_owned()), "{body}");
    }
    assert_eq!(node.load().await.failover, None);
    let heard = node.heard();
    assert!(heard.iter().all(|command| command == "wake"), "nothing but having looked is told: {heard:?}");
}

#[tokio::test]
async fn in_maintenance_mode_only_a_named_candidate_will_do() {
    let (node, _members) = cluster().await;
    let config = json!({"pause": true});
    node.dcs.set_config(config.as_object().unwrap(), None, deadline()).await.unwrap();
    let text = "Switchover is possible only to a specific candidate in a paused state";
    assert_eq!(post(&node, "/switchover", r#"{"leader": "a"}"#).await, (400, text.to_owned()));
    let body = r#"{"leader": "a", "scheduled_at": "2030-05-06T07:08Z"}"#;
    let text = "Can't schedule switchover in the paused state";
    assert_eq!(post(&node, "/switchover", body).await, (400, text.to_owned()));
}

#[tokio::test]
async fn in_synchronous_mode_candidates_are_the_standbys_of_the_key() {
    let (node, _members) = cluster().await;
    set_sync(&node, "on", &["b"]).await;
    let text = "candidate name does not match with sync_standby";
    assert_eq!(post(&node, "/switchover", r#"{"leader": "a", "candidate": "c"}"#).await, (412, text.to_owned()));
    set_sync(&node, "on", &[]).await;
    let text = "switchover is not possible: can not find sync_standby";
    assert_eq!(post(&node, "/switchover", r#"{"leader": "a"}"#).await, (412, text.to_owned()));
}

#[tokio::test]
async fn without_other_members_it_is_not_possible() {
    let node = Node::start().await;
    let a = node.publish("a").await;
    a.attempt_to_acquire_leader(deadline()).await.unwrap();
    let text = "switchover is not possible: cluster does not have members except leader";
    assert_eq!(post(&node, "/switchover", r#"{"leader": "a"}"#).await, (412, text.to_owned()));
}

#[tokio::test]
async fn candidates_must_answer_be_allowed_and_have_their_watchdog() {
    let (node, _members) = cluster().await;
    let tagged = PeerStatus { tags: Tags(json!({"nofailover": true}).as_object().unwrap().clone()), ..good_peer() };
    node.peers.answer("b", PeerAnswer::Status(tagged));
    node.peers.answer("c", PeerAnswer::Status(PeerStatus { watchdog_failed: true, ..good_peer() }));
    let not_possible = |action: &str| (412, format!("{action} is not possible: no good candidates have been found"));
    assert_eq!(post(&node, "/switchover", r#"{"leader": "a"}"#).await, not_possible("switchover"));
    node.peers.answer("b", PeerAnswer::Unreachable);
    assert_eq!(post(&node, "/failover", r#"{"candidate": "b"}"#).await, not_possible("failover"));
    assert_eq!(node.load().await.failover, None);
}

#[tokio::test]
async fn a_candidate_behind_the_newest_timeline_is_judged_by_its_member_key() {
    let (node, [a, b, _c]) = cluster().await;
    node.dcs.set_history(&json!([[1, 800, "no recovery target specified"]]), deadline()).await.unwrap();
    let on = |timeline| {
        let tags = Tags(json!({"nofailover": true}).as_object().unwrap().clone());
        PeerAnswer::Status(PeerStatus { tags, timeline: Some(Timeline(timeline)), ..good_peer() })
    };
    let body = r#"{"leader": "a", "candidate": "b"}"#;
    node.peers.answer("b", on(2));
    assert_eq!(post(&node, "/switchover", body).await.0, 412, "there it means what it says");
    node.peers.answer("b", on(1));
    let ((status, text), ()) = tokio::join!(post(&node, "/switchover", body), hand_over(&node, &a, &b));
    assert_eq!(status, 200, "{text}");
}

#[tokio::test]
async fn a_switchover_answers_with_the_new_leader() {
    let (node, [a, b, _c]) = cluster().await;
    let body = r#"{"leader": "a", "candidate": "b"}"#;
    let ((status, text), ()) = tokio::join!(post(&node, "/switchover", body), hand_over(&node, &a, &b));
    assert_eq!((status, text.as_str()), (200, "Successfully switched over to \"b\""));
    // More than once: what the request sees while it waits, it tells the loop, whose own watch does not see it any more.
    let heard = node.heard();
    assert!(!heard.is_empty() && heard.iter().all(|command| command == "wake"), "{heard:?}");
}

#[tokio::test]
async fn the_engine_that_sees_the_new_leader_makes_the_answer_quick() {
    let (node, [a, b, _c]) = cluster().await;
    let started = tokio::time::Instant::now();
    let engine = async {
        hand_over(&node, &a, &b).await;
        node.clock.advance(Duration::from_millis(1));
        node.cycle().await;
    };
    let ((status, _), ()) = tokio::join!(post(&node, "/switchover", r#"{"leader": "a"}"#), engine);
    assert_eq!(status, 200);
    assert!(started.elapsed() < Duration::from_millis(900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_dead_member_does_not_delay_a_switchover_to_a_living_one() {
    let (node, [a, b, _c]) = cluster().await;
    let _dead = node.publish("d").await;
    let started = tokio::time::Instant::now();
    let ((status, _), ()) = tokio::join!(post(&node, "/switchover", r#"{"leader": "a"}"#), hand_over(&node, &a, &b));
    assert_eq!(status, 200);
    assert!(started.elapsed() < Duration::from_millis(1900), "{:?}", started.elapsed());
}

#[tokio::test]
async fn another_winner_than_the_candidate_is_named() {
    let (node, [a, _b, c]) = cluster().await;
    let body = r#"{"candidate": "b"}"#;
    let ((status, text), ()) = tokio::join!(post(&node, "/failover", body), hand_over(&node, &a, &c));
    assert_eq!((status, text.as_str()), (200, "Failed over to \"c\" instead of \"b\""));
}

#[tokio::test]
async fn a_failover_without_a_leader_succeeds_with_the_first_one() {
    let (node, [a, b, _c]) = cluster().await;
    a.release_leader(None, deadline()).await.unwrap();
    let winner = async {
        wait_for_request(&node).await;
        b.attempt_to_acquire_leader(deadline()).await.unwrap();
    };
    let ((status, text), ()) = tokio::join!(post(&node, "/failover", r#"{"member": "b"}"#), winner);
    assert_eq!((status, text.as_str()), (200, "Successfully failed over to \"b\""));
}

#[tokio::test]
async fn a_failover_that_names_the_leader_is_a_switchover() {
    let (node, [a, b, _c]) = cluster().await;
    let body = r#"{"leader": "a", "candidate": "b"}"#;
    let ((status, text), ()) = tokio::join!(post(&node, "/failover", body), hand_over(&node, &a, &b));
    assert_eq!((status, text.as_str()), (200, "Successfully switched over to \"b\""));
}

#[tokio::test]
async fn a_request_that_the_leader_throws_away_has_failed() {
    let (node, [a, _b, _c]) = cluster().await;
    let refuse = async {
        wait_for_request(&node).await;
        a.set_failover(&FailoverRequest::default(), None, deadline()).await.unwrap();
    };
    let ((status, text), ()) = tokio::join!(post(&node, "/switchover", r#"{"leader": "a"}"#), refuse);
    assert_eq!((status, text.as_str()), (503, "Switchover failed"));
}

#[tokio::test]
async fn errors_of_the_store_while_waiting_do_not_matter() {
    let (node, [a, b, _c]) = cluster().await;
    let winner = async {
        wait_for_request(&node).await;
        for _ in 0..3 {
            node.plan.next(Some(Call::Read), Fault::Refuse);
        }
        hand_over(&node, &a, &b).await;
    };
    let ((status, _), ()) = tokio::join!(post(&node, "/switchover", r#"{"leader": "a"}"#), winner);
    assert_eq!(status, 200);
}

#[tokio::test]
async fn a_key_that_cannot_be_written_is_told() {
    let (node, _members) = cluster().await;
    node.configure(&json!({"retry_timeout": 3}));
    for _ in 0..100 {
        node.plan.next(Some(Call::Put), Fault::Refuse);
    }
    let (status, text) = post(&node, "/switchover", r#"{"leader": "a"}"#).await;
    assert_eq!((status, text.as_str()), (503, "failed to write failover key into DCS"));
}

#[tokio::test]
async fn a_switchover_can_be_scheduled_and_cancelled() {
    let (node, _members) = cluster().await;
    assert_eq!(node.send("DELETE", "/switchover", None).await.said(), (404, "no switchover is scheduled"));
    let body = r#"{"leader": "x", "candidate": "y", "scheduled_at": "2030-05-06 07:08 +02"}"#;
    assert_eq!(post(&node, "/switchover", body).await, (202, "Switchover scheduled".to_owned()));
    let scheduled = node.load().await.failover.unwrap().request;
    assert_eq!(scheduled.scheduled_at.unwrap().to_string(), "2030-05-06T07:08:00+02:00");
    assert_eq!((scheduled.leader.unwrap().as_str(), scheduled.candidate.unwrap().as_str()), ("x", "y"));
    assert_eq!(node.send("DELETE", "/switchover", None).await.said(), (200, "scheduled switchover deleted"));
    assert_eq!(node.load().await.failover, None);
    assert_eq!(node.send("DELETE", "/switchover", None).await.status, 404);
}
