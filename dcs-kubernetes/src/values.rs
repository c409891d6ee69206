//! Everything that is written beside the lock: permanent annotations, our own pod, and the end of it all.

use std::sync::{Arc, PoisonError};

use dcs_core::codec;
use dcs_core::model::{FailoverRequest, MemberRecord, Revision, Status, SyncRecord};
use dcs_core::tries::Tries;
use dcs_core::{Deadline, Error, InitializeWrite, Touched, Write};
use http::Method;
use serde_json::{Map, Value};

use crate::cache::Kind;
use crate::client::Ask;
use crate::error::Class;
use crate::object::{Annotations, Object, annotation};
use crate::pods;
use crate::store::{Kubernetes, json_bytes, status_annotations, try_again};

/// The condition of a write.
#[derive(Clone, Copy, Debug)]
enum Expect<'a> {
    /// None.
    Any,
    /// The object does not exist.
    Absent,
    /// The object has exactly this version.
    Version(&'a str),
}

impl<'a> Expect<'a> {
    fn of(revision: Option<&'a Revision>) -> Self {
        revision.map_or(Self::Any, |revision| Self::Version(revision.as_str()))
    }
}

/// What became of a write.
#[derive(Debug)]
enum Outcome {
    Applied(Arc<Object>),
    /// The condition does not hold.
    Refused,
    /// There is no object, and nothing to put into one.
    Nothing,
}

impl Outcome {
    fn into_write(self) -> Write {
        match self {
            Self::Applied(object) => Write::Applied(object.revision()),
            Self::Refused | Self::Nothing => Write::Refused,
        }
    }
}

impl Kubernetes {
    /// Writes annotations of the object `name`: into the one that is there, or into a new one.
    async fn put(
        &self,
        name: &str,
        annotations: &Annotations,
        expect: Expect<'_>,
        operation: &'static str,
        deadline: Deadline,
    ) -> Result<Outcome, Error> {
        let mut tries = self.tries(operation, deadline);
        let removes = annotations.iter().any(|(_, value)| value.is_none());
        let only_removes = annotations.iter().all(|(_, value)| value.is_none());
        let mut there = self.shared.cache.get(Kind::Objects, name);
        if only_removes && matches!(expect, Expect::Any) {
            // Mostly there is nothing to do.
            there = self.read_now(name, &mut tries, operation, deadline).await?;
        }
        let mut looked_again = false;
        loop {
            let ask = match (expect, there.as_deref()) {
                (Expect::Version(version), there) => self.patch(name, there, annotations, Some(version), None),
                (Expect::Any, None) if only_removes => return Ok(Outcome::Nothing),
                (Expect::Any, Some(object)) if only_removes && object.has(annotations) => {
                    return Ok(there.map_or(Outcome::Nothing, Outcome::Applied));
                }
                // What shall go can be removed only from an object that is seen: if it is another one by now, it is looked at.
                (Expect::Any, Some(object)) => {
                    let version = removes.then_some(object.metadata.resource_version.as_str());
                    self.patch(name, Some(object), annotations, version, None)
                }
                (Expect::Any, None) | (Expect::Absent, _) => {
                    if *name == self.shared.names.config {
                        self.service_may_be_due();
                        self.ensure_service(deadline).await;
                    }
                    self.create(name, annotations, None)
                }
            };
            let failure = match self.write(name, annotations, &ask, deadline).await {
                Ok(object) => return Ok(Outcome::Applied(object)),
                Err(failure) => failure,
            };
            let applied_before = tries.may_have_been_applied();
            match (failure.class, expect) {
                (Class::Conflict, Expect::Version(_) | Expect::Absent) if !applied_before => {
                    if matches!(expect, Expect::Version(_)) {
                        self.distrust_watches();
                    }
                    return Ok(Outcome::Refused);
                }
                // Refused by what is there now, which may be what an earlier attempt of ours wrote.
                (Class::Conflict, Expect::Version(_) | Expect::Absent) => {
                    let there = self.read(name, deadline).await.map_err(|_| tries.undecided())?;
                    return Ok(there.filter(|object| object.has(annotations)).map_or(Outcome::Refused, Outcome::Applied));
                }
                (Class::Absent, Expect::Version(_)) => return Ok(Outcome::Refused),
                // It came, went or changed since we looked.
                (Class::Conflict | Class::Absent, Expect::Any) => {
                    if looked_again {
                        tries.again(failure.into_error(operation), None).await?;
                    }
                    looked_again = true;
                    there = self.read_now(name, &mut tries, operation, deadline).await?;
                }
                _ => try_again(&mut tries, failure, operation).await?,
            }
        }
    }

    /// Reads one object, again and again.
    async fn read_now(
        &self,
        name: &str,
        tries: &mut Tries<'_>,
        operation: &'static str,
        deadline: Deadline,
    ) -> Result<Option<Arc<Object>>, Error> {
        loop {
            match self.read(name, deadline).await {
                Ok(object) => return Ok(object),
                Err(failure) => try_again(tries, failure, operation).await?,
            }
        }
    }

    pub(crate) async fn write_config(&self, text: &str, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        let annotations = vec![(annotation::CONFIG, Some(text.to_owned()))];
        let outcome = self.put(&self.shared.names.config, &annotations, Expect::of(expected), "write the configuration", deadline);
        Ok(outcome.await?.into_write())
    }

    pub(crate) async fn write_history(&self, text: &str, deadline: Deadline) -> Result<(), Error> {
        let annotations = vec![(annotation::HISTORY, Some(text.to_owned()))];
        self.put(&self.shared.names.config, &annotations, Expect::Any, "write the history", deadline).await.map(drop)
    }

    pub(crate) async fn write_failover(
        &self,
        request: &FailoverRequest,
        expected: Option<&Revision>,
        deadline: Deadline,
    ) -> Result<Write, Error> {
        let annotations = vec![
            (annotation::LEADER, request.leader.as_ref().map(ToString::to_string)),
            (annotation::MEMBER, request.candidate.as_ref().map(ToString::to_string)),
            (annotation::SCHEDULED_AT, request.scheduled_at.map(|time| time.to_string())),
        ];
        let operation = "write the failover request";
        match self.put(&self.shared.names.failover, &annotations, Expect::of(expected), operation, deadline).await? {
            // There was no request, and there is none.
            Outcome::Nothing => Ok(Write::Applied(Revision::new("0"))),
            outcome => Ok(outcome.into_write()),
        }
    }

    /// Without an expected version it only creates: somebody else's state that appeared since is not to be overwritten.
    pub(crate) async fn write_sync(&self, sync: &SyncRecord, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        let expect = expected.map_or(Expect::Absent, |revision| Expect::Version(revision.as_str()));
        let mut annotations = sync_annotations(sync);
        // A write that changes nothing leaves the version alone; this changes in any case, so that a write that is made for a
        // version is refused once another one has been made for it.
        annotations.extend(expected.map(|revision| (annotation::REPLACES, Some(revision.as_str().to_owned()))));
        let outcome = self.put(&self.shared.names.sync, &annotations, expect, "write the synchronous state", deadline);
        Ok(outcome.await?.into_write())
    }

    pub(crate) async fn clear_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error> {
        let nothing = vec![(annotation::LEADER, None), (annotation::SYNC_STANDBY, None), (annotation::QUORUM, None)];
        let operation = "clear the synchronous state";
        let outcome = self.put(&self.shared.names.sync, &nothing, Expect::of(expected), operation, deadline).await?;
        Ok(!matches!(outcome, Outcome::Refused))
    }

    /// The annotation shares its object with the configuration and the history, whose writers do not matter to it. So what
    /// was refused is looked at before it is given up.
    pub(crate) async fn write_initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error> {
        let operation = "write the initialize key";
        let name = &self.shared.names.config;
        let annotations = vec![(annotation::INITIALIZE, Some(system_id.to_owned()))];
        let mut tries = self.tries(operation, deadline);
        loop {
            match self.know(deadline).await {
                Ok(()) => break,
                Err(failure) => try_again(&mut tries, failure, operation).await?,
            }
        }
        if how == InitializeWrite::Overwrite {
            return Ok(self.put(name, &annotations, Expect::Any, operation, deadline).await?.into_write());
        }
        let mut there = self.shared.cache.get(Kind::Objects, name);
        let mut looked_again = false;
        loop {
            let value = there.as_deref().and_then(|object| object.annotation(annotation::INITIALIZE));
            match value {
                Some(_) if !tries.may_have_been_applied() => return Ok(Write::Refused),
                // Everybody who bootstraps writes the same empty text: whose it is cannot be told.
                Some("") => return Err(tries.undecided()),
                Some(value) if value == system_id => {
                    return Ok(there.map_or(Write::Refused, |object| Write::Applied(object.revision())));
                }
                Some(_) => return Ok(Write::Refused),
                None => {}
            }
            let ask = match there.as_deref() {
                Some(object) => self.patch(name, Some(object), &annotations, Some(&object.metadata.resource_version), None),
                None => {
                    self.service_may_be_due();
                    self.ensure_service(deadline).await;
                    self.create(name, &annotations, None)
                }
            };
            match self.write(name, &annotations, &ask, deadline).await {
                Ok(object) => return Ok(Write::Applied(object.revision())),
                Err(failure) if matches!(failure.class, Class::Conflict | Class::Absent) => {
                    if looked_again {
                        tries.again(failure.into_error(operation), None).await?;
                    }
                    looked_again = true;
                    there = match self.read(name, deadline).await {
                        Ok(there) => there,
                        Err(failure) => {
                            try_again(&mut tries, failure, operation).await?;
                            continue;
                        }
                    };
                }
                Err(failure) => try_again(&mut tries, failure, operation).await?,
            }
        }
    }

    pub(crate) async fn remove_initialize(&self, deadline: Deadline) -> Result<(), Error> {
        let annotations = vec![(annotation::INITIALIZE, None)];
        self.put(&self.shared.names.config, &annotations, Expect::Any, "cancel the initialization", deadline).await.map(drop)
    }

    pub(crate) async fn write_changed_status(&self, status: &Status, deadline: Deadline) -> Result<bool, Error> {
        self.put_changed(&status_annotations(status), "write the status", deadline).await
    }

    pub(crate) async fn write_changed_failsafe(&self, members: &Map<String, Value>, deadline: Deadline) -> Result<bool, Error> {
        let text = (!members.is_empty()).then(|| Value::Object(members.clone()).to_string());
        self.put_changed(&vec![(annotation::FAILSAFE, text)], "write the failsafe members", deadline).await
    }

    /// Annotations of the leader's object, unless they are known to be so.
    async fn put_changed(&self, annotations: &Annotations, operation: &'static str, deadline: Deadline) -> Result<bool, Error> {
        let name = &self.shared.names.leader;
        let known = self.shared.cache.get(Kind::Objects, name);
        if known.is_some_and(|object| annotations.iter().all(|(name, value)| says_the_same(object.annotation(name), value.as_deref()))) {
            return Ok(false);
        }
        self.put(name, annotations, Expect::Any, operation, deadline).await?;
        Ok(true)
    }

    pub(crate) async fn touch(&self, record: &MemberRecord, deadline: Deadline) -> Result<Touched, Error> {
        let operation = "publish the member";
        let mut tries = self.tries(operation, deadline);
        let status = codec::encode_member(record);
        loop {
            if let Err(failure) = self.know(deadline).await {
                try_again(&mut tries, failure, operation).await?;
                continue;
            }
            let leads = self.shared.cache.lock().holder.as_deref() == Some(self.shared.name.as_str());
            let labels = {
                let config = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
                pods::labels(&config.pods, record, leads)
            };
            let name = self.shared.name.as_str();
            let pod = self.shared.cache.get(Kind::Pods, name);
            if pod.as_ref().is_some_and(|pod| pods::says(pod, &labels, &status)) {
                self.ensure_service(deadline).await;
                return Ok(Touched::Unchanged);
            }
            let body = json_bytes(&pods::patch(pod.as_deref(), &labels, &status));
            let media = "application/strategic-merge-patch+json";
            let ask = Ask { method: Method::PATCH, path: self.shared.paths.pod(name), body: Some((media, body)) };
            match self.write_pod(&ask, deadline).await {
                Ok(()) => {
                    self.ensure_service(deadline).await;
                    return Ok(Touched::Written);
                }
                Err(failure) if failure.class == Class::Absent => {
                    self.shared.once.say("pod", || {
                        tracing::error!(
                            name,
                            namespace = self.shared.paths.namespace,
                            "there is no pod of this name\n\nhint: on Kubernetes a member's `name` must be that of its pod"
                        );
                    });
                    return Err(failure.into_error(operation));
                }
                // The server could not patch what changes all the time.
                Err(failure) if failure.class == Class::Conflict => tries.again(failure.into_error(operation), None).await?,
                Err(failure) => try_again(&mut tries, failure, operation).await?,
            }
        }
    }

    pub(crate) async fn delete_objects(&self, deadline: Deadline) -> Result<(), Error> {
        let operation = "delete the cluster";
        let ask = Ask { method: Method::DELETE, path: self.shared.paths.list(Kind::Objects), body: None };
        let mut tries = self.tries(operation, deadline);
        loop {
            match self.shared.client.call::<Value>(&ask, deadline).await {
                Ok(_) => break,
                Err(failure) => try_again(&mut tries, failure, operation).await?,
            }
        }
        // What was deleted is not to be believed until the watch has said so.
        let listed = crate::watch::list(&self.shared, Kind::Objects, deadline).await;
        self.service_may_be_due();
        listed.map(drop).map_err(|failure| failure.into_error(operation))
    }
}

fn sync_annotations(sync: &SyncRecord) -> Annotations {
    // Sorted and joined as in every other store.
    let value: Value = serde_json::from_str(&codec::encode_sync(sync)).unwrap_or_default();
    let text = |name: &str| match value.get(name) {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text.clone()),
        Some(other) => Some(other.to_string()),
    };
    [annotation::LEADER, annotation::SYNC_STANDBY, annotation::QUORUM].into_iter().map(|name| (name, text(name))).collect()
}

/// The same text, or the same JSON.
fn says_the_same(stored: Option<&str>, new: Option<&str>) -> bool {
    let (Some(stored), Some(new)) = (stored, new) else { return stored.is_none() && new.is_none() };
    let parse = |text| serde_json::from_str::<Value>(text).ok();
    stored == new || matches!((parse(stored), parse(new)), (Some(stored), Some(new)) if codec::same_value(&stored, &new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_synchronous_state_is_plain_text() {
        let sync = SyncRecord { leader: Some("a".into()), standbys: vec!["c".into(), "b".into()], quorum: 2 };
        let expected = [("leader", Some("a")), ("sync_standby", Some("b,c")), ("quorum", Some("2"))];
        assert_eq!(sync_annotations(&sync), expected.map(|(name, text)| (name, text.map(str::to_owned))));
        assert_eq!(sync_annotations(&SyncRecord::default())[0], ("leader", None));
        assert_eq!(sync_annotations(&SyncRecord::default())[1], ("sync_standby", None));
    }

    #[test]
    fn what_is_absent_is_the_same_only_as_what_is_absent() {
        assert!(says_the_same(None, None));
        assert!(!says_the_same(Some("1"), None));
        assert!(says_the_same(Some(r#"{"a": 1}"#), Some(r#"{"a":"1"}"#)));
        assert!(!says_the_same(Some("x"), Some("y")));
    }
}
