use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::super::testing;
use super::*;
use crate::settings::Secret;

fn upstream(host: &str) -> Upstream {
    Upstream { name: "pg1".to_owned(), host: host.to_owned(), port: Some(5432), dbname: Some("postgres".to_owned()), remote: false }
}

fn conninfo(pairs: &[(&str, &str)]) -> ConnInfo {
    pairs.iter().fold(ConnInfo::default(), |all, (keyword, value)| all.with(keyword, *value))
}

/// P4-3
#[test]
fn primary_conninfo_names_the_member_and_has_its_keywords_in_order() {
    let settings = testing::settings();
    let primary = ConnInfo::primary(&settings, &upstream("10.0.0.1"), "pg2", 150_000);
    assert_eq!(
        primary.clone().with("passfile", "/home/pgpass").format(150_000),
        "dbname=postgres user=replicator passfile=/home/pgpass host=10.0.0.1 port=5432 sslmode=prefer \
         application_name=pg2 gssencmode=prefer channel_binding=prefer"
    );
    let newer = ConnInfo::primary(&settings, &upstream("10.0.0.1"), "pg2", 170_000);
    assert!(newer.format(170_000).ends_with("channel_binding=prefer sslnegotiation=postgres"));
    let older = ConnInfo::primary(&settings, &upstream("10.0.0.1"), "pg2", 120_000);
    assert!(older.format(120_000).ends_with("application_name=pg2 gssencmode=prefer"));
}

/// C7-5
#[test]
fn keywords_newer_than_the_server_are_left_out() {
    let mut settings = testing::settings();
    let options = &mut settings.authentication.replication.options;
    for keyword in ["sslnegotiation", "sslcrldir", "sslpassword", "sslmode"] {
        options.insert(keyword.to_owned(), "x".to_owned());
    }
    let has = |major: u32| {
        let primary = ConnInfo::primary(&settings, &upstream("h"), "pg2", major);
        ["sslnegotiation", "sslcrldir", "sslpassword", "sslmode"].map(|keyword| primary.get(keyword).is_some())
    };
    assert_eq!(has(120_000), [false, false, false, true]);
    assert_eq!(has(130_000), [false, false, true, true]);
    assert_eq!(has(160_000), [false, true, true, true]);
    assert_eq!(has(170_000), [true, true, true, true]);
}

#[test]
fn a_remote_upstream_is_taken_as_it_is_written() {
    let settings = testing::settings();
    let remote = Upstream { port: None, dbname: None, remote: true, ..upstream("a,b") };
    let primary = ConnInfo::primary(&settings, &remote, "pg2", 150_000);
    assert_eq!(primary.get("port"), None);
    assert_eq!(primary.get("dbname"), Some("postgres"));
    assert_eq!(primary.get("target_session_attrs"), Some("read-write"));
    let one = ConnInfo::primary(&settings, &Upstream { host: "a".to_owned(), ..remote }, "pg2", 150_000);
    assert_eq!(one.get("target_session_attrs"), None);
}

#[test]
fn kerberos_is_named_if_configured() {
    let settings = PostgresSettings { krbsrvname: Some("pg".to_owned()), ..testing::settings() };
    let primary = ConnInfo::primary(&settings, &upstream("h"), "pg2", 150_000);
    assert_eq!(primary.get("krbsrvname"), Some("pg"));
}

/// P10-2
#[test]
fn a_connection_string_for_tools_has_no_password() {
    let settings = testing::settings();
    let full = ConnInfo::for_upstream(&upstream("10.0.0.1"), &settings.authentication.replication, "app");
    assert_eq!(full.without("password").format(150_000), "dbname=postgres user=replicator host=10.0.0.1 port=5432");
    assert_eq!(ConnInfo::default().format(150_000), "");
}

#[test]
fn values_are_escaped_so_that_libpq_reads_them_back() {
    let tricky = conninfo(&[("dbname", ""), ("user", r"o'br ien\x"), ("host", "a\tb")]);
    let text = tricky.format(150_000);
    assert_eq!(text, "dbname='' user=o\\'br\\ ien\\\\x host=a\\\tb");
    assert_eq!(ConnInfo::parse(&text), Some(tricky));
}

#[test]
fn strings_are_read_as_libpq_reads_them() {
    type Pairs = &'static [(&'static str, &'static str)];
    let cases: &[(&str, Option<Pairs>)] = &[
        ("", Some(&[])),
        ("host=a port=5", Some(&[("host", "a"), ("port", "5")])),
        (" host = 'host' dbname = db\\ name requiressl=1 ", Some(&[("host", "host"), ("dbname", "db name"), ("sslmode", "require")])),
        ("requiressl = 0\\", Some(&[("sslmode", "prefer")])),
        ("requiressl=1 sslmode=disable", Some(&[("sslmode", "disable")])),
        (r"password='a\'b \\c' user=x", Some(&[("password", r"a'b \c"), ("user", "x")])),
        ("host=", Some(&[("host", "")])),
        ("host=a foo = '", None),
        ("1", None),
        ("a b=c", None),
        ("=c", None),
        ("postgresql://foo/postgres", Some(&[("host", "foo"), ("dbname", "postgres")])),
        (
            "postgres://u%2Fse:p%20w@[::1]:5433,b:5434/db%2Fx?application_name=mya%2Fpp&ssl=true",
            Some(&[
                ("user", "u/se"),
                ("password", "p w"),
                ("host", "::1,b"),
                ("port", "5433,5434"),
                ("dbname", "db/x"),
                ("application_name", "mya/pp"),
                ("sslmode", "require"),
            ]),
        ),
        ("postgres://", Some(&[])),
        ("postgres://%zz/", None),
        ("postgres://[::1", None),
    ];
    for (text, expected) in cases {
        assert_eq!(ConnInfo::parse(text), expected.map(conninfo), "{text}");
    }
}

#[test]
fn a_connection_satisfies_what_its_keywords_or_defaults_say() {
    let running = conninfo(&[("host", "a"), ("user", "r"), ("sslcompression", "0")]);
    assert!(running.satisfies(&conninfo(&[("host", "a"), ("sslmode", "prefer"), ("sslnegotiation", "postgres")])));
    assert!(!running.satisfies(&conninfo(&[("host", "b")])));
    assert!(!running.satisfies(&conninfo(&[("host", "a"), ("sslmode", "require")])));
    assert!(!running.satisfies(&conninfo(&[("host", "a"), ("application_name", "x")])));
}

/// P4-4
#[test]
fn passwords_with_colons_and_backslashes_are_escaped_in_the_password_file() {
    let one = conninfo(&[("host", "10.0.0.1"), ("port", "5432"), ("user", "rep"), ("password", r"a:b\c")]);
    assert_eq!(one.passfile_lines().as_deref(), Some("10.0.0.1:5432:*:rep:a\\:b\\\\c\n"));
}

#[test]
fn the_password_file_has_a_line_for_every_host() {
    let lines = |pairs: &[(&str, &str)]| conninfo(pairs).passfile_lines();
    assert_eq!(lines(&[("host", "a")]), None);
    assert_eq!(lines(&[("password", "p")]).as_deref(), Some("*:*:*:*:p\n"));
    assert_eq!(lines(&[("host", ""), ("password", "")]).as_deref(), Some("*:*:*:*:*\n"));
    assert_eq!(lines(&[("host", "a, b"), ("port", "5"), ("user", "u"), ("password", "p")]).as_deref(), Some("a:5:*:u:p\nb:5:*:u:p\n"));
    assert_eq!(lines(&[("host", "a,b"), ("port", "5,6"), ("user", "u"), ("password", "p")]).as_deref(), Some("a:5:*:u:p\nb:6:*:u:p\n"));
    assert_eq!(
        lines(&[("host", "/run"), ("port", "5"), ("user", "u"), ("password", "p")]).as_deref(),
        Some("/run:5:*:u:p\nlocalhost:5:*:u:p\n")
    );
    assert_eq!(
        lines(&[("host", "/run,localhost"), ("port", "5"), ("user", "u"), ("password", "p")]).as_deref(),
        Some("/run:5:*:u:p\nlocalhost:5:*:u:p\n")
    );
    assert_eq!(lines(&[("host", "::1"), ("user", "u"), ("password", "p")]).as_deref(), Some("\\:\\:1:*:*:u:p\n"));
}

/// P4-5
#[test]
fn the_password_file_is_closed_to_others_whatever_it_was_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pgpass");
    std::fs::write(&path, "something longer that was there before\n").expect("a file");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    for _ in 0..2 {
        write_passfile(&path, "a:b\n").expect("written");
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_to_string(&path).expect("a file"), "a:b\n");
        std::fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn passwords_are_not_shown() {
    let credentials = Credentials { password: Some(Secret::new("hidden")), ..Credentials::default() };
    let shown = format!("{:?}", ConnInfo::for_upstream(&upstream("a"), &credentials, "x"));
    assert!(!shown.contains("hidden"), "{shown}");
}

proptest! {
    #[test]
    fn garbage_never_panics(text in any::<String>(), url in "postgres(ql)?://[a-z:@%/?&=,\\[\\]0-9]{0,40}") {
        for text in [text, url] {
            if let Some(conninfo) = ConnInfo::parse(&text) {
                let _ = (conninfo.format(150_000), conninfo.passfile_lines());
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back(values in proptest::collection::vec(any::<String>(), 5)) {
        let keywords = ["dbname", "user", "password", "host", "application_name"];
        let pairs: Vec<_> = keywords.into_iter().zip(values.iter().map(String::as_str)).collect();
        let original = conninfo(&pairs);
        prop_assert_eq!(ConnInfo::parse(&original.format(150_000)), Some(original));
    }
}
