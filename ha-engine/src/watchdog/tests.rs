use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use dcs_core::BootClock;
use nix::sys::stat::Mode;

use super::*;
use crate::settings::WatchdogMode;

/// A named pipe, and its reader.
struct Pipe {
    _directory: tempfile::TempDir,
    path: PathBuf,
    reader: File,
}

impl Pipe {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("watchdog");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("a named pipe");
        let reader = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&path).expect("readable");
        Self { _directory: directory, path, reader }
    }

    fn settings(&self) -> WatchdogSettings {
        WatchdogSettings { mode: WatchdogMode::Required, device: self.path.clone(), driver: WatchdogDriver::Testing, safety_margin: 5 }
    }

    fn said(&mut self) -> String {
        let mut said = [0; 256];
        let count = self.reader.read(&mut said).unwrap_or(0);
        String::from_utf8_lossy(&said[..count]).into_owned()
    }
}

fn watchdog() -> MachineWatchdog {
    MachineWatchdog::new(Arc::new(BootClock))
}

#[tokio::test]
async fn the_testing_driver_writes_to_a_named_pipe_what_it_would_ask_of_a_device() {
    let (mut pipe, watchdog) = (Pipe::new(), watchdog());
    assert!(watchdog.is_usable(&pipe.settings()).await);
    let info = watchdog.open(&pipe.settings()).await.expect("it opens");
    assert_eq!((info.identity.as_str(), info.can_set_timeout, info.can_be_disabled), ("Watchdog test harness", true, true));
    assert_eq!(watchdog.timeout().await, Ok(60));
    watchdog.set_timeout(25).await.expect("set");
    assert_eq!(watchdog.timeout().await, Ok(25));
    assert_eq!(watchdog.keepalive(BootClock.now() + Duration::from_secs(60)).await, Ok(true));
    assert_eq!(watchdog.keepalive(Moment::ZERO).await, Ok(false), "what was proven is too old");
    watchdog.close().await.expect("closed");
    assert_eq!(pipe.said(), "Ctimeout=25\n1V");
    assert!(watchdog.keepalive(BootClock.now() + Duration::from_secs(60)).await.is_err(), "it is closed");
}

#[tokio::test]
async fn an_agent_that_dies_leaves_the_device_without_the_byte_that_stops_it() {
    let (mut pipe, watchdog) = (Pipe::new(), watchdog());
    watchdog.open(&pipe.settings()).await.expect("it opens");
    watchdog.set_timeout(25).await.expect("set");
    drop(watchdog);
    assert_eq!(pipe.said(), "Ctimeout=25\n");
}

#[tokio::test]
async fn timeouts_that_no_device_can_have_are_refused() {
    let (pipe, watchdog) = (Pipe::new(), watchdog());
    watchdog.open(&pipe.settings()).await.expect("it opens");
    for seconds in [i64::MIN, -1, 0, 65_535, i64::MAX] {
        let refused = WatchdogError(format!("Invalid timeout {seconds}. Supported values are between 1 and 65535"));
        assert_eq!(watchdog.set_timeout(seconds).await, Err(refused));
    }
    for seconds in [1, 65_534] {
        assert_eq!(watchdog.set_timeout(seconds).await, Ok(()));
    }
}

#[tokio::test]
async fn what_is_no_watchdog_device_is_not_taken_for_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let settings = |name: &str| WatchdogSettings { device: directory.path().join(name), ..WatchdogSettings::default() };
    let absent = watchdog();
    assert!(!absent.is_usable(&settings("absent")).await);
    let error = absent.open(&settings("absent")).await.expect_err("there is none");
    assert!(error.0.starts_with("Can't open watchdog device: "), "{error}");

    std::fs::write(directory.path().join("file"), "").expect("written");
    let plain = watchdog();
    let error = plain.open(&settings("file")).await.expect_err("it knows no watchdog requests");
    assert!(error.0.starts_with("Could not get information about watchdog device: "), "{error}");
    assert_eq!(plain.timeout().await, Err(WatchdogError("Watchdog device is closed".to_owned())), "it is not left open");
}
