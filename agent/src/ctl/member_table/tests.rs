use super::*;
use crate::ctl::testing::view;

const STANDBY: &str = r#"{"conn_url":"postgres://10.0.0.2:5433/postgres","api_url":"http://10.0.0.2:8008/patroni",
    "state":"running","role":"replica","version":"4.1.4","xlog_location":67171424,"receive_lsn":67171424,
    "replay_lsn":67171424,"replication_state":"streaming","timeline":1}"#;
const PRIMARY: &str = r#"{"conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni",
    "state":"running","role":"primary","version":"4.1.4","xlog_location":67171424,"timeline":1}"#;

fn table(keys: &[(&str, &str)], format: Format) -> String {
    extended_table(keys, format, false)
}

fn extended_table(keys: &[(&str, &str)], format: Format, extended: bool) -> String {
    render(&view(keys), Shown { name: "demo", group: None, extended, format })
}

fn demo() -> Vec<(&'static str, &'static str)> {
    vec![
        ("initialize", "7710433467121207389"),
        ("leader", "pg0"),
        ("members/pg0", PRIMARY),
        ("members/pg1", STANDBY),
        ("status", r#"{"optime":67171424}"#),
    ]
}

fn with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    demo().into_iter().chain(more.iter().copied()).collect()
}

#[test]
fn the_example_of_the_specification_comes_out_character_for_character() {
    let keys = with(&[
        ("config", r#"{"pause":true}"#),
        ("failover", r#"{"leader":"pg0","member":"pg1","scheduled_at":"2040-01-01T00:00:00+02:00"}"#),
    ]);
    let expected = "\
+ Cluster: demo (7710433467121207389) ---------+----+-------------+-----+------------+-----+
| Member | Host          | Role    | State     | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+---------------+---------+-----------+----+-------------+-----+------------+-----+
| pg0    | 10.0.0.1:5432 | Leader  | running   |  1 |             |     |            |     |
| pg1    | 10.0.0.2:5433 | Replica | streaming |  1 |   0/400F460 |   0 |  0/400F460 |   0 |
+--------+---------------+---------+-----------+----+-------------+-----+------------+-----+
 Maintenance mode: on
 Switchover scheduled at: 2040-01-01T00:00:00+02:00
                    from: pg0
                      to: pg1
";
    assert_eq!(table(&keys, Format::Pretty), expected);
    assert_eq!(table(&keys, Format::Topology), expected.replace("| pg1    |", "| + pg1  |"));
}

#[test]
fn machine_readable_forms_keep_types_and_leave_empty_values_out() {
    assert_eq!(
        table(&demo(), Format::Json),
        r#"[{"Cluster": "demo", "Member": "pg0", "Host": "10.0.0.1:5432", "Role": "Leader", "State": "running", "TL": 1}, {"Cluster": "demo", "Member": "pg1", "Host": "10.0.0.2:5433", "Role": "Replica", "State": "streaming", "TL": 1, "Receive LSN": "0/400F460", "Receive Lag": 0, "Replay LSN": "0/400F460", "Replay Lag": 0}]
"#
    );
    let tsv = table(&demo(), Format::Tsv);
    assert!(tsv.lines().all(|line| line.matches('\t').count() == 9), "{tsv}");
    assert_eq!(tsv.lines().nth(1), Some("demo\tpg0\t10.0.0.1:5432\tLeader\trunning\t1\t\t\t\t"));
    assert!(table(&demo(), Format::Yaml).starts_with("- Cluster: demo\n  Host: 10.0.0.1:5432\n  Member: pg0\n"));
}

#[test]
fn usual_ports_on_different_hosts_are_not_shown() {
    let second = r#"{"conn_url":"postgres://10.0.0.2/x","state":"running"}"#;
    let keys = [("leader", "pg0"), ("members/pg0", PRIMARY), ("members/pg1", second)];
    let drawn = table(&keys, Format::Pretty);
    assert!(drawn.contains("| 10.0.0.1 |") && drawn.contains("| 10.0.0.2 |"), "{drawn}");

    let same_host = [("members/pg0", PRIMARY), ("members/pg1", PRIMARY)];
    assert_eq!(table(&same_host, Format::Pretty).matches("| 10.0.0.1:5432 |").count(), 2);
}

#[test]
fn roles_follow_the_modes_of_the_cluster() {
    let sync = ("sync", r#"{"leader":"pg0","sync_standby":"PG1","quorum":0}"#);
    for (config, leader, other) in [
        (r#"{"synchronous_mode":true}"#, "Leader", "Sync Standby"),
        (r#"{"synchronous_mode":"quorum"}"#, "Leader", "Quorum Standby"),
        (r#"{}"#, "Leader", "Replica"),
        (r#"{"synchronous_mode":true,"standby_cluster":{"host":"a"}}"#, "Standby Leader", "Replica"),
    ] {
        let json = table(&with(&[sync, ("config", config)]), Format::Json);
        assert!(json.contains(&format!(r#""Role": "{leader}""#)), "{config}: {json}");
        assert!(json.contains(&format!(r#""Role": "{other}""#)), "{config}: {json}");
    }
}

#[test]
fn a_standby_leader_shows_how_it_replicates() {
    let keys = [("leader", "pg1"), ("members/pg1", STANDBY), ("config", r#"{"standby_cluster":{"port":5432}}"#)];
    let json = table(&keys, Format::Json);
    assert!(json.contains(r#""State": "streaming""#) && !json.contains("LSN"), "{json}");
}

#[test]
fn damaged_and_silent_members_have_empty_cells() {
    let drawn = table(&[("members/a", "not json"), ("members/b", r#"{"state":"stopped"}"#)], Format::Pretty);
    assert_eq!(
        drawn,
        "\
+ Cluster: demo (uninitialized) --+----+-------------+-----+------------+-----+
| Member | Host | Role    | State   | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+------+---------+---------+----+-------------+-----+------------+-----+
| a      |      | Replica |         |    |     unknown |     |    unknown |     |
| b      |      | Replica | stopped |    |     unknown |     |    unknown |     |
+--------+------+---------+---------+----+-------------+-----+------------+-----+
"
        .replacen("(uninitialized) --+----", "(uninitialized) ----+----", 1)
    );
}

#[test]
fn members_of_old_versions_show_their_only_position() {
    let member = |state: &str| format!(r#"{{"state":"{state}","xlog_location":1}}"#);
    let (streaming, stopped) = (member("streaming"), member("running"));
    let keys = [("members/a", streaming.as_str()), ("members/b", stopped.as_str())];
    let tsv = table(&keys, Format::Tsv);
    assert!(tsv.contains("streaming\t\t0/1\t0\tunknown\t\n"), "{tsv}");
    assert!(tsv.contains("running\t\tunknown\t\t0/1\t0\n"), "{tsv}");
}

#[test]
fn lag_is_in_megabytes_half_rounded_to_even() {
    for (bytes, shown) in [(0, 0), (524_287, 0), (524_288, 0), (524_289, 1), (1_572_864, 2), (2_621_440, 2), (3 * 1_048_576, 3)] {
        assert_eq!(megabytes(bytes), shown, "{bytes}");
    }
}

const EVENTFUL: &str = r#"{"conn_url":"postgres://10.0.0.3:5432/postgres","state":"running","timeline":1,
    "tags":{"nofailover":true,"zone":"ö"},
    "pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"},
    "shared_preload_libraries":{"old_value":"","new_value":"pg_stat_statements,auto_explain"}},
    "scheduled_restart":{"schedule":"2031-01-01T00:00:00+00:00","postgres_version":"16.1"}}"#;

#[test]
fn restarts_and_tags_are_shown_when_somebody_has_them() {
    let keys = with(&[("members/pg2", EVENTFUL)]);
    insta::assert_snapshot!("eventful_pretty", table(&keys, Format::Pretty));
    insta::assert_snapshot!("eventful_topology", table(&keys, Format::Topology));
    insta::assert_snapshot!("eventful_tsv", table(&keys, Format::Tsv));
    insta::assert_snapshot!("eventful_json", table(&keys, Format::Json));
    insta::assert_snapshot!("eventful_yaml", table(&keys, Format::Yaml));
}

#[test]
fn extended_tables_have_all_columns_even_if_they_are_empty() {
    let drawn = extended_table(&demo(), Format::Pretty, true);
    assert!(drawn.contains("| Pending restart | Pending restart reason | Scheduled restart | Tags |"), "{drawn}");
    assert_eq!(extended_table(&demo(), Format::Json, true), table(&demo(), Format::Json));
}

#[test]
fn only_members_with_a_known_host_bring_a_column_with_them() {
    let keys = with(&[("members/pg2", r#"{"state":"running","tags":{"nosync":true}}"#)]);
    assert!(!table(&keys, Format::Pretty).contains("Tags"));
}

#[test]
fn a_citus_group_stands_in_the_title_and_in_a_column_of_machine_readable_forms() {
    let shown = |format| Shown { name: "demo", group: Some(1), extended: false, format };
    let drawn = render(&view(&demo()), shown(Format::Pretty));
    assert!(drawn.starts_with("+ Citus cluster: demo (group: 1, 7710433467121207389) --"), "{drawn}");
    assert!(!drawn.contains("Group"));
    assert!(render(&view(&demo()), shown(Format::Tsv)).starts_with("Cluster\tGroup\tMember\t"));
}

#[test]
fn a_cluster_that_is_just_being_made_says_so() {
    assert!(table(&[("initialize", "")], Format::Pretty).starts_with("+ Cluster: demo (initializing) "));
    assert!(table(&[], Format::Pretty).starts_with("+ Cluster: demo (uninitialized) "));
}
