//! reload, restart, reinit, flush restart: which members, which questions, which answers.

use crate::ctl::testing::{DEMO, Outcome, Tool};

async fn tool() -> Tool {
    Tool::with(&DEMO).await
}

fn asked(outcome: &Outcome) -> Vec<&str> {
    outcome.requests.iter().filter_map(|request| request.split(' ').nth(1)).collect()
}

#[tokio::test]
async fn reload_goes_to_everybody_and_says_what_each_answered() {
    let mut tool = tool()
        .await
        .answering(&["y"])
        .agent("POST http://pg0:8008/reload", 202, "reload scheduled")
        .agent("POST http://pg1:8008/reload", 200, "")
        .agent("POST http://pg2:8008/reload", 500, "no");
    insta::assert_snapshot!("reload", tool.run(&["reload", "demo"]).await.whole());
}

#[tokio::test]
async fn names_that_are_not_there_are_dropped_unless_none_is_left() {
    let mut tool = tool().await.agent("POST http://pg1:8008/reload", 200, "");
    let outcome = tool.run(&["reload", "demo", "nosuch", "pg1", "--force"]).await;
    assert_eq!(outcome.after_table(), "No changes to apply on member pg1\n");

    let outcome = tool.run(&["reload", "demo", "nosuch", "--force"]).await;
    assert_eq!(outcome.error(), "No 'any' among provided members");
    assert_eq!(outcome.after_table(), "", "the table comes first");

    let outcome = tool.run(&["reload", "nosuch"]).await;
    assert_eq!((outcome.error().as_str(), outcome.printed.as_str()), ("nosuch cluster doesn't have any members", ""));
}

#[tokio::test]
async fn roles_choose_members() {
    for (role, members) in [
        ("leader", &["http://pg0:8008/reload"][..]),
        ("primary", &["http://pg0:8008/reload"]),
        ("replica", &["http://pg1:8008/reload", "http://pg2:8008/reload"]),
        ("standby", &["http://pg1:8008/reload", "http://pg2:8008/reload"]),
        ("any", &["http://pg0:8008/reload", "http://pg1:8008/reload", "http://pg2:8008/reload"]),
    ] {
        assert_eq!(asked(&tool().await.run(&["reload", "demo", "-r", role, "--force"]).await), members, "{role}");
    }
    let outcome = tool().await.run(&["reload", "demo", "-r", "standby-leader", "--force"]).await;
    assert_eq!(outcome.error(), "demo cluster doesn't have any members");
}

#[tokio::test]
async fn a_member_that_does_not_answer_does_not_stop_the_others() {
    let mut tool = tool().await.agent("POST http://pg1:8008/reload", 202, "reload scheduled");
    let outcome = tool.run(&["reload", "demo", "pg0", "pg1", "--force"]).await;
    assert_eq!(
        outcome.after_table(),
        "Failed: reload for member pg0, http://pg0:8008/reload: connection refused\n\
         Reload request received for member pg1 and will be processed within 10 seconds\n"
    );
    assert!(outcome.whole().ends_with("--- stderr\n--- exit 1\n"));
}

#[tokio::test]
async fn declining_names_the_action() {
    for (arguments, question, message) in [
        (&["reload", "demo", "pg1"][..], "Are you sure you want to reload members pg1? [y/N]: ", "Aborted reload"),
        (&["reinit", "demo", "pg1"], "Are you sure you want to reinitialize members pg1? [y/N]: ", "Aborted reinitialize"),
        (&["flush", "demo", "pg1", "restart"], "Are you sure you want to flush members pg1? [y/N]: ", "Aborted flush"),
    ] {
        let outcome = tool().await.answering(&[""]).run(arguments).await;
        assert_eq!((outcome.after_table(), outcome.error().as_str()), (question, message));
        assert!(outcome.requests.is_empty());
    }
}

#[tokio::test]
async fn restart_asks_when_whether_and_for_which_version() {
    let mut tool = tool()
        .await
        .answering(&["", "y", ""])
        .agent("POST http://pg0:8008/restart", 200, "restarted successfully")
        .agent("POST http://pg1:8008/restart", 503, "restart failed")
        .agent("POST http://pg2:8008/restart", 409, "Another restart is already scheduled");
    let outcome = tool.run(&["restart", "demo"]).await;
    assert_eq!(outcome.requests[0], "POST http://pg0:8008/restart {}");
    insta::assert_snapshot!("restart", outcome.whole());
}

#[tokio::test]
async fn a_planned_restart_carries_all_its_conditions() {
    let mut tool = tool().await.answering(&["y"]).agent("POST http://pg1:8008/restart", 202, "Restart scheduled");
    let arguments = ["restart", "demo", "pg1", "--scheduled", "2031-01-01T00:00+01:00", "--pg-version", "15.3", "--timeout", "5min"];
    let outcome = tool.run(&arguments).await;
    assert_eq!(
        outcome.requests,
        [r#"POST http://pg1:8008/restart {"postgres_version":"15.3","schedule":"2031-01-01T00:00:00+01:00","timeout":"5min"}"#]
    );
    assert_eq!(
        outcome.after_table(),
        "Are you sure you want to schedule restart of members pg1 at 2031-01-01 00:00:00+01:00? [y/N]: Success: restart \
         scheduled on member pg1\n"
    );
}

#[tokio::test]
async fn a_planned_restart_of_pending_members_asks_another_question() {
    let mut tool = tool().await.answering(&["n"]);
    let outcome = tool.run(&["restart", "demo", "--pending", "--scheduled", "2031-01-01T00:00Z"]).await;
    assert_eq!(
        outcome.after_table(),
        "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones showing \
         pending restart right now. Is this fine? [y/N]: "
    );
    assert_eq!(outcome.error(), "Aborted scheduled restart");
}

#[tokio::test]
async fn restarting_pending_members_sends_nothing_if_there_are_none() {
    let outcome = tool().await.run(&["restart", "demo", "--pending", "--force"]).await;
    assert!(outcome.requests.is_empty() && outcome.failure.is_none());

    let pending = ("members/pg1", r#"{"api_url":"http://pg1:8008/patroni","pending_restart":true}"#);
    let keys: Vec<_> = DEMO.into_iter().chain([pending]).collect();
    let outcome = Tool::with(&keys).await.run(&["restart", "demo", "--pending", "--force"]).await;
    assert_eq!(outcome.requests, [r#"POST http://pg1:8008/restart {"restart_pending":true}"#]);
}

#[tokio::test]
async fn any_restarts_one_of_the_candidates() {
    let outcome = tool().await.run(&["restart", "demo", "--any", "-r", "replica", "--force"]).await;
    let asked = asked(&outcome);
    assert!(asked == ["http://pg1:8008/restart"] || asked == ["http://pg2:8008/restart"], "{asked:?}");
}

#[tokio::test]
async fn force_replaces_a_schedule_and_reports_only_its_failure() {
    let scheduled =
        ("members/pg1", r#"{"api_url":"http://pg1:8008/patroni","scheduled_restart":{"schedule":"2030-06-01T00:00:00+00:00"}}"#);
    let keys: Vec<_> = DEMO.into_iter().chain([scheduled]).collect();
    let restart = ["restart", "demo", "pg1", "--scheduled", "2031-01-01T00:00Z", "--force"];
    for (status, printed) in [
        (200, "Success: restart scheduled on member pg1\n"),
        (
            404,
            "Failed: flush scheduled restart for member pg1, status code=404, (gone)\n\
             Success: restart scheduled on member pg1\n",
        ),
    ] {
        let mut tool = Tool::with(&keys).await.agent("DELETE http://pg1:8008/restart", status, "gone").agent(
            "POST http://pg1:8008/restart",
            202,
            "Restart scheduled",
        );
        let outcome = tool.run(&restart).await;
        assert_eq!(asked(&outcome).len(), 2);
        assert_eq!(outcome.after_table(), printed);
    }
    let unforced = ["restart", "demo", "pg1", "--scheduled", "2031-01-01T00:00Z", "--pg-version", ""];
    let mut tool = Tool::with(&keys).await.answering(&["y"]).agent("POST http://pg1:8008/restart", 409, "x");
    let outcome = tool.run(&unforced).await;
    assert!(outcome.printed.ends_with("Failed: another restart is already scheduled on member pg1\n"));
}

#[tokio::test]
async fn impossible_restarts_have_their_reasons() {
    let keys: Vec<_> = DEMO.into_iter().chain([("config", r#"{"pause":true}"#)]).collect();
    for (arguments, message) in [
        (&["--scheduled", "2031-01-01T00:00Z"][..], "Can't schedule restart in the paused state"),
        (&["--pg-version", "x"], "Invalid PostgreSQL version: x"),
        (&["--scheduled", "x"], "Unable to parse scheduled timestamp (x). It should be in an unambiguous format (e.g. ISO 8601)"),
    ] {
        let arguments = [&["restart", "demo", "--force"], arguments].concat();
        let outcome = Tool::with(&keys).await.run(&arguments).await;
        assert_eq!(outcome.error(), message);
        assert!(outcome.requests.is_empty());
    }
}

#[tokio::test]
async fn reinit_asks_for_one_name_and_takes_no_leader() {
    let mut one = tool().await.answering(&["pg2", "y"]).agent("POST http://pg2:8008/reinitialize", 200, "reinitialize started");
    let outcome = one.run(&["reinit", "demo", "--from-leader"]).await;
    assert_eq!(
        outcome.after_table(),
        "Which member do you want to reinitialize [pg1, pg2]? []: Are you sure you want to reinitialize members pg2? [y/N]: \
         Success: reinitialize for member pg2\n"
    );
    assert_eq!(outcome.requests, [r#"POST http://pg2:8008/reinitialize {"force":false,"from_leader":true}"#]);

    let outcome = tool().await.answering(&["pg0"]).run(&["reinit", "demo"]).await;
    assert_eq!(outcome.error(), "pg0 is not a member of cluster");
    let outcome = tool().await.run(&["reinit", "demo", "pg0", "--force"]).await;
    assert_eq!(outcome.error(), "No replica among provided members");
    let outcome = tool().await.run(&["reinit", "demo", "--force"]).await;
    assert!(outcome.requests.is_empty() && outcome.failure.is_none());
}

#[tokio::test]
async fn reinit_offers_to_cancel_what_is_in_progress() {
    let request = "POST http://pg1:8008/reinitialize";
    let mut tool = tool().await.answering(&["y", "y"]).agent(request, 503, "reinitialize already in progress").agent(
        request,
        200,
        "reinitialize started",
    );
    let outcome = tool.run(&["reinit", "demo", "pg1"]).await;
    assert_eq!(
        outcome.after_table(),
        "Are you sure you want to reinitialize members pg1? [y/N]: Failed: reinitialize for member pg1, status code=503, \
         (reinitialize already in progress)\nDo you want to cancel it and reinitialize anyway? [y/N]: Success: reinitialize \
         for member pg1\n"
    );
    assert_eq!(outcome.requests[1], format!(r#"{request} {{"force":true,"from_leader":false}}"#));
}

#[tokio::test(start_paused = true)]
async fn reinit_waits_until_every_copy_is_made() {
    let mut tool = tool().await;
    for (member, rounds) in [("pg1", 1), ("pg2", 3)] {
        tool = tool.agent(&format!("POST http://{member}:8008/reinitialize"), 200, "reinitialize started");
        for _ in 0..rounds {
            tool = tool.agent(&format!("GET http://{member}:8008/patroni"), 503, r#"{"state":"creating replica"}"#);
        }
        tool = tool.agent(&format!("GET http://{member}:8008/patroni"), 200, r#"{"state":"running"}"#);
    }
    let outcome = tool.run(&["reinit", "demo", "pg1", "pg2", "--force", "--wait"]).await;
    assert_eq!(
        outcome.after_table(),
        "Success: reinitialize for member pg1\nSuccess: reinitialize for member pg2\n\
         Waiting for reinitialize to complete on: pg1, pg2\nReinitialize is completed on: pg1\n\
         Waiting for reinitialize to complete on: pg2\nReinitialize is completed on: pg2\n"
    );
}

#[tokio::test]
async fn flush_restart_asks_only_those_that_have_a_schedule() {
    let scheduled =
        ("members/pg1", r#"{"api_url":"http://pg1:8008/patroni","scheduled_restart":{"schedule":"2030-06-01T00:00:00+00:00"}}"#);
    let keys: Vec<_> = DEMO.into_iter().chain([scheduled]).collect();
    let mut tool = Tool::with(&keys).await.agent("DELETE http://pg1:8008/restart", 200, "scheduled restart deleted");
    let outcome = tool.run(&["flush", "demo", "pg1", "pg2", "restart", "--force"]).await;
    assert_eq!(outcome.after_table(), "Success: flush scheduled restart for member pg1\nNo scheduled restart for member pg2\n");
}
