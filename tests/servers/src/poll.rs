//! Waiting for something to become true.

use std::time::Duration;

use tokio::time::Instant;

/// Asks again and again, and tells what was seen last if it never becomes true.
///
/// # Panics
///
/// It did not become true within `patience`.
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
