//! Keys that this client is writing just now.
//!
//! A watch can be faster than the answer to the write that it reports. Whoever waits would then be told of a change that
//! nobody knows yet to be our own, and wake for nothing. So a report about such a key is held back until the answer is
//! there. Stores whose watch is served apart from their writes use this in
//! [`wait_for_changes`](crate::KeyValueStore::wait_for_changes).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::{Changes, Deadline};

/// The keys being written, each as often as it is.
#[derive(Debug, Default)]
pub struct OwnWrites {
    keys: Mutex<HashMap<String, usize>>,
    ended: Notify,
}

/// One write, from before it is sent until its answer is there or nobody waits for it any more, which is when this is dropped.
#[derive(Debug)]
pub struct OwnWrite<'a> {
    writes: &'a OwnWrites,
    key: String,
}

impl OwnWrites {
    /// A write of `key` is about to be sent.
    #[must_use = "the write ends when this is dropped"]
    pub fn begin(&self, key: &str) -> OwnWrite<'_> {
        *self.keys().entry(key.to_owned()).or_default() += 1;
        OwnWrite { writes: self, key: key.to_owned() }
    }

    /// Waits until none of `changes` is about a key that is being written, or the deadline passes; `false` if there was
    /// nothing to wait for.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future has no effect.
    pub async fn settle(&self, changes: &Changes, deadline: Deadline) -> bool {
        let mut waited = false;
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            // From here on no end is missed.
            ended.as_mut().enable();
            let pending = {
                let keys = self.keys();
                changes.keys.iter().any(|change| keys.contains_key(&change.key))
            };
            if !pending || deadline.bound("the end of a write", ended).await.is_err() {
                return waited;
            }
            waited = true;
        }
    }

    fn keys(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OwnWrite<'_> {
    fn drop(&mut self) {
        let mut keys = self.writes.keys();
        if let Some(count) = keys.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                keys.remove(&self.key);
            }
        }
        drop(keys);
        self.writes.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Change, ChangeKind};

    #[tokio::test]
    async fn a_report_waits_for_the_answer_to_its_write() {
        let writes = OwnWrites::default();
        let changes = Changes {
            keys: vec![Change { key: "/a".to_owned(), kind: ChangeKind::Changed, revision: None, entry: None }],
            ..Changes::default()
        };
        let soon = || Deadline::after(Duration::from_secs(5));
        assert!(!writes.settle(&changes, soon()).await);
        let other = writes.begin("/b");
        assert!(!writes.settle(&changes, soon()).await);

        let (first, second) = (writes.begin("/a"), writes.begin("/a"));
        let short = Deadline::after(Duration::from_millis(20));
        writes.settle(&changes, short).await;
        assert!(short.has_passed());
        drop(first);
        let end = async {
            tokio::task::yield_now().await;
            drop(second);
        };
        let (waited, ()) = tokio::join!(writes.settle(&changes, soon()), end);
        assert!(waited);
        drop(other);
        assert!(writes.keys().is_empty());
    }
}
