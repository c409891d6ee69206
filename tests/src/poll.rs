//! Waiting for something to become true.
//!
//! Level-triggered and bounded: the question is asked again until the answer is yes, and a wait that ends without it says what was seen last.

use std::time::Duration;

use anyhow::{Result, anyhow};
use tokio::time::{Instant, sleep, timeout_at};

/// How long a wait may take unless it says otherwise: long enough for a busy machine, since nothing that works comes near it.
pub const PATIENCE: Duration = Duration::from_secs(90);

const PAUSE: Duration = Duration::from_millis(100);

/// Asks `probe` until it answers, for at most `limit`.
///
/// An error of the probe means "not yet", and its text is the state that was seen.
///
/// # Errors
///
/// When the time is over: what was awaited, and the last thing seen.
pub async fn until<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + limit;
    let mut seen = anyhow!("nothing: the first look did not end");
    loop {
        match timeout_at(deadline, probe()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => seen = error,
            Err(_) => {}
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(anyhow!("waited {limit:?} in vain for this: {what}\n  last seen: {seen:#}"));
        }
        sleep(PAUSE).await;
    }
}
