//! Restarting PostgreSQL, now or later.

use std::time::Duration;

use axum::body::Body;
use dcs_core::model::{Role, ScheduledTime};
use ha_engine::settings::values::{bool_word, int, text};
use ha_engine::{RestartAnswer, RestartRequest};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value};

use super::switchover::parse_time;
use crate::rest::app::App;
use crate::rest::body::{Presence, read_object};
use crate::rest::reply::Reply;

pub(super) async fn post(app: &App, headers: &HeaderMap, body: Body) -> Reply {
    let request = match read_object(headers, body, Presence::Optional).await {
        Ok(request) => request,
        Err(reply) => return reply,
    };
    let view = match app.load(app.store_deadline()).await {
        Ok(view) => view,
        Err(reply) => return reply,
    };
    if app.modes(&view).pause && request.contains_key("schedule") {
        return Reply::text(StatusCode::INTERNAL_SERVER_ERROR, "Can't schedule restart in the paused state");
    }
    let wanted = match Wanted::parse(&request, app.handle.clock().wall()) {
        Ok(wanted) => wanted,
        Err((status, problem)) => return Reply::text(status, problem),
    };
    match wanted.at {
        Some(at) => match app.handle.schedule_restart(at, wanted.filters).await {
            Ok(true) => Reply::text(StatusCode::ACCEPTED, "Restart scheduled"),
            Ok(false) => Reply::text(StatusCode::CONFLICT, "Another restart is already scheduled"),
            Err(ha_engine::EngineGone) => app.engine_gone(),
        },
        None => match app.handle.restart(wanted.request).await {
            Ok(answer) => outcome(answer),
            Err(ha_engine::EngineGone) => app.engine_gone(),
        },
    }
}

fn outcome(answer: RestartAnswer) -> Reply {
    let refused = |text: &str| Reply::text(StatusCode::SERVICE_UNAVAILABLE, text);
    match answer {
        RestartAnswer::Restarted => Reply::text(StatusCode::OK, "restarted successfully"),
        RestartAnswer::ConditionsNotMet => refused("restart conditions are not satisfied"),
        RestartAnswer::Busy(task) => refused(&format!("{task} already in progress")),
        RestartAnswer::StillStarting => refused("postgres is still starting"),
        RestartAnswer::Failed => refused("restart failed"),
    }
}

pub(super) async fn delete(app: &App) -> Reply {
    match app.handle.delete_scheduled_restart().await {
        Ok(true) => Reply::text(StatusCode::OK, "scheduled restart deleted"),
        Ok(false) => Reply::text(StatusCode::NOT_FOUND, "no restarts are scheduled"),
        Err(ha_engine::EngineGone) => app.engine_gone(),
    }
}

/// What a request for a restart says.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wanted {
    at: Option<ScheduledTime>,
    request: RestartRequest,
    /// The same conditions, as they are published until the restart happens.
    filters: Map<String, Value>,
}

impl Wanted {
    /// Reads the fields in the order of the body; the first bad one answers.
    fn parse(body: &Map<String, Value>, now: jiff::Timestamp) -> Result<Self, (StatusCode, String)> {
        let bad = |problem: String| (StatusCode::BAD_REQUEST, problem);
        let mut wanted = Self::default();
        for (field, value) in body {
            let mut filter = |value: Value| drop(wanted.filters.insert(field.clone(), value));
            match field.as_str() {
                "schedule" => wanted.at = Some(parse_time(value, "restart", now)?),
                "role" => {
                    let known = [Role::Primary, Role::StandbyLeader, Role::Replica].map(Role::as_str);
                    let role = value
                        .as_str()
                        .filter(|role| known.contains(role))
                        .ok_or_else(|| bad("PostgreSQL role should be either primary, standby_leader, or replica".to_owned()))?;
                    filter(role.into());
                    wanted.request.role = Some(role.to_owned());
                }
                "postgres_version" => {
                    let version = text(value);
                    wanted.request.postgres_version = Some(version_number(&version).map_err(bad)?);
                    filter(version.into());
                }
                "timeout" => {
                    let seconds = int(value, Some("s")).and_then(|seconds| u64::try_from(seconds).ok());
                    let seconds = seconds
                        .filter(|seconds| *seconds > 0)
                        .ok_or_else(|| bad("Timeout should be a positive number of seconds".to_owned()))?;
                    filter(seconds.into());
                    wanted.request.timeout = Some(Duration::from_secs(seconds));
                }
                "restart_pending" => {
                    wanted.request.restart_pending = bool_word(value).unwrap_or(false);
                    if wanted.request.restart_pending {
                        filter(true.into());
                    }
                }
                unknown => return Err(bad(format!("Unknown filter for the scheduled restart: {unknown}"))),
            }
        }
        Ok(wanted)
    }
}

/// A version as PostgreSQL counts them: `15.2` is 150002, `9.5.3` is 90503.
fn version_number(text: &str) -> Result<u32, String> {
    let parts: Option<Vec<u32>> = text.split('.').map(|part| part.trim().parse().ok()).collect();
    let parts = parts.ok_or_else(|| format!("Invalid PostgreSQL version: {text}"))?;
    let number = |first: u32, second: u32, third: u32| {
        let small = |part: u32| Some(part).filter(|part| *part < 100);
        small(first)?.checked_mul(10_000)?.checked_add(small(second)? * 100)?.checked_add(small(third)?)
    };
    let number = match parts.as_slice() {
        [major, minor] if *major >= 10 => number(*major, 0, *minor),
        [first, second, third] => number(*first, *second, *third),
        _ => None,
    };
    number.ok_or_else(|| format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {text}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: &str) -> Result<Wanted, (u16, String)> {
        let Value::Object(body) = serde_json::from_str(body).unwrap() else { panic!("an object") };
        let now = "2030-01-01T00:00:00Z".parse().unwrap();
        Wanted::parse(&body, now).map_err(|(status, problem)| (status.as_u16(), problem))
    }

    #[test]
    fn every_field_becomes_a_condition() {
        let body = r#"{"role": "replica", "postgres_version": "15.2", "timeout": "5min", "restart_pending": "True",
                       "schedule": "2030-01-01T10:00:00+02:00"}"#;
        let wanted = parse(body).unwrap();
        let request = RestartRequest {
            role: Some("replica".to_owned()),
            postgres_version: Some(150_002),
            timeout: Some(Duration::from_secs(300)),
            restart_pending: true,
        };
        assert_eq!(wanted.request, request);
        assert_eq!(wanted.at.unwrap().to_string(), "2030-01-01T10:00:00+02:00");
        let filters = json!({"role": "replica", "postgres_version": "15.2", "timeout": 300, "restart_pending": true});
        assert_eq!(Value::Object(wanted.filters), filters);
    }

    #[test]
    fn a_false_restart_pending_is_none() {
        for value in ["false", "\"off\"", "0", "null", "\"\""] {
            let wanted = parse(&format!("{{\"restart_pending\": {value}}}")).unwrap();
            assert_eq!(wanted, Wanted::default(), "{value}");
        }
        for value in ["true", "\"on\"", "1", "\"True\""] {
            assert!(parse(&format!("{{\"restart_pending\": {value}}}")).unwrap().request.restart_pending, "{value}");
        }
    }

    #[test]
    fn the_first_bad_field_answers() {
        let role = "PostgreSQL role should be either primary, standby_leader, or replica";
        let timeout = "Timeout should be a positive number of seconds";
        for (body, status, text) in [
            (r#"{"role": "master"}"#, 400, role),
            (r#"{"role": "demoted", "timeout": 0}"#, 400, role),
            (r#"{"timeout": 0, "role": "demoted"}"#, 400, timeout),
            (r#"{"timeout": "soon"}"#, 400, timeout),
            (r#"{"timeout": -5}"#, 400, timeout),
            (r#"{"timeout": null}"#, 400, timeout),
            (r#"{"postgres_version": "x.y"}"#, 400, "Invalid PostgreSQL version: x.y"),
            (r#"{"postgres_version": "10"}"#, 400, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 10"),
            (r#"{"postgres_version": "9.6"}"#, 400, "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6"),
            (r#"{"postgres_version": null}"#, 400, "Invalid PostgreSQL version: None"),
            (r#"{"force": true}"#, 400, "Unknown filter for the scheduled restart: force"),
            (r#"{"schedule": "soon"}"#, 422, "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601"),
            (r#"{"schedule": "2031-01-01T00:00"}"#, 400, "Timezone information is mandatory for the scheduled restart"),
            (r#"{"schedule": "2029-01-01T00:00Z"}"#, 422, "Cannot schedule restart in the past"),
        ] {
            assert_eq!(parse(body), Err((status, text.to_owned())), "{body}");
        }
    }

    #[test]
    fn versions_are_numbers() {
        for (text, number) in [("15.2", 150_002), ("9.5.3", 90_503), ("9.3.13", 90_313), ("10.1", 100_001)] {
            assert_eq!(version_number(text), Ok(number));
        }
        for text in ["15.200", "4000000000.1", "1.2.3.4", ""] {
            version_number(text).unwrap_err();
        }
    }
}
