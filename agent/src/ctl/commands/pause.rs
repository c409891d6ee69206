//! `pause` and `resume`: maintenance mode.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use dcs_core::model::{ClusterView, MemberName, Revision};

use crate::ctl::arguments::Target;
use crate::ctl::context::{Cluster, Context};
use crate::ctl::failure::Failure;
use crate::ctl::{members, summary, time};

/// How often the store is asked whether everybody has understood.
const POLL: Duration = Duration::from_secs(1);

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// Whether to pause; otherwise to resume.
    pub pause: bool,
    /// Whether to wait until all members have understood.
    pub wait: bool,
}

/// Asks the first member that answers to change the mode.
///
/// # Errors
///
/// The mode is set already, or nobody answers. A refusal is printed and is no error.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    let pause = options.pause;
    if summary::modes(&view).pause == pause {
        return Err(Failure::error(format!("Cluster is {} paused", if pause { "already" } else { "not" })));
    }
    let body = json!({ "pause": if pause { json!(true) } else { json!(null) } });
    for member in members::leader_first(&view) {
        let answer = match context.call(&member, Method::PATCH, Some("config"), Some(&body)).await {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::warn!("{reason}");
                tracing::warn!("Member {} is not accessible", member.name);
                continue;
            }
        };
        return match answer.status {
            200 if options.wait => wait(context, &cluster, &view, pause).await,
            200 => context.console.line(success(pause)),
            code => context.console.line(format!("Failed: {} cluster management status code={code}, ({})", word(pause), answer.text)),
        };
    }
    Err(Failure::error("Can not find accessible cluster member"))
}

fn word(pause: bool) -> &'static str {
    if pause { "pause" } else { "resume" }
}

fn success(pause: bool) -> String {
    format!("Success: cluster management is {}", if pause { "paused" } else { "resumed" })
}

/// Waits until every member that was reachable before publishes the mode. Members that do not even refresh their key in
/// the meantime are dead, and do not count.
async fn wait(context: &mut Context, cluster: &Cluster, before: &ClusterView, pause: bool) -> Result<(), Failure> {
    context.console.line(format!("'{}' request sent, waiting until it is recognized by all nodes", word(pause)))?;
    let reachable = before.members.iter().filter(|member| member.record.api_url.is_some());
    let known: BTreeMap<MemberName, Revision> = reachable.map(|member| (member.name.clone(), member.revision.clone())).collect();
    let loop_wait = summary::modes(before).loop_wait;
    let end = Instant::now() + loop_wait + Duration::from_secs(1);
    loop {
        let view = cluster.load().await?;
        let missing: Vec<_> =
            view.members.iter().filter(|member| known.contains_key(&member.name) && member.record.pause != pause).collect();
        if missing.is_empty() {
            break;
        }
        if Instant::now() + POLL >= end {
            let alive = missing.iter().filter(|member| known.get(&member.name) != Some(&member.revision));
            let names: Vec<_> = alive.map(|member| member.name.as_str()).collect();
            if names.is_empty() {
                break;
            }
            return context.console.line(format!(
                "{} members didn't recognized pause state after {} seconds",
                names.join(", "),
                time::plain_seconds(loop_wait)
            ));
        }
        sleep(POLL).await;
    }
    context.console.line(success(pause))
}
