//! The cluster in Kubernetes as a [`Dcs`].

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dcs_core::codec;
use dcs_core::model::{ClusterView, FailoverRequest, Leader, Lsn, MemberName, MemberRecord, Revision, Status, SyncRecord};
use dcs_core::own_writes::OwnWrites;
use dcs_core::tries::{Jitter, Tries};
use dcs_core::{
    Acquisition, Clock, Dcs, Deadline, Error, ErrorKind, Fate, InitializeWrite, Interest, LeaderLease, Renewal, Timing, Touched, Wake,
    Write,
};
use http::Method;
use serde_json::{Map, Value};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

use crate::cache::{Cache, Content, Kind};
use crate::client::{Ask, Client};
use crate::config::Config;
use crate::error::{Class, Failure, STORE};
use crate::freshness::Freshness;
use crate::known::Known;
use crate::object::{Annotations, Names, Object};
use crate::paths::Paths;
use crate::view::view_of;
use crate::watch::{both_listed, list, run};

/// Who uses the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// An agent: watches, and reads from what the watches told.
    Agent,
    /// The control tool: lists everything whenever it loads.
    ControlTool,
}

/// One cluster in Kubernetes, as one member (or the control tool) sees it. Nothing is sent before it is used, and then from
/// within a tokio runtime.
pub struct Kubernetes {
    pub(crate) shared: Arc<Shared>,
    who: Who,
    /// The watches, once they run. They end with this.
    watches: Mutex<Vec<AbortHandle>>,
    /// Whether what the watches told is as good as asking.
    freshness: Mutex<Freshness>,
    /// Holds one permit at most: a wake-up before a wait ends the next one.
    pub(crate) wake: Notify,
    pub(crate) known: Mutex<Option<Known>>,
    pub(crate) claimed: Mutex<Option<(Annotations, LeaderLease)>>,
    /// Damaged values that were reported already, so that each is reported once.
    reported: Mutex<HashSet<String>>,
    /// The Service that keeps Endpoints from being collected is still to be made.
    service_is_due: Mutex<bool>,
}

/// What the watches need as well.
pub(crate) struct Shared {
    pub(crate) config: Mutex<Config>,
    pub(crate) names: Names,
    pub(crate) paths: Paths,
    pub(crate) name: MemberName,
    pub(crate) client: Client,
    pub(crate) cache: Cache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) jitter: Jitter,
    timing: Mutex<Timing>,
    /// Changes when the watches shall list again, because what they told turned out to be wrong.
    pub(crate) distrust: watch::Sender<u64>,
    pub(crate) own_writes: OwnWrites,
    pub(crate) once: Once,
}

/// Says each thing once.
#[derive(Default)]
pub(crate) struct Once(Mutex<HashSet<&'static str>>);

impl Once {
    pub(crate) fn say(&self, what: &'static str, say: impl FnOnce()) {
        if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(what) {
            say();
        }
    }
}

impl Shared {
    pub(crate) fn timing(&self) -> Timing {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kubernetes {
    /// The cluster `scope` (with Citus its `group`) seen as the member `name`, whose pod has the same name. Leases are counted
    /// on `clock`. Nothing is sent or read yet.
    pub fn new(config: Config, scope: &str, group: Option<u32>, name: MemberName, timing: Timing, clock: Arc<dyn Clock>, who: Who) -> Self {
        let names = Names::new(scope, group, config.use_endpoints);
        let paths = Paths::new(&config, scope, group);
        let bypass = config.bypass && who == Who::Agent;
        let client = Client::new(config.access.clone(), bypass, config.retriable.clone(), timing, Arc::clone(&clock));
        let service_is_due = config.use_endpoints && who == Who::Agent;
        let shared = Shared {
            cache: Cache::new(names.clone(), timing.ttl, Arc::clone(&clock)),
            names,
            paths,
            name,
            client,
            clock,
            jitter: Jitter::default(),
            timing: Mutex::new(timing),
            distrust: watch::Sender::new(0),
            own_writes: OwnWrites::default(),
            once: Once::default(),
            config: Mutex::new(config),
        };
        Self {
            shared: Arc::new(shared),
            who,
            watches: Mutex::default(),
            freshness: Mutex::default(),
            wake: Notify::new(),
            known: Mutex::default(),
            claimed: Mutex::default(),
            reported: Mutex::default(),
            service_is_due: Mutex::new(service_is_due),
        }
    }

    /// Takes over what a reload may change: credentials, certificates, `bypass_api_service`, `retriable_http_codes`, the pods'
    /// labels and what the Endpoints shall point to. How objects are called and selected stays as it was.
    pub fn set_access(&self, config: &Config) {
        let bypass = config.bypass && self.who == Who::Agent;
        self.shared.client.set_access(config.access.clone(), bypass, config.retriable.clone());
        let mut own = self.shared.config.lock().unwrap_or_else(PoisonError::into_inner);
        own.pods = config.pods.clone();
        own.pod_ip = config.pod_ip.clone();
        own.ports = config.ports.clone();
    }

    /// The `host:port` of the API server that is used now, once something has been sent.
    pub fn server(&self) -> Option<String> {
        self.shared.client.server()
    }

    pub(crate) fn tries(&self, operation: &'static str, deadline: Deadline) -> Tries<'_> {
        Tries::new(STORE, operation, deadline, &self.shared.jitter)
    }

    /// Runs the watches, if they do not run yet.
    pub(crate) fn watch(&self) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        if watches.is_empty() {
            for kind in [Kind::Objects, Kind::Pods] {
                watches.push(tokio::spawn(run(Arc::clone(&self.shared), kind)).abort_handle());
            }
        }
    }

    /// The watches have told something that is not so: they begin anew, and the next load asks.
    pub(crate) fn distrust_watches(&self) {
        self.freshness().failed();
        self.shared.distrust.send_modify(|times| *times += 1);
    }

    /// Makes sure that what is known is complete: agents wait for their watches, the control tool reads.
    pub(crate) async fn know(&self, deadline: Deadline) -> Result<(), Failure> {
        match self.who {
            Who::Agent => {
                self.watch();
                both_listed(&self.shared, deadline).await
            }
            Who::ControlTool if self.shared.cache.is_listed() == Ok(true) => Ok(()),
            Who::ControlTool => self.list_everything(deadline).await,
        }
    }

    async fn list_everything(&self, deadline: Deadline) -> Result<(), Failure> {
        let (objects, pods) = tokio::join!(list(&self.shared, Kind::Objects, deadline), list(&self.shared, Kind::Pods, deadline));
        objects.and(pods).map(drop)
    }

    /// Reads one object as it is now, into the cache.
    pub(crate) async fn read(&self, name: &str, deadline: Deadline) -> Result<Option<Arc<Object>>, Failure> {
        let known = self.shared.cache.get(Kind::Objects, name);
        let ask = Ask::get(self.shared.paths.object(name));
        match self.shared.client.call::<Object>(&ask, deadline).await {
            Ok(object) => {
                self.shared.cache.apply(Kind::Objects, object);
                Ok(self.shared.cache.get(Kind::Objects, name))
            }
            Err(failure) if failure.class == Class::Absent => {
                self.shared.cache.is_absent(Kind::Objects, name, known.as_deref());
                Ok(self.shared.cache.get(Kind::Objects, name))
            }
            Err(failure) => Err(failure),
        }
    }

    /// Sends a write of these annotations of the object `name`, and takes its answer into the cache.
    pub(crate) async fn write(&self, name: &str, annotations: &Annotations, ask: &Ask, deadline: Deadline) -> Result<Arc<Object>, Failure> {
        let own = self.shared.own_writes.begin(name);
        let object: Object = self.shared.client.call(ask, deadline).await?;
        self.shared.cache.apply(Kind::Objects, object.clone());
        self.know_own_write(&object, annotations);
        drop(own);
        Ok(Arc::new(object))
    }

    /// Sends a patch of our own pod, and takes its answer into the cache. What we say of ourselves is never news to us.
    pub(crate) async fn write_pod(&self, ask: &Ask, deadline: Deadline) -> Result<(), Failure> {
        let object: Object = self.shared.client.call(ask, deadline).await?;
        self.shared.cache.apply(Kind::Pods, object);
        Ok(())
    }

    /// What we wrote ourselves is no news: these annotations, as they are in the object that was answered. The cache may have
    /// something newer by now, and whatever else is in the object somebody else may have written.
    pub(crate) fn know_own_write(&self, written: &Object, annotations: &Annotations) {
        if let Some(known) = self.known().as_mut() {
            known.learn(written, annotations, &self.shared.names);
        }
    }

    pub(crate) fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that one load does, once.
    async fn load_once(&self, deadline: Deadline) -> Result<ClusterView, Failure> {
        let content = match self.who {
            Who::Agent => {
                self.know(deadline).await?;
                self.shared.client.refresh_servers(deadline).await;
                match self.remember() {
                    Some(content) => content,
                    None => self.ask(deadline).await?,
                }
            }
            Who::ControlTool => {
                self.list_everything(deadline).await?;
                self.shared.cache.content()
            }
        };
        *self.known() = Some(Known::of(&content));
        Ok(view_of(&content))
    }

    /// What the watches told, if that is as good as asking, and somebody holds the lock. Both are judged of the same look: the lock
    /// may expire at any moment. It may be this member: its renewal, which comes next, is a request with the version that is
    /// known here, and proves more than reading that version before.
    fn remember(&self) -> Option<Content> {
        let now = self.shared.clock.now();
        let mut freshness = self.freshness();
        let told = self.shared.cache.told();
        let content = self.shared.cache.content();
        if content.holder.is_none() || !freshness.suffices(told, self.shared.timing().loop_wait, now) {
            return None;
        }
        freshness.loads(now);
        Some(content)
    }

    /// Reads the lock's object, and then everything else as the watches told it. So such a load cannot succeed without a server
    /// that answers, shows the lock as it is, and finds out whether the watch still follows.
    async fn ask(&self, deadline: Deadline) -> Result<Content, Failure> {
        // Should it fail, or be given up half way.
        self.freshness().failed();
        let version = match self.read(&self.shared.names.leader, deadline).await {
            Ok(object) => object.map_or(0, |object| object.version()),
            Err(failure) if failure.class == Class::Denied && !failure.may_pass() => {
                self.shared.once.say("get", || {
                    tracing::warn!(error = %failure.cause, "reading the leader's object is forbidden; going by what the watch tells");
                });
                return Ok(self.shared.cache.content());
            }
            Err(failure) => return Err(failure),
        };
        let now = self.shared.clock.now();
        let told = self.shared.cache.told().version;
        let has_lost_track = {
            let mut freshness = self.freshness();
            freshness.loads(now);
            freshness.has_lost_track(version, told, self.shared.timing().loop_wait, now)
        };
        if has_lost_track {
            tracing::info!("the watch does not tell what the API server says; listing again");
            self.distrust_watches();
        }
        Ok(self.shared.cache.content())
    }

    fn freshness(&self) -> MutexGuard<'_, Freshness> {
        self.freshness.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells about damaged values, once.
    fn report_damages(&self, view: &ClusterView) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *reported);
        for damage in &view.damages {
            let now = format!("{}: {}", damage.key, damage.problem);
            if !before.contains(&now) {
                tracing::warn!(key = damage.key, "a value in {STORE} cannot be used: {}", damage.problem);
            }
            reported.insert(now);
        }
    }

    /// Without a Service of the same name, Endpoints are taken for left over and collected. That takes a while, so that whatever
    /// else is to be done does not wait long for it.
    pub(crate) async fn ensure_service(&self, deadline: Deadline) {
        if !*self.service_is_due.lock().unwrap_or_else(PoisonError::into_inner) {
            return;
        }
        let deadline = deadline.at_most(Duration::from_secs(1));
        let ask = Ask {
            method: Method::POST,
            path: self.shared.paths.services(),
            body: Some(("application/json", self.shared.paths.service(&self.shared.names.config))),
        };
        let done = match self.shared.client.call::<Object>(&ask, deadline).await {
            Ok(_) => true,
            Err(failure) if failure.class == Class::Conflict => true,
            Err(failure) if failure.class == Class::Denied => {
                tracing::info!(
                    service = self.shared.names.config,
                    "creating the Service is forbidden; it has to exist already, or the Endpoints of the same name will be collected"
                );
                true
            }
            Err(failure) => {
                tracing::info!(error = %failure.cause, service = self.shared.names.config, "the Service could not be created; trying again in the next cycle");
                false
            }
        };
        if done {
            *self.service_is_due.lock().unwrap_or_else(PoisonError::into_inner) = false;
        }
    }

    /// The objects are created anew, so the Service may be needed anew.
    pub(crate) fn service_may_be_due(&self) {
        if self.shared.paths.use_endpoints {
            *self.service_is_due.lock().unwrap_or_else(PoisonError::into_inner) = true;
        }
    }

    /// A patch of annotations, and of whatever else is in `more`, for the object `name`, which looks like `there`.
    ///
    /// Only what is there is removed: servers before 1.26 or so take the removal of an annotation from an object that has none
    /// at all for an annotation with an empty text, and an empty `initialize` says that somebody bootstraps. So whoever removes
    /// something gives the version that was seen.
    pub(crate) fn patch(
        &self,
        name: &str,
        there: Option<&Object>,
        annotations: &Annotations,
        version: Option<&str>,
        more: Option<(&str, Value)>,
    ) -> Ask {
        let is_there = |name: &str| there.is_some_and(|object| object.annotation(name).is_some());
        let changes = annotations.iter().filter(|(name, value)| value.is_some() || is_there(name)).cloned().collect();
        let body = self.shared.paths.body(name, &changes, version, more);
        Ask { method: Method::PATCH, path: self.shared.paths.object(name), body: Some(("application/strategic-merge-patch+json", body)) }
    }

    /// A new object with annotations, and with whatever else is in `more`.
    pub(crate) fn create(&self, name: &str, annotations: &Annotations, more: Option<(&str, Value)>) -> Ask {
        let there = annotations.iter().filter(|(_, value)| value.is_some()).cloned().collect();
        let body = self.shared.paths.body(name, &there, None, more);
        Ask { method: Method::POST, path: self.shared.paths.objects(), body: Some(("application/json", body)) }
    }
}

impl Drop for Kubernetes {
    fn drop(&mut self) {
        for watch in self.watches.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            watch.abort();
        }
    }
}

impl fmt::Debug for Kubernetes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubernetes")
            .field("namespace", &self.shared.paths.namespace)
            .field("leader", &self.shared.names.leader)
            .field("name", &self.shared.name)
            .field("who", &self.who)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl Dcs for Kubernetes {
    fn store_name(&self) -> &'static str {
        STORE
    }

    async fn load(&self, deadline: Deadline) -> Result<ClusterView, Error> {
        let mut tries = self.tries("load the cluster", deadline);
        loop {
            match self.load_once(deadline).await {
                Ok(view) => {
                    self.report_damages(&view);
                    return Ok(view);
                }
                Err(failure) => try_again(&mut tries, failure, "load the cluster").await?,
            }
        }
    }

    async fn attempt_to_acquire_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.acquire(deadline).await
    }

    async fn renew_leader(&self, _seen: &Leader, deadline: Deadline) -> Result<Renewal, Error> {
        self.renew(deadline).await
    }

    /// The same as acquiring it: there is no safe form of taking it from somebody.
    async fn take_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.acquire(deadline).await
    }

    async fn release_leader(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error> {
        self.release(last_lsn, deadline).await
    }

    async fn touch_member(&self, record: &MemberRecord, deadline: Deadline) -> Result<Touched, Error> {
        self.touch(record, deadline).await
    }

    async fn initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error> {
        self.write_initialize(how, system_id, deadline).await
    }

    async fn cancel_initialization(&self, deadline: Deadline) -> Result<(), Error> {
        self.remove_initialize(deadline).await
    }

    async fn set_failover(&self, request: &FailoverRequest, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.write_failover(request, expected, deadline).await
    }

    async fn set_config(&self, config: &Map<String, Value>, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.write_config(&Value::Object(config.clone()).to_string(), expected, deadline).await
    }

    async fn set_sync(&self, sync: &SyncRecord, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.write_sync(sync, expected, deadline).await
    }

    async fn delete_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error> {
        self.clear_sync(expected, deadline).await
    }

    async fn set_history(&self, history: &Value, deadline: Deadline) -> Result<(), Error> {
        self.write_history(&history.to_string(), deadline).await
    }

    /// There is no legacy key for the position here.
    async fn write_status(&self, status: &Status, _legacy_optime: bool, deadline: Deadline) -> Result<bool, Error> {
        self.write_changed_status(status, deadline).await
    }

    async fn write_failsafe(&self, members: &Map<String, Value>, deadline: Deadline) -> Result<bool, Error> {
        self.write_changed_failsafe(members, deadline).await
    }

    /// Removes the objects. Pods, and what they say, belong to somebody else.
    async fn delete_cluster(&self, deadline: Deadline) -> Result<(), Error> {
        self.delete_objects(deadline).await
    }

    async fn wait(&self, interest: Interest, timeout: Duration) -> Wake {
        self.wait_for(interest, timeout).await
    }

    fn wake(&self) {
        self.wake.notify_one();
    }

    fn set_timing(&self, timing: Timing) {
        self.shared.client.set_timing(timing);
        self.shared.cache.set_ttl(timing.ttl);
        let before = std::mem::replace(&mut *self.shared.timing.lock().unwrap_or_else(PoisonError::into_inner), timing);
        if before.ttl != timing.ttl {
            // The lock tells the former ttl until the next cycle: let that be now.
            self.wake();
        }
    }
}

/// Pauses before the next attempt, as long as the server asked for if it did; or gives up.
pub(crate) async fn try_again(tries: &mut Tries<'_>, failure: Failure, operation: &'static str) -> Result<(), Error> {
    let (pause, may_pass) = (failure.pause, failure.may_pass());
    let error = failure.into_error(operation);
    if may_pass { tries.again(error, pause).await } else { tries.after(error).await }
}

/// The error for "there was no time left to find out".
pub(crate) fn undecided(operation: &'static str, words: &'static str) -> Error {
    Error::new(STORE, operation, ErrorKind::Unavailable, Fate::Unknown).because(words)
}

/// A media type and a text.
pub(crate) fn json_bytes(value: &Value) -> Bytes {
    Bytes::from(value.to_string())
}

/// Annotations of a status; an empty one is removed.
pub(crate) fn status_annotations(status: &Status) -> Annotations {
    use crate::object::annotation::{OPTIME, RETAIN_SLOTS, SLOTS};
    let Ok(Value::Object(mut parts)) = serde_json::from_str(&codec::encode_status(status)) else { return Annotations::new() };
    let mut text = |name: &str| parts.remove(name).map(|value| value.to_string());
    vec![(OPTIME, text("optime")), (SLOTS, text("slots")), (RETAIN_SLOTS, text("retain_slots"))]
}
