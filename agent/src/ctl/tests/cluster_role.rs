//! demote-cluster and promote-cluster.

use std::time::Duration;

use crate::ctl::testing::{DEMO, Tool};

const PATCH: &str = "PATCH http://pg0:8008/config";
const STANDBY_LEADER: &str = r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","api_url":"http://pg1:8008/patroni","state":"running",
    "role":"standby_leader","version":"4.1.4","xlog_location":67171424,"timeline":1}"#;
const FORMER: &str = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://pg0:8008/patroni","state":"stopping",
    "role":"demoted","version":"4.1.4"}"#;
const REPLICA: &str = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://pg0:8008/patroni","state":"running",
    "role":"replica","version":"4.1.4","timeline":1}"#;

#[tokio::test(start_paused = true)]
async fn what_cannot_be_done_is_said_before_anything_is_changed() {
    let of_role = |role: &'static str| {
        let leader = ("members/pg0", if role == "standby_leader" { r#"{"role":"standby_leader"}"# } else { r#"{"role":"primary"}"# });
        DEMO.into_iter().filter(|(key, _)| *key != "members/pg0").chain([leader]).collect::<Vec<_>>()
    };
    let leaderless: Vec<_> = DEMO.into_iter().filter(|(key, _)| *key != "leader").collect();
    let nowhere = "At least --host, --port or --restore-command should be specified";
    let host: &[&str] = &["demote-cluster", "demo", "--host", "x", "--force"];
    let promote: &[&str] = &["promote-cluster", "demo", "--force"];
    for (keys, arguments, message) in [
        (DEMO.to_vec(), &["demote-cluster", "demo", "--force"][..], nowhere),
        (DEMO.to_vec(), &["demote-cluster", "demo", "--primary-slot-name", "dr"], nowhere),
        (leaderless.clone(), host, "Cluster has no leader, demotion is not possible"),
        (leaderless, promote, "Cluster has no leader, promotion is not possible"),
        (of_role("standby_leader"), host, "Cluster is already in the required state"),
        (of_role("primary"), promote, "Cluster is already in the required state"),
    ] {
        let outcome = Tool::with(&keys).await.run(arguments).await;
        assert_eq!((outcome.error().as_str(), outcome.requests.len()), (message, 0), "{arguments:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_declined_demotion_changes_nothing_and_a_refused_one_says_why() {
    let mut tool = Tool::with(&DEMO).await.answering(&["n"]);
    let outcome = tool.run(&["demote-cluster", "demo", "--port", "5433"]).await;
    assert!(outcome.requests.is_empty());
    assert_eq!(outcome.after_table(), "Are you sure you want to demote demo cluster? [y/N]: ");
    assert_eq!(outcome.error(), "Aborted cluster demotion");

    let arguments = ["demote-cluster", "demo", "--host", "x", "--force"];
    let outcome = Tool::with(&DEMO).await.agent(PATCH, 503, "not now").run(&arguments).await;
    assert_eq!(outcome.error(), "Failed to demote demo cluster: /config PATCH status code=503, (not now)");
    let outcome = Tool::with(&DEMO).await.run(&arguments).await;
    assert!(outcome.error().starts_with("Failed to demote demo cluster: http://pg0:8008/config: "), "{}", outcome.error());
}

#[tokio::test(start_paused = true)]
async fn a_demotion_is_followed_until_the_leader_and_the_former_one_run_as_standbys() {
    let mut tool = Tool::with(&DEMO).await.agent(PATCH, 200, "{}");
    tool.put_later("members/pg0", FORMER, Duration::from_millis(1_500));
    tool.put_later("leader", "pg1", Duration::from_millis(2_500));
    tool.put_later("members/pg1", STANDBY_LEADER, Duration::from_millis(3_500));
    tool.put_later("config", r#"{"standby_cluster":{"host":"10.9.0.1"}}"#, Duration::from_millis(3_600));
    tool.put_later("members/pg0", REPLICA, Duration::from_millis(4_500));
    let arguments = ["demote-cluster", "demo", "--host", "10.9.0.1", "--port", "5433", "--restore-command", "fetch %f", "--force"];
    let outcome = tool.run(&arguments).await;
    assert_eq!(
        outcome.requests,
        [format!(r#"{PATCH} {{"standby_cluster":{{"host":"10.9.0.1","port":5433,"restore_command":"fetch %f"}}}}"#)]
    );
    insta::assert_snapshot!("demote_cluster", outcome.whole());
}

#[tokio::test(start_paused = true)]
async fn a_promotion_removes_the_section_and_waits_for_the_primary() {
    let keys: Vec<_> = DEMO
        .into_iter()
        .filter(|(key, _)| !matches!(*key, "leader" | "members/pg1"))
        .chain([("leader", "pg1"), ("members/pg1", STANDBY_LEADER), ("config", r#"{"standby_cluster":{"port":5432}}"#)])
        .collect();
    let mut tool = Tool::with(&keys).await.answering(&["y"]).agent("PATCH http://pg1:8008/config", 200, "{}");
    let primary: &'static str = r#"{"conn_url":"postgres://10.0.0.2:5432/postgres","state":"running","role":"primary","timeline":2}"#;
    tool.put_later("config", "{}", Duration::from_millis(1_400));
    tool.put_later("members/pg1", primary, Duration::from_millis(1_500));
    let outcome = tool.run(&["promote-cluster", "demo"]).await;
    assert_eq!(outcome.requests, [r#"PATCH http://pg1:8008/config {"standby_cluster":null}"#]);
    insta::assert_snapshot!("promote_cluster", outcome.whole());
}
