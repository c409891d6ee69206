//! The cluster in Consul, with the member in Consul's catalogue of services.
//!
//! Registration is an extra for people's DNS and tools: it comes after the member's key was published, and whatever becomes of
//! it, the key stays published.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::{ClusterView, FailoverRequest, HandleId, Leader, Lsn, MemberName, MemberRecord, Revision, Status, SyncRecord};
use dcs_core::{Acquisition, Clock, Dcs, Deadline, Error, InitializeWrite, Interest, KeyValueStore, Renewal, Timing, Touched, Wake, Write};
use serde_json::{Map, Value};

use crate::api::Service;
use crate::error::Failure;
use crate::service::{Wanted, service_id, service_name, wanted};
use crate::{Config, Consul};

/// The most that registration takes of the time for publishing a member.
const MOST_TIME: Duration = Duration::from_secs(1);

/// A cluster in Consul, for an agent: the store, to exchange tokens and certificates while it is in use, and the cluster itself
/// as the member `name` of `scope` sees it, which is registered as a service while `register_service` is on.
///
/// Nothing is sent yet.
pub fn open(
    config: Config,
    timing: Timing,
    clock: Arc<dyn Clock>,
    path: ClusterPath,
    scope: &str,
    name: MemberName,
) -> (Arc<Consul>, Arc<dyn Dcs>) {
    let store = Arc::new(Consul::new(config, timing, Arc::clone(&clock)));
    store.set_session_name(&format!("{scope}-{name}"));
    let cluster = KeyValueDcs::new(Arc::clone(&store) as _, clock, path, name, timing);
    let registered = Registered { cluster, store: Arc::clone(&store), scope: scope.to_owned(), memory: Mutex::default() };
    (store, Arc::new(registered))
}

/// The decorated cluster.
#[derive(Debug)]
struct Registered {
    cluster: KeyValueDcs,
    store: Arc<Consul>,
    scope: String,
    memory: Mutex<Memory>,
}

/// What was done last.
#[derive(Debug, Default)]
struct Memory {
    catalogue: Catalogue,
    /// Why the last attempt did not work; the same is not told again.
    complaint: Option<String>,
    /// Registration was on at some time, so that something may have to be removed.
    was_enabled: bool,
}

/// What is in the catalogue, as far as we know.
#[derive(Debug, Default, PartialEq)]
enum Catalogue {
    /// Perhaps something of an earlier process.
    #[default]
    Unknown,
    Absent,
    Present(Box<Entry>),
}

/// A registration, with everything whose change makes another one necessary.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    service: Service,
    token: Option<String>,
    /// After the session has changed, the agent may have been started anew and know nothing.
    session: Option<HandleId>,
}

/// What is to be done about the catalogue.
#[derive(Debug, PartialEq)]
enum Task {
    Register(Box<Entry>),
    Deregister,
}

impl Registered {
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn task(&self, record: &MemberRecord) -> Option<Task> {
        let settings = self.store.registration();
        let mut memory = self.memory();
        if settings.enabled && !memory.was_enabled {
            memory.was_enabled = true;
            self.warn_about_name();
        }
        let wanted = if settings.enabled {
            wanted(&self.scope, self.cluster.name().as_str(), record, &settings, self.store.sessions.session_ttl())
        } else if memory.was_enabled {
            Wanted::Absent
        } else {
            Wanted::Unchanged
        };
        match wanted {
            Wanted::Unchanged => None,
            Wanted::Unclear(what) => {
                complain(&mut memory, format!("its record lacks {what}"));
                None
            }
            Wanted::Absent => (memory.catalogue != Catalogue::Absent).then_some(Task::Deregister),
            Wanted::Registered(service) => {
                let session = self.store.handle().map(|handle| handle.id);
                let entry = Box::new(Entry { service: *service, token: self.store.client.token(), session });
                (!matches!(&memory.catalogue, Catalogue::Present(there) if *there == entry)).then_some(Task::Register(entry))
            }
        }
    }

    fn warn_about_name(&self) {
        let name = service_name(&self.scope);
        if name != self.scope {
            tracing::warn!("using {name} as the service's name in Consul instead of the scope {}", self.scope);
        }
    }

    async fn update(&self, record: &MemberRecord, deadline: Deadline) {
        let Some(task) = self.task(record) else { return };
        let deadline = deadline.at_most(MOST_TIME);
        let id = service_id(&self.scope, self.cluster.name().as_str());
        let outcome = match &task {
            Task::Register(entry) => self.store.client.register(&entry.service, deadline).await,
            Task::Deregister => self.store.client.deregister(&id, deadline).await,
        };
        self.note(task, &id, outcome);
    }

    fn note(&self, task: Task, id: &str, outcome: Result<(), Failure>) {
        let mut memory = self.memory();
        if let Err(failure) = outcome {
            // What the agent knows now cannot be told; the next time it is told again.
            memory.catalogue = Catalogue::Unknown;
            complain(&mut memory, failure.cause.to_string());
            return;
        }
        memory.complaint = None;
        memory.catalogue = match task {
            Task::Register(entry) => {
                tracing::info!(service = entry.service.name, id, tags = ?entry.service.tags, "registered in Consul as a service");
                Catalogue::Present(entry)
            }
            Task::Deregister => {
                tracing::info!(id, "no longer registered in Consul as a service");
                Catalogue::Absent
            }
        };
    }
}

/// Tells each reason once, until something has worked again.
fn complain(memory: &mut Memory, reason: String) {
    if memory.complaint.as_ref() != Some(&reason) {
        tracing::warn!(reason, "the member cannot be registered in Consul as a service");
        memory.complaint = Some(reason);
    }
}

#[async_trait]
impl Dcs for Registered {
    fn store_name(&self) -> &'static str {
        self.cluster.store_name()
    }

    async fn load(&self, deadline: Deadline) -> Result<ClusterView, Error> {
        self.cluster.load(deadline).await
    }

    async fn attempt_to_acquire_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.cluster.attempt_to_acquire_leader(deadline).await
    }

    async fn renew_leader(&self, seen: &Leader, deadline: Deadline) -> Result<Renewal, Error> {
        self.cluster.renew_leader(seen, deadline).await
    }

    async fn take_leader(&self, deadline: Deadline) -> Result<Acquisition, Error> {
        self.cluster.take_leader(deadline).await
    }

    async fn release_leader(&self, last_lsn: Option<Lsn>, deadline: Deadline) -> Result<bool, Error> {
        self.cluster.release_leader(last_lsn, deadline).await
    }

    async fn touch_member(&self, record: &MemberRecord, deadline: Deadline) -> Result<Touched, Error> {
        let touched = self.cluster.touch_member(record, deadline).await?;
        self.update(record, deadline).await;
        Ok(touched)
    }

    async fn initialize(&self, how: InitializeWrite, system_id: &str, deadline: Deadline) -> Result<Write, Error> {
        self.cluster.initialize(how, system_id, deadline).await
    }

    async fn cancel_initialization(&self, deadline: Deadline) -> Result<(), Error> {
        self.cluster.cancel_initialization(deadline).await
    }

    async fn set_failover(&self, request: &FailoverRequest, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.cluster.set_failover(request, expected, deadline).await
    }

    async fn set_config(&self, config: &Map<String, Value>, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.cluster.set_config(config, expected, deadline).await
    }

    async fn set_sync(&self, sync: &SyncRecord, expected: Option<&Revision>, deadline: Deadline) -> Result<Write, Error> {
        self.cluster.set_sync(sync, expected, deadline).await
    }

    async fn delete_sync(&self, expected: Option<&Revision>, deadline: Deadline) -> Result<bool, Error> {
        self.cluster.delete_sync(expected, deadline).await
    }

    async fn set_history(&self, history: &Value, deadline: Deadline) -> Result<(), Error> {
        self.cluster.set_history(history, deadline).await
    }

    async fn write_status(&self, status: &Status, legacy_optime: bool, deadline: Deadline) -> Result<bool, Error> {
        self.cluster.write_status(status, legacy_optime, deadline).await
    }

    async fn write_failsafe(&self, members: &Map<String, Value>, deadline: Deadline) -> Result<bool, Error> {
        self.cluster.write_failsafe(members, deadline).await
    }

    async fn delete_cluster(&self, deadline: Deadline) -> Result<(), Error> {
        self.cluster.delete_cluster(deadline).await
    }

    async fn wait(&self, interest: Interest, timeout: Duration) -> Wake {
        self.cluster.wait(interest, timeout).await
    }

    fn wake(&self) {
        self.cluster.wake();
    }

    fn set_timing(&self, timing: Timing) {
        self.cluster.set_timing(timing);
    }
}
