use std::sync::mpsc;

use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::*;

/// A destination that keeps what it gets, and can be made to hang.
#[derive(Clone, Default)]
struct Kept {
    text: Arc<Mutex<Vec<u8>>>,
    gate: Arc<Mutex<()>>,
}

impl io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _open = self.gate.lock().expect("not poisoned");
        self.text.lock().expect("not poisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Kept {
    fn lines(&self) -> Vec<String> {
        String::from_utf8(self.text.lock().expect("not poisoned").clone()).expect("UTF-8").lines().map(str::to_owned).collect()
    }
}

fn plain(level: LogLevel) -> LogSettings {
    LogSettings { format: crate::config::LogFormat::Plain("%(levelname)s: %(message)s".to_owned()), level, ..LogSettings::default() }
}

/// Runs `work` with a log of its own and returns what was printed.
fn logged(settings: &LogSettings, work: impl FnOnce(&mut Log, &Kept)) -> Vec<String> {
    let kept = Kept::default();
    let (mut log, layer) = Log::start(LogLevel::Debug).expect("a thread");
    log.apply_to(settings, NextSink::Custom(Box::new(kept.clone())));
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || work(&mut log, &kept));
    log.shutdown().expect("not stuck");
    kept.lines()
}

#[derive(Debug, thiserror::Error)]
#[error("the outer reason")]
struct Outer(#[source] io::Error);

#[test]
fn messages_fields_and_reasons_have_their_places() {
    let lines = logged(&plain(LogLevel::Info), |_, _| {
        info!("no action. I am (n1), a secondary");
        info!(lsn = 17, peer = "n 2", "waiting");
        info!(target: "patroni.ha", hidden = 1, "verbatim");
        debug!("not at this level");
        let reason = Outer(io::Error::other("the inner one"));
        error!(error = &reason as &dyn std::error::Error, "it failed");
        warn!(error = &reason as &dyn std::error::Error, "it failed a little");
        error!(critical = true, "Can't start");
    });
    assert_eq!(
        lines,
        [
            "INFO: no action. I am (n1), a secondary",
            "INFO: waiting lsn=17 peer=\"n 2\"",
            "INFO: verbatim",
            "ERROR: it failed",
            "the outer reason",
            "  caused by: the inner one",
            "WARNING: it failed a little error=\"the outer reason: the inner one\"",
            "CRITICAL: Can't start",
        ]
    );
}

#[test]
fn levels_change_at_run_time() {
    let lines = logged(&plain(LogLevel::Error), |log, kept| {
        info!("before");
        log.apply_to(&plain(LogLevel::Info), NextSink::Custom(Box::new(kept.clone())));
        info!("after");
    });
    assert_eq!(lines, ["INFO: after"]);
}

#[test]
fn a_stuck_destination_never_holds_up_whoever_logs_and_losses_are_counted() {
    let settings = LogSettings { max_queue_size: 3, ..plain(LogLevel::Info) };
    let lines = logged(&settings, |log, kept| {
        let closed = kept.gate.lock().expect("not poisoned");
        info!("first");
        // The thread takes the first record and hangs with it.
        let deadline = Instant::now() + Duration::from_secs(10);
        while log.queue_state().waiting > 0 {
            assert!(Instant::now() < deadline, "the thread did not take the record");
            std::thread::yield_now();
        }
        for number in 0..10 {
            info!("{number}");
        }
        assert_eq!(log.queue_state(), QueueState { waiting: 3, lost: 7 });
        drop(closed);
        while log.queue_state().waiting > 0 {
            assert!(Instant::now() < deadline, "the queue was not emptied");
            std::thread::yield_now();
        }
        info!("last");
    });
    assert_eq!(lines, ["INFO: first", "INFO: 0", "INFO: 1", "INFO: 2", "INFO: last", "WARNING: QueueHandler has lost 7 log records"]);
}

#[test]
fn a_full_queue_at_the_end_is_an_error() {
    let kept = Kept::default();
    let (log, layer) = Log::start(LogLevel::Info).expect("a thread");
    log.apply_to(&LogSettings { max_queue_size: 1, ..plain(LogLevel::Info) }, NextSink::Custom(Box::new(kept.clone())));
    let gate = Arc::clone(&kept.gate);
    let closed = gate.lock().expect("not poisoned");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
        let deadline = Instant::now() + Duration::from_secs(10);
        info!("taken");
        while log.queue_state().waiting > 0 {
            assert!(Instant::now() < deadline, "the thread did not take the record");
            std::thread::yield_now();
        }
        info!("waiting");
    });
    assert_eq!(log.shutdown(), Err(LogStuck));
    drop(closed);
}

#[test]
fn the_log_moves_to_a_file_and_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = LogFile { dir: dir.path().to_owned(), mode: None, file_size: 25_000_000, file_num: 4 };
    let written = || std::fs::read_to_string(dir.path().join("patroni.log")).expect("there");
    let lines = logged(&plain(LogLevel::Info), |log, kept| {
        info!("one");
        let to_file = LogSettings { file: Some(file.clone()), ..plain(LogLevel::Info) };
        log.apply(&to_file).expect("writable");
        info!("two");
        log.apply(&LogSettings { deduplicate_heartbeat_logs: true, ..to_file }).expect("the same file");
        info!("three");
        log.apply_to(&plain(LogLevel::Info), NextSink::Custom(Box::new(kept.clone())));
        info!("four");
    });
    assert_eq!(lines, ["INFO: one", "INFO: four"]);
    assert_eq!(written(), "INFO: two\nINFO: three\n");
}

#[test]
fn a_directory_that_is_not_there_is_named_and_changes_nothing() {
    let lines = logged(&plain(LogLevel::Info), |log, _| {
        let file = LogFile { dir: "/nonexistent".into(), mode: None, file_size: 1, file_num: 1 };
        let error = log.apply(&LogSettings { file: Some(file), ..plain(LogLevel::Error) }).expect_err("not there");
        assert!(error.to_string().contains("`log.dir: /nonexistent`"), "{error}");
        info!("still here");
    });
    assert_eq!(lines, ["INFO: still here"]);
}

#[test]
fn a_quiet_cycle_is_one_line_and_debug_shows_both() {
    let cycle = |_: &mut Log, _: &Kept| {
        info!(target: "ha_engine::driver", "Lock owner: n1; I am n1");
        info!(target: "ha_engine::driver", "no action. I am (n1), the leader with the lock");
    };
    assert_eq!(logged(&plain(LogLevel::Info), cycle).len(), 1);
    assert_eq!(logged(&plain(LogLevel::Debug), cycle).len(), 2);
}

#[test]
fn many_threads_lose_nothing_while_there_is_room() {
    let settings = LogSettings { max_queue_size: 0, ..plain(LogLevel::Info) };
    let kept = Kept::default();
    let (log, layer) = Log::start(LogLevel::Debug).expect("a thread");
    log.apply_to(&settings, NextSink::Custom(Box::new(kept.clone())));
    let subscriber = Arc::new(tracing_subscriber::registry().with(layer));
    let (done, all) = mpsc::channel();
    for _ in 0..4 {
        let (subscriber, done) = (Arc::clone(&subscriber), done.clone());
        std::thread::spawn(move || {
            tracing::subscriber::with_default(subscriber, || (0..500).for_each(|number| info!("{number}")));
            let _ = done.send(());
        });
    }
    (0..4).for_each(|_| all.recv().expect("a thread ended"));
    log.shutdown().expect("not stuck");
    assert_eq!(kept.lines().len(), 2000);
}
