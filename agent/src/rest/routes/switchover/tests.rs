//! The checks, row by row.

use dcs_core::model::{Leader, MemberRecord, Revision, SyncRecord, SyncState};
use serde_json::json;

use super::*;

const PAUSED: Modes = Modes { pause: true, synchronous_mode: SyncMode::Off, standby_cluster: false };

fn modes(synchronous_mode: SyncMode) -> Modes {
    Modes { pause: false, synchronous_mode, standby_cluster: false }
}

fn check(kind: Kind, modes: Modes, body: &Value) -> Result<(Kind, FailoverRequest), (u16, String)> {
    let now = "2030-01-01T00:00:00Z".parse().unwrap();
    let asked = Asked::read(body.as_object().unwrap());
    asked.check(kind, modes, now).map_err(|(status, problem)| (status.as_u16(), problem))
}

#[test]
fn the_first_failing_check_answers() {
    let free = Modes::default();
    let (switchover, failover) = (Kind::Switchover, Kind::Failover);
    let only_to = "Failover could be performed only to a specific candidate";
    let only_from = "Switchover could be performed only from a specific leader";
    let unparsable = "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
    for (kind, modes, body, status, text) in [
        (failover, free, json!({"foo": "bar"}), 400, only_to),
        (failover, free, json!({"leader": "a", "scheduled_at": "x"}), 400, only_to),
        (failover, free, json!({"candidate": ""}), 400, only_to),
        (switchover, free, json!({"candidate": "b"}), 400, only_from),
        (switchover, PAUSED, json!({"leader": null}), 400, only_from),
        (failover, PAUSED, json!({"candidate": "b", "scheduled_at": "x"}), 400, "Failover can't be scheduled"),
        (switchover, PAUSED, json!({"leader": "a", "scheduled_at": "x"}), 400, "Can't schedule switchover in the paused state"),
        (switchover, free, json!({"leader": "a", "scheduled_at": "x"}), 422, unparsable),
        (switchover, free, json!({"leader": "a", "scheduled_at": 5}), 422, unparsable),
        (
            switchover,
            free,
            json!({"leader": "a", "scheduled_at": "2031-01-01T00:00"}),
            400,
            "Timezone information is mandatory for the scheduled switchover",
        ),
        (
            switchover,
            free,
            json!({"leader": "a", "candidate": "a", "scheduled_at": "2029-12-31T23:59:59Z"}),
            422,
            "Cannot schedule switchover in the past",
        ),
        (switchover, PAUSED, json!({"leader": "a"}), 400, "Switchover is possible only to a specific candidate in a paused state"),
        (switchover, free, json!({"leader": "a", "member": "a"}), 400, "Switchover target and source are the same"),
        (failover, free, json!({"leader": "a", "candidate": "a"}), 400, "Switchover target and source are the same"),
    ] {
        assert_eq!(check(kind, modes, &body), Err((status, text.to_owned())), "{body}");
    }
}

#[test]
fn good_requests_become_the_key() {
    let request = |leader: Option<&str>, candidate: Option<&str>| FailoverRequest {
        leader: leader.map(MemberName::from),
        candidate: candidate.map(MemberName::from),
        scheduled_at: None,
    };
    let free = Modes::default();
    assert_eq!(check(Kind::Switchover, free, &json!({"leader": "a"})), Ok((Kind::Switchover, request(Some("a"), None))));
    assert_eq!(
        check(Kind::Switchover, PAUSED, &json!({"leader": "a", "member": "b"})),
        Ok((Kind::Switchover, request(Some("a"), Some("b"))))
    );
    assert_eq!(check(Kind::Failover, PAUSED, &json!({"candidate": "b", "member": "c"})), Ok((Kind::Failover, request(None, Some("b")))));
    assert_eq!(
        check(Kind::Failover, free, &json!({"candidate": "b", "leader": "a"})),
        Ok((Kind::Switchover, request(Some("a"), Some("b"))))
    );
    let (_, later) = check(Kind::Switchover, free, &json!({"leader": "a", "scheduled_at": "2030-01-01T00:00:01Z"})).unwrap();
    assert_eq!(later.scheduled_at.unwrap().to_string(), "2030-01-01T00:00:01+00:00");
}

fn member(name: &str, api_url: Option<&str>) -> Member {
    let record = MemberRecord { api_url: api_url.map(str::to_owned), ..MemberRecord::default() };
    Member { name: name.into(), revision: Revision::from(1_u64), handle: None, record }
}

/// `a` leads, `b` is in the synchronous state, `c` has no URL.
fn view() -> ClusterView {
    let record = SyncRecord { leader: Some("a".into()), standbys: vec!["b".into()], quorum: 0 };
    ClusterView {
        leader: Some(Leader { name: "a".into(), revision: Revision::from(1_u64), handle: None }),
        members: vec![member("a", Some("http://a/patroni")), member("b", Some("http://b/patroni")), member("c", None)],
        sync: SyncState { record, ..SyncState::default() },
        ..ClusterView::default()
    }
}

fn found(view: &ClusterView, mode: SyncMode, kind: Kind, leader: &str, candidate: &str) -> Result<String, String> {
    let name = |text: &str| Some(text).filter(|text| !text.is_empty()).map(MemberName::from);
    let request = FailoverRequest { leader: name(leader), candidate: name(candidate), scheduled_at: None };
    candidates(view, modes(mode), kind, &request)
        .map(|members| members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(" "))
}

#[test]
fn candidates_by_mode() {
    use Kind::{Failover, Switchover};
    use SyncMode::{Off, On, Quorum};
    let view = view();
    for (mode, kind, leader, candidate, expected) in [
        (Off, Switchover, "b", "", Err("leader name does not match")),
        (Off, Switchover, "b", "nobody", Err("leader name does not match")),
        (Off, Switchover, "a", "nobody", Err("candidate does not exists")),
        (Off, Switchover, "a", "c", Ok("c")),
        (Off, Switchover, "a", "", Ok("b")),
        (On, Switchover, "a", "c", Err("candidate name does not match with sync_standby")),
        (On, Switchover, "a", "B", Err("candidate does not exists")),
        (On, Switchover, "a", "b", Ok("b")),
        (On, Switchover, "a", "", Ok("b")),
        (On, Failover, "", "c", Ok("c")),
        (Quorum, Switchover, "a", "c", Ok("c")),
        (Quorum, Switchover, "a", "", Ok("b")),
    ] {
        let outcome = found(&view, mode, kind, leader, candidate);
        let expected = expected.map(str::to_owned).map_err(str::to_owned);
        assert_eq!(outcome, expected, "{mode:?} {kind:?} {leader} {candidate}");
    }
}

#[test]
fn without_anybody_to_take_over_it_is_not_possible() {
    let lonely = ClusterView { members: vec![member("a", Some("http://a/patroni")), member("c", None)], ..view() };
    let none = "switchover is not possible: cluster does not have members except leader";
    assert_eq!(found(&lonely, SyncMode::Off, Kind::Switchover, "a", ""), Err(none.to_owned()));
    let none = "switchover is not possible: can not find sync_standby";
    assert_eq!(found(&lonely, SyncMode::On, Kind::Switchover, "a", ""), Err(none.to_owned()));
    let leaderless = ClusterView { leader: None, ..view() };
    assert_eq!(found(&leaderless, SyncMode::Off, Kind::Switchover, "a", "b"), Err("leader name does not match".to_owned()));
    assert_eq!(found(&leaderless, SyncMode::Off, Kind::Failover, "", "c"), Ok("c".to_owned()));
}

#[test]
fn outcomes_in_words() {
    let (b, c) = (MemberName::from("b"), MemberName::from("c"));
    let led = Outcome::Led(b.clone());
    for (outcome, kind, candidate, status, text) in [
        (&led, Kind::Switchover, None, 200, "Successfully switched over to \"b\""),
        (&led, Kind::Failover, Some(&b), 200, "Successfully failed over to \"b\""),
        (&led, Kind::Switchover, Some(&c), 200, "Switched over to \"b\" instead of \"c\""),
        (&led, Kind::Failover, Some(&c), 200, "Failed over to \"b\" instead of \"c\""),
        (&Outcome::Failed, Kind::Switchover, None, 503, "Switchover failed"),
        (&Outcome::Failed, Kind::Failover, Some(&c), 503, "Failover failed"),
        (&Outcome::Unknown, Kind::Switchover, None, 503, "Switchover status unknown"),
        (&Outcome::Unknown, Kind::Failover, Some(&c), 503, "Failover status unknown"),
    ] {
        let (found, sentence) = outcome.sentence(kind, candidate);
        assert_eq!((found.as_u16(), sentence.as_str()), (status, text));
    }
}
