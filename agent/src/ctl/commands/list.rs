//! `list` and `topology`: the members of clusters.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::member_table::{self, Shown};
use crate::ctl::output::Format;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The clusters; the configured scope if there are none.
    pub clusters: Vec<String>,
    /// The Citus group.
    pub group: Option<u32>,
    /// Whether restarts and tags are always shown.
    pub extended: bool,
    /// Whether the time is printed first.
    pub timestamp: bool,
    /// The format.
    pub format: Format,
    /// How often to repeat; once if absent.
    pub every: Option<Duration>,
}

/// Prints the tables, once or again and again.
///
/// # Errors
///
/// A cluster cannot be read.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let mut names = options.clusters.clone();
    if names.is_empty() {
        names.extend(context.settings.scope.clone());
    }
    if names.is_empty() {
        tracing::warn!("Listing members: No cluster names were provided");
        return Ok(());
    }
    let mut clusters = Vec::new();
    for name in names {
        let target = Target { cluster: Some(name), group: options.group, group_from_configuration: false };
        clusters.push(context.open(&target).await?);
    }
    loop {
        let started = Instant::now();
        if options.every.is_some() {
            context.console.clear()?;
        }
        if options.timestamp {
            let now = context.time.seconds();
            context.console.line(now)?;
        }
        for cluster in &clusters {
            let view = cluster.load().await?;
            let shown = Shown { name: &cluster.name, group: cluster.group, extended: options.extended, format: options.format };
            context.console.write(&member_table::render(&view, shown))?;
        }
        let Some(every) = options.every else { return Ok(()) };
        sleep_until(started.checked_add(every).unwrap_or_else(|| started + Duration::from_secs(86_400))).await;
    }
}
