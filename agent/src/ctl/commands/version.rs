//! `version`: of the tool, and of agents and their PostgreSQL.

use http::Method;
use serde_json::Value;

use dcs_core::model::Member;

use crate::ctl::agents::Unreachable;
use crate::ctl::arguments::{Role, Target};
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::{members, python};

/// The version of Patroni that scripts may take us for.
const COMPATIBLE_VERSION: &str = "4.1.4";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The name that the tool was called by.
    pub program: String,
    /// The cluster whose agents are asked, if any.
    pub cluster: Option<String>,
    /// The Citus group.
    pub group: Option<u32>,
    /// The members; all if there are none.
    pub members: Vec<String>,
}

/// Prints the versions.
///
/// # Errors
///
/// The cluster cannot be read. An agent that does not answer has its own line.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let ours = match options.program.as_str() {
        "patronictl" => format!("patronictl version {COMPATIBLE_VERSION}"),
        _ => format!("quoratectl version {}", env!("CARGO_PKG_VERSION")),
    };
    context.console.line(ours)?;
    let Some(cluster) = options.cluster else { return Ok(()) };
    context.console.line("")?;

    let target = Target { cluster: Some(cluster), group: options.group, group_from_configuration: false };
    let view = context.open(&target).await?.load().await?;
    let asked = |member: &Member| {
        let named = options.members.is_empty() || options.members.iter().any(|name| member.name == name.as_str());
        named && member.record.api_url.is_some()
    };
    for member in members::of_role(&view, Role::Any).into_iter().filter(asked) {
        let line = match versions(context, &member).await {
            Ok(versions) => format!("{}: {versions}", member.name),
            Err(reason) => format!("{}: failed to get version: {reason}", member.name),
        };
        context.console.line(line)?;
    }
    Ok(())
}

async fn versions(context: &Context, member: &Member) -> Result<String, Unreachable> {
    let answer = context.call(member, Method::GET, None, None).await?;
    let status: Value = serde_json::from_str(&answer.text).map_err(|error| Unreachable(format!("its answer is not JSON ({error})")))?;
    let agent = python::text(status.pointer("/patroni/version").unwrap_or(&Value::Null));
    let server = status.get("server_version").and_then(Value::as_u64).filter(|version| *version > 0);
    Ok(match server {
        Some(version) => format!("Patroni {agent} PostgreSQL {}", server_version(version)),
        None => format!("Patroni {agent}"),
    })
}

/// PostgreSQL's version number as people know it.
fn server_version(number: u64) -> String {
    if number < 100_000 {
        format!("{}.{}.{}", number / 10_000, number / 100 % 100, number % 100)
    } else {
        format!("{}.{}", number / 10_000, number % 100)
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn server_versions_have_two_parts_since_10() {
        for (number, text) in [(150_020, "15.20"), (90_624, "9.6.24"), (100_000, "10.0")] {
            assert_eq!(super::server_version(number), text);
        }
    }
}
