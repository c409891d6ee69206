use dcs_core::model::Role;
use proptest::prelude::*;

use super::super::testing;
use super::*;
use crate::decide::observation::Upstream;
use crate::settings::Secret;

fn upstream(host: &str) -> Upstream {
    Upstream { name: "pg1".to_owned(), host: host.to_owned(), port: Some(5432), dbname: Some("postgres".to_owned()), remote: false }
}

fn follow(upstream: Option<Upstream>) -> FollowPlan {
    FollowPlan { upstream, slot: Some("pg2".to_owned()), role: Role::Replica, overrides: Vec::new() }
}

fn conf(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn wanted(plan: &FollowPlan, recovery_conf: &[(&str, &str)]) -> Recovery {
    Recovery::for_plan(plan, &testing::settings(), &conf(recovery_conf), "pg2", 150_000)
}

fn rendered(recovery: &Recovery, version: u32) -> Vec<String> {
    let validated = recovery.render(version, &BTreeSet::new(), Some(Path::new("/home/pgpass")));
    validated.kept.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// P3-5 (the settings)
#[test]
fn a_replica_has_its_upstream_its_slot_and_cleared_targets() {
    let recovery = wanted(&follow(Some(upstream("10.0.0.1"))), &[]);
    assert!(recovery.standby);
    assert_eq!(
        rendered(&recovery, 150_000),
        [
            "primary_conninfo=dbname=postgres user=replicator passfile=/home/pgpass host=10.0.0.1 port=5432 \
             sslmode=prefer application_name=pg2 gssencmode=prefer channel_binding=prefer",
            "primary_slot_name=pg2",
            "recovery_target=",
            "recovery_target_lsn=",
            "recovery_target_name=",
            "recovery_target_time=",
            "recovery_target_timeline=latest",
            "recovery_target_xid=",
        ]
    );
}

/// P14-9 (the settings)
#[test]
fn without_an_upstream_there_is_neither_connection_nor_slot() {
    let recovery = wanted(&follow(None), &[]);
    assert_eq!(recovery.primary_conninfo, None);
    assert!(!recovery.settings.contains_key("primary_slot_name"));
    let without_slot = FollowPlan { slot: None, ..follow(Some(upstream("a"))) };
    assert!(!wanted(&without_slot, &[]).settings.contains_key("primary_slot_name"));
}

#[test]
fn operators_settings_stay_except_what_the_agent_decides() {
    let given = [
        ("Restore_Command", "cp"),
        ("recovery_target_time", "2026"),
        ("recovery_target_action", "shutdown"),
        ("primary_conninfo", "host=x"),
        ("primary_slot_name", "x"),
        ("standby_mode", "off"),
        ("recovery_min_apply_delay", "5min"),
    ];
    let mut plan = follow(None);
    plan.overrides = vec![("restore_command".to_owned(), "wal-g".to_owned())];
    let recovery = wanted(&plan, &given);
    assert!(recovery.standby);
    assert_eq!(recovery.settings.get("restore_command").map(String::as_str), Some("wal-g"));
    assert_eq!(recovery.settings.get("recovery_min_apply_delay").map(String::as_str), Some("5min"));
    assert_eq!(recovery.settings.get("recovery_target_time").map(String::as_str), Some(""));
    assert!(!recovery.settings.contains_key("recovery_target_action"));
    assert!(!recovery.settings.contains_key("primary_slot_name"));
}

/// P9-7 (the settings)
#[test]
fn a_custom_bootstrap_may_recover_to_a_point_in_time() {
    let recovery = Recovery::from_recovery_conf(&conf(&[
        ("recovery_target_time", "2026-01-01"),
        ("pause_at_recovery_target", "false"),
        ("restore_command", "cp"),
    ]));
    assert!(!recovery.standby && recovery.ends_in_promotion());
    assert_eq!(rendered(&recovery, 150_000), ["recovery_target_action=promote", "recovery_target_time=2026-01-01", "restore_command=cp"]);
    let standby = Recovery::from_recovery_conf(&conf(&[("standby_mode", "on"), ("primary_conninfo", "host=a")]));
    assert!(standby.standby && !standby.ends_in_promotion());
    assert_eq!(rendered(&standby, 150_000), ["primary_conninfo=host=a"]);
}

#[test]
fn whether_recovery_ends_in_a_promotion_is_read_from_both_spellings() {
    let ends = |pairs: &[(&str, &str)]| Recovery::from_recovery_conf(&conf(pairs)).ends_in_promotion();
    assert!(ends(&[("recovery_target_action", "promote")]));
    assert!(ends(&[("pause_at_recovery_target", "off")]));
    assert!(!ends(&[("pause_at_recovery_target", "off"), ("recovery_target_action", "pause")]));
    assert!(!ends(&[("recovery_target_action", "shutdown")]));
    assert!(!ends(&[]));
}

#[test]
fn invalid_recovery_settings_are_dropped_with_a_warning() {
    let recovery = Recovery::from_recovery_conf(&conf(&[
        ("recovery_min_apply_delay", "soon"),
        ("recovery_target_action", "explode"),
        ("promote_trigger_file", "x"),
        ("foo", "bar"),
        ("recovery_target", "immediate"),
    ]));
    let validated = recovery.render(160_000, &BTreeSet::new(), None);
    assert_eq!(validated.kept, [("recovery_target".to_owned(), "immediate".to_owned())]);
    let texts: Vec<&str> = validated.lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "Removing unexpected parameter=foo value=bar from the config",
            "Removing unexpected parameter=promote_trigger_file value=x from the config",
            "Removing integer parameter=recovery_min_apply_delay from the config due to the invalid value=soon",
            "Removing enum parameter=recovery_target_action from the config due to the invalid value=explode",
        ]
    );
}

#[test]
fn an_adopted_standby_keeps_its_settings() {
    let recovery = Recovery::adopted([("primary_conninfo", "host=a user=b"), ("primary_slot_name", "s")]);
    assert!(recovery.standby);
    assert_eq!(recovery.primary_conninfo, ConnInfo::parse("host=a user=b"));
    assert_eq!(recovery.settings, conf(&[("primary_slot_name", "s")]));
    assert_eq!(Recovery::adopted([("primary_conninfo", "")]).primary_conninfo, None);
}

#[test]
fn the_compared_parameters_are_those_that_decide_what_a_standby_follows() {
    assert_eq!(
        compared_names(),
        [
            "archive_cleanup_command",
            "primary_conninfo",
            "primary_slot_name",
            "promote_trigger_file",
            "recovery_end_command",
            "recovery_min_apply_delay",
            "recovery_target",
            "recovery_target_lsn",
            "recovery_target_name",
            "recovery_target_time",
            "recovery_target_timeline",
            "recovery_target_xid",
            "restore_command",
        ]
    );
}

// ---- the comparison ----------------------------------------------------------------------------------------------------

fn no_file(_: &str) -> Option<String> {
    None
}

fn password_file(_: &str) -> Option<String> {
    Some("10.0.0.1:5432:*:replicator:rep-pass\n".to_owned())
}

fn comparison<'a, F>(wanted: &'a Recovery, current: &'a Current, major: u32, read_passfile: F) -> Comparison<'a, F> {
    Comparison { wanted, current: Some(current), receiver: None, major, first_look: false, read_passfile }
}

/// What `pg_settings` of `major` says, with `set` in the file `source` and everything else at its default.
fn rows(major: u32, set: &[(&str, &str)], source: &str) -> Vec<SettingRow> {
    let names = compared_names().into_iter().filter_map(|name| Some((gucs::recovery(major, &name)?, name)));
    let row = |(guc, name): (&gucs::Guc, String)| {
        let given = set.iter().find(|(found, _)| *found == name);
        SettingRow {
            setting: given.map_or(if name == "recovery_min_apply_delay" { "0" } else { "" }, |(_, value)| value).to_owned(),
            vartype: "string".to_owned(),
            context: if guc.postmaster { "postmaster" } else { "sighup" }.to_owned(),
            sourcefile: given.map(|_| source.to_owned()),
            unit: None,
            name,
        }
    };
    names.map(row).collect()
}

fn read(major: u32, set: &[(&str, &str)]) -> Current {
    let paths = Paths::new(&testing::settings());
    let mut all = vec![("recovery_target_timeline", "latest")];
    all.extend(set);
    Current::from_rows(&rows(major, &all, "/data/postgresql.conf"), &paths).expect("a readable primary_conninfo")
}

const RUNNING: &str = "user=replicator passfile=/home/pgpass host=10.0.0.1 port=5432 sslmode=prefer \
                       application_name=pg2 gssencmode=prefer channel_binding=prefer";

/// P4-1
#[test]
fn a_new_upstream_needs_a_reload_and_a_restart_only_on_12() {
    let moved = wanted(&follow(Some(upstream("10.0.0.2"))), &[]);
    let set = [("primary_conninfo", RUNNING), ("primary_slot_name", "pg2")];
    for (major, expected) in [
        (120_000, RecoveryDiff::Restart),
        (130_000, RecoveryDiff::Reload),
        (150_000, RecoveryDiff::Reload),
        (180_000, RecoveryDiff::Reload),
    ] {
        let current = read(major, &set);
        assert_eq!(diff(&comparison(&moved, &current, major, password_file)), expected, "{major}");
    }
}

#[test]
fn what_was_written_is_not_different() {
    let plan = follow(Some(upstream("10.0.0.1")));
    let recovery = wanted(&plan, &[("recovery_min_apply_delay", "5min"), ("restore_command", "cp")]);
    let written = Current::as_written(&recovery, 150_000, Some(Path::new("/home/pgpass")));
    assert_eq!(written.passfile(), Some("/home/pgpass"));
    assert_eq!(diff(&comparison(&recovery, &written, 150_000, password_file)), RecoveryDiff::None);
    let set =
        [("primary_conninfo", RUNNING), ("primary_slot_name", "pg2"), ("recovery_min_apply_delay", "300000"), ("restore_command", "cp")];
    let current = read(150_000, &set);
    assert_eq!(diff(&comparison(&recovery, &current, 150_000, password_file)), RecoveryDiff::None);
}

/// P4-2
#[test]
fn another_password_makes_a_reload_because_the_password_file_differs() {
    let plan = follow(Some(upstream("10.0.0.1")));
    let current = read(150_000, &[("primary_conninfo", RUNNING), ("primary_slot_name", "pg2")]);
    let mut settings = testing::settings();
    settings.authentication.replication.password = Some(Secret::new("changed"));
    let recovery = Recovery::for_plan(&plan, &settings, &BTreeMap::new(), "pg2", 150_000);
    assert_eq!(diff(&comparison(&recovery, &current, 150_000, password_file)), RecoveryDiff::Reload);
    let same = wanted(&plan, &[]);
    assert_eq!(diff(&comparison(&same, &current, 150_000, password_file)), RecoveryDiff::None);
    assert_eq!(diff(&comparison(&same, &current, 150_000, no_file)), RecoveryDiff::Reload);
}

/// P4-6
#[test]
fn a_manually_edited_connection_is_corrected() {
    let recovery = wanted(&follow(Some(upstream("10.0.0.1"))), &[]);
    for edited in ["", "host=10.0.0.9 user=replicator password=rep-pass", &RUNNING.replace("pg2", "pg3")] {
        let current = read(150_000, &[("primary_conninfo", edited), ("primary_slot_name", "pg2")]);
        let found = diff(&comparison(&recovery, &current, 150_000, password_file));
        assert_eq!(found, RecoveryDiff::Reload, "{edited}");
    }
    let unwanted = wanted(&follow(None), &[]);
    let current = read(150_000, &[("primary_conninfo", RUNNING)]);
    assert_eq!(diff(&comparison(&unwanted, &current, 150_000, password_file)), RecoveryDiff::Reload);
}

#[test]
fn passwords_of_the_server_are_not_shown() {
    let current = read(150_000, &[("primary_conninfo", "host=a password=hidden")]);
    assert!(!format!("{current:?}").contains("hidden"));
}

#[test]
fn an_unreadable_connection_is_reported() {
    let paths = Paths::new(&testing::settings());
    let rows = rows(150_000, &[("primary_conninfo", "host='x")], "/data/postgresql.conf");
    assert_eq!(Current::from_rows(&rows, &paths), Err(Unparsable));
}

#[test]
fn extra_keywords_do_not_matter_and_the_database_only_from_17() {
    let recovery = |major| Recovery::for_plan(&follow(Some(upstream("10.0.0.1"))), &testing::settings(), &BTreeMap::new(), "pg2", major);
    let extra = format!("{RUNNING} keepalives=1 dbname=other");
    let current = |major| read(major, &[("primary_conninfo", &extra), ("primary_slot_name", "pg2")]);
    let found = |major| diff(&comparison(&recovery(major), &current(major), major, password_file));
    assert_eq!(found(160_000), RecoveryDiff::None);
    assert_eq!(found(170_000), RecoveryDiff::Reload);
}

#[test]
fn the_wal_receiver_tells_what_really_is_followed() {
    let recovery = wanted(&follow(Some(upstream("10.0.0.1"))), &[]);
    let current = read(150_000, &[("primary_conninfo", RUNNING), ("primary_slot_name", "pg2")]);
    let look = |slot: Option<&str>, conninfo: Option<&str>| {
        let receiver = Receiver { slot: slot.map(str::to_owned), conninfo: conninfo.map(str::to_owned) };
        diff(&Comparison { receiver: Some(&receiver), ..comparison(&recovery, &current, 150_000, password_file) })
    };
    let running = format!("{RUNNING} dbname=replication");
    assert_eq!(look(Some("pg2"), Some(&running)), RecoveryDiff::None);
    assert_eq!(look(None, None), RecoveryDiff::None);
    assert_eq!(look(Some("other"), Some(&running)), RecoveryDiff::Reload);
    assert_eq!(look(None, Some(&running)), RecoveryDiff::Reload, "a receiver without slot");
    assert_eq!(look(Some("pg2"), Some(&running.replace("10.0.0.1", "10.0.0.9"))), RecoveryDiff::Reload);
}

#[test]
fn a_password_in_the_configuration_replaces_the_masked_one_of_the_receiver() {
    let recovery = wanted(&follow(Some(upstream("10.0.0.1"))), &[]);
    let inline = RUNNING.replace("passfile=/home/pgpass", "password=rep-pass");
    let current = read(150_000, &[("primary_conninfo", &inline), ("primary_slot_name", "pg2")]);
    let masked = RUNNING.replace("passfile=/home/pgpass", "password=********");
    let receiver = Receiver { slot: Some("pg2".to_owned()), conninfo: Some(masked) };
    let comparison = Comparison { receiver: Some(&receiver), ..comparison(&recovery, &current, 150_000, no_file) };
    assert_eq!(diff(&comparison), RecoveryDiff::None);
}

#[test]
fn targets_need_a_restart_on_every_version() {
    let recovery = wanted(&follow(None), &[]);
    for major in [120_000, 150_000, 180_000] {
        let current = read(major, &[("recovery_target_time", "2026-01-01")]);
        assert_eq!(diff(&comparison(&recovery, &current, major, no_file)), RecoveryDiff::Restart);
    }
}

#[test]
fn restore_command_needs_a_restart_up_to_13() {
    let recovery = wanted(&follow(None), &[("restore_command", "cp")]);
    for (major, expected) in [(120_000, RecoveryDiff::Restart), (130_000, RecoveryDiff::Restart), (140_000, RecoveryDiff::Reload)] {
        assert_eq!(diff(&comparison(&recovery, &read(major, &[]), major, no_file)), expected, "{major}");
    }
}

#[test]
fn commands_in_included_files_are_left_alone() {
    let paths = Paths::new(&testing::settings());
    let set = [("restore_command", "theirs"), ("recovery_target_timeline", "latest"), ("recovery_min_apply_delay", "5")];
    let current = |source: &str| Current::from_rows(&rows(150_000, &set, source), &paths).expect("readable");
    let recovery = wanted(&follow(None), &[]);
    let found = |current: &Current, recovery: &Recovery| diff(&comparison(recovery, current, 150_000, no_file));
    assert_eq!(found(&current("/data/postgresql.base.conf"), &recovery), RecoveryDiff::None);
    assert_eq!(found(&current("/data/postgresql.auto.conf"), &recovery), RecoveryDiff::Reload);
    let ours = wanted(&follow(None), &[("restore_command", "ours"), ("recovery_min_apply_delay", "5ms")]);
    assert_eq!(found(&current("/data/postgresql.base.conf"), &ours), RecoveryDiff::Reload);
}

#[test]
fn what_is_not_written_is_no_difference() {
    let recovery = wanted(&follow(None), &[("recovery_min_apply_delay", "soon")]);
    assert_eq!(diff(&comparison(&recovery, &read(150_000, &[]), 150_000, no_file)), RecoveryDiff::None);
    let written = Current::as_written(&recovery, 150_000, None);
    assert_eq!(diff(&comparison(&recovery, &written, 150_000, no_file)), RecoveryDiff::None);
    let clamped = wanted(&follow(None), &[("recovery_min_apply_delay", "-5")]);
    assert_eq!(diff(&comparison(&clamped, &read(150_000, &[]), 150_000, no_file)), RecoveryDiff::None);
}

#[test]
fn a_server_that_was_never_read_is_left_alone_and_an_adopted_one_reloaded() {
    let recovery = wanted(&follow(None), &[]);
    let current = read(150_000, &[]);
    let known = comparison(&recovery, &current, 150_000, no_file);
    let unknown = Comparison { current: None, ..comparison(&recovery, &current, 150_000, no_file) };
    assert_eq!(diff(&unknown), RecoveryDiff::None);
    assert_eq!(diff(&Comparison { first_look: true, ..known }), RecoveryDiff::Reload);
}

proptest! {
    #[test]
    fn garbage_never_panics(name in any::<String>(), text in any::<String>(), major in 0u32..200_000) {
        let given = conf(&[(&name, &text), ("recovery_min_apply_delay", &text), ("primary_conninfo", &text)]);
        let recovery = Recovery::from_recovery_conf(&given);
        let _ = recovery.render(major, &BTreeSet::new(), None);
        let paths = Paths::new(&testing::settings());
        let set = [("primary_conninfo", text.as_str()), ("recovery_min_apply_delay", text.as_str())];
        if let Ok(current) = Current::from_rows(&rows(150_000, &set, &name), &paths) {
            let receiver = Receiver { slot: Some(text.clone()), conninfo: Some(text.clone()) };
            let comparison = Comparison { receiver: Some(&receiver), ..comparison(&recovery, &current, major, no_file) };
            let _ = diff(&comparison);
        }
    }
}
