//! Running one scenario, and judging what came of it.

use std::sync::Arc;
use std::time::Duration;

use crate::checker::Checker;
use crate::faults::{What, Whom};
use crate::host::Host;
use crate::network::{PLANES, Plane};
use crate::scenario::{Mode, Scenario};
use crate::server::{Phase, Server};
use crate::trace::{self, SharedTrace};
use crate::world::World;
use crate::{Name, STORE};

/// Agents and world take turns of this length; no message is faster.
pub const QUANTUM: Duration = Duration::from_millis(10);

/// What came of a scenario.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Stands for the whole history.
    pub hash: u64,
    /// The history, if it was to be kept.
    pub history: Vec<String>,
    /// How much virtual time passed.
    pub took: Duration,
    /// How many rows clients were told to be safe.
    pub acknowledged: usize,
    /// Who was promoted when, to which timeline.
    pub promotions: Vec<(Duration, Name, u32)>,
    /// When the cluster was complete and faults could begin.
    pub complete_at: Duration,
    /// When it was whole again after the last of them.
    pub whole_at: Duration,
}

/// A simulation under way.
pub struct Simulation {
    /// The world outside the agents.
    pub world: World,
    scenario: Arc<Scenario>,
    hosts: Vec<Host>,
    trace: SharedTrace,
    complete_at: Duration,
    whole_at: Duration,
}

/// Runs a scenario. `keep` its history for people to read.
pub fn run(scenario: &Scenario, keep: bool) -> Outcome {
    fastrand::seed(scenario.seed);
    let trace = SharedTrace::new(keep);
    let _logs = tracing::subscriber::set_default(trace.clone());
    let mut sim = Simulation::new(scenario, trace.clone());
    sim.play();
    let now = sim.now();
    let world = sim.world.lock();
    let promotions = world.checker.promotions.clone();
    let (violations, acknowledged) = (world.checker.violations.clone(), world.checker.acknowledged.len());
    drop(world);
    let (hash, history) = {
        let trace = trace.lock();
        (trace.hash(), trace.lines().to_vec())
    };
    let (complete_at, whole_at) = (sim.complete_at, sim.whole_at);
    Outcome { violations, hash, history, took: now, acknowledged, promotions, complete_at, whole_at }
}

impl Simulation {
    fn new(scenario: &Scenario, trace: SharedTrace) -> Self {
        let checker = Checker {
            synchronous: scenario.mode != Mode::Async,
            quorum: scenario.mode == Mode::Quorum,
            maximum_lag: scenario.maximum_lag,
            ..Checker::default()
        };
        let world = World::new(scenario.seed, scenario.names(), QUANTUM, checker, trace.clone());
        if scenario.same_timelines {
            world.lock().newest_timeline = None;
        }
        let shared = Arc::new(scenario.clone());
        let mut rng = fastrand::Rng::with_seed(scenario.seed.rotate_left(17));
        // Rates differ by less than one percent.
        let rate = |rng: &mut fastrand::Rng| 1.0 + (rng.f64() - 0.5) / 125.0;
        let hosts = scenario.names().iter().map(|name| Host::new(name, world.clone(), Arc::clone(&shared), rate(&mut rng))).collect();
        Self { world, scenario: shared, hosts, trace, complete_at: Duration::ZERO, whole_at: Duration::ZERO }
    }

    /// The time.
    pub fn now(&self) -> Duration {
        self.world.lock().now
    }

    /// The machine called `name`.
    pub fn host(&mut self, name: Name) -> &mut Host {
        let index = self.scenario.names().iter().position(|node| *node == name).expect("a node of this scenario");
        &mut self.hosts[index]
    }

    /// Changes the PostgreSQL on `node`.
    pub fn with_server(&mut self, node: Name, change: impl FnOnce(&mut Server)) {
        if let Some(server) = self.world.lock().servers.get_mut(node) {
            change(server);
        }
    }

    /// The PostgreSQL on `node` ends without a word.
    pub fn crash_server(&mut self, node: Name) {
        let mut world = self.world.lock();
        let crate::world::Inner { servers, rng, .. } = &mut *world;
        if let Some(server) = servers.get_mut(node) {
            server.crash(rng);
        }
    }

    /// Closes or opens one direction.
    pub fn cut_way(&mut self, plane: Plane, from: Name, to: Name, close: bool) {
        let mut world = self.world.lock();
        let now = world.now;
        let network = &mut world.network;
        network.changed_at = now;
        if close { network.close(plane, from, to) } else { network.open(plane, from, to) }
    }

    /// Closes or opens a plane between `node` and everybody else.
    pub fn cut(&mut self, plane: Plane, node: Name, close: bool) {
        let others: Vec<Name> = match plane {
            Plane::Store => vec![STORE],
            _ => self.scenario.names().iter().copied().filter(|other| *other != node).collect(),
        };
        for other in others {
            self.cut_way(plane, node, other, close);
            self.cut_way(plane, other, node, close);
        }
    }

    /// Closes or opens everything.
    pub fn isolate(&mut self, node: Name, close: bool) {
        for plane in PLANES {
            self.cut(plane, node, close);
        }
    }

    fn step(&mut self) {
        let now = self.now();
        for host in &mut self.hosts {
            host.step(now, now + QUANTUM);
        }
        trace::enter("", now);
        self.world.lock().advance(QUANTUM);
    }

    fn broken(&self) -> bool {
        !self.world.lock().checker.violations.is_empty()
    }

    /// Runs until `done`; `false` if `limit` passed before, or something is wrong.
    fn until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now() + limit;
        while !done(self) {
            if self.now() >= end || self.broken() {
                return false;
            }
            self.step();
        }
        true
    }

    fn note(&self, what: &str) {
        self.trace.note(self.now(), "--", what);
    }

    fn fails(&self, what: &str) {
        let state = self.state();
        self.world.lock().violation(format!("{what}; {state}"));
    }

    /// Everybody's state, in one line.
    fn state(&self) -> String {
        let world = self.world.lock();
        let server = |server: &Server| {
            let what = match &server.process {
                None => "down".to_owned(),
                Some(process) => format!("{:?} from {:?}", process.phase, process.receiver.connection.map(|(from, _)| from)),
            };
            let wal = server.data.as_ref().map(|data| (data.wal.timeline, data.wal.end()));
            format!("{}: {what} {wal:?}", server.name)
        };
        let servers: Vec<String> = world.servers.values().map(server).collect();
        format!("lock: {:?}; {}", world.lock_owner(), servers.join("; "))
    }

    /// Whether there is one primary, with the lock, and everybody else streams from it and has what it has.
    fn is_whole(&self) -> bool {
        let world = self.world.lock();
        let Some(leader) = world.lock_owner() else { return false };
        world.servers.values().all(|server| {
            let Some(process) = &server.process else { return false };
            if server.name == leader {
                return process.is_writable(world.now);
            }
            matches!(process.phase, Phase::Recovery { accepting: true, .. })
                && process.receiver.connection.is_some_and(|(from, _)| from == leader)
                && world.checker.agents.get(server.name).is_some_and(|agent| agent.runs)
        })
    }

    fn play(&mut self) {
        let scenario = Arc::clone(&self.scenario);
        self.host(scenario.names()[0]).start_at(Duration::ZERO);
        if !self.until(Duration::from_secs(60), |sim| sim.is_writable("a")) {
            return self.fails("the first node does not bootstrap the cluster");
        }
        for name in &scenario.names()[1..] {
            let now = self.now();
            self.host(name).start_at(now);
        }
        if !self.until(Duration::from_secs(120), Self::is_whole) {
            return self.fails("the cluster does not become complete");
        }
        self.until(scenario.loop_wait() * 2, |_| false);
        if self.broken() {
            return;
        }
        self.note("the cluster is complete");
        self.complete_at = self.now();
        self.run_faults();
        if self.broken() {
            return;
        }
        self.note("everything is healed");
        // LIV6, with what building everybody anew takes.
        let bound = scenario.ttl() + scenario.loop_wait() * 6 + Duration::from_secs(90);
        if !self.until(bound, Self::is_whole) && !self.broken() {
            return self.fails("LIV6: the cluster does not become whole again");
        }
        self.whole_at = self.now();
        let before = self.world.lock().checker.acknowledged.len();
        let bound = scenario.loop_wait() * 3 + Duration::from_secs(10);
        if !self.until(bound, |sim| sim.world.lock().checker.acknowledged.len() > before) && !self.broken() {
            return self.fails("LIV5: nothing is acknowledged any more");
        }
        self.world.lock().busy = false;
        self.until(Duration::from_secs(5), |_| false);
        self.judge_the_end();
    }

    fn is_writable(&self, node: Name) -> bool {
        let world = self.world.lock();
        world.servers[node].is_writable(world.now)
    }

    fn run_faults(&mut self) {
        let begin = self.now();
        let scenario = Arc::clone(&self.scenario);
        let mut waiting: Vec<_> = scenario.faults.iter().rev().collect();
        let mut active: Vec<(Duration, What)> = Vec::new();
        loop {
            let now = self.now();
            let mut index = 0;
            while index < active.len() {
                if active[index].0 <= now {
                    let (_, what) = active.remove(index);
                    self.note(&format!("ends: {what:?}"));
                    what.apply(self, false, Duration::ZERO);
                } else {
                    index += 1;
                }
            }
            while waiting.last().is_some_and(|fault| begin + fault.at <= now) {
                let Some(fault) = waiting.pop() else { break };
                let Some(what) = fault.what.resolved(self) else { continue };
                // Two of a kind at once would end together.
                if active.iter().any(|(_, other)| *other == what || same_process(*other, what)) {
                    continue;
                }
                self.note(&format!("begins, for {:.2} s: {what:?}", fault.lasts.as_secs_f64()));
                what.apply(self, true, fault.lasts);
                active.push((now + fault.lasts, what));
            }
            if (waiting.is_empty() && active.is_empty()) || self.broken() {
                return;
            }
            self.step();
        }
    }

    fn judge_the_end(&mut self) {
        let world = self.world.lock();
        let mut found = Vec::new();
        let leader = world.lock_owner().and_then(|owner| crate::name_of(&owner));
        let Some(leader) = leader else {
            drop(world);
            return self.fails("LIV6: nobody leads in the end");
        };
        let lost = world.lost_on(leader);
        if !lost.is_empty() {
            found.push(format!("SAF7/8: {} acknowledged rows are gone in the end, first {:?}", lost.len(), lost.first()));
        }
        let reference = world.servers[leader].data.as_ref();
        for server in world.servers.values() {
            let same = match (reference, server.data.as_ref()) {
                (Some(reference), Some(data)) => data.wal.end() == reference.wal.end() && data.wal.agrees_with(&reference.wal),
                _ => false,
            };
            if !same {
                found.push(format!("LIV6: {} has other content than the leader {leader} in the end", server.name));
            }
        }
        drop(world);
        for what in found {
            self.fails(&what);
        }
    }
}

/// Whether two faults are about the life of one process, or of the one store.
fn same_process(one: What, other: What) -> bool {
    let victim = |what| match what {
        What::AgentStalls(Whom::Node(node))
        | What::AgentDies(Whom::Node(node))
        | What::AgentEnds(Whom::Node(node))
        | What::MachineDies(Whom::Node(node))
        | What::MachineSleeps(Whom::Node(node)) => Some(node),
        What::StoreSilent | What::StoreRefuses => Some(STORE),
        _ => None,
    };
    victim(one).is_some() && victim(one) == victim(other)
}
