//! What is known of the cluster's objects, and since when the lock has not changed.
//!
//! Fed by two watches, by the answers to our own writes, and by the loads that read the lock's object. Whatever comes in counts
//! only if its resource version is newer than what is here, so that it does not matter in which order these arrive.
//!
//! No object lives as long as somebody refreshes it: a leader that stopped renewing is one whose annotations have not changed
//! for longer than its ttl, by our own clock. Clocks of different nodes are never compared.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dcs_core::{Clock, ErrorKind, Moment};
use tokio::sync::watch;

use crate::freshness::Told;
use crate::object::{List, Names, Object, annotation, version_number};

/// The two collections that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Endpoints or ConfigMaps.
    Objects,
    /// Pods.
    Pods,
}

/// One consistent look at everything.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Content {
    pub(crate) leader: Option<Arc<Object>>,
    /// Who leads: named in the object, and not expired.
    pub(crate) holder: Option<String>,
    pub(crate) config: Option<Arc<Object>>,
    pub(crate) failover: Option<Arc<Object>>,
    pub(crate) sync: Option<Arc<Object>>,
    pub(crate) pods: Vec<Arc<Object>>,
}

/// The lock as it was seen last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lock {
    pub(crate) object: Option<Arc<Object>>,
    /// Named in the object, and not expired.
    pub(crate) holder: Option<String>,
    /// When the holder expires, if nothing changes.
    pub(crate) expires_at: Option<Moment>,
}

pub(crate) struct Cache {
    names: Names,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

/// A watch that is open.
pub(crate) struct Following<'a> {
    cache: &'a Cache,
    kind: Kind,
}

impl Drop for Following<'_> {
    fn drop(&mut self) {
        self.cache.state().shelf(self.kind).followed = false;
    }
}

#[derive(Default)]
struct State {
    own_ttl: Duration,
    objects: Shelf,
    pods: Shelf,
    observed: Observed,
}

#[derive(Default)]
struct Shelf {
    items: BTreeMap<String, Arc<Object>>,
    /// What was deleted, and at which version, so that an older answer does not bring it back.
    deleted: BTreeMap<String, u64>,
    /// When each of them came in, so that a list that was asked for later replaces it whatever its version: a store that was
    /// restored from a backup counts anew from there.
    came: BTreeMap<String, Moment>,
    /// How many lists have arrived.
    listed: u64,
    /// What the watch has reported up to now.
    reported: u64,
    /// When it got there.
    reported_at: Option<Moment>,
    /// The watch is open.
    followed: bool,
    /// Why the list does not arrive.
    problem: Option<(ErrorKind, String)>,
}

/// The lock's annotations, and when they were seen to change.
#[derive(Default)]
struct Observed {
    record: Record,
    since: Moment,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Record([Option<String>; 5]);

impl Record {
    fn of(object: &Object) -> Self {
        let names = [annotation::LEADER, annotation::TTL, annotation::RENEW_TIME, annotation::ACQUIRE_TIME, annotation::TRANSITIONS];
        Self(names.map(|name| object.annotation(name).map(str::to_owned)))
    }

    /// The ttl of whoever leads; ours if it cannot be read.
    fn ttl(&self, own: Duration) -> Duration {
        let seconds = self.0[1].as_deref().and_then(|text| text.trim().parse().ok()).filter(|seconds| *seconds > 0);
        seconds.map_or(own, Duration::from_secs)
    }
}

/// How many deletions are remembered.
const REMEMBERED_DELETIONS: usize = 1000;

impl Cache {
    pub(crate) fn new(names: Names, own_ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        let state = State { own_ttl, ..State::default() };
        Self { names, clock, state: Mutex::new(state), changes: watch::Sender::new(0) }
    }

    pub(crate) fn set_ttl(&self, ttl: Duration) {
        self.state().own_ttl = ttl;
    }

    /// Tells when something has come in.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A list of everything, complete at its resource version, that was asked for at `asked`.
    pub(crate) fn replace(&self, kind: Kind, list: List, asked: Moment) {
        let at = version_number(&list.metadata.resource_version);
        self.update(|state, names, now| {
            let shelf = state.shelf(kind);
            let before = std::mem::take(shelf);
            for object in list.items.unwrap_or_default() {
                shelf.put(object, now);
            }
            // What came in meanwhile, our own writes above all, may be newer than the list.
            let meanwhile = |name: &String| before.came.get(name).is_some_and(|came| *came >= asked);
            for (name, version) in before.deleted.iter().filter(|(name, version)| meanwhile(name) && **version > at) {
                shelf.delete(name, *version, now);
            }
            for (_, known) in before.items.iter().filter(|(name, known)| meanwhile(name) && known.version() > at) {
                shelf.put(Object::clone(known), now);
            }
            shelf.listed = before.listed + 1;
            shelf.reported = at;
            shelf.reported_at = Some(asked);
            shelf.followed = before.followed;
            state.observe(names, now);
        });
    }

    /// One object, as the server gave it. Whether it was news.
    pub(crate) fn apply(&self, kind: Kind, object: Object) -> bool {
        self.update(|state, names, now| {
            let news = state.shelf(kind).put(object, now);
            state.observe(names, now);
            news
        })
    }

    /// One object was deleted, which is what it looked like at the last.
    pub(crate) fn remove(&self, kind: Kind, object: &Object) {
        self.update(|state, names, now| {
            state.shelf(kind).delete(&object.metadata.name, object.version(), now);
            state.observe(names, now);
        });
    }

    /// One object does not exist, as a server said that was asked when `known` was here. Should it be there after all, whoever
    /// says so is believed: a server can be wrong, or another one.
    pub(crate) fn is_absent(&self, kind: Kind, name: &str, known: Option<&Object>) {
        self.update(|state, names, now| {
            let shelf = state.shelf(kind);
            if shelf.items.get(name).map(|object| object.version()) == known.map(Object::version) {
                shelf.items.remove(name);
                shelf.came.insert(name.to_owned(), now);
            }
            state.observe(names, now);
        });
    }

    /// The watch has reported everything up to here.
    pub(crate) fn reported(&self, kind: Kind, version: u64) {
        let now = self.clock.now();
        let mut state = self.state();
        let shelf = state.shelf(kind);
        // A server that repeats itself may have nobody to ask.
        if version > shelf.reported {
            shelf.reported = version;
            shelf.reported_at = Some(now);
        }
    }

    /// The watch is open, until what is returned is dropped.
    pub(crate) fn follow(&self, kind: Kind) -> Following<'_> {
        self.state().shelf(kind).followed = true;
        Following { cache: self, kind }
    }

    /// What the watches have told up to now.
    pub(crate) fn told(&self) -> Told {
        let state = self.state();
        let Shelf { reported, reported_at, followed, .. } = state.objects;
        Told { follows: followed && state.pods.followed, version: reported, at: reported_at }
    }

    /// How many lists of this kind have arrived.
    pub(crate) fn times_listed(&self, kind: Kind) -> u64 {
        self.state().shelf(kind).listed
    }

    /// The list cannot be had.
    pub(crate) fn cannot_list(&self, kind: Kind, error: ErrorKind, words: String) {
        self.update(|state, _, _| state.shelf(kind).problem = Some((error, words)));
    }

    /// Whether both collections have been listed; if not, why.
    pub(crate) fn is_listed(&self) -> Result<bool, (ErrorKind, String)> {
        let state = self.state();
        for shelf in [&state.objects, &state.pods] {
            match &shelf.problem {
                Some(problem) if shelf.listed == 0 => return Err(problem.clone()),
                _ => {}
            }
        }
        Ok(state.objects.listed > 0 && state.pods.listed > 0)
    }

    pub(crate) fn get(&self, kind: Kind, name: &str) -> Option<Arc<Object>> {
        self.state().shelf(kind).items.get(name).cloned()
    }

    pub(crate) fn lock(&self) -> Lock {
        let now = self.clock.now();
        self.state().lock(&self.names, now)
    }

    pub(crate) fn content(&self) -> Content {
        let now = self.clock.now();
        let state = self.state();
        let Lock { object, holder, .. } = state.lock(&self.names, now);
        let named = |name: &str| state.objects.items.get(name).cloned();
        Content {
            leader: object,
            holder,
            config: named(&self.names.config),
            failover: named(&self.names.failover),
            sync: named(&self.names.sync),
            pods: state.pods.items.values().cloned().collect(),
        }
    }

    fn update<T>(&self, change: impl FnOnce(&mut State, &Names, Moment) -> T) -> T {
        let now = self.clock.now();
        let outcome = change(&mut self.state(), &self.names, now);
        self.changes.send_modify(|changes| *changes += 1);
        outcome
    }

    /// Never held across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn shelf(&mut self, kind: Kind) -> &mut Shelf {
        match kind {
            Kind::Objects => &mut self.objects,
            Kind::Pods => &mut self.pods,
        }
    }

    /// Notes a change of the lock's annotations.
    fn observe(&mut self, names: &Names, now: Moment) {
        let record = self.objects.items.get(&names.leader).map(|object| Record::of(object)).unwrap_or_default();
        if record != self.observed.record {
            self.observed = Observed { record, since: now };
        }
    }

    fn lock(&self, names: &Names, now: Moment) -> Lock {
        let object = self.objects.items.get(&names.leader).cloned();
        let named = object.as_ref().and_then(|object| object.annotation(annotation::LEADER)).filter(|name| !name.is_empty());
        let Some(named) = named.map(str::to_owned) else { return Lock { object, ..Lock::default() } };
        let expires_at = self.observed.since + self.observed.record.ttl(self.own_ttl);
        if now > expires_at {
            return Lock { object, ..Lock::default() };
        }
        Lock { object, holder: Some(named), expires_at: Some(expires_at) }
    }
}

impl Shelf {
    fn put(&mut self, object: Object, now: Moment) -> bool {
        let (name, version) = (object.metadata.name.clone(), object.version());
        let newest = self.items.get(&name).map(|known| known.version()).max(self.deleted.get(&name).copied());
        if newest.is_some_and(|newest| newest >= version && version != u64::MAX) {
            return false;
        }
        self.deleted.remove(&name);
        self.came.insert(name.clone(), now);
        self.items.insert(name, Arc::new(object));
        true
    }

    fn delete(&mut self, name: &str, version: u64, now: Moment) {
        if self.items.get(name).is_some_and(|known| known.version() > version) {
            return;
        }
        self.items.remove(name);
        self.came.insert(name.to_owned(), now);
        self.deleted.insert(name.to_owned(), version);
        while self.deleted.len() > REMEMBERED_DELETIONS
            && let Some((name, _)) = self.deleted.pop_first()
        {
            self.came.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use serde_json::json;

    use super::*;

    #[derive(Debug, Default)]
    struct Seconds(AtomicU64);

    impl Clock for Seconds {
        fn now(&self) -> Moment {
            Moment::from_origin(Duration::from_secs(self.0.load(Ordering::Relaxed)))
        }

        fn wall(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
    }

    impl Seconds {
        fn pass(&self, seconds: u64) {
            self.0.fetch_add(seconds, Ordering::Relaxed);
        }
    }

    fn cache() -> (Cache, Arc<Seconds>) {
        let clock = Arc::new(Seconds::default());
        (Cache::new(Names::new("s", None, true), Duration::from_secs(30), clock.clone()), clock)
    }

    fn leader(version: u64, annotations: serde_json::Value) -> Object {
        serde_json::from_value(json!({"metadata": {"name": "s", "resourceVersion": version.to_string(), "annotations": annotations}}))
            .unwrap()
    }

    #[test]
    fn a_leader_expires_a_ttl_after_its_annotations_were_last_seen_to_change() {
        let (cache, clock) = cache();
        cache.apply(Kind::Objects, leader(1, json!({"leader": "a", "ttl": "10", "renewTime": "yesterday"})));
        clock.pass(10);
        assert_eq!(cache.lock().holder.as_deref(), Some("a"));
        // A change of something else is no sign of life.
        cache.apply(Kind::Objects, leader(2, json!({"leader": "a", "ttl": "10", "renewTime": "yesterday", "optime": "5"})));
        clock.pass(1);
        assert_eq!(cache.lock().holder, None);
        assert!(cache.lock().object.is_some());
        cache.apply(Kind::Objects, leader(3, json!({"leader": "a", "ttl": "10", "renewTime": "the day before yesterday"})));
        assert_eq!(cache.lock().holder.as_deref(), Some("a"));
        clock.pass(11);
        assert_eq!(cache.lock().holder, None);
    }

    #[test]
    fn a_ttl_that_cannot_be_read_is_our_own() {
        for ttl in ["", "many", "0", "-1"] {
            let (cache, clock) = cache();
            cache.apply(Kind::Objects, leader(1, json!({"leader": "a", "ttl": ttl})));
            clock.pass(30);
            assert!(cache.lock().holder.is_some(), "{ttl}");
            clock.pass(1);
            assert!(cache.lock().holder.is_none(), "{ttl}");
        }
    }

    #[test]
    fn what_is_older_changes_nothing_wherever_it_comes_from() {
        let (cache, _) = cache();
        assert!(cache.apply(Kind::Objects, leader(5, json!({"leader": "b"}))));
        assert!(!cache.apply(Kind::Objects, leader(5, json!({"leader": "a"}))));
        assert!(!cache.apply(Kind::Objects, leader(4, json!({"leader": "a"}))));
        cache.remove(Kind::Objects, &leader(4, json!({})));
        let list = |version: &str, items| List {
            metadata: crate::object::Metadata { resource_version: version.to_owned(), ..Default::default() },
            items,
        };
        let now = || cache.clock.now();
        cache.replace(Kind::Objects, list("4", None), now());
        assert_eq!(cache.lock().holder.as_deref(), Some("b"));
        cache.replace(Kind::Objects, list("6", None), now());
        assert!(cache.lock().object.is_none());
    }

    #[test]
    fn a_list_that_was_asked_for_later_counts_even_if_versions_went_back() {
        let (cache, clock) = cache();
        cache.apply(Kind::Objects, leader(500, json!({"leader": "b"})));
        clock.pass(1);
        let restored = List {
            metadata: crate::object::Metadata { resource_version: "90".to_owned(), ..Default::default() },
            items: Some(vec![leader(80, json!({"leader": "a"}))]),
        };
        cache.replace(Kind::Objects, restored, clock.now());
        assert_eq!(cache.lock().holder.as_deref(), Some("a"));
        assert!(cache.apply(Kind::Objects, leader(91, json!({"leader": "c"}))));
    }

    #[test]
    fn what_was_deleted_does_not_come_back_with_an_old_answer() {
        let (cache, _) = cache();
        cache.apply(Kind::Objects, leader(5, json!({"leader": "b"})));
        cache.remove(Kind::Objects, &leader(7, json!({"leader": "b"})));
        assert!(!cache.apply(Kind::Objects, leader(6, json!({"leader": "b"}))));
        assert!(cache.apply(Kind::Objects, leader(8, json!({"leader": "b"}))));
    }

    #[test]
    fn an_object_that_came_while_it_was_being_looked_for_stays() {
        let (cache, _) = cache();
        cache.apply(Kind::Objects, leader(5, json!({"leader": "b"})));
        cache.is_absent(Kind::Objects, "s", None);
        assert!(cache.lock().object.is_some());
        cache.is_absent(Kind::Objects, "s", Some(&leader(5, json!({}))));
        assert!(cache.lock().object.is_none());
        assert!(cache.apply(Kind::Objects, leader(5, json!({"leader": "b"}))), "it is there after all");
    }

    #[test]
    fn the_watches_follow_while_both_are_open() {
        let (cache, _) = cache();
        let objects = cache.follow(Kind::Objects);
        assert!(!cache.told().follows);
        let pods = cache.follow(Kind::Pods);
        assert!(cache.told().follows);
        drop(objects);
        assert!(!cache.told().follows);
        let _objects = cache.follow(Kind::Objects);
        assert!(cache.told().follows);
        drop(pods);
        assert!(!cache.told().follows);
    }

    #[test]
    fn what_was_told_again_is_no_newer() {
        let (cache, clock) = cache();
        cache.reported(Kind::Objects, 5);
        let told = cache.told();
        assert_eq!((told.version, told.at), (5, Some(clock.now())));
        clock.pass(1);
        cache.reported(Kind::Objects, 5);
        cache.reported(Kind::Objects, 4);
        assert_eq!(cache.told(), told);
        cache.reported(Kind::Pods, 7);
        assert_eq!(cache.told(), told, "pods say nothing of the lock");
    }
}
