//! `edit-config`: the dynamic configuration is changed by options, by files, or in an editor.
//!
//! Options are applied in a fixed order, each to the result of the one before: replace, apply, set. What was read is
//! what the change is written against: if somebody else writes in the meantime, nothing happens.

mod change;

use std::fs;

use serde_json::{Map, Value};

use dcs_core::Write;
use dcs_core::codec::merge_patch;

use self::change::{assign, parse_object, same_data};
use crate::config::yaml;
use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::diff;
use crate::ctl::failure::Failure;

/// What was asked for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// Whether the difference is not shown.
    pub quiet: bool,
    /// Whether nothing may be asked.
    pub force: bool,
    /// The changes; the editor if there are none.
    pub requested: Requested,
}

/// Changes given on the command line.
#[derive(Clone, Debug, Default)]
pub struct Requested {
    /// The new configuration.
    pub replace: Option<Input>,
    /// What is merged into it.
    pub apply: Option<Input>,
    /// `KEY=VALUE` each; PostgreSQL's parameters have their prefix already.
    pub assignments: Vec<String>,
}

/// Where a document comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The rest of standard input.
    Standard,
    /// This file.
    File(String),
}

impl Input {
    /// What was typed: a file name, or `-`.
    pub fn named(name: String) -> Self {
        if name == "-" { Self::Standard } else { Self::File(name) }
    }

    async fn read(&self, context: &mut Context) -> Result<Map<String, Value>, Failure> {
        let (name, read) = match self {
            Self::Standard => ("standard input", context.console.rest_of_input().await),
            Self::File(name) => (name.as_str(), fs::read_to_string(name)),
        };
        let text = read.map_err(|error| Failure::error(format!("{name} cannot be read: {error}")))?;
        parse_object(&text, name)
    }
}

impl Requested {
    fn is_nothing(&self) -> bool {
        self.replace.is_none() && self.apply.is_none() && self.assignments.is_empty()
    }

    fn uses_standard_input(&self) -> bool {
        [&self.replace, &self.apply].into_iter().any(|input| *input == Some(Input::Standard))
    }

    async fn apply_to(&self, context: &mut Context, config: &Map<String, Value>) -> Result<Map<String, Value>, Failure> {
        let mut changed = config.clone();
        if let Some(input) = &self.replace {
            let document = input.read(context).await?;
            changed = Map::new();
            merge_patch(&mut changed, &document);
        }
        if let Some(input) = &self.apply {
            let document = input.read(context).await?;
            merge_patch(&mut changed, &document);
        }
        for assignment in &self.assignments {
            assign(&mut changed, assignment)?;
        }
        Ok(changed)
    }
}

/// Changes the configuration.
///
/// # Errors
///
/// There is none, the change cannot be read, or somebody else changed it in the meantime.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let cluster = context.open(&options.target).await?;
    let view = cluster.load().await?;
    let config = view.config.ok_or_else(|| Failure::error(format!("The config key does not exist in the cluster {}", cluster.name)))?;
    let data = config.data.unwrap_or_default();
    let before = document(&data);

    let (after, changed) = if options.requested.is_nothing() {
        edit(context, &before, &cluster.name).await?
    } else {
        let changed = options.requested.apply_to(context, &data).await?;
        (document(&changed), changed)
    };
    if same_data(&data, &changed) {
        return if options.quiet { Ok(()) } else { context.console.line("Not changed") };
    }
    if !options.quiet {
        show(context, &diff::unified(&before, &after)).await?;
    }
    if !options.force {
        if options.requested.uses_standard_input() {
            return context.console.line("Use --force option to apply changes");
        }
        if !context.console.confirm("Apply these changes?").await? {
            return Ok(());
        }
    }
    let written = cluster.dcs.set_config(&changed, Some(&config.revision), cluster.deadline()).await;
    match written.map_err(|error| cluster.unusable(&error))? {
        Write::Applied(_) => context.console.line("Configuration changed"),
        Write::Refused => Err(Failure::error("Config modification aborted due to concurrent changes")),
    }
}

fn document(data: &Map<String, Value>) -> String {
    yaml::block(&Value::Object(data.clone()))
}

/// Has the user edit the text; text that is not a configuration is kept in its file.
async fn edit(context: &Context, before: &str, cluster: &str) -> Result<(String, Map<String, Value>), Failure> {
    let prefix = format!("{}-config-", cluster.replace('/', "_"));
    let edited = context.programs.edit(before, &prefix).await?;
    match parse_object(&edited.text, "the edited text") {
        Ok(changed) => Ok((edited.text, changed)),
        Err(failure) => {
            let kept = edited.keep()?;
            Err(Failure::error(format!(
                "{failure}\n\nhint: nothing was changed, and your text is kept in `{0}`. Correct it and call edit-config \
                 with `--replace {0}`",
                kept.display()
            )))
        }
    }
}

async fn show(context: &mut Context, diff: &str) -> Result<(), Failure> {
    if !context.console.is_terminal() {
        return context.console.write(diff);
    }
    let text = if context.programs.no_colour { diff.to_owned() } else { diff::coloured(diff) };
    context.programs.page(&text).await
}
