use std::ffi::OsString;
use std::time::Duration;

use super::{Command, Invocation, Parsed};
use crate::ctl::failure::Failure;

fn parse(line: &str) -> Result<Command, Failure> {
    let words = std::iter::once("/usr/bin/quoratectl").chain(line.split_whitespace()).map(OsString::from);
    match Invocation::parse(words)? {
        Parsed::Run(invocation) => Ok(invocation.command),
        Parsed::Help(text) => panic!("{text}"),
    }
}

fn refusal(line: &str) -> String {
    parse(line).map(|_| ()).expect_err(line).report().unwrap_or_default()
}

#[test]
fn options_may_stand_before_and_after_positionals() {
    for line in ["switchover --force demo --candidate a", "switchover demo --candidate a --force"] {
        let Ok(Command::Switchover(options)) = parse(line) else { panic!("{line}") };
        assert_eq!(options.target.cluster.as_deref(), Some("demo"));
        assert_eq!((options.candidate.as_deref(), options.force), (Some("a"), true));
    }
}

#[test]
fn watch_intervals_are_seconds_and_win_over_the_short_form() {
    for (line, expected) in [
        ("list", None),
        ("list -W", Some(2_000)),
        ("list -W -w 0.5", Some(500)),
        ("topology --watch 3", Some(3_000)),
        ("list -w 0", None),
        ("list -w 0 -W", Some(2_000)),
    ] {
        let Ok(Command::List(options)) = parse(line) else { panic!("{line}") };
        assert_eq!(options.every, expected.map(Duration::from_millis), "{line}");
    }
}

#[test]
fn the_last_word_of_flush_is_what_is_flushed() {
    let Ok(Command::Flush(options)) = parse("flush demo a b restart -r replica") else { panic!("flush") };
    assert_eq!(options.members, ["a", "b"]);
    assert_eq!(options.what, crate::ctl::commands::flush::What::Restart);
}

#[test]
fn wrong_usage_is_told_in_one_shape() {
    insta::assert_snapshot!(
        "usage",
        [
            "",
            "nosuch",
            "list --nosuch",
            "list -f xx",
            "list -w x",
            "list --group x",
            "list -f",
            "reload",
            "flush demo",
            "flush demo foo",
            "switchover --cand x",
            "show-config demo extra",
            "dsn -r foo",
            "-c",
        ]
        .map(|line| format!("$ quoratectl {line}\n{}", refusal(line)))
        .join("\n")
    );
    assert!(parse("list --nosuch").is_err_and(|failure| failure.exit_status() == 2));
}
