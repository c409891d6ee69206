//! `history`: the timelines that the cluster has left behind.

use serde_json::{Value, json};

use crate::ctl::arguments::Target;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::output::{EmptyValues, Format, Listing};
use crate::ctl::table::Align;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cluster.
    pub target: Target,
    /// The format.
    pub format: Format,
}

/// Prints the table.
///
/// # Errors
///
/// The cluster cannot be read.
pub async fn run(context: &mut Context, options: Options) -> Result<(), Failure> {
    let view = context.open(&options.target).await?.load().await?;
    let columns =
        vec![("TL", Align::Right), ("LSN", Align::Right), ("Reason", Align::Left), ("Timestamp", Align::Left), ("New Leader", Align::Left)];
    // The stored values are shown as they are; entries of old agents are shorter.
    let full = |entry: &Vec<Value>| {
        let missing = std::iter::repeat(json!(""));
        entry.iter().cloned().chain(missing).take(columns.len()).collect::<Vec<_>>()
    };
    let raw = view.history.map(|history| history.raw).unwrap_or_default();
    let rows = raw.as_array().into_iter().flatten().filter_map(Value::as_array).map(full).collect();
    let listing = Listing { title: String::new(), columns, rows };
    context.console.write(&listing.render(options.format, EmptyValues::Kept))
}
