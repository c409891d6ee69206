use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn boolean_words_are_those_of_postgresql_in_any_case() {
    for word in ["on", "TRUE", "Yes", "1"] {
        assert_eq!(bool_word(word), Some(true), "{word}");
    }
    for word in ["off", "False", "NO", "0"] {
        assert_eq!(bool_word(word), Some(false), "{word}");
    }
    for word in ["", "y", "t", "2", " on", "maybe"] {
        assert_eq!(bool_word(word), None, "{word}");
    }
}

#[test]
fn integers_are_read_like_strtol_reads_them() {
    let cases = [
        ("1", None, Some(1)),
        (" +7 ", None, Some(7)),
        ("-5", None, Some(-5)),
        ("0x10", None, Some(16)),
        ("-0x1F", None, Some(-31)),
        ("010", None, Some(8)),
        ("0", None, Some(0)),
        ("2.5", None, Some(2)),
        ("1.5", None, Some(2)),
        (".6", None, Some(1)),
        ("1e3", None, Some(1000)),
        ("99999999999999999999", None, Some(i64::MAX)),
        ("", None, None),
        ("-", None, None),
        ("nonsense", None, None),
        ("nonsense", Some("kB"), None),
        ("08", None, None),
        ("5MB", None, None),
        ("1 2", Some("kB"), None),
        // units
        (" 0x400 MB ", Some("16384kB"), Some(64)),
        ("-070min", Some("s"), Some(-56 * 60)),
        ("1MB", Some("kB"), Some(1024)),
        ("1000 ms", Some("s"), Some(1)),
        ("1TB", Some("GB"), None),
        ("6GB", Some("16MB"), Some(384)),
        ("4097.4kB", Some("kB"), Some(4097)),
        ("4097.5kB", Some("kB"), Some(4098)),
        ("1.5GB", Some("MB"), Some(1536)),
        ("0.5", Some("MB"), Some(0)),
        ("90s", Some("min"), Some(2)),
        ("100us", Some("ms"), Some(0)),
        ("1gb", Some("kB"), None),
        ("1KB", Some("kB"), None),
        ("1Kb", Some("kB"), None),
        ("1s", Some("kB"), None),
        ("2d", Some("min"), Some(2880)),
        // a base unit larger than one step: as PostgreSQL, not as the reference
        ("1TB", Some("16384kB"), Some(65536)),
        ("1TB", Some("2MB"), Some(524_288)),
    ];
    for (text, unit, expected) in cases {
        assert_eq!(parse_int(text, unit), expected, "{text} in {unit:?}");
    }
}

#[test]
fn reals_keep_their_fraction_but_not_below_the_next_smaller_unit() {
    let cases = [
        (" +0.0005 ", None, Some(0.0005)),
        ("0.0005ms", Some("ms"), Some(0.0)),
        ("0.00051ms", Some("ms"), Some(0.001)),
        ("1e-06", None, Some(0.000_001)),
        ("1.5 s", Some("ms"), Some(1500.0)),
        ("x", None, None),
        ("1x", None, None),
        ("1MB", Some("ms"), None),
        ("8.325e-10A", None, None),
    ];
    for (text, unit, expected) in cases {
        assert_eq!(parse_real(text, unit), expected, "{text} in {unit:?}");
    }
}

#[test]
fn the_human_form_has_the_largest_unit_that_divides() {
    let cases = [
        ("131072", "integer", Some("kB"), "128MB"),
        ("16384", "integer", Some("8kB"), "128MB"),
        ("300", "integer", Some("s"), "5min"),
        ("1025", "integer", Some("kB"), "1025kB"),
        ("-1", "integer", Some("kB"), "-1kB"),
        ("-1", "integer", Some("min"), "-1min"),
        ("0", "integer", Some("kB"), "0"),
        ("", "integer", Some("kB"), ""),
        ("128MB", "integer", Some("kB"), "128MB"),
        ("4", "integer", Some("256MB"), "1GB"),
        ("1024", "integer", Some("KB"), "1024"),
        ("5", "integer", None, "5"),
        ("2.5", "real", Some("ms"), "2500us"),
        ("5", "real", Some("ms"), "5ms"),
        ("4.2", "real", Some("ms"), "4200us"),
        ("4.0", "real", Some("256MB"), "1GB"),
        ("on", "bool", None, "on"),
    ];
    for (setting, vartype, unit, expected) in cases {
        assert_eq!(human(setting, vartype, unit), expected, "{setting} {vartype} {unit:?}");
    }
}

#[test]
fn running_and_configured_values_are_compared_by_meaning() {
    let equal = [
        ("integer", Some("8kB"), "16384", "128MB"),
        ("integer", Some("kB"), "131072", "128MB"),
        ("integer", Some("ms"), "60000", "1min"),
        ("integer", Some("16384kB"), "64", " 0x400 MB "),
        ("integer", Some("MB"), "1048576", "1TB"),
        ("integer", Some("kB"), "4098", "4097.5kB"),
        ("bool", None, "on", "True"),
        ("real", None, "0.1", "0.1"),
        ("real", None, "1e-06", "0.000001"),
        ("enum", None, "replica", "REPLICA"),
        ("string", None, "a", "a"),
    ];
    for (vartype, unit, setting, configured) in equal {
        assert!(settings_equal(vartype, unit, setting, configured), "{vartype} {setting} {configured}");
    }
    let unequal = [
        ("string", None, "a", "A"),
        ("integer", None, "6GB", "6GB"),
        ("integer", Some("MB"), "6GB", "6GB"),
        ("integer", None, "6144", "6GB"),
        ("bool", None, "on", "maybe"),
        ("bool", None, "maybe", "maybe"),
        ("enum", None, "replica", "logical"),
    ];
    for (vartype, unit, setting, configured) in unequal {
        assert!(!settings_equal(vartype, unit, setting, configured), "{vartype} {setting} {configured}");
    }
}

#[test]
fn text_forms_look_as_in_the_messages_that_people_know() {
    assert_eq!(text_form(&json!("a'b")), "a'b");
    assert_eq!(text_form(&json!(true)), "True");
    assert_eq!(text_form(&json!(null)), "None");
    assert_eq!(text_form(&json!(12)), "12");
    assert_eq!(text_form(&json!(1.5)), "1.5");
    assert_eq!(text_form(&json!({"a": "b", "c": [1, false]})), "{'a': 'b', 'c': [1, False]}");
    assert_eq!(guc_text(&json!(true)).as_deref(), Some("on"));
    assert_eq!(guc_text(&json!(false)).as_deref(), Some("off"));
    assert_eq!(guc_text(&json!(null)), None);
    assert_eq!(guc_text(&json!("64MB")).as_deref(), Some("64MB"));
}

#[test]
fn addresses_are_split_at_the_last_colon() {
    let ok = |host: &str, port| Ok((host.to_owned(), port));
    assert_eq!(split_host_port("10.0.0.5,127.0.0.1:5433", 5432), ok("10.0.0.5,127.0.0.1", 5433));
    assert_eq!(split_host_port("[::1]:5433", 5432), ok("::1", 5433));
    assert_eq!(split_host_port("[::1], [fe80::2]:5433", 5432), ok("::1,fe80::2", 5433));
    assert_eq!(split_host_port("[fe80::2]", 5432), ok("fe80::2", 5432));
    assert_eq!(split_host_port("host", 5432), ok("host", 5432));
    assert_eq!(split_host_port("host:x", 5432), Err(NotAPort("x".to_owned())));
    // An IPv6 address without brackets is misread, as ever.
    assert_eq!(split_host_port("fe80::1:2", 5432), ok("fe80::1", 2));
}

proptest! {
    #[test]
    fn garbage_never_panics(text in any::<String>(), unit in any::<String>()) {
        let _ = bool_word(&text);
        let _ = split_host_port(&text, 1);
        for unit in [None, Some("8kB"), Some("ms"), Some(unit.as_str())] {
            let _ = parse_int(&text, unit);
            let _ = parse_real(&text, unit);
            for vartype in ["bool", "integer", "real", "enum", "string", "?"] {
                let _ = human(&text, vartype, unit);
                let _ = settings_equal(vartype, unit, &text, &text);
            }
        }
    }

    #[test]
    fn numbers_with_units_never_panic(text in "[-+]?(0x)?[0-9a-f.eE]{0,25} ?(B|kB|MB|GB|TB|us|ms|s|min|h|d)?") {
        for unit in [None, Some("B"), Some("8kB"), Some("MB"), Some("ms"), Some("s"), Some("min")] {
            let _ = parse_int(&text, unit);
            let _ = parse_real(&text, unit);
        }
    }

    #[test]
    fn the_human_form_means_the_same_number(number in 1i64..1_000_000_000, unit in prop::sample::select(
        vec!["B", "kB", "8kB", "MB", "16MB", "ms", "s", "min"])) {
        let text = human(&number.to_string(), "integer", Some(unit));
        prop_assert_eq!(parse_int(&text, Some(unit)), Some(number), "{}", text);
    }
}
