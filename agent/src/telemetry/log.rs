//! The log: a `tracing` layer, a bounded queue, and one thread that writes.
//!
//! ```text
//!   info!(…) ──► LogLayer ──► queue (bounded; full means lost, and counted) ──► thread ──► stderr or patroni.log
//! ```
//!
//! Whoever logs never waits for the destination. Levels, formats and destinations change at run time, in the order of
//! the records around the change.
//!
//! # Conventions
//!
//! - The message is a sentence. Fields follow it as `key=value`.
//! - The field `error` is the reason; on `error!` it is printed apart, with its causes (pass it as `&dyn Error`).
//! - `error!(critical = true, …)` is for what ends the process.
//! - `target: "patroni.ha"` and the like names a component outright, and then the message is printed alone.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::filter::Filter;
use super::format::Formatter;
use super::record::Record;
use super::rolling::RollingFile;
use super::thin::Thinner;
use crate::config::{LogFile, LogLevel, LogSettings};

/// How long a shutdown waits for the last records.
const LAST_RECORDS: Duration = Duration::from_secs(5);

/// The queue was full, or its destination stuck, when the process wanted to end. Its exit status is then 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log could not be written")]
pub struct LogStuck;

/// Where the log goes could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "can't open the log file in `log.dir: {dir}`: {error}\n\nhint: the directory must exist, and this user must be able to write there"
)]
pub struct LogUnavailable {
    dir: String,
    error: io::Error,
}

/// How full the queue is, for the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Records that wait to be written.
    pub waiting: usize,
    /// Records that were lost because the queue was full, since that was last reported.
    pub lost: u64,
}

/// What the thread is told, in order.
enum Item {
    Record(Box<Record>),
    Settings(Box<Settings>),
    Stop,
}

/// What the thread writes with.
struct Settings {
    formatter: Formatter,
    level: LogLevel,
    deduplicate: bool,
    sink: NextSink,
}

enum NextSink {
    Stderr,
    File(RollingFile),
    /// The file that is open, with other limits.
    SameFile(LogFile),
    #[cfg(test)]
    Custom(Box<dyn io::Write + Send>),
}

struct Queue {
    items: VecDeque<Item>,
    records: usize,
    capacity: usize,
}

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    lost: AtomicU64,
    filter: RwLock<Arc<Filter>>,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filter(&self) -> Arc<Filter> {
        Arc::clone(&self.filter.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn push(&self, record: Record) {
        let mut queue = self.queue();
        if queue.records >= queue.capacity {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        queue.push(record);
        if queue.records < queue.capacity {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                queue.push(Record::own(LogLevel::Warning, format!("QueueHandler has lost {lost} log records")));
            }
        }
        drop(queue);
        self.filled.notify_one();
    }

    fn tell(&self, item: Item) {
        self.queue().items.push_back(item);
        self.filled.notify_one();
    }

    fn next(&self) -> Item {
        let mut queue = self.queue();
        loop {
            if let Some(item) = queue.items.pop_front() {
                if matches!(item, Item::Record(_)) {
                    queue.records -= 1;
                }
                return item;
            }
            queue = self.filled.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Queue {
    fn push(&mut self, record: Record) {
        self.items.push_back(Item::Record(Box::new(record)));
        self.records += 1;
    }
}

/// The log of this process.
pub struct Log {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    finished: std::sync::mpsc::Receiver<()>,
    /// The directory of the open file, to know whether new settings mean the same file.
    open_dir: Option<std::path::PathBuf>,
    zone: TimeZone,
    started: Timestamp,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").field("queue", &self.queue_state()).finish_non_exhaustive()
    }
}

impl Log {
    /// Starts the log and makes it that of the whole process. Until [`Log::apply`] says otherwise, everything of ours is
    /// printed on stderr.
    ///
    /// # Errors
    ///
    /// The process has another log already, or no thread could be made.
    pub fn install(level: LogLevel) -> anyhow::Result<Self> {
        let (log, layer) = Self::start(level)?;
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(layer))?;
        Ok(log)
    }

    /// Starts the log without making it that of the process; the layer does nothing until it is used.
    ///
    /// # Errors
    ///
    /// No thread could be made.
    pub fn start(level: LogLevel) -> io::Result<(Self, LogLayer)> {
        let settings = LogSettings { level, ..LogSettings::default() };
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue { items: VecDeque::new(), records: 0, capacity: capacity(&settings) }),
            filled: Condvar::new(),
            lost: AtomicU64::new(0),
            filter: RwLock::new(Arc::new(Filter::new(&settings))),
        });
        let (zone, started) = (TimeZone::system(), Timestamp::now());
        let first =
            Settings { formatter: Formatter::new(&settings, zone.clone(), started), level, deduplicate: false, sink: NextSink::Stderr };
        let (ended, finished) = std::sync::mpsc::channel();
        let writer = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || {
            write_records(&writer, first);
            let _ = ended.send(());
        })?;
        let layer = LogLayer { shared: Arc::clone(&shared) };
        Ok((Self { shared, thread: Some(thread), finished, open_dir: None, zone, started }, layer))
    }

    /// Applies `settings`: levels at once, format and destination to the records from now on.
    ///
    /// # Errors
    ///
    /// The log file could not be opened. Everything stays as it was.
    pub fn apply(&mut self, settings: &LogSettings) -> Result<(), LogUnavailable> {
        let sink = match &settings.file {
            None => NextSink::Stderr,
            Some(file) if self.open_dir.as_ref() == Some(&file.dir) => NextSink::SameFile(file.clone()),
            Some(file) => NextSink::File(
                RollingFile::open(file.clone()).map_err(|error| LogUnavailable { dir: file.dir.display().to_string(), error })?,
            ),
        };
        self.open_dir = settings.file.as_ref().map(|file| file.dir.clone());
        self.apply_to(settings, sink);
        Ok(())
    }

    fn apply_to(&self, settings: &LogSettings, sink: NextSink) {
        self.shared.queue().capacity = capacity(settings);
        *self.shared.filter.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Filter::new(settings));
        tracing::callsite::rebuild_interest_cache();
        self.shared.tell(Item::Settings(Box::new(Settings {
            formatter: Formatter::new(settings, self.zone.clone(), self.started),
            level: settings.level,
            deduplicate: settings.deduplicate_heartbeat_logs,
            sink,
        })));
    }

    /// How full the queue is.
    pub fn queue_state(&self) -> QueueState {
        self.handle().queue_state()
    }

    /// A cheap handle that shows how full the queue is.
    pub fn handle(&self) -> LogHandle {
        LogHandle { shared: Arc::clone(&self.shared) }
    }

    /// Writes what is left and ends the thread. Blocks for a few seconds at most.
    ///
    /// # Errors
    ///
    /// The queue is full or the destination is stuck: some records are lost.
    pub fn shutdown(mut self) -> Result<(), LogStuck> {
        {
            let queue = self.shared.queue();
            if queue.records >= queue.capacity {
                return Err(LogStuck);
            }
        }
        self.shared.tell(Item::Stop);
        self.finished.recv_timeout(LAST_RECORDS).map_err(|_| LogStuck)?;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        Ok(())
    }
}

/// Shows how full the queue is.
#[derive(Clone)]
pub struct LogHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.queue_state().fmt(f)
    }
}

impl LogHandle {
    /// How full the queue is.
    pub fn queue_state(&self) -> QueueState {
        QueueState { waiting: self.shared.queue().records, lost: self.shared.lost.load(Ordering::Relaxed) }
    }
}

/// No limit is a limit that is never reached.
fn capacity(settings: &LogSettings) -> usize {
    match settings.max_queue_size {
        0 => usize::MAX,
        size => size,
    }
}

/// The layer that turns events into records.
pub struct LogLayer {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for LogLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogLayer")
    }
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_event() && self.shared.filter().allows(metadata.target(), *metadata.level())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(if self.shared.filter().most_talkative() == LogLevel::Debug {
            LevelFilter::from_level(Level::DEBUG)
        } else {
            LevelFilter::from_level(Level::INFO)
        })
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.shared.push(Record::of(event));
    }
}

/// The thread: takes records one by one and writes them.
fn write_records(shared: &Shared, first: Settings) {
    let mut thinner = Thinner::default();
    let Settings { mut formatter, mut level, mut deduplicate, .. } = first;
    let mut sink = Sink::Stderr;
    loop {
        match shared.next() {
            Item::Stop => break,
            Item::Settings(settings) => {
                let next;
                Settings { formatter, level, deduplicate, sink: next } = *settings;
                sink.become_next(next);
            }
            Item::Record(record) => {
                for record in thinner.pass(*record, level, deduplicate) {
                    sink.write(formatter.render(&record).as_bytes());
                }
            }
        }
    }
}

enum Sink {
    Stderr,
    File(RollingFile),
    #[cfg(test)]
    Custom(Box<dyn io::Write + Send>),
}

impl Sink {
    fn become_next(&mut self, next: NextSink) {
        match (next, &mut *self) {
            (NextSink::Stderr, _) => *self = Self::Stderr,
            (NextSink::File(file), _) => *self = Self::File(file),
            (NextSink::SameFile(limits), Self::File(file)) => file.set_limits(limits),
            (NextSink::SameFile(limits), _) => {
                if let Ok(file) = RollingFile::open(limits) {
                    *self = Self::File(file);
                }
            }
            #[cfg(test)]
            (NextSink::Custom(writer), _) => *self = Self::Custom(writer),
        }
    }

    /// A log that cannot be written has nowhere to say so but stderr.
    fn write(&mut self, line: &[u8]) {
        match self {
            Self::Stderr => {
                let _ = io::stderr().write_all(line);
            }
            Self::File(file) => {
                if let Err(error) = file.write_line(line) {
                    let _ = writeln!(io::stderr(), "can't write the log in `{}`: {error}", file.dir().display());
                    let _ = io::stderr().write_all(line);
                }
            }
            #[cfg(test)]
            Self::Custom(writer) => {
                let _ = writer.write_all(line);
            }
        }
    }
}

#[cfg(test)]
mod tests;
