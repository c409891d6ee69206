//! switchover, failover, remove, flush switchover, pause and resume.

use std::time::Duration;

use crate::ctl::testing::{DEMO, Tool};

const SWITCHOVER: &str = "POST http://pg0:8008/switchover";

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    DEMO.into_iter().chain(more.iter().copied()).collect()
}

#[tokio::test(start_paused = true)]
async fn empty_answers_walk_through_all_questions_and_no_ends_it() {
    let mut tool = Tool::with(&DEMO).await.answering(&["", "", "", "n"]);
    let outcome = tool.run(&["switchover", "demo"]).await;
    assert!(outcome.requests.is_empty());
    insta::assert_snapshot!("switchover_declined", outcome.whole());
}

#[tokio::test(start_paused = true)]
async fn a_forced_switchover_asks_nothing_and_shows_the_members_again() {
    let mut tool = Tool::with(&DEMO).await.agent(SWITCHOVER, 200, "Successfully switched over to \"pg1\"");
    let outcome = tool.run(&["switchover", "demo", "--force"]).await;
    assert_eq!(outcome.requests, [format!(r#"{SWITCHOVER} {{"candidate":null,"leader":"pg0"}}"#)]);
    insta::assert_snapshot!("switchover_forced", outcome.whole());
}

#[tokio::test(start_paused = true)]
async fn the_old_names_of_the_leader_option_still_work() {
    for option in ["--leader", "--primary", "--master"] {
        let mut tool = Tool::with(&DEMO).await;
        let outcome = tool.run(&["switchover", "demo", option, "pg1", "--force"]).await;
        assert_eq!(outcome.error(), "Member pg1 is not the leader of cluster demo");
    }
}

#[tokio::test(start_paused = true)]
async fn a_planned_switchover_carries_its_local_time() {
    let mut tool =
        Tool::with(&DEMO).await.answering(&["pg0", "pg1", "2031-01-01T12:00", "y"]).agent(SWITCHOVER, 202, "Switchover scheduled");
    let outcome = tool.run(&["switchover", "demo"]).await;
    assert_eq!(
        outcome.requests,
        [format!(r#"{SWITCHOVER} {{"candidate":"pg1","leader":"pg0","scheduled_at":"2031-01-01T12:00:00+02:00"}}"#)]
    );
    insta::assert_snapshot!("switchover_scheduled", outcome.whole());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_printed_and_is_no_error() {
    let mut tool = Tool::with(&DEMO).await.agent(SWITCHOVER, 412, "leader name does not match");
    let outcome = tool.run(&["switchover", "demo", "--force"]).await;
    assert_eq!(outcome.after_table(), "Switchover failed, details: 412, leader name does not match\n");
    assert!(outcome.failure.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_too_old_is_asked_for_a_failover() {
    let mut tool = Tool::with(&DEMO).await.agent(SWITCHOVER, 501, "<p>Message: Server does not support this operation.</p>").agent(
        "POST http://pg0:8008/failover",
        200,
        "done",
    );
    let outcome = tool.run(&["switchover", "demo", "--candidate", "pg1", "--force"]).await;
    assert_eq!(outcome.requests[1], r#"POST http://pg0:8008/failover {"candidate":"pg1","leader":"pg0"}"#);
}

#[tokio::test(start_paused = true)]
async fn without_agents_the_request_goes_into_the_store() {
    let mut tool = Tool::with(&with(&[("failover", r#"{"member":"pg2"}"#)])).await;
    let outcome = tool.run(&["switchover", "demo", "--candidate", "pg1", "--scheduled", "2031-01-01T12:00Z", "--force"]).await;
    let line = "2030-01-01 12:00:00.12345 Could not switchover using Patroni api, falling back to DCS\n+ Cluster: demo";
    assert!(outcome.printed.contains(line), "{}", outcome.printed);
    let stored = tool.stored("failover").expect("the request");
    let stored: serde_json::Value = serde_json::from_str(&stored).expect("JSON");
    assert_eq!(stored, serde_json::json!({"leader": "pg0", "member": "pg1", "scheduled_at": "2031-01-01T12:00:00+00:00"}));
}

#[tokio::test(start_paused = true)]
async fn every_impossible_switchover_has_its_reason() {
    let nobody_else = [DEMO[0], DEMO[1], DEMO[3], DEMO[5]];
    for (keys, arguments, message) in [
        (&DEMO[2..], &[][..], "This cluster has no leader"),
        (&DEMO[..], &["--leader", "x"], "Member x is not the leader of cluster demo"),
        (&nobody_else, &[], "No candidates found to switchover to"),
        (&DEMO, &["--candidate", "pg0"], "Member pg0 is already the leader of cluster demo"),
        (&DEMO, &["--candidate", "pg2"], "Member pg2 does not exist in cluster demo or is tagged as nofailover"),
        (&DEMO, &["--candidate", "x"], "Member x does not exist in cluster demo or is tagged as nofailover"),
        (
            &DEMO,
            &["--scheduled", "soon"],
            "Unable to parse scheduled timestamp (soon). It should be in an unambiguous format (e.g. ISO 8601)",
        ),
        (&with(&[("config", r#"{"pause":true}"#)]), &["--scheduled", "2031-01-01T00:00Z"], "Can't schedule switchover in the paused state"),
    ] {
        let mut tool = Tool::with(keys).await;
        let arguments = [&["switchover", "demo", "--force"], arguments].concat();
        let outcome = tool.run(&arguments).await;
        assert_eq!(outcome.error(), message);
        assert!(outcome.requests.is_empty());
        assert!(outcome.printed.starts_with("Current cluster topology\n+ Cluster: demo ("), "{}", outcome.printed);
    }
}

#[tokio::test(start_paused = true)]
async fn declining_a_planned_switchover_says_so() {
    let mut tool = Tool::with(&DEMO).await.answering(&["n"]);
    let arguments = ["switchover", "demo", "--leader", "pg0", "--candidate", "pg1", "--scheduled", "2031-01-01T12:00+02:00"];
    let outcome = tool.run(&arguments).await;
    assert_eq!(
        outcome.after_table(),
        "Are you sure you want to schedule switchover of cluster demo at 2031-01-01T12:00:00+02:00, demoting current leader \
         pg0? [y/N]: "
    );
    assert_eq!(outcome.error(), "Aborting scheduled switchover");
}

#[tokio::test(start_paused = true)]
async fn a_standby_cluster_asks_for_its_standby_leader() {
    let keys = with(&[("config", r#"{"standby_cluster":{"host":"x"}}"#)]);
    let outcome = Tool::with(&keys).await.run(&["switchover", "demo"]).await;
    assert_eq!(outcome.after_table(), "Standby Leader [pg0]: ");
    assert_eq!(outcome.whole().lines().rev().nth(1), Some("Aborted!"));
}

#[tokio::test(start_paused = true)]
async fn citus_asks_for_the_group_first() {
    let mut tool = Tool::with(&DEMO).await.answering(&["x", "1"]);
    tool.settings.citus = true;
    let outcome = tool.run(&["switchover", "demo"]).await;
    assert!(outcome.printed.starts_with("Citus group: Error: 'x' is not a valid integer.\nCitus group: Current "));
    let forced = tool.run(&["switchover", "demo", "--force"]).await;
    assert_eq!(forced.error(), "For Citus clusters the --group must me specified");
}

#[tokio::test(start_paused = true)]
async fn a_failover_needs_a_candidate_and_sends_nothing_else() {
    let mut tool = Tool::with(&DEMO).await.agent("POST http://pg0:8008/failover", 200, "Successfully failed over to \"pg1\"");
    assert_eq!(tool.run(&["failover", "demo", "--force"]).await.error(), "Failover could be performed only to a specific candidate");
    let outcome = tool.run(&["failover", "demo", "--candidate", "pg1", "--force"]).await;
    assert_eq!(outcome.requests, [r#"POST http://pg0:8008/failover {"candidate":"pg1"}"#]);

    let mut tool = Tool::with(&DEMO).await.answering(&[""]);
    let outcome = tool.run(&["failover", "demo"]).await;
    assert_eq!(outcome.after_table(), "Candidate ['pg1'] []: ");
    assert_eq!(outcome.error(), "Failover could be performed only to a specific candidate");
}

#[tokio::test(start_paused = true)]
async fn without_leader_the_candidate_itself_is_asked() {
    let mut tool = Tool::with(&DEMO[2..]).await.answering(&["y"]).agent("POST http://pg1:8008/failover", 503, "Failover failed");
    let outcome = tool.run(&["failover", "demo", "--candidate", "pg1"]).await;
    assert_eq!(
        outcome.after_table(),
        "Are you sure you want to failover cluster demo? [y/N]: Failover failed, details: 503, Failover failed\n"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failover_to_an_asynchronous_node_is_asked_about() {
    let keys = with(&[("config", r#"{"synchronous_mode":true}"#), ("sync", r#"{"leader":"pg0","sync_standby":"other","quorum":0}"#)]);
    let mut tool = Tool::with(&keys).await.answering(&["maybe", "n"]);
    let outcome = tool.run(&["failover", "demo", "--candidate", "pg1"]).await;
    let question = "Are you sure you want to failover to the asynchronous node pg1? [y/N]: ";
    assert_eq!(outcome.after_table(), format!("{question}Error: invalid input\n{question}"));
    assert_eq!(outcome.error(), "Aborting failover");
}

#[tokio::test(start_paused = true)]
async fn pause_and_resume_ask_the_first_member_that_answers() {
    let mut tool = Tool::with(&DEMO).await.agent("PATCH http://pg1:8008/config", 200, "{}");
    let outcome = tool.run(&["pause", "demo"]).await;
    assert_eq!(outcome.printed, "Success: cluster management is paused\n");
    assert_eq!(outcome.requests, [r#"PATCH http://pg0:8008/config {"pause":true}"#, r#"PATCH http://pg1:8008/config {"pause":true}"#]);
    assert_eq!(tool.run(&["resume", "demo"]).await.error(), "Cluster is not paused");

    let mut tool = Tool::with(&with(&[("config", r#"{"pause":true}"#)])).await.agent("PATCH http://pg0:8008/config", 503, "no");
    assert_eq!(tool.run(&["pause", "demo"]).await.error(), "Cluster is already paused");
    let outcome = tool.run(&["resume", "demo"]).await;
    assert_eq!(outcome.printed, "Failed: resume cluster management status code=503, (no)\n");
    assert_eq!(outcome.requests, [r#"PATCH http://pg0:8008/config {"pause":null}"#]);

    let whole = Tool::with(&DEMO).await.run(&["pause", "demo"]).await.whole();
    assert!(whole.ends_with("Error: Can not find accessible cluster member\n--- exit 1\n"), "{whole}");
}

const PAUSED: [(&str, &str); 3] = [
    ("members/pg0", r#"{"api_url":"http://pg0:8008/patroni","pause":true}"#),
    ("members/pg1", r#"{"api_url":"http://pg1:8008/patroni","pause":true}"#),
    ("members/pg2", r#"{"api_url":"http://pg2:8008/patroni","pause":true}"#),
];

#[tokio::test(start_paused = true)]
async fn pause_waits_until_all_members_have_understood() {
    let mut tool = Tool::with(&DEMO).await.agent("PATCH http://pg0:8008/config", 200, "{}");
    for (key, value) in PAUSED {
        tool.put_later(key, value, Duration::from_millis(2_500));
    }
    let started = tokio::time::Instant::now();
    let outcome = tool.run(&["pause", "demo", "--wait"]).await;
    assert_eq!(
        outcome.printed,
        "'pause' request sent, waiting until it is recognized by all nodes\nSuccess: cluster management is paused\n"
    );
    assert!(started.elapsed() < Duration::from_secs(12));
}

#[tokio::test(start_paused = true)]
async fn members_that_refuse_to_pause_are_named_and_dead_ones_are_not() {
    let mut tool = Tool::with(&DEMO).await.agent("PATCH http://pg0:8008/config", 200, "{}");
    tool.put_later(PAUSED[0].0, PAUSED[0].1, Duration::from_secs(1));
    tool.put_later("members/pg1", r#"{"api_url":"http://pg1:8008/patroni","state":"running"}"#, Duration::from_secs(3));
    let outcome = tool.run(&["pause", "demo", "--wait"]).await;
    assert!(outcome.printed.ends_with("\npg1 members didn't recognized pause state after 10 seconds\n"), "{}", outcome.printed);

    let mut dead = Tool::with(&DEMO).await.agent("PATCH http://pg0:8008/config", 200, "{}");
    let outcome = dead.run(&["pause", "demo", "--wait"]).await;
    assert!(outcome.printed.ends_with("\nSuccess: cluster management is paused\n"), "{}", outcome.printed);
}

#[tokio::test(start_paused = true)]
async fn remove_deletes_everything_after_three_right_answers() {
    let mut tool = Tool::with(&DEMO).await.answering(&["demo", "Yes I am aware", "pg0"]);
    let outcome = tool.run(&["remove", "demo"]).await;
    assert_eq!(
        outcome.after_table(),
        "Please confirm the cluster name to remove: You are about to remove all information in DCS for demo, please type: \
         \"Yes I am aware\": This cluster currently is healthy. Please specify the leader name to continue: "
    );
    assert!(outcome.failure.is_none());
    assert_eq!(tool.stored("leader"), None);
}

#[tokio::test(start_paused = true)]
async fn remove_with_any_wrong_answer_deletes_nothing() {
    for (answers, message) in [
        (&["demos"][..], "Cluster names specified do not match"),
        (&["demo", "yes i am aware"], "You did not exactly type \"Yes I am aware\""),
        (&["demo", "Yes I am aware", "pg1"], "You did not specify the current leader of the cluster"),
        (&["demo", "Yes I am aware"], "Aborted!"),
    ] {
        let mut tool = Tool::with(&DEMO).await.answering(answers);
        assert_eq!(tool.run(&["remove", "demo", "-f", "tsv"]).await.error(), message);
        assert_eq!(tool.stored("leader").as_deref(), Some("pg0"));
    }
}

const PLANNED: (&str, &str) = ("failover", r#"{"leader":"pg0","scheduled_at":"2040-01-01T00:00:00+00:00"}"#);

#[tokio::test(start_paused = true)]
async fn flushing_a_switchover_asks_until_somebody_answers_for_good() {
    let mut tool = Tool::with(&with(&[PLANNED])).await.agent("DELETE http://pg0:8008/switchover", 409, "no").agent(
        "DELETE http://pg1:8008/switchover",
        200,
        "scheduled switchover deleted",
    );
    let outcome = tool.run(&["flush", "demo", "switchover"]).await;
    assert_eq!(outcome.printed, "Failed: member=pg0, status_code=409, (no)\nSuccess: scheduled switchover deleted\n");
    assert_eq!(Tool::with(&DEMO).await.run(&["flush", "demo", "switchover"]).await.printed, "No pending scheduled switchover\n");
}

#[tokio::test(start_paused = true)]
async fn a_switchover_is_flushed_in_the_store_if_nobody_answers() {
    let mut tool = Tool::with(&with(&[PLANNED])).await;
    let outcome = tool.run(&["flush", "demo", "switchover"]).await;
    assert_eq!(outcome.printed, "2030-01-01 12:00:00.12345 Could not find any accessible member of cluster demo\n");
    assert_eq!(tool.stored("failover").as_deref(), Some("{}"));
}
