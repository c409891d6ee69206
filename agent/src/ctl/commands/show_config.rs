//! `show-config`: the dynamic configuration.

use serde_json::Value;

use crate::config::yaml;
use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub target: Target,
}

/// Prints it as YAML, with an empty line; nothing if there is none.
///
/// # Errors
///
/// The cluster cannot be read.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let view = context.open(&options.target).await?.load().await?;
    match view.config {
        Some(config) => context.console.line(yaml::block(&Value::Object(config.data.unwrap_or_default()))),
        None => Ok(()),
    }
}
