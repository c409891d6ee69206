//! why.

use serde_json::Value;

use crate::ctl::testing::{DEMO, Tool};

const WINNER: &str = r#"{"name": "pg1", "scope": "demo", "forgotten": 0, "entries": [
  {"number": 7, "time": "2030-01-01T09:59:00.250Z", "last_time": "2030-01-01T09:59:00.250Z", "count": 1, "rule": "lock.free",
   "rows": "C21", "outcome": "noticed", "what": "the leader lock is free; pg0 held it before",
   "facts": {"former_leader": "pg0"}, "candidates": []},
  {"number": 8, "time": "2030-01-01T09:59:00.300Z", "last_time": "2030-01-01T09:59:00.300Z", "count": 1, "rule": "race.won",
   "rows": "U5", "outcome": "changed", "what": "this node took the free leader lock to be promoted",
   "facts": {"my_position": "0/500"}, "candidates": [
     {"member": "pg0", "reason": "did not answer"},
     {"member": "pg2", "reason": "is behind this node", "position": "0/400", "timeline": 1}]}]}"#;

const LOSER: &str = r#"{"name": "pg2", "scope": "demo", "forgotten": 0, "entries": [
  {"number": 3, "time": "2030-01-01T09:59:00.260Z", "last_time": "2030-01-01T09:59:03.000Z", "count": 4, "rule": "race.behind",
   "rows": "G5", "outcome": "refused", "what": "this node does not take the free leader lock: pg1 has more WAL",
   "facts": {"my_position": "0/400"}, "candidates": []}]}"#;

const ALL: &str = "journal?limit=1000000";

async fn told() -> Tool {
    Tool::with(&DEMO).await.agent(&format!("GET http://pg1:8008/{ALL}"), 200, WINNER).agent(
        &format!("GET http://pg2:8008/{ALL}"),
        200,
        LOSER,
    )
}

#[tokio::test(start_paused = true)]
async fn the_story_of_all_members_is_told_in_order_of_time() {
    let outcome = told().await.run(&["why", "demo"]).await;
    insta::assert_snapshot!("why_pretty", outcome.whole());
}

#[tokio::test(start_paused = true)]
async fn the_story_can_be_read_by_machines() {
    let mut tool = told().await;
    let json: Value = serde_json::from_str(&tool.run(&["why", "demo", "-f", "json"]).await.printed).expect("it is JSON");
    let order: Vec<_> = json.as_array().into_iter().flatten().map(|entry| (&entry["reported_by"], &entry["rule"])).collect();
    assert_eq!(order, [(&"pg1".into(), &"lock.free".into()), (&"pg2".into(), &"race.behind".into()), (&"pg1".into(), &"race.won".into())]);
    let tsv = tool.run(&["why", "demo", "-f", "tsv"]).await.printed;
    assert!(tsv.lines().count() == 4 && tsv.lines().all(|line| line.split('\t').count() == 8), "{tsv}");
}

#[tokio::test(start_paused = true)]
async fn only_what_was_asked_for_is_told() {
    let mut tool = told().await;
    let one = tool.run(&["why", "demo", "--member", "pg2"]).await;
    assert_eq!(one.requests, [format!("GET http://pg2:8008/{ALL}")]);
    assert_eq!(tool.run(&["why", "demo", "-n", "1", "-f", "tsv"]).await.printed.lines().count(), 2, "the newest");
    assert_eq!(tool.run(&["why", "demo", "--member", "pg9"]).await.error(), "pg9 is not a member of cluster");

    let since = "&since=2030-01-01T09:50:00.123456Z";
    let mut tool = Tool::with(&DEMO).await.agent(&format!("GET http://pg1:8008/{ALL}{since}"), 200, WINNER);
    for typed in ["10min", "2030-01-01T11:50:00.123456"] {
        let outcome = tool.run(&["why", "demo", "-m", "pg1", "--since", typed]).await;
        assert!(outcome.failure.is_none(), "{typed}: {:?}", outcome.requests);
    }
    assert!(tool.run(&["why", "demo", "--since", "soon"]).await.error().contains("Unable to parse"));
}

#[tokio::test(start_paused = true)]
async fn a_cluster_whose_members_keep_no_journal_is_an_error() {
    let mut silent = Tool::with(&DEMO).await;
    assert_eq!(silent.run(&["why", "demo"]).await.error(), "no member told anything");
    let mut patroni = Tool::with(&DEMO).await.agent(&format!("GET http://pg0:8008/{ALL}"), 200, r#"{"state": "running"}"#);
    assert_eq!(patroni.run(&["why", "demo"]).await.error(), "no member told anything");
}
