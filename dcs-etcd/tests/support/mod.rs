//! Real etcd servers and certificates, for the tests of this crate.

#![allow(dead_code, unreachable_pub, reason = "each test program uses its own part")]

pub mod certificates;
pub mod etcd;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dcs_core::Timing;
use tokio::time::Instant;

/// Short, but long enough for three servers on a busy machine to elect a leader within `retry_timeout`.
pub const TIMING: Timing = Timing { ttl: Duration::from_secs(6), loop_wait: Duration::from_secs(1), retry_timeout: Duration::from_secs(5) };

/// Finds a program as a shell would.
pub fn on_the_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(program)).find(|candidate| is_executable(candidate))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Why these tests cannot run here, in one line; nothing if they can.
pub fn missing() -> Option<String> {
    on_the_path("etcd").is_none().then(|| "no `etcd` on the PATH; `apt-get install etcd-server` installs it".to_owned())
}

/// Says that something did not run and what it lacks: on standard error, and in the file that `make test` prints at its
/// end.
pub fn report_not_run(what: &str, lacking: &str) {
    let line = format!("not run: {what}: {lacking}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("QUORATE_TEST_SKIPPED")
        && let Ok(mut file) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        let _ = std::io::Write::write_all(&mut file, line.as_bytes());
    }
}

/// Whether `test` can run here; says so if not.
pub fn can_run(test: &str) -> bool {
    let lacking = missing();
    lacking.iter().for_each(|lacking| report_not_run(test, lacking));
    lacking.is_none()
}

/// Asks again and again, and tells what was seen last if it never becomes true.
pub async fn eventually<T, F, Fut>(what: &str, patience: Duration, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let begun = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(seen) if begun.elapsed() >= patience => panic!("{what}: not within {patience:?}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
