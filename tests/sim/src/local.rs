//! What one process of an agent knows of the simulated PostgreSQL of its node.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dcs_core::Clock;
use dcs_core::model::{Role, ServerState};
use ha_engine::Cancel;
use ha_engine::ports::{LocalState, Postgres, StartOutcome};
use tokio::sync::watch;

use crate::Name;
use crate::server::{Data, Process, Server};
use crate::world::{Inner, World};

/// The PostgreSQL of one node, as one process of its agent holds it.
#[derive(Debug)]
pub struct LocalServer {
    pub(crate) me: Name,
    pub(crate) world: World,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) local: watch::Sender<LocalState>,
}

impl LocalServer {
    /// What a new process of the agent knows.
    pub fn new(me: Name, world: World, clock: Arc<dyn Clock>) -> Self {
        let local = LocalState {
            state: ServerState::Stopped,
            role: Role::Uninitialized,
            since: clock.now(),
            pending_restart: BTreeMap::new(),
            conn_url: format!("postgres://{me}:5432/postgres"),
            proxy_url: None,
        };
        Self { me, world, clock, local: watch::Sender::new(local) }
    }

    /// Looks at the server.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Server, Duration) -> T) -> T {
        let world = self.world.lock();
        let now = world.now;
        look(&world.servers[self.me], now)
    }

    /// Changes the server.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Server, &mut fastrand::Rng, Duration) -> T) -> T {
        let mut world = self.world.lock();
        let Inner { servers, rng, now, .. } = &mut *world;
        let server = servers.get_mut(self.me).expect("every node has a machine");
        change(server, rng, *now)
    }

    pub(crate) fn process<T>(&self, look: impl FnOnce(&Process, &Data, Duration) -> T) -> Option<T> {
        self.look(|server, now| Some(look(server.process.as_ref()?, server.data.as_ref()?, now)))
    }

    pub(crate) fn enter(&self, state: ServerState) {
        let since = self.clock.now();
        self.local.send_modify(|local| (local.state, local.since) = (state, since));
    }

    pub(crate) fn note(&self, what: &str) {
        let world = self.world.lock();
        world.trace.note(world.now, self.me, what);
    }

    /// Waits until `done` says so, at most `limit`; nothing if that was too short.
    pub(crate) async fn until<T>(&self, limit: Duration, cancel: &Cancel, done: impl Fn(&Server, Duration) -> Option<T>) -> Option<T> {
        let mut changes = self.look(|server, _| server.changes.subscribe());
        let deadline = tokio::time::Instant::now() + limit;
        loop {
            if let Some(outcome) = self.look(&done) {
                return Some(outcome);
            }
            tokio::select! {
                biased;
                _ = changes.changed() => {}
                () = cancel.cancelled() => return None,
                () = tokio::time::sleep_until(deadline) => return None,
            }
        }
    }

    pub(crate) async fn started(&self, role: Option<Role>, launched: bool, limit: Duration, cancel: &Cancel) -> StartOutcome {
        if let Some(role) = role {
            self.set_role(role);
        }
        if !launched {
            self.enter(ServerState::StartFailed);
            return StartOutcome::Failed;
        }
        self.enter(ServerState::Starting);
        let ready = |server: &Server, _| match &server.process {
            None => Some(StartOutcome::Failed),
            Some(process) => process.answers().then_some(StartOutcome::Running),
        };
        match self.until(limit, cancel, ready).await {
            Some(StartOutcome::Running) => {
                self.enter(ServerState::Running);
                StartOutcome::Running
            }
            Some(outcome) => {
                self.enter(ServerState::StartFailed);
                outcome
            }
            None => StartOutcome::StillStarting,
        }
    }

    pub(crate) fn take_over_finished_start(&self) {
        let answers = self.process(|process, _, _| process.answers()).unwrap_or(false);
        if answers && self.local().state.is_starting() {
            self.enter(ServerState::Running);
        }
        let settled = matches!(
            self.local().state,
            ServerState::StartFailed | ServerState::RestartFailed | ServerState::Stopped | ServerState::Crashed
        );
        if answers && settled {
            self.enter(ServerState::Running);
        }
    }
}
