//! What pure functions have to say to the operator, as values: the caller logs them, tests read them.

/// One line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// How much it matters.
    pub(crate) level: Level,
    /// The words.
    pub(crate) text: String,
}

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// It happened.
    Info,
    /// Somebody should know.
    Warning,
}

impl Line {
    /// A line about something that happened.
    pub(crate) fn info(text: impl Into<String>) -> Self {
        Self { level: Level::Info, text: text.into() }
    }

    /// A line that somebody should know of.
    pub(crate) fn warning(text: impl Into<String>) -> Self {
        Self { level: Level::Warning, text: text.into() }
    }

    /// Writes the line to the log.
    pub(crate) fn emit(&self) {
        match self.level {
            Level::Info => tracing::info!("{}", self.text),
            Level::Warning => tracing::warn!("{}", self.text),
        }
    }
}
