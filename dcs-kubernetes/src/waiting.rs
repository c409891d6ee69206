//! Sleeping until something of interest changes.

use std::time::Duration;

use dcs_core::{Change, ChangeKind, Changes, Deadline, Interest, Wake};
use tokio::time::{Instant, sleep_until};

use crate::known::Known;
use crate::store::Kubernetes;

/// How much longer than asked everybody but the leader waits, so that they run just after it and see what it wrote.
const FOLLOWER_DELAY: Duration = Duration::from_millis(500);

/// A moment after the leader's time is over, it is.
const AFTER_EXPIRY: Duration = Duration::from_millis(10);

impl Kubernetes {
    pub(crate) async fn wait_for(&self, interest: Interest, timeout: Duration) -> Wake {
        let longer = if interest.status { FOLLOWER_DELAY } else { Duration::ZERO };
        let deadline = Deadline::after(timeout + longer);
        tokio::select! {
            // A wake-up that is there already counts first.
            biased;
            () = self.wake.notified() => Wake::Changed,
            wake = self.changed(interest, deadline) => wake,
        }
    }

    async fn changed(&self, interest: Interest, deadline: Deadline) -> Wake {
        // Whoever has loaded nothing cannot be told what changed since.
        if self.known().is_none() {
            sleep_until(deadline.instant()).await;
            return Wake::TimedOut;
        }
        self.watch();
        let mut changes = self.shared.cache.changes();
        loop {
            changes.borrow_and_update();
            if self.has_news(interest, deadline).await {
                // Reported once is enough: if the next load fails, the one after that shows it all the same.
                *self.known() = Some(Known::of(&self.shared.cache.content()));
                return Wake::Changed;
            }
            if deadline.has_passed() {
                return Wake::TimedOut;
            }
            // An expiry is no event of anybody's.
            let expires = self.shared.cache.lock().expires_at.map(|at| at.saturating_since(self.shared.clock.now()) + AFTER_EXPIRY);
            let until = expires.map_or(deadline.instant(), |left| deadline.instant().min(Instant::now() + left));
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    async fn has_news(&self, interest: Interest, deadline: Deadline) -> bool {
        let changes = self.news(interest);
        if changes.keys.is_empty() {
            return false;
        }
        // A watch can be faster than the answer to our own write that it reports.
        if !self.shared.own_writes.settle(&changes, deadline).await {
            return true;
        }
        !self.news(interest).keys.is_empty()
    }

    fn news(&self, interest: Interest) -> Changes {
        let now = Known::of(&self.shared.cache.content());
        let known = self.known();
        let before = known.as_ref();
        let names = before.map_or_else(Vec::new, |known| known.news(&now, interest, &self.shared.names, self.shared.name.as_str()));
        let keys = names.into_iter().map(|name| Change { key: name.to_owned(), kind: ChangeKind::Changed, revision: None, entry: None });
        Changes { keys: keys.collect(), ..Changes::default() }
    }
}
