//! Sleeping until something of interest changes.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::KeyValueDcs;
use super::known::{Watcher, Worth};
use crate::{Changes, Consistency, Deadline, Error, Interest, Wake};

/// The pause after a failed attempt to wait. A dead store times out; it never makes the caller spin.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The least time between two attempts that brought nothing and cannot say why they ended.
const PAUSE_AFTER_NOTHING: Duration = Duration::from_millis(200);

/// What one look at the store said.
enum Look {
    /// Something of interest may have changed.
    Relevant,
    /// Only what is of no interest; there may be more at once.
    Irrelevant,
    /// Nothing that could be named.
    Nothing,
}

impl KeyValueDcs {
    pub(super) async fn wait_for(&self, interest: Interest, timeout: Duration) -> Wake {
        let longer = if interest.status { self.store.capabilities().follower_delay } else { Duration::ZERO };
        let deadline = Deadline::after(timeout + longer);
        tokio::select! {
            // A wake-up that is there already counts first.
            biased;
            () = self.wake.notified() => Wake::Changed,
            wake = self.watch(interest, deadline) => wake,
        }
    }

    async fn watch(&self, interest: Interest, deadline: Deadline) -> Wake {
        // Whoever has loaded nothing cannot be told what changed since.
        if self.known().cursor().is_none() {
            sleep_until(deadline.instant()).await;
            return Wake::TimedOut;
        }
        while !deadline.has_passed() {
            let pause = match deadline.bound("wait for a change", self.look(interest, deadline)).await {
                Ok(Ok(Look::Relevant)) => return Wake::Changed,
                Ok(Ok(Look::Irrelevant)) => continue,
                Ok(Ok(Look::Nothing)) => PAUSE_AFTER_NOTHING,
                Ok(Err(error)) => {
                    tracing::debug!(error = error.chain(), "the watch failed; waiting again");
                    PAUSE_AFTER_FAILURE
                }
                Err(_) => break,
            };
            sleep_until(deadline.instant().min(Instant::now() + pause)).await;
        }
        Wake::TimedOut
    }

    async fn look(&self, interest: Interest, deadline: Deadline) -> Result<Look, Error> {
        let watcher = Watcher { path: &self.path, name: &self.name, interest };
        let after = self.known().cursor().unwrap_or_default();
        let Changes { keys, unnamed, cursor } = self.store.wait_for_changes(self.path.prefix(), after, deadline).await?;
        if unnamed {
            // Something was missed. Reading again finds it, if it is still to be seen.
            let now = self.store.read(self.path.prefix(), Consistency::Relaxed, deadline).await?;
            let mut known = self.known();
            let relevant = known.differs(&now, &watcher);
            known.reported(cursor.max(now.cursor));
            return Ok(if relevant { Look::Relevant } else { Look::Nothing });
        }
        let worth = self.known().worth(&keys, &watcher);
        let relevant = match worth {
            Worth::Waking => true,
            Worth::Reading(keys) => self.any_tells_another_state(keys, deadline).await?,
            Worth::Nothing => false,
        };
        let mut known = self.known();
        // Reported once is enough: if the next load fails, the one after that shows it all the same, and the caller
        // must not be woken again and again by a change that it cannot read.
        known.reported(cursor);
        Ok(match (relevant, keys.is_empty()) {
            (true, _) => Look::Relevant,
            (false, false) => Look::Irrelevant,
            (false, true) => Look::Nothing,
        })
    }

    /// Whether one of these members' keys says another state than when it was loaded. Of a watch that names keys and does not tell
    /// what is in them; one small read costs less than a cycle of the caller for every position that a member publishes.
    async fn any_tells_another_state(&self, keys: BTreeSet<String>, deadline: Deadline) -> Result<bool, Error> {
        for key in keys {
            let now = self.store.get(&key, deadline).await?;
            if now.is_some_and(|entry| self.known().tells_another_state(&entry)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
