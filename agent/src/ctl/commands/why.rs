//! `why`: what the members changed, refused and found out, in order of time, and by which rules.

use std::time::Duration;

use http::Method;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use dcs_core::model::Member;
use ha_engine::settings::values;

use crate::config::yaml;
use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::output::{EmptyValues, Format, Listing};
use crate::ctl::table::Align;
use crate::ctl::time::LocalTime;
use crate::ctl::{members, python};

/// How long one member may take to answer. It has its journal in memory.
const PATIENCE: Duration = Duration::from_secs(5);
/// How many entries are shown if nobody says since when or how many.
const USUAL_LIMIT: usize = 50;
/// More than a member keeps.
const ALL: usize = 1_000_000;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// Only what was the case at this time or later: a time, or how long ago.
    pub since: Option<String>,
    /// The members; all if there are none.
    pub members: Vec<String>,
    /// Only the newest so many entries.
    pub limit: Option<usize>,
    /// The format.
    pub format: Format,
}

/// An entry of a member's journal.
struct Told {
    time: Timestamp,
    member: String,
    entry: Map<String, Value>,
}

/// Prints the story.
///
/// # Errors
///
/// The cluster cannot be read, or none of its members answers.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let since = options.since.as_deref().map(|since| point_in_time(&context.time, since)).transpose()?;
    let view = context.open(&options.target).await?.load().await?;
    let mut asked = members::of_role(&view, Role::Any);
    asked.sort_by(|left, right| left.name.cmp(&right.name));
    if let Some(unknown) = options.members.iter().find(|name| asked.iter().all(|member| member.name != name.as_str())) {
        return Err(Failure::error(format!("{unknown} is not a member of cluster")));
    }
    asked.retain(|member| options.members.is_empty() || options.members.iter().any(|name| member.name == name.as_str()));
    let endpoint = match since {
        Some(since) => format!("journal?limit={ALL}&since={since}"),
        None => format!("journal?limit={ALL}"),
    };
    let answers = futures::future::join_all(asked.iter().map(|member| ask(context, member, &endpoint))).await;
    let mut story = Vec::new();
    let mut answered = 0;
    for (member, answer) in asked.iter().zip(answers) {
        match answer {
            Ok(told) => {
                answered += 1;
                story.extend(told);
            }
            Err(reason) => tracing::warn!("{} does not say why: {reason}", member.name),
        }
    }
    if answered == 0 {
        return Err(Failure::error("no member told anything"));
    }
    // Stable: what one member did within a moment stays in its order.
    story.sort_by_key(|told| told.time);
    let limit = options.limit.unwrap_or(if since.is_some() { ALL } else { USUAL_LIMIT });
    let older = story.len().saturating_sub(limit);
    let story = story.split_off(older);
    let text = match options.format {
        Format::Pretty | Format::Topology => pretty(&story, older, &context.time),
        Format::Json => format!("{}\n", python::json(&data(&story))),
        Format::Yaml => format!("{}\n", yaml::block(&data(&story))),
        Format::Tsv => table(&story, &context.time).render(Format::Tsv, EmptyValues::Kept),
    };
    context.console.write(&text)
}

/// A time as the user writes it, or how long ago: `10min`, `2h`, `90`.
fn point_in_time(time: &LocalTime, text: &str) -> Result<Timestamp, Failure> {
    if let Some(seconds) = values::int(&Value::from(text), Some("s")).and_then(|seconds| u64::try_from(seconds).ok()) {
        return time.ago(Duration::from_secs(seconds)).ok_or_else(|| Failure::error(format!("{text} ago is before all time")));
    }
    match time.scheduled(text)? {
        Some(at) => Ok(at.instant()),
        None => Err(Failure::error("--since needs a time, or how long ago (e.g. 10min)")),
    }
}

async fn ask(context: &Context, member: &Member, endpoint: &str) -> Result<Vec<Told>, String> {
    let answer = tokio::time::timeout(PATIENCE, context.call(member, Method::GET, Some(endpoint), None))
        .await
        .map_err(|_| format!("no answer within {} seconds", PATIENCE.as_secs()))?
        .map_err(|unreachable| unreachable.to_string())?;
    let journal: Value = serde_json::from_str(&answer.text).unwrap_or_default();
    let entries = journal.get("entries").and_then(Value::as_array).ok_or("its agent keeps no journal")?;
    Ok(entries.iter().filter_map(|entry| told(member, entry)).collect())
}

fn told(member: &Member, entry: &Value) -> Option<Told> {
    let entry = entry.as_object()?.clone();
    let time = text(&entry, "time").parse().ok()?;
    Some(Told { time, member: member.name.to_string(), entry })
}

fn text<'a>(entry: &'a Map<String, Value>, key: &str) -> &'a str {
    entry.get(key).and_then(Value::as_str).unwrap_or_default()
}

impl Told {
    fn time_in_words(&self, time: &LocalTime) -> String {
        time.millis(self.time)
    }

    fn rule(&self) -> String {
        match (text(&self.entry, "rule"), text(&self.entry, "rows")) {
            (rule, "") => rule.to_owned(),
            (rule, rows) => format!("{rule} [{rows}]"),
        }
    }

    fn facts(&self) -> String {
        let facts = self.entry.get("facts").and_then(Value::as_object).into_iter().flatten();
        facts.map(|(name, value)| format!("{name}={}", python::text(value))).collect::<Vec<_>>().join(", ")
    }

    fn candidates(&self) -> Vec<String> {
        let candidates = self.entry.get("candidates").and_then(Value::as_array).into_iter().flatten();
        candidates.filter_map(Value::as_object).map(candidate).collect()
    }

    /// How often it was the case, if more than once.
    fn repeated(&self, time: &LocalTime) -> String {
        let count = self.entry.get("count").and_then(Value::as_u64).unwrap_or(1);
        let last = text(&self.entry, "last_time").parse().ok();
        match last.filter(|_| count > 1) {
            Some(last) => format!(" ({count} times, the last at {})", time.millis(last)),
            None => String::new(),
        }
    }
}

fn candidate(candidate: &Map<String, Value>) -> String {
    let position = candidate.get("position").map(|position| format!("at {}", python::text(position)));
    let timeline = candidate.get("timeline").map(|timeline| format!("timeline {}", python::text(timeline)));
    let place: Vec<String> = position.into_iter().chain(timeline).collect();
    let place = if place.is_empty() { String::new() } else { format!(" ({})", place.join(", ")) };
    format!("{}: {}{place}", text(candidate, "member"), text(candidate, "reason"))
}

fn pretty(story: &[Told], older: usize, time: &LocalTime) -> String {
    let width = story.iter().map(|told| told.member.chars().count()).max().unwrap_or_default();
    let mut lines = Vec::new();
    if older > 0 {
        lines.push(format!("({older} older entries; --since or --limit shows them)"));
    }
    for told in story {
        let begin = format!("{}  {:width$}  ", told.time_in_words(time), told.member);
        let indent = " ".repeat(begin.chars().count());
        lines.push(format!("{begin}{}{}", text(&told.entry, "what"), told.repeated(time)));
        lines.extend(told.candidates().into_iter().map(|candidate| format!("{indent}- {candidate}")));
        let facts = Some(told.facts()).filter(|facts| !facts.is_empty()).map_or_else(String::new, |facts| format!(": {facts}"));
        lines.push(format!("{indent}{}{facts}", told.rule()));
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

fn data(story: &[Told]) -> Value {
    let with_member = |told: &Told| {
        let mut entry = told.entry.clone();
        entry.insert("reported_by".to_owned(), told.member.clone().into());
        Value::Object(entry)
    };
    Value::Array(story.iter().map(with_member).collect())
}

fn table(story: &[Told], time: &LocalTime) -> Listing {
    let headings = ["Time", "Member", "Rule", "Outcome", "Count", "What", "Candidates", "Facts"];
    let row = |told: &Told| {
        vec![
            json!(told.time_in_words(time)),
            json!(told.member),
            json!(text(&told.entry, "rule")),
            json!(text(&told.entry, "outcome")),
            told.entry.get("count").cloned().unwrap_or_default(),
            json!(text(&told.entry, "what").replace(['\t', '\n'], " ")),
            json!(told.candidates().join("; ").replace(['\t', '\n'], " ")),
            json!(told.facts().replace(['\t', '\n'], " ")),
        ]
    };
    Listing {
        title: String::new(),
        columns: headings.into_iter().map(|heading| (heading, Align::Left)).collect(),
        rows: story.iter().map(row).collect(),
    }
}
