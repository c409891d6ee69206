//! Telling what is wrong with a command line: usage line, hint, and one sentence.

use std::ffi::OsString;
use std::path::Path;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::typed::Typed;
use crate::ctl::failure::Failure;

/// The name that the tool was called by.
pub(super) fn program(first: Option<&OsString>) -> String {
    let name = first.and_then(|first| Path::new(first).file_name()).map(|name| name.to_string_lossy().into_owned());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "quoratectl".to_owned())
}

/// Whether help was asked for.
pub(super) fn is_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelp
}

/// The failure for what clap could not understand.
pub(super) fn failure(program: &str, arguments: &[OsString], error: &clap::Error) -> Failure {
    let tool = Typed::command();
    let command = arguments.iter().skip(1).filter_map(|argument| argument.to_str()).find(|word| tool.find_subcommand(word).is_some());
    match command {
        Some(command) => of_command(program, command, message(error)),
        None => Failure::Usage { usage: usage_line(program, None), command: program.to_owned(), message: message(error) },
    }
}

/// A failure of one command's arguments.
pub(super) fn of_command(program: &str, command: &str, message: String) -> Failure {
    Failure::Usage { usage: usage_line(program, Some(command)), command: format!("{program} {command}"), message }
}

fn usage_line(program: &str, command: Option<&str>) -> String {
    let mut tool = Typed::command();
    let named = match command.and_then(|name| tool.find_subcommand_mut(name)) {
        Some(command) => {
            let name = format!("{program} {}", command.get_name());
            command.clone().bin_name(name)
        }
        None => tool.bin_name(program),
    };
    // Arguments without brackets, as Patroni's tool shows them.
    let usage = named.clone().render_usage().to_string().replace("Usage: quoratectl ", &format!("Usage: {program} "));
    usage.replace("<COMMAND>", "COMMAND [ARGS]...").replace(['<', '>'], "")
}

fn message(error: &clap::Error) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let argument = text(ContextKind::InvalidArg);
    let value = text(ContextKind::InvalidValue);
    match error.kind() {
        ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "Missing command.".to_owned(),
        ErrorKind::InvalidSubcommand => format!("No such command '{}'.", text(ContextKind::InvalidSubcommand)),
        ErrorKind::MissingRequiredArgument => {
            let name = argument.trim_matches(['<', '>', '.', '[', ']']);
            format!("Missing argument '{}'.", name.rsplit(' ').next().unwrap_or(name))
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => match text(ContextKind::SuggestedArg) {
            near if near.is_empty() => format!("No such option '{argument}'."),
            near => format!("No such option '{argument}'. Did you mean '{near}'?"),
        },
        ErrorKind::UnknownArgument => format!("Got unexpected extra argument ({argument})"),
        ErrorKind::InvalidValue if value.is_empty() => format!("Option {} requires an argument.", options(&argument)),
        ErrorKind::InvalidValue => {
            let allowed = match error.get(ContextKind::ValidValue) {
                Some(ContextValue::Strings(values)) => values.iter().map(|value| format!("'{value}'")).collect::<Vec<_>>().join(", "),
                _ => String::new(),
            };
            format!("Invalid value for {}: '{value}' is not one of {allowed}.", options(&argument))
        }
        ErrorKind::ValueValidation => {
            let number = if argument.contains("FLOAT") { "float" } else { "integer" };
            format!("Invalid value for {}: '{value}' is not a valid {number}.", options(&argument))
        }
        _ => {
            let rendered = error.render().to_string();
            let first = rendered.lines().next().unwrap_or_default();
            first.strip_prefix("error: ").unwrap_or(first).to_owned()
        }
    }
}

/// `--format <FORMAT>` as `'--format' / '-f'`.
fn options(argument: &str) -> String {
    let long = argument.split(' ').next().unwrap_or(argument).trim_matches(['<', '>', '[', ']', '.']);
    let tool = Typed::command();
    let short = tool
        .get_subcommands()
        .flat_map(clap::Command::get_arguments)
        .find(|known| known.get_long().is_some_and(|name| long.strip_prefix("--") == Some(name)))
        .and_then(clap::Arg::get_short);
    match short {
        Some(short) => format!("'{long}' / '-{short}'"),
        None => format!("'{long}'"),
    }
}
