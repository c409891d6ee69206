use std::path::PathBuf;

use super::*;

fn plan(ttl: u64, loop_wait: u64, safety_margin: i64, mode: WatchdogMode) -> WatchdogPlan {
    WatchdogPlan {
        settings: WatchdogSettings { mode, safety_margin, ..WatchdogSettings::default() },
        ttl: Duration::from_secs(ttl),
        loop_wait: Duration::from_secs(loop_wait),
    }
}

/// Must hold: postgresql.md 20 (P20-1), and the timeouts of hard case 15.
#[test]
fn hard_case_15_the_timeout_follows_the_life_of_the_lock() {
    for (ttl, loop_wait, margin, timeout, slack, patience) in [
        (30, 10, 5, 25, 15, 5),
        (30, 10, -1, 15, 5, 15),
        (60, 10, 5, 55, 45, 5),
        (20, 10, 5, 15, 5, 5),
        (31, 10, -1, 15, 5, 16),
        // Nothing proven is ever as fresh as a margin of 0 demands.
        (30, 10, 0, 30, 20, 1),
        (20, 10, 15, 5, -5, 15),
    ] {
        let plan = plan(ttl, loop_wait, margin, WatchdogMode::Automatic);
        assert_eq!((plan.timeout(), plan.slack(), plan.patience().as_secs()), (timeout, slack, patience), "{ttl}/{loop_wait}/{margin}");
    }
}

/// Hardening rule X1: for every margin of a second or more the device fires before the lock can expire, however late in its
/// patience it was fed.
#[test]
fn a_device_that_is_fed_in_time_fires_before_the_lock_expires() {
    for ttl in [20, 21, 30, 60, 3600] {
        for margin in [-1, 1, 2, 5, 10] {
            let plan = plan(ttl, 1, margin, WatchdogMode::Automatic);
            let fires = plan.patience() + Duration::from_secs(u64::try_from(plan.timeout()).expect("positive"));
            assert!(fires <= plan.ttl, "ttl {ttl}, margin {margin}");
        }
    }
}

fn opened(timeout: i64, can_be_disabled: bool) -> Attempt {
    Attempt::Opened { description: "Software Watchdog".to_owned(), can_be_disabled, timeout }
}

#[test]
fn what_is_made_of_a_device_and_what_is_said_about_it() {
    use Severity::{Debug, Error, Info, Warning};
    use WatchdogMode::{Automatic, Required};

    let unsettable = Attempt::Failed { description: "Linux watchdog device".to_owned(), error: "no such file".to_owned() };
    let could_not = (Error, "Configuration requires watchdog, but watchdog could not be configured.");
    let activated = (Info, "Software Watchdog activated with 25 second timeout, timing slack 15 seconds");
    let stubborn = (Warning, "Watchdog implementation can't be disabled. Watchdog will trigger after Patroni loses leader key.");
    let long = (Info, "Software Watchdog activated with 60 second timeout, timing slack 15 seconds");
    let short = (Error, "loop_wait of 10 seconds is too long for watchdog 8 second timeout");
    type Case<'a> = (WatchdogMode, Attempt, bool, bool, Vec<(Severity, &'a str)>);
    let cases: Vec<Case<'_>> = vec![
        (Automatic, opened(25, true), true, true, vec![activated]),
        (Required, opened(25, true), true, true, vec![activated]),
        (Automatic, opened(25, false), true, true, vec![stubborn, activated]),
        (
            Automatic,
            opened(60, true),
            true,
            true,
            vec![(Warning, "Watchdog timeout 60 seconds does not ensure safe termination within 25 seconds"), long],
        ),
        (
            Required,
            opened(60, true),
            false,
            false,
            vec![(
                Error,
                "Configuration requires watchdog, but a safe watchdog timeout 25 could not be configured. Watchdog timeout is 60.",
            )],
        ),
        (Automatic, opened(8, true), false, true, vec![short, (Info, "Disabling watchdog due to unsafe timeout.")]),
        (Required, opened(8, true), false, false, vec![short, (Info, "Disabling watchdog due to unsafe timeout."), could_not]),
        (Automatic, unsettable.clone(), false, true, vec![(Debug, "Could not activate Linux watchdog device: no such file")]),
        (Required, unsettable, false, false, vec![(Warning, "Could not activate Linux watchdog device: no such file"), could_not]),
        (Automatic, Attempt::NoDevice, false, true, vec![]),
        (Required, Attempt::NoDevice, false, false, vec![could_not]),
        (
            Automatic,
            Attempt::TooTight,
            false,
            true,
            vec![(Warning, "Watchdog not supported because leader TTL 30 is less than 2x loop_wait 10")],
        ),
    ];
    for (mode, attempt, keep, may_lead, lines) in cases {
        let verdict = judge(&plan(30, 10, 5, mode), &attempt);
        let lines = lines.into_iter().map(|(severity, line)| (severity, line.to_owned())).collect();
        assert_eq!(verdict, Verdict { keep, may_lead, lines }, "{mode:?} {attempt:?}");
    }
}

#[test]
fn a_device_is_called_by_what_it_says_its_firmware_and_its_place() {
    let other = WatchdogSettings { device: PathBuf::from("/dev/watchdog1"), ..WatchdogSettings::default() };
    let usual = WatchdogSettings::default();
    for (settings, identity, firmware, text) in [
        (&usual, Some("Software Watchdog"), 0, "Software Watchdog"),
        (&usual, Some("iTCO_wdt"), 2, "iTCO_wdt (firmware 2)"),
        (&other, Some("iTCO_wdt"), 2, "iTCO_wdt (firmware 2) at /dev/watchdog1"),
        (&usual, None, 0, "Linux watchdog device"),
    ] {
        assert_eq!(description(settings, identity, firmware), text);
    }
}
