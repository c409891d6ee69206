//! The leader lock: annotations of one object, and in Endpoints mode the address behind the leader's Service with them.
//!
//! Whoever writes says which version of the object it has seen, and the server refuses if there is a newer one. So of all who
//! think that the lock is free one gets it, and a leader whose lock was taken finds out. What has to be told apart is a
//! refusal because somebody else wrote, and one because an earlier attempt of the same call was written and its answer lost.

use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::model::{Lsn, MemberName};
use dcs_core::{Acquisition, Deadline, Error, ErrorKind, Fate, LeaderLease, Moment, Renewal, Timing};
use jiff::Timestamp;
use serde_json::Value;

use crate::cache::{Kind, Lock};
use crate::client::Ask;
use crate::error::{Class, Failure};
use crate::object::{Annotations, Object, annotation};
use crate::store::{Kubernetes, try_again, undecided};
use crate::subsets::{self, Wanted};

const ACQUIRE: &str = "acquire the leader lock";
const RENEW: &str = "renew the leader lock";
const RELEASE: &str = "release the leader lock";

/// The least time in which it makes sense to look what became of a write.
const TO_LOOK: Duration = Duration::from_secs(1);
/// The least time in which it makes sense to write once more after that.
const TO_WRITE: Duration = Duration::from_millis(500);

impl Kubernetes {
    pub(crate) async fn acquire(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        let Some(lock) = self.free_lock(deadline).await? else { return Ok(self.judge_held()) };
        let annotations = self.claim(lock.object.as_deref());
        let version = lock.object.as_ref().map(|object| object.metadata.resource_version.clone());
        let ask = self.lock_write(lock.object.as_deref(), &annotations);
        let first_sent_at = self.shared.clock.now();
        *self.claimed() = Some((annotations.clone(), self.lease(first_sent_at)));
        let mut tries = self.tries(ACQUIRE, deadline);
        loop {
            let sent_at = self.shared.clock.now();
            let failure = match self.write(Kind::Objects, &self.shared.names.leader, &ask, deadline).await {
                Ok(_) => {
                    let lease = self.lease(sent_at);
                    *self.claimed() = Some((annotations, lease));
                    return Ok(Acquisition::Won(lease));
                }
                Err(failure) => failure,
            };
            match failure.class {
                Class::Conflict => {
                    if version.is_some() {
                        // What the watches told was not so, or somebody was faster.
                        self.distrust_watches();
                    }
                    let may_be_ours = tries.may_have_been_applied();
                    if deadline.remaining() < TO_LOOK {
                        return if may_be_ours { Err(tries.undecided()) } else { Ok(Acquisition::Lost(None)) };
                    }
                    return match self.read_lock_object(deadline, ACQUIRE).await {
                        // Only what we wrote ourselves has our name and our very time, and a new version.
                        Ok(Some(object)) if Some(&object.metadata.resource_version) != version.as_ref() && object.has(&annotations) => {
                            self.know_lock();
                            Ok(Acquisition::Won(self.lease(first_sent_at)))
                        }
                        Ok(_) => Ok(Acquisition::Lost(self.holder())),
                        Err(_) if may_be_ours => Err(tries.undecided()),
                        Err(_) => Ok(Acquisition::Lost(None)),
                    };
                }
                // It was deleted since. The next cycle creates it.
                Class::Absent if !tries.may_have_been_applied() => return Ok(Acquisition::Lost(None)),
                _ => try_again(&mut tries, failure, ACQUIRE).await?,
            }
        }
    }

    /// Somebody holds it. Usually somebody else, or an earlier process of our name. But it is ours if an earlier call of this
    /// process wrote it and its answer got lost: then it says exactly what we said then.
    fn judge_held(&self) -> Acquisition {
        let Lock { object, holder, .. } = self.shared.cache.lock();
        let claimed = self.claimed().clone();
        match (object, claimed) {
            (Some(object), Some((annotations, lease))) if object.has(&annotations) && lease.is_valid(self.shared.clock.now()) => {
                self.know_lock();
                Acquisition::Won(lease)
            }
            _ => Acquisition::Lost(holder.map(MemberName::from)),
        }
    }

    /// What we last said in order to take the lock, and what it is worth if it was written.
    fn claimed(&self) -> MutexGuard<'_, Option<(Annotations, LeaderLease)>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock's object, if nobody holds it; looks again before it says that somebody does.
    async fn free_lock(&self, deadline: Deadline) -> Result<Option<Lock>, Error> {
        let mut tries = self.tries(ACQUIRE, deadline);
        loop {
            match self.know(deadline).await {
                Ok(()) => break,
                Err(failure) => try_again(&mut tries, failure, ACQUIRE).await?,
            }
        }
        let lock = self.shared.cache.lock();
        if lock.holder.is_none() {
            return Ok(Some(lock));
        }
        // The holder may have released it a moment ago.
        match self.read_lock_object(deadline, ACQUIRE).await {
            Ok(_) => {}
            // Nothing was sent that could have taken it.
            Err(error) => return Err(Error { fate: Fate::NotApplied, ..error }),
        }
        let lock = self.shared.cache.lock();
        Ok(lock.holder.is_none().then_some(lock))
    }

    /// The annotations with which we take over.
    fn claim(&self, there: Option<&Object>) -> Annotations {
        let now = time_text(self.shared.clock.wall());
        let text = |name: &str| there.and_then(|object| object.annotation(name)).map(str::to_owned);
        let observed = [annotation::LEADER, annotation::TTL, annotation::RENEW_TIME, annotation::ACQUIRE_TIME, annotation::TRANSITIONS];
        let anything = observed.iter().any(|name| text(name).is_some());
        let was_ours = text(annotation::LEADER).as_deref() == Some(self.shared.name.as_str());
        let before: i64 = text(annotation::TRANSITIONS).and_then(|text| text.trim().parse().ok()).unwrap_or(0);
        let transitions = if anything && !was_ours { before.saturating_add(1) } else { before };
        let acquired = text(annotation::ACQUIRE_TIME).filter(|_| was_ours).unwrap_or_else(|| now.clone());
        self.lock_annotations(now, acquired, transitions.to_string())
    }

    fn lock_annotations(&self, now: String, acquired: String, transitions: String) -> Annotations {
        vec![
            (annotation::LEADER, Some(self.shared.name.to_string())),
            (annotation::TTL, Some(self.whole_ttl().as_secs().to_string())),
            (annotation::RENEW_TIME, Some(now)),
            (annotation::ACQUIRE_TIME, Some(acquired)),
            (annotation::TRANSITIONS, Some(transitions)),
        ]
    }

    /// The ttl as others read it.
    fn whole_ttl(&self) -> Duration {
        let Timing { ttl, .. } = self.shared.timing();
        Duration::from_secs(ttl.as_secs().max(1))
    }

    fn lease(&self, sent_at: Moment) -> LeaderLease {
        LeaderLease::granted(sent_at, self.whole_ttl().min(self.shared.timing().ttl))
    }

    /// Writes the lock as it was seen: the object's version if it is there, otherwise only if it still is not.
    fn lock_write(&self, there: Option<&Object>, annotations: &Annotations) -> Ask {
        let name = &self.shared.names.leader;
        let subsets = self.subsets_for_us(there).map(|subsets| ("subsets", subsets));
        match there {
            Some(object) => self.patch(name, annotations, Some(&object.metadata.resource_version), subsets),
            None => self.create(name, annotations, subsets),
        }
    }

    fn subsets_for_us(&self, there: Option<&Object>) -> Option<Value> {
        if !self.shared.paths.use_endpoints {
            return None;
        }
        let pod = self.shared.cache.get(Kind::Pods, self.shared.name.as_str());
        let config = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = Wanted {
            ip: config.pod_ip.as_deref(),
            ports: &config.ports,
            pod: pod.as_deref(),
            namespace: &self.shared.paths.namespace,
            name: self.shared.name.as_str(),
        };
        subsets::pointing_to_us(there, &wanted).and_then(|subsets| serde_json::to_value(subsets).ok())
    }

    fn holder(&self) -> Option<MemberName> {
        self.shared.cache.lock().holder.map(MemberName::from)
    }

    pub(crate) async fn renew(&self, deadline: Deadline) -> Result<Renewal, Error> {
        let mut tries = self.tries(RENEW, deadline);
        loop {
            match self.know(deadline).await {
                Ok(()) => break,
                Err(failure) => try_again(&mut tries, failure, RENEW).await?,
            }
        }
        let mut there = self.shared.cache.get(Kind::Objects, &self.shared.names.leader);
        if there.as_deref().is_some_and(|object| !self.is_ours(object)) {
            return Ok(Renewal::Lost);
        }
        let annotations = self.renewal(there.as_deref());
        // Of the first attempt that may have written what a later one finds.
        let first_sent_at = self.shared.clock.now();
        loop {
            let ask = self.lock_write(there.as_deref(), &annotations);
            let sent_at = self.shared.clock.now();
            let failure = match self.write(Kind::Objects, &self.shared.names.leader, &ask, deadline).await {
                Ok(_) => return Ok(Renewal::Renewed(self.lease(sent_at))),
                Err(failure) => failure,
            };
            match failure.class {
                Class::Conflict | Class::Absent => {}
                // Rights are taken away and given back while roles are being exchanged. The lease bounds the patience.
                Class::Denied | Class::Unknown => {
                    let pause = failure.pause;
                    tries.again(failure.into_error(RENEW), pause).await?;
                    continue;
                }
                _ => {
                    try_again(&mut tries, failure, RENEW).await?;
                    continue;
                }
            }
            tracing::info!(object = self.shared.names.leader, "somebody else wrote the leader's object as well");
            if deadline.remaining() < TO_LOOK {
                return Err(undecided(
                    RENEW,
                    "the leader's object was written by somebody else, and there is no time left to look by whom",
                ));
            }
            let now = self.read_lock_object(deadline, RENEW).await?;
            if let Some(object) = now.as_deref() {
                let refused = there.as_ref().map(|there| &there.metadata.resource_version);
                if !self.is_ours(object) || refused == Some(&object.metadata.resource_version) {
                    return Ok(Renewal::Lost);
                }
                if object.has(&annotations) {
                    self.know_lock();
                    return Ok(Renewal::Renewed(self.lease(first_sent_at)));
                }
            } else if there.is_none() {
                // Refused because it exists, and now it does not.
                try_again(&mut tries, failure, RENEW).await?;
            }
            if deadline.remaining() < TO_WRITE {
                return Err(undecided(RENEW, "the leader's object was written by somebody else, and there is no time left to renew it"));
            }
            there = now;
        }
    }

    /// The annotations with which we go on.
    fn renewal(&self, there: Option<&Object>) -> Annotations {
        let now = time_text(self.shared.clock.wall());
        let kept = |name: &str| there.and_then(|object| object.annotation(name)).filter(|text| !text.is_empty()).map(str::to_owned);
        let acquired = kept(annotation::ACQUIRE_TIME).unwrap_or_else(|| now.clone());
        let transitions = kept(annotation::TRANSITIONS).unwrap_or_else(|| "0".to_owned());
        self.lock_annotations(now, acquired, transitions)
    }

    fn is_ours(&self, object: &Object) -> bool {
        object.annotation(annotation::LEADER) == Some(self.shared.name.as_str())
    }

    pub(crate) async fn release(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error> {
        let mut tries = self.tries(RELEASE, deadline);
        loop {
            // A node that does not hold the lock must not touch anything.
            let there = match self.read_lock_object(deadline, RELEASE).await {
                // Whoever may not look goes by what is known. The version says whether it is still so.
                Err(error) if error.kind == ErrorKind::Denied => self.shared.cache.get(Kind::Objects, &self.shared.names.leader),
                there => there?,
            };
            let Some(object) = there.filter(|object| self.is_ours(object)) else { return Ok(false) };
            // A release whose answer gets lost may still arrive: from here on only a renewal, which it cannot follow, makes the
            // lock ours again.
            *self.claimed() = None;
            let ask = self.giving_up(&object, last_lsn);
            match self.write(Kind::Objects, &self.shared.names.leader, &ask, deadline).await {
                Ok(_) => return Ok(true),
                // It changed since the look just now: look again. A release that was lost is found to be done there.
                Err(failure) if matches!(failure.class, Class::Conflict | Class::Absent) && !tries.may_have_been_applied() => {
                    tries.again(failure.into_error(RELEASE), None).await?;
                }
                Err(failure) if matches!(failure.class, Class::Conflict | Class::Absent) => return self.is_given_up(deadline).await,
                Err(failure) => {
                    try_again(&mut tries, failure, RELEASE).await?;
                    if tries.may_have_been_applied() && self.is_given_up(deadline).await? {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Whether the lock is not ours any more, after a release that got no answer. Nobody else takes our name away.
    async fn is_given_up(&self, deadline: Deadline) -> Result<bool, Error> {
        let there = self.read_lock_object(deadline, RELEASE).await?;
        Ok(there.is_none_or(|object| !self.is_ours(&object)))
    }

    fn giving_up(&self, there: &Object, last_lsn: Option<Lsn>) -> Ask {
        let mut annotations: Annotations = vec![(annotation::LEADER, None)];
        if let Some(lsn) = last_lsn {
            annotations.push((annotation::OPTIME, Some(lsn.0.to_string())));
        }
        let subsets = subsets::pointing_to_nobody(there).filter(|_| self.shared.paths.use_endpoints);
        let more = subsets.map(|_| ("subsets", Value::Array(Vec::new())));
        self.patch(&self.shared.names.leader, &annotations, Some(&there.metadata.resource_version), more)
    }

    /// Reads the lock's object as it is, again and again.
    async fn read_lock_object(&self, deadline: Deadline, operation: &'static str) -> Result<Option<Arc<Object>>, Error> {
        let mut tries = self.tries(operation, deadline);
        loop {
            match self.read(&self.shared.names.leader, deadline).await {
                Ok(object) => return Ok(object),
                Err(failure) => {
                    // Reading changes nothing; what came before it may have.
                    let failure = Failure { fate: Fate::Unknown, ..failure };
                    try_again(&mut tries, failure, operation).await?;
                }
            }
        }
    }

    /// That the lock is ours is no news to us.
    fn know_lock(&self) {
        let now = crate::known::Known::of(&self.shared.cache.content());
        if let Some(known) = self.known().as_mut() {
            known.leader = now.leader;
        }
    }
}

/// As agents have always written it: microseconds, and the offset in digits.
fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_they_always_were() {
        let time: Timestamp = "2026-11-21T19:00:01.5Z".parse().unwrap();
        assert_eq!(time_text(time), "2026-11-21T19:00:01.500000+00:00");
        assert_eq!(time_text(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00.000000+00:00");
    }
}
