//! `restart`: PostgreSQL is restarted, now or at a planned time.

use http::Method;
use serde_json::{Map, Value, json};

use dcs_core::model::{Member, ScheduledTime};

use super::Unanswered;
use crate::ctl::agents::Unreachable;
use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::members::{self, Action, Wanted};
use crate::ctl::summary;
use crate::ctl::time::Spaced;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The members; all if there are none.
    pub members: Vec<String>,
    /// Only members of this role.
    pub role: Role,
    /// Only one of them, whichever.
    pub any: bool,
    /// When; `now` or empty means at once.
    pub scheduled: Option<String>,
    /// Only if the server is older than this.
    pub pg_version: Option<String>,
    /// Only if a restart is pending.
    pub pending: bool,
    /// How long it may take, as typed.
    pub timeout: Option<String>,
    /// Whether nothing may be asked.
    pub force: bool,
}

/// Asks each member to restart, one after the other.
///
/// # Errors
///
/// Nobody is meant, the prompt is declined, or somebody does not answer. Refusals are printed and are no errors.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    let Options { members: names, role, force, .. } = &options;
    let wanted = Wanted { names, role: *role, force: *force, action: Action::Restart };
    let mut chosen = members::select(context, &cluster, &view, wanted).await?;

    let at = when(context, &options).await?;
    if options.pending && at.is_none() {
        // Who needs a scheduled restart is seen when its time has come.
        chosen.retain(|member| member.record.pending_restart.is_some());
    }
    if options.any && !chosen.is_empty() {
        let one = chosen.swap_remove(fastrand::usize(..chosen.len()));
        chosen = vec![one];
    }
    confirm(context, &options, &chosen, at).await?;
    let older_than = older_than(context, &options).await?;
    if at.is_some() && summary::modes(&view).pause {
        return Err(Failure::error("Can't schedule restart in the paused state"));
    }

    let body = body(&options, older_than.as_deref(), at);
    let mut unanswered = Unanswered::default();
    for member in chosen {
        let name = member.name.as_str();
        if at.is_some() && options.force && member.record.scheduled_restart.is_some() {
            let action = "flush scheduled restart";
            match context.call(&member, Method::DELETE, Some("restart"), None).await {
                Ok(answer) if answer.status < 400 => {}
                Ok(answer) => {
                    context.console.line(format!("Failed: {action} for member {name}, status code={}, ({})", answer.status, answer.text))?
                }
                Err(reason) => {
                    unanswered.tell(context, action, name, &reason)?;
                    continue;
                }
            }
        }
        match restart(context, &member, &body).await {
            Ok(line) => context.console.line(line)?,
            Err(reason) => unanswered.tell(context, "restart", name, &reason)?,
        }
    }
    unanswered.outcome()
}

async fn when(context: &mut Context, options: &Options) -> Result<Option<ScheduledTime>, Failure> {
    let answer = match &options.scheduled {
        Some(scheduled) => scheduled.clone(),
        None if options.force => return Ok(None),
        None => {
            let example = context.time.next_hour();
            let question = format!("When should the restart take place (e.g. {example}) ");
            context.console.ask(&question, Some("now")).await?
        }
    };
    context.time.scheduled(&answer)
}

async fn confirm(context: &mut Context, options: &Options, chosen: &[Member], at: Option<ScheduledTime>) -> Result<(), Failure> {
    let Some(at) = at else { return members::confirm(context, chosen, options.force, Action::Restart).await };
    let question = if options.pending {
        "The nodes needing a restart will be identified at the scheduled time, and might be different from the ones \
         showing pending restart right now. Is this fine?"
            .to_owned()
    } else {
        format!("Are you sure you want to schedule restart of members {} at {}?", members::names(chosen), Spaced(at))
    };
    if options.force || context.console.confirm(&question).await? { Ok(()) } else { Err(Failure::error("Aborted scheduled restart")) }
}

/// The version that the server must be older than.
async fn older_than(context: &mut Context, options: &Options) -> Result<Option<String>, Failure> {
    let version = match &options.pg_version {
        Some(version) => version.clone(),
        None if options.force => return Ok(None),
        None => {
            let question = "Restart if the PostgreSQL version is less than provided (e.g. 9.5.2) ";
            context.console.ask(question, Some("")).await?
        }
    };
    if version.is_empty() {
        return Ok(None);
    }
    check_version(&version)?;
    Ok(Some(version))
}

/// `X.Y` since 10, `X.Y.Z` before.
fn check_version(version: &str) -> Result<(), Failure> {
    let parts: Option<Vec<u32>> = version.split('.').map(|part| part.trim().parse().ok()).collect();
    match parts.as_deref() {
        None => Err(Failure::error(format!("Invalid PostgreSQL version: {version}"))),
        Some([major, _]) if *major >= 10 => Ok(()),
        Some([_, _, _]) => Ok(()),
        Some(_) => Err(Failure::error(format!("Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: {version}"))),
    }
}

fn body(options: &Options, older_than: Option<&str>, at: Option<ScheduledTime>) -> Value {
    let mut body = Map::new();
    if options.pending {
        body.insert("restart_pending".to_owned(), json!(true));
    }
    if let Some(version) = older_than {
        body.insert("postgres_version".to_owned(), json!(version));
    }
    if let Some(at) = at {
        body.insert("schedule".to_owned(), json!(at.to_string()));
    }
    if let Some(timeout) = &options.timeout {
        body.insert("timeout".to_owned(), json!(timeout));
    }
    Value::Object(body)
}

async fn restart(context: &Context, member: &Member, body: &Value) -> Result<String, Unreachable> {
    let name = &member.name;
    let answer = context.call(member, Method::POST, Some("restart"), Some(body)).await?;
    Ok(match answer.status {
        200 => format!("Success: restart on member {name}"),
        202 => format!("Success: restart scheduled on member {name}"),
        409 => format!("Failed: another restart is already scheduled on member {name}"),
        code => format!("Failed: restart for member {name}, status code={code}, ({})", answer.text),
    })
}

#[cfg(test)]
mod tests {
    use super::check_version;

    #[test]
    fn versions_have_two_numbers_since_10_and_three_before() {
        for good in ["10.1", "17.0", "9.5.2"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for (bad, message) in [
            ("a.b", "Invalid PostgreSQL version: a.b"),
            ("", "Invalid PostgreSQL version: "),
            ("9.6", "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 9.6"),
            ("10", "Invalid PostgreSQL version format: X.Y or X.Y.Z is accepted: 10"),
        ] {
            assert_eq!(check_version(bad).map_err(|failure| failure.to_string()), Err(message.to_owned()));
        }
    }
}
