use std::path::PathBuf;

use proptest::prelude::*;

use super::super::report::Level;
use super::super::testing;
use super::*;

fn settings(parameters: &[(&str, &str)]) -> PostgresSettings {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    PostgresSettings { parameters: parameters.collect(), ..testing::settings() }
}

fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().copied().collect()
}

fn texts(lines: &[Line]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[test]
fn names_differ_by_more_than_case() {
    let mut all = parameters(&[("Work_Mem", "1MB"), ("archive_mode", "on"), ("DateStyle", "iso")]);
    assert_eq!(all.get("work_mem"), Some("1MB"));
    all.insert("WORK_MEM", "2MB");
    assert_eq!(all.iter().collect::<Vec<_>>(), [("DateStyle", "iso"), ("WORK_MEM", "2MB"), ("archive_mode", "on")]);
    assert_eq!(all.remove("datestyle").as_deref(), Some("iso"));
    assert!(!all.contains("DateStyle"));
}

/// C13-2
#[test]
fn wal_level_replica_and_hot_standby_give_the_same_server() {
    let level = |level: &str| {
        let assembled = assemble(&settings(&[("wal_level", level)]), Some(150_000), &SyncNames::Configured);
        assembled.parameters.get("wal_level").map(str::to_owned)
    };
    assert_eq!(level("hot_standby").as_deref(), Some("replica"));
    assert_eq!(level("replica").as_deref(), Some("replica"));
    assert_eq!(level("logical").as_deref(), Some("logical"));
}

#[test]
fn kept_wal_is_counted_as_the_major_counts_it() {
    let keep = |major, given: &[(&str, &str)]| {
        let parameters = assemble(&settings(given), major, &SyncNames::Configured).parameters;
        ["wal_keep_size", "wal_keep_segments"].map(|name| parameters.get(name).map(str::to_owned))
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(keep(Some(150_000), &[]), [some("128MB"), None]);
    assert_eq!(keep(Some(150_000), &[("wal_keep_segments", "10")]), [some("160MB"), None]);
    assert_eq!(keep(Some(130_000), &[("wal_keep_segments", "10"), ("wal_keep_size", "1GB")]), [some("1GB"), None]);
    assert_eq!(keep(Some(120_000), &[]), [None, some("8")]);
    assert_eq!(keep(Some(120_000), &[("wal_keep_size", "1GB")]), [None, some("64")]);
    assert_eq!(keep(Some(120_000), &[("wal_keep_size", "23MB")]), [None, some("1")]);
    assert_eq!(keep(Some(120_000), &[("wal_keep_size", "x")]), [None, some("0")]);
    assert_eq!(keep(None, &[("wal_keep_size", "1GB")]), [some("1GB"), None]);
}

#[test]
fn synchronous_standby_names_belong_to_whoever_decides() {
    let names = |sync: SyncNames| {
        let given = settings(&[("synchronous_standby_names", "user")]);
        assemble(&given, Some(150_000), &sync).parameters.get("synchronous_standby_names").map(str::to_owned)
    };
    assert_eq!(names(SyncNames::Configured).as_deref(), Some("user"));
    assert_eq!(names(SyncNames::Decided("a".to_owned())).as_deref(), Some("a"));
    assert_eq!(names(SyncNames::Undecided { wait_for_all: true }).as_deref(), Some("*"));
    assert_eq!(names(SyncNames::Undecided { wait_for_all: false }), None);
}

#[test]
fn redirected_access_files_are_relative_to_the_configuration_directory() {
    let given = PostgresSettings {
        config_dir: PathBuf::from("/etc/pg"),
        ..settings(&[("hba_file", "my_hba.conf"), ("ident_file", "/x/ident.conf")])
    };
    let assembled = assemble(&given, Some(150_000), &SyncNames::Configured);
    assert_eq!(assembled.parameters.get("hba_file"), Some("/etc/pg/my_hba.conf"));
    assert_eq!(assembled.parameters.get("ident_file"), Some("/x/ident.conf"));
}

#[test]
fn recovery_parameters_replace_the_whole_recovery_conf() {
    let mut given = settings(&[("Restore_Command", "cp"), ("work_mem", "1MB")]);
    given.recovery_conf.insert("archive_cleanup_command".to_owned(), "rm".to_owned());
    let assembled = assemble(&given, Some(150_000), &SyncNames::Configured);
    assert_eq!(assembled.recovery_conf, BTreeMap::from([("restore_command".to_owned(), "cp".to_owned())]));
    assert!(!assembled.parameters.contains("restore_command"));
    assert!(assembled.parameters.contains("work_mem"));
}

#[test]
fn a_trigger_file_gets_its_present_name() {
    let conf = |pairs: &[(&str, &str)]| {
        let mut given = settings(&[]);
        given.recovery_conf = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assemble(&given, Some(150_000), &SyncNames::Configured).recovery_conf
    };
    let expected = BTreeMap::from([("promote_trigger_file".to_owned(), "a".to_owned())]);
    assert_eq!(conf(&[("trigger_file", "a")]), expected);
    assert_eq!(conf(&[("trigger_file", "b"), ("promote_trigger_file", "a")]), expected);
}

/// C13-5, C13-6, C13-8, C13-10
#[test]
fn only_what_the_server_takes_is_written_and_the_rest_is_reported() {
    let given = parameters(&[
        ("work_mem", "1"),
        ("foo_bar", "12"),
        ("my.ext", "abc"),
        ("bonjour", "maybe"),
        ("log_rotation_age", "bad"),
        ("archive_mode", "on"),
        ("archive_command", "cp %p /x/%f"),
        ("restore_command", "cp"),
        ("only_described", "x"),
        ("bad.na me\n", "x"),
        ("shared_buffers", "128MB"),
    ]);
    let described = parse_describe_config("only_described\tx\ty\nOther\tz\n");
    let validated = validate(150_000, &given, &described);
    let kept: Vec<_> = validated.kept.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(
        kept,
        [
            ("archive_command", "cp %p /x/%f"),
            ("archive_mode", "on"),
            ("my.ext", "abc"),
            ("only_described", "x"),
            ("shared_buffers", "128MB"),
            ("work_mem", "64"),
        ]
    );
    assert_eq!(
        texts(&validated.lines),
        [
            "Removing unexpected parameter=bad.na me\n value=x from the config",
            "Removing bool parameter=bonjour from the config due to the invalid value=maybe",
            "Removing unexpected parameter=foo_bar value=12 from the config",
            "Removing integer parameter=log_rotation_age from the config due to the invalid value=bad",
            "Value=1 of parameter=work_mem is too low, increasing to 64kB",
        ]
    );
    assert!(validated.lines.iter().all(|line| line.level == Level::Warning));
}

/// P6-1, C13-7 (first half): what is on the command line is out of `ALTER SYSTEM`'s reach.
#[test]
fn the_command_line_has_the_cluster_wide_parameters_in_a_fixed_order() {
    let given = parameters(&[
        ("wal_log_hints", "on"),
        ("wal_keep_size", "128MB"),
        ("work_mem", "4MB"),
        ("max_worker_processes", "8"),
        ("max_replication_slots", "10"),
        ("track_commit_timestamp", "off"),
        ("max_locks_per_transaction", "64"),
        ("max_prepared_transactions", "0"),
        ("max_wal_senders", "10"),
        ("max_connections", "100"),
        ("hot_standby", "on"),
        ("wal_level", "replica"),
        ("cluster_name", "demo"),
        ("port", "5432"),
        ("listen_addresses", "127.0.0.1"),
    ]);
    assert_eq!(
        command_line(&given),
        [
            "--listen_addresses=127.0.0.1",
            "--port=5432",
            "--cluster_name=demo",
            "--wal_level=replica",
            "--hot_standby=on",
            "--max_connections=100",
            "--max_wal_senders=10",
            "--max_prepared_transactions=0",
            "--max_locks_per_transaction=64",
            "--track_commit_timestamp=off",
            "--max_replication_slots=10",
            "--max_worker_processes=8",
            "--wal_log_hints=on",
        ]
    );
    assert_eq!(command_line(&parameters(&[("port", "1")])), ["--port=1"]);
}

/// C13-9
#[test]
fn a_standby_starts_with_its_primarys_old_maximum_and_waits_for_a_restart() {
    let control = super::super::control_data::parse(
        "Database cluster state: in archive recovery\n\
         max_connections setting:              100\n\
         Current max_worker_processes setting: 8\n\
         max_wal_senders setting:              x\n\
         max_prepared_xacts setting:           0\n",
    )
    .expect("it has a state");
    let given = parameters(&[
        ("max_connections", "50"),
        ("max_worker_processes", "8"),
        ("max_wal_senders", "10"),
        ("max_prepared_transactions", "0"),
        ("max_locks_per_transaction", "64"),
    ]);
    let raised = raise_to_control_data(&given, &control);
    assert_eq!(raised.parameters.get("max_connections"), Some("100"));
    assert_eq!(raised.parameters.get("max_worker_processes"), Some("8"));
    let pending = PendingRestart { old_value: "100".to_owned(), new_value: "50".to_owned() };
    assert_eq!(raised.pending, PendingRestarts::from([("max_connections".to_owned(), pending)]));
    assert_eq!(
        texts(&raised.lines),
        [
            "max_connections value in pg_controldata: 100, in the global configuration: 50. pg_controldata value will \
             be used. Setting 'Pending restart' flag",
            "max_locks_per_xact setting is missing from pg_controldata output",
        ]
    );
}

#[test]
fn versions_are_read_from_the_program() {
    let cases = [
        ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
        ("postgres (PostgreSQL) 16.0", Some(160_000)),
        ("postgres (PostgreSQL) 18beta1", Some(180_000)),
        ("postgres (PostgreSQL) 9.6.24", None),
        ("postgres (PostgreSQL) devel", None),
        ("postgres", None),
        ("", None),
    ];
    for (text, expected) in cases {
        assert_eq!(parse_version_output(text), expected, "{text}");
    }
}

#[test]
fn the_running_server_knows_its_version_best() {
    assert_eq!(effective_version(Some(150_002), Some(160_001), Some(150_000)), Some(150_002));
    assert_eq!(effective_version(None, Some(150_018), Some(150_000)), Some(150_018));
    assert_eq!(effective_version(None, Some(160_001), Some(150_000)), Some(150_000));
    assert_eq!(effective_version(None, Some(160_001), None), Some(160_001));
    assert_eq!(effective_version(None, None, Some(150_000)), Some(150_000));
    assert_eq!(effective_version(None, None, None), None);
}

proptest! {
    #[test]
    fn garbage_never_panics(name in any::<String>(), value in any::<String>(), major in 0u32..200_000) {
        let _ = parse_version_output(&value);
        let _ = parse_describe_config(&value);
        let names = ["wal_keep_size", "wal_keep_segments", "work_mem", "wal_level", name.as_str()];
        let given = settings(&names.map(|name| (name, value.as_str())));
        let assembled = assemble(&given, Some(major), &SyncNames::Configured);
        let _ = validate(major, &assembled.parameters, &BTreeSet::new());
    }
}
