//! The conformance suite on real API servers: Endpoints and ConfigMaps, each on one server and on three that the client finds by
//! itself.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::conformance::{Need, Outside, Profile, Who as Member};
use dcs_core::model::{ClusterView, FailoverRequest, Leader, Lsn, MemberRecord, Revision, Status, SyncRecord};
use dcs_core::{
    Acquisition, BoxError, Clock, Dcs, Deadline, Entry, Error, InitializeWrite, Interest, Renewal, Timing, Touched, Wake, Write,
};
use dcs_kubernetes::{Kubernetes, Who};
use serde_json::{Map, Value, json};
use store_servers::Servers;
use store_servers::apiserver::{ADMIN, Api, Options, missing};
use store_servers::conformance::{Client, Subject};
use support::{TIMING, as_admin, labels, plural, section, with_kubeconfig};

fn main() {
    let (one, three) = (Options::default(), Options { servers: 3, listed: true });
    store_servers::conformance::main([
        Box::new(On { name: "Endpoints", use_endpoints: true, options: one }),
        Box::new(On { name: "ConfigMaps", use_endpoints: false, options: one }),
        Box::new(On { name: "three Endpoints", use_endpoints: true, options: three }),
        Box::new(On { name: "three ConfigMaps", use_endpoints: false, options: three }),
    ])
}

struct On {
    name: &'static str,
    use_endpoints: bool,
    options: Options,
}

/// Every trial has a namespace of its own, because all its members have the same names, and so have their pods.
fn namespace(scope: &str) -> String {
    format!("ns-{scope}")
}

#[async_trait]
impl Subject for On {
    fn name(&self) -> &'static str {
        self.name
    }

    fn missing(&self) -> Option<String> {
        missing(self.options)
    }

    fn timing(&self) -> Timing {
        TIMING
    }

    fn profile(&self) -> Profile {
        Profile {
            // All annotations of one object together may have 256 KiB.
            largest_config: 200 << 10,
            too_large: Some(300 << 10),
            recreates_lock: false,
            expires_members: false,
            revisions_are_unique: false,
            ..Profile::default()
        }
    }

    fn servers(&self) -> usize {
        self.options.servers.into()
    }

    fn lacks(&self, need: Need) -> Option<String> {
        match need {
            Need::Revoke => Some("nothing is bound to a handle on Kubernetes".to_owned()),
            Need::RequestCount => Some("tests/specific counts the requests".to_owned()),
            _ => None,
        }
    }

    /// An API server needs 300 MB.
    fn own_servers(&self) -> usize {
        1
    }

    async fn start(&self) -> Result<Servers, BoxError> {
        Ok(self.options.start().await?)
    }

    async fn client(
        &self,
        servers: &Servers,
        through: Option<&[SocketAddr]>,
        who: &Member,
        clock: Arc<dyn Clock>,
    ) -> Result<Client, BoxError> {
        let namespace = namespace(&who.scope);
        let api = self.first_that_answers(servers).await?;
        api.make_namespace(&namespace).await?;
        let mut section = section(&namespace, self.use_endpoints);
        let config = match through {
            Some(proxies) => with_kubeconfig(servers, &section, proxies[0], &json!({"token": ADMIN}))?,
            None => {
                section.insert("bypass_api_service".to_owned(), self.options.listed.into());
                as_admin(servers, &section)?
            }
        };
        let new =
            |config, clock, who_uses| Kubernetes::new(config, &who.scope, None, who.name.as_str().into(), who.timing, clock, who_uses);
        let agent = Arc::new(new(config, Arc::clone(&clock), Who::Agent));
        let reader = Arc::new(new(as_admin(servers, &section)?, clock, Who::ControlTool));
        let seen = Arc::clone(&agent);
        // Agents have observed the lock for as long as they have been there.
        agent.load(Deadline::after(TIMING.retry_timeout)).await?;
        let dcs =
            Staged { agent, reader, api, namespace, scope: who.scope.clone(), name: who.name.clone(), has_a_pod: AtomicBool::new(false) };
        Ok(Client { dcs: Arc::new(dcs), server_in_use: Box::new(move || seen.server()) })
    }

    async fn outside(&self, servers: &Servers, scope: &str, _: Arc<dyn Clock>) -> Result<Arc<dyn Outside>, BoxError> {
        let api = self.first_that_answers(servers).await?;
        let namespace = namespace(scope);
        api.make_namespace(&namespace).await?;
        Ok(Arc::new(Hand { api, namespace, scope: scope.to_owned(), use_endpoints: self.use_endpoints }))
    }
}

impl On {
    async fn first_that_answers(&self, servers: &Servers) -> Result<Api, BoxError> {
        for index in 0..self.servers() {
            let api = Api::of(servers, index, ADMIN)?;
            if let Ok(Ok((200, _))) = tokio::time::timeout(Duration::from_secs(1), api.ask("GET", "/readyz", "", None)).await {
                return Ok(api);
            }
        }
        Err("no API server answers".into())
    }
}

/// A member, and what stands around it in Kubernetes: somebody makes its pod, and removes it with the cluster.
///
/// An agent reads what its watches told, which may be a moment behind what somebody else was just told to be written. The trials
/// want to see it at once, so a load is repeated until it has everything that the strongest read had before it.
#[derive(Debug)]
struct Staged {
    agent: Arc<Kubernetes>,
    reader: Arc<Kubernetes>,
    api: Api,
    namespace: String,
    scope: String,
    name: String,
    has_a_pod: AtomicBool,
}

impl Staged {
    /// Somebody has made the pod before its agent says anything.
    async fn ensure_pod(&self) {
        if !self.has_a_pod.load(Ordering::Relaxed) {
            let labels = labels(&self.scope);
            let made = self.api.make_pod(&self.namespace, &self.name, &labels, "10.1.2.3");
            made.await.expect("a pod can be made");
            // Not before: a trial may have dropped this half way.
            self.has_a_pod.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether `view` has everything that `strong` has, or something newer.
fn has_all(view: &ClusterView, strong: &ClusterView) -> bool {
    let newer = |seen: Option<&Revision>, wanted: Option<&Revision>| {
        let number = |revision: &Revision| revision.as_str().parse::<u64>().expect("versions are numbers");
        match (seen, wanted) {
            (Some(seen), Some(wanted)) => number(seen) >= number(wanted),
            (seen, wanted) => seen.is_some() == wanted.is_some(),
        }
    };
    // Whoever sees no leader has asked, and may have seen one expire.
    let leader = view.leader.as_ref().is_none_or(|leader| newer(Some(&leader.revision), strong.leader.as_ref().map(|key| &key.revision)));
    let members = |view: &ClusterView| view.members.iter().map(|member| member.name.clone()).collect::<Vec<_>>();
    leader
        && newer(view.config.as_ref().map(|config| &config.revision), strong.config.as_ref().map(|config| &config.revision))
        && newer(view.failover.as_ref().map(|key| &key.revision), strong.failover.as_ref().map(|key| &key.revision))
        && newer(view.sync.revision.as_ref(), strong.sync.revision.as_ref())
        && members(view) == members(strong)
        && view.members.iter().zip(&strong.members).all(|(seen, wanted)| newer(Some(&seen.revision), Some(&wanted.revision)))
}

#[async_trait]
impl Dcs for Staged {
    fn store_name(&self) -> &'static str {
        self.agent.store_name()
    }

    async fn load(&self, deadline: Deadline) -> Result<ClusterView, Error> {
        loop {
            let strong = self.reader.load(deadline.at_most(Duration::from_secs(1))).await;
            let view = self.agent.load(deadline).await?;
            match strong {
                Ok(strong) if !has_all(&view, &strong) && !deadline.has_passed() => {}
                _ => return Ok(view),
            }
        }
    }

    async fn attempt_to_acquire_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.agent.attempt_to_acquire_leader(deadline).await
    }

    async fn renew_leader(&self, seen: &Leader, deadline: Deadline) -> Result<Renewal, Error> {
        self.agent.renew_leader(seen, deadline).await
    }

    async fn take_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.agent.take_leader(deadline).await
    }

    async fn release_leader(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error> {
        self.agent.release_leader(last_lsn, deadline).await
    }

    async fn touch_member(&self, record: &MemberRecord, deadline: Deadline) -> Result<Touched, Error> {
        self.ensure_pod().await;
        self.agent.touch_member(record, deadline).await
    }

    async fn initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error> {
        self.agent.initialize(how, system_id, deadline).await
    }

    async fn cancel_initialization(&self, deadline: Deadline) -> Result<(), Error> {
        self.agent.cancel_initialization(deadline).await
    }

    async fn set_failover(&self, request: &FailoverRequest, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.agent.set_failover(request, expected, deadline).await
    }

    async fn set_config(&self, config: &Map<String, Value>, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.agent.set_config(config, expected, deadline).await
    }

    async fn set_sync(&self, sync: &SyncRecord, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.agent.set_sync(sync, expected, deadline).await
    }

    async fn delete_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error> {
        self.agent.delete_sync(expected, deadline).await
    }

    async fn set_history(&self, history: &Value, deadline: Deadline) -> Result<(), Error> {
        self.agent.set_history(history, deadline).await
    }

    async fn write_status(&self, status: &Status, legacy_optime: bool, deadline: Deadline) -> Result<bool, Error> {
        self.agent.write_status(status, legacy_optime, deadline).await
    }

    async fn write_failsafe(&self, members: &Map<String, Value>, deadline: Deadline) -> Result<bool, Error> {
        self.agent.write_failsafe(members, deadline).await
    }

    /// Whoever removes a cluster has removed its pods before.
    async fn delete_cluster(&self, deadline: Deadline) -> Result<(), Error> {
        let pods = format!("/api/v1/namespaces/{}/pods", self.namespace);
        self.api.delete(&pods).await.expect("pods can be deleted");
        self.has_a_pod.store(false, Ordering::Relaxed);
        self.agent.delete_cluster(deadline).await
    }

    async fn wait(&self, interest: Interest, timeout: Duration) -> Wake {
        self.agent.wait(interest, timeout).await
    }

    fn wake(&self) {
        self.agent.wake();
    }

    fn set_timing(&self, timing: Timing) {
        self.agent.set_timing(timing);
    }
}

/// Keys as other stores have them, written as annotations.
struct Hand {
    api: Api,
    namespace: String,
    scope: String,
    use_endpoints: bool,
}

/// Where a key is.
enum Place {
    /// One annotation of an object.
    Annotation(String, &'static str),
    /// Several annotations of an object, which are a JSON object elsewhere.
    Several(String, &'static [&'static str]),
    Pod(String),
}

impl Hand {
    fn place(&self, key: &str) -> Place {
        let scope = &self.scope;
        let leader = if self.use_endpoints { scope.clone() } else { format!("{scope}-leader") };
        let config = format!("{scope}-config");
        match key {
            "leader" => Place::Annotation(leader, "leader"),
            "status" => Place::Several(leader, &["optime", "slots", "retain_slots"]),
            "failsafe" => Place::Annotation(leader, "failsafe"),
            "config" => Place::Annotation(config, "config"),
            "history" => Place::Annotation(config, "history"),
            "initialize" => Place::Annotation(config, "initialize"),
            "failover" => Place::Several(format!("{scope}-failover"), &["leader", "member", "scheduled_at"]),
            "sync" => Place::Several(format!("{scope}-sync"), &["leader", "sync_standby", "quorum"]),
            _ => match key.strip_prefix("members/").filter(|name| !name.contains('/')) {
                Some(name) => Place::Pod(name.to_owned()),
                // An object with the cluster's labels and a name that means nothing.
                None => Place::Annotation(format!("{scope}-{}", key.replace('/', ".")), "value"),
            },
        }
    }

    fn objects(&self) -> String {
        format!("/api/v1/namespaces/{}/{}", self.namespace, plural(self.use_endpoints))
    }

    fn pod(&self, name: &str) -> String {
        format!("/api/v1/namespaces/{}/pods/{name}", self.namespace)
    }

    async fn annotate(&self, name: &str, annotations: Value) -> Result<(), BoxError> {
        let bare = json!({"metadata": {"name": name, "labels": labels(&self.scope)}});
        self.api.create(&self.objects(), &bare).await?;
        self.api.patch(&format!("{}/{name}", self.objects()), &json!({"metadata": {"annotations": annotations}})).await?;
        Ok(())
    }
}

#[async_trait]
impl Outside for Hand {
    async fn put(&self, key: &str, value: &[u8]) -> Result<(), BoxError> {
        // An annotation is text, whatever else a value could be elsewhere.
        let text = String::from_utf8_lossy(value).into_owned();
        match self.place(key) {
            Place::Annotation(object, name) => self.annotate(&object, json!({name: text})).await,
            Place::Several(object, _) => {
                let parts: Map<String, Value> = serde_json::from_str(&text)?;
                let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                let parts: Map<_, _> = parts.iter().map(|(name, value)| (name.clone(), plain(value).into())).collect();
                self.annotate(&object, Value::Object(parts)).await
            }
            Place::Pod(name) => {
                self.api.make_pod(&self.namespace, &name, &labels(&self.scope), "10.1.2.4").await?;
                self.api.patch(&self.pod(&name), &json!({"metadata": {"annotations": {"status": text}}})).await?;
                Ok(())
            }
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Entry>, BoxError> {
        let (path, names) = match self.place(key) {
            Place::Annotation(object, name) => (format!("{}/{object}", self.objects()), vec![name]),
            Place::Several(object, names) => (format!("{}/{object}", self.objects()), names.to_vec()),
            Place::Pod(name) => (self.pod(&name), vec!["status"]),
        };
        let Some(object) = self.api.get(&path).await? else { return Ok(None) };
        let annotations = &object["metadata"]["annotations"];
        let there: Vec<_> = names.iter().filter_map(|name| Some((*name, annotations[*name].as_str()?))).collect();
        let value = match there.as_slice() {
            [] => return Ok(None),
            [(_, only)] if names.len() == 1 => (*only).to_owned(),
            several => format!("{several:?}"),
        };
        let revision = Revision::new(object["metadata"]["resourceVersion"].as_str().unwrap_or_default());
        Ok(Some(Entry { key: key.to_owned(), value: value.into_bytes(), revision, handle: None }))
    }

    async fn delete(&self, key: &str) -> Result<(), BoxError> {
        match self.place(key) {
            Place::Annotation(object, name) => self.annotate(&object, json!({name: null})).await,
            Place::Several(object, names) => {
                let nothing: Map<_, _> = names.iter().map(|name| ((*name).to_owned(), Value::Null)).collect();
                self.annotate(&object, Value::Object(nothing)).await
            }
            Place::Pod(name) => Ok(self.api.delete(&self.pod(&name)).await?),
        }
    }
}
