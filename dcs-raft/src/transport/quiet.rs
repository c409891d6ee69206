//! What happens again and again is logged now and then.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::lock;

/// Lets one line of a kind through in a while, and counts the others.
#[derive(Debug)]
pub(super) struct Quiet {
    every: Duration,
    /// By kind, of which there are few: when a line was let through last, and how many were not since.
    seen: Mutex<HashMap<&'static str, (Instant, u64)>>,
}

impl Quiet {
    /// One line of a kind in this time.
    pub(super) fn new(every: Duration) -> Self {
        Self { every, seen: Mutex::default() }
    }

    /// Whether a line of this kind may be written; then how many were not since the last one.
    pub(super) fn admit(&self, kind: &'static str) -> Option<u64> {
        let now = Instant::now();
        let mut seen = lock(&self.seen);
        match seen.get_mut(kind) {
            Some((last, suppressed)) if now.saturating_duration_since(*last) < self.every => {
                *suppressed += 1;
                None
            }
            _ => Some(seen.insert(kind, (now, 0)).map_or(0, |(_, suppressed)| suppressed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_line_of_each_kind_is_let_through_and_says_how_many_were_not() {
        let quiet = Quiet::new(Duration::from_secs(10));
        assert_eq!(quiet.admit("garbage"), Some(0));
        assert_eq!(quiet.admit("password"), Some(0));
        for _ in 0..3 {
            assert_eq!(quiet.admit("garbage"), None);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(quiet.admit("garbage"), Some(3));
        assert_eq!(quiet.admit("garbage"), None);
        assert_eq!(quiet.admit("password"), Some(0));
    }
}
