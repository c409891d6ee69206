//! The loop, on a store in memory, with pretended servers and virtual time: deadlines, cancellation, order.

mod failsafe;
mod fake;
mod lease_guard;
mod mixed;
mod rejoin;
mod reloads;
mod slots;
mod standby_clusters;
mod standbys;
mod surroundings;
mod synchronous;
mod watchdog;

use std::sync::Arc;
use std::time::Duration;

use dcs_core::adapter::KeyValueDcs;
use dcs_core::fault::{Connection, FaultyStore, Odds, Plan};
use dcs_core::keys::ClusterPath;
use dcs_core::memory;
use dcs_core::model::{FailoverRequest, MemberName};
use dcs_core::{Clock, Deadline, TokioClock};
use serde_json::json;

use self::fake::{FakePostgres, World};
use self::surroundings::{FakeGuard, FakePeers, FakeWatchdog};
use super::{Ended, Engine, Parts};
use crate::handle::{Command, EngineHandle};
use crate::settings::{Authentication, BootstrapSettings, InCode, PostgresSettings, ServerAddress};

/// Settings of the node `name`.
fn settings(name: &str) -> InCode {
    let dcs = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10}).as_object().cloned().unwrap_or_default();
    let bootstrap = BootstrapSettings { dcs, ..BootstrapSettings::default() };
    let listen = ServerAddress { hosts: vec![name.to_owned()], port: 5432 };
    let mut postgresql = PostgresSettings::new("demo", "data", listen, Authentication::default());
    postgresql.use_pg_rewind = true;
    InCode::new(name.into(), "demo", &format!("http://{name}:8008/patroni"), bootstrap, postgresql).expect("usable settings")
}

struct Node {
    handle: EngineHandle,
    plan: Plan,
    watchdog: Arc<FakeWatchdog>,
    guard: Arc<FakeGuard>,
    task: tokio::task::JoinHandle<Ended>,
}

/// An engine that was not started yet, and what it works with.
struct Agent {
    engine: Engine,
    handle: EngineHandle,
    plan: Plan,
    watchdog: Arc<FakeWatchdog>,
    guard: Arc<FakeGuard>,
}

struct Cluster {
    clock: Arc<dyn Clock>,
    store: Arc<memory::Server>,
    world: Arc<World>,
}

impl Cluster {
    fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        Self { store: memory::Server::new(Arc::clone(&clock)), clock, world: Arc::new(World::default()) }
    }

    async fn node(&self, name: &str) -> Node {
        self.node_with(settings(name), name).await
    }

    async fn node_with(&self, source: InCode, name: &str) -> Node {
        let Agent { mut engine, handle, plan, watchdog, guard } = self.agent(source, name);
        engine.start().await.expect("nothing is in the way");
        self.world.add_agent(handle.clone());
        Node { handle, plan, watchdog, guard, task: tokio::spawn(engine.run()) }
    }

    fn agent(&self, source: InCode, name: &str) -> Agent {
        let settings = source.settings();
        let timing = settings.global.timing();
        let plan = Plan::new(timing.retry_timeout / 3);
        let store = FaultyStore::new(self.store.client(timing), plan.clone());
        let path = ClusterPath::new(None, "demo");
        let dcs = KeyValueDcs::new(store, Arc::clone(&self.clock), path, MemberName::from(name), timing);
        let watchdog = FakeWatchdog::new(&self.clock);
        let guard = Arc::new(FakeGuard::default());
        let (engine, handle) = Engine::new(Parts {
            dcs: Arc::new(dcs),
            postgres: FakePostgres::new(name, &self.world, &self.clock),
            peers: Arc::new(FakePeers(Arc::clone(&self.world))),
            watchdog: Arc::clone(&watchdog) as _,
            lease_guard: Arc::clone(&guard) as _,
            clock: Arc::clone(&self.clock),
            source: Arc::new(source),
            settings,
        });
        Agent { engine, handle, plan, watchdog, guard }
    }

    /// Waits, at most `limit` of virtual time, until `condition` holds; how long it took.
    async fn until(&self, limit: Duration, what: &str, condition: impl Fn() -> bool) -> Duration {
        let begin = self.clock.now();
        while !condition() {
            let waited = self.clock.now() - begin;
            assert!(waited < limit, "{what}: not within {limit:?}; the servers: {:?}", self.world.servers());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.clock.now() - begin
    }

    /// A cluster of `a` (the leader), `b` and `c`.
    async fn of_three(&self) -> [Node; 3] {
        let a = self.node("a").await;
        self.until(Duration::from_secs(30), "a leads", || self.world.writable() == ["a"] && is_leader(&a)).await;
        let b = self.node("b").await;
        let c = self.node("c").await;
        let follows = |name: &str| self.world.server(name).running && self.world.server(name).following.as_deref() == Some("a");
        self.until(Duration::from_secs(60), "both follow", || follows("b") && follows("c")).await;
        // Everybody has published what it is.
        tokio::time::sleep(Duration::from_secs(11)).await;
        [a, b, c]
    }
}

fn is_leader(node: &Node) -> bool {
    node.handle.snapshot().is_leader(node.handle.clock().now())
}

#[tokio::test(start_paused = true)]
async fn a_lone_node_bootstraps_and_leads() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    let took = cluster.until(Duration::from_secs(30), "it leads", || is_leader(&node)).await;
    assert_eq!(cluster.world.writable(), ["a"]);
    assert!(took < Duration::from_secs(2), "finished tasks wake the loop, periods do not matter: {took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_switchover_waits_for_events_and_never_for_time() {
    let cluster = Cluster::new();
    let [a, b, _c] = cluster.of_three().await;
    let request = FailoverRequest { leader: Some(MemberName::from("a")), candidate: Some(MemberName::from("b")), scheduled_at: None };
    a.handle.dcs().set_failover(&request, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    a.handle.wake();
    let took = cluster.until(Duration::from_secs(60), "b is the primary", || cluster.world.writable() == ["b"] && is_leader(&b)).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    cluster
        .until(Duration::from_secs(60), "a follows b", || {
            let a = cluster.world.server("a");
            a.running && a.following.as_deref() == Some("b")
        })
        .await;
    let view = a.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded");
    assert!(view.failover.is_none(), "the new leader clears the request");
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_when_its_lock_expires() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    a.task.abort();
    cluster.world.change("a", |server| server.running = false);
    cluster
        .until(Duration::from_secs(40), "somebody else leads", || matches!(cluster.world.writable().as_slice(), [name] if name != "a"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_cut_off_from_the_store_stops_before_another_can_lead() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    a.plan.set_connection(Connection::Silent);
    cluster
        .until(Duration::from_secs(60), "somebody else leads", || {
            let writable = cluster.world.writable();
            assert!(writable.len() <= 1, "two primaries: {writable:?}");
            writable.first().is_some_and(|name| name != "a")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn only_the_primary_has_proof_of_being_one_and_only_while_its_lease_lasts() {
    let cluster = Cluster::new();
    let [a, b, c] = cluster.of_three().await;
    let lease = a.handle.primary_lease().expect("a is the primary");
    assert!(lease.is_valid(cluster.clock.now()));
    assert!(b.handle.primary_lease().is_none() && c.handle.primary_lease().is_none());
    // The lock is one thing, the server another.
    cluster.world.change("a", |server| server.running = false);
    cluster.until(Duration::from_secs(1), "the proof is gone", || a.handle.primary_lease().is_none()).await;
    cluster.until(Duration::from_secs(60), "it is back", || a.handle.primary_lease().is_some()).await;
    a.plan.set_connection(Connection::Silent);
    let last = a.handle.primary_lease().expect("it was renewed");
    cluster.until(Duration::from_secs(60), "the proof is gone", || a.handle.primary_lease().is_none()).await;
    assert!(cluster.clock.now() <= last.valid_until());
}

/// Row 47 of the situations; with hardening rule X18.
#[tokio::test(start_paused = true)]
async fn an_agent_that_is_restarted_keeps_its_primary_its_lock_and_the_slots_of_absent_members() {
    let cluster = Cluster::new();
    let [a, _b, c] = cluster.of_three().await;
    let status = || async { a.handle.dcs().load(Deadline::after(Duration::from_secs(5))).await.expect("loaded").status };
    c.task.abort();
    // The key of `c` expires, and the leader takes note of it.
    tokio::time::sleep(Duration::from_secs(50)).await;
    let (before, server) = (status().await, cluster.world.server("a"));
    assert_eq!(before.retain_slots, ["a", "b", "c"]);
    a.task.abort();
    tokio::time::sleep(Duration::from_secs(5)).await;

    let restarted = cluster.node("a").await;
    cluster.until(Duration::from_secs(2), "it leads again", || is_leader(&restarted)).await;
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(is_leader(&restarted) && cluster.world.writable() == ["a"]);
    }
    let after = cluster.world.server("a");
    assert_eq!((after.starts, after.timeline, after.slots), (server.starts, server.timeline, server.slots));
    assert_eq!(status().await.retain_slots, before.retain_slots);
}

#[tokio::test(start_paused = true)]
async fn a_loop_that_hangs_does_not_keep_the_fence_from_stopping_postgresql() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    // Both what the loop reads and what it writes hang; only the fence is left.
    cluster.world.change("a", |server| server.stuck = true);
    a.plan.set_connection(Connection::Silent);
    let lease = a.handle.snapshot().lease.expect("a leader has a lease");
    cluster
        .until(Duration::from_secs(40), "a has stopped", || !cluster.world.server("a").running || !cluster.world.server("a").primary)
        .await;
    assert!(cluster.clock.now() < lease.valid_until(), "stopped only after the lease had ended");
}

/// Found by the simulation: the restart brought it up as a primary, and nothing knew about it until the next cycle.
#[tokio::test(start_paused = true)]
async fn a_restart_does_not_bring_up_a_primary_that_has_lost_its_lease() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    // It crashes while the store is away, so nobody starts it; and its lease ends.
    a.plan.set_connection(Connection::Silent);
    cluster.world.change("a", |server| server.running = false);
    cluster.until(Duration::from_secs(40), "its lease is over", || !is_leader(&a)).await;
    let answer = a.handle.restart(crate::handle::RestartRequest::default()).await.expect("it runs");
    assert_eq!(answer, crate::handle::RestartAnswer::Failed);
    assert!(!cluster.world.writable().contains(&"a".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_crashed_primary_is_noticed_at_once_and_started_again() {
    let cluster = Cluster::new();
    let [_a, _b, _c] = cluster.of_three().await;
    let before = cluster.world.server("a").timeline;
    cluster.world.change("a", |server| server.running = false);
    let took = cluster.until(Duration::from_secs(60), "a is primary again", || cluster.world.writable() == ["a"]).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(cluster.world.server("a").timeline, before, "no failover");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_shuts_down_hands_over() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    a.handle.send(Command::Shutdown).await.expect("it runs");
    let took = cluster
        .until(Duration::from_secs(60), "somebody else leads", || matches!(cluster.world.writable().as_slice(), [name] if name != "a"))
        .await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(a.task.await.expect("it ends"), Ended::Shutdown);
    assert!(!cluster.world.server("a").running);
}

#[tokio::test(start_paused = true)]
async fn a_paused_agent_leaves_everything_as_it_is_when_it_ends() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    cluster.until(Duration::from_secs(30), "it leads", || is_leader(&node)).await;
    let paused = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "pause": true});
    let document = paused.as_object().cloned().expect("an object");
    node.handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    node.handle.wake();
    cluster.until(Duration::from_secs(30), "it is paused", || node.handle.snapshot().is_paused()).await;
    node.handle.send(Command::Shutdown).await.expect("it runs");
    assert_eq!(node.task.await.expect("it ends"), Ended::Shutdown);
    assert_eq!(cluster.world.writable(), ["a"]);
    let observer = cluster.node("b").await;
    assert_eq!(observer.handle.snapshot().view.as_ref().and_then(|view| view.leader_name().cloned()), Some(MemberName::from("a")));
}

#[tokio::test(start_paused = true)]
async fn a_restart_on_request_keeps_the_lock_and_answers() {
    let cluster = Cluster::new();
    let [a, _b, _c] = cluster.of_three().await;
    let answer = a.handle.restart(crate::handle::RestartRequest::default()).await.expect("it runs");
    assert_eq!(answer, crate::handle::RestartAnswer::Restarted);
    assert_eq!(cluster.world.writable(), ["a"]);
    let refused = crate::handle::RestartRequest { role: Some("replica".to_owned()), ..Default::default() };
    assert_eq!(a.handle.restart(refused).await.expect("it runs"), crate::handle::RestartAnswer::ConditionsNotMet);
}

#[tokio::test(start_paused = true)]
async fn a_replica_is_built_anew_and_a_leader_is_not() {
    let cluster = Cluster::new();
    let [a, b, _c] = cluster.of_three().await;
    assert_eq!(a.handle.reinitialize(false, false).await.expect("it runs").as_deref(), Some("I am the leader, can not reinitialize"));
    assert_eq!(b.handle.reinitialize(false, false).await.expect("it runs"), None);
    cluster
        .until(Duration::from_secs(60), "b follows again", || {
            let b = cluster.world.server("b");
            b.running && b.following.as_deref() == Some("a")
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_leader_outlives_a_store_that_is_away_for_longer_than_its_lease() {
    let cluster = Cluster::new();
    let node = cluster.node("a").await;
    cluster.until(Duration::from_secs(30), "it leads", || is_leader(&node)).await;
    let paused = json!({"ttl": 30, "loop_wait": 10, "retry_timeout": 10, "pause": true});
    let document = paused.as_object().cloned().expect("an object");
    node.handle.dcs().set_config(&document, None, Deadline::after(Duration::from_secs(5))).await.expect("written");
    node.handle.wake();
    cluster.until(Duration::from_secs(30), "it is paused", || node.handle.snapshot().is_paused()).await;
    // A real store never answers in the same moment.
    node.plan.set_odds(Odds { delay: 1.0, longest: Duration::from_millis(5), ..Odds::default() });
    node.plan.set_connection(Connection::Silent);
    tokio::time::sleep(Duration::from_secs(90)).await;
    assert!(!is_leader(&node));
    node.plan.set_connection(Connection::Up);
    cluster.until(Duration::from_secs(60), "it leads again", || is_leader(&node)).await;
    assert_eq!(cluster.world.writable(), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_its_store_still_hears_that_it_should_end() {
    let cluster = Cluster::new();
    let [_a, b, _c] = cluster.of_three().await;
    b.plan.set_connection(Connection::Silent);
    tokio::time::sleep(Duration::from_secs(60)).await;
    b.handle.send(Command::Shutdown).await.expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(60), b.task).await.expect("within a minute");
    assert_eq!(ended.expect("it ends"), Ended::Shutdown);
}
