use proptest::prelude::*;

use super::super::testing;
use super::*;

fn parameters(pairs: &[(&str, &str)]) -> Parameters {
    pairs.iter().copied().collect()
}

fn row(name: &str, setting: &str, unit: &str, vartype: &str, context: &str) -> SettingRow {
    SettingRow {
        name: name.to_owned(),
        setting: setting.to_owned(),
        unit: Some(unit.to_owned()).filter(|unit| !unit.is_empty()),
        vartype: vartype.to_owned(),
        context: context.to_owned(),
        sourcefile: None,
    }
}

/// A server with defaults, as `pg_settings` shows it.
fn server() -> Vec<SettingRow> {
    vec![
        row("shared_buffers", "2048", "8kB", "integer", "postmaster"),
        row("wal_buffers", "64", "8kB", "integer", "postmaster"),
        row("wal_segment_size", "16777216", "B", "integer", "internal"),
        row("wal_block_size", "8192", "", "integer", "internal"),
        row("max_connections", "100", "", "integer", "postmaster"),
        row("work_mem", "4096", "kB", "integer", "user"),
        row("wal_log_hints", "on", "", "bool", "postmaster"),
        row("autovacuum", "on", "", "bool", "sighup"),
        row("port", "5432", "", "integer", "postmaster"),
        row("unix_socket_directories", "/run", "", "string", "postmaster"),
        row("search_path", "pg_catalog", "", "string", "user"),
        row("statement_timeout", "2000", "ms", "integer", "user"),
        row("block_size", "8192", "", "integer", "internal"),
    ]
}

fn compare(old: &[(&str, &str)], new: &[(&str, &str)]) -> ReloadPlan {
    let (old, new, paths) = (parameters(old), parameters(new), Paths::new(&testing::settings()));
    let queried = names_to_query(&old, &new);
    let rows: Vec<_> = server().into_iter().filter(|row| queried.contains(&row.name)).collect();
    plan(&Change { old: &old, new: &new, rows: &rows, use_unix_socket: true, hba: (None, None), ident: (None, None), paths: &paths })
}

fn texts(plan: &ReloadPlan) -> Vec<&str> {
    plan.lines.iter().map(|line| line.text.as_str()).collect()
}

fn pending(entries: &[(&str, &str, &str)]) -> PendingRestarts {
    let entries = entries
        .iter()
        .map(|(name, old, new)| ((*name).to_owned(), PendingRestart { old_value: (*old).to_owned(), new_value: (*new).to_owned() }));
    entries.collect()
}

/// C13-3
#[test]
fn the_same_value_in_another_unit_changes_nothing() {
    let plan = compare(&[("shared_buffers", "16MB")], &[("shared_buffers", "16384kB")]);
    assert!(!plan.conf_changed && plan.lines.is_empty() && plan.pending.is_empty());
}

/// C13-4
#[test]
fn what_needs_a_restart_is_pending_until_it_is_set_back() {
    let plan = compare(&[("shared_buffers", "16MB")], &[("shared_buffers", "32MB")]);
    assert!(plan.conf_changed && !plan.address_pending);
    assert_eq!(plan.pending, pending(&[("shared_buffers", "16MB", "32MB")]));
    assert_eq!(texts(&plan), ["Changed shared_buffers from '16MB' to '32MB' (restart might be required)"]);

    let back = compare(&[("shared_buffers", "32MB")], &[("shared_buffers", "16MB")]);
    assert!(back.conf_changed && back.pending.is_empty());
    assert_eq!(texts(&back), ["Changed shared_buffers from '32MB' to '16MB'"]);
}

#[test]
fn other_changes_are_only_told() {
    let plan = compare(&[("work_mem", "4MB")], &[("work_mem", "64MB"), ("autovacuum", "off")]);
    assert!(plan.conf_changed && plan.pending.is_empty());
    assert_eq!(texts(&plan), ["Changed work_mem from '4MB' to '64MB'", "Changed autovacuum from 'on' to 'off'"]);
}

#[test]
fn a_parameter_that_is_gone_has_changed() {
    let plan = compare(&[("work_mem", "4MB"), ("Max_Connections", "100")], &[]);
    assert_eq!(
        texts(&plan),
        ["Changed max_connections from '100' to 'None' (restart might be required)", "Changed work_mem from '4MB' to 'None'",]
    );
    assert_eq!(plan.pending, pending(&[("max_connections", "100", "")]));
}

#[test]
fn recovery_parameters_and_hot_standby_are_not_compared() {
    let new = [("hot_standby", "off"), ("restore_command", "cp"), ("primary_conninfo", "host=a")];
    assert_eq!(names_to_query(&Parameters::default(), &parameters(&new)), [""; 0]);
    let plan = compare(&[], &new);
    assert!(!plan.conf_changed && plan.lines.is_empty());
    assert!(skipped_names().contains(&"hot_standby".to_owned()) && is_skipped("Restore_Command"));
}

#[test]
fn wal_buffers_are_compared_by_their_effect() {
    let names = names_to_query(&Parameters::default(), &parameters(&[("wal_buffers", "-1")]));
    assert_eq!(names, ["shared_buffers", "wal_block_size", "wal_buffers", "wal_segment_size"]);
    for same in ["-1", "512kB", "64"] {
        let plan = compare(&[("wal_buffers", "-1")], &[("wal_buffers", same)]);
        assert!(!plan.conf_changed, "{same}: {:?}", plan.lines);
    }
    assert!(!compare(&[("wal_buffers", "-1")], &[]).conf_changed);
    let plan = compare(&[], &[("wal_buffers", "1MB")]);
    assert_eq!(plan.pending, pending(&[("wal_buffers", "512kB", "1MB")]));
}

#[test]
fn wal_buffers_by_default_are_at_most_a_segment_and_at_least_8_blocks() {
    let rows = |shared: &str, wal: &str, segment: SettingRow| {
        let mut rows = vec![row("shared_buffers", shared, "8kB", "integer", "postmaster"), segment];
        rows.push(row("wal_buffers", wal, "8kB", "integer", "postmaster"));
        rows
    };
    let segment = || row("wal_segment_size", "16777216", "B", "integer", "internal");
    assert!(same_wal_buffers(&rows("10000000", "2048", segment()), Some("-1")));
    assert!(same_wal_buffers(&rows("16", "8", segment()), None));
    assert!(!same_wal_buffers(&rows("16", "9", segment()), None));
    let in_blocks = row("wal_segment_size", "2048", "8kB", "integer", "internal");
    assert!(same_wal_buffers(&rows("10000000", "2048", in_blocks), Some("-1")));
    assert!(!same_wal_buffers(&rows("16", "8", segment()), Some("x")));
    assert!(!same_wal_buffers(&[], Some("-1")));
}

/// C7-3 (the decision)
#[test]
fn the_agent_keeps_its_address_until_the_server_takes_the_new_one() {
    let plan = compare(&[("port", "5432")], &[("port", "5433")]);
    assert!(plan.address_pending);
    assert_eq!(plan.pending, pending(&[("port", "5432", "5433")]));
    assert!(compare(&[], &[("unix_socket_directories", "/tmp")]).address_pending);
    assert!(!compare(&[], &[("max_connections", "200")]).address_pending);
}

/// C13-6 (the comparison)
#[test]
fn what_the_server_does_not_know_is_taken_out_unless_it_belongs_to_an_extension() {
    let plan = compare(&[], &[("foo_bar", "12"), ("block_size", "1"), ("my.ext", "abc")]);
    assert_eq!(plan.parameters, parameters(&[("my.ext", "abc")]));
    assert_eq!(
        texts(&plan),
        [
            "Removing invalid parameter `block_size` from postgresql.parameters",
            "Removing invalid parameter `foo_bar` from postgresql.parameters",
            "Changed my.ext from 'None' to 'abc'",
        ]
    );
    assert!(plan.conf_changed);
    assert!(!compare(&[], &[("foo_bar", "12")]).conf_changed, "it is not written anyway");
    assert!(!compare(&[("my.ext", "abc")], &[("my.ext", "abc")]).conf_changed);
    assert_eq!(texts(&compare(&[("my.ext", "abc")], &[])), ["Changed my.ext from 'abc' to 'None'"]);
}

#[test]
fn what_the_agents_sessions_set_is_not_taken_for_the_servers_value() {
    let given = [("search_path", "app"), ("statement_timeout", "1min")];
    assert!(!compare(&given, &[("search_path", "app"), ("statement_timeout", "60s")]).conf_changed);
    let plan = compare(&given, &[("statement_timeout", "2s")]);
    assert_eq!(texts(&plan), ["Changed search_path from 'app' to 'None'", "Changed statement_timeout from '1min' to '2s'"]);
}

#[test]
fn access_files_are_written_when_their_lines_differ() {
    let (old, new) = (["a".to_owned()], ["b".to_owned()]);
    let paths = Paths::new(&testing::settings());
    let (none, redirected) = (Parameters::default(), parameters(&[("hba_file", "/x"), ("ident_file", "/y")]));
    let changed = |hba, parameters: &Parameters| {
        let change = Change { old: &none, new: parameters, rows: &[], use_unix_socket: false, hba, ident: hba, paths: &paths };
        let plan = plan(&change);
        (plan.hba_changed, plan.ident_changed)
    };
    assert_eq!(changed((Some(&old), Some(&new)), &none), (true, true));
    assert_eq!(changed((None, Some(&new)), &none), (true, true));
    assert_eq!(changed((Some(&old), Some(&old)), &none), (false, false));
    assert_eq!(changed((Some(&old), None), &none), (false, false));
    assert_eq!(changed((Some(&old), Some(&new)), &redirected), (false, false));
}

fn found(name: &str, current: &str, unit: &str, vartype: &str, new: Option<&str>) -> PendingRow {
    PendingRow {
        name: name.to_owned(),
        current: current.to_owned(),
        unit: Some(unit.to_owned()).filter(|unit| !unit.is_empty()),
        vartype: vartype.to_owned(),
        new_value: new.map(str::to_owned),
    }
}

#[test]
fn what_was_planned_is_not_reported_as_bypassing() {
    let plan = compare(&[], &[("shared_buffers", "32768kB"), ("wal_log_hints", "no"), ("max_connections", "0x100")]);
    let rows = [
        found("shared_buffers", "16MB", "8kB", "integer", Some("4096")),
        found("wal_log_hints", "on", "", "bool", Some("off")),
        found("max_connections", "100", "", "integer", Some("256")),
    ];
    let (map, line) = after_reload(&rows, &plan.pending);
    assert_eq!(line, None);
    assert_eq!(map, plan.pending);
}

/// C13-7 (second half)
#[test]
fn a_change_past_the_agent_is_reported_and_pending() {
    let rows = [found("shared_buffers", "16MB", "8kB", "integer", Some("4096")), found("max_connections", "100", "", "integer", None)];
    let (map, line) = after_reload(&rows, &pending(&[("max_connections", "100", "200"), ("port", "1", "2")]));
    assert_eq!(map, pending(&[("shared_buffers", "16MB", "32MB"), ("max_connections", "100", "?")]));
    let text = "PostgreSQL configuration parameters requiring restart (max_connections, shared_buffers) seem to be \
                changed bypassing Patroni config. Setting 'Pending restart' flag";
    assert_eq!(line, Some(Line::info(text)));
}

proptest! {
    #[test]
    fn garbage_never_panics(values in proptest::collection::vec(any::<String>(), 6)) {
        let row = |name: &str, i: usize| SettingRow {
            name: name.to_owned(),
            setting: values[i].clone(),
            unit: Some(values[5 - i].clone()),
            vartype: ["bool", "integer", "real", "enum", "string", "x"][i].to_owned(),
            context: "postmaster".to_owned(),
            sourcefile: None,
        };
        let rows = [row("wal_buffers", 1), row("shared_buffers", 1), row("wal_segment_size", 1), row("work_mem", 2)];
        let new = parameters(&[("wal_buffers", &values[0]), ("work_mem", &values[1]), (&values[2], &values[3])]);
        let paths = Paths::new(&testing::settings());
        let old = Parameters::default();
        let change = Change {
            old: &old, new: &new, rows: &rows, use_unix_socket: true, hba: (None, None), ident: (None, None), paths: &paths,
        };
        let _ = plan(&change);
    }
}
