use proptest::prelude::*;
use serde_json::json;

use super::*;

fn command(arguments: &[&str]) -> CommandLine {
    CommandLine { program: "tool".to_owned(), arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect() }
}

const CONTEXT: MethodContext<'_> = MethodContext { scope: "demo", data_dir: "/data", connstring: "host=a port=1" };

/// P9-2
#[test]
fn initdb_takes_flags_and_values_from_a_list() {
    let arguments = initdb(&json!([{"encoding": "UTF8"}, "data-checksums"]));
    assert_eq!(arguments, Ok(vec!["--encoding=UTF8".to_owned(), "--data-checksums".to_owned()]));
    assert_eq!(initdb(&Value::Null), Ok(vec![]));
}

#[test]
fn a_value_that_is_one_quoted_word_loses_its_quotes() {
    let arguments = initdb(&json!([{"foo": "\"bar baz\""}, {"locale": "C UTF"}]));
    assert_eq!(arguments, Ok(vec!["--foo=bar baz".to_owned(), "--locale=C UTF".to_owned()]));
}

#[test]
fn any_complaint_fails_initdb() {
    let cases = [
        (json!("x"), "initdb options must be list or dict"),
        (json!(["pwfile"]), "pwfile option for initdb is not allowed"),
        (json!({"pgdata": "x"}), "pgdata option for initdb is not allowed"),
        (json!([5]), "Error when parsing initdb option 5: value should be string value or a single key-value pair"),
        (json!([["a"]]), "Error when parsing initdb option ['a']: value should be string value or a single key-value pair"),
        (
            json!([{"a": "b", "c": "d"}]),
            "Error when parsing initdb key-value option b: only one key-value is allowed and value should be a string",
        ),
        (json!([{"a": 5}]), "Error when parsing initdb key-value option 5: only one key-value is allowed and value should be a string"),
        (json!([{}]), "Error when parsing initdb key-value option {}: only one key-value is allowed and value should be a string"),
    ];
    for (options, error) in cases {
        assert_eq!(initdb(&options), Err(error.to_owned()), "{options}");
    }
}

#[test]
fn a_forbidden_list_item_is_complained_about_twice() {
    let converted = convert("initdb", &json!(["pwfile", {"version": "1"}, "ok"]), &["pwfile", "version"]);
    assert_eq!(converted.arguments, ["--ok"]);
    assert_eq!(
        converted.errors,
        [
            "pwfile option for initdb is not allowed",
            "Error when parsing initdb option pwfile: value should be string value or a single key-value pair",
            "version option for initdb is not allowed",
            "Error when parsing initdb key-value option 1: only one key-value is allowed and value should be a string",
        ]
    );
}

/// P10-3
#[test]
fn a_base_backup_takes_lists_and_mappings_and_ignores_what_is_forbidden() {
    let list = basebackup(&json!(["verbose", {"max-rate": "100M"}]), 150_000);
    assert_eq!(list.arguments, ["--verbose", "--max-rate=100M"]);
    assert_eq!(basebackup(&json!({"max-rate": "100M", "verbose": ""}), 150_000).arguments, ["--max-rate=100M"]);
    let forbidden = basebackup(&json!({"format": "t"}), 150_000);
    assert_eq!(forbidden.arguments, [""; 0]);
    assert_eq!(forbidden.errors, ["format option for basebackup is not allowed"]);
}

#[test]
fn compression_has_to_happen_on_the_server() {
    let client = basebackup(&json!({"compress": "gzip"}), 150_000);
    assert_eq!(client.arguments, [""; 0]);
    assert_eq!(
        client.errors,
        ["compress option for basebackup must use server-side compression (e.g., server-gzip, server-zstd). \
             Client-side compression is not allowed."]
    );
    assert_eq!(basebackup(&json!({"compress": "server-lz4"}), 150_000).arguments, ["--compress=server-lz4"]);
    let older = basebackup(&json!({"compress": "server-lz4"}), 140_000);
    assert_eq!(older.errors, ["compress option for basebackup is not allowed"]);
}

/// P10-1
#[test]
fn a_replica_method_gets_its_own_parameters_and_then_ours() {
    let parameters = [("foo".to_owned(), json!("bar")), ("no_leader".to_owned(), json!(1))];
    assert_eq!(
        replica_method(&command(&["-v"]), &parameters, false, CONTEXT),
        ["-v", "--foo=bar", "--no_leader=1", "--scope=demo", "--role=replica", "--datadir=/data", "--connstring=host=a port=1"]
    );
}

#[test]
fn a_parameter_named_like_ours_keeps_its_place_and_gets_our_value() {
    let parameters = [("datadir".to_owned(), json!("/x")), ("keep_data".to_owned(), json!(true))];
    assert_eq!(
        replica_method(&command(&[]), &parameters, false, CONTEXT),
        ["--datadir=/data", "--keep_data=True", "--scope=demo", "--role=replica", "--connstring=host=a port=1"]
    );
}

#[test]
fn without_parameters_a_replica_method_gets_only_its_own() {
    let parameters = [("no_params".to_owned(), json!(true)), ("datadir".to_owned(), json!("/x")), ("keep_data".to_owned(), json!(true))];
    assert_eq!(replica_method(&command(&[]), &parameters, true, CONTEXT), ["--datadir=/x"]);
}

/// P9-6
#[test]
fn a_bootstrap_method_gets_scope_and_data_directory_first() {
    let parameters = [("a".to_owned(), "1".to_owned()), ("scope".to_owned(), "x".to_owned())];
    assert_eq!(bootstrap_method(&command(&["-v"]), &parameters, false, CONTEXT), ["-v", "--scope=demo", "--datadir=/data", "--a=1"]);
    assert_eq!(bootstrap_method(&command(&["-v"]), &parameters, true, CONTEXT), ["-v", "--a=1"]);
}

proptest! {
    #[test]
    fn garbage_never_panics(name in any::<String>(), text in any::<String>(), number in any::<i64>()) {
        for options in [
            json!(text), json!(number), json!([text]), json!({ name.clone(): text }),
            json!([{ name.clone(): number }]), json!([[{ name.clone(): null }]]),
        ] {
            let _ = initdb(&options);
            let _ = basebackup(&options, 150_000);
        }
    }
}
