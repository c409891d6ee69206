//! list, topology, history, show-config, dsn, version, and what is common to all commands.

use std::time::Duration;

use crate::ctl::testing::{DEMO, Tool};

#[tokio::test(start_paused = true)]
async fn looking_leaves_nothing_behind() {
    let mut tool = Tool::with(&DEMO).await;
    let before = tool.everything_stored();
    let commands = [
        &["list", "demo"][..],
        &["topology", "demo"],
        &["history", "demo"],
        &["show-config", "demo"],
        &["dsn", "demo"],
        &["version", "demo"],
    ];
    for command in commands {
        assert!(tool.run(command).await.failure.is_none(), "{command:?}");
    }
    assert_eq!(tool.everything_stored(), before, "no key, no lease, no new revision");
}

const HISTORY: &str = r#"[[1,25623960,"no recovery target specified","2024-01-01T00:00:00.123456+00:00","pg1"],[2,25624000,"x"]]"#;

#[tokio::test(start_paused = true)]
async fn several_clusters_are_listed_one_after_the_other() {
    let mut tool = Tool::with(&DEMO).await;
    insta::assert_snapshot!("list_two", tool.run(&["list", "demo", "nosuch", "-t"]).await.whole());
}

#[tokio::test(start_paused = true)]
async fn the_configured_scope_is_the_default() {
    let mut tool = Tool::with(&DEMO).await;
    let nothing = tool.run(&["list"]).await;
    assert_eq!((nothing.printed.as_str(), nothing.failure.is_none()), ("", true), "only a warning");
    insta::assert_snapshot!("no_cluster_name", tool.run(&["show-config"]).await.whole());

    tool.settings.scope = Some("demo".to_owned());
    assert!(tool.run(&["list"]).await.printed.starts_with("+ Cluster: demo ("));
    assert!(tool.run(&["topology"]).await.printed.contains("| + pg1  |"));
}

#[tokio::test(start_paused = true)]
async fn an_unknown_cluster_is_an_empty_table_in_every_format() {
    let mut tool = Tool::with(&DEMO).await;
    for (format, text) in [
        ("json", "[]\n"),
        ("yaml", "[]\n\n"),
        ("yml", "[]\n\n"),
        ("tsv", "Cluster\tMember\tHost\tRole\tState\tTL\tReceive LSN\tReceive Lag\tReplay LSN\tReplay Lag\n"),
    ] {
        let outcome = tool.run(&["list", "-f", format, "nosuch"]).await;
        assert_eq!((outcome.printed.as_str(), outcome.failure.is_none()), (text, true));
    }
}

#[tokio::test(start_paused = true)]
async fn lists_can_be_read_by_machines() {
    let mut tool = Tool::with(&DEMO).await;
    let json = tool.run(&["list", "demo", "-f", "json"]).await.printed;
    let list: serde_json::Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(list[0].as_object().map(|leader| leader.keys().any(|key| key.contains("LSN"))), Some(false));
    let tsv = tool.run(&["list", "demo", "-f", "tsv"]).await.printed;
    assert!(tsv.lines().all(|line| line.split('\t').count() == 11), "{tsv}");
}

#[tokio::test(start_paused = true)]
async fn watching_repeats_until_interrupted_and_reads_anew_each_time() {
    let mut tool = Tool::with(&DEMO).await;
    tool.put_later("leader", "pg1", Duration::from_millis(1_200));
    let watched = tokio::time::timeout(Duration::from_millis(1_750), tool.run(&["list", "demo", "-w", "0.5", "-f", "tsv"])).await;
    assert!(watched.is_err(), "it goes on until it is dropped");

    let printed = tool.printed_so_far();
    assert_eq!(printed.matches("Cluster\tMember").count(), 4, "at 0, 0.5, 1 and 1.5 seconds: {printed}");
    assert_eq!(printed.matches("pg1\t10.0.0.2\tLeader").count(), 1, "{printed}");
}

#[tokio::test(start_paused = true)]
async fn history_shows_stored_values_and_fills_short_entries() {
    let mut tool = Tool::with(&[("history", HISTORY)]).await;
    for format in ["pretty", "tsv", "json", "yaml"] {
        insta::assert_snapshot!(format!("history_{format}"), tool.run(&["history", "demo", "-f", format]).await.whole());
    }
    insta::assert_snapshot!("history_empty", tool.run(&["history", "nosuch"]).await.whole());
}

#[tokio::test(start_paused = true)]
async fn show_config_prints_sorted_yaml_and_an_empty_line() {
    let mut tool = Tool::with(&[("config", r#"{"ttl":30,"on":"off","a":{},"l":[1,{"b":null}]}"#)]).await;
    let outcome = tool.run(&["show-config", "demo"]).await;
    assert_eq!(outcome.printed, "a: {}\nl:\n- 1\n- b: null\n'on': 'off'\nttl: 30\n\n");
    assert_eq!(tool.run(&["show-config", "nosuch"]).await.printed, "");
}

#[tokio::test(start_paused = true)]
async fn dsn_is_that_of_the_first_member_that_fits() {
    let mut tool = Tool::with(&DEMO).await;
    for (arguments, printed) in [
        (&["dsn", "demo"][..], "host=10.0.0.1 port=5432\n"),
        (&["dsn", "demo", "-r", "replica"], "host=10.0.0.2 port=5432\n"),
        (&["dsn", "demo", "-m", "pg2"], "host=10.0.0.3 port=5432\n"),
    ] {
        assert_eq!(tool.run(arguments).await.printed, printed);
    }
    for (arguments, message) in [
        (&["dsn", "demo", "-m", "pg9"][..], "Can not find a suitable member"),
        (&["dsn", "demo", "-r", "standby-leader"], "Can not find a suitable member"),
        (&["dsn", "demo", "-m", "pg1", "-r", "any"], "--role and --member are mutually exclusive options"),
    ] {
        assert_eq!(tool.run(arguments).await.error(), message);
    }
    let mut alone = Tool::with(&DEMO[..4]).await;
    assert_eq!(alone.run(&["dsn", "demo", "-r", "replica"]).await.whole().lines().last(), Some("--- exit 1"));
}

#[tokio::test(start_paused = true)]
async fn version_asks_the_members_that_are_named() {
    let mut tool = Tool::with(&DEMO)
        .await
        .agent("GET http://pg0:8008/patroni", 200, r#"{"server_version":150020,"patroni":{"version":"4.1.4"}}"#)
        .agent("GET http://pg1:8008/patroni", 503, r#"{"patroni":{"version":"4.1.4"}}"#);
    let outcome = tool.run(&["version", "demo"]).await;
    let ours = format!("quoratectl version {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        outcome.printed.strip_prefix(&ours),
        Some(
            "\npg0: Patroni 4.1.4 PostgreSQL 15.20\npg1: Patroni 4.1.4\n\
             pg2: failed to get version: http://pg2:8008/patroni: connection refused\n"
        )
    );
    assert_eq!(tool.run(&["version", "demo", "pg1"]).await.requests, ["GET http://pg1:8008/patroni"]);
    assert_eq!(tool.run(&["version"]).await.printed, ours);
}

#[tokio::test(start_paused = true)]
async fn commands_that_are_not_there_yet_say_so() {
    let mut tool = Tool::with(&DEMO).await;
    let whole = tool.run(&["query", "demo", "-c", "select 1"]).await.whole();
    assert!(whole.contains("Error: The command query is not part of this version yet"), "{whole}");
    assert!(whole.ends_with("--- exit 1\n"), "{whole}");
}

#[tokio::test(start_paused = true)]
async fn citus_needs_a_group_for_now() {
    let mut tool = Tool::with(&DEMO).await;
    tool.settings.citus = true;
    assert!(tool.run(&["list", "demo"]).await.error().contains("--group"));
    tool.settings.citus_group = Some(1);
    assert_eq!(tool.run(&["show-config", "demo"]).await.printed, "", "the configured group is looked at");
    assert!(tool.run(&["list", "demo", "--group", "1"]).await.printed.starts_with("+ Citus cluster: demo (group: 1, "));
}
