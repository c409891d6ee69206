//! What happened, in the order in which it happened: for people who read a failing history, and as one number, by which two
//! runs of a seed are compared.

use std::cell::Cell;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::Name;

thread_local! {
    /// Who is running on this thread, and when it is.
    static HERE: Cell<(Name, Duration)> = const { Cell::new(("", Duration::ZERO)) };
}

/// Notes whose turn it is: log lines do not say from which agent they come.
pub fn enter(node: Name, now: Duration) {
    HERE.set((node, now));
}

/// The history of one run.
#[derive(Debug, Default)]
pub struct Trace {
    hasher: DefaultHasher,
    lines: Vec<String>,
    keep: bool,
}

impl Trace {
    /// An empty one; lines are only kept if somebody is going to read them.
    pub fn new(keep: bool) -> Self {
        Self { keep, ..Self::default() }
    }

    fn add(&mut self, now: Duration, who: &str, what: &str) {
        let line = format!("{:>9.3} {who:<5} {what}", now.as_secs_f64());
        self.hasher.write(line.as_bytes());
        if self.keep {
            self.lines.push(line);
        }
    }

    /// Stands for the whole history.
    pub fn hash(&self) -> u64 {
        self.hasher.finish()
    }

    /// The lines, if they were kept.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// A history that the world and the agents' logs write to.
#[derive(Clone, Debug)]
pub struct SharedTrace(Arc<Mutex<Trace>>);

impl SharedTrace {
    /// An empty one.
    pub fn new(keep: bool) -> Self {
        Self(Arc::new(Mutex::new(Trace::new(keep))))
    }

    /// The history, to look at.
    pub fn lock(&self) -> MutexGuard<'_, Trace> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that something happened at `who`.
    pub fn note(&self, now: Duration, who: &str, what: &str) {
        self.lock().add(now, who, what);
    }
}

/// The agents' logs as a part of the history.
impl Subscriber for SharedTrace {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= &tracing::Level::INFO
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(format!("[{}] ", event.metadata().level().as_str().to_lowercase()));
        event.record(&mut text);
        let (node, now) = HERE.get();
        self.note(now, node, &text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string does not fail.
        let _ = if field.name() == "message" { write!(self.0, "{value:?}") } else { write!(self.0, " {}={value:?}", field.name()) };
    }
}
