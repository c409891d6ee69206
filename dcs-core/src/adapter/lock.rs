//! The leader lock.

use std::sync::{MutexGuard, PoisonError};

use super::KeyValueDcs;
use crate::codec;
use crate::keys::Key;
use crate::model::{Leader, Lsn, MemberName, Status};
use crate::tries::Tries;
use crate::{Acquisition, Deadline, Deletion, Entry, Error, Grip, LeaderLease, LockAttempt, LockRenewal, Moment, Renewal};

/// How the lock may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Only if nobody holds it.
    CreateOnly,
    /// Whatever is there, on stores that have a safe form of that.
    Overwrite,
}

impl KeyValueDcs {
    pub(super) async fn acquire(&self, how: How, deadline: Deadline) -> Result<Acquisition, Error> {
        let key = self.key(Key::Leader);
        let mut tries = self.tries("acquire the leader lock", deadline);
        self.finish_release(deadline).await?;
        loop {
            let sent_at = self.clock.now();
            let attempt = match how {
                How::CreateOnly => self.store.acquire_lock(&key, self.name.as_str(), deadline),
                How::Overwrite => self.store.take_lock(&key, self.name.as_str(), deadline),
            };
            match tries.run(attempt).await {
                Ok(LockAttempt::Won(grip)) => return Ok(Acquisition::Won(self.hold(&key, grip, sent_at))),
                Ok(LockAttempt::Held(entry)) => return self.judge_held(&key, entry, &mut tries, deadline).await,
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// The key exists. Usually somebody was faster. But it is ours if an earlier attempt of this call was applied and
    /// its answer got lost, or if we held the lock all along: then it carries our name and our current handle.
    async fn judge_held(
        &self,
        key: &str,
        mut entry: Option<Entry>,
        tries: &mut Tries<'_>,
        deadline: Deadline,
    ) -> Result<Acquisition, Error> {
        while entry.is_none() {
            match tries.run(self.store.get(key, deadline)).await {
                Ok(found) => {
                    entry = found;
                    break;
                }
                Err(error) if tries.may_have_been_applied() => tries.after(error).await?,
                Err(_) => break,
            }
        }
        let Some(entry) = entry else { return Ok(Acquisition::Lost(None)) };
        if self.store.capabilities().liveness_per_key && tries.have_failed() && self.is_ours(&entry) {
            return self.prove_by_renewing(key, &entry, tries, deadline).await;
        }
        // The proof is that of the handle: the key was seen bound to it, and lives until it ends.
        let handle = self.store.handle().filter(|handle| entry.handle.as_ref() == Some(&handle.id));
        match handle {
            Some(handle) if self.is_ours(&entry) && handle.lease.is_valid(self.clock.now()) => {
                self.known().wrote(key, &entry.value, &entry.revision, entry.handle.clone());
                Ok(Acquisition::Won(handle.lease))
            }
            _ => Ok(Acquisition::Lost(holder(&entry))),
        }
    }

    /// The key holds our name after an attempt that failed, and no handle tells which process of ours wrote it. The
    /// name is what counts, and a renewal both says whose the key is and counts the lease from now on.
    async fn prove_by_renewing(&self, key: &str, entry: &Entry, tries: &mut Tries<'_>, deadline: Deadline) -> Result<Acquisition, Error> {
        loop {
            let sent_at = self.clock.now();
            match tries.run(self.store.renew_lock(key, self.name.as_str(), entry, deadline)).await {
                Ok(LockRenewal::Kept(grip)) => return Ok(Acquisition::Won(self.hold(key, grip, sent_at))),
                Ok(LockRenewal::Moved(_) | LockRenewal::Lost) => return Ok(Acquisition::Lost(None)),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    pub(super) async fn renew(&self, seen: &Leader, deadline: Deadline) -> Result<Renewal, Error> {
        let key = self.key(Key::Leader);
        let mut seen = Entry {
            key: key.clone(),
            value: seen.name.as_str().as_bytes().to_vec(),
            revision: seen.revision.clone(),
            handle: seen.handle.clone(),
        };
        let mut tries = self.tries("renew the leader lock", deadline);
        self.finish_release(deadline).await?;
        loop {
            let sent_at = self.clock.now();
            let attempt = self.store.renew_lock(&key, self.name.as_str(), &seen, deadline);
            match tries.run(attempt).await {
                Ok(LockRenewal::Kept(grip)) => return Ok(Renewal::Renewed(self.hold(&key, grip, sent_at))),
                // The view is older than the last change of our own key.
                Ok(LockRenewal::Moved(entry)) => seen = entry,
                Ok(LockRenewal::Lost) => return Ok(Renewal::Lost),
                // Renewing again is harmless, and says truthfully whose the key is then.
                Err(error) => tries.after(error).await?,
            }
        }
    }

    pub(super) async fn release(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error> {
        let key = self.key(Key::Leader);
        let mut tries = self.tries("release the leader lock", deadline);
        let mut position = last_lsn;
        loop {
            // A node that does not hold the lock must not touch `status` either, so this comes first.
            let held = match tries.run(self.store.get(&key, deadline)).await {
                Ok(entry) => entry.filter(|entry| self.is_ours(entry)),
                Err(error) => {
                    tries.after(error).await?;
                    continue;
                }
            };
            let Some(held) = held else {
                // Nobody else deletes a key of ours, so if it is gone an attempt without answer has done it.
                return Ok(self.releasing().take().is_some());
            };
            if let Some(position) = position.take() {
                self.write_final_position(position, deadline).await;
            }
            match tries.run(self.release_once(&held, deadline)).await {
                Ok(true) => return Ok(true),
                // It changed since the look just now: look again.
                Ok(false) => {}
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Deletes the lock if it is still `held`, and remembers that this is under way until an answer has come.
    async fn release_once(&self, held: &Entry, deadline: Deadline) -> Result<bool, Error> {
        *self.releasing() = Some(held.clone());
        let deletion = self.store.release_lock(&held.key, held, deadline).await?;
        *self.releasing() = None;
        let Deletion::Deleted(revision) = deletion else { return Ok(false) };
        self.known().deleted(&held.key, revision.as_ref());
        Ok(true)
    }

    /// Ends a release that got no answer before the lock is believed to be ours again. A renewal leaves the key as it is,
    /// so the release, if the network still delivers it, would delete a lock that somebody acts upon.
    async fn finish_release(&self, deadline: Deadline) -> Result<(), Error> {
        let Some(held) = self.releasing().clone() else { return Ok(()) };
        let mut tries = self.tries("finish releasing the leader lock", deadline);
        loop {
            match tries.run(self.release_once(&held, deadline)).await {
                // Deleted by this or an earlier attempt: either way nothing is left that a late one could delete.
                Ok(_) => return Ok(()),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    fn releasing(&self) -> MutexGuard<'_, Option<Entry>> {
        self.releasing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes the position into `status`, beside the slots that are there. Whatever goes wrong, the lock is released all
    /// the same: the next leader can do without the position, but not without the lock. So this may use up at most half
    /// of the time that is left.
    async fn write_final_position(&self, last_lsn: Lsn, deadline: Deadline) {
        let deadline = deadline.at_most(deadline.remaining() / 2);
        let key = self.key(Key::Status);
        if let Ok(Ok(Some(entry))) = deadline.bound("read the status", self.store.get(&key, deadline)).await {
            self.known().saw(entry);
        }
        let stored = self.known().entry(&key).map(|entry| codec::decode_status(&entry.value).value).unwrap_or_default();
        let status = Status { last_lsn, ..stored };
        if let Err(error) = self.write_changed_status(&status, false, deadline).await {
            tracing::info!(error = error.chain(), "the final position could not be written");
        }
    }

    /// Notes a confirmed lock, and returns the proof of it: never counted from after the request was sent, whatever the
    /// store says.
    fn hold(&self, key: &str, grip: Grip, sent_at: Moment) -> LeaderLease {
        if let Some(revision) = &grip.written {
            let handle = self.store.handle().map(|handle| handle.id);
            self.known().wrote(key, self.name.as_str().as_bytes(), revision, handle);
        }
        if grip.lease.sent_at() <= sent_at {
            return grip.lease;
        }
        LeaderLease::granted(sent_at, grip.lease.valid_until() - grip.lease.sent_at())
    }

    fn is_ours(&self, entry: &Entry) -> bool {
        entry.value == self.name.as_str().as_bytes()
    }
}

fn holder(entry: &Entry) -> Option<MemberName> {
    std::str::from_utf8(&entry.value).ok().filter(|name| !name.is_empty()).map(MemberName::from)
}
