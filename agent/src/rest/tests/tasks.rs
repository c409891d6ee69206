//! Restart, reinitialize, reload.

use ha_engine::RestartAnswer;
use serde_json::json;

use crate::rest::testing::{Node, deadline};

#[tokio::test]
async fn every_outcome_of_a_restart() {
    let node = Node::start().await;
    for (answer, status, text) in [
        (RestartAnswer::Restarted, 200, "restarted successfully"),
        (RestartAnswer::ConditionsNotMet, 503, "restart conditions are not satisfied"),
        (RestartAnswer::Busy("reinitialize".to_owned()), 503, "reinitialize already in progress"),
        (RestartAnswer::StillStarting, 503, "postgres is still starting"),
        (RestartAnswer::Failed, 503, "restart failed"),
    ] {
        node.script.lock().unwrap().restart = answer;
        assert_eq!(node.send("POST", "/restart", None).await.said(), (status, text));
    }
    assert_eq!(node.heard().len(), 5);
}

#[tokio::test]
async fn the_conditions_of_a_restart_reach_the_engine() {
    let node = Node::start().await;
    let body = r#"{"role": "replica", "postgres_version": "15.2", "timeout": "1min", "restart_pending": true}"#;
    assert_eq!(node.send("POST", "/restart", Some(body)).await.status, 200);
    let heard = node.heard();
    for part in ["Some(\"replica\")", "Some(150002)", "Some(60s)", "restart_pending: true"] {
        assert!(heard[0].contains(part), "{part}: {heard:?}");
    }
    let bad = node.send("POST", "/restart", Some(r#"{"role": "boss"}"#)).await;
    assert_eq!(bad.said(), (400, "PostgreSQL role should be either primary, standby_leader, or replica"));
    assert_eq!(node.heard(), Vec::<String>::new());
}

#[tokio::test]
async fn a_restart_can_wait_for_its_time() {
    let node = Node::start().await;
    let body = r#"{"schedule": "2030-05-06 07:08+02", "role": "replica"}"#;
    assert_eq!(node.send("POST", "/restart", Some(body)).await.said(), (202, "Restart scheduled"));
    assert_eq!(node.heard(), ["restart at 2030-05-06T07:08:00+02:00 {\"role\":\"replica\"}"]);
    node.script.lock().unwrap().schedule_accepted = false;
    let again = node.send("POST", "/restart", Some(body)).await;
    assert_eq!(again.said(), (409, "Another restart is already scheduled"));
    let past = node.send("POST", "/restart", Some(r#"{"schedule": "2029-01-01T00:00Z"}"#)).await;
    assert_eq!(past.said(), (422, "Cannot schedule restart in the past"));

    assert_eq!(node.send("DELETE", "/restart", None).await.said(), (200, "scheduled restart deleted"));
    node.script.lock().unwrap().schedule_deleted = false;
    assert_eq!(node.send("DELETE", "/restart", None).await.said(), (404, "no restarts are scheduled"));
}

#[tokio::test]
async fn nothing_is_scheduled_in_maintenance_mode() {
    let node = Node::start().await;
    let config = json!({"pause": true});
    node.dcs.set_config(config.as_object().unwrap(), None, deadline()).await.unwrap();
    for body in [r#"{"role": "boss", "schedule": "x"}"#, r#"{"schedule": null}"#] {
        let answer = node.send("POST", "/restart", Some(body)).await;
        assert_eq!(answer.said(), (500, "Can't schedule restart in the paused state"));
    }
    assert_eq!(node.send("POST", "/restart", Some("{}")).await.status, 200);
}

#[tokio::test]
async fn reinitialize_with_its_flags_and_refusals() {
    let node = Node::start().await;
    for (body, heard) in [
        (None, "reinitialize force=false from_leader=false"),
        (Some("{}"), "reinitialize force=false from_leader=false"),
        (Some(r#"{"force": true}"#), "reinitialize force=true from_leader=false"),
        (Some(r#"{"force": "On", "from_leader": 1}"#), "reinitialize force=true from_leader=true"),
        (Some(r#"{"from-leader": "yes"}"#), "reinitialize force=false from_leader=true"),
        (Some(r#"{"force": "maybe", "from_leader": null}"#), "reinitialize force=false from_leader=false"),
    ] {
        assert_eq!(node.send("POST", "/reinitialize", body).await.said(), (200, "reinitialize started"));
        assert_eq!(node.heard(), [heard]);
    }
    for refusal in ["Cluster has no leader, can not reinitialize", "restart already in progress"] {
        node.script.lock().unwrap().reinitialize_refusal = Some(refusal.to_owned());
        assert_eq!(node.send("POST", "/reinitialize", None).await.said(), (503, refusal));
    }
}

#[tokio::test]
async fn a_reload_is_scheduled_and_a_shutdown_is_only_said() {
    let node = Node::start().await;
    assert_eq!(node.send("POST", "/reload", None).await.said(), (202, "reload scheduled"));
    assert_eq!(node.send("POST", "/sigterm", None).await.said(), (202, "shutdown scheduled"));
    assert_eq!(node.heard(), ["reload"]);
}
