//! `GET /journal`: what this node changed, refused and found out, and why.

use dcs_core::codec::{ScheduleError, parse_schedule};
use ha_engine::decide::journal::Candidate;
use ha_engine::journal::{CAPACITY, Entry};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::rest::app::App;
use crate::rest::query::Query;
use crate::rest::reply::Reply;

/// How many entries are told if nobody says how many.
const USUAL_LIMIT: usize = 100;

pub(super) fn get(app: &App, uri: &http::Uri) -> Reply {
    let wanted = match Wanted::read(&Query::parse(uri.query())) {
        Ok(wanted) => wanted,
        Err(problem) => return Reply::text(StatusCode::BAD_REQUEST, problem),
    };
    let snapshot = app.handle.snapshot();
    let journal = &snapshot.journal;
    let mut entries: Vec<Value> =
        journal.entries().rev().filter(|entry| wanted.since.is_none_or(|since| entry.last >= since)).take(wanted.limit).map(told).collect();
    entries.reverse();
    Reply::json(
        StatusCode::OK,
        &json!({
            "name": app.handle.me.as_str(),
            "scope": snapshot.settings.scope,
            "forgotten": journal.forgotten(),
            "entries": entries,
        }),
    )
}

/// Which entries are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    /// Those that were the case at this time or later.
    since: Option<Timestamp>,
    /// The newest so many of them.
    limit: usize,
}

impl Wanted {
    fn read(query: &Query) -> Result<Self, String> {
        let since = match query.get("since").map(parse_schedule) {
            None => None,
            Some(Ok(time)) => Some(time.instant()),
            Some(Err(ScheduleError::NoTimeZone(_))) => return Err("`since` needs an offset, e.g. 2030-01-01T12:00:00Z".to_owned()),
            Some(Err(ScheduleError::NotParsable)) => {
                return Err("`since` is not a time; it should be one in ISO 8601, e.g. 2030-01-01T12:00:00Z".to_owned());
            }
        };
        let limit = match query.get("limit").map(str::parse::<usize>) {
            None => USUAL_LIMIT,
            Some(Ok(limit)) => limit.min(CAPACITY),
            Some(Err(_)) => return Err("`limit` is not a number of entries".to_owned()),
        };
        Ok(Self { since, limit })
    }
}

fn told(entry: &Entry) -> Value {
    let record = &entry.record;
    let facts: Map<String, Value> = record.facts.iter().map(|fact| (fact.name.to_owned(), fact.value.clone().into())).collect();
    json!({
        "number": entry.number,
        "time": format!("{:.3}", entry.first),
        "last_time": format!("{:.3}", entry.last),
        "count": entry.count,
        "rule": record.rule.name(),
        "rows": record.rule.rows(),
        "outcome": record.rule.outcome().as_str(),
        "what": record.what,
        "facts": facts,
        "candidates": record.candidates.iter().map(candidate).collect::<Vec<_>>(),
    })
}

fn candidate(candidate: &Candidate) -> Value {
    let mut told =
        Map::from_iter([("member".to_owned(), candidate.member.as_str().into()), ("reason".to_owned(), candidate.reason.clone().into())]);
    told.extend(candidate.position.map(|position| ("position".to_owned(), position.to_string().into())));
    told.extend(candidate.timeline.map(|timeline| ("timeline".to_owned(), timeline.0.into())));
    Value::Object(told)
}

#[cfg(test)]
mod tests {
    use super::{Query, Wanted};

    fn read(query: &str) -> Result<Wanted, String> {
        Wanted::read(&Query::parse(Some(query)))
    }

    #[test]
    fn the_newest_hundred_are_told_unless_somebody_wants_others() {
        assert_eq!(read(""), Ok(Wanted { since: None, limit: 100 }));
        let since = Some("2030-01-01T10:00:00Z".parse().unwrap());
        assert_eq!(read("since=2030-01-01T12:00:00%2B02:00&limit=7"), Ok(Wanted { since, limit: 7 }));
        assert_eq!(read("limit=99999999").map(|wanted| wanted.limit), Ok(512), "there are no more");
    }

    #[test]
    fn what_is_no_time_or_number_is_refused() {
        for query in ["since=yesterday", "since=2030-01-01T12:00:00", "limit=-1", "limit=all"] {
            read(query).unwrap_err();
        }
    }
}
