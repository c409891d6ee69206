//! One machine's agent: the real engine in a runtime of its own, whose clock moves only when the simulation says so.
//!
//! A runtime for each agent makes it a process: it can be stopped at any place and go on late, its clock can run fast or slow,
//! and when it is killed everything it was doing is gone, while what it had sent is still under way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use dcs_core::adapter::KeyValueDcs;
use dcs_core::keys::ClusterPath;
use dcs_core::model::MemberName;
use dcs_core::{Clock, Moment};
use ha_engine::EngineHandle;
use ha_engine::driver::{Ended, Engine, Parts};
use ha_engine::ports::{NoLeaseGuard, Watchdog, WatchdogError, WatchdogInfo};
use ha_engine::settings::WatchdogSettings;
use tokio::runtime::{Builder, Runtime};
use tokio::time::Instant;

use crate::Name;
use crate::local::LocalServer;
use crate::peers::{OtherAgents, answer_others};
use crate::scenario::Scenario;
use crate::store::Client;
use crate::trace;
use crate::world::World;

/// After this time a service manager starts an agent that has ended.
const RESTART: Duration = Duration::from_secs(2);
/// Where wall clocks begin, in seconds since the epoch.
const WALL: i64 = 1_800_000_000;

/// The clock of one process: its runtime's, and what the machine slept meanwhile.
#[derive(Debug)]
struct HostClock {
    origin: Instant,
    started_at: Duration,
    slept_millis: AtomicU64,
}

impl HostClock {
    fn elapsed(&self) -> Duration {
        self.started_at + self.origin.elapsed() + Duration::from_millis(self.slept_millis.load(Ordering::Relaxed))
    }
}

impl Clock for HostClock {
    fn now(&self) -> Moment {
        Moment::from_origin(self.elapsed())
    }

    fn wall(&self) -> jiff::Timestamp {
        let begin = jiff::Timestamp::from_second(WALL).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        begin.checked_add(self.elapsed()).unwrap_or(jiff::Timestamp::MAX)
    }
}

/// What the agent's tasks leave for the simulation to see.
#[derive(Debug, Default)]
struct Shown {
    handle: Option<EngineHandle>,
    ended: Option<String>,
}

struct Agent {
    runtime: Runtime,
    clock: Arc<HostClock>,
    shown: Arc<Mutex<Shown>>,
    /// When it was started.
    born: Duration,
    /// How far its runtime has come, in its own milliseconds.
    reached: u64,
}

/// A machine and its agent.
pub struct Host {
    name: Name,
    world: World,
    scenario: Arc<Scenario>,
    /// How fast its clock runs.
    rate: f64,
    agent: Option<Agent>,
    /// It is not scheduled.
    stalled: bool,
    /// The whole machine sleeps.
    asleep: bool,
    start_at: Option<Duration>,
    /// Its service was stopped.
    stays_down: bool,
}

impl Host {
    /// A machine whose agent has not been started.
    pub fn new(name: Name, world: World, scenario: Arc<Scenario>, rate: f64) -> Self {
        Self { name, world, scenario, rate, agent: None, stalled: false, asleep: false, start_at: None, stays_down: false }
    }

    /// Starts the agent at `at`, if it does not run then.
    pub fn start_at(&mut self, at: Duration) {
        self.start_at = Some(at);
        self.stays_down = false;
    }

    /// The agent is gone, at once.
    pub fn kill(&mut self) {
        self.agent = None;
        self.start_at = None;
        self.stalled = false;
    }

    /// Tells the agent to end in order; it is not started again by itself.
    pub fn end(&mut self) {
        self.stays_down = true;
        if let Some(handle) = self.handle() {
            // Gone already: that is what was wanted.
            self.spawn(async move { handle.send(ha_engine::Command::Shutdown).await.unwrap_or_default() });
        }
    }

    /// Stops the agent (SIGSTOP), or lets it go on.
    pub fn stall(&mut self, stalled: bool) {
        self.stalled = stalled;
    }

    /// Suspends the machine, or resumes it.
    pub fn sleep(&mut self, asleep: bool) {
        self.asleep = asleep;
    }

    /// The engine, if it runs.
    pub fn handle(&self) -> Option<EngineHandle> {
        let agent = self.agent.as_ref()?;
        agent.shown.lock().unwrap_or_else(PoisonError::into_inner).handle.clone()
    }

    /// Runs `work` inside the agent's process.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(agent) = &self.agent {
            drop(agent.runtime.spawn(work));
        }
    }

    fn start(&mut self, now: Duration) {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime without I/O always builds");
        let shown = Arc::new(Mutex::new(Shown::default()));
        let clock =
            runtime.block_on(async { Arc::new(HostClock { origin: Instant::now(), started_at: now, slept_millis: AtomicU64::new(0) }) });
        let main = run_agent(self.name, self.world.clone(), Arc::clone(&self.scenario), clock.clone(), Arc::clone(&shown));
        drop(runtime.spawn(main));
        self.agent = Some(Agent { runtime, clock, shown, born: now, reached: 0 });
        let world = self.world.lock();
        world.trace.note(now, self.name, "agent starts");
    }

    /// Lets the agent run from `now` until `until`.
    pub fn step(&mut self, now: Duration, until: Duration) {
        trace::enter(self.name, now);
        if self.agent.is_none() && !self.asleep && self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            self.start(now);
        }
        let runs = self.agent.is_some() && !self.stalled && !self.asleep;
        let mut lease_left = Duration::ZERO;
        if let Some(agent) = &mut self.agent {
            let target = millis_on_clock(until.saturating_sub(agent.born), self.rate);
            if self.asleep {
                // The machine's monotonic clock stands; the one that judges leases goes on.
                let slept = target.saturating_sub(agent.reached) - agent.clock.slept_millis.load(Ordering::Relaxed);
                agent.clock.slept_millis.fetch_add(slept, Ordering::Relaxed);
            } else if !self.stalled {
                let target = target - agent.clock.slept_millis.load(Ordering::Relaxed);
                let span = millis_on_clock(until.saturating_sub(now), self.rate) + 1;
                let missed = (target - agent.reached).saturating_sub(span);
                lease_left = agent.run(target, missed);
            }
        }
        let decides = runs && self.handle().is_some();
        {
            let mut world = self.world.lock();
            let state = world.checker.agents.entry(self.name).or_default();
            if runs && !state.runs {
                (state.since, state.responsible) = (now, false);
            }
            (state.runs, state.decides, state.lease_left) = (runs, decides, lease_left);
        }
        let ended = self.agent.as_ref().and_then(|agent| agent.shown.lock().unwrap_or_else(PoisonError::into_inner).ended.take());
        if let Some(ended) = ended {
            self.world.lock().trace.note(now, self.name, &format!("agent ended: {ended}"));
            self.kill();
            self.start_at = Some(until + RESTART).filter(|_| !self.stays_down);
        }
    }
}

/// How many milliseconds a clock that runs at `rate` counts in `span`.
fn millis_on_clock(span: Duration, rate: f64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "simulated times are small and positive")]
    let millis = (span.as_secs_f64() * rate * 1000.0).round() as u64;
    millis
}

impl Agent {
    /// Runs until its own clock says `target`, after having missed `missed`. How long it then believes to lead.
    fn run(&mut self, target: u64, missed: u64) -> Duration {
        let end = self.clock.origin + Duration::from_millis(target);
        self.reached = target;
        let (shown, clock) = (Arc::clone(&self.shown), Arc::clone(&self.clock));
        self.runtime.block_on(async move {
            if missed > 0 {
                tokio::time::advance(Duration::from_millis(missed)).await;
            }
            tokio::time::sleep_until(end).await;
            let shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
            let lease = shown.handle.as_ref().and_then(|handle| handle.snapshot().lease);
            lease.map_or(Duration::ZERO, |lease| lease.remaining(clock.now()))
        })
    }
}

/// What the agent's `main` does, as far as the engine is concerned.
async fn run_agent(me: Name, world: World, scenario: Arc<Scenario>, clock: Arc<HostClock>, shown: Arc<Mutex<Shown>>) {
    let ended = match engine(me, world, &scenario, clock, &shown).await {
        Ok(Ended::Shutdown) => "shut down".to_owned(),
        Ok(Ended::Fatal(reason)) | Err(reason) => reason,
    };
    shown.lock().unwrap_or_else(PoisonError::into_inner).ended = Some(ended);
}

async fn engine(me: Name, world: World, scenario: &Scenario, clock: Arc<HostClock>, shown: &Mutex<Shown>) -> Result<Ended, String> {
    let clock: Arc<dyn Clock> = clock;
    let source = scenario.settings(me)?;
    let settings = source.settings();
    let timing = settings.global.timing();
    let store = Arc::new(Client::new(world.clone(), me, Arc::clone(&clock), timing));
    let path = ClusterPath::new(None, crate::SCOPE);
    let chance = world.lock().rng.u64(..);
    let dcs = KeyValueDcs::new(store, Arc::clone(&clock), path, MemberName::from(me), timing).with_seed(chance);
    let (mut engine, handle) = Engine::new(Parts {
        dcs: Arc::new(dcs),
        postgres: Arc::new(LocalServer::new(me, world.clone(), Arc::clone(&clock))),
        peers: Arc::new(OtherAgents::new(me, world.clone())),
        watchdog: Arc::new(NoDevice),
        lease_guard: Arc::new(NoLeaseGuard),
        clock,
        source: Arc::new(source),
        settings,
    });
    engine.start().await?;
    // The REST API comes up after the start.
    drop(tokio::spawn(answer_others(me, world, handle.clone())));
    shown.lock().unwrap_or_else(PoisonError::into_inner).handle = Some(handle);
    Ok(engine.run().await)
}

/// The machines have no watchdog, and no scenario here asks for one.
#[derive(Debug)]
struct NoDevice;

#[async_trait]
impl Watchdog for NoDevice {
    async fn open(&self, _: &WatchdogSettings) -> Result<WatchdogInfo, WatchdogError> {
        Err(WatchdogError("no such device".to_owned()))
    }

    async fn set_timeout(&self, _: i64) -> Result<(), WatchdogError> {
        Err(WatchdogError("it is not open".to_owned()))
    }

    async fn timeout(&self) -> Result<i64, WatchdogError> {
        Err(WatchdogError("it is not open".to_owned()))
    }

    async fn keepalive(&self, _: Moment) -> Result<bool, WatchdogError> {
        Err(WatchdogError("it is not open".to_owned()))
    }

    async fn close(&self) -> Result<(), WatchdogError> {
        Ok(())
    }

    async fn is_usable(&self, _: &WatchdogSettings) -> bool {
        false
    }
}
