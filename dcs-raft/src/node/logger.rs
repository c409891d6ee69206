//! What the `raft` crate logs with slog, in our log.

use std::fmt::{self, Write as _};

use slog::{Drain, KV, Key, Level, Logger, OwnedKVList, Record, Serializer, o};

/// A logger whose lines come out through tracing, one level lower than they were meant: what matters to operators is
/// logged by ourselves, in their words.
pub(super) fn into_tracing() -> Logger {
    Logger::root(IntoTracing, o!())
}

struct IntoTracing;

impl Drain for IntoTracing {
    type Ok = ();
    type Err = slog::Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), slog::Never> {
        match record.level() {
            Level::Critical => tracing::error!("{}", text(record)),
            Level::Error | Level::Warning => tracing::debug!("{}", text(record)),
            Level::Info | Level::Debug | Level::Trace => {
                if tracing::enabled!(tracing::Level::TRACE) {
                    tracing::trace!("{}", text(record));
                }
            }
        }
        Ok(())
    }
}

fn text(record: &Record<'_>) -> String {
    let mut text = Text(record.msg().to_string());
    // Writing to a string does not fail.
    let _ = record.kv().serialize(record, &mut text);
    text.0
}

struct Text(String);

impl Serializer for Text {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key}: {value}").map_err(slog::Error::Fmt)
    }
}
