use super::*;

#[test]
fn every_line_of_the_tables_can_be_read() {
    for text in [include_str!("table.tsv"), include_str!("exceptions.tsv"), include_str!("recovery.tsv")] {
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let guc = parse_line(line).unwrap_or_else(|| panic!("{line:?}"));
            assert!(guc.from < guc.before, "{line:?}");
            if let Kind::Integer(range) | Kind::Real(range) = &guc.kind {
                let (min, max): (f64, f64) = (range.min.parse().expect(line), range.max.parse().expect(line));
                assert!(min <= max, "{line:?}");
            }
        }
    }
}

#[test]
fn no_two_lines_hold_for_the_same_version() {
    for gucs in SERVER.values().chain(RECOVERY.values()) {
        for pair in gucs.windows(2) {
            assert!(pair[0].before <= pair[1].from, "{pair:?}");
        }
    }
}

#[test]
fn the_table_is_that_of_postgresql_15() {
    let memory = server(150_000, "Work_Mem").expect("every version has it");
    let range = Range { unit: Some("kB"), min: "64", max: "2147483647" };
    assert_eq!(memory.kind, Kind::Integer(range));
    assert!(!memory.postmaster);
    assert!(server(150_000, "shared_buffers").expect("every version has it").postmaster);
    assert!(matches!(&server(150_000, "archive_mode").expect("it is there").kind, Kind::Enum(l) if l.contains(&"always")));
    assert!(server(150_000, "DateStyle").is_some() && server(150_000, "datestyle").is_some());
    assert!(server(150_000, "server_version").is_none(), "internal parameters are not settable");
    assert!(server(150_000, "primary_conninfo").is_none(), "recovery parameters are elsewhere");
    assert!(server(150_000, "no_such_thing").is_none());
}

#[test]
fn minor_releases_count() {
    assert!(server(150_018, "output_plugin_libraries").is_none());
    assert!(server(150_019, "output_plugin_libraries").is_some());
    assert!(server(140_012, "restrict_nonsystem_relation_kind").is_none());
    assert!(server(140_013, "restrict_nonsystem_relation_kind").is_some());
    assert!(server(170_000, "restrict_nonsystem_relation_kind").is_some());
}

#[test]
fn recovery_parameters_change_their_context_with_the_version() {
    let restart = |version, name| recovery(version, name).map(|guc| guc.postmaster);
    assert_eq!(restart(120_000, "primary_conninfo"), Some(true));
    assert_eq!(restart(130_000, "primary_conninfo"), Some(false));
    assert_eq!(restart(130_000, "restore_command"), Some(true));
    assert_eq!(restart(140_000, "restore_command"), Some(false));
    assert_eq!(restart(160_000, "promote_trigger_file"), None);
    assert_eq!(restart(150_000, "standby_mode"), None);
    assert!(is_recovery("Standby_Mode") && is_recovery("restore_command") && !is_recovery("hot_standby"));
}

#[test]
fn values_are_checked_by_type() {
    let check = |name: &str, value: &str| server(150_000, name).expect("it is there").check(name, value);
    for (name, value) in [
        ("autovacuum", "Yes"),
        ("work_mem", "64MB"),
        ("work_mem", "64"),
        ("random_page_cost", "1.1"),
        ("archive_mode", "true"),
        ("archive_mode", "Always"),
        ("wal_level", "LOGICAL"),
        ("archive_command", ""),
        ("vacuum_cost_delay", "2500us"),
        ("old_snapshot_threshold", "-1"),
    ] {
        assert_eq!(check(name, value), Checked::Kept, "{name}={value}");
    }
    let dropped = |word: &str, name: &str, value: &str| {
        Checked::Dropped(Line::warning(format!("Removing {word} parameter={name} from the config due to the invalid value={value}")))
    };
    assert_eq!(check("bonjour", "maybe"), dropped("bool", "bonjour", "maybe"));
    assert_eq!(check("log_rotation_age", "bad"), dropped("integer", "log_rotation_age", "bad"));
    assert_eq!(check("work_mem", "64mb"), dropped("integer", "work_mem", "64mb"));
    assert_eq!(check("random_page_cost", "x"), dropped("real", "random_page_cost", "x"));
    assert_eq!(check("archive_mode", "sometimes"), dropped("enum", "archive_mode", "sometimes"));
    assert_eq!(check("wal_level", "on"), dropped("enum", "wal_level", "on"));
}

#[test]
fn numbers_out_of_range_become_the_nearest_that_is_allowed() {
    let check = |name: &str, value: &str| server(150_000, name).expect("it is there").check(name, value);
    let clamped = |value: &str, text: &str| Checked::Clamped { value: value.to_owned(), line: Line::warning(text) };
    assert_eq!(check("work_mem", "1"), clamped("64", "Value=1 of parameter=work_mem is too low, increasing to 64kB"));
    assert_eq!(
        check("max_connections", "999999999"),
        clamped("262143", "Value=999999999 of parameter=max_connections is too big, decreasing to 262143")
    );
    assert_eq!(
        check("checkpoint_completion_target", "1.5"),
        clamped("1", "Value=1.5 of parameter=checkpoint_completion_target is too big, decreasing to 1")
    );
}

#[test]
fn parameters_come_and_go_with_the_majors() {
    let facts = [
        ("work_mem", 12, 99),
        ("wal_keep_segments", 12, 13),
        ("wal_keep_size", 13, 99),
        ("max_slot_wal_keep_size", 13, 99),
        ("operator_precedence_warning", 12, 14),
        ("ssl_crl_dir", 14, 99),
        ("stats_temp_directory", 12, 15),
        ("archive_library", 15, 99),
        ("force_parallel_mode", 12, 16),
        ("reserved_connections", 16, 99),
        ("old_snapshot_threshold", 12, 17),
        ("summarize_wal", 17, 99),
        ("ssl_ecdh_curve", 12, 18),
        ("io_method", 18, 99),
    ];
    for (name, first, before) in facts {
        for major in 12..=18 {
            let known = server(major * 10_000, name).is_some();
            assert_eq!(known, (first..before).contains(&major), "{name} in {major}");
        }
    }
}

#[test]
fn definitions_change_with_the_majors() {
    let kept = |major: u32, name: &str, value: &str| server(major * 10_000, name).expect("it is there").check(name, value) == Checked::Kept;
    assert!(!kept(14, "wal_compression", "lz4") && kept(15, "wal_compression", "lz4") && kept(15, "wal_compression", "on"));
    assert!(!kept(17, "log_connections", "receipt") && kept(18, "log_connections", "receipt"));
    assert!(!kept(17, "maintenance_work_mem", "512kB") && kept(18, "maintenance_work_mem", "512kB"));
    assert!(kept(12, "max_files_per_process", "30") && !kept(13, "max_files_per_process", "30"));
    assert!(!kept(12, "track_activity_query_size", "200kB") && kept(13, "track_activity_query_size", "200kB"));
    assert!(!kept(14, "compute_query_id", "regress") && kept(15, "compute_query_id", "regress"));
    assert!(!kept(17, "io_combine_limit", "100") && kept(18, "io_combine_limit", "100"));
    assert!(!kept(17, "log_rotation_size", "3GB") && kept(18, "log_rotation_size", "3GB"));
    assert!(kept(15, "recursive_worktable_factor", "1000000"));
}
