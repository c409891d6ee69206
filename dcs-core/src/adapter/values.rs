//! The permanent keys.

use serde_json::{Map, Value};

use super::KeyValueDcs;
use crate::codec;
use crate::keys::Key;
use crate::model::{Revision, Status};
use crate::{Deadline, Deletion, Error, Expect, InitializeWrite, Write};

/// What a refusal means after an attempt that got no answer, when the value that is there now is the one we wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Equal {
    /// It does not matter who wrote it: what was wanted is there.
    IsSuccess,
    /// It matters who wrote it, and that cannot be told.
    IsUndecided,
}

impl KeyValueDcs {
    /// Writes a permanent key: compare-and-set if `expected` is given, otherwise unconditional.
    pub(super) async fn set(
        &self,
        key: Key<'_>,
        value: &str,
        expected: Option<&Revision>,
        operation: &'static str,
        deadline: Deadline,
    ) -> Result<Write, Error> {
        let expect = expected.map_or(Expect::Any, Expect::Revision);
        self.put(key, value, expect, Equal::IsSuccess, operation, deadline).await
    }

    /// Writes the synchronous state. Unlike the other keys there is no unconditional form: who has seen none expects none.
    pub(super) async fn write_sync(&self, value: &str, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        let expect = expected.map_or(Expect::Absent, Expect::Revision);
        self.put(Key::Sync, value, expect, Equal::IsSuccess, "write the synchronous state", deadline).await
    }

    pub(super) async fn write_initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error> {
        let expect = match how {
            InitializeWrite::CreateOnly => Expect::Absent,
            InitializeWrite::Overwrite => Expect::Any,
        };
        // Everybody who bootstraps writes the same empty text: finding it there does not say whose it is, and two nodes
        // that both believe it to be theirs make two clusters.
        let equal = if system_id.is_empty() { Equal::IsUndecided } else { Equal::IsSuccess };
        self.put(Key::Initialize, system_id, expect, equal, "write the initialize key", deadline).await
    }

    /// Deletes the `initialize` key as it is now: one that somebody else creates meanwhile stays.
    pub(super) async fn delete_initialize(&self, deadline: Deadline) -> Result<(), Error> {
        let key = self.key(Key::Initialize);
        let mut tries = self.tries("cancel the initialization", deadline);
        let mut found: Option<Revision> = None;
        loop {
            let attempt = async {
                if found.is_none() {
                    found = self.store.get(&key, deadline).await?.map(|entry| entry.revision);
                }
                match &found {
                    Some(revision) => self.store.delete(&key, Expect::Revision(revision), deadline).await,
                    None => Ok(Deletion::Absent),
                }
            };
            match tries.run(attempt).await {
                Ok(deletion) => {
                    if let Deletion::Deleted(revision) = deletion {
                        self.known().deleted(&key, revision.as_ref());
                    }
                    return Ok(());
                }
                Err(error) => tries.after(error).await?,
            }
        }
    }

    pub(super) async fn clear_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error> {
        let operation = "clear the synchronous state";
        let expect = expected.map_or(Expect::Any, Expect::Revision);
        if self.store.capabilities().empties_sync {
            let write = self.put(Key::Sync, "{}", expect, Equal::IsSuccess, operation, deadline).await?;
            return Ok(write.is_applied());
        }
        let key = self.key(Key::Sync);
        let mut tries = self.tries(operation, deadline);
        self.known().forget(&key);
        loop {
            match tries.run(self.store.delete(&key, expect, deadline)).await {
                Ok(Deletion::Deleted(revision)) => {
                    self.known().deleted(&key, revision.as_ref());
                    return Ok(true);
                }
                Ok(Deletion::Absent) => return Ok(expected.is_none() || tries.may_have_been_applied()),
                Ok(Deletion::Refused) => return Ok(false),
                Err(error) => tries.after(error).await?,
            }
        }
    }

    /// Writes `status`, and the legacy position if asked to, unless it is known to be there already.
    pub(super) async fn write_changed_status(&self, status: &Status, legacy_optime: bool, deadline: Deadline) -> Result<bool, Error> {
        let operation = "write the status";
        let text = codec::encode_status(status);
        let mut wrote = false;
        if !self.is_known(Key::Status, |stored| same_json(stored, text.as_bytes())) {
            self.set(Key::Status, &text, None, operation, deadline).await?;
            wrote = true;
        }
        if legacy_optime {
            let text = status.last_lsn.0.to_string();
            if !self.is_known(Key::LegacyOptime, |stored| stored == text.as_bytes()) {
                self.set(Key::LegacyOptime, &text, None, operation, deadline).await?;
                wrote = true;
            }
        }
        Ok(wrote)
    }

    pub(super) async fn write_changed_failsafe(&self, members: &Map<String, Value>, deadline: Deadline) -> Result<bool, Error> {
        let text = Value::Object(members.clone()).to_string();
        if self.is_known(Key::Failsafe, |stored| same_json(stored, text.as_bytes())) {
            return Ok(false);
        }
        self.set(Key::Failsafe, &text, None, "write the failsafe members", deadline).await?;
        Ok(true)
    }

    fn is_known(&self, key: Key<'_>, same: impl FnOnce(&[u8]) -> bool) -> bool {
        self.known().entry(&self.key(key)).is_some_and(|entry| same(&entry.value))
    }

    async fn put(
        &self,
        key: Key<'_>,
        value: &str,
        expect: Expect<'_>,
        equal: Equal,
        operation: &'static str,
        deadline: Deadline,
    ) -> Result<Write, Error> {
        let key = self.key(key);
        let mut tries = self.tries(operation, deadline);
        self.known().forget(&key);
        loop {
            match tries.run(self.store.put(&key, value.as_bytes(), expect, deadline)).await {
                Ok(Write::Applied(revision)) => {
                    self.known().wrote(&key, value.as_bytes(), &revision, None);
                    return Ok(Write::Applied(revision));
                }
                Ok(Write::Refused) if !tries.may_have_been_applied() => return Ok(Write::Refused),
                Ok(Write::Refused) => {
                    // Refused by what is there now, which may be what an earlier attempt of ours wrote.
                    let there = tries.run(self.store.get(&key, deadline)).await.map_err(|_| tries.undecided())?;
                    return match there.filter(|entry| entry.value == value.as_bytes()) {
                        None => Ok(Write::Refused),
                        Some(_) if equal == Equal::IsUndecided => Err(tries.undecided()),
                        Some(entry) => Ok(Write::Applied(entry.revision)),
                    };
                }
                Err(error) => tries.after(error).await?,
            }
        }
    }
}

/// Whether two texts are the same JSON, scalars compared by their text. Anything that is not JSON differs.
pub(super) fn same_json(stored: &[u8], new: &[u8]) -> bool {
    let parse = |text| serde_json::from_slice::<Value>(text).ok();
    match (parse(stored), parse(new)) {
        (Some(stored), Some(new)) => codec::same_value(&stored, &new),
        _ => false,
    }
}
